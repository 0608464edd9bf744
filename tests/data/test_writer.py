"""What is written is read back; what cannot be an episode is not written."""

import dataclasses
import pickle
import pickletools
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from mnprobe.core.errors import ConfigError, DataError
from mnprobe.data import FrameData, depth_to_points, episode_folder, find_keyframes, open_dataset, write_episode
from mnprobe.data.images import DEPTH_STEPS


def _check_equal(episode, frames):
    assert len(episode) == len(frames)
    for index, made in enumerate(frames):
        frame = episode.frame(index)
        for name in ("gripper_pose", "gripper_joint_positions", "joint_positions", "joint_velocities"):
            np.testing.assert_array_equal(
                getattr(frame, name), np.asarray(getattr(made, name), dtype=float), strict=True
            )
        assert frame.gripper_open == made.gripper_open
        assert frame.ignore_collisions == (made.ignore_collisions or 0.0)
        assert set(frame.rgb) == set(made.rgb)
        assert set(frame.mask) == set(made.mask)
        for name, view in made.cameras.items():
            np.testing.assert_array_equal(frame.intrinsics[name], view.intrinsics, strict=True)
            np.testing.assert_array_equal(frame.extrinsics[name], view.extrinsics, strict=True)
            assert (frame.camera(name).near, frame.camera(name).far) == (view.near, view.far)
        for name in made.rgb:
            np.testing.assert_array_equal(frame.rgb[name], made.rgb[name], strict=True)
        for name in made.mask:
            np.testing.assert_array_equal(frame.mask[name], made.mask[name], strict=True)
        for name in made.depth:
            step = (made.cameras[name].far - made.cameras[name].near) / DEPTH_STEPS
            np.testing.assert_allclose(frame.depth64(name), made.depth[name], rtol=0, atol=0.50001 * step)


@pytest.mark.parametrize("partition", ["train", "val", "test", ""])
def test_an_episode_is_read_as_it_was_written(write, make_frames, tmp_path, partition):
    frames = make_frames(9, mask=True)
    seed = np.random.RandomState(3).get_state()
    texts = ["öffne die Schublade", "open it"]
    folder = write(frames=frames, partition=partition, episode=12, random_seed=seed, instructions=texts)
    assert folder == episode_folder(tmp_path, "open_drawer", 12, partition)
    (episode,) = open_dataset(tmp_path, strict=True)
    assert episode.id == f"open_drawer/1/{partition and partition + '-'}episode12"
    assert episode.instructions == tuple(texts)
    assert (episode.variation, episode.partition, episode.folder) == (1, partition, folder)
    assert episode.keyframes == find_keyframes([f.gripper_open for f in frames], [f.joint_velocities for f in frames])
    _check_equal(episode, frames)
    for found, given_part in zip(episode.random_seed, seed, strict=True):
        np.testing.assert_array_equal(found, given_part)
    draw = np.random.RandomState()
    draw.set_state(episode.random_seed)
    assert draw.random() == np.random.RandomState(3).random()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_episode_is_read_as_it_was_written(tmp_path_factory, make_frames, data):
    frames = make_frames(
        data.draw(st.integers(2, 8)),
        (data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))),
        tuple(data.draw(st.sets(st.sampled_from(["front", "wrist", "back_2"]), max_size=3))),
        seed=data.draw(st.integers(0, 2**32)),
        mask=data.draw(st.booleans()),
        ignore=data.draw(st.booleans()),
        far=data.draw(st.floats(0.5, 20)),
    )
    texts = data.draw(st.lists(st.text("abc Äß'\"<>&,é機", min_size=1).filter(str.strip), min_size=1, max_size=3))
    root = tmp_path_factory.mktemp("any")
    variation = data.draw(st.integers(0, 300))
    write_episode(root, task="some_task", variation=variation, episode=0, instructions=texts, frames=frames)
    (episode,) = open_dataset(root, strict=True)
    assert (episode.variation, list(episode.instructions)) == (variation, [text.strip() for text in texts])
    assert episode.has_ignore_collisions == (frames[0].ignore_collisions is not None)
    _check_equal(episode, frames)


