"""`mnprobe train`: joint training, the baseline, or one model alone."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mnprobe.cli import options as opt
from mnprobe.cli.console import leads, print_note, print_run

if TYPE_CHECKING:
    from mnprobe.data import Dataset
    from mnprobe.training import TrainConfig, TrainResult

__all__ = ["train"]


def train(
    run: opt.RunOption = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="Folder of demonstrations (repeatable); by default the run's demos.")
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            help="Defaults of the options below: tiny (minutes), goal (its suite), small (an hour), or paper."
        ),
    ] = ("tiny"),
    name: Annotated[str | None, typer.Option(help="Of the training; default baseline, joint or alone.")] = None,
    only: Annotated[
        Literal["understanding", "execution"] | None, typer.Option(help="Train this side alone, without the other.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed of initial weights, sampling and noise.")] = None,
    updates: Annotated[int | None, typer.Option(help="Number of updates; warm-ups scale with it.")] = None,
    batch: Annotated[int | None, typer.Option(help="Key-to-key steps per update, summed over processes.")] = None,
    clips: Annotated[int | None, typer.Option(help="Clips per understanding update, summed over processes.")] = None,
    understanding_share: Annotated[
        float | None, typer.Option(help="Share of the updates that train the video model.")
    ] = None,
    lambda_ee: Annotated[float | None, typer.Option(help="Weight of the policy's loss.")] = None,
    lambda_align: Annotated[float | None, typer.Option(help="Weight of the alignment loss; 0 is the baseline.")] = None,
    pairing: opt.PairingOption[Literal["episode", "instruction", "task"] | None] = None,
    positives: opt.PositivesOption[Literal["diagonal", "exclude", "multi"] | None] = None,
    tau: Annotated[float | None, typer.Option(help="Temperature of the alignment.")] = None,
    heads: opt.HeadsOption[Literal["linear", "mlp"] | None] = None,
    head_depth: Annotated[int | None, typer.Option(help="Number of layers of mlp heads.")] = None,
    dim: opt.DimOption[int | None] = None,
    temperature: Annotated[float | None, typer.Option(help="Temperature of the video-text loss; not trained.")] = None,
    video_lr: Annotated[float | None, typer.Option(help="Peak learning rate of the video encoder.")] = None,
    text_share: Annotated[
        float | None,
        typer.Option(help="Learning rate of the text encoder relative to the video encoder; 0 freezes it."),
    ] = None,
    policy_lr: Annotated[float | None, typer.Option(help="Peak learning rate of the policy.")] = None,
    heads_lr: Annotated[float | None, typer.Option(help="Peak learning rate of the two heads.")] = None,
    clip_norm: Annotated[
        float | None, typer.Option(help="Maximum gradient norm per model; 0 disables clipping.")
    ] = None,
    augment: Annotated[
        Literal["se3", "shift", "none"] | None,
        typer.Option(help="Augmentation of scenes: translate and rotate, translate, or none."),
    ] = None,
    colour_noise: Annotated[bool | None, typer.Option(help="Add noise to the policy's colours.")] = None,
    camera: opt.CameraOption = None,
    precision: opt.PrecisionOption[Literal["float32", "bf16"] | None] = None,
    checkpoint_every: Annotated[int | None, typer.Option(help="Updates between two checkpoints.")] = None,
    checkpoint_at: Annotated[
        str | None, typer.Option(help="Or checkpoints at these shares of the updates, such as 0,0.1,0.5,1.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other setting as KEY=VALUE, such as policy.kind=lamb or arp.width=64."),
    ] = None,
    viclip: Annotated[Path | None, typer.Option(help="Initial weights of the video model.")] = None,
    arp: Annotated[Path | None, typer.Option(help="Initial weights of the policy.")] = None,
    viclip_size: Annotated[
        str | None, typer.Option(help="Size of a new video model: tiny, b16, l14, or a JSON file of sizes.")
    ] = None,
    arp_size: Annotated[
        str | None, typer.Option(help="Size of a new policy: tiny, arp, arp_plus, or a JSON file of sizes.")
    ] = None,
    language_weights: opt.LanguageWeightsOption = None,
    partition: Annotated[
        list[str] | None, typer.Option(help="Default train, or all where the data have no partitions (repeatable).")
    ] = None,
    task: opt.TaskOption = None,
    instructions: opt.InstructionsOption = None,
    device: opt.DeviceOption = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads per process; 1 makes weights reproducible.")] = None,
    save_every: opt.SaveEveryOption = 500,
    log_every: Annotated[int, typer.Option(help="Updates between two rows of the metrics table.")] = 10,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print sizes, memory, schedule and sources; write nothing.")
    ] = False,
    as_json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Train ViCLIP and ARP jointly: L = L_AU + lambda_EE L_EE + lambda_align L_align. Run it again to resume.

    Checkpoints are written to checkpoints/viclip-<name> and checkpoints/arp-<name> of the run, losses (metrics.csv,
    TensorBoard) to training/<name>. With --lambda-align 0 no gradient is shared: the baseline. Under torchrun the
    processes share each batch: torchrun --nproc-per-node 2 -m mnprobe -- train ...

    Example: mnprobe train --run runs/first --preset tiny --lambda-align 0.5
    """
    from mnprobe.core.errors import ConfigError
    from mnprobe.core.rundir import RunDir, resolve_run
    from mnprobe.training import TrainConfig
    from mnprobe.training import preset as preset_named
    from mnprobe.training import train as run_training

    if threads is not None and threads < 1:
        raise ConfigError(f"--threads must be at least 1, got {threads}")
    given = opt.select_fields(TrainConfig, locals()) | {
        "video.lr": video_lr,
        "policy.lr": policy_lr,
        "align.lr": heads_lr,
        "checkpoints": _checkpoints(checkpoint_every, checkpoint_at),
        "viclip": _size("viclip", viclip_size, viclip),
        "arp": _size("arp", arp_size, arp),
    }
    given = {key: value for key, value in given.items() if value is not None and key != "updates"}
    config = _config(preset_named(preset), only, updates, given, option or [])
    if dry_run:
        run_dir = None if run is None else resolve_run(run)
    else:
        run_dir = RunDir.create(run) if run is not None and data else resolve_run(run)
    print_run(run_dir, quiet=quiet, as_json=as_json)
    folders = data or ([run_dir.demos] if run_dir is not None and run_dir.demos.is_dir() else None)
    if dry_run:
        if leads():
            episodes = None if folders is None else _dataset(folders, partition, task, instructions)
            _print_plan(config, episodes, device, viclip, arp, preset, as_json)
        return
    if folders is None or run_dir is None:
        where = "there is no run" if run_dir is None else f"run {run_dir.path} has no demos folder"
        raise ConfigError(f"no demonstrations: {where}. Give their folder with --data, or make some: mnprobe demos")
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    dataset = _dataset(folders, partition, task, instructions)
    for text in dataset.notes:
        print_note(quiet)(text)
    result = run_training(
        config,
        dataset,
        run_dir,
        name=name,
        device=device,
        start_viclip=viclip,
        start_arp=arp,
        language_weights=language_weights,
        save_every=save_every,
        log_every=log_every,
        quiet=quiet,
        note=print_note(quiet),
    )
    if leads():
        _print_result(result, as_json)


