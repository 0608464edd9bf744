"""ViCLIP, ARP and LAMB beside a plain reading of the same: CPU seconds of one thread, in interleaved rounds.

    python benchmarks/models.py                (ViCLIP-B-16 with 8 frames, ARP in full size; about five minutes)
    python benchmarks/models.py --quick        (the tiny sizes)

The official code is not part of this project. The plain side has the same weights and computes the same by torch's own
functions: linear layers by `F.linear`, attention of ViCLIP by `F.scaled_dot_product_attention`, that of ARP by einsum
and softmax as its code does, LAMB with additions in place. For ViCLIP it was measured to take as long as the official
code within 2 %. ARP here is one multi-view transformer, forward for acting, and with dropout and backward for updates.

Both sides must agree, else the exit code is 1. The wanted ratios, plain / ours, hold for AMD processors with wide
AVX-512 units (Zen 5, family 26), where MKL computes half as fast as oneDNN; elsewhere ours must not be slower.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnprobe.core.environment import with_variables
from mnprobe.core.products import VARIABLE, products_in_use, this_processor
from mnprobe.models.arp import ARPConfig, mvt
from mnprobe.models.arp import blocks as arp_blocks
from mnprobe.models.arp.optim import Lamb
from mnprobe.models.clip import blocks as clip_blocks
from mnprobe.models.untrained import untrained_arp, untrained_viclip
from mnprobe.models.viclip import ViCLIPConfig

WANTED = {"ViCLIP forward": 1.5, "ViCLIP update": 1.35, "ARP act": 1.8, "ARP update": 1.35, "LAMB step": 1.0}
ELSEWHERE = 0.95  # of noise: rounds of one run differ by as much
AGREE = 1e-4
Work = Callable[[], Tensor]


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, *, allowed: Tensor | None = None, causal: bool = False, dropout: float = 0.0
) -> Tensor:
    """Attention of ViCLIP's and of the policy's own blocks."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, is_causal=causal, dropout_p=dropout)


def einsum_attention(q: Tensor, k: Tensor, v: Tensor, *, dropout: float = 0.0) -> Tensor:
    """Attention of ARP's multi-view transformer on the CPU."""
    weights = (torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5).softmax(dim=-1)
    return torch.einsum("bhij,bhjd->bhid", F.dropout(weights, dropout), v)


def plain_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


@contextmanager
def plain() -> Iterator[None]:
    """The plain reading, in place of ours."""
    with (
        with_variables(**{VARIABLE: "torch"}),
        mock.patch.object(clip_blocks, "attention", plain_attention),
        mock.patch.object(clip_blocks, "quick_gelu", plain_gelu),
        mock.patch.object(mvt, "attention", einsum_attention),
        mock.patch.object(arp_blocks, "attention", plain_attention),
    ):
        yield


def gradients(module: nn.Module, out: Tensor) -> Tensor:
    """Gradients of one matrix, after all were computed."""
    module.zero_grad(set_to_none=True)
    torch.autograd.backward(out.square().mean())
    return torch.cat([p.grad.flatten()[:1000] for p in module.parameters() if p.grad is not None])


def viclip_work(quick: bool) -> dict[str, Work]:
    config = ViCLIPConfig.tiny() if quick else ViCLIPConfig()
    model = untrained_viclip(config, 0).eval()
    shape = (1, config.frames, 3, config.image_size, config.image_size)
    clip = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def forward() -> Tensor:
        with torch.inference_mode():
            return model.encode_video(clip)

    def update() -> Tensor:
        return gradients(model, model.encode_video(clip))

    return {"ViCLIP forward": forward, "ViCLIP update": update}


def arp_work(quick: bool) -> dict[str, Work]:
    config = ARPConfig.tiny() if quick else ARPConfig()
    trunk = mvt.MultiViewTransformer(config)
    source = torch.Generator().manual_seed(0)
    for name, weights in trunk.named_parameters():
        if "norm" not in name:
            nn.init.normal_(weights, std=0.02, generator=source)
    views = torch.randn(1, 3, mvt.INPUT_CHANNELS, config.image_size, config.image_size, generator=source)
    state = torch.rand(1, config.state_width, generator=source)
    language = torch.randn(1, config.language_length, config.language_width, generator=source)

    def act() -> Tensor:
        with torch.inference_mode():
            maps: Tensor = trunk.eval()(views, state, language)
            return maps

    def update() -> Tensor:
        torch.manual_seed(0)
        return gradients(trunk, trunk.train()(views, state, language))

    return {"ARP act": act, "ARP update": update}