def test_a_real_episode_survives_being_written_again(rlbench_data, tmp_path):
    original = open_dataset(rlbench_data / "rlbench")[1]
    frames = []
    for index in range(len(original)):
        frame = original.frame(index)
        names = ("gripper_pose", "gripper_open", "joint_velocities", "joint_positions", "ignore_collisions")
        frames.append(
            FrameData(
                **{name: getattr(frame, name) for name in names},
                gripper_joint_positions=frame.gripper_joint_positions,
                gripper_matrix=original._low_dim.field("gripper_matrix")[index],
                cameras={name: frame.camera(name) for name in original.cameras},
                rgb={"front": frame.rgb["front"]} if index % 40 == 0 else {},
                depth={"front": frame.depth64("front")} if index % 40 == 0 else {},
            )
        )
    write_episode(
        tmp_path,
        task=original.task,
        variation=original.variation,
        episode=1,
        partition="train",
        instructions=original.instructions,
        frames=frames,
        random_seed=original.random_seed,
    )
    (copy,) = open_dataset(tmp_path)
    assert (copy.id, copy.instructions, copy.keyframes) == (original.id, original.instructions, original.keyframes)
    assert copy.frames_on_disk("front") == (0, 40, 80)
    for index in (0, 40, 80):
        ours, theirs = copy.frame(index), original.frame(index)
        np.testing.assert_array_equal(ours.depth64("front"), theirs.depth64("front"), strict=True)
        np.testing.assert_array_equal(ours.points("front"), theirs.points("front"), strict=True)
        np.testing.assert_array_equal(ours.rgb["front"], theirs.rgb["front"], strict=True)
    for step, other in zip(copy.steps(), original.steps(), strict=True):
        assert step.gripper_pose.tolist() == other.gripper_pose.tolist()
        assert (step.observed, step.index, step.gripper_open) == (other.observed, other.index, other.gripper_open)
    for name, values in original._low_dim.values.items():
        np.testing.assert_array_equal(copy._low_dim.values[name], values, strict=True)


def test_loaders_that_unpickle_freely_find_what_rlbench_would_have_written(write, make_frames, run_python):
    frames = make_frames(5)
    folder = write(frames=frames, random_seed=np.random.RandomState(0).get_state())
    found = run_python(
        """
demo = pickle.load(open(sys.argv[1] + "/low_dim_obs.pkl", "rb"))
seen = demo._observations[2]
np.random.set_state(demo.random_seed)
print(json.dumps({
    "types": [type(demo).__module__, type(demo).__name__, type(seen).__module__, type(seen).__name__],
    "frames": len(demo._observations),
    "variation": demo.variation_number,
    "open": [type(seen.gripper_open).__name__, seen.gripper_open],
    "ignore": [type(seen.ignore_collisions).__name__, seen.ignore_collisions.shape, str(seen.ignore_collisions.dtype)],
    "pose": seen.gripper_pose.tolist(),
    "writeable": seen.gripper_pose.flags.writeable,
    "matrix": seen.gripper_matrix.tolist(),
    "misc": sorted(seen.misc),
    "near": [type(seen.misc["front_camera_near"]).__name__, seen.misc["front_camera_near"]],
    "intrinsics": seen.misc["front_camera_intrinsics"].tolist(),
    "attributes": sorted(vars(seen)),
    "images": [getattr(seen, c + k) for c in ("front", "wrist") for k in ("_rgb", "_depth", "_mask", "_point_cloud")],
    "descriptions": pickle.load(open(sys.argv[1] + "/variation_descriptions.pkl", "rb")),
    "number": pickle.load(open(sys.argv[1] + "/variation_number.pkl", "rb")),
}))
""",
        folder,
    )
    assert found["types"] == ["rlbench.demo", "Demo", "rlbench.backend.observation", "Observation"]
    assert (found["frames"], found["variation"], found["number"]) == (5, 1, 1)
    assert found["descriptions"] == ["open the middle drawer"]
    assert found["open"] == ["float", frames[2].gripper_open]
    assert found["ignore"] == ["ndarray", [], "float64"]
    assert found["pose"] == list(frames[2].gripper_pose)
    assert found["writeable"] is True
    assert found["near"] == ["float", 0.01]
    assert found["intrinsics"] == frames[2].cameras["front"].intrinsics.tolist()
    assert found["misc"] == sorted(
        f"{c}_camera_{p}" for c in ("front", "wrist") for p in ("extrinsics", "intrinsics", "near", "far")
    )
    assert found["images"] == [None] * 8
    assert {"joint_forces", "gripper_touch_forces", "task_low_dim_state", "joint_positions"} <= set(found["attributes"])


