"""The tabletop as an environment: every task in it, its frames, its ends, its repeatability."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest

from mnprobe.core.errors import ConfigError, DataError
from mnprobe.data import open_dataset
from mnprobe.worlds import MAX_STEPS, KeyPose, Situation, make_world
from mnprobe.worlds.record import record_episode
from mnprobe.worlds.tabletop import PALETTE, TASKS
from mnprobe.worlds.tabletop.hand import HOME, key_pose, pointing_down
from mnprobe.worlds.tabletop.tabletop import GENERATOR
from mnprobe.worlds.tabletop.tasks.open_drawer import opening_poses

DOWN = pointing_down()


def stay(*, height=1.1, **changes):
    return key_pose((0.2, 0.0, height), DOWN, **({"gripper_open": True} | changes))


@pytest.mark.parametrize("task", sorted(TASKS))
def test_the_ordinary_rule_finds_the_key_poses_that_were_executed(world, play, keyframes_of, task):
    result = play(world, task, TASKS[task].variations - 1, 7)
    assert result.success
    assert keyframes_of(world.frames(images={})) == world.key_frames
    assert len(world.key_frames) == result.observation.step


@pytest.mark.parametrize("task", sorted(TASKS))
def test_what_is_seen_differs_by_seed_and_variation(world, task):
    def start(variation, seed):
        return world.reset(task, variation, seed).frame.rgb["front"]

    first = start(0, 0)
    np.testing.assert_array_equal(first, start(0, 0))
    assert (first != start(0, 1)).any()
    assert (first != start(TASKS[task].variations - 1, 0)).any()
    assert first.std() > 10


def test_frames_hold_what_a_dataset_needs(world, play):
    play(world, "open_drawer", 1, 3)
    frames = world.frames()
    assert len(frames) > 20
    for index in (0, len(frames) // 2, len(frames) - 1):
        frame = frames[index]
        assert set(frame.rgb) == set(frame.depth) == set(frame.mask) == set(frame.cameras) == set(world.cameras)
        for name, camera in frame.cameras.items():
            assert frame.rgb[name].shape == (32, 32, 3)
            assert camera.near <= frame.depth[name].min() <= frame.depth[name].max() <= camera.far
        np.testing.assert_allclose(np.linalg.norm(frame.gripper_pose[3:]), 1, atol=1e-12)
        assert (np.array(frame.gripper_joint_positions) >= 0).all()
        assert frame.ignore_collisions == 1.0
    assert frames[0].gripper_open == 1.0
    assert frames[-1].gripper_open == 0.0
    assert not np.any(frames[0].joint_velocities)
    np.testing.assert_allclose(frames[0].gripper_pose[:3], HOME, atol=1e-3)
    expected = np.array(
        [[0, -0.99619, 0.08716, -0.05001], [1, 0, 0, 0.002], [0, 0.08716, 0.9962, -0.09207], [0, 0, 0, 1]]
    )
    for frame in frames[:: len(frames) // 3]:
        np.testing.assert_allclose(frame.cameras["wrist"].extrinsics, frame.gripper_matrix @ expected, atol=1e-12)


def test_images_are_drawn_only_where_they_are_asked_for(play, monkeypatch):
    world = make_world("tabletop", image_size=16)
    play(world, "slide_block_to_color_target")
    drawn = []
    render = world._renderer.render

    def counted(*given, **options):
        drawn.append(given[2].name)
        return render(*given, **options)

    monkeypatch.setattr(world._renderer, "render", counted)
    frames = world.frames(images={"front": {0, 7}, "wrist": [7]})
    assert not drawn
    assert set(frames[0].rgb) == {"front"}
    assert set(frames[7].rgb) == {"front", "wrist"}
    assert not frames[3].rgb
    assert set(frames[3].cameras) == set(world.cameras)
    assert frames[7].rgb["wrist"].std() > 0
    assert frames[7].depth["wrist"] is frames[7].depth["wrist"]
    assert frames[7].mask["wrist"].shape == (16, 16)
    assert drawn == ["wrist"]


def test_a_frame_stays_as_it_was_when_the_world_goes_on(world, play):
    kept = world.reset("push_buttons", 0, 0).frame
    play(world, "push_buttons", 0, 0)
    again = world.frames()[0]
    np.testing.assert_array_equal(kept.rgb["front"], again.rgb["front"])  # before any button turned white
    world.reset("open_drawer", 0, 0)
    assert kept.rgb["left_shoulder"].shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("place", "quaternion", "reason"),
    [
        ((0.2, 0, float("nan")), DOWN, "invalid action"),
        ((0.2, 0, float("inf")), DOWN, "invalid action"),
        ((0.2, 0, 1), [0, 2, 0, 0], "invalid action"),
        ((0.2, 0), DOWN, "invalid action"),
        ((5.0, 0, 1), DOWN, "unreachable pose"),
        ((0.2, -0.56, 1), DOWN, "unreachable pose"),
        ((0.2, 0, 0.69), DOWN, "unreachable pose"),
        ((0.2, 0, 1.66), DOWN, "unreachable pose"),
    ],
)
def test_what_cannot_be_done_ends_the_episode_as_a_value(world, place, quaternion, reason):
    world.reset("open_drawer", 0, 0)
    before = world.frames(images={})
    pose = KeyPose(position=np.array(place, float), quaternion=np.array(quaternion, float), gripper_open=True)
    result = world.step(pose)
    assert (result.done, result.reason, result.reached, result.success) == (True, reason, False, False)
    assert len(world.frames(images={})) == len(before)
    assert world.key_frames == ()
    with pytest.raises(ConfigError, match=f"over \\({reason}\\); call reset"):
        world.step(stay())


def test_the_scene_bounds_can_be_reached(world):
    for place in ((-0.3, -0.5, 0.8), (0.7, 0.5, 1.6)):
        world.reset("push_buttons", 0, 0)
        assert world.step(key_pose(place, DOWN, gripper_open=True)).reached


def test_a_collision_ends_the_episode(world):
    world.reset("open_drawer", 0, 0)
    cabinet = world._sim.position("cabinet")
    result = world.step(key_pose((*cabinet[:2], 0.9), DOWN, gripper_open=True, ignore_collisions=False))
    assert (result.done, result.reason, result.reached) == (True, "collision", False)
    world.reset("open_drawer", 0, 0)
    result = world.step(key_pose((*cabinet[:2], 0.9), DOWN, gripper_open=True))
    assert (result.done, result.reason, result.reached) == (False, "", False)
    assert result.observation.frame.ignore_collisions == 1.0


def test_the_step_limit_ends_the_episode(world, keyframes_of):
    world.reset("push_buttons", 0, 0)
    for number in range(MAX_STEPS):
        result = world.step(stay(height=1.0 + 0.1 * (number % 2), gripper_open=number % 3 > 0))
        assert result.reached
        assert result.done == (number == MAX_STEPS - 1)
    assert result.reason == "step limit"
    assert result.observation.step == MAX_STEPS
    assert keyframes_of(world.frames(images={})) == world.key_frames


@pytest.mark.parametrize("opens", [[True] * 4, [False] * 4, [True, False, True, False], [False, True, True, False]])
def test_a_policy_that_stays_where_it_is_has_its_key_poses_found_too(world, keyframes_of, opens):
    world.reset("push_buttons", 0, 0)
    for gripper_open in opens:
        world.step(key_pose(HOME, DOWN, gripper_open=gripper_open))
    assert keyframes_of(world.frames(images={})) == world.key_frames


def test_the_flag_is_kept_with_the_frames_of_its_motion(world):
    world.reset("push_buttons", 0, 0)
    world.step(stay(height=1.2, ignore_collisions=False))
    world.step(stay(height=1.1))
    flags = [frame.ignore_collisions for frame in world.frames(images={})]
    end = world.key_frames[0]
    assert flags == [1.0] + [0.0] * end + [1.0] * (len(flags) - end - 1)


def test_pressing_the_wrong_button_first_does_not_help(world):
    world.reset("push_buttons", 6, 0)
    first, second = world.expert()[:3], world.expert()[3:]
    for pose in [*second, *first]:
        result = world.step(pose)
    assert not result.done
    assert world._scene.pressed == ["green", "red"]


def test_pulling_another_drawer_is_no_success(world):
    world.reset("open_drawer", 0, 0)
    for pose in opening_poses(world._sim, "top"):
        result = world.step(pose)
    assert world._sim.joint("drawer_top") > 0.1
    assert not result.done


def test_colour_and_place_are_not_tied(world):
    sides = set()
    for seed in range(24):
        world.reset("slide_block_to_color_target", 0, seed)
        away = world._sim.position("target_green") - world._sim.position("block")
        sides.add(round(float(np.arctan2(away[1], away[0]) / (np.pi / 2))) % 4)
    assert sides == {0, 1, 2, 3}


def test_the_palette_keeps_its_colours_apart():
    colours = np.array(list(PALETTE.values()))
    gaps = np.linalg.norm(colours[:, None] - colours[None], axis=-1)[~np.eye(len(colours), dtype=bool)]
    assert len(PALETTE) == 6
    assert gaps.min() > 0.6


_EPISODE = """
import hashlib
from mnprobe.worlds import make_world
world = make_world("tabletop", image_size=24)
world.reset("stack_blocks", 1, 11)
for pose in world.expert()[:8]:
    result = world.step(pose)
