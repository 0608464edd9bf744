"""Schema of the feature store: HDF5 layout, header and episode columns.

One file has the features of one model at one training step on one source of episodes. Tokens are ragged: episode i has
rows `offsets[i]:offsets[i+1]` of each layer's `values`.

    attributes  schema, model, side, source, step, trained, checkpoint_sha256, model_config (JSON), data_fingerprint,
                mnprobe_version, torch_version, created, provenance (JSON of everything else), digest,
                training (optional: the name of the training that the checkpoint comes from)
    /episodes/{id, task, instruction, partition}  (N,) UTF-8    /episodes/variation  (N,) int64
    /episodes/success     (N,) int8: 1, 0, -1 = not known       /episodes/prediction (N,) UTF-8, optional
    /episodes/extra/<name>   (N,) UTF-8, int64, float64 or bool: columns that the user added. Only in files of schema
                             `mnprobe.features/2`, which is the same but for these
    /layers/<name>/values    (M, D) float32 or float16, fletcher32, no compression
    /layers/<name>/offsets   (N+1,) int64
    /layers/<name>/keyframe  (M,) int32, optional: the keyframe (or clip) a token belongs to

Every byte has a checksum: values HDF5's fletcher32, structure the checksums of file format 1.10, and the rest
(attributes, episodes, offsets, keyframe) `digest`, a SHA-256.
"""

import difflib
import hashlib
import json
import re
import struct
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from mnprobe.core.arrays import as_whole
from mnprobe.core.errors import ConfigError, FeatureError
from mnprobe.core.labels import as_outcome, as_partitions, is_missing, label_list
from mnprobe.core.names import FeatureId, as_side
from mnprobe.core.provenance import canonical_json, now, versions

__all__ = [
    "CHUNK_ROWS",
    "DTYPES",
    "LIBVER",
    "MAGIC",
    "NUMBER_COLUMNS",
    "SCHEMA",
    "SCHEMA_WITH_COLUMNS",
    "TEXT_COLUMNS",
    "Columns",
    "Header",
    "check_column_name",
    "check_columns",
    "check_layer_name",
    "check_own_name",
    "content_digest",
    "decode_text",
    "encode_text",
    "extra_columns",
    "make_columns",
]

SCHEMA = "mnprobe.features/1"
SCHEMA_WITH_COLUMNS = "mnprobe.features/2"
MAGIC = b"\x89HDF\r\n\x1a\n"  # signature of HDF5 files
LIBVER = ("v110", "v110")  # the first file format with checksums of its structure, readable since HDF5 1.10
CHUNK_ROWS = 256
DTYPES = ("float32", "float16")
TEXT_COLUMNS = ("id", "task", "instruction", "partition", "prediction")
NUMBER_COLUMNS: dict[str, np.dtype[Any]] = {"variation": np.dtype("<i8"), "success": np.dtype("i1")}
_LAYER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def check_layer_name(name: str) -> str:
    """Return a valid layer name or raise FeatureError: letters, digits, `_`, `-`, `.`, not starting with `.` or `-`.

    >>> check_layer_name("blocks.3")
    'blocks.3'
    """
    if not _LAYER_NAME.fullmatch(name):
        raise FeatureError(f"layer name {name!r}: use letters, digits, '_', '-' and '.', with no '/' or space")
    return name


def check_column_name(name: str, *, where: str) -> str:
    """Return a valid column name or raise FeatureError: printable text without '/', outer space or NUL.

    >>> check_column_name("scene", where="x.h5")
    'scene'
    """
    if not name.strip() or name != name.strip() or not name.isprintable() or "/" in name or set(name) == {"."}:
        raise FeatureError(
            f"{where}: an episode column cannot be called {name!r}: use printable text without '/' or outer space"
        )
    return name


