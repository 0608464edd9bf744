"""LeRobot datasets (v2.0, v2.1, v3.0), read by pyarrow and PyAV without lerobot.

The layout is that of lerobot-0.6.1: `datasets/utils.py`, `datasets/dataset_metadata.py` and
`scripts/convert_dataset_v21_to_v30.py`. Nothing in a folder is trusted: paths that it names must not leave it,
templates of paths may hold only known fields, and sizes are bounded.
"""

import io
import json
import math
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnprobe.core.errors import DataError
from mnprobe.core.labels import partition_of, some
from mnprobe.data.episode import (
    Opened,
    ReadingOptions,
    RecordedEpisode,
    Signals,
    check_image_size,
    check_text,
    inside,
    need_packages,
    sketch_file,
)
from mnprobe.data.videos import read_numbered

__all__ = ["LeRobotEpisode", "open_lerobot"]

_VERSIONS = {"v2.0": 2, "v2.1": 2, "v3.0": 3}
_SUCCESS = "next.success"
_LANGUAGE = "language_persistent"
_STATE, _ACTION = "observation.state", "action"
_FIELDS = ("chunk_index", "file_index", "video_key", "episode_chunk", "episode_index")  # of templates of paths
_IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_MOST_FRAMES = 10_000_000  # of one episode
_MOST_EPISODES = 5_000_000
_LARGEST_JSON = 2**26
_LARGEST_TABLE = 2**32  # bytes of columns that are read at once
_PATIENT = "Download the dataset again (all of it, or at least meta and the files of the chosen episodes)"
_LACKS = dict.fromkeys(
    ("depth", "camera matrices", "key poses", "recorded scenes"),
    "read from a LeRobot dataset are colour images, states and actions",
)


def open_lerobot(path: Path, options: ReadingOptions) -> Opened:
    """Read the tables of a LeRobot folder; no data file and no video is opened.

    Raises DataError naming the file: missing, damaged, of another version, without episodes, or contradicting another.
    """
    need_packages("LeRobot datasets", "pyarrow", "av")
    return _Folder(path).opened(options)


class _Camera(NamedTuple):
    """A feature with colour images."""

    name: str
    is_video: bool


class _Part(NamedTuple):
    """Where the frames of an episode lie in a video file; `start` and `stop` None for the whole file."""

    chunk: int
    file: int
    start: float | None
    stop: float | None


class _Row(NamedTuple):
    """One row of the table of episodes."""

    number: int
    length: int
    chunk: int
    file: int
    parts: tuple[_Part, ...]  # in the order of the cameras with video


@dataclass(frozen=True)
class _File:
    """Footer of a data file: which rows of the file each group holds, and episodes of each group where it says so."""

    metadata: Any
    groups: tuple[tuple[int, int, int | None, int | None], ...]  # first row, rows, lowest and highest episode


