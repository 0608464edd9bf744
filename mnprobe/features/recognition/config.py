"""RecognitionConfig: settings of action recognition and of the forgetting check."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mnprobe.core.arrays import Truth, Whole, settle
from mnprobe.core.errors import ConfigError
from mnprobe.core.seeds import check_seed
from mnprobe.features.extractors.base import check_computation, check_one_size, one_of

__all__ = ["TEMPLATE", "RecognitionConfig"]

TEMPLATE = "a video of {}"
"""Text template of a class, common for image-text and video-text classifiers."""

_OF_EPISODES = {  # fields that the forgetting check does not use, with their options
    "source": "--source",
    "partitions": "--partition",
    "candidates": "--candidates",
    "instructions": "--instructions",
    "camera": "--camera",
}


@dataclass(frozen=True, kw_only=True)
class RecognitionConfig:
    """Configuration of `recognize` (episodes) and `check_forgetting` (natural videos).

    Raises: ConfigError when a value is out of range or two values contradict each other. What depends on the run, the
    data or the machine is checked by these functions.
    """

    models: Sequence[str] = ()
    """Video models of the run; empty, without checkpoints and preset: all. See `choose_video_models`, also for the
    next fields."""
    checkpoints: Sequence[Path] = ()
    """Weights files of ViCLIP, ours or as published."""
    name: str | None = None
    """Name of the model in the tables."""
    step: Whole | None = None
    """Only this step of the run; or the step of a weights file that does not record one."""
    preset: str | None = None
    """Use random weights of this size."""
    model_config: Mapping[str, Any] | None = None
    """Configuration of weights whose file does not contain it."""
    seed: Whole = 0
    """Seed of random weights."""
    source: str | None = None
    """Episodes: name of the data in the tables; None means "rollouts" for a folder within the run's rollouts, else
    "demos"."""
    partitions: Sequence[str] = ()
    """Episodes: "train", "val", "test", or "all"; empty means "test" if the data have it, else all."""
    candidates: Path | Sequence[str] | None = None
    """Episodes: candidate texts, or a file with one per line, instead of the dataset's instructions."""
    instructions: Path | str | Mapping[str, str | Sequence[str]] | None = None
    """Episodes: see `mnprobe.data.open_dataset`."""
    camera: str | None = None
    """Episodes: camera of the clips; None means "front"."""
    template: str | None = None
    """Videos: text template of a class, in which "{}" is replaced by its name; None means TEMPLATE."""
    frames_rule: str = "middle"
    """Frames of a clip: the middles of equal parts ("middle"), or every k-th ("strided")."""
    device: str = "auto"
    """ "auto", "cpu", "cuda", "cuda:<number>"."""
    batch_size: Whole = 8
    """Clips per forward pass and per resumable piece."""
    precision: Literal["float32", "bf16"] = "float32"
    """ "bf16" for mixed precision in the model."""
    skip_broken: Truth = False
    """Skip episodes or videos whose files are missing or damaged, and report them with reasons, instead of raising at
    the first."""

    def __post_init__(self) -> None:
        settle(
            self,
            wholes=("step", "batch_size"),
            truths=("skip_broken",),
            lists=("models", "checkpoints", "partitions"),
        )
        object.__setattr__(self, "seed", check_seed(self.seed, name="--seed"))
        if isinstance(self.candidates, str):  # one text is nothing to choose from
            object.__setattr__(self, "candidates", Path(self.candidates))
        if self.template is not None and self.template.count("{}") != 1:
            raise ConfigError(f"--template {self.template!r}: must hold {{}} once, where the name of the class goes")
        one_of("frames_rule", self.frames_rule, ("middle", "strided"))
        check_computation(self.batch_size, self.precision)
        check_one_size(self.preset, self.model_config)
        given: Any = self.model_config
        if given is not None and not isinstance(given, Mapping):
            raise ConfigError(f"model_config must be a mapping of the fields of ViCLIP, got {type(given).__name__}")

    def check_for_episodes(self) -> None:
        """Raise ConfigError for a setting of the forgetting check."""
        if self.template is not None:
            raise ConfigError("--template: belongs to the forgetting check; say which videos with --videos FOLDER")

    def check_for_videos(self) -> None:
        """Raise ConfigError for a setting of episodes."""
        for name, option in _OF_EPISODES.items():
            if getattr(self, name) not in (None, ()):
                raise ConfigError(f"{option}: is about episodes, --videos about natural videos; leave one out")
