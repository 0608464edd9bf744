"""benchmarks/gpu.py on the CPU with tiny sizes: it is known to work when there is a GPU."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu.py"
PARTS = ["parity", "viclip", "arp", "products", "extraction", "training", "tests"]


def run(out, *words):
    command = [sys.executable, SCRIPT, "--device", "cpu", "--tiny", "--out", out, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done, json.loads(out.read_text(encoding="utf-8"))


def test_every_part_works_with_tiny_sizes_on_the_cpu(tmp_path):
    done, report = run(tmp_path / "gpu.json")
    assert done.returncode == 0, done.stdout + done.stderr
    keys = {"device", "cpus", "cuda", "driver", "versions", "commit", "made", "tiny", "seconds", "parts"}
    assert report.keys() == keys
    parts = report["parts"]
    assert list(parts) == PARTS
    assert {name: part["status"] for name, part in parts.items()} == dict.fromkeys(PARTS, "passed") | {
        "tests": "skipped"
    }
    assert parts["tests"]["reason"].startswith("no GPU: 4 skipped")
    parity = parts["parity"]["rows"]
    assert len([row for row in parity if row["met"]]) == 14
    assert {row["value"] for row in parity if "float32" in row["what"] or "differ" in row["what"]} == {0.0}
    assert all(row["value"] > 0 for name in ("viclip", "arp", "products") for row in parts[name]["rows"][2:])
    assert [row["value"] for row in parts["training"]["rows"] if row["what"].endswith("largest batch")] == [4]


def test_a_wrong_weight_on_the_device_is_told_and_does_not_stop_the_other_parts(tmp_path):
    done, report = run(tmp_path / "gpu.json", "--planted", "--only", "parity,products")
    assert done.returncode == 1, done.stdout + done.stderr
    assert {name: part["status"] for name, part in report["parts"].items()} == {
        "parity": "failed",
        "products": "passed",
    }
    assert "not met: ViCLIP, video features, float32" in report["parts"]["parity"]["reason"]
    assert "ViCLIP, video features, float32" in done.stdout
    assert "NOT MET" in done.stdout


@pytest.fixture
def gpu(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    sys.modules.pop("train", None)
    return module


def test_parts_that_fail_take_too_long_or_do_not_fit_are_told(gpu, tmp_path):
    def broken(bench):
        raise ValueError("planted")

    def endless(bench):
        bench.tell("something", 1.0, "ms")
        while True:
            pass

    bench = gpu.Bench("cpu", True, False, tmp_path)
    found = gpu.run_part(bench, broken, 5, 10)
    assert (found.status, found.reason) == ("failed", "ValueError: planted")
    found = gpu.run_part(bench, endless, 0.05, 10)
    assert (found.status, len(found.rows)) == ("skipped", 1)
    assert found.reason.startswith("cut off after 0 s")
    found = gpu.run_part(bench, broken, 60, 20)
    assert (found.status, found.reason) == ("skipped", "20 s are left for the script, it may need 60")
    bench = gpu.Bench("cpu", False, False, tmp_path)
    found = gpu.run_part(bench, lambda bench: bench.goal("speed", 0.5, "x", least=0.9), 5, 10)
    assert (found.status, found.reason) == ("missed", "not met: speed")
    found = gpu.run_part(bench, lambda bench: bench.check("parity", float("nan"), "", most=1e-4), 5, 10)
    assert found.status == "failed"


def test_the_batch_is_halved_while_memory_is_short(gpu):
    tried = []

    def attempt(count):
        tried.append(count)
        if count > 40:
            raise torch.OutOfMemoryError
        return "fits"

    assert gpu.largest(192, attempt) == (24, "fits")
    assert tried == [192, 96, 48, 24]

    def never(count):
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        gpu.largest(4, never)
