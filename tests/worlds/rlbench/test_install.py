import importlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mnprobe.core.errors import ConfigError
from mnprobe.worlds import rlbench_install
from mnprobe.worlds.rlbench_display import find_display
from mnprobe.worlds.rlbench_install import find_rlbench, require_rlbench


def _find_with(folder):
    code = "import json; from mnprobe.worlds.rlbench_install import find_rlbench; print(find_rlbench()['PyRep'])"
    environment = {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return done.stdout


def test_the_other_pyrep_is_told_from_the_simulators(tmp_path):
    package = tmp_path / "pyrep.py"
    package.write_text("__version__ = '3.2.0'\n")
    assert "another project of the same name" in _find_with(tmp_path)
    package.write_text("__version__ = '4.1.0.3'\nclass PyRep: pass\n")
    assert _find_with(tmp_path).startswith("ok: 4.1.0.3")
    package.write_text("__version__ = '4.1.0.1'\nclass PyRep: pass\n")
    assert "needs 4.1.0.2 or newer" in _find_with(tmp_path)
    package.write_text("raise ImportError('libcoppeliaSim.so.1: cannot open')\n")
    assert "cannot be imported (libcoppeliaSim.so.1" in _find_with(tmp_path)


def test_the_simulators_folder_must_exist_and_be_in_the_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("COPPELIASIM_ROOT", str(tmp_path / "none"))
    assert "which is no folder" in find_rlbench()["CoppeliaSim"]
    monkeypatch.setenv("COPPELIASIM_ROOT", str(tmp_path))
    monkeypatch.setenv("LD_LIBRARY_PATH", "elsewhere")
    assert "LD_LIBRARY_PATH does not contain" in find_rlbench()["CoppeliaSim"]
    monkeypatch.setenv("LD_LIBRARY_PATH", f"elsewhere:{tmp_path}")
    monkeypatch.delenv("QT_QPA_PLATFORM_PLUGIN_PATH", raising=False)
    assert "QT_QPA_PLATFORM_PLUGIN_PATH is not" in find_rlbench()["CoppeliaSim"]
    monkeypatch.setenv("QT_QPA_PLATFORM_PLUGIN_PATH", str(tmp_path))
    assert "is not" not in find_rlbench()["CoppeliaSim"].partition("so it")[0]


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_slash_at_the_end_of_the_folder_is_no_matter(simulator, variables, monkeypatch, slash):
    root = variables["COPPELIASIM_ROOT"]
    for name in ("COPPELIASIM_ROOT", "QT_QPA_PLATFORM_PLUGIN_PATH"):
        monkeypatch.setenv(name, root + slash)
        assert find_rlbench()["CoppeliaSim"] == f"ok: {root}"
    monkeypatch.setenv("LD_LIBRARY_PATH", root + slash + ":/elsewhere")
    assert find_rlbench()["CoppeliaSim"] == f"ok: {root}"


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("libcoppeliaSim.so.1", "ln -s libcoppeliaSim.so"),
        ("simAddOnScript_PyRep.lua", "build PyRep again"),
        ("system/usrset.txt", "allowOldEduRelease=7501"),
    ],
)
def test_what_the_simulators_folder_lacks_is_said_with_the_remedy(simulator, variables, name, remedy):
    (Path(variables["COPPELIASIM_ROOT"]) / name).unlink()
    state = find_rlbench()["CoppeliaSim"]
    assert state.startswith("wrong:")
    assert name in state
    assert remedy in state
    assert "Also" not in state


def test_settings_without_the_line_are_found(simulator, variables):
    settings = Path(variables["COPPELIASIM_ROOT"]) / "system" / "usrset.txt"
    settings.write_text("// allowOldEduRelease is not set here\nlimitFps = true\n")
    assert "has no allowOldEduRelease" in find_rlbench()["CoppeliaSim"]


@pytest.fixture
def installed(standin_folder, tmp_path, monkeypatch, simulator):
    """A copy of the stand-in's rlbench that a test may damage."""
    shutil.copytree(standin_folder / "rlbench", tmp_path / "copy" / "rlbench")
    monkeypatch.syspath_prepend(str(tmp_path / "copy"))
    return tmp_path / "copy" / "rlbench"


def test_an_rlbench_without_action_modes_is_wrong(installed):
    shutil.rmtree(installed / "action_modes")  # as its setup.py installs it
    state = find_rlbench()["RLBench"]
    assert state.startswith("wrong: it lacks rlbench.action_modes; install it in a clone of the fork")
    assert "pip install -e ." in state


def test_an_rlbench_without_a_scene_of_a_task_is_wrong(installed):
    (installed / "task_ttms" / "turn_tap.ttm").unlink()
    assert "wrong: it lacks task_ttms/turn_tap.ttm" in find_rlbench()["RLBench"]


