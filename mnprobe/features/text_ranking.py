"""Zero-shot action recognition: ranking candidate texts for a clip.

A text's score is its cosine to u, as in `mnprobe.models.viclip.zero_shot`, taken in double precision and rounded to
nine digits, so that results for texts that a model does not distinguish do not depend on batch or machine; the first of
equally good texts is chosen. The extractor's predictions, `mnprobe recognize` and the labels of `align --split success`
use this module.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mnprobe.core.errors import ConfigError
from mnprobe.core.labels import same_text
from mnprobe.core.runtime import autocast
from mnprobe.models.clip import END
from mnprobe.models.viclip import Tokenizer, ViCLIP

__all__ = [
    "ALL_EPISODES",
    "ALL_TASKS",
    "COLUMNS",
    "PREDICTION_COLUMNS",
    "Ranking",
    "alike_texts",
    "best_texts",
    "distinct_texts",
    "encode_texts",
    "own_numbers",
    "plain_text",
    "rank_texts",
    "reads_text",
    "same_tokens",
    "told_texts",
]

_DIGITS = 9  # digits of a cosine: coarser than double precision, finer than float32 features
_TEXTS_AT_ONCE = 64

ALL_TASKS = "all tasks"
"""In the column `task`: the mean over tasks with equal weights ("Avg." in the paper's Table 1)."""

ALL_EPISODES = "all episodes"
"""In the column `task`: the mean over episodes."""

COLUMNS = (
    *("model", "training", "step", "trained", "zero_shot", "source", "partition", "task"),
    *("n", "correct", "correct5", "top1", "top5", "ci_low", "ci_high", "top5_low", "top5_high"),
    *("chance", "chance5", "candidates", "candidates_sha256", "checkpoint_sha256", "data_fingerprint"),
    *("config_hash", "created"),
)
"""The tidy table results/recognition.csv (the paper's Table 1): one row per model, step, source, partition and task.

model, step: as in checkpoints/<model>/step_<step>; `training` is the name of the training recorded in the checkpoint
("baseline", "joint", ...; empty if none); `trained` False for random weights; `zero_shot` True for weights that were
trained, but not here: a published file, or step 0 of a training that started from one. source: "demos", "rollouts",
...;
partition: "test", "all", or the requested ones, joined with "+". task: the task, or ALL_TASKS (mean over tasks), or
ALL_EPISODES (mean over episodes); each model and step has both. n: episodes; correct, correct5: those whose own
instruction came first, or among the first five; top1, top5: shares in [0, 1] (of ALL_TASKS: means of the tasks'
shares); ci_low, ci_high: 95 % interval of top1 (Wilson; for ALL_TASKS recovered from the tasks' own), top5_low,
top5_high of top5; chance, chance5: what guessing gives, 1 and 5 of `candidates`. The other columns identify the
measurement: rows with equal `config_hash` are reused.
"""

PREDICTION_COLUMNS = (
    *("model", "training", "step", "source", "partition", "id", "task", "instruction", "prediction"),
    *("correct", "rank", "margin", "config_hash"),
)
"""The tidy table results/predictions.csv: one row per model, step, source and episode.

`partition` is that of the episode; `correct` (1 or 0) is the understanding side's success at this checkpoint; `rank` is
the rank of the episode's own instruction, 1 the best; `margin` its cosine minus that of the best other instruction.
"""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Ranking of the own text of N clips among C texts: `best` (N,) index of the best text, `rank` (N,) rank of the own
    text, from 1, `margin` (N,) cosine of the own text minus the best other one (NaN for a single candidate)."""

    best: NDArray[np.int64]
    rank: NDArray[np.int64]
    margin: NDArray[np.float64]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """(N,) whether the own text is the best."""
        found: NDArray[np.bool_] = self.rank == 1
        return found


def plain_text(text: str) -> str:
    """Normalise case, blanks and Unicode form of a text: texts with equal results are one candidate.

    It is `mnprobe.core.labels.same_text`, which `align` also uses to group instructions.

    >>> plain_text(" Close the red jar")
    'close the red jar'
    """
    return same_text(text)


def distinct_texts(texts: Sequence[str]) -> tuple[str, ...]:
    """Candidates: sorted, and of those that differ in case, blanks or Unicode form only the first.

    >>> distinct_texts(["turn left tap", "close jar", "Close jar", "turn left tap"])
    ('Close jar', 'turn left tap')
    """
    first: dict[str, str] = {}
    for text in sorted(set(texts)):
        first.setdefault(plain_text(text), text)
    return tuple(first.values())


def own_numbers(instructions: Sequence[str], candidates: Sequence[str]) -> list[int | None]:
    """Return the candidate index of each instruction (see `plain_text`); None if it is not a candidate.

    >>> own_numbers(["Open it", "shut it"], ["open it"])
    [0, None]
    """
    numbers = {plain_text(text): number for number, text in enumerate(candidates)}
    return [numbers.get(plain_text(text)) for text in instructions]


def reads_text(model: ViCLIP) -> bool:
    """Whether the model's text encoder has CLIP's vocabulary, which recognition requires."""
    return model.config.vocabulary > END


def same_tokens(texts: Sequence[str], context: int) -> list[tuple[str, str]]:
    """Find pairs of different texts with equal tokens, for example if both are longer than `context`.

    >>> same_tokens(["a cup", "A cup", "a bowl"], 32)
    [('a cup', 'A cup')]
    """
    first = alike_texts(texts, context)
    return [
        (texts[number], text) for index, (number, text) in enumerate(zip(first, texts, strict=True)) if number < index
    ]


def alike_texts(texts: Sequence[str], context: int) -> list[int]:
    """Return, for each text, the index of the first text with equal tokens, which the model cannot distinguish.

    >>> alike_texts(["a cup", "a bowl", "A cup"], 32)
    [0, 1, 0]
    """
    if not texts:
        return []
    first: dict[tuple[int, ...], int] = {}
    ids = _tokenizer(context).tokenize(texts).tolist()
    return [first.setdefault(tuple(row), index) for index, row in enumerate(ids)]


def told_texts(texts: Sequence[str], context: int) -> list[str]:
    """Messages for the pairs of `same_tokens`."""
    return [
        f"{one!r} and {other!r} are one text to this model, which reads only the beginning"
        for one, other in same_tokens(texts, context)
    ]


@torch.inference_mode()
def encode_texts(model: ViCLIP, texts: Sequence[str], *, precision: str = "float32") -> NDArray[np.float32]:
    """Encode texts to features (C, E), not normalised, on the model's device.

    Raises ConfigError when there are no texts, two are equal, or the text encoder lacks CLIP's vocabulary.
    """
    if not texts:
        raise ConfigError("recognition needs at least one candidate text, got none")
    if len(set(texts)) != len(texts):
        raise ConfigError("the candidate instructions must differ from each other")
    if not reads_text(model):
        raise ConfigError(
            f"this ViCLIP has a vocabulary of {model.config.vocabulary} tokens, CLIP's has {END + 1}: "
            "it cannot read instructions, so it cannot recognise"
        )
    device = model.temp.device
    ids = _tokenizer(model.config.text_context).tokenize(texts)
    with autocast(str(device), precision):
        parts = [model.encode_text(part.to(device)) for part in torch.split(ids, _TEXTS_AT_ONCE)]
    features: NDArray[np.float32] = torch.cat(parts).float().cpu().numpy()
    return features


def best_texts(u: NDArray[Any], texts: NDArray[Any]) -> NDArray[np.int64]:
    """Return the index of the best text of each clip: `u` (N, E), `texts` (C, E) -> (N,).

    >>> best_texts(np.eye(2), np.array([[0.0, 2.0], [1.0, 0.1]])).tolist()
    [1, 0]
    """
    best: NDArray[np.int64] = np.argmax(_cosines(u, texts), axis=1)
    return best


def rank_texts(u: NDArray[Any], texts: NDArray[Any], own: NDArray[np.int64]) -> Ranking:
    """Rank the texts for each clip; `own` (N,) is the index of its own text.

    >>> rank_texts(np.eye(2), np.array([[0.0, 2.0], [1.0, 0.0]]), np.array([1, 1])).rank.tolist()
    [1, 2]
    """
    cosine = _cosines(u, texts)
    rows = np.arange(len(cosine))
    mine = cosine[rows, own][:, None]
    earlier = np.arange(cosine.shape[1]) < own[:, None]
    rank = 1 + (cosine > mine).sum(axis=1) + ((cosine == mine) & earlier).sum(axis=1)
    others = cosine.copy()
    others[rows, own] = -np.inf
    best_other = others.max(axis=1)
    margin = np.where(np.isneginf(best_other), np.nan, np.round(mine[:, 0] - best_other, _DIGITS))
    return Ranking(best=np.argmax(cosine, axis=1), rank=rank, margin=margin)


@cache
def _tokenizer(context: int) -> Tokenizer:
    """Cached, because reading the vocabulary is slower than encoding all texts of a dataset."""
    return Tokenizer(context)


def _cosines(u: NDArray[Any], texts: NDArray[Any]) -> NDArray[np.float64]:
    cosine: NDArray[np.float64] = np.round(_unit(u) @ _unit(texts).T, _DIGITS)
    return cosine


def _unit(rows: NDArray[Any]) -> NDArray[np.float64]:
    wide = np.asarray(rows, dtype=np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    unit: NDArray[np.float64] = wide / np.maximum(length, np.finfo(np.float64).tiny)
    return unit
