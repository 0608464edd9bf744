"""Check that the values of an episode depend neither on the other episodes of its batch nor on chance.

A layer whose axes are (tokens, rows, width), a BatchNorm in training mode, attention across the batch, padding to the
longest episode or dropout all give values that look right, but that change with `--batch-size`. The check computes some
episodes of the first batch once more, fewer of them and in another order, and compares. It costs at most one forward
pass of half a batch (a second one where the values differ), once per process and extraction.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from mnprobe.core.errors import DataError, FeatureError, MnprobeError
from mnprobe.core.labels import some
from mnprobe.data import Episode
from mnprobe.features.extractor import EpisodeFeatures

__all__ = ["check_rows"]

_ROUNDING = {"float32": (1e-4, 1e-3), "cuda": (1e-3, 1e-2), "half": (2e-2, 1e-1)}
"""Differences that count as rounding: relative to the size of a token, and to the spread of the tokens. On GPUs torch
multiplies in TF32 where it may."""

Results = Sequence[EpisodeFeatures]


def check_rows(
    extractor: Any,
    batch: Sequence[Episode],
    results: Results,
    others: Sequence[Episode] = (),
    *,
    alone: bool = False,
    device: str = "cpu",
    half: bool = False,
) -> list[str]:
    """Compute episodes of `batch` again among other rows, and compare with `results`; return remarks for the user.

    Args:
        extractor: layers that a pattern named are dropped from it where they fail.
        batch: episodes, at least one.
        results: what the extractor gave for `batch`.
        others: further episodes, used where the batch has only one.
        alone: each episode is computed alone (a batch size of 1, or a single episode), so that values which depend on
            the batch are nevertheless the episode's own.
        device: where the extractor computes.
        half: whether it computes in half precision.
    Raises:
        FeatureError: naming the layer, when its values depend on the batch or on chance, or when its first axis is not
            that of the rows.
    """
    chosen, episodes, again, failure = _compute_again(extractor, batch, results, others)
    if again is None:
        return [f"whether rows depend on their batch could not be checked: only the first batch runs ({failure})"]
    rounding = _ROUNDING["half" if half else "cuda" if device.startswith("cuda") else "float32"]
    before = [results[number] if number is not None else None for number in chosen]
    layers = [layer for layer in extractor.layers if all(layer in one.layers for one in (*results, *again))]
    compare = partial(_difference, episodes=episodes, every=results, rounding=rounding)
    differences = {layer: compare(layer, before, again) for layer in layers}
    faults = {layer: text for layer, text in differences.items() if text}
    training = extractor.training_modules() if hasattr(extractor, "training_modules") else []
    if not faults:
        return [f"in training mode, without effect on the first batch: {some(training)}"] if training else []
    cause = f" In training mode, although eval() was called: {some(training)}." if training else ""
    repeated = extractor.compute(extractor.prepare(episodes))
    remarks = []
    for layer, difference in faults.items():
        by_chance = compare(layer, again, repeated)
        if by_chance:
            text = (
                f"layer {layer!r}: the same inputs give other values each time: {by_chance}.{cause} Something in "
                "forward draws random numbers (dropout?) or keeps a state between calls, so that no second run would give these "
                "values. Switch it off, or seed it within forward"
            )
        elif alone:
            remarks.append(
                f"layer {layer!r}: values depend on the batch; they are an episode's own because it is alone"
            )
            continue
        else:
            text = (
                f"layer {layer!r}: the values depend on the batch: among {len(batch)} and among {len(episodes)} "
                f"episodes, {difference}.{cause} So they would change with --batch-size and with the choice of "
                "episodes. Mend the module (normalisation or attention across rows, padding to the longest of a "
                "batch), or take --batch-size 1, which computes each episode alone"
            )
        if not (hasattr(extractor, "drop") and extractor.drop(layer, text)):
            raise FeatureError(text)
    return remarks


def _compute_again(
    extractor: Any, batch: Sequence[Episode], results: Results, others: Sequence[Episode]
) -> tuple[list[int | None], list[Episode], Results | None, str]:
    """Some of `batch` (by number; None is another episode) among other rows, in the first way that the model takes."""
    failure = ""
    for chosen in _compositions(batch, results, bool(others)):
        episodes = [others[0] if number is None else batch[number] for number in chosen]
        try:
            return chosen, episodes, extractor.compute(extractor.prepare(episodes)), ""
        except DataError as error:
            failure = str(error)
        except MnprobeError:
            raise
        except Exception as error:  # a model that takes no single row, or only one number of rows: try another
            failure = f"{type(error).__name__}: {error}"
    return [], [], None, failure


def _compositions(batch: Sequence[Episode], results: Results, others: bool) -> list[list[int | None]]:
    count = len(batch)
    if count == 1:
        return [[None, 0], [0, 0]] if others else [[0, 0]]
    order = sorted(range(count), key=lambda i: (_tokens_of(results[i]), _length_of(batch[i])))
    shorter = sorted(order[: count // 2], reverse=True)  # without the longest, to which others may be padded
    turned = list(reversed(range(count)))
    return [[*shorter], [*turned, count - 1], [*turned]]


def _tokens_of(result: EpisodeFeatures) -> int:
    return sum(len(tokens.values) for tokens in result.layers.values())


def _length_of(episode: Episode) -> int:
    try:
        return len(episode)
    except DataError:  # some models need nothing of what the length is read from
        return 0


def _difference(
    layer: str,
    before: Sequence[EpisodeFeatures | None],
    after: Results,
    *,
    episodes: Sequence[Episode],
    every: Results,
    rounding: tuple[float, float],
) -> str:
    """Where one layer differs by more than rounding, in words; "" where it does not."""
    tokens = np.concatenate([one.layers[layer].values for one in every]).astype(np.float64)
    size = _norm(tokens)
    spread = _norm(tokens - tokens.mean(axis=0)) if len(tokens) > 1 else size
    worst, text = 1.0, ""
    for episode, old, new in zip(episodes, before, after, strict=True):
        if old is None:
            continue
        a, b = (one.layers[layer].values.astype(np.float64) for one in (old, new))
        if a.shape != b.shape:
            return f"episode {episode.id} has {len(a)} tokens and {len(b)} tokens (padding among them?)"
        distance = np.linalg.norm(a - b, axis=1)
        allowed = rounding[0] * np.maximum(np.linalg.norm(a, axis=1), size) + rounding[1] * spread
        excess = np.where(np.isfinite(distance), distance / np.maximum(allowed, np.finfo(np.float64).tiny), np.inf)
        if excess.size and excess.max() > worst:
            row = int(excess.argmax())
            worst = float(excess[row])
            text = (
                f"episode {episode.id} differs by up to {np.abs(a[row] - b[row]).max():.3g} in values as large as "
                f"{np.abs(a[row]).max():.3g}"
            )
    return text


def _norm(rows: np.ndarray[Any, Any]) -> float:
    """Root mean square norm of the rows."""
    return float(np.sqrt((rows**2).sum(axis=1).mean())) if len(rows) else 0.0
