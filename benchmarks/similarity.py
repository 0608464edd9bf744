"""Similarity indices: is the cached permutation null fast, and are its p values right where nothing is there?

    python benchmarks/similarity.py                     (speed: cached null beside recomputing, N = 500, K = 1,000)
    python benchmarks/similarity.py --calibration       (simulated null datasets; writes docs/similarity-null.csv, .png)
    python benchmarks/similarity.py --calibration --datasets 2000 --infonce-datasets 1000 --out /tmp

Speed: the null sample from cached matrices beside the same permutations with everything computed again from the
features, in one process with one thread; both samples must be equal, and the cached one at least 8 times as fast for
debiased CKA and mutual nearest neighbours, else the exit code is 1. Recomputing is timed on a share of them.

Calibration: for every index and every scheme, datasets in which the scheme's null hypothesis holds: 60 episodes of
instructions of unequal size, x and y independent of each other given what the scheme keeps (shared tasks or shared
instructions), with instruction effects of their own where whole instructions are exchanged. The share of p < 0.05 must
lie in [0.035, 0.065]; K is 100, so that its exact value is 5 / 101. The share for the smallest p of a family of
16 cells, and for its calibrated p_max, is measured likewise. The InfoNCE bound, whose heads are fitted anew for every
dataset, is taken through two of the schemes only. Among many shares a few lie outside by chance: each of these is
measured a second time, on other datasets and more of them (--again), and that decides. The column `first_share` keeps
what was found first. The table is written after every cell.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from numpy.typing import NDArray

from mnprobe.analysis.similarity import (
    INDICES,
    SCHEMES,
    Index,
    balanced_rows,
    calibrate,
    column_values,
    exchange,
    make_index,
    p_value,
)
from mnprobe.core.progress import progress

Array = NDArray[np.float64]
BAND = (0.035, 0.065)
LIMIT = 8.0
K = 100
OPTIONS: dict[str, dict[str, object]] = {
    "minibatch_cka": {"batch": 20, "passes": 2},
    "mutual_knn": {"k": 5},
    "cknna": {"k": 8},
    "svcca": {"variance": 0.9},
    "ridge_cca": {"pcs": 6, "dims": 3},
    "infonce": {"steps": 10, "dim": 8, "draws": 10},
}
SLOW = ("infonce",)
SMALLEST = "smallest p of 16 cells"
FRESH = 1_000_000  # first seed of the datasets of a second measurement


def speed(n: int, count: int, timed: int) -> int:
    """Seconds for the null of K permutations, cached and recomputed; 1 where a ratio misses the limit."""
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((n, 768)), generator.standard_normal((n, 512))
    tasks, instructions = np.arange(n) // 25, np.arange(n) // 5
    orders = exchange("within-task", tasks=tasks, n=n).orders(count, 0)
    print(f"N = {n}, widths 768 and 512, K = {count}, one thread, load {os.getloadavg()[0]:.1f} on {os.cpu_count()}")
    print(f"{'':24}{'cached':>10}{'recomputed':>12}{'ratio':>8}")
    missed = 0
    for name in ("debiased_cka", "mutual_knn", "cka", "rsa", "cknna"):
        index = make_index(name)
        start = time.process_time()
        one, other = index.ready(x, instructions), index.ready(y, instructions)
        _, null = column_values(index, [one], other, orders)
        cached = time.process_time() - start
        start = time.process_time()
        again = [index.score(x, y[order], instructions) for order in orders[:timed]]
        whole = (time.process_time() - start) * count / timed
        np.testing.assert_allclose(null[0, :timed], again, atol=1e-10)
        ratio = whole / cached
        counted = name in ("debiased_cka", "mutual_knn")
        missed += counted and ratio < LIMIT
        print(f"{name:24}{cached:9.2f}s{whole:11.1f}s{ratio:8.1f}{f'   (at least {LIMIT:.0f})' if counted else ''}")
    return int(missed > 0)


def dataset(scheme: str, generator: np.random.Generator) -> tuple[Array, Array, NDArray[np.int64], NDArray[np.int64]]:
    """x (n, 6) and y (n, 4) for which the null of `scheme` holds, with tasks and instructions of unequal size."""
    sizes: tuple[int, ...] = (8, 7, 6, 6, 5, 5, 4, 4, 3, 3, 3, 2, 2, 1, 1)
    if scheme == "instructions":
        sizes = (5, 5, 4, 4, 4, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 2, 2, 2, 1, 1)
    elif scheme == "instructions-within-task":
        sizes = (3,) * 20
    instructions = np.repeat(np.arange(len(sizes)), sizes)
    tasks = instructions // 5
    x, y = generator.standard_normal((60, 6)), generator.standard_normal((60, 4))
    if "within-task" in scheme:  # both sides know the task
        shared = 1.5 * generator.standard_normal((4, 4))[tasks]
        x[:, :4] += shared
        y += shared
    if scheme == "within-instruction":  # both sides know the instruction
        shared = 1.5 * generator.standard_normal((len(sizes), 4))[instructions]
        x[:, :4] += shared
        y += shared
    if scheme.startswith("instructions"):  # each side has effects of its own
        x += 1.5 * generator.standard_normal((len(sizes), 6))[instructions]
        y += 1.5 * generator.standard_normal((len(sizes), 4))[instructions]
    return x, y, tasks, instructions


def one_p(index: Index, scheme: str, seed: int) -> float:
    """p of one null dataset; NaN where the index is not defined for it."""
    x, y, tasks, instructions = dataset(scheme, np.random.default_rng([seed, 0]))
    if scheme == "instructions":
        kept = balanced_rows(instructions, seed=seed)
        x, y, tasks, instructions = x[kept], y[kept], tasks[kept], instructions[kept]
    orders = exchange(scheme, tasks=tasks, instructions=instructions, n=len(x)).orders(K, seed)
    one, other = index.ready(x, instructions), index.ready(y, instructions)
    values, null = column_values(index, [one], other, orders, note=lambda row, error: None)
    if not np.isfinite(null).all():
        return float("nan")
    return float(p_value(values, null, higher_is_alike=index.about.higher_is_alike)[0])


@cache
def family_p(index: Index, seed: int) -> tuple[float, float]:
    """The smallest p and the calibrated p of the best of 4 x 4 cells whose layers resemble each other."""
    generator = np.random.default_rng([seed, 1])
    x, y = generator.standard_normal((60, 6)), generator.standard_normal((60, 4))
    sides = [[index.ready(side + 0.7 * generator.standard_normal(side.shape)) for _ in range(4)] for side in (x, y)]
    orders = exchange("free", n=60).orders(K, seed)
    parts = [column_values(index, sides[0], other, orders) for other in sides[1]]
    family = calibrate(
        np.stack([part[0] for part in parts], 1),
        np.stack([part[1] for part in parts], 1),
        higher_is_alike=index.about.higher_is_alike,
    )
    return float(family.p.min()), float(family.p_max[family.best])


def many(name: str, scheme: str, count: int, first: int = 0) -> Array:
    """p of those of `count` null datasets for which the index is defined, seeds from `first` on."""
    index = make_index(name, OPTIONS.get(name))
    p = np.array([one_p(index, scheme, seed) for seed in range(first, first + count)])
    return np.asarray(p[np.isfinite(p)])


def family(name: str, column: int, count: int, first: int = 0) -> Array:
    """Column 0 or 1 of `family_p` of `count` null datasets."""
    index = make_index(name, OPTIONS.get(name))
    return np.array([family_p(index, seed)[column] for seed in range(first, first + count)])


def calibration(datasets: int, slow: int, families: int, again: int, folder: Path, jobs: int) -> int:
    """Shares of p < 0.05 for all indices and schemes; 1 where one lies outside the band, the second time too."""
    rows: list[dict[str, object]] = []
    schemes = [(name, scheme) for name in INDICES.names() for scheme in SCHEMES]
    schemes = [cell for cell in schemes if cell[0] not in SLOW or cell[1] in ("free", "instructions")]
    schemes.sort(key=lambda cell: cell[0] in SLOW)
    cells: list[tuple[str, str, str, Callable[..., Array], tuple[str, str | int], int]]
    cells = [(name, scheme, "p", many, (name, scheme), slow if name in SLOW else datasets) for name, scheme in schemes]
    for name in ("debiased_cka", "mutual_knn"):
        for column, what in enumerate((SMALLEST, "p_max of 16 cells")):
            cells.insert(0, (name, "free", what, family, (name, column), families))

    def written() -> pd.DataFrame:
        table = pd.DataFrame(rows)
        table["standard_error"] = np.sqrt(table["share"] * (1 - table["share"]) / table["datasets"])
        table.to_csv(folder / "similarity-null.csv", index=False, float_format="%.4f", lineterminator="\n")
        return table

    tasks = (delayed(measure)(function, arguments, count) for *_, function, arguments, count in cells)
    with progress("calibration", len(cells)) as advance:
        results = Parallel(n_jobs=jobs, return_as="generator")(tasks)
        for (name, scheme, what, *_), (share, count) in zip(cells, results, strict=True):
            rows.append({"index": name, "scheme": scheme, "what": what, "share": share, "datasets": count})
            rows[-1]["first_share"] = share
            written()
            advance(note=f"{name}, {scheme}")
    outside = [place for place, row in enumerate(rows) if row["what"] != SMALLEST and not inside(row["share"])]
    tasks = (delayed(measure)(*cells[place][3:5], again * cells[place][5], FRESH) for place in outside if again)
    with progress("again", len(outside)) as advance:
        for place, (share, count) in zip(outside, Parallel(n_jobs=jobs, return_as="generator")(tasks), strict=False):
            rows[place] |= {"share": share, "datasets": count}
            written()
            advance(note=f"{rows[place]['index']}, {rows[place]['scheme']}")
    table = written()
    draw(table, folder / "similarity-null")
    print(table.to_string(index=False))
    valid = table[table["what"] != SMALLEST]
    left = valid[~valid["share"].map(inside)]
    print(f"{len(valid) - len(outside)} of {len(valid)} shares lay in {BAND} at first, {len(valid) - len(left)} now")
    return int(len(left) > 0)


def measure(
    function: Callable[..., Array], arguments: tuple[object, ...], count: int, first: int = 0
) -> tuple[float, int]:
    """Share of p < 0.05, and of how many."""
    p = function(*arguments, count, first)
    return float((p < 0.05).mean()), len(p)


def inside(share: object) -> bool:
    """Whether a share lies in the band that is asked for."""
    return BAND[0] <= float(str(share)) <= BAND[1]


def draw(table: pd.DataFrame, path: Path) -> None:
    """Shares with two standard errors, one row per index, one colour per scheme."""
    from mnprobe.analysis.figures.style import CONTEXT, GRAY, PALETTE, house_style, new_figure, save_figure

    singles = table[table["what"] == "p"]
    names = list(dict.fromkeys(singles["index"]))
    with house_style():
        height = 0.32 * (len(names) + 2) + 1.4
        figure = new_figure(7.6, height)
        axes = figure.add_axes((0.25, 1.1 / height, 0.72, 1 - 1.5 / height))
        axes.axvspan(*BAND, color=CONTEXT, alpha=0.6, linewidth=0)
        axes.axvline(5 / 101, color=GRAY, linewidth=1)
        schemes = zip(SCHEMES, ("blue", "vermillion", "green", "orange", "purple"), "osD^v", strict=True)
        for place, (scheme, colour, marker) in enumerate(schemes):
            rows = singles[singles["scheme"] == scheme]
            at = np.arange(len(rows)) + (place - 2) * 0.14
            axes.errorbar(
                rows["share"],
                at,
                xerr=2 * rows["standard_error"],
                fmt=marker,
                color=PALETTE[colour],
                markersize=4,
                linewidth=0.8,
                label=scheme,
            )
        best = table[table["what"] == "p_max of 16 cells"]
        axes.errorbar(
            best["share"],
            len(names) + np.arange(len(best)),
            xerr=2 * best["standard_error"],
            fmt="*",
            color="black",
            linewidth=0.8,
            label="p_max of 16 cells",
        )
        axes.set_yticks(np.arange(len(names) + len(best)), [*names, *(f"best of 16: {name}" for name in best["index"])])
        axes.invert_yaxis()
        axes.set_xlim(0, 0.1)
        axes.set_xlabel("share of p < 0.05 where the null holds (grey: 0.035 to 0.065; line: exact value)")
        axes.set_title("The permutation null of similarity indices", loc="left", fontweight="bold")
        figure.legend(loc="lower left", ncols=3, bbox_to_anchor=(0.05, 0.0))
        save_figure(figure, path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", action="store_true")
    parser.add_argument("--datasets", type=int, default=1000)
    parser.add_argument("--infonce-datasets", type=int, default=1000)
    parser.add_argument("--families", type=int, default=1000)
    parser.add_argument("--again", type=int, default=4, help="times as many datasets for what lay outside")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs")
    parser.add_argument("--jobs", type=int, default=1, help="processes of the calibration")
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--permutations", type=int, default=1000)
    parser.add_argument("--timed", type=int, default=25, help="permutations that are recomputed")
    given = parser.parse_args()
    if given.calibration:
        return calibration(given.datasets, given.infonce_datasets, given.families, given.again, given.out, given.jobs)
    return speed(given.items, given.permutations, given.timed)


if __name__ == "__main__":
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        if os.environ.get(name) != "1":  # read when NumPy loads, so the process starts again
            os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            os.execv(sys.executable, [sys.executable, *sys.argv])
    sys.exit(main())
