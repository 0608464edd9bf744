"""Import of features that were computed elsewhere, with a table of episodes."""

import json
import re
import struct
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnprobe.core.arrays import as_array
from mnprobe.core.errors import ConfigError, FeatureError
from mnprobe.core.files import sha256_file
from mnprobe.core.job import JobRecord
from mnprobe.core.labels import is_missing, some
from mnprobe.core.names import FeatureId, Side, as_side
from mnprobe.core.provenance import config_hash
from mnprobe.core.registry import unknown_name
from mnprobe.core.rundir import RunDir, resolve_run
from mnprobe.core.table import UNREADABLE, read_cells, typed_cells
from mnprobe.data.episode import need_packages
from mnprobe.features.schema import CHUNK_ROWS, Header, check_layer_name
from mnprobe.features.store import open_features, verify
from mnprobe.features.writer import FeatureWriter

__all__ = ["FEATURE_FILES", "TABLE_FILES", "Imported", "import_features"]

FEATURE_FILES = (".npz", ".npy", ".pt", ".pth", ".safetensors", ".parquet", ".csv")
"""Endings of files of features."""
TABLE_FILES = (".csv", ".parquet", ".jsonl")
"""Endings of tables of episodes."""

_DEFAULT_LAYER = {Side.UNDERSTANDING: "u", Side.EXECUTION: "e"}
_ID_NAMES = ("id", "ids", "episode_id", "episode_ids")
_TEXT_NAMES = ("id", "task", "instruction", "partition", "prediction")
_SHOWN = 20  # episodes that are left out and listed before "and N more"
_LOCAL_HEADER = 30  # bytes of a local file header of a ZIP archive before name and extra field

Array = np.ndarray[Any, Any]
Note = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A store that `import_features` made. `skipped` maps episodes that were left out to the reason.

    `status` is "kept" when the store was there already, from the same files and settings.
    """

    path: Path
    id: FeatureId
    layers: Mapping[str, tuple[int, ...]]
    episodes: int
    status: str
    skipped: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON."""
        return {
            "path": str(self.path),
            "model": self.id.model,
            "side": str(self.id.side),
            "source": self.id.source_name,
            "step": self.id.step,
            "trained": self.id.trained,
            "layers": {name: list(shape) for name, shape in self.layers.items()},
            "episodes": self.episodes,
            "skipped": dict(self.skipped),
            "status": self.status,
        }