def test_only_names_of_the_usual_kind_stand_in_the_pickle(write):
    content = (write() / "low_dim_obs.pkl").read_bytes()
    strings = [argument for opcode, argument, _ in pickletools.genops(content) if opcode.name == "BINUNICODE"]
    assert {text for text in strings if "numpy" in text or "rlbench" in text} == {
        "rlbench.demo",
        "rlbench.backend.observation",
        "numpy.core.multiarray",
        "numpy",
    }
    assert content[:2] == b"\x80\x04"


def test_the_gripper_matrix_is_made_from_the_pose(write, make_frames, tmp_path):
    frames = make_frames(4)
    write(frames=frames)
    (episode,) = open_dataset(tmp_path)
    for frame, matrix in zip(frames, episode._low_dim.field("gripper_matrix"), strict=True):
        np.testing.assert_allclose(matrix[:3, :3], Rotation.from_quat(frame.gripper_pose[3:]).as_matrix(), atol=1e-12)
        assert matrix[:3, 3].tolist() == list(frame.gripper_pose[:3])
        assert matrix[3].tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("images", "front", "wrist"),
    [
        ("all", tuple(range(9)), tuple(range(9))),
        ("keyframes", (0, 6), (0, 6)),
        ([5, 0, 5], (0, 5), (0, 5)),
        ({"front": "all", "wrist": "keyframes"}, tuple(range(9)), (0, 6)),
        ({"wrist": {3}}, None, (3,)),
    ],
)
def test_images_can_be_trimmed(write, make_frames, tmp_path, images, front, wrist):
    write(frames=make_frames(9), images=images)
    (episode,) = open_dataset(tmp_path)
    assert len(episode) == 9
    assert episode.keyframes == (6, 8)
    assert episode.frames_on_disk("wrist") == episode.frames_on_disk("wrist", "depth") == wrist
    if front is None:
        assert episode.cameras == ("wrist",)
    else:
        assert episode.frames_on_disk("front") == front


def _with(frames, index, **changes):
    return [dataclasses.replace(f, **changes) if i == index else f for i, f in enumerate(frames)]


BAD_FRAMES = {
    "one frame": (lambda f: f[:1], "at least two frames, got 1"),
    "no frame": (lambda f: [], "at least two frames, got 0"),
    "short pose": (
        lambda f: _with(f, 2, gripper_pose=[0, 0, 1]),
        r"frame 2: gripper_pose must have shape \(7,\), got \(3,\)",
    ),
    "NaN": (lambda f: _with(f, 2, joint_velocities=[np.nan] * 7), "frame 2: joint_velocities must hold finite numbers"),
    "quaternion": (
        lambda f: _with(f, 1, gripper_pose=[0] * 6 + [2]),
        "frame 1: gripper_pose's quaternion must have length 1",
    ),
    "gripper": (lambda f: _with(f, 1, gripper_open=0.5), "frame 1: gripper_open must be 1.0 or 0.0, got 0.5"),
    "flag": (lambda f: _with(f, 1, ignore_collisions=2), "frame 1: ignore_collisions must be 1.0 or 0.0, got 2"),
    "some flags": (lambda f: _with(f, 3, ignore_collisions=None), "in some frames only; frame 3 has none"),
    "other cameras": (lambda f: _with(f, 3, cameras={}), "frame 3 has cameras none, frame 0 has front, wrist"),
    "unknown camera": (
        lambda f: _with(f, 0, rgb={"top": f[0].rgb["front"]}),
        "frame 0: rgb of camera 'top', which is not",
    ),
    "rgb shape": (lambda f: _with(f, 0, rgb={"front": np.zeros((4, 6))}), r"rgb of camera 'front' has shape \(4, 6\)"),
    "rgb type": (
        lambda f: _with(f, 4, rgb={"front": np.zeros((4, 6, 3))}),
        "frame 4, camera 'front': a PNG .* float64",
    ),
    "depth": (lambda f: _with(f, 4, depth={"front": np.full((4, 6), 9.0)}), "frame 4, camera 'front': depth must lie"),
    "mask": (lambda f: _with(f, 4, mask={"front": np.full((4, 6), -1)}), "frame 4, camera 'front': mask handles"),
    "sizes": (
        lambda f: _with(f, 4, depth={"front": np.ones((5, 6))}),
        r"frame 4: depth .* is \(5, 6\), another .* \(4, 6\)",
    ),
}


