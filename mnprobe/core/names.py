"""Names of models, sources and steps; identity of feature files and layers.

No other module composes or parses these names. On disk and in tables:

    checkpoints/<model>/step_00001000.safetensors        model: <family>-<training>, such as viclip-joint-seed1
    features/<folder>/<source>/step_00001000.h5          source: demos, rollouts, a user's; -blank: no instruction
    rollouts/<model>/step_00001000/                      -blank: played without instruction

The folder of features is the model, but for pixels of the rollouts of one training: pixels-<training>.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path, PurePath
from typing import Any, Self

from mnprobe.core.errors import ConfigError, FeatureError

__all__ = [
    "BLANK",
    "PIXELS",
    "RUN_CONFIG",
    "SCREEN",
    "USUAL_LAYERS",
    "FeatureId",
    "LayerId",
    "ModelName",
    "Side",
    "Source",
    "as_side",
    "blanked",
    "feature_path",
    "model_of_training",
    "parse_feature_path",
    "step_name",
    "step_of",
    "usual_layer",
    "usual_pool",
]

BLANK = "-blank"
"""Suffix of the source of features whose instruction was blanked, and of models that played without one."""
RUN_CONFIG = "run.toml"
"""File that makes a folder a run."""
PIXELS = "pixels"
"""Model of the understanding side without weights: the control for u (DESIGN 6, c)."""
_STEP = re.compile(r"step_(\d{8,})")
_OURS = re.compile(r"(?P<family>viclip|arp)(?:-(?P<training>(?!seed\d+$).+?))?(?:-seed(?P<seed>\d+))?")


class Side(StrEnum):
    """Side of an alignment: the action-understanding model (u) or the embodied-execution model (e)."""

    UNDERSTANDING = "understanding"
    EXECUTION = "execution"


class Source(StrEnum):
    """Sources of episodes that mnprobe names itself; users may name others."""

    DEMOS = "demos"
    ROLLOUTS = "rollouts"


SCREEN = "screen"
"""Layer of ARP's screen points: two zoom stages of three views, where the policy says which place it goes to."""
USUAL_LAYERS = {Side.UNDERSTANDING: ("u",), Side.EXECUTION: ("e",)}
"""The layer that is measured where none is named: the first of these that a store has. The one place that decides it:
("screen", "e") would measure the screen points wherever a store has them."""


def usual_layer(side: str, layers: Iterable[str]) -> str | None:
    """The layer that is measured where none is named; None if a store of these layers does not have it.

    >>> usual_layer("execution", ["e", "screen"]), usual_layer("understanding", ["cls"])
    ('e', None)
    """
    known = set(layers)
    return next((name for name in USUAL_LAYERS[as_side(side)] if name in known), None)


def usual_pool(layer: str) -> str:
    """Pooling of a layer where none is named: "concat" for the screen points, "mean" otherwise.

    The six screen points are six places, stage by view; their mean would mix what is said of the whole scene with what
    is said of its enlarged part, and the three directions of view.

    >>> usual_pool("screen"), usual_pool("e")
    ('concat', 'mean')
    """
    return "concat" if layer == SCREEN else "mean"


def as_side(value: object) -> Side:
    """Side from its name; FeatureError for any other value.

    >>> as_side("execution") is Side.EXECUTION
    True
    """
    for side in Side:
        if value == side:
            return side
    raise FeatureError(f"side must be one of {', '.join(Side)}, got {value!r}")


def step_name(step: int) -> str:
    """File name of a checkpoint without extension; steps are optimiser steps of the model.

    >>> step_name(1000)
    'step_00001000'
    """
    if step < 0:
        raise ConfigError(f"step must be >= 0, got {step}")
    return f"step_{step:08d}"


def step_of(name: str) -> int | None:
    """Step in a file or folder name, or None.

    >>> step_of("step_00001000.h5"), step_of("notes.txt")
    (1000, None)
    """
    match = _STEP.match(name)
    return int(match.group(1)) if match else None


