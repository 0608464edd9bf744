"""The live RLBench simulator as a world, as PerAct, RVT and ARP use it."""

import os
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from mnprobe.core.errors import ConfigError, WorldError
from mnprobe.core.provenance import versions
from mnprobe.core.registry import unknown_name
from mnprobe.data import TASKS, Episode, FrameData, find_keyframes, require
from mnprobe.data.camera import CAMERA_ORDER
from mnprobe.data.low_dim import RandomState
from mnprobe.worlds.environment import MAX_STEPS, KeyPose, Observation, Reason, StepResult, TaskInfo
from mnprobe.worlds.parallel import hashing
from mnprobe.worlds.record import read_situation
from mnprobe.worlds.rlbench_action import action_for, has_reached, is_well_formed, reason_for
from mnprobe.worlds.rlbench_frames import frame_from
from mnprobe.worlds.rlbench_identity import identify_pyrep, identify_rlbench
from mnprobe.worlds.rlbench_install import require_plain_randomness, require_rlbench
from mnprobe.worlds.rlbench_random import LegacyStream, same_state
from mnprobe.worlds.rlbench_scene import Collidable, state_note
from mnprobe.worlds.rlbench_simulator import RLBenchOptions, Simulator

__all__ = ["RLBench"]

_TASKS = {name: TaskInfo(name=name, variations=task.variations) for name, task in TASKS.items()}
_HASHED = ("push_buttons",)  # whose scenes depend on the order of a set of texts
_NO_DEMO = "Could not collect demos"  # how RLBench's RuntimeError begins when no attempt of its expert succeeds


