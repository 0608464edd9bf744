"""`mnprobe extract`: frozen features of models, written to HDF5 stores."""

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["extract"]


class Dtype(StrEnum):
    """Number types of stored values."""

    float32 = "float32"
    float16 = "float16"


class Precision(StrEnum):
    """Numerical precision of the model."""

    float32 = "float32"
    bf16 = "bf16"


class FramesRule(StrEnum):
    """Rules for choosing frames."""

    middle = "middle"
    strided = "strided"


class Decoding(StrEnum):
    """Source of the policy's earlier tokens."""

    greedy = "greedy"
    teacher = "teacher"


class Side(StrEnum):
    """Side of a hooked model."""

    understanding = "understanding"
    execution = "execution"


def extract(
    run: Annotated[Path | None, typer.Option(help="Run directory; by default the newest under ./runs.")] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of demonstrations (repeatable); by default the run's demos, or its rollouts."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="viclip, arp, pixels, hook, a plugin, or a model of the run (repeatable)."),
    ] = None,
    checkpoint: Annotated[
        list[Path] | None, typer.Option(help="Weights file (repeatable); the model is detected from the file.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Model name under which the features are stored.")] = None,
    step: Annotated[int | None, typer.Option(help="Training step, where the file does not tell it.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="Size of random weights: tiny, b16, l14 (viclip); tiny, arp, arp_plus (arp).")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="JSON file with the model's sizes, if the weights do not contain them.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of random weights.")] = 0,
    source: Annotated[
        str,
        typer.Option(help="Name of the data. rollouts without --data: each checkpoint on its own episodes."),
    ] = "demos",
    partition: Annotated[list[str] | None, typer.Option(help="train, val or test (repeatable).")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only this task (repeatable).")] = None,
    limit: Annotated[int | None, typer.Option(help="Maximum number of episodes.")] = None,
    instructions: Annotated[
        Path | None, typer.Option(help="CSV (task,variation,instruction) in place of the dataset's instructions.")
    ] = None,
    outcomes: Annotated[
        str | None, typer.Option(help="CSV (id,success), or the word 'successful' when all episodes are successes.")
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            help="u, cls, e, norm, screen, blocks.<i>, a pattern such as 'blocks.*', or model=layer (repeatable); "
            "default u and e. For --model hook: a submodule, output, or one member of what it gives: output[0]."
        ),
    ] = None,
    camera: Annotated[str | None, typer.Option(help="Camera of understanding models; default front.")] = None,
    frames_rule: Annotated[
        FramesRule | None, typer.Option(help="Frames of a clip: middles of equal parts (default), or every k-th.")
    ] = None,
    decoding: Annotated[
        Decoding | None,
        typer.Option(help="Earlier tokens of ARP: its own (greedy, default) or the true ones (teacher)."),
    ] = None,
    blank_instruction: Annotated[
        bool,
        typer.Option(
            "--blank-instruction", help="Control: give the policy no instruction; '-blank' is added to the source."
        ),
    ] = False,
    language_weights: Annotated[
        Path | None, typer.Option(help="CLIP RN50 weights for ARP's language tokens; default random, seed 0.")
    ] = None,
    factory: Annotated[str | None, typer.Option(help="For --model hook: package.module:factory.")] = None,
    side: Annotated[Side | None, typer.Option(help="For --model hook: side of the model.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE for a plugin, or an argument of the hook's factory (repeatable)."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<number>.")] = "auto",
    batch_size: Annotated[int, typer.Option(help="Episodes per forward pass and per resumable piece.")] = 8,
    dtype: Annotated[Dtype, typer.Option(help="Stored type.")] = Dtype.float32,
    precision: Annotated[Precision, typer.Option(help="bf16 = mixed precision in the model.")] = Precision.float32,
    out: Annotated[
        Path | None, typer.Option(help="Output folder, or one file ending in .h5, instead of a run.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace existing stores of another configuration.")
    ] = False,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Skip episodes with damaged files, and list them.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress and no messages.")] = False,
) -> None:
    """Extract frozen features of models on demonstrations to HDF5; an interrupted command resumes when run again.

    With --source rollouts it uses all rollouts of the run's ARP checkpoints: each folder with the checkpoint that
    played it and the ViCLIP checkpoint of the same training and step; --model pixels adds the pixel control.

    Under torchrun the processes share the work: torchrun --nproc-per-node 2 -m mnprobe extract ...

    Example: mnprobe extract --data path/to/rlbench --model viclip --model arp --out features
    """
    from mnprobe.core.errors import ConfigError
    from mnprobe.core.rundir import resolve_run
    from mnprobe.features.extraction import extract as run_extract
    from mnprobe.features.extractors.base import parse_options

    leads = _leads()

    def remark(text: str) -> None:
        if leads and not quiet:
            typer.echo(text, err=True)

    run_dir = None if run is None and out is not None else resolve_run(run)
    if run_dir is not None and leads and not quiet:
        typer.echo(f"run: {run_dir.path}", err=as_json)
    options: dict[str, object] = {
        "camera": camera,
        "frames_rule": frames_rule.value if frames_rule else None,
        "decoding": decoding.value if decoding else None,
        "blank_instruction": True if blank_instruction else None,
        "language_weights": str(language_weights) if language_weights else None,
        "factory": factory,
        "side": side.value if side else None,
    }
    extra = parse_options(option or [])
    for key in () if factory else extra:
        if key in options:
            raise ConfigError(f"--option {key}: is an option of its own; write --{key.replace('_', '-')}")
    options |= ({"arguments": extra} if extra else {}) if factory else extra
    done = run_extract(
        data or None,
        run=run_dir,
        out=out,
        models=model or (),
        checkpoints=checkpoint or (),
        name=name,
        step=step,
        preset=preset,
        model_config=config,
        seed=seed,
        source=source,
        partitions=partition or None,
        tasks=task or None,
        limit=limit,
        instructions=instructions,
        outcomes=outcomes,
        layers=layer or (),
        options=options,
        device=device,
        batch_size=batch_size,
        dtype=dtype.value,
        precision=precision.value,
        overwrite=overwrite,
        skip_broken=skip_broken,
        quiet=quiet,
        note=remark,
    )
    if not leads:
        return
    if as_json:
        typer.echo(json.dumps([asdict(entry) | {"path": str(entry.path)} for entry in done], indent=2))
        return
    for entry in done:
        state = "" if entry.trained else ", not trained"
        if entry.skipped:
            state += f"; {entry.skipped} broken {'episode' if entry.skipped == 1 else 'episodes'} left out"
        typer.echo(f"{entry.status} {entry.path}: {entry.episodes} episodes, {', '.join(entry.layers)}{state}")


def _leads() -> bool:
    """Whether this process prints; under torchrun only process 0 does."""
    import os

    return os.environ.get("RANK", "0") == "0"