def model_of_training(family: str, training: str) -> str:
    """Name of the model of one family ("viclip", "arp") that a training writes.

    >>> model_of_training("arp", "joint-seed1")
    'arp-joint-seed1'
    """
    return f"{family}-{training}"


def blanked(name: str) -> str:
    """Name of a source, or of a model that plays, when no instruction is given.

    >>> blanked("demos")
    'demos-blank'
    """
    return f"{name}{BLANK}"


def feature_path(folder: str, source: str, step: int) -> Path:
    """Relative path of a feature file.

    >>> feature_path("arp-joint", "demos-blank", 20).as_posix()
    'arp-joint/demos-blank/step_00000020.h5'
    """
    return Path(folder, source, f"{step_name(step)}.h5")


def parse_feature_path(path: PurePath) -> tuple[str, str, int] | None:
    """Folder, source and step in the last three parts of a path; None for other names.

    >>> parse_feature_path(Path("runs/a/features/arp-joint/demos-blank/step_00000020.h5"))
    ('arp-joint', 'demos-blank', 20)
    """
    step = step_of(path.name)
    if step is None or len(path.parts) < 3:
        return None
    return path.parts[-3], path.parts[-2], step


@dataclass(frozen=True, kw_only=True)
class ModelName:
    """Parts of a model's name in tables and folders.

    `family` is the kind of model, `training` the training's name without its seed ("" if none), `seed` the number after
    "-seed" (None if none), `blank` whether the model played without an instruction. Only ViCLIP and ARP are trained
    here; any other name is its own family. Raises ConfigError for parts whose text means something else.

    >>> str(ModelName(family="arp", training="joint", seed=1, blank=True))
    'arp-joint-seed1-blank'
    """

    family: str
    training: str = ""
    seed: int | None = None
    blank: bool = False

    def __post_init__(self) -> None:
        if _model_parts(str(self)) != (self.family, self.training, self.seed, self.blank):
            raise ConfigError(f"{str(self)!r}: as the name of a model, this has other parts than {vars(self)}")

    def __str__(self) -> str:
        seed = "" if self.seed is None else f"seed{self.seed}"
        return "-".join(part for part in (self.family, self.training, seed) if part) + (BLANK if self.blank else "")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse any name of a model.

        >>> ModelName.parse("arp-joint-seed1-blank")
        ModelName(family='arp', training='joint', seed=1, blank=True)
        >>> ModelName.parse("my-model")
        ModelName(family='my-model', training='', seed=None, blank=False)
        """
        family, training, seed, blank = _model_parts(text)
        return cls(family=family, training=training, seed=seed, blank=blank)

    @property
    def without_seed(self) -> str:
        """The name that all seeds of a training share."""
        return "-".join(part for part in (self.family, self.training) if part) + (BLANK if self.blank else "")


def _model_parts(text: str) -> tuple[str, str, int | None, bool]:
    blank = text.endswith(BLANK)
    match = _OURS.fullmatch(text.removesuffix(BLANK))
    if match is None:
        return text, "", None, False
    return match["family"], match["training"] or "", None if match["seed"] is None else int(match["seed"]), blank


@dataclass(frozen=True, kw_only=True)
class FeatureId:
    """Identity of one feature file: the features of one model at one training step on one source of episodes.

    `model` is the name in tables. `source` is the name of the data without "-blank"; a given name that ends so sets
    `blank`: the model was given no instruction. `step` counts optimiser steps, `training` is the name of the training
    of the weights ("" if none or unknown), and `trained` is False for random weights. The text, `str`, has all fields:

    >>> str(FeatureId(model="arp-joint", side=Side.EXECUTION, source="demos-blank", step=20, training="joint"))
    'execution/arp-joint/demos-blank/step_00000020/trained/joint'

    Raises FeatureError for an unknown side.
    """

    model: str
    side: Side
    source: str = Source.DEMOS
    blank: bool = False
    step: int = 0
    training: str = ""
    trained: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "side", as_side(self.side))
        if not self.blank and self.source.endswith(BLANK):
            object.__setattr__(self, "blank", True)
            object.__setattr__(self, "source", self.source.removesuffix(BLANK))
        object.__setattr__(self, "source", str(self.source))

    def __str__(self) -> str:
        return "/".join(map(_escape, self._texts()))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the text of an identity.

        Raises FeatureError for any other text.
        """
        given = [_unescape(part) for part in text.split("/")]
        step = step_of(given[3]) if len(given) > 3 else None
        own = [field.name for field in fields(cls) if field.name not in _FEATURE_FIELDS]
        if step is None or len(given) != 6 + len(own) or given[4] not in _TRAINED:
            form = "/".join(
                ["<side>/<model>/<source>/step_<number>/trained/<training>", *(f"<{name}>" for name in own)]
            )
            raise FeatureError(f"{text!r} does not identify features; the form is {form}")
        made: dict[str, Any] = dict(zip(("side", "model", "source"), given[:3], strict=True))
        made |= {"step": step, "trained": given[4] == _TRAINED[True], "training": given[5]}
        made |= dict(zip(own, given[6:], strict=True))
        parsed = cls(**made)
        if str(parsed) != text:
            raise FeatureError(f"{text!r} does not identify features; the canonical form is {str(parsed)!r}")
        return parsed

    @property
    def source_name(self) -> str:
        """Name of the source on disk and in tables, such as "demos" or "demos-blank"."""
        return blanked(self.source) if self.blank else self.source

    @property
    def name(self) -> ModelName:
        """Parts of the model's name."""
        return ModelName.parse(self.model)

    @property
    def seed(self) -> int | None:
        """Seed in the model's name; None if it has none."""
        return self.name.seed

    @property
    def title(self) -> str:
        """Model, step and whether the weights are random, for captions."""
        return f"{self.model} at step {self.step}{'' if self.trained else ', random weights'}"

    @property
    def folder(self) -> str:
        """Folder of the features in a run: the model, or pixels-<training> for pixels of rollouts of a training.

        >>> FeatureId(model="pixels", side=Side.UNDERSTANDING, training="joint", trained=False).folder
        'pixels-joint'
        """
        if self.model == PIXELS and self.training and not self.trained:
            return model_of_training(PIXELS, self.training)
        return self.model

    @property
    def path(self) -> Path:
        """Path of the file, relative to the run's features."""
        return feature_path(self.folder, self.source_name, self.step)

    def _texts(self) -> tuple[str, ...]:
        return self.side, self.model, self.source_name, step_name(self.step), _TRAINED[self.trained], self.training


