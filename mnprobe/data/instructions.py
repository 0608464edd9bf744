"""Instructions of an episode: variation_descriptions.pkl, or the user's own."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from mnprobe.core.errors import DataError
from mnprobe.core.labels import has_control_characters
from mnprobe.data.unpickle import RefusedGlobal, load

__all__ = ["Overrides", "read_descriptions", "read_overrides"]

Overrides = Mapping[tuple[str, int], tuple[str, ...]]

_COLUMNS = ("task", "variation", "instruction")
_HELP = (
    "Give the instructions yourself: a CSV file with the columns task,variation,instruction "
    "(--instructions FILE.csv; open_dataset(..., instructions='FILE.csv'))"
)


def read_descriptions(path: Path) -> tuple[str, ...]:
    """The paraphrases in a `variation_descriptions.pkl`, first one first, without blanks and line breaks around them.

    Raises:
        DataError: naming the file and its content, when it is not a list of texts. (An old generator of
            RLBench wrote a whole Observation into this file.)
    """
    try:
        texts = load(path, allow="plain")
    except RefusedGlobal as refused:
        if refused.module.startswith("rlbench.") and refused.name.isidentifier():
            article = "an" if refused.name[0] in "AEIOU" else "a"
            held = f"{article} {refused.name} ({refused.module})"
            raise DataError(f"{path}: holds {held} instead of a list of str. {_HELP}.") from refused
        raise
    if not isinstance(texts, list):
        raise DataError(f"{path}: holds a {type(texts).__name__} instead of a list of str. {_HELP}.")
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"{path}: entry {position} of the list is a {type(text).__name__}, not a str. {_HELP}.")
        if not text.strip() or has_control_characters(text.strip()):
            raise DataError(f"{path}: entry {position} of the list is empty or holds control characters. {_HELP}.")
    if not texts:
        raise DataError(f"{path}: holds an empty list, so the episode has no instruction. {_HELP}.")
    return tuple(text.strip() for text in texts)


def read_overrides(source: Path | str | Mapping[str, str | Sequence[str]] | None) -> Overrides:
    """Instructions given by the user, by (task, variation).

    Args:
        source: a CSV file with the columns task, variation and instruction (several rows of one variation are its
            paraphrases, in order; further columns are ignored), or a mapping "task/variation" -> text or texts.

    Raises:
        DataError: naming the file and line, or the key, of an invalid entry.

    >>> read_overrides({"reach_target/0": "reach the red target"})
    {('reach_target', 0): ('reach the red target',)}
    """
    if source is None:
        return {}
    if isinstance(source, Mapping):
        return dict(_from_mapping(key, value) for key, value in source.items())
    path = Path(source)
    overrides: dict[tuple[str, int], tuple[str, ...]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            missing = [name for name in _COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                raise DataError(
                    f"{path}: column {missing[0]!r} is missing; instructions need {', '.join(_COLUMNS)}, "
                    f"found {', '.join(rows.fieldnames or ()) or 'nothing'}"
                )
            for row in rows:
                key = _key(row["task"], row["variation"], f"{path}, line {rows.line_num}")
                text = _instruction(row["instruction"], f"{path}, line {rows.line_num}")
                overrides[key] = (*overrides.get(key, ()), text)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 (byte {error.start}); save the instructions as UTF-8") from error
    except (OSError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read the instructions {path}: {reason}") from error
    if not overrides:
        raise DataError(f"{path}: no instruction in it, only a header")
    return overrides


def _from_mapping(key: str, value: str | Sequence[str]) -> tuple[tuple[str, int], tuple[str, ...]]:
    where = f"instructions[{key!r}]"
    task, slash, variation = key.rpartition("/")
    if not slash:
        raise DataError(f"{where}: the key must be 'task/variation', for example 'open_drawer/2'")
    texts = (value,) if isinstance(value, str) else tuple(value)
    if not texts:
        raise DataError(f"{where}: no instruction given")
    return _key(task, variation, where), tuple(_instruction(text, where) for text in texts)


def _key(task: str | None, variation: str | None, where: str) -> tuple[str, int]:
    if not task or not task.strip():
        raise DataError(f"{where}: the task is empty")
    number = (variation or "").strip()
    if not (number.isascii() and number.isdigit()):
        raise DataError(f"{where}: variation must be a whole number from 0, got {variation!r}")
    return task.strip(), int(number)


def _instruction(text: object, where: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where}: instruction must be a text, got {text!r}")
    if has_control_characters(text.strip()):
        raise DataError(f"{where}: instruction holds a line break or another control character: {text.strip()!r}")
    return text.strip()
