"""What the embedded tabletop costs: images, demonstrations, a second process, memory over many episodes.

    python benchmarks/worlds.py                              (about three minutes)
    python benchmarks/worlds.py --tasks open_drawer --demos 2 --memory 50

Seconds are CPU seconds of the process, insensitive to what else the machine does; the gain of a second process is wall
time, so the gain of processes that only count is printed beside it. Wanted: 350 RGB-D images of 128 x 128 with mask per
CPU second by ray casting, averaged over the tasks; 0.25 CPU seconds for a demonstration with its images written; with
two processes 1.8 times as many demonstrations where counting gains 2 (in proportion where less); a worker below 500 MiB
that does not grow. The exit code is 1 where one of these is missed. OpenGL is measured where it works.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from mnprobe.worlds import Environment, Situation, default_tasks, make_world
from mnprobe.worlds.record import record_episode
from mnprobe.worlds.tabletop.gl import probe_gl

WANTED_IMAGES, WANTED_SECONDS, WANTED_GAIN, WANTED_MIB = 350.0, 0.25, 1.8, 500.0
GROWTH_MIB = 10.0


def play(world: Environment, task: str, seed: int) -> tuple[Situation, tuple[str, ...]]:
    """The expert plays one episode."""
    variation = seed % world.tasks[task].variations
    instructions = world.reset(task, variation, seed).instructions
    for pose in world.expert():
        if world.step(pose).done:
            break
    return Situation(task=task, variation=variation, seed=seed), instructions


def demonstrate(world: Environment, task: str, seed: int, root: Path) -> None:
    """Play an episode and write it: RGB-D of four cameras per key pose, 16 images of the front camera."""
    situation, instructions = play(world, task, seed)
    record_episode(root, world, situation, instructions=instructions, episode=seed, video_frames=16)


def images_per_second(renderer: str, tasks: Sequence[str], masks: bool, seconds: float) -> dict[str, float]:
    """By task: images of four cameras per CPU second, at frames spread over an episode."""
    world = make_world("tabletop", renderer=renderer)
    found = {}
    for task in tasks:
        play(world, task, 0)
        indices = np.linspace(0, len(world.frames()) - 1, 8).round().astype(int).tolist()
        drawn, start = 0, time.process_time()
        while time.process_time() - start < seconds:
            frames = world.frames()
            for index in indices:
                shown = frames[index].mask if masks else frames[index].depth
                drawn += sum(picture.size > 0 for picture in shown.values())
        found[task] = drawn / (time.process_time() - start)
    world.close()
    return found


def seconds_per_demonstration(renderer: str, tasks: Sequence[str], demos: int) -> dict[str, tuple[float, float]]:
    """By task: CPU seconds of a demonstration, and those of its physics alone."""
    world = make_world("tabletop", renderer=renderer)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for task in tasks:
            start = time.process_time()
            for seed in range(demos):
                demonstrate(world, task, seed, Path(folder))
            whole = time.process_time() - start
            start = time.process_time()
            for seed in range(demos):
                play(world, task, seed)
            found[task] = whole / demos, (time.process_time() - start) / demos
    world.close()
    return found


def write_some(tasks: Sequence[str], seeds: range) -> float:
    """Wall seconds in which this process writes demonstrations, without its start."""
    world = make_world("tabletop")
    play(world, tasks[0], 0)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        for seed in seeds:
            demonstrate(world, tasks[seed % len(tasks)], seed, Path(folder))
        return time.perf_counter() - start


def spin(seconds: float) -> float:
    """Wall seconds in which this process gets `seconds` of CPU time."""
    start, busy = time.perf_counter(), time.process_time()
    while time.process_time() - busy < seconds:
        sum(range(1000))
    return time.perf_counter() - start


def gain_of_two(tasks: Sequence[str], demos: int, rounds: int = 5) -> tuple[float, float]:
    """How many times as much two processes do as one: of demonstrations, and of nothing at all; medians of rounds."""
    gains, bounds = [], []
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(write_some, [tasks] * 2, [range(1)] * 2))  # imports
        for _ in range(rounds):
            alone = pool.submit(write_some, tasks, range(demos)).result()
            gains.append(2 * alone / max(pool.map(write_some, [tasks] * 2, [range(demos)] * 2)))
            alone = pool.submit(spin, 1.0).result()
            bounds.append(2 * alone / max(pool.map(spin, [1.0] * 2)))
    return float(np.median(gains)), float(np.median(bounds))


def memory(tasks: Sequence[str], demos: int) -> list[float]:
    """Peak memory in MiB of a worker after each fifth of `demos` demonstrations."""
    world = make_world("tabletop")
    peaks = []
    for part in np.array_split(np.arange(demos), 5):
        for seed in part.tolist():
            with tempfile.TemporaryDirectory() as folder:
                demonstrate(world, tasks[seed % len(tasks)], seed, Path(folder))
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return peaks


def main() -> int:
    parser = argparse.ArgumentParser(description="Costs of the embedded tabletop.")
    parser.add_argument("--tasks", nargs="*", default=list(default_tasks(make_world("tabletop"))))
    parser.add_argument("--demos", type=int, default=6, help="demonstrations of each task that are timed")
    parser.add_argument("--seconds", type=float, default=0.5, help="CPU seconds of drawing per task and renderer")
    parser.add_argument("--memory", type=int, default=200, help="demonstrations of the memory test; 0 leaves it out")
    given = parser.parse_args()
    problem = probe_gl()
    renderers = ["rays"] if problem else ["rays", "gl"]
    well = []

    images = {
        (name, masks): images_per_second(name, given.tasks, masks, given.seconds)
        for name in renderers
        for masks in ((True, False) if name == "gl" else (True,))
    }
    print("RGB-D images of 128 x 128 per CPU second")
    means = {}
    for (name, masks), found in images.items():
        # Images take the time that they take: the mean over tasks is that of the times.
        means[name, masks] = mean = 1 / float(np.mean([1 / speed for speed in found.values()]))
        label = f"{name}{'' if masks else ', no masks'}"
        slow, fast = min(found, key=found.__getitem__), max(found, key=found.__getitem__)
        print(f"  {label:14} {mean:7.0f}   ({slow} {found[slow]:.0f} .. {fast} {found[fast]:.0f})")
    print(f"  OpenGL: {problem}" if problem else f"  gl / rays     {means['gl', False] / means['rays', True]:8.1f}")
    well.append(means["rays", True] >= WANTED_IMAGES)

    print("CPU seconds of a demonstration (of it physics)")
    for name in renderers:
        costs = seconds_per_demonstration(name, given.tasks, given.demos)
        if name == "rays":
            for task, (whole, physics) in costs.items():
                print(f"  {task:30} {whole:.3f} ({physics:.3f})")
        whole, physics = np.mean(list(costs.values()), axis=0)
        print(f"  mean with {name:20} {whole:.3f} ({physics:.3f})")
        if name == "rays":
            well.append(bool(whole <= WANTED_SECONDS))

    gain, bound = gain_of_two(given.tasks, len(given.tasks))
    print(f"two processes write {gain:.2f} times as many demonstrations as one (two empty loops do {bound:.2f} times)")
    well.append(gain >= WANTED_GAIN * min(bound, 2.0) / 2)

    if given.memory:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            peaks = pool.submit(memory, given.tasks, given.memory).result()
        text = ", ".join(f"{peak:.0f}" for peak in peaks)
        print(f"peak memory of a worker over {given.memory} demonstrations, after each fifth: {text} MiB")
        well.append(peaks[-1] < WANTED_MIB and peaks[-1] - peaks[1] < GROWTH_MIB)
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