def import_features(
    features: Path | str,
    *,
    episodes: Path | str | Mapping[str, Any],
    side: str,
    name: str,
    step: int = 0,
    layers: Sequence[str] = (),
    source: str = "demos",
    trained: bool = True,
    training: str = "",
    run: RunDir | Path | None = None,
    out: Path | None = None,
    dtype: str = "float32",
    skip_missing: bool = False,
    overwrite: bool = False,
    note: Note | None = None,
) -> Imported:
    """Write a feature store from a file of features and a table of episodes, for models of other environments.

    Row i of every array is the episode in row i of the table. If the file has ids of its own (an array or a column
    called id, ids or episode_id), rows are joined by these instead.

    Args:
        features: `.npy`, `.npz`, `.pt` or `.pth` (tensors, read with `weights_only`), `.safetensors`, `.parquet` or
            `.csv`. An array (N, D) has one row per episode, an array (N, T, D) T tokens each, a list of N tensors
            (m_i, D) m_i tokens each. Several arrays are several layers. In a parquet file a column of lists is a layer;
            without such a column, all columns of numbers together are one, as in a CSV file. `.npy` files and arrays of
            `.npz` files that are not compressed are read from disk in blocks and may be larger than memory.
        episodes: table as `.csv`, `.parquet` or `.jsonl`, or a mapping of columns: `id` and, as far as known,
            instruction, task, variation, partition, success, prediction. Further columns are kept.
        side: "understanding" or "execution".
        name: name of the model.
        step: training step of the model.
        layers: arrays to import, by name; all by default. A single array without a name, and the only array of a file,
            is called "u" or "e" by its side, unless a name is given here.
        source: name of the data, as in the stores of the other side.
        trained: False for a model with random weights.
        training: name of the training; "" if none.
        run: the run to add the store to, made if it does not exist; by default the newest under ./runs.
        out: a file ending in .h5, or a folder, instead of a run.
        dtype: stored type, "float32" or "float16".
        skip_missing: leave out episodes without an instruction (or id, or task, where others have one), with an id that
            repeats, or with features that are not finite, and list them in the store. Without it they are refused.
        overwrite: replace a store of other content.
        note: called with messages for the user.

    Raises:
        FeatureError: for files that cannot be read, numbers of rows that differ, ids that repeat or are not in the
            file, episodes without an instruction among others that have one, and values that are not finite; naming
            file, row and id.
        ConfigError: for an unknown ending, side or layer.
    """
    say = note or (lambda text: None)
    which, features = as_side(side), Path(features)
    header = Header(model=name, side=which, source=source, step=step, trained=trained, training=training)
    home = None if out is not None else run if isinstance(run, RunDir) else RunDir(run) if run else resolve_run(None)
    target = _target(header.id, home, out)
    remarks: list[str] = []
    table = _Table.read(episodes, remarks)
    content = _read_features(features, tuple(layers), len(table), remarks)
    named = _layer_names(content.arrays, tuple(layers), which, remarks)
    asked: dict[str, Any] = {
        "import": features.name,
        "features_sha256": sha256_file(features),
        "episodes_hash": config_hash({key: list(map(str, column)) for key, column in table.columns.items()}),
        "model": header.model,
        "side": str(which),
        "source": source,
        "step": header.step,
        "trained": header.trained,
        "training": training,
        "layers": dict(sorted(named.items())),
        "dtype": dtype,
        **({"skip_missing": True} if skip_missing else {}),
    }
    order = _order(content, table, features)
    shapes = {stored: content.arrays[array].shape for stored, array in named.items()}
    job = _record(target, asked)
    for remark in remarks:
        say(remark)
    if not overwrite and target.exists() and job.check() == "done":
        return _imported(target, header, shapes, "kept")
    skipped = table.lacking() | table.repeated()
    for stored, array in named.items():
        for row in _not_finite(content.arrays[array], order):
            skipped.setdefault(row, f"its features in layer {stored!r} hold NaN or infinity")
    table.check(skipped, skip_missing)
    kept = np.array([row for row in range(len(table)) if row not in skipped], dtype=np.int64)
    left_out = {table.name_of(row): reason for row, reason in sorted(skipped.items())}
    if left_out:
        shown = "; ".join([f"{one} ({reason})" for one, reason in left_out.items()][:_SHOWN])
        more = f" and {len(left_out) - _SHOWN} more" if len(left_out) > _SHOWN else ""
        say(f"{target}: {len(skipped)} of {len(table)} episodes left out: {shown}{more}")
    columns = {key: [values[row] for row in kept] for key, values in table.columns.items()}
    provenance: dict[str, Any] = {"asked": asked, "config_hash": config_hash(asked), "table": Path(table.where).name}
    provenance["layers"] = {
        stored: {"meaning": f"{array!r} of {features.name}" if array else features.name}
        for stored, array in named.items()
    }
    if left_out:
        provenance["counts"] = {"episodes_skipped": len(skipped)}
        provenance["skipped"] = [{"id": one, "reason": reason} for one, reason in left_out.items()]
    if remarks:
        provenance["remarks"] = list(remarks)
    header = Header.of(header.id, provenance=provenance)
    if home is not None:
        home = RunDir.create(home.path)
    with FeatureWriter(target, header, columns, dtype=dtype) as writer:
        for stored, array in named.items():
            for block, lengths in content.arrays[array].blocks(order[kept]):
                writer.append(stored, block, lengths=lengths)
    if home is not None:
        before = home.config.get("import", {})
        home.record("import", (before if isinstance(before, dict) else {}) | {_entry(header): asked})
    return _imported(target, header, shapes, "written", left_out)


