"""Atomic, streaming writer of feature stores."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from mnprobe.core.arrays import as_array
from mnprobe.core.errors import FeatureError
from mnprobe.core.files import require_room, whole_file
from mnprobe.features.schema import (
    CHUNK_ROWS,
    DTYPES,
    LIBVER,
    SCHEMA,
    SCHEMA_WITH_COLUMNS,
    Columns,
    Header,
    check_layer_name,
    content_digest,
    encode_text,
    extra_columns,
    make_columns,
)

__all__ = ["FeatureWriter", "write_features"]

Array = np.ndarray[Any, Any]
_SPARE_ROOM = 16 * 2**20  # bytes that must stay free: more than HDF5 buffers until it closes a file


class FeatureWriter:
    """Write one store to a temporary file that is renamed to `path` when the `with` block succeeds.

    `episodes` is a DataFrame or a mapping of columns (at least `id`; see `make_columns`). Values go to disk in chunks
    of 256 rows as they are appended, so a store may be larger than memory. At the end every layer must have as many
    episodes as the table; after an exception inside the block, a full disk or a killed process, the old file (or none)
    remains.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "u.h5"
    >>> with FeatureWriter(path, Header(model="mine", side="understanding"), {"id": ["a", "b"]}) as writer:
    ...     writer.append("u", np.zeros((3, 4), np.float32), lengths=[1, 2])
    >>> path.exists()
    True
    """

    def __init__(self, path: Path, header: Header, episodes: Any, *, dtype: str = "float32") -> None:
        dtype = _type_name(dtype)
        if dtype not in DTYPES:
            raise FeatureError(f"{path}: values are stored as {' or '.join(DTYPES)}, not {dtype!r}")
        self.path = Path(path)
        self.header = header  # may be replaced until the block ends
        self._columns = self._table(episodes)
        self._dtype = np.dtype(dtype)
        self._layers: dict[str, _LayerWriter] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "FeatureWriter":
        with ExitStack() as stack:
            part = stack.enter_context(whole_file(self.path))
            require_room(self.path, _SPARE_ROOM)
            self._file = stack.enter_context(h5py.File(part, "w", libver=LIBVER, locking=False))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            self._finish()

    def append(
        self, layer: str, values: Array, *, lengths: Sequence[int] | Array | None = None, keyframe: Array | None = None
    ) -> None:
        """Add rows (m, D) for the next episodes of `layer`, as a numpy array, a torch tensor or a DataFrame.

        `lengths` is the number of rows of each of these episodes and sums to m (default: one row each). `keyframe` (m,)
        is given for all blocks of a layer or for none. Raises FeatureError for wrong shapes and non-finite values,
        also for values too large for float16.
        """
        if layer not in self._layers:
            self._layers[layer] = _LayerWriter(self._file, check_layer_name(layer), self._dtype, self.path)
        self._layers[layer].append(values, lengths, keyframe)

    def add_column(self, name: str, values: Sequence[Any]) -> None:
        """Add an episode column that is known only at the end, such as `prediction`."""
        self._columns = self._table(self._columns | {name: values})

    def _table(self, episodes: Any) -> Columns:
        return make_columns(episodes, where=str(self.path), blank=self.header.id.blank)

    def _finish(self) -> None:
        if not self._layers:
            raise FeatureError(f"{self.path}: no layer was written")
        count = len(self._columns["id"])
        arrays: dict[str, Array] = {}
        for name, layer in self._layers.items():
            arrays |= {f"layers/{name}/{part}": array for part, array in layer.finish(count).items()}
        own = extra_columns(self._columns)
        for name, column in self._columns.items():
            arrays[f"episodes/{'extra/' if name in own else ''}{name}"] = (
                encode_text(column) if column.dtype == object else column
            )
        require_room(self.path, sum(array.nbytes for array in arrays.values()) + _SPARE_ROOM)
        for place, array in arrays.items():
            dtype = h5py.string_dtype("utf-8", array.dtype.itemsize) if array.dtype.kind == "S" else array.dtype
            self._file.create_dataset(place, data=array.astype(dtype))
        attributes = self.header.attributes(SCHEMA_WITH_COLUMNS if own else SCHEMA)
        described = [(f"layers/{name}/values", layer.description()) for name, layer in self._layers.items()]
        attributes["digest"] = content_digest(attributes, [*arrays.items(), *described])
        for key, value in attributes.items():
            _write_attribute(self._file, key, value)
        self._file.flush()


def write_features(
    path: Path | str,
    *,
    layers: Mapping[str, Any],
    episodes: Any,
    keyframes: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    **header: Any,
) -> Path:
    """Write a complete feature store from arrays of any origin; return its path.

    Args:
        path: the HDF5 file to write.
        layers: name -> array (N, D) with one row per episode, array (N, T, D) with T tokens each, or a sequence of N
            arrays (m_i, D) with m_i tokens each. Arrays may be numpy, torch, DataFrames or nested lists.
        episodes: DataFrame or mapping of columns with at least `id`; see `make_columns` for the rest.
        keyframes: name -> the keyframe of each token, (N,) or N arrays (m_i,), for layers with keyframes.
        dtype: "float32" or "float16".
        header: fields of `Header`: model, side, source, step, trained, ...
    Raises:
        FeatureError: for inconsistent input, naming layer and row.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "e.h5"
    >>> _ = write_features(path, model="mine", side="execution", episodes={"id": ["a", "b"]}, layers={"e": np.eye(2)})
    >>> from mnprobe.features.store import open_features
    >>> open_features(path).layer("e").pooled("mean").tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    path = Path(path)
    marks = dict(keyframes or {})
    if set(marks) - set(layers):
        raise FeatureError(f"{path}: keyframes for layers that are not there: {sorted(set(marks) - set(layers))}")
    with FeatureWriter(path, Header(**header), episodes, dtype=dtype) as writer:
        for name, values in layers.items():
            where = f"{path}:/layers/{name}"
            mark = marks.get(name)
            pieces = _by_episode(values, where)
            if isinstance(pieces, np.ndarray):
                writer.append(name, pieces, keyframe=None if mark is None else _array(mark, f"{where}/keyframe"))
                continue
            shapes = {piece.shape[1:] for piece in pieces}
            if len(shapes) != 1 or len(next(iter(shapes))) != 1:
                raise FeatureError(f"{where}: tokens of every episode must be (m, D), got {sorted(shapes)}")
            joined = None
            if mark is not None:
                joined = np.concatenate([_array(piece, f"{where}/keyframe[{i}]") for i, piece in enumerate(mark)])
            writer.append(name, np.concatenate(pieces), lengths=[len(piece) for piece in pieces], keyframe=joined)
    return path


