"""The reader on real demonstrations, against facts measured with the published loaders."""

import json

import numpy as np
import pytest

from mnprobe.core.errors import DataError
from mnprobe.core.files import sha256_file
from mnprobe.data import open_dataset


@pytest.fixture(scope="module")
def episodes(rlbench_data, demo_facts):
    dataset = open_dataset(rlbench_data / "rlbench")
    return list(zip(dataset, demo_facts["demos"], strict=True))


def test_all_ten_episodes_of_three_layouts_are_found(rlbench_data):
    dataset = open_dataset(rlbench_data)
    assert [episode.id for episode in dataset] == [
        "open_drawer/2/train-episode0",
        "open_drawer/1/train-episode1",
        "open_drawer/0/train-episode2",
        "open_drawer/0/train-episode3",
        "open_drawer/0/train-episode5",
        "open_drawer/0/train-episode6",
        "open_drawer/0/train-episode8",
        "open_drawer/2/train-episode9",
        "reach_target/0/episode0",
        "reach_target/0/episode1",
    ]
    assert dataset.tasks == ("open_drawer", "reach_target")
    assert dataset.partitions == ("train", "")
    assert {episode.success for episode in dataset} == {-1}
    assert dataset.fingerprint() == open_dataset([rlbench_data, rlbench_data / "rlbench"]).fingerprint()


def test_episodes_equal_the_golden_facts(episodes):
    for episode, facts in episodes:
        assert episode.folder.name == facts["episode_dir"]
        assert len(episode) == facts["num_frames"]
        assert episode.variation == facts["variation_number"]
        assert list(episode.instructions) == facts["descriptions"]
        assert episode.instruction == facts["descriptions"][0]
        assert list(episode.keyframes) == facts["keyframes"]
        assert list(episode.cameras) == facts["cameras_on_disk"]
        changes = np.flatnonzero(np.diff(episode.gripper_open)) + 1
        assert changes.tolist() == facts["gripper_open_change_frames"]
        assert episode.has_ignore_collisions
        assert (np.flatnonzero(np.diff(episode.ignore_collisions)) + 1).tolist() == facts[
            "ignore_collisions_change_frames"
        ]
        assert episode.ignore_collisions[0] == facts["ignore_collisions_frame0"]
        for name, checksum in facts["sha256"].items():
            assert sha256_file(episode.folder / name) == checksum
        kind, words, position, has_gauss, _ = episode.random_seed
        assert episode.task_low_dim_state.shape == (101,)
        seed = facts["random_seed"]
        assert (kind, len(words), position, has_gauss) == (
            seed["kind"],
            seed["state_len"],
            seed["pos"],
            seed["has_gauss"],
        )
        assert words[:3].tolist() == seed["state_first3"]
        for frame, key in facts["next_keyframe_after"].items():
            assert episode.next_keyframe(int(frame)) == key


@pytest.mark.parametrize("rule", ["keyframe", "previous"])
def test_steps_equal_the_golden_transitions(episodes, rule):
    column = {"keyframe": "ignore_collisions_arp_rule", "previous": "ignore_collisions_peract_rule"}[rule]
    for episode, facts in episodes:
        steps = episode.steps(collision=rule)
        for step, fact in zip(steps, facts["keyframe_to_keyframe_transitions"], strict=True):
            assert (step.observed, step.index) == (fact["obs_frame"], fact["target_keyframe"])
            assert step.gripper_pose.tolist() == fact["target_gripper_pose"]
            assert step.gripper_open == fact["target_gripper_open"]
            assert step.ignore_collisions == fact[column]


def test_frames_equal_the_golden_facts(episodes):
    for episode, facts in episodes:
        for fact in facts["frames"]:
            frame = episode.frame(fact["index"])
            assert frame.gripper_pose.tolist() == fact["gripper_pose_xyz_qxyzw"]
            assert frame.gripper_open == fact["gripper_open"]
            assert frame.gripper_joint_positions.tolist() == fact["gripper_joint_positions"]
            assert frame.joint_positions.tolist() == fact["joint_positions"]
            assert frame.joint_velocities.tolist() == fact["joint_velocities"]
            assert frame.ignore_collisions == fact["ignore_collisions"]
            arp18 = [frame.gripper_open, frame.ignore_collisions, *frame.gripper_joint_positions]
            assert [*arp18, *frame.joint_positions, *frame.gripper_pose] == fact["arp_low_dim_state_18"]
            assert frame.state().tolist() == pytest.approx([fact["gripper_open"], *fact["gripper_joint_positions"]])
            assert list(frame.rgb) == list(frame.depth) == list(fact["cameras"])
            assert list(frame.mask) == []