def _entry(header: Header) -> str:
    return f"{header.model} {header.source} {header.step}"


def _imported(
    path: Path,
    header: Header,
    shapes: Mapping[str, tuple[int, ...]],
    status: str,
    skipped: Mapping[str, str] | None = None,
) -> Imported:
    with open_features(path) as file:
        count = len(file)
        listed = file.attrs["provenance"].get("skipped", [])
    known = {one["id"]: one["reason"] for one in listed} if skipped is None else skipped
    layers = {name: (count, *shape[1:]) for name, shape in shapes.items()}
    return Imported(path=path, id=header.id, layers=layers, episodes=count, status=status, skipped=known)


def _target(feature: FeatureId, home: RunDir | None, out: Path | None) -> Path:
    if out is not None:
        return out if out.suffix == ".h5" else out / feature.path
    assert home is not None  # without `out` there is a run
    return home.path / "features" / feature.path


def _record(target: Path, asked: Mapping[str, Any]) -> JobRecord:
    def read(path: Path) -> Mapping[str, Any]:
        verify(path)
        with open_features(path) as file:
            found: Mapping[str, Any] = file.attrs["provenance"].get("asked", {})
        return found

    return JobRecord(
        path=target,
        config=asked,
        what="the feature store",
        remedy="add --overwrite to replace it, or write elsewhere with --name, --step, --source or --out",
        error=FeatureError,
        read=read,
        finished=lambda: True,
        exact=True,
    )


# ---- the table of episodes -------------------------------------------------------------------------------------------


class _Table:
    """Columns of the episodes as lists, with the place of each row for messages."""

    def __init__(self, columns: dict[str, list[Any]], where: str, first: int = 0) -> None:
        self.columns = columns
        self.where = where
        self._first = first  # line of the first row in the file; 0 where rows have no lines
        if "id" not in columns:
            raise FeatureError(
                f"{where}: the table of episodes has no column 'id', only {', '.join(columns) or 'nothing'}"
            )
        self.ids: list[str] = ["" if is_missing(value) else _id(value) for value in columns["id"]]
        columns["id"] = self.ids
        if not self.ids:
            raise FeatureError(f"{where}: the table of episodes has no row")

    @classmethod
    def read(cls, given: Path | str | Mapping[str, Any], remarks: list[str]) -> "_Table":
        """Read a file, or take the columns that are given."""
        if isinstance(given, Mapping):
            return cls({str(key): list(values) for key, values in given.items()}, "episodes")
        path = Path(given)
        kind = path.suffix.lower()
        if kind not in TABLE_FILES:
            raise ConfigError(
                f"{path}: a table of episodes ends in {', '.join(TABLE_FILES)}, not {kind or 'nothing'!r}"
            )
        if not path.is_file():
            raise FeatureError(f"{path}: there is no such table of episodes")
        columns = {".csv": _csv_columns, ".parquet": _parquet_columns, ".jsonl": _json_columns}[kind](path)
        for name in [
            name for name in columns if not name.strip() or re.fullmatch(r"Unnamed: \d+|__index_level_0__", name)
        ]:
            del columns[name]
            remarks.append(f"{path}: the column without a name is left out")
        return cls(columns, str(path), first=2 if kind == ".csv" else 1 if kind == ".jsonl" else 0)

    def __len__(self) -> int:
        return len(self.ids)

    def name_of(self, row: int) -> str:
        """Id of a row, or its place where it has none."""
        repeated = self.ids[row] in self._counts and self._counts[self.ids[row]] > 1
        if self.ids[row] and not repeated:
            return self.ids[row]
        return f"{self.ids[row]} ({self._place(row)})".strip()

    def _place(self, row: int) -> str:
        return f"line {row + self._first}" if self._first else f"row {row}"

    @cached_property
    def _counts(self) -> Counter[str]:
        return Counter(one for one in self.ids if one)

    def lacking(self) -> dict[int, str]:
        """Rows without an id, and those without an instruction or task where others have one."""
        found = {row: "has no id" for row, one in enumerate(self.ids) if not one}
        for name in ("instruction", "task"):
            gone = [row for row, value in enumerate(self.columns.get(name, [])) if is_missing(value)]
            if len(gone) < len(self) or name == "instruction":
                for row in gone:
                    found.setdefault(row, f"has no {name}")
        return found

    def repeated(self) -> dict[int, str]:
        """Rows whose id is the id of another row."""
        counts = self._counts
        return {row: f"its id occurs {counts[one]} times" for row, one in enumerate(self.ids) if counts[one] > 1}

    def check(self, problems: Mapping[int, str], skip: bool) -> None:
        """Refuse rows with problems, or a table in which none is without."""
        if not problems:
            return
        row = min(problems)
        which = self.ids[row] or "no id"
        if len(problems) == len(self):
            remedy = "Nothing is left to import"
            if all(reason == "has no instruction" for reason in problems.values()):
                remedy = "Fill in the column, or leave it out: then only --pairing episode can be measured"
            raise FeatureError(
                f"{self.where}: all {len(self)} episodes have a problem, the first is {self._place(row)} ({which}): it "
                f"{problems[row]}. {remedy}"
            )
        if not skip:
            raise FeatureError(
                f"{self.where}: {len(problems)} of {len(self)} episodes cannot be imported, the first is "
                f"{self._place(row)} ({which}): it {problems[row]}. Mend the files, or add --skip-missing to leave "
                "these episodes out, listed in the store"
            )


