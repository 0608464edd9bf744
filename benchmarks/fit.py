"""One fit of two linear heads: through Gram matrices beside the direct form (autograd), in one run on one machine.

    python benchmarks/fit.py                              (210 episodes, widths 64 and 64, heads to 1,024, 400 steps)
    python benchmarks/fit.py --width 128 --items 1000

Both take turns, each in one thread; CPU seconds count, of the best round. The ratio must be at most 0.5 and both must
end at the same loss, else the exit code is 1. Then a pair is measured as `mnprobe align` does it (both holdouts, all
seeds and controls), in this process: CPU seconds per pair, and per fit with everything around it.
"""

import argparse
import os
import sys
import time

import numpy as np

from mnprobe.probe import AlignConfig, FitConfig, align, fit_heads, pair_arrays
from mnprobe.probe.fitting import Form

LIMIT = 0.5


def episodes(items: int, width: int, instructions: int = 14) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    """Two sides that agree a little: u, e, instructions, partitions (70 % train)."""
    draw = np.random.default_rng(0)
    labels = np.arange(items) % instructions
    latent = draw.normal(size=(instructions, 8))[labels]
    u, e = (
        (latent @ draw.normal(size=(8, width)) + 2 * draw.normal(size=(items, width))).astype(np.float32)
        for _ in range(2)
    )
    return u, e, [f"do {label}" for label in labels], ["train" if i < 0.7 * items else "test" for i in range(items)]


def seconds(u: np.ndarray, e: np.ndarray, labels: list[str], form: Form, steps: int) -> tuple[float, float]:
    """CPU seconds of one fit, and its last loss."""
    start = time.process_time()
    found = fit_heads(u, e, labels, config=FitConfig(steps=steps), form=form)
    return time.process_time() - start, found.history[-1].loss


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=300, help="episodes, of which 70 % train")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    u, e, labels, partitions = episodes(given.items, given.width)
    train = np.array(partitions) == "train"
    own = [label for label, keep in zip(labels, train, strict=True) if keep]
    for form in ("direct", "gram"):
        seconds(u[train], e[train], own, form, 5)  # libraries load their buffers
    rounds = [
        (seconds(u[train], e[train], own, "direct", given.steps), seconds(u[train], e[train], own, "gram", given.steps))
        for _ in range(given.rounds)
    ]
    direct, gram = (min(one[k][0] for one in rounds) for k in (0, 1))
    losses = [rounds[0][k][1] for k in (0, 1)]
    print(f"{int(train.sum())} training episodes, widths {given.width}, heads to 1024, {given.steps} steps, one thread")
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores at the end")
    print(f"direct form   {direct:7.3f} CPU-s per fit, last loss {losses[0]:.5f}")
    print(f"Gram form     {gram:7.3f} CPU-s per fit, last loss {losses[1]:.5f}")
    print(f"Gram / direct {gram / direct:7.3f}   (limit {LIMIT})")
    pair = pair_arrays(u, e, labels, partitions=partitions, tasks=[f"task {label[-1]}" for label in labels])
    start = time.process_time()
    table = align(pair, AlignConfig(fit=FitConfig(steps=given.steps)))
    whole = time.process_time() - start
    fits = len(table[(table["metric"] == "recall@1") & (table["direction"] == "mean") & (table["statistic"] == "seed")])
    print(f"one pair      {whole:7.3f} CPU-s, {fits} fits, {whole / fits:.3f} per fit with scoring and intervals")
    return int(gram > LIMIT * direct or abs(losses[0] - losses[1]) > 1e-3 * abs(losses[0]))


if __name__ == "__main__":
    sys.exit(main())