def content_digest(attributes: Mapping[str, Any], arrays: Iterable[tuple[str, np.ndarray[Any, Any]]]) -> str:
    """SHA-256 of attributes and small arrays, each with name, type and shape, which detects every change."""
    total = hashlib.sha256()

    def add(*pieces: bytes) -> None:
        for piece in pieces:
            total.update(struct.pack("<q", len(piece)))
            total.update(piece)

    for name in sorted(attributes):
        add(name.encode(), type(attributes[name]).__name__.encode(), str(attributes[name]).encode())
    for name, array in sorted(arrays, key=lambda item: item[0]):
        add(name.encode(), array.dtype.str.encode(), repr(array.shape).encode(), np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


_LARGEST_STEP = 10**15 - 1


@dataclass(frozen=True, kw_only=True)
class Header:
    """Identity and origin of one feature store.

    `step` counts optimiser steps of the checkpointed model; `trained` is False for random weights. `training` is the
    name of the training of the checkpoint ("baseline", "joint", ...), "" if none or unknown; it groups stores.
    `model_config` describes the model, `provenance` everything else that decides the values (layers, camera, data,
    seed, ...); both must be JSON. Raises FeatureError for an unknown side, a step that is not an integer of at least 0,
    a `trained` that is not a boolean, empty names, or values that are not JSON.
    """

    model: str
    side: str
    source: str = "demos"
    step: int = 0
    trained: bool = True
    training: str = ""
    checkpoint_sha256: str = ""
    model_config: Mapping[str, Any] = field(default_factory=dict)
    data_fingerprint: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "side", as_side(self.side))
        try:
            object.__setattr__(self, "step", as_whole(self.step, "step"))  # also numpy's integers, and 5.0
        except ConfigError as error:
            raise FeatureError(str(error)) from None
        if not isinstance(self.trained, bool | np.bool_):
            raise FeatureError(f"trained must be True or False, got {self.trained!r}")
        object.__setattr__(self, "trained", bool(self.trained))
        if not 0 <= self.step <= _LARGEST_STEP:
            raise FeatureError(
                f"step must be >= 0, got {self.step}" if self.step < 0 else f"step must be below 10^15, got {self.step}"
            )
        for name in ("model", "source"):
            value = getattr(self, name)
            if not value or "/" in value or "\\" in value or value.startswith(".") or not value.isprintable():
                raise FeatureError(f"{name} must be a plain name that can be a folder's name, got {value!r}")
        if not self.training.isprintable():
            raise FeatureError(f"training must be a plain name or '', got {self.training!r}")

    @classmethod
    def of(cls, feature: FeatureId, **others: Any) -> Self:
        """Header of the features with an identity; `others` are the other fields."""
        identity = {name: getattr(feature, name) for name in ("model", "side", "step", "trained", "training")}
        return cls(**identity, source=feature.source_name, **others)

    @property
    def id(self) -> FeatureId:
        """Identity of the features."""
        return FeatureId(
            model=self.model,
            side=as_side(self.side),
            source=self.source,
            step=self.step,
            training=self.training,
            trained=self.trained,
        )

    def attributes(self, schema: str = SCHEMA) -> dict[str, str | int | bool]:
        """Return the attributes to write: schema, identity, JSON texts, versions and the current time.

        `training` is written only if it is not empty.
        """
        values = versions("torch")
        return {
            "schema": schema,
            "model": self.model,
            "side": str(self.side),
            "source": self.source,
            "step": self.step,
            "trained": self.trained,
            "checkpoint_sha256": self.checkpoint_sha256,
            "model_config": _json("model_config", self.model_config),
            "data_fingerprint": self.data_fingerprint,
            "mnprobe_version": values["mnprobe"],
            "torch_version": values["torch"],
            "created": now(),
            "provenance": _json("provenance", self.provenance),
            **({"training": self.training} if self.training else {}),
        }


def _json(name: str, value: Mapping[str, Any]) -> str:
    try:
        text = canonical_json(dict(value))
        json.loads(text)
    except (TypeError, ValueError) as error:
        raise FeatureError(f"{name} must hold only what JSON can hold: {error}") from error
    return text


Columns = dict[str, np.ndarray[Any, Any]]
_DEFAULTS: dict[str, Any] = {"task": "", "instruction": "", "partition": "", "variation": 0, "success": -1}
_KNOWN = (*TEXT_COLUMNS, *NUMBER_COLUMNS)
_LARGEST = 2**63


