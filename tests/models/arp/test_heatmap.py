"""Label heatmaps."""

import math

import numpy as np
import pytest
import torch

from mnprobe.core.errors import ConfigError
from mnprobe.models.arp.heatmap import SIGMA, label_heatmap


@pytest.fixture(scope="module")
def geometry(golden):
    with np.load(golden / "arp-tiny" / "geometry.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files if name.startswith("heatmap")}


@pytest.mark.parametrize("sigma", [1.5, 2.0])
def test_maps_equal_the_measured_ones(geometry, sigma):
    found = label_heatmap(geometry["heatmap.screen_xy"], 48, sigma)
    torch.testing.assert_close(found, geometry[f"heatmap.sigma{sigma}"], rtol=0, atol=1e-6)


def test_the_default_is_one_and_a_half_pixels(geometry):
    xy = geometry["heatmap.screen_xy"]
    assert SIGMA == 1.5
    assert torch.equal(label_heatmap(xy, 48), label_heatmap(xy, 48, 1.5))


@pytest.mark.parametrize("place", [(3.3, 7.9), (0.0, 0.0), (-2.0, 4.0), (9.5, 10.9)])
def test_maps_equal_a_loop_over_pixels(place):
    size, sigma = 10, 1.3
    expected = torch.zeros(size, size, dtype=torch.float64)
    for row in range(size):
        for column in range(size):
            height = math.exp(-((column - place[0]) ** 2 + (row - place[1]) ** 2) / (2 * sigma**2))
            expected[row, column] = height if height >= math.exp(-4.5) else 0
    expected /= expected.sum() + 1e-6
    torch.testing.assert_close(label_heatmap(torch.tensor([place]), size, sigma)[0], expected.float())


def test_a_target_far_outside_gives_no_label():
    assert not label_heatmap(torch.tensor([[-4.6, 5.0], [5.0, 300.0]]), 16, 1.5).any()


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match=r"sigma must be a positive number of pixels, got 0\.0"):
        label_heatmap(torch.zeros(1, 2), 4, 0.0)
    with pytest.raises(ConfigError, match="size must be at least 1 pixel, got 0"):
        label_heatmap(torch.zeros(1, 2), 0)
