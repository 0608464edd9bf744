"""`mnprobe doctor`: checks of the installation and of the pipeline."""

import json
import os
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mnprobe.cli import options as opt
from mnprobe.core.commands import command_line
from mnprobe.core.errors import ConfigError
from mnprobe.core.rundir import resolve_run

if TYPE_CHECKING:  # torch is imported only when features are examined
    from mnprobe.analysis.diagnostics import Check

__all__ = ["doctor"]

_COLOURS = {"pass": "green", "FAIL": "red", "not possible": "yellow", "look": "yellow", "reported": "blue"}
_QUICK, _USUAL = 2, 5


def doctor(
    run: Annotated[Path | None, typer.Option(help="Also examine the features of this run.")] = None,
    u: Annotated[Path | None, typer.Option("--u", help="Store of the understanding side to examine, with --e.")] = (
        None
    ),
    e: Annotated[Path | None, typer.Option("--e", help="Store of the execution side to examine, with --u.")] = None,
    layer_u: opt.LayerUOption[str | None] = None,
    layer_e: opt.LayerEOption[str | None] = None,
    pool_u: opt.PoolOption[str | None] = None,
    pool_e: opt.PoolOption[str | None] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Use two seeds per synthetic measurement instead of five.")
    ] = False,
    as_json: opt.JsonOption = False,
) -> None:
    """Check the installation; with --run, or --u and --e, also check the pipeline on your own episodes.

    Features whose alignment is known (random, shuffled, collapsed, an arbitrary id, your own rotated) are passed to the
    functions behind align, compare and audit, and must give the known result. If they do not, the pipeline is broken,
    and the exit code is 1. docs/doctor.md explains every check.

    Example: mnprobe doctor --run runs/first
    """
    if (u is None) != (e is None):
        raise ConfigError(f"--u and --e name the two sides of one pair: --{'u' if u is None else 'e'} is missing")
    if run is not None and u is not None:
        raise ConfigError("--run and --u with --e both say what to examine: give one of them")
    rundir = None if run is None else resolve_run(run)
    document = _environment()
    if not as_json:
        _print_environment(document)
    checks: Sequence[Check] = ()
    if rundir is not None or u is not None:
        from mnprobe.analysis.diagnostics import Subject, broken, examine, sampled, sanity_suite

        examined = examine(rundir, u=u, e=e, layer_u=layer_u, layer_e=layer_e, pool_u=pool_u, pool_e=pool_e)
        pair, untrained = sampled(examined.pair), examined.untrained
        subject = Subject(
            pair=pair, seeds=_QUICK if quick else _USUAL, untrained=None if untrained is None else sampled(untrained)
        )
        checks = sanity_suite(subject, quiet=False)
        facts = {
            "understanding": pair.origin_u.file_stem,
            "execution": pair.origin_e.file_stem,
            "episodes": len(examined.pair.items),
            "episodes_taken": len(pair.items),
            "width_u": pair.u.shape[1],
            "width_e": pair.e.shape[1],
            "digest": pair.digest(),
            "seeds": subject.seeds,
            "notes": list(examined.notes),
        }
        document |= {"examined": facts, "broken": broken(checks), "checks": [asdict(check) for check in checks]}
        if not as_json:
            _print_checks(facts, checks, failed=document["broken"])
    if as_json:
        typer.echo(json.dumps(document, indent=2, allow_nan=False))
    if document.get("broken"):
        raise typer.Exit(1)


def _environment() -> dict[str, Any]:
    from mnprobe.core.environment import NEEDED, OPTIONAL, devices, find_programs, machine, state_of_parts
    from mnprobe.core.provenance import versions

    needed = state_of_parts(NEEDED)
    optional = [*state_of_parts(OPTIONAL), *find_programs()]
    facts = machine()
    facts |= {"versions": versions() | {part["name"]: part["version"] for part in needed}}
    facts |= {"damaged": [part for part in needed if part["state"] != "ok"], "optional": optional}
    facts |= {"av": next(part["version"] for part in optional if part["name"] == "av")}
    facts |= {"devices": (torch_facts := devices()), "cuda": [device["name"] for device in torch_facts["cuda"]]}
    facts |= _registered()
    try:
        newest: str | None = resolve_run(None).name
    except ConfigError:
        newest = None
    return facts | {"newest_run": newest}


