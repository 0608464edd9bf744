"""Fixtures shared by all rooms: golden files, real demonstrations where they are, small written ones everywhere."""

import multiprocessing
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import FunctionType

import hypothesis
import jaxtyping
import numpy as np
import pytest

from mnprobe.data import Camera, FrameData, look_at, pinhole, write_episode

REPOSITORY = Path(__file__).resolve().parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tensors are tiny here: more threads only wait for each other
os.environ.setdefault("LOKY_MAX_CPU_COUNT", "1")  # not a process per core by default: each imports torch
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a suite in the background of a shell: tests send this signal
    signal.signal(signal.SIGINT, signal.default_int_handler)

# One tree of code, one result: examples follow from the test. `--hypothesis-profile random` draws others.
hypothesis.settings.register_profile("repeatable", derandomize=True, database=None)
hypothesis.settings.register_profile("random", derandomize=False)
hypothesis.settings.load_profile("repeatable")

_JAXTYPED = jaxtyping.jaxtyped
_SHAPED = {np.ndarray}
_PLAIN = {str, int, bool, type(None)}


def _kind(value):
    """All of a value that a check of its annotation can depend on; equal to nothing where that is not known."""
    made = type(value)
    if made in _SHAPED:
        return made, value.dtype, value.shape
    if made in _PLAIN:
        return made, value
    if isinstance(value, tuple | list) and len(value) < 10:
        return made, *map(_kind, value)
    if isinstance(value, dict) and len(value) < 10:
        return made, *((_kind(key), _kind(item)) for key, item in value.items())
    return object() if hasattr(made, "__len__") or hasattr(made, "shape") else made


def _jaxtyped(fn=None, *, typechecker=None):
    """Check a function once for each combination of types, shapes and small values; the checks of a step of a small
    fit take longer than the step, and a fit has hundreds of them."""
    if fn is None:
        import torch  # not before OMP_NUM_THREADS is set

        _SHAPED.update((torch.Tensor, torch.nn.Parameter))
        return lambda fn: _jaxtyped(fn, typechecker=typechecker)
    if isinstance(fn, type):
        return _JAXTYPED(fn, typechecker=typechecker)
    known, given = {}, []

    def result(*args, **kwargs):
        return given.pop() if given else fn(*args, **kwargs)

    named = FunctionType(result.__code__, fn.__globals__, fn.__name__, None, result.__closure__)
    check = _JAXTYPED(wraps(fn)(named), typechecker=typechecker)

    @wraps(fn)
    def call(*args, **kwargs):
        kind = (*map(_kind, args), _kind(kwargs) if kwargs else None)
        if kind not in known:
            out = check(*args, **kwargs)
        else:
            out = fn(*args, **kwargs)
            if _kind(out) in known[kind]:
                return out
            given.append(out)
            try:
                check(*args, **kwargs)
            finally:
                given.clear()
        if len(known) < 1000:
            known.setdefault(kind, set()).add(_kind(out))
        return out

    return call


jaxtyping.jaxtyped = _jaxtyped  # as modules that --jaxtyping-packages names find it

CAMERAS = {
    "front": [1.2, 0.1, 1.6],
    "left_shoulder": [-0.4, 0.9, 1.7],
    "right_shoulder": [-0.4, -0.9, 1.7],
    "wrist": [0.3, 0.2, 1.5],
}


LONGEST = ("tests/cli/test_demo.py", "tests/test_docs.py", "tests/features/test_extract.py", "tests/cli/test_main.py")


def pytest_collection_modifyitems(items):
    """Put the longest files first: a file goes to one process, and the others would wait for the last one."""
    items.sort(
        key=lambda item: LONGEST.index(file) if (file := item.nodeid.split("::")[0]) in LONGEST else len(LONGEST)
    )


@pytest.fixture
def largest_file(monkeypatch):
    """Context in which files of more than this many bytes meet a full disk; no compiled module is written meanwhile."""

    @contextmanager
    def limit(size):
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit


@pytest.fixture
def short_fits(monkeypatch):
    """End fits after 150 steps where their number is left to the rule; for tests of what is made of fitted heads."""
    from mnprobe.probe.fitting import Plateau

    monkeypatch.setattr(Plateau, "LEAST", 100)
    monkeypatch.setattr(Plateau, "GAIN", float("inf"))


