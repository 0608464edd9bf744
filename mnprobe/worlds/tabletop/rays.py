"""Rendering by ray casting: exact depth and masks, no graphics library."""

import itertools
from dataclasses import dataclass
from functools import lru_cache

import mujoco
import numpy as np
from numpy.typing import NDArray

from mnprobe.data import Camera

__all__ = ["BACKGROUND", "LIGHT", "NOTHING", "TOWARDS_LIGHT", "RayRenderer", "View"]

NOTHING = 2**24 - 1
"""Handle of a background pixel, as in RLBench's masks."""
BACKGROUND = (0.72, 0.78, 0.84)

# Groups of geoms: 0 and 1 objects, 2 floor and table, 3 and above not drawn.
_OBJECTS = np.array([1, 1, 0, 0, 0, 0], dtype=np.uint8)
_BACKDROP = np.array([0, 0, 1, 0, 0, 0], dtype=np.uint8)
_ENDLESS = mujoco.mjMAXVAL
_CORNERS = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))
LIGHT = np.array([0.9, -1.1, 3.0])  # metres
TOWARDS_LIGHT = (LIGHT - [0.2, 0.0, 0.75]) / np.linalg.norm(LIGHT - [0.2, 0.0, 0.75])  # as from far away
_AMBIENT, _DIFFUSE = 0.68, 0.36  # a face that looks away from the light has the difference
_SHADE = 0.40  # brightness in a shadow


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """Rendered image of a camera.

    Attributes:
        rgb: (H, W, 3) uint8.
        depth: (H, W) float64 metres along the optical axis, clipped to the camera's near and far.
        mask: (H, W) int64 number of the body; NOTHING beyond far. None if not requested and expensive.
    """

    rgb: NDArray[np.uint8]
    depth: NDArray[np.float64]
    mask: NDArray[np.int64] | None


class RayRenderer:
    """Casts a ray through every pixel's integer position, as RLBench's matrices want it.

    A ray has length 1 along the optical axis, so that MuJoCo's distance is the depth. Colours are flat, lit from one
    fixed place; `shadow` adds hard shadows for one more cast.

    Two casts make an image: one at floor and table, kept as long as the camera stays where it is; one at everything
    else, through the pixels in which something else can be.
    """

    name = "rays"

    def __init__(self, *, shadow: bool = False) -> None:
        self.shadow = shadow
        self._backdrops: dict[str, tuple[bytes, _Hits]] = {}

    def render(
        self,
        model: "mujoco.MjModel",
        data: "mujoco.MjData",
        camera: Camera,
        size: int,
        colours: NDArray[np.float32],
        *,
        mask: bool = True,
    ) -> View:
        """Draw `data`, whose kinematics must be up to date, with `colours` (geoms, 3) in 0 .. 1; masks are for free."""
        rays = _directions(size, float(camera.intrinsics[0, 0])) @ camera.extrinsics[:3, :3].T
        origin = np.array(camera.extrinsics[:3, 3])
        behind = self._backdrop(model, data, camera, origin, rays)
        chosen = np.flatnonzero(_covered(model, data, camera, size))
        before = _cast(model, data, origin, rays[chosen], _OBJECTS)
        nearer = (before.geom >= 0) & ((behind.geom[chosen] < 0) | (before.distance < behind.distance[chosen]))
        chosen = chosen[nearer]
        hit, distance, bright = behind.geom.copy(), behind.distance.copy(), behind.bright.copy()
        hit[chosen], distance[chosen] = before.geom[nearer], before.distance[nearer]
        bright[chosen] = before.bright[nearer]
        if self.shadow:
            _darken(model, data, bright, origin + rays * distance[:, None], hit)
        shown = np.where((hit >= 0) & (distance <= camera.far), hit, len(colours))
        bright[shown == len(colours)] = 1.0
        table = np.vstack([colours, np.array([BACKGROUND], np.float32)]) * np.float32(255)
        shades = np.take(table, shown, axis=0) * bright[:, None]
        shades += np.float32(0.5)
        bodies = np.append(model.geom_bodyid, NOTHING).astype(np.int64)
        depth = np.where(shown == len(colours), camera.far, distance).clip(camera.near, camera.far)
        return View(
            rgb=np.minimum(shades, np.float32(255), out=shades).astype(np.uint8).reshape(size, size, 3),
            depth=depth.reshape(size, size),
            mask=bodies[shown].reshape(size, size),
        )

    def close(self) -> None:
        """Clear the cache."""
        self._backdrops.clear()

    def _backdrop(
        self,
        model: "mujoco.MjModel",
        data: "mujoco.MjData",
        camera: Camera,
        origin: NDArray[np.float64],
        rays: NDArray[np.float64],
    ) -> "_Hits":
        """Render floor and table only."""
        geoms = np.flatnonzero(model.geom_group == 2)
        seen_from = (geoms, model.geom_size[geoms], data.geom_xpos[geoms], camera.intrinsics, camera.extrinsics)
        key = b"".join([len(rays).to_bytes(4, "big"), *(np.ascontiguousarray(part).tobytes() for part in seen_from)])
        kept = self._backdrops.get(camera.name)
        if kept is None or kept[0] != key:
            kept = self._backdrops[camera.name] = key, _cast(model, data, origin, rays, _BACKDROP)
        return kept[1]


