"""Diagnostics of the user's features: joins, independence, copies, counts."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from mnprobe.analysis.audit.leakage import twins
from mnprobe.analysis.diagnostics.pipeline import BROKEN, PLANTED_FIT, Check, NotPossible, Subject, measure
from mnprobe.analysis.diagnostics.reference import slow_chance
from mnprobe.analysis.diagnostics.synthetic import identity, noise, with_features
from mnprobe.core.errors import TooFewSamples
from mnprobe.features import open_features, write_features
from mnprobe.probe import AlignConfig, FeaturePair, FitConfig, hold_out, load_heads
from mnprobe.probe.splits import Holdout, Items

__all__ = [
    "copies_found",
    "heads_blind_to_test",
    "joined_by_id",
    "own_copies",
    "own_counts",
    "partitions_apart",
    "rows_alone",
    "small_sets_refused",
    "untrained_beside",
]

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
    compared = "the same heads" if same else "other heads"
    return Check(
        name="heads blind to test episodes",
        did="`align` on an arbitrary code per instruction, and again with other features for all test episodes",
        expected=f"the same heads bit by bit; in the table R@1 1.000, chance {exact:.3f}",
        found=f"{compared}; in the table R@1 {value:.3f}, chance {chance:.3f}",
        status="pass" if same and right else "FAIL",
        meaning="" if same and right else (_LEAK if not same else f"{BROKEN}. Its table is not what was measured"),
        numbers={"same_heads": same, "value": value, "table_chance": chance, "chance": exact},
    )


_LEAK = f"{BROKEN}. Test episodes reach the fit, as when features are standardised by test statistics"


def _aligned(subject: Subject, pair: FeaturePair) -> tuple[pd.DataFrame, dict[str, Tensor]]:
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
    """The largest difference relative to the size of the first; infinite where there is no number."""
    size = max(float(np.abs(one).max()), 1e-12)
    worst = float(np.abs(np.asarray(one) - np.asarray(other)).max()) / size
    return worst if np.isfinite(worst) else float("inf")


_COPIES = 4
_FEW_GROUPS = 8
_FEW_TESTS = 30


def copies_found(subject: Subject) -> Check:
    """Copies of training rows, planted among the test rows of noise, are found, exact and near ones."""
    subject.require("episodes")
    rng = subject.rng("copies")
    pair = noise(subject.pair, rng)
    part = hold_out(pair.items, "episodes", seed=0)
    count = min(_COPIES, len(part.train), len(part.test) // 2)
    if count < 1:
        raise NotPossible(f"{len(part.test)} test episodes; 2 are needed")
    test = pair.u[part.test].copy()
    test[:count] = pair.u[part.train][:count]
    near = pair.u[part.train][:count] + 1e-4 * rng.standard_normal((count, test.shape[1]))
    test[count : 2 * count] = near.astype(np.float32)
    equal, close = subject.pipeline.twins(pair.u[part.train], test)
    sound = (equal, close) == (count, 2 * count)
    return Check(
        name="copies are noticed",
        did=f"{count} exact and {count} near copies of training rows put among the test rows of noise",
        expected=f"{count} equal, {2 * count} equal or near",
        found=f"{equal} equal, {close} equal or near",
        status="pass" if sound else "FAIL",
        meaning="" if sound else f"{BROKEN}. `mnprobe audit` does not see that test episodes were trained on",
        numbers={"equal": equal, "close": close, "planted": count},
    )


def own_copies(subject: Subject) -> Check:
    """How many of the user's test rows have a copy among the training rows."""
    subject.require("episodes")
    pair = subject.pair
    part = hold_out(pair.items, "episodes", seed=0)
    counts = {side: twins(x[part.train], x[part.test]) for side, x in (("u", pair.u), ("e", pair.e))}
    several = [side for side, (_, close) in counts.items() if close]
    trained = {"u": pair.u[part.train], "e": pair.e[part.train]}
    blind = [side for side, x in trained.items() if len(x) > 1 and not (x != x[0]).any()]
    counted = "; ".join(f"{side}: {equal} equal, {close} equal or near" for side, (equal, close) in counts.items())
    counted += "".join(f"; {side}: all training rows are the same" for side in blind)
    copied = (
        f"Test rows of {' and '.join(several)} repeat training rows: the same recording under two names, or a model "
        "that gives episodes of one instruction one and the same feature. Then holding out episodes tests nothing new"
    )
    collapsed = f"{' and '.join(blind)} cannot tell one episode from another: a model that has collapsed"
    meaning = ". ".join([copied] * bool(several) + [collapsed] * bool(blind))
    return Check(
        name="copies in your features",
        did=f"your {len(part.test)} test rows compared with your {len(part.train)} training rows, episodes held out",
        expected="no test row equal to a training row, or far nearer to one than training rows are to each other",
        found=counted,
        status="look" if several or blind else "pass",
        meaning=meaning,
        numbers={
            f"{kind}_{side}": n
            for side, both in counts.items()
            for kind, n in zip(("equal", "close"), both, strict=True)
        },
    )