def _id(value: Any) -> str:
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def _csv_columns(path: Path) -> dict[str, list[Any]]:
    """Columns of a CSV file: text, or numbers in columns of the user's own whose cells all are numbers."""
    try:
        cells = read_cells(path)
    except UnicodeDecodeError as error:
        raise FeatureError(f"{path}: is not UTF-8 (byte {error.start}); save the table as UTF-8") from error
    except UNREADABLE as error:
        raise FeatureError(f"{path}: cannot be read as CSV ({error})") from error
    header = [name.strip() for name in cells.header]
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise FeatureError(f"{path}: two columns are called {twice[0]!r}")
    for line, row in enumerate(cells.rows, start=2):
        if len(row) != len(header):
            raise FeatureError(f"{path}, line {line}: {len(row)} cells under {len(header)} columns")
    columns = {name: [row[place].strip() for row in cells.rows] for place, name in enumerate(header)}
    return {name: list(values) if name in _TEXT_NAMES else typed_cells(values) for name, values in columns.items()}


def _parquet_columns(path: Path) -> dict[str, list[Any]]:
    return {name: column.to_pylist() for name, column in _parquet(path).items()}


def _json_columns(path: Path) -> dict[str, list[Any]]:
    """Columns of a file with one JSON object a line; entries that a line lacks are None."""
    rows: list[dict[str, Any]] = []
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            found = json.loads(line)
            if not isinstance(found, dict):
                raise FeatureError(f"{path}, line {number}: holds a {type(found).__name__}, expected an object")
            rows.append(found)
    except (OSError, ValueError, RecursionError) as error:
        raise FeatureError(f"{path}: cannot be read as JSON lines ({error})") from error
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


# ---- files of features -----------------------------------------------------------------------------------------------