class RLBench:
    """The 18 tasks of the paper in RLBench itself: an `Environment` (mnprobe.worlds.environment).

    Making one launches CoppeliaSim in this process; `close()` shuts it down. docs/rlbench.md tells what must be
    installed, and which of its behaviour has been seen in a real simulator.

    Two things differ from the embedded world. `frames()` holds the start and one frame a step, since RLBench's step
    shows nothing of the way: every frame but the first is a key pose, and the keyframe rule of `mnprobe.data`, which
    looks at the way, finds only some of them. And the planner samples, so that equal actions can lead to different
    motions; making a scene asks it too, so that equal seeds give the equal scene only as far as it gives the same
    answers. `notes` says what is known to be different.

    Args:
        dataset_root, headless, image_size, cameras, max_steps, workspace: see `RLBenchOptions`.

    Raises:
        ConfigError: if a part of the simulator is missing or wrong (all of them are named), an option cannot be, or
            a simulator runs in this process already.
        WorldError: from any method, if RLBench raises what is no failure of a motion. It is the cause; the simulator
            has been shut down then.
    """

    name = "rlbench"
    _warned = False

    def __init__(
        self,
        *,
        dataset_root: Path | str | None = None,
        headless: bool = True,
        image_size: int = 128,
        cameras: Sequence[str] = CAMERA_ORDER[:4],
        max_steps: int = MAX_STEPS,
        workspace: Sequence[float] | None = None,
    ) -> None:
        self.options = RLBenchOptions(
            dataset_root=dataset_root,
            headless=headless,
            image_size=image_size,
            cameras=cameras,
            max_steps=max_steps,
            workspace=workspace,
        )
        require_rlbench()
        self._simulator = Simulator(self.options)
        self._task: Any = None
        self._task_name = ""
        self._frames: list[FrameData] = []
        self._observation: Observation | None = None
        self._done = False
        self._start: RandomState | None = None
        self._stream = LegacyStream.from_seed(0)
        self._collidable: Collidable = {}
        self._notes: tuple[str, ...] = ()

    @property
    def tasks(self) -> Mapping[str, TaskInfo]:
        """The 18 tasks of the paper, by module name."""
        return dict(_TASKS)

    @property
    def random_seed(self) -> RandomState | None:
        """State of numpy's legacy generator from which the present scene was made; None before the first reset.

        Given to `write_episode`, it lets `reset_to` play the same scene again.
        """
        return self._start

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes about the scene of the current episode: that it is not, or may not be, the requested one.

        `mnprobe rollout` writes them to the episode and to the column `note` of outcomes.csv.
        """
        return self._notes

    def describe(self) -> dict[str, Any]:
        """What decides the episodes: versions and commits, renderer, cameras, sizes, planner, workspace, hashing."""
        root = os.environ.get("COPPELIASIM_ROOT", "")
        box = self._simulator.workspace
        return {
            "world": self.name,
            "versions": {
                **versions("numpy"),
                "pyrep": _version("pyrep"),
                "rlbench": _version("rlbench"),
                "coppeliasim": Path(root).name,
                **identify_rlbench(),
                **identify_pyrep(),
            },
            "renderer": "OPENGL",
            "image_size": self.options.image_size,
            "cameras": list(self.options.cameras),
            "arm": "EndEffectorPoseViaPlanning",
            "gripper": "Discrete",
            "workspace": {"low": box.low.tolist(), "high": box.high.tolist()},
            "max_steps": self.options.max_steps,
            **hashing(),
        }

    def reset(self, task: str, variation: int, seed: int) -> Observation:
        """Start an episode of the scene that `numpy.random.seed(seed)` gives.

        Same arguments give the same scene with the same simulator and task code, as far as the planner, which RLBench
        asks whether a placement can be reached, gives the same answers. In push_buttons the colours of buttons
        that are not to be pushed depend on Python's hash seed besides: set PYTHONHASHSEED=0 before Python starts
        (rollout's worker processes have it); without it a warning says so once, and `notes` in every episode.

        Raises ConfigError for an unknown task, a variation it does not have, or a seed outside 0 .. 2^32 - 1.
        """
        self._check_place(task, variation)
        _check_whole("seed", seed, 2**32 - 1)
        return self._begin(task, variation, LegacyStream.from_seed(seed), None)

    def reset_to(self, episode: Episode) -> Observation:
        """Start from the scene of a recorded demonstration.

        RLBench takes no object poses: the scene is made again from the state of numpy's legacy generator that the
        demonstration carries, which needs the simulator and task code it was recorded with. An episode that mnprobe
        played in this world tells its seed instead, in its `situation.json`. Where the recording holds the poses of
        the task's objects (`task_low_dim_state`), they are compared with the scene, and `notes` tells a difference.

        Raises ConfigError if the episode carries neither, or its task or variation is not RLBench's; DataError if a
        file of it is damaged.
        """
        recorded = require(episode, "recorded scenes", who="RLBench")
        self._check_place(episode.task, episode.variation)
        state = recorded.random_seed
        if state is not None:
            observation = self._begin(episode.task, episode.variation, LegacyStream(state), state)
        else:
            note = read_situation(episode.folder) or {}
            if note.get("world") != self.name or note["seed"] < 0:
                raise ConfigError(
                    f"{recorded.low_dim_file} has no random_seed, so the scene of {episode.id} cannot be made again; "
                    "reset to a seed instead, or use demonstrations that RLBench recorded"
                )
            observation = self.reset(episode.task, episode.variation, note["seed"])
        self._note(state_note(recorded.task_low_dim_state, observation.frame.task_low_dim_state))
        return observation

    def step(self, pose: KeyPose) -> StepResult:
        """Plan and execute one key pose.

        The position is clipped into RLBench's workspace, the quaternion normalised. What the reference evaluators
        count as failed ends the episode with the observation from before: "invalid action" if the pose is malformed
        or RLBench refuses it, "unreachable pose" if no path to it was found. A pose at which the hand is already is
        requested 0.1 mm away from it, since PyRep gives NaN for a path of no length.

        Raises ConfigError before a reset and after the episode's end.
        """
        before = self._playing("step")
        if not is_well_formed(pose):
            return self._fail(before, "invalid action")
        with self._simulator.guard(f"executing key pose {before.step + 1} of {self._task_name}"):
            try:
                with self._stream.running():
                    action = action_for(pose, self._simulator.workspace, hand=before.frame.gripper_pose)
                    seen, reward, terminate = self._task.step(action)
            except self._simulator.api.failures as error:
                return self._fail(before, reason_for(error, self._simulator.api.unreachable))
            frame = frame_from(seen, self.options.cameras, ignore_collisions=pose.ignore_collisions)
            success = float(reward) >= 1
            if terminate and not success:
                raise WorldError(
                    f"RLBench ended {self._task_name} without success, which none of the 18 tasks does; "
                    "is it a changed task? The simulator was shut down"
                )
        after = Observation(frame=frame, instructions=before.instructions, step=before.step + 1)
        self._frames.append(frame)
        reached = has_reached(pose, frame.gripper_pose)
        if success:
            return self._end(after, "success", reached=reached)
        if after.step >= self.options.max_steps:
            return self._end(after, "step limit", reached=reached)
        self._observation = after
        return StepResult(observation=after, done=False, reason="", reached=reached)

    def frames(self) -> Sequence[FrameData]:
        """The start, then what each step returned (after a failed one the frame before, again); nothing of the way."""
        return tuple(self._frames)

    def expert(self) -> Sequence[KeyPose]:
        """Key poses of RLBench's own demonstration of the present scene, recorded live; then the scene is made again.

        RLBench's expert has one attempt, and nothing is rendered for it.

        Raises ConfigError after the first step, if the expert fails at this scene, and if what it recorded is another
        scene. The world can be used further, in general with the same scene.
        """
        before = self._playing("expert")
        start = self._start
        if before.step or start is None:
            raise ConfigError("RLBench's expert starts from a fresh scene: ask for it after reset and before any step")
        failed = f"RLBench's expert did not solve this scene of {self._task_name}"
        remedy = "so there are no key poses for it; try another seed or demonstration"
        with self._simulator.guard(f"recording a live demonstration of {self._task_name}"):
            demo, error = self._record(start)
            try:
                self._simulator.restore_collidable(self._collidable)
                self._stream = LegacyStream(start)
                with self._stream.running():
                    _, seen = self._task.reset()
            except self._simulator.api.task_error as placing:
                self._forget()
                error = placing
            else:
                frame = frame_from(seen, self.options.cameras, ignore_collisions=False)
                self._frames = [frame]
                self._observation = Observation(frame=frame, instructions=before.instructions, step=0)
            poses = () if demo is None else _key_poses(demo)
        if error is not None:
            raise ConfigError(f"{failed} ({type(error).__name__}: {error}), {remedy}") from error
        found = getattr(demo, "random_seed", None)
        if found is None or not same_state(start, found):
            raise ConfigError(f"{failed} at its first attempt and recorded another one, {remedy}")
        self._compare(before, demo, failed=failed, remedy=remedy)
        return poses

    def _record(self, start: RandomState) -> tuple[Any, Exception | None]:
        """RLBench's demonstration of the scene from `start`, without images; or why there is none."""
        try:
            with self._simulator.without_images(), LegacyStream(start).running():
                return self._task.get_demos(1, live_demos=True, max_attempts=1)[0], None
        except self._simulator.api.task_error as error:  # the scene could not be placed this time
            return None, error
        except RuntimeError as error:
            if not str(error).startswith(_NO_DEMO):
                raise
            return None, error

    def _compare(self, before: Observation, demo: Any, *, failed: str, remedy: str) -> None:
        """Record that the restored scene differs; ConfigError if that of the demonstration differed."""
        present = self._frames[0].task_low_dim_state
        recorded = getattr(demo[0], "task_low_dim_state", None)
        if recorded is not None and present is not None and (note := state_note(recorded, present)):
            raise ConfigError(f"{failed} but another one: {note}. The key poses are not for it, {remedy}")
        earlier = before.frame.task_low_dim_state
        if earlier is not None and present is not None:
            self._note(state_note(earlier, present, of="that of the first reset from the same state"))

    def _note(self, text: str) -> None:
        if text and text not in self._notes:
            self._notes += (text,)

    def close(self) -> None:
        """Shut down the simulator; further calls have no effect."""
        self._forget()
        self._simulator.close()

    def _begin(self, task: str, variation: int, stream: LegacyStream, state: RandomState | None) -> Observation:
        """Make a scene: with `state` None the stream's draws begin before set_variation, else `state` is set after."""
        if self._simulator.closed:
            raise ConfigError("this RLBench world is closed; make a new one")
        require_plain_randomness()
        self._forget()
        with self._simulator.guard(f"resetting {task}, variation {variation}"):
            self._simulator.restore_collidable(self._collidable)
            if self._task_name != task:
                self._task_name = ""
                with LegacyStream.from_seed(0).running():  # the known forks draw nothing here: if one does, the same
                    self._task = self._simulator.environment.get_task(self._simulator.api.task_class(task))
                self._task_name = task
            with stream.running():
                self._task.set_variation(variation)
                start = stream.note() if state is None else state
            stream = LegacyStream(start)
            with stream.running():
                descriptions, seen = self._task.reset()
            self._collidable = self._simulator.collidable()  # as the task wants them, before any motion
            frame = frame_from(seen, self.options.cameras, ignore_collisions=False)
            observation = Observation(frame=frame, instructions=_texts(descriptions), step=0)
        self._stream, self._start = stream, start
        self._frames, self._observation = [frame], observation
        self._note_hashing(task)
        return observation

    def _note_hashing(self, task: str) -> None:
        how = hashing()
        seed = how["PYTHONHASHSEED"]
        if task not in _HASHED or not how["hash_randomization"] or (seed.isdecimal() and int(seed)):
            return
        text = (
            f"scenes of {task} depend on Python's hash seed, which differs from process to process here; start Python "
            "with PYTHONHASHSEED=0 for scenes that can be made again: `PYTHONHASHSEED=0 mnprobe ...`"
        )
        self._note(text)
        if not self._warned:
            self._warned = True
            warnings.warn(text, UserWarning, stacklevel=4)

    def _forget(self) -> None:
        self._frames, self._observation, self._done, self._start, self._notes = [], None, False, None, ()

    def _playing(self, what: str) -> Observation:
        if self._simulator.closed:
            raise ConfigError(f"{what}: this RLBench world is closed; make a new one")
        if self._observation is None:
            raise ConfigError(f"{what}: no episode has been started; call reset or reset_to first")
        if self._done:
            raise ConfigError(f"{what}: the episode is over; call reset or reset_to")
        return self._observation

    def _fail(self, before: Observation, reason: Reason) -> StepResult:
        self._frames.append(before.frame)
        return self._end(before, reason, reached=False)

    def _end(self, observation: Observation, reason: Reason, *, reached: bool) -> StepResult:
        self._observation, self._done = observation, True
        return StepResult(observation=observation, done=True, reason=reason, reached=reached)

    def _check_place(self, task: str, variation: int) -> None:
        if task not in _TASKS:
            raise unknown_name("RLBench task", task, list(_TASKS))
        _check_whole(f"variation of {task}", variation, _TASKS[task].variations - 1)


def _check_whole(what: str, value: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise ConfigError(f"{what} must be a whole number from 0 to {most}, got {value!r}")


def _texts(descriptions: Any) -> tuple[str, ...]:
    texts = tuple(descriptions) if isinstance(descriptions, list | tuple) else ()
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise WorldError(f"RLBench's reset must return a list of texts first, got a {type(descriptions).__name__}")
    return texts


def _key_poses(demo: Any) -> tuple[KeyPose, ...]:
    """The targets of a live demonstration's keyframes, each with the collision flag of its own frame (as ARP's)."""
    observations = [demo[index] for index in range(len(demo))]
    grippers = [item.gripper_open for item in observations]
    keys = find_keyframes(grippers, [item.joint_velocities for item in observations])
    return tuple(
        KeyPose.from_action(
            [
                *observations[key].gripper_pose,
                float(observations[key].gripper_open),
                float(observations[key].ignore_collisions),
            ]
        )
        for key in keys
    )


def _version(package: str) -> str:
    return str(getattr(import_module(package), "__version__", "unknown"))