digest = hashlib.sha256()
for instant in world._instants:
    digest.update(instant.qpos.tobytes())
frame = result.observation.frame
for name in world.cameras:
    digest.update(frame.rgb[name].tobytes() + frame.depth[name].tobytes() + frame.mask[name].tobytes())
print(digest.hexdigest())
"""


def test_the_same_seed_gives_the_same_states_and_images_in_another_process():
    said = {
        subprocess.run([sys.executable, "-c", _EPISODE], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(said) == 1
    assert len(said.pop().strip()) == hashlib.sha256().digest_size * 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("open_drawr", 0, 0), "Did you mean 'open_drawer'"),
        (("open_drawer", 3, 0), "variation must be a whole number from 0 to 2, got 3"),
        (("open_drawer", -1, 0), "variation"),
        (("open_drawer", 0, -1), "seed must be"),
        (("open_drawer", 0, 2**63), "seed must be"),
        (("open_drawer", 0, 1.5), "seed must be"),
        (("open_drawer", True, 0), "variation"),
    ],
)
def test_unknown_situations_are_refused(world, arguments, words):
    with pytest.raises(ConfigError, match=words):
        world.reset(*arguments)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_size": 4}, "image_size must be"),
        ({"image_size": 12.5}, "image_size must be"),
        ({"renderer": "ray"}, "Did you mean 'rays'"),
        ({"cameras": ["font"]}, "Did you mean 'front'"),
        ({"fps": 3}, "fps"),
    ],
)
def test_impossible_options_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        make_world("tabletop", **options)


def test_nothing_can_be_asked_before_a_reset_or_after_the_end():
    world = make_world("tabletop", image_size=16)
    for ask in (world.expert, world.frames, lambda: world.step(stay()), lambda: world.situation):
        with pytest.raises(ConfigError, match="call reset first"):
            ask()
    world.close()
    world.close()
    with pytest.raises(ConfigError, match="closed"):
        world.reset("open_drawer", 0, 0)


def test_wrong_image_choices_are_refused(world):
    world.reset("open_drawer", 0, 0)
    with pytest.raises(ConfigError, match="frame 1; the episode has frames 0 to 0"):
        world.frames(images={"front": [1]})
    with pytest.raises(ConfigError, match="unknown camera 'side'"):
        world.frames(images={"side": [0]})


def test_what_decides_the_episodes_is_described():
    world = make_world("tabletop", image_size=48, cameras=["wrist"], masks=False, shadow=True)
    said = world.describe()
    assert json.loads(json.dumps(said)) == said
    assert said["renderer"] == "rays"
    assert said["image_size"] == 48
    assert said["cameras"] == ["wrist"]
    assert said["shadow"] is True
    assert said["versions"]["tabletop"] == GENERATOR
    assert said["versions"]["mujoco-core"].startswith("4.")
    assert "mnprobe" in said["versions"]
    frame = world.reset("open_drawer", 0, 0).frame
    assert set(frame.rgb) == {"wrist"}
    assert frame.rgb["wrist"].shape == (48, 48, 3)
    assert not frame.mask


@pytest.fixture
def recorded(world, play, tmp_path):
    """A written episode, its start and its situation file."""
    start = world.reset("open_drawer", 2, 5).frame
    seen = {name: (start.rgb[name], start.depth[name]) for name in world.cameras}
    play(world, "open_drawer", 2, 5)
    situation = Situation(task="open_drawer", variation=2, seed=5)
    folder = record_episode(tmp_path, world, situation, instructions=["open the top drawer"], episode=0)
    return open_dataset(tmp_path)[0], seen, folder / "situation.json"


def test_a_written_episode_is_read_with_its_key_poses_and_can_be_started_again(world, recorded):
    episode, seen, _ = recorded
    keys = world.key_frames
    world.reset("push_buttons", 0, 0)
    again = world.reset_to(episode).frame
    assert episode.keyframes == keys
    asked = world.expert()
    for step, pose in zip(episode.steps(), asked, strict=True):
        np.testing.assert_allclose(step.gripper_pose[:3], pose.position, atol=2e-3)
        assert bool(step.gripper_open) == pose.gripper_open
        assert step.ignore_collisions == 1.0
    assert world.situation == Situation(task="open_drawer", variation=2, seed=5)
    stored = episode.frame(0)
    for name, (rgb, depth) in seen.items():
        np.testing.assert_array_equal(again.rgb[name], rgb)
        np.testing.assert_array_equal(stored.rgb[name], rgb)
        np.testing.assert_allclose(stored.depth[name], depth, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"world": "rlbench"}, "is of world 'rlbench'"),
        ({"versions": {"tabletop": "0"}}, "revision '0'.*Make the demonstrations again"),
        ({"task": "turn_tap", "variation": 0}, "tells task 'turn_tap'"),
        ({"seed": -4}, "seed must be"),
        (None, "is missing"),
    ],
)
def test_an_episode_that_does_not_say_where_it_started_is_refused(world, recorded, change, words):
    episode, _, path = recorded
    if change is None:
        path.unlink()
    else:
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        world.reset_to(episode)


def test_frames_are_a_sequence_of_their_own(world, play):
    play(world, "turn_tap")
    frames = world.frames(images={})
    assert isinstance(frames, Sequence)
    assert world.frames(images={}) is not frames


def test_looking_at_worlds_loads_neither_mujoco_nor_torch():
    code = "import sys, mnprobe.worlds; print([m for m in ('mujoco', 'torch') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    code = "import sys, mnprobe.worlds.tabletop; print('torch' in sys.modules, any('OpenGL' in m for m in sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "False False\n"
    )


@pytest.mark.parametrize("value", [None, "mesa", "wgl", "osmesa", "egl", "disable", ""])
def test_the_variables_of_graphics_are_left_as_they_were(value):
    """Whatever MUJOCO_GL says, also what MuJoCo itself refuses."""
    code = "import os, mnprobe.worlds.tabletop as t; from mnprobe.worlds.tabletop.gl import probe_gl; probe_gl(); "
    code += "t.Tabletop(image_size=16).reset('push_buttons', 0, 1); "
    code += "print(repr(os.environ.get('MUJOCO_GL')), 'LP_NUM_THREADS' in os.environ)"
    env = {name: text for name, text in os.environ.items() if name not in ("MUJOCO_GL", "LP_NUM_THREADS")}
    env |= {} if value is None else {"MUJOCO_GL": value}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout == f"{value!r} False\n"


def test_an_episode_of_another_format_has_no_scene_to_start_from(golden):
    episode = open_dataset(golden / "lerobot" / "v30-images")[0]
    with pytest.raises(DataError, match=r"the tabletop needs recorded scenes; .*episode 0 has no recorded scenes"):
        make_world("tabletop").reset_to(episode)
