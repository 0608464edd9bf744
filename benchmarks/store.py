"""How fast the feature store writes and reads, beside plain h5py with the same chunks and checksum.

    python benchmarks/store.py

40,000 x 768 float32, appended in blocks of 256 rows, then read whole; both sides sync to disk, and reads come from the
page cache. The store's times include its table of 10,000 episodes (4 tokens each), all checks on opening, and the
rename. Rounds alternate between the two; the medians of the rounds' ratios must be at least 0.8 (1.0 = as fast), else
the exit code is 1.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mnprobe.features import FeatureWriter, Header, open_features

WANTED = 0.8
BLOCK = 256
TOKENS = 4

Array = np.ndarray[Any, Any]


def write_plain(path: Path, values: Array) -> None:
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset(
            "values",
            shape=(0, values.shape[1]),
            maxshape=(None, values.shape[1]),
            chunks=(BLOCK, values.shape[1]),
            dtype=values.dtype,
            fletcher32=True,
        )
        for start in range(0, len(values), BLOCK):
            block = values[start : start + BLOCK]
            dataset.resize(start + len(block), axis=0)
            dataset[start : start + len(block)] = block
        file.flush()
    _sync(path)


def write_store(path: Path, values: Array) -> None:
    episodes = {"id": [f"task/0/episode{i}" for i in range(len(values) // TOKENS)]}
    with FeatureWriter(path, Header(model="bench", side="understanding"), episodes) as writer:
        for start in range(0, len(values), BLOCK):
            block = values[start : start + BLOCK]
            writer.append("u", block, lengths=np.full(len(block) // TOKENS, TOKENS))


def read_plain(path: Path, _: Array) -> None:
    with h5py.File(path, "r") as file:
        file["values"][:]


def read_store(path: Path, _: Array) -> None:
    with open_features(path) as file:
        file.layer("u").values[:]


def _sync(path: Path) -> None:
    """The store syncs its file to disk before it counts as written; so does the other side."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def seconds(action: Callable[[Path, Array], None], path: Path, values: Array) -> float:
    start = time.perf_counter()
    action(path, values)
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    values = np.random.default_rng(0).standard_normal((arguments.rows, arguments.dim), dtype=np.float32)
    pairs = {"append": (write_plain, write_store), "read": (read_plain, read_store)}
    good = True
    with tempfile.TemporaryDirectory() as folder:
        plain, store = Path(folder) / "plain.h5", Path(folder) / "store.h5"
        for name, (theirs, ours) in pairs.items():
            times = [(seconds(theirs, plain, values), seconds(ours, store, values)) for _ in range(arguments.rounds)]
            ratio = statistics.median(a / b for a, b in times)
            speeds = [values.nbytes / 1e6 / statistics.median(column) for column in zip(*times, strict=True)]
            print(
                f"{name}: plain h5py {speeds[0]:.0f} MB/s, store {speeds[1]:.0f} MB/s, "
                f"ratio {ratio:.2f} x (wanted >= {WANTED})"
            )
            good &= ratio >= WANTED
        with open_features(store) as file:
            if not np.array_equal(file.layer("u").values[:], values):
                print("the store does not give back what was written")
                good = False
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