MEMBER = """
import os, runpy, sys
os.environ.update(variables)
for number, path in ((1, out), (2, errors)):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
sys.argv = command[1:] if command[0] == "-m" else command
try:
    if command[0] == "-m":
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(command[0], run_name="__main__")
finally:
    sys.stdout.flush()
    sys.stderr.flush()
"""


@pytest.fixture(scope="session")
def in_two_processes(tmp_path_factory):
    """Run a Python command twice at once, as torchrun would, in forks of a process that has imported torch once."""
    import torch.distributed as dist

    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["torch.distributed", "mnprobe.features", "mnprobe.training"])
    folder = tmp_path_factory.mktemp("team")
    member = folder / "member.py"
    member.write_text(MEMBER)

    def run(*command, timeout=300):
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        team = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
        team |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0", "OMP_NUM_THREADS": "1"}
        place = Path(tempfile.mkdtemp(dir=folder))
        processes = []
        for rank in ("0", "1"):
            given = {"command": list(map(str, command)), "variables": team | {"RANK": rank, "LOCAL_RANK": rank}}
            given |= {"out": str(place / f"out{rank}"), "errors": str(place / f"errors{rank}")}
            processes.append(forks.Process(target=runpy.run_path, args=(str(member), given)))
        try:
            for process in processes:
                process.start()
            for process in processes:
                process.join(timeout)
        finally:
            for process in processes:
                process.kill()
                process.join()
        code = max(abs(process.exitcode) for process in processes)
        said, errors = ("".join((place / f"{name}{rank}").read_text() for rank in (0, 1)) for name in ("out", "errors"))
        return subprocess.CompletedProcess(command, code, said, errors)

    return run


@pytest.fixture(scope="session")
def write_videos():
    """Write a.mp4 and b.mp4 of 12 ever lighter frames, and the table as episodes.csv; return the folder."""
    import av

    def write(folder, table):
        for name in ("a", "b"):
            with av.open(str(folder / f"{name}.mp4"), "w") as container:
                stream = container.add_stream("libx264", rate=10)
                stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
                for number in range(12):
                    image = np.full((32, 48, 3), 20 * number, np.uint8)
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
                container.mux(stream.encode(None))
        (folder / "episodes.csv").write_text(table)
        return folder

    return write


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of measured inputs and outputs that the suite carries."""
    return REPOSITORY / "tests" / "golden"


@pytest.fixture(scope="session")
def rlbench_data() -> Path:
    """Real RLBench demonstrations, which their licence keeps out of the repository; skips where they are absent."""
    folder = Path(os.environ.get("MNPROBE_RLBENCH_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "rlbench").is_dir():
        pytest.skip(f"real RLBench demonstrations are not at {folder}; set MNPROBE_RLBENCH_DATA to their folder")
    return folder


def _frames(seed, count, size=16):
    generator = np.random.default_rng(seed)
    cameras = {
        name: Camera(
            name=name, intrinsics=pinhole(60, size, size), extrinsics=look_at(eye, [0.2, 0, 0.9]), near=0.01, far=4.5
        )
        for name, eye in CAMERAS.items()
    }
    for index in range(count):
        yield FrameData(
            gripper_pose=[0.2 + 0.01 * index, 0.02 * seed, 1.0, 0, 0, 0, 1],
            gripper_open=float(index < count // 2),
            joint_velocities=[0.5] * 7,
            gripper_joint_positions=[0.04, 0.03],
            ignore_collisions=float(index % 2),
            cameras=cameras,
            rgb={name: generator.integers(0, 256, (size, size, 3), dtype=np.uint8) for name in cameras},
            depth={name: generator.uniform(0.6, 1.8, (size, size)) for name in cameras},
        )


@pytest.fixture(scope="session")
def write_demo():
    """Write one synthetic episode: task, variation, partition, number, instruction, frames."""

    def write(root, task, variation, partition, number, instruction, count, *, size=16, images="all"):
        return write_episode(
            root,
            task=task,
            variation=variation,
            episode=number,
            instructions=[instruction],
            partition=partition,
            frames=_frames(variation + 10 * number, count, size),
            images=images,
        )

    return write
