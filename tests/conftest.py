"""Fixtures shared by all rooms: where golden files and real demonstrations lie."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tensors are tiny here: more threads only wait for each other


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of measured inputs and outputs that the suite carries."""
    return REPOSITORY / "tests" / "golden"


@pytest.fixture(scope="session")
def rlbench_data() -> Path:
    """Real RLBench demonstrations, which their licence keeps out of the repository; skips where they are absent."""
    folder = Path(os.environ.get("MNPROBE_RLBENCH_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "rlbench").is_dir():
        pytest.skip(f"real RLBench demonstrations are not at {folder}; set MNPROBE_RLBENCH_DATA to their folder")
    return folder
