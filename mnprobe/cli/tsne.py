"""`mnprobe tsne`: t-SNE maps of z_u and z_e, or of u and e."""

import json
from pathlib import Path
from typing import Annotated

import typer

from mnprobe.cli import options as opt
from mnprobe.core.errors import ConfigError
from mnprobe.core.rundir import resolve_run

__all__ = ["tsne"]


def tsne(
    run: opt.RunOption = None,
    understanding: Annotated[
        list[str] | None,
        typer.Option(help="Model of the run, or a feature file; several files give several panels."),
    ] = None,
    execution: Annotated[
        list[str] | None,
        typer.Option(help="Model of the run, or a feature file; as many files as for the other side."),
    ] = None,
    source: opt.FeatureSourceOption = "demos",
    step: Annotated[
        list[int] | None, typer.Option(help="Checkpoint of the execution model; several give panels. Default the last.")
    ] = None,
    training: Annotated[
        list[str] | None,
        typer.Option(help="Training, such as joint; several give panels. Default baseline and joint, if both exist."),
    ] = None,
    compare: Annotated[
        list[Path] | None, typer.Option(help="Another run to draw next to this one (repeatable).")
    ] = None,
    space: Annotated[
        str, typer.Option(help="shared: z_u with z_e; raw: u and e separately; both: raw and shared.")
    ] = "shared",
    partition: Annotated[
        str | None, typer.Option(help="Only these episodes: test, or held-out (not used to fit saved heads).")
    ] = None,
    layer_u: opt.LayerUOption[str | None] = None,
    layer_e: opt.LayerEOption[str | None] = None,
    pool_u: opt.PoolOption[str | None] = None,
    pool_e: opt.PoolOption[str | None] = None,
    heads: Annotated[
        Path | None, typer.Option(help="Saved heads; default matching heads of `mnprobe align`, else new ones.")
    ] = None,
    perplexity: Annotated[float, typer.Option(help="Effective number of neighbours; at most (N - 1) / 3.")] = 30.0,
    iterations: Annotated[int, typer.Option(help="Gradient steps after early exaggeration.")] = 500,
    seed: Annotated[int, typer.Option(help="Seed of the layout, and of newly fitted heads.")] = 0,
    jobs: Annotated[
        int | None, typer.Option(help="Number of threads; default one below 5000 points, else all cores.")
    ] = None,
    series: Annotated[
        bool | None,
        typer.Option(
            "--series/--no-series",
            help="Also map every checkpoint, each initialised from the previous map. Default: if there are 3 or more.",
        ),
    ] = None,
    colour: Annotated[
        str,
        typer.Option(
            "--colour", "--color", help="Colouring: auto, instruction, task, or a column of your own in the stores."
        ),
    ] = "auto",
    out: opt.FigureOption = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Draw features of both models by t-SNE: shape = model, colour = instruction, with trustworthiness on the figure.

    If the run has baseline and joint training at the last step, both are drawn (the paper's Figure 6).
    Writes figures/tsne.png, tsne.svg and results/tsne.csv (with --space raw or both: tsne-raw, tsne-both); over
    training, figures tsne-series and tsne-purity, the page tsne-series.html, tables tsne-series and map-quality.

    Example: mnprobe tsne --run runs/first --partition test --perplexity 20
    """
    from mnprobe.analysis.tsne.embedding import TsneConfig
    from mnprobe.analysis.tsne.inputs import FEWEST_STEPS, feature_paths, series_inputs, tsne_inputs
    from mnprobe.analysis.tsne.maps import (
        as_space,
        draw_tsne,
        panel_facts,
    )  # matplotlib is imported here, so that --help is fast
    from mnprobe.analysis.tsne.series import DrawnSeries, draw_tsne_series, series_facts
    from mnprobe.core.commands import command_line

    config = TsneConfig(**opt.select_fields(TsneConfig, locals()), warm_iterations=max(1, iterations // 2))
    wanted_space = as_space(space)
    rundir = resolve_run(run)
    of_one_run = not (compare or feature_paths(understanding or []) or feature_paths(execution or []))
    if series and not (of_one_run and wanted_space == "shared"):
        raise ConfigError(
            "--series shows the shared space of one run: leave --space, --compare and feature files out, "
            "or give --no-series"
        )
    own_colour = colour not in ("auto", "instruction", "task")
    if series and own_colour:
        raise ConfigError(f"--series is coloured by instruction or task, not by {colour!r}; give --no-series")
    layers = {"layer_u": layer_u, "layer_e": layer_e, "pool_u": pool_u, "pool_e": pool_e}
    inputs = tsne_inputs(
        rundir,
        understanding=understanding or [],
        execution=execution or [],
        source=source,
        steps=step or [],
        trainings=training or [],
        compare=[resolve_run(path) for path in compare or []],
        heads=heads,
        **layers,
    )
    for note in dict.fromkeys(note for given in inputs for note in given.pair.items.notes):
        typer.echo(f"note: {note}", err=True)
    options: dict[str, object] = {"run": rundir.path, "understanding": understanding, "execution": execution}
    options |= {
        "source": source,
        "step": step,
        "training": training,
        "compare": compare,
        "space": space,
        "partition": partition,
    }
    options |= {**layers, "heads": heads, "perplexity": f"{perplexity:g}"}
    options |= {"iterations": iterations, "seed": seed, "colour": colour, "out": out}
    name = "tsne" if wanted_space == "shared" else f"tsne-{wanted_space}"
    drawn = draw_tsne(
        inputs,
        stem=out or rundir.figures / name,
        table=rundir.results(name) if out is None else out.with_name(out.name + ".csv"),
        space=wanted_space,
        partition=partition,
        config=config,
        color=colour,
        command=command_line("tsne", **options),
    )
    over: DrawnSeries | None = None
    if series or (series is None and of_one_run and wanted_space == "shared" and not step and not own_colour):
        series_data = series_inputs(
            rundir,
            understanding=next(iter(understanding or []), None),
            execution=next(iter(execution or []), None),
            source=source,
            steps=step or [],
            trainings=training or [],
            heads=heads,
            **layers,
        )
        if series or max(map(len, series_data.values()), default=0) >= FEWEST_STEPS:
            over = draw_tsne_series(
                series_data,
                folder=out.parent if out else rundir.figures,
                tables=out.parent if out else rundir.results(name).parent,
                name=out.name if out else name,
                partition=partition,
                config=config,
                color=colour,
                command=command_line("tsne", **(options | {"series": True})),
            )
    if as_json:
        requested = {"perplexity_asked": perplexity, "seed": seed}
        paths = {"png": str(drawn.figure.png), "svg": str(drawn.figure.svg), "table": str(drawn.table)}
        panels = [panel_facts(panel) | requested for panel in drawn.panels]
        document: dict[str, object] = {"run": str(rundir.path), **paths, "caption": drawn.caption, "panels": panels}
        if over is not None:
            document["series"] = {
                "png": str(over.figure.png),
                "svg": str(over.figure.svg),
                "purity_png": str(over.purity.png),
                "page": str(over.page),
                "table": str(over.table),
                "quality": str(over.quality),
                "caption": over.caption,
                "maps": series_facts(over.series),
            }
        typer.echo(json.dumps(document))
        return
    typer.echo(f"run: {rundir.path}")
    typer.echo(drawn.caption)
    typer.echo(f"wrote {drawn.figure.png}, {drawn.figure.svg}, {drawn.table}")
    if over is not None:
        typer.echo(over.caption)
        typer.echo(f"wrote {over.figure.png}, {over.figure.svg}, {over.page}, {over.table}")
        typer.echo(f"wrote {over.purity.png}, {over.purity.svg}, {over.quality}")
