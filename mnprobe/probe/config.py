"""All settings of one alignment measurement."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from mnprobe.core.arrays import Number, Truth, Whole, Wholes, as_wholes, settle
from mnprobe.core.errors import ConfigError
from mnprobe.core.provenance import config_hash
from mnprobe.probe.fitting import FitConfig
from mnprobe.probe.items import GroupKind
from mnprobe.probe.outcome_balance import SETTINGS
from mnprobe.probe.splits import Holdout

__all__ = ["AlignConfig", "Control", "Mode"]

Mode = Literal["own-probe", "shared-probe"]
Control = Literal["none", "shuffled"]

_REVISION = 4  # raise when a change of code changes what the same settings measure


@dataclass(frozen=True, kw_only=True)
class AlignConfig:
    """What is measured and how often; the defaults follow DESIGN 6."""

    fit: FitConfig = field(default_factory=FitConfig)
    pairing: GroupKind = "instruction"  # what counts as the same action, in training and in retrieval
    holdout: str = "both"  # "episodes", "instructions", "tasks", or "both" of the first two side by side
    split: str = "all"  # "all"; "success" for the four settings; or one of these by name
    modes: tuple[Mode, ...] = ("own-probe", "shared-probe")  # for the four settings
    shuffled: Truth = True  # measure the control with shuffled training pairs too
    seeds: Whole = 5  # probe seeds
    control_seeds: Whole = 3  # probe seeds of control pairs (instruction blanked, pixels), if that is fewer
    shuffled_seeds: Whole = 2  # probe seeds of the control with shuffled training pairs, if that is fewer
    splits: Whole = 3  # random train/test splits, where the dataset's own partition does not decide
    draws: Whole = 20  # balanced draws for the four settings
    pixel_components: Whole = 32  # principal components that stand for pixels, the control for u; 0 for all pixels
    test_share: Number = 0.3  # share held out, where the dataset's own partition does not decide
    k: Wholes = (1, 5, 10)  # neighbour counts of recall
    exclude_own: Truth = False  # leave the query's own episode out of the gallery
    bound_draws: Whole = 20  # held-out batches behind the bound on mutual information

    def __post_init__(self) -> None:
        counts = ("seeds", "control_seeds", "shuffled_seeds", "splits", "draws", "bound_draws")
        settle(self, wholes=(*counts, "pixel_components"), numbers=("test_share",), truths=("shuffled", "exclude_own"))
        object.__setattr__(self, "k", as_wholes(self.k, "k"))
        known = {
            "pairing": get_args(GroupKind),
            "holdout": ("both", *get_args(Holdout)),
            "split": ("all", "success", *SETTINGS),
        }
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ConfigError(f"{name} must be one of {', '.join(values)}, got {getattr(self, name)!r}")
        for name in counts:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        if self.pixel_components < 0:
            raise ConfigError(f"pixel_components must be 0 (all pixels) or more, got {self.pixel_components!r}")
        modes: Any = self.modes
        object.__setattr__(self, "modes", (modes,) if isinstance(modes, str) else tuple(modes))
        if not self.modes or set(self.modes) - set(get_args(Mode)):
            raise ConfigError(f"modes must be some of {', '.join(get_args(Mode))}, got {self.modes!r}")
        if 1 not in self.k:
            raise ConfigError(f"k must be neighbour counts of at least 1 and hold 1, got {self.k!r}; add 1")
        if not 0 < self.test_share < 1:
            raise ConfigError(f"test_share must lie between 0 and 1, got {self.test_share!r}")
        if self.exclude_own and self.pairing == "episode":
            raise ConfigError("exclude_own with pairing='episode' leaves no positive: the own episode is the only one")

    @property
    def holdouts(self) -> tuple[Holdout, ...]:
        """The holdouts to measure."""
        return tuple(name for name in get_args(Holdout) if self.holdout == name) or ("episodes", "instructions")

    def measurement(self) -> dict[str, Any]:
        """The settings that change numbers, as plain values: neither what is held out nor which rows are asked for."""
        left_out = ("holdout", "split", "modes", "shuffled")
        return {name: value for name, value in asdict(self).items() if name not in left_out} | {"revision": _REVISION}

    def digest(self) -> str:
        """16 digits that stand for `measurement()`."""
        return config_hash(self.measurement())
