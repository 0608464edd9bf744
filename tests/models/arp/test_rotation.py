"""Bins of Euler angles, and gimbal lock."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from mnprobe.core.errors import ConfigError
from mnprobe.models.arp.rotation import bins_to_quat, fix_gimbal, fix_gimbal_quat, positive_quat, quat_to_bins


@pytest.fixture(scope="module")
def geometry(golden):
    with np.load(golden / "arp-tiny" / "geometry.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files if name.startswith(("res", "euler"))}


def same_rotation(first, second, atol=1e-9):
    return (first * second).sum(-1).abs() >= 1 - atol


def quat_of(*degrees):
    return torch.from_numpy(Rotation.from_euler("xyz", degrees, degrees=True).as_quat())


@pytest.mark.parametrize("resolution", [5, 10])
def test_bins_equal_the_measured_ones(geometry, resolution):
    quat = geometry[f"res{resolution}.quat_xyzw_64"]
    bins = quat_to_bins(quat, resolution)
    assert torch.equal(bins, geometry[f"res{resolution}.bins"])
    back = bins_to_quat(bins, resolution, torch.float64)
    torch.testing.assert_close(back, geometry[f"res{resolution}.quat_back_64"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("resolution", [5, 15])
def test_bins_lead_to_a_rotation_and_back(resolution):
    count = 360 // resolution
    span = range(0, count, 7 if resolution == 5 else 3)
    quarter = count // 4  # the middle angle of SciPy lies within +-90 degrees
    bins = torch.tensor([(x, y, z) for x in span for y in range(quarter + 1, 3 * quarter, 4) for z in span])
    assert torch.equal(quat_to_bins(bins_to_quat(bins, resolution, torch.float64), resolution), bins)


@pytest.mark.parametrize(
    ("degrees", "bin"), [(-180, 0), (180, 0), (178, 0), (177, 71), (0.1, 36), (2.6, 37), (-2.6, 35)]
)
def test_the_circle_closes(degrees, bin):
    assert quat_to_bins(quat_of(0, 0, degrees))[2] == bin


def test_a_half_goes_to_the_even_bin():
    # Angles of exactly half a bin: (7.5 + 180) / 5 = 37.5 goes to 38, (2.5 + 180) / 5 = 36.5 to 36.
    found = {d: int(quat_to_bins(quat_of(0, 0, d))[2]) for d in (7.5, 2.5)}
    angles = {d: Rotation.from_quat(quat_of(0, 0, d)).as_euler("xyz", degrees=True)[2] for d in found}
    assert found == {d: int(np.around((angle + 180) / 5)) for d, angle in angles.items()}


def test_the_sign_of_a_quaternion_does_not_matter():
    quat = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(quat_to_bins(quat), quat_to_bins(-quat))


def test_shapes_and_types_are_kept():
    bins = quat_to_bins(torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)))
    assert bins.shape == (2, 3, 3)
    assert bins.dtype == torch.int64
    assert bins_to_quat(bins).shape == (2, 3, 4)
    assert bins_to_quat(bins).dtype == torch.float32
    assert quat_to_bins(torch.zeros(0, 4)).shape == (0, 3)


def test_gimbal_lock_gives_definite_bins_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bins = quat_to_bins(quat_of(10, 90, 40))
    assert bins.tolist() == [30, 54, 36]  # -30, 90, 0 degrees


def test_angles_near_gimbal_lock_equal_the_measured_ones(geometry):
    found = fix_gimbal(geometry["euler_fix.in_deg_64"])
    torch.testing.assert_close(found, geometry["euler_fix.out_deg_64"], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("middle", "fixed"), [(89.01, True), (-89.01, True), (88.99, False), (-88.99, False)])
def test_the_clean_up_reaches_one_degree(middle, fixed):
    before = torch.tensor([20.0, middle, 50.0], dtype=torch.float64)
    after = fix_gimbal(before)
    assert torch.equal(before, after) != fixed
    assert (abs(abs(after[1]) - 90) < 1e-9) == fixed
    quat = quat_of(*before.tolist())
    cleaned = fix_gimbal_quat(quat)
    assert torch.equal(quat, cleaned) != fixed
    assert bool(same_rotation(cleaned, quat_of(*after.tolist())))
    assert math.degrees(2 * math.acos(min(1, float((quat * cleaned).sum().abs())))) < 1


def test_only_the_locked_rows_change():
    quat = torch.stack([quat_of(1, 2, 3), quat_of(5, 89.8, 6), quat_of(-50, 60, 70)]).float()
    cleaned = fix_gimbal_quat(quat)
    assert torch.equal(cleaned[[0, 2]], quat[[0, 2]])
    assert not torch.equal(cleaned[1], quat[1])


def test_positive_quaternions_have_length_one_and_the_same_rotation():
    quat = torch.randn(40, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = positive_quat(quat)
    assert (found[:, 3] >= 0).all()
    torch.testing.assert_close(found.norm(dim=1), torch.ones(40, dtype=torch.float64))
    assert same_rotation(found, quat / quat.norm(dim=1, keepdim=True)).all()


def test_impossible_input_is_refused():
    with pytest.raises(ConfigError, match="a whole number of degrees that divides 360, got 7"):
        quat_to_bins(torch.ones(1, 4), 7)
    with pytest.raises(ConfigError, match=r"quaternion 1 is \[0.0, 0.0, 0.0, 0.0\]: no rotation"):
        quat_to_bins(torch.tensor([[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]]))
    with pytest.raises(ConfigError, match="no rotation"):
        fix_gimbal_quat(torch.tensor([[torch.nan, 0.0, 0.0, 1.0]]))
    with pytest.raises(ConfigError, match=r"bins must lie in 0 \.\. 71, got 0 \.\. 72"):
        bins_to_quat(torch.tensor([0, 72, 3]))
