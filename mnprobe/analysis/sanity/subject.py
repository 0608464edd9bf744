"""What is examined: the user's features, how often, and the pipeline to send planted copies of them through."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnprobe.analysis.sanity.check import NotPossible
from mnprobe.analysis.sanity.pipeline import Pipeline
from mnprobe.core.errors import TooFewSamples
from mnprobe.core.labels import encode_tuples
from mnprobe.core.seeds import derived_seed
from mnprobe.probe import FitConfig, Pair, hold_out
from mnprobe.probe.splits import Holdout

__all__ = ["MOST", "PERMUTATIONS", "PLANTED_FIT", "RARE", "Subject", "sampled"]

PLANTED_FIT = FitConfig(dim=256, lr=1e-3, steps=200)
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

    pair: Pair
    seeds: int = 5
    untrained: Pair | None = None
    pipeline: Pipeline = field(default_factory=Pipeline)
    permutations: int = PERMUTATIONS

    def rng(self, *path: int | str) -> np.random.Generator:
        """Random numbers for one use: the same in every run."""
        return np.random.default_rng(derived_seed(0, "sanity", *path))

    def require(self, holdout: Holdout) -> None:
        """Raise NotPossible, with the numbers, where these episodes do not allow the holdout.

        mnprobe's own rule is asked, whatever stands in the pipeline: a broken one cannot excuse itself.
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


def sampled(pair: Pair, most: int = MOST) -> Pair:
    """At most `most` episodes, as many of each instruction as of any other; of at most most / 8 instructions."""
    if len(pair.items) <= most:
        return pair
    generator = np.random.default_rng(derived_seed(0, "sanity", "sample"))
    names = np.unique(pair.items.instructions)
    names = generator.permutation(names)[: max(2, most // 8)]
    allowed = np.flatnonzero(np.isin(pair.items.instructions, names))
    strata = encode_tuples(pair.items.partitions[allowed], pair.items.instructions[allowed])
    rank = _ranks(strata, generator)
    kept = np.sort(allowed[np.argsort(rank, kind="stable")[:most]])
    return replace(pair, u=pair.u[kept], e=pair.e[kept], items=pair.items.take(kept))


def _ranks(strata: NDArray[Any], generator: np.random.Generator) -> NDArray[np.float64]:
    """A random place 0, 1, 2, ... for each row among those of its stratum, plus a random fraction."""
    rank = np.empty(len(strata))
    for name in np.unique(strata):
        rows = np.flatnonzero(strata == name)
        rank[rows] = generator.permutation(len(rows)) + generator.random(len(rows))
    return rank
