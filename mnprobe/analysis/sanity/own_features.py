"""What the user's own features are like: copies, counts, and untrained weights beside trained ones."""

from collections.abc import Callable

import numpy as np

from mnprobe.analysis.leakage import twins
from mnprobe.analysis.sanity.check import BROKEN, Check, NotPossible
from mnprobe.analysis.sanity.measured import measure
from mnprobe.analysis.sanity.planted import noise
from mnprobe.analysis.sanity.subject import Subject
from mnprobe.core.errors import TooFewSamples
from mnprobe.probe import FitConfig, Pair, hold_out
from mnprobe.probe.items import Items
from mnprobe.probe.splits import Holdout

__all__ = ["copies_found", "own_copies", "own_counts", "small_sets_refused", "untrained_beside"]

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
    told = "; ".join(f"{side}: {equal} equal, {close} equal or near" for side, (equal, close) in counts.items())
    told += "".join(f"; {side}: all training rows are the same" for side in blind)
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
        found=told,
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
    """Whether the user's own test set is large enough to say much."""
    subject.require(holdout)
    part = hold_out(subject.pair.items, holdout, seed=0)
    groups = len(np.unique(subject.pair.items.instructions[part.test]))
    few = groups < _FEW_GROUPS or len(part.test) < _FEW_TESTS
    told = f"{len(part.test)} test episodes of {groups} instructions; {len(part.train)} training episodes"
    meaning = (
        "Intervals over instructions will be wide and hardly to be relied on: collect more instructions rather than "
        "more episodes of the same"
    )
    return Check(
        name=f"sample sizes, {holdout} held out",
        did="your episodes counted",
        expected=f"at least {_FEW_TESTS} test episodes of at least {_FEW_GROUPS} instructions",
        found=told,
        status="look" if few else "pass",
        meaning=meaning if few else "",
        numbers={"n_test": len(part.test), "n_train": len(part.train), "groups": groups},
    )


def untrained_beside(subject: Subject, holdout: Holdout) -> Check:
    """The user's features measured as they are, and beside them those of the same models before training."""
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


def _mean(subject: Subject, pair: Pair, holdout: Holdout) -> tuple[float, float]:
    found = [measure(subject.pipeline, pair, holdout, seed, fit=FitConfig()) for seed in range(min(subject.seeds, 3))]
    return float(np.mean([one.value for one in found])), float(np.mean([one.chance for one in found]))
