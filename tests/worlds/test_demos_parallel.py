"""Worker processes: results, errors, workers that are killed, a starter that is killed."""

import multiprocessing.util
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress
from multiprocessing import resource_tracker
from pathlib import Path

import pytest

from mnprobe.core.errors import ConfigError, DataError, MnprobeError
from mnprobe.worlds.parallel import hashing, run_episodes

WORK = '''
"""Work that worker processes can import."""
import os, signal, threading, time
from pathlib import Path
from mnprobe.core.errors import DataError

def square(job):
    return job * job, os.getpid(), os.environ["OMP_NUM_THREADS"]

def hashed(job):
    from mnprobe.worlds.parallel import hashing
    return hash(job), hashing(), list({"maroon", "green", "blue", "navy", "yellow"})

def refuse(job):
    if job == 2:
        raise DataError("job 2: is not to be had")
    return job

def stumble(job):
    return {}[job]

def unsendable(job):
    return threading.Lock()

def die_once(job):
    mark = Path(job)
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return mark.name

def die(job):
    if job == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return job

def slow(job):
    folder = Path(job)
    (folder / f"{os.getpid()}.part").touch()
    try:
        time.sleep(60)
    finally:
        (folder / f"{os.getpid()}.part").unlink()
'''


@pytest.fixture
def work(tmp_path, monkeypatch):
    """The module above, importable here and in worker processes."""
    (tmp_path / "episode_work.py").write_text(WORK)
    monkeypatch.syspath_prepend(tmp_path)
    yield __import__("episode_work")
    del sys.modules["episode_work"]


def _run(jobs, function, workers=2):
    return list(run_episodes(jobs, function, workers=workers, what="testing", quiet=True))


def test_every_job_is_done_once_in_processes_of_one_thread(work, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    found = _run(range(7), work.square)
    assert sorted((job, result[0]) for job, result in found) == [(n, n * n) for n in range(7)]
    assert len({result[1] for _, result in found}) <= 2
    assert os.getpid() not in {result[1] for _, result in found}
    assert {result[2] for _, result in found} == {"1"}
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert _run([], work.square) == []


def test_no_workers_means_this_process(work, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert _run([3], work.square, workers=0) == [(3, (9, os.getpid(), "7"))]
    with pytest.raises(ConfigError, match=r"workers must be 0 \(this process\) or more, got -1"):
        _run([3], work.square, workers=-1)


def test_errors_come_back_as_they_are(work):
    with pytest.raises(DataError, match=r"^job 2: is not to be had$"):
        _run(range(5), work.refuse)
    with pytest.raises(KeyError) as caught:
        _run([5], work.stumble)
    assert "in stumble" in caught.value.__notes__[0]
    with pytest.raises(TypeError, match="cannot be sent between processes"):
        _run([1], work.unsendable)


def test_a_killed_worker_is_replaced_and_its_job_done_again(work, tmp_path):
    jobs = [str(tmp_path / name) for name in "abc"]
    assert sorted(_run(jobs, work.die_once)) == [(job, job[-1]) for job in jobs]


def test_a_job_that_kills_every_worker_ends_with_one_message(work):
    done = []
    with pytest.raises(
        MnprobeError, match=r"killed by SIGKILL 3 times on the same job, 3.*run the command again to go on"
    ):
        done.extend(run_episodes([1, 2, 3, 4], work.die, workers=1, what="testing", quiet=True))
    assert done == [(1, 1), (2, 2)]


def test_progress_counts_what_was_done_before(capsys):
    list(run_episodes([1, 2], abs, workers=0, what="x", done=3))
    assert "x: 5 to do, 3 of them done before" in capsys.readouterr().err


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_tidy_up_and_end_with_the_process_that_started_them(work, tmp_path, ending):
    folder = tmp_path / "pieces"
    folder.mkdir()
    code = f"""
        import episode_work
        from mnprobe.worlds.parallel import run_episodes
        if __name__ == "__main__":
            list(run_episodes([{str(folder)!r}] * 2, episode_work.slow, workers=2, what="testing", quiet=True))
    """
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(code))
    process = subprocess.Popen([sys.executable, script], stderr=subprocess.DEVNULL)
    pids = _until(lambda: [int(path.stem) for path in folder.iterdir()], lambda found: len(found) == 2)
    process.send_signal(ending)
    process.wait(timeout=120)
    _until(lambda: list(folder.iterdir()), lambda found: not found)
    _until(lambda: [pid for pid in pids if _running(pid)], lambda found: not found)


def _until(look, fits):
    end = time.monotonic() + 180
    while not fits(found := look()):
        assert time.monotonic() < end, found
        time.sleep(0.02)
    return found


def _running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")  # where there is one: a process that nobody waits for stays as a zombie
    return not state.exists() or state.read_text().rsplit(")")[-1].split()[0] != "Z"


@pytest.mark.parametrize(("given", "seed"), [(None, "0"), ("random", "0"), ("0", "0"), ("7", "7")])
def test_texts_are_hashed_alike_in_all_workers(work, monkeypatch, given, seed):
    if given is None:
        monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    else:
        monkeypatch.setenv("PYTHONHASHSEED", given)
    before = os.environ.get("PYTHONHASHSEED")
    found = [result for _, result in run_episodes(["a", "a"], work.hashed, workers=2, what="hashes", quiet=True)]
    assert os.environ.get("PYTHONHASHSEED") == before
    code = "print(repr((hash('a'), list({'maroon', 'green', 'blue', 'navy', 'yellow'}))))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    for number, how, order in found:
        assert repr((number, order)) == done.stdout.strip()
        assert how == {"hash_randomization": int(seed != "0"), "PYTHONHASHSEED": seed}
        assert how == hashing(workers=2)
    assert hashing()["hash_randomization"] == sys.flags.hash_randomization


def test_an_interruption_while_a_worker_is_started_waits_until_it_is(work, monkeypatch, capfd):
    resource_tracker.ensure_running()  # it is started by the same function
    start, started = multiprocessing.util.spawnv_passfds, []

    def interrupted(*arguments):
        started.append(start(*arguments))
        os.kill(os.getpid(), signal.SIGINT)
        return started[-1]

    monkeypatch.setattr(multiprocessing.util, "spawnv_passfds", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(run_episodes([1, 2], work.square, workers=1, what="squares", quiet=True))
    (process,) = started
    with suppress(ChildProcessError):  # it has been waited for
        os.waitpid(process, 0)
    assert "Traceback" not in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_a_worker_that_is_being_started_is_not_interrupted(work, monkeypatch, capfd):
    resource_tracker.ensure_running()
    start = multiprocessing.util.spawnv_passfds

    def interrupted(*arguments):
        process = start(*arguments)
        threading.Timer(0.08, os.kill, (process, signal.SIGINT)).start()  # Ctrl-C reaches the whole group
        return process

    monkeypatch.setattr(multiprocessing.util, "spawnv_passfds", interrupted)
    assert [job for job, _ in run_episodes([1, 2], work.square, workers=1, what="squares", quiet=True)] == [1, 2]
    assert "Traceback" not in capfd.readouterr().err
