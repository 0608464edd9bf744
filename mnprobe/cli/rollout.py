"""`mnprobe rollout`: rollouts of a policy in a world."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mnprobe.cli import options as opt
from mnprobe.cli.console import print_note, print_run

if TYPE_CHECKING:
    from mnprobe.features.extraction import Extracted

__all__ = ["rollout"]


def rollout(
    run: opt.RunOption = None,
    world: Annotated[str, typer.Option(help="World: tabletop (embedded), rlbench (live), or a plugin's.")] = "tabletop",
    policy: Annotated[
        str,
        typer.Option(
            help="Policy: arp, expert, random, a plugin's, or package.module:factory (called with a PolicySpec)."
        ),
    ] = "arp",
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(help="Weights file of the policy (repeatable); by default all ARP checkpoints of the run."),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Only this ARP of the run, such as arp-joint (repeatable).")
    ] = None,
    at_step: Annotated[
        str | None,
        typer.Option(
            "--step",
            help="Only the run's checkpoints of this step; half: of each policy the one whose success so far is "
            "nearest one half, chosen once and recorded.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Model name under which the episodes are stored.")] = None,
    tasks: opt.TaskOption = None,
    suite: opt.SuiteOption = None,
    variations: Annotated[
        list[int] | None,
        typer.Option("--variation", help="Only this variation of each task (repeatable); default all, in rotation."),
    ] = None,
    episodes: Annotated[
        int | None, typer.Option(help="Episodes per task and evaluation; default 25, or all --from-demos.")
    ] = None,
    repeats: Annotated[
        int,
        typer.Option(
            "--repeat", help="Number of evaluations; each on new scenes, or with --from-demos on the same scenes."
        ),
    ] = 1,
    seed: Annotated[
        int, typer.Option(help="Seed of the first scene; the default differs from the seeds of demonstrations.")
    ] = 1_000_000_000,
    from_demos: Annotated[
        Path | None, typer.Option(help="Start from the initial states of the episodes in this folder.")
    ] = None,
    partition: Annotated[
        str | None, typer.Option(help="Partition of --from-demos; default test, or all if there is none.")
    ] = None,
    blank_instruction: Annotated[
        bool,
        typer.Option("--blank-instruction", help="Control: give ARP no instruction; '-blank' is added to its name."),
    ] = False,
    language_weights: opt.LanguageWeightsOption = None,
    policy_option: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE for the policy, such as device=cuda (repeatable).")
    ] = None,
    max_steps: opt.MaxStepsOption = 25,
    workers: Annotated[
        int | None,
        typer.Option(help="Number of single-threaded processes; default one per processor; 0: use this process."),
    ] = None,
    renderer: opt.RendererOption = None,
    image_size: opt.ImageSizeOption = None,
    option: opt.WorldOption = None,
    film: Annotated[int, typer.Option(help="Number of episodes per task of which to make a GIF.")] = 0,
    features: Annotated[
        bool,
        typer.Option(
            "--features",
            help="Also write e of the episodes, with and without the instruction, as extract --source rollouts does.",
        ),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Output folder instead of the run's rollouts.")] = None,
    wide: opt.WideOption = False,
    as_json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Roll out a policy in a world; write episodes with outcomes like demonstrations; tabulate success per task.

    An interrupted command resumes when run again. Episodes are written to rollouts/<model>/step_<number>/ of the run;
    mnprobe extract --source rollouts extracts their features; --features keeps those of ARP while it plays, and extract
    then makes the others. Success per task, with Wilson's 95 % intervals, is printed and written to results/success.csv
    of the run. With --step half, more --episodes are played where a policy succeeds in about half of them;
    results/half_success.csv holds that choice.

    Example: mnprobe rollout --run runs/first --policy expert --task open_drawer --episodes 5
    """
    from mnprobe.analysis.tables.rollouts import SUCCESS, find_rollouts, format_success, success_table
    from mnprobe.core.errors import ConfigError
    from mnprobe.core.job import in_turn
    from mnprobe.core.names import step_name
    from mnprobe.core.progress import progress
    from mnprobe.core.rundir import resolve_run
    from mnprobe.features.extractors.base import parse_options
    from mnprobe.features.selection import CheckpointQuery, select_checkpoints
    from mnprobe.worlds.parallel import default_workers
    from mnprobe.worlds.rollout import RolloutConfig
    from mnprobe.worlds.rollout import rollout as play_episodes
    from mnprobe.worlds.rollout_plan import RolloutPlan, open_demos

    if run is not None and out is not None:
        raise ConfigError("--run and --out both say where to write; give one of them")
    if partition is not None and from_demos is None:
        raise ConfigError("--partition is a part of --from-demos; give that as well")
    step, half = opt.read_step(at_step)
    world_options = parse_options(option or []) | _given(renderer=renderer, image_size=image_size)
    tasks = opt.chosen_tasks(tasks, suite, world, world_options)
    plan = RolloutPlan(
        **opt.select_fields(RolloutPlan, locals()),
        demos=None if from_demos is None else open_demos(from_demos, partition),
    )
    policy_options = parse_options(policy_option or []) | _given(
        blank_instruction=blank_instruction or None,
        language_weights=str(language_weights) if language_weights else None,
    )
    run_dir = None if out is not None else resolve_run(run)
    root = run_dir.rollouts if run_dir is not None else out or Path()
    print_run(run_dir, quiet=quiet, as_json=as_json)
    if features and (run_dir is None or policy != "arp" or blank_instruction):
        raise ConfigError(
            "--features is for the ARP checkpoints of a run, told their instructions: leave out --out, --policy and "
            "--blank-instruction, or leave out --features"
        )
    played = []
    query = CheckpointQuery(
        purpose="play",
        policy=policy,
        models=model or (),
        files=checkpoint or (),
        name=name,
        step=step,
        half=half,
        options={"blank_instruction": blank_instruction},
    )
    players = [(one, root / one.name / step_name(one.step)) for one in select_checkpoints(run_dir, query)]
    stores, extracted = None, list["Extracted"]()
    if features and run_dir is not None:
        from mnprobe.features.played import PlayedFeatures

        stores = PlayedFeatures(run_dir, policy_options, note=print_note(quiet))
        stores.check(players)
    alone = len(players) == 1  # then there is one bar, that of its episodes
    with progress("playing (checkpoints)", len(players), quiet=quiet or alone) as advance:
        for player, folder in players:
            config = RolloutConfig(
                world=world,
                world_options=world_options,
                policy=policy,
                policy_options=policy_options,
                checkpoint=player.path,
                step=player.step,
                max_steps=max_steps,
            )
            written = play_episodes(
                folder,
                config,
                plan,
                films=film,
                workers=default_workers() if workers is None else workers,
                quiet=quiet,
                trace=() if stores is None else stores.layers,
            )
            played.append((player, written))
            extracted += [] if stores is None else stores.write(folder, quiet=quiet)
            advance()
    table_path = run_dir.results("success") if run_dir is not None else root / "success.csv"
    with in_turn((run_dir.path if run_dir is not None else root) / ".success.lock"):  # the last of several contains all
        matches = find_rollouts(root)
        SUCCESS.write(table_path, success_table(matches))
    if run_dir is not None:
        settings = {
            "world": world,
            "policy": policy,
            "max_steps": max_steps,
            "episodes": episodes,
            "from_demos": from_demos,
        }
        settings |= {"features": True} if features else {}
        lists = {"tasks": list(plan.tasks), "variations": list(plan.variations)}
        run_dir.record("rollout", {key: str(v) if isinstance(v, Path) else v for key, v in settings.items()} | lists)
    mine = {(player.name, player.step) for player, _ in played}
    table = success_table(entry for entry in matches if (entry.model, entry.step) in mine)
    if as_json:
        entries = [
            {
                "model": player.name,
                "step": player.step,
                "folder": str(written.folder),
                "played": written.played,
                "kept": written.kept,
                "films": [str(path) for path in written.films],
                "notes": {outcome.id: outcome.note for outcome in written.outcomes if outcome.note},
            }
            for player, written in played
        ]
        rows = json.loads(table.to_json(orient="records"))
        said = {"rollouts": entries, "table": str(table_path), "success": rows}
        said |= {"features": [entry.to_dict() for entry in extracted]} if features else {}
        typer.echo(json.dumps(said, indent=2))
        return
    for _, written in played:
        typer.echo(f"{written.folder}: {len(written.outcomes)} episodes ({written.played} played now)")
        noted: dict[str, list[str]] = {}
        for outcome in written.outcomes if not quiet else ():
            if outcome.note:
                noted.setdefault(outcome.note, []).append(outcome.id)
        for note, ids in noted.items():
            others = f" and {len(ids) - 1} others" if len(ids) > 1 else ""
            typer.echo(f"note: {ids[0]}{others}: {note}")
        for path in written.films:
            typer.echo(f"wrote {path}")
    for entry in extracted:
        typer.echo(f"{entry.status} {entry.path}: {entry.episodes} episodes, {', '.join(entry.layers)}")
    typer.echo(f"\n{format_success(table, width=opt.line_width(wide))}\n\nwrote {table_path}")


def _given(**options: object) -> dict[str, object]:
    return {name: value for name, value in options.items() if value is not None}
