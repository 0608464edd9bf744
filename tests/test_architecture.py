"""The house rules that a machine can check: imports go one way, and looking at help costs nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mnprobe

PACKAGE = Path(mnprobe.__file__).parent
FLOORS = {"core": 0, "data": 1, "models": 2, "worlds": 2, "features": 3, "probe": 4, "analysis": 5, "cli": 6}
HEAVY = {"torch", "matplotlib", "mujoco", "pandas", "scipy", "sklearn", "h5py", "openTSNE"}


def _imports(path):
    """Names of mnprobe's modules that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the whole name"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _arrows():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).parts
        if len(parts) == 1:
            continue  # __init__ and __main__ are the front door
        for name in _imports(path):
            pieces = name.split(".")
            if pieces[0] == "mnprobe" and len(pieces) > 1 and pieces[1] in FLOORS:
                yield path, parts[0], pieces[1]


def test_every_room_has_a_floor():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms <= set(FLOORS), f"give these rooms a floor in DESIGN's order: {rooms - set(FLOORS)}"


def test_imports_point_one_way():
    wrong = {
        f"{path.relative_to(PACKAGE)} ({room}) imports {other}"
        for path, room, other in _arrows()
        if room != other and FLOORS[other] >= FLOORS[room]
    }
    assert not wrong, "\n".join(sorted(wrong))


def test_the_walk_sees_imports():
    assert any(room == "cli" and other == "core" for _, room, other in _arrows())


@pytest.mark.parametrize("statement", ["import mnprobe", "from mnprobe.cli.main import main; main(['--help'])"])
def test_front_doors_load_nothing_heavy(statement):
    code = (
        f"import sys\ntry:\n    {statement}\nexcept SystemExit: pass\nprint(*sorted(set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stderr.split()}
    assert not loaded & HEAVY


def _loaded_at_once(tree):
    """Modules that are imported with the file: not those inside functions, nor where they may be missing."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
        elif isinstance(node, ast.ClassDef | ast.If | ast.With | ast.For | ast.While):
            yield from _loaded_at_once(node)


def test_no_module_needs_what_only_some_systems_have():
    posix = {"fcntl", "resource", "pwd", "grp", "termios", "pty", "tty", "syslog", "posix", "msvcrt", "winreg"}
    wrong = {
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in PACKAGE.rglob("*.py")
        for name in _loaded_at_once(ast.parse(path.read_text(encoding="utf-8")))
        if name.split(".")[0] in posix
    }
    assert not wrong, "\n".join(sorted(wrong))


def test_a_run_can_be_made_where_there_is_no_fcntl(tmp_path):
    code = "import sys; sys.modules['fcntl'] = None; import mnprobe.features, mnprobe.probe, mnprobe.worlds.rollout; "
    code += "from mnprobe.cli.main import main; main(['demos', '--run', sys.argv[1], '--train', '1', '--task', "
    code += "'push_buttons', '--max-variations', '1', '--image-size', '16', '--workers', '1', '--quiet'])"
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("has no locks") == 1


def test_demonstrations_are_read_without_torch():
    code = "import sys, mnprobe.data; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_type_information_ships():
    assert (PACKAGE / "py.typed").is_file()
