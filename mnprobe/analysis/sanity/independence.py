"""Nothing about test episodes may reach the fit, and no test episode may depend on another."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from mnprobe.analysis.sanity.check import BROKEN, Check, NotPossible
from mnprobe.analysis.sanity.oracle import slow_chance
from mnprobe.analysis.sanity.planted import identity, noise, with_features
from mnprobe.analysis.sanity.subject import PLANTED_FIT, Subject
from mnprobe.probe import AlignConfig, Pair, hold_out, load_heads
from mnprobe.probe.splits import Holdout

__all__ = ["heads_blind_to_test", "partitions_apart", "rows_alone"]

_TRIES = 5


def partitions_apart(subject: Subject) -> Check:
    """Train and test share no episode, and no instruction where instructions are held out."""
    items = subject.pair.items
    holdouts: tuple[Holdout, ...] = tuple(name for name in ("episodes", "instructions") if _possible(subject, name))
    if not holdouts:
        subject.require("episodes")
    shared = dict.fromkeys(holdouts, 0)
    for holdout in holdouts:
        for seed in range(_TRIES):
            part = subject.pipeline.hold_out(items, holdout, seed=seed)
            for labels in (items.ids, items.instructions)[: 1 if holdout == "episodes" else 2]:
                shared[holdout] += len(set(labels[part.train].tolist()) & set(labels[part.test].tolist()))
    sound = not any(shared.values())
    found = ", ".join(f"{count} shared with {name} held out" for name, count in shared.items())
    return Check(
        name="train and test apart",
        did=f"your episodes split by {_TRIES} seeds ({' and '.join(holdouts)} held out), ids and instructions compared",
        expected="nothing shared",
        found="nothing shared" if sound else found,
        status="pass" if sound else "FAIL",
        meaning="" if sound else f"{BROKEN}. What is tested was trained on",
        numbers={f"shared_{name}": count for name, count in shared.items()},
    )


def rows_alone(subject: Subject) -> Check:
    """An episode is mapped to the same place whichever episodes are mapped with it."""
    subject.require("episodes")
    rng = subject.rng("alone")
    plain = noise(subject.pair, rng)
    scale = np.exp(rng.standard_normal(plain.u.shape[1]))
    pair = with_features(plain, plain.u * scale + 3 * scale, plain.e * scale - 2 * scale)
    part = subject.pipeline.hold_out(pair.items, "episodes", seed=0)
    labels = pair.items.instructions[part.train]
    heads = subject.pipeline.fit(pair.u[part.train], pair.e[part.train], labels, config=PLANTED_FIT, seed=0).heads
    u, e = pair.u[part.test], pair.e[part.test]
    together = subject.pipeline.transform(heads, u, e)
    few = max(1, len(u) // 3)
    alone = subject.pipeline.transform(heads, u[:few], e[:few])
    worst = max(_difference(one[:few], other) for one, other in zip(together, alone, strict=True))
    sound = worst < 1e-3
    return Check(
        name="test episodes mapped alone",
        did=f"z of {few} test episodes, mapped by themselves and among all {len(u)}",
        expected="the same: means and deviations are those of the training episodes",
        found="the same" if sound else f"differs by {worst:.3g} of its size",
        status="pass" if sound else "FAIL",
        meaning="" if sound else f"{BROKEN}. Test episodes are standardised by test statistics: scores depend on them",
        numbers={"largest_difference": worst if np.isfinite(worst) else None},
    )


def heads_blind_to_test(subject: Subject) -> Check:
    """`align` fits the same heads, bit by bit, when all test episodes have other features; its table is right."""
    subject.require("episodes")
    rng = subject.rng("blind")
    pair = identity(subject.pair, rng)
    part = hold_out(pair.items, "episodes", seed=0)
    u, e = pair.u.copy(), pair.e.copy()
    u[part.test] = 100 * rng.standard_normal((len(part.test), u.shape[1])) + 50
    e[part.test] = 100 * rng.standard_normal((len(part.test), e.shape[1])) - 50
    table, heads = _aligned(subject, pair)
    _, others = _aligned(subject, with_features(pair, u, e))
    same = heads.keys() == others.keys() and all(bool((heads[name] == others[name]).all()) for name in heads)
    row = table[(table["metric"] == "recall@1") & (table["direction"] == "mean") & (table["statistic"] == "mean")]
    value, chance = float(row["value"].iloc[0]), float(row["chance"].iloc[0])
    exact = slow_chance(pair.items.instructions[part.test].tolist())
    right = value >= 0.999 and abs(chance - exact) < 1e-9
    told = "the same heads" if same else "other heads"
    return Check(
        name="heads blind to test episodes",
        did="`align` on an arbitrary code per instruction, and again with other features for all test episodes",
        expected=f"the same heads bit by bit; in the table R@1 1.000, chance {exact:.3f}",
        found=f"{told}; in the table R@1 {value:.3f}, chance {chance:.3f}",
        status="pass" if same and right else "FAIL",
        meaning="" if same and right else (_LEAK if not same else f"{BROKEN}. Its table is not what was measured"),
        numbers={"same_heads": same, "value": value, "table_chance": chance, "chance": exact},
    )


_LEAK = f"{BROKEN}. Test episodes reach the fit, as when features are standardised by test statistics"


def _aligned(subject: Subject, pair: Pair) -> tuple[pd.DataFrame, dict[str, Tensor]]:
    config = AlignConfig(fit=PLANTED_FIT, holdout="episodes", shuffled=False, seeds=1, splits=1, k=(1,), bound_draws=1)
    with tempfile.TemporaryDirectory(prefix="mnprobe-doctor-") as folder:
        table = subject.pipeline.align(pair, config, heads=Path(folder))
        (file,) = Path(folder).glob("*.safetensors")
        return table, dict(load_heads(file).state_dict())


def _possible(subject: Subject, holdout: Holdout) -> bool:
    try:
        subject.require(holdout)
    except NotPossible:
        return False
    return True


def _difference(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """The largest difference beside the size of the first; infinite where there is no number."""
    size = max(float(np.abs(one).max()), 1e-12)
    worst = float(np.abs(np.asarray(one) - np.asarray(other)).max()) / size
    return worst if np.isfinite(worst) else float("inf")
