"""`mnprobe extract`: frozen features of models, written to HDF5 stores."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mnprobe.cli import options as opt
from mnprobe.cli.console import leads, print_note, print_run

__all__ = ["extract"]


def extract(
    run: opt.RunOption = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="Dataset, or KIND:PATH with lerobot, hdf5, videos, rlbench (repeatable); by default the run's demos, "
            "or its rollouts."
        ),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="viclip, arp, pixels, hf:FOLDER or hf:OWNER/NAME (transformers), lerobot:FOLDER or lerobot:TYPE, "
            "pi0:FOLDER, hook, a plugin, or a model of the run (repeatable).",
        ),
    ] = None,
    checkpoints: Annotated[
        list[Path] | None,
        typer.Option("--checkpoint", help="Weights file (repeatable); the model is detected from the file."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Model name under which the features are stored.")] = None,
    step: Annotated[
        str | None,
        typer.Option(
            help="Training step, where the file does not tell it; half: with --source rollouts, only the checkpoint of "
            "each policy whose success is nearest one half.",
        ),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Size of random weights: tiny, b16, l14 (viclip); tiny, arp, arp_plus (arp).")
    ] = None,
    model_config: Annotated[
        Path | None,
        typer.Option("--config", help="JSON file with the model's sizes, if the weights do not contain them."),
    ] = None,
    seed: opt.SeedOption = 0,
    source: Annotated[
        str,
        typer.Option(help="Name of the data. rollouts without --data: each checkpoint on its own episodes."),
    ] = "demos",
    partitions: Annotated[
        list[str] | None, typer.Option("--partition", help="train, val or test (repeatable).")
    ] = None,
    tasks: opt.TaskOption = None,
    episodes: Annotated[
        list[str] | None, typer.Option("--episodes", help="Positions such as 0:50, or ids (repeatable); default all.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Maximum number of episodes.")] = None,
    instructions: opt.InstructionsOption = None,
    outcomes: opt.OutcomesOption = None,
    decisions: Annotated[
        int | None, typer.Option(help="Evenly spaced decisions of an episode without keyframes; default 8.")
    ] = None,
    flip: Annotated[
        Literal["auto", "none", "vertical", "rotate180"],
        typer.Option(help="Images of HDF5 files: turned over where the file says so (auto), or always."),
    ] = "auto",
    layers: Annotated[
        list[str] | None,
        typer.Option(
            "--layer",
            help="u, cls, e, norm, screen, blocks.<i>, a pattern such as 'blocks.*', or model=layer (repeatable); "
            "default u, and e with screen. For hf: u, pooled, mean, cls, hidden.<i>. "
            "For --model hook: a submodule, output, or one member of what it gives: output[0]; NAME:in is an input. "
            "For lerobot and pi0: e, vlm, or as for hook.",
        ),
    ] = None,
    camera: opt.CameraOption = None,
    frames_rule: opt.FramesRuleOption[Literal["middle", "strided"] | None] = None,
    frames: Annotated[
        int | None,
        typer.Option(help="Frames of a clip (hf, pixels); default the model's own number, 8 where it has none."),
    ] = None,
    decoding: Annotated[
        Literal["greedy", "teacher"] | None,
        typer.Option(help="Earlier tokens of ARP: its own (greedy, default) or the true ones (teacher)."),
    ] = None,
    blank_instruction: Annotated[
        bool,
        typer.Option(
            "--blank-instruction", help="Control: give the policy no instruction; '-blank' is added to the source."
        ),
    ] = False,
    also_blank: Annotated[
        bool,
        typer.Option(
            "--also-blank", help="Both: features with the instruction, and the control of --blank-instruction beside."
        ),
    ] = False,
    language_weights: opt.LanguageWeightsOption = None,
    factory: Annotated[str | None, typer.Option(help="For --model hook: package.module:factory.")] = None,
    side: Annotated[
        Literal["understanding", "execution"] | None, typer.Option(help="For --model hook: side of the model.")
    ] = None,
    axes: Annotated[
        str | None,
        typer.Option(
            help="Order of the axes of tapped layers, such as SBD or BCT: B rows, S or T tokens, D or C features; for "
            "one layer NAME@SBD."
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            help="KEY=VALUE: over_frames, tokens, dtype, weights (hf), size (pixels), call (hook, lerobot, pi0: first, "
            "last or a number, of the calls of a layer in one pass), weights, state, resize, noise_seed (lerobot, "
            "pi0), cameras (pi0), a plugin's own, or an argument of the hook's factory (repeatable)."
        ),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(
            help="For lerobot and pi0: CAMERA=CAMERA_OF_THE_POLICY, where the names do not tell (repeatable)."
        ),
    ] = None,
    device: opt.DeviceOption = "auto",
    batch_size: Annotated[int, typer.Option(help="Episodes per forward pass and per resumable piece.")] = 8,
    dtype: opt.StoredTypeOption[Literal["float32", "float16"]] = "float32",
    precision: opt.PrecisionOption[Literal["float32", "bf16"]] = "float32",
    out: opt.OutputOption = None,
    overwrite: opt.OverwriteOption = False,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Skip episodes with damaged files, and list them.")
    ] = False,
    as_json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Extract frozen features of models on demonstrations to HDF5; an interrupted command resumes when run again.

    With --source rollouts it uses all rollouts of the run's ARP checkpoints: each folder with the checkpoint that
    played it and the ViCLIP checkpoint of the same training and step; --model pixels adds the pixel control, --model
    pixels-TRAINING that of one training.

    A run that is not there is made if --data and --model or --checkpoint say what goes into it.

    Under torchrun the processes share the work: torchrun --nproc-per-node 2 -m mnprobe extract ...

    Example: mnprobe extract --data path/to/rlbench --model viclip --model arp --out features
    """
    from mnprobe.core.rundir import RunDir, resolve_run
    from mnprobe.features.extraction import ExtractConfig
    from mnprobe.features.extraction import extract as run_extract

    number, half = opt.read_step(step)
    given = opt.select_fields(ExtractConfig, locals() | {"step": "half" if half else number})
    if run is not None and not run.exists() and out is None and data and (models or checkpoints):
        run_dir: RunDir | None = RunDir(run)  # made when the first store is written
    else:
        run_dir = None if run is None and out is not None else resolve_run(run)
    print_run(run_dir, quiet=quiet, as_json=as_json)
    own: dict[str, Any] = {
        "camera": camera,
        "frames_rule": frames_rule,
        "decoding": decoding,
        "blank_instruction": blank_instruction or None,
        "language_weights": None if language_weights is None else str(language_weights),
        "factory": factory,
        "side": side,
        "axes": axes,
        "rename": rename or None,
    }
    config = ExtractConfig(**given, options=_extractor_options(own, frames, option or []))
    note = print_note(quiet)
    done = run_extract(data or None, config, run=run_dir, out=out, overwrite=overwrite, quiet=quiet, note=note)
    if not leads():
        return
    if as_json:
        typer.echo(json.dumps([entry.to_dict() for entry in done], indent=2))
        return
    for entry in done:
        state = "" if entry.id.trained else ", not trained"
        if entry.skipped:
            state += f"; {entry.skipped} broken {'episode' if entry.skipped == 1 else 'episodes'} left out"
        typer.echo(f"{entry.status} {entry.path}: {entry.episodes} episodes, {', '.join(entry.layers)}{state}")


def _extractor_options(own: dict[str, Any], frames: int | None, pairs: list[str]) -> dict[str, Any]:
    """Join the options of extractors: those with an option of their own, and the pairs of `--option`.

    `--frames N` and `--option frames=N` are the same.
    """
    from mnprobe.core.errors import ConfigError
    from mnprobe.features.extractors.base import parse_options

    extra = parse_options(pairs)
    clip = {} if frames is None else {"frames": frames}
    if own["factory"]:
        own |= {key: extra.pop(key) for key in ("call",) if key in extra}  # of the hook, not of its factory
        return own | clip | ({"arguments": extra} if extra else {})
    for key in extra:
        if key in own:
            raise ConfigError(f"--option {key}: is an option of its own; write --{key.replace('_', '-')}")
    if frames is not None and "frames" in extra:
        raise ConfigError(f"--frames {frames} and --option frames={extra['frames']} are the same; leave one out")
    return own | extra | clip
