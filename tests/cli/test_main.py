import errno
import html
import json
import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

from mnprobe import __version__
from mnprobe.cli import main as module
from mnprobe.cli.main import COMMANDS, main
from mnprobe.core import files
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


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A run with a name, labels and ids that few encodings have."""
    run = RunDir.create(tmp_path_factory.mktemp("läufe") / "一")
    rng = np.random.default_rng(0)
    episodes = {"id": [f"é{i}" for i in range(40)], "instruction": [f"öffne {i % 4} 抽屉" for i in range(40)]}
    for side in ("understanding", "execution"):
        layers = {side[0]: rng.normal(size=(40, 6))}
        write_features(
            run.features(f"{side}-ü", "demos", 0), model=f"{side}-ü", side=side, layers=layers, episodes=episodes
        )
    return run


ENCODINGS = [
    {"PYTHONIOENCODING": "ascii:strict"},
    {"PYTHONIOENCODING": "latin-1"},
    {"PYTHONIOENCODING": "cp1252"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"COLUMNS": "20", "TERM": "xterm", "NO_COLOR": "1", "FORCE_COLOR": "1"},
]


ONE_AFTER_THE_OTHER = """
import os, sys
from mnprobe.cli.main import main
words = sys.argv[1:]
while words:
    at = words.index("--then")
    try:
        main(words[:at])
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(2, f"ended with {end.code or 0}\\n".encode())
    del words[: at + 1]
"""


@pytest.mark.parametrize("variables", ENCODINGS, ids=lambda variables: "-".join(variables.values()))
def test_what_a_terminal_cannot_show_stops_no_command(foreign, variables):
    env = {name: value for name, value in os.environ.items() if not name.startswith("LC_")} | variables
    small = ["--steps", "2", "--dim", "8", "--seeds", "1", "--splits", "1", "--jobs", "1", "--no-shuffled"]
    store = str(foreign.features("understanding-ü", "demos", 0))
    commands = [["align", "--run", str(foreign.path), "--holdout", "episodes", *small]]
    commands += [["inspect", store], ["inspect", store, "--json"]]
    lines = [word for command in commands for word in (*command, "--then")]
    done = subprocess.run([sys.executable, "-c", ONE_AFTER_THE_OTHER, *lines], capture_output=True, env=env)
    codes = [int(code) for code in re.findall(rb"^ended with (\d)$", done.stderr, re.MULTILINE)]
    if "LC_ALL" in variables:  # no file can be named after these models there
        assert (codes, b"set LC_ALL=C.UTF-8" in done.stderr) == ([2, 0, 0], True), done.stderr
    else:
        assert codes == [0, 0, 0], done.stderr
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"\x1b[" not in done.stdout + done.stderr
    found = json.loads(re.split(rb"^(?=[\[{])", done.stdout, flags=re.MULTILINE)[-1])
    assert "öffne 0 抽屉" in json.dumps(found, ensure_ascii=False)


def test_without_streams_it_works_and_into_a_closed_pipe_it_ends_quietly():
    code = "import sys; sys.stdout = sys.stderr = None; from mnprobe.cli.main import main; main(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", code, "compare", "--list"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "mnprobe", "compare", "--list"], stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOSYS, "Function not implemented"), r"^mnprobe: Function not implemented: no file is named$"),
        (PermissionError(errno.EACCES, "Permission denied", "/a/b"), r"^mnprobe: Permission denied: /a/b$"),
        (OSError(errno.EXDEV, "Invalid link", "/a", None, "/b"), r"^mnprobe: Invalid link: /a -> /b$"),
    ],
)
def test_an_error_of_the_system_names_what_it_is_about(error, text, monkeypatch, capsys, tmp_path):
    def app(**given):
        raise error

    monkeypatch.setattr(module, "app", app)
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 2
    assert re.search(text, capsys.readouterr().err.strip())


EXEC = "exec('raise KeyboardInterrupt')"
CALLBACK = "(weakref.finalize(set(), os.kill, os.getpid(), signal.SIGINT), time.sleep(60))"


@pytest.mark.parametrize("where", [EXEC, CALLBACK])
def test_an_interruption_has_one_exit_code_wherever_it_comes(tmp_path, where):
    """Inside an exec of text, as while a module with dataclasses is imported, Python would end by the signal.

    Inside the callback of a weak reference, as where the lock of an import ends, Python would ignore it.
    """
    lines = ["import os, signal, time, weakref", "from mnprobe.cli import main", "def command(name):"]
    lines += [f"    return lambda **given: {where}", "main.command_app = command"]
    (tmp_path / "interrupted.py").write_text("\n".join([*lines, "main.main(['init'])"]))
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    words = [sys.executable, "-m", "interrupted"]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert (done.returncode, "interrupted. What was finished is kept" in done.stderr) == (130, True), done.stderr


def test_an_error_without_a_file_names_what_was_worked_on(monkeypatch, capsys, tmp_path):
    def broken(path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files, "sync", broken)
    with pytest.raises(SystemExit):
        main(["init", "--run", str(tmp_path / "r")])
    assert re.search(
        rf"Input/output error: {tmp_path}.* \(in mnprobe\.core\.files\.whole_file\)", capsys.readouterr().err
    )


def test_advice_on_memory_names_an_option_only_where_the_command_has_it(monkeypatch, capsys):
    def full(*arguments, **options):
        raise MemoryError("Unable to allocate 26.8 GiB")

    monkeypatch.setattr(module, "app", full)
    for command, advice in (("extract", "ask for less, such as a smaller --batch-size"), ("compare", "ask for less")):
        with pytest.raises(SystemExit) as end:
            main([command, "--run", "r"])
        assert end.value.code == 2
        assert capsys.readouterr().err == f"mnprobe: out of memory (Unable to allocate 26.8 GiB); {advice}\n"
