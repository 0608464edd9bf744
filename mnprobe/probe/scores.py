"""Score of every test episode behind a row of the alignment table."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnprobe.core.errors import ProbeError
from mnprobe.core.files import whole_file
from mnprobe.core.provenance import canonical_json
from mnprobe.probe.runs import Job, Record
from mnprobe.probe.splits import Items

__all__ = ["HitScores", "described_hits", "find_hits", "hit_scores", "hits_name", "read_hits", "write_hits"]

_FORMAT = "mnprobe.hits/1"
_TEXT = ("ids", "instructions", "tasks")
_NUMBERS = ("seeds", "draws", "hits", "chance", "train", "test")


@dataclass(frozen=True, kw_only=True)
class HitScores:
    """Scores of one measurement: R records (a split, a seed, a draw) over N episodes.

    Attributes:
        about: the columns of results/alignment.csv that name the measurement, without `split`.
        splits: split of each record.
        seeds, draws: probe seed and draw of each record (R,).
        hits: Recall@1 of each episode as a query, (R, N, 2) for u2e and e2u; NaN where it was no query.
        chance: exact chance of each record in both directions (R, 2).
        train, test: which episodes the heads were fitted on, and which were tested (R, N).
        ids, instructions, tasks: of the episodes (N,).
    """

    about: Mapping[str, Any]
    splits: NDArray[Any]
    seeds: NDArray[np.int64]
    draws: NDArray[np.int64]
    hits: NDArray[np.float32]
    chance: NDArray[np.float64]
    train: NDArray[np.bool_]
    test: NDArray[np.bool_]
    ids: NDArray[Any]
    instructions: NDArray[Any]
    tasks: NDArray[Any]


def hit_scores(about: Mapping[str, Any], items: Items, jobs: Sequence[Job], records: Sequence[Record]) -> HitScores:
    """Collect the results of `run_jobs` for the jobs of one unit, in their order."""
    rows = [(job, rows) for job in jobs for rows in job.tests.values()]
    marks = np.zeros((2, len(records), len(items)), dtype=np.bool_)
    for record, (job, tested) in enumerate(rows):
        marks[0, record, job.train] = True
        marks[1, record, tested] = True
    return HitScores(
        about=dict(about),
        splits=np.array([record.split for record in records], dtype=np.str_),
        seeds=np.array([record.seed for record in records], dtype=np.int64),
        draws=np.array([record.draw for record in records], dtype=np.int64),
        hits=np.stack([np.stack(record.hits[1], axis=1) for record in records]).astype(np.float32),
        chance=np.array([record.chance[1] for record in records], dtype=np.float64),
        train=marks[0],
        test=marks[1],
        ids=items.ids.astype(np.str_),
        instructions=items.instructions.astype(np.str_),
        tasks=items.tasks.astype(np.str_),
    )


def hits_name(about: Mapping[str, Any], splits: Sequence[str]) -> str:
    """File name of a measurement: its names, and sixteen digits of the hashes of features and settings."""
    parts = [str(about[f"{name}_u" if name != "model" else "understanding"]) for name in ("model", "source", "step")]
    parts += [str(about[f"{name}_e" if name != "model" else "execution"]) for name in ("model", "source", "step")]
    parts += [str(about[name]) for name in ("layer_u", "pool_u", "layer_e", "pool_e", "heads", "holdout", "mode")]
    parts += [str(about["control"]), splits[0] if len(splits) == 1 else "success"]
    safe = "_".join("".join(letter if letter.isalnum() or letter in "-." else "-" for letter in part) for part in parts)
    return f"{safe}-{about['features_hash'][:8]}{about['config_hash'][:8]}.npz"


def write_hits(path: Path, scores: HitScores) -> None:
    """Write compressed arrays atomically; the same scores give the same bytes."""
    arrays: dict[str, Any] = {name: np.asarray(getattr(scores, name), dtype=np.str_) for name in (*_TEXT, "splits")}
    arrays |= {name: getattr(scores, name) for name in _NUMBERS}
    about = canonical_json({"format": _FORMAT} | dict(scores.about))
    with whole_file(path) as part, part.open("wb") as file:
        np.savez_compressed(file, about=np.array(about), **arrays)


def read_hits(path: Path) -> HitScores:
    """Read a file of `write_hits`; ProbeError for any other file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            if about.pop("format", "") != _FORMAT:
                raise ProbeError(f"{path}: these are not scores of mnprobe (format {_FORMAT!r} expected). Remove it")
            return HitScores(about=about, **{name: file[name] for name in (*_TEXT, "splits", *_NUMBERS)})
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ProbeError(f"{path}: cannot be read as scores of mnprobe ({error}). Remove it and align again") from error


def find_hits(folder: Path, **wanted: Any) -> list[Path]:
    """Files of scores whose measurement has the wanted values, such as control='none' or config_hash='...'.

    Only the description of each file is read.
    """
    return [path for path, about in described_hits(folder) if all(about.get(name) == wanted[name] for name in wanted)]


def described_hits(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Every file of scores with the description of its measurement, to search for several of them."""
    described = []
    for path in sorted(folder.glob("*.npz")):
        try:
            with np.load(path, allow_pickle=False) as file:
                described.append((path, json.loads(str(file["about"]))))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ProbeError(f"{path}: cannot be read as scores of mnprobe ({error}). Remove it") from error
    return described
