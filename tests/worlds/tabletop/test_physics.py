"""How key poses are carried out, in a scene with a free cube and a post that stands still."""

import math

import numpy as np
import pytest

from mnprobe.worlds.tabletop.hand import HOME, OPEN, REACH, key_pose, pointing, pointing_down, pose_matrix
from mnprobe.worlds.tabletop.palette import PALETTE
from mnprobe.worlds.tabletop.physics import FRAME_SECONDS, Simulation, settle
from mnprobe.worlds.tabletop.scene import TABLE_TOP, Mjcf, body, compose, geom

CUBE = (0.20, 0.10)
POST = (0.30, -0.10)
SCENE = Mjcf(
    worldbody=body(
        "cube",
        geom("box", (0.02,) * 3, PALETTE["red"], mass=0.08, name="skin"),
        at=(*CUBE, TABLE_TOP + 0.02),
        free=True,
    )
    + body("post", geom("cylinder", (0.03, 0.1), PALETTE["blue"]), at=(*POST, TABLE_TOP + 0.1))
)


@pytest.fixture
def sim():
    made = Simulation(compose(SCENE))
    settle(made)
    return made


def go(sim, position, *, gripper_open=True, yaw=0.0, ignore_collisions=True, quaternion=None, observe=lambda: False):
    turned = pointing_down(yaw) if quaternion is None else quaternion
    pose = key_pose(position, turned, gripper_open=gripper_open, ignore_collisions=ignore_collisions)
    return sim.carry_out(pose, observe)


def test_the_episode_starts_at_home_at_rest(sim):
    np.testing.assert_allclose(sim.hand_position, HOME, atol=1e-3)
    assert abs(sim.hand_quaternion @ pointing_down()) == pytest.approx(1, abs=1e-6)
    assert sim.joint("finger_left") == pytest.approx(OPEN, abs=5e-4)
    assert sim.joint("finger_right") == pytest.approx(OPEN, abs=5e-4)
    assert sim.speed("cube") < 1e-3
    assert sim.holds_nothing()


def test_a_pose_is_reached_in_place_and_angle(sim):
    turned = pointing([1, 0.4, 0], [0, 0, 1])
    motion = go(sim, (0.1, -0.2, 1.0), quaternion=turned)
    assert motion.reached
    np.testing.assert_allclose(sim.hand_position, (0.1, -0.2, 1.0), atol=2e-3)
    assert 2 * math.acos(min(1, abs(sim.hand_quaternion @ turned))) < math.radians(1)


def test_the_way_is_straight_at_the_stated_speed(sim):
    start = sim.hand_position
    motion = go(sim, (0.05, -0.25, 0.95))
    places = np.array([instant.qpos[:3] for instant in motion.instants])
    way = np.array([0.05, -0.25, 0.95]) - start
    length = np.linalg.norm(way)
    along = (places - start) @ way / length
    beside = np.linalg.norm(places - start - np.outer(along, way / length), axis=1)
    assert beside.max() < 3e-3
    assert (np.diff(along) > -1e-3).all()
    seconds = len(places) * FRAME_SECONDS
    assert length / 0.48 + 0.1 <= seconds <= length / 0.48 + 0.1 + FRAME_SECONDS
    speed = np.linalg.norm(np.diff(places, axis=0), axis=1) / FRAME_SECONDS
    assert speed.max() < 0.76


def test_turning_takes_its_time(sim):
    motion = go(sim, HOME, yaw=math.pi / 2)
    assert len(motion.instants) * FRAME_SECONDS >= 1.5 * (math.pi / 2) / 3.6 + 0.1
    assert motion.reached


@pytest.mark.parametrize("change", [False, True])
def test_even_a_pose_where_the_hand_is_takes_five_frames_or_more(sim, change):
    motion = go(sim, HOME, gripper_open=not change)
    assert len(motion.instants) == (10 if change else 5)
    assert not motion.instants[-1].velocities.any()
    assert all(np.abs(instant.velocities).max() >= 0.2 for instant in motion.instants[:-1])
    assert [instant.gripper_open for instant in motion.instants] == [True] * (len(motion.instants) - 1) + [not change]


def test_speeds_are_those_of_the_hand(sim):
    motion = go(sim, (0.25, 0.0, 0.95))
    middle = len(motion.instants) // 2
    before, after = motion.instants[middle - 1], motion.instants[middle]
    np.testing.assert_allclose(after.velocities[:3], (after.qpos[:3] - before.qpos[:3]) / FRAME_SECONDS, atol=1e-12)
    assert after.velocities[2] < -0.4


