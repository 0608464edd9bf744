"""The simulator process: launch, guard, shutdown."""

import atexit
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mnprobe.core.errors import ConfigError, MnprobeError, WorldError
from mnprobe.core.registry import unknown_name
from mnprobe.data.camera import CAMERA_ORDER, camera_order
from mnprobe.worlds.environment import MAX_STEPS
from mnprobe.worlds.rlbench_action import Workspace
from mnprobe.worlds.rlbench_api import load_api
from mnprobe.worlds.rlbench_random import kept_global_state
from mnprobe.worlds.rlbench_scene import Collidable

__all__ = ["RLBenchOptions", "Simulator"]

_ONE = threading.Lock()  # CoppeliaSim is one per process; held from launch to shutdown
_WORKSPACE = "workspace"  # name of the shape in RLBench's scene
_IMAGES = ("rgb", "depth", "point_cloud", "mask")


@dataclass(frozen=True, kw_only=True)
class RLBenchOptions:
    """How the simulator is launched and observed.

    Attributes:
        dataset_root: the split folder given to RLBench; mnprobe needs none, since it reads demonstrations
            on its own.
        headless: no window; an X display is needed in any case.
        image_size: pixels per side of the square images.
        cameras: those that are rendered, of the five; the others are taken out of the scene.
        max_steps: key poses of an episode, 1 to 25.
        workspace: min x, max x, min y, max y, min z, max z in metres, to which positions are clipped; None reads it
            from the scene.

    Raises:
        ConfigError: quoting the value that cannot be.
    """

    dataset_root: Path | str | None = None
    headless: bool = True
    image_size: int = 128
    cameras: Sequence[str] = CAMERA_ORDER[:4]
    max_steps: int = MAX_STEPS
    workspace: Sequence[float] | None = None

    def __post_init__(self) -> None:
        for name, most in (("image_size", 4096), ("max_steps", MAX_STEPS)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise ConfigError(f"{name} must be a whole number from 1 to {most}, got {value!r}")
        if not isinstance(self.headless, bool):
            raise ConfigError(f"headless must be true or false, got {self.headless!r}")
        if self.dataset_root is not None and not Path(self.dataset_root).is_dir():
            raise ConfigError(f"dataset_root must be a folder of demonstrations, got {str(self.dataset_root)!r}")
        if isinstance(self.cameras, str) or not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise ConfigError(f"cameras must be different names, at least one, got {self.cameras!r}")
        for camera in self.cameras:
            if camera not in CAMERA_ORDER:
                raise unknown_name("camera", camera, list(CAMERA_ORDER))
        object.__setattr__(self, "cameras", camera_order(set(self.cameras)))
        if self.workspace is not None:
            object.__setattr__(self, "workspace", tuple(float(number) for number in self.workspace))
            self.box()

    def box(self) -> Workspace | None:
        """The workspace that was given, or None."""
        if self.workspace is None:
            return None
        if len(self.workspace) != 6:
            raise ConfigError(f"workspace must be min x, max x, min y, max y, min z, max z, got {self.workspace!r}")
        return Workspace(low=np.array(self.workspace[0::2]), high=np.array(self.workspace[1::2]))


class Simulator:
    """RLBench's environment, launched as PerAct, RVT and ARP launch it (specs/rlbench.md vi a).

    Attributes:
        api: RLBench's and PyRep's names.
        environment: the launched `rlbench.environment.Environment`.
        workspace: where positions are taken.

    Raises:
        ConfigError: if one runs in this process already, or the installed RLBench cannot be used.
        WorldError: if the launch fails; nothing is left running then.
    """

    def __init__(self, options: RLBenchOptions) -> None:
        if not _ONE.acquire(blocking=False):
            raise ConfigError(
                "an RLBench simulator is running in this process already, or could not be shut down; there can be one "
                "per process. close() the other, or play in another process"
            )
        self._held = _ONE
        self._closed = False
        self._process = os.getpid()
        self.environment: Any = None
        self._camera: Any = None
        atexit.register(self._shut_down)
        with self.guard("launching the simulator"):
            self.api = load_api()
            self._launch(options)
            self.workspace = options.box() or self._read_workspace()

    @property
    def closed(self) -> bool:
        """Whether it has been shut down, by close() or because something failed."""
        return self._closed

    @contextmanager
    def guard(self, doing: str) -> Iterator[None]:
        """Shut the simulator down if anything is raised inside, also by Ctrl-C; keep numpy's global state as it was.

        Standard output inside is redirected to standard error: some forks print at every reset.

        mnprobe's own errors are passed on; any other becomes the cause of a WorldError.
        """
        try:
            with kept_global_state(), redirect_stdout(sys.stderr):
                yield
        except BaseException as error:  # boundary to external code with arbitrary exceptions; all are re-raised
            left = self._after_failure()
            if isinstance(error, MnprobeError) or not isinstance(error, Exception):
                error.add_note(left)
                raise
            raise WorldError(f"RLBench failed while {doing} ({_told(error)}). {left}") from error

    @contextmanager
    def without_images(self) -> Iterator[None]:
        """Disable rendering inside the context: RLBench reads the camera configuration at every observation."""
        before = {name: getattr(self._camera, name) for name in _IMAGES}
        self._camera.set_all(False)
        try:
            yield
        finally:
            for name, value in before.items():
                setattr(self._camera, name, value)

    def collidable(self) -> Collidable:
        """The shapes in the scene that count in collisions."""
        return {shape.get_handle(): shape.get_name() for shape in self._shapes() if shape.is_collidable()}

    def restore_collidable(self, wanted: Collidable) -> None:
        """Let these shapes count in collisions again, where they are still in the scene.

        The forks plan a motion that heeds collisions without the shapes that the arm touches, and leave them so: in
        later scenes, and for the table and the walls in later tasks.
        """
        for shape in self._shapes() if wanted else ():
            if wanted.get(shape.get_handle()) == shape.get_name() and not shape.is_collidable():
                shape.set_collidable(True)

    def _shapes(self) -> list[Any]:
        tree: list[Any] = self.api.pyrep().get_objects_in_tree(object_type=self.api.object_type.SHAPE)
        return tree

    def close(self) -> None:
        """Shut down the simulator; further calls have no effect. WorldError if RLBench fails."""
        try:
            self._shut_down()
        except Exception as error:  # as above: foreign code
            raise WorldError(f"RLBench could not be shut down ({_told(error)}). Go on in a new process") from error

    def _after_failure(self) -> str:
        try:
            self._shut_down()
        except Exception as error:  # as above; the first failure is the one to raise
            return f"The simulator could not be shut down either ({_told(error)}): go on in a new process"
        return "The simulator was shut down: make a new world to go on, in a new process if that fails too"

    def _launch(self, options: RLBenchOptions) -> None:
        api = self.api
        self._camera = used = api.camera_config(
            rgb=True,
            depth=False,
            point_cloud=True,
            mask=False,
            image_size=[options.image_size, options.image_size],
            render_mode=api.render_mode.OPENGL,
        )
        unused = api.camera_config()
        unused.set_all(False)
        observations = api.observation_config(
            **{f"{name}_camera": used if name in options.cameras else unused for name in CAMERA_ORDER},
            joint_forces=False,
            joint_positions=True,
            joint_velocities=True,
            task_low_dim_state=True,  # not in the evaluators: tells whether a scene is the recorded one
            gripper_touch_forces=False,
            gripper_pose=True,
            gripper_open=True,
            gripper_matrix=True,
            gripper_joint_positions=True,
        )
        root = {} if options.dataset_root is None else {"dataset_root": str(options.dataset_root)}
        self.environment = api.environment(
            api.both(api.arm(), api.gripper()), **root, obs_config=observations, headless=options.headless
        )
        self.environment.launch()

    def _read_workspace(self) -> Workspace:
        shape = self.api.shape(_WORKSPACE)
        return Workspace.from_shape(shape.get_position(), shape.get_bounding_box())

    def _shut_down(self) -> None:
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self._shut_down)
        environment, self.environment = self.environment, None
        if os.getpid() != self._process:
            return  # a forked child holds a copy of these objects, but no simulator
        if environment is not None:
            environment.shutdown()  # where this raises, the lock stays held: nobody knows what is left in this process
        self._held.release()


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