def _config(
    base: "TrainConfig", only: str | None, updates: int | None, given: dict[str, Any], option: list[str]
) -> "TrainConfig":
    """The preset, with the given settings applied."""
    from mnprobe.cli.train_settings import changed, over_updates, read_settings
    from mnprobe.core.errors import ConfigError

    settings = read_settings(option, own={"sides": "--only", "updates": "--updates"}, given=given)
    follows: dict[str, Any] = {}  # from an option, unless stated otherwise
    if only is not None:  # a requested alignment raises: one side alone has no counterpart
        follows |= {"sides": only, "lambda_align": 0.0}
    config = changed(base, follows | over_updates(base, updates) | settings)
    for key in settings if only is not None else ():
        if key.partition(".")[0] in config.unused:
            raise ConfigError(f"{key} is set, but only the {only} side is trained, which does not use it; leave it out")
    return config


def _checkpoints(every: int | None, at: str | None) -> Any:
    from mnprobe.core.errors import ConfigError

    if every is not None and at is not None:
        raise ConfigError("--checkpoint-every and --checkpoint-at both say when; give one of them")
    if at is None:
        return every
    try:
        return [float(part) for part in at.split(",")]
    except ValueError:
        raise ConfigError(f"--checkpoint-at must be numbers with commas, such as 0,0.1,0.5,1; got {at!r}") from None


