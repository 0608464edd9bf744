"""Outcomes of episodes from a CSV file."""

import csv
from pathlib import Path

from mnprobe.core.errors import DataError
from mnprobe.core.labels import as_outcome

__all__ = ["OUTCOMES_FILE", "read_outcomes"]

OUTCOMES_FILE = "outcomes.csv"


def read_outcomes(path: Path) -> dict[str, int]:
    """Outcomes by episode id from a CSV file with the columns id and success; further columns are ignored.

    Values: 1 or true for success, 0 or false for failure, -1, nan or empty for unknown (see
    `mnprobe.core.labels.as_outcome`).

    Raises:
        DataError: naming file and line, for a missing column, an empty id, an id given twice, or another value.
    """
    outcomes: dict[str, int] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            for column in ("id", "success"):
                if column not in (rows.fieldnames or ()):
                    header = ", ".join(rows.fieldnames or ()) or "nothing"
                    raise DataError(f"{path}: column {column!r} is missing; outcomes need id, success, found {header}")
            for row in rows:
                where = f"{path}, line {rows.line_num}"
                name, value = (row["id"] or "").strip(), (row["success"] or "").strip()
                if not name:
                    raise DataError(f"{where}: the id is empty")
                outcome = as_outcome(value)
                if outcome is None:
                    raise DataError(f"{where}: success of {name} must be 1, 0 or -1 (not known), got {value!r}")
                if name in outcomes:
                    raise DataError(f"{where}: {name} has an outcome already")
                outcomes[name] = outcome
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 (byte {error.start}); save the outcomes as UTF-8") from error
    except FileNotFoundError as error:
        raise DataError(
            f"cannot read the outcomes {path}: there is no such file. "
            "Give a CSV file (id,success), or the word 'successful'"
        ) from error
    except (OSError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read the outcomes {path}: {reason}") from error
    return outcomes
