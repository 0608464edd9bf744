"""`mnprobe tsne`: z_u and z_e, or u and e, in the plane."""

import json
from pathlib import Path
from typing import Annotated

import typer

from mnprobe.core.errors import ConfigError
from mnprobe.core.rundir import resolve_run

__all__ = ["tsne"]


def tsne(
    run: Annotated[Path | None, typer.Option(help="The run directory; the newest under ./runs when left out.")] = None,
    understanding: Annotated[
        list[str] | None,
        typer.Option(help="A model of the run, or a feature file; several files make panels side by side."),
    ] = None,
    execution: Annotated[
        list[str] | None,
        typer.Option(help="A model of the run, or a feature file; as many files as of the other side."),
    ] = None,
    source: Annotated[str, typer.Option(help="Where the features come from: demos, demos-blank, rollouts.")] = "demos",
    step: Annotated[
        list[int] | None, typer.Option(help="Checkpoint of the execution model; several make panels. Last if left out.")
    ] = None,
    compare: Annotated[
        list[Path] | None, typer.Option(help="Another run, drawn beside this one; can be given repeatedly.")
    ] = None,
    space: Annotated[str, typer.Option(help="shared: z_u and z_e together; raw: u and e apart.")] = "shared",
    partition: Annotated[str | None, typer.Option(help="Only these episodes, such as test.")] = None,
    layer_u: Annotated[str, typer.Option(help="Layer of the understanding side.")] = "u",
    layer_e: Annotated[str, typer.Option(help="Layer of the execution side.")] = "e",
    pool_u: Annotated[
        str, typer.Option(help="One vector per episode: mean, first, last, max, token:<k>, concat.")
    ] = "mean",
    pool_e: Annotated[str, typer.Option(help="The same for the execution side.")] = "mean",
    heads: Annotated[
        Path | None, typer.Option(help="Saved heads; those of `mnprobe align` that fit, else new ones, when left out.")
    ] = None,
    perplexity: Annotated[float, typer.Option(help="Effective number of neighbours; cut to (N - 1) / 3.")] = 30.0,
    iterations: Annotated[int, typer.Option(help="Gradient steps after early exaggeration.")] = 500,
    seed: Annotated[int, typer.Option(help="Of the layout, and of heads fitted here.")] = 0,
    jobs: Annotated[int, typer.Option(help="Threads; more than one only helps above some 5000 points.")] = 1,
    colour: Annotated[str, typer.Option(help="auto, instruction or task.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="Figure without ending; the run's figures/tsne if left out.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Draw features of both models by t-SNE: shape = model, colour = instruction, with trustworthiness on the figure.

    Writes figures/tsne.png, tsne.svg and results/tsne.csv.

    Example: mnprobe tsne --run runs/first --partition test --perplexity 20
    """
    from mnprobe.analysis.draw_tsne import TsneInput, draw_tsne  # matplotlib and openTSNE load here, not for --help
    from mnprobe.analysis.embedding import TsneConfig
    from mnprobe.analysis.notes import command_line
    from mnprobe.analysis.pairs import find_heads, find_pairs, load_pair

    config = TsneConfig(perplexity=perplexity, iterations=iterations, seed=seed, jobs=jobs)
    if space not in ("shared", "raw"):
        raise ConfigError(f"--space must be shared or raw, got {space!r}")
    rundir = resolve_run(run)
    files_u, files_e = _files(understanding), _files(execution)
    if bool(files_u) != bool(files_e) or len(files_u) != len(files_e):
        raise ConfigError(
            f"give as many feature files with --understanding as with --execution, got {len(files_u)} and {len(files_e)}"
        )
    others = [resolve_run(path) for path in compare or []]
    inputs = []
    if files_u:
        if step or others:
            raise ConfigError("--step and --compare choose files of runs; feature files were named already")
        found = [(rundir, pair) for pair in zip(files_u, files_e, strict=True)]
    else:
        found = [
            (place, pair)
            for place in (rundir, *others)
            for pair in find_pairs(
                place,
                understanding=_one("--understanding", understanding),
                execution=_one("--execution", execution),
                source=source,
                steps=step or [],
            )
        ]
    for place, (path_u, path_e) in found:
        pair = load_pair(path_u, path_e, layer_u=layer_u, layer_e=layer_e, pool_u=pool_u, pool_e=pool_e)
        chosen = heads or (find_heads(place, pair) if space == "shared" else None)
        title = "" if len(found) == 1 else f"{place.name}, step {pair.step_e}" if others else f"step {pair.step_e}"
        if len(found) > 1 and files_u:
            title = f"{pair.understanding} and {pair.execution}, step {pair.step_e}"
        inputs.append(TsneInput(pair=pair, heads=chosen, title=title))
    options: dict[str, object] = {"run": rundir.path, "understanding": understanding, "execution": execution}
    options |= {"source": source, "step": step, "compare": compare, "space": space, "partition": partition}
    options |= {"layer_u": layer_u, "layer_e": layer_e, "pool_u": pool_u, "pool_e": pool_e, "heads": heads}
    options |= {"perplexity": f"{perplexity:g}", "iterations": iterations, "seed": seed, "colour": colour, "out": out}
    drawn = draw_tsne(
        inputs,
        stem=out or rundir.figures / "tsne",
        table=rundir.results("tsne") if out is None else out.with_name(out.name + ".csv"),
        space="raw" if space == "raw" else "shared",
        partition=partition,
        config=config,
        colour=colour,
        command=command_line("tsne", options),
    )
    if as_json:
        panels = [
            {
                "title": panel.title,
                "subtitle": panel.subtitle,
                "n_points": len(panel.points),
                "n_episodes": int(panel.points["id"].nunique()),
                "perplexity_asked": perplexity,
                "perplexity": panel.embedding.perplexity,
                "trustworthiness": panel.embedding.trustworthiness,
                "neighbours": panel.embedding.neighbours,
                "purity": panel.purity,
                "purity_neighbours": panel.purity_neighbours,
                "seed": seed,
                "notes": list(panel.embedding.notes),
            }
            for panel in drawn.panels
        ]
        paths = {"png": str(drawn.figure.png), "svg": str(drawn.figure.svg), "table": str(drawn.table)}
        typer.echo(json.dumps({"run": str(rundir.path), **paths, "caption": drawn.caption, "panels": panels}))
        return
    typer.echo(f"run {rundir.path}")
    typer.echo(drawn.caption)
    typer.echo(f"wrote {drawn.figure.png}, {drawn.figure.svg}, {drawn.table}")


def _files(names: list[str] | None) -> list[Path]:
    return [Path(name) for name in names or [] if Path(name).suffix == ".h5" or Path(name).is_file()]


def _one(option: str, names: list[str] | None) -> str | None:
    if len(names or []) > 1:
        raise ConfigError(f"{option} takes one model name, or feature files (.h5); got {', '.join(names or [])}")
    return names[0] if names else None
