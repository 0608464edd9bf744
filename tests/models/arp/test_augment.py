"""The shift and turn of the scene, and the noises of training."""

import json

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from mnprobe.core.errors import ConfigError
from mnprobe.models.arp.augment import (
    SHIFT_PROBABILITIES,
    SHIFT_VALUES,
    draw_colour_noise,
    draw_rotation_shift,
    draw_se3,
    draw_zoom_noise,
    noisy_zoom_centre,
    se3_augment,
    shift_bins,
)
from mnprobe.models.arp.pointcloud import SCENE_BOUNDS

WIDE = (-9.0, -9.0, -9.0, 9.0, 9.0, 9.0)


@pytest.fixture(scope="module")
def arrays(golden):
    with np.load(golden / "arp-tiny" / "preprocess.npz") as file:
        return {name[4:]: torch.from_numpy(file[name]) for name in file.files if name.startswith("aug.")}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def scene(batch=2, count=20):
    points = torch.rand(batch, count, 3, generator=generator(1)) + torch.tensor([-0.3, -0.5, 0.6])
    pose = torch.cat([points[:, 0], torch.randn(batch, 4, generator=generator(2))], dim=1)
    return points, pose


def still(batch=2):
    return {"trans": torch.zeros(batch, 3)} | {name: torch.zeros(batch, 1) for name in ("roll", "pitch", "yaw")}


def test_points_and_poses_equal_the_measured_ones(arrays, golden):
    settings = json.loads((golden / "arp-tiny" / "preprocess.json").read_text())
    draws = {name: arrays[f"draw_{name}"] for name in ("trans", "roll", "pitch", "yaw")}
    ranges = {"trans_range": settings["aug_trans_range"], "rotation_range": settings["aug_rpy_deg"]}
    for given in (ranges, {}):  # the defaults are the measured settings
        points, pose = se3_augment(arrays["points_in"], arrays["pose_in"], **draws, bounds=SCENE_BOUNDS, **given)
        torch.testing.assert_close(points, arrays["points_out"], rtol=0, atol=1e-6)
        torch.testing.assert_close(pose[:, :3], arrays["trans_out"], rtol=0, atol=1e-6)
        torch.testing.assert_close(pose[:, 3:], arrays["quat_out_normalised"], rtol=0, atol=1e-6)


def test_draws_of_zero_change_nothing():
    points, pose = scene()
    moved, after = se3_augment(points, pose, **still(), bounds=SCENE_BOUNDS)
    torch.testing.assert_close(moved, points)
    torch.testing.assert_close(after[:, :3], pose[:, :3])
    turn = Rotation.from_quat(after[:, 3:]) * Rotation.from_quat(pose[:, 3:]).inv()
    assert turn.magnitude().max() < 1e-6


def test_scene_and_target_move_as_one():
    points, pose = scene(batch=3)
    draws = draw_se3(3, generator())
    moved, after = se3_augment(points, pose, **draws._asdict(), bounds=WIDE, rotation_range=(20.0, 30.0, 45.0))
    for i in range(3):
        # What the gripper sees of the scene in its own frame stays the same.
        seen = Rotation.from_quat(pose[i, 3:]).inv().apply((points[i] - pose[i, :3]).numpy())
        now = Rotation.from_quat(after[i, 3:]).inv().apply((moved[i] - after[i, :3]).numpy())
        np.testing.assert_allclose(now, seen, atol=1e-5)
    wide = points.double(), moved.double()
    torch.testing.assert_close(torch.cdist(wide[1], wide[1]), torch.cdist(wide[0], wide[0]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "axis"), [("roll", 0), ("pitch", 1), ("yaw", 2)])
def test_each_turn_is_about_its_axis_and_backwards(name, axis):
    points, pose = scene(batch=1)
    draws = still(1) | {name: torch.ones(1, 1)}
    moved, _ = se3_augment(points, pose, **draws, bounds=WIDE, rotation_range=(10.0, 20.0, 45.0))
    vector = np.zeros(3)
    vector[axis] = -np.radians([10.0, 20.0, 45.0][axis])
    expected = Rotation.from_rotvec(vector).apply((points[0] - pose[0, :3]).numpy()) + pose[0, :3].numpy()
    np.testing.assert_allclose(moved[0], expected, atol=1e-6)


def test_the_turns_are_combined_in_the_order_of_the_formula():
    points, pose = scene(batch=1)
    draws = still(1) | {name: torch.ones(1, 1) for name in ("roll", "pitch", "yaw")}
    moved, _ = se3_augment(points, pose, **draws, bounds=WIDE, rotation_range=(30.0, 40.0, 50.0))
    matrix = np.eye(3)
    for axis, degrees in zip("xyz", (30, 40, 50), strict=True):
        matrix = matrix @ Rotation.from_euler(axis, degrees, degrees=True).as_matrix()
    expected = (points[0] - pose[0, :3]).numpy() @ matrix + pose[0, :3].numpy()  # rows: R^T p
    np.testing.assert_allclose(moved[0], expected, atol=1e-6)


