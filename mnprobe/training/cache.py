"""Cache of computed arrays on disk: atomic and safe for concurrent writers."""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO
from uuid import uuid4

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from mnprobe.core.errors import DataError
from mnprobe.core.files import sync
from mnprobe.core.job import JobRecord, in_turn
from mnprobe.core.provenance import canonical_json, config_hash

__all__ = ["Arrays", "Rows", "cached_arrays"]

Arrays = Mapping[str, NDArray[Any]]
"""Arrays by name, one row per item on their first axis."""

Rows = tuple[str, Mapping[str, Arrays]]
"""The owner of the rows (for errors), and by kind some rows of each of its arrays."""

_SCHEMA = "mnprobe.arrays/1"
_MANIFEST = "manifest.json"


def cached_arrays(
    cache: Path,
    wanted: Mapping[str, Mapping[str, Any]],
    make: Callable[[Sequence[str]], Iterable[Rows]],
    *,
    note: Callable[[str], None] | None = None,
) -> dict[str, Arrays]:
    """Load arrays of several kinds from the cache `cache/<kind>-<hash of its key>/`; `make` computes missing ones.

    Arrays are opened as read-only memory maps. Writes are atomic: rows are written to a temporary folder as they are
    produced, and the folder is renamed after all rows are synced to disk, so an interrupted process leaves no
    incomplete cache entry. Concurrent processes that request the same arrays wait for the first one. Arrays whose sizes
    differ from the recorded ones are computed again.

    Args:
        cache: folder of cached arrays.
        wanted: the key of each kind (one word): everything its arrays depend on, as JSON values.
        make: called with the missing kinds, yields their rows; all pieces of a kind have the same names, types and row
            shapes.
        note: called with messages for the user.

    Raises:
        DataError: rows of unequal sizes (the message names the owner), or no rows.
        OSError: the disk is full, or the folder is not writable.
    """
    keys = {kind: {"schema": _SCHEMA, "kind": kind, **key} for kind, key in wanted.items()}
    folders = {kind: cache / f"{kind}-{config_hash(key)}" for kind, key in keys.items()}

    def cached() -> dict[str, Arrays]:
        arrays = {kind: _read(folder, keys[kind]) for kind, folder in folders.items()}
        return {kind: there for kind, there in arrays.items() if there is not None}

    missing = sorted(set(wanted).difference(cached()))  # sorted, to avoid a deadlock between processes
    if missing:
        cache.mkdir(parents=True, exist_ok=True)
        with ExitStack() as locks:
            for kind in missing:
                locks.enter_context(_lock(folders[kind], note))
            if still := sorted(set(wanted).difference(cached())):  # and not written by another process in the meantime
                _make({kind: folders[kind] for kind in still}, keys, make, note)
    arrays = cached()
    if lost := sorted(set(wanted).difference(arrays)):
        raise DataError(
            f"{folders[lost[0]]}: not as it was written a moment ago; is another program at work in this folder?"
        )
    return arrays


def _make(
    folders: Mapping[str, Path],
    keys: Mapping[str, Mapping[str, Any]],
    make: Callable[[Sequence[str]], Iterable[Rows]],
    note: Callable[[str], None] | None,
) -> None:
    parts = {kind: _part_of(folder) for kind, folder in folders.items()}
    try:
        for kind, folder in folders.items():
            for leftover in folder.parent.glob(f".{folder.name}.*.part"):
                shutil.rmtree(leftover, ignore_errors=True)
            if folder.exists() and note:
                note(f"{folder} is damaged; it is made again")
            parts[kind].mkdir()
        _write(parts, keys, make(tuple(folders)))
        for kind, folder in folders.items():
            _publish(parts[kind], folder)
    finally:
        for part in parts.values():
            shutil.rmtree(part, ignore_errors=True)


def _read(folder: Path, key: Mapping[str, Any]) -> dict[str, NDArray[Any]] | None:
    """The arrays as memory maps; None when they are not there, or not as they were written."""
    job = JobRecord(
        path=folder / _MANIFEST, entry="key", config=key, what="this cache", remedy=f"remove {folder}", exact=True
    )
    arrays: dict[str, NDArray[Any]] = {}
    try:
        if job.status in ("missing", "stale"):
            return None
        manifest = json.loads(job.path.read_text(encoding="utf-8"))
        for name, entry in manifest["arrays"].items():
            path = folder / _file_of(name)
            if path.stat().st_size != entry["bytes"]:
                return None
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            if (list(array.shape), array.dtype.str) != (entry["shape"], entry["dtype"]):
                return None
            arrays[name] = array
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # any content that this module did not write
        return None
    return arrays


