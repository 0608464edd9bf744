"""`mnprobe align`: fit T_u and T_e, and measure retrieval on held-out episodes."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mnprobe.cli import options as opt
from mnprobe.core.cluster import on_cluster
from mnprobe.core.commands import command_line
from mnprobe.core.errors import ConfigError, FeatureError
from mnprobe.core.names import PIXELS
from mnprobe.core.rundir import Piece, RunDir, resolve_run

if TYPE_CHECKING:  # the probe imports torch, which `--help` does not need
    import pandas as pd

    from mnprobe.probe import StoredPair

__all__ = ["align"]

_SPLITS = "all; success for the four settings of success and failure; or one setting, such as execution-failure."
_HOLDOUTS = "Held-out unit: episodes (new ones of known instructions), instructions, tasks, or both."
_PRESET = "Settings of the heads by name: mirror, the paper's Adam at a constant 0.0001 without ridge."
_SHARED_FILES = "With --cluster: workers read the stores themselves, by the same paths; else each is sent them once."
_MANY = 24  # as many measurements are printed one by one; of more, a summary
_GALLERY = (
    "Rank against random galleries of this size; 0 for all episodes. Default: 20000 where more than 100000 are tested."
)
_FIT_ON = "Data for heads of rollouts: demos of the same models if there are any (auto), own episodes, or demos."


def align(
    run: opt.RunOption = None,
    u: opt.UnderstandingStoreOption = None,
    e: opt.ExecutionStoreOption = None,
    split: Annotated[str, typer.Option(help=_SPLITS)] = "all",
    holdout: Annotated[str, typer.Option(help=_HOLDOUTS)] = "both",
    mode: Annotated[str, typer.Option(help="With --split success: own-probe, shared-probe or both.")] = "both",
    source: Annotated[
        list[str] | None, typer.Option(help="Only this source of the run, such as rollouts (repeatable).")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Only stores of this policy of the run, such as arp-joint (repeatable).")
    ] = None,
    step: Annotated[
        list[str] | None,
        typer.Option(
            help="Only stores of this step of the policy (repeatable); half: that whose success is nearest one half."
        ),
    ] = None,
    pairing: opt.PairingOption[Literal["episode", "instruction", "task"]] = "instruction",
    loss: opt.PositivesOption[Literal["diagonal", "exclude", "multi"]] = "diagonal",
    heads: opt.HeadsOption[Literal["linear", "mlp"]] = "linear",
    tau: Annotated[float, typer.Option(help="Temperature of the loss.")] = 0.1,
    dim: opt.DimOption[int] = 1024,
    preset: Annotated[Literal["mirror"] | None, typer.Option(help=_PRESET)] = None,
    steps: opt.ProbeStepsOption = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training episodes, in place of steps.")] = None,
    batch: Annotated[int, typer.Option(help="Pairs per step; all if there are fewer.")] = 256,
    lr: Annotated[float | None, typer.Option(help="Adam's learning rate at the start; default 0.01.")] = None,
    ridge: Annotated[
        float | None,
        typer.Option(help="Variance of the noise that linear heads are fitted against, per feature; default 0.01."),
    ] = None,
    decay: Annotated[
        bool | None, typer.Option(show_default=False, help="Lower the rate to zero in the last third (default).")
    ] = None,
    early_stop: Annotated[bool, typer.Option("--early-stop", help="Stop on a part of the training episodes.")] = False,
    layer_u: opt.LayerUOption[str | None] = None,
    layer_e: Annotated[
        list[str] | None,
        typer.Option(
            help="Layer of the execution side; default e (repeatable: e and screen are then measured side by side)."
        ),
    ] = None,
    pool_u: opt.PoolOption[str | None] = None,
    pool_e: opt.PoolOption[str | None] = None,
    fit_on: Annotated[Literal["auto", "own", "demos"], typer.Option(help=_FIT_ON)] = "auto",
    episodes: Annotated[
        Literal["all", "shared"],
        typer.Option(help="all: both sides must have equal episodes; shared: use the common ones."),
    ] = "all",
    seeds: Annotated[int, typer.Option(help="Probe seeds.")] = 5,
    splits: Annotated[int, typer.Option(help="Number of random splits, unless the dataset defines the split.")] = 3,
    draws: Annotated[int, typer.Option(help="Number of balanced samples of success and failure.")] = 20,
    k: Annotated[str, typer.Option("--k", help="Values of k for Recall@k, separated by commas.")] = "1,5,10",
    exclude_own: Annotated[bool, typer.Option("--exclude-own", help="Exclude the query's own episode.")] = False,
    gallery: Annotated[int | None, typer.Option(help=_GALLERY)] = None,
    pixel_components: Annotated[
        int, typer.Option(help="Principal components of the pixel control; 0 for all pixels.")
    ] = 32,
    shuffled: Annotated[bool, typer.Option(help="Also measure the control with shuffled pairs.")] = True,
    jobs: opt.ProcessesOption = -1,
    cluster: opt.ClusterOption = None,
    shared_files: Annotated[bool, typer.Option("--shared-files", help=_SHARED_FILES)] = False,
    out: Annotated[Path | None, typer.Option(help="Output table; default results/alignment.csv of the run.")] = None,
    wide: opt.WideOption = False,
    as_json: opt.JsonOption = False,
) -> None:
    """Fit two heads on frozen features and measure Recall@1 both ways on held-out episodes, with chance and controls.

    Every understanding store of the run is paired with every execution store of the same source, training and step. For
    rollouts the heads are fitted on demonstrations, if the run has both (--fit-on). Prints a table (of many
    measurements a summary, see --wide), and writes results/alignment.csv (one row per number) and heads/*.safetensors.
    Finished measurements are not repeated.

    Example: mnprobe align --run runs/first --holdout both --seeds 5
    """
    from mnprobe.probe import AlignConfig, FitConfig, StoredPair, align_stores, join_stores, summary_table
    from mnprobe.probe.config import PRESETS
    from mnprobe.probe.results import HELD_OUT_FILE

    if shared_files and cluster is None:
        raise ConfigError("--shared-files tells how the workers of --cluster read features; give both")
    named = PRESETS[preset] if preset else {}
    fit = FitConfig(**{**named, **opt.select_fields(FitConfig, locals())}, positives=loss)
    settings = opt.select_fields(AlignConfig, locals()) | {"fit": fit, "modes": _modes(mode), "k": _counts(k)}
    config = AlignConfig(**settings)
    notes: list[str] = []
    if u is not None and e is not None:
        inside_run = run is not None and out is None
        folder = resolve_run(run).path if inside_run else (out or Path("results/alignment.csv")).parent
        if fit_on == "demos":
            raise ConfigError(
                "--fit-on demos finds the demonstrations' stores in a run: give --run without --u and --e"
            )
        stored = [StoredPair(u, e)]
        table = out or (folder / "results" if inside_run else folder) / "alignment.csv"
        heads_folder = folder / "heads"
    elif u is not None or e is not None:
        missing = "--e" if e is None else "--u"
        raise ConfigError(f"--u and --e name the two sides of one pair: {missing} is missing. Or give --run")
    else:
        rundir = resolve_run(run)
        pieces = rundir.feature_files()
        if not pieces:
            extract = command_line("extract", run=rundir.path)
            raise FeatureError(f"{rundir.path} has no features of either side. `{extract}` makes them")
        demos = any(piece.source == "demos" for piece in pieces)
        if fit_on == "demos" and not demos:
            raise ConfigError(
                f"--fit-on demos: run {rundir.path} has no features of demos; "
                f"`{command_line('extract', run=rundir.path)}` makes them"
            )
        stored, notes = join_stores(
            [piece.path for piece in pieces], fit_on="demos" if demos and fit_on != "own" else None
        )
        table, heads_folder = out or rundir.results("alignment"), rundir.heads
        stored = _chosen(rundir, stored, pieces, source, model, step)
        typer.echo(f"run: {rundir.path} ({len(stored)} pairs of feature stores)", err=as_json)
    with on_cluster(cluster):
        rows, _ = align_stores(
            stored,
            config,
            table=table,
            heads=heads_folder,
            hits=table.parent / "hits",
            layer_u=layer_u,
            layer_e=layer_e or None,
            pool_u=pool_u,
            pool_e=pool_e,
            episodes="equal" if episodes == "all" else "shared",
            n_jobs=jobs,
            shared_files=shared_files,
        )
    notes += rows.attrs["notes"]
    contrasts = None
    if split == "success":
        from mnprobe.analysis.success.contrast import write_contrasts

        contrasts = table.with_name("success_contrast.csv")
        write_contrasts(table, table.parent / "hits", contrasts)
    if as_json:
        document = {
            "table": str(table),
            "contrasts": contrasts and str(contrasts),
            "notes": notes,
            "rows": json.loads(rows.to_json(orient="records")),
        }
        typer.echo(json.dumps(document))
        return
    count = _count(rows)
    shown = rows if wide or count <= _MANY else _last_checkpoints(rows)
    typer.echo(summary_table(shown, width=opt.line_width(wide)))
    if shown is not rows:
        typer.echo(
            f"{_count(shown)} of {count} measurements: each pair's last checkpoint, without the controls pixels and "
            "shuffled. --wide prints all"
        )
    for note in notes if shown is rows else _alike(notes):
        typer.echo(f"note: {note}", err=True)
    held_out = table.parent / "hits" / HELD_OUT_FILE
    if held_out.is_file():
        typer.echo(f"{held_out} lists the episodes that were held out in each draw")
    typer.echo(f"wrote {table}" + (f", {contrasts}; `mnprobe success` draws them" if contrasts else ""))


def _count(rows: "pd.DataFrame") -> int:
    """Number of measurements, each a line of the printed table."""
    return int(((rows["metric"] == "recall@1") & (rows["statistic"] == "mean") & (rows["direction"] == "mean")).sum())


def _last_checkpoints(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Rows of each pair's last checkpoint, without shuffled pairs and, where models were measured as well, pixels."""
    last = rows.groupby(["understanding", "execution", "source_e", "split"])["step_e"].transform("max")
    rows = rows[(rows["step_e"] == last) & (rows["control"] == "none")]
    models = rows[rows["understanding"] != PIXELS]
    return rows if models.empty else models


def _alike(notes: list[str]) -> list[str]:
    """The notes, each once that is about several measurements.

    >>> _alike(["a x b, episodes: few groups", "a x c, episodes: few groups", "fits ended early"])
    ['a x b, episodes (and 1 more): few groups', 'fits ended early']
    """
    subjects: dict[str, list[str]] = {}
    for note in notes:
        subject, colon, text = note.partition(": ")
        subjects.setdefault(colon + text if colon else note, []).append(subject if colon else "")
    return [
        f"{found[0]}{f' (and {len(found) - 1} more)' if len(found) > 1 else ''}{text}"
        for text, found in subjects.items()
    ]


def _chosen(
    run: RunDir,
    stored: "list[StoredPair]",
    pieces: list[Piece],
    sources: list[str] | None,
    models: list[str] | None,
    steps: list[str] | None,
) -> "list[StoredPair]":
    """Select pairs whose execution store has one of the sources, models and steps; ConfigError if there are none."""
    origin = {piece.path: piece for piece in pieces}
    asked = [opt.read_step(text) for text in steps or ()]
    numbers, half = [step for step, _ in asked if step is not None], any(half for _, half in asked)
    for name, wanted, known in (
        ("--source", sources, {piece.source for piece in pieces}),
        ("--model", models, {piece.model for piece in pieces}),
        ("--step", numbers, {piece.step for piece in pieces}),
    ):
        for value in wanted or ():
            if value not in known:
                there = ", ".join(str(entry) for entry in sorted(known, key=str))
                raise ConfigError(f"{name} {value}: the run has features of {there}")
    pairs = [
        pair
        for pair in stored
        if (not sources or origin[pair.e].source in sources) and (not models or origin[pair.e].model in models)
    ]
    if asked:
        halves: dict[str, int] = {}
        if half:
            from mnprobe.features.half_success import half_steps

            halves = half_steps(run, list(dict.fromkeys(origin[pair.e].model for pair in pairs)))
        pairs = [
            pair
            for pair in pairs
            if origin[pair.e].step in numbers or halves.get(origin[pair.e].model) == origin[pair.e].step
        ]
    if not pairs:
        raise ConfigError("no pair of feature stores is of both --source and --step (and --model)")
    return pairs


def _counts(text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise ConfigError(f"--k must be whole numbers with commas, such as 1,5,10; got {text!r}") from None


def _modes(mode: str) -> tuple[Literal["own-probe", "shared-probe"], ...]:
    if mode == "own-probe":
        return ("own-probe",)
    if mode == "shared-probe":
        return ("shared-probe",)
    if mode == "both":
        return ("own-probe", "shared-probe")
    raise ConfigError(f"--mode must be own-probe, shared-probe or both, got {mode!r}")