def test_the_shift_is_a_share_of_each_side_and_stops_at_the_bounds():
    points, pose = scene()
    bounds = (0.0, 0.0, 0.0, 2.0, 4.0, 8.0)
    pose[:, :3] = torch.tensor([[1.0, 2.0, 4.0], [1.9, 0.1, 4.0]])
    draws = still() | {"trans": torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, -0.5]])}
    moved, after = se3_augment(points, pose, **draws, bounds=bounds, trans_range=(0.25, 0.125, 0.5))
    torch.testing.assert_close(after[:, :3], torch.tensor([[1.5, 2.5, 8.0], [2.0, 0.0, 2.0]]))
    shift = (after - pose)[:, None, :3].expand_as(points)
    torch.testing.assert_close(moved - points, shift, rtol=0, atol=1e-6)


def test_a_target_in_gimbal_lock_is_made_definite_first():
    points, pose = scene(batch=1)
    pose[0, 3:] = torch.from_numpy(Rotation.from_euler("xyz", [10, 89.7, 40], degrees=True).as_quat())
    _, after = se3_augment(points, pose, **still(1), bounds=WIDE)
    expected = Rotation.from_euler("xyz", [-30, 90, 0], degrees=True)
    assert (Rotation.from_quat(after[0, 3:]) * expected.inv()).magnitude() < 1e-6


def test_missing_points_stay_missing():
    points, pose = scene()
    points[0, 3, 1] = torch.nan
    moved, _ = se3_augment(points, pose, **draw_se3(2, generator())._asdict(), bounds=SCENE_BOUNDS)
    assert moved.isnan().any(dim=2).nonzero().tolist() == [[0, 3]]


def test_draws_come_from_the_generator_in_their_order():
    draws = draw_se3(4, generator(3))
    again = generator(3)
    for part, width in zip(draws, (3, 1, 1, 1), strict=True):
        assert torch.equal(part, 2 * torch.rand(4, width, generator=again) - 1)
    many = draw_se3(5000, generator()).trans
    assert many.abs().max() <= 1
    assert abs(many.mean()) < 0.05
    assert abs(many.var() - 1 / 3) < 0.02


def test_colour_noise_has_one_amplitude_per_sample():
    noise = draw_colour_noise((300, 200, 3), generator())
    height = noise.abs().amax(dim=(1, 2))
    assert height.max() <= 0.05
    assert height.min() < 0.01
    assert abs(height.mean() - 0.025) < 0.003
    assert abs(noise.mean()) < 1e-3
    louder = draw_colour_noise((300, 200, 3), generator(), amount=0.5)
    torch.testing.assert_close(louder, noise * 10)


def test_the_zoom_centre_moves_by_twice_the_setting():
    noise = draw_zoom_noise(2000, generator())
    assert noise.abs().max() <= 1
    assert abs(noise.var() - 1 / 3) < 0.02
    waypoint = torch.rand(2000, 3, generator=generator(1))
    torch.testing.assert_close(noisy_zoom_centre(waypoint, noise), waypoint + 0.1 * noise)
    torch.testing.assert_close(noisy_zoom_centre(waypoint, noise, 0.5), waypoint + noise)


@pytest.mark.parametrize(
    ("values", "expected"),
    [(SHIFT_VALUES, {-2: 0.2, -1: 0.4, 0: 0.4}), ((-2, -1, 0, 1, 2), {-2: 0.1, -1: 0.2, 0: 0.4, 1: 0.2, 2: 0.1})],
)
def test_rotation_shifts_have_the_configured_probabilities(values, expected):
    shifts = draw_rotation_shift(20_000, generator(), values, SHIFT_PROBABILITIES)
    found = {int(v): float((shifts == v).float().mean()) for v in shifts.unique()}
    assert found == pytest.approx(expected, abs=0.01)


def test_shifted_bins_stay_on_the_circle():
    bins, shift = torch.tensor([[0, 71, 5]]), torch.tensor([[-2, 2, 1]])
    assert shift_bins(bins, shift).tolist() == [[70, 1, 6]]
    assert shift_bins(bins % 36, shift, 36).tolist() == [[34, 1, 6]]


def test_impossible_settings_are_refused():
    points, pose = scene()
    with pytest.raises(ConfigError, match="ranges need three numbers each"):
        se3_augment(points, pose, **still(), bounds=SCENE_BOUNDS, trans_range=(0.1, 0.1))
    with pytest.raises(ConfigError, match="one probability per shift is needed"):
        draw_rotation_shift(1, generator(), (0, 1), (1.0,))
    with pytest.raises(ConfigError, match=r"add up to 1, got \(0\.5, 0\.4\)"):
        draw_rotation_shift(1, generator(), (0, 1), (0.5, 0.4))
