"""`mnprobe doctor` as people and scripts meet it."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

import mnprobe.analysis.diagnostics as sanity
from mnprobe import __version__
from mnprobe.cli.main import command_app
from mnprobe.core.environment import NEEDED, OPTIONAL, Part, machine, state_of_parts
from mnprobe.features import write_features

SUITE = sanity.sanity_suite


def run(*arguments, cwd=None, **variables):
    return subprocess.run(
        [sys.executable, "-m", "mnprobe", "doctor", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | variables,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run with the features of two checkpoints, the first of untrained weights."""
    path = tmp_path_factory.mktemp("doctor") / "runs" / "one"
    rng = np.random.default_rng(0)
    rows = np.repeat(np.arange(10), 6)
    latent = rng.standard_normal((10, 8))[rows]
    episodes = {
        "id": [f"task{k % 2}/{k}/episode{i}" for i, k in enumerate(rows)],
        "task": [f"task{k % 2}" for k in rows],
        "instruction": [f"secret words {k}" for k in rows],
    }
    for model, side, layer in (("seer", "understanding", "u"), ("doer", "execution", "e")):
        for step, noise in ((0, 5.0), (100, 0.5)):
            values = latent @ rng.standard_normal((8, 10)) + noise * rng.standard_normal((60, 10))
            write_features(
                path / "features" / model / "demos" / f"step_{step:08d}.h5",
                layers={layer: values.astype(np.float32)},
                episodes=episodes,
                model=model,
                side=side,
                source="demos",
                step=step,
                trained=step > 0,
            )
    (path / "run.toml").write_text('[run]\ncreated = "2025-01-01T00:00:00+00:00"\n')
    return path


@pytest.fixture
def quick_environment(monkeypatch):
    """The environment is the subject of other tests: asking it takes seconds."""
    monkeypatch.setattr("mnprobe.cli.doctor._environment", lambda: {"asked": True})
    monkeypatch.setattr("mnprobe.cli.doctor._print_environment", lambda found: None)


@pytest.fixture
def invoke(quick_environment, monkeypatch):
    """Run the command in this process with a few checks, and the parts of the pipeline that are to be broken."""

    def start(*arguments, only=("collapsed embeddings", "your features, episodes held out"), parts=None):
        def suite(subject, *, quiet):
            subject = replace(subject, permutations=999, pipeline=sanity.Pipeline(**(parts or {})))
            return SUITE(subject, only=only)

        monkeypatch.setattr(sanity, "sanity_suite", suite)
        return CliRunner().invoke(command_app("doctor"), [str(part) for part in arguments])

    return start


def test_a_bug_report_is_one_document_without_anything_private(invoke, folder):
    only = ["random features, episodes held out", "sample sizes, instructions held out"]
    only += ["similarity indices of random features", "your features, episodes held out"]
    done = invoke("--run", folder, "--quick", "--json", only=only)
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["broken"] is False
    assert found["examined"] | {"digest": "", "notes": []} == {
        "understanding": "seer-demos-step100-u-mean",
        "execution": "doer-demos-step100-e-mean",
        "episodes": 60,
        "episodes_taken": 60,
        "width_u": 10,
        "width_e": 10,
        "digest": "",
        "seeds": 2,
        "notes": [],
    }
    assert [check["name"] for check in found["checks"]] == only
    assert [check["status"] for check in found["checks"]] == ["pass", "look", "pass", "reported"]
    beside = {check["name"]: check["numbers"] for check in found["checks"]}["your features, episodes held out"]
    assert beside["value"] > beside["untrained"]
    assert "secret words" not in done.stdout
    assert str(folder.parent) not in done.stdout


def test_people_get_every_check_and_no_colours_in_a_file(invoke, folder):
    done = invoke("--run", folder)
    assert done.exit_code == 0
    assert "\x1b[" not in done.stdout
    for text in (
        "pass",
        "collapsed embeddings",
        "expected: chance exactly",
        "found: R@1",
        "untrained 0.",
        "60 episodes",
    ):
        assert text in done.stdout
    assert "The pipeline gives what it must" in done.stdout


def test_a_broken_pipeline_ends_with_code_1_and_says_what_it_means(invoke, folder):
    from mnprobe.analysis.diagnostics.pipeline import transform

    def shifted(heads, u, e):
        return transform(heads, u + np.arange(len(u), dtype=np.float32)[:, None], e)

    done = invoke("--run", folder, "--quick", parts={"transform": shifted})
    assert done.exit_code == 1
    assert "FAIL" in done.stdout
    assert "Ties are not counted by expectation" in " ".join(done.stdout.split())
    assert "The pipeline is broken" in done.stdout
    found = json.loads(invoke("--run", folder, "--quick", "--json", parts={"transform": shifted}).stdout)
    assert found["broken"] is True
    assert [check["status"] for check in found["checks"]] == ["FAIL", "reported"]