def plain_lamb(parameters: list[Tensor], states: list[tuple[Tensor, Tensor]], lr: float, decay: float) -> None:
    for p, (m, v) in zip(parameters, states, strict=True):
        gradient = p.grad
        assert gradient is not None
        m.mul_(0.9).add_(gradient, alpha=0.1)
        v.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        size = p.norm().clamp(0, 10)
        step = m / v.sqrt().add(1e-6)
        step.add_(p, alpha=decay)
        length = step.norm()
        ratio = 1.0 if float(size) == 0 or float(length) == 0 else float(size / length)
        p.add_(step, alpha=-lr * ratio)


def lamb_work(quick: bool) -> tuple[Work, Work]:
    model = untrained_arp(ARPConfig.tiny() if quick else ARPConfig(), 0)
    source = torch.Generator().manual_seed(0)
    ours = [nn.Parameter(p.detach().clone()) for p in model.parameters()]
    theirs = [p.detach().clone() for p in model.parameters()]
    for p, q in zip(ours, theirs, strict=True):
        p.grad = torch.randn(p.shape, generator=source) * 1e-3
        q.grad = p.grad
    optimizer = Lamb(ours, 1e-4)
    states = [(torch.zeros_like(p), torch.zeros_like(p)) for p in theirs]

    def step() -> Tensor:
        optimizer.step()
        return torch.cat([p.detach().flatten()[:1000] for p in ours])

    def plain_step() -> Tensor:
        plain_lamb(theirs, states, 1e-4, 1e-4)
        return torch.cat([p.flatten()[:1000] for p in theirs])

    return step, plain_step


def seconds(work: Work) -> tuple[float, Tensor]:
    start = time.process_time()
    found = work()
    return time.process_time() - start, found.detach().clone()


def compare(name: str, ours: Work, theirs: Work, rounds: int) -> tuple[float, bool]:
    """The median ratio of the rounds, printed, and whether the values of both agree."""
    taken, worst = [], 0.0
    for number in range(rounds + 1):
        pair = [seconds(work) for work in ((ours, theirs) if number % 2 else (theirs, ours))]
        (mine, a), (other, b) = pair if number % 2 else pair[::-1]
        worst = max(worst, float((a - b).abs().max() / b.abs().max()))
        if number:  # the first round allocates
            taken.append((mine, other))
    ratios = [other / mine for mine, other in taken]
    ratio = statistics.median(ratios)
    print(
        f"{name:15} ours {min(one[0] for one in taken):8.3f} CPU-s, plain / ours {ratio:.2f} "
        f"[{min(ratios):.2f}..{max(ratios):.2f}], differ by {worst:.1e} of their scale",
        flush=True,
    )
    return ratio, worst <= AGREE


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes: that it runs and agrees, not how fast")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    processor, choice = this_processor(), products_in_use()
    print(f"{processor.vendor} family {processor.family}, {processor.instructions}; products: {choice.reason}")
    found = {}

    def by_plain(work: Work) -> Work:
        def run() -> Tensor:
            with plain():
                return work()

        return run

    for works in (viclip_work, arp_work):
        for name, work in works(given.quick).items():
            found[name] = compare(name, work, by_plain(work), given.rounds)
    found["LAMB step"] = compare("LAMB step", *lamb_work(given.quick), 3 * given.rounds)
    wide = choice.attention
    missed = [name for name, (ratio, _) in found.items() if ratio < (WANTED[name] if wide else ELSEWHERE)]
    differ = [name for name, (_, agree) in found.items() if not agree]
    print(f"wanted on this processor: {WANTED if wide else f'at least {ELSEWHERE}'}; missed: {missed}")
    if differ:
        print(f"ours and the plain reading differ: {differ}")
    return int(bool(differ) or (bool(missed) and not given.quick))


if __name__ == "__main__":
    sys.exit(main())
