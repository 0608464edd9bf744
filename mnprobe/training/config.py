"""TrainConfig: all settings of one training, and its presets."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from mnprobe.core.arrays import Array, Number, Truth, Whole, as_number, as_whole, settle
from mnprobe.core.errors import ConfigError
from mnprobe.core.provenance import config_hash
from mnprobe.core.registry import unknown_name
from mnprobe.core.seeds import check_seed
from mnprobe.features.inputs import FramesRule
from mnprobe.models.arp import ARPConfig
from mnprobe.models.untrained import PRESETS as SIZES
from mnprobe.models.viclip import ViCLIPConfig
from mnprobe.probe.heads import HeadKind
from mnprobe.probe.losses import Positives
from mnprobe.probe.splits import GroupKind
from mnprobe.training.optimizers import OptimizerConfig

__all__ = ["PRESETS", "SOURCES", "Augment", "Precision", "Sides", "TrainConfig", "preset"]

Sides = Literal["both", "understanding", "execution"]
Augment = Literal["se3", "shift", "none"]
Precision = Literal["float32", "bf16"]

_REVISION = 1  # increase when a change of code changes the result of the same settings

_OF_VIDEO = (
    "viclip",
    "video",
    "temperature",
    "text_share",
    "clips",
    "camera",
    "frames_rule",
    "understanding_share",
    "recompute",
)
_OF_POLICY = (
    *("arp", "policy", "lambda_ee", "augment", "colour_noise", "kept_views", "language_seed"),
    "first_step_share",
)
_OF_ALIGNMENT = ("align", "heads", "head_depth", "dim", "tau", "positives")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Configuration of a training: L = L_AU + lambda_EE L_EE + lambda_align L_align (paper, equation 5).

    An update is a step of the joint optimizer. Every update trains the policy; a share of them (`understanding_share`)
    also trains the video model and the alignment. When one side is trained alone, updates are counted in the same way:
    the model then equals that of a baseline (lambda_align 0) with the same seed, and steps correspond.

    Raises: ConfigError when a value is out of range or two values contradict each other.
    """

    viclip: str | ViCLIPConfig = "tiny"
    """Size of the video model when trained from scratch: tiny, b16, l14, or a configuration."""
    arp: str | ARPConfig = "tiny"
    """Size of the policy when trained from scratch: tiny, arp, arp_plus, or a configuration."""
    sides: Sides = "both"
    updates: Whole = 300
    batch: Whole = 32
    """Transitions (key pose to key pose) per update, summed over processes."""
    clips: Whole | None = None
    """Clips per understanding update; None means as many as transitions. The first clips form the pairs; further clips
    are used in L_AU only."""
    first_step_share: Number | None = None
    """Share of the transitions that start an episode; None draws all steps of an episode equally often."""
    understanding_share: Number = 0.2
    lambda_ee: Number = 1.0
    lambda_align: Number = 0.5
    """Weight of the alignment loss; 0 is the baseline: the models share batches but no gradient."""
    pairing: GroupKind = "instruction"
    """Property that a clip and a transition share when they are a positive pair."""
    positives: Positives = "diagonal"
    """Treatment of further positives in a batch; see `mnprobe.probe.info_nce`."""
    tau: Number = 0.1
    heads: HeadKind = "linear"
    head_depth: Whole = 2
    """Number of layers of an mlp head."""
    dim: Whole = 1024
    """Width of the shared space."""
    temperature: Number = 0.05
    """Temperature of L_AU; not trained."""
    text_share: Number = 0.05
    """Learning rate of the text encoder relative to that of the video encoder."""
    video: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(kind="adamw", lr=1e-5))
    policy: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(kind="adamw", lr=1e-3))
    align: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(kind="adam", lr=1e-4))
    """Optimizer of the two heads."""
    augment: Augment = "se3"
    """Augmentation: se3 translates and rotates the scene; shift only translates it; none disables it. Noise on the zoom
    centre and on the input rotation tokens is set by the policy's own configuration."""
    colour_noise: Truth = True
    kept_views: Whole = 0
    """Number of draws of the zoom centre's noise whose views are drawn once and kept in the cache, shared by all
    trainings of a run (2 or 3 are enough); 0 draws new views in every update. For augment none, without colour noise.
    Kept views are rounded to float16."""
    camera: str = "front"
    """Camera of the clips. The policy's configuration names its cameras."""
    frames_rule: FramesRule = "middle"
    clip_norm: Number | None = None
    """Maximum gradient norm, applied to each model separately (so a baseline couples nothing); None disables
    clipping."""
    precision: Precision = "float32"
    recompute: Truth = False
    """Activation checkpointing of the video encoder: blocks store only their inputs and recompute the rest in the
    backward pass. Much less memory, more time, the same numbers."""
    checkpoints: Array = (0.0, 0.1, 0.25, 0.5, 1.0)
    """Shares of the updates at which checkpoints are written, or one number N: every N updates. The first (step 0) and
    the last are always written."""
    language_seed: Whole = 0
    """Seed of the policy's language encoder when no weights are given."""
    seed: Whole = 0

    def __post_init__(self) -> None:
        self._check_names()
        self._settle()
        for name in ("updates", "batch", "dim", "head_depth"):
            _whole(name, getattr(self, name))
        if self.clips is not None:
            _whole("clips", self.clips)
        if self.first_step_share is not None and not 0 <= self.first_step_share <= 1:
            raise ConfigError(f"first_step_share must lie in [0, 1], got {self.first_step_share!r}")
        for name in ("tau", "temperature"):
            _positive(name, getattr(self, name))
        if self.clip_norm is not None:
            _positive("clip_norm", self.clip_norm)
        for name in ("lambda_ee", "lambda_align", "text_share"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise ConfigError(f"{name} must be a number of at least 0, got {value!r}")
        if self.kept_views < 0:
            raise ConfigError(f"kept_views must be 0 or more, got {self.kept_views!r}")
        if self.kept_views and (self.augment != "none" or self.colour_noise):
            raise ConfigError(
                "kept_views are drawn once, so nothing may change the scene: set augment to none and colour_noise to "
                "false, or kept_views to 0"
            )
        check_seed(self.seed)
        check_seed(self.language_seed, name="language_seed")
        self._check_sides()
        self._check_checkpoints()

    @property
    def trains_viclip(self) -> bool:
        """Whether the video model is trained."""
        return self.sides != "execution"

    @property
    def trains_arp(self) -> bool:
        """Whether the policy is trained."""
        return self.sides != "understanding"

    @property
    def aligns(self) -> bool:
        """Whether the alignment loss is computed."""
        return self.sides == "both" and self.lambda_align > 0

    @property
    def unused(self) -> tuple[str, ...]:
        """Reject settings of a side that is not trained."""
        unused: tuple[str, ...] = () if self.trains_viclip else _OF_VIDEO
        unused += () if self.trains_arp else _OF_POLICY
        return unused + (() if self.aligns else _OF_ALIGNMENT)

    @property
    def clips_drawn(self) -> int:
        """Clips per understanding update."""
        return self.batch if self.clips is None else self.clips

    @property
    def default_name(self) -> str:
        """Default name of the training: baseline, joint or alone."""
        return "alone" if self.sides != "both" else "joint" if self.aligns else "baseline"

    def understands(self, update: int) -> bool:
        """Whether update number `update` (from 0) trains the video model; these are evenly spaced.

        >>> [update for update in range(10) if TrainConfig(understanding_share=0.2).understands(update)]
        [4, 9]
        """
        if not self.trains_viclip:
            return False
        return _passed(update + 1, self.understanding_share) > _passed(update, self.understanding_share)

    def checkpoint_steps(self) -> tuple[int, ...]:
        """Updates at which checkpoints are written, ascending.

        >>> TrainConfig(updates=300).checkpoint_steps()
        (0, 30, 75, 150, 300)
        >>> TrainConfig(updates=25, checkpoints=10).checkpoint_steps()
        (0, 10, 20, 25)
        """
        if isinstance(self.checkpoints, int):
            steps = {*range(0, self.updates, self.checkpoints)}
        else:
            steps = {round(share * self.updates) for share in self.checkpoints}
        return tuple(sorted(steps | {0, self.updates}))

    def viclip_config(self) -> ViCLIPConfig:
        """Configuration of the video model, with presets resolved."""
        config: ViCLIPConfig = getattr(ViCLIPConfig, self.viclip)() if isinstance(self.viclip, str) else self.viclip
        return config

    def arp_config(self) -> ARPConfig:
        """Configuration of the policy, with presets resolved."""
        config: ARPConfig = getattr(ARPConfig, self.arp)() if isinstance(self.arp, str) else self.arp
        return config

    def with_updates(self, updates: int) -> "TrainConfig":
        """Return the configuration with another number of updates; warm-ups are scaled with it.

        >>> config = TrainConfig(updates=300, policy=OptimizerConfig(kind="adamw", lr=1e-3, warmup=15))
        >>> config.with_updates(100).policy.warmup
        5
        """
        _whole("updates", updates)

        def scaled(part: OptimizerConfig) -> OptimizerConfig:
            return replace(part, warmup=round(part.warmup * updates / self.updates))

        parts = scaled(self.video), scaled(self.policy), scaled(self.align)
        return replace(self, updates=updates, video=parts[0], policy=parts[1], align=parts[2])

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values, with sizes written out; `from_dict` is the inverse."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        sizes = {"viclip": self.viclip_config().to_dict(), "arp": self.arp_config().to_dict()}
        parts = {name: asdict(values[name]) for name in ("video", "policy", "align")}
        plain: dict[str, Any] = _plain(values | sizes | parts)
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """Build from the result of `to_dict` or from JSON; missing fields get their defaults.

        >>> TrainConfig.from_dict(TrainConfig(tau=0.2).to_dict()).tau
        0.2

        Raises: ConfigError for an unknown field or an invalid value.
        """
        known = [entry.name for entry in fields(cls)]
        for name in values:
            if name not in known:
                raise unknown_name("training option", name, known)
        settings = dict(values)
        if isinstance(settings.get("viclip"), Mapping):
            settings["viclip"] = ViCLIPConfig.from_dict(settings["viclip"])
        if isinstance(settings.get("arp"), Mapping):
            settings["arp"] = ARPConfig.from_dict(settings["arp"])
        for name in ("video", "policy", "align"):
            if isinstance(settings.get(name), Mapping):
                settings[name] = _optimizer(name, settings[name])
        if isinstance(settings.get("checkpoints"), list):
            settings["checkpoints"] = tuple(float(share) for share in settings["checkpoints"])
        return cls(**settings)

    def measurement(self) -> dict[str, Any]:
        """Settings that affect weights, as JSON values, without those of a side that is not trained."""
        values = self.to_dict() | {"revision": _REVISION}
        left_out = {*self.unused, "recompute"}
        # trainings from before there was a share, and before views were kept, stay what they are
        left_out |= {"first_step_share"} if self.first_step_share is None else set()
        left_out |= {"kept_views"} if not self.kept_views else set()
        return {name: value for name, value in values.items() if name not in left_out}

    def digest(self) -> str:
        """Hash of `measurement()`, 16 hexadecimal digits."""
        return config_hash(self.measurement())

    def _settle(self) -> None:
        """Convert numbers to Python types, so that equal settings have equal hashes."""
        settle(
            self,
            wholes=("updates", "batch", "clips", "dim", "head_depth", "kept_views", "seed", "language_seed"),
            numbers=(
                *("understanding_share", "lambda_ee", "lambda_align", "tau", "temperature", "text_share"),
                *("clip_norm", "first_step_share"),
            ),
            truths=("colour_noise", "recompute"),
        )
        given: Any = self.checkpoints
        is_list = isinstance(given, Iterable) and not isinstance(given, str) and getattr(given, "ndim", 1) == 1
        settled = tuple(as_number(share) for share in given) if is_list else as_whole(given, "checkpoints")
        object.__setattr__(self, "checkpoints", settled)

    def _check_names(self) -> None:
        known: dict[str, tuple[Any, ...]] = {
            "sides": get_args(Sides),
            "pairing": get_args(GroupKind),
            "positives": get_args(Positives),
            "heads": get_args(HeadKind),
            "augment": get_args(Augment),
            "frames_rule": get_args(FramesRule),
            "precision": get_args(Precision),
        }
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ConfigError(f"{name} must be one of {', '.join(values)}, got {getattr(self, name)!r}")
        for model, size in (("viclip", self.viclip), ("arp", self.arp)):
            if isinstance(size, str) and size not in SIZES[model]:
                raise unknown_name(f"size of {model}", size, list(SIZES[model]))

    def _check_sides(self) -> None:
        if self.trains_viclip and not 0 < self.understanding_share <= 1:
            raise ConfigError(
                f"understanding_share must be above 0 and at most 1, got {self.understanding_share!r}; "
                "to leave the video model out, train the execution side alone"
            )
        if self.trains_viclip and not any(self.understands(update) for update in range(self.updates)):
            raise ConfigError(
                f"understanding_share {self.understanding_share} of {self.updates} updates is none at all: the video "
                "model would never be trained. Take more updates or a larger share"
            )
        if self.sides != "both" and self.lambda_align > 0:
            raise ConfigError(
                f"lambda_align is {self.lambda_align}, but only the {self.sides} side is trained: an alignment needs "
                "both. Set lambda_align to 0, or train both sides"
            )
        if self.trains_viclip and self.clips_drawn < 2:
            raise ConfigError(
                f"an update needs 2 clips at least: one has nothing to be told from, got {self.clips_drawn}"
            )
        if self.aligns and self.batch < 2:
            raise ConfigError(f"batch must be at least 2: one pair has nothing to contrast with, got {self.batch}")
        if self.trains_arp and self.lambda_ee == 0 and not self.aligns:
            raise ConfigError(
                "lambda_ee is 0, so nothing trains the policy. Train the understanding side alone instead"
            )

    def _check_checkpoints(self) -> None:
        if isinstance(self.checkpoints, int):
            _whole("checkpoints", self.checkpoints)
        elif not all(0 <= share <= 1 for share in self.checkpoints):
            raise ConfigError(
                f"checkpoints must be shares of the updates from 0 to 1, or one whole number, got {self.checkpoints!r}"
            )


def _passed(updates: int, share: float) -> int:
    """Number of understanding updates among the first `updates`, rounded so that 0.2 of 5 is exactly 1."""
    return math.floor(updates * share + 1e-9)


def _whole(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name} must be a whole number above 0, got {value!r}")


def _positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ConfigError(f"{name} must be a positive number, got {value!r}")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _optimizer(name: str, values: Mapping[str, Any]) -> OptimizerConfig:
    known = [entry.name for entry in fields(OptimizerConfig)]
    for entry in values:
        if entry not in known:
            raise unknown_name(f"option of the optimiser {name!r}:", entry, known)
    settings: dict[str, Any] = {key: tuple(item) if isinstance(item, list) else item for key, item in values.items()}
    return OptimizerConfig(**settings)


_TABLETOP = (-0.1, -0.3, 0.7, 0.5, 0.3, 1.3)  # metres; workspace of the tabletop world: a cube of 60 cm

_TINY = TrainConfig(
    viclip="tiny",
    arp=replace(ARPConfig.tiny(), bounds=_TABLETOP),
    updates=1000,
    batch=16,
    clips=48,
    understanding_share=0.2,
    temperature=0.05,
    text_share=1.0,
    video=OptimizerConfig(kind="adamw", lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05, warmup=50, floor=0.02),
    policy=OptimizerConfig(kind="adamw", lr=3e-3, weight_decay=1e-4, warmup=50, floor=0.02),
    align=OptimizerConfig(kind="adamw", lr=1e-3, weight_decay=0.0, warmup=50, floor=0.02),
    clip_norm=1.0,
    augment="none",
    colour_noise=False,
)

_PUCKS = (0.50, 0.11, 0.94, 0.89)  # top, left, bottom, right: the part of the front image where the pucks move

_GOAL = replace(
    _TINY.with_updates(900),
    viclip=replace(ViCLIPConfig.tiny(), image_size=64, patch_size=8, frames=8, tubelet=8, layers=4, crop=_PUCKS),
    arp=replace(
        ARPConfig.tiny(),
        image_size=24,
        patch_size=4,
        heatmap_sigma=1.0,
        render_radius=0.09,
        bounds=(-0.08, -0.28, 0.62, 0.48, 0.28, 1.18),  # a cube of 56 cm; the hand comes from above it
        language_length=24,
        untrained_language="words",
        attention_gain=1.7,
    ),
    first_step_share=0.64,
    understanding_share=1 / 3,
    kept_views=2,
    checkpoints=(0.0, 0.1, 0.25, 0.3, 0.35, 0.4, 0.5, 1.0),
)
_GOAL = replace(_GOAL, policy=replace(_GOAL.policy, betas=(0.9, 0.98)))

PRESETS: Mapping[str, TrainConfig] = {
    "tiny": _TINY,
    "goal": _GOAL,
    "small": replace(_TINY.with_updates(10_000), augment="shift"),
    "paper": TrainConfig(
        viclip="l14",
        arp="arp",
        updates=80_000,
        batch=192,
        clips=None,
        understanding_share=0.2,
        lambda_ee=1.0,
        lambda_align=0.5,
        pairing="instruction",
        positives="diagonal",
        tau=0.1,
        heads="linear",
        dim=1024,
        temperature=0.05,
        text_share=0.05,
        video=OptimizerConfig(
            kind="adamw", lr=1e-5, betas=(0.9, 0.98), weight_decay=0.2, warmup=2000, schedule="cosine", floor=0.01
        ),
        policy=OptimizerConfig(
            kind="lamb",
            lr=1.25e-5 * 192,
            rule="capped",
            betas=(0.9, 0.999),
            weight_decay=1e-4,
            warmup=2000,
            schedule="cosine",
            floor=0.01,
        ),
        align=OptimizerConfig(kind="adam", lr=1e-4, weight_decay=0.0, warmup=0, schedule="constant"),
        clip_norm=None,
        augment="se3",
        colour_noise=True,
        precision="bf16",
        recompute=True,
        checkpoints=10_000,
    ),
}
"""tiny: minutes on two CPU cores; goal: the same for the goal suite (pucks); small: an hour on two cores, or minutes on
a GPU; paper: the paper's own settings."""

SOURCES: Mapping[str, str] = {
    "viclip": "ViCLIP-L-14 of InternVid (paper 4.1 and C.1 name ViCLIP and its reference; specs/viclip.md 1)",
    "arp": "ARP with the multi-view transformer, 8 layers of width 128, MLP 512 (paper, table 5)",
    "updates": "80,000 train iterations (paper, table 5)",
    "batch": "96*2 = 192 (paper, table 5 and C.3)",
    "clips": "as many as transitions: the paper gives one batch size (C.3); our reading",
    "first_step_share": "none: uniform over the steps of an episode, as in ARP's own training (specs/arp.md 9)",
    "understanding_share": "20 % (paper, C.3: learning frequency); every fifth update is our reading",
    "lambda_ee": "1 (paper, 4.1)",
    "lambda_align": "0.5 (paper, 4.1)",
    "pairing": "same language instruction (paper, 4.1)",
    "positives": "the diagonal (paper, equation 2 as printed)",
    "tau": "0.1 (paper, 4.1)",
    "heads": "two linear layers (paper, 4.1)",
    "dim": "1024 (paper, 4.1)",
    "temperature": "0.05, fixed (paper, C.1)",
    "text_share": "5 % of the video encoder's rate (paper, 4.1)",
    "video.lr": "1e-5 (paper, 4.1)",
    "video.kind": "paper silent; AdamW as in ViCLIP's own training (specs/viclip.md 9)",
    "video.betas": "paper silent; (0.9, 0.98) as in ViCLIP's own training (specs/viclip.md 9)",
    "video.weight_decay": "paper silent; 0.2 as in ViCLIP's own training (specs/viclip.md 9)",
    "video.schedule": "paper silent; cosine down to 1 % as in ViCLIP's own training, with the policy's warm-up",
    "policy.kind": "LAMB (paper, table 5)",
    "policy.rule": "paper silent; the rule that the released ARP was trained with (specs/arp.md 9)",
    "policy.lr": "1.25e-5 (paper, table 5) per sample of the batch (specs/arp.md 9): 2.4e-3",
    "policy.betas": "(0.9, 0.999), as in ARP's own training (specs/arp.md 9)",
    "policy.weight_decay": "1e-4, as in ARP's own training (specs/arp.md 9)",
    "policy.schedule": "cosine (paper, table 5) to 1 % after 2,000 updates of warm-up (specs/arp.md 9)",
    "align.lr": "1e-4 (paper, 4.1)",
    "align.kind": "paper silent; Adam without decay at a constant rate, as in the probe",
    "augment": "shift by up to 12.5 % of the scene, yaw by up to 45 degrees, as in ARP's own training (specs/arp.md 2)",
    "colour_noise": "on, as in ARP's own training (specs/arp.md 2)",
    "kept_views": "none: the scene changes in every update, as in ARP's own training (specs/arp.md 2)",
    "camera": "videos from a front-facing perspective (paper, 4.1)",
    "frames_rule": "paper silent; the middle of equal parts, ViCLIP's rule for evaluation (specs/viclip.md 6)",
    "clip_norm": "none: neither ViCLIP's nor ARP's own training clips (specs/viclip.md 9, specs/arp.md 9)",
    "precision": "bfloat16 as in ViCLIP's own training; ARP's used float16 with a scaler (specs/arp.md 9)",
    "recompute": "paper silent; two GPUs of 80 GB could not hold it otherwise; ViCLIP's own training does it",
    "checkpoints": "evaluation every 10,000 iterations (paper, table 5)",
    "language_seed": "only without --language-weights; the paper's policy reads CLIP RN50 (specs/arp.md 11)",
    "seed": "paper silent",
}
"""Source of each number of the preset "paper", by option name."""


def preset(name: str) -> TrainConfig:
    """Return the preset of this name.

    >>> preset("paper").policy.lr
    0.0024000000000000002

    Raises: ConfigError for an unknown name, with the nearest one.
    """
    if name not in PRESETS:
        raise unknown_name("preset", name, list(PRESETS))
    return PRESETS[name]
