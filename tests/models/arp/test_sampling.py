"""Inverse-distance reading of maps."""

import math

import numpy as np
import pytest
import torch

from mnprobe.models.arp.sampling import corners, sample_map


@pytest.fixture(scope="module")
def geometry(golden):
    with np.load(golden / "arp-tiny" / "geometry.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files if name.startswith("sample")}


def slow_sample(image, x: float, y: float):
    """One map (C, h, w) at one position, corner by corner in float64."""
    height, width = image.shape[1:]
    if not (0 <= x <= width - 1 and 0 <= y <= height - 1):
        return torch.zeros(image.shape[0], dtype=torch.float64)
    total, weights = torch.zeros(image.shape[0], dtype=torch.float64), 0.0
    for column in (math.floor(x), math.ceil(x)):
        for row in (math.floor(y), math.ceil(y)):
            weight = 1 / (math.hypot(column - x, row - y) + 1e-10)
            total += weight * image[:, row, column].double()
            weights += weight
    return total / weights


def test_values_corners_and_weights_equal_the_measured_ones(geometry):
    maps, xy = geometry["sample.map"], geometry["sample.xy"]
    index, weight = corners(xy, 9, 9)
    assert torch.equal(index.flatten(1), geometry["sample.index"])
    torch.testing.assert_close(weight, geometry["sample.weight"], rtol=0, atol=1e-6)
    torch.testing.assert_close(sample_map(maps, xy), geometry["sample.value"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 7), (7, 4)])
def test_values_equal_the_slow_loop(height, width):
    generator = torch.Generator().manual_seed(height)
    maps = torch.rand(2, 3, height, width, generator=generator)
    xy = torch.rand(2, 50, 2, generator=generator) * torch.tensor([width + 1.0, height + 1.0]) - 1
    xy[:, ::5] = xy[:, ::5].round()
    expected = [
        [slow_sample(image, *place.tolist()) for place in places] for image, places in zip(maps, xy, strict=True)
    ]
    found = sample_map(maps, xy)
    torch.testing.assert_close(found.double(), torch.stack([torch.stack(e) for e in expected]), rtol=1e-5, atol=1e-6)


def test_a_whole_position_reads_its_pixel_and_an_edge_reads_its_two():
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 10.0]]]])
    places = torch.tensor([[[1.0, 1.0], [0.0, 0.0], [0.25, 0.0], [0.5, 0.5]]])
    expected = torch.tensor([10.0, 1.0, 1.25, 4.0])
    torch.testing.assert_close(sample_map(maps, places)[0, :, 0], expected)


def test_nothing_is_read_outside():
    far = [-0.001, 3.001, -1e30, 1e30, torch.inf, -torch.inf, torch.nan]
    places = torch.tensor([[(value, 1.0) for value in far] + [(1.0, value) for value in far]])
    assert not sample_map(torch.ones(1, 2, 4, 4), places).any()


def test_one_row_of_positions_serves_all_maps():
    maps = torch.rand(3, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    xy = torch.rand(1, 4, 2, generator=torch.Generator().manual_seed(1)) * 4
    assert torch.equal(sample_map(maps, xy), sample_map(maps, xy.expand(3, -1, -1)))


def test_the_gradient_flows_into_the_map_and_is_its_weights():
    maps = torch.rand(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    xy = torch.tensor([[[0.3, 1.6], [2.0, 1.0], [5.0, 0.0]]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m: sample_map(m, xy.detach()), maps)
    sample_map(maps, xy)[0, 1].sum().backward()
    expected = torch.zeros(3, 3, dtype=torch.float64)
    expected[1, 2] = 1
    torch.testing.assert_close(maps.grad[0, 0], expected)
    assert xy.grad is None
