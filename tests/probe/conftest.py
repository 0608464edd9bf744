"""Planted pairs: u and e that share a known latent, or share nothing."""

import numpy as np
import pytest
import torch


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def planted():
    """Features of both sides from one latent per instruction (noise 0 = the latent alone), with labels."""

    def make(*, instructions=8, per=8, dims=(12, 10), noise=0.3, related=True, seed=0):
        rng = np.random.default_rng(seed)
        labels = np.repeat(np.arange(instructions), per)
        latent = rng.normal(size=(instructions, 6))
        sides = []
        for dim in dims:
            own = latent if related else rng.normal(size=(instructions, 6)) * 0
            signal = own[labels] @ rng.normal(size=(6, dim)) / 6**0.5
            sides.append((signal + noise * rng.normal(size=(len(labels), dim))).astype(np.float32))
        return sides[0], sides[1], [f"do thing {label}" for label in labels]

    return make
