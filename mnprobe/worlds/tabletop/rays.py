"""Images by ray casting: one ray per pixel, no graphics library; depth is exact, masks come for free."""

from dataclasses import dataclass
from functools import lru_cache

import mujoco
import numpy as np
from numpy.typing import NDArray

from mnprobe.data import Camera

__all__ = ["BACKGROUND", "NOTHING", "RayRenderer", "View"]

NOTHING = 2**24 - 1
"""Handle of a pixel in whose direction there is nothing, as in RLBench's masks."""
BACKGROUND = (0.72, 0.78, 0.84)

_GROUPS = np.array([1, 1, 1, 0, 0, 0], dtype=np.uint8)  # what is drawn; group 3 only touches
_LIGHT = np.array([0.9, -1.1, 3.0])  # metres; far from what it lights, so that it shines nearly in parallel
_AMBIENT, _DIFFUSE = 0.45, 0.60
_SHADE = 0.55  # share of the light that a shadow leaves


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """What a camera sees.

    Attributes:
        rgb: (H, W, 3) uint8.
        depth: (H, W) float64 metres along the optical axis, clipped to the camera's near and far.
        mask: (H, W) int64 number of the body; NOTHING beyond far.
    """

    rgb: NDArray[np.uint8]
    depth: NDArray[np.float64]
    mask: NDArray[np.int64]


class RayRenderer:
    """Casts a ray through every pixel's integer position, as RLBench's matrices want it.

    A ray has length 1 along the optical axis, so that MuJoCo's distance is the depth. Colours are flat, lit from one
    fixed place; `shadow` adds hard shadows for one more cast.
    """

    name = "rays"

    def __init__(self, *, shadow: bool = False) -> None:
        self.shadow = shadow

    def render(
        self, model: "mujoco.MjModel", data: "mujoco.MjData", camera: Camera, size: int, colours: NDArray[np.float32]
    ) -> View:
        """Draw `data`, whose kinematics must be up to date, with `colours` (geoms, 3) in 0 .. 1."""
        count = size * size
        rays = _directions(size, float(camera.intrinsics[0, 0])) @ camera.extrinsics[:3, :3].T
        origin = np.array(camera.extrinsics[:3, 3])
        hit, distance, normal = np.empty(count, np.int32), np.empty(count), np.empty(3 * count)
        mujoco.mj_multiRay(
            model, data, origin, rays.ravel(), _GROUPS, True, -1, hit, distance, normal, count, mujoco.mjMAXVAL
        )
        seen = (hit >= 0) & (distance <= camera.far)
        light = self._light(model, data, origin + rays * distance[:, None], normal.reshape(-1, 3), seen)
        table = np.vstack([colours, np.array([BACKGROUND], np.float32)]) * np.float32(255)
        chosen = np.where(seen, hit, len(colours))
        shades = table[chosen] * light[:, None]
        bodies = np.append(model.geom_bodyid, NOTHING)
        return View(
            rgb=np.minimum(shades + np.float32(0.5), np.float32(255)).astype(np.uint8).reshape(size, size, 3),
            depth=np.where(seen, distance, camera.far).clip(camera.near, camera.far).reshape(size, size),
            mask=bodies[chosen].astype(np.int64).reshape(size, size),
        )

    def close(self) -> None:
        """Nothing is held."""

    def _light(
        self,
        model: "mujoco.MjModel",
        data: "mujoco.MjData",
        points: NDArray[np.float64],
        normals: NDArray[np.float64],
        seen: NDArray[np.bool_],
    ) -> NDArray[np.float32]:
        """(n,) how bright every pixel is; 1 for the background."""
        direction = _LIGHT - np.array([0.2, 0.0, 0.75])
        cosine = normals @ (direction / np.linalg.norm(direction))
        bright = _DIFFUSE * cosine.clip(0, 1)
        if self.shadow:
            way = np.where(seen[:, None], points - _LIGHT, [0.0, 0.0, -1.0])
            hit, distance = np.empty(len(way), np.int32), np.empty(len(way))
            mujoco.mj_multiRay(
                model, data, _LIGHT, way.ravel(), _GROUPS, True, -1, hit, distance, None, len(way), mujoco.mjMAXVAL
            )
            bright = np.where((hit >= 0) & (distance < 1 - 1e-3), _SHADE * bright, bright)
        light: NDArray[np.float32] = np.where(seen, _AMBIENT + bright, 1.0).astype(np.float32)
        return light


@lru_cache(maxsize=16)
def _directions(size: int, focal: float) -> NDArray[np.float64]:
    """(size * size, 3) rays in the camera's frame, length 1 along its z."""
    across = (np.arange(size) - size / 2) / focal
    return np.stack([np.tile(across, size), np.repeat(across, size), np.ones(size * size)], axis=1)