class LeRobotEpisode(RecordedEpisode):
    """One episode of a LeRobot dataset. Cameras are features of type video or image, under their full names."""

    def __init__(self, dataset: "_Folder", row: _Row, **labels: Any) -> None:
        super().__init__(**labels)
        self._dataset = dataset
        self._row = row

    def __len__(self) -> int:
        return self._row.length

    @property
    def number(self) -> int:
        """The episode's index in the dataset."""
        return self._row.number

    @property
    def cameras(self) -> tuple[str, ...]:
        """Features with colour images, in the order of info.json."""
        return tuple(camera.name for camera in self._dataset.cameras)

    @property
    def times(self) -> NDArray[np.float64]:
        """(T,) seconds of the frames, as the data file has them."""
        if "timestamp" not in self._dataset.features:
            return np.arange(len(self), dtype=np.float64) / self._dataset.fps
        return self._signal("timestamp")[:, 0].astype(np.float64)

    @property
    def state(self) -> Signals | None:
        """`observation.state`; None if the dataset has none."""
        return self._signals(_STATE)

    @property
    def action(self) -> Signals | None:
        """`action`; None if the dataset has none."""
        return self._signals(_ACTION)

    @property
    def lacks(self) -> Mapping[str, str]:
        """Depth, camera matrices, key poses and scenes."""
        return _LACKS

    def signals(self, feature: str) -> Signals:
        """Numbers of any feature of info.json; DataError if there is none of this name."""
        found = self._signals(feature)
        if found is None:
            known = [name for name, kind in self._dataset.features.items() if kind["dtype"] not in ("video", "image")]
            raise DataError(f"{self.where}: no feature {feature!r}; there are {some(known, 12)}")
        return found

    def _outcome(self) -> int:
        return self._dataset.success(self._row)

    def _paraphrases(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(check_text(text, self) for text in self._dataset.paraphrases(self._row)))

    def _signals(self, feature: str) -> Signals | None:
        kind = self._dataset.features.get(feature)
        if kind is None or kind["dtype"] in ("video", "image", "string"):
            return None
        values = self._signal(feature)
        names = _flat_names(kind.get("names"))
        if len(names) != values.shape[1]:
            names = (feature,) if values.shape[1] == 1 else tuple(f"{feature}.{i}" for i in range(values.shape[1]))
        return Signals(values, names)

    def _signal(self, feature: str) -> NDArray[Any]:
        column = self._dataset.columns(self._row, [feature])[feature]
        try:
            values = np.array(column.to_pylist())
            if values.dtype.kind not in "biuf":
                raise ValueError("not numbers of one shape in all frames")
        except ValueError as error:
            raise DataError(f"{self._dataset.data_file(self._row)}: column {feature!r}: {error}") from error
        return values.reshape(len(self), -1)

    def _read(self, camera: str, indices: Sequence[int]) -> NDArray[np.uint8]:
        return self._dataset.images(self._row, camera, indices)

    def _record(self) -> Any:
        return self._dataset.record(self._row)


