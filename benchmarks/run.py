"""Run every benchmark, each in a fresh process, and print what it prints. Ratios within one run count, not seconds.

Example: python benchmarks/run.py            (all)
         python benchmarks/run.py store      (one)
"""

import os
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).parent
TOO_BUSY = 2  # what a benchmark ends with that will not compare on a loaded machine


def main(names: list[str]) -> int:
    known = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "run")
    unknown = set(names) - set(known)
    if unknown:
        print(f"unknown benchmark {sorted(unknown)}; known: {', '.join(known)}", file=sys.stderr)
        return 2
    failed: list[str] = []
    left_out: list[str] = []
    for name in names or known:
        load = os.getloadavg()[0]
        busy = "  (busy machine: trust no seconds)" if load > (os.cpu_count() or 1) else ""
        print(f"\n== {name}  load {load:.1f} on {os.cpu_count()} CPUs{busy}", flush=True)
        started = time.perf_counter()
        code = subprocess.run([sys.executable, FOLDER / f"{name}.py"], check=False).returncode
        if code:
            (left_out if code == TOO_BUSY else failed).append(name)
        print(f"   took {time.perf_counter() - started:.0f} s", flush=True)
    if left_out:
        print(f"\nnot compared, the machine is too busy: {', '.join(left_out)}", file=sys.stderr)
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
