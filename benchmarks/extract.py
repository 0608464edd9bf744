"""What extraction costs beyond the model: demonstrations on disk to a finished store, beside bare forward passes.

    python benchmarks/extract.py                     (demonstrations written for the occasion)
    python benchmarks/extract.py --data FOLDER       (RLBench demonstrations)

ViCLIP-B-16 with random weights, 8 frames of the front camera, on the CPU. The bare side runs the video encoder on
tensors that are in memory; ours opens the dataset, reads, resizes, runs the same batches, writes pieces and store. The
two sides take turns over several rounds. The median of the rounds' ratios must be at most 1.10, else the exit code is
1. Making the model (once per command) is printed apart; the features of both sides must be equal.
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

from mnprobe.core.runtime import Team
from mnprobe.data import Camera, Dataset, FrameData, look_at, open_dataset, pinhole, write_episode
from mnprobe.features import ExtractorSpec, Header, open_features
from mnprobe.features.extraction import Job, run_job
from mnprobe.features.extractors.viclip import ViCLIPExtractor
from mnprobe.features.schema import make_columns

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
    asked = {"layers": ["u"]}
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


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--episodes", type=int, default=6)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
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
    return 0 if equal and ratio <= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