def make_columns(episodes: Any, *, where: str, blank: bool = False) -> Columns:
    """Build columns from a pandas DataFrame or a mapping of equally long sequences; only `id` is required.

    Missing columns become '' (task, instruction, partition), 0 (variation) and -1 = not known (success); `prediction`
    is omitted unless given. Partitions and outcomes are read by the rules of `mnprobe.core.labels`; a partition by
    another name is mapped with a warning. Instructions and tasks must be given for every episode or for none. Further
    columns are stored under their own names: text (missing: ''), integers, floats (missing: NaN) or booleans.

    Args:
        episodes: the columns.
        where: prefix of error messages.
        blank: whether the model got no instruction, so that instructions of some episodes may be ''.

    Raises:
        FeatureError: naming the column, and the row and its id, for unequal lengths, wrong types, ids that are empty
            or repeat, unknown partitions, labels that only some episodes have, and values outside their range.
    """
    given: dict[str, list[Any]] = {}
    for name in _names(episodes, where):
        if str(name) in given:
            raise FeatureError(f"{where}: two episode columns are called {str(name)!r}")
        given[str(name)] = label_list(episodes[name], None, f"{where}: episode column {str(name)!r}")
    if "id" not in given:
        raise FeatureError(f"{where}: the episodes have no column 'id', only {', '.join(given) or 'nothing'}")
    for name in given:
        if name not in _KNOWN:
            check_own_name(name, where=where)
    count = len(given["id"])
    lengths = {name: len(values) for name, values in given.items()}
    if set(lengths.values()) != {count}:
        raise FeatureError(f"{where}: episode columns differ in length: {lengths}")
    columns: Columns = {"id": _text(given["id"], "id", where)}
    _check_ids(columns["id"].tolist(), where)
    for name in _KNOWN[1:]:
        if name == "prediction" and name not in given:
            continue
        values = given.get(name, [_DEFAULTS.get(name)] * count)
        columns[name] = _known_column(name, values, where, columns["id"], blank=blank)
    for name, values in given.items():
        if name not in columns:
            columns[name] = _own_column(values, name, where)
    return columns


def extra_columns(columns: Columns) -> list[str]:
    """Names of the columns added by the user."""
    return [name for name in columns if name not in _KNOWN]


def check_columns(columns: Columns, *, where: str) -> None:
    """Raise FeatureError for zero episodes, duplicate or empty ids, or success values other than 1, 0, -1."""
    _check_ids(columns["id"].tolist(), where)
    _check_success(columns["success"].tolist(), columns["id"].tolist(), where)


def _check_ids(ids: Sequence[str], where: str) -> None:
    if not ids:
        raise FeatureError(f"{where}:/episodes/id: there are no episodes")
    if "" in ids:
        raise FeatureError(f"{where}:/episodes/id[{ids.index('')}]: the episode id is empty")
    if len(set(ids)) < len(ids):
        twice, number = Counter(ids).most_common(1)[0]
        raise FeatureError(f"{where}:/episodes/id: {twice!r} occurs {number} times; ids join u and e and must differ")


def _check_success(values: Sequence[Any], ids: Sequence[Any], where: str) -> np.ndarray[Any, Any]:
    outcomes = [as_outcome(value) for value in values]
    if None in outcomes:
        i = outcomes.index(None)
        raise FeatureError(
            f"{where}:/episodes/success[{i}]: must be 1, 0 or -1 (not known), got {values[i]!r} for episode {ids[i]!r}"
        )
    return np.array(outcomes, dtype=NUMBER_COLUMNS["success"])


def _known_column(
    name: str, values: Sequence[Any], where: str, ids: np.ndarray[Any, Any], *, blank: bool
) -> np.ndarray[Any, Any]:
    if name == "success":
        return _check_success(values, ids.tolist(), where)
    if name in NUMBER_COLUMNS:
        return _numbers(values, name, where)
    if name == "partition":
        partitions, note = as_partitions(values, len(ids), f"{where}: episode column 'partition'")
        if note:
            warnings.warn(note, stacklevel=4)
        return partitions
    texts = _text(["" if is_missing(value) else value for value in values], name, where)
    gone = np.flatnonzero(texts == "")
    if name in ("task", "instruction") and 0 < len(gone) < len(texts) and not (blank and name == "instruction"):
        raise FeatureError(
            f"{where}: episode column {name!r}: {len(gone)} of {len(texts)} episodes have none (None, NaN or ''), the "
            f"first is row {gone[0]} ({ids[gone[0]]}); they would count as one {name}. Give it for every episode, "
            f"leave these episodes out, or give no {name} at all"
        )
    return texts


