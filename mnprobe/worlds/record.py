"""Recording a played episode: numbers, images and the initial situation."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mnprobe.core.errors import ConfigError, DataError
from mnprobe.core.provenance import versions
from mnprobe.data import FrameData, find_keyframes, write_episode
from mnprobe.data.low_dim import RandomState
from mnprobe.worlds.environment import Environment, Situation
from mnprobe.worlds.spread import spread_key_poses

__all__ = [
    "SITUATION_FILE",
    "played_keyframes",
    "read_situation",
    "record_episode",
    "situation_note",
    "video_instants",
]

SITUATION_FILE = "situation.json"
_SCHEMA = "mnprobe.situation/1"


def video_instants(frames: int, count: int) -> tuple[int, ...]:
    """`count` evenly spaced frame numbers of 0 .. frames - 1, first and last among them; all where there are fewer.

    >>> video_instants(61, 5), video_instants(3, 16), video_instants(9, 1), video_instants(9, 0)
    ((0, 15, 30, 45, 60), (0, 1, 2), (0,), ())
    """
    if count < 0:
        raise ConfigError(f"video frames must be 0 or more, got {count}")
    return tuple(sorted({int(instant) for instant in np.linspace(0, frames - 1, count).round()}))


def situation_note(world: Environment, situation: Situation, facts: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Content of `situation.json`: the situation, its origin, and `facts` about the episode.

    `Environment.reset_to` needs `world`, `task`, `variation` and `seed`. `versions` are those that the world
    describes itself with and mnprobe's; `renderer` is the world's, or "" where it does not tell one.
    """
    described = world.describe()
    found = described.get("versions")
    return {
        "schema": _SCHEMA,
        "world": world.name,
        "task": situation.task,
        "variation": situation.variation,
        "seed": situation.seed,
        "versions": versions() | (dict(found) if isinstance(found, Mapping) else {}),
        "renderer": str(described.get("renderer", "")),
    } | dict(facts or {})


def read_situation(folder: Path) -> dict[str, Any] | None:
    """What the `situation.json` of an episode's folder holds; None where there is none.

    Raises DataError, naming the file and the problem.
    """
    path = folder / SITUATION_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    try:
        situation = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(situation, dict) or situation.get("schema") != _SCHEMA:
        schema = situation.get("schema") if isinstance(situation, dict) else None
        raise DataError(f"{path}: its schema is {schema!r}; this version reads {_SCHEMA!r}")
    for name, kind in (("world", str), ("task", str), ("variation", int), ("seed", int)):
        if type(situation.get(name)) is not kind:
            raise DataError(f"{path}: {name} must be a {kind.__name__}, got {situation.get(name)!r}")
    return situation


def played_keyframes(frames: Sequence[FrameData]) -> tuple[int, ...]:
    """The keyframes that the ordinary rule finds in played frames; no image is looked at."""
    return find_keyframes(
        [float(frame.gripper_open) for frame in frames],
        np.array([frame.joint_velocities for frame in frames], dtype=np.float64),
    )


def record_episode(
    root: Path,
    world: Environment,
    situation: Situation,
    *,
    instructions: Sequence[str],
    episode: int,
    partition: str = "",
    video_frames: int = 16,
    video_camera: str = "front",
    facts: Mapping[str, Any] | None = None,
    key_poses: int | None = None,
    random_seed: RandomState | None = None,
) -> Path:
    """Write the last episode of `world` atomically in PerAct's layout.

    The numbers of all frames are written. Images: of every camera colour and depth at frame 0 and at every keyframe
    but the last, where a policy looks; of `video_camera` colour also at the last and at `video_frames` evenly spaced
    instants. A world with lazily rendered images renders no others. An episode that ended before
    anything was executed is written as two equal frames.

    Args:
        root: the dataset's folder.
        world: after the episode's last step.
        situation: initial state of the episode.
        instructions: paraphrases, the usual one first.
        episode: the N of `episode<N>`.
        partition: "train", "val", "test" or "".
        video_frames: 0 or more.
        video_camera: its name; passed over where the world has none of that name.
        facts: further entries of `situation.json`.
        key_poses: how many were executed. A world that has one frame for each and none of the way is thereby known,
            and gets a way (`spread_key_poses`), so that the keyframe rule finds them.
        random_seed: state of numpy's legacy generator that the scene was made from, where the world has one.

    Returns:
        The episode's folder.

    Raises:
        ConfigError: what `write_episode` refuses.
        DataError: when the episode exists already.
    """
    frames = list(world.frames())
    if len(frames) == 1:  # nothing could be executed: the hand stays, and that is the one keyframe
        frames *= 2
    elif key_poses is not None and len(frames) == key_poses + 1:
        frames = spread_key_poses(frames)
    keys = played_keyframes(frames)
    seen = {0, *keys[:-1]}
    video = {*video_instants(len(frames), video_frames), *seen, *keys}
    return write_episode(
        root,
        task=situation.task,
        variation=situation.variation,
        episode=episode,
        partition=partition,
        instructions=instructions,
        random_seed=random_seed,
        frames=[
            _with_images(frame, whole=index in seen, video=video_camera if index in video else None)
            for index, frame in enumerate(frames)
        ],
        notes={SITUATION_FILE: json.dumps(situation_note(world, situation, facts), indent=2, sort_keys=True) + "\n"},
    )


def _with_images(frame: FrameData, *, whole: bool, video: str | None) -> FrameData:
    """The frame with only the images that are to be written."""
    colour, depth = tuple(frame.rgb), tuple(frame.depth)  # names only: taking an image out may draw it
    if whole:
        return replace(
            frame,
            rgb={name: frame.rgb[name] for name in colour},
            depth={name: frame.depth[name] for name in depth},
            mask={},
        )
    shown = {video: frame.rgb[video]} if video is not None and video in colour else {}
    return replace(frame, rgb=shown, depth={}, mask={})