def test_an_rlbench_with_eighteen_tasks_and_upstreams_actions_is_wrong(installed):
    modes = installed / "action_modes" / "arm_action_modes.py"
    modes.write_text(modes.read_text().replace(", ignore_collisions=True", ""))
    assert "its actions have 8 numbers" in find_rlbench()["RLBench"]
    modes.write_text("class EndEffectorPoseViaPlanning(:\n")
    assert "its actions have 8 numbers" in find_rlbench()["RLBench"]


@pytest.mark.parametrize(("module", "package"), [("PIL", "Pillow"), ("natsort",) * 2, ("pyquaternion",) * 2])
def test_what_rlbench_imports_and_nobody_installed_is_said(installed, monkeypatch, module, package):
    monkeypatch.setattr(
        rlbench_install, "find_spec", lambda name: None if name == module else importlib.util.find_spec(name)
    )
    state = find_rlbench()["RLBench"]
    assert state == f"wrong: it needs packages that are not installed; `pip install {package}`"


@pytest.mark.parametrize(
    ("version", "fine"),
    [
        ("4.1.0.2", True),
        ("4.1.0.3", True),
        ("5.1.0.2", True),
        ("4.1.0.1", False),
        ("4.2.0.0", False),  # newer, but RLBench compares part by part
        ("4.1.1.0", False),
        ("5.0.0.2", False),
        ("4.1.0.3rc1", False),
    ],
)
def test_pyreps_version_is_judged_as_rlbench_judges_it(simulator, monkeypatch, version, fine):
    import pyrep

    monkeypatch.setattr(pyrep, "__version__", version)
    state = find_rlbench()["PyRep"]
    assert state.startswith("ok") is fine
    assert version in state
    try:
        importlib.import_module("rlbench")  # the stand-in's compares as the real one does
        taken = True
    except (ImportError, ValueError):
        taken = False
    assert taken is fine


def test_what_is_missing_is_said_in_one_error(monkeypatch):
    monkeypatch.delenv("COPPELIASIM_ROOT", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(ConfigError, match=r"COPPELIASIM_ROOT is not set.*PyRep: absent.*RLBench: absent.*DISPLAY is"):
        require_rlbench()


def test_the_fork_is_told_from_upstream_without_importing_it(simulator, standin_folder, tmp_path, monkeypatch):
    assert all(state.startswith("ok") for state in find_rlbench().values())
    require_rlbench()
    assert "rlbench" not in sys.modules
    upstream = tmp_path / "upstream"
    shutil.copytree(standin_folder / "rlbench", upstream / "rlbench")
    lacking = ("slide_block_to_color_target", "sweep_to_dustpan_of_size", "place_wine_at_rack_location")
    for task in lacking:
        (upstream / "rlbench" / "tasks" / f"{task}.py").unlink()
    monkeypatch.syspath_prepend(str(upstream))
    state = find_rlbench()["RLBench"]
    assert "as upstream's RLBench does" in state
    assert all(task in state for task in lacking)
    with pytest.raises(ConfigError, match="lacks slide_block_to_color_target"):
        require_rlbench()
    shutil.rmtree(upstream / "rlbench" / "tasks")
    assert "has no tasks" in find_rlbench()["RLBench"]


@pytest.mark.parametrize("value", ["1", "true"])
def test_enhanced_randomness_is_refused(simulator, monkeypatch, value):
    monkeypatch.setenv("RLBENCH_ENHANCED_RANDOMNESS", "0")
    require_rlbench()
    monkeypatch.setenv("RLBENCH_ENHANCED_RANDOMNESS", value)
    with pytest.raises(ConfigError, match=f"RLBENCH_ENHANCED_RANDOMNESS is '{value}'"):
        require_rlbench()


def test_a_display_that_answers_is_found(display, monkeypatch):
    for name in (f":{display}", f":{display}.0", f"unix:{display}"):
        monkeypatch.setenv("DISPLAY", name)
        assert find_display() == f"ok: {name}"


def test_a_display_of_another_machine_is_asked_over_the_network(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1] - 6000
        monkeypatch.setenv("DISPLAY", f"127.0.0.1:{number}.0")
        assert find_display().startswith("ok")
    assert "no X server answers" in find_display()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "DISPLAY is not set"),
        ("99", "expected something like ':99'"),
        (":<nobody>", "no X server answers"),
        ("localhost:99999", "no X server answers"),
    ],
)
def test_a_display_that_does_not_answer_is_said(name, text, monkeypatch):
    monkeypatch.setenv("DISPLAY", name.replace("<nobody>", str(30000 + os.getpid())))
    assert text in find_display()
    assert not find_display().startswith("ok")