def _size(model: str, size: str | None, weights: Path | None) -> Any:
    """Return the fields of a named size or of a JSON file."""
    from mnprobe.core.errors import ConfigError
    from mnprobe.training import TrainConfig

    if size is None:
        return None
    if weights is not None:
        raise ConfigError(f"--{model} {weights} tells the sizes of the model; leave --{model}-size {size} out")
    if not size.endswith(".json"):
        values: dict[str, Any] = {model: size}
        return TrainConfig(**values).to_dict()[model]
    try:
        fields = json.loads(Path(size).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--{model}-size {size}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise ConfigError(f"--{model}-size {size}: cannot be read as JSON ({error})") from error
    if not isinstance(fields, dict):
        raise ConfigError(f"--{model}-size {size}: must be a JSON object of fields, got {type(fields).__name__}")
    return fields


def _dataset(
    folders: list[Path], partition: list[str] | None, task: list[str] | None, instructions: Path | None
) -> "Dataset":
    """Return the training episodes: partition train by default, or all if the data have no partitions."""
    from mnprobe.data import open_dataset

    if partition:
        return open_dataset(folders, partitions=partition, tasks=task or None, instructions=instructions)
    everything = open_dataset(folders, tasks=task or None, instructions=instructions)
    if everything.partitions == ("",):
        return everything
    return open_dataset(folders, partitions=["train"], tasks=task or None, instructions=instructions)


def _print_plan(
    config: "TrainConfig",
    dataset: "Dataset | None",
    device: str,
    viclip: Path | None,
    arp: Path | None,
    preset: str,
    as_json: bool,
) -> None:
    import os

    from mnprobe.core.runtime import resolve_device
    from mnprobe.training.dry_run import plan_training

    plan = plan_training(
        config,
        device=resolve_device(device),
        processes=int(os.environ.get("WORLD_SIZE", "1")),
        start_viclip=viclip,
        start_arp=arp,
        preset=preset,
    )
    about = None
    if dataset is not None:
        texts = {episode.instruction for episode in dataset}
        about = {"episodes": len(dataset), "tasks": len(dataset.tasks), "instructions": len(texts)}
    if as_json:
        typer.echo(json.dumps({"dry_run": True, "data": about, **plan.to_dict()}, indent=2))
        return
    if about is not None:
        counts = f"{about['episodes']} episodes of {about['instructions']} instructions, {about['tasks']} tasks"
        typer.echo(f"data: {counts}\n")
    typer.echo(plan.text())
    typer.echo("\nnothing was written (--dry-run)")


def _print_result(result: "TrainResult", as_json: bool) -> None:
    if as_json:
        document = {
            "name": result.name,
            "status": result.status,
            "steps": result.steps,
            "checkpoints": [str(path) for path in result.checkpoints],
            "own_updates": result.own_updates,
            "metrics": result.metrics,
            "seconds": result.seconds,
            "waiting_for_data": result.waiting,
            "folder": str(result.folder),
        }
        typer.echo(json.dumps(document, indent=2))
        return
    for path in result.checkpoints:
        typer.echo(f"{result.status} {path}")
    losses = ", ".join(f"{name} {result.metrics[name]:.3f}" for name in ("au", "ee", "align") if name in result.metrics)
    typer.echo(
        f"{result.name}: {losses}; {result.seconds:.0f} s in updates, "
        f"{100 * result.waiting:.1f} % of them waiting for data; losses in {result.folder / 'metrics.csv'}"
    )
