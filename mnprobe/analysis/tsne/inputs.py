"""Inputs of a t-SNE: pairs of feature files and their shared space."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnprobe.analysis.tables.alignment import in_order, read_alignment
from mnprobe.core.commands import command_line
from mnprobe.core.errors import ConfigError, FeatureError, ProbeError, TooFewSamples
from mnprobe.core.names import ModelName
from mnprobe.core.rundir import RunDir
from mnprobe.features import open_features
from mnprobe.probe.pairs import FeaturePair, join_stores, load_pair

__all__ = [
    "TsneInput",
    "FEWEST_STEPS",
    "feature_paths",
    "series_inputs",
    "shared_space",
    "tsne_inputs",
    *("Shared", "find_heads", "find_pairs", "heads_table", "held_out"),
]

if TYPE_CHECKING:
    from mnprobe.probe.heads import AlignmentHeads


Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class TsneInput:
    """One pair to show: its features, saved heads that fit it (or None), and a title where several are compared."""

    pair: FeaturePair
    heads: Path | None = None
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """z_u and z_e (N, dim), each row of length 1, and in words where the heads came from.

    `fitted` (N,) is True for episodes that the heads were fitted on.
    """

    z_u: Array
    z_e: Array
    origin: str
    fitted: Array


def find_pairs(
    run: RunDir,
    *,
    understanding: str | None = None,
    execution: str | None = None,
    source: str = "demos",
    steps: Sequence[int] = (),
) -> list[tuple[Path, Path]]:
    """Feature files (u, e) of a run that belong together, joined by step as `mnprobe align` joins them.

    Args:
        run: the run.
        understanding, execution: model names; needed only where the run has several (pixels count only when named).
        source: of the execution side; the understanding side is taken from the same source, or from 'demos' where a
            blanked instruction changes nothing for it.
        steps: checkpoints of the execution model, one pair each; the last one when empty.
    Raises:
        FeatureError: when one side is missing (naming the command that makes it) or there are several to choose from.
    """
    us = _side(run, "understanding", understanding, source.removesuffix("-blank"))
    es = _side(run, "execution", execution, source)
    joined, _ = join_stores([*us.values(), *es.values()])
    wanted = list(steps) or [max(es)]
    found = []
    for step in wanted:
        if step not in es:
            have = ", ".join(map(str, sorted(es)))
            raise FeatureError(f"{run.path} has no execution features at step {step} ({source}); it has {have}")
        partners = [pair.u for pair in joined if pair.e == es[step]]
        if not partners:
            raise FeatureError(
                f"{run.path}: no understanding features belong to step {step} of the execution side; "
                f"the understanding side has steps {', '.join(map(str, sorted(us)))}"
            )
        found.append((partners[-1], es[step]))
    return found


def heads_table(run: RunDir) -> pd.DataFrame | None:
    """The rows of results/alignment.csv that name saved heads, for several calls of `find_heads`; None without it."""
    if not run.results("alignment").is_file():
        return None
    table = read_alignment(run.results("alignment"))
    return table[(table["heads_file"] != "") & (table["seed"] >= 0)]


def find_heads(run: RunDir, pair: FeaturePair, table: pd.DataFrame | None = None) -> Path | None:
    """Saved linear heads that were fitted on the very features of `pair`, or None.

    They are found through the column heads_file of results/alignment.csv (all episodes, own probe, true pairs); where
    several fit, the lowest seed with episodes held out. `table` is that of `heads_table`, read again if omitted.
    """
    table = heads_table(run) if table is None else table
    if table is None:
        return None
    u, e = pair.origin_u, pair.origin_e
    wanted = {
        "understanding": u.model,
        "execution": e.model,
        "source_u": u.source_name,
        "source_e": e.source_name,
        "step_u": u.step,
        "step_e": e.step,
        "layer_u": u.layer,
        "layer_e": e.layer,
        "pool_u": u.pool,
        "pool_e": e.pool,
        "control": "none",
        "split": "all",
        "heads": "linear",
    }
    for column, value in wanted.items():
        table = table[table[column] == value]
    order = table.assign(_h=table["holdout"] != "episodes").sort_values(["_h", "seed"], kind="stable")
    for name in order["heads_file"]:
        path = _inside(run, str(name))
        if path is not None:
            return path
    return None


def shared_space(pair: FeaturePair, *, heads: Path | None, fit_on: FeaturePair | None = None, seed: int = 0) -> Shared:
    """Map a pair into one space, rows scaled to length 1 (the space of cosine similarity).

    With `heads`, saved ones; else new ones with the paper's configuration, fitted on `fit_on` or on the pair itself.
    Raises CheckpointError for heads that cannot be read, ProbeError when their widths do not fit.
    """
    import torch

    if heads is not None:
        fitted, ids = _saved(heads, pair)
        origin = f"heads of `mnprobe align`, {_counted(pair, ids)}"
    else:
        from mnprobe.probe.fitting import fit_heads

        train = fit_on or pair
        if len(set(train.items.instructions.tolist())) < 2:
            raise TooFewSamples(
                f"heads cannot be fitted: {len(train)} episodes of one instruction, two instructions are needed. "
                "Choose --space raw, or another --partition"
            )
        fitted = fit_heads(train.u, train.e, train.items.instructions.tolist(), seed=seed).heads
        ids = set(train.items.ids.tolist())
        origin = f"new heads, {_counted(pair, ids)}"
    with torch.no_grad():
        u, e = (torch.from_numpy(np.ascontiguousarray(side)) for side in (pair.u, pair.e))
        z_u, z_e = (torch.nn.functional.normalize(z, dim=1).numpy() for z in fitted(u, e))
    return Shared(z_u=z_u, z_e=z_e, origin=origin, fitted=_is_in(pair, ids))


def held_out(pair: FeaturePair, heads: Path) -> FeaturePair:
    """Only the episodes that saved heads were not fitted on; FeatureError when there are none."""
    _, ids = _saved(heads, pair)
    mask = ~_is_in(pair, ids)
    if not mask.any():
        raise FeatureError(f"{heads} were fitted on all of these {len(pair)} episodes: none is held out")
    return pair.take(mask)


def _is_in(pair: FeaturePair, ids: Collection[str]) -> NDArray[np.bool_]:
    """(N,) whether each episode's id is one of `ids`."""
    return np.array([name in ids for name in pair.items.ids], dtype=bool)


