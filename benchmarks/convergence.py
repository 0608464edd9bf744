"""Recall@1 against the length of a fit: at the paper's rate, at 1e-3, and by the rule of the default.

    python benchmarks/convergence.py                       (planted features of the goal suite's sizes)
    python benchmarks/convergence.py --run runs/demo       (the features of a run, demonstrations and blanked ones)
    python benchmarks/convergence.py --out docs/convergence.csv

For each pair of features: fits of given lengths at constant rates without ridge, the default, and the default's
settings in five times as many steps. Recall is of test episodes, and the training loss of the last 50 steps; both are
means over seeds. One thread; CPU seconds a fit. The exit code is 1 if five times the steps change a recall by more
than 0.02. The run is only read.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mnprobe.core.names import PIXELS
from mnprobe.core.rundir import RunDir
from mnprobe.core.table import write_table
from mnprobe.probe import FitConfig, fit_heads, hold_out, join_stores, load_pair, recall_at_k
from mnprobe.probe.config import PRESETS
from mnprobe.probe.heads import principal_components

LIMIT = 0.02
LENGTHS = {1e-4: (400, 2000), 1e-3: (400, 1200)}


class Sides(NamedTuple):
    """Features (n, d) and labels of training and of test episodes."""

    name: str
    train: tuple[Any, Any, Any]
    test: tuple[Any, Any, Any]


def planted() -> Iterator[Sides]:
    """36 instructions with 12 + 12 episodes: two sides share six numbers, and have spectra of their own that fall."""
    for number, (width_e, strength, own) in enumerate(((64, 0.6, 0.4), (128, 0.5, 0.5), (64, 1.0, 0.3))):
        draw = np.random.default_rng(number)
        labels = np.tile(np.arange(36), 24)
        shared = strength * draw.normal(size=(36, 6))[labels] + own * draw.normal(size=(len(labels), 6))
        sides = []
        for width in (96, width_e):
            noise = draw.normal(size=(len(labels), width)) * (width / np.arange(1, width + 1)) ** 0.7
            turned = noise @ np.linalg.qr(draw.normal(size=(width, width)))[0]
            sides.append((shared @ draw.normal(size=(6, width)) / 6**0.5 + turned).astype(np.float32))
        u, e = sides
        yield Sides(f"planted {number}", (u[:432], e[:432], labels[:432]), (u[432:], e[432:], labels[432:]))


def stored(run: RunDir) -> Iterator[Sides]:
    """The pairs of a run's demonstrations, with the instruction and without, and of pixels."""
    pieces = [piece.path for piece in run.feature_files() if piece.source in ("demos", "demos-blank")]
    for item in join_stores(pieces)[0]:
        pair = load_pair(item.u, item.e)
        part = hold_out(pair.items, "episodes")
        u = pair.u
        if pair.origin_u.model == PIXELS:
            import torch

            u = principal_components(torch.from_numpy(u[part.train]), 32).of(torch.from_numpy(u)).numpy()
        origin = pair.origin_e
        name = f"{pair.origin_u.model} x {origin.model} {origin.source_name}, step {origin.step}"
        both = [(u[rows], pair.e[rows], pair.items.instructions[rows]) for rows in (part.train, part.test)]
        yield Sides(name, both[0], both[1])


def measured(sides: Sides, what: str, config: FitConfig, seeds: int) -> dict[str, Any]:
    """One row: the means over seeds."""
    start = time.process_time()
    fits = [fit_heads(*sides.train, config=config, seed=seed) for seed in range(seeds)]
    spent = (time.process_time() - start) / seeds
    u, e, labels = sides.test
    recalls = []
    for fit in fits:
        z_u, z_e = fit.heads(u, e)
        recalls.append(recall_at_k(z_u, z_e, labels, k=1).recall(1))
    return {
        "features": sides.name,
        "fit": what,
        "lr": config.lr,
        "ridge": config.ridge,
        "steps": float(np.mean([fit.steps_run for fit in fits])),
        "converged": float(np.mean([fit.converged for fit in fits])),
        "loss": float(np.mean([[record.loss for record in fit.history[-50:]] for fit in fits])),
        "recall@1": float(np.mean(recalls)),
        "sd_seeds": float(np.std(recalls, ddof=1)) if seeds > 1 else 0.0,
        "cpu_seconds": spent,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="run with features of both sides")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--ridge", type=float, default=FitConfig().ridge, help="of the default and five times its steps"
    )
    parser.add_argument("--match", default="", help="only features whose name has this text")
    parser.add_argument("--short", action="store_true", help="only the default and five times its steps")
    parser.add_argument("--out", type=Path, help="table to add the rows to")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    worst = 0.0
    for sides in stored(RunDir(given.run)) if given.run else planted():
        if given.match not in sides.name:
            continue
        for lr, lengths in {} if given.short else LENGTHS.items():
            for steps in lengths:
                config = FitConfig(**{**PRESETS["mirror"], "lr": lr, "steps": steps})
                rows.append(measured(sides, "constant rate", config, given.seeds))
        rows.append(measured(sides, "default", FitConfig(ridge=given.ridge), given.seeds))
        usual = rows[-1]
        rows.append(
            measured(sides, "five times", FitConfig(ridge=given.ridge, steps=5 * round(usual["steps"])), given.seeds)
        )
        change = rows[-1]["recall@1"] - usual["recall@1"]
        worst = max(worst, abs(change))
        print(f"{sides.name}: {usual['recall@1']:.3f} after {usual['steps']:.0f} steps, {change:+.3f} after five times")
        if given.out:
            old = [pd.read_csv(given.out)] if given.out.exists() else []
            old = [table[table["features"] != sides.name] for table in old]
            fresh = pd.DataFrame([row for row in rows if row["features"] == sides.name]).round(4)
            write_table(pd.concat([*old, fresh], ignore_index=True), given.out)
    print(pd.DataFrame(rows).round(3).to_string(index=False))
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
