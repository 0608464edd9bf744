"""The goal suite: one scene for 36 instructions, verbs and colors, each checked exactly."""

import numpy as np
import pytest

from mnprobe.worlds.tabletop import PALETTE
from mnprobe.worlds.tabletop.palette import GREY, WHITE
from mnprobe.worlds.tabletop.scene import TABLE_TOP
from mnprobe.worlds.tabletop.tasks import SUITES, TASKS
from mnprobe.worlds.tabletop.tasks._pucks import hand_at

COLORS = tuple(PALETTE)
WAYS = {
    "push_puck_left": (0, 1),
    "push_puck_right": (0, -1),
    "push_puck_away": (1, 0),
    "push_puck_near": (-1, 0),
}


def pads(stage):
    return {color: stage.sim.model.geom(f"pad_{color}").rgba[:3].tolist() for color in COLORS}


def puck(stage, color):
    return stage.sim.position(f"puck_{color}")


def push(start, way, length, *, behind=0.06):
    """Key poses that push whatever stands at `start`."""
    way = np.array(way) / np.linalg.norm(way)
    return [
        hand_at(start[:2] - behind * way, 0.14),
        hand_at(start[:2] - behind * way, 0.02),
        hand_at(start[:2] + (length - 0.04) * way, 0.02),
    ]


def test_every_verb_has_the_same_scene_and_every_color_its_wordings(stage):
    scenes = {stage(task, variation, 4).scene.mjcf for task in SUITES["goal"] for variation in (0, 5)}
    assert len(scenes) == 1
    for task in SUITES["goal"]:
        for variation, color in enumerate(COLORS):
            texts = TASKS[task]().instructions(variation)
            assert all(color in text.split() for text in texts)
            assert not any(other in text for text in texts for other in COLORS if other != color)


def test_no_wording_belongs_to_two_verbs():
    texts = [text for task in SUITES["goal"] for v in range(6) for text in TASKS[task]().instructions(v)]
    assert len(texts) == len(set(texts)) >= 3 * 36


def test_pucks_stand_in_six_slots_with_room_for_the_hand_and_all_colors_are_everywhere(stage):
    seen = {color: set() for color in COLORS}
    for seed in range(40):
        found = stage("tap_puck", 0, seed)
        places = np.array([puck(found, color)[:2] for color in COLORS])
        away = np.linalg.norm(places[:, None] - places[None], axis=2)[np.triu_indices(6, 1)]
        assert away.min() > 0.13
        slots = np.round((places - (0.10, -0.18)) / 0.18).astype(int)
        assert np.abs(places - (0.10, -0.18) - 0.18 * slots).max() <= 0.0205
        assert {tuple(slot) for slot in slots.tolist()} == {(x, y) for x in range(2) for y in range(3)}
        for color, slot in zip(COLORS, slots.tolist(), strict=True):
            seen[color].add(tuple(slot))
    assert all(len(slots) == 6 for slots in seen.values())


@pytest.mark.parametrize("task", SUITES["goal"])
def test_the_expert_does_what_was_asked_and_nothing_else(stage, task):
    stage = stage(task, 3, 11)
    before = {color: puck(stage, color) for color in COLORS}
    assert stage.do(stage.expert())
    moved = {color: puck(stage, color) - before[color] for color in COLORS}
    assert max(np.linalg.norm(moved[color]) for color in COLORS if color != "yellow") < 0.002
    shift = moved["yellow"]
    if task in WAYS:
        along = float(shift[:2] @ WAYS[task])  # it slides on when the hand stops
        assert 0.045 < along < 0.1
        assert np.linalg.norm(shift[:2] - along * np.array(WAYS[task])) < 0.01
        assert abs(shift[2]) < 0.002
    elif task == "lift_puck":
        assert shift[2] > 0.1
        assert stage.sim.holds("puck_yellow")
    else:
        assert np.linalg.norm(shift) < 0.002
    white = [color for color, paint in pads(stage).items() if np.allclose(paint, WHITE)]
    assert white == (["yellow"] if task == "tap_puck" else [])


