"""Ray images against formulas: distances to a plane, a sphere and a box, worked out without MuJoCo."""

import mujoco
import numpy as np
import pytest

from mnprobe.data import Camera, depth_to_points
from mnprobe.worlds.tabletop import rays
from mnprobe.worlds.tabletop.cameras import cameras_at
from mnprobe.worlds.tabletop.hand import pointing_down, pose_matrix

SIZE = 96
SPHERE, RADIUS = np.array([0.3, -0.12, 0.93]), 0.09
BOX, HALF = np.array([0.12, 0.15, 0.80]), np.array([0.07, 0.05, 0.05])
FLOOR = 0.75
XML = f"""<mujoco><statistic extent="1"/><worldbody>
<body name="ground"><geom type="box" group="2" size="3 3 .1" pos="0 0 {FLOOR - 0.1}"/></body>
<body name="ball" pos="{SPHERE[0]} {SPHERE[1]} {SPHERE[2]}"><geom type="sphere" size="{RADIUS}"/></body>
<body name="cube" pos="{BOX[0]} {BOX[1]} {BOX[2]}"><geom type="box" size="{HALF[0]} {HALF[1]} {HALF[2]}"/>
<geom type="sphere" group="3" size="0.3"/></body>
</worldbody></mujoco>"""
COLOURS = np.array([[0.5, 0.5, 0.5], [1, 0, 0], [0, 0, 1], [0, 1, 0]], np.float32)
CAMERAS = cameras_at(
    ("front", "left_shoulder", "right_shoulder", "overhead", "wrist"),
    SIZE,
    pose_matrix([0.2, 0, 1.2], pointing_down(0.3)),
)


@pytest.fixture(scope="module")
def state():
    model = mujoco.MjModel.from_xml_string(XML)
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    return model, data


