import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mnprobe.core.errors import ConfigError
from mnprobe.data import find_keyframes, gripper_states, next_keyframe


def test_every_synthetic_case_of_the_golden_file(demo_facts):
    cases = demo_facts["synthetic_keyframe_cases"]["cases"]
    assert len(cases) == 26
    for case in cases:
        velocities = np.zeros((len(case["gripper_open"]), 7))
        velocities[:, 3] = case["joint_velocity_peak"]
        assert list(find_keyframes(case["gripper_open"], velocities)) == case["keyframes"], case["name"]
        assert list(find_keyframes(case["gripper_open"], -velocities)) == case["keyframes"], case["name"]


def test_the_threshold_arrives():
    velocities = np.full((12, 7), 0.3)
    assert find_keyframes(np.ones(12), velocities) == (11,)
    assert find_keyframes(np.ones(12), velocities, delta=0.3) == (5, 11)


def test_a_resting_start_silences_four_frames_only_if_the_ends_agree():
    speeds = np.full((20, 1), 0.5)
    speeds[:4] = 0.0
    assert find_keyframes([1.0] * 20, speeds) == (19,)
    assert find_keyframes([1.0] * 15 + [0.0] * 5, speeds) == (2, 15, 19)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.11])), min_size=2, max_size=40))
def test_laws_of_keyframes(rows):
    gripper = [float(row[0]) for row in rows]
    keys = find_keyframes(gripper, [[row[1]] for row in rows])
    assert keys[-1] == len(rows) - 1
    assert 0 not in keys
    assert list(keys) == sorted(set(keys))
    changes = {i for i in range(1, len(rows)) if gripper[i] != gripper[i - 1]}
    assert changes - set(keys) <= {len(rows) - 2}  # the only one that may be merged away
    stops = sorted(set(keys) - changes - {len(rows) - 1})
    assert all(later - earlier >= 5 for earlier, later in itertools.pairwise(stops))


MOVING = np.full((60, 7), 0.5)
OPENINGS = {  # name: openings of 60 frames, and the frames at which the gripper changes
    "0 to 1 in even steps": (np.linspace(0, 1, 60), [36]),
    "1 to 0 in even steps": (np.linspace(1, 0, 60), [36]),
    "a still gripper with noise": (0.04 + 1e-5 * np.random.default_rng(0).normal(size=60), []),
    "a still gripper": (np.full(60, 0.04), []),
    "closed, with noise about 0": (1e-4 * np.random.default_rng(1).normal(size=60), []),
    "noise of a fiftieth": (0.5 + 0.02 * np.random.default_rng(2).normal(size=60), []),
    "noise in percent": (2.0 * np.random.default_rng(3).normal(size=60), []),
    "nearly 1 throughout": (np.where(np.arange(60) % 7, 1.0, 0.999999), []),
    "the last digit of a sensor": (np.where(np.arange(60) == 30, 0.0401, 0.04), []),
    "metres, closing over five frames": (np.interp(np.arange(60), [20, 25], [0.08, 0.0]), [24]),
    "metres, held object and noise": (
        np.interp(np.arange(60), [20, 25, 40, 45], [0.08, 0.03, 0.03, 0.08])
        + 3e-4 * np.random.default_rng(4).normal(size=60),
        [24, 44],
    ),
    "percent": (np.repeat([100.0, 3.0, 97.0], 20), [20, 40]),
    "radians below 0": (np.repeat([0.0, -0.8], 30), [30]),
    "noise where it is half open": (
        np.interp(np.arange(60), [20, 40], [1.0, 0.0]) + 0.02 * np.random.default_rng(5).normal(size=60),
        [33],
    ),
}


@pytest.mark.parametrize("case", OPENINGS)
def test_a_measured_gripper_changes_once_per_motion(case):
    openings, changes = OPENINGS[case]
    found = find_keyframes(openings, MOVING)
    assert found[-1] == 59
    assert len(found) == len(changes) + 1
    assert all(abs(key - change) <= 1 for key, change in zip(found, changes, strict=False)), found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.11])), min_size=1, max_size=40),
    st.sampled_from([(0.0, 0.08), (0.0, 100.0), (3.0, 255.0), (-1.0, 1.0), (0.0, 1.0), (0.0, 0.999)]),
    st.sampled_from([0.0, 1e-9, 1e-3]),
)
def test_two_openings_of_any_unit_are_open_and_closed(rows, ends, wobble):
    """The oracle is the published rule on 0 and 1, which the golden cases fix."""
    gripper = np.array([float(row[0]) for row in rows])
    if wobble == 1e-3:  # of a gripper that rests, this is as large as the motion of one of another unit
        assume(0 < gripper.sum() < len(gripper))
    speeds = [[row[1]] for row in rows]
    openings = ends[0] + (ends[1] - ends[0]) * (gripper + wobble * np.sin(np.arange(len(rows))))
    assert find_keyframes(openings, speeds) == find_keyframes(gripper, speeds)
    if 0 < gripper.sum() < len(gripper):
        assert gripper_states(openings).tolist() == gripper.tolist()


def test_resting_frames_of_a_measured_gripper_are_stops():
    speeds = np.full((60, 7), 0.5)
    speeds[10:14] = 0.05
    still = 0.04 + 1e-5 * np.random.default_rng(0).normal(size=60)
    assert find_keyframes(still, speeds) == find_keyframes(np.ones(60), speeds) == (10, 59)


def test_noise_alone_seldom_moves_a_gripper():
    draw = np.random.default_rng(0)
    for frames in (30, 100, 400):
        moved = [len(find_keyframes(draw.normal(size=frames), np.full((frames, 1), 0.5))) > 1 for _ in range(200)]
        assert np.mean(moved) < 0.03, frames


def test_a_gripper_that_does_not_move_is_open_or_closed_only_if_it_says_so():
    assert gripper_states([0.9999, 1.0, 0.9998]).tolist() == [1, 1, 1]
    assert gripper_states([0.0, 1e-5, 0.0]).tolist() == [0, 0, 0]
    assert gripper_states([1, 1, 0, True]).tolist() == [1, 1, 0, 1]
    for openings in ([0.5] * 4, [100.0] * 4, [-1.0] * 4, [0.08] * 4, [0.04] * 4):
        with pytest.raises(ConfigError, match=r"does not move, its opening is .* cannot be told"):
            gripper_states(openings)
    for openings in ([], [[1.0]], [1.0, np.nan]):
        with pytest.raises(ConfigError, match="gripper_states needs finite numbers"):
            gripper_states(openings)


def test_next_keyframe_is_strictly_after():
    assert [next_keyframe((3, 7), frame) for frame in (0, 3, 6, 7)] == [3, 7, 7, None]


@pytest.mark.parametrize(
    ("gripper", "velocities", "text"),
    [
        ([], np.zeros((0, 7)), r"T >= 1, got shapes \(0,\) and \(0, 7\)"),
        ([1.0, 1.0], np.zeros((3, 7)), r"got shapes \(2,\) and \(3, 7\)"),
        ([1.0, np.nan], np.zeros((2, 7)), "gripper_open has none at frame 1"),
        ([1.0, 1.0], [[0.0], [np.inf]], "joint_velocities has none at frame 1"),
    ],
)
def test_what_has_no_keyframes_is_refused(gripper, velocities, text):
    with pytest.raises(ConfigError, match=text):
        find_keyframes(gripper, velocities)