def _saved(path: Path, pair: FeaturePair) -> tuple["AlignmentHeads", set[str]]:
    from mnprobe.probe.heads import load_heads

    heads = load_heads(path)
    need, have = (heads.config["dim_u"], heads.config["dim_e"]), (pair.u.shape[1], pair.e.shape[1])
    if need != have:
        raise ProbeError(f"{path} takes features of widths {need}, these have {have}: other layers or models")
    ids = heads.fitted_on.get("train_ids", [])
    return heads, {str(name) for name in ids} if isinstance(ids, list) else set()


def _counted(pair: FeaturePair, ids: set[str]) -> str:
    """How many of the episodes shown the heads were fitted on, and what that means."""
    known = int(_is_in(pair, ids).sum())
    if known == 0:
        return f"fitted on {len(ids)} other episodes" if ids else "fitted on episodes that they do not name"
    if known == len(pair):
        return f"fitted on these very {known} episodes, so closeness of u and e is no evidence"
    return (
        f"fitted on {known} of these {len(pair)} episodes, whose closeness is no evidence; {len(pair) - known} held out"
    )


def _side(run: RunDir, side: str, model: str | None, source: str) -> dict[int, Path]:
    """Feature files of one side and model by step."""
    pieces = []
    for piece in run.feature_files(model=model):
        with open_features(piece.path) as file:
            if file.side == side and (file.model != "pixels" or model == "pixels"):
                pieces.append(piece)
    chosen = [piece for piece in pieces if piece.source == source]
    what = f"features of the {side} side" + (f" of {model}" if model else "") + f" from source {source!r}"
    if not chosen:
        others = sorted({f"{piece.model} from {piece.source}" for piece in pieces})
        hint = f"; there are {', '.join(others)}" if others else ""
        raise FeatureError(f"{run.path} has no {what}{hint}. `{command_line('extract', run=run.path)}` makes them")
    models = sorted({piece.model for piece in chosen})
    if len(models) > 1:
        raise FeatureError(f"{run.path} has {what} of several models: {', '.join(models)}. Choose one with --{side}")
    return {piece.step: piece.path for piece in chosen}


