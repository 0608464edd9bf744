"""`mnprobe rollout`: a policy plays episodes of a world."""

import json
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["rollout"]


def rollout(
    run: Annotated[Path | None, typer.Option(help="Run directory; by default the newest under ./runs.")] = None,
    world: Annotated[str, typer.Option(help="tabletop (embedded), rlbench (live), or a plugin's.")] = "tabletop",
    policy: Annotated[
        str, typer.Option(help="arp, expert, random, a plugin's, or package.module:factory (called with a PolicySpec).")
    ] = "arp",
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(help="Weights of the policy (repeatable); by default all ARP checkpoints of the run."),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Only this ARP of the run, such as arp-joint (repeatable).")
    ] = None,
    name: Annotated[str | None, typer.Option(help="File the episodes under this model name.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only this task (repeatable); default all.")] = None,
    variation: Annotated[
        list[int] | None, typer.Option(help="Only this variation of each task (repeatable); default all, in rotation.")
    ] = None,
    episodes: Annotated[
        int | None, typer.Option(help="Episodes per task and evaluation; default 25, or all --from-demos.")
    ] = None,
    repeat: Annotated[
        int, typer.Option(help="Evaluations; each on scenes of its own, or --from-demos on the same ones again.")
    ] = 1,
    seed: Annotated[
        int, typer.Option(help="Seed of the first scene; the default is far from those of demonstrations.")
    ] = 1_000_000_000,
    from_demos: Annotated[
        Path | None, typer.Option(help="Start from the initial states of the episodes in this folder.")
    ] = None,
    partition: Annotated[
        str | None, typer.Option(help="Which part of --from-demos; default test, or all where there is none.")
    ] = None,
    blank_instruction: Annotated[
        bool, typer.Option("--blank-instruction", help="Control: ARP is told nothing; its name gets '-blank'.")
    ] = False,
    language_weights: Annotated[
        Path | None, typer.Option(help="CLIP RN50 weights for ARP's language tokens; default random, seed 0.")
    ] = None,
    policy_option: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE for the policy, such as device=cuda (repeatable).")
    ] = None,
    max_steps: Annotated[int, typer.Option(help="Key poses after which an episode is a failure, at most 25.")] = 25,
    workers: Annotated[
        int | None, typer.Option(help="Processes of one thread; default one per processor; 0 plays in this one.")
    ] = None,
    renderer: Annotated[
        str | None, typer.Option(help="Tabletop: rays (no graphics library; the default), gl, or auto.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Width and height of images; default 128.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE for the world (repeatable).")] = None,
    film: Annotated[int, typer.Option(help="Make a GIF of the first so many episodes of each task.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write to this folder instead of a run's rollouts.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no remarks.")] = False,
) -> None:
    """Let a policy play episodes in a world; write them like demonstrations, with outcomes; tabulate success per task.

    Stop it at any moment; run it again to go on. Episodes lie in the run's rollouts/<model>/step_<number>/. Features
    are extracted from all of them by mnprobe extract --source rollouts. Success per
    task, with Wilson's 95 % intervals, is printed and written to the run's results/success.csv.

    Example: mnprobe rollout --run runs/first --policy expert --task open_drawer --episodes 5
    """
    from mnprobe.analysis.success.rollouts import SUCCESS, find_rollouts, format_success, success_table
    from mnprobe.core.errors import ConfigError
    from mnprobe.core.files import locked
    from mnprobe.core.rundir import resolve_run, step_name
    from mnprobe.features.extractors.base import parse_options
    from mnprobe.features.selection import choose_players
    from mnprobe.worlds.parallel import default_workers
    from mnprobe.worlds.rollout import RolloutConfig
    from mnprobe.worlds.rollout import rollout as play_episodes
    from mnprobe.worlds.rollout_plan import RolloutPlan, open_demos

    if run is not None and out is not None:
        raise ConfigError("--run and --out both say where to write; give one of them")
    if partition is not None and from_demos is None:
        raise ConfigError("--partition is a part of --from-demos; give that as well")
    plan = RolloutPlan(
        tasks=tuple(task or ()),
        variations=tuple(variation or ()),
        episodes=episodes,
        seed=seed,
        repeats=repeat,
        demos=None if from_demos is None else open_demos(from_demos, partition),
    )
    world_options = parse_options(option or []) | _given(renderer=renderer, image_size=image_size)
    policy_options = parse_options(policy_option or []) | _given(
        blank_instruction=blank_instruction or None,
        language_weights=str(language_weights) if language_weights else None,
    )
    home = None if out is not None else resolve_run(run)
    root = home.rollouts if home is not None else out or Path()
    if home is not None and not quiet:
        typer.echo(f"run: {home.path}", err=as_json)
    played = []
    for player in choose_players(
        home, policy, checkpoint or (), name=name, models=model or (), blank=blank_instruction
    ):
        config = RolloutConfig(
            world=world,
            world_options=world_options,
            policy=policy,
            policy_options=policy_options,
            checkpoint=player.checkpoint,
            step=player.step,
            max_steps=max_steps,
        )
        written = play_episodes(
            root / player.name / step_name(player.step),
            config,
            plan,
            films=film,
            workers=default_workers() if workers is None else workers,
            quiet=quiet,
        )
        played.append((player, written))
    table_path = home.results("success") if home is not None else root / "success.csv"
    with locked((home.path if home is not None else root) / ".success.lock"):  # of several, the last one has all
        found = find_rollouts(root)
        SUCCESS.write(table_path, success_table(found))
    if home is not None:
        asked = {
            "world": world,
            "policy": policy,
            "max_steps": max_steps,
            "episodes": episodes,
            "from_demos": from_demos,
        }
        lists = {"tasks": list(task or ()), "variations": list(variation or ())}
        home.record("rollout", {key: str(v) if isinstance(v, Path) else v for key, v in asked.items()} | lists)
    mine = {(player.name, player.step) for player, _ in played}
    table = success_table(entry for entry in found if (entry.model, entry.step) in mine)
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
        typer.echo(json.dumps({"rollouts": entries, "table": str(table_path), "success": rows}, indent=2))
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
    typer.echo(f"\n{format_success(table)}\n\nwrote {table_path}")


def _given(**options: object) -> dict[str, object]:
    return {name: value for name, value in options.items() if value is not None}
