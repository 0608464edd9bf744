"""The diagnostics suite: inputs, and all checks in order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mnprobe.analysis.diagnostics.data_checks import (
    copies_found,
    heads_blind_to_test,
    joined_by_id,
    own_copies,
    own_counts,
    partitions_apart,
    rows_alone,
    small_sets_refused,
    untrained_beside,
)
from mnprobe.analysis.diagnostics.known_answer_checks import (
    chance_level,
    collapsed,
    identity_of_known,
    identity_of_new,
    indices_of_collapsed,
    indices_of_noise,
    indices_of_rotation,
    random_features,
    rotated_twin,
    shuffled_pairs,
)
from mnprobe.analysis.diagnostics.pipeline import BROKEN, Check, NotPossible, Subject
from mnprobe.analysis.tsne.inputs import find_pairs
from mnprobe.core.errors import FeatureError, MnprobeError
from mnprobe.core.names import PIXELS
from mnprobe.core.progress import progress
from mnprobe.core.rundir import RunDir
from mnprobe.features import open_features
from mnprobe.probe import FeaturePair, load_pair

__all__ = ["CHECKS", "Examined", "broken", "examine", "sanity_suite"]

CHECKS: dict[str, Callable[[Subject], Check]] = {
    "stores joined by episode": joined_by_id,
    "train and test apart": partitions_apart,
    "chance level": chance_level,
    "random features, episodes held out": partial(random_features, holdout="episodes"),
    "random features, instructions held out": partial(random_features, holdout="instructions"),
    "shuffled pairs, episodes held out": partial(shuffled_pairs, holdout="episodes"),
    "shuffled pairs, instructions held out": partial(shuffled_pairs, holdout="instructions"),
    "collapsed embeddings": collapsed,
    "id-only features, episodes held out": identity_of_known,
    "id-only features, instructions held out": identity_of_new,
    "u against itself, rotated": rotated_twin,
    "test episodes mapped alone": rows_alone,
    "heads blind to test episodes": heads_blind_to_test,
    "similarity indices of u and itself, rotated": indices_of_rotation,
    "similarity indices of random features": indices_of_noise,
    "similarity indices of collapsed embeddings": indices_of_collapsed,
    "copies are noticed": copies_found,
    "too few samples": small_sets_refused,
    "copies in your features": own_copies,
    "sample sizes, episodes held out": partial(own_counts, holdout="episodes"),
    "sample sizes, instructions held out": partial(own_counts, holdout="instructions"),
    "your features, episodes held out": partial(untrained_beside, holdout="episodes"),
    "your features, instructions held out": partial(untrained_beside, holdout="instructions"),
}
"""Name -> check, in the order in which they run. Six of them compare with random permutations (both `random features`,
both `shuffled pairs`, `id-only features` of new instructions, and the index of random features): each is wrong about a
sound pipeline with a chance of at most 2 / 20,000, so all of them with less than 1 in 1,000."""


def sanity_suite(subject: Subject, *, only: Sequence[str] = (), quiet: bool = True) -> tuple[Check, ...]:
    """Measure planted copies of the user's features with the pipeline, and check the results.

    Args:
        subject: the features, how often each measurement is repeated, and the pipeline.
        only: names from `CHECKS`; all when empty.
        quiet: no progress on standard error.

    A check that these episodes do not allow is "not possible", and says why; one at which the pipeline itself stops
    with an error is a FAIL.
    """
    chosen = {name: CHECKS[name] for name in (only or CHECKS)}
    done = []
    with progress("checking", len(chosen), quiet=quiet) as advance:
        for name, check in chosen.items():
            done.append(_run(name, check, subject))
            advance()
    return tuple(done)


def broken(checks: Sequence[Check]) -> bool:
    """Whether a check failed."""
    return any(check.status == "FAIL" for check in checks)


def _run(name: str, check: Callable[[Subject], Check], subject: Subject) -> Check:
    try:
        return check(subject)
    except NotPossible as error:
        return Check(name=name, did="", expected="", found=str(error), status="not possible")
    except MnprobeError as error:
        return Check(
            name=name,
            did="planted features sent through the pipeline",
            expected="a result",
            found=f"{type(error).__name__}: {error}",
            status="FAIL",
            meaning=f"{BROKEN}. It stops where a sound one does not",
        )


@dataclass(frozen=True, kw_only=True)
class Examined:
    """The pair to examine, the same models before training where there are such features, and notes."""

    pair: FeaturePair
    untrained: FeaturePair | None
    notes: tuple[str, ...] = ()


def examine(
    run: RunDir | None = None,
    *,
    u: Path | None = None,
    e: Path | None = None,
    layer_u: str | None = None,
    layer_e: str | None = None,
    pool_u: str | None = None,
    pool_e: str | None = None,
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


def _read(path_u: Path, path_e: Path, options: dict[str, str | None]) -> FeaturePair:
    return load_pair(path_u, path_e, episodes="shared", **options)
