"""Something is planted, so it must be found, and only where it can be: the instruction's identity, one's own twin."""

from dataclasses import replace
from math import ceil, lgamma, log

import numpy as np

from mnprobe.analysis.sanity.chance_checks import against_null
from mnprobe.analysis.sanity.check import BROKEN, Check, NotPossible
from mnprobe.analysis.sanity.measured import measure
from mnprobe.analysis.sanity.oracle import block_null
from mnprobe.analysis.sanity.planted import apart, identity, twin_of
from mnprobe.analysis.sanity.subject import PLANTED_FIT, RARE, Subject
from mnprobe.probe import hold_out

__all__ = ["identity_of_known", "identity_of_new", "rotated_twin"]

_NEAR = 0.8
_COMPONENTS = 16
_MOST, _LEAST = 20, 5
_FIT = replace(PLANTED_FIT, lr=3e-3, steps=400)


def identity_of_known(subject: Subject) -> Check:
    """Features that hold only the instruction's identity are retrieved perfectly among known instructions."""
    subject.require("episodes")
    values = [
        measure(
            subject.pipeline,
            identity(subject.pair, subject.rng("identity", seed), one_hot=bool(seed % 2)),
            "episodes",
            seed,
        ).value
        for seed in range(subject.seeds)
    ]
    worst = min(values)
    sound = worst >= 0.999
    return Check(
        name="id-only features, episodes held out",
        did=f"an arbitrary code per instruction on both sides (random, or one-hot), {subject.seeds} seeds",
        expected="R@1 1.000: an arbitrary id is enough when only episodes are held out",
        found=f"R@1 {worst:.3f} in the worst seed",
        status="pass" if sound else "FAIL",
        meaning="" if sound else f"{BROKEN}. It misses what is there: u and e are paired wrongly, or hits are lost",
        numbers={"value": worst, "low": 0.999, "high": 1.0, "seeds": len(values)},
    )


def identity_of_new(subject: Subject) -> Check:
    """The same features say nothing about instructions that the heads never saw."""
    subject.require("instructions")
    seeds = max(subject.seeds, _enough(subject))
    found = [
        measure(subject.pipeline, identity(subject.pair, subject.rng("identity", seed)), "instructions", seed)
        for seed in range(seeds)
    ]
    null = block_null([one.retrieved for one in found], subject.permutations, subject.rng("identity null"))
    did = f"a random code per instruction on both sides, {seeds} seeds; chance is 1 / instructions here"
    return against_null("id-only features, instructions held out", did, found, null)


def _enough(subject: Subject) -> int:
    """Seeds that make it unlikely (1 in 100) that one of the permutations is right about all instructions of all seeds.

    With few test instructions one seed says little: of 2, one order in 2 is right.
    """
    test = hold_out(subject.pair.items, "instructions", seed=0).test
    groups = len(np.unique(subject.pair.items.instructions[test]))
    return ceil(log(RARE * subject.permutations) / lgamma(groups + 1))


def rotated_twin(subject: Subject) -> Check:
    """The user's u finds itself under a random rotation, each episode its own group, among episodes that differ."""
    subject.require("episodes")
    pipeline, seeds = subject.pipeline, min(subject.seeds, 3)
    values, sizes = [], []
    for seed in range(seeds):
        train = len(hold_out(subject.pair.items, "episodes", seed=seed).train)
        pair = twin_of(subject.pair, subject.rng("rotation", seed), min(_COMPONENTS, train // 4))
        if pair.u.shape[1] < 2:
            raise NotPossible(
                f"{train} training episodes, and {pair.u.shape[1]} directions in which your u differs between "
                "episodes; at least 8 and 2 are needed (collapsed?)"
            )
        part = pipeline.hold_out(pair.items, "episodes", seed=seed)
        test = part.test[apart(pair.u[part.test], most=_MOST)]
        if len(test) < _LEAST:
            raise NotPossible(
                f"{len(test)} of {len(part.test)} test rows of your u differ clearly; {_LEAST} are needed"
            )
        fitted = pipeline.fit(
            pair.u[part.train], pair.e[part.train], pair.items.ids[part.train], config=_FIT, seed=seed
        )
        z_u, z_e = pipeline.transform(fitted.heads, pair.u[test], pair.e[test])
        values.append(pipeline.recall(z_u, z_e, pair.items.ids[test], k=(1,)).recall(1))
        sizes.append(len(test))
    value = float(np.mean(values))
    sound = value >= _NEAR
    return Check(
        name="u against itself, rotated",
        did=f"your u ({pair.u.shape[1]} whitened components) with itself under a random rotation, {seeds} seeds; "
        f"{min(sizes)} test episodes that differ clearly",
        expected=f"R@1 near 1.000, at least {_NEAR:.2f}",
        found=f"R@1 {value:.3f}",
        status="pass" if sound else "FAIL",
        meaning="" if sound else f"{BROKEN}. It cannot find what linear heads can find: pairs or rows are mixed up",
        numbers={"value": value, "low": _NEAR, "high": 1.0, "n_test": min(sizes), "seeds": seeds},
    )
