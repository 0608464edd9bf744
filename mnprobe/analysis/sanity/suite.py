"""The sanity suite: all checks in order, on one pair of features."""

from collections.abc import Callable, Sequence
from functools import partial

from mnprobe.analysis.sanity.chance_checks import chance_level, collapsed, random_features, shuffled_pairs
from mnprobe.analysis.sanity.check import BROKEN, Check, NotPossible
from mnprobe.analysis.sanity.independence import heads_blind_to_test, partitions_apart, rows_alone
from mnprobe.analysis.sanity.index_checks import indices_of_collapsed, indices_of_noise, indices_of_rotation
from mnprobe.analysis.sanity.joining import joined_by_id
from mnprobe.analysis.sanity.own_features import (
    copies_found,
    own_copies,
    own_counts,
    small_sets_refused,
    untrained_beside,
)
from mnprobe.analysis.sanity.subject import Subject
from mnprobe.analysis.sanity.truth_checks import identity_of_known, identity_of_new, rotated_twin
from mnprobe.core.errors import MnprobeError
from mnprobe.core.progress import progress

__all__ = ["CHECKS", "broken", "sanity_suite"]

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
    """Send planted copies of the user's features through the pipeline, and say whether what comes out is right.

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
