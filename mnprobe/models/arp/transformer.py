"""Chunking causal transformer: screen points and actions from tokens."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mnprobe.core.products import Linear
from mnprobe.models.arp.blocks import ConditionedBlock, PlainBlock
from mnprobe.models.arp.config import ARPConfig
from mnprobe.models.arp.masks import generation_mask, two_stream_mask
from mnprobe.models.arp.tokens import (
    ACTIONS,
    PROMPT,
    PROMPTS,
    SCREEN,
    TOKENS,
    ChunkEmbedder,
    ClassEmbedder,
    Layout,
    PromptEmbedder,
    SinusoidEmbedder,
    ZeroEmbedder,
    action_layout,
    screen_layout,
)
from mnprobe.models.arp.upsample import ConvexUpsample

__all__ = ["ChunkTransformer", "Generation", "States", "Streams"]


class States(NamedTuple):
    """Hidden states of one pass, each (b, positions, n)."""

    blocks: dict[int, Tensor]
    """Straight after each executed block, by its number."""
    norm: Tensor
    """After the final layer norm."""

    def at(self, start: int, end: int) -> "States":
        """The states of positions start to end."""
        return States({i: x[:, start:end] for i, x in self.blocks.items()}, self.norm[:, start:end])


class Streams(NamedTuple):
    """Hidden states of the two streams of a teacher-forced pass."""

    star: States
    """Content: tokens whose value is known."""
    hat: States
    """Queries: logits are read here, at the position of the token itself."""


class Generation(NamedTuple):
    """Result of greedy generation."""

    values: Tensor
    """(b, 11) int64: prompt numbers 0 to 5, three rotation bins, gripper, collision."""
    logits: dict[str, Tensor]
    """By token name, (b, classes)."""
    states: States
    """States of the five action positions, each from the step that predicted it."""


class ChunkTransformer(nn.Module):
    """The policy part of ARP; names and nesting of its parameters are those of the published weights.

    Screen points: one token per view, conditioned on the view's feature map, through the first ("cross") blocks only.
    Actions: six prompt vectors and five tokens through the other ("self") blocks only. Position, type and chunk tables
    and the final norm serve both, and both stages.

    Source: Zhang et al. 2024 (ARP, arXiv 2410.03132); specs/arp.md sections 5 and 6.
    """

    def __init__(self, config: ARPConfig) -> None:
        super().__init__()
        width = config.width
        self.layout = action_layout(config.action_chunks)
        self.cross_blocks = config.cross_blocks
        self.dropout = config.dropout
        self.chunk_embedder = ChunkEmbedder(width, config.max_chunk)
        self.token_embedders = nn.ModuleList(
            [PromptEmbedder(), ZeroEmbedder(width), ZeroEmbedder(width)]
            + [SinusoidEmbedder(width) for _ in range(3)]
            + [ClassEmbedder(2, width) for _ in range(2)]
        )
        heatmaps = {str(kind): _HeatmapHead(config) for kind in SCREEN}
        classes = {str(kind): _ClassHead(width, config.rotation_bins) for kind in ACTIONS[:3]}
        flags = {str(kind): _ClassHead(width, 2) for kind in ACTIONS[3:]}
        self.token_predictors = nn.ModuleDict({**heatmaps, **classes, **flags})
        self.pos_emb = nn.Embedding(config.max_sequence, width)
        sizes = (width, config.heads, config.mlp_ratio, config.dropout)
        self.blocks = nn.ModuleList(
            [
                ConditionedBlock(*sizes, norm_before_modulation=config.norm_before_modulation)
                for _ in range(config.cross_blocks)
            ]
            + [PlainBlock(*sizes) for _ in range(config.self_blocks)]
        )
        self.final_ln = nn.LayerNorm(width)

    def embed_content(
        self, layout: Layout, values: Int[Tensor, "b l"], prompts: Float[Tensor, "b six n"] | None = None
    ) -> Float[Tensor, "b l n"]:
        """Embeddings of known tokens, before the position code: their values only, without type and chunk.

        Args:
            layout: token types of the positions (values may be fewer than its positions, then its first ones count).
            values: class numbers; row numbers of `prompts` for prompt tokens; anything for screen points.
            prompts: vectors of the prompt tokens.
        """
        columns = []
        for i, kind in enumerate(layout.types[: values.shape[1]]):
            embedder, column = self.token_embedders[kind], values[:, i : i + 1]
            columns.append(embedder(column, prompts) if kind == PROMPT else embedder(column))
        return torch.cat(columns, dim=1)

    def embed_query(self, layout: Layout, batch: int) -> Float[Tensor, "b l n"]:
        """Embeddings of tokens to predict, before the position code: type and position in the chunk, no value."""
        device = self.pos_emb.weight.device
        places, types = (torch.tensor(row, device=device) for row in (layout.places, layout.types))
        rows: Tensor = self.chunk_embedder(places, types)
        return rows.expand(batch, -1, -1)

    def two_streams(
        self,
        layout: Layout,
        values: Int[Tensor, "b l"],
        *,
        prompts: Float[Tensor, "b six n"] | None = None,
        condition: Float[Tensor, "b m n"] | None = None,
    ) -> Streams:
        """Teacher-forced pass: all tokens known (star) and all queried (hat) at once, with the same weights.

        With dropout off, the hat states of a position equal those of the generation step that predicts it from the same
        earlier tokens. With `condition` the cross blocks run, without it the self blocks.
        """
        size = len(layout)
        star, hat = self.embed_content(layout, values, prompts), self.embed_query(layout, len(values))
        places = torch.arange(size, device=values.device).repeat(2)
        states = self._run(torch.cat([star, hat], dim=1), places, two_stream_mask(layout, values.device), condition)
        return Streams(states.at(0, size), states.at(size, 2 * size))

    def screen(self, stage: int, maps: Float[Tensor, "b n k k"]) -> tuple[States, Float[Tensor, "b s s"]]:
        """Predict the screen point of `stage` (0 or 1) in each feature map: states (b, 1, n) and heatmap logits.

        A single token attends to itself and the map, so that generation and the hat stream are equal.
        """
        layout = screen_layout(stage)
        places = torch.zeros(1, dtype=torch.int64, device=maps.device)
        mask = generation_mask(layout, maps.device)
        states = self._run(self.embed_query(layout, len(maps)), places, mask, maps.flatten(2).transpose(1, 2))
        heatmap: Tensor = self.token_predictors[str(SCREEN[stage])](states.norm[:, 0], maps)
        return states, heatmap

    def teach(
        self, values: Int[Tensor, "b eleven"], prompts: Float[Tensor, "b six n"]
    ) -> tuple[Streams, dict[str, Tensor]]:
        """Teacher-forced pass over an action sequence: both streams, and logits (b, classes) by token name."""
        streams = self.two_streams(self.layout, values, prompts=prompts)
        logits = {
            TOKENS[kind]: self._classify(kind, streams.hat.norm[:, PROMPTS + i]) for i, kind in enumerate(ACTIONS)
        }
        return streams, logits

    def generate(self, prompts: Float[Tensor, "b six n"]) -> Generation:
        """Greedy action sequence, chunk by chunk: the most likely class each time, the first one of a tie."""
        values = torch.arange(PROMPTS, device=prompts.device).expand(len(prompts), -1)
        logits: dict[str, Tensor] = {}
        steps: list[States] = []
        for chunk in range(PROMPTS, self.layout.chunks[-1] + 1):
            layout = self.layout.until(chunk)
            known, size = values.shape[1], len(layout)
            states = self._run(
                self.embed_step(layout, values, prompts),
                torch.arange(size, device=values.device),
                generation_mask(layout, values.device),
            ).at(known, size)
            steps.append(states)
            for i, kind in enumerate(layout.types[known:]):
                scores = self._classify(kind, states.norm[:, i])
                logits[TOKENS[kind]] = scores
                values = torch.cat([values, scores.argmax(dim=-1, keepdim=True)], dim=1)
        blocks = {i: torch.cat([step.blocks[i] for step in steps], dim=1) for i in steps[0].blocks}
        return Generation(values, logits, States(blocks, torch.cat([step.norm for step in steps], dim=1)))

    def embed_step(
        self, layout: Layout, values: Int[Tensor, "b known"], prompts: Float[Tensor, "b six n"]
    ) -> Float[Tensor, "b l n"]:
        """Input of a generation step: content of the known tokens, queries for the rest of `layout`."""
        content = self.embed_content(layout, values, prompts)
        return torch.cat([content, self.embed_query(layout, len(values))[:, values.shape[1] :]], dim=1)

    def zero_gates(self) -> bool:
        """Whether all modulation layers are exactly zero, so that the cross blocks are the identity.

        This is their initial state. The screen-point state is then a constant that does not depend on the image (the
        heatmap does, through the feature map). An optimiser that scales its step by a tensor's own norm never moves
        them (`Lamb(rule="capped")`); check this before using the screen-point state as a representation.
        """
        layers = [block.adaLN_modulation for block in self.blocks if isinstance(block, ConditionedBlock)]
        return not any(bool(parameter.any()) for layer in layers for parameter in layer.parameters())

    def _classify(self, kind: int, state: Float[Tensor, "b n"]) -> Float[Tensor, "b classes"]:
        out: Tensor = self.token_predictors[str(kind)](state)
        return out

    def _run(
        self,
        x: Float[Tensor, "b t n"],
        places: Int[Tensor, " t"],
        allowed: Bool[Tensor, "t t"],
        condition: Float[Tensor, "b m n"] | None = None,
    ) -> States:
        x = nn.functional.dropout(x + self.pos_emb(places), self.dropout, self.training)
        blocks: dict[int, Tensor] = {}
        for i, block in enumerate(self.blocks):
            if (i < self.cross_blocks) == (condition is not None):
                x = block(x, allowed) if condition is None else block(x, allowed, condition)
                blocks[i] = x
        return States(blocks, self.final_ln(x))


class _ClassHead(nn.Module):
    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.linear = Linear(width, classes)

    def forward(self, state: Float[Tensor, "b n"]) -> Float[Tensor, "b classes"]:
        out: Tensor = self.linear(state)
        return out


class _HeatmapHead(nn.Module):
    """The state multiplies the map channel by channel; the product is upsampled to logits of every pixel."""

    def __init__(self, config: ARPConfig) -> None:
        super().__init__()
        self.upsample = ConvexUpsample(config.width, config.upsample_width, config.patch_size)

    def forward(self, state: Float[Tensor, "b n"], maps: Float[Tensor, "b n k k"]) -> Float[Tensor, "b s s"]:
        fine: Tensor = self.upsample(state[:, :, None, None] * maps)
        return fine[:, 0]