class _Folder:
    """The tables of one dataset, shared by its episodes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.info_file = root / "meta" / "info.json"
        info = _read_json(self.info_file)
        version = _entry(info, "codebase_version", str, self.info_file)
        if version not in _VERSIONS:
            raise DataError(
                f"{self.info_file}: codebase_version is {version!r}; read are {', '.join(_VERSIONS)}. Convert the "
                "dataset with LeRobot's own scripts (lerobot.scripts.convert_dataset_*)"
            )
        self.version: str = version
        self.layout = _VERSIONS[version]
        self.fps = _number(info, "fps", self.info_file)
        self.features = _features(info, self.info_file)
        self.data_path: str = _entry(info, "data_path", str, self.info_file)
        self.video_path: str | None = _entry(info, "video_path", str, self.info_file, optional=True)
        _check_template(self.data_path, "data_path", self.info_file)
        if self.video_path is not None:
            _check_template(self.video_path, "video_path", self.info_file)
        chunks = _entry(info, "chunks_size", int, self.info_file, optional=True)
        self.chunks_size = 1000 if chunks is None else chunks
        if self.chunks_size < 1:
            raise DataError(f"{self.info_file}: chunks_size must be at least 1, got {self.chunks_size}")
        self.total = _entry(info, "total_episodes", int, self.info_file, optional=True)
        self.splits = info.get("splits")
        self.depth = tuple(name for name, kind in self.features.items() if _is_depth(kind))
        self.cameras = tuple(
            _Camera(name, kind["dtype"] == "video")
            for name, kind in self.features.items()
            if kind["dtype"] in ("video", "image") and not _is_depth(kind)
        )
        self.videos = tuple(camera.name for camera in self.cameras if camera.is_video)
        if self.videos and self.video_path is None:
            raise DataError(
                f"{self.info_file}: video_path is null, but {some(self.videos)} are features of type video. Give "
                "video_path the pattern of the files below videos/, or download the dataset again"
            )
        self._frames_of: Counter[tuple[str, int, int]] = Counter()
        self._files: dict[Path, _File] = {}
        self._outcomes: dict[Path, dict[int, bool]] = {}
        self._pictures: tuple[Any, Any] = (None, None)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}, "_outcomes": {}, "_pictures": (None, None)}

    # ---- opening -----------------------------------------------------------------------------------------------------

    def opened(self, options: ReadingOptions) -> Opened:
        """Read the tables of tasks and episodes, and make the episodes."""
        tasks = self._tasks()
        rows, texts, table = self._episodes_v2() if self.layout == 2 else self._episodes_v3()
        opened = Opened(format=f"LeRobot {self.version}")
        self._check_total(len(rows), table, opened, options)
        home = self.root.resolve().name
        seen: set[int] = set()
        partitions = self._partitions(len(rows))
        several = 0
        for row, told in zip(rows, texts, strict=True):
            where = f"{self.root}, episode {row.number}"
            if row.number in seen:
                raise DataError(f"{table}: episode_index {row.number} is there twice; every episode has its own")
            seen.add(row.number)
            several += len(set(told)) > 1
            text = told[0] if told else ""
            number = tasks.get(text)
            if number is None and text:
                raise DataError(
                    f"{table}: episode {row.number} has the task {text!r}, which the table of tasks in "
                    f"{self.root / 'meta'} does not have. {_PATIENT}"
                )
            identity = f"{home}/{0 if number is None else number}/episode{row.number}"
            if reason := self._contradiction(row):
                if not options.skip_broken:
                    raise DataError(
                        f"{table}: episode {row.number}: {reason}. {_PATIENT}, or leave it out (--skip-broken)"
                    )
                opened.broken[identity] = f"{table}: {reason}"
                continue
            for name, part in zip(self.videos, row.parts, strict=True):
                self._frames_of[name, part.chunk, part.file] += row.length
            opened.episodes.append(
                LeRobotEpisode(
                    self,
                    row,
                    id=identity,
                    task=" ".join(text.split()),
                    variation=0 if number is None else number,
                    texts=(text,),
                    partition=partitions.get(row.number, ""),
                    success=None if _SUCCESS in self.features else -1,
                    folder=self.root,
                    where=where,
                    overrides=options.overrides,
                    decisions=options.decisions,
                )
            )
        if not rows:
            raise DataError(f"{table}: holds no episode. {_PATIENT}")
        if several:
            opened.notes.append(f"{self.root}: {several} episodes have several task texts; the first one is used")
        if self.depth:
            opened.notes.append(f"{self.root}: depth maps are left out: {', '.join(self.depth)}")
        return opened

    def _check_total(self, count: int, table: Path, opened: Opened, options: ReadingOptions) -> None:
        if self.total is None or self.total == count:
            return
        text = f"{table}: has {count} episodes, {self.info_file} says {self.total}"
        if not options.skip_broken or count > self.total:
            raise DataError(f"{text}: a part of the table is missing, or the files do not belong together. {_PATIENT}")
        opened.notes.append(text)

    def _contradiction(self, row: _Row) -> str:
        """What is wrong within the row of an episode; '' if nothing is."""
        if not 1 <= row.length <= _MOST_FRAMES:
            return f"its length is {row.length} frames"
        for name, part in zip(self.videos, row.parts, strict=True):
            if part.start is None or part.stop is None:
                continue
            if not (math.isfinite(part.start) and math.isfinite(part.stop) and part.start >= 0):
                return f"its video {name} is said to go from {part.start} to {part.stop} s"
            frames = round((part.stop - part.start) * self.fps)
            if frames != row.length:
                return (
                    f"its length is {row.length} frames, but {part.start:g} to {part.stop:g} s of {name} are {frames}"
                )
        return ""

    def _tasks(self) -> dict[str, int]:
        """Number of each task text."""
        if self.layout == 2:
            path = self.root / "meta" / "tasks.jsonl"
            pairs = [
                (_entry(line, "task", str, where), _entry(line, "task_index", int, where))
                for where, line in _read_lines(path)
            ]
        else:
            path = self.root / "meta" / "tasks.parquet"
            table = _read_table(path, None)
            names = [name for name in table.column_names if name != "task_index"]
            if "task_index" not in table.column_names or len(names) != 1:
                raise DataError(
                    f"{path}: has the columns {some(table.column_names)}, expected task_index and the texts"
                )
            texts, numbers = _entries(table, names[0], path), _entries(table, "task_index", path)
            if not all(isinstance(text, str) for text in texts) or not all(type(number) is int for number in numbers):
                raise DataError(f"{path}: a task is a text with a whole number; {_PATIENT}")
            pairs = list(zip(texts, numbers, strict=True))
        if len({number for _, number in pairs}) < len(pairs):
            raise DataError(f"{path}: two tasks have one task_index")
        return dict(pairs)

    def _episodes_v2(self) -> tuple[list[_Row], list[tuple[str, ...]], Path]:
        path = self.root / "meta" / "episodes.jsonl"
        rows, texts = [], []
        for where, line in _read_lines(path):
            index = _entry(line, "episode_index", int, where)
            length = _entry(line, "length", int, where)
            chunk = index // self.chunks_size
            part = _Part(chunk, index, None, None)
            rows.append(_Row(index, length, chunk, index, (part,) * len(self.videos)))
            texts.append(_texts(line.get("tasks"), where))
        return rows, texts, path

    def _episodes_v3(self) -> tuple[list[_Row], list[tuple[str, ...]], Path]:
        folder = self.root / "meta" / "episodes"
        files = sorted(folder.glob("chunk-*/file-*.parquet"))
        if not files:
            raise DataError(f"{folder}: holds no chunk-*/file-*.parquet, the table of episodes. {_PATIENT}")
        rows: list[_Row] = []
        texts: list[tuple[str, ...]] = []
        plain = ["episode_index", "length", "data/chunk_index", "data/file_index", "dataset_from_index"]
        plain.append("dataset_to_index")
        parts = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
        timed = [f"videos/{name}/{part}" for name in self.videos for part in parts]
        for file in files:
            path = inside(self.root, str(file.relative_to(self.root)), str(folder))
            table = _read_table(path, [*plain, "tasks", *timed])
            columns = {name: _entries(table, name, path) for name in (*plain, "tasks", *timed)}
            for name in (*plain, *timed):
                kinds = (int, float) if name.endswith("_timestamp") else (int,)
                if not all(type(value) in kinds for value in columns[name]):
                    raise DataError(f"{path}: column {name!r} holds something else than numbers. {_PATIENT}")
            for i in range(table.num_rows):
                index, length, chunk, number, first, stop = (columns[name][i] for name in plain)
                videos = tuple(_Part(*(columns[f"videos/{name}/{part}"][i] for part in parts)) for name in self.videos)
                if stop - first != length:
                    raise DataError(
                        f"{path}: episode {index} has the length {length}, but {stop - first} rows of the data "
                        f"(dataset_from_index, dataset_to_index). {_PATIENT}"
                    )
                rows.append(_Row(index, length, chunk, number, videos))
                texts.append(_texts(columns["tasks"][i], f"{path}, episode {index}"))
            if len(rows) > _MOST_EPISODES:
                raise DataError(f"{folder}: over {_MOST_EPISODES} episodes")
        order = sorted(range(len(rows)), key=lambda i: rows[i].number)
        return [rows[i] for i in order], [texts[i] for i in order], folder

    def _partitions(self, count: int) -> dict[int, str]:
        """Partition of each episode, where `splits` names more than one that is known; {} otherwise."""
        if not isinstance(self.splits, dict) or len(self.splits) < 2:
            return {}
        found: dict[int, str] = {}
        for name, span in self.splits.items():
            meant = partition_of(str(name))
            first, colon, last = str(span).partition(":")
            if not meant or not (colon and first.isdigit() and last.isdigit()):
                return {}
            found |= dict.fromkeys(range(int(first), min(int(last), count)), meant)
        return found if len(found) == count else {}

    # ---- files -------------------------------------------------------------------------------------------------------

    def data_file(self, row: _Row) -> Path:
        """The parquet file with the rows of an episode."""
        return self._file(self.data_path, row, row.chunk, row.file)

    def video_file(self, row: _Row, camera: str) -> tuple[Path, _Part]:
        """The video file with the frames of an episode, and the part of it."""
        part = row.parts[self.videos.index(camera)]
        assert self.video_path is not None  # checked where there are videos
        return self._file(self.video_path, row, part.chunk, part.file, video_key=camera), part

    def _file(self, template: str, row: _Row, chunk: int, file: int, **fields: str) -> Path:
        name = template.format(
            chunk_index=chunk,
            file_index=file,
            episode_chunk=row.number // self.chunks_size,
            episode_index=row.number,
            **({"video_key": ""} | fields),
        )
        return inside(self.root, name, str(self.info_file))

    def columns(self, row: _Row, names: Sequence[str]) -> dict[str, Any]:
        """Columns of one episode, checked to have exactly its frames in order."""
        path = self.data_file(row)
        with _parquet(path) as pq:
            file = self._footer(path, pq)
            wanted = list(dict.fromkeys(["episode_index", "frame_index", *names]))
            _check_columns(path, file.metadata, wanted)
            groups = [
                number
                for number, (_, _, low, high) in enumerate(file.groups)
                if low is None or high is None or low <= row.number <= high
            ]
            _check_bytes(path, file.metadata, wanted, groups)
            with pq.ParquetFile(path, metadata=file.metadata) as source:
                table = source.read_row_groups(groups, columns=wanted)
        own = np.flatnonzero(table.column("episode_index").to_numpy() == row.number)
        frames = table.column("frame_index").to_numpy()[own]
        if not np.array_equal(frames, np.arange(row.length)):
            raise DataError(
                f"{path}: has {len(own)} frames of episode {row.number}, expected are 0 to {row.length - 1} in order. "
                f"The file or the table of episodes is damaged. {_PATIENT}"
            )
        table = table.slice(int(own[0]), row.length) if own[-1] - own[0] + 1 == row.length else table.take(own)
        return {name: table.column(name) for name in names}

    def _footer(self, path: Path, pq: Any) -> _File:
        if path not in self._files:
            with pq.ParquetFile(path) as source:
                metadata = source.metadata
            place = {metadata.schema.column(i).path: i for i in range(metadata.num_columns)}.get("episode_index")
            groups, first = [], 0
            for number in range(metadata.num_row_groups):
                group = metadata.row_group(number)
                known = group.column(place).statistics if place is not None else None
                low, high = (known.min, known.max) if known is not None and known.has_min_max else (None, None)
                groups.append((first, group.num_rows, low, high))
                first += group.num_rows
            self._files = dict(list(self._files.items())[-64:]) | {path: _File(metadata, tuple(groups))}
        return self._files[path]

    def success(self, row: _Row) -> int:
        """1 if any frame of the episode is a success, 0 if none is."""
        path = self.data_file(row)
        if path not in self._outcomes:
            table = _read_table(path, ["episode_index", _SUCCESS])
            numbers = table.column("episode_index").to_numpy()
            values = np.array([_any_true(value) for value in _entries(table, _SUCCESS, path)])
            reached = set(numbers[values].tolist()) if len(numbers) else set()
            self._outcomes[path] = {int(number): number in reached for number in np.unique(numbers).tolist()}
        if row.number not in self._outcomes[path]:
            raise DataError(f"{path}: has no frame of episode {row.number}. {_PATIENT}")
        return int(self._outcomes[path][row.number])

    def paraphrases(self, row: _Row) -> tuple[str, ...]:
        """Other wordings of the task, where the dataset has the column language_persistent."""
        if _LANGUAGE not in self.features:
            return ()
        entries = _entries({_LANGUAGE: self.columns(row, [_LANGUAGE])[_LANGUAGE][:1]}, _LANGUAGE, self.data_file(row))[
            0
        ]
        if not isinstance(entries, list):
            return ()
        texts = [one.get("content") for one in entries if isinstance(one, dict) and one.get("style") == "task_aug"]
        return tuple(text for text in texts if isinstance(text, str) and text.strip())

    def images(self, row: _Row, camera: str, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Images of one camera, (n, H, W, 3)."""
        if camera in self.videos:
            path, part = self.video_file(row, camera)
            return read_numbered(
                path,
                indices,
                fps=self.fps,
                length=row.length,
                start=part.start,
                at_least=self._frames_of[camera, part.chunk, part.file],
            )
        key = (row.number, camera)
        held, column = self._pictures
        if held != key:
            column = self.columns(row, [camera])[camera]
            self._pictures = (key, column)
        where = f"{self.data_file(row)}, {camera}"
        once = {
            index: self._picture(column[index].as_py(), f"{where}, episode {row.number}, frame {index}")
            for index in dict.fromkeys(indices)
        }
        shapes = {image.shape for image in once.values()}
        if len(shapes) > 1:
            raise DataError(f"{where}: images of episode {row.number} change their size: {some(sorted(shapes))}")
        return np.stack([once[index] for index in indices])

    def _picture(self, entry: Any, where: str) -> NDArray[np.uint8]:
        """Decode an entry of an image column: the bytes of a file, or the path of one in the dataset."""
        content = entry.get("bytes") if isinstance(entry, dict) else entry
        if content is None and isinstance(entry, dict) and isinstance(entry.get("path"), str):
            path = inside(self.root, entry["path"], where)
            try:
                content = path.read_bytes()
            except OSError as error:
                raise DataError(f"{where}: the image {path} cannot be read ({error.strerror or error})") from error
        if not isinstance(content, bytes):
            raise DataError(f"{where}: holds no image, but a {type(entry).__name__}")
        try:
            with Image.open(io.BytesIO(content), formats=_IMAGE_FORMATS) as image:
                check_image_size(image.height, image.width, where)
                if image.mode not in ("RGB", "L", "P", "RGBA"):
                    raise DataError(f"{where}: is a picture of mode {image.mode}; read are 8-bit colours and greys")
                return np.array(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"{where}: cannot be decoded as an image ({error})") from error

    def record(self, row: _Row) -> Any:
        """What the features of an episode depend on: its place in the files, and a digest of their tables."""
        videos = []
        for camera in self.videos:
            path, part = self.video_file(row, camera)
            videos.append([camera, self._sketch(path), part.start])
        images = [camera.name for camera in self.cameras if not camera.is_video]
        return [self.fps, row.number, row.length, self._sketch(self.data_file(row)), videos, images]

    @cached_property
    def _sketches(self) -> dict[Path, Any]:
        return {}

    def _sketch(self, path: Path) -> Any:
        if path not in self._sketches:
            self._sketches[path] = sketch_file(path)
        return self._sketches[path]


