"""Similarity indices: is the cached permutation null fast, and are its p values right where nothing is there?

    python benchmarks/similarity.py                     (speed: cached null beside recomputing, N = 500, K = 1,000)
    python benchmarks/similarity.py --calibration       (simulated null datasets; writes docs/similarity-null.csv, .png)
    python benchmarks/similarity.py --calibration --datasets 2000 --slow-datasets 1000 --out /tmp

Speed: the null sample from cached matrices beside the same permutations with everything computed again from the
features, in one process with one thread; both samples must be equal, and the cached one at least 8 times as fast for
debiased CKA and mutual nearest neighbours, else the exit code is 1. Recomputing is timed on a share of them.

Calibration: for every index and every scheme, datasets in which the scheme's null hypothesis holds: 60 episodes of
instructions of unequal size, x and y independent of each other given what the scheme keeps (shared tasks or shared
instructions), with instruction effects of their own where whole instructions are exchanged. The share of p < 0.05 must
lie in [0.035, 0.065]; K is 100, so that its exact value is 5 / 101. The share for the smallest p of a family of
16 cells, and for its calibrated p_max, is measured likewise. The InfoNCE bound, whose heads are fitted anew for every
dataset, is taken through two of the schemes only.
"""

import argparse
import os
import sys
import time
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
SLOW = ("ridge_cca", "infonce")


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


def many(name: str, scheme: str, count: int) -> Array:
    """p of `count` null datasets for which the index is defined."""
    index = make_index(name, OPTIONS.get(name))
    p = np.array([one_p(index, scheme, seed) for seed in range(count)])
    return np.asarray(p[np.isfinite(p)])


def calibration(datasets: int, slow: int, families: int, folder: Path, jobs: int) -> int:
    """Shares of p < 0.05 for all indices and schemes; 1 where one lies outside the band."""
    rows = []
    cells = [(name, scheme) for name in INDICES.names() for scheme in SCHEMES]
    cells = [cell for cell in cells if cell[0] != "infonce" or cell[1] in ("free", "instructions")]
    tasks = (delayed(many)(name, scheme, slow if name in SLOW else datasets) for name, scheme in cells)
    with progress("calibration", len(cells)) as advance:
        results = Parallel(n_jobs=jobs, return_as="generator")(tasks)
        for (name, scheme), p in zip(cells, results, strict=True):
            rows.append({"index": name, "scheme": scheme, "what": "p", "share": (p < 0.05).mean(), "datasets": len(p)})
            advance(note=f"{name}, {scheme}")
    for name in ("debiased_cka", "mutual_knn"):
        index = make_index(name, OPTIONS.get(name))
        found = np.array([family_p(index, seed) for seed in range(families)])
        for column, what in enumerate(("smallest p of 16 cells", "p_max of 16 cells")):
            share = (found[:, column] < 0.05).mean()
            rows.append({"index": name, "scheme": "free", "what": what, "share": share, "datasets": families})
    table = pd.DataFrame(rows)
    table["standard_error"] = np.sqrt(table["share"] * (1 - table["share"]) / table["datasets"])
    table.to_csv(folder / "similarity-null.csv", index=False, float_format="%.4f", lineterminator="\n")
    draw(table, folder / "similarity-null.png")
    print(table.to_string(index=False))
    valid = table[table["what"] != "smallest p of 16 cells"]
    outside = valid[(valid["share"] < BAND[0]) | (valid["share"] > BAND[1])]
    print(f"{len(valid) - len(outside)} of {len(valid)} shares lie in {BAND}")
    return int(len(outside) > 0)


def draw(table: pd.DataFrame, path: Path) -> None:
    """Shares with two standard errors, one row per index, one colour per scheme."""
    from mnprobe.analysis.figures import CONTEXT, GREY, PALETTE, house_style, new_figure, save_png

    singles = table[table["what"] == "p"]
    names = list(dict.fromkeys(singles["index"]))
    with house_style():
        figure = new_figure(7.2, 0.32 * (len(names) + 2) + 1.5)
        axes = figure.add_axes((0.2, 0.2, 0.77, 0.7))
        axes.axvspan(*BAND, color=CONTEXT, alpha=0.6, linewidth=0)
        axes.axvline(5 / 101, color=GREY, linewidth=1)
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
        save_png(figure, path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", action="store_true")
    parser.add_argument("--datasets", type=int, default=2000)
    parser.add_argument("--slow-datasets", type=int, default=1000)
    parser.add_argument("--families", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs")
    parser.add_argument("--jobs", type=int, default=1, help="processes of the calibration")
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--permutations", type=int, default=1000)
    parser.add_argument("--timed", type=int, default=25, help="permutations that are recomputed")
    given = parser.parse_args()
    if given.calibration:
        return calibration(given.datasets, given.slow_datasets, given.families, given.out, given.jobs)
    return speed(given.items, given.permutations, given.timed)


if __name__ == "__main__":
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        if os.environ.get(name) != "1":  # read when NumPy loads, so the process starts again
            os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            os.execv(sys.executable, [sys.executable, *sys.argv])
    sys.exit(main())
