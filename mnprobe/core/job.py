"""Resumable jobs: recorded configuration, comparison, status and lock."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mnprobe.core.errors import ConfigError, MnprobeError
from mnprobe.core.files import locked, write_text
from mnprobe.core.provenance import config_hash

__all__ = ["JobRecord", "Status", "differences", "exclusive", "in_turn", "read_record"]

Status = Literal["done", "partial", "stale", "missing"]
"""Of a job on disk: finished; started with this configuration; of another configuration; not there."""

_SHOWN = 8  # differences listed before "and N more"
_WIDTH = 60  # characters of a value
_MARK = "..."


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Differences of two configurations, one text per entry, sorted by name; `path` is put before the names.

    The list is empty exactly where the two are equal: an entry that is None equals one that is absent, a tuple equals
    a list, names are compared as text, and true and false are not 1 and 0. Long values are shortened around the first
    character that differs.

    >>> differences({"seed": 1, "size": {"width": 8}}, {"seed": 1, "size": {"width": 9}})
    ['size.width was 8, now 9']
    """
    return _differences(_plain(old), _plain(new), path)


def read_record(path: Path, entry: str = "", *, error: type[MnprobeError] = ConfigError, remedy: str = "") -> Any:
    """Content of the JSON file `path`, or of its entry `entry`.

    Raises `error`, naming the file and `remedy`, when it cannot be read or does not hold an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content = content[entry] if entry else content
        reason = "" if isinstance(content, dict) else f"an object is needed, not {type(content).__name__}"
    except KeyError:
        reason = f"it has no entry {entry!r}"
    except (OSError, ValueError, TypeError) as cause:
        reason = str(cause)
    if reason:
        raise error(f"{path}: damaged or not the record of a configuration ({reason}){remedy and '; '}{remedy}")
    return content


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """The configuration that a job is asked for, and the one recorded where its results are.

    Attributes:
        path: of the record: a file in the job's folder, or the only file that the job makes.
        config: the configuration now requested, as JSON values.
        what: the job as a noun phrase, as in "the training 'joint'"; for errors.
        remedy: what else can be done where the recorded configuration is not wanted, as in "give it another --name".
        error: class of the errors about the configuration.
        entry: of the record that holds the configuration; "" where the record is the configuration.
        read: reads the recorded configuration from `path`, and raises for a damaged one; by default `read_record`.
        finished: says whether the job is done; called only when the configuration is the recorded one.
        exact: compare hashes, for which 1 differs from 1.0 and None from an absent entry.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> job = JobRecord(path=folder / "config.json", config={"seed": 1}, what="the study", remedy="use another folder")
    >>> job.status
    'missing'
    >>> job.write()
    >>> job.status
    'partial'
    """

    path: Path
    config: Mapping[str, Any]
    what: str
    remedy: str
    error: type[MnprobeError] = ConfigError
    entry: str = ""
    read: Callable[[Path], Mapping[str, Any]] | None = None
    finished: Callable[[], bool] = lambda: False
    exact: bool = False

    @property
    def digest(self) -> str:
        """Hash of the configuration, which the files of the job carry."""
        return config_hash(dict(self.config))

    @property
    def status(self) -> Status:
        """Of what is on disk; raises for a damaged record."""
        if not self.path.is_file():
            return "missing"
        if self._changes(self.recorded()):
            return "stale"
        return "done" if self.finished() else "partial"

    def recorded(self) -> Mapping[str, Any]:
        """The recorded configuration; raises, naming the file, when the record is damaged."""
        if self.read is not None:
            return self.read(self.path)
        content: Mapping[str, Any] = read_record(self.path, self.entry, error=self.error, remedy=self.remedy)
        return content

    def write(self, facts: Mapping[str, Any] | None = None, *, sort_keys: bool = True) -> None:
        """Write the record atomically, with `facts` next to the configuration where that is one entry of it.

        With `sort_keys` off, names keep their order and the file ends without a newline.
        """
        content = {self.entry: dict(self.config), **(facts or {})} if self.entry else dict(self.config)
        text = json.dumps(content, indent=2, sort_keys=sort_keys, allow_nan=False)
        write_text(self.path, text + "\n" if sort_keys else text)

    def check(self) -> Status:
        """The status, which is never "stale": raises `error` for another configuration."""
        if not self.path.is_file():
            return "missing"
        self.check_config(self.recorded())
        return "done" if self.finished() else "partial"

    def check_config(self, recorded: Mapping[str, Any]) -> None:
        """Raise `error` when `recorded` is another configuration than the one requested."""
        if changes := self._changes(recorded):
            raise self.error(_other(self.path, self.what, changes, f"use the recorded one, or {self.remedy}"))

    def check_digest(self, found: Any, path: Path, *, remedy: str, error: type[MnprobeError] | None = None) -> None:
        """Raise `error` (by default the job's) when `found`, the hash that the file `path` of it carries, is another.

        `remedy` is what to do with that file, as in "remove it".
        """
        if found != self.digest:
            changes = differences(found, self.digest, "config_hash")
            raise (error or self.error)(_other(path, f"this file of {self.what}", changes, remedy))

    def _changes(self, recorded: Mapping[str, Any]) -> list[str]:
        changes = differences(recorded, self.config)
        if self.exact and not changes and config_hash(recorded) != self.digest:
            return ["equal values are written in other ways"]
        return changes


@contextmanager
def exclusive(
    lock: Path, target: Path, *, doing: str, remedy: str, error: type[MnprobeError] = ConfigError
) -> Iterator[None]:
    """Hold the lock file `lock` for work on `target`; the end of the process, however it ends, frees it.

    Raises `error` while another process holds it; `doing` ("training into this folder") is what that process does.
    """
    with locked(lock, refuse=lambda who: error(f"{target}: another process is {doing}{who}; {remedy}")):
        yield


@contextmanager
def in_turn(lock: Path, *, waiting: Callable[[str], None] | None = None, leave: bool = True) -> Iterator[None]:
    """Hold the lock file `lock`, waiting while another process has it; see `mnprobe.core.files.locked`."""
    with locked(lock, waiting=waiting, leave=leave):
        yield


def _other(path: Path, what: str, changes: list[str], remedy: str) -> str:
    more = f"; and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
    return f"{path}: {what} was made with another configuration ({'; '.join(changes[:_SHOWN])}{more}); {remedy}"


def _plain(value: Any) -> Any:
    """The value as it comes back from JSON, without entries that are None."""
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items() if entry is not None}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def _differences(old: Any, new: Any, path: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for name in sorted({*old, *new}):
            found += _differences(old.get(name), new.get(name), f"{path}.{name}" if path else name)
        return found
    if _equal(old, new):
        return []
    before, after = _shortened(repr(old), repr(new))
    return [f"{path or 'the configuration'} was {before}, now {after}"]


def _equal(old: Any, new: Any) -> bool:
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(_equal(old[name], new[name]) for name in old)
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(_equal, old, new))
    return isinstance(old, bool) is isinstance(new, bool) and bool(old == new or (old != old and new != new))  # NaN


def _shortened(*texts: str) -> list[str]:
    """The texts, at most 60 characters each, from the same place: the first character that differs is shown."""
    length = _WIDTH - len(_MARK)
    same = next((i for i, letters in enumerate(zip(*texts, strict=False)) if len(set(letters)) > 1), None)
    same = min(map(len, texts)) if same is None else same
    if all(len(text) <= _WIDTH for text in texts) or same < length:
        return [text if len(text) <= _WIDTH else text[:length] + _MARK for text in texts]
    start, length = same - _WIDTH // 3, length - len(_MARK)
    cut = [text[start:] for text in texts]
    return [_MARK + (text if len(text) <= length else text[:length] + _MARK) for text in cut]
