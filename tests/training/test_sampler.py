"""BatchSampler of a training: their distribution, their laws, and what they refuse."""

import numpy as np
import pytest
from scipy import stats

from mnprobe.core.errors import ConfigError, DataError
from mnprobe.training.dataset import TrainingInputs
from mnprobe.training.sampler import BatchSampler, shard

# Unequal on purpose: task -> instruction -> steps of each of its episodes.
PLAN = {
    "drawer": {"open the top drawer": [4, 4, 5], "open the bottom drawer": [4]},
    "slide": {"slide to red": [2, 3]},
    "tap": {"turn left": [6], "turn right": [6, 6], "open the top drawer": [1]},  # one instruction of two tasks
}


def _inputs(plan):
    rows = [(task, text, count) for task, texts in plan.items() for text, counts in texts.items() for count in counts]
    return TrainingInputs(
        ids=[f"{task}/0/episode{i}" for i, (task, _, _) in enumerate(rows)],
        tasks=[task for task, _, _ in rows],
        instructions=[text for _, text, _ in rows],
        dataset="",
        steps={"episode": np.repeat(np.arange(len(rows)), [count for _, _, count in rows])},
        clips=None,
        cameras=(),
        point_stride=1,
        made_of={},
    )


@pytest.fixture(scope="module")
def inputs():
    return _inputs(PLAN)


def _draws(inputs, **changes):
    return BatchSampler(inputs, **({"batch": 8, "clips": 8, "pairing": "instruction", "seed": 3} | changes))


def _fits(observed, expected):
    """Chi-square with fixed seeds: the chance that a right sampler looks this wrong is at least 1 %."""
    assert observed.sum() == pytest.approx(expected.sum())
    assert stats.chisquare(observed, expected).pvalue > 0.01


def _uniform_by_task(inputs):
    """What an episode's share of the draws should be."""
    tasks, numbers, counts = np.unique(inputs.tasks, return_inverse=True, return_counts=True)
    return 1 / (len(tasks) * counts[numbers])


def _many(draws, updates, understanding=True):
    found = [draws.at(update, understanding) for update in range(updates)]
    return np.concatenate([draw.transitions for draw in found]), np.concatenate([draw.clips for draw in found])


def test_tasks_then_episodes_then_steps_are_uniform(inputs):
    transitions, _ = _many(_draws(inputs, batch=50), 400)
    steps = np.bincount(inputs.transition_episode)
    expected = (_uniform_by_task(inputs) / steps)[inputs.transition_episode]
    _fits(np.bincount(transitions, minlength=len(expected)), len(transitions) * expected)


@pytest.mark.parametrize("share", [0.0, 0.64, 1.0])
def test_first_steps_have_their_share(inputs, share):
    episode = inputs.transition_episode
    transitions, _ = _many(_draws(inputs, batch=50, first_step_share=share), 400)
    counts = np.bincount(episode)
    is_first = np.diff(episode, prepend=-1) > 0
    chance = np.where(is_first, share, (1 - share) / np.maximum(counts[episode] - 1, 1))
    chance[counts[episode] == 1] = 1.0  # an episode of one step has no other
    expected = len(transitions) * _uniform_by_task(inputs)[episode] * chance
    observed = np.bincount(transitions, minlength=len(expected))
    assert not observed[expected == 0].any()
    _fits(observed[expected > 0], expected[expected > 0])


def test_a_share_of_first_steps_changes_the_steps_but_not_their_episodes_and_clips(inputs):
    plain, changed = _draws(inputs), _draws(inputs, first_step_share=0.9)
    for update in range(5):
        one, other = plain.at(update, True), changed.at(update, True)
        np.testing.assert_array_equal(*(inputs.transition_episode[draw.transitions] for draw in (one, other)))
        np.testing.assert_array_equal(one.clips, other.clips)
        assert not np.array_equal(one.transitions, other.transitions)


def test_successive_updates_and_places_are_independent(inputs):
    transitions, _ = _many(_draws(inputs, batch=2), 2000)
    tasks = np.unique(inputs.tasks, return_inverse=True)[1][inputs.transition_episode[transitions]]
    for pairs in (tasks.reshape(-1, 2), np.stack([tasks[0::2][:-1], tasks[0::2][1:]], axis=1)):
        table = np.zeros((3, 3))
        np.add.at(table, (pairs[:, 0], pairs[:, 1]), 1)
        assert stats.chi2_contingency(table).pvalue > 0.01


@pytest.mark.parametrize("pairing", ["episode", "instruction", "task"])
def test_partners_are_uniform_in_the_group_of_their_step(inputs, pairing):
    draws = _draws(inputs, batch=50, clips=50, pairing=pairing)
    transitions, clips = _many(draws, 200)
    labels = {"episode": inputs.ids, "instruction": inputs.instructions, "task": inputs.tasks}[pairing]
    episodes = inputs.transition_episode[transitions]
    assert (labels[clips] == labels[episodes]).all()
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        seen = clips[labels[episodes] == label]
        if len(members) > 1:
            _fits(np.bincount(seen, minlength=len(labels))[members], np.full(len(members), len(seen) / len(members)))
    if pairing != "episode":  # not simply the step's own episode
        assert 0.2 < (clips != episodes).mean() < 0.9


def test_extra_clips_are_drawn_as_steps_episodes_are(inputs):
    draws = _draws(inputs, batch=4, clips=54)
    extra = np.concatenate([draws.at(update, True).clips[4:] for update in range(300)])
    _fits(np.bincount(extra, minlength=len(inputs.ids)), len(extra) * _uniform_by_task(inputs))


