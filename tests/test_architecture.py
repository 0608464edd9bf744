"""The house rules that a machine can check: imports go one way, and looking at help costs nothing."""

import ast
import csv
import importlib
import pkgutil
import re
import shlex
import subprocess
import sys
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import ModuleType

import pytest
import typer

import mnprobe
from mnprobe.cli.main import COMMANDS, command_app

PACKAGE = Path(mnprobe.__file__).parent
FLOORS = {"core": 0, "data": 1, "models": 2, "worlds": 2, "features": 3, "probe": 4}
FLOORS |= {"training": 5, "analysis": 6, "cli": 7}
"""Layers of the package: a module imports from layers below its own, never the other way round."""
ANALYSIS_FLOORS = {"statistics": 0, "similarity": 0, "tables": 1, "figures": 2, "tsne": 3}
ANALYSIS_FLOORS |= {"comparison": 4, "audit": 4, "ablation": 4, "success": 5, "diagnostics": 5, "report": 6}
"""The same inside `mnprobe.analysis`, by folder."""
HEAVY = {"torch", "matplotlib", "mujoco", "pandas", "scipy", "sklearn", "h5py", "openTSNE", "transformers"}


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


def test_imports_inside_analysis_point_one_way():
    folders = {path.parent.name for path in (PACKAGE / "analysis").glob("*/__init__.py")}
    assert folders == set(ANALYSIS_FLOORS)
    wrong = set()
    for path in sorted((PACKAGE / "analysis").rglob("*.py")):
        own = path.relative_to(PACKAGE / "analysis").with_suffix("").parts
        for name in _imports(path):
            other = tuple(name.split(".")[2:]) if name.startswith("mnprobe.analysis.") else ()
            if own[0] in folders and other and other[0] in folders and own[0] != other[0]:
                below = ANALYSIS_FLOORS[other[0]] < ANALYSIS_FLOORS[own[0]]
                wrong |= set() if below else {f"{path.relative_to(PACKAGE)} imports {name}"}
    assert not wrong, "\n".join(sorted(wrong))


def _imports_at_run_time(path):
    """Names of mnprobe's modules that a file imports, inside functions too, but not for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typed = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    typing_only = {id(inner) for node in typed for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in typing_only:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_files_of_a_package_import_only_from_files_below_their_own():
    """Each package has an order of its files, lowest first, in which every import points down."""
    paths = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    graph = {
        name: {
            other
            for other in _imports_at_run_time(path)
            if other in paths and other != name and other.split(".")[1] == name.split(".")[1]
        }
        for name, path in paths.items()
        if not name.endswith("__init__")
    }
    assert sum(map(len, graph.values())) > 300
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"these files import each other in a circle: {' -> '.join(error.args[1])}")


def test_lazy_faces_import_nothing_heavy():
    code = "import sys, mnprobe.analysis, mnprobe.probe; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & (HEAVY | {"plotly", "seaborn"})


@pytest.mark.parametrize("face", ["mnprobe.analysis", "mnprobe.probe"])
def test_every_name_of_a_lazy_face_can_be_imported(face):
    module = importlib.import_module(face)
    assert [name for name in module.__all__ if isinstance(getattr(module, name), ModuleType)] == []


def test_first_lines_of_modules_are_short_noun_phrases():
    question = re.compile(r"(What|Which|Who|How|Where|When|Whether)\b")
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        if not first or len(first) > 80 or question.match(first):
            wrong.append(f"{path.relative_to(PACKAGE)}: {first!r}")
    assert not wrong, "\n".join(wrong)


def test_no_two_modules_of_a_folder_differ_only_in_number_or_tense():
    def stem(name):
        name = name.strip("_")
        for ending in ("ings", "ing", "ers", "er", "ies", "es", "ed", "s", "y"):
            if name.endswith(ending) and len(name) - len(ending) >= 3:
                return name.removesuffix(ending)
        return name

    wrong = []
    folders = {path.parent for path in PACKAGE.rglob("*.py")} - {PACKAGE / "cli"}  # files there are named by commands
    for folder in sorted(folders):
        names = [path.stem for path in sorted(folder.glob("*.py")) if path.stem != "__init__"] + [
            path.parent.name for path in sorted(folder.glob("*/__init__.py"))
        ]
        stems = Counter(stem(name) for name in names)
        wrong += [f"{folder.relative_to(PACKAGE)}: {name}" for name in names if stems[stem(name)] > 1]
    assert not wrong, "\n".join(wrong)


def test_renamed_names_can_be_imported_by_their_new_paths():
    with (PACKAGE.parent / "docs" / "renames.csv").open(encoding="utf-8", newline="") as file:
        renames = list(csv.DictReader(file))
    assert len({row["old"] for row in renames}) == len(renames) > 500
    for row in renames:
        pkgutil.resolve_name(row["new"])


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


LOCKS_AND_DISK = {  # name -> the modules that may use it
    **{name: {"core/files.py"} for name in ("fsync", "fdatasync", "flock", "lockf", "fcntl", "msvcrt", "filelock")},
    "locked": {"core/files.py", "core/job.py"},
}


def _names(tree):
    """Names that code uses, imports or takes from an object."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (piece for alias in node.names for piece in alias.name.split("."))
            yield from (getattr(node, "module", None) or "").split(".")


def _misplaced(tree, module):
    """Locks and syncs that `module` must leave to core/files.py and core/job.py; `locked` when it is called."""
    calls = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
    called = {getattr(node, "id", getattr(node, "attr", "")) for node in calls}
    names = set(_names(tree)) - ({"locked"} - called)
    return sorted(name for name in names if module not in LOCKS_AND_DISK.get(name, {module}))


