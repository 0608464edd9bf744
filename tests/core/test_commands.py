"""Command lines in messages: what a shell makes of them is what was meant."""

import shlex
from pathlib import Path

import pytest

from mnprobe.core.commands import command_line, command_of, option_line, run_above, shell_line
from mnprobe.core.errors import ConfigError
from mnprobe.core.rundir import RunDir, resolve_run

PATHS = [
    *(
        "runs/first",
        "/abs/my run",
        "my rün (final) #2/r 1",
        "it's",
        'a "b"',
        "-x y",
        "--x",
        "$HOME",
        "~",
        "a;b",
        "two  spaces",
    ),
    *("a`b", "c\\d", "e*[f]?", "Läufe/übung", "tab\tline\nbreak"),
]


@pytest.mark.parametrize("path", PATHS)
def test_a_shell_takes_every_path_back_as_one_word(path):
    assert shlex.split(command_line("align", run=Path(path), split="success")) == [
        *("mnprobe", "align", "--run", str(Path(path)), "--split", "success")
    ]
    assert shlex.split(option_line(where=f"layer_e={path}")) == ["--where", f"layer_e={path}"]
    assert shlex.split(shell_line(["demo", path])) == ["mnprobe", "demo", path]


def test_options_that_say_nothing_are_left_out():
    assert command_line("audit") == "mnprobe audit"
    found = command_line("x", a=None, b=False, c=[], no_decomposition=True, seed=0, step=(1, 2), name="")
    assert found == "mnprobe x --no-decomposition --seed 0 --step 1 --step 2 --name ''"


def test_the_command_of_a_file_names_the_run_it_lies_in(tmp_path):
    run = RunDir.create(tmp_path / "my run")
    assert run_above(run.results("alignment")) == run.path
    assert shlex.split(command_of(run.results("alignment"), "align"))[2:] == ["--run", str(run.path)]
    assert command_of(tmp_path / "a.csv", "align") == "mnprobe align"


def test_a_run_typed_as_a_relative_path_stays_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    RunDir.create(Path("a b"))
    assert command_of(Path("a b/results/x.csv"), "align") == "mnprobe align --run 'a b'"
    with pytest.raises(ConfigError, match=r"`mnprobe init --run '-not here/yet'` makes one"):
        resolve_run(Path("-not here/yet"))
