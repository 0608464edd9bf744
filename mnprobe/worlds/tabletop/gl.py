"""Rendering by off-screen OpenGL: optional, faster with a driver."""

import subprocess
import sys
from functools import lru_cache

import mujoco
import numpy as np
from numpy.typing import NDArray

from mnprobe.core.errors import ConfigError
from mnprobe.data import Camera
from mnprobe.worlds.tabletop.egl import make_current
from mnprobe.worlds.tabletop.rays import BACKGROUND, NOTHING, TOWARDS_LIGHT, View

__all__ = ["GLRenderer", "probe_gl"]

_AMBIENT, _DIFFUSE = 0.45, 0.55
_BACKGROUND = np.rint(np.array(BACKGROUND) * 255).astype(np.uint8)
_PROBE_SECONDS = 60


class GLRenderer:
    """Draws with MuJoCo's own OpenGL renderer: no shadows, no smoothing (both cost a hundredfold in software).

    The frustum is shifted by half a pixel, so that a pixel's middle lies where RLBench's matrices have its integer
    position. Colours are those of the ray renderer, lit from the same side; the images are alike, not equal. A mask
    takes a second drawing.
    """

    name = "gl"

    def __init__(self, size: int) -> None:
        make_current()
        self._model: mujoco.MjModel | None = None
        self._context: mujoco.MjrContext | None = None
        self._size = size
        self._viewport = mujoco.MjrRect(0, 0, size, size)
        self._option = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()

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
        """Draw `data`, whose kinematics must be up to date, with `colours` (geoms, 3) in 0 .. 1."""
        if size != self._size:
            raise ConfigError(f"this renderer draws {self._size} x {self._size} pixels, asked for {size}")
        if self._model is not model:
            self._use(model)
        kept = np.array(model.geom_rgba)
        try:
            model.geom_rgba[:, :3] = colours
            mujoco.mjv_updateScene(
                model, data, self._option, None, self._camera, int(mujoco.mjtCatBit.mjCAT_ALL), self._scene
            )
        finally:
            model.geom_rgba[:] = kept
        self._light()
        self._aim(camera)
        rgb, code = self._draw()
        rgb.reshape(-1, 3)[np.flatnonzero(code <= 0)] = _BACKGROUND
        depth = code.astype(np.float64)  # in place from here on: new arrays cost as much as the drawing
        depth *= 1 / camera.near - 1 / camera.far
        depth += 1 / camera.far
        np.reciprocal(depth, out=depth)
        np.clip(depth, camera.near, camera.far, out=depth)
        return View(rgb=rgb, depth=depth, mask=self._mask(model) if mask else None)

    def close(self) -> None:
        """Release the resources of the driver."""
        if self._context is not None:
            self._context.free()
        self._context = self._model = None

    def _use(self, model: "mujoco.MjModel") -> None:
        """Make buffers for another model."""
        make_current()
        self._model = model
        self._scene = mujoco.MjvScene(model, maxgeom=model.ngeom + 64)
        for flag in ("SHADOW", "REFLECTION", "SKYBOX", "FOG", "HAZE"):
            self._scene.flags[int(getattr(mujoco.mjtRndFlag, f"mjRND_{flag}"))] = 0
        if self._context is None or model.nmesh or model.ntex:  # primitives are the same in every model
            if self._context is not None:
                self._context.free()
            model.vis.global_.offwidth = model.vis.global_.offheight = self._size
            self._context = mujoco.MjrContext(model, int(mujoco.mjtFontScale.mjFONTSCALE_100))
            # 0 is far: near zero floats are dense, so that depth stays exact far away.
            self._context.readDepthMap = int(mujoco.mjtDepthMap.mjDEPTH_ZEROFAR)

    def _light(self) -> None:
        light = self._scene.lights[0]
        light.type = int(mujoco.mjtLightType.mjLIGHT_DIRECTIONAL)
        light.headlight = light.castshadow = 0
        light.pos, light.dir = 5 * TOWARDS_LIGHT, -TOWARDS_LIGHT
        light.attenuation = (1, 0, 0)
        light.ambient, light.diffuse, light.specular = [_AMBIENT] * 3, [_DIFFUSE] * 3, [0.0] * 3
        self._scene.nlight = 1

    def _aim(self, camera: Camera) -> None:
        focal, middle = abs(float(camera.intrinsics[0, 0])), float(camera.intrinsics[1, 2])
        near = float(camera.near)
        for eye in self._scene.camera:
            eye.pos, eye.forward, eye.up = camera.extrinsics[:3, 3], camera.extrinsics[:3, 2], camera.extrinsics[:3, 1]
            eye.frustum_near, eye.frustum_far = near, float(camera.far)
            eye.frustum_center = -0.5 / focal * near
            eye.frustum_width = 0
            eye.frustum_top = (middle + 0.5) / focal * near
            eye.frustum_bottom = (middle + 0.5 - self._size) / focal * near

    def _draw(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """(S, S, 3) colours and (S, S) the depth buffer, 1 at near and 0 at far."""
        rgb = np.empty((self._size, self._size, 3), np.uint8)
        depth = np.empty((self._size, self._size), np.float32)
        # Another renderer of this process may have drawn since: its buffer would be the one that is drawn into.
        mujoco.mjr_setBuffer(int(mujoco.mjtFramebuffer.mjFB_OFFSCREEN), self._context)
        mujoco.mjr_render(self._viewport, self._scene, self._context)
        mujoco.mjr_readPixels(rgb, depth, self._viewport, self._context)
        return rgb[::-1].copy(), depth[::-1]

    def _mask(self, model: "mujoco.MjModel") -> NDArray[np.int64]:
        flags = [int(mujoco.mjtRndFlag.mjRND_SEGMENT), int(mujoco.mjtRndFlag.mjRND_IDCOLOR)]
        try:
            self._scene.flags[flags] = 1
            code, _ = self._draw()
        finally:
            self._scene.flags[flags] = 0
        number = code.astype(np.int64) @ np.array([1, 256, 65536])
        handles = np.full(self._scene.ngeom + 1, NOTHING, np.int64)
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.objtype == int(mujoco.mjtObj.mjOBJ_GEOM) and geom.segid >= 0:
                handles[geom.segid + 1] = model.geom_bodyid[geom.objid]
        handles_of: NDArray[np.int64] = handles[number]
        return handles_of


@lru_cache(maxsize=1)
def probe_gl() -> str:
    """Why off-screen OpenGL cannot be used here, or ''. Tried in a child process: a broken driver may end it."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"from {__name__} import _try_gl; _try_gl()"],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"an attempt took more than {_PROBE_SECONDS} seconds"
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"an attempt ended with exit code {done.returncode}"


def _try_gl() -> None:
    """Draw a sphere and compare; ConfigError if it is not there."""
    model = mujoco.MjModel.from_xml_string(
        '<mujoco><statistic extent="1"/><worldbody><geom size="0.2" rgba="1 0 0 1"/></worldbody></mujoco>'
    )
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    pose = np.array([[-1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 1], [0, 0, 0, 1]])
    lens = np.array([[-64.0, 0, 16], [0, -64, 16], [0, 0, 1]])
    renderer = GLRenderer(32)
    view = renderer.render(
        model,
        data,
        Camera(name="front", intrinsics=lens, extrinsics=pose, near=0.01, far=3.0),
        32,
        np.array([[1, 0, 0]], np.float32),
    )
    renderer.close()
    if (
        view.mask is None
        or abs(view.depth[16, 16] - 0.8) > 1e-3
        or (view.mask[16, 16], view.mask[0, 0]) != (0, NOTHING)
    ):
        raise ConfigError(f"OpenGL draws a sphere at 0.8 m in a distance of {view.depth[16, 16]:.3f} m")
