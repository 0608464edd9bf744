"""Nothing is planted, so nothing may be found: random features, features dealt to other episodes, collapsed ones."""

from collections.abc import Sequence
from math import exp, log

import numpy as np

from mnprobe.analysis.sanity.check import BROKEN, Check, NotPossible
from mnprobe.analysis.sanity.measured import Measured, measure
from mnprobe.analysis.sanity.oracle import Null, label_null, slow_chance
from mnprobe.analysis.sanity.planted import WIDTH, dealt, noise, with_features
from mnprobe.analysis.sanity.subject import RARE, Subject
from mnprobe.probe.splits import Holdout

__all__ = ["against_null", "chance_level", "collapsed", "random_features", "shuffled_pairs"]

_ABOVE = f"{BROKEN}. It finds what is not there: test episodes leak into the fit, or hits are counted that are none"
_BELOW = f"{BROKEN}. It finds less than chance: hits are lost, or the labels of the two sides do not belong together"


def random_features(subject: Subject, holdout: Holdout) -> Check:
    """Independent normal numbers on both sides must give chance."""
    subject.require(holdout)
    found = [
        measure(subject.pipeline, noise(subject.pair, subject.rng("noise", holdout, seed)), holdout, seed)
        for seed in range(subject.seeds)
    ]
    null = label_null([one.retrieved for one in found], subject.permutations, subject.rng("null", holdout))
    did = f"{WIDTH} random numbers per episode on both sides, {holdout} held out, {subject.seeds} seeds"
    return against_null(f"random features, {holdout} held out", did, found, null)


def shuffled_pairs(subject: Subject, holdout: Holdout) -> Check:
    """The user's own features, each e given to a random other episode, must give chance."""
    subject.require(holdout)
    found = [
        measure(subject.pipeline, dealt(subject.pair, subject.rng("dealt", holdout, seed)), holdout, seed)
        for seed in range(subject.seeds)
    ]
    null = label_null([one.retrieved for one in found], subject.permutations, subject.rng("dealt null", holdout))
    did = f"your u with your e dealt to random episodes, {holdout} held out, {subject.seeds} seeds"
    return against_null(f"shuffled pairs, {holdout} held out", did, found, null)


def against_null(name: str, did: str, found: Sequence[Measured], null: Null) -> Check:
    """Whether the mean of the measurements lies within what chance gives.

    Raises NotPossible where there are so few ways to deal labels that a perfect score could be among the permutations:
    such a check could not fail.
    """
    if null.log_count < log(RARE * len(null.values)) - 1e-9:
        raise NotPossible(
            f"{len(found[0].test)} test episodes in {len(found)} seeds are so few that labels can be dealt in only "
            f"{exp(null.log_count):.0f} ways: even a perfect score could be chance"
        )
    value = float(np.mean([one.value for one in found]))
    sound = null.holds(value)
    return Check(
        name=name,
        did=did,
        expected=f"chance, R@1 {null.mean:.3f} ({null.low:.3f} to {null.high:.3f})",
        found=f"R@1 {value:.3f}",
        status="pass" if sound else "FAIL",
        meaning="" if sound else (_ABOVE if value > null.mean else _BELOW),
        numbers={
            "value": value,
            "u_to_e": float(np.mean([one.forth for one in found])),
            "e_to_u": float(np.mean([one.back for one in found])),
            "chance": null.mean,
            "low": null.low,
            "high": null.high,
            "p": null.p(value),
            "n_test": len(found[0].test),
            "n_train": len(found[0].train),
            "seeds": len(found),
        },
    )


def collapsed(subject: Subject) -> Check:
    """All rows equal on both sides: every item ties with every other, so the expectation is chance exactly."""
    subject.require("episodes")
    n = len(subject.pair.items)
    pair = with_features(subject.pair, np.full((n, WIDTH), 0.7), np.full((n, WIDTH), -1.3))
    found = measure(subject.pipeline, pair, "episodes", 0)
    one, five = (slow_chance(found.groups.tolist(), k) for k in (1, 5))
    numbers = {
        "u_to_e": found.forth,
        "e_to_u": found.back,
        "recall_at_5": found.recall_5,
        "chance": one,
        "chance_at_5": five,
        "tied_share": found.tied,
        "n_test": len(found.test),
    }
    sound = (
        max(abs(found.forth - one), abs(found.back - one), abs(found.recall_5 - five)) < 1e-6 and found.tied > 1 - 1e-6
    )
    return Check(
        name="collapsed embeddings",
        did="the same numbers for every episode, episodes held out",
        expected=f"chance exactly: R@1 {one:.6f} both ways, R@5 {five:.6f}, all queries tied",
        found=f"R@1 {found.forth:.6f} and {found.back:.6f}, R@5 {found.recall_5:.6f}, {found.tied:.0%} tied",
        status="pass" if sound else "FAIL",
        meaning="" if sound else f"{BROKEN}. Ties are not counted by expectation: models that collapse look aligned",
        numbers=numbers,
    )


def chance_level(subject: Subject) -> Check:
    """The chance level that stands beside every number, against plain counting."""
    labels = subject.pair.items.instructions
    uneven = np.concatenate([labels, np.repeat(labels[:1], len(labels))])
    worst, shown = 0.0, (0.0, 0.0)
    for case in (labels, uneven):
        for k in (1, 5):
            found, exact = float(subject.pipeline.chance(case, k=k)), slow_chance(case.tolist(), k)
            if abs(found - exact) >= worst:
                worst, shown = abs(found - exact), (found, exact)
    sound = worst < 1e-9
    return Check(
        name="chance level",
        did="chance of R@1 and R@5 on your instructions, as they are and made uneven, counted by another way",
        expected="equal to nine digits",
        found="equal" if sound else f"{shown[0]:.6f} in place of {shown[1]:.6f}",
        status="pass" if sound else "FAIL",
        meaning="" if sound else f"{BROKEN}. The chance level beside every score is wrong",
        numbers={"largest_difference": worst},
    )
