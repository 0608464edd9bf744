"""Labels, partitions and outcomes: parsing and validation.

A label that is missing (None, NaN, pandas' NA, '' or blanks) is never a class of its own. Labels are compared by
value: 1, 1.0, True and "1" are one class. A partition is train, val, test or none. An outcome is 1, 0 or not known.
"""

import math
import re
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mnprobe.core.arrays import is_tensor
from mnprobe.core.errors import FeatureError

__all__ = [
    "PARTITIONS",
    "Labels",
    "as_labels",
    "as_outcome",
    "as_outcomes",
    "as_partitions",
    "asked_partition",
    "encode_labels",
    "encode_tuples",
    "has_control_characters",
    "is_missing",
    "label_list",
    "one_spelling",
    "partition_of",
    "same_text",
    "some",
]

Labels: TypeAlias = Any
"""One label per row: a list, numpy array, torch tensor, pandas Series or Categorical of text, integers or floats."""

PARTITIONS = ("train", "val", "test")
"""The partitions of a dataset, in order; '' stands for a dataset without partitions."""

_PARTITION_NAMES = {
    **{name: name for name in PARTITIONS},
    "training": "train",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "testing": "test",
}
_OUTCOMES = {"1": 1, "1.0": 1, "true": 1, "0": 0, "0.0": 0, "false": 0, "-1": -1, "-1.0": -1}
_MISSING_TEXTS = frozenset({"nan", "NaN", "None", "<NA>", "NaT"})  # what missing values become as text


def is_missing(value: Any) -> bool:
    """Whether a label is missing: None, NaN, pandas' NA or NaT, '', blanks, or the printed text of these.

    >>> [is_missing(value) for value in (None, float("nan"), "", "  ", "nan", "open it", 0)]
    [True, True, True, True, True, False, False]
    """
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, float | np.floating):
        return math.isnan(value)
    if isinstance(value, np.datetime64):
        return bool(np.isnat(value))
    if isinstance(value, str):
        text = value.strip()
        return not text or text in _MISSING_TEXTS
    return isinstance(value, bytes) and not value.strip()


def label_list(labels: Labels, rows: int | None, name: str) -> list[Any]:
    """Convert labels of any input type to a Python list, one per row, with their own types.

    Raises:
        FeatureError: naming `name`, when there is not one label per row, or the labels have no single dimension.
    """
    if isinstance(labels, str | bytes):
        raise FeatureError(f"{name} must give one label per row, got one text {labels!r}")
    if is_tensor(labels):
        labels = labels.detach().cpu()
        short = str(labels.dtype) not in ("torch.float16", "torch.float32", "torch.float64")
        labels = (labels.float() if labels.is_floating_point() and short else labels).numpy()  # bfloat16, float8
    elif hasattr(labels, "to_numpy"):  # pandas Series and Index
        labels = labels.to_numpy(dtype=object)
    elif hasattr(labels, "categories"):  # a pandas Categorical
        labels = np.asarray(labels, dtype=object)
    if isinstance(labels, np.ma.MaskedArray):
        mask, labels = np.ma.getmaskarray(labels), labels.data.astype(object)
        labels[mask] = None
    if isinstance(labels, np.ndarray):
        if labels.ndim != 1:
            raise FeatureError(f"{name} must give one label per row, got labels of shape {labels.shape}")
        values: list[Any] = list(labels.tolist())
    elif isinstance(labels, Iterable):
        values = [value.item() if is_tensor(value) and value.ndim == 0 else value for value in labels]
    else:
        raise FeatureError(f"{name} must give one label per row, got {type(labels).__name__}")
    if rows is not None and len(values) != rows:
        raise FeatureError(f"{name} must give one label per row: {rows} rows, {len(values)} labels")
    return values


