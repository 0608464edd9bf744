"""Mutual-information bound (Theorem 1 of the paper) from a cross-fitted probe."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from mnprobe.analysis.similarity._arrays import FAR, Codes, Rows, centered, varying
from mnprobe.analysis.similarity.base import About, Index, Relation
from mnprobe.analysis.similarity.cca import folds_of
from mnprobe.core.arrays import Array, as_whole, settle
from mnprobe.core.errors import ConfigError, TooFewSamples
from mnprobe.core.labels import Labels
from mnprobe.core.seeds import check_seed

__all__ = ["InfoNCEBound", "first_return", "infonce_bound"]


@dataclass(frozen=True, kw_only=True)
class InfoNCEBound(Index):
    """log B - L of InfoNCE in nats, on groups that the heads were not fitted on; its cap is log B.

    Half of the groups (by `seed`) fit T_u and T_e (width `dim`, temperature `tau`; see `FitConfig`), in `steps` steps,
    or with "flat" until the training loss is flat, with the other settings of `preset` ("mirror": the paper's, "" for
    the default). The bound is the mean over `draws` batches of the other groups, each with one episode of every group
    (of `batch` groups at most), paired with itself, so that no row has a second positive. Permutations move held-out
    episodes only: the heads stay, as the estimate is of held-out pairs.
    """

    steps: int | str = "flat"
    preset: str = ""
    dim: int = 1024
    tau: float = 0.1
    batch: int = 512
    draws: int = 20
    seed: int = 0

    about: ClassVar[About] = About(
        name="infonce",
        title="InfoNCE bound on mutual information",
        symbol="I(u; e) >= (nats)",
        formula="log B - L_InfoNCE on held-out batches with one positive per row, mean of both directions",
        low=-np.inf,
        high=np.inf,
        invariances=frozenset({"scale", "translation"}),
        source="arXiv 2509.21136, Theorem 1, equations 18 and 21; van den Oord et al. 2018 (arXiv 1807.03748), 2.3",
        smallest=8,
        remark="at most log B, B the number of held-out groups; negative means that the probe does not carry over",
        tolerance=2e-3,
    )

    def __post_init__(self) -> None:
        if self.steps != "flat":
            given = int(self.steps) if isinstance(self.steps, str) and self.steps.isdecimal() else self.steps
            object.__setattr__(self, "steps", as_whole(given, "steps", least=1))
        if self.preset not in ("", "mirror"):
            raise ConfigError(f"preset must be mirror, or nothing for the default, got {self.preset!r}")
        settle(self, wholes={"dim": 1, "batch": 2, "draws": 1, "seed": 0}, positive={"tau": "positive"})
        check_seed(self.seed)

    def prepare(self, values: Rows, groups: Codes) -> "_Raw":
        """Only values that float32 cannot hold are changed, since heads are fitted on both sides together.

        Columns that never change are left out, those far from 0 are centered, and each is brought near 1 by a power of
        two, which standardization takes off again.
        """
        moves = varying(values)
        if moves.any():
            values = values[:, moves]
        middle = centered(values)
        far = np.abs(values.mean(axis=0)) > FAR * np.abs(middle).max(axis=0)
        rows = np.where(far, middle, values)
        return _Raw(np.ldexp(rows, -np.frexp(np.abs(rows).max(axis=0))[1]), groups)

    def relate(self, one: "_Raw", other: "_Raw") -> Relation:
        """Fit the heads on one half of the groups; TooFewSamples for fewer than 4 groups."""
        import torch  # loads here: no other index needs it

        from mnprobe.probe import FitConfig, fit_heads
        from mnprobe.probe.config import PRESETS

        groups = one.groups
        count = len(np.unique(groups))
        if count < 4:
            raise TooFewSamples(f"{self.about.title} needs at least 4 groups, 2 to fit and 2 to test; got {count}")
        fold = folds_of(groups, 2, self.seed)
        train, test = np.flatnonzero(fold == 0), np.flatnonzero(fold == 1)
        named = PRESETS["mirror"] if self.preset else {}
        steps = None if isinstance(self.steps, str) else self.steps
        config = FitConfig(**{**named, "dim": self.dim, "tau": self.tau, "steps": steps})
        u, e = (torch.from_numpy(side.values.astype(np.float32)) for side in (one, other))
        heads = fit_heads(u[train], e[train], groups[train], config=config, seed=self.seed).heads
        with torch.no_grad():
            z_u, z_e = (torch.nn.functional.normalize(z.double(), dim=1) for z in heads(u[test], e[test]))
            logits = (z_u @ z_e.T / self.tau).numpy()
        return _HeldOut(logits, test, len(groups), self._draws(groups[test]))

    def _draws(self, groups: Codes) -> NDArray[np.int64]:
        """Rows (draws, B) of one random episode of each group."""
        generator = np.random.default_rng([self.seed, 1])
        members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
        size = min(self.batch, len(members))
        if size < 2:
            raise TooFewSamples(f"{self.about.title}: a batch needs 2 held-out groups, got {size}")
        chosen = (generator.permutation(len(members))[:size] for _ in range(self.draws))
        return np.array([[generator.choice(members[group]) for group in batch] for batch in chosen])


@dataclass(frozen=True)
class _Raw:
    values: Rows
    groups: Codes


class _HeldOut(Relation):
    def __init__(self, logits: Rows, test: Codes, n: int, draws: NDArray[np.int64]) -> None:
        self.logits, self.test, self.n, self.draws = logits, test, n, draws

    def value(self, order: Codes | None = None) -> float:
        columns = self.draws if order is None else first_return(order, self.test)[self.draws]
        logits = self.logits[self.draws[:, :, None], columns[:, None, :]]
        positives = np.diagonal(logits, axis1=1, axis2=2)
        loss = (logsumexp(logits, axis=2) - positives).mean() + (logsumexp(logits, axis=1) - positives).mean()
        return float(np.log(self.draws.shape[1]) - loss / 2)


def first_return(order: Codes, kept: Codes) -> Codes:
    """What a permutation of all rows does to the rows `kept` (ascending): follow it until it comes back among them.

    The result permutes 0 .. len(kept) - 1. It stays within whatever the permutation stays within, and is uniform
    where that is.

    >>> first_return(np.array([1, 2, 3, 0]), np.array([0, 2])).tolist()
    [1, 0]
    """
    place = np.full(len(order), -1)
    place[kept] = np.arange(len(kept))
    found = order[kept]
    while (place[found] < 0).any():
        found = np.where(place[found] < 0, order[found], found)
    return np.asarray(place[found])


def infonce_bound(
    x: Array,
    y: Array,
    groups: Labels | None = None,
    *,
    steps: int | str = "flat",
    preset: str = "",
    dim: int = 1024,
    tau: float = 0.1,
    batch: int = 512,
    draws: int = 20,
    seed: int = 0,
) -> float:
    """The bound for x (N, p) and y (N, q), in nats; `groups` (N,) say which episodes are the same action.

    >>> x = np.random.default_rng(0).standard_normal((40, 4))
    >>> bool(1 < infonce_bound(x, x) < np.log(20))
    True
    """
    index = InfoNCEBound(steps=steps, preset=preset, dim=dim, tau=tau, batch=batch, draws=draws, seed=seed)
    return index.score(x, y, groups)