def _inside(run: RunDir, name: str) -> Path | None:
    """A path that a table names, if it is a file in the run: relative to the run, or to where it was written."""
    root = run.path.resolve()
    for path in (run.path / name, Path(name)):
        if path.is_file() and path.resolve().is_relative_to(root):
            return path
    return None


FEWEST_STEPS = 3  # of one training: fewer need no series


def tsne_inputs(
    run: RunDir,
    *,
    understanding: Sequence[str] = (),
    execution: Sequence[str] = (),
    source: str = "demos",
    steps: Sequence[int] = (),
    compare: Sequence[RunDir] = (),
    trainings: Sequence[str] = (),
    layer_u: str | None = None,
    layer_e: str | None = None,
    pool_u: str | None = None,
    pool_e: str | None = None,
    heads: Path | None = None,
) -> list[TsneInput]:
    """Load every pair to show, each with saved heads where `heads` is given or those of `mnprobe align` fit.

    `understanding` and `execution` are either one model name each (or none), chosen from the run and from `compare`, or
    equally many feature files. Where no model is named, `trainings` (names such as "joint" or "joint-seed1") says whose
    pairs are shown; left out, baseline and joint of a run that has both at the last step (the paper's Figure 6). Pairs
    of several trainings are cut to the episodes that all have.

    Raises ConfigError when these are mixed or `steps`, `compare` and `trainings` go with files, FeatureError as
    `find_pairs` and `load_pair`.
    """
    layers = {"layer_u": layer_u, "layer_e": layer_e, "pool_u": pool_u, "pool_e": pool_e}
    files_u, files_e = feature_paths(understanding), feature_paths(execution)
    if len(files_u) != len(files_e):
        raise ConfigError(
            "give as many feature files with --understanding as with --execution, "
            f"got {len(files_u)} and {len(files_e)}"
        )
    if files_u and (steps or compare or trainings):
        raise ConfigError("--step, --compare and --training choose files of runs, but feature files were named")
    if trainings and (understanding or execution):
        raise ConfigError("--training chooses both models; leave --understanding and --execution out")
    if files_u:
        places = [(run, pair) for pair in zip(files_u, files_e, strict=True)]
    else:
        u, e = _one("--understanding", understanding), _one("--execution", execution)
        models = [(u, e)] if u or e else []
        places = [
            (place, pair)
            for place in (run, *compare)
            for u, e in models or _models(place, trainings, source, steps)
            for pair in find_pairs(place, understanding=u, execution=e, source=source, steps=steps)
        ]
    tables = {} if heads else {place: heads_table(place) for place, _ in places}  # they can be large: read once
    found = []
    for place, (path_u, path_e) in places:
        pair = load_pair(path_u, path_e, episodes="shared", **layers)
        title = "" if len(places) == 1 else _title(pair, place.name if compare else "", files=bool(files_u))
        fitting = heads if heads or tables[place] is None else find_heads(place, pair, tables[place])
        found.append(TsneInput(pair=pair, heads=fitting, title=title))
    return _same_episodes(found) if not files_u else found


def series_inputs(
    run: RunDir,
    *,
    understanding: str | None = None,
    execution: str | None = None,
    source: str = "demos",
    steps: Sequence[int] = (),
    trainings: Sequence[str] = (),
    layer_u: str | None = None,
    layer_e: str | None = None,
    pool_u: str | None = None,
    pool_e: str | None = None,
    heads: Path | None = None,
) -> dict[str, list[TsneInput]]:
    """Every checkpoint of each training to show, by training: those that `tsne_inputs` chooses when given the same.

    `steps` cuts them down. The name is empty where the run knows no trainings. Raises as `tsne_inputs`.
    """
    layers = {"layer_u": layer_u, "layer_e": layer_e, "pool_u": pool_u, "pool_e": pool_e}
    models = [(understanding, execution)] if understanding or execution else _models(run, trainings, source, ())
    paths = []
    for u, e in models:
        (found,) = find_pairs(run, understanding=u, execution=e, source=source)
        partner = ModelName.parse(found[1].parent.parent.name)
        name = partner.training if partner.seed is None else f"{partner.training}-seed{partner.seed}"
        wanted = sorted(set(steps)) or _paired(run, *found)
        paths += [(name, pair) for pair in find_pairs(run, understanding=u, execution=e, source=source, steps=wanted)]
    table = None if heads else heads_table(run)
    series: dict[str, list[TsneInput]] = {}
    for name, (path_u, path_e) in paths:
        pair = load_pair(path_u, path_e, episodes="shared", **layers)
        fitting = heads if heads or table is None else find_heads(run, pair, table)
        series.setdefault(name, []).append(TsneInput(pair=pair, heads=fitting, title=f"step {pair.origin_e.step}"))
    return series


