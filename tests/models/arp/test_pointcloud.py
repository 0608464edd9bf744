"""Clouds, the cube frame and the zoom against the measured arrays and their laws."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mnprobe.core.errors import ConfigError
from mnprobe.models.arp.pointcloud import (
    SCENE_BOUNDS,
    ZOOM,
    cloud_bounds,
    flatten_cameras,
    from_cube,
    in_bounds,
    place_with_mean,
    to_cube,
    unzoom,
    zoom,
)

NUMBERS = st.floats(-3, 3, width=32)


@pytest.fixture(scope="module")
def arrays(golden):
    with np.load(golden / "arp-tiny" / "preprocess.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.fixture(scope="module")
def settings(golden):
    return json.loads((golden / "arp-tiny" / "preprocess.json").read_text())


@pytest.fixture(scope="module")
def geometry(golden):
    with np.load(golden / "arp-tiny" / "geometry.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files if name.startswith("pose")}


def close(actual, expected, atol=1e-6):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def test_the_defaults_are_the_measured_settings(settings):
    assert list(SCENE_BOUNDS) == settings["scene_bounds"]
    assert settings["zoom"] == ZOOM


def test_cameras_are_joined_as_measured(arrays, settings):
    names = settings["cameras"]
    clouds, images = [arrays[f"{n}_point_cloud"] for n in names], [arrays[f"{n}_rgb"] for n in names]
    points, rgb = flatten_cameras(clouds, images)
    torch.testing.assert_close(points, arrays["flat.points"], rtol=0, atol=0, equal_nan=True)
    close(rgb, arrays["flat.rgb01"], atol=1e-7)


def test_cameras_may_differ_in_size():
    sizes = [(2, 3), (4, 1)]
    clouds = [torch.rand(2, 3, *s) for s in sizes]
    points, rgb = flatten_cameras(clouds, [torch.zeros(2, 3, *s, dtype=torch.uint8) for s in sizes])
    assert points.shape == rgb.shape == (2, 10, 3)
    assert torch.equal(points[1, 4], clouds[0][1, :, 1, 1])
    assert torch.equal(points[1, 6 + 2], clouds[1][1, :, 2, 0])


def test_cameras_that_do_not_fit_are_refused():
    cloud = torch.zeros(1, 3, 2, 2)
    with pytest.raises(ConfigError, match="one cloud and one colour image per camera are needed, got 1 and 0"):
        flatten_cameras([cloud], [])
    with pytest.raises(ConfigError, match=r"camera 0: points are \(1, 3, 2, 2\) but colours \(1, 3, 2, 5\)"):
        flatten_cameras([cloud], [torch.zeros(1, 3, 2, 5, dtype=torch.uint8)])


@pytest.mark.parametrize("sample", [0, 1])
def test_points_are_dropped_placed_and_zoomed_as_measured(arrays, sample):
    flat = arrays["flat.points"][sample]
    kept = in_bounds(flat, SCENE_BOUNDS)
    points = flat[kept]
    assert torch.equal(points, arrays[f"clamped.{sample}.points"])
    close(arrays["flat.rgb01"][sample][kept], arrays[f"clamped.{sample}.rgb01"])
    cube = to_cube(points, SCENE_BOUNDS)
    close(cube, arrays[f"cube.{sample}.points"])
    close(place_with_mean(points), arrays[f"cube_mean.{sample}.points"])
    centre = arrays["zoom.loc"][sample]
    close(zoom(cube, centre), arrays[f"zoom.{sample}.points"])
    waypoint = to_cube(arrays["waypoint_world"][sample], SCENE_BOUNDS)
    close(waypoint, arrays[f"cube.{sample}.waypoint"])
    close(from_cube(waypoint, SCENE_BOUNDS), arrays[f"cube.{sample}.waypoint_back"])
    close(zoom(waypoint, centre), arrays["zoom.waypoint"][sample])
    close(unzoom(zoom(waypoint, centre), centre), arrays["zoom.waypoint_back"][sample])


def test_points_lead_back_to_the_world_as_measured(geometry):
    close(from_cube(geometry["pose.cube_point"], SCENE_BOUNDS), geometry["pose.world_point"])
    back = unzoom(geometry["pose.cube_point"], geometry["pose.stage2_loc"])
    close(back, geometry["pose.stage2_back"])
    close(from_cube(back, SCENE_BOUNDS), geometry["pose.final_world"])


def test_faces_belong_to_the_box_and_nan_does_not():
    low, high = torch.tensor(SCENE_BOUNDS[:3]), torch.tensor(SCENE_BOUNDS[3:])
    inside = torch.stack([low, high, (low + high) / 2])
    assert in_bounds(inside, SCENE_BOUNDS).all()
    assert in_bounds(inside, torch.tensor(SCENE_BOUNDS)).all()
    for axis in range(3):
        for value in (low[axis] - 1e-3, high[axis] + 1e-3, torch.tensor(torch.nan), torch.tensor(torch.inf)):
            outside = inside.clone()
            outside[:, axis] = value
            assert not in_bounds(outside, SCENE_BOUNDS).any()


@given(point=st.tuples(NUMBERS, NUMBERS, NUMBERS), centre=st.tuples(NUMBERS, NUMBERS, NUMBERS))
def test_cube_and_zoom_can_be_undone(point, centre):
    p, c = torch.tensor([point]), torch.tensor([centre])
    close(from_cube(to_cube(p, SCENE_BOUNDS), SCENE_BOUNDS), p, atol=1e-5)
    close(unzoom(zoom(p, c), c), p, atol=1e-5)
    close(unzoom(zoom(p, c, 2.5), c, 2.5), p, atol=1e-5)


def test_the_longest_side_fills_the_cube():
    bounds = (-1, 0, 2, 3, 2, 3)  # sides 4, 2, 1
    corners = torch.tensor([[-1.0, 0.0, 2.0], [3.0, 2.0, 3.0]])
    close(to_cube(corners, bounds), torch.tensor([[-1, -0.5, -0.25], [1, 0.5, 0.25]]))


def test_a_cloud_has_its_own_box():
    points = torch.tensor([[0.0, 1.0, 5.0], [2.0, -1.0, 5.5]])
    assert cloud_bounds(points).tolist() == [0, -1, 5, 2, 1, 5.5]
    close(from_cube(place_with_mean(points), cloud_bounds(points)), points)
    alone = torch.tensor([[0.5, 0.25, 1.0]])
    assert place_with_mean(alone).tolist() == [[0, 0, 0]]
    with pytest.raises(ConfigError, match="an empty cloud has no extent"):
        place_with_mean(torch.zeros(0, 3))


def test_bad_bounds_are_refused():
    with pytest.raises(ConfigError, match=r"least x y z, then greatest x y z, got \[0, 0, 0, 1, -1, 1\]"):
        to_cube(torch.zeros(1, 3), [0, 0, 0, 1, -1, 1])
    with pytest.raises(ConfigError, match=r"bounds must be 6 numbers .* got \(4,\)"):
        in_bounds(torch.zeros(1, 3), [0, 0, 0, 1])
