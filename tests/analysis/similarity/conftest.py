"""Features of both sides with repeated instructions, as small as each index allows."""

import numpy as np
import pytest


@pytest.fixture
def sides():
    """x (60, 7), y (60, 5) that share something; tasks, instructions of equal size (5 episodes each)."""
    generator = np.random.default_rng(7)
    latent = generator.standard_normal((60, 4))
    x = latent @ generator.standard_normal((4, 7)) + 0.7 * generator.standard_normal((60, 7)) + 0.3
    y = latent @ generator.standard_normal((4, 5)) + 0.7 * generator.standard_normal((60, 5)) - 0.2
    instructions = np.repeat(np.arange(12), 5)
    tasks = instructions // 4
    shuffle = generator.permutation(60)
    return x, y, tasks[shuffle], instructions[shuffle]
