"""Videos beside a table, a CSV file with one row an episode.

episodes.csv: id,video,instruction[,task,success,partition,start,end], and any further columns of the user's own
"""

import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnprobe.core.errors import DataError
from mnprobe.core.labels import as_outcome, has_control_characters, partition_of, same_text, some
from mnprobe.core.table import typed_cells
from mnprobe.data.episode import Opened, ReadingOptions, RecordedEpisode, inside, need_packages, sketch_file
from mnprobe.data.videos import SUFFIXES, FrameList, list_frames, read_listed

__all__ = ["VideoEpisode", "open_videos"]

TABLE_FILE = "episodes.csv"

_NEEDED = ("id", "video", "instruction")
_OPTIONAL = ("task", "success", "partition", "start", "end")
_HEADER = f"{','.join(_NEEDED)}[,{','.join(_OPTIONAL)}]"
_RESERVED = ("variation", "prediction")  # columns of a store that a table of videos does not give
_CAMERA = "video"
_LARGEST_TABLE = 2**28  # bytes
_TOLERANCE = 1e-6  # seconds, of times in the table
_LACKS = dict.fromkeys(("depth", "camera matrices", "key poses", "recorded scenes"), "videos hold colour images only")


def open_videos(path: Path, options: ReadingOptions) -> Opened:
    """Read a table of videos, or the `episodes.csv` of a folder; no video is opened.

    Raises DataError naming file and line: a missing column, an id given twice, no such video, a path out of the folder,
    an outcome, partition or time that cannot be read, or a table without rows.
    """
    need_packages("videos", "av")
    table = path / TABLE_FILE if path.is_dir() else path
    root = table.parent
    opened = Opened(format="videos")
    lines = _read_rows(table)
    own = _own_columns(lines, table, opened.notes)
    tasks: dict[str, dict[str, int]] = {}
    seen: dict[str, int] = {}
    for place, (number, row) in enumerate(lines):
        where = f"{table}, line {number}"
        name = row["id"]
        if not name or has_control_characters(name):
            raise DataError(f"{where}: the id is {'empty' if not name else repr(name)}; every episode has one")
        if name in seen:
            raise DataError(f"{where}: the id {name!r} is in line {seen[name]} already; every episode has its own")
        seen[name] = number
        try:
            labels, span = _labels(row, where), _span(row, where)
            video = _video(root, row["video"], where)
        except DataError as error:
            if not options.skip_broken:
                raise
            opened.broken[name] = str(error)
            continue
        variations = tasks.setdefault(labels["task"], {})
        labels["variation"] = variations.setdefault(same_text(row["instruction"]), len(variations))
        opened.episodes.append(
            VideoEpisode(
                video,
                span,
                id=name,
                texts=(row["instruction"],),
                folder=root,
                where=f"{video} ({name} in {table.name})",
                overrides=options.overrides,
                decisions=options.decisions,
                extra={column: values[place] for column, values in own.items()},
                **labels,
            )
        )
    if not seen:
        raise DataError(f"{table}: holds no episode, only a header ({_HEADER})")
    return opened


class VideoEpisode(RecordedEpisode):
    """One video, or a part of one, of a table. Its only camera is called "video"."""

    def __init__(self, video: Path, span: tuple[float, float], **labels: Any) -> None:
        super().__init__(**labels)
        self.video = video
        self._span = span

    def __len__(self) -> int:
        return len(self.times)

    @property
    def cameras(self) -> tuple[str, ...]:
        """Only "video"."""
        return (_CAMERA,)

    @property
    def times(self) -> NDArray[np.float64]:
        """(T,) seconds from the first frame of the episode."""
        own = self._frames[1]
        times: NDArray[np.float64] = own - own[0]
        return times

    @property
    def lacks(self) -> Mapping[str, str]:
        """Depth, camera matrices, key poses and scenes."""
        return _LACKS

    @cached_property
    def _frames(self) -> tuple[int, NDArray[np.float64]]:
        """Number of the first frame in the file, and the times in the file of all frames of the episode."""
        times = _listed(self.video).seconds
        start, end = self._span
        first = int(np.searchsorted(times, start - _TOLERANCE))
        last = int(np.searchsorted(times, end - _TOLERANCE))
        if first >= last or (math.isfinite(end) and end > times[-1] + 1):
            to = f"to {end:g} s" if math.isfinite(end) else "s to the end"
            to = f"{start:g} {to}"
            raise DataError(f"{self.where}: goes from {to}, but the video takes {times[-1]:g} s")
        return first, times[first:last]

    def _read(self, camera: str, indices: Sequence[int]) -> NDArray[np.uint8]:
        first = self._frames[0]
        return read_listed(self.video, _listed(self.video), [first + index for index in indices])

    def _record(self) -> Any:
        start, end = self._span
        return [sketch_file(self.video), start, end if math.isfinite(end) else None]