def _models(
    run: RunDir, wanted: Sequence[str], source: str, steps: Sequence[int]
) -> list[tuple[str | None, str | None]]:
    """Models (u, e) of each training to show; (None, None) where a run knows no trainings, or only one pair."""
    known: dict[str, dict[str, dict[str, set[int]]]] = {}
    for piece in run.feature_files():
        model = ModelName.parse(piece.model)
        if model.training and piece.source in (source, source.removesuffix("-blank")):
            with open_features(piece.path) as file:
                side, own = file.side, file.source == source or file.side == "understanding"
            if own:
                name = model.training if model.seed is None else f"{model.training}-seed{model.seed}"
                sides = known.setdefault(name, {"understanding": {}, "execution": {}})
                sides[side].setdefault(piece.model, set()).add(piece.step)
    if wanted:
        missing = [name for name in wanted if name not in known]
        if missing:
            have = f"; there are {', '.join(in_order(known))}" if known else ""
            raise FeatureError(f"{run.path} has no features of training {missing[0]!r} from source {source!r}{have}")
        return [_pair_of(known[name]) for name in wanted]
    # A training with one side, or with fewer steps than the others, cannot be compared.
    whole = {name: sides for name, sides in known.items() if all(len(models) == 1 for models in sides.values())}
    ends = {name: max(next(iter(sides["execution"].values()))) for name, sides in whole.items()}
    last = max(ends.values(), default=0)
    chosen = [_first(ends, name, last) for name in ("baseline", "joint")]
    if all(chosen):
        return [_pair_of(known[name]) for name in chosen if name]
    return [(None, None)]


def _paired(run: RunDir, path_u: Path, path_e: Path) -> list[int]:
    """The steps of the model and source of `path_e` at which that of `path_u` has a partner."""
    us, es = (
        [piece.step for piece in run.feature_files(path.parent.parent.name, path.parent.name)]
        for path in (path_u, path_e)
    )
    return es if len(us) in (1, len(es)) else [step for step in es if step in us]


def _first(ends: dict[str, int], training: str, last: int) -> str | None:
    """The first seed of a training that is there at step `last`."""
    here = [name for name, end in ends.items() if end == last and ModelName.parse(f"arp-{name}").training == training]
    return min(here, key=lambda name: ModelName.parse(f"arp-{name}").seed or 0, default=None)


def _pair_of(sides: dict[str, dict[str, set[int]]]) -> tuple[str | None, str | None]:
    u, e = (next(iter(sides[side]), None) for side in ("understanding", "execution"))
    return u, e


def _same_episodes(inputs: Sequence[TsneInput]) -> list[TsneInput]:
    """The inputs with only those episodes that all have, where they are of several trainings of one run."""
    if len({ModelName.parse(given.pair.origin_e.model).training for given in inputs}) < 2:
        return list(inputs)
    common = set.intersection(*(set(given.pair.items.ids.tolist()) for given in inputs))
    if not common:
        raise FeatureError("the trainings to set side by side share no episode. Extract all from the same data")
    return [replace(given, pair=given.pair.take(_is_in(given.pair, common))) for given in inputs]


def _title(pair: FeaturePair, run: str, *, files: bool) -> str:
    u, e = pair.origin_u, pair.origin_e
    steps = f"step {e.step}" if u.step == e.step else f"steps {u.step} and {e.step}"
    if files:
        return f"{u.model} and {e.model}, {steps}"
    model = ModelName.parse(e.model)
    training = model.training if model.seed is None else f"{model.training}-seed{model.seed}"
    return ", ".join(part for part in (run, training, steps) if part)


def feature_paths(names: Sequence[str]) -> list[Path]:
    """Those of `names` that are feature files and not names of models."""
    return [Path(name) for name in names if Path(name).suffix == ".h5" or Path(name).is_file()]


def _one(option: str, names: Sequence[str]) -> str | None:
    if len(names) > 1:
        raise ConfigError(f"{option} takes one model name, or feature files (.h5); got {', '.join(names)}")
    return names[0] if names else None