def as_labels(labels: Labels, rows: int | None, name: str, *, missing: bool = False) -> NDArray[Any]:
    """Labels as a 1-D array, one per row: int64 if all are whole numbers, else text (object array of str).

    Integers of any type, floats without a fraction and booleans count as integers, also together with text: 1, 1.0,
    True and "1" are one label. Bytes are decoded as UTF-8.

    Args:
        labels: the labels.
        rows: required number; any number when None.
        name: name of the labels in messages.
        missing: return '' for missing text labels; by default missing labels raise.

    Raises:
        FeatureError: naming `name` and the first row, for missing labels, a wrong count, or labels that are neither
            text nor numbers.

    >>> as_labels([1.0, 2, True], 3, "groups").tolist()
    [1, 2, 1]
    """
    listed = label_list(labels, rows, name)
    gone = [row for row, value in enumerate(listed) if is_missing(value)]
    if gone and not missing:
        raise FeatureError(
            f"{name}: {len(gone)} of {len(listed)} rows have none (None, NaN or ''), the first is row {gone[0]}; a "
            "missing label is no class of its own. Give these rows a label, or leave them out on both sides"
        )
    absent = set(gone)
    values = ["" if row in absent else _label(value, name, row) for row, value in enumerate(listed)]
    if values and all(isinstance(value, int) for value in values):
        try:
            return np.array(values, dtype=np.int64)
        except OverflowError:
            pass
    return np.array([str(value) for value in values], dtype=object)


def encode_labels(*labels: NDArray[Any]) -> tuple[list[NDArray[np.int64]], list[str]]:
    """Encode labels consistently over several arrays of `as_labels`: integer codes, and the label of each code."""
    if len({array.dtype.kind for array in labels}) > 1:
        labels = tuple(np.array([str(value) for value in array.tolist()], dtype=object) for array in labels)
    names, codes = np.unique(np.concatenate(labels), return_inverse=True)
    ends = np.cumsum([len(array) for array in labels])
    parts = np.split(codes.reshape(-1).astype(np.int64), ends[:-1])
    return parts, [str(name) for name in names]


def encode_tuples(*labels: NDArray[Any]) -> NDArray[np.int64]:
    """Encode tuples of labels, row by row, without joining their texts.

    >>> encode_tuples(np.array(["1", "11", "1"]), np.array(["12", "2", "12"])).tolist()
    [0, 1, 0]
    """
    codes = np.zeros(len(labels[0]), dtype=np.int64)
    for array in labels:
        names, own = np.unique(array, return_inverse=True)
        codes = np.unique(codes * len(names) + own.reshape(-1), return_inverse=True)[1].reshape(-1).astype(np.int64)
    return codes


def partition_of(name: str) -> str | None:
    """Resolve a partition name: train, val, test, '' for no name, None for an unknown name.

    Case and blanks do not matter; training, valid, validation, dev and testing are known.

    >>> partition_of("Validation "), partition_of("holdout")
    ('val', None)
    """
    text = name.strip().lower()
    return "" if not text else _PARTITION_NAMES.get(text)


def asked_partition(name: str) -> str:
    """Resolve the partition of a setting, with a warning if it was mapped; an unknown `name` is returned unchanged.

    >>> asked_partition("test"), asked_partition("holdout")
    ('test', 'holdout')
    """
    meant = partition_of(name)
    if meant is None or meant == name:
        return name
    warnings.warn(f"partition {name!r} is read as {meant!r}", stacklevel=3)
    return meant


def as_partitions(partitions: Labels, rows: int | None, name: str = "partitions") -> tuple[NDArray[Any], str]:
    """Partitions as text: train, val, test, or all '' if the dataset has none; and a note on mapped names.

    Raises:
        FeatureError: naming `name`, for an unknown partition (listing the known ones), and when only some rows have a
            partition.

    >>> as_partitions(["Training", "test"], 2)
    (array(['train', 'test'], dtype=object), "partitions: 'Training' is read as 'train'")
    """
    words = [str(label) for label in as_labels(partitions, rows, name, missing=True).tolist()]
    meaning = {word: partition_of(word) for word in dict.fromkeys(words)}
    unknown = [word for word, meant in meaning.items() if meant is None]
    if unknown:
        raise FeatureError(
            f"{name}: {some(unknown)} {'is' if len(unknown) == 1 else 'are'} not known; a partition is one of "
            f"{', '.join(PARTITIONS)} (also training, valid, validation, dev, testing), or '' in all rows where there "
            "are none"
        )
    known = [meaning[word] for word in words]
    empty = sum(not meant for meant in known)
    if 0 < empty < len(known):
        first = next(row for row, meant in enumerate(known) if not meant)
        raise FeatureError(
            f"{name}: {empty} of {len(known)} rows have none, the first is row {first}, while others have one. "
            f"Give every row one of {', '.join(PARTITIONS)}, or none to any"
        )
    mapped = [f"{word!r} is read as {meant!r}" for word, meant in meaning.items() if meant and meant != word]
    return np.array(known, dtype=object), f"{name}: {', '.join(mapped)}" if mapped else ""


