"""The pipeline under test: its replaceable parts, a check's result, a subject."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mnprobe.analysis.audit.leakage import twins
from mnprobe.analysis.similarity import make_index, similarity_test
from mnprobe.core.errors import TooFewSamples
from mnprobe.core.labels import encode_tuples
from mnprobe.core.seeds import derived_seed
from mnprobe.probe import (
    AlignmentHeads,
    FeaturePair,
    FitConfig,
    align,
    chance_recall,
    fit_heads,
    hold_out,
    load_pair,
    recall_at_k,
)
from mnprobe.probe.splits import GroupKind, Holdout

__all__ = [
    "BROKEN",
    "MOST",
    "PERMUTATIONS",
    "PLANTED_FIT",
    "RARE",
    "Check",
    "Measured",
    "NotPossible",
    "Pipeline",
    "Status",
    "Subject",
    "measure",
    "sampled",
    "transform",
]


def transform(
    heads: AlignmentHeads, u: NDArray[np.float32], e: NDArray[np.float32]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """z_u = T_u(u) and z_e = T_e(e) as arrays, with the standardization that the heads carry."""
    with torch.no_grad():
        z_u, z_e = heads(torch.from_numpy(np.ascontiguousarray(u)), torch.from_numpy(np.ascontiguousarray(e)))
    return z_u.numpy(), z_e.numpy()


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """What `mnprobe align`, `compare` and `audit` are made of.

    By default the very functions that the commands call. The tests of the suite put broken ones in their place and
    demand that a check fails; a user can put his own there.
    """

    join: Callable[..., Any] = load_pair
    hold_out: Callable[..., Any] = hold_out
    fit: Callable[..., Any] = fit_heads
    transform: Callable[..., Any] = transform
    recall: Callable[..., Any] = recall_at_k
    chance: Callable[..., Any] = chance_recall
    align: Callable[..., Any] = align
    twins: Callable[..., Any] = twins
    index: Callable[..., Any] = make_index
    index_test: Callable[..., Any] = similarity_test


Status = Literal["pass", "FAIL", "not possible", "look", "reported"]
"""pass, FAIL: of the pipeline. look: the pipeline is sound, but something about the features is not. reported: a number
for comparison, which no rule judges."""

BROKEN = "the pipeline is broken: do not trust any number that it gave"


class NotPossible(TooFewSamples):
    """The user's own episodes do not allow a check; the message says how many there are and are needed."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the doctor's report.

    Attributes:
        name: short, the same in every run.
        did: what was done.
        expected: what should come out, in words, with the interval where there is one.
        found: what came out; for `not possible`, why.
        status: see `Status`.
        meaning: what follows from a FAIL or a look; '' otherwise.
        numbers: the same as plain numbers: value, low, high, chance, n, seeds, p ...
    """

    name: str
    did: str
    expected: str
    found: str
    status: Status
    meaning: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)


PLANTED_FIT = FitConfig(dim=256, lr=1e-3, steps=200, ridge=0.0, decay=False)
"""How heads are fitted on planted features: the paper's loss and tau, but so that 200 steps are enough."""

PERMUTATIONS = 19_999
"""Behind every interval of chance: a value beyond all of them has p = 1/20,000 on its side."""

RARE = 100
"""A perfect score among the permutations must be at least so unlikely, 1 in so many, for a check to be made."""

MOST = 600
"""Episodes that are taken at most, so that the suite stays quick on large stores."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Features of both sides, the repetitions of each planted measurement, and the pipeline under test.

    `untrained` holds the features that the same models gave before any training, for the same episodes, if known.
    """

    pair: FeaturePair
    seeds: int = 5
    untrained: FeaturePair | None = None
    pipeline: Pipeline = field(default_factory=Pipeline)
    permutations: int = PERMUTATIONS

    def rng(self, *path: int | str) -> np.random.Generator:
        """Random numbers for one use: the same in every run."""
        return np.random.default_rng(derived_seed(0, "sanity", *path))

    def require(self, holdout: Holdout) -> None:
        """Raise NotPossible, with the numbers, where these episodes do not allow the holdout.

        Always mnprobe's own rule, not that of the pipeline under test.
        """
        try:
            found = hold_out(self.pair.items, holdout)
        except TooFewSamples as error:
            raise NotPossible(str(error)) from error
        for name, rows in (("training", found.train), ("test", found.test)):
            groups = len(np.unique(self.pair.items.instructions[rows]))
            if groups < 2:
                raise NotPossible(
                    f"the {name} set has {len(rows)} episodes of {groups} instructions with {holdout} held out; at "
                    "least 2 instructions are needed"
                )


def sampled(pair: FeaturePair, most: int = MOST) -> FeaturePair:
    """At most `most` episodes, as many of each instruction as of any other; of at most most / 8 instructions."""
    if len(pair.items) <= most:
        return pair
    generator = np.random.default_rng(derived_seed(0, "sanity", "sample"))
    names = np.unique(pair.items.instructions)
    names = generator.permutation(names)[: max(2, most // 8)]
    allowed = np.flatnonzero(np.isin(pair.items.instructions, names))
    strata = encode_tuples(pair.items.partitions[allowed], pair.items.instructions[allowed])
    rank = _ranks(strata, generator)
    rows = np.sort(allowed[np.argsort(rank, kind="stable")[:most]])
    return pair.take(rows)


def _ranks(strata: NDArray[Any], generator: np.random.Generator) -> NDArray[np.float64]:
    """A random place 0, 1, 2, ... for each row among those of its stratum, plus a random fraction."""
    rank = np.empty(len(strata))
    for name in np.unique(strata):
        rows = np.flatnonzero(strata == name)
        rank[rows] = generator.permutation(len(rows)) + generator.random(len(rows))
    return rank


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One measurement: Recall@1 in both directions, chance as the pipeline gives it, and what was retrieved from."""

    forth: float
    back: float
    chance: float
    tied: float
    recall_5: float
    z_u: NDArray[Any]
    z_e: NDArray[Any]
    groups: NDArray[Any]
    train: NDArray[np.int64]
    test: NDArray[np.int64]

    @property
    def value(self) -> float:
        """Mean of both directions."""
        return (self.forth + self.back) / 2

    @property
    def retrieved(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """(z_u, z_e, groups), as the oracles take it."""
        return self.z_u, self.z_e, self.groups


def measure(
    pipeline: Pipeline,
    pair: FeaturePair,
    holdout: Holdout,
    seed: int,
    *,
    grouping: GroupKind = "instruction",
    fit: FitConfig = PLANTED_FIT,
) -> Measured:
    """Recall@1 of `pair` with `holdout` held out; `seed` decides the partition and the fit."""
    part = pipeline.hold_out(pair.items, holdout, seed=seed)
    groups = pair.items.groups(grouping)
    fitted = pipeline.fit(pair.u[part.train], pair.e[part.train], groups[part.train], config=fit, seed=seed)
    z_u, z_e = pipeline.transform(fitted.heads, pair.u[part.test], pair.e[part.test])
    found = pipeline.recall(z_u, z_e, groups[part.test], k=(1, 5))
    return Measured(
        forth=found.u2e.recall(1),
        back=found.e2u.recall(1),
        chance=found.chance(1),
        tied=found.tied_share,
        recall_5=found.recall(5),
        z_u=z_u,
        z_e=z_e,
        groups=groups[part.test],
        train=part.train,
        test=part.test,
    )