def test_images_depth_and_points_equal_the_golden_facts(episodes):
    for episode, facts in episodes:
        for fact in facts["frames"]:
            frame = episode.frame(fact["index"])
            for name, expected in fact["cameras"].items():
                camera = frame.camera(name)
                assert camera.intrinsics.tolist() == frame.intrinsics[name].tolist() == expected["intrinsics"]
                assert (
                    camera.extrinsics.tolist() == frame.extrinsics[name].tolist() == expected["extrinsics_cam_to_world"]
                )
                assert (camera.near, camera.far) == (expected["near"], expected["far"])
                rgb, depth, points = frame.rgb[name], frame.depth64(name), frame.points(name)
                assert (rgb.dtype, rgb.shape) == (np.uint8, (128, 128, 3))
                assert (points.dtype, points.shape) == (np.float32, (128, 128, 3))
                np.testing.assert_array_equal(frame.depth[name], depth.astype(np.float32), strict=True)
                assert depth.min() == pytest.approx(expected["depth_m_min"], abs=1e-9)
                assert depth.max() == pytest.approx(expected["depth_m_max"], abs=1e-9)
                assert depth.mean() == pytest.approx(expected["depth_m_mean"], abs=1e-9)
                np.testing.assert_allclose(rgb.reshape(-1, 3).mean(axis=0), expected["rgb_mean"], atol=1e-9)
                for pixel in expected["pixels"]:
                    place = pixel["row"], pixel["col"]
                    assert rgb[place].tolist() == pixel["rgb"]
                    assert abs(depth[place] - pixel["depth_m"]) < 1e-9
                    np.testing.assert_allclose(points[place], pixel["world_xyz"], atol=1e-5)


def test_trimmed_episodes_have_few_images_under_their_own_numbers(rlbench_data):
    for episode in open_dataset(rlbench_data / "rlbench-trimmed" / "keyframes"):
        listed = json.loads((episode.folder / "kfs.json").read_text())
        assert list(episode.keyframes) == listed
        assert episode.frames_on_disk("front") == (0, *listed[:-1])
        assert episode.frames_on_disk("front", "mask") == ()
        assert "front" in episode.frame(listed[0]).rgb
        assert "front" not in episode.frame(1).rgb
        with pytest.raises(DataError, match=r"front_rgb: no rgb image of frame 1; there are 3: 0, \d+, \d+"):
            episode.frame(1).rgb["front"]
    for episode in open_dataset(rlbench_data / "rlbench-trimmed" / "video"):
        assert episode.frames_on_disk("front") == tuple(range(len(episode)))
        assert episode.frames_on_disk("wrist") == (0, *episode.keyframes[:-1])


def test_strict_refuses_trimmed_data_and_passes_full_ones(rlbench_data):
    assert len(open_dataset(rlbench_data / "rlbench", strict=True)) == 3
    assert len(open_dataset(rlbench_data / "rlbench-native", strict=True)) == 2
    with pytest.raises(DataError, match=r"front_rgb: 3 images for 114 frames .* frame 1 is missing.*trimmed"):
        open_dataset(rlbench_data / "rlbench-trimmed", strict=True)


def test_rlbenchs_own_layout(rlbench_data):
    dataset = open_dataset(rlbench_data / "rlbench-native")
    assert [(episode.task, episode.variation, episode.partition) for episode in dataset] == [
        ("reach_target", 0, "")
    ] * 2
    for episode in dataset:
        assert not episode.has_ignore_collisions
        assert episode.ignore_collisions.tolist() == [0.0] * len(episode)
        assert episode.keyframes == (len(episode) - 1,)
        assert episode.frame(0).ignore_collisions == 0.0
        assert np.isfinite(episode.frame(0).points("front")).all()


def test_the_descriptions_that_hold_an_observation(rlbench_data):
    folder = rlbench_data / "rlbench-native"
    with pytest.raises(
        DataError,
        match=r"variation0/variation_descriptions\.pkl: holds an Observation .* instead of a list of str.*"
        r"CSV file with the columns task,variation,instruction",
    ):
        _ = open_dataset(folder)[0].instruction
    given = open_dataset(folder, instructions={"reach_target/0": ["reach the red target", "touch the red ball"]})
    assert given[1].instructions == ("reach the red target", "touch the red ball")
    assert given.fingerprint() != open_dataset(folder).fingerprint()
