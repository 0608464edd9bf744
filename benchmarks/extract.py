"""What extraction costs beyond the model: demonstrations on disk to a finished store, beside bare forward passes.

    python benchmarks/extract.py                     (demonstrations written for the occasion)
    python benchmarks/extract.py --data FOLDER       (RLBench demonstrations)

ViCLIP-B-16 with random weights, 8 frames of the front camera, on the CPU. The bare side runs the video encoder on
tensors that are in memory; ours opens the dataset, reads, resizes, runs the same batches, writes pieces and store. The
two sides take turns over several rounds. The median of the rounds' ratios must be at most 1.10, else the exit code is
1. Making the model (once per command) is printed apart; the features of both sides must be equal.

Then several checkpoints of a tiny ARP, with and without the instruction, in one command (`--also-blank`), on
demonstrations of the tabletop: by CPU time of the process at most 1.10 times the sum of one preparation (reading,
points, the views of stage one) and the bare forward passes of all checkpoints and variants, one thread.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mnprobe.core.runtime import Team, torch_threads
from mnprobe.data import Camera, Dataset, FrameData, look_at, open_dataset, pinhole, write_episode
from mnprobe.features import ExtractorSpec, Header, extract, open_features
from mnprobe.features.extraction import Job, run_job
from mnprobe.features.extractors.arp import ARPExtractor, PreparedSteps
from mnprobe.features.extractors.viclip import ViCLIPExtractor
from mnprobe.features.schema import make_columns
from mnprobe.models.arp import save_arp
from mnprobe.models.untrained import untrained_arp
from mnprobe.worlds.demos import DemosConfig
from mnprobe.worlds.demos import write_demos as write_tabletop_demos

WANTED = 1.10
OPTIONS = {"camera": "front", "frames_rule": "middle"}


def write_demos(folder: Path, episodes: int, frames: int, size: int) -> Path:
    """Episodes of RLBench's image size; images with smooth parts and noise compress about as rendered ones do."""
    generator = np.random.default_rng(0)
    ramp = np.linspace(0, 200, size)[:, None, None] + np.linspace(0, 40, size)[None, :, None] + np.zeros(3)
    pose = look_at([1.2, 0.0, 1.6], [0.2, 0.0, 0.9])
    camera = Camera(name="front", intrinsics=pinhole(40, size, size), extrinsics=pose, near=0.01, far=4.5)
    for number in range(episodes):
        data = []
        for index in range(frames):
            noise = generator.integers(0, 6, (size, size, 3))
            data.append(
                FrameData(
                    gripper_pose=[0.1, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
                    gripper_open=float(index < frames // 2),
                    joint_velocities=[0.5] * 7,
                    gripper_joint_positions=[0.04, 0.04],
                    cameras={"front": camera},
                    rgb={"front": (ramp + noise).astype(np.uint8)},
                )
            )
        write_episode(
            folder, task="open_drawer", variation=0, episode=number, instructions=["open the drawer"], frames=data
        )
    return folder


def job_for(dataset: Dataset, extractor: ViCLIPExtractor, target: Path, batch: int) -> Job:
    columns = make_columns({"id": [episode.id for episode in dataset]}, where="benchmark")
    header = Header(model="viclip", side="understanding", data_fingerprint=dataset.fingerprint())
    asked = {"extractor": "viclip", "layers": ["u"]}
    return Job(
        target=target,
        header=header,
        episodes=dataset,
        columns=columns,
        asked=asked,
        ran={},
        build=lambda: extractor,
        batch_size=batch,
        overwrite=True,
    )


def bare(extractor: ViCLIPExtractor, batches: list[torch.Tensor]) -> tuple[float, np.ndarray[Any, Any]]:
    start = time.perf_counter()
    with torch.inference_mode():
        found = [extractor.model.encode_video(batch) for batch in batches]
    return time.perf_counter() - start, torch.cat(found).numpy()


def ours(folder: Path, extractor: ViCLIPExtractor, target: Path, batch: int, limit: int) -> float:
    start = time.perf_counter()
    dataset = open_dataset(folder)[:limit]
    run_job(job_for(dataset, extractor, target, batch), Team(), quiet=True)
    return time.perf_counter() - start


def arp_extractor(file: Path, blank: bool) -> ARPExtractor:
    options = {**ARPExtractor.option_defaults, "blank_instruction": blank}
    return ARPExtractor.build(ExtractorSpec(checkpoint=file, layers=("e",), options=options))


def forward(extractor: ARPExtractor, prepared: list[PreparedSteps]) -> None:
    """The policy alone, on observations and drawings that are there."""
    texts = "open the drawer"
    with torch.inference_mode():
        for batch in prepared:
            for one in batch.passes:
                assert one.observation is not None
                told = extractor._inputs.told(one.observation, [texts] * len(one.transitions))
                extractor.policy.act(told, drawing=one.drawing)


def checkpoints(scratch: Path, count: int, rounds: int) -> float:
    """Ratio of one command over several checkpoints and both variants to one preparation and all forward passes."""
    demos = DemosConfig(tasks=("open_drawer", "push_buttons"), variations=(0, 1), train=16)
    write_tabletop_demos(scratch / "tabletop", demos, workers=0, quiet=True)
    files = [scratch / f"step_{step:08d}.safetensors" for step in range(count)]
    for step, file in enumerate(files):
        save_arp(file, untrained_arp("tiny", step), step=step, trained=False)
    ratios, parts = [], []
    for number in range(rounds):
        clock = time.process_time()
        dataset = open_dataset(scratch / "tabletop")
        first = arp_extractor(files[0], False)
        prepared = [first.prepare(dataset[start : start + 8]) for start in range(0, len(dataset), 8)]
        with torch.inference_mode():
            for batch in prepared:
                for one in batch.passes:
                    texts = [batch.episodes[step.episode].instruction for step in one.transitions]
                    one.observation = first._inputs.observation([step.frame for step in one.transitions], texts)
                    one.drawing = first.policy.draw(one.observation)
        preparation = time.process_time() - clock
        extractors = [arp_extractor(file, blank) for file in files for blank in (False, True)]
        clock = time.process_time()
        for extractor in extractors:
            forward(extractor, prepared)
        forwards = time.process_time() - clock
        clock = time.process_time()
        extract(
            scratch / "tabletop",
            out=scratch / f"features-{number}",
            checkpoints=files,
            name="arp",
            also_blank=True,
            device="cpu",
        )
        ours = time.process_time() - clock
        ratios.append(ours / (preparation + forwards))
        parts.append((preparation, forwards, ours))
    steps = sum(len(one.transitions) for batch in prepared for one in batch.passes)
    per = [1e3 * statistics.median(column) / steps for column in zip(*parts, strict=True)]
    ratio = statistics.median(ratios)
    print(
        f"extract, {count} checkpoints x 2 variants of ARP: preparation {per[0]:.1f} ms, forward passes {per[1]:.1f} "
        f"ms, end to end {per[2]:.1f} CPU ms per step ({steps} steps); ratio {ratio:.3f} x (wanted <= {WANTED})"
    )
    print(f"rounds: {', '.join(f'{value:.3f}' for value in ratios)}")
    return ratio


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--episodes", type=int, default=6)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--checkpoints", type=int, default=5)
    parser.add_argument("--only-checkpoints", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        with torch_threads(1):
            together = checkpoints(scratch, arguments.checkpoints, arguments.rounds)
        if arguments.only_checkpoints:
            return 0 if together <= WANTED else 1
        folder = arguments.data or write_demos(scratch / "demos", arguments.episodes, frames=60, size=128)
        start = time.perf_counter()
        spec = ExtractorSpec(preset="b16", batch_size=arguments.batch, layers=("u",), options=OPTIONS)
        extractor = ViCLIPExtractor.build(spec)
        print(f"making the model: {time.perf_counter() - start:.1f} s")
        dataset = open_dataset(folder)[: arguments.episodes]
        size = arguments.batch
        clips = [extractor.prepare(dataset[i : i + size]).clips for i in range(0, len(dataset), size)]
        bare(extractor, clips[:1])
        target = scratch / "u.h5"
        ratios, seconds = [], []
        for number in range(arguments.rounds):
            if number % 2:  # turn and turn about, so that a drift of the machine falls on both
                time_ours = ours(folder, extractor, target, size, len(dataset))
                time_bare, features = bare(extractor, clips)
            else:
                time_bare, features = bare(extractor, clips)
                time_ours = ours(folder, extractor, target, size, len(dataset))
            ratios.append(time_ours / time_bare)
            seconds.append((time_bare / len(dataset), time_ours / len(dataset)))
        with open_features(target) as file:
            equal = np.array_equal(file.layer("u").values[:], features)
    ratio = statistics.median(ratios)
    per = [statistics.median(column) for column in zip(*seconds, strict=True)]
    print(
        f"extract: bare {per[0]:.2f} s, end to end {per[1]:.2f} s per episode ({len(dataset)} episodes, batches of "
        f"{size}, {torch.get_num_threads()} threads); ratio {ratio:.3f} x (wanted <= {WANTED})"
    )
    print(f"rounds: {', '.join(f'{value:.3f}' for value in ratios)}")
    if not equal:
        print("the store does not hold the features of the bare forward passes")
    return 0 if equal and max(ratio, together) <= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
