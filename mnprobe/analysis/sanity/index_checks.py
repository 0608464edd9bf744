"""The similarity indices: one for a rotation, nothing for noise, nothing for collapsed features."""

import numpy as np
from numpy.typing import NDArray

from mnprobe.analysis.sanity.check import BROKEN, Check, NotPossible
from mnprobe.analysis.sanity.planted import WIDTH, rotation
from mnprobe.analysis.sanity.subject import Subject
from mnprobe.core.errors import MnprobeError

__all__ = ["ROTATED", "indices_of_collapsed", "indices_of_noise", "indices_of_rotation"]

ROTATED = ("cka", "debiased_cka", "rbf_cka", "mutual_knn", "procrustes", "procrustes_distance", "rsa")
"""Indices that a rotation leaves at their best value, and that take little time."""

_ROWS = 100
_FEW = 199
_TOLERANCE = 1e-6


def indices_of_rotation(subject: Subject) -> Check:
    """The user's u beside itself under a random rotation: the best value there is, and the smallest p."""
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
    moved, centre = high - low > 1e-9, float(test.null.mean())
    sound = moved and abs(centre) <= error and low - 1e-12 <= test.value <= high + 1e-12
    return Check(
        name="similarity indices of random features",
        did=f"debiased CKA of {n} rows of random numbers, with {subject.permutations} permutations",
        expected=f"{0:.3f} ({low:.3f} to {high:.3f}); mean of the permutations 0 within {error:.4f}",
        found=f"{test.value:.3f}; mean of the permutations {centre:.4f}",
        status="pass" if sound else "FAIL",
        meaning="" if sound else f"{BROKEN}. `mnprobe compare` sees likeness between features that share nothing",
        numbers={"value": float(test.value), "low": low, "high": high, "null_mean": centre, "p": float(test.p)},
    )


def indices_of_collapsed(subject: Subject) -> Check:
    """Features without any difference are like nothing: an index must refuse them, or give what chance gives."""
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