def _listed(video: Path) -> FrameList:
    """Frames of a file, listed once; several episodes may be parts of it."""
    try:
        state = video.stat()
    except OSError as error:
        raise DataError(f"{video}: cannot be read ({error.strerror or error})") from error
    return _kept_list(video, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _kept_list(video: Path, _size: int, _changed: int) -> FrameList:
    return list_frames(video)


def _read_rows(table: Path) -> list[tuple[int, dict[str, str]]]:
    """Rows of the table with their lines, blanks around entries left out, all known columns present."""
    try:
        if table.stat().st_size > _LARGEST_TABLE:
            raise DataError(f"{table}: is larger than {_LARGEST_TABLE} bytes, which no table of videos is")
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            header = [name.strip() for name in rows.fieldnames or ()]
            rows.fieldnames = header
            missing = [name for name in _NEEDED if name not in header]
            if missing:
                raise DataError(
                    f"{table}: column {missing[0]!r} is missing; a table of videos has the columns {_HEADER}, found "
                    f"{', '.join(header) or 'nothing'}"
                )
            twice = [name for name, count in Counter(header).items() if name and count > 1]
            if twice:
                raise DataError(f"{table}: two columns are called {twice[0]!r}")
            names = dict.fromkeys((*_NEEDED, *_OPTIONAL, *header))
            return [(rows.line_num, {name: (row.get(name) or "").strip() for name in names}) for row in rows]
    except UnicodeDecodeError as error:
        raise DataError(f"{table}: is not UTF-8 (byte {error.start}); save the table as UTF-8") from error
    except (OSError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read the table of videos {table}: {reason}") from error


def _own_columns(lines: Sequence[tuple[int, Mapping[str, str]]], table: Path, notes: list[str]) -> dict[str, list[Any]]:
    """Columns of the user's own, as numbers or text; `notes` gets those that are left out."""
    names = [name for name in (lines[0][1] if lines else ()) if name not in (*_NEEDED, *_OPTIONAL)]
    left_out = [name for name in names if not name or name in _RESERVED]
    if left_out:
        notes.append(
            f"{table}: of the columns, {some(left_out)} {'is' if len(left_out) == 1 else 'are'} left out: columns of "
            f"your own have a name, and not {' or '.join(_RESERVED)}"
        )
    return {name: typed_cells([row[name] for _, row in lines]) for name in names if name not in left_out}


def _labels(row: Mapping[str, str], where: str) -> dict[str, Any]:
    success, partition = as_outcome(row["success"]), partition_of(row["partition"])
    if success is None:
        raise DataError(f"{where}: success must be 1, 0 or -1 (not known), got {row['success']!r}")
    if partition is None:
        raise DataError(
            f"{where}: partition must be train, val or test, or empty in all rows, got {row['partition']!r}"
        )
    task = row["task"] or row["instruction"]
    if has_control_characters(task):
        raise DataError(f"{where}: the task holds a line break or another control character: {task!r}")
    return {"task": task, "success": success, "partition": partition}


def _span(row: Mapping[str, str], where: str) -> tuple[float, float]:
    """Start and end in seconds; the whole video where they are empty."""
    found = []
    for name, default in (("start", 0.0), ("end", math.inf)):
        try:
            value = float(row[name]) if row[name] else default
        except ValueError:
            value = math.nan
        if math.isnan(value) or value < 0 or (row[name] and not math.isfinite(value)):
            raise DataError(f"{where}: {name} must be a time in seconds from 0, got {row[name]!r}")
        found.append(value)
    if found[0] >= found[1]:
        raise DataError(f"{where}: start {found[0]:g} s is not before end {found[1]:g} s")
    return found[0], found[1]


def _video(root: Path, name: str, where: str) -> Path:
    path = inside(root, name, where)
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{where}: {name!r} is no video that is read; they end in {some(sorted(SUFFIXES), 20)}")
    if not path.is_file():
        raise DataError(
            f"{where}: {path} {'is no file' if path.exists() else 'is missing'}; --skip-broken leaves it out"
        )
    return path
