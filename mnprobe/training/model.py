"""Joint model and loss, L = L_AU + lambda_EE L_EE + lambda_align L_align."""

import math
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, get_args

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from mnprobe.core.arrays import Number, Truth, settle
from mnprobe.core.errors import ConfigError
from mnprobe.models.arp import ARP, Batch, TrainNoise
from mnprobe.models.viclip import ViCLIP, contrastive_loss
from mnprobe.probe.heads import AlignmentHeads
from mnprobe.probe.losses import Positives, loss_of_pairs

__all__ = ["JointModel", "StepInputs", "StepOutput", "StepSettings", "gather_with_gradient", "mean_over_team"]


def gather_with_gradient(x: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "m ..."]:
    """Gather the rows of all processes of the default group in rank order; return `x` without a group.

    The gradient of a process's rows is the sum over all processes. When every process computes the same loss L of the
    gathered rows, this is the number of processes times dL/dx; DistributedDataParallel averages the weights' gradients
    over processes, which gives the gradient of a single process with all rows. Integers and rows without gradient are
    gathered too.

    Args:
        x: the same number of rows, shape and type on every process, on the device of the process group.
    Raises:
        ConfigError: the processes have different numbers of rows (raised on every process).

    >>> gather_with_gradient(torch.arange(3))
    tensor([0, 1, 2])
    """
    if not _has_team():
        return x
    _check_rows(x)
    if not (x.requires_grad and torch.is_grad_enabled()):
        return _all_rows(x)
    gathered: Tensor = _Gather.apply(x)  # type: ignore[no-untyped-call]  # torch does not annotate it
    return gathered


def mean_over_team(values: Float[Tensor, " k"], rows: int) -> Float[Tensor, " k"]:
    """Turn means over `rows` local rows into means over all processes, with gradients as `gather_with_gradient`.

    >>> mean_over_team(torch.tensor([1.5, 2.0]), rows=4)
    tensor([1.5000, 2.0000])
    """
    if not _has_team():
        return values
    every = gather_with_gradient(values[None])
    counts = gather_with_gradient(torch.tensor([rows], device=values.device)).to(values.dtype)
    return (counts / counts.sum()) @ every


class _Gather(torch.autograd.Function):
    """All-gather whose gradient is summed over processes. (torch.distributed.nn, which has one, is deprecated.)"""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        return _all_rows(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def _has_team() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _all_rows(x: Tensor) -> Tensor:
    x = x.detach().contiguous()
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x)
    return torch.cat(parts)


