"""What data cost a training: preparing them once, looking batches up, and the share of the time spent on that.

    python benchmarks/data_wait.py                   (tabletop demonstrations made for the occasion)
    python benchmarks/data_wait.py --data FOLDER     (any demonstrations)

One CPU thread, the preset "tiny". First, what an episode costs to decode and to keep, and a sample to look up, at
point strides 1 and 2, in CPU time. Then a training of some updates. Two shares are told: of its own clock, how long it
waited for the thread that prepares batches; and of its CPU time, how much preparing them takes (that is what it costs
where one core must do both). Both must be at most 10 %, else the exit code is 1.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mnprobe.core.rundir import RunDir
from mnprobe.core.runtime import Team
from mnprobe.data import Dataset, open_dataset
from mnprobe.features.inputs import language_encoder_for
from mnprobe.models.arp import ARPConfig
from mnprobe.models.viclip import ViCLIPConfig
from mnprobe.training import BatchLoader, TrainConfig, prepare_inputs, preset, train
from mnprobe.worlds.demos import DemosConfig, write_demos

WANTED = 0.10
TASKS = ("open_drawer", "slide_block_to_color_target", "push_buttons")


def milliseconds(work: Callable[[int], object], rounds: int) -> float:
    """Median CPU time of this process for one call, after a first one that nobody counts."""
    work(0)
    taken = []
    for number in range(1, rounds + 1):
        start = time.process_time()
        work(number)
        taken.append(time.process_time() - start)
    return 1e3 * statistics.median(taken)


def lookups(dataset: Dataset, cache: Path, stride: int, batch: int) -> None:
    """Print what preparing costs an episode, and looking up a sample."""
    arp, viclip = ARPConfig.tiny(), ViCLIPConfig.tiny()
    start = time.process_time()
    inputs = prepare_inputs(dataset, viclip=viclip, arp=arp, cache=cache, point_stride=stride, quiet=True)
    seconds = time.process_time() - start
    rng = np.random.default_rng(0)
    language = language_encoder_for(arp, weights=None)
    steps = milliseconds(
        lambda _: inputs.policy_batch(rng.integers(0, len(inputs.transition_episode), batch), language), 15
    )
    clips = milliseconds(lambda _: inputs.clips(rng.integers(0, len(inputs.ids), batch)), 15)
    print(
        f"stride {stride}: prepared in {1e3 * seconds / len(dataset):.0f} ms per episode, "
        f"{inputs.nbytes / len(dataset) / 1e6:.2f} MB per episode "
        f"({len(inputs.transition_episode) / len(dataset):.1f} steps); looked up in {steps / batch:.2f} ms per step, "
        f"{clips / batch:.2f} ms per clip (batches of {batch})"
    )


def shares(dataset: Dataset, config: TrainConfig, scratch: Path) -> tuple[float, float]:
    """Shares of a training: of its clock, waiting for the next batch; of its CPU time, preparing batches."""
    run = RunDir.create(scratch / "run")
    viclip, arp = config.viclip_config(), config.arp_config()
    inputs = prepare_inputs(dataset, viclip=viclip, arp=arp, cache=run.path / "cache", quiet=True)
    start = time.process_time()
    result = train(config, dataset, run, device="cpu")
    training = time.process_time() - start
    language = language_encoder_for(arp, weights=None)
    feed = BatchLoader(inputs, config, viclip=viclip, arp=arp, language=language, device="cpu", team=Team())
    feed(0)  # reads the instructions aloud, once
    start = time.process_time()
    for update in range(config.updates):
        feed(update)
    preparing = (time.process_time() - start) / training
    print(
        f"training: {config.updates} updates of {config.batch} steps and {config.clips_drawn} clips (in "
        f"{config.understanding_share:.0%} of them), {training / config.updates:.2f} CPU s each; of the time "
        f"{result.waiting:.1%} waiting for data, of the CPU time {preparing:.1%} preparing them "
        f"(wanted <= {WANTED:.0%})"
    )
    return result.waiting, preparing


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--demos", type=int, default=3, help="of each instruction")
    parser.add_argument("--updates", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        folder = arguments.data or scratch / "demos"
        if arguments.data is None:
            write_demos(folder, DemosConfig(tasks=TASKS, train=arguments.demos), workers=0, quiet=True)
        dataset = open_dataset(folder)
        for stride in (1, 2):
            lookups(dataset, scratch / "cache", stride, batch=32)
        config = replace(preset("tiny"), updates=arguments.updates, checkpoints=(0.0, 1.0))
        found = shares(dataset, config, scratch)
    return 0 if max(found) <= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
