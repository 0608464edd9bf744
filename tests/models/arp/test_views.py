"""Projection of points into the views."""

import numpy as np
import pytest
import torch

from mnprobe.core.errors import ConfigError
from mnprobe.models.arp.renderer import render_views
from mnprobe.models.arp.views import VIEWS, View, project


@pytest.fixture(scope="module")
def geometry(golden):
    with np.load(golden / "arp-tiny" / "geometry.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files if name.startswith("project")}


@pytest.mark.parametrize(("size", "name"), [(48, "project.screen_xy"), (224, "project224.screen_xy")])
def test_positions_equal_the_measured_ones(geometry, size, name):
    torch.testing.assert_close(project(geometry["project.points"], size), geometry[name], rtol=0, atol=2e-7 * size)


def test_positions_follow_the_table():
    x, y, z = 0.25, -0.5, 0.75
    expected = [[(x, -y)], [(y, -z)], [(-x, -z)]]
    shifted = 8 * (1 + torch.tensor(expected)[:, 0]) - 1 / 16
    torch.testing.assert_close(project(torch.tensor([[[x, y, z]]]), 16)[0, 0], shifted)


@pytest.mark.parametrize("size", [8, 31])
def test_a_drawn_pixel_lies_at_the_floor_of_its_position_without_the_shift(size):
    points = torch.rand(40, 3, generator=torch.Generator().manual_seed(size)) * 1.8 - 0.9
    positions = project(points[:, None], size)[:, 0] + 1 / size
    for point, places in zip(points, positions, strict=True):
        image = render_views([point[None]], [torch.ones(1, 1)], size=size, radius=0.5 / size)[0, :, 0]
        assert image.nonzero()[:, [2, 1]].tolist() == places.floor().int().tolist()


def test_gradients_flow_to_the_points():
    points = torch.zeros(1, 1, 3, requires_grad=True)
    project(points, 8).sum().backward()
    assert points.grad.tolist() == [[[0.0, 0.0, -8.0]]]  # x and y appear once with each sign, z in two rows


def test_the_views_can_be_chosen():
    points = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(project(points, 8, VIEWS[1:]), project(points, 8)[:, :, 1:])


def test_size_must_be_positive():
    with pytest.raises(ConfigError, match="size must be at least 1 pixel, got 0"):
        project(torch.zeros(1, 1, 3), 0)


def test_a_view_needs_three_axes_and_unit_signs():
    axes = {"column_axis": 0, "row_axis": 1, "depth_axis": 2}
    good = {"name": "v", "column_sign": 1.0, "row_sign": 1.0, "eye": 1.0} | axes
    with pytest.raises(ConfigError, match=r"view 'v' must use each of the axes 0, 1, 2 once, got \(0, 0, 2\)"):
        View(**(good | {"row_axis": 0}))
    with pytest.raises(ConfigError, match=r"signs of \+1 or -1, got \(2\.0, 1\.0\)"):
        View(**(good | {"column_sign": 2.0}))
