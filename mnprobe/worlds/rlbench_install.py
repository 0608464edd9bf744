"""Checks of the simulator's installation and its remedies."""

import ast
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
_OLDEST_PYREP = (4, 1, 0, 2)  # required imports of RLBench, checked separately
_RANDOMNESS = "RLBENCH_ENHANCED_RANDOMNESS"
_LIBRARY = "libcoppeliaSim.so.1"
_ADD_ON = "simAddOnScript_PyRep.lua"
_OLD_RELEASE = "allowOldEduRelease"
_NEEDED = {"PIL": "Pillow", "natsort": "natsort", "pyquaternion": "pyquaternion"}  # module -> package
_EDITABLE = (
    "in a clone of the fork: `pip install -r requirements.txt`, then `pip install -e .` (its setup.py forgets "
    "action_modes and names no requirements, so that other ways of installing it leave them out)"
)


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
    named = os.environ.get("COPPELIASIM_ROOT")
    if not named:
        return "absent: COPPELIASIM_ROOT is not set"
    root = Path(named)
    if not root.is_dir():
        return f"wrong: COPPELIASIM_ROOT names {root}, which is no folder"
    wrong = []
    if not any(_same_folder(root, part) for part in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)):
        wrong.append(f"LD_LIBRARY_PATH does not contain {root}; set it before Python starts")
    if not _same_folder(root, os.environ.get("QT_QPA_PLATFORM_PLUGIN_PATH", "")):
        wrong.append(f"QT_QPA_PLATFORM_PLUGIN_PATH is not {root}; set it before Python starts")
    if not (root / _LIBRARY).is_file():
        wrong.append(
            f"{root} has no {_LIBRARY}, so it is not CoppeliaSim 4.1.0, or a link is missing: "
            f"`ln -s libcoppeliaSim.so {root / _LIBRARY}`"
        )
    if not (root / _ADD_ON).is_file():
        wrong.append(
            f"{root} has no {_ADD_ON}, without which no path can be planned; PyRep's build puts it there: build PyRep "
            "again with COPPELIASIM_ROOT set and that folder writable"
        )
    if not _allows_old_release(root / "system" / "usrset.txt"):
        wrong.append(
            f"{root / 'system' / 'usrset.txt'} has no {_OLD_RELEASE}, without which the old release stops working; "
            f"PyRep's build writes it there: build PyRep again, or add the line `{_OLD_RELEASE}=7501`"
        )
    return f"wrong: {'. Also: '.join(wrong)}" if wrong else f"ok: {root}"


def _same_folder(folder: Path, named: str) -> bool:
    return bool(named) and os.path.realpath(named) == os.path.realpath(folder)


def _allows_old_release(settings: Path) -> bool:
    try:
        lines = settings.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip().startswith(_OLD_RELEASE) for line in lines)


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
    least = ".".join(map(str, _OLDEST_PYREP))
    parts = version.split(".")
    if not all(part.isdecimal() for part in parts):
        return f"wrong: version {version}, RLBench can only read four numbers; install {least} or 4.1.0.3"
    if any(int(part) < lowest for part, lowest in zip(parts, _OLDEST_PYREP, strict=True)):
        return (
            f"wrong: version {version}, RLBench's fork needs {least} or newer and compares part by part, so that it "
            "refuses this one when it is imported; install PyRep 4.1.0.3 from its repository"
        )
    return f"ok: {version}"


def _rlbench() -> str:
    spec = find_spec("rlbench")
    if spec is None:
        return f"absent: install it from its repository, {_EDITABLE}"
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    missing = [task for task in TASKS if _file(folders, f"tasks/{task}.py") is None]
    if len(missing) == len(TASKS):
        return f"wrong: the installed package rlbench has no tasks; install the fork from its repository, {_EDITABLE}"
    if missing:
        return (
            f"wrong: it lacks {', '.join(missing)}, as upstream's RLBench does (whose actions have 8 numbers, too); "
            "install the PerAct fork or a descendant"
        )
    wrong = []
    modes = [f"action_modes/{name}.py" for name in ("action_mode", "arm_action_modes", "gripper_action_modes")]
    if any(_file(folders, name) is None for name in modes):
        wrong.append(f"it lacks rlbench.action_modes; install it {_EDITABLE}")
    elif not _takes_nine(_file(folders, modes[1])):
        wrong.append("its actions have 8 numbers, as upstream's RLBench has; install the PerAct fork or a descendant")
    scenes = [task for task in TASKS if _file(folders, f"task_ttms/{task}.ttm") is None]
    if scenes:
        wrong.append(f"it lacks task_ttms/{'.ttm, '.join(scenes)}.ttm, the scenes of tasks; install it {_EDITABLE}")
    absent = [package for module, package in _NEEDED.items() if find_spec(module) is None]
    if absent:
        wrong.append(f"it needs packages that are not installed; `pip install {' '.join(absent)}`")
    if wrong:
        return f"wrong: {'. Also: '.join(wrong)}"
    return "ok: it has all 18 tasks, as the PerAct fork and its descendants do"


def _file(folders: list[Path], name: str) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _takes_nine(modes: Path | None) -> bool:
    """Whether the arm mode's `action` takes `ignore_collisions`, the ninth number; the file is read, not imported.

    True where that cannot be seen (an inherited method): a launch asks the class itself.
    """
    try:
        tree = ast.parse(modes.read_bytes()) if modes is not None else ast.Module(body=[], type_ignores=[])
    except (OSError, SyntaxError, ValueError):
        return False
    for mode in tree.body:
        if not isinstance(mode, ast.ClassDef) or mode.name != "EndEffectorPoseViaPlanning":
            continue
        for method in mode.body:
            if isinstance(method, ast.FunctionDef) and method.name == "action":
                taken = [*method.args.posonlyargs, *method.args.args, *method.args.kwonlyargs]
                return any(argument.arg == "ignore_collisions" for argument in taken)
    return True