def test_locks_and_syncs_have_one_home():
    modules = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}
    found = {name: _misplaced(ast.parse(path.read_text(encoding="utf-8")), name) for name, path in modules.items()}
    assert not {name: wrong for name, wrong in found.items() if wrong}
    assert set().union(*LOCKS_AND_DISK.values()) <= set(modules)


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos.fsync(3)",
        "from os import fsync",
        "import fcntl",
        "from filelock import FileLock",
        "from mnprobe.core.files import locked\nwith locked(path): pass",
        "with files.locked(path): pass",
    ],
)
def test_a_lock_or_sync_elsewhere_is_seen(code):
    assert _misplaced(ast.parse(code), "data/writer.py")
    assert not _misplaced(ast.parse(code), "core/files.py")


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


CSV_ELSEWHERE = {
    "data/instructions.py": "a file that users write",
    "data/outcomes.py": "a file that users write",
    "data/video_table.py": "a file that users write",
    "worlds/outcomes.py": "the same file, as one may write it",
    "training/metrics_log.py": "grows by lines, and its last one may be half",
    "analysis/tables/paper.py": "numbers printed in the paper, part of the package",
}


def _csv_calls(tree):
    """Names of CSV readers and writers that code refers to: pandas' and the standard library's."""
    known = {"read_csv", "to_csv", "read_table", "csv.reader", "csv.writer", "csv.DictReader", "csv.DictWriter"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = f"{node.value.id}." if isinstance(node.value, ast.Name) and node.value.id == "csv" else ""
            yield from {f"{owner}{node.attr}"} & known
        elif isinstance(node, ast.ImportFrom) and node.module == "csv":
            yield from (alias.name for alias in node.names)


def test_tables_are_read_and_written_by_core_table_alone():
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if set(_csv_calls(ast.parse(path.read_text(encoding="utf-8"))))
    }
    wrong = found - {"core/table.py", *CSV_ELSEWHERE}
    assert not wrong, f"declare a TableSchema, and read and write by it: {sorted(wrong)}"
    assert found == {"core/table.py", *CSV_ELSEWHERE}, "no longer needed in the list"


@pytest.mark.parametrize("code", ["pd.read_csv(path)", "table.to_csv()", "csv.reader(file)", "from csv import reader"])
def test_a_second_reader_is_seen(code):
    assert list(_csv_calls(ast.parse(code)))


def test_type_information_ships():
    assert (PACKAGE / "py.typed").is_file()


HOLE = "\0"  # where a value is put into a text
FILLED = re.compile(
    rf"(?:`|\$ )mnprobe\b[^`]*{HOLE}|\bmnprobe (?:{'|'.join(COMMANDS)})\b[^`.:;,]*{HOLE}|\bmnprobe {HOLE} --"
)
UsageError = typer.BadParameter.__base__  # typer has no public name for it


def _texts(tree):
    """Every text that code makes, with a hole for each value put into it: literals, f-strings, +, % and format."""
    inside, documents = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                documents.add(first.value)
        if isinstance(node, ast.JoinedStr | ast.BinOp) and node not in inside:
            inside |= {below for below in ast.walk(node) if below is not node}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr | ast.BinOp | ast.Constant) and node not in inside | documents:
            yield node.lineno, _text(node)


def _text(node):
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
        return re.sub(r"%[a-z]", HOLE, _text(node.left))
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"\{\w*\}", HOLE, node.value)
    return HOLE


def _all_texts():
    for path in sorted(PACKAGE.rglob("*.py")):
        for line, text in _texts(ast.parse(path.read_text(encoding="utf-8"))):
            yield f"{path.relative_to(PACKAGE)}:{line}", text


def test_commands_in_messages_are_written_by_core_commands_alone():
    """A path that is put into a text as it stands cannot be pasted where it has a space."""
    wrong = [f"{place}: {text!r}" for place, text in _all_texts() if FILLED.search(text)]
    assert not wrong, "write these with mnprobe.core.commands:\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    "code",
    [
        'f"run `mnprobe align --run {path}`"',
        '"`mnprobe align --run " + str(path) + "`"',
        '"`mnprobe align --run %s`" % path',
        '"`mnprobe align --run {}`".format(path)',
        'f"mnprobe demos --{partition} makes some"',
        'f"$ mnprobe {words}"',
        'f"mnprobe {name} --run {path}"',
    ],
)
def test_a_path_put_into_a_command_is_seen(code):
    assert any(FILLED.search(text) for _, text in _texts(ast.parse(f"raise Error({code})")))


@pytest.mark.parametrize("code", ['f"made by mnprobe {version}"', 'f"{path}: `mnprobe align` writes it ({error})"'])
def test_other_values_beside_a_command_are_not(code):
    assert not any(FILLED.search(text) for _, text in _texts(ast.parse(f"raise Error({code})")))


def _static_commands():
    for place, text in _all_texts():
        found = re.findall(r"`(mnprobe [^`]*)`", text)
        found += re.findall(rf"^mnprobe (?:{'|'.join(COMMANDS)})(?: -[^,]*)?$", text)
        yield from ((place, command) for command in found)


def _refusal(command):
    """Why a command line cannot be given; empty where it can."""
    name, *words = shlex.split(command)[1:]
    if name not in COMMANDS:
        return f"there is no command {name}"
    try:
        with typer.main.get_command(command_app(name)).make_context(f"mnprobe {name}", list(words)):
            return ""
    except UsageError as error:
        return error.format_message() if words else ""  # the name of a command alone is no whole command line


def test_commands_named_in_messages_can_be_given():
    found = list(_static_commands())
    assert len(found) > 20
    wrong = [f"{place}: {command}: {why}" for place, command in found if (why := _refusal(command))]
    assert not wrong, "\n".join(wrong)
    assert "no-such" in _refusal("mnprobe align --no-such")
    assert _refusal("mnprobe nothing")