def _registered() -> dict[str, Any]:
    """Extractors, worlds and the live simulator; a failed query is reported as text."""
    try:
        from mnprobe.features import EXTRACTORS
        from mnprobe.worlds import WORLDS
        from mnprobe.worlds.rlbench_install import find_rlbench

        from_gl = _gl()
        return {
            "extractors": EXTRACTORS.names(),
            "worlds": WORLDS.names(),
            "rlbench": find_rlbench(),
            "opengl": from_gl,
            "mujoco_gl": os.environ.get("MUJOCO_GL"),
        }
    except (ImportError, OSError) as error:
        return {"extractors": [], "worlds": [], "rlbench": {}, "opengl": "", "registries": f"cannot be read: {error}"}


def _gl() -> str:
    """'ok', or the reason why the tabletop world cannot use OpenGL (it then uses ray casting)."""
    from mnprobe.worlds.tabletop.gl import probe_gl

    problem = probe_gl()
    return f"absent: {problem.replace(str(Path.home()), '~')}" if problem else "ok"


def _print_environment(facts: dict[str, Any]) -> None:
    _say(f"mnprobe {facts['versions']['mnprobe']}, Python {facts['python']} on {facts['platform']}")
    memory = "" if facts["memory_gib"] is None else f"{facts['memory_gib']} GiB memory, "
    _say(f"{facts['usable_cpus']} of {facts['cpus']} CPUs, {memory}{facts['free_disk_gib']} GiB of disk free here")
    torch_facts = facts["devices"]
    names = [f"{device['name']} ({device['memory_gib']} GiB)" for device in torch_facts["cuda"]]
    _say(f"CUDA devices: {', '.join(names) or 'none (everything runs on the CPU)'}")
    variables = "".join(f", {name}={value}" for name, value in facts["variables"].items())
    _say(f"threads: torch {torch_facts.get('torch_threads', '?')}{variables}")
    _say("versions: " + ", ".join(f"{name} {number}" for name, number in facts["versions"].items()))
    if torch_facts["problem"]:
        _say(typer.style(torch_facts["problem"], fg="red"))
    for part in facts["damaged"]:
        _say(typer.style(f"  {part['name']}: {part['state']}; {part['get']}", fg="red"))
    _say("extractors: " + ", ".join(facts["extractors"]))
    _say("worlds: " + ", ".join(facts["worlds"]))
    if "registries" in facts:
        _say(typer.style(f"extractors and worlds {facts['registries']}", fg="red"))
    _say("optional:")
    for part in facts["optional"]:
        number = f" {part['version']}" if part["state"] == "ok" else ""
        how = f"; {part['get']}" if "get" in part else ""
        _say(f"  {part['name']} ({part['use']}): {part['state']}{number}{how}")
    how = "" if facts["opengl"] == "ok" else "; install a driver with EGL (Debian: libegl1), or stay with rays"
    _say(f"  OpenGL (faster images in the tabletop world): {facts['opengl']}{how}")
    if facts.get("mujoco_gl") is not None:
        _say(f"  MUJOCO_GL is {facts['mujoco_gl']!r} here; the tabletop world does not depend on it")
    _say("live RLBench (optional, see docs/rlbench.md):")
    for name, state in facts["rlbench"].items():
        _say(f"  {name}: {state}")
    newest = facts["newest_run"]
    examines = f"`{command_line('doctor', run=Path('runs') / newest)}` examines it" if newest else ""
    _say(f"newest run: {newest}; {examines}" if newest else "no run under ./runs")


def _print_checks(facts: dict[str, Any], checks: "Sequence[Check]", *, failed: bool) -> None:
    taken, seen = facts["episodes_taken"], facts["episodes"]
    count = f"{seen} episodes" if taken == seen else f"{taken} of {seen} episodes"
    _say(f"\nexamined: {facts['understanding']} with {facts['execution']}, {count}, {facts['seeds']} seeds")
    for note in facts["notes"]:
        _say(f"  note: {note}")
    for check in checks:
        _say(f"{typer.style(check.status.ljust(12), fg=_COLOURS[check.status], bold=True)}  {check.name}")
        for name in ("did", "expected", "found", "meaning"):
            text = getattr(check, name)
            if text:
                _say(textwrap.fill(text, 116, initial_indent=f"{name:>24}: ", subsequent_indent=" " * 26))
    totals = [f"{sum(check.status == status for check in checks)} {status}" for status in _COLOURS]
    _say("\n" + ", ".join(total for total in totals if not total.startswith("0 ")))
    if failed:
        verdict = (
            "The pipeline is broken: no number that it gave is to be trusted. Report this with the output of --json."
        )
        _say(typer.style(verdict, fg="red", bold=True))
    else:
        _say("The pipeline gives what it must on features whose alignment is known.")


def _say(text: str) -> None:
    """Print; without colours if the output is not a terminal or NO_COLOR is set."""
    typer.echo(text, color=False if "NO_COLOR" in os.environ else None)
