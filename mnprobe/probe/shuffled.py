"""The control with shuffled pairs: what the probe finds when training pairs have nothing to do with each other."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnprobe.core.arrays import Whole
from mnprobe.core.labels import Labels, as_labels
from mnprobe.core.seeds import check_seed

__all__ = ["shuffled_groups"]


def shuffled_groups(groups: Labels, *, seed: Whole = 0) -> NDArray[Any]:
    """The group labels of the training set in random order: each e is paired as if it belonged to another group.

    Group sizes stay as they are. Heads fitted with these labels on one side can memorise the training pairs but learn
    nothing that holds for new episodes, so their recall on true test pairs shows what chance gives.
    Raises FeatureError for a label that is missing, ConfigError for a seed that is none.
    Source: control tasks, Hewitt and Liang 2019 (arXiv 1909.03368).

    >>> sorted(shuffled_groups(np.array(["a", "a", "b"])).tolist())
    ['a', 'a', 'b']
    """
    return np.random.default_rng([check_seed(seed), 3]).permutation(as_labels(groups, None, "groups"))
