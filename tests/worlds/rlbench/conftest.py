"""A stand-in for CoppeliaSim, PyRep and RLBench: real_signatures.json says what of them it must have, and how."""

import importlib
import os
import shutil
import socket
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from mnprobe.data import TASKS
from mnprobe.worlds import rlbench_simulator
from mnprobe.worlds.environment import KeyPose
from mnprobe.worlds.rlbench import RLBench

collect_ignore = ["standin"]
STANDIN = Path(__file__).parent / "standin"


@pytest.fixture(scope="session")
def standin_folder(tmp_path_factory):
    """The stand-in with the 18 tasks, as a folder for sys.path."""
    folder = tmp_path_factory.mktemp("simulator") / "packages"
    shutil.copytree(STANDIN, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for task, facts in TASKS.items():
        name = "".join(word.capitalize() for word in task.split("_"))
        text = f"from rlbench.backend.task import Task\n\n\nclass {name}(Task):\n"
        text += f"    def variation_count(self):\n        return {facts.variations}\n"
        (folder / "rlbench" / "tasks" / f"{task}.py").write_text(text)
        (folder / "rlbench" / "task_ttms").mkdir(exist_ok=True)
        (folder / "rlbench" / "task_ttms" / f"{task}.ttm").write_bytes(task.encode())
    return folder


@pytest.fixture
def display():
    """The number of an X display at which something takes connections."""
    with socket.socket(socket.AF_UNIX) as server:
        number = 40000 + os.getpid()
        server.bind(f"\0/tmp/.X11-unix/X{number}")
        server.listen()
        yield number


@pytest.fixture
def variables(tmp_path, standin_folder, display):
    """The environment variables that docs/rlbench.md asks for."""
    root = tmp_path / "CoppeliaSim_Edu_V4_1_0"
    (root / "system").mkdir(parents=True)
    (root / "libcoppeliaSim.so.1").touch()
    (root / "simAddOnScript_PyRep.lua").touch()
    (root / "system" / "usrset.txt").write_text("// settings\nallowOldEduRelease=7501\n")
    return {
        "COPPELIASIM_ROOT": str(root),
        "LD_LIBRARY_PATH": f"/elsewhere:{root}",
        "QT_QPA_PLATFORM_PLUGIN_PATH": str(root),
        "DISPLAY": f":{display}",
    }


@pytest.fixture
def simulator(variables, standin_folder, monkeypatch):
    """The stand-in, importable in this process and forgotten afterwards; yields its log."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RLBENCH_ENHANCED_RANDOMNESS", raising=False)
    monkeypatch.syspath_prepend(str(standin_folder))
    monkeypatch.setattr(rlbench_simulator, "_ONE", threading.Lock())
    _forget()
    yield importlib.import_module("standin_log")
    _forget()


def _forget():
    for name in list(sys.modules):
        if name.partition(".")[0] in ("rlbench", "pyrep", "standin_log", "natsort", "pyquaternion"):
            del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture
def world(simulator):
    """A launched world of small images."""
    made = RLBench(image_size=8)
    yield made
    made.close()


@pytest.fixture
def pose():
    """A key pose somewhere inside the workspace; a keyword changes a part of it."""

    def make(position=(0.3, 0.1, 1.1), quaternion=(0.0, 1.0, 0.0, 0.0), gripper_open=True, ignore_collisions=True):
        return KeyPose(
            position=np.array(position, dtype=np.float64),
            quaternion=np.array(quaternion, dtype=np.float64),
            gripper_open=gripper_open,
            ignore_collisions=ignore_collisions,
        )

    return make


@pytest.fixture
def target():
    """Where the stand-in put its object in the present scene of a world."""
    return lambda world: world._task._task._target.copy()