def expected(camera):
    """Depth and what is hit (0 ground, 1 ball, 2 cube, -1 nothing) at every pixel, from the formulas."""
    k, pose = camera.intrinsics, camera.extrinsics
    u, v = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    inside = np.stack([(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], np.ones_like(u, float)], -1)
    way, eye = inside @ pose[:3, :3].T, pose[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        ground = (FLOOR - eye[2]) / way[..., 2]
        at = eye + way * ground[..., None]
        ground = np.where((ground > 0) & (np.abs(at[..., :2]) <= 3).all(-1), ground, np.inf)
        a, b = (way * way).sum(-1), way @ (eye - SPHERE)
        root = b * b - a * ((eye - SPHERE) @ (eye - SPHERE) - RADIUS**2)
        ball = np.where(root > 0, (-b - np.sqrt(root)) / a, np.inf)
        one, two = (BOX - HALF - eye) / way, (BOX + HALF - eye) / way
        enter, leave = np.minimum(one, two).max(-1), np.maximum(one, two).min(-1)
        cube = np.where((enter < leave) & (enter > 0), enter, np.inf)
    depths = np.stack([ground, ball, cube])
    nearest = depths.min(0)
    seen = nearest <= camera.far
    return np.where(seen, nearest, camera.far), np.where(seen, depths.argmin(0), -1)


@pytest.mark.parametrize("name", CAMERAS)
def test_depth_and_masks_are_those_of_the_formulas(state, name):
    camera = CAMERAS[name]
    view = rays.RayRenderer().render(*state, camera, SIZE, COLOURS)
    depth, hit = expected(camera)
    assert set(np.unique(hit)) >= {0, 1, 2}
    np.testing.assert_allclose(view.depth, depth, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(view.mask, np.where(hit < 0, rays.NOTHING, hit + 1))


def test_points_lie_on_what_they_show(state):
    camera = CAMERAS["front"]
    view = rays.RayRenderer().render(*state, camera, SIZE, COLOURS)
    points = depth_to_points(view.depth, camera.intrinsics, camera.extrinsics)
    np.testing.assert_allclose(np.linalg.norm(points[view.mask == 2] - SPHERE, axis=-1), RADIUS, atol=1e-6)
    np.testing.assert_allclose(points[view.mask == 1][:, 2], FLOOR, atol=1e-6)
    away = np.abs(points[view.mask == 3] - BOX) / HALF
    np.testing.assert_allclose(away.max(axis=-1), 1, atol=1e-4)


@pytest.mark.parametrize("name", CAMERAS)
def test_casting_only_where_something_can_be_changes_nothing(state, name, monkeypatch):
    camera = CAMERAS[name]
    quick = rays.RayRenderer().render(*state, camera, SIZE, COLOURS)
    monkeypatch.setattr(rays, "_covered", lambda model, data, camera, size: np.ones(size * size, bool))
    whole = rays.RayRenderer().render(*state, camera, SIZE, COLOURS)
    for part in ("rgb", "depth", "mask"):
        np.testing.assert_array_equal(getattr(quick, part), getattr(whole, part))


def test_a_kept_backdrop_follows_its_camera(state):
    renderer = rays.RayRenderer()
    renderer.render(*state, CAMERAS["wrist"], SIZE, COLOURS)
    moved = cameras_at(("wrist",), SIZE, pose_matrix([0.1, 0.1, 1.1], pointing_down()))["wrist"]
    np.testing.assert_array_equal(
        renderer.render(*state, moved, SIZE, COLOURS).depth,
        rays.RayRenderer().render(*state, moved, SIZE, COLOURS).depth,
    )


def test_colours_are_those_asked_for(state):
    view = rays.RayRenderer().render(*state, CAMERAS["front"], SIZE, COLOURS)
    ball = view.rgb[view.mask == 2].astype(int)
    assert (ball[:, 0] > 60).all()
    assert (ball[:, 1:] == 0).all()
    assert len(np.unique(ball[:, 0])) > 5  # shaded, not flat
    assert (view.rgb[view.mask == 3][:, :2] == 0).all()
    painted = rays.RayRenderer().render(*state, CAMERAS["front"], SIZE, COLOURS[[0, 3, 2, 1]])
    assert (painted.rgb[painted.mask == 2][:, 1] > 60).all()


def test_beyond_far_there_is_background(state):
    camera = CAMERAS["front"]
    short = Camera(name="front", intrinsics=camera.intrinsics, extrinsics=camera.extrinsics, near=camera.near, far=1.0)
    view = rays.RayRenderer().render(*state, short, SIZE, COLOURS)
    beyond = expected(camera)[0] > 1.0
    assert beyond.any()
    assert (view.depth[beyond] == 1.0).all()
    assert (view.mask[beyond] == rays.NOTHING).all()
    assert (view.rgb[beyond] == np.rint(np.array(rays.BACKGROUND) * 255)).all()


def test_nearer_than_near_is_clipped(state):
    camera = CAMERAS["front"]
    late = Camera(name="front", intrinsics=camera.intrinsics, extrinsics=camera.extrinsics, near=1.2, far=4.5)
    depth = rays.RayRenderer().render(*state, late, SIZE, COLOURS).depth
    np.testing.assert_allclose(depth, expected(camera)[0].clip(1.2, 4.5), rtol=0, atol=1e-6)


def test_shadows_darken_what_the_light_does_not_reach(state):
    camera = CAMERAS["front"]
    plain = rays.RayRenderer().render(*state, camera, SIZE, COLOURS)
    shady = rays.RayRenderer(shadow=True).render(*state, camera, SIZE, COLOURS)
    np.testing.assert_array_equal(plain.depth, shady.depth)
    darker = (shady.rgb.astype(int) < plain.rgb).any(axis=-1)
    ground = plain.mask == 1
    assert 10 < (darker & ground).sum() < 0.2 * ground.sum()
    assert not (shady.rgb > plain.rgb).any()
    # The middle of the ball's shadow, from the light through the ball's centre to the ground.
    share = (FLOOR - rays.LIGHT[2]) / (SPHERE[2] - rays.LIGHT[2])
    shadow = rays.LIGHT + share * (SPHERE - rays.LIGHT)
    points = depth_to_points(plain.depth, camera.intrinsics, camera.extrinsics)
    close = np.linalg.norm(points - shadow, axis=-1) < 0.05
    assert (close & ground).sum() > 5
    assert darker[close & ground].all()
