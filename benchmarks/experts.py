"""How often the tabletop's scripted experts solve their tasks, variations in rotation, and what the physics costs.

    python benchmarks/experts.py                                  (all tasks, 40 seeds, 2 processes)
    python benchmarks/experts.py --tasks turn_tap --seeds 100

Episode k of a task has seed k and variation k modulo their number. Counts are the same in every run on one machine;
the exit code is 1 where an expert solves fewer than 99 in 100 episodes. CPU seconds are of one thread, without images.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

from mnprobe.worlds import Environment, make_world

ENOUGH = 0.99


@dataclass(frozen=True, kw_only=True)
class Played:
    """How one episode went."""

    variation: int
    seed: int
    poses: int
    missed: int
    reason: str
    seconds: float


def play(world: Environment, task: str, seed: int) -> Played:
    """The expert plays one episode."""
    variation = seed % world.tasks[task].variations
    start = time.process_time()
    world.reset(task, variation, seed)
    poses = world.expert()
    missed, reason = 0, "" if poses else "no key poses"
    for pose in poses:
        result = world.step(pose)
        missed += not result.reached
        reason = result.reason
        if result.done:
            break
    return Played(
        variation=variation,
        seed=seed,
        poses=len(poses),
        missed=missed,
        reason=reason or "not solved",
        seconds=time.process_time() - start,
    )


def play_task(task: str, seeds: int) -> list[Played]:
    """All episodes of one task, in one process."""
    world = make_world("tabletop")
    played = [play(world, task, seed) for seed in range(seeds)]
    world.close()
    return played


def line(task: str, variations: int, played: Sequence[Played]) -> tuple[str, bool]:
    """A row of the table, and whether the expert is good enough."""
    solved = sum(episode.reason == "success" for episode in played)
    counts = sorted({episode.poses for episode in played})
    span = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    seconds = sum(episode.seconds for episode in played) / len(played)
    row = f"{task:30} {variations:10} {span:>10} {f'{solved} of {len(played)}':>14} {seconds:10.3f}"
    for episode in played:
        if episode.reason != "success":
            row += f"\n    variation {episode.variation}, seed {episode.seed}: {episode.reason}"
            row += f", {episode.missed} key poses missed" if episode.missed else ""
    return row, solved >= ENOUGH * len(played)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=40, help="episodes per task")
    parser.add_argument("--tasks", nargs="+", help="which tasks; all by default")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    world = make_world("tabletop")
    infos = world.tasks
    tasks = options.tasks or list(infos)
    unknown = sorted(set(tasks) - set(infos))
    if unknown or options.seeds < 1 or options.processes < 1:
        parser.error(f"unknown tasks {unknown}" if unknown else "seeds and processes must be at least 1")
    print(f"{'task':30} {'variations':>10} {'key poses':>10} {'solved':>14} {'CPU-s each':>10}")
    good = True
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        for task, played in zip(tasks, pool.map(partial(play_task, seeds=options.seeds), tasks), strict=True):
            row, enough = line(task, infos[task].variations, played)
            print(row, flush=True)
            good = good and enough
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