class _Source:
    """One array of a file: (N, D) or (N, T, D), or N arrays of tokens; rows are read when they are needed."""

    def __init__(self, values: Any, where: str, read: Callable[[Array], Any] | None = None) -> None:
        self._values = values
        self._where = where
        self._read = read
        self.is_ragged = isinstance(values, list)
        if self.is_ragged:
            shapes = {tuple(piece.shape[1:]) for piece in values}
            if len(shapes) != 1 or any(piece.ndim != 2 for piece in values):
                raise FeatureError(f"{where}: tokens of every episode must be (m, D), got {some(sorted(shapes))}")
            self.shape: tuple[int, ...] = (len(values), *next(iter(shapes)))
        else:
            self.shape = tuple(map(int, values.shape))

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self, rows: Array) -> list[Array] | Array:
        """Values of some episodes, in the order given."""
        if self.is_ragged:
            return [self._values[row] for row in rows]
        if self._read is not None:
            return as_array(self._read(rows), self._where)
        return as_array(np.asarray(self._values[rows]), self._where)

    def blocks(self, order: Array) -> Iterator[tuple[Array, list[int]]]:
        """Tokens (m, D) of some episodes at a time, and the number of tokens of each of them."""
        for start in range(0, len(order), CHUNK_ROWS):
            found = self.rows(order[start : start + CHUNK_ROWS])
            if isinstance(found, list):
                yield np.concatenate(found), [len(piece) for piece in found]
            elif found.ndim == 3:
                yield found.reshape(-1, found.shape[2]), [found.shape[1]] * len(found)
            else:
                yield found, [1] * len(found)


class _Content(NamedTuple):
    """Arrays of a file by name ("" where it has none), and its own ids."""

    arrays: dict[str, _Source]
    ids: list[str] | None


def _not_finite(source: _Source, order: Array) -> list[int]:
    """Rows of the table whose features hold NaN or infinity."""
    bad: list[int] = []
    place = 0
    for block, lengths in source.blocks(order):
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            owner = np.repeat(np.arange(len(lengths)), lengths)
            bad += (place + np.unique(owner[~finite])).tolist()
        place += len(lengths)
    return bad


def _order(content: _Content, table: _Table, path: Path) -> Array:
    """Row of the file for each row of the table."""
    for name, source in content.arrays.items():
        if len(source) != len(table):
            label = f"array {name!r}" if name else "the array"
            hint = ""
            if len(table) in source.shape[1:2]:
                hint = f". Its second axis has {len(table)}: is it to be transposed?"
            raise FeatureError(
                f"{path}: {label} has {len(source)} rows, {table.where} has {len(table)} episodes; row i of one is row "
                f"i of the other{hint}"
            )
    if content.ids is None:
        return np.arange(len(table))
    ids = content.ids
    twice = [one for one, count in Counter(ids).items() if count > 1]
    if len(ids) != len(table) or twice:
        reason = f"repeat ({some(twice, 3)})" if twice else f"are {len(ids)}, not {len(table)}"
        raise FeatureError(f"{path}: its ids {reason}, so that its rows cannot be joined to {table.where}")
    places = {one: row for row, one in enumerate(ids)}
    unknown = [one for one in table.ids if one not in places]
    if unknown:
        raise FeatureError(
            f"{path}: has no features of {len(unknown)} of {len(table)} episodes of {table.where}: {some(unknown, 3)}; "
            f"its ids look like {ids[0]!r}. If these are no ids of episodes, give them another name in the file"
        )
    return np.array([places[one] for one in table.ids], dtype=np.int64)


def _layer_names(
    arrays: Mapping[str, _Source], asked: tuple[str, ...], side: Side, remarks: list[str]
) -> dict[str, str]:
    """Stored name of each layer -> name of its array in the file."""
    default = _DEFAULT_LAYER[side]
    if len(arrays) == 1:
        (array,) = arrays
        return {check_layer_name(asked[0]) if asked else default: array}
    named: dict[str, str] = {}
    for array in arrays:
        stored = re.sub(r"[^A-Za-z0-9_.-]+", ".", array).lstrip(".-").rstrip(".") or default
        if stored in named:
            raise FeatureError(f"the arrays {named[stored]!r} and {array!r} would both be layer {stored!r}: rename one")
        named[check_layer_name(stored)] = array
    if default not in named:
        remarks.append(
            f"layers {', '.join(named)}: none is called {default!r}, so that one is chosen with --layer-{default}"
        )
    return named


