"""Tokens of an ARP sequence: kinds, embeddings of known ones, query prompts."""

import math
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor, arange, cat, empty, exp, nn

__all__ = ["ACTIONS", "BLOCKED", "PROMPT", "PROMPTS", "SCREEN", "TOKENS", "Layout", "action_layout", "screen_layout"]

TOKENS = (
    "prompt-features",
    "stage1-screen-pts",
    "stage2-screen-pts",
    "rot-x",
    "rot-y",
    "rot-z",
    "grip",
    "collision",
)
"""Names of the token types; the index in this list is the type number in the published weights."""

PROMPT = 0
SCREEN = (1, 2)
ACTIONS = (3, 4, 5, 6, 7)
PROMPTS = 6
"""Prompt vectors of an action sequence: for each view the map at the point, then for each view the map's maximum."""

_ROTATIONS = (3, 4, 5)
_BINARY = (6, 7)

BLOCKED = frozenset((query, key) for query in _BINARY for key in _ROTATIONS)
"""(query type, key type) without attention: gripper and collision are predicted without the angles."""


@dataclass(frozen=True)
class Layout:
    """Token types and chunk numbers of a sequence, one of each per position.

    Chunk numbers start at 0 and go up by 0 or 1; tokens of one chunk are predicted together.

    >>> action_layout((1, 1, 1, 2)).chunks
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9)
    """

    types: tuple[int, ...]
    chunks: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.types)

    @property
    def places(self) -> tuple[int, ...]:
        """Index of each position inside its chunk."""
        return tuple(i - self.chunks.index(chunk) for i, chunk in enumerate(self.chunks))

    def until(self, chunk: int) -> "Layout":
        """The part up to and including `chunk`."""
        end = sum(c <= chunk for c in self.chunks)
        return Layout(self.types[:end], self.chunks[:end])


def screen_layout(stage: int) -> Layout:
    """One screen-point token of `stage` (0 or 1)."""
    return Layout((SCREEN[stage],), (0,))


def action_layout(chunk_sizes: tuple[int, ...]) -> Layout:
    """Six prompts, each a chunk of its own, then the five action tokens in chunks of the given sizes."""
    chunks = list(range(PROMPTS))
    for size in chunk_sizes:
        chunks += [chunks[-1] + 1] * size
    return Layout((PROMPT,) * PROMPTS + ACTIONS, tuple(chunks))


class ChunkEmbedder(nn.Module):
    """Embedding of a token to predict: its position in the chunk plus its type; no value."""

    def __init__(self, width: int, max_chunk: int) -> None:
        super().__init__()
        self.chunk_embed = nn.Embedding(max_chunk, width)
        self.token_type_embed = nn.Embedding(len(TOKENS), width)

    def forward(self, places: Int[Tensor, " l"], types: Int[Tensor, " l"]) -> Float[Tensor, "l n"]:
        """Embeddings of the positions, the same for every sample."""
        out: Tensor = self.chunk_embed(places) + self.token_type_embed(types)
        return out


class PromptEmbedder(nn.Module):
    """A prompt token of value v is row v of the vectors given at run time."""

    def forward(self, values: Int[Tensor, "b l"], prompts: Float[Tensor, "b six n"]) -> Float[Tensor, "b l n"]:
        """Rows of `prompts`."""
        return prompts.gather(1, values[..., None].expand(-1, -1, prompts.shape[-1]))


class ZeroEmbedder(nn.Module):
    """A known screen point is all zeros: its value never re-enters the sequence."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, values: Int[Tensor, "b l"]) -> Float[Tensor, "b l n"]:
        """Zeros."""
        return values.new_zeros(*values.shape, self.width).float()


class SinusoidEmbedder(nn.Module):
    """A bin v as [sin(v w_0), ..., cos(v w_0), ...] with w_j = exp(-2 j ln(10000) / n): halves, not interleaved."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        row = empty(1, width // 2)
        self.register_buffer("div_term", row if row.is_meta else self.frequencies(width))
        self.div_term: Tensor

    @staticmethod
    def frequencies(width: int) -> Float[Tensor, "1 half"]:
        """The w_j as a row."""
        return exp(-2 * arange(width // 2) * (math.log(10_000) / width))[None]

    def forward(self, values: Int[Tensor, "b l"]) -> Float[Tensor, "b l n"]:
        """Sines, then cosines."""
        angles = values[..., None] * self.div_term
        return cat([angles.sin(), angles.cos()], dim=-1)


class ClassEmbedder(nn.Module):
    """One row per class."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Embedding(classes, width))

    def forward(self, values: Int[Tensor, "b l"]) -> Float[Tensor, "b l n"]:
        """Rows of the table."""
        out: Tensor = self.embed(values)
        return out
