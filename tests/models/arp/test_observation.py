import dataclasses

import numpy as np
import pytest
import torch

from mnprobe.core.errors import ConfigError
from mnprobe.models.arp import (
    ARP,
    CAMERAS,
    ARPConfig,
    Batch,
    FrameArrays,
    Observation,
    SE3Draws,
    Target,
    TrainNoise,
    blank_instruction,
    observation_from_frames,
)


def _frame(rng, size=(4, 5), cameras=CAMERAS):
    low = np.array([-0.2, -0.4, 0.7])
    return FrameArrays(
        rgb={camera: rng.integers(0, 256, (*size, 3), dtype=np.uint8) for camera in cameras},
        points={camera: (low + 0.6 * rng.random((*size, 3))).astype(np.float32) for camera in cameras},
        state=rng.random(3).astype(np.float32),
    )


@pytest.fixture
def frames():
    rng = np.random.default_rng(0)
    return [_frame(rng, cameras=(*reversed(CAMERAS), "overhead")) for _ in range(2)]


def test_frames_become_an_observation_in_the_model_s_camera_order(frames):
    observation = observation_from_frames(frames, torch.ones(2, 7, 24))
    assert tuple(observation.rgb) == tuple(observation.point_cloud) == CAMERAS
    assert len(observation) == 2
    for i, frame in enumerate(frames):
        for camera in CAMERAS:
            assert np.array_equal(observation.rgb[camera][i].permute(1, 2, 0), frame.rgb[camera])
            assert np.array_equal(observation.point_cloud[camera][i].permute(1, 2, 0), frame.points[camera])
        assert np.array_equal(observation.state[i], frame.state)
    assert observation.to("cpu").device == torch.device("cpu")
    thin = observation_from_frames(frames, torch.ones(2, 7, 24), stride=2)
    for camera in CAMERAS:
        assert torch.equal(thin.rgb[camera], observation.rgb[camera][:, :, ::2, ::2])
        assert torch.equal(thin.point_cloud[camera], observation.point_cloud[camera][:, :, ::2, ::2])


def test_frames_that_do_not_fit_are_refused(frames):
    language = torch.ones(2, 7, 24)
    with pytest.raises(ConfigError, match="no frames"):
        observation_from_frames([], language[:0])
    with pytest.raises(ConfigError, match="frame 0 has no colours of camera 'side'"):
        observation_from_frames(frames, language, cameras=("side",))
    odd = _frame(np.random.default_rng(1), size=(3, 3))
    with pytest.raises(ConfigError, match="points of 'front' must have one size"):
        observation_from_frames([frames[0], odd], language)
    with pytest.raises(ConfigError, match=r"one batch size, got \[2, 3\]"):
        observation_from_frames(frames, torch.ones(3, 7, 24))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rgb": {"front": torch.zeros(1, 3, 2, 2)}}, "must be uint8 .* got torch.float32"),
        ({"rgb": {"front": torch.zeros(1, 2, 2, 3, dtype=torch.uint8)}}, r"must be \(B, 3, H, W\), got \(1, 2, 2, 3\)"),
        ({"point_cloud": {"wrist": torch.zeros(1, 3, 2, 2)}}, r"\['wrist'\] and colours of \['front'\]"),
        ({"state": torch.zeros(3)}, r"state \(B, P\), got .* and \(3,\)"),
        ({"state": torch.zeros(2, 3)}, r"one batch size, got \[1, 2\]"),
    ],
)
def test_observations_are_checked_when_made(change, message):
    parts = {
        "point_cloud": {"front": torch.zeros(1, 3, 2, 2)},
        "rgb": {"front": torch.zeros(1, 3, 2, 2, dtype=torch.uint8)},
        "language": torch.zeros(1, 7, 24),
        "state": torch.zeros(1, 3),
    }
    Observation(**parts)
    with pytest.raises(ConfigError, match=message):
        Observation(**parts | change)


def test_targets_batches_and_noise_are_checked(frames):
    target = Target(pose=torch.ones(2, 7), gripper_open=torch.ones(2), ignore_collisions=torch.zeros(2).long())
    assert len(target.to("cpu")) == 2
    with pytest.raises(ConfigError, match=r"pose must be \(B, 7\), got \(2, 6\)"):
        dataclasses.replace(target, pose=torch.ones(2, 6))
    with pytest.raises(ConfigError, match=r"gripper_open must be \(2,\), got \(3,\)"):
        dataclasses.replace(target, gripper_open=torch.ones(3))
    with pytest.raises(ConfigError, match="ignore_collisions must hold 0 and 1 only, got"):
        dataclasses.replace(target, ignore_collisions=torch.full((2,), 0.5))
    observation = observation_from_frames(frames, torch.ones(2, 7, 24))
    assert len(Batch(observation=observation, target=target).to("cpu")) == 2
    with pytest.raises(ConfigError, match="2 observations but 1 targets"):
        Batch(observation=observation, target=dataclasses.replace(target, **_first(target)))
    with pytest.raises(ConfigError, match=r"one batch size, got \[1, 2\]"):
        TrainNoise(
            waypoint_noise_unit=torch.zeros(1, 3),
            se3=SE3Draws(torch.zeros(2, 3), torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2, 1)),
        )


def _first(target):
    return {field.name: getattr(target, field.name)[:1] for field in dataclasses.fields(target)}


def test_joining_keeps_order_and_refuses_other_sizes(frames):
    one, two = (observation_from_frames([frame], torch.full((1, 7, 24), float(i))) for i, frame in enumerate(frames))
    joined = Observation.join([two, one])
    assert torch.equal(joined.language[:, 0, 0], torch.tensor([1.0, 0.0]))
    assert torch.equal(joined.rgb["wrist"][:1], two.rgb["wrist"])
    with pytest.raises(ConfigError, match="no observations"):
        Observation.join([])
    other = observation_from_frames([_frame(np.random.default_rng(2), size=(3, 3))], torch.zeros(1, 7, 24))
    with pytest.raises(ConfigError, match="observation 1 has"):
        Observation.join([one, other])


def test_observations_that_differ_in_the_instruction_alone_become_equal(frames):
    config = ARPConfig.tiny()
    generator = torch.Generator().manual_seed(0)
    empty = torch.randn(16, 64, generator=generator)
    words = torch.randn(2, 2, 16, 64, generator=generator)
    first, second = (blank_instruction(observation_from_frames(frames, language), empty) for language in words)
    assert torch.equal(first.language, second.language)
    assert torch.equal(first.language, empty.expand(2, -1, -1))
    policy = ARP(config)
    policy.init_weights(generator)
    assert torch.equal(policy.act(first).hidden["e"], policy.act(second).hidden["e"])
    told = [policy.act(observation_from_frames(frames, language)).hidden["e"] for language in words]
    assert not torch.equal(*told)
    with pytest.raises(ConfigError, match=r"must be \(16, 64\) like those of the observation, got \(15, 64\)"):
        blank_instruction(first, empty[1:])