# ---- untrusted files -------------------------------------------------------------------------------------------------


@contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    """pyarrow.parquet, with its errors about `path` as DataError."""
    need_packages("LeRobot datasets", "pyarrow")
    import pyarrow
    import pyarrow.parquet

    if not path.is_file():
        reason = "is no regular file" if path.exists() else "there is no such file, though the dataset names it"
        raise DataError(f"{path}: {reason}. {_PATIENT}")
    try:
        yield pyarrow.parquet
    except (pyarrow.ArrowException, OSError, ValueError, MemoryError) as error:  # ValueError: names that are not UTF-8
        text = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: cannot be read as a parquet file ({text}). {_PATIENT}") from error


def _read_table(path: Path, columns: Sequence[str] | None) -> Any:
    """Read columns of a parquet file, all of them if None."""
    with _parquet(path) as pq, pq.ParquetFile(path) as source:
        names = list(columns) if columns is not None else list(source.schema_arrow.names)
        _check_columns(path, source.metadata, names)
        _check_bytes(path, source.metadata, names, range(source.metadata.num_row_groups))
        return source.read(columns=names)


def _entries(table: Any, name: str, path: Path) -> list[Any]:
    """A column of a table, or of a mapping of columns, as Python values."""
    column = table[name] if isinstance(table, dict) else table.column(name)
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: column {name!r} holds texts that are not UTF-8. {_PATIENT}") from error
    return values


