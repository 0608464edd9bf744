"""Something is planted, so it must be found, and only where it can be: the instruction's identity, one's own twin."""

from math import ceil, lgamma, log

import numpy as np

from mnprobe.analysis.sanity.chance_checks import against_null
from mnprobe.analysis.sanity.check import BROKEN, Check, NotPossible
from mnprobe.analysis.sanity.measured import measure
from mnprobe.analysis.sanity.oracle import block_null, self_ceiling
from mnprobe.analysis.sanity.planted import identity, twin_of
from mnprobe.analysis.sanity.subject import RARE, Subject
from mnprobe.probe import hold_out

__all__ = ["identity_of_known", "identity_of_new", "rotated_twin"]

_NEAR = 0.95
_COMPONENTS = 16


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
    """The user's u finds itself under a random rotation, each episode its own group."""
    subject.require("episodes")
    seeds = min(subject.seeds, 3)
    ratios, values, ceilings = [], [], []
    for seed in range(seeds):
        train = len(hold_out(subject.pair.items, "episodes", seed=seed).train)
        components = min(_COMPONENTS, train // 4)
        if components < 2:
            raise NotPossible(f"{train} training episodes; at least 8 are needed to learn a rotation")
        pair = twin_of(subject.pair, subject.rng("rotation", seed), components)
        if pair.u.shape[1] < 2:
            raise NotPossible("your u has fewer than 2 directions in which episodes differ (collapsed?)")
        found = measure(subject.pipeline, pair, "episodes", seed, grouping="episode")
        values.append(found.value)
        ceilings.append(self_ceiling(pair.u[found.test]))
        ratios.append(values[-1] / ceilings[-1])
    worst = int(np.argmin(ratios))
    sound = ratios[worst] >= _NEAR
    return Check(
        name="u against itself, rotated",
        did=f"your u ({pair.u.shape[1]} whitened components) with itself under a random rotation, {seeds} seeds",
        expected=f"R@1 at least {_NEAR * ceilings[worst]:.3f} (of {ceilings[worst]:.3f} that equal rows allow)",
        found=f"R@1 {values[worst]:.3f} in the worst seed",
        status="pass" if sound else "FAIL",
        meaning="" if sound else f"{BROKEN}. It cannot find what linear heads can find: pairs or rows are mixed up",
        numbers={"value": values[worst], "low": _NEAR * ceilings[worst], "high": ceilings[worst], "seeds": seeds},
    )
