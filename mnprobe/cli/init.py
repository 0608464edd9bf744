"""`mnprobe init`: a run directory with step-0 checkpoints of both models."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["init"]


class ViCLIPSize(StrEnum):
    """Sizes of the video model."""

    tiny = "tiny"
    b16 = "b16"
    l14 = "l14"


class ARPSize(StrEnum):
    """Sizes of the policy."""

    tiny = "tiny"
    arp = "arp"
    arp_plus = "arp_plus"


def init(
    run: Annotated[Path, typer.Option(help="Run directory to create.")],
    viclip: Annotated[ViCLIPSize, typer.Option(help="Size of ViCLIP.")] = ViCLIPSize.tiny,
    arp: Annotated[ARPSize, typer.Option(help="Size of ARP.")] = ARPSize.tiny,
    seed: Annotated[int, typer.Option(help="Seed of the random weights.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
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
    wanted = {"viclip": viclip.value, "arp": arp.value}
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
