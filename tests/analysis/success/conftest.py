"""Kept scores of success and failure with a planted difference, as `mnprobe align --split success` would keep them."""

from collections.abc import Callable

import numpy as np
import pytest

from mnprobe.probe.scores import HitScores


def _about(**changes: object) -> dict[str, object]:
    about: dict[str, object] = {
        "understanding": "viclip", "execution": "arp", "source_u": "rollouts", "source_e": "rollouts", "step_u": 8000,
        "step_e": 8000, "trained_u": True, "trained_e": True, "layer_u": "u", "layer_e": "e", "pool_u": "mean",
        "pool_e": "mean", "heads": "linear", "pairing": "instruction", "loss": "diagonal", "tau": 0.1,
        "holdout": "episodes", "mode": "own-probe", "control": "none", "batch": 256, "config_hash": "c0ffee",
        "features_hash": "beef", "fit_source": "rollouts",
    }  # fmt: skip
    return about | changes


def _scores(
    *,
    difference: float = 0.0,
    instructions: int = 18,
    each: int = 16,
    draws: int = 6,
    seeds: int = 2,
    sides: tuple[str, ...] = ("understanding", "execution"),
    seed: int = 0,
    **about: object,
) -> HitScores:
    """Half of each instruction's episodes succeed; two of each outcome are tested in every draw."""
    rng = np.random.default_rng(seed)
    names = np.repeat(np.arange(instructions), each)
    success = np.tile(np.arange(each) % 2 == 0, instructions)
    rate = np.clip(rng.uniform(0.2, 0.7, instructions)[names] + np.where(success, difference, 0.0), 0, 1)
    hit = (rng.random((len(names), 2)) < rate[:, None]).astype(np.float32)
    splits, numbers, hits, train, test = [], [], [], [], []
    for draw in range(draws):
        for side in sides:
            for outcome, value in (("success", True), ("failure", False)):
                own = [np.flatnonzero((names == g) & (success == value)) for g in range(instructions)]
                rows = np.concatenate([rng.permutation(one)[:2] for one in own])
                for seed_number in range(seeds if draw == 0 else 1):
                    kept = np.full((len(names), 2), np.nan, np.float32)
                    kept[rows] = hit[rows]
                    splits.append(f"{side}-{outcome}")
                    numbers.append((seed_number, draw))
                    hits.append(kept)
                    test.append(np.isin(np.arange(len(names)), rows))
                    train.append(~test[-1])
    return HitScores(
        about=_about(**about),
        splits=np.array(splits),
        seeds=np.array([one[0] for one in numbers]),
        draws=np.array([one[1] for one in numbers]),
        hits=np.stack(hits),
        chance=np.full((len(splits), 2), 1 / instructions),
        train=np.stack(train),
        test=np.stack(test),
        ids=np.array([f"task_{g // 3}/{g}/episode{k}" for k, g in enumerate(names)]),
        instructions=np.array([f"do {g}" for g in names]),
        tasks=np.array([f"task_{g // 3}" for g in names]),
    )


@pytest.fixture(scope="session")
def kept_scores() -> Callable[..., HitScores]:
    return _scores
