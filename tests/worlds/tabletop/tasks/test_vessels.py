import math

import mujoco
import numpy as np
import pytest

from mnprobe.worlds.tabletop.palette import GREY
from mnprobe.worlds.tabletop.scene import Mjcf, body, compose
from mnprobe.worlds.tabletop.tasks._vessels import EIGHTH, prism, wall


def geoms(content):
    """Corners (n, 8, 3) of the boxes of a body, in its frame, and its mass."""
    model = mujoco.MjModel.from_xml_string(compose(Mjcf(worldbody=body("thing", content, free=True))))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    chosen = np.flatnonzero(model.geom_bodyid == model.body("thing").id)
    corners = [
        data.geom_xpos[index] + (signs * model.geom_size[index]) @ data.geom_xmat[index].reshape(3, 3).T
        for index in chosen
    ]
    return np.array(corners), float(model.body("thing").mass[0])


def test_a_leaning_wall_has_its_radii_at_its_ends():
    corners, mass = geoms(wall(GREY, bottom=0.02, top=0.03, low=0.01, high=0.08, thickness=0.001, mass=0.3))
    assert corners.shape == (8, 8, 3)
    assert mass == pytest.approx(0.3)
    assert corners[..., 2].min() == pytest.approx(0.01, abs=2e-4)
    assert corners[..., 2].max() == pytest.approx(0.08, abs=2e-4)
    for side in range(8):
        outwards = np.array([math.cos(side * EIGHTH), math.sin(side * EIGHTH), 0])
        away = corners[side] @ outwards
        assert away[corners[side][:, 2] > 0.045].max() == pytest.approx(0.03, abs=7e-4)
        assert away[corners[side][:, 2] < 0.045].max() == pytest.approx(0.02, abs=7e-4)


def test_a_prism_is_an_octagon():
    corners, mass = geoms(prism(GREY, radius=0.03, low=0.0, high=0.02, mass=0.2))
    assert mass == pytest.approx(0.2)
    flat = np.linalg.norm(corners.reshape(-1, 3)[:, :2], axis=1)
    np.testing.assert_allclose(flat, 0.03 / math.cos(EIGHTH / 2))
    angles = np.degrees(np.arctan2(corners[..., 1], corners[..., 0])).round(3) % 45
    np.testing.assert_allclose(angles, 22.5)
