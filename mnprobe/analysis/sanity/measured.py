"""Sends one planted pair through the pipeline: hold out, fit, map, retrieve."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnprobe.analysis.sanity.pipeline import Pipeline
from mnprobe.analysis.sanity.subject import PLANTED_FIT
from mnprobe.probe import FitConfig, Pair
from mnprobe.probe.items import GroupKind
from mnprobe.probe.splits import Holdout

__all__ = ["Measured", "measure"]


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
    pair: Pair,
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
