"""Grid of an ablation: pairing by temperature by seed, and the baselines."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

from mnprobe.core.errors import ConfigError
from mnprobe.core.registry import unknown_name
from mnprobe.probe.splits import GroupKind
from mnprobe.training import TrainConfig

__all__ = ["BASELINE", "PAIRINGS", "TAUS", "Cell", "ablation_cells"]

PAIRINGS: tuple[GroupKind, ...] = ("episode", "instruction", "task")
TAUS = (0.02, 0.1, 0.2)
"""The temperatures of the paper's Table 3."""
BASELINE = "baseline"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training. `pairing` is empty and `tau` None for the baseline, in which nothing is aligned."""

    pairing: GroupKind | None
    tau: float | None
    config: TrainConfig

    @property
    def seed(self) -> int:
        """Of fresh weights, draws and noise."""
        return self.config.seed

    @property
    def name(self) -> str:
        """Of the training; tables take trainings that differ in "-seed<k>" alone for seeds of one.

        >>> [cell.name for cell in ablation_cells(TrainConfig(), pairings=("task",), taus=(0.1,))]
        ['baseline-seed0', 'pairing-task_tau-0.1-seed0']
        """
        kind = BASELINE if self.tau is None else f"pairing-{self.pairing}_tau-{_short(self.tau)}"
        return f"{kind}-seed{self.seed}"


def ablation_cells(
    base: TrainConfig, *, pairings: Sequence[str] = PAIRINGS, taus: Sequence[float] = TAUS, seeds: int = 1
) -> tuple[Cell, ...]:
    """All cells: for each seed from 0 the baseline, then every pairing at every temperature.

    All share the settings of `base`; checkpoints are kept at the start and the end only, for the sake of the disk.

    Raises ConfigError for an unknown pairing, a temperature that is not positive, fewer than one seed, or a `base` that
    trains one side alone or aligns nothing.
    """
    for pairing in pairings:
        if pairing not in get_args(GroupKind):
            raise unknown_name("pairing", pairing, list(PAIRINGS))
    for tau in taus:
        if not (tau > 0 and math.isfinite(tau)):
            raise ConfigError(f"--tau must be a positive number, got {tau!r}")
    if seeds < 1:
        raise ConfigError(f"--seeds must be at least 1, got {seeds}")
    if not base.aligns:
        raise ConfigError(
            f"the ablation varies the alignment of two models, but sides is {base.sides!r} and lambda_align "
            f"{base.lambda_align}: every cell would be the baseline. Train both sides with lambda_align above 0"
        )
    base = replace(base, checkpoints=(0.0, 1.0))
    cells = []
    for seed in range(seeds):
        cells.append(Cell(pairing=None, tau=None, config=replace(base, seed=seed, lambda_align=0.0)))
        cells += [
            Cell(pairing=pairing, tau=tau, config=replace(base, seed=seed, pairing=pairing, tau=tau))
            for pairing in PAIRINGS
            if pairing in pairings
            for tau in sorted(set(taus))
        ]
    return tuple(cells)


def _short(tau: float) -> str:
    """All digits that tell it from another temperature; no sign that a folder's name cannot have."""
    text = f"{tau:g}"
    return (text if float(text) == tau else repr(tau)).replace("+", "")
