"""Which pairs a t-SNE shows: feature files named one by one, or those of one or more runs."""

from collections.abc import Sequence
from pathlib import Path

from mnprobe.analysis.draw_tsne import TsneInput
from mnprobe.analysis.pairs import FeaturePair, find_heads, find_pairs, load_pair
from mnprobe.core.errors import ConfigError
from mnprobe.core.rundir import RunDir

__all__ = ["tsne_inputs"]


def tsne_inputs(
    run: RunDir,
    *,
    understanding: Sequence[str] = (),
    execution: Sequence[str] = (),
    source: str = "demos",
    steps: Sequence[int] = (),
    compare: Sequence[RunDir] = (),
    layer_u: str = "u",
    layer_e: str = "e",
    pool_u: str = "mean",
    pool_e: str = "mean",
    heads: Path | None = None,
) -> list[TsneInput]:
    """Load every pair to show, each with saved heads where `heads` is given or those of `mnprobe align` fit.

    `understanding` and `execution` are either one model name each (or none), chosen from the run and from `compare`, or
    equally many feature files. Raises ConfigError when these are mixed or `steps` and `compare` go with files,
    FeatureError as `find_pairs` and `load_pair`.
    """
    files_u, files_e = _files(understanding), _files(execution)
    if len(files_u) != len(files_e):
        raise ConfigError(
            "give as many feature files with --understanding as with --execution, "
            f"got {len(files_u)} and {len(files_e)}"
        )
    if files_u and (steps or compare):
        raise ConfigError("--step and --compare choose files of runs, but feature files were named")
    if files_u:
        places = [(run, pair) for pair in zip(files_u, files_e, strict=True)]
    else:
        u, e = _one("--understanding", understanding), _one("--execution", execution)
        places = [
            (place, pair)
            for place in (run, *compare)
            for pair in find_pairs(place, understanding=u, execution=e, source=source, steps=steps)
        ]
    found = []
    for place, (path_u, path_e) in places:
        pair = load_pair(path_u, path_e, layer_u=layer_u, layer_e=layer_e, pool_u=pool_u, pool_e=pool_e)
        title = "" if len(places) == 1 else _title(pair, place.name if compare else "", named=bool(files_u))
        found.append(TsneInput(pair=pair, heads=heads or find_heads(place, pair), title=title))
    return found


def _title(pair: FeaturePair, run: str, *, named: bool) -> str:
    steps = f"step {pair.step_e}" if pair.step_u == pair.step_e else f"steps {pair.step_u} and {pair.step_e}"
    if named:
        return f"{pair.understanding} and {pair.execution}, {steps}"
    return f"{run}, {steps}" if run else steps


def _files(names: Sequence[str]) -> list[Path]:
    return [Path(name) for name in names if Path(name).suffix == ".h5" or Path(name).is_file()]


def _one(option: str, names: Sequence[str]) -> str | None:
    if len(names) > 1:
        raise ConfigError(f"{option} takes one model name, or feature files (.h5); got {', '.join(names)}")
    return names[0] if names else None
