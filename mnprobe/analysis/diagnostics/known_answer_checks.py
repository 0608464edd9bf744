"""Diagnostics with a known answer: planted signal, chance, similarity indices."""

from collections.abc import Sequence
from dataclasses import replace
from math import ceil, exp, lgamma, log

import numpy as np
from numpy.typing import NDArray

from mnprobe.analysis.diagnostics.pipeline import (
    BROKEN,
    PLANTED_FIT,
    RARE,
    Check,
    Measured,
    NotPossible,
    Subject,
    measure,
)
from mnprobe.analysis.diagnostics.reference import Null, block_null, label_null, slow_chance
from mnprobe.analysis.diagnostics.synthetic import (
    WIDTH,
    apart,
    dealt,
    identity,
    noise,
    rotation,
    twin_of,
    with_features,
)
from mnprobe.core.errors import MnprobeError
from mnprobe.probe import hold_out
from mnprobe.probe.splits import Holdout

__all__ = [
    "ROTATED",
    "against_null",
    "chance_level",
    "collapsed",
    "identity_of_known",
    "identity_of_new",
    "indices_of_collapsed",
    "indices_of_noise",
    "indices_of_rotation",
    "random_features",
    "rotated_twin",
    "shuffled_pairs",
]

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
    """Whether the mean of the measurements is within the range of chance.

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
    """The chance level of every number, against plain counting."""
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
    """The same features carry no information about instructions that the heads never saw."""
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

    With few test instructions one seed is not enough: of 2, one order in 2 is right.
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


ROTATED = ("cka", "debiased_cka", "rbf_cka", "mutual_knn", "procrustes", "procrustes_distance", "rsa")
"""Indices that a rotation leaves at their best value, and that take little time."""

_ROWS = 100
_FEW = 199
_TOLERANCE = 1e-6


def indices_of_rotation(subject: Subject) -> Check:
    """The user's u against itself under a random rotation: the best value there is, and the smallest p."""
    x = _different_rows(subject.pair.u)
    if len(x) < 20:
        raise NotPossible(f"your u has {len(x)} different rows; 20 are needed")
    y = x @ rotation(x.shape[1], subject.rng("index rotation"))
    wrong: list[str] = []
    numbers: dict[str, float] = {}
    for name in ROTATED:
        index = subject.pipeline.index(name)
        best = index.about.high if index.about.higher_is_alike else index.about.low
        numbers[name] = float(index.score(x, y))
        if not abs(numbers[name] - best) < _TOLERANCE:
            wrong.append(f"{name} {numbers[name]:.4f} in place of {best:g}")
    index = subject.pipeline.index("debiased_cka")
    p = float(subject.pipeline.index_test(index, x, y, permutations=_FEW).p)
    if not abs(p - 1 / (_FEW + 1)) < 1e-9:
        wrong.append(f"p {p:.3f} in place of {1 / (_FEW + 1):.3f}")
    return Check(
        name="similarity indices of u and itself, rotated",
        did=f"{', '.join(ROTATED)} on {len(x)} different rows of your u and their rotation",
        expected=f"the best value of each, to six digits; p = 1/{_FEW + 1} by permutation",
        found="; ".join(wrong) if wrong else "the best value of each, the smallest p",
        status="FAIL" if wrong else "pass",
        meaning=f"{BROKEN}. `mnprobe compare` gives wrong values or wrong p" if wrong else "",
        numbers=numbers | {"p": p, "rows": len(x)},
    )


def indices_of_noise(subject: Subject) -> Check:
    """Debiased CKA of independent noise: within its own permutations, whose mean is 0."""
    n = min(_ROWS, len(subject.pair.items))
    if n < 8:
        raise NotPossible(f"{n} episodes; 8 are needed")
    x, y = subject.rng("index noise").standard_normal((2, n, WIDTH))
    index = subject.pipeline.index("debiased_cka")
    test = subject.pipeline.index_test(index, x, y, permutations=subject.permutations)
    low, high = float(test.null.min()), float(test.null.max())
    error = 6 * float(test.null.std()) / np.sqrt(len(test.null)) + 1e-9
    moved, center = high - low > 1e-9, float(test.null.mean())
    sound = moved and abs(center) <= error and low - 1e-12 <= test.value <= high + 1e-12
    return Check(
        name="similarity indices of random features",
        did=f"debiased CKA of {n} rows of random numbers, with {subject.permutations} permutations",
        expected=f"{0:.3f} ({low:.3f} to {high:.3f}); mean of the permutations 0 within {error:.4f}",
        found=f"{test.value:.3f}; mean of the permutations {center:.4f}",
        status="pass" if sound else "FAIL",
        meaning="" if sound else f"{BROKEN}. `mnprobe compare` sees likeness between features that share nothing",
        numbers={"value": float(test.value), "low": low, "high": high, "null_mean": center, "p": float(test.p)},
    )


def indices_of_collapsed(subject: Subject) -> Check:
    """Features without variation: an index must refuse them, or give the chance value."""
    n = max(20, min(_ROWS, len(subject.pair.items)))
    x, y = np.full((n, 4), 0.7), np.full((n, 4), -1.3)
    given: dict[str, float] = {}
    wrong = []
    for name in ROTATED:
        index = subject.pipeline.index(name)
        try:
            given[name] = float(index.score(x, y))
        except MnprobeError:
            continue
        chance = index.options()["k"] / (n - 1) if name == "mutual_knn" else float("nan")
        if not abs(given[name] - chance) < _TOLERANCE:
            wrong.append(f"{name} {given[name]:.3f}")
    return Check(
        name="similarity indices of collapsed embeddings",
        did=f"{', '.join(ROTATED)} on {n} equal rows",
        expected="no number: each says that it is not defined; mutual_knn, by expectation over ties, k / (N - 1)",
        found=f"numbers from {', '.join(wrong)}" if wrong else "as it should be",
        status="FAIL" if wrong else "pass",
        meaning=f"{BROKEN}. Models that collapse look alike to `mnprobe compare`" if wrong else "",
        numbers={name: value if np.isfinite(value) else None for name, value in given.items()},
    )


def _different_rows(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """The first rows that are all different, in float64, scaled to size 1."""
    rows = np.asarray(values, np.float64)
    rows = rows / max(float(np.abs(rows).max()), 1e-300)
    _, first = np.unique(np.round(rows, 4), axis=0, return_index=True)
    return rows[np.sort(first)[:_ROWS]]
