import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnprobe.core.errors import ConfigError
from mnprobe.data import find_keyframes, next_keyframe


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