def _check_rows(x: Tensor) -> None:
    counts: list[Any] = _all_rows(torch.tensor([len(x)], device=x.device)).tolist()
    if len(set(counts)) != 1:
        raise ConfigError(
            f"every process must bring the same number of rows, got {counts} by rank; "
            f"choose numbers of transitions and clips that {len(counts)} processes can share equally"
        )


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """Weights and temperatures of the losses of one update.

    Raises:
        ConfigError: a negative weight, a temperature not above 0, an unknown form of positives.
    """

    understanding: Truth = True
    """Whether the video model is trained: L_AU and L_align are computed in such updates only."""
    lambda_ee: Number = 1.0
    lambda_align: Number = 0.5
    """Weight of L_align; 0 computes no alignment loss (the baseline)."""
    tau: Number = 0.1
    """Temperature of L_align."""
    temperature: Number = 0.05
    """Temperature of L_AU, fixed: the paper's logits are 20 times the cosine. `ViCLIP.temp` is not trained."""
    positives: Positives = "diagonal"
    """Definition of the positives of L_align, see `info_nce`."""

    def __post_init__(self) -> None:
        settle(self, numbers=("lambda_ee", "lambda_align", "tau", "temperature"), truths=("understanding",))
        for name in ("lambda_ee", "lambda_align"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise ConfigError(f"{name} must be a number from 0, got {value!r}")
        for name in ("tau", "temperature"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ConfigError(f"{name} must be a positive number, got {value!r}")
        if self.positives not in get_args(Positives):
            raise ConfigError(f"positives must be 'diagonal', 'exclude' or 'multi', got {self.positives!r}")


@dataclass(frozen=True, kw_only=True, eq=False)
class StepInputs:
    """Inputs of one process for one update. Unused parts may be None.

    Attributes:
        clips: (b, T, 3, S, S) normalised frames.
        text_ids: (p, L) token ids of the distinct instructions of the clips.
        text_of: (b,) row of `text_ids` for each clip.
        clip_ids: (b,) index of each clip's instruction, consistent over processes. Clips of equal index are positives
            of each other in L_AU.
        batch: B transitions.
        noise: the transitions' training noise; none by default.
        pair_groups: (P,) group index of the first P rows: clip i and transition i are a pair of L_align. None means the
            first min(b, B) rows, without groups.
        generator: random generator of the video model's stochastic depth, if any.
        settings: weights and temperatures.
    Raises:
        ConfigError: parts of inconsistent lengths.
    """

    clips: Tensor | None = None
    text_ids: Tensor | None = None
    text_of: Tensor | None = None
    clip_ids: Tensor | None = None
    batch: Batch | None = None
    noise: TrainNoise | None = None
    pair_groups: Tensor | None = None
    generator: torch.Generator | None = None
    settings: StepSettings = field(default_factory=StepSettings)

    def __post_init__(self) -> None:
        if self.clips is not None:
            for name in ("text_ids", "text_of", "clip_ids"):
                if getattr(self, name) is None:
                    raise ConfigError(f"clips come with text_ids, text_of and clip_ids; {name} is missing")
            for name in ("text_of", "clip_ids"):
                rows = tuple(getattr(self, name).shape)
                if rows != (len(self.clips),):
                    raise ConfigError(f"{name} must have one number for each of {len(self.clips)} clips, got {rows}")
        if self.pair_groups is not None and self.clips is not None and self.batch is not None:
            most = min(len(self.clips), len(self.batch))
            if self.pair_groups.ndim != 1 or len(self.pair_groups) > most:
                raise ConfigError(
                    f"pair_groups must have at most one number for each of the first {most} rows "
                    f"({len(self.clips)} clips, {len(self.batch)} transitions), got {tuple(self.pair_groups.shape)}"
                )

    @property
    def pairs(self) -> int:
        """Number of pairs: clip i with transition i."""
        if self.pair_groups is not None:
            return len(self.pair_groups)
        return 0 if self.clips is None or self.batch is None else min(len(self.clips), len(self.batch))

    def to(self, device: torch.device | str) -> "StepInputs":
        """Copy the inputs to another device; the generator is not moved."""
        names = ("clips", "text_ids", "text_of", "clip_ids", "pair_groups")
        moved: dict[str, Any] = {
            name: None if getattr(self, name) is None else getattr(self, name).to(device) for name in names
        }
        noise = self.noise
        if noise is not None:
            noise = TrainNoise(
                waypoint_noise_unit=_moved(noise.waypoint_noise_unit, device),
                rot_token_shift=_moved(noise.rot_token_shift, device),
                colour=_moved(noise.colour, device),
                se3=None if noise.se3 is None else type(noise.se3)(*(part.to(device) for part in noise.se3)),
            )
        batch = None if self.batch is None else self.batch.to(device)
        return replace(self, **moved, batch=batch, noise=noise)


class StepOutput(NamedTuple):
    """Losses of one update on the joint batch of all processes; equal on each process, with gradients to all."""

    losses: dict[str, Tensor]
    """Unweighted, in nats: "au", "ee", "align" where computed, and "ee/<name>" for each of the policy's losses."""
    total: Tensor
    """L, the loss to minimise."""


class JointModel(nn.Module):
    """Both models and the heads as one module, for one DistributedDataParallel wrapper.

    With torch.distributed the features, not the losses, are gathered: every process computes the losses of the joint
    batch, with its negatives. Under DistributedDataParallel the gradients equal those of one process with the joint
    batch. With a video model it needs find_unused_parameters: an update without understanding does not use the video
    model and the heads, and `ViCLIP.temp` is never used. A policy alone uses all its weights.

    Under autocast the encoders run in reduced precision, the heads and both contrastive losses in float32.

    Args:
        viclip: the understanding side, or None.
        arp: the execution side, or None.
        heads: T_u and T_e on raw features (`AlignmentHeads` without standardisation); None without alignment.
    Raises:
        ConfigError: no model, heads without both models, or heads whose widths differ from those of u and e.
    Source: paper (arXiv 2509.21136), equations 1 to 5.
    """

    def __init__(
        self, *, viclip: ViCLIP | None = None, arp: ARP | None = None, heads: AlignmentHeads | None = None
    ) -> None:
        super().__init__()
        if viclip is None and arp is None:
            raise ConfigError("a joint model needs a video model, a policy, or both; got neither")
        if heads is not None:
            if viclip is None or arp is None:
                raise ConfigError("alignment heads need both models; got one. A model alone is trained without heads")
            widths = (heads.config["dim_u"], heads.config["dim_e"])
            if widths != (viclip.config.embed_dim, arp.config.width):
                raise ConfigError(
                    f"the heads take u and e of widths {widths}, the models give "
                    f"{(viclip.config.embed_dim, arp.config.width)}"
                )
        self.viclip = viclip
        self.arp = arp
        self.heads = heads

    def forward(self, inputs: StepInputs) -> StepOutput:
        """Compute the losses of one update.

        L_AU and L_align only with `settings.understanding`; L_align only with heads and a weight above 0, from u of the
        clips and e (mean over the five action tokens) of the same forward pass that gives L_EE, with augmentation,
        noise and dropout. Losses of a missing model are omitted.

        Raises:
            ConfigError: the inputs lack a part that the settings require, processes have different numbers of rows, or
                no loss remains.
        """
        settings = inputs.settings
        losses: dict[str, Tensor] = {}
        parts: dict[str, Tensor] = {}
        terms: list[Tensor] = []
        u = e = None
        if self.viclip is not None and settings.understanding:
            u, losses["au"] = self._understand(self.viclip, inputs)
            terms.append(losses["au"])
        if self.arp is not None:
            e, parts = self._execute(self.arp, inputs)
            losses["ee"] = torch.stack(list(parts.values())).sum()
            terms.append(settings.lambda_ee * losses["ee"])
        if u is not None and e is not None and settings.lambda_align > 0:
            losses["align"] = self._align(u, e, inputs)
            terms.append(settings.lambda_align * losses["align"])
        if not terms:
            raise ConfigError("an update without understanding trains nothing but a policy, and there is none")
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return StepOutput(losses | {f"ee/{name}": value for name, value in parts.items()}, total)

    def _understand(self, viclip: ViCLIP, inputs: StepInputs) -> tuple[Float[Tensor, "b d"], Float[Tensor, ""]]:
        clips, text_ids, text_of, ids = inputs.clips, inputs.text_ids, inputs.text_of, inputs.clip_ids
        if clips is None or text_ids is None or text_of is None or ids is None or not len(clips):
            raise ConfigError("an understanding update needs clips with their texts; StepInputs has none")
        u = viclip.encode_video(clips, generator=inputs.generator)
        texts = viclip.encode_text(text_ids)
        with _exact(u):
            video = gather_with_gradient(_at_least_float32(u))
            text = gather_with_gradient(_at_least_float32(texts)[text_of])
            loss = contrastive_loss(video, text, inputs.settings.temperature, ids=gather_with_gradient(ids))
        return u, loss

    def _execute(self, arp: ARP, inputs: StepInputs) -> tuple[Float[Tensor, "b n"], dict[str, Tensor]]:
        if inputs.batch is None:
            raise ConfigError("an update of the policy needs a batch of transitions; StepInputs has none")
        out = arp(inputs.batch, inputs.noise)
        means = mean_over_team(torch.stack(list(out.losses.values())), len(inputs.batch))
        with _exact(means):
            e = _at_least_float32(out.hidden["e"]).mean(dim=1)
        return e, dict(zip(out.losses, means, strict=True))

    def _align(self, u: Float[Tensor, "b d"], e: Float[Tensor, "c n"], inputs: StepInputs) -> Float[Tensor, ""]:
        if self.heads is None:
            raise ConfigError(
                f"lambda_align is {inputs.settings.lambda_align}, but this joint model has no heads to align with; "
                "give it heads, or set lambda_align to 0"
            )
        pairs, settings = inputs.pairs, inputs.settings
        if not pairs:
            raise ConfigError("an update that aligns needs at least one pair of a clip and a transition; got none")
        with _exact(u):
            z_u, z_e = self.heads(_at_least_float32(u[:pairs]), _at_least_float32(e[:pairs]))
            groups = None
            if settings.positives != "diagonal" and inputs.pair_groups is not None:
                groups = gather_with_gradient(inputs.pair_groups)
            return loss_of_pairs(
                gather_with_gradient(z_u),
                gather_with_gradient(z_e),
                tau=settings.tau,
                groups=groups,
                positives=settings.positives,
            )


def _exact(like: Tensor) -> torch.autocast:
    """Disable autocast inside this block: exponentials of cosine / temperature need more than 16 bits."""
    return torch.autocast(like.device.type, enabled=False)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _moved(x: Tensor | None, device: torch.device | str) -> Tensor | None:
    return None if x is None else x.to(device)
