"""Which episodes a rollout plays."""

import pytest

from mnprobe.core.errors import ConfigError, DataError
from mnprobe.worlds import TaskInfo
from mnprobe.worlds.rollout_plan import ROLLOUT_SEED, RolloutPlan, open_demos


class Catalogue:
    """As much of a world as planning needs."""

    name = "catalogue"
    tasks = {"open": TaskInfo(name="open", variations=3), "push": TaskInfo(name="push", variations=2)}  # noqa: RUF012


def test_variations_take_turns_and_every_episode_has_its_own_seed():
    planned = RolloutPlan(episodes=4)(Catalogue())
    assert [(e.task, e.number, e.variation, e.seed - ROLLOUT_SEED) for e in planned] == [
        *(("open", 0, 0, 0), ("open", 1, 1, 1), ("open", 2, 2, 2), ("open", 3, 0, 3)),
        *(("push", 0, 0, 0), ("push", 1, 1, 1), ("push", 2, 0, 2), ("push", 3, 1, 3)),
    ]
    assert len({e.policy_seed for e in planned}) == 8


def test_evaluations_have_equal_variations_and_no_common_scene():
    planned = RolloutPlan(tasks=("open",), variations=(2, 1), episodes=3, repeats=2, seed=5)(Catalogue())
    assert [(e.repeat, e.variation, e.seed, e.number) for e in planned] == [
        *((0, 2, 5, 0), (0, 1, 6, 1), (0, 2, 7, 2)),
        *((1, 2, 8, 3), (1, 1, 9, 4), (1, 2, 10, 5)),
    ]


def test_more_episodes_begin_with_the_same_ones():
    few, many = RolloutPlan(tasks=("push",), episodes=2)(Catalogue()), RolloutPlan(tasks=("push",))(Catalogue())
    assert many[:2] == few
    assert len(many) == 25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ("opn",)}, "unknown task of world 'catalogue': 'opn'. Did you mean 'open'"),
        ({"tasks": ("push",), "variations": (2,)}, "task push has variations 0 to 1, got 2"),
        ({"variations": (-1,)}, "task open has variations 0 to 2, got -1"),
        ({"episodes": 0}, "--episodes must be at least 1 per task, got 0"),
        ({"repeats": 0}, "--repeat must be at least 1, got 0"),
        ({"seed": -4}, "--seed must be 0 or more, got -4"),
    ],
)
def test_what_cannot_be_planned(options, message):
    with pytest.raises(ConfigError, match=message):
        RolloutPlan(**options)(Catalogue())


@pytest.fixture
def demos(tmp_path, write_demo):
    for number, (variation, partition) in enumerate([(0, "train"), (1, "test"), (0, "test"), (1, "test")]):
        write_demo(tmp_path, "open", variation, partition, number, "open it", 8, images=[])
    write_demo(tmp_path, "lift", 0, "train", 0, "lift it", 8, images=[])
    return tmp_path


def test_initial_states_of_the_test_partition(demos):
    planned = RolloutPlan(demos=open_demos(demos), repeats=2)(Catalogue())
    ids = ["open/1/test-episode1", "open/0/test-episode2", "open/1/test-episode3"]
    assert [(e.demo, e.repeat, e.variation, e.seed) for e in planned] == [
        (name, repeat, int(name[5]), -1) for repeat in (0, 1) for name in ids
    ]
    assert [e.number for e in planned] == [0, 1, 2, 3, 4, 5]
    assert [e.start.id for e in planned] == ids * 2
    assert len({e.policy_seed for e in planned}) == 6
    chosen = RolloutPlan(demos=open_demos(demos), variations=(1,), episodes=1)(Catalogue())
    assert [e.demo for e in chosen] == ids[:1]


def test_initial_states_of_another_partition_or_of_all(demos, tmp_path, write_demo):
    assert [e.demo for e in RolloutPlan(tasks=("open",), demos=open_demos(demos, "train"))(Catalogue())] == [
        "open/0/train-episode0"
    ]
    write_demo(tmp_path / "plain", "push", 0, "", 0, "push it", 8, images=[])
    assert [e.demo for e in RolloutPlan(demos=open_demos(tmp_path / "plain"))(Catalogue())] == ["push/0/episode0"]


def test_what_demonstrations_do_not_have(demos):
    with pytest.raises(ConfigError, match="unknown task of the demonstrations: 'push'"):
        RolloutPlan(tasks=("push",), demos=open_demos(demos))(Catalogue())
    with pytest.raises(ConfigError, match="unknown task of world 'catalogue': 'lift'"):
        RolloutPlan(demos=open_demos(demos, "train"))(Catalogue())
    with pytest.raises(ConfigError, match="no demonstration of variation 7 in"):
        RolloutPlan(variations=(7,), demos=open_demos(demos))(Catalogue())
    with pytest.raises(DataError, match="no episode of partition 'val'"):
        open_demos(demos, "val")
