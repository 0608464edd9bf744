"""Which features are examined: two stores, or the last ones of a run with those of step 0 beside."""

from dataclasses import dataclass
from pathlib import Path

from mnprobe.analysis.pairs import find_pairs
from mnprobe.core.errors import FeatureError
from mnprobe.core.rundir import RunDir
from mnprobe.features import open_features
from mnprobe.probe import Pair, pair_files
from mnprobe.probe.join import PIXELS

__all__ = ["Examined", "examine"]


@dataclass(frozen=True, kw_only=True)
class Examined:
    """The pair to examine, the same models before training where there are such features, and notes."""

    pair: Pair
    untrained: Pair | None
    notes: tuple[str, ...] = ()


def examine(
    run: RunDir | None = None,
    *,
    u: Path | None = None,
    e: Path | None = None,
    layer_u: str | None = None,
    layer_e: str | None = None,
    pool_u: str = "mean",
    pool_e: str = "mean",
) -> Examined:
    """Read the features: of the two stores, else of a run the last checkpoint on demonstrations.

    In a run with several models of a side, the first by name is taken, and a note says so; pixels only if there is no
    other. Raises FeatureError when a side is missing or stores do not belong together.
    """
    options = {"layer_u": layer_u, "layer_e": layer_e, "pool_u": pool_u, "pool_e": pool_e}
    if u is not None and e is not None:
        return Examined(pair=_read(u, e, options), untrained=None)
    if run is None:
        raise FeatureError("nothing to examine: give --run, or --u and --e")
    notes = []
    names = _models(run)
    understanding, execution = (names[side][0] if names[side] else None for side in ("understanding", "execution"))
    for side, found in names.items():
        if len(found) > 1:
            notes.append(f"of {len(found)} {side} models in the run, {found[0]} is examined (others: --u and --e)")
    if understanding and execution and (training := execution.partition("-")[2]):
        same = [name for name in names["understanding"] if name.partition("-")[2] == training]
        understanding = same[0] if same else understanding
    ((path_u, path_e),) = find_pairs(run, understanding=understanding, execution=execution)
    pair = _read(path_u, path_e, options)
    untrained = None
    if pair.origin_e.step > 0:
        start_u, start_e = path_u.with_name("step_00000000.h5"), path_e.with_name("step_00000000.h5")
        if start_u.is_file() and start_e.is_file():
            untrained = _read(start_u, start_e, options)
    return Examined(pair=pair, untrained=untrained, notes=tuple(notes))


def _models(run: RunDir) -> dict[str, list[str]]:
    """Models of each side that have features of demonstrations, pixels last."""
    found: dict[str, dict[str, None]] = {"understanding": {}, "execution": {}}
    for piece in run.feature_files(source="demos"):
        with open_features(piece.path) as file:
            found[file.side][piece.model] = None
    return {side: sorted(names, key=lambda name: (name.startswith(PIXELS), name)) for side, names in found.items()}


def _read(path_u: Path, path_e: Path, options: dict[str, str | None]) -> Pair:
    with open_features(path_u) as file_u, open_features(path_e) as file_e:
        return pair_files(file_u, file_e, episodes="shared", **options)  # type: ignore[arg-type]  # pools are never None
