"""Configuration of fits and measurements, and its record in run.toml."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from mnprobe.core.arrays import Number, Truth, Whole, Wholes, as_wholes, settle
from mnprobe.core.commands import run_above
from mnprobe.core.errors import ConfigError
from mnprobe.core.provenance import canonical_json, config_hash
from mnprobe.core.rundir import RunDir
from mnprobe.probe.heads import HeadKind
from mnprobe.probe.losses import Positives
from mnprobe.probe.outcome_balance import SETTINGS
from mnprobe.probe.pairs import FeaturePair
from mnprobe.probe.retrieval import gallery_size
from mnprobe.probe.splits import GroupKind, Holdout

__all__ = [
    "MOST_STEPS",
    "PRESETS",
    "SETTINGS_SECTION",
    "AlignConfig",
    "Control",
    "FitConfig",
    "Mode",
    "Preset",
    "check_settings",
    "read_settings",
    "record_settings",
]

MOST_STEPS = 2000
"""Optimizer steps after which a fit without steps or epochs ends, whether its training loss is flat or not."""

Preset = Literal["mirror"]

PRESETS: Mapping[Preset, Mapping[str, Any]] = {"mirror": {"lr": 1e-4, "ridge": 0.0, "decay": False}}
"""Settings by name. mirror: the paper's, Adam at a constant 1e-4 and no ridge; the paper gives no number of steps."""


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Configuration of the fit of one pair of heads; saved with the heads.

    Without `steps` and `epochs` a fit ends by the rule of `mnprobe.probe.fitting.Plateau`: the rate is constant until
    the training loss is flat, and then falls to zero. With them, it takes exactly as many steps.
    """

    dim: Whole = 1024  # width of the shared space (paper)
    tau: Number = 0.1  # temperature (paper)
    lr: Number = 1e-2  # Adam's learning rate at the start; the paper has 1e-4 (PRESETS)
    decay: Truth = True  # the last third of the steps lowers the rate to zero
    ridge: Number = 0.01  # linear heads: variance of noise that lengths count for each standardised feature; 0 for none
    weight_decay: Number = 0.0  # Adam's L2 term; the paper gives none
    steps: Whole | None = None  # optimizer steps; by the rule when epochs is not given either
    epochs: Whole | None = None  # or passes over u
    batch: Whole = 256  # pairs per step; all items when there are fewer. The paper does not give it for the probe
    positives: Positives = "diagonal"  # equation 2 as printed; the other forms: see info_nce
    heads: HeadKind = "linear"  # the paper's; "mlp" tests whether linear suffices
    depth: Whole = 2  # layers of an mlp head
    standardise: Truth = True  # with training means and deviations
    early_stop: Truth = False  # stop on the validation loss and keep the best heads
    patience: Whole = 5  # checks without a better validation loss before stopping
    check_every: Whole = 20  # steps between checks

    def __post_init__(self) -> None:
        settle(
            self,
            wholes=("dim", "steps", "epochs", "batch", "depth", "patience", "check_every"),
            numbers=("tau", "lr", "ridge", "weight_decay"),
            truths=("decay", "standardise", "early_stop"),
        )
        for name in ("dim", "batch", "patience", "check_every", "depth"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        for name in ("tau", "lr"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ConfigError(f"{name} must be a positive number, got {getattr(self, name)!r}")
        for name in ("ridge", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be >= 0, got {getattr(self, name)!r}")
        if self.batch < 2:
            raise ConfigError(f"batch must be at least 2: one pair has nothing to contrast with, got {self.batch!r}")
        if self.steps is not None and self.epochs is not None:
            raise ConfigError(f"give steps or epochs, not both: steps={self.steps!r}, epochs={self.epochs!r}")
        for name, value in (("steps", self.steps), ("epochs", self.epochs)):
            if value is not None and value < 0:
                raise ConfigError(f"{name} must be >= 0, got {value!r}")
        if self.positives not in get_args(Positives):
            raise ConfigError(f"positives must be 'diagonal', 'exclude' or 'multi', got {self.positives!r}")
        if self.heads not in get_args(HeadKind):
            raise ConfigError(f"heads must be 'linear' or 'mlp', got {self.heads!r}")
        if self.heads == "mlp" and self.depth < 2:
            raise ConfigError(f"an mlp head has at least 2 layers, got depth={self.depth!r}")

    @classmethod
    def of_record(cls, settings: Mapping[str, Any]) -> "FitConfig":
        """Settings as recorded with heads or in run.toml; earlier versions fitted without ridge and decay.

        Unknown names are left out. Earlier versions took 400 steps where none were given.

        >>> old = FitConfig.of_record({"lr": 1e-4, "batch": 64})
        >>> old.ridge, old.decay, old.steps, old.batch
        (0.0, False, 400, 64)
        """
        known = {name: settings[name] for name in (entry.name for entry in fields(cls)) if name in settings}
        if "ridge" not in settings:
            known = {"ridge": 0.0, "decay": False} | known
            if known.get("steps") is None and known.get("epochs") is None:
                known["steps"] = 400
        return cls(**known)

    def fixed_steps(self, items: int) -> int | None:
        """Optimizer steps for `items` training rows; None where the rule decides.

        An epoch is items // batch steps, and at least one.
        """
        if self.epochs is not None:
            return self.epochs * max(1, items // self.batch)
        return self.steps


Mode = Literal["own-probe", "shared-probe"]
Control = Literal["none", "shuffled"]

_REVISION = 5  # raise when a change of code changes what the same settings measure


@dataclass(frozen=True, kw_only=True)
class AlignConfig:
    """Configuration of a measurement; the defaults follow DESIGN 6."""

    fit: FitConfig = field(default_factory=FitConfig)
    pairing: GroupKind = "instruction"  # definition of the same action, in training and in retrieval
    holdout: str = "both"  # "episodes", "instructions", "tasks", or "both": episodes and instructions
    split: str = "all"  # "all"; "success" for the four settings; or one of these by name
    modes: tuple[Mode, ...] = ("own-probe", "shared-probe")  # for the four settings
    shuffled: Truth = True  # measure the control with shuffled training pairs too
    seeds: Whole = 5  # probe seeds
    control_seeds: Whole = 3  # probe seeds of control pairs (instruction blanked, pixels), if that is fewer
    shuffled_seeds: Whole = 2  # probe seeds of the control with shuffled training pairs, if that is fewer
    splits: Whole = 3  # random train/test splits, where the dataset's own partition does not decide
    draws: Whole = 20  # balanced draws for the four settings
    pixel_components: Whole = 32  # principal components of pixels, the control for u; 0 for all pixels
    test_share: Number = 0.3  # share held out, where the dataset's own partition does not decide
    k: Wholes = (1, 5, 10)  # values of k for Recall@k
    exclude_own: Truth = False  # exclude the query's own episode from the gallery
    gallery: Whole | None = None  # size of random galleries; 0 for all items; 20,000 of more than 100,000 if not given
    bound_draws: Whole = 20  # held-out batches behind the bound on mutual information

    def __post_init__(self) -> None:
        counts = ("seeds", "control_seeds", "shuffled_seeds", "splits", "draws", "bound_draws")
        settle(
            self,
            wholes=(*counts, "pixel_components", "gallery"),
            numbers=("test_share",),
            truths=("shuffled", "exclude_own"),
        )
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
        gallery_size(self.gallery, 0)
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
        """The settings that change numbers, as plain values; those that only select measurements are left out."""
        left_out = ("holdout", "split", "modes", "shuffled", *(() if self.gallery is not None else ("gallery",)))
        return {name: value for name, value in asdict(self).items() if name not in left_out} | {"revision": _REVISION}

    def digest(self) -> str:
        """Hash of `measurement()`, 16 digits."""
        return config_hash(self.measurement())


SETTINGS_SECTION = "align"
"""Section of run.toml: one table of settings for each config_hash of results/alignment.csv."""


def record_settings(table: Path, config: AlignConfig, pairs: Sequence[FeaturePair], **requested: object) -> None:
    """Record the settings of a measurement under [align.<config_hash>] in the run.toml of the run that has `table`.

    Recorded are `config.measurement()`, the optimizer with its steps, and under "asked" one entry for each different
    call: holdout, split, layers, pools, and the keywords given here. Nothing is written if `table` is in no run, or if
    all of this is recorded already. Sections of other settings are not changed.

    Raises ConfigError when run.toml cannot be read, OSError when it cannot be written.
    """
    folder = run_above(table)
    if folder is None:
        return
    run, key, entry = RunDir(folder), config.digest(), _plain(_requested(config, pairs) | requested)
    if _with(run, key, config, entry) is None:
        return
    with run.alone(SETTINGS_SECTION):  # concurrent processes must not drop each other's entries
        sections = _with(RunDir(folder), key, config, entry)  # read again: another process may have written
        if sections is not None:
            run.record(SETTINGS_SECTION, sections)


def check_settings(table: Path) -> None:
    """Raise ConfigError before hours of fits if `table` is in a run whose run.toml cannot be read."""
    folder = run_above(table)
    if folder is not None:
        read_settings(RunDir(folder))


def read_settings(run: RunDir) -> dict[str, dict[str, Any]]:
    """The settings recorded by `record_settings`, by config_hash; entries of another form are ignored."""
    recorded = run.config.get(SETTINGS_SECTION)
    sections = recorded.items() if isinstance(recorded, dict) else ()
    return {str(key): section for key, section in sections if isinstance(section, dict)}


def _with(run: RunDir, key: str, config: AlignConfig, entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """All sections, with this one added or replaced; None if it is recorded already."""
    before = read_settings(run)
    old = before.get(key, {}).get("asked", [])
    calls = old if isinstance(old, list) else []
    section = _settings(config) | {"asked": calls if entry in calls else [*calls, entry]}
    return None if before.get(key) == section else before | {key: section}


def _settings(config: AlignConfig) -> dict[str, Any]:
    settings = _plain(config.measurement()) | {"optimiser": "Adam"}
    if config.fit.epochs is None:
        settings["optimiser_steps"] = f"until the loss is flat, at most {MOST_STEPS}"
        if config.fit.steps is not None:
            settings["optimiser_steps"] = config.fit.steps
    return settings


def _requested(config: AlignConfig, pairs: Sequence[FeaturePair]) -> dict[str, Any]:
    origins = {"u": [pair.origin_u for pair in pairs], "e": [pair.origin_e for pair in pairs]}
    entry: dict[str, Any] = {"holdout": config.holdout, "split": config.split, "shuffled": config.shuffled}
    if config.split != "all":
        entry["modes"] = config.modes
    for side, layer_ids in origins.items():
        entry[f"layers_{side}"] = sorted({origin.layer for origin in layer_ids})
        entry[f"pools_{side}"] = sorted({origin.pool for origin in layer_ids})
    return entry


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As in TOML: lists for tuples, and no None."""
    plain: dict[str, Any] = json.loads(canonical_json(dict(values)))
    return _without_none(plain)


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    known = {name: value for name, value in values.items() if value is not None}
    return {name: _without_none(value) if isinstance(value, dict) else value for name, value in known.items()}