def small_sets_refused(subject: Subject) -> Check:
    """Episodes that are too few are refused with the numbers, and not measured."""
    single = Items.of(ids=["a", "b", "c"], instructions=["open", "close", "push"])
    tries: dict[str, Callable[[], object]] = {
        "three instructions of one episode": lambda: subject.pipeline.hold_out(single, "episodes", seed=0),
        "three instructions to be held out": lambda: subject.pipeline.hold_out(single, "instructions", seed=0),
        "a fit on one episode": lambda: subject.pipeline.fit(
            np.ones((1, 2), np.float32), np.ones((1, 2), np.float32), ["open"], config=FitConfig(dim=2, steps=1)
        ),
    }
    passed = []
    for what, attempt in tries.items():
        try:
            attempt()
        except TooFewSamples:
            continue
        passed.append(what)
    return Check(
        name="too few samples",
        did="; ".join(tries),
        expected="each is refused with the numbers",
        found=f"measured all the same: {'; '.join(passed)}" if passed else "each is refused",
        status="FAIL" if passed else "pass",
        meaning=f"{BROKEN}. It gives numbers that so few episodes cannot carry" if passed else "",
        numbers={"refused": len(tries) - len(passed), "tried": len(tries)},
    )


def own_counts(subject: Subject, holdout: Holdout) -> Check:
    """Whether the user's own test set is large enough."""
    subject.require(holdout)
    part = hold_out(subject.pair.items, holdout, seed=0)
    groups = len(np.unique(subject.pair.items.instructions[part.test]))
    few = groups < _FEW_GROUPS or len(part.test) < _FEW_TESTS
    sizes = f"{len(part.test)} test episodes of {groups} instructions; {len(part.train)} training episodes"
    meaning = (
        "Intervals over instructions will be wide and hardly to be relied on: collect more instructions rather than "
        "more episodes of the same"
    )
    return Check(
        name=f"sample sizes, {holdout} held out",
        did="your episodes counted",
        expected=f"at least {_FEW_TESTS} test episodes of at least {_FEW_GROUPS} instructions",
        found=sizes,
        status="look" if few else "pass",
        meaning=meaning if few else "",
        numbers={"n_test": len(part.test), "n_train": len(part.train), "groups": groups},
    )


def untrained_beside(subject: Subject, holdout: Holdout) -> Check:
    """The user's features measured as they are, and those of the same models before training."""
    subject.require(holdout)
    own, chance = _mean(subject, subject.pair, holdout)
    numbers = {"value": own, "chance": chance}
    found = f"R@1 {own:.3f}"
    meaning = ""
    if subject.untrained is not None:
        before, _ = _mean(subject, subject.untrained, holdout)
        numbers["untrained"] = before
        found += f", untrained {before:.3f}"
        if own > chance and before - chance > 0.5 * (own - chance):
            meaning = (
                "Untrained weights reach more than half of it: the score comes from what the models are given "
                "(instruction, scene) rather than from what they learnt. Look at `mnprobe audit`"
            )
    else:
        found += "; no features of untrained weights for these episodes"
    seeds = min(subject.seeds, 3)
    return Check(
        name=f"your features, {holdout} held out",
        did=f"fitted as `mnprobe align` does by default, {seeds} seeds; untrained weights (step 0) beside",
        expected=f"no rule; chance is {chance:.3f}",
        found=found,
        status="reported",
        meaning=meaning,
        numbers=numbers,
    )


def _mean(subject: Subject, pair: FeaturePair, holdout: Holdout) -> tuple[float, float]:
    found = [measure(subject.pipeline, pair, holdout, seed, fit=FitConfig()) for seed in range(min(subject.seeds, 3))]
    return float(np.mean([one.value for one in found])), float(np.mean([one.chance for one in found]))


def joined_by_id(subject: Subject) -> Check:
    """Two written stores whose rows are in different orders, and whose features tell which episode they belong to."""
    items = subject.pair.items
    n = len(items)
    rng = subject.rng("join")
    marks = rng.standard_normal((n, 3)).astype(np.float32)
    orders = {"u": rng.permutation(n), "e": rng.permutation(n)}
    with tempfile.TemporaryDirectory(prefix="mnprobe-doctor-") as folder:
        paths = {}
        for layer, side in (("u", "understanding"), ("e", "execution")):
            rows = orders[layer]
            columns = {"id": items.ids, "instruction": items.instructions, "task": items.tasks}
            paths[layer] = write_features(
                Path(folder) / f"{layer}.h5",
                layers={layer: marks[rows]},
                episodes={name: values[rows].tolist() for name, values in columns.items()},
                model=f"planted-{layer}",
                side=side,
            )
        with open_features(paths["u"]) as file_u, open_features(paths["e"]) as file_e:
            joined = subject.pipeline.join(file_u, file_e)
    place = {str(name): row for row, name in enumerate(items.ids)}
    rows = np.array([place[str(name)] for name in joined.items.ids])
    wrong_u = int((joined.u != marks[rows]).any(axis=1).sum())
    wrong_e = int((joined.e != marks[rows]).any(axis=1).sum())
    lost = n - len(rows)
    sound = not (wrong_u or wrong_e or lost)
    return Check(
        name="stores joined by episode",
        did=f"two stores of your {n} episodes written in different orders, and joined",
        expected="every row beside its own episode",
        found="every row is" if sound else f"{wrong_u} rows of u and {wrong_e} of e beside another, {lost} lost",
        status="pass" if sound else "FAIL",
        meaning="" if sound else f"{BROKEN}. u and e of different episodes are compared",
        numbers={"episodes": n, "wrong_u": wrong_u, "wrong_e": wrong_e, "lost": lost},
    )
