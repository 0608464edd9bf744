"""Probing on real clusters of this machine: the same bytes as in one process, also when a worker dies."""

import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import joblib
import numpy as np
import pytest

from mnprobe.analysis.comparison.compare import CompareConfig, FeatureSet, compare
from mnprobe.cli.main import main
from mnprobe.core.cluster import on_cluster, on_dask, spread
from mnprobe.core.errors import ClusterError, ConfigError
from mnprobe.core.names import LayerId, Side
from mnprobe.features import write_features
from mnprobe.probe import AlignConfig, FitConfig, align, pair_arrays


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def dask_cluster(folder):
    """A scheduler and two workers of one thread, as processes; gives the option and the processes."""
    pytest.importorskip("distributed", reason="needs the extra 'dask'")
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1"]
    scheduler += ["--port", str(port), "--no-dashboard"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny"]
    worker += ["--no-dashboard"]
    processes = [subprocess.Popen(scheduler, **quiet)]
    processes += [subprocess.Popen(worker, **quiet) for _ in range(2)]
    try:
        awaited(address, 2)
        yield f"dask:{address}", processes
    finally:
        for one in processes:
            one.kill()
            one.wait()


def awaited(address, count):
    from distributed import Client

    end = time.monotonic() + 60
    while True:
        try:
            with Client(address, timeout=5, set_as_default=False) as client:
                client.wait_for_workers(count, timeout=60)
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def features(n=24, instructions=6):
    rng = np.random.default_rng(0)
    u, e = (rng.normal(size=(n, width)).astype(np.float32) for width in (5, 7))
    return u, e, [f"do {i % instructions}" for i in range(n)]


def stores(folder):
    u, e, instructions = features()
    paths = []
    for side, model, layer, values in (("understanding", "viclip", "u", u), ("execution", "arp", "e", e)):
        path = folder / f"{layer}.h5"
        episodes = {"id": [f"t/0/episode{i}" for i in range(len(u))], "instruction": instructions, "task": ["t"] * 24}
        write_features(path, layers={layer: values}, episodes=episodes, model=model, side=side, source="demos")
        paths.append(path)
    return paths


def run_align(folder, name, *arguments):
    """The bytes of the table, and of every head, that `mnprobe align` writes."""
    u, e = folder / "u.h5", folder / "e.h5"
    out = folder / name / "alignment.csv"
    quick = ["--seeds", "3", "--splits", "2", "--dim", "4", "--steps", "3", "--out", str(out)]
    with pytest.raises(SystemExit) as ended:
        main(["align", "--u", str(u), "--e", str(e), *quick, *arguments])
    assert ended.value.code == 0
    return out.read_bytes(), [path.read_bytes() for path in sorted((out.parent / "heads").glob("*"))]


def compared():
    u, e, instructions = features()
    layers = [
        FeatureSet(values=e * scale + scale, origin=LayerId(model="arp", side=Side.EXECUTION)) for scale in (1, 2)
    ]
    rows = [FeatureSet(values=u, origin=LayerId(model="viclip", side=Side.UNDERSTANDING))]
    config = CompareConfig(index="debiased_cka", permutations=19)
    return compare(rows, layers, tasks=["t"] * len(u), instructions=instructions, config=config).table.to_csv()


SLOW = AlignConfig(fit=FitConfig(dim=16, steps=300), seeds=4, splits=2)


def planted_pair():
    u, e, instructions = features()
    return pair_arrays(u, e, instructions)


def test_dask_gives_the_bytes_of_one_process(tmp_path):
    stores(tmp_path)
    alone = run_align(tmp_path, "alone", "--jobs", "1")
    assert len(alone[1]) == 2
    with dask_cluster(tmp_path) as (option, _):
        assert run_align(tmp_path, "sent", "--cluster", option) == alone
        assert run_align(tmp_path, "read", "--cluster", option, "--shared-files") == alone
        with on_cluster(option):
            assert on_dask()
            on_workers = compared()
    assert on_workers == compared()


def test_fits_of_a_dead_worker_are_done_again_and_a_lost_cluster_ends_with_a_sentence(tmp_path):
    pair = planted_pair()
    alone = align(pair, SLOW)
    saved = []
    with dask_cluster(tmp_path) as (option, (scheduler, first, _)):

        def kill(process):
            def act(frame):
                saved.append(frame)
                process.kill()

            return act

        with on_cluster(option):
            assert align(pair, SLOW, on_rows=kill(first)).to_csv() == alone.to_csv()
        saved.clear()
        with pytest.raises(ClusterError, match=r"Dask cluster is lost.*run the same command again"), on_cluster(option):
            align(pair, SLOW, on_rows=kill(scheduler))
    assert 0 < len(saved[-1]) < len(alone)
    assert align(pair, SLOW, previous=saved[-1]).to_csv() == alone.to_csv()


def test_python_goes_by_a_parallel_config_of_the_user():
    pair = planted_pair()
    config = AlignConfig(fit=FitConfig(dim=4, steps=2), seeds=2, splits=1, shuffled=False, holdout="episodes")
    alone = align(pair, config)
    with joblib.parallel_config("threading", n_jobs=2):
        assert align(pair, config).to_csv() == alone.to_csv()
        threads = set(spread(thread_of, [(number,) for number in range(4)]))
    assert len(threads) > 1 or threads != {thread_of(0)}


def thread_of(number):
    import threading

    time.sleep(0.02)
    return threading.get_ident()


@pytest.mark.parametrize("option", ["slurm:x", "dask", "dask:localhost", "dask:tcp://localhost", "ray:auto"])
def test_an_option_of_another_form_is_refused(option):
    with pytest.raises(ConfigError, match="--cluster takes dask:tcp://HOST:PORT, got"), on_cluster(option):
        pass


def test_a_missing_extra_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match=r"pip install 'mnprobe\[dask\]'"), on_cluster("dask:tcp://a:1"):
        pass


def test_an_address_where_nothing_listens_ends_the_command_with_code_2(tmp_path, capsys):
    pytest.importorskip("distributed", reason="needs the extra 'dask'")
    stores(tmp_path)
    paths = ["--u", str(tmp_path / "u.h5"), "--e", str(tmp_path / "e.h5"), "--out", str(tmp_path / "alignment.csv")]
    with pytest.raises(SystemExit) as ended:
        main(["align", *paths, "--cluster", f"dask:tcp://127.0.0.1:{free_port()}"])
    assert ended.value.code == 2
    assert "cannot be reached" in capsys.readouterr().err


def test_shared_files_without_a_cluster_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["align", "--run", str(tmp_path), "--shared-files"])
    assert ended.value.code == 2
    assert "give both" in capsys.readouterr().err
