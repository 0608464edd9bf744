"""Probing on a cluster of two one-thread workers of this machine: speed-up over one process, and bytes sent per fit.

    pip install 'mnprobe[cluster]'
    python benchmarks/cluster.py                        (Dask and Ray; 4,000 episodes, 1,024 wide, 16 fits)
    python benchmarks/cluster.py --only dask --items 500 --fits 4 --busy

The same measurement runs in this process and on each cluster, after a small one that lets the workers import what they
need; tables must be equal to the byte. Bytes are those that pass the loopback device meanwhile, so that other programs
that use it count too; those of a fit are the difference between many fits and two. Features travel once to each
worker (Ray: shared memory): a fit must send less than a tenth of them, and the speed-up must be at least 1.7, else the
exit code is 1. On a machine with work for its cores already nothing is compared, unless --busy says so.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from mnprobe.core.cluster import on_cluster
from mnprobe.core.errors import ClusterError
from mnprobe.probe import AlignConfig, FeaturePair, FitConfig, align, pair_arrays

LEAST = 1.7


def planted(items: int, width: int) -> FeaturePair:
    """Two sides that agree a little, 54 instructions."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(items, width)).astype(np.float32)
    noise = rng.normal(size=(items, width)).astype(np.float32)
    return pair_arrays(shared + noise, shared, [f"do {row % 54}" for row in range(items)])


def settings(fits: int, steps: int) -> AlignConfig:
    return AlignConfig(
        fit=FitConfig(steps=steps), seeds=fits, splits=1, shuffled=False, holdout="episodes", bound_draws=2
    )


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def started(kind: str, folder: str) -> Iterator[str]:
    """Two workers of one thread; the option that names them."""
    port = free_port()
    if kind == "dask":
        address = f"tcp://127.0.0.1:{port}"
        worker = ["-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
        scheduler = ["-m", "distributed.cli.dask_scheduler", "--port", str(port), "--no-dashboard"]
        commands, option, enough = [scheduler, worker, worker], f"dask:{address}", 2
    else:
        head = ["-c", "from ray.scripts.scripts import main; main()", "start", "--head", "--block"]
        head += ["--port", str(port), "--num-cpus", "2", "--temp-dir", folder, "--include-dashboard", "false"]
        commands, option, enough = [[*head, "--disable-usage-stats"]], f"ray:127.0.0.1:{port}", 1
    no = subprocess.DEVNULL
    env = os.environ | {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    processes = [
        subprocess.Popen([sys.executable, *command], env=env, cwd=folder, stdout=no, stderr=no) for command in commands
    ]
    try:
        for _ in range(120):
            try:
                with on_cluster(option):
                    pass
                break
            except ClusterError:
                time.sleep(0.5)
        time.sleep(5 * (enough - 1))  # the second worker
        yield option
    finally:
        for process in processes:
            process.terminate()
            process.wait()


def passed() -> int:
    """Bytes that the loopback device has carried."""
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[0])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=4000)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--fits", type=int, default=16)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--only", choices=("dask", "ray"), default=None)
    parser.add_argument("--busy", action="store_true", help="measure even on a busy machine")
    given = parser.parse_args()
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores / 2 and not given.busy:
        print(f"load average {load:.1f} on {cores} cores: too busy to compare; try later, or --busy", file=sys.stderr)
        return 2
    pair, config = planted(given.items, given.width), settings(given.fits, given.steps)
    size = pair.u.nbytes + pair.e.nbytes
    start = time.perf_counter()
    alone = align(pair, config).to_csv()
    single = time.perf_counter() - start
    print(
        f"{given.fits} fits of {given.steps} steps, {given.items} episodes, {given.width} wide: {size / 2**20:.0f} MiB"
    )
    print(f"one process                {single:7.1f} s   {single / given.fits:6.2f} s a fit")
    failed = False
    for kind in (given.only,) if given.only else ("dask", "ray"):
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench", ignore_cleanup_errors=True))
            stack.enter_context(on_cluster(stack.enter_context(started(kind, folder))))
            align(planted(60, 8), settings(6, 2))
            marks = [passed()]
            align(pair, settings(2, given.steps))
            marks.append(passed())
            start = time.perf_counter()
            table = align(pair, config).to_csv()
            taken = time.perf_counter() - start
            marks.append(passed())
        few, all_fits = marks[1] - marks[0], marks[2] - marks[1]
        each = (all_fits - few) / (given.fits - 2)  # both have sent the features
        if table != alone:
            print(f"{kind}: the table differs from that of one process")
            return 1
        ratio = single / taken
        print(
            f"{kind}, two workers          {taken:7.1f} s   speed-up {ratio:.2f} (at least {LEAST}); table equal; "
            f"{(all_fits - given.fits * each) / 2**20:.1f} MiB sent before the fits, {each / 2**10:.0f} KiB by each"
        )
        failed |= ratio < LEAST or each > size / 10
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
