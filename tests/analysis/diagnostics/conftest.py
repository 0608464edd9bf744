"""A sound subject to examine: the user's features in small."""

import numpy as np
import pytest

from mnprobe.analysis.diagnostics import Subject
from mnprobe.probe import pair_arrays


@pytest.fixture(scope="session")
def pair():
    """12 instructions of 3 tasks, 8 episodes each; both sides share a latent vector per instruction."""
    rng = np.random.default_rng(5)
    rows = np.repeat(np.arange(12), 8)
    latent = rng.standard_normal((12, 8))[rows]
    u = latent @ rng.standard_normal((8, 24)) + rng.standard_normal((96, 24))
    e = latent @ rng.standard_normal((8, 12)) + rng.standard_normal((96, 12))
    return pair_arrays(
        u.astype(np.float32), e.astype(np.float32), [f"do {k}" for k in rows], tasks=[f"task {k % 3}" for k in rows]
    )


@pytest.fixture(scope="session")
def subject(pair):
    return Subject(pair=pair, seeds=2, permutations=999)
