"""Steps of a training: what the extractor's reading of each frame gives, and the next key pose."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mnprobe.core.errors import ConfigError
from mnprobe.data import open_dataset
from mnprobe.features.inputs import ARPInputs, arrays_of_frame, language_encoder_for
from mnprobe.models.arp import ARPConfig
from mnprobe.training.dataset import codes_to_points, prepare_inputs

SMALL = ARPConfig(image_size=56, language_length=16, language_width=64)


def _silent(texts):
    return torch.zeros(len(texts), 2, 3)


def _steps(dataset):
    """Slowly, one by one: row of the episode, episode, step."""
    for row, episode in enumerate(dataset):
        for step in episode.steps():
            yield row, episode, step


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_every_step_equals_the_extractors_reading(micro_dataset, tmp_path, stride):
    inputs = prepare_inputs(micro_dataset, viclip=None, arp=SMALL, cache=tmp_path, point_stride=stride, quiet=True)
    steps = list(_steps(micro_dataset))
    assert inputs.transition_episode.tolist() == [row for row, _, _ in steps]
    batch = inputs.policy_batch(np.arange(len(steps)), _silent)
    for number, (_, episode, step) in enumerate(steps):
        frame = arrays_of_frame(episode.frame(step.observed), SMALL.cameras)
        for camera in SMALL.cameras:
            points = frame.points[camera][::stride, ::stride].transpose(2, 0, 1)
            found = batch.observation.point_cloud[camera][number]
            assert found.dtype == torch.float32
            np.testing.assert_allclose(found.numpy(), points, rtol=0, atol=1e-9)  # asked for is a micrometre
            colours = frame.rgb[camera][::stride, ::stride].transpose(2, 0, 1)
            np.testing.assert_array_equal(batch.observation.rgb[camera][number].numpy(), colours)
        np.testing.assert_array_equal(batch.observation.state[number].numpy(), frame.state)
        np.testing.assert_array_equal(batch.target.pose[number].numpy(), step.gripper_pose.astype(np.float32))
        assert batch.target.gripper_open[number] == step.gripper_open
        assert batch.target.ignore_collisions[number] == step.ignore_collisions


def test_real_demonstrations_give_the_same_points(rlbench_data, tmp_path):
    dataset = open_dataset(rlbench_data / "rlbench-trimmed")[:2]
    inputs = prepare_inputs(dataset, viclip=None, arp=SMALL, cache=tmp_path, quiet=True)
    steps = list(_steps(dataset))
    batch = inputs.policy_batch(np.arange(len(steps)), _silent)
    for number, (_, episode, step) in enumerate(steps):
        frame = arrays_of_frame(episode.frame(step.observed), SMALL.cameras)
        for camera, points in frame.points.items():
            found = batch.observation.point_cloud[camera][number].numpy()
            np.testing.assert_allclose(found, points.transpose(2, 0, 1), rtol=0, atol=1e-6)


def test_rows_come_in_any_order_and_again(micro_dataset, tmp_path):
    inputs = prepare_inputs(micro_dataset, viclip=None, arp=SMALL, cache=tmp_path, quiet=True)
    everything = inputs.policy_batch(np.arange(len(inputs.transition_episode)), _silent)
    rows = np.array([9, 2, 2, 27, 0])
    some = inputs.policy_batch(rows, _silent)
    for camera in SMALL.cameras:
        assert torch.equal(some.observation.point_cloud[camera], everything.observation.point_cloud[camera][rows])
        assert torch.equal(some.observation.rgb[camera], everything.observation.rgb[camera][rows])
    assert torch.equal(some.target.pose, everything.target.pose[rows])


@pytest.mark.parametrize("stride", [1, 2])
def test_the_policy_is_given_what_it_is_given_elsewhere(micro_dataset, tmp_path, stride):
    """The whole observation, language and density included, as `ARPInputs` makes it for extraction and rollouts."""
    config = replace(SMALL, point_stride=stride)
    language = language_encoder_for(config, weights=None)
    inputs = prepare_inputs(micro_dataset, viclip=None, arp=config, cache=tmp_path, quiet=True)
    steps = list(_steps(micro_dataset))[5:9]
    found = inputs.policy_batch(np.arange(5, 9), language).observation
    expected = ARPInputs(config, language, device="cpu").observation(
        [arrays_of_frame(episode.frame(step.observed), config.cameras) for _, episode, step in steps],
        [episode.instruction for _, episode, _ in steps],
    )
    torch.testing.assert_close(found.language, expected.language, rtol=0, atol=1e-5)
    assert torch.equal(found.state, expected.state)
    assert list(found.rgb) == list(expected.rgb)  # the order of the cameras is part of the model
    for camera in config.cameras:
        assert torch.equal(found.rgb[camera], expected.rgb[camera])
        torch.testing.assert_close(found.point_cloud[camera], expected.point_cloud[camera], rtol=0, atol=1e-9)
        assert found.point_cloud[camera].is_contiguous()


def test_each_instruction_is_spoken_once_and_reaches_its_episodes(micro_dataset, tmp_path):
    asked = []

    def language(texts):
        asked.extend(texts)
        return torch.stack([torch.full((2, 3), float(sum(map(ord, text)))) for text in texts])

    inputs = prepare_inputs(micro_dataset, viclip=None, arp=SMALL, cache=tmp_path, quiet=True)
    for rows in (np.arange(20), np.array([27, 3])):
        told = inputs.policy_batch(rows, language).observation.language
        texts = inputs.instructions[inputs.transition_episode[rows]]
        assert told[:, 1, 2].tolist() == [sum(map(ord, text)) for text in texts]
    assert sorted(asked) == sorted(set(inputs.instructions.tolist()))
    other = inputs.policy_batch([0], _silent).observation.language  # another language is not confused with it
    assert other.abs().sum() == 0


def test_only_the_policys_cameras_are_read(micro_dataset, tmp_path):
    two = replace(SMALL, cameras=("wrist", "front"))
    inputs = prepare_inputs(micro_dataset, viclip=None, arp=two, cache=tmp_path, quiet=True)
    batch = inputs.policy_batch([4], _silent)
    assert list(batch.observation.rgb) == ["wrist", "front"]
    whole = prepare_inputs(micro_dataset, viclip=None, arp=SMALL, cache=tmp_path, quiet=True).policy_batch([4], _silent)
    for camera in two.cameras:
        assert torch.equal(batch.observation.point_cloud[camera], whole.observation.point_cloud[camera])


def test_more_images_than_are_computed_at_once():
    """Chunks of a batch join without a seam."""
    generator = np.random.default_rng(0)
    codes = torch.from_numpy(generator.integers(0, 2**24, (5, 200, 150)).astype(np.int32))
    intrinsics = torch.tensor([[-100.0, 0, 75], [0, -90, 100], [0, 0, 1]], dtype=torch.float64).repeat(5, 1, 1)
    extrinsics = torch.from_numpy(generator.normal(size=(5, 4, 4)))
    near_far = torch.tensor([[0.1, 3.0]], dtype=torch.float64).repeat(5, 1)
    whole = codes_to_points(codes, intrinsics, extrinsics, near_far)
    for i in range(5):
        k = slice(i, i + 1)
        one = codes_to_points(codes[k], intrinsics[k], extrinsics[k], near_far[k])
        assert torch.equal(whole[k], one)
    depth = 0.1 + codes[3, 7, 11].item() / (2**24 - 1) * 2.9
    local = depth * np.array([(11 - 75) / -100, (7 - 100) / -90, 1.0])
    expected = extrinsics[3, :3, :3].numpy() @ local + extrinsics[3, :3, 3].numpy()
    np.testing.assert_allclose(whole[3, :, 7, 11].numpy(), expected, rtol=1e-6)


def test_a_policy_that_was_not_prepared_for_is_refused(micro_dataset, tmp_path):
    inputs = prepare_inputs(micro_dataset, viclip=None, arp=None, cache=tmp_path, quiet=True)
    assert len(inputs.transition_episode) == len(list(_steps(micro_dataset)))  # listed all the same
    with pytest.raises(ConfigError, match="no steps were prepared"):
        inputs.policy_batch([0], _silent)