def _check_columns(path: Path, metadata: Any, names: Sequence[str]) -> None:
    there = set(metadata.schema.to_arrow_schema().names)
    missing = [name for name in names if name not in there]
    if missing:
        raise DataError(
            f"{path}: has no column {some(missing)}, which its dataset needs; it has {some(sorted(there), 8)}"
        )


def _check_bytes(path: Path, metadata: Any, names: Sequence[str], groups: Sequence[int]) -> None:
    """Refuse columns that would unpack to more than fits into memory."""
    starts = tuple(f"{name}." for name in names)  # columns of lists and structures
    paths = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    places = [i for i, place in enumerate(paths) if place in names or place.startswith(starts)]
    size = sum(metadata.row_group(group).column(i).total_uncompressed_size for group in groups for i in places)
    if size > _LARGEST_TABLE:
        raise DataError(
            f"{path}: {some(list(names))} unpack to {size} bytes; at most {_LARGEST_TABLE} are read at once"
        )


def _read_text(path: Path, most: int) -> str:
    try:
        if not path.is_file():
            raise DataError(f"{path}: {'is no regular file' if path.exists() else 'there is no such file'}. {_PATIENT}")
        if path.stat().st_size > most:
            raise DataError(f"{path}: is larger than {most} bytes, which no such file is")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 (byte {error.start})") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not readable as JSON ({error}). {_PATIENT}") from error
    if not isinstance(found, dict):
        raise DataError(f"{where}: holds a {type(found).__name__}, expected an object with named entries")
    return found


