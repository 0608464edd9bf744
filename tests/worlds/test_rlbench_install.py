import subprocess
import sys
import textwrap

import pytest

from mnprobe.core.errors import ConfigError
from mnprobe.worlds.rlbench_install import find_rlbench, require_rlbench


def _find_with(folder):
    code = "import json; from mnprobe.worlds.rlbench_install import find_rlbench; print(find_rlbench()['PyRep'])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(folder)}
    )
    return done.stdout


def test_the_other_pyrep_is_told_from_the_simulators(tmp_path):
    package = tmp_path / "pyrep.py"
    package.write_text("__version__ = '3.2.0'\n")
    assert "another project of the same name" in _find_with(tmp_path)
    package.write_text("__version__ = '4.1.0.3'\nclass PyRep: pass\n")
    assert _find_with(tmp_path).startswith("ok: 4.1.0.3")
    package.write_text("raise ImportError('libcoppeliaSim.so.1: cannot open')\n")
    assert "cannot be imported (libcoppeliaSim.so.1" in _find_with(tmp_path)


def test_the_simulators_folder_must_exist_and_be_on_the_library_path(tmp_path, monkeypatch):
    monkeypatch.setenv("COPPELIASIM_ROOT", str(tmp_path / "none"))
    assert "which is no folder" in find_rlbench()["CoppeliaSim"]
    monkeypatch.setenv("COPPELIASIM_ROOT", str(tmp_path))
    monkeypatch.setenv("LD_LIBRARY_PATH", "elsewhere")
    assert "LD_LIBRARY_PATH does not contain" in find_rlbench()["CoppeliaSim"]
    monkeypatch.setenv("LD_LIBRARY_PATH", f"elsewhere:{tmp_path}")
    assert find_rlbench()["CoppeliaSim"] == f"ok: {tmp_path}"


def test_what_is_missing_is_said_in_one_error(monkeypatch):
    monkeypatch.delenv("COPPELIASIM_ROOT", raising=False)
    with pytest.raises(ConfigError, match=textwrap.dedent("COPPELIASIM_ROOT is not set")):
        require_rlbench()
