"""Probing on real clusters of this machine: the same bytes as in one process, also when a worker dies."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import joblib
import numpy as np
import pytest

from mnprobe.analysis.ablation.grid import ablation_cells
from mnprobe.analysis.ablation.run import Evaluation, Shared
from mnprobe.analysis.ablation.study import _results
from mnprobe.analysis.audit.decomposition import decompose
from mnprobe.analysis.comparison.compare import CompareConfig, FeatureSet, compare
from mnprobe.cli.main import main
from mnprobe.core.cluster import on_cluster, on_workers, spread
from mnprobe.core.errors import ClusterError, ConfigError
from mnprobe.core.names import LayerId, Side
from mnprobe.features import write_features
from mnprobe.probe import AlignConfig, FitConfig, StoredPair, align, align_stores, pair_arrays
from mnprobe.probe.pairs import PairRecipe
from mnprobe.training import preset

N = 24
FORMS = "--cluster takes dask:tcp://HOST:PORT or ray:ADDRESS"


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def awaited(condition, what):
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, f"no {what} after two minutes"
        time.sleep(0.1)


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def started(folder, *commands):
    """Commands as processes that are in groups of their own, so that none is left when the block ends."""
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "start_new_session": True, "cwd": folder}
    env = os.environ | {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    processes = [subprocess.Popen([sys.executable, *command], env=env, **quiet) for command in commands]
    try:
        yield processes
    finally:
        for process in processes:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()


FORKED = """
import os, sys
from distributed.cli.dask_scheduler import main as scheduler
from distributed.cli.dask_worker import main as worker
import mnprobe.analysis.ablation.run, mnprobe.analysis.comparison.compare, mnprobe.probe.alignment

def forked(main, *arguments):
    process = os.fork()
    if not process:
        sys.argv = ["dask", *arguments, "--no-dashboard"]
        os._exit(main() or 0)
    return process

port = sys.argv[1]
one = (worker, f"tcp://127.0.0.1:{port}", "--nthreads", "1", "--no-nanny")
print(forked(scheduler, "--host", "127.0.0.1", "--port", port), forked(*one), forked(*one), flush=True)
for _ in range(3):
    os.wait()
"""


@pytest.fixture(scope="module")
def dask(tmp_path_factory):
    """A scheduler and two workers of one thread each, forked from one process, so that torch is imported once."""
    distributed = pytest.importorskip("distributed", reason="needs the extra 'dask'")
    port = free_port()
    folder = tmp_path_factory.mktemp("dask")
    with started(folder, ["-c", FORKED, str(port)]) as (parent,):
        awaited(lambda: listens(port) or parent.poll() is not None, "Dask scheduler")
        address = f"tcp://127.0.0.1:{port}"
        with distributed.Client(address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=120)
        head, *workers = map(int, parent.stdout.readline().split())
        yield SimpleNamespace(option=f"dask:{address}", head=head, workers=workers)


@pytest.fixture(scope="module")
def ray():
    """A head with two processors."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("RAY_AUTH_MODE", "token")  # one of its own; Ray reads this when it is imported
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    pytest.importorskip("ray", reason="needs the extra 'ray'")
    port = free_port()
    folder = tempfile.mkdtemp(prefix="ray")  # pytest's own are too long for the names of sockets
    command = ["-c", "from ray.scripts.scripts import main; main()", "start", "--head", "--block", "--port", str(port)]
    command += ["--num-cpus", "2", "--object-store-memory", str(100 << 20), "--temp-dir", folder]
    command += ["--include-dashboard", "false", "--disable-usage-stats", "--node-ip-address", "127.0.0.1"]
    for name in ("dashboard-agent-listen", "dashboard-agent-grpc"):
        command += [f"--{name}-port", str(free_port())]
    try:
        with started(folder, command) as (head,):
            option = f"ray:127.0.0.1:{port}"

            def answers():
                assert head.poll() is None, f"the Ray head ended with code {head.poll()}"
                try:
                    with on_cluster(option):
                        return True
                except ClusterError as error:
                    print(error)
                    return False

            awaited(answers, "Ray head")
            yield SimpleNamespace(option=option, head=head)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        monkeypatch.undo()


def features(n=N, instructions=8):
    rng = np.random.default_rng(0)
    u, e = (rng.normal(size=(n, width)).astype(np.float32) for width in (5, 7))
    return u, e, [f"do {i % instructions}" for i in range(n)]