def encode_text(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Encode text to NUL-padded UTF-8 of equal length, as stored in the file."""
    encoded = "\0".join(values.tolist()).encode("utf-8").split(b"\0")
    return np.array(encoded, dtype=f"S{max([1, *map(len, encoded)])}")


def decode_text(values: np.ndarray[Any, Any], *, where: str) -> np.ndarray[Any, Any]:
    """Decode UTF-8 bytes; FeatureError with the row when the bytes are not UTF-8 or contain a NUL."""
    raw = values.tolist()
    try:
        decoded = b"\0".join(raw).decode("utf-8").split("\0")  # all at once: many times faster than one by one
    except UnicodeDecodeError:
        decoded = []
    if len(decoded) != len(raw) and raw:
        i = next(i for i, value in enumerate(raw) if b"\0" in value or not _decodes(value))
        raise FeatureError(f"{where}[{i}]: a NUL or not UTF-8: {raw[i][:40]!r}")
    return np.array(decoded if raw else [], dtype=object)


def _decodes(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _names(episodes: Any, where: str) -> list[Any]:
    if isinstance(episodes, Mapping):
        return list(episodes)
    if hasattr(episodes, "columns"):
        return list(episodes.columns)
    raise FeatureError(f"{where}: episodes must be a DataFrame or a mapping of columns, got {type(episodes).__name__}")


def check_own_name(name: str, *, where: str) -> None:
    """Raise FeatureError for an invalid name of a user's column, and for a misspelled one such as 'instructions'."""
    check_column_name(name, where=where)
    close = difflib.get_close_matches(name.strip().lower(), _KNOWN, n=1, cutoff=0.85)
    if close:
        raise FeatureError(
            f"{where}: unknown episode column {name!r}: is {close[0]!r} meant? A column of your own needs a name that "
            "cannot be taken for one of the store's"
        )


def _own_column(values: Sequence[Any], name: str, where: str) -> np.ndarray[Any, Any]:
    """Convert a user's column: int64, float64 (missing: NaN), bool, or text (missing: '')."""
    plain = [value.item() if isinstance(value, np.generic) else value for value in values]
    gone = [is_missing(value) and not isinstance(value, str) for value in plain]
    kept = [value for value, missing in zip(plain, gone, strict=True) if not missing]
    if kept and all(isinstance(value, bool) for value in kept) and not any(gone):
        return np.array(plain, dtype=np.bool_)
    if all(isinstance(value, int | float) for value in kept) and (kept or any(isinstance(x, float) for x in plain)):
        if not any(gone) and all(isinstance(value, int) for value in kept):
            if any(not -_LARGEST <= value < _LARGEST for value in kept):
                raise FeatureError(f"{where}: episode column {name!r}: a whole number is larger than 64 bits")
            return np.array(plain, dtype="<i8")
        return np.array([np.nan if out else float(x) for x, out in zip(plain, gone, strict=True)], dtype="<f8")
    texts = ["" if out else value for value, out in zip(plain, gone, strict=True)]
    for i, value in enumerate(texts):
        if not isinstance(value, str):
            raise FeatureError(
                f"{where}: episode column {name!r}, row {i}: a column holds text, numbers or truth values alone, got "
                f"{type(value).__name__} {str(value)[:40]!r}; write it as text"
            )
    return _text(texts, name, where)


def _text(values: Sequence[Any], name: str, where: str) -> np.ndarray[Any, Any]:
    if set(map(type, values)) <= {str} and _is_utf8("".join(set(values))):
        return np.array(values, dtype=object)
    for i, value in enumerate(values):  # find the value
        if not isinstance(value, str):
            raise FeatureError(f"{where}: episode column {name!r}, row {i}: must be text, got {value!r}")
        if not _is_utf8(value):
            raise FeatureError(f"{where}: episode column {name!r}, row {i}: a NUL or no UTF-8: {value!r}")
    return np.array([str(value) for value in values], dtype=object)  # subclasses of str, such as numpy's


def _is_utf8(text: str) -> bool:
    """Whether the text can be stored: encodable, and without NUL, which terminates stored text."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _numbers(values: Sequence[Any], name: str, where: str) -> np.ndarray[Any, Any]:
    dtype = NUMBER_COLUMNS[name]
    low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    numbers = []
    for i, value in enumerate(values):
        whole = isinstance(value, int | np.integer | np.bool_)
        whole = whole or (isinstance(value, float | np.floating) and float(value).is_integer())
        if not whole or not low <= int(value) <= high:
            raise FeatureError(f"{where}: episode column {name!r}, row {i}: must be a whole number, got {value!r}")
        numbers.append(int(value))
    return np.array(numbers, dtype=dtype)
