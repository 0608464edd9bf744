"""`mnprobe doctor`: what a bug report needs, and what of the live simulator is present."""

import json
from typing import Annotated

import typer

__all__ = ["doctor"]


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False) -> None:
    """Say what is installed here: versions, devices, installed extractors, and the live RLBench simulator.

    Example: mnprobe doctor
    """
    import os
    import platform

    import torch

    from mnprobe.core.provenance import versions
    from mnprobe.features import EXTRACTORS
    from mnprobe.worlds import WORLDS
    from mnprobe.worlds.rlbench_install import find_rlbench

    packages = ("torch", "numpy", "scipy", "scikit-learn", "pandas", "h5py", "openTSNE", "safetensors", "typer")
    numbers = versions(*packages)
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    simulator = find_rlbench()
    decoder = versions("av")["av"]
    found = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "cuda": devices,
        "versions": numbers,
        "extractors": EXTRACTORS.names(),
        "worlds": WORLDS.names(),
        "rlbench": simulator,
        "av": decoder,
    }
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    typer.echo(f"Python {platform.python_version()} on {platform.platform()}, {os.cpu_count()} CPUs")
    typer.echo(f"CUDA devices: {', '.join(devices) or 'none (everything runs on the CPU)'}")
    typer.echo("versions: " + ", ".join(f"{name} {number}" for name, number in numbers.items()))
    typer.echo("extractors: " + ", ".join(EXTRACTORS.names()))
    typer.echo("worlds: " + ", ".join(WORLDS.names()))
    how = decoder if decoder != "absent" else "absent; pip install 'mnprobe[video]'"
    typer.echo(f"natural videos (optional, recognize --videos): PyAV {how}")
    typer.echo("live RLBench (optional, see docs/rlbench.md):")
    for part, state in simulator.items():
        typer.echo(f"  {part}: {state}")
