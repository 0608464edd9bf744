"""The environment: versions, importable packages, devices, threads and disk.

Packages are imported in child processes, so that a broken package cannot stop the calling process.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mnprobe.core.provenance import versions

__all__ = [
    "NEEDED",
    "OPTIONAL",
    "Part",
    "devices",
    "find_programs",
    "machine",
    "state_of_parts",
    "usable_cpus",
    "with_variables",
]

_SECONDS = 120


@dataclass(frozen=True)
class Part:
    """A package: its name on the index, its module, its use in mnprobe, and its installation command."""

    package: str
    module: str
    use: str = ""
    get: str = ""


_MODULES = {
    "scikit-learn": "sklearn",
    "pillow": "PIL",
    "tomli-w": "tomli_w",
    "lazy-loader": "lazy_loader",
}
_NAMES = (
    *("torch", "numpy", "scipy", "scikit-learn", "pandas", "matplotlib", "seaborn", "openTSNE", "h5py", "safetensors"),
    *("pillow", "ftfy", "jinja2", "jaxtyping", "joblib", "rich", "tomli-w", "typer"),
    *("plotly", "tensorboardX", "filelock", "lazy-loader"),
)

NEEDED = tuple(Part(name, _MODULES.get(name, name), "needed", "pip install mnprobe") for name in _NAMES)
"""Required packages, as declared by mnprobe's metadata."""

OPTIONAL = (
    Part("mujoco-core", "mujoco", "the tabletop (demo, demos, rollout)", "pip install 'mnprobe[tabletop]'"),
    Part("pyarrow", "pyarrow", "LeRobot datasets (--data lerobot:FOLDER)", "pip install 'mnprobe[data]'"),
    Part("av", "av", "videos (--data, recognize --videos)", "pip install 'mnprobe[data]'"),
    Part(
        "transformers", "transformers", "models of transformers (extract --model hf:...)", "pip install 'mnprobe[hf]'"
    ),
    Part("tensorboard", "tensorboard", "to look at training curves", "pip install tensorboard"),
    Part("pytest", "pytest", "the tests", "pip install 'mnprobe[dev]'"),
    Part("hypothesis", "hypothesis", "the tests", "pip install 'mnprobe[dev]'"),
    Part("beartype", "beartype", "the tests", "pip install 'mnprobe[dev]'"),
    Part("faiss-cpu", "faiss", "the benchmarks", "pip install 'mnprobe[bench]'"),
)
"""Optional packages for some commands, the tests or the benchmarks."""

_PROGRAMS = {
    "chromium": (
        ("chromium", "chromium-browser", "google-chrome", "chrome"),
        "the tests of the report",
        "apt-get install chromium (Debian), or your system's Chromium or Chrome",
    ),
}
_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "MNPROBE_PRODUCTS")

_CHILD_VARIABLES = {
    "MUJOCO_GL": "disable",
    "PYTHONIOENCODING": "utf-8:replace",
}  # the same setting as in mnprobe's own import of MuJoCo

_IMPORT = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    print(json.dumps(name), flush=True)
"""

_DEVICES = """
import json, torch
found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
print(json.dumps({
    "cuda": [{"name": one.name, "memory_gib": round(one.total_memory / 2**30, 1)} for one in found],
    "cuda_built_for": torch.version.cuda,
    "torch_threads": torch.get_num_threads(),
    "torch_interop_threads": torch.get_num_interop_threads(),
}))
"""


def usable_cpus() -> int:
    """Processors that this process may use.

    >>> usable_cpus() >= 1
    True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def with_variables(**values: str) -> Iterator[None]:
    """Set environment variables inside the context, and restore them afterwards.

    >>> with with_variables(MNPROBE_EXAMPLE="1"):
    ...     os.environ["MNPROBE_EXAMPLE"]
    '1'
    >>> "MNPROBE_EXAMPLE" in os.environ
    False
    """
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def machine(folder: Path = Path()) -> dict[str, Any]:
    """Python, platform, cores, memory, thread variables, and free disk space at `folder`."""
    disk = shutil.disk_usage(folder)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "usable_cpus": usable_cpus(),
        "memory_gib": _memory(),
        "free_disk_gib": round(disk.free / 2**30, 1),
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


def state_of_parts(parts: Sequence[Part]) -> list[dict[str, str]]:
    """State of each part: its version ('absent' if not installed), and 'ok' or the import error."""
    numbers = versions(*(part.package for part in parts))
    there = [part.module for part in parts if _present(part.module)]
    problems = _problems(there)
    states = []
    for part in parts:
        state = {"name": part.package, "version": numbers[part.package], "use": part.use}
        if part.module not in there:
            state |= {"version": "absent", "state": "absent", "get": part.get}
        elif part.module in problems:
            state |= {"state": f"cannot be imported: {problems[part.module]}", "get": part.get}
        else:
            state |= {"state": "ok"}
        states.append(state)
    return states


def find_programs() -> list[dict[str, str]]:
    """Find the external programs that parts of the project use."""
    programs = []
    for name, (names, use, get) in _PROGRAMS.items():
        there = next((program for program in names if shutil.which(program)), None)
        state = {"name": name, "version": there or "absent", "use": use, "state": "ok" if there else "absent"}
        programs.append(state | ({} if there else {"get": get}))
    return programs


def devices() -> dict[str, Any]:
    """Query CUDA devices, their memory and torch's threads in a child process; `problem` if torch fails."""
    done = _child(_DEVICES, ())
    if done.returncode == 0:
        answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return answer | {"problem": ""}
    return {"cuda": [], "problem": f"torch cannot be asked: {_last_line(done)}"}


def _present(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _problems(modules: Sequence[str]) -> dict[str, str]:
    """Modules whose import fails, each with the last line of its output."""
    left = list(modules)
    problems: dict[str, str] = {}
    while left:
        done = _child(_IMPORT, left)
        fine = [json.loads(line) for line in done.stdout.splitlines() if line in {json.dumps(name) for name in left}]
        left = [name for name in left if name not in fine]
        if done.returncode != 0 and left:  # the first unreported module ended the child process
            problems[left.pop(0)] = _last_line(done)
        elif done.returncode == 0:
            break
    return problems


def _child(code: str, arguments: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", code, *arguments]
    try:
        return subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=_SECONDS,
            env=os.environ | _CHILD_VARIABLES,
        )
    except subprocess.TimeoutExpired as error:
        out = error.stdout or b""
        text = out.decode(errors="replace") if isinstance(out, bytes) else out
        return subprocess.CompletedProcess(command, 1, text, f"no answer within {_SECONDS} seconds")


def _last_line(done: "subprocess.CompletedProcess[str]") -> str:
    lines = done.stderr.strip().splitlines()
    text = lines[-1].strip() if lines else f"the process ended with code {done.returncode}"
    return text.replace(str(Path.home()), "~")


def _memory() -> float | None:
    """Memory of the machine in GiB, if the system reports it."""
    names = os.sysconf_names if hasattr(os, "sysconf_names") else {}
    if not {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= set(names):
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
