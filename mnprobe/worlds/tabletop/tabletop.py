"""The tabletop world: a table, a floating hand and scripted tasks."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from mnprobe.core.errors import ConfigError
from mnprobe.core.provenance import versions
from mnprobe.core.registry import unknown_name
from mnprobe.data import Episode, FrameData, require
from mnprobe.worlds.environment import MAX_STEPS, KeyPose, Observation, Reason, Situation, StepResult, TaskInfo
from mnprobe.worlds.record import SITUATION_FILE, read_situation
from mnprobe.worlds.tabletop.base import TaskScene
from mnprobe.worlds.tabletop.cameras import check_cameras
from mnprobe.worlds.tabletop.frames import Renderer, Studio
from mnprobe.worlds.tabletop.physics import FRAME_SECONDS, Instant, Simulation, settle
from mnprobe.worlds.tabletop.rays import RayRenderer
from mnprobe.worlds.tabletop.scene import SCENE_BOUNDS, compose
from mnprobe.worlds.tabletop.tasks import SUITES, TASKS

__all__ = ["GENERATOR", "Tabletop"]

GENERATOR = "1"
"""Revision of the scenes, experts and physics: goes up whenever the same seed gives another episode."""

_MARGIN = 0.05  # metres beyond the scene bounds that the hand can still be sent to
_LOWEST = 0.70  # metres; below that is the table


class Tabletop:
    """A table with a floating hand, as an `Environment`.

    A key pose more than 5 cm outside the scene bounds (or 5 cm below the table's surface) ends the episode as
    "unreachable pose"; one that is not finite or has no unit quaternion as "invalid action". With `ignore_collisions`
    off, the motion ends at the first thing that the hand hits with more than 10 N (and did not touch before), and the
    episode as "collision"; otherwise things may be pushed, and a hand that is held up stays where it is. The step in
    which the task is solved at some moment is carried out to its end and ends the episode as "success".

    Args:
        image_size: side of the square images, pixels.
        renderer: "rays"; "gl" (needs off-screen OpenGL); "auto" = gl where it works, tried in a child process.
        cameras: which of "front", "left_shoulder", "right_shoulder", "wrist", "overhead".
        masks: whether frames have masks: the number of the body at every pixel.
        shadow: whether the ray renderer draws hard shadows.

    Raises ConfigError for an option that cannot be.
    """

    name = "tabletop"

    def __init__(
        self,
        *,
        image_size: int = 128,
        renderer: str = "rays",
        cameras: Sequence[str] = ("front", "left_shoulder", "right_shoulder", "wrist"),
        masks: bool = True,
        shadow: bool = False,
    ) -> None:
        if isinstance(image_size, bool) or not isinstance(image_size, int) or not 8 <= image_size <= 2048:
            raise ConfigError(f"image_size must be a whole number from 8 to 2048, got {image_size!r}")
        self.image_size = image_size
        self.cameras = check_cameras(cameras)
        self._masks = masks
        self._shadow = shadow
        self._renderer = _make_renderer(renderer, image_size, shadow)
        self._infos: dict[str, TaskInfo] | None = None
        self._situation: Situation | None = None
        self._closed = False

    @property
    def tasks(self) -> Mapping[str, TaskInfo]:
        """The tasks, by name."""
        if self._infos is None:
            suites = {task: suite for suite, tasks in SUITES.items() for task in tasks}
            self._infos = {
                name: TaskInfo(name=name, variations=task.variations, suite=suites.get(name, ""))
                for name, task in TASKS.items()
            }
        return self._infos

    @property
    def situation(self) -> Situation:
        """Initial state of the current episode."""
        if self._situation is None:
            raise ConfigError("the tabletop has no episode yet; call reset first")
        return self._situation

    def describe(self) -> dict[str, Any]:
        """Settings that decide episodes and images: versions, generator revision, renderer, image size, cameras."""
        return {
            "world": self.name,
            "versions": versions("mujoco-core", "numpy") | {"tabletop": GENERATOR},
            "renderer": self._renderer.name,
            "shadow": self._shadow,
            "image_size": self.image_size,
            "cameras": list(self.cameras),
            "masks": self._masks,
            "max_steps": MAX_STEPS,
            "frame_seconds": FRAME_SECONDS,
        }

    def reset(self, task: str, variation: int, seed: int) -> Observation:
        """Start an episode. Chance comes from numpy's PCG64, seeded with task name, variation and seed."""
        if self._closed:
            raise ConfigError("this tabletop is closed; make another")
        if task not in TASKS:
            raise unknown_name("tabletop task", task, list(TASKS))
        made = TASKS[task]()
        for name, value, most in (("variation", variation, made.variations - 1), ("seed", seed, 2**63 - 1)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value <= most:
                raise ConfigError(f"{task}: {name} must be a whole number from 0 to {most}, got {value!r}")
        rng = np.random.Generator(np.random.PCG64([_task_number(task), int(variation), int(seed)]))
        self._scene: TaskScene = made.build(int(variation), rng)
        self._instructions = made.instructions(int(variation))
        self._sim = Simulation(compose(self._scene.mjcf))
        settle(self._sim)
        self._studio = Studio(
            self._sim.model, self._renderer, size=self.image_size, cameras=self.cameras, masks=self._masks
        )
        self._instants: list[Instant] = [self._sim.instant(velocities=np.zeros(7), ignore_collisions=True)]
        self._keys: list[int] = []
        self._steps = 0
        self._reason: Reason = ""
        self._situation = Situation(task=task, variation=int(variation), seed=int(seed))
        return self._observation()

    def reset_to(self, episode: Episode) -> Observation:
        """Start from where a recorded tabletop episode started, as its `situation.json` says."""
        require(episode, "recorded scenes", who="the tabletop")
        found = read_situation(episode.folder)
        where = episode.folder / SITUATION_FILE
        if found is None:
            raise ConfigError(
                f"{where} is missing, so the episode does not say where it started; "
                "demonstrations written by `mnprobe demos` have this file"
            )
        if found["world"] != self.name:
            raise ConfigError(f"{where}: is of world {found['world']!r}, this is {self.name!r}")
        made_by = found.get("versions", {}).get("tabletop")
        if made_by != GENERATOR:
            raise ConfigError(
                f"{where}: was made by revision {made_by!r} of the tabletop, this is {GENERATOR!r}: "
                "the same seed gives another scene. Make the demonstrations again."
            )
        if (found["task"], found["variation"]) != (episode.task, episode.variation):
            raise ConfigError(
                f"{where}: tells task {found['task']!r}, variation {found['variation']}, but the episode is "
                f"{episode.task!r}, variation {episode.variation}"
            )
        return self.reset(found["task"], found["variation"], found["seed"])

    def step(self, pose: KeyPose) -> StepResult:
        """Carry out one key pose."""
        _ = self.situation
        if self._reason:
            raise ConfigError(f"the episode is over ({self._reason}); call reset before the next step")
        self._steps += 1
        reached = False
        if refused := _refusal(pose):
            self._reason = refused
        else:
            motion = self._sim.carry_out(pose, self._solved)
            self._instants.extend(motion.instants)
            self._keys.append(len(self._instants) - 1)
            reached = motion.reached
            if motion.success:
                self._reason = "success"
            elif motion.broken:
                self._reason = "unreachable pose"
            elif motion.collided:
                self._reason = "collision"
            elif self._steps >= MAX_STEPS:
                self._reason = "step limit"
        return StepResult(
            observation=self._observation(), done=bool(self._reason), reason=self._reason, reached=reached
        )

    def frames(self, images: Mapping[str, Collection[int]] | None = None) -> Sequence[FrameData]:
        """All frames of the episode so far; images are drawn when they are looked at.

        `images` says which frames have images: camera -> frame numbers; all of all cameras when None.
        """
        self._check_images(images)
        return [
            self._studio.frame(
                instant, None if images is None else [name for name, chosen in images.items() if index in chosen]
            )
            for index, instant in enumerate(self._instants)
        ]

    @property
    def key_frames(self) -> tuple[int, ...]:
        """Frame numbers at which the executed key poses ended: what the keyframe rule finds in `frames()`."""
        _ = self.situation
        return tuple(self._keys)

    def expert(self) -> Sequence[KeyPose]:
        """Key poses that solve the present episode from its start."""
        _ = self.situation
        return self._scene.expert(self._sim)

    def close(self) -> None:
        """Give back the renderer; the tabletop cannot be reset after that."""
        if not self._closed:
            self._closed = True
            self._renderer.close()

    def _observation(self) -> Observation:
        return Observation(
            frame=self._studio.frame(self._instants[-1]), instructions=self._instructions, step=self._steps
        )

    def _solved(self) -> bool:
        self._scene.observe(self._sim)
        return self._scene.success(self._sim)

    def _check_images(self, images: Mapping[str, Collection[int]] | None) -> None:
        _ = self.situation
        last = len(self._instants) - 1
        for name, chosen in (images or {}).items():
            if name not in self.cameras:
                raise unknown_name("camera", name, list(self.cameras))
            for index in chosen:
                if not 0 <= index <= last:
                    raise ConfigError(f"images names frame {index}; the episode has frames 0 to {last}")


def _make_renderer(name: str, size: int, shadow: bool) -> Renderer:
    if name not in ("rays", "gl", "auto"):
        raise unknown_name("renderer", name, ["rays", "gl", "auto"])
    if name != "rays":
        from mnprobe.worlds.tabletop.gl import GLRenderer, probe_gl

        problem = probe_gl()
        if not problem:
            if shadow:
                raise ConfigError("shadow is an option of the ray renderer; take renderer='rays'")
            return GLRenderer(size)
        if name == "gl":
            raise ConfigError(
                f"renderer 'gl' does not work here: {problem}. Take renderer='rays', which needs no OpenGL"
            )
    return RayRenderer(shadow=shadow)


def _task_number(task: str) -> int:
    """A number of the task's name, the same everywhere and always."""
    return int.from_bytes(hashlib.sha256(task.encode()).digest()[:8], "big")


def _refusal(pose: KeyPose) -> Reason:
    """Why a key pose is not tried at all, or ''."""
    position, quaternion = np.asarray(pose.position, np.float64), np.asarray(pose.quaternion, np.float64)
    if position.shape != (3,) or quaternion.shape != (4,):
        return "invalid action"
    if not (np.isfinite(position).all() and abs(float(np.linalg.norm(quaternion)) - 1) <= 1e-3):
        return "invalid action"
    low, high = np.array(SCENE_BOUNDS[:3]) - _MARGIN, np.array(SCENE_BOUNDS[3:]) + _MARGIN
    low[2] = _LOWEST
    return "" if bool(((position >= low) & (position <= high)).all()) else "unreachable pose"