@pytest.mark.parametrize("asked", SUITES["goal"])
def test_only_the_verb_and_the_color_that_are_asked_for_solve_it(stage, asked):
    for done in SUITES["goal"]:
        trial = stage(asked, 1, 6)
        assert trial.do(stage(done, 1, 6).expert()) == (done == asked), done
    other = stage(asked, 1, 6)
    assert not other.do(stage(asked, 2, 6).expert())
    lift_off = [hand_at(other.sim.hand_position, 0.2, gripper_open=True)]
    assert not other.do([*lift_off, *other.expert()])  # too late: another puck was disturbed


def test_a_tap_counts_when_the_hand_is_up_again_and_the_pad_is_white_before(stage):
    stage = stage("tap_puck", 0, 2)
    above, onto, up = stage.expert()
    assert not stage.do([above])
    assert all(np.allclose(paint, GREY) for paint in pads(stage).values())
    assert not stage.do([onto])
    assert [color for color, paint in pads(stage).items() if np.allclose(paint, WHITE)] == ["red"]
    assert stage.do([up])


def test_a_hand_that_passes_over_a_puck_or_beside_it_taps_nothing(stage):
    stage = stage("tap_puck", 0, 2)
    place = puck(stage, "red")
    assert not stage.do([hand_at(place, 0.085), hand_at(place, 0.14)])
    beside = place + np.array([0.05, 0, 0])
    assert not stage.do([hand_at(beside, 0.14), hand_at(beside, 0.03), hand_at(beside, 0.14)])
    assert all(np.allclose(paint, GREY) for paint in pads(stage).values())


def test_a_puck_that_is_held_too_low_or_let_go_is_not_lifted(stage):
    stage = stage("lift_puck", 4, 3)
    above, around, grasp, _ = stage.expert()
    place = puck(stage, "magenta")
    assert not stage.do([above, around, grasp, hand_at(place, 0.055)])
    assert puck(stage, "magenta")[2] > TABLE_TOP + 0.025 + 0.02
    assert not stage.do([hand_at(place, 0.055, gripper_open=True), hand_at(place, 0.14, gripper_open=True)])


@pytest.mark.parametrize("task", WAYS)
def test_a_push_counts_when_it_is_long_and_straight_enough(stage, task):
    ahead = np.array(WAYS[task])
    across = ahead[::-1]
    for way, length, solved in (
        (ahead, 0.02, False),
        (ahead, 0.05, True),
        (ahead + across, 0.07, False),
        (ahead - across, 0.07, False),
        (across, 0.06, False),
        (-across, 0.06, False),
        (-ahead, 0.06, False),
    ):
        trial = stage(task, 2, 5)
        assert trial.do(push(puck(trial, "blue"), way, length)) == solved, (way, length)


def test_a_push_that_takes_another_puck_along_fails(stage):
    first = stage("push_puck_away", 0, 0)
    near, far = sorted(
        (color for color in COLORS if abs(puck(first, color)[1]) < 0.09), key=lambda c: puck(first, c)[0]
    )
    behind = puck(first, near) - np.array([0.06, 0, 0])
    trial = stage("push_puck_away", COLORS.index(far), 0)
    start = puck(trial, far)
    assert not trial.do(push(behind, (1, 0), 0.30, behind=0.0))
    assert puck(trial, far)[0] - start[0] > 0.04


@pytest.mark.parametrize("task", SUITES["goal"])
def test_key_poses_that_are_a_centimeter_off_still_solve_it(world, task):
    centimeter = 0.0099
    for seed, shift in enumerate([*np.eye(3), *-np.eye(3)]):
        world.reset(task, seed, seed)
        for pose in world.expert():
            pose.position[:] += centimeter * shift
            result = world.step(pose)
        assert result.success, shift
