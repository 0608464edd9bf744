"""Finds the live simulator's three parts, and the wrong package that bears the name of one of them."""

import importlib
import os
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from mnprobe.core.errors import ConfigError

__all__ = ["find_rlbench", "is_simulator_pyrep", "require_rlbench"]

_HOW = "docs/rlbench.md gives the installation"


def is_simulator_pyrep(module: ModuleType) -> bool:
    """Whether `module` is the simulator's PyRep: it has a class `PyRep` and a version of four parts (4.1.0.3).

    The package called pyrep on the Python package index is a library for file repositories. It is imported under the
    same name, so that "import pyrep works" proves nothing (specs/rlbench.md vi).
    """
    version = str(getattr(module, "__version__", ""))
    return isinstance(getattr(module, "PyRep", None), type) and len(version.split(".")) == 4


def find_rlbench() -> dict[str, str]:
    """State of CoppeliaSim, PyRep and RLBench in words, one entry a part, starting with 'ok' where it is usable."""
    return {"CoppeliaSim": _coppeliasim(), "PyRep": _pyrep(), "RLBench": _rlbench()}


def require_rlbench() -> None:
    """Raise ConfigError that names each missing or wrong part of the live simulator; return when all are there."""
    wrong = {part: state for part, state in find_rlbench().items() if not state.startswith("ok")}
    if wrong:
        parts = "; ".join(f"{part}: {state}" for part, state in wrong.items())
        raise ConfigError(f"the live RLBench simulator is not usable here. {parts}. {_HOW}")


def _coppeliasim() -> str:
    root = os.environ.get("COPPELIASIM_ROOT")
    if not root:
        return "absent: COPPELIASIM_ROOT is not set"
    if not Path(root).is_dir():
        return f"wrong: COPPELIASIM_ROOT names {root}, which is no folder"
    if root not in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep):
        return f"wrong: LD_LIBRARY_PATH does not contain {root}; set it before Python starts"
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
    return f"ok: {vars(module)['__version__']}"


def _rlbench() -> str:
    return "ok: installed" if find_spec("rlbench") else "absent: install it from its repository"
