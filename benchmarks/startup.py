"""`mnprobe --help` beside `python -c "import torch"`: whole processes, in turn; the goal is a ratio of at most 0.5."""

import statistics
import subprocess
import sys
import time

PAIRS = 9
OURS = [sys.executable, "-m", "mnprobe", "--help"]
PEER = [sys.executable, "-c", "import torch"]


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    for command in (OURS, PEER):
        seconds(command)  # fills the page cache
    pairs = [(seconds(OURS), seconds(PEER)) for _ in range(PAIRS)]
    ours, peer = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"mnprobe --help {ours:.3f} s   import torch {peer:.3f} s   ratio {ratio:.3f} (goal <= 0.5)")


if __name__ == "__main__":
    main()