def test_two_stores_can_be_named(invoke, folder):
    stores = [folder / "features" / model / "demos" / "step_00000100.h5" for model in ("seer", "doer")]
    done = invoke("--u", stores[0], "--e", stores[1], "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["examined"]["seeds"] == 5
    assert "untrained" not in found["checks"][1]["numbers"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--run", "nowhere"], "not a run of mnprobe"),
        (["--u", "u.h5"], "--e is missing"),
        (["--u", "u.h5", "--e", "e.h5", "--run", "x"], "give one of them"),
        (["--u", "u.h5", "--e", "e.h5", "--json"], "u.h5"),
    ],
)
def test_bad_input_is_code_2(arguments, text, quick_environment, tmp_path):
    from mnprobe.core.errors import MnprobeError

    done = CliRunner().invoke(command_app("doctor"), arguments)
    assert isinstance(done.exception, MnprobeError)  # main turns these into one message and code 2
    assert text in str(done.exception)
    assert done.stdout == ""


def test_damaged_packages_are_named_and_break_nothing(tmp_path, monkeypatch):
    (tmp_path / "half_there.py").write_text("raise OSError('libfoo.so: no such file')\n")
    (tmp_path / "deadly.py").write_text("import os\nos._exit(3)\n")
    (tmp_path / "fine.py").write_text("print('noise')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(str(tmp_path))
    parts = [Part(name, name, "tests", f"get {name}") for name in ("half_there", "fine", "deadly", "not_there")]
    found = {part["name"]: part for part in state_of_parts(parts)}
    assert found["half_there"]["state"] == "cannot be imported: OSError: libfoo.so: no such file"
    assert found["deadly"]["state"] == "cannot be imported: the process ended with code 3"
    assert found["fine"]["state"] == "ok"
    assert found["not_there"] | {"use": ""} == {
        "name": "not_there",
        "version": "absent",
        "state": "absent",
        "use": "",
        "get": "get not_there",
    }


def test_a_broken_torch_does_not_break_the_doctor(tmp_path, folder):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('libcudart.so.12: cannot open')\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = run("--json", cwd=folder.parent.parent, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "libcudart" in found["devices"]["problem"]
    assert found["newest_run"] == "one"
    assert found["versions"]["numpy"] != "absent"
    assert {part["name"] for part in found["optional"]} >= {"av", "tensorboard", "chromium"}
    assert str(folder) not in done.stdout
    assert any(part["name"] == "torch" and "libcudart" in part["state"] for part in found["damaged"])


def test_the_list_of_packages_is_what_the_project_declares():
    import re
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]

    def names(lines):
        return {re.split(r"[<>=,;\[ ]", line)[0] for line in lines}

    assert {part.package for part in NEEDED} == names(project["dependencies"])
    extras = project["optional-dependencies"]
    assert {part.package for part in OPTIONAL} - {"tensorboard"} <= set().union(*map(names, extras.values()))
    for part in OPTIONAL:
        if "mnprobe[" in part.get:
            assert part.package in names(extras[part.get.split("[")[1].split("]")[0]])


def test_the_machine_is_described(monkeypatch, tmp_path):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = machine(tmp_path)
    assert found["variables"]["OMP_NUM_THREADS"] == "3"
    assert 1 <= found["usable_cpus"] <= found["cpus"]
    assert found["free_disk_gib"] > 0


def test_a_foreign_value_of_mujoco_gl_is_told_and_does_no_harm():
    done = run(MUJOCO_GL="mesa")
    assert done.returncode == 0, done.stderr
    assert f"mnprobe {__version__}" in done.stdout
    assert "CoppeliaSim" in done.stdout
    assert "MUJOCO_GL is 'mesa' here; the tabletop world does not depend on it" in done.stdout
    assert "cannot be imported" not in done.stdout


def test_the_oldest_versions_are_the_floors_that_the_project_declares():
    import tomllib
    from pathlib import Path

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
    from packaging.version import Version

    root = Path(__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    tested = [line for name in ("tabletop", "hf", "data", "dask", "ray") for line in extras[name]]
    wanted = [Requirement(line) for line in project["dependencies"] + tested]
    floors = {
        canonicalize_name(need.name): Version(bound.version)
        for need in wanted
        for bound in need.specifier
        if bound.operator == ">="
    }
    pins = {}
    for name in ("constraints.txt", "constraints-oldest.txt"):
        lines = [line for line in (root / name).read_text().splitlines() if not line.startswith("#")]
        pins[name] = {canonicalize_name(n): Version(v) for n, v in (line.split("==") for line in lines)}
    oldest = pins["constraints-oldest.txt"]
    assert {name: oldest[name] for name in floors} == floors
    assert all(pins["constraints.txt"][name] >= floor for name, floor in floors.items())