def planted_pair():
    return pair_arrays(*features())


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Two stores, and what `mnprobe align` makes of them in one process."""
    folder = tmp_path_factory.mktemp("stores")
    u, e, instructions = features()
    for side, model, layer, values in (("understanding", "viclip", "u", u), ("execution", "arp", "e", e)):
        episodes = {"id": [f"t/0/episode{i}" for i in range(N)], "instruction": instructions, "task": ["t"] * N}
        path = folder / f"{layer}.h5"
        write_features(path, layers={layer: values}, episodes=episodes, model=model, side=side, source="demos")
    return SimpleNamespace(folder=folder, alone=aligned(folder, "alone", "--jobs", "1"))


def aligned(folder, name, *arguments):
    """The bytes of all files that `mnprobe align` writes, by name."""
    out = folder / name / "alignment.csv"
    quick = ["--seeds", "3", "--splits", "2", "--dim", "4", "--steps", "3", "--out", str(out)]
    with pytest.raises(SystemExit) as ended:
        main(["align", "--u", str(folder / "u.h5"), "--e", str(folder / "e.h5"), *quick, *arguments])
    assert ended.value.code == 0
    return written(out.parent)


def written(folder):
    files = [path for path in folder.rglob("*") if path.suffix in (".csv", ".safetensors")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def aligned_in_python(folder):
    """The same by `align_stores`."""
    config = AlignConfig(fit=FitConfig(dim=4, steps=3), seeds=3, splits=2)
    out = folder / "python"
    pair = StoredPair(folder / "u.h5", folder / "e.h5")
    align_stores([pair], config, table=out / "alignment.csv", heads=out / "heads", hits=out / "hits", quiet=True)
    return written(out)


def compared():
    u, e, instructions = features()
    layers = [FeatureSet(values=e * by + by, origin=LayerId(model="arp", side=Side.EXECUTION)) for by in (1, 2)]
    rows = [FeatureSet(values=u, origin=LayerId(model="viclip", side=Side.UNDERSTANDING))]
    config = CompareConfig(index="mutual_knn", permutations=19, permute="free")
    return compare(rows, layers, tasks=["t"] * N, instructions=instructions, config=config).table.to_csv()


def audited():
    fit = FitConfig(dim=4, steps=3)
    return decompose(planted_pair(), np.arange(16), np.arange(16, N), fit=fit, seeds=2).to_csv()


def ablated(folder):
    """What becomes of two cells that find no demonstrations."""
    cells = ablation_cells(preset("tiny"), pairings=["task"], taus=[0.1], seeds=1)
    shared = Shared(
        folder=folder,
        cache=folder,
        data=(folder / "none",),
        partition="train",
        instructions=None,
        starts={},
        device="cpu",
        save_every=1,
        evaluation=Evaluation(tasks=("t",)),
        asked={},
    )
    return {result.name: (result.status, result.error) for result in _results(cells, shared, 1)}


SLOW = AlignConfig(fit=FitConfig(dim=16, steps=150), seeds=3, splits=2, shuffled_seeds=3)


@pytest.fixture(scope="module")
def slow_alone():
    return align(planted_pair(), SLOW)


def lost_midway(alone, kill_worker, kill_cluster):
    """What is said, and which rows there are, when the cluster goes away after the first of four measurements.

    Before, only a worker dies there.
    """
    told = []

    def after_the_first(kill):
        def on_rows(frame):
            if not told:
                kill()
            told.append(frame)

        return on_rows

    assert align(planted_pair(), SLOW, on_rows=after_the_first(kill_worker)).to_csv() == alone.to_csv()
    assert len(told[0]) == len(alone) // 4
    told.clear()
    with pytest.raises(ClusterError) as error:
        align(planted_pair(), SLOW, on_rows=after_the_first(kill_cluster))
    assert len(told[-1]) < len(alone)
    return str(error.value), told[-1]


class Counted:
    """Counts how often it is pickled, and makes a folder whenever it is unpickled, which is what a worker gets."""

    def __init__(self, folder):
        self.folder, self.sent = str(folder), 0

    def __reduce__(self):
        self.sent += 1
        return tempfile.mkdtemp, ("", "read", self.folder)


def shared_with_eight(folder):
    """How often a shared value was pickled and unpickled for eight calls; their results are in order."""
    counted = Counted(folder)
    found = list(spread(os.path.join, [(counted, str(number)) for number in range(8)], shared=[counted]))
    assert [Path(path).name for path in found] == list("01234567")
    return counted.sent, len(list(folder.glob("read*")))


def test_dask_gives_the_bytes_of_one_process(dask, stores, tmp_path):
    assert len(stores.alone) == 4
    assert aligned(stores.folder, "sent", "--cluster", dask.option) == stores.alone
    assert aligned(stores.folder, "read", "--cluster", dask.option, "--shared-files") == stores.alone
    with on_cluster(dask.option):
        assert on_workers()
        there = compared(), audited(), ablated(tmp_path / "run")
        assert shared_with_eight(tmp_path) == (1, 1)  # from the command to a worker, and from there to the other
    assert not on_workers()
    assert there == (compared(), audited(), ablated(tmp_path / "run"))
    assert {status for status, _ in there[2].values()} == {"failed"}


def test_dask_workers_that_see_other_files_are_refused(dask, stores):
    recipe = PairRecipe(stores.folder / "u.h5", stores.folder / "e.h5").for_workers(planted_pair())
    with on_cluster(dask.option), pytest.raises(Exception, match=r"other features .* without it features are sent"):
        list(spread(PairRecipe.load, [(recipe,), (recipe,)]))


def test_dask_does_again_what_a_dead_worker_had_and_a_lost_cluster_ends_with_a_sentence(dask, slow_alone, capfd):
    with on_cluster(dask.option):
        message, told = lost_midway(
            slow_alone, lambda: os.kill(dask.workers[0], signal.SIGKILL), lambda: os.kill(dask.head, signal.SIGKILL)
        )
    assert message == (
        "the Dask cluster is lost (scheduler-connection-lost). What was finished is kept: run the same command again "
        "to go on"
    )
    assert not on_workers()
    assert align(planted_pair(), SLOW, previous=told).to_csv() == slow_alone.to_csv()
    assert capfd.readouterr() == ("", "")  # nothing of Dask's own


def test_ray_gives_the_bytes_of_one_process_and_its_losses_end_as_those_of_dask(
    ray, stores, slow_alone, tmp_path, capfd
):
    """In one, since a process of Ray takes seconds to start."""
    import psutil

    def processes():
        return psutil.Process(ray.head.pid).children(recursive=True)

    def kill_worker():
        next(one for one in processes() if " ".join(one.cmdline()).startswith("ray::PoolActor")).kill()

    def kill_cluster():
        for one in processes():
            one.kill()

    with on_cluster(ray.option):
        assert on_workers()
        there = aligned_in_python(stores.folder), audited()
        sent, read = shared_with_eight(tmp_path)
        message, _ = lost_midway(slow_alone, kill_worker, kill_cluster)
    assert there == (stores.alone, audited())
    assert sent == 1
    assert 1 <= read <= 2  # each process reads the memory that all of a machine share
    assert message.startswith("the Ray cluster is lost (")
    assert message.endswith("). What was finished is kept: run the same command again to go on")
    assert capfd.readouterr() == ("", "")  # nothing of Ray's own


def thread_of(number):
    time.sleep(0.02)
    return threading.get_ident()


def test_python_goes_by_a_parallel_config_of_the_user():
    pair = planted_pair()
    config = AlignConfig(fit=FitConfig(dim=4, steps=2), seeds=2, splits=1, shuffled=False, holdout="episodes")
    alone = align(pair, config)
    with joblib.parallel_config("threading", n_jobs=2):
        assert align(pair, config).to_csv() == alone.to_csv()
        threads = set(spread(thread_of, [(number,) for number in range(4)]))
    assert len(threads) == 2
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("option", ["slurm:x", "dask", "dask:here", "dask:tcp://here", "ray", "ray:", "ray:ray://a:1"])
def test_an_option_of_another_form_is_refused(option):
    with pytest.raises(ConfigError, match=FORMS), on_cluster(option):
        pass


@pytest.mark.parametrize(
    ("option", "module", "extra"), [("dask:tcp://a:1", "distributed", "dask"), ("ray:auto", "ray", "ray")]
)
def test_a_missing_extra_is_named_with_its_command(option, module, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"needs the extra '{extra}'.*pip install 'mnprobe\[{extra}\]'"):  # noqa: SIM117
        with on_cluster(option):
            pass


@pytest.mark.parametrize(("kind", "module"), [("dask:tcp://", "distributed"), ("ray:", "ray")])
def test_an_address_where_nothing_listens_ends_the_command_with_code_2(kind, module, stores, tmp_path, capsys):
    pytest.importorskip(module, reason="needs the extras 'dask' and 'ray'")
    paths = ["--u", str(stores.folder / "u.h5"), "--e", str(stores.folder / "e.h5"), "--out", str(tmp_path / "a.csv")]
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["align", *paths, "--cluster", f"{kind}127.0.0.1:{free_port()}"])
    assert ended.value.code == 2
    assert "cannot be reached" in capsys.readouterr().err


def test_shared_files_without_a_cluster_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["align", "--run", str(tmp_path), "--shared-files"])
    assert ended.value.code == 2
    assert "give both" in capsys.readouterr().err