def as_outcome(value: Any) -> int | None:
    """An outcome as 1 (success), 0 (failure) or -1 (not known); None for other values.

    1, 1.0, True and "true" are a success, 0, 0.0, False and "false" a failure; -1, None, NaN and '' are not known.

    >>> [as_outcome(value) for value in (True, 0.0, "1", float("nan"), "", 257, 0.5)]
    [1, 0, 1, -1, -1, None, None]
    """
    if is_missing(value):
        return -1
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return _OUTCOMES.get(value.strip().lower())
    if isinstance(value, bool | np.bool_ | int | float | np.number):
        return int(value) if value in (-1, 0, 1) else None
    return None


def as_outcomes(values: Labels, rows: int | None, name: str, ids: Labels | None = None) -> NDArray[np.int8]:
    """Outcomes as int8: 1, 0, -1 = not known, read by `as_outcome`.

    Raises:
        FeatureError: naming `name`, the first row (and its id in `ids`) and the value, for anything else.

    >>> as_outcomes([True, None, 0.0], 3, "success").tolist()
    [1, -1, 0]
    """
    listed = label_list(values, rows, name)
    outcomes = [as_outcome(value) for value in listed]
    for row, outcome in enumerate(outcomes):
        if outcome is None:
            which = f"row {row}" if ids is None else f"row {row} ({ids[row]})"
            raise FeatureError(
                f"{name}: {which}: an outcome is 1, 0 or -1 (not known; also true, false, None, NaN, ''), got "
                f"{listed[row]!r}"
            )
    return np.array(outcomes, dtype=np.int8)


def same_text(text: str) -> str:
    """A key that is equal for texts that differ only in case, in blanks or in Unicode normal form.

    >>> same_text("Open  the\\u00a0drawer ") == same_text("open the drawer")
    True
    """
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", text)).strip().casefold()


def one_spelling(texts: Sequence[str], name: str) -> tuple[NDArray[Any], str]:
    """Unify the spelling of texts that are equal by `same_text` (the first one, sorted); and a note on these.

    >>> one_spelling(["open it", "Open  it"], "instructions")[0].tolist()
    ['Open  it', 'Open  it']
    """
    spellings: dict[str, list[str]] = {}
    for text in sorted(set(texts)):
        spellings.setdefault(same_text(text), []).append(text)
    several = [same for same in spellings.values() if len(same) > 1]
    if not several:
        return np.array(list(texts), dtype=object), ""
    note = (
        f"{name}: {len(several)} are spelled in several ways that differ only in case, blanks or Unicode form, "
        f"and count as one each; the first: {some(several[0])}"
    )
    return np.array([spellings[same_text(text)][0] for text in texts], dtype=object), note


def has_control_characters(text: str) -> bool:
    """Whether `text` holds control characters (line breaks among them), lone surrogates, or line and paragraph marks.

    Spaces of any width, joiners and soft hyphens are ordinary text.

    >>> has_control_characters("open\\u00a0it"), has_control_characters("open\\nit")
    (False, True)
    """
    return any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in text)


def some(names: Sequence[Any], most: int = 5) -> str:
    """The first few of a list of names for an error message, and how many more there are."""
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _label(value: Any, name: str, row: int) -> int | str:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool | int):
        return int(value)
    if isinstance(value, float):
        return int(value) if value.is_integer() else repr(value)
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            raise FeatureError(f"{name}, row {row}: the label is not UTF-8: {value[:40]!r}") from None
    if isinstance(value, str):
        return value
    raise FeatureError(
        f"{name}, row {row}: a label is text or a number, got {type(value).__name__} {repr(value)[:60]}; join several "
        "columns to one label yourself"
    )