def test_a_draw_depends_on_seed_and_update_alone(inputs):
    draws, again = _draws(inputs), _draws(inputs)
    backwards = {update: again.at(update, True) for update in (9, 5, 0)}
    for update in (0, 5, 9):
        one, other = draws.at(update, True), backwards[update]
        np.testing.assert_array_equal(one.transitions, other.transitions)
        np.testing.assert_array_equal(one.clips, other.clips)
    assert not np.array_equal(draws.at(5, True).transitions, draws.at(6, True).transitions)
    assert not np.array_equal(draws.at(5, True).transitions, _draws(inputs, seed=4).at(5, True).transitions)


@pytest.mark.parametrize("changes", [{"clips": 0}, {"clips": 4}, {"clips": 12}, {"pairing": "task"}])
def test_steps_are_the_same_whatever_is_done_with_clips(inputs, changes):
    plain, changed = _draws(inputs), _draws(inputs, **changes)
    for update in range(5):
        expected = plain.at(update, True).transitions
        np.testing.assert_array_equal(changed.at(update, True).transitions, expected)
        np.testing.assert_array_equal(plain.at(update, False).transitions, expected)


def test_fewer_clips_are_the_first_of_more(inputs):
    few, more = _draws(inputs, clips=4).at(7, True), _draws(inputs, clips=8).at(7, True)
    assert (few.pairs, more.pairs) == (4, 8)
    for draw in (few, more):
        np.testing.assert_array_equal(
            inputs.instructions[draw.clips[: draw.pairs]],
            inputs.instructions[inputs.transition_episode[draw.transitions[: draw.pairs]]],
        )


def test_only_understanding_updates_have_clips(inputs):
    without = _draws(inputs).at(2, False)
    assert (len(without.transitions), len(without.clips), without.pairs) == (8, 0, 0)
    alone = _draws(inputs, clips=0).at(2, True)  # the execution side alone
    assert (len(alone.transitions), len(alone.clips), alone.pairs) == (8, 0, 0)


@pytest.mark.parametrize("clips", [0, 4, 12, 16])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_parts_of_all_processes_are_the_whole(inputs, clips, size):
    whole = _draws(inputs, batch=12, clips=clips).at(1, True)
    parts = [shard(whole, rank, size) for rank in range(size)]
    for name in ("transitions", "clips", "positions"):
        together = np.concatenate([getattr(piece, name) for piece in parts])
        np.testing.assert_array_equal(np.sort(together), np.sort(getattr(whole, name)))
        assert len({len(getattr(piece, name)) for piece in parts}) == 1
    for piece in parts:
        np.testing.assert_array_equal(whole.transitions[piece.positions], piece.transitions)
    assert sum(piece.pairs for piece in parts) == whole.pairs
    pairs = {
        (step, clip)
        for piece in parts
        for step, clip in zip(piece.transitions[: piece.pairs], piece.clips[: piece.pairs], strict=True)
    }
    assert pairs == set(zip(whole.transitions[: whole.pairs], whole.clips[: whole.pairs], strict=True))
    if clips in (0, 12):  # then shares are contiguous
        assert all((np.diff(piece.positions) == 1).all() for piece in parts)


@pytest.mark.parametrize(
    ("batch", "clips", "what"), [(9, 10, "9 pairs"), (10, 9, "9 pairs"), (9, 0, "9 steps"), (8, 11, "11 clips")]
)
def test_what_cannot_be_shared_equally_is_refused(inputs, batch, clips, what):
    draw = _draws(inputs, batch=batch, clips=clips).at(0, True)
    with pytest.raises(ConfigError, match=f"{what} of an update cannot be shared equally by 2 processes.*multiples"):
        shard(draw, 0, 2)


def test_a_process_that_is_not_there_is_refused(inputs):
    with pytest.raises(ConfigError, match="no process 2 of 2"):
        shard(_draws(inputs).at(0, True), 2, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "batch must be at least 1 step, got 0"),
        ({"clips": 1}, r"clips must be 0 .* or at least 2 .*, got 1"),
        ({"clips": -2}, "clips must be 0"),
        ({"seed": -1}, "seed must be a whole number"),
    ],
)
def test_impossible_settings_are_refused(inputs, changes, message):
    with pytest.raises(ConfigError, match=message):
        _draws(inputs, **changes)


@pytest.mark.parametrize(
    ("plan", "pairing", "message"),
    [
        (
            {"tap": {"turn left": [3, 3]}},
            "episode",
            "one instruction .'turn left'.*add episodes of another instruction",
        ),
        ({"tap": {"turn left": [3], "turn right": [3]}}, "task", "one task .'tap'.*add episodes of another task"),
    ],
)
def test_nothing_to_tell_apart_is_refused(plan, pairing, message):
    with pytest.raises(DataError, match=message):
        _draws(_inputs(plan), pairing=pairing)
    assert len(_draws(_inputs(plan), pairing=pairing, clips=0).at(0, True).transitions) == 8  # nothing to tell


def test_episodes_without_steps_are_never_drawn():
    found = _inputs({"tap": {"turn left": [3, 0], "turn right": [0]}, "lamp": {"on": [0]}})
    transitions, clips = _many(_draws(found, clips=16), 50)
    assert set(transitions) == {0, 1, 2}
    assert set(clips) == {0, 1}  # partners may have no step of their own; further clips have


def test_no_steps_at_all_are_refused():
    with pytest.raises(DataError, match="no key-to-key step to train on; use demonstrations with keyframes"):
        _draws(_inputs({"tap": {"turn left": [0], "turn right": [0]}}))