def _read_json(path: Path) -> dict[str, Any]:
    return _parse(_read_text(path, _LARGEST_JSON), str(path))


def _read_lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Objects of a JSON-lines file, each with its place."""
    lines = _read_text(path, 2**30).split("\n")
    places = ((f"{path}, line {number}", line) for number, line in enumerate(lines, start=1) if line.strip())
    return [(where, _parse(line, where)) for where, line in places]


def _entry(found: Mapping[str, Any], name: str, kind: type, where: object, *, optional: bool = False) -> Any:
    """An entry of a JSON object, checked for its type."""
    value = found.get(name)
    if value is None and optional:
        return None
    if type(value) is float and kind is int and value.is_integer():
        value = int(value)
    if type(value) is not kind:
        told = f"is {value!r}" if name in found else "is missing"
        raise DataError(f"{where}: {name} {told}, expected a {_KINDS[kind]}. {_PATIENT}")
    return value


_KINDS: Mapping[type, str] = {str: "text", int: "whole number", dict: "object"}


def _number(found: Mapping[str, Any], name: str, where: object) -> float:
    value: Any = found.get(name)
    if type(value) not in (int, float) or not (math.isfinite(value) and 0 < value <= 1e6):
        raise DataError(f"{where}: {name} must be a positive number, got {value!r}. {_PATIENT}")
    return float(value)


def _features(info: Mapping[str, Any], where: Path) -> dict[str, dict[str, Any]]:
    features: dict[str, dict[str, Any]] = _entry(info, "features", dict, where)
    for name, kind in features.items():
        if not isinstance(kind, dict) or not isinstance(kind.get("dtype"), str):
            raise DataError(f"{where}: feature {name!r} must be an object with a dtype, got {kind!r}"[:300])
    return features


def _is_depth(kind: Mapping[str, Any]) -> bool:
    facts = [kind.get("info"), kind.get("video_info"), kind]
    names = ("is_depth_map", "video.is_depth_map")
    return any(isinstance(one, dict) and one.get(name) is True for one in facts for name in names)


def _check_template(template: str, name: str, where: Path) -> None:
    """Refuse a template of paths that asks for more than numbers and the camera's name."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise DataError(f"{where}: {name} {template!r} is no pattern of paths ({error})") from error
    for _, field, spec, conversion in parts:
        if field is None:
            continue
        plain = spec == "" or (field != "video_key" and spec in ("d", "03d", "06d", *(f"0{n}d" for n in range(1, 10))))
        if field not in _FIELDS or conversion or not plain:
            raise DataError(
                f"{where}: {name} {template!r} may hold only {', '.join(_FIELDS)}, with a width such as :03d"
            )


def _texts(given: Any, where: str) -> tuple[str, ...]:
    if isinstance(given, str):
        return (given,)
    if given is None:
        return ()
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise DataError(f"{where}: tasks must be a list of texts, got {given!r}"[:300])
    return tuple(given)


def _flat_names(names: Any) -> tuple[str, ...]:
    """Names of the columns of a feature; a mapping such as {"motors": [...]} holds them in its only list."""
    if isinstance(names, dict) and len(names) == 1:
        names = next(iter(names.values()))
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def _any_true(value: Any) -> bool:
    return any(map(_any_true, value)) if isinstance(value, list) else value is True or value == 1