class _LayerWriter:
    """Writer of one layer: buffers rows to complete chunks, and collects lengths and keyframes."""

    def __init__(self, file: h5py.File, name: str, dtype: np.dtype[Any], path: Path) -> None:
        self._file = file
        self._path = path
        self._dtype = dtype
        self._place = f"layers/{name}/values"
        self._where = f"{path}:/{self._place}"
        self._values: Any = None
        self._rows = 0  # on disk
        self._room = 0
        self._waiting: list[Array] = []
        self._lengths: list[Array] = []
        self._keyframes: list[Array] = []
        self._marked: bool | None = None
        self._dim = 0

    def append(self, values: Array, lengths: Sequence[int] | Array | None, keyframe: Array | None) -> None:
        block = self._check(_array(values, self._where))
        counts = (
            np.ones(len(block), np.int64) if lengths is None else _whole_numbers(lengths, f"{self._where}: lengths")
        )
        if counts.ndim != 1 or (counts < 0).any() or int(counts.sum()) != len(block):
            raise FeatureError(f"{self._where}: lengths {counts.tolist()[:8]} do not add up to {len(block)} rows")
        if self._marked not in (None, keyframe is not None):
            raise FeatureError(f"{self._where}: keyframe must be given with every block or with none")
        if keyframe is not None:
            marks = _whole_numbers(keyframe, f"{self._where}: keyframe")
            if marks.shape != (len(block),):
                raise FeatureError(f"{self._where}: keyframe has shape {marks.shape}, not ({len(block)},)")
            self._keyframes.append(marks.astype(np.int32))
        self._marked = keyframe is not None
        self._lengths.append(counts)
        self._push(block)

    def finish(self, episodes: int) -> dict[str, Array]:
        """Flush the buffer; return offsets and keyframe."""
        lengths = np.concatenate(self._lengths)
        if len(lengths) != episodes:
            raise FeatureError(f"{self._where}: holds {len(lengths)} episodes, the table of episodes {episodes}")
        if self._waiting:
            self._write(np.concatenate(self._waiting))
            self._waiting = []
        elif self._values is None:
            self._write(np.zeros((0, self._dim), self._dtype))
        self._values.resize(self._rows, axis=0)
        offsets = {"offsets": np.concatenate([[0], np.cumsum(lengths)]).astype("<i8")}
        return offsets | ({"keyframe": np.concatenate(self._keyframes)} if self._marked else {})

    def description(self) -> Array:
        """Entry of the values in the digest: type and shape (their bytes have fletcher32)."""
        return describe_values(self._values)

    def _check(self, values: Array) -> Array:
        if values.ndim != 2 or values.shape[1] == 0 or values.dtype.kind not in "fiu":
            raise FeatureError(f"{self._where}: needs numbers of shape (rows, D), got {values.dtype} {values.shape}")
        if self._dim not in (0, values.shape[1]):
            raise FeatureError(f"{self._where}: rows of {values.shape[1]} numbers after rows of {self._dim}")
        self._dim = values.shape[1]
        with np.errstate(over="ignore"):  # found below, with the row
            block = np.ascontiguousarray(values, dtype=self._dtype)
        finite = np.isfinite(block)
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            total = self._rows + sum(map(len, self._waiting))
            reason = f"{self._where}[{total + row}, {column}]: {values[row, column]} is not a finite {self._dtype.name}"
            if np.isfinite(values[row, column]):
                reason += f"; the layer {beyond_type(values, self._dtype)}"
            raise FeatureError(reason)
        return block

    def _push(self, block: Array) -> None:
        if self._waiting or len(block) % CHUNK_ROWS:
            self._waiting.append(block.copy())
            if sum(map(len, self._waiting)) < CHUNK_ROWS:
                return
            joined = np.concatenate(self._waiting)
            whole = len(joined) - len(joined) % CHUNK_ROWS
            self._waiting = [joined[whole:]] if whole < len(joined) else []
            block = joined[:whole]
        if len(block):
            self._write(block)

    def _write(self, block: Array) -> None:
        require_room(self._path, block.nbytes + _SPARE_ROOM)
        if self._values is None:
            self._values = self._file.create_dataset(
                self._place,
                shape=(0, self._dim),
                maxshape=(None, self._dim),
                chunks=(max(1, min(CHUNK_ROWS, len(block))), self._dim),
                dtype=self._dtype,
                fletcher32=True,
            )
        end = self._rows + len(block)
        if end > self._room:
            self._room = max(end, 2 * self._room)
            self._values.resize(self._room, axis=0)
        self._values.write_direct(block, dest_sel=np.s_[self._rows : end])
        self._rows = end