@pytest.mark.parametrize("case", BAD_FRAMES)
def test_frames_that_cannot_be_are_refused_and_leave_nothing(write, make_frames, tmp_path, case):
    change, text = BAD_FRAMES[case]
    with pytest.raises(ConfigError, match=text):
        write(frames=change(make_frames()))
    assert not [path for path in tmp_path.rglob("*") if path.is_file() or "episode0" in path.name]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"task": "../../etc"}, "task must be letters"),
        ({"task": ""}, "task must be letters"),
        ({"partition": "holdout"}, "partition must be train, val, test or empty, got 'holdout'"),
        ({"variation": -1}, "variation must be a whole number from 0, got -1"),
        ({"episode": 1.5, "frames": []}, "episode must be a whole number from 0, got 1.5"),
        ({"instructions": "open it"}, "sequence of at least one text"),
        ({"instructions": []}, "sequence of at least one text"),
        ({"instructions": ["a", " "]}, "printable text, got ' '"),
        ({"random_seed": ("MT19937", [1, 2], 3, 0, 0.0)}, "random_seed must be what numpy.random.get_state"),
        ({"images": "none"}, "images must be 'all', 'keyframes' or frame numbers, got 'none'"),
        ({"images": [6]}, "images names frame 6; the episode has frames 0 to 5"),
        ({"images": {"top": "all"}}, "images names camera 'top'; the frames have front, wrist"),
    ],
)
def test_arguments_that_cannot_be_are_refused(write, tmp_path, changes, text):
    with pytest.raises(ConfigError, match=text):
        write(**changes)
    assert not list(tmp_path.rglob("*.pkl"))


def test_a_camera_name_cannot_leave_the_folder(write, make_frames):
    frame = make_frames(cameras=("front",))[0]
    evil = dataclasses.replace(frame, cameras={"../up": frame.cameras["front"]}, rgb={}, depth={})
    with pytest.raises(ConfigError, match=r"name must be letters, digits and underscores, got '\.\./up'"):
        write(frames=[evil, evil])


def test_an_episode_is_never_overwritten(write, make_frames):
    folder = write()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match=f"{folder} exists already"):
        write(frames=make_frames(7, seed=5))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert not list(folder.parent.glob(".*"))


def test_a_killed_writer_leaves_nothing_that_looks_like_an_episode(tmp_path):
    script = textwrap.dedent("""
        import os, sys
        import numpy as np
        from pathlib import Path
        from mnprobe.data import Camera, FrameData, look_at, pinhole, write_episode, writer

        count = 0
        whole = writer.write_png
        def counting(path, pixels):
            global count
            count += 1
            if count == int(sys.argv[2]):
                os.kill(os.getpid(), 9)
            whole(path, pixels)
        writer.write_png = counting
        pose = look_at([1, 0, 1], [0, 0, 0])
        view = Camera(name="front", intrinsics=pinhole(40, 4, 4), extrinsics=pose, near=0.1, far=4)
        frame = FrameData(gripper_pose=[0, 0, 1, 0, 0, 0, 1], gripper_open=1, joint_velocities=[0.5] * 7,
                          gripper_joint_positions=[0, 0], cameras={"front": view},
                          rgb={"front": np.zeros((4, 4, 3), np.uint8)})
        write_episode(Path(sys.argv[1]), task="t", variation=0, episode=0, instructions=["go"], frames=[frame] * 3)
    """)
    for kill_at in (1, 3):
        done = subprocess.run([sys.executable, "-c", script, str(tmp_path), str(kill_at)], check=False)
        assert done.returncode == -signal.SIGKILL
        with pytest.raises(DataError, match="no folder episode<N>"):
            open_dataset(tmp_path)
    subprocess.run([sys.executable, "-c", script, str(tmp_path), "0"], check=True)
    assert [episode.id for episode in open_dataset(tmp_path, strict=True)] == ["t/0/episode0"]


def test_pickle_reads_the_small_files_without_any_module(write):
    folder = write(variation=7)
    assert pickle.loads((folder / "variation_number.pkl").read_bytes()) == 7
    assert [path.name for path in folder.parent.iterdir()] == ["episode0"]


