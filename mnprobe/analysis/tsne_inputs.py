"""Which pairs a t-SNE shows: feature files named one by one, or those of one or more runs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mnprobe.analysis.draw_tsne import TsneInput
from mnprobe.analysis.pairs import FeaturePair, find_heads, find_pairs, heads_table, load_pair
from mnprobe.analysis.trainings import in_order, named
from mnprobe.core.errors import ConfigError, FeatureError
from mnprobe.core.rundir import RunDir
from mnprobe.features import open_features

__all__ = ["FEWEST_STEPS", "feature_paths", "series_inputs", "tsne_inputs"]

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
    layer_u: str = "u",
    layer_e: str = "e",
    pool_u: str = "mean",
    pool_e: str = "mean",
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
        pair = load_pair(path_u, path_e, layer_u=layer_u, layer_e=layer_e, pool_u=pool_u, pool_e=pool_e)
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
    layer_u: str = "u",
    layer_e: str = "e",
    pool_u: str = "mean",
    pool_e: str = "mean",
    heads: Path | None = None,
) -> dict[str, list[TsneInput]]:
    """Every checkpoint of each training to show, by training: those that `tsne_inputs` chooses when given the same.

    `steps` cuts them down. The name is empty where the run knows no trainings. Raises as `tsne_inputs`.
    """
    models = [(understanding, execution)] if understanding or execution else _models(run, trainings, source, ())
    paths = []
    for u, e in models:
        (found,) = find_pairs(run, understanding=u, execution=e, source=source)
        partner = named(found[1].parent.parent.name)
        name = partner.training if partner.seed is None else f"{partner.training}-seed{partner.seed}"
        wanted = sorted(set(steps)) or _paired(run, *found)
        paths += [(name, pair) for pair in find_pairs(run, understanding=u, execution=e, source=source, steps=wanted)]
    table = None if heads else heads_table(run)
    series: dict[str, list[TsneInput]] = {}
    for name, (path_u, path_e) in paths:
        pair = load_pair(path_u, path_e, layer_u=layer_u, layer_e=layer_e, pool_u=pool_u, pool_e=pool_e)
        fitting = heads if heads or table is None else find_heads(run, pair, table)
        series.setdefault(name, []).append(TsneInput(pair=pair, heads=fitting, title=f"step {pair.step_e}"))
    return series


def _models(
    run: RunDir, wanted: Sequence[str], source: str, steps: Sequence[int]
) -> list[tuple[str | None, str | None]]:
    """Models (u, e) of each training to show; (None, None) where a run knows no trainings, or only one pair."""
    known: dict[str, dict[str, dict[str, set[int]]]] = {}
    for piece in run.feature_files():
        model = named(piece.model)
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
    # A training with one side, or one that is not as far as the others, has nothing to set beside.
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
    here = [name for name, end in ends.items() if end == last and named(f"arp-{name}").training == training]
    return min(here, key=lambda name: named(f"arp-{name}").seed or 0, default=None)


def _pair_of(sides: dict[str, dict[str, set[int]]]) -> tuple[str | None, str | None]:
    u, e = (next(iter(sides[side]), None) for side in ("understanding", "execution"))
    return u, e


def _same_episodes(inputs: Sequence[TsneInput]) -> list[TsneInput]:
    """The inputs with only those episodes that all have, where they are of several trainings of one run."""
    if len({named(given.pair.execution).training for given in inputs}) < 2:
        return list(inputs)
    common = set.intersection(*(set(given.pair.episodes["id"]) for given in inputs))
    if not common:
        raise FeatureError("the trainings to set side by side share no episode. Extract all from the same data")
    return [replace(given, pair=given.pair.rows(given.pair.episodes["id"].isin(common).to_numpy())) for given in inputs]


def _title(pair: FeaturePair, run: str, *, files: bool) -> str:
    steps = f"step {pair.step_e}" if pair.step_u == pair.step_e else f"steps {pair.step_u} and {pair.step_e}"
    if files:
        return f"{pair.understanding} and {pair.execution}, {steps}"
    model = named(pair.execution)
    training = model.training if model.seed is None else f"{model.training}-seed{model.seed}"
    return ", ".join(part for part in (run, training, steps) if part)


def feature_paths(names: Sequence[str]) -> list[Path]:
    """Those of `names` that are feature files and not names of models."""
    return [Path(name) for name in names if Path(name).suffix == ".h5" or Path(name).is_file()]


def _one(option: str, names: Sequence[str]) -> str | None:
    if len(names) > 1:
        raise ConfigError(f"{option} takes one model name, or feature files (.h5); got {', '.join(names)}")
    return names[0] if names else None
