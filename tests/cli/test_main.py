import html
import json
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

from mnprobe import __version__
from mnprobe.cli.main import COMMANDS, main
from mnprobe.core.rundir import RunDir
from mnprobe.features import write_features


def run(*arguments, **options):
    return subprocess.run([sys.executable, "-m", "mnprobe", *arguments], capture_output=True, text=True, **options)


def test_the_version_is_printed():
    assert run("--version").stdout == f"mnprobe {__version__}\n"


def test_help_names_every_command():
    done = run("--help")
    assert done.returncode == 0
    for name in COMMANDS:
        assert re.search(rf"^\s+{name}\s", done.stdout, re.MULTILINE), name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_to_paste(name):
    done = run(name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"Usage: mnprobe {name}" in done.stdout
    assert re.search(rf"Example: mnprobe {name}\b", done.stdout)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nope"], "nope"),
        (["doctor", "--nope"], "--nope"),
        (["align", "--run", "does-not-exist"], "not a run of mnprobe"),
    ],
)
def test_what_is_refused_gets_one_message_and_code_2(arguments, text, tmp_path):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_doctor_tells_versions_and_what_the_simulator_lacks():
    done = run("doctor")
    assert done.returncode == 0, done.stderr
    assert f"mnprobe {__version__}" in done.stdout
    assert "CoppeliaSim" in done.stdout


@pytest.fixture(scope="module")
def incomplete(tmp_path_factory):
    """Runs on paths that a shell would take apart: not there, empty, with features of one side, of both, no more."""
    base = tmp_path_factory.mktemp("my rün (final) #2")
    runs = [RunDir.create(base / name) for name in ("r 1", "it's 2", "$r;3")]
    episodes = {"id": [f"e{i}" for i in range(12)], "instruction": [f"do {i % 4}" for i in range(12)]}
    values = np.random.default_rng(0).normal(size=(12, 3))
    for run, sides in ((runs[1], ["understanding"]), (runs[2], ["understanding", "execution"])):
        for side in sides:
            layers = {side[0]: values}
            write_features(run.features(side, "demos", 0), model=side, side=side, layers=layers, episodes=episodes)
    return [base / "not yet", *(run.path for run in runs)]


INCOMPLETE = [
    *(["success"], ["audit"], ["curve"], ["compare"], ["tsne", "--execution", "no"], ["tables"], ["report"]),
    *(["align", "--layer-u", "no"], ["align", "--layer-u", "no", "--fit-on", "demos"], ["align", "--split", "success"]),
    *(["extract"], ["extract", "--source", "rollouts"], ["recognize"]),
]


def told(capsys, *words):
    """What a command says, which ends as a refusal at worst."""
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    assert end.value.code in (0, 2), words
    found = capsys.readouterr()
    return found.out, found.out + found.err


def test_commands_in_messages_can_be_pasted_whatever_the_path_of_the_run(incomplete, capsys):
    hints = 0
    for path in incomplete:
        for name, *words in INCOMPLETE:
            for hint in re.findall(r"`(mnprobe [^`]*)`", told(capsys, name, "--run", path, *words)[1]):
                assert str(path) in shlex.split(hint), (name, hint)
                hints += 1
    assert hints > 40


def test_commands_in_json_and_in_the_page_can_be_pasted(incomplete, capsys):
    path = incomplete[2]
    found = json.loads(told(capsys, "report", "--run", path, "--json")[0])
    commands = [piece["command"] for piece in found["missing"]]
    assert len(commands) > 3
    assert all(str(path) in shlex.split(command) for command in commands)
    page = re.sub(r"<[^>]+>", "", (path / "report.html").read_text(encoding="utf-8"))
    assert all(command in html.unescape(page) for command in commands)


def test_a_run_whose_name_begins_with_a_dash_can_be_given_as_hints_write_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    RunDir.create(tmp_path / "-x y")
    hint = re.findall(r"`(mnprobe [^`]*)`", told(capsys, "report", "--run", "-x y")[1])[0]
    assert shlex.split(hint)[2:4] == ["--run", "-x y"]
    assert "run -x y has no checkpoints" in told(capsys, *shlex.split(hint)[1:])[1]
