"""Dry run: schedule, memory and cost of a training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mnprobe.core.table import text_table
from mnprobe.models.arp import ARP, load_arp
from mnprobe.models.viclip import ViCLIP, load_viclip
from mnprobe.probe.heads import AlignmentHeads
from mnprobe.training.config import PRESETS, SOURCES, TrainConfig
from mnprobe.training.initialization import check_initial_weights
from mnprobe.training.model import JointModel
from mnprobe.training.optimizers import OptimizerConfig, rate_at

__all__ = ["ScheduleRow", "TrainPlan", "plan_training"]

_FLOAT = 4  # bytes
_PROBED = 2  # samples of the pass that is measured


@dataclass(frozen=True, kw_only=True)
class ScheduleRow:
    """One checkpoint of the schedule: optimizer steps of each model, and learning rates from then on."""

    step: int
    own_updates: dict[str, int]
    rates: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """The dry run of a training.

    Attributes:
        config: configuration, with sizes taken from initial weights.
        parameters: parameter count of each part: video, text, policy, heads; a frozen text encoder is "text (frozen)".
        memory: bytes per process, by use: weights, gradients, optimizers, activations (an estimate: tensors that one
            update stores for its backward pass, without the kernels' workspace).
        schedule: one row per checkpoint.
        sources: source of each number of the paper's preset, and which were changed; empty for other presets.
    """

    config: TrainConfig
    parameters: dict[str, int]
    memory: dict[str, int]
    schedule: tuple[ScheduleRow, ...]
    sources: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "config": self.config.to_dict(),
            "parameters": self.parameters,
            "memory_bytes": self.memory,
            "schedule": [asdict(row) for row in self.schedule],
            "sources": self.sources,
        }

    def text(self) -> str:
        """Format as text."""
        lines = ["sizes", *_indented((), [(name, f"{count:,} parameters") for name, count in self.parameters.items()])]
        total = sum(self.memory.values())
        memory = [(name, _bytes(size)) for name, size in self.memory.items()] + [("together, about", _bytes(total))]
        lines += ["", "memory of a process", *_indented((), memory)]
        lines += ["", "schedule (steps of the training, of each optimiser, rates from there on)", *self._schedule()]
        if self.sources:
            lines += ["", "where the numbers come from", *_indented((), list(self.sources.items()))]
        return "\n".join(lines)

    def _schedule(self) -> list[str]:
        parts = list(self.schedule[0].rates)
        head = ("step", *(f"{part} steps" for part in parts), *(f"{part} rate" for part in parts))
        rows = [
            (
                str(row.step),
                *(str(row.own_updates[part]) for part in parts),
                *(f"{row.rates[part]:.3g}" for part in parts),
            )
            for row in self.schedule
        ]
        return _indented(head, rows)


def plan_training(
    config: TrainConfig,
    *,
    device: str = "cpu",
    processes: int = 1,
    start_viclip: Path | None = None,
    start_arp: Path | None = None,
    preset: str | None = None,
) -> TrainPlan:
    """Compute the dry run of a training; no weights are initialised and nothing is written.

    Args:
        config: configuration of the training.
        device: target device; attention with dropout stores its matrices on a CPU, but not on a GPU.
        processes: number of processes that share each batch.
        start_viclip: initial weights, which give the video model's sizes.
        start_arp: initial weights, which give the policy's sizes.
        preset: name of the preset behind `config`; for "paper" the sources of its numbers are listed.

    Raises:
        CheckpointError: a file that cannot be read.
        ConfigError: a file of a side that is not trained.
    """
    check_initial_weights(config, start_viclip, start_arp, None)
    if start_viclip is not None:
        config = replace(config, viclip=load_viclip(start_viclip).config)
    if start_arp is not None:
        config = replace(config, arp=load_arp(start_arp).config)
    model = _empty(config)
    return TrainPlan(
        config=config,
        parameters=_parameters(model, config),
        memory=_memory(model, config, device, processes),
        schedule=_rows(model, config),
        sources=_sources(config) if preset == "paper" else {},
    )


def _empty(config: TrainConfig) -> JointModel:
    """Build the models on the meta device."""
    with torch.device("meta"):
        viclip = ViCLIP(config.viclip_config()) if config.trains_viclip else None
        arp = ARP(config.arp_config()) if config.trains_arp else None
    heads = None
    if viclip is not None and arp is not None and config.aligns:
        heads = AlignmentHeads(
            viclip.config.embed_dim, arp.config.width, dim=config.dim, kind=config.heads, depth=config.head_depth
        )
    return JointModel(viclip=viclip, arp=arp, heads=heads).train()


def _parameters(model: JointModel, config: TrainConfig) -> dict[str, int]:
    counts: dict[str, int] = {}
    if model.viclip is not None:
        counts["video"] = _count(model.viclip.vision_encoder)
        counts["text" if config.text_share > 0 else "text (frozen)"] = _count(model.viclip.text_encoder)
    if model.arp is not None:
        counts["policy"] = _count(model.arp)
    if model.heads is not None:
        counts["heads"] = _count(model.heads)
    return counts


def _memory(model: JointModel, config: TrainConfig, device: str, processes: int) -> dict[str, int]:
    every = _count(model)
    frozen = _count(model.viclip.text_encoder) if model.viclip is not None and config.text_share == 0 else 0
    trained = every - frozen
    share = 0.5 if config.precision == "bf16" else 1.0  # of the bytes of float32
    stored = 0.0
    if model.viclip is not None:
        by_clip = share * _stored_by_clip(model.viclip)
        if config.recompute:  # all tensors of one block at a time; of the other blocks only the inputs, in float32
            sizes = model.viclip.config
            by_clip = by_clip / sizes.layers + sizes.layers * _FLOAT * (sizes.tokens + 1) * sizes.width
        stored += by_clip * config.clips_drawn / processes
    if model.arp is not None:
        on_gpu = device.startswith("cuda")
        stored += share * _stored_by_step(model.arp, with_matrices=not on_gpu) * config.batch / processes
    return {
        "weights": _FLOAT * every,
        "gradients": _FLOAT * trained * (2 if processes > 1 else 1),  # with DDP's buckets
        "optimisers": 2 * _FLOAT * trained,  # two running means, for each of the three kinds
        "activations": round(stored),
    }


def _stored_by_clip(viclip: ViCLIP) -> float:
    """Bytes stored for the backward pass by a clip and, at most, its text."""
    config, text = viclip.config, viclip.text_encoder
    clips = torch.empty(_PROBED, config.frames, 3, config.image_size, config.image_size, device="meta")
    words = torch.empty(_PROBED, config.text_context, config.text_width, device="meta")

    def work() -> list[Tensor]:
        return [viclip.vision_encoder(clips), text.ln_final(text.transformer(words, causal=True))]

    return (
        _stored_bytes(viclip, work, with_matrices=False) / _PROBED
    )  # no dropout: attention stores no matrix on any device


def _stored_by_step(arp: ARP, *, with_matrices: bool) -> float:
    """Bytes stored for the backward pass by a key-to-key step; rendering stores none."""
    config = arp.config
    side = config.image_size
    views = torch.empty(_PROBED, 3, 10, side, side, device="meta")
    state = torch.empty(_PROBED, config.state_width, device="meta")
    language = torch.empty(_PROBED, config.language_length, config.language_width, device="meta")
    values = torch.zeros(_PROBED, 11, dtype=torch.int64, device="meta")
    prompts = torch.empty(_PROBED, 6, config.width, device="meta")

    def work() -> list[Any]:
        tensors: list[Any] = []
        for stage, transformer in enumerate((arp.mvt1, arp.mvt2)):
            states, heatmaps = arp.policy.screen(stage, transformer(views, state, language).flatten(0, 1))
            tensors += [states, heatmaps.flatten(1).log_softmax(1)]
        return [*tensors, arp.policy.teach(values, prompts)]

    return _stored_bytes(arp, work, with_matrices=with_matrices and config.dropout > 0) / _PROBED


def _stored_bytes(module: nn.Module, work: Callable[[], Any], *, with_matrices: bool) -> int:
    """Bytes of the tensors stored for the backward pass, each storage once, without weights.

    Meta tensors use the plain formula of attention, which stores matrices of tokens by tokens. Fused kernels, which do
    not, are used without dropout and on GPUs; there these matrices are not counted.
    """
    own = {parameter.untyped_storage()._cdata for parameter in module.parameters()}
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []  # the address of a freed storage could be reused

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        matrix = tensor.ndim >= 3 and tensor.shape[-1] == tensor.shape[-2]
        if storage._cdata not in own and (with_matrices or not matrix):
            sizes[storage._cdata] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = work()
    del out
    return sum(sizes.values())


def _rows(model: JointModel, config: TrainConfig) -> tuple[ScheduleRow, ...]:
    parts: dict[str, OptimizerConfig] = {}
    if model.viclip is not None:
        parts["viclip"] = config.video
    if model.arp is not None:
        parts["arp"] = config.policy
    if model.heads is not None:
        parts["heads"] = config.align
    understood = [0]
    for update in range(config.updates):
        understood.append(understood[-1] + int(config.understands(update)))
    return tuple(
        ScheduleRow(
            step=step,
            own_updates={part: step if part == "arp" else understood[step] for part in parts},
            rates={part: rate_at(settings, step, config.updates) for part, settings in parts.items()},
        )
        for step in config.checkpoint_steps()
    )


def _sources(config: TrainConfig) -> dict[str, str]:
    """Return the paper's numbers with their sources, and the original values of changed ones."""
    paper, values = PRESETS["paper"].to_dict(), config.to_dict()
    sources: dict[str, str] = {}
    for name, source in SOURCES.items():
        was, now = _at(paper, name), _at(values, name)
        sources[name] = source if was == now else f"changed: {_short(now)} instead of {_short(was)} ({source})"
    return sources


def _at(values: Mapping[str, Any], name: str) -> Any:
    for part in name.split("."):
        values = values[part]
    return values


def _short(value: Any) -> str:
    return "another size" if isinstance(value, Mapping) else repr(value)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _bytes(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _indented(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"  {line}" for line in text_table(columns, rows).splitlines()]
