"""The table of episodes in a store: one row per episode, checked in one place for writing and for reading."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mnprobe.core.errors import FeatureError
from mnprobe.features.schema import NUMBER_COLUMNS, TEXT_COLUMNS

__all__ = ["Columns", "check_columns", "decode_text", "encode_text", "make_columns"]

Columns = dict[str, np.ndarray[Any, Any]]
_DEFAULTS: dict[str, Any] = {"task": "", "instruction": "", "partition": "", "variation": 0, "success": -1}


def make_columns(episodes: Any, *, where: str) -> Columns:
    """Columns from a pandas DataFrame or a mapping of equally long sequences; only `id` must be there.

    Missing columns become '' (task, instruction, partition), 0 (variation) and -1 = not known (success); `prediction`
    stays away unless given. Raises FeatureError naming the column for unknown columns, unequal lengths, wrong types,
    duplicate ids and values outside their range.
    """
    given: dict[str, Sequence[Any]] = {str(name): list(episodes[name]) for name in _names(episodes, where)}
    if "id" not in given:
        raise FeatureError(f"{where}: the episodes have no column 'id', only {', '.join(given) or 'nothing'}")
    unknown = set(given) - {*TEXT_COLUMNS, *NUMBER_COLUMNS}
    if unknown:
        raise FeatureError(
            f"{where}: unknown episode columns {', '.join(sorted(unknown))}; "
            f"a store holds {', '.join([*TEXT_COLUMNS, *NUMBER_COLUMNS])}"
        )
    count = len(given["id"])
    lengths = {name: len(values) for name, values in given.items()}
    if set(lengths.values()) != {count}:
        raise FeatureError(f"{where}: episode columns differ in length: {lengths}")
    columns: Columns = {}
    for name in (*TEXT_COLUMNS, *NUMBER_COLUMNS):
        if name == "prediction" and name not in given:
            continue
        values = given.get(name, [_DEFAULTS.get(name)] * count)
        columns[name] = _text(values, name, where) if name in TEXT_COLUMNS else _numbers(values, name, where)
    check_columns(columns, where=where)
    return columns


def check_columns(columns: Columns, *, where: str) -> None:
    """Raise FeatureError for no episodes at all, duplicate or empty ids, or success values other than 1, 0, -1."""
    ids = columns["id"].tolist()
    if not ids:
        raise FeatureError(f"{where}:/episodes/id: there are no episodes")
    if "" in ids:
        raise FeatureError(f"{where}:/episodes/id[{ids.index('')}]: the episode id is empty")
    if len(set(ids)) < len(ids):
        twice, number = Counter(ids).most_common(1)[0]
        raise FeatureError(f"{where}:/episodes/id: {twice!r} occurs {number} times; ids join u and e and must differ")
    wrong = np.flatnonzero(~np.isin(columns["success"], (1, 0, -1)))
    if wrong.size:
        i = int(wrong[0])
        raise FeatureError(
            f"{where}:/episodes/success[{i}]: must be 1, 0 or -1 (not known), got {int(columns['success'][i])}"
        )


def encode_text(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Text to NUL-padded UTF-8 of one common length, as the file holds it."""
    encoded = "\0".join(values.tolist()).encode("utf-8").split(b"\0")
    return np.array(encoded, dtype=f"S{max([1, *map(len, encoded)])}")


def decode_text(values: np.ndarray[Any, Any], *, where: str) -> np.ndarray[Any, Any]:
    """UTF-8 bytes to text; FeatureError with the row when the bytes are not UTF-8, or hold a NUL."""
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


def _names(episodes: Any, where: str) -> list[str]:
    if isinstance(episodes, Mapping):
        return list(episodes)
    if hasattr(episodes, "columns"):
        return list(episodes.columns)
    raise FeatureError(f"{where}: episodes must be a DataFrame or a mapping of columns, got {type(episodes).__name__}")


def _text(values: Sequence[Any], name: str, where: str) -> np.ndarray[Any, Any]:
    if set(map(type, values)) <= {str} and _is_utf8("".join(set(values))):
        return np.array(values, dtype=object)
    for i, value in enumerate(values):  # which one is it?
        if not isinstance(value, str):
            raise FeatureError(f"{where}: episode column {name!r}, row {i}: must be text, got {value!r}")
        if not _is_utf8(value):
            raise FeatureError(f"{where}: episode column {name!r}, row {i}: a NUL or no UTF-8: {value!r}")
    return np.array([str(value) for value in values], dtype=object)  # kinds of str, such as numpy's


def _is_utf8(text: str) -> bool:
    """Whether the text can be stored: encodable, and without the NUL that ends stored text."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _numbers(values: Sequence[Any], name: str, where: str) -> np.ndarray[Any, Any]:
    dtype = NUMBER_COLUMNS[name]
    low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    if set(map(type, values)) <= {int} and values and low <= min(values) and max(values) <= high:
        return np.array(values, dtype=dtype)
    for i, value in enumerate(values):
        if not isinstance(value, int | np.integer | np.bool_) or not low <= int(value) <= high:
            raise FeatureError(f"{where}: episode column {name!r}, row {i}: must be a whole number, got {value!r}")
    return np.array(values, dtype=dtype)
