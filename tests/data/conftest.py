"""Small demonstrations made by the writer, and pickles made by real pickling in a process of its own."""

import hashlib
import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnprobe.data import Camera, FrameData, look_at, pinhole, write_episode
from mnprobe.data.records import ArrayRecord, Record, make_array
from mnprobe.data.unpickle import load


def flat(value, path=""):
    """Every value with its place, type and exact bits, in rows that JSON can hold."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        native = value.astype(value.dtype.newbyteorder("="))
        yield path, native.dtype.str, list(native.shape), native.tobytes().hex()
    elif type(value).__name__ in ("Demo", "Observation"):
        yield path, type(value).__name__
        yield from flat(vars(value), path)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from flat(item, f"{path}/{key!r}")
    elif isinstance(value, list | tuple):
        yield path, type(value).__name__, len(value)
        for i, item in enumerate(value):
            yield from flat(item, f"{path}/{i}")
    elif isinstance(value, float):
        yield path, "float", value.hex()
    else:
        yield path, type(value).__name__, repr(value)


def digest(value):
    """Number of values, and a hash over all of them."""
    rows = sorted(json.dumps(row) for row in flat(value))
    return [len(rows), hashlib.sha256("\n".join(rows).encode()).hexdigest()]


def plain(value):
    """What the restricted reader gives, with records as objects and arrays, as free unpickling would give it."""
    if isinstance(value, ArrayRecord):
        return make_array(value)
    if isinstance(value, Record):
        made = type(value.kind.value, (), {})()
        vars(made).update({key: plain(item) for key, item in value.attributes.items()})
        return made
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(item) for item in value)
    return value


# Runs first in a process of its own: modules that only look like RLBench's.
STAND_INS = f"""
import hashlib, json, pickle, sys, types
import numpy as np

def module(name, **names):
    made = sys.modules[name] = types.ModuleType(name)
    vars(made).update(names)
    for value in names.values():
        value.__module__ = name

class Demo: pass
class Observation: pass
module("rlbench")
module("rlbench.backend")
module("rlbench.demo", Demo=Demo)
module("rlbench.backend.observation", Observation=Observation)
{inspect.getsource(flat)}
{inspect.getsource(digest)}
"""


@pytest.fixture(scope="session")
def digest_of_file() -> Callable[[Path], list[Any]]:
    """Canonical digest of a pickle file as the restricted reader reads it."""
    return lambda path: digest(plain(load(path, allow="demo")))


@pytest.fixture(scope="session")
def run_python() -> Callable[..., Any]:
    """Run Python text in its own process, after the stand-ins; returns what it printed as JSON."""

    def run(text: str, *arguments: object) -> Any:
        done = subprocess.run(
            [sys.executable, "-c", STAND_INS + text, *map(str, arguments)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="session")
def demo_facts(golden: Path) -> dict[str, Any]:
    """Facts about real demonstrations, measured with the published loaders."""
    facts: dict[str, Any] = json.loads((golden / "rlbench-demos.json").read_text())
    return facts


@pytest.fixture(scope="session")
def make_frames() -> Callable[..., list[FrameData]]:
    """Frames of a made-up episode: moves, closes the gripper at two thirds, moves on."""

    def make(
        count: int = 6,
        size: tuple[int, int] = (4, 6),
        cameras: tuple[str, ...] = ("front", "wrist"),
        *,
        seed: int = 0,
        mask: bool = False,
        ignore: bool = True,
        near: float = 0.01,
        far: float = 3.0,
    ) -> list[FrameData]:
        draw = np.random.default_rng(seed)
        frames = []
        for index in range(count):
            quaternion = draw.normal(size=4)
            frames.append(
                FrameData(
                    gripper_pose=[*draw.normal(size=3), *(quaternion / np.linalg.norm(quaternion))],
                    gripper_open=float(index < 2 * count // 3),
                    joint_velocities=0.5 + draw.random(7),
                    gripper_joint_positions=draw.random(2) / 25,
                    joint_positions=draw.normal(size=7),
                    ignore_collisions=float(draw.integers(2)) if ignore else None,
                    cameras={
                        name: Camera(
                            name=name,
                            intrinsics=pinhole(40, *size),
                            extrinsics=look_at([1, 0.1 * i, 1.5], [0, 0, 0.8]),
                            near=near,
                            far=far,
                        )
                        for i, name in enumerate(cameras)
                    },
                    rgb={name: draw.integers(0, 256, (*size, 3), dtype=np.uint8) for name in cameras},
                    depth={name: draw.uniform(near, far, size) for name in cameras},
                    mask={name: draw.integers(0, 2**24, size) for name in cameras} if mask else {},
                )
            )
        return frames

    return make


@pytest.fixture
def write(tmp_path: Path, make_frames: Callable[..., list[FrameData]]) -> Callable[..., Path]:
    """Write a made-up episode below `tmp_path`; keyword arguments go to `write_episode`."""

    def write_one(**changes: Any) -> Path:
        arguments: dict[str, Any] = {
            "task": "open_drawer",
            "variation": 1,
            "episode": 0,
            "instructions": ["open the middle drawer"],
            "partition": "train",
        } | changes
        if "frames" not in arguments:
            arguments["frames"] = make_frames(seed=arguments["episode"])
        return write_episode(tmp_path, **arguments)

    return write_one
