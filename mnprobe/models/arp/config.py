"""ARPConfig: sizes and settings of a policy, with the released variants."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mnprobe.core.errors import ConfigError
from mnprobe.core.registry import unknown_name

__all__ = ["CAMERAS", "ARPConfig"]

CAMERAS = ("front", "left_shoulder", "right_shoulder", "wrist")
"""Camera order of the released models; the renderer breaks ties by point order, so the order is part of the model."""


@dataclass(frozen=True, kw_only=True)
class ARPConfig:
    """Everything that fixes the shape and the behaviour of an ARP policy; the defaults are the released `arp`.

    Source: the fact sheet of the published model (specs/arp.md), section 0 for the variants, 2 to 9 for values.

    >>> ARPConfig.arp().grid, ARPConfig.arp_plus().blocks
    (16, 10)
    >>> ARPConfig.from_dict(ARPConfig.tiny().to_dict()) == ARPConfig.tiny()
    True
    """

    cameras: tuple[str, ...] = CAMERAS
    image_size: int = 224
    """Side of a rendered view in pixels (S)."""
    patch_size: int = 14
    """Side of a patch in pixels, and the factor by which the heatmap head enlarges its map (r)."""
    vision_width: int = 512
    vision_heads: int = 8
    vision_head_width: int = 64
    vision_depth: int = 8
    """Layers of each multi-view transformer; the first half sees each view alone, the second all tokens."""
    language_length: int = 77
    language_width: int = 512
    state_width: int = 3
    """Robot state values: gripper open, left finger, right finger."""
    width: int = 128
    """Width of the policy and of the feature maps (n); the patch embedding has half of it."""
    heads: int = 8
    mlp_ratio: int = 4
    cross_blocks: int = 4
    """Blocks conditioned on a view's feature map; they predict the screen points."""
    self_blocks: int = 4
    """Blocks without condition; they predict the action tokens."""
    norm_before_modulation: bool = True
    """Whether a LayerNorm without parameters precedes the modulation layer (`arp` yes, `arp_plus` no)."""
    upsample_multiplier: float = 1.25
    """Hidden channels of the heatmap head over `width`."""
    rotation_bins: int = 72
    """Classes per Euler angle: 360 degrees over them is the resolution."""
    max_sequence: int = 17
    max_chunk: int = 2
    action_chunks: tuple[int, ...] = (1, 1, 1, 1, 1)
    """Chunk sizes over rot-x, rot-y, rot-z, grip, collision. The released policy predicts each alone, although the
    paper speaks of a gripper chunk of two, which is (1, 1, 1, 2) here."""
    dropout: float = 0.1
    bounds: tuple[float, float, float, float, float, float] = (-0.3, -0.5, 0.6, 0.7, 0.5, 1.6)
    """Workspace in world metres: lower x, y, z, then upper x, y, z."""
    drop_outside: bool = True
    """Whether points outside the bounds are dropped before rendering. (NaN points are dropped in any case.)"""
    place_with_mean: bool = False
    """Whether the cube is centred on the middle of each cloud's own extent instead of the middle of the bounds."""
    point_stride: int = 1
    """Subsampling of rows and columns of each camera's image into points, from the first; 2 uses a quarter of them.
    Applied when observations are built, so that training and inference have equal point density."""
    zoom: float = 4.0
    """How much the second stage enlarges the cloud around the first stage's point."""
    render_radius: float = 0.012
    """Radius of a drawn point; S/2 times this is its size in pixels."""
    heatmap_sigma: float = 1.5
    """Spread of the label heatmap in pixels."""
    waypoint_noise: float = 0.05
    """Training: the zoom centre moves by up to twice this, in cube units, along each axis."""
    rotation_shifts: tuple[int, ...] = (-2, -1, 0, -1, -2)
    """Training: shifts of the rotation tokens that are fed in. The released list, which has no positive shift."""
    rotation_shift_probabilities: tuple[float, ...] = (0.1, 0.2, 0.4, 0.2, 0.1)
    colour_noise: float = 0.05
    """Training: largest amplitude of the noise on colours (0..1)."""
    augment_translation: tuple[float, float, float] = (0.125, 0.125, 0.125)
    """Training: largest shift of the scene, as a share of each side of the bounds."""
    augment_rotation: tuple[float, float, float] = (0.0, 0.0, 45.0)
    """Training: largest roll, pitch, yaw of the scene, in degrees."""
    attention_gain: float = 1.0
    """Fresh weights: factor on the query and on the key layers of the multi-view transformers. Above 1, attention
    starts sharper; the released models start at 1."""
    untrained_language: str = "encoder"
    """Language tokens where no weights of a text encoder are given: those of a random CLIP text branch ("encoder"), or
    a random vector for each content word, the words repeated to `language_length` ("words"; see `WordVectors`)."""

    def __post_init__(self) -> None:
        for name in _SIZES:
            if getattr(self, name) < 1:
                raise ConfigError(f"ARPConfig.{name} must be at least 1, got {getattr(self, name)!r}")
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise ConfigError(f"ARPConfig.cameras must name at least one camera, each once, got {self.cameras!r}")
        if self.image_size % self.patch_size:
            raise ConfigError(
                f"ARPConfig.image_size must be a multiple of patch_size, got {self.image_size} and {self.patch_size}"
            )
        if self.width % 8:
            raise ConfigError(
                f"ARPConfig.width must be a multiple of 8 (half of it goes through 4 norm groups), got {self.width}"
            )
        if self.width % self.heads:
            raise ConfigError(f"ARPConfig.width must be a multiple of heads, got {self.width} and {self.heads}")
        if sum(self.action_chunks) != 5 or min(self.action_chunks) < 1 or max(self.action_chunks) > self.max_chunk:
            raise ConfigError(
                "ARPConfig.action_chunks must split the five action tokens into chunks of 1 to "
                f"{self.max_chunk}, got {self.action_chunks!r}"
            )
        if self.max_sequence < 11:
            raise ConfigError(
                f"ARPConfig.max_sequence must be at least 11 (6 prompts, 5 actions), got {self.max_sequence}"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"ARPConfig.dropout must lie in [0, 1), got {self.dropout!r}")
        if 360 % self.rotation_bins:
            raise ConfigError(f"ARPConfig.rotation_bins must divide 360, got {self.rotation_bins}")
        if not all(low < high for low, high in zip(self.bounds[:3], self.bounds[3:], strict=True)):
            raise ConfigError(
                f"ARPConfig.bounds must hold lower x, y, z and then greater upper x, y, z, got {self.bounds!r}"
            )
        for name in ("zoom", "render_radius", "heatmap_sigma", "upsample_multiplier", "attention_gain"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"ARPConfig.{name} must be > 0, got {getattr(self, name)!r}")
        for name in ("waypoint_noise", "colour_noise"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"ARPConfig.{name} must be >= 0, got {getattr(self, name)!r}")
        if self.untrained_language not in ("encoder", "words"):
            raise ConfigError(
                f"ARPConfig.untrained_language must be 'encoder' or 'words', got {self.untrained_language!r}"
            )
        shifts, chances = self.rotation_shifts, self.rotation_shift_probabilities
        if not shifts or len(shifts) != len(chances) or min(chances) < 0 or not abs(sum(chances) - 1) < 1e-6:
            raise ConfigError(
                "ARPConfig.rotation_shift_probabilities must give each of rotation_shifts a chance, with sum 1, "
                f"got {chances!r} for {shifts!r}"
            )

    @property
    def grid(self) -> int:
        """Side of a feature map in cells (k)."""
        return self.image_size // self.patch_size

    @property
    def blocks(self) -> int:
        """Blocks of the policy transformer."""
        return self.cross_blocks + self.self_blocks

    @property
    def upsample_width(self) -> int:
        """Hidden channels of the heatmap head (h)."""
        return int(self.upsample_multiplier * self.width)

    @property
    def rotation_resolution(self) -> int:
        """Degrees per rotation bin."""
        return 360 // self.rotation_bins

    @classmethod
    def arp(cls) -> "ARPConfig":
        """The released `arp` (72,115,622 parameters): 4 conditioned, 4 plain blocks. The paper's model fits this."""
        return cls()

    @classmethod
    def arp_plus(cls) -> "ARPConfig":
        """The released `arp_plus` (74,014,374 parameters): 6 plain blocks, wider head, no norm before modulation."""
        return cls(self_blocks=6, norm_before_modulation=False, upsample_multiplier=2.0)

    @classmethod
    def tiny(cls) -> "ARPConfig":
        """The architecture of `arp` at a size that learns on a laptop CPU in minutes; docs/training.md has the figures.

        The patch size matters most: cells must not be much larger than the objects to distinguish. Dropout is off,
        because attention with dropout is slow on CPUs.
        """
        return cls(
            image_size=48,
            patch_size=6,
            vision_width=64,
            vision_heads=4,
            vision_head_width=16,
            vision_depth=2,
            language_length=16,
            language_width=64,
            width=64,
            heads=4,
            cross_blocks=2,
            self_blocks=2,
            upsample_multiplier=0.5,
            dropout=0.0,
            render_radius=0.06,
            point_stride=2,
        )

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values; `from_dict` is the inverse.

        Of the fields that files once did not have, those at their defaults are left out, so that such files stay equal.
        """
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {name: value for name, value in values.items() if (name, value) not in _ADDED.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ARPConfig":
        """Build a configuration from `to_dict` or JSON; missing fields get their defaults.

        Raises:
            ConfigError: an unknown field or an invalid value.
        """
        kinds = {field.name: str(field.type) for field in fields(cls)}
        for name in values:
            if name not in kinds:
                raise unknown_name("ARPConfig field", name, list(kinds))
        try:
            return cls(**{name: _plain(value, "float" in kinds[name]) for name, value in values.items()})
        except TypeError as error:
            raise ConfigError(f"ARPConfig cannot be made from {dict(values)!r}: {error}") from error


_ADDED = {"attention_gain": 1.0, "untrained_language": "encoder"}

_SIZES = (
    "image_size",
    "patch_size",
    "vision_width",
    "vision_heads",
    "vision_head_width",
    "vision_depth",
    "language_length",
    "language_width",
    "state_width",
    "width",
    "heads",
    "mlp_ratio",
    "cross_blocks",
    "self_blocks",
    "rotation_bins",
    "max_sequence",
    "max_chunk",
    "point_stride",
)


def _plain(value: Any, real: bool) -> Any:
    """A JSON value as a configuration holds it: lists are tuples, and 4 is 4.0 where a real number is meant."""
    if isinstance(value, list | tuple):
        return tuple(_plain(item, real) for item in value)
    return float(value) if real and isinstance(value, int) and not isinstance(value, bool) else value