@dataclass(frozen=True, kw_only=True)
class LayerId(FeatureId):
    """Identity of one vector per episode: a feature file, its layer, and the pooling of its tokens.

    >>> origin = LayerId(model="arp", side=Side.EXECUTION, step=5, layer="e", pool="token:3")
    >>> str(origin), origin.file_stem
    ('execution/arp/demos/step_00000005/trained//e/token:3', 'arp-demos-step5-e-token3')
    """

    layer: str = ""
    pool: str = "mean"

    @classmethod
    def of(cls, feature: FeatureId, *, layer: str, pool: str = "mean") -> Self:
        """A layer of a feature file."""
        return cls(**_feature_fields(feature), layer=layer, pool=pool)

    @property
    def id(self) -> FeatureId:
        """Identity of the file."""
        return FeatureId(**_feature_fields(self))

    @property
    def file_stem(self) -> str:
        """Short name in messages and in names of files of heads and scores; it is not parsed."""
        return f"{self.model}-{self.source_name}-step{self.step}-{self.layer}-{self.pool.replace(':', '')}"

    def _texts(self) -> tuple[str, ...]:
        return *super()._texts(), self.layer, self.pool


_FEATURE_FIELDS = tuple(field.name for field in fields(FeatureId))
_TRAINED = ("untrained", "trained")


def _feature_fields(feature: FeatureId) -> dict[str, Any]:
    return {name: getattr(feature, name) for name in _FEATURE_FIELDS}


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace("/", "%2F")


def _unescape(text: str) -> str:
    return text.replace("%2F", "/").replace("%25", "%")
