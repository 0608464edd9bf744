"""Retrieval both ways beside faiss, in one run on one machine: seconds, their ratio, and our extra memory.

    pip install 'mnprobe[bench]'
    python benchmarks/retrieval.py                      (20,000 items of 1,024 numbers)
    python benchmarks/retrieval.py --items 5000 --threads 1

Ours is `recall_at_k` with k = 1, 5, 10, ties counted, both directions, from raw features; faiss searches a flat inner
product index once for each direction, on features that are normalised beforehand, and computes no recall. Both take
turns; the ratio of the best rounds must be at most 1.0 and our peak extra memory under 1 GiB, else the exit code is 1.
A smaller run checks that both give the same Recall@1. On a machine with more work than cores nothing is compared,
unless --busy says so: products, passes over memory and barriers between threads then slow down by different factors.
"""

import argparse
import os
import resource
import subprocess
import sys
import time

import numpy as np
import torch
from torch.nn import functional

from mnprobe.probe import recall_at_k

MEMORY_LIMIT = 1 << 30


def features(items: int, dim: int) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Two sides that agree a little, 54 instructions."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(items, dim, generator=generator)
    labels = np.arange(items) % 54
    return shared + torch.randn(items, dim, generator=generator), shared, labels


def ours(u: torch.Tensor, e: torch.Tensor, labels: np.ndarray) -> tuple[float, float]:
    """Seconds, Recall@1."""
    start = time.perf_counter()
    found = recall_at_k(u, e, labels, k=(1, 5, 10))
    return time.perf_counter() - start, found.recall(1)


def with_faiss(u: torch.Tensor, e: torch.Tensor, k: int) -> tuple[float, list[np.ndarray]]:
    """Seconds for two flat searches, and the neighbours found."""
    import faiss

    sides = [np.ascontiguousarray(functional.normalize(x, dim=1).numpy()) for x in (u, e)]
    start = time.perf_counter()
    neighbours = []
    for query, gallery in (sides, sides[::-1]):
        index = faiss.IndexFlatIP(query.shape[1])
        index.add(gallery)
        neighbours.append(index.search(query, k)[1])
    return time.perf_counter() - start, neighbours


def agree(dim: int) -> None:
    """Recall from faiss's neighbours equals ours where nothing is tied."""
    u, e, labels = features(2000, dim)
    _, (forth, back) = with_faiss(u, e, 1)
    theirs = (np.mean(labels[forth[:, 0]] == labels) + np.mean(labels[back[:, 0]] == labels)) / 2
    value = ours(u, e, labels)[1]
    if abs(theirs - value) > 1e-6:
        raise SystemExit(f"recall differs: faiss {theirs}, ours {value}")


def extra_memory(items: int, dim: int, threads: int) -> int:
    """Bytes by which the peak of a fresh process grows in recall_at_k."""
    command = [
        sys.executable,
        __file__,
        "--memory",
        "--items",
        str(items),
        "--dim",
        str(dim),
        "--threads",
        str(threads),
    ]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory", action="store_true", help="(inner) print the growth of the peak in bytes")
    parser.add_argument("--busy", action="store_true", help="compare even on a busy machine")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    u, e, labels = features(given.items, given.dim)
    if given.memory:
        ours(u[:200], e[:200], labels[:200])  # libraries load their buffers
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        ours(u, e, labels)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
        return 0
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores and not given.busy:
        print(
            f"load average {load:.1f} on {cores} cores: too busy to compare; try later, or pass --busy", file=sys.stderr
        )
        return 2
    import faiss

    faiss.omp_set_num_threads(given.threads)
    agree(given.dim)
    memory = extra_memory(given.items, given.dim, given.threads)
    rounds = [(ours(u, e, labels)[0], with_faiss(u, e, 1)[0], with_faiss(u, e, 10)[0]) for _ in range(given.rounds)]
    mine, one, ten = (min(column) for column in zip(*rounds, strict=True))
    ratio = mine / min(one, ten)
    print(f"{given.items} items, {given.dim} wide, {given.threads} threads, best of {given.rounds} rounds")
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores at the end")
    print(f"ours, recall@1/5/10 with ties, both ways   {mine:7.2f} s")
    print(f"faiss IndexFlatIP, both ways, k = 1        {one:7.2f} s")
    print(f"faiss IndexFlatIP, both ways, k = 10       {ten:7.2f} s")
    print(f"ours / faiss (the faster of both)          {ratio:7.2f}   (limit 1.00)")
    print(f"our peak extra memory                      {memory / 2**20:7.0f} MiB (limit 1024)")
    return int(ratio > 1.0 or memory > MEMORY_LIMIT)


if __name__ == "__main__":
    sys.exit(main())