def _type_name(dtype: Any) -> Any:
    """ "float32" for `np.float32`, `np.dtype("f4")` and `torch.float32`; other values are returned unchanged."""
    try:
        return np.dtype(str(dtype).removeprefix("torch.") if str(dtype).startswith("torch.") else dtype).name
    except TypeError:
        return dtype


def _by_episode(values: Any, where: str) -> Array | list[Array]:
    """One array with a row per episode, or the tokens (m, D) of each episode."""
    if isinstance(values, list | tuple):
        pieces = [_array(piece, f"{where}[{i}]") for i, piece in enumerate(values)]
        is_nested = bool(pieces) and all(piece.ndim == 1 for piece in pieces)
        return _array(values, where) if is_nested else pieces
    array = _array(values, where)
    return list(array) if array.ndim == 3 else array


def _array(values: Any, where: str) -> Array:
    return values if type(values) is np.ndarray else as_array(values, where)


def _whole_numbers(values: Any, where: str) -> Array:
    array = as_array(values, where)
    if array.dtype.kind not in "iu" and not np.array_equal(array, np.floor(array)):
        raise FeatureError(f"{where}: must be whole numbers, got {array.reshape(-1)[:8].tolist()}")
    return array.astype(np.int64)


def beyond_type(values: Array, dtype: np.dtype[Any] | str) -> str:
    """Describe finite values that are too large for the stored type, with the remedy.

    >>> beyond_type(np.array([1.0, -1e5]), "float16")
    "holds -100000, which is beyond float16; take --dtype float32 (dtype='float32')"
    """
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    largest = float(finite[np.argmax(np.abs(finite))])
    kind = np.dtype(dtype)
    advice = "take --dtype float32 (dtype='float32')"
    if abs(largest) > float(np.finfo(np.float32).max):
        advice = "scale the values"
    return f"holds {largest:.6g}, which is beyond {kind.name}; {advice}"


def describe_values(values: Any) -> Array:
    """Type and shape of a values dataset as text, for the digest."""
    return np.array([f"{np.dtype(values.dtype).name} {tuple(values.shape)}".encode()])


def _write_attribute(file: h5py.File, key: str, value: str | int | bool) -> None:
    if isinstance(
        value, str
    ):  # fixed length: variable-length text would be stored in a part of the file without checksum
        encoded = value.encode("utf-8")
        dtype = h5py.string_dtype("utf-8", max(1, len(encoded)))
        file.attrs.create(key, np.array(encoded, dtype=dtype), dtype=dtype)
    else:
        file.attrs.create(key, value)