def _file_of(name: str) -> str:
    if not name.isidentifier():  # no name may point outside the folder
        raise ValueError(f"an array is named by an identifier, got {name!r}")
    return f"{name}.npy"


def _lock(folder: Path, note: Callable[[str], None] | None) -> AbstractContextManager[None]:
    """Lock `folder` for writing; wait while another process holds the lock. The lock is freed when its process ends."""

    def waiting(who: str) -> None:
        if note:
            note(f"another process prepares {folder}{who}; waiting for it")

    return in_turn(folder.with_name(f".{folder.name}.lock"), waiting=waiting)


def _part_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.{uuid4().hex[:12]}.part")


def _publish(part: Path, folder: Path) -> None:
    """Rename `part` to its final name; an existing damaged folder is removed first."""
    if folder.exists():
        away = _part_of(folder)
        folder.rename(away)
        shutil.rmtree(away, ignore_errors=True)
    part.rename(folder)
    sync(folder.parent)


def _write(parts: Mapping[str, Path], keys: Mapping[str, Mapping[str, Any]], pieces: Iterable[Rows]) -> None:
    columns: dict[str, dict[str, _Column]] = {}
    first = ""
    with ExitStack() as stack:
        for whose, kinds in pieces:
            if not columns:
                first = whose
                for kind, arrays in kinds.items():
                    columns[kind] = {
                        name: stack.enter_context(_Column(parts[kind] / _file_of(name), array))
                        for name, array in arrays.items()
                    }
            for kind, of_kind in columns.items():
                for name, column in of_kind.items():
                    column.append(kinds[kind][name], whose, first)
    if not columns:
        raise DataError("there is nothing to prepare: no episode was given")
    for kind, of_kind in columns.items():
        manifest = {"key": keys[kind], "arrays": {name: column.describe() for name, column in of_kind.items()}}
        path = parts[kind] / _MANIFEST
        path.write_text(canonical_json(manifest), encoding="utf-8")
        sync(path)
        sync(parts[kind])


class _Column:
    """A .npy file to which rows are appended; its header, of fixed length, is rewritten at the end."""

    def __init__(self, path: Path, like: NDArray[Any]) -> None:
        self._path = path
        self._tail = like.shape[1:]
        self._dtype = like.dtype
        self._rows = 0
        self._file: BinaryIO = path.open("wb")
        self._header()
        self._start = self._file.tell()

    def append(self, rows: NDArray[Any], whose: str, first: str) -> None:
        if (rows.shape[1:], rows.dtype) != (self._tail, self._dtype):
            raise DataError(
                f"{whose}: its {self._path.stem} are {rows.dtype} of {rows.shape[1:]}, those of {first} are "
                f"{self._dtype} of {self._tail}; a training needs one image size per camera. "
                "Train on episodes of one size only"
            )
        self._put(np.ascontiguousarray(rows).data)
        self._rows += len(rows)

    def describe(self) -> dict[str, Any]:
        return {
            "shape": [self._rows, *self._tail],
            "dtype": self._dtype.str,
            "bytes": self._path.stat().st_size,
        }

    def __enter__(self) -> "_Column":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if kind is None:
                self._file.seek(0)
                self._header()
                if self._file.tell() != self._start:
                    raise RuntimeError(f"the header of {self._path} changed its length")
        if kind is None:
            sync(self._path)

    def _header(self) -> None:
        described = {
            "shape": (self._rows, *self._tail),
            "fortran_order": False,
            "descr": npy.dtype_to_descr(self._dtype),
        }
        npy.write_array_header_1_0(self._file, described)

    def _put(self, content: memoryview) -> None:
        try:
            self._file.write(content)
        except OSError as error:
            if error.filename is None:  # the error of a full disk does not name the file
                raise OSError(error.errno, os.strerror(error.errno or 0), str(self._path)) from error
            raise
