"""`mnprobe init`: a run directory with step-0 checkpoints of both models."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from mnprobe.cli import options as opt

__all__ = ["init"]


def init(
    run: Annotated[Path, typer.Option(help="Run directory to create.")],
    viclip: Annotated[Literal["tiny", "b16", "l14"], typer.Option(help="Size of ViCLIP.")] = "tiny",
    arp: Annotated[Literal["tiny", "arp", "arp_plus"], typer.Option(help="Size of ARP.")] = "tiny",
    seed: opt.SeedOption = 0,
    as_json: opt.JsonOption = False,
) -> None:
    """Create a run with step-0 checkpoints of both models: random weights, the control that every claim needs.

    Add trained checkpoints as checkpoints/<model>/step_<8 digits>.safetensors.

    Example: mnprobe init --run runs/first --viclip tiny --arp tiny --seed 0
    """
    from mnprobe.core.errors import ConfigError
    from mnprobe.core.rundir import RunDir
    from mnprobe.core.seeds import check_seed
    from mnprobe.models.loading import read_metadata
    from mnprobe.models.untrained import write_untrained

    check_seed(seed, name="--seed")
    run_dir = RunDir.create(run)
    wanted = {"viclip": str(viclip), "arp": str(arp)}
    made: dict[str, dict[str, str]] = {}
    for model, size in wanted.items():
        path = run_dir.checkpoint(model, 0)
        requested = {"size": size, "seed": str(seed)}
        if path.exists():
            held = {key: read_metadata(path).get(key, "unknown") for key in requested}
            if held != requested:
                raise ConfigError(
                    f"{path} exists with size {held['size']}, seed {held['seed']}; asked for is size {size}, "
                    f"seed {seed}. Name another --run, or remove that file"
                )
        else:
            write_untrained(path, model, size, seed)
        made[model] = requested | {"path": str(path)}
    run_dir.record("init", {"viclip": wanted["viclip"], "arp": wanted["arp"], "seed": seed})
    if as_json:
        typer.echo(json.dumps({"run": str(run_dir.path), "checkpoints": made}, indent=2))
        return
    typer.echo(f"run: {run_dir.path}")
    for model, entry in made.items():
        typer.echo(f"{model}: {entry['path']} (size {entry['size']}, seed {entry['seed']}, step 0, not trained)")
