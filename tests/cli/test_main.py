import re
import subprocess
import sys

import pytest

from mnprobe import __version__
from mnprobe.cli import main
from mnprobe.cli.main import COMMANDS


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


def test_advice_on_memory_names_an_option_only_where_the_command_has_it(monkeypatch, capsys):
    def full(*arguments, **options):
        raise MemoryError("Unable to allocate 26.8 GiB")

    monkeypatch.setattr(main, "app", full)
    for command, advice in (("extract", "ask for less, such as a smaller --batch-size"), ("compare", "ask for less")):
        with pytest.raises(SystemExit) as end:
            main.main([command, "--run", "r"])
        assert end.value.code == 2
        assert capsys.readouterr().err == f"mnprobe: out of memory (Unable to allocate 26.8 GiB); {advice}\n"