def _read_features(path: Path, asked: tuple[str, ...], count: int, remarks: list[str]) -> _Content:
    kind = path.suffix.lower()
    if kind not in FEATURE_FILES:
        raise ConfigError(f"{path}: a file of features ends in {', '.join(FEATURE_FILES)}, not {kind or 'nothing'!r}")
    if not path.is_file():
        raise FeatureError(f"{path}: there is no such file of features")
    readers: dict[str, Callable[[Path], dict[str, Any]]] = {
        ".npy": _read_npy,
        ".npz": _read_npz,
        ".pt": _read_torch,
        ".pth": _read_torch,
        ".safetensors": _read_safetensors,
        ".parquet": _read_parquet,
    }
    found = _read_csv(path, count, remarks) if kind == ".csv" else readers[kind](path)
    ids = next((found.pop(name) for name in _ID_NAMES if name in found and _is_text(found[name])), None)
    if asked and len(found) > 1:
        for name in asked:
            if name not in found:
                raise unknown_name(f"array of {path}:", name, list(found))
        found = {name: found[name] for name in asked}
    elif len(asked) > 1:
        raise ConfigError(f"{path} holds one array; it gets one name, not {', '.join(asked)}")
    arrays: dict[str, _Source] = {}
    unfit: dict[str, str] = {}
    for name, values in found.items():
        reason = _unfit(values)
        if reason:
            unfit[name] = reason
            continue
        if isinstance(values, _Source):
            arrays[name] = values
        else:
            arrays[name] = _Source(values, f"{path}: {name}" if name else str(path))
    if unfit and (asked or not arrays):
        name, reason = next(iter(unfit.items()))
        raise FeatureError(
            f"{path}: {f'array {name!r}' if name else 'its array'} {reason}; features are numbers of shape (episodes, "
            "width) or (episodes, tokens, width)"
        )
    if not arrays:
        raise FeatureError(f"{path}: holds no array")
    remarks += [f"{path}: array {name!r} is left out: it {reason}" for name, reason in unfit.items()]
    return _Content(arrays, None if ids is None else [_id(value) for value in np.asarray(ids).reshape(-1).tolist()])


def _is_text(values: Any) -> bool:
    """Whether an array may be a list of ids: texts or whole numbers in one row."""
    return getattr(values, "ndim", 0) == 1 and getattr(getattr(values, "dtype", None), "kind", "") in "USOiu"


def _unfit(values: Any) -> str:
    """Why values are no features; '' if they may be."""
    if isinstance(values, _Source | list):
        return ""
    shape = tuple(values.shape)
    kind = getattr(values.dtype, "kind", "f")
    if kind not in "fiu":
        return f"holds values of type {values.dtype}"
    if len(shape) not in (2, 3) or 0 in shape:
        return f"has shape {shape}"
    return ""


def _read_npy(path: Path) -> dict[str, Any]:
    try:
        return {"": np.load(path, mmap_mode="r", allow_pickle=False)}
    except (OSError, ValueError, EOFError) as error:
        raise FeatureError(f"{path}: cannot be read as an array of numpy ({error})") from error


def _read_npz(path: Path) -> dict[str, Any]:
    """Arrays of an archive: mapped from disk where they are not compressed."""
    found: dict[str, Any] = {}
    try:
        with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as arrays:
            for entry in archive.infolist():
                name = entry.filename.removesuffix(".npy")
                mapped = _mapped(path, entry)
                found[name] = arrays[name] if mapped is None else mapped
                if mapped is not None:
                    with archive.open(entry) as content:  # reading to the end verifies the checksum
                        while content.read(2**22):
                            pass
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, struct.error) as error:
        raise FeatureError(f"{path}: cannot be read as an archive of numpy ({error})") from error
    return found


