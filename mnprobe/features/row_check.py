"""Check that values of an episode do not depend on its batch or on chance.

Axes in the order (tokens, rows, width), BatchNorm in training mode, attention across the batch, padding to the longest
episode and dropout all give plausible values that change with `--batch-size`. The check computes the first batch again,
in two halves and in another order, and compares the values. It costs reading and computing one batch (two if values
differ), once per process and extraction.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from mnprobe.core.arrays import is_tensor
from mnprobe.core.errors import DataError, FeatureError, MnprobeError
from mnprobe.core.labels import some
from mnprobe.data import Episode
from mnprobe.features.extractors.base import EpisodeFeatures

__all__ = ["check_rows"]

_ROUNDING = {"float32": (1e-4, 1e-3), "cuda": (1e-3, 1e-2), "half": (2e-2, 1e-1)}
"""Differences that count as rounding: relative to the size of a token, and to the spread of the tokens. On GPUs torch
may multiply in TF32."""
_DEEPEST = 16  # maximum depth of nested containers

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
    """Recompute the episodes of `batch` in other batches and compare with `results`; return messages for the user.

    Args:
        extractor: layers that matched a pattern only are dropped from it when they fail.
        batch: episodes, at least one.
        results: results of the extractor for `batch`.
        others: further episodes, used if the batch has only one.
        alone: each episode is computed alone (a batch size of 1, or a single episode), so that values that depend on
            the batch are still those of one episode.
        device: device of the extractor.
        half: whether it computes in half precision.
    Raises:
        FeatureError: naming the layer, when its values depend on the batch or on chance, or when its first axis is not
            that of the rows.
    """
    groups, again, failure = _compute_again(extractor, batch, results, others)
    if again is None:
        return [f"whether rows depend on their batch could not be checked: only the first batch runs ({failure})"]
    rounding = _ROUNDING["half" if half else "cuda" if device.startswith("cuda") else "float32"]
    number_of = {id(episode): number for number, episode in enumerate(batch)}
    episodes = [episode for group in groups for episode in group]
    before = [results[number_of[id(one)]] if id(one) in number_of else None for one in episodes]
    layers = [layer for layer in extractor.layers if all(layer in one.layers for one in (*results, *again))]
    compare = partial(_difference, episodes=episodes, every=results, rounding=rounding)
    differences = {layer: compare(layer, before, again) for layer in layers}
    faults = {layer: text for layer, text in differences.items() if text}
    training = extractor.training_modules() if hasattr(extractor, "training_modules") else []
    if not faults:
        return [f"in training mode, without effect on the first batch: {some(training)}"] if training else []
    cause = f" In training mode, although eval() was called: {some(training)}." if training else ""
    prepared = [extractor.prepare(group) for group in groups]
    if not all(_same(one, extractor.prepare(group)) for one, group in zip(prepared, groups, strict=True)):
        return ["prepare gives other inputs each time it reads the same episodes, so no second run gives these values"]
    if all(_reads_places(extractor, batch, group, one) for one, group in zip(prepared, groups, strict=True)):
        in_place = [results[i] if i < len(results) else None for group in groups for i in range(len(group))]
        if not any(compare(layer, in_place, again) for layer in faults):
            return [
                "prepare gives the same inputs whichever episodes it is to read, so values are not the episodes' own"
            ]
    repeated = [result for one in prepared for result in extractor.compute(one)]
    remarks = []
    for layer, difference in faults.items():
        by_chance = compare(layer, again, repeated)
        if by_chance:
            text = (
                f"layer {layer!r}: the same inputs give other values each time: {by_chance}.{cause} Something in "
                "forward draws random numbers (dropout?) or keeps a state between calls, so that no second run would "
                "give these values. Switch it off, or seed it within forward"
            )
        elif alone:
            remarks.append(
                f"layer {layer!r}: values depend on the batch; they are an episode's own because it is alone"
            )
            continue
        else:
            text = (
                f"layer {layer!r}: the values depend on the batch: among {len(batch)} and among {len(groups[0])} "
                f"episodes, {difference}.{cause} So they would change with --batch-size and with the choice of "
                "episodes. Mend the module (normalisation or attention across rows, padding to the longest of a "
                "batch), or take --batch-size 1, which computes each episode alone"
            )
        if not (hasattr(extractor, "drop") and extractor.drop(layer, text)):
            raise FeatureError(text)
    return remarks


def _reads_places(extractor: Any, batch: Sequence[Episode], group: Sequence[Episode], prepared: Any) -> bool:
    """Whether inputs depend only on the position in the batch, as with placeholder data."""
    others = list(reversed(group)) if len(group) > 1 else [episode for episode in batch if episode is not group[0]][:1]
    return bool(others) and _same(prepared, extractor.prepare(others))


def _same(a: Any, b: Any, depth: int = 0) -> bool:
    """Whether two prepared batches are equal, in any containers."""
    if a is b or depth > _DEEPEST:
        return True
    if type(a) is not type(b):
        return False
    if is_tensor(a) or isinstance(a, np.ndarray):
        return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(_same(a[name], b[name], depth + 1) for name in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_same(x, y, depth + 1) for x, y in zip(a, b, strict=True))
    if dataclasses.is_dataclass(a):
        return all(_same(getattr(a, field.name), getattr(b, field.name), depth + 1) for field in dataclasses.fields(a))
    if hasattr(a, "__dict__"):
        return _same(vars(a), vars(b), depth + 1)
    return bool(a == b)


def _compute_again(
    extractor: Any, batch: Sequence[Episode], results: Results, others: Sequence[Episode]
) -> tuple[list[list[Episode]], Results | None, str]:
    """Regroup the episodes of `batch` and compute them, in the first grouping that the model accepts."""
    failure = ""
    for groups in _groupings(batch, others):
        try:
            again = [result for group in groups for result in extractor.compute(extractor.prepare(group))]
        except DataError as error:
            failure = str(error)
        except MnprobeError as error:
            if len(batch) == 1 or any(len(group) > 1 for group in groups):
                raise
            failure = str(error)  # a module that squeezes a single row: other batches may still work
        except Exception as error:  # a model that needs several rows, or a fixed number of rows: try the next grouping
            failure = f"{type(error).__name__}: {error}"
        else:
            return groups, again, ""
    return [], None, failure


def _groupings(batch: Sequence[Episode], others: Sequence[Episode]) -> list[list[list[Episode]]]:
    """Alternative groupings of a batch, best first: halves, one of them without the longest episode."""
    listed = list(batch)
    if len(listed) == 1:
        return [[[one, listed[0]]] for one in (*others[:1], listed[0])]
    middle = len(listed) // 2
    halves = [listed[:middle], listed[middle:]] if len(listed) != 3 else [listed[:2], listed[1:]]
    turned = listed[::-1]
    return [[half[::-1] for half in halves], [[*turned, listed[-1]]], [turned]]


def _difference(
    layer: str,
    before: Sequence[EpisodeFeatures | None],
    after: Results,
    *,
    episodes: Sequence[Episode],
    every: Results,
    rounding: tuple[float, float],
) -> str:
    """Describe where a layer differs by more than rounding; "" if it does not."""
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