@dataclass(frozen=True, eq=False)
class _Hits:
    """What rays hit: geom (-1: none), distance in ray lengths, how bright it is there (float32)."""

    geom: NDArray[np.int32]
    distance: NDArray[np.float64]
    bright: NDArray[np.float32]


def _cast(
    model: "mujoco.MjModel",
    data: "mujoco.MjData",
    origin: NDArray[np.float64],
    rays: NDArray[np.float64],
    groups: NDArray[np.uint8],
) -> _Hits:
    count = len(rays)
    geom, distance, normal = np.full(count, -1, np.int32), np.full(count, -1.0), np.zeros((count, 3))
    if count:
        mujoco.mj_multiRay(
            model, data, origin, rays.ravel(), groups, True, -1, geom, distance, normal.reshape(-1), count, _ENDLESS
        )
    return _Hits(geom, distance, (_AMBIENT + _DIFFUSE * (normal @ TOWARDS_LIGHT)).astype(np.float32))


def _covered(model: "mujoco.MjModel", data: "mujoco.MjData", camera: Camera, size: int) -> NDArray[np.bool_]:
    """(size * size,) pixels in which anything but floor and table can be: the boxes around all geoms, projected."""
    geoms = np.flatnonzero(np.isin(model.geom_group, (0, 1)))
    boxes = model.geom_aabb[geoms]
    corners = boxes[:, None, :3] + _CORNERS * boxes[:, None, 3:]
    turned = np.einsum("gij,gkj->gki", data.geom_xmat[geoms].reshape(-1, 3, 3), corners)
    seen = (turned + data.geom_xpos[geoms][:, None] - camera.extrinsics[:3, 3]) @ camera.extrinsics[:3, :3]
    reach = (size / 2 + 1) / abs(camera.intrinsics[0, 0]) * seen[..., 2:]  # half of the view at that depth
    beside = ((seen[..., :2] > reach).all(axis=1) | (seen[..., :2] < -reach).all(axis=1)).any(axis=1)
    seen = seen[~beside & (seen[..., 2] > 0).any(axis=1)]
    if (seen[..., 2] < 1e-3).any():  # something in view reaches behind the camera
        return np.ones(size * size, dtype=bool)
    pixels = seen[..., :2] / seen[..., 2:] * camera.intrinsics[[0, 1], [0, 1]] + camera.intrinsics[:2, 2]
    low = np.floor(pixels.min(axis=1)).clip(0, size).astype(int)
    high = (np.ceil(pixels.max(axis=1)) + 1).clip(0, size).astype(int)
    covered = np.zeros((size, size), dtype=bool)
    for (left, top), (right, bottom) in zip(low.tolist(), high.tolist(), strict=True):
        covered[top:bottom, left:right] = True
    return covered.ravel()


def _darken(
    model: "mujoco.MjModel",
    data: "mujoco.MjData",
    bright: NDArray[np.float32],
    points: NDArray[np.float64],
    hit: NDArray[np.int32],
) -> None:
    """Lower the brightness of points in shadow."""
    lit = np.flatnonzero(hit >= 0)
    way = points[lit] - LIGHT
    for groups in (_BACKDROP, _OBJECTS):
        between = _cast(model, data, LIGHT, way, groups)
        dark = lit[(between.geom >= 0) & (between.distance < 1 - 1e-3)]
        bright[dark] = np.minimum(bright[dark], _SHADE)


@lru_cache(maxsize=16)
def _directions(size: int, focal: float) -> NDArray[np.float64]:
    """(size * size, 3) rays in the camera's frame, length 1 along its z."""
    across = (np.arange(size) - size / 2) / focal
    return np.stack([np.tile(across, size), np.repeat(across, size), np.ones(size * size)], axis=1)