def _mapped(path: Path, entry: zipfile.ZipInfo) -> Array | None:
    """The array of an entry as a memory map; None where it is compressed, or small."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.file_size < 2**20:
        return None
    with path.open("rb") as file:
        file.seek(entry.header_offset)
        head = file.read(_LOCAL_HEADER)
        name_size, extra_size = struct.unpack("<HH", head[26:30])
        file.seek(name_size + extra_size, 1)
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if read is None:
            return None
        shape, fortran, dtype = read(file)
        if dtype.hasobject:
            return None
        return np.memmap(path, dtype=dtype, mode="r", offset=file.tell(), shape=shape, order="F" if fortran else "C")


def _read_torch(path: Path) -> dict[str, Any]:
    """Tensors of a file of torch: one, a mapping of several, or a list with the tokens of each episode."""
    import pickle

    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        text = " ".join(str(error).split())[:200]
        raise FeatureError(
            f"{path}: cannot be read as tensors ({text}). Only tensors, lists and mappings of them are read "
            "(torch.load with weights_only=True); save them so, or as .npz"
        ) from error
    if isinstance(found, Mapping):
        return {str(name): _of_torch(values, f"{path}: {name!r}", alone=False) for name, values in found.items()}
    return {"": _of_torch(found, str(path))}


def _of_torch(values: Any, where: str, *, alone: bool = True) -> Any:
    """Arrays of a tensor or a list of tensors; other entries of a mapping become an array that is left out."""
    import torch

    if isinstance(values, torch.Tensor):
        return as_array(values, where)
    if isinstance(values, list | tuple) and values:
        if all(isinstance(one, torch.Tensor) for one in values):
            pieces = [as_array(one, f"{where}[{row}]") for row, one in enumerate(values)]
            if all(piece.ndim == 1 for piece in pieces) and len({piece.shape for piece in pieces}) == 1:
                return np.stack(pieces)
            return pieces
        if all(isinstance(one, str | int) for one in values):
            return np.array(list(values), dtype=object)
    if not alone:
        return np.array(None, dtype=object)
    raise FeatureError(
        f"{where}: is a {type(values).__name__}, no tensor; what is read are a tensor, a mapping of tensors, or a "
        "list of the tokens (m, D) of each episode"
    )


def _read_safetensors(path: Path) -> dict[str, Any]:
    """Tensors of a file; rows are read when they are needed."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, Any] = {}
    try:
        file: Any = safe_open(path, framework="pt")
        for name in file.keys():  # noqa: SIM118 (no mapping)
            part = file.get_slice(name)
            shape = tuple(part.get_shape())
            if len(shape) not in (2, 3) or 0 in shape:
                found[name] = as_array(file.get_tensor(name), f"{path}: {name!r}")
            else:
                found[name] = _Source(_Shaped(shape), f"{path}: {name!r}", _rows_of(part))
    except (OSError, SafetensorError) as error:
        raise FeatureError(f"{path}: cannot be read as safetensors ({error})") from error
    return found


class _Shaped(NamedTuple):
    """Stands for an array that is read by rows."""

    shape: tuple[int, ...]


def _rows_of(part: Any) -> Callable[[Array], Any]:
    def read(rows: Array) -> Any:
        low, high = int(rows.min()), int(rows.max()) + 1
        return part[low:high][(rows - low).tolist()]

    return read


def _parquet(path: Path) -> dict[str, Any]:
    """Columns of a parquet file, as pyarrow has them."""
    need_packages(f"{path}: parquet files", "pyarrow")
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            table = file.read()
    except (OSError, pyarrow.ArrowException) as error:
        text = " ".join(str(error).split())[:200]
        raise FeatureError(f"{path}: cannot be read as a parquet file ({text})") from error
    return {name: table.column(place) for place, name in enumerate(table.column_names)}