LENSES = {  # height, width, focal length, principal point (u, v), the size as the camera knows it
    "off the middle": (6, 8, 7.4, (3.99, 3.09), None),
    "off the middle, negative": (6, 8, -7.4, (3.99, 3.09), None),
    "middle at (W-1)/2": (6, 8, -7.4, (3.5, 2.5), None),
    "middle at (W-1)/2, square": (8, 8, -7.4, (3.5, 3.5), None),
    "cropped": (6, 8, -7.4, (7.0, -1.0), None),
    "cropped at the corner, its size said": (8, 8, -7.4, (8.0, 8.0), (8, 8)),
    "RLBench": (8, 8, -7.4, (4.0, 4.0), None),
    "RLBench, its size said": (8, 8, -7.4, (4.0, 4.0), (8, 8)),
    "RLBench, of larger images": (8, 8, -14.8, (8.0, 8.0), None),
    "of larger images, said": (6, 8, -14.8, (7.9, 6.2), (12, 16)),
    "of smaller images, said": (6, 8, -3.7, (1.5, 1.5), (3, 4)),
}


@pytest.mark.parametrize("case", LENSES)
def test_points_of_an_episode_are_those_of_its_cameras(write, make_frames, tmp_path, case):
    height, width, focal, principal, size = LENSES[case]
    lens = np.array([[focal, 0, principal[0]], [0, focal, principal[1]], [0, 0, 1.0]])
    frames = make_frames(size=(height, width), cameras=("front",))
    view = dataclasses.replace(frames[0].cameras["front"], intrinsics=lens, size=size)
    frames = [dataclasses.replace(frame, cameras={"front": view}) for frame in frames]
    folder = write(frames=frames)
    true = lens.copy()
    if "larger images" in case or "smaller images" in case:
        made_for = size or (16, 16)
        true[0] *= width / made_for[1]
        true[1] *= height / made_for[0]
    (episode,) = open_dataset(tmp_path, strict=True)
    for index, frame in enumerate(frames):
        expected = depth_to_points(frame.depth["front"], true, view.extrinsics)
        assert np.abs(episode.frame(index).points("front") - expected).max() < 1e-5
        assert arrays_equal(episode.frame(index).intrinsics["front"], lens)
        assert episode.frame(index).camera("front").size == (height, width)
        assert np.allclose(episode.frame(index).camera("front").intrinsics, true, rtol=1e-14)
    said = b"front_camera_size" in (folder / "low_dim_obs.pkl").read_bytes()
    assert said == (
        case in ("cropped at the corner, its size said", *[name for name in LENSES if "images, said" in name])
    )


def arrays_equal(one, other):
    return one.shape == other.shape and bool((one == other).all())


def test_the_size_of_a_camera_is_given_in_all_frames_or_in_none(write, make_frames):
    frames = make_frames(cameras=("front",))
    view = dataclasses.replace(frames[0].cameras["front"], size=(4, 6))
    with pytest.raises(ConfigError, match="camera 'front': its size is given in some frames only; frame 3 is unlike"):
        write(frames=_with(frames, 3, cameras={"front": view}))


@pytest.mark.parametrize(("joints", "fingers"), [(6, 1), (1, 3), (8, 2)])
def test_arms_of_any_joints_and_fingers_are_written(write, make_frames, tmp_path, joints, fingers):
    draw = np.random.default_rng(0)
    frames = [
        dataclasses.replace(
            frame,
            joint_velocities=0.5 + draw.random(joints),
            joint_positions=draw.random(joints),
            gripper_joint_positions=draw.random(fingers),
            gripper_touch_forces=draw.random(3),
        )
        for frame in make_frames()
    ]
    write(frames=frames)
    (episode,) = open_dataset(tmp_path, strict=True)
    _check_equal(episode, frames)
    assert episode.keyframes == (5,)
    with pytest.raises(ConfigError, match=rf"frame 2: joint_velocities has shape \(9,\), in frame 0 \({joints},\)"):
        write(frames=_with(frames, 2, joint_velocities=np.ones(9)), episode=1)
    with pytest.raises(ConfigError, match="gripper_joint_positions must have at least one number"):
        write(frames=[dataclasses.replace(frame, gripper_joint_positions=[]) for frame in frames], episode=1)