def test_a_cube_is_gripped_lifted_and_let_go(sim):
    go(sim, (*CUBE, 0.9))
    go(sim, (*CUBE, TABLE_TOP + 0.02))
    assert sim.holds_nothing()
    go(sim, (*CUBE, TABLE_TOP + 0.02), gripper_open=False)
    assert sim.holds("cube")
    assert sim.held() == {"cube"}
    assert sim.touching("cube", "finger_left")
    go(sim, (*CUBE, 1.0), gripper_open=False)
    assert sim.position("cube")[2] == pytest.approx(1.0, abs=0.01)
    assert sim.joint("finger_left") == pytest.approx(0.02, abs=2e-3)
    assert not sim.touching("cube", "table")
    go(sim, (*CUBE, 1.0), gripper_open=True)
    assert sim.holds_nothing()
    assert sim.position("cube")[2] < 0.9


def test_collisions_end_the_motion_only_where_they_matter(sim):
    go(sim, (POST[0], POST[1] + 0.15, 0.85), gripper_open=False)
    through = (POST[0], POST[1] - 0.05, 0.85)
    motion = go(sim, through, gripper_open=False, ignore_collisions=False)
    assert motion.collided
    assert not motion.reached
    assert sim.hand_position[1] > POST[1]
    assert not motion.instants[-1].velocities.any()


def test_a_hand_that_is_held_up_stays_and_can_go_on(sim):
    go(sim, (POST[0], POST[1] + 0.15, 0.85), gripper_open=False)
    motion = go(sim, (POST[0], POST[1] - 0.15, 0.85), gripper_open=False)
    assert not motion.collided
    assert not motion.reached
    assert not motion.broken
    assert sim.hand_position[1] > POST[1] + 0.02
    back = go(sim, (POST[0], POST[1] + 0.15, 0.95), gripper_open=False)
    assert back.reached


def test_what_is_held_does_not_count_as_a_collision(sim):
    go(sim, (*CUBE, TABLE_TOP + 0.02))
    go(sim, (*CUBE, TABLE_TOP + 0.02), gripper_open=False)
    motion = go(sim, (0.1, 0.0, 0.95), gripper_open=False, ignore_collisions=False)
    assert not motion.collided
    assert motion.reached


def test_the_table_holds_a_hand_that_is_sent_below_it(sim):
    motion = go(sim, (0.1, -0.1, 0.70), gripper_open=False)
    assert not motion.broken
    assert not motion.reached
    assert sim.hand_position[2] > TABLE_TOP + REACH - 0.015


def test_success_at_a_moment_counts_and_the_motion_goes_on(sim):
    motion = go(sim, (0.25, 0.0, 0.95), observe=lambda: 1.05 < sim.hand_position[2] < 1.15)
    assert motion.success
    assert motion.reached
    assert sim.hand_position[2] == pytest.approx(0.95, abs=2e-3)


def test_colours_are_kept_with_the_instants(sim):
    before = go(sim, (0.25, 0.0, 1.2)).instants[-1]
    sim.set_colour("skin", PALETTE["green"])
    after = go(sim, (0.25, 0.0, 1.2)).instants[-1]
    changed = (before.colours != after.colours).any(axis=1)
    assert changed.sum() == 1
    np.testing.assert_allclose(after.colours[changed][0], PALETTE["green"], atol=1e-6)


def test_queries_answer_by_name(sim):
    np.testing.assert_allclose(sim.position("post"), (*POST, TABLE_TOP + 0.1), atol=1e-12)
    np.testing.assert_allclose(sim.geom("skin"), sim.position("cube"), atol=1e-12)
    np.testing.assert_allclose(sim.rotation("post"), np.eye(3), atol=1e-12)
    assert sim.yaw("post") == 0
    with pytest.raises(KeyError, match="nobody"):
        sim.position("nobody")


def test_the_written_pose_is_that_of_the_finger_tips(sim):
    go(sim, (0.2, 0.0, 1.0), yaw=0.5)
    tip = pose_matrix(sim.hand_position, sim.hand_quaternion)
    middle = (sim.geom("finger_left") + sim.geom("finger_right")) / 2
    inside = np.linalg.inv(tip) @ [*middle, 1]
    np.testing.assert_allclose(inside[:2], 0, atol=1e-3)
    assert -0.04 < inside[2] < 0


def test_an_unstable_simulation_is_a_value_and_leaves_no_log_file(sim, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)

    def burst():
        sim.data.qvel[0] = np.inf
        return False

    motion = go(sim, (0.1, 0.0, 1.0), observe=burst)
    assert motion.broken
    assert not motion.success
    assert np.isfinite(motion.instants[-1].qpos).all()
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")