def _read_parquet(path: Path) -> dict[str, Any]:
    """Layers of a parquet file: columns of lists; or all columns of numbers together."""
    import pyarrow.types as kinds

    found: dict[str, Any] = {}
    numbers: dict[str, Any] = {}
    for name, column in _parquet(path).items():
        if kinds.is_list(column.type) or kinds.is_large_list(column.type) or kinds.is_fixed_size_list(column.type):
            found[name] = _of_lists(column.to_pylist(), f"{path}: column {name!r}")
        elif name in _ID_NAMES:
            found[name] = np.array(column.to_pylist(), dtype=object)
        elif kinds.is_floating(column.type) or kinds.is_integer(column.type):
            if name != "__index_level_0__":
                numbers[name] = column
        else:
            found[name] = np.array(column.to_pylist(), dtype=object)
    if numbers and not any(isinstance(values, list) or values.dtype.kind in "fiu" for values in found.values()):
        found[""] = np.stack([as_array(column.to_pandas(), f"{path}: {name!r}") for name, column in numbers.items()], 1)
    else:
        found |= {name: column.to_numpy() for name, column in numbers.items()}
    return {name: values for name, values in found.items() if name in _ID_NAMES or _is_features(values)} or found


def _is_features(values: Any) -> bool:
    return isinstance(values, list) or (values.dtype.kind in "fiub" and values.ndim in (2, 3))


def _of_lists(rows: list[Any], where: str) -> Any:
    """Lists of numbers as (N, D), lists of lists as (N, T, D) or as the tokens of each episode."""
    if any(row is None for row in rows):
        raise FeatureError(f"{where}: row {next(i for i, row in enumerate(rows) if row is None)} has no features")
    pieces = [as_array(row, f"{where}, row {number}") for number, row in enumerate(rows)]
    if len({piece.shape for piece in pieces}) == 1:
        return np.stack(pieces)
    if all(piece.ndim == 1 for piece in pieces):
        widths = sorted({len(piece) for piece in pieces})
        raise FeatureError(f"{where}: rows have {widths[0]} to {widths[-1]} numbers; a layer has one width")
    return pieces


def _read_csv(path: Path, count: int, remarks: list[str]) -> dict[str, Any]:
    """Numbers of a CSV file, with or without a header; a column of ids, and one without a name, are no features.

    A first line that holds something else than numbers is a header, and so is 0, 1, 2, ... where there is one line more
    than episodes.
    """
    try:
        cells = read_cells(path)
    except UNREADABLE as error:
        raise FeatureError(f"{path}: cannot be read as CSV ({error})") from error
    rows = [row for row in (list(cells.header), *cells.rows) if row]
    if not rows:
        raise FeatureError(f"{path}: holds nothing")
    counted = rows[0] == [str(place) for place in range(len(rows[0]))]
    named = not all(map(_is_number, rows[0])) or (len(rows) == count + 1 and counted)
    header = [name.strip() for name in rows.pop(0)] if named else [f"column {place}" for place in range(len(rows[0]))]
    uneven = next((number for number, row in enumerate(rows) if len(row) != len(header)), None)
    if uneven is not None:
        raise FeatureError(f"{path}: row {uneven} has {len(rows[uneven])} cells, not {len(header)}")
    found: dict[str, Any] = {}
    left_out: set[int] = set()
    for place, name in enumerate(header):
        if name and name not in _ID_NAMES:
            continue
        labels = [row[place].strip() for row in rows]
        left_out.add(place)
        if not name and labels == [str(number) for number in range(len(rows))]:
            remarks.append(f"{path}: the column without a name numbers the rows and is left out")
        elif "id" not in found and (name or not all(map(_is_number, labels))):
            found["id"] = np.array(labels, dtype=object)
        else:
            raise FeatureError(f"{path}: a column has no name and does not number the rows; give it a name")
    places = [place for place in range(len(header)) if place not in left_out]
    values = np.empty((len(rows), len(places)))
    for number, row in enumerate(rows):
        try:
            values[number] = [float(row[place].strip() or "nan") for place in places]
        except ValueError:
            place = next(place for place in places if not _is_number(row[place].strip() or "nan"))
            raise FeatureError(
                f"{path}: column {header[place]!r}, row {number}: {row[place]!r} is no number. All columns but the ids "
                "are features; keep labels in the table of episodes"
            ) from None
    found[""] = values
    return found


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
