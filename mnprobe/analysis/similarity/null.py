"""A permutation test of one index: its value, the null sample from cached matrices, p and the calibrated level."""

from dataclasses import dataclass

import numpy as np

from mnprobe.analysis.similarity.arrays import Rows
from mnprobe.analysis.similarity.index import Index
from mnprobe.analysis.similarity.memory import memory_told
from mnprobe.analysis.similarity.permutations import exchange
from mnprobe.core.arrays import Array, as_array
from mnprobe.core.errors import ConfigError, FeatureError
from mnprobe.core.labels import Labels

__all__ = ["SimilarityTest", "calibrated_level", "p_value", "similarity_test"]

LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class SimilarityTest:
    """A value beside its null.

    Attributes:
        value: the index.
        null: (K,) its values under permutations.
        p: (b + 1) / (K + 1), b permutations that are at least as alike.
        null_mean: what the index gives when nothing agrees beyond the scheme.
        null_95: the calibrated level: a value beyond it has p <= 0.05.
        higher_is_alike: the index's direction.
    """

    value: float
    null: Rows
    p: float
    null_mean: float
    null_95: float
    higher_is_alike: bool


def similarity_test(
    index: Index,
    x: Array,
    y: Array,
    *,
    permute: str = "free",
    groups: Labels | None = None,
    tasks: Labels | None = None,
    instructions: Labels | None = None,
    permutations: int = 999,
    seed: int = 0,
) -> SimilarityTest:
    """Test x (N, p) against y (N, q) by permuting the rows of y as the scheme `permute` allows.

    `groups` are the index's own (neighbours outside, folds); the instructions where left out.

    >>> from mnprobe.analysis.similarity.debiased_cka import DebiasedCKA
    >>> x = np.random.default_rng(0).standard_normal((30, 3))
    >>> similarity_test(DebiasedCKA(), x, x, permutations=99).p
    0.01
    """
    relation = index.relation(x, y, instructions if groups is None else groups)
    n = len(x)
    with memory_told(index.about.title, n):
        orders = exchange(permute, tasks=tasks, instructions=instructions, n=n).orders(permutations, seed)
        value, null = relation.value(), relation.values(orders)
    higher = index.about.higher_is_alike
    return SimilarityTest(
        value=value,
        null=null,
        p=float(p_value(np.asarray(value), null, higher_is_alike=higher)),
        null_mean=float(null.mean()),
        null_95=float(calibrated_level(null, higher_is_alike=higher)),
        higher_is_alike=higher,
    )


def p_value(value: Array, null: Array, *, higher_is_alike: bool = True) -> Rows:
    """(b + 1) / (K + 1) over the last axis of `null` (..., K); values equal up to rounding count as at least as alike.

    Raises FeatureError for shapes that do not fit, an empty null, or values that are not finite.

    >>> float(p_value(np.array(2.0), np.array([1.0, 2.0, 3.0])))
    0.75
    """
    sign = 1.0 if higher_is_alike else -1.0
    value, null = as_sample(value, "value"), as_sample(null, "null")
    if null.ndim == 0 or not null.shape[-1] or null.shape[:-1] != value.shape:
        raise FeatureError(f"null must hold (..., K) values for those of shape {value.shape}, got shape {null.shape}")
    room = 1e-9 * np.maximum(np.abs(value), np.minimum(np.abs(null).max(axis=-1), 1e-3))
    beyond = (sign * null >= (sign * value - room)[..., None]).sum(axis=-1)
    return np.asarray((beyond + 1) / (null.shape[-1] + 1))


def calibrated_level(null: Array, *, level: float = LEVEL, higher_is_alike: bool = True) -> Rows:
    """The value that must be passed for p <= `level`, over the last axis of `null` (..., K).

    It is the floor(level (K + 1))-th most alike value of the null sample.
    Raises ConfigError where K is too small for any value to have such a p, FeatureError for values that are not finite.

    >>> float(calibrated_level(np.arange(99.0)))
    94.0
    """
    null = np.atleast_1d(as_sample(null, "null"))
    place = int(np.floor(level * (null.shape[-1] + 1) + 1e-9))
    if place < 1:
        raise ConfigError(
            f"permutations must be at least {int(np.ceil(1 / level)) - 1} for p <= {level}, got {null.shape[-1]}"
        )
    ordered = np.sort(null, axis=-1)
    return np.asarray(ordered[..., -place] if higher_is_alike else ordered[..., place - 1])


def as_sample(values: Array, name: str) -> Rows:
    """Finite numbers of any shape as float64; FeatureError that names `name` otherwise: NaN would count as unlike."""
    sample = as_array(values, name).astype(np.float64)
    if not np.isfinite(sample).all():
        raise FeatureError(f"{name} holds NaN or infinity, which has no place in an order; leave such values out")
    return sample
