"""Options that several commands share, and the configuration fields among them."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import typer

from mnprobe.core.errors import ConfigError

__all__ = [
    "CameraOption",
    "ClusterOption",
    "DeviceOption",
    "DimOption",
    "ExecutionStoreOption",
    "FeatureSourceOption",
    "FigureOption",
    "FramesRuleOption",
    "HeadsOption",
    "ImageSizeOption",
    "InstructionsOption",
    "JsonOption",
    "LanguageWeightsOption",
    "LayerEOption",
    "LayerUOption",
    "MaxStepsOption",
    "OutcomesOption",
    "OutputOption",
    "OverwriteOption",
    "PairingOption",
    "PoolOption",
    "PositivesOption",
    "PrecisionOption",
    "ProbeStepsOption",
    "ProcessesOption",
    "QuietOption",
    "RendererOption",
    "ResamplesOption",
    "RunOption",
    "SaveEveryOption",
    "SeedOption",
    "StoredTypeOption",
    "SuiteOption",
    "TaskOption",
    "UnderstandingStoreOption",
    "WideOption",
    "WorldOption",
    "chosen_tasks",
    "line_width",
    "read_step",
    "select_fields",
]

T = TypeVar("T")

# The run and its data
RunOption: TypeAlias = Annotated[
    Path | None, typer.Option("--run", help="Run directory; by default the newest under ./runs.")
]
InstructionsOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--instructions", help="CSV (task,variation,instruction) in place of the dataset's instructions."),
]
OutcomesOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--outcomes", help="CSV (id,success), or the word 'successful' when all episodes are successes."),
]
TaskOption: TypeAlias = Annotated[
    list[str] | None, typer.Option("--task", help="Only this task (repeatable); default all.")
]
SuiteOption: TypeAlias = Annotated[
    str | None, typer.Option("--suite", help="All tasks of this suite, which the default leaves out: goal.")
]
CameraOption: TypeAlias = Annotated[str | None, typer.Option("--camera", help="Camera of the clips; default front.")]
FramesRuleOption: TypeAlias = Annotated[
    T,
    typer.Option(
        "--frames-rule",
        show_default=False,
        help="Frames of a clip: middles of equal parts (default), or every k-th (strided).",
    ),
]

# Feature stores
UnderstandingStoreOption: TypeAlias = Annotated[
    Path | None, typer.Option("--u", help="One feature store of the understanding side.")
]
ExecutionStoreOption: TypeAlias = Annotated[
    Path | None, typer.Option("--e", help="One feature store of the execution side.")
]
FeatureSourceOption: TypeAlias = Annotated[
    str, typer.Option("--source", help="Source of the features: demos, demos-blank, rollouts.")
]
LayerUOption: TypeAlias = Annotated[
    T, typer.Option("--layer-u", show_default=False, help="Layer of the understanding side; default u.")
]
LayerEOption: TypeAlias = Annotated[
    T, typer.Option("--layer-e", show_default=False, help="Layer of the execution side; default e.")
]
PoolOption: TypeAlias = Annotated[
    T,
    typer.Option(
        help="Pooling: mean, first, last, max, token:<k> or concat; default mean, and concat for the layer screen."
    ),
]

# Models and their computation
SeedOption: TypeAlias = Annotated[int, typer.Option("--seed", help="Seed of random weights.")]
LanguageWeightsOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--language-weights", help="CLIP RN50 weights for ARP's language tokens; default random, seed 0."),
]
DeviceOption: TypeAlias = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:<number>.")]
PrecisionOption: TypeAlias = Annotated[
    T, typer.Option("--precision", help="bf16 = mixed precision in the models, else float32.")
]
ProcessesOption: TypeAlias = Annotated[
    int, typer.Option("--jobs", help="Number of processes; -1 for one per core. Results do not depend on it.")
]
ClusterOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        help="Work on a cluster: dask:tcp://HOST:PORT, ray:HOST:PORT or ray:auto. Results do not depend on it.",
    ),
]
SaveEveryOption: TypeAlias = Annotated[
    int, typer.Option("--save-every", help="Updates between two saved states for resumption.")
]

# Alignment
PairingOption: TypeAlias = Annotated[T, typer.Option("--pairing", help="Definition of the same action.")]
HeadsOption: TypeAlias = Annotated[
    T, typer.Option("--heads", help="Type of T_u and T_e: linear as in the paper, or mlp.")
]
DimOption: TypeAlias = Annotated[T, typer.Option("--dim", help="Width of the shared space.")]
PositivesOption: TypeAlias = Annotated[
    T,
    typer.Option(
        help="Eq. 2 as printed (diagonal); same group removed from the denominator (exclude), or positive (multi)."
    ),
]
ProbeStepsOption: TypeAlias = Annotated[
    int | None,
    typer.Option("--steps", help="Optimiser steps per fit; default until the training loss is flat, at most 2000."),
]
ResamplesOption: TypeAlias = Annotated[int, typer.Option("--resamples", help="Number of permutations per test.")]

# Worlds
WorldOption: TypeAlias = Annotated[list[str] | None, typer.Option(help="KEY=VALUE for the world (repeatable).")]
MaxStepsOption: TypeAlias = Annotated[
    int, typer.Option("--max-steps", help="Number of key poses after which an episode fails, at most 25.")
]
RendererOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--renderer", help="Renderer of tabletop: rays (no graphics library; default), gl, or auto (gl if it works)."
    ),
]
ImageSizeOption: TypeAlias = Annotated[
    int | None, typer.Option("--image-size", help="Width and height of images; default 128.")
]

# Output
OutputOption: TypeAlias = Annotated[
    Path | None, typer.Option("--out", help="Output folder, or one file ending in .h5, instead of a run.")
]
StoredTypeOption: TypeAlias = Annotated[T, typer.Option("--dtype", help="Stored type.")]
FigureOption: TypeAlias = Annotated[
    Path | None, typer.Option("--out", help="Figure path without extension; default in the run's figures.")
]
OverwriteOption: TypeAlias = Annotated[
    bool, typer.Option("--overwrite", help="Replace existing stores of another configuration.")
]
WideOption: TypeAlias = Annotated[
    bool,
    typer.Option("--wide", help="Print every column, whole names, lines of any length; default lines of at most 100."),
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
QuietOption: TypeAlias = Annotated[bool, typer.Option("--quiet", help="Show no progress and no messages.")]


def read_step(text: str | None) -> tuple[int | None, bool]:
    """A step, and whether it is that whose success is nearest one half, from the text after --step.

    >>> read_step("2000"), read_step("half"), read_step(None)
    ((2000, False), (None, True), (None, False))
    """
    if text is None or text == "half":
        return None, text is not None
    if not (text.isascii() and text.isdigit()):
        raise ConfigError(f"--step must be a whole number from 0 on, or half, got {text!r}")
    return int(text), False


def line_width(wide: bool) -> int | None:
    """Characters of a line of a printed table; None with --wide."""
    from mnprobe.core.table import TERMINAL  # numpy is imported here, so that --help is fast

    return None if wide else TERMINAL


def chosen_tasks(
    tasks: list[str] | None, suite: str | None, world: str, options: Mapping[str, Any]
) -> list[str] | None:
    """Return the tasks that --task names, or those of --suite, a suite of the world made with `options`.

    Raises ConfigError where both are given, or the world has no such suite.
    """
    if suite is None:
        return tasks
    if tasks:
        raise ConfigError("--suite and --task both choose tasks; give one of them")
    from mnprobe.worlds.environment import suite_tasks

    return list(suite_tasks(suite, world, **options))


def select_fields(config: type[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Select the options of a command that have the name of a field of a configuration class.

    Options that were not given (None, or an empty list) are left out: the class has their defaults. Lists become
    tuples.

    >>> from mnprobe.core.runtime import Team
    >>> select_fields(Team, {"rank": 1, "size": None, "quiet": True})
    {'rank': 1}
    """
    names = [entry.name for entry in fields(config)]
    given = {name: options[name] for name in names if options.get(name) not in (None, [])}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
