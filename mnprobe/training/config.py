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
from mnprobe.probe.items import GroupKind
from mnprobe.probe.losses import Positives
from mnprobe.training.optimizers import OptimiserConfig

__all__ = ["PRESETS", "SOURCES", "Augment", "Precision", "Sides", "TrainConfig", "preset"]

Sides = Literal["both", "understanding", "execution"]
Augment = Literal["se3", "shift", "none"]
Precision = Literal["float32", "bf16"]

_REVISION = 1  # raise when a change of code changes what the same settings train

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
_OF_POLICY = ("arp", "policy", "lambda_ee", "augment", "colour_noise", "language_seed")
_OF_ALIGNMENT = ("align", "heads", "head_depth", "dim", "tau", "positives")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What is trained and how: L = L_AU + lambda_EE L_EE + lambda_align L_align (paper, equation 5).

    An update is a step of the joint optimiser. Every update trains the policy; a share of them (`understanding_share`)
    trains the video model and the alignment too. With one side alone the same updates are counted, so that a model
    trained alone equals the one of a baseline (lambda_align 0) with the same seed, and steps of both pair up.

    Raises: ConfigError where a value is impossible or two contradict each other.
    """

    viclip: str | ViCLIPConfig = "tiny"
    """Size of the video model when it starts from scratch: tiny, b16, l14, or a configuration."""
    arp: str | ARPConfig = "tiny"
    """Size of the policy when it starts from scratch: tiny, arp, arp_plus, or a configuration."""
    sides: Sides = "both"
    updates: Whole = 300
    batch: Whole = 32
    """Transitions (key pose to key pose) of an update, all processes together."""
    clips: Whole | None = None
    """Clips of an understanding update; as many as transitions when None. Pairs are made of the first ones; further
    clips take part in L_AU alone."""
    understanding_share: Number = 0.2
    lambda_ee: Number = 1.0
    lambda_align: Number = 0.5
    """0 is the baseline: both models trained side by side, on the same batches, without a word to each other."""
    pairing: GroupKind = "instruction"
    """What a clip and a transition must share to be a positive pair."""
    positives: Positives = "diagonal"
    """What else in a batch counts as a positive; see `mnprobe.probe.info_nce`."""
    tau: Number = 0.1
    heads: HeadKind = "linear"
    head_depth: Whole = 2
    """Layers of an mlp head."""
    dim: Whole = 1024
    """Width of the shared space."""
    temperature: Number = 0.05
    """Of L_AU; fixed."""
    text_share: Number = 0.05
    """Learning rate of the text encoder over that of the video encoder."""
    video: OptimiserConfig = field(default_factory=lambda: OptimiserConfig(kind="adamw", lr=1e-5))
    policy: OptimiserConfig = field(default_factory=lambda: OptimiserConfig(kind="adamw", lr=1e-3))
    align: OptimiserConfig = field(default_factory=lambda: OptimiserConfig(kind="adam", lr=1e-4))
    """Optimiser of the two heads."""
    augment: Augment = "se3"
    """se3: shift and turn the scene; shift: shift it only; none: leave it. The zoom centre and the rotation tokens that
    are fed in are noisy in any case, as the policy's own configuration says."""
    colour_noise: Truth = True
    camera: str = "front"
    """Camera of the clips. The policy's cameras are in its own configuration."""
    frames_rule: FramesRule = "middle"
    clip_norm: Number | None = None
    """Largest norm of each model's gradient (each by itself, so that a baseline couples nothing); None leaves it."""
    precision: Precision = "float32"
    recompute: Truth = False
    """Whether the video encoder's blocks keep their inputs alone and compute the rest again in the backward pass: much
    less memory, more time, the same numbers."""
    checkpoints: Array = (0.0, 0.1, 0.25, 0.5, 1.0)
    """Shares of the updates after which checkpoints are written, or a number: every so many updates. The first (step 0)
    and the last are always written."""
    language_seed: Whole = 0
    """Seed of the policy's language encoder where no weights are given."""
    seed: Whole = 0

    def __post_init__(self) -> None:
        self._check_names()
        self._settle()
        for name in ("updates", "batch", "dim", "head_depth"):
            _whole(name, getattr(self, name))
        if self.clips is not None:
            _whole("clips", self.clips)
        for name in ("tau", "temperature"):
            _positive(name, getattr(self, name))
        if self.clip_norm is not None:
            _positive("clip_norm", self.clip_norm)
        for name in ("lambda_ee", "lambda_align", "text_share"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise ConfigError(f"{name} must be a number of at least 0, got {value!r}")
        check_seed(self.seed)
        check_seed(self.language_seed, name="language_seed")
        self._check_sides()
        self._check_checkpoints()

    @property
    def trains_viclip(self) -> bool:
        """Whether the video model takes part."""
        return self.sides != "execution"

    @property
    def trains_arp(self) -> bool:
        """Whether the policy takes part."""
        return self.sides != "understanding"

    @property
    def aligns(self) -> bool:
        """Whether the alignment loss takes part."""
        return self.sides == "both" and self.lambda_align > 0

    @property
    def unused(self) -> tuple[str, ...]:
        """Settings of what is not trained."""
        unused: tuple[str, ...] = () if self.trains_viclip else _OF_VIDEO
        unused += () if self.trains_arp else _OF_POLICY
        return unused + (() if self.aligns else _OF_ALIGNMENT)

    @property
    def clips_drawn(self) -> int:
        """Clips of an understanding update."""
        return self.batch if self.clips is None else self.clips

    @property
    def default_name(self) -> str:
        """Name of the training where none is given: baseline, joint or alone."""
        return "alone" if self.sides != "both" else "joint" if self.aligns else "baseline"

    def understands(self, update: int) -> bool:
        """Whether the update with this number (from 0) trains the video model: its share, evenly spread.

        >>> [update for update in range(10) if TrainConfig(understanding_share=0.2).understands(update)]
        [4, 9]
        """
        if not self.trains_viclip:
            return False
        return _passed(update + 1, self.understanding_share) > _passed(update, self.understanding_share)

    def checkpoint_steps(self) -> tuple[int, ...]:
        """The updates after which checkpoints are written, ascending.

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
        """The video model's sizes, presets looked up."""
        found: ViCLIPConfig = getattr(ViCLIPConfig, self.viclip)() if isinstance(self.viclip, str) else self.viclip
        return found

    def arp_config(self) -> ARPConfig:
        """The policy's sizes, presets looked up."""
        found: ARPConfig = getattr(ARPConfig, self.arp)() if isinstance(self.arp, str) else self.arp
        return found

    def with_updates(self, updates: int) -> "TrainConfig":
        """The same training over another number of updates: warm-ups keep their share of it.

        >>> config = TrainConfig(updates=300, policy=OptimiserConfig(kind="adamw", lr=1e-3, warmup=15))
        >>> config.with_updates(100).policy.warmup
        5
        """
        _whole("updates", updates)

        def scaled(part: OptimiserConfig) -> OptimiserConfig:
            return replace(part, warmup=round(part.warmup * updates / self.updates))

        parts = scaled(self.video), scaled(self.policy), scaled(self.align)
        return replace(self, updates=updates, video=parts[0], policy=parts[1], align=parts[2])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, sizes written out; `from_dict` reads them back."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        sizes = {"viclip": self.viclip_config().to_dict(), "arp": self.arp_config().to_dict()}
        parts = {name: asdict(values[name]) for name in ("video", "policy", "align")}
        plain: dict[str, Any] = _plain(values | sizes | parts)
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """Rebuild from `to_dict` or JSON; what is left out keeps its default.

        >>> TrainConfig.from_dict(TrainConfig(tau=0.2).to_dict()).tau
        0.2

        Raises: ConfigError for an unknown field, or a value that the configuration refuses.
        """
        known = [entry.name for entry in fields(cls)]
        for name in values:
            if name not in known:
                raise unknown_name("training option", name, known)
        found = dict(values)
        if isinstance(found.get("viclip"), Mapping):
            found["viclip"] = ViCLIPConfig.from_dict(found["viclip"])
        if isinstance(found.get("arp"), Mapping):
            found["arp"] = ARPConfig.from_dict(found["arp"])
        for name in ("video", "policy", "align"):
            if isinstance(found.get(name), Mapping):
                found[name] = _optimiser(name, found[name])
        if isinstance(found.get("checkpoints"), list):
            found["checkpoints"] = tuple(float(share) for share in found["checkpoints"])
        return cls(**found)

    def measurement(self) -> dict[str, Any]:
        """The settings that change weights, as plain values: those of a side that is not trained are left out."""
        values = self.to_dict() | {"revision": _REVISION}
        return {name: value for name, value in values.items() if name not in (*self.unused, "recompute")}

    def digest(self) -> str:
        """16 digits that stand for `measurement()`."""
        return config_hash(self.measurement())

    def _settle(self) -> None:
        """Numbers of any make become Python's own, so that equal settings have equal digests."""
        settle(
            self,
            wholes=("updates", "batch", "clips", "dim", "head_depth", "seed", "language_seed"),
            numbers=(
                *("understanding_share", "lambda_ee", "lambda_align", "tau", "temperature", "text_share"),
                "clip_norm",
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
    """Understanding updates among the first `updates`; rounded so that 0.2 of 5 is 1 and not a hair less."""
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


def _optimiser(name: str, values: Mapping[str, Any]) -> OptimiserConfig:
    known = [entry.name for entry in fields(OptimiserConfig)]
    for entry in values:
        if entry not in known:
            raise unknown_name(f"option of the optimiser {name!r}:", entry, known)
    found: dict[str, Any] = {key: tuple(item) if isinstance(item, list) else item for key, item in values.items()}
    return OptimiserConfig(**found)


_TABLETOP = (-0.1, -0.3, 0.7, 0.5, 0.3, 1.3)  # metres; where the tabletop's things are: a cube of 60 cm

_TINY = TrainConfig(
    viclip="tiny",
    arp=replace(ARPConfig.tiny(), bounds=_TABLETOP),
    updates=1000,
    batch=16,
    clips=48,
    understanding_share=0.2,
    temperature=0.05,
    text_share=1.0,
    video=OptimiserConfig(kind="adamw", lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05, warmup=50, floor=0.02),
    policy=OptimiserConfig(kind="adamw", lr=3e-3, weight_decay=1e-4, warmup=50, floor=0.02),
    align=OptimiserConfig(kind="adamw", lr=1e-3, weight_decay=0.0, warmup=50, floor=0.02),
    clip_norm=1.0,
    augment="none",
    colour_noise=False,
)

PRESETS: Mapping[str, TrainConfig] = {
    "tiny": _TINY,
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
        video=OptimiserConfig(
            kind="adamw", lr=1e-5, betas=(0.9, 0.98), weight_decay=0.2, warmup=2000, schedule="cosine", floor=0.01
        ),
        policy=OptimiserConfig(
            kind="lamb",
            lr=1.25e-5 * 192,
            rule="capped",
            betas=(0.9, 0.999),
            weight_decay=1e-4,
            warmup=2000,
            schedule="cosine",
            floor=0.01,
        ),
        align=OptimiserConfig(kind="adam", lr=1e-4, weight_decay=0.0, warmup=0, schedule="constant"),
        clip_norm=None,
        augment="se3",
        colour_noise=True,
        precision="bf16",
        recompute=True,
        checkpoints=10_000,
    ),
}
"""tiny: minutes on two CPU cores; small: an hour on them, or minutes on a GPU; paper: the paper's own settings."""

SOURCES: Mapping[str, str] = {
    "viclip": "ViCLIP-L-14 of InternVid (paper 4.1 and C.1 name ViCLIP and its reference; specs/viclip.md 1)",
    "arp": "ARP with the multi-view transformer, 8 layers of width 128, MLP 512 (paper, table 5)",
    "updates": "80,000 train iterations (paper, table 5)",
    "batch": "96*2 = 192 (paper, table 5 and C.3)",
    "clips": "as many as transitions: the paper gives one batch size (C.3); our reading",
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
    "camera": "videos from a front-facing perspective (paper, 4.1)",
    "frames_rule": "paper silent; the middle of equal parts, ViCLIP's rule for evaluation (specs/viclip.md 6)",
    "clip_norm": "none: neither ViCLIP's nor ARP's own training clips (specs/viclip.md 9, specs/arp.md 9)",
    "precision": "bfloat16 as in ViCLIP's own training; ARP's used float16 with a scaler (specs/arp.md 9)",
    "recompute": "paper silent; two GPUs of 80 GB could not hold it otherwise; ViCLIP's own training does it",
    "checkpoints": "evaluation every 10,000 iterations (paper, table 5)",
    "language_seed": "only without --language-weights; the paper's policy reads CLIP RN50 (specs/arp.md 11)",
    "seed": "paper silent",
}
"""Where each number of the preset "paper" comes from, by the name of the option."""


def preset(name: str) -> TrainConfig:
    """The training of this name.

    >>> preset("paper").policy.lr
    0.0024000000000000002

    Raises: ConfigError for an unknown name, with the nearest one.
    """
    if name not in PRESETS:
        raise unknown_name("preset", name, list(PRESETS))
    return PRESETS[name]
