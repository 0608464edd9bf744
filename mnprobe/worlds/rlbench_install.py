"""Finds the live simulator's parts, the wrong package that bears the name of one, and the RLBench that lacks tasks."""

import importlib
import os
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from mnprobe.core.errors import ConfigError
from mnprobe.data import TASKS
from mnprobe.worlds.rlbench_display import find_display

__all__ = ["find_rlbench", "is_simulator_pyrep", "require_plain_randomness", "require_rlbench"]

_HOW = "docs/rlbench.md gives the installation"
_OLDEST_PYREP = (4, 1, 0, 2)  # what the fork asks for when it is imported
_RANDOMNESS = "RLBENCH_ENHANCED_RANDOMNESS"


def is_simulator_pyrep(module: ModuleType) -> bool:
    """Whether `module` is the simulator's PyRep: it has a class `PyRep` and a version of four parts (4.1.0.3).

    The package called pyrep on the Python package index is a library for file repositories. It is imported under the
    same name, so that "import pyrep works" proves nothing (specs/rlbench.md vi).
    """
    version = str(getattr(module, "__version__", ""))
    return isinstance(getattr(module, "PyRep", None), type) and len(version.split(".")) == 4


def find_rlbench() -> dict[str, str]:
    """State of the simulator's parts in words, one entry a part, starting with 'ok' where it is usable.

    The parts are CoppeliaSim, PyRep, RLBench and the X display, and "randomness" where a variable disturbs it. RLBench
    itself is not imported for it.
    """
    parts = {"CoppeliaSim": _coppeliasim(), "PyRep": _pyrep(), "RLBench": _rlbench(), "X display": find_display()}
    if disturbed := _disturbed():
        parts["randomness"] = f"wrong: {disturbed}"
    return parts


def require_rlbench() -> None:
    """Raise ConfigError that names each missing or wrong part of the live simulator; return when all are there."""
    wrong = {part: state for part, state in find_rlbench().items() if not state.startswith("ok")}
    if wrong:
        parts = "; ".join(f"{part}: {state}" for part, state in wrong.items())
        raise ConfigError(f"the live RLBench simulator is not usable here. {parts}. {_HOW}")


def require_plain_randomness() -> None:
    """Raise ConfigError if the forks' RLBENCH_ENHANCED_RANDOMNESS is on: scenes could not be reproduced then."""
    if disturbed := _disturbed():
        raise ConfigError(f"{disturbed}. {_HOW}")


def _disturbed() -> str:
    value = os.environ.get(_RANDOMNESS, "")
    if value in ("", "0"):
        return ""
    return (
        f"{_RANDOMNESS} is {value!r}: it adds random draws, so that no recorded scene can be made again; "
        "unset it, or set it to 0, before Python starts"
    )


def _coppeliasim() -> str:
    root = os.environ.get("COPPELIASIM_ROOT")
    if not root:
        return "absent: COPPELIASIM_ROOT is not set"
    if not Path(root).is_dir():
        return f"wrong: COPPELIASIM_ROOT names {root}, which is no folder"
    if root not in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep):
        return f"wrong: LD_LIBRARY_PATH does not contain {root}; set it before Python starts"
    if os.environ.get("QT_QPA_PLATFORM_PLUGIN_PATH") != root:
        return f"wrong: QT_QPA_PLATFORM_PLUGIN_PATH is not {root}; set it before Python starts"
    return f"ok: {root}"


def _pyrep() -> str:
    if find_spec("pyrep") is None:
        return "absent: install it from its repository, not from the package index"
    try:
        module = importlib.import_module("pyrep")
    except ImportError as error:
        return f"wrong: it is installed but cannot be imported ({error})"
    if not is_simulator_pyrep(module):
        return (
            "wrong: the installed package pyrep is another project of the same name (a library for file "
            "repositories); `pip uninstall pyrep`, then install the simulator's from its repository"
        )
    version = str(vars(module)["__version__"])
    if _numbers(version) < _OLDEST_PYREP:
        return f"wrong: version {version}, RLBench's fork needs {'.'.join(map(str, _OLDEST_PYREP))} or newer"
    return f"ok: {version}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else 0 for part in version.split("."))


def _rlbench() -> str:
    spec = find_spec("rlbench")
    if spec is None:
        return "absent: install it from its repository"
    folders = [Path(folder) / "tasks" for folder in spec.submodule_search_locations or ()]
    missing = [task for task in TASKS if not any((folder / f"{task}.py").is_file() for folder in folders)]
    if len(missing) == len(TASKS):
        return "wrong: the installed package rlbench has no tasks; install the fork from its repository"
    if missing:
        return (
            f"wrong: it lacks {', '.join(missing)}, as upstream's RLBench does (whose actions have 8 numbers, too); "
            "install the PerAct fork or a descendant"
        )
    return "ok: it has all 18 tasks, as the PerAct fork and its descendants do"
