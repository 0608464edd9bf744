"""What joint training costs: one joint update beside one update of each model; full-size updates on a GPU.

    python benchmarks/train.py                    (sizes of the preset "tiny", and full sizes where there is CUDA)
    python benchmarks/train.py --rounds 3 --busy

(a) A joint update with the alignment, an update of the video model alone and one of the policy alone, on the same
tensors and with the same optimisers, take turns: forward, backward, clipping, step. The median over rounds of joint /
(video + policy) must be at most 1.15, else the exit code is 1. On a machine with more work than cores nothing is
compared, unless --busy says so.

(b) On CUDA alone: updates per second and peak memory of ViCLIP-B-16 fine-tuning and of the released ARP's size, in
bfloat16, with weights of no meaning. Elsewhere it says why it is left out.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.nn import functional

from mnprobe.models.arp import ARPConfig, Batch, Observation, Target, TrainNoise
from mnprobe.models.untrained import untrained_arp, untrained_viclip
from mnprobe.models.viclip import ViCLIPConfig
from mnprobe.probe import AlignmentHeads
from mnprobe.training.config import TrainConfig, preset
from mnprobe.training.model import JointModel, StepInputs, StepSettings
from mnprobe.training.optimizers import NamedOptimizer, build_optimizers

WANTED = 1.15
TOO_BUSY = 2
CAMERA_SIDE = 128  # pixels of an RLBench image
INSTRUCTIONS = 8


def synthetic_clips(config: ViCLIPConfig, clips: int, generator: torch.Generator) -> StepInputs:
    """Clips of noise with a few instructions, tokens in the middle of the vocabulary."""
    side = config.image_size
    of = torch.arange(clips) % INSTRUCTIONS
    return StepInputs(
        clips=torch.randn(clips, config.frames, 3, side, side, generator=generator),
        text_ids=torch.randint(300, 40_000, (INSTRUCTIONS, config.text_context), generator=generator),
        text_of=of,
        clip_ids=of,
    )


def synthetic_batch(config: ARPConfig, size: int, side: int, generator: torch.Generator) -> Batch:
    """Scenes of points all over the workspace, `side` squared from each camera."""
    low, high = torch.tensor(config.bounds).view(2, 3, 1, 1)
    pose = functional.normalize(torch.randn(size, 4, generator=generator), dim=1)
    inside = 0.2 + 0.6 * torch.rand(size, 3, generator=generator)
    flags = torch.arange(size) % 2
    return Batch(
        observation=Observation(
            point_cloud={
                camera: low + (high - low) * torch.rand(size, 3, side, side, generator=generator)
                for camera in config.cameras
            },
            rgb={
                camera: torch.randint(0, 256, (size, 3, side, side), generator=generator).to(torch.uint8)
                for camera in config.cameras
            },
            language=torch.randn(size, config.language_length, config.language_width, generator=generator),
            state=torch.rand(size, config.state_width, generator=generator),
        ),
        target=Target(
            pose=torch.cat([(low + (high - low) * inside[:, :, None, None]).flatten(1), pose], dim=1),
            gripper_open=flags,
            ignore_collisions=1 - flags,
        ),
    )


class Trainee:
    """A model with its optimisers and one update's inputs, on a device."""

    def __init__(self, model: JointModel, inputs: StepInputs, config: TrainConfig, device: str) -> None:
        self.model = model.to(device)
        self.inputs = inputs.to(device)
        self.parts: Sequence[NamedOptimizer] = build_optimizers(self.model, config)
        self.device = device
        self.clip_norm = config.clip_norm
        self.precision = config.precision

    def update(self) -> float:
        """Seconds of one update, from zeroed gradients to moved weights."""
        self.wait()
        start = time.perf_counter()
        self.model.zero_grad(set_to_none=True)
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            out = self.model(self.inputs)
        torch.autograd.backward(out.total)
        for part in self.parts:
            if self.clip_norm is not None:
                groups = part.optimizer.param_groups
                torch.nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], self.clip_norm)
            part.optimizer.step()
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def compare(batch: int | None, rounds: int) -> float:
    """(a): the median ratio, printed with what it is made of."""
    config = preset("tiny")
    transitions, clips = batch or config.batch, 2 * batch if batch else config.clips_drawn
    generator = torch.Generator().manual_seed(0)
    sizes_u, sizes_e = config.viclip_config(), config.arp_config()
    given = synthetic_clips(sizes_u, clips, generator)
    scenes = synthetic_batch(sizes_e, transitions, CAMERA_SIDE // config.arp_config().point_stride, generator)
    noise = TrainNoise.draw(generator, scenes, sizes_e)
    settings = StepSettings(lambda_ee=config.lambda_ee, lambda_align=config.lambda_align, tau=config.tau)
    both = replace(given, batch=scenes, noise=noise, settings=settings)

    def trainee(understanding: bool, execution: bool) -> Trainee:
        model = JointModel(
            viclip=untrained_viclip(sizes_u, 0) if understanding else None,
            arp=untrained_arp(sizes_e, 0) if execution else None,
            heads=AlignmentHeads(sizes_u.embed_dim, sizes_e.width, config.dim) if understanding and execution else None,
        )
        return Trainee(model, both, config, "cpu")

    joint, video, policy = trainee(True, True), trainee(True, False), trainee(False, True)
    for one in (joint, video, policy):
        one.update()  # buffers and optimiser states are made
    seconds = []
    for number in range(rounds):
        order = [joint, video, policy] if number % 2 else [video, policy, joint]  # a drift falls on both
        taken = {id(one): one.update() for one in order}
        seconds.append((taken[id(joint)], taken[id(video)], taken[id(policy)]))
    ratios = [a / (b + c) for a, b, c in seconds]
    ratio = statistics.median(ratios)
    a, b, c = (statistics.median(column) for column in zip(*seconds, strict=True))
    print(
        f"train: joint update {a:.2f} s, video alone {b:.2f} s, policy alone {c:.2f} s ({transitions} transitions, "
        f"{clips} clips, {torch.get_num_threads()} threads); joint / sum of both {ratio:.3f} x (wanted <= {WANTED})"
    )
    print(f"rounds: {', '.join(f'{value:.3f}' for value in ratios)}")
    return ratio


def speed(name: str, trainee: Trainee, items: int, updates: int) -> None:
    """Updates per second and peak memory of one trainee on CUDA."""
    for _ in range(3):
        trainee.update()
    torch.cuda.reset_peak_memory_stats()
    seconds = statistics.median(trainee.update() for _ in range(updates))
    memory = torch.cuda.max_memory_allocated() / 2**30
    print(
        f"{name}, {trainee.precision}: {1 / seconds:.2f} updates/s of {items} ({items / seconds:.0f} items/s), peak "
        f"{memory:.1f} GiB on {torch.cuda.get_device_name()}"
    )


def full_size(clips: int, transitions: int, updates: int) -> None:
    """(b): the published sizes, one model at a time."""
    generator = torch.Generator().manual_seed(0)
    config = replace(preset("paper"), viclip="b16", arp="arp")
    sizes_u, sizes_e = config.viclip_config(), config.arp_config()
    given = synthetic_clips(sizes_u, clips, generator)
    video = Trainee(JointModel(viclip=untrained_viclip(sizes_u, 0)), given, config, "cuda")
    speed("ViCLIP-B-16 fine-tuning", video, clips, updates)
    del video
    torch.cuda.empty_cache()
    scenes = synthetic_batch(sizes_e, transitions, CAMERA_SIDE, generator)
    inputs = StepInputs(batch=scenes, noise=TrainNoise.draw(generator, scenes, sizes_e))
    policy = Trainee(JointModel(arp=untrained_arp(sizes_e, 0)), inputs, config, "cuda")
    speed("ARP training", policy, transitions, updates)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, help="(a) transitions, with twice as many clips; the preset's by default")
    parser.add_argument("--clips", type=int, default=64, help="(b) clips of an update")
    parser.add_argument("--transitions", type=int, default=96, help="(b) transitions of an update")
    parser.add_argument("--updates", type=int, default=20, help="(b) updates that are timed")
    parser.add_argument("--busy", action="store_true", help="compare even on a busy machine")
    given = parser.parse_args()
    if torch.cuda.is_available():
        full_size(given.clips, given.transitions, given.updates)
    else:
        print("full sizes left out: no CUDA device here, and a CPU takes minutes for an update")
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores and not given.busy:
        print(
            f"load average {load:.1f} on {cores} cores: too busy to compare; try later, or pass --busy", file=sys.stderr
        )
        return TOO_BUSY
    return int(compare(given.batch, given.rounds) > WANTED)


if __name__ == "__main__":
    sys.exit(main())
