"""`mnprobe compare`: similarity indices of both models' features."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from mnprobe.cli import options as opt
from mnprobe.core.cluster import on_cluster
from mnprobe.core.errors import ConfigError
from mnprobe.core.rundir import resolve_run

__all__ = ["compare"]

_Model: TypeAlias = Annotated[str | None, typer.Option(help="Model of the run, if it has several.")]

_GALLERY = (
    "Episodes among which indices of neighbours seek them, in up to three random draws; 0 for all. Default: 20000 of "
    "more than 100000."
)
_PERMUTE = (
    "Units that the null permutes: instructions (as blocks), instructions-within-task, within-task, "
    "within-instruction (episodes), or free."
)


def compare(
    run: opt.RunOption = None,
    u: opt.UnderstandingStoreOption = None,
    e: opt.ExecutionStoreOption = None,
    index: Annotated[
        list[str] | None,
        typer.Option(help="Similarity index (repeatable), one heatmap each; default debiased_cka, mutual_knn."),
    ] = None,
    grid: Annotated[str, typer.Option(help="layers: all layers of one checkpoint; checkpoints: all steps.")] = "layers",
    understanding: _Model = None,
    execution: _Model = None,
    source: opt.FeatureSourceOption = "demos",
    step: Annotated[int | None, typer.Option(help="Checkpoint of the execution model; default the last.")] = None,
    layer_u: Annotated[list[str] | None, typer.Option(help="Layer of the understanding side (repeatable).")] = None,
    layer_e: Annotated[list[str] | None, typer.Option(help="Layer of the execution side (repeatable).")] = None,
    pool_u: opt.PoolOption[str] = "mean",
    pool_e: opt.PoolOption[str] = "mean",
    partition: Annotated[str | None, typer.Option(help="Only these episodes: train, val or test.")] = None,
    permute: Annotated[str, typer.Option(help=_PERMUTE)] = "instructions",
    permutations: Annotated[
        int, typer.Option(help="Number K of permutations of the null; p is at least 1 / (K + 1).")
    ] = 999,
    outside_group: Annotated[
        bool, typer.Option("--outside-group", help="Exclude neighbours of the same instruction.")
    ] = False,
    k: Annotated[
        int | None, typer.Option("--k", help="Number of neighbours of mutual_knn and cknna; default 10.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="Parameter name=value of the one index given (repeatable).")
    ] = None,
    gallery: Annotated[int | None, typer.Option(help=_GALLERY)] = None,
    seed: Annotated[int, typer.Option(help="Of the permutations.")] = 0,
    jobs: opt.ProcessesOption = 1,
    cluster: opt.ClusterOption = None,
    out: Annotated[Path | None, typer.Option(help="Folder of table and figures; default those of the run.")] = None,
    list_indices: Annotated[bool, typer.Option("--list", help="List the indices with their definitions.")] = False,
    as_json: opt.JsonOption = False,
) -> None:
    """Compare layers or checkpoints of both models by similarity indices, which need no training.

    Writes results/similarity.csv and a heatmap of each index (figures/similarity-*.png, .svg) on which cells below the
    significance level of the permutations are grey. Judge a maximum over cells by its own p (p_max) only.

    Example: mnprobe compare --run runs/first --grid checkpoints --index debiased_cka --permute instructions
    """
    from mnprobe.analysis.similarity import INDICES  # numpy and scipy are imported here, so that --help is fast

    if list_indices:
        _list(INDICES.names(), as_json=as_json)
        return
    from mnprobe.analysis.comparison.compare import compare_inputs, find_stores
    from mnprobe.analysis.comparison.figure import best_line, draw_compare
    from mnprobe.analysis.similarity import make_index
    from mnprobe.core.commands import command_line

    names = index or ["debiased_cka", "mutual_knn"]
    chosen = [
        replace(config, gallery=gallery)
        for config in _configs(names, option or [], k, outside_group, permute, permutations, seed, grid)
    ]
    if (u is None) != (e is None):
        raise ConfigError(
            f"--u and --e name the two sides of one pair: --{'u' if u is None else 'e'} is missing. Or give --run"
        )
    folder = None
    if u is not None and e is not None:
        stores = ([u], [e])
        inside = resolve_run(run) if run is not None else None
    else:
        inside = resolve_run(run)
        names_of = {"understanding": understanding, "execution": execution, "source": source, "step": step}
        stores = find_stores(inside, grid, **names_of)  # type: ignore[arg-type]
        typer.echo(f"run: {inside.path}", err=as_json)
    inputs = compare_inputs(
        *stores,
        grid=grid,
        layers_u=layer_u or [],
        layers_e=layer_e or [],
        pool_u=pool_u,
        pool_e=pool_e,
        partition=partition,
    )
    options: dict[str, object] = {"run": run if inside is None else inside.path, "u": u, "e": e, "index": names}
    options |= {"grid": grid, "understanding": understanding, "execution": execution, "source": source, "step": step}
    options |= {"layer_u": layer_u, "layer_e": layer_e, "pool_u": pool_u, "pool_e": pool_e, "partition": partition}
    options |= {"permute": permute, "permutations": permutations, "outside_group": outside_group, "k": k}
    options |= {"option": option, "gallery": gallery, "seed": seed, "out": out}
    folder = out or (Path() if inside is None else inside.path)
    table = folder / "similarity.csv" if out else folder / "results" / "similarity.csv"
    with on_cluster(cluster):
        drawn = draw_compare(
            inputs,
            chosen,
            table=table,
            folder=out or folder / "figures",
            command=command_line("compare", **options),
            n_jobs=jobs,
        )
    if as_json:
        comparisons = [
            {
                "index": config.index,
                "png": str(item.figure.png),
                "svg": str(item.figure.svg),
                "caption": item.caption,
                "notes": [*inputs.notes, *item.notes],
                "cells": json.loads(item.table.to_json(orient="records", double_precision=15)),
            }
            for config, item in zip(chosen, drawn, strict=True)
        ]
        typer.echo(json.dumps({"table": str(table), "comparisons": comparisons}))
        return
    for note in inputs.notes:
        typer.echo(f"note: {note}", err=True)
    for config, item in zip(chosen, drawn, strict=True):
        typer.echo(best_line(item.table, make_index(config.index, config.options).about))
        for note in item.notes:
            typer.echo(f"note: {note}", err=True)
        typer.echo(f"wrote {item.figure.png}, {item.figure.svg}{' (cells kept from before)' if item.kept else ''}")
    typer.echo(f"wrote {table}")


def _configs(
    names: list[str],
    texts: list[str],
    k: int | None,
    outside: bool,
    permute: str,
    permutations: int,
    seed: int,
    grid: str,
) -> list[Any]:
    from mnprobe.analysis.comparison.compare import CompareConfig
    from mnprobe.analysis.similarity import make_index, parse_options

    if texts and len(names) != 1:
        raise ConfigError(f"--option belongs to one index, but {len(names)} are compared: name one with --index")
    settings: dict[str, Any] = ({} if k is None else {"k": k}) | ({"outside": True} if outside else {})
    configs = []
    for name in names:
        known = make_index(name).options()
        options = {option: value for option, value in settings.items() if option in known}
        options |= parse_options(name, texts)
        configs.append(
            CompareConfig(index=name, options=options, permute=permute, permutations=permutations, seed=seed, grid=grid)
        )
    for option, flag in (("k", "--k"), ("outside", "--outside-group")):
        if option in settings and not any(option in config.options for config in configs):
            raise ConfigError(f"{flag} is for indices of neighbours (mutual_knn, cknna), not for {', '.join(names)}")
    return configs


def _list(names: list[str], *, as_json: bool) -> None:
    from mnprobe.analysis.similarity import make_index

    indices = []
    for name in names:
        index = make_index(name)
        about = index.about
        facts = {"name": name, "title": about.title, "formula": about.formula, "source": about.source}
        facts |= {"direction": "higher is more alike" if about.higher_is_alike else "lower is more alike"}
        facts |= {"unchanged_by": ", ".join(sorted(about.invariances)), "smallest_n": str(about.smallest)}
        facts |= {"options": ", ".join(f"{key}={value}" for key, value in index.options().items()) or "none"}
        facts |= {"remark": about.remark}
        indices.append(facts)
    if as_json:
        typer.echo(json.dumps(indices))
        return
    for facts in indices:
        typer.echo(f"{facts.pop('name')}: {facts.pop('title')}")
        for key, value in facts.items():
            if value:
                typer.echo(f"  {key.replace('_', ' ')}: {value}")
