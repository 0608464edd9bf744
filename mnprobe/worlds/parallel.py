"""Parallel episodes: worker processes of one thread that may be killed."""

import os
import signal
import sys
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from mnprobe.core.environment import usable_cpus, with_variables
from mnprobe.core.errors import ConfigError, MnprobeError
from mnprobe.core.progress import progress

__all__ = ["default_workers", "hashing", "run_episodes"]

Job = TypeVar("Job")
Result = TypeVar("Result")

_ATTEMPTS = 3  # processes that may die on one job
_PATIENCE = 5.0  # seconds a worker has for tidying up
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_HASH_SEED = "PYTHONHASHSEED"


def default_workers() -> int:
    """Processors this process may use."""
    return usable_cpus()


def hashing(workers: int = 0) -> dict[str, Any]:
    """How Python hashes texts in this process, or in the worker processes of `run_episodes` where `workers` is not 0.

    The order of a set of texts follows from it, and with that order whatever a world makes of it (RLBench's
    push_buttons). Workers have the number that PYTHONHASHSEED gives this process, or else 0.

    Returns:
        "hash_randomization": as in `sys.flags`, 0 or 1; "PYTHONHASHSEED": the variable's value, "" where there is none.

    >>> hashing(workers=2)["PYTHONHASHSEED"].isdecimal()
    True
    """
    flag = sys.flags.hash_randomization
    if sys.flags.ignore_environment:
        return {"hash_randomization": flag, _HASH_SEED: ""}
    if workers:
        seed = _worker_hash_seed()
        return {"hash_randomization": int(seed != "0"), _HASH_SEED: seed}
    return {"hash_randomization": flag, _HASH_SEED: os.environ.get(_HASH_SEED, "")}


def _worker_hash_seed() -> str:
    given = os.environ.get(_HASH_SEED, "")
    return str(int(given)) if given.isascii() and given.isdecimal() else "0"


def run_episodes(
    jobs: Sequence[Job],
    work: Callable[[Job], Result],
    *,
    workers: int,
    what: str,
    quiet: bool = False,
    done: int = 0,
) -> Iterator[tuple[Job, Result]]:
    """Do `work(job)` for every job in worker processes, with progress; yield each job with its result when it is done.

    Workers are fresh processes (spawned), so `work` is a function that can be imported, or a `functools.partial` of
    one; what it needs for all jobs (a world, a policy) it best keeps in a module-level cache. Numerical libraries get
    one thread per worker, and Python hashes texts alike in all of them (`hashing`): results then do not depend on
    how many workers there are. Interrupting the command ends the
    workers; they also end when the process that started them is killed. A worker that is killed is replaced and its
    job done again, so `work` must leave either a whole piece or none.

    Args:
        jobs: the jobs, started in this order.
        work: turns a job into a result; both travel between processes.
        workers: processes; 0 does everything in this process (with its own number of threads).
        what: two or three words for the progress bar.
        quiet: show no progress.
        done: jobs that were finished before, for the bar only.

    Yields:
        (job, result) in the order in which they are finished.

    Raises:
        ConfigError: for a negative number of workers.
        MnprobeError: when workers die on one job again and again; finished jobs stay finished.
        Any exception of `work`; no further jobs are started then.

    >>> [result for _, result in run_episodes([1, 4, 9], abs, workers=0, what="counting", quiet=True)]
    [1, 4, 9]
    """
    if workers < 0:
        raise ConfigError(f"workers must be 0 (this process) or more, got {workers}")
    with progress(what, len(jobs) + done, done=done, quiet=quiet) as advance:
        finished = _in_processes(jobs, work, workers) if workers else ((job, work(job)) for job in jobs)
        for pair in finished:
            advance()
            yield pair


def _in_processes(jobs: Sequence[Job], work: Callable[[Job], Result], workers: int) -> Iterator[tuple[Job, Result]]:
    waiting = deque(range(len(jobs)))
    deaths: Counter[int] = Counter()
    crew: list[_Worker[Job, Result]] = []
    try:
        while waiting or any(worker.job is not None for worker in crew):
            crew = [worker for worker in crew if worker.alive]
            for _ in range(min(workers - len(crew), len(waiting))):
                with _interruption_deferred():
                    crew.append(_Worker(work))
            for worker in crew:
                if worker.job is None and waiting:
                    worker.give(waiting.popleft(), jobs)
            busy = {worker.pipe: worker for worker in crew if worker.job is not None}
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]  # wait() returns its arguments
                index = worker.job
                assert index is not None  # only busy workers are waited for
                answer = worker.take()
                if answer is None:
                    deaths[index] += 1
                    if deaths[index] == _ATTEMPTS:
                        raise MnprobeError(_died(worker.ended(), jobs[index]))
                    waiting.appendleft(index)
                    continue
                yield jobs[index], _result(answer)
        for worker in crew:
            worker.dismiss()
    finally:
        for worker in crew:
            worker.stop()


class _Worker(Generic[Job, Result]):
    """One process and the job it is at."""

    def __init__(self, work: Callable[[Job], Result]) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(work, theirs), daemon=True)
        self.job: int | None = None
        self.alive = True
        with with_variables(**(dict.fromkeys(_ONE_THREAD, "1") | {_HASH_SEED: _worker_hash_seed()})):
            self.process.start()
        theirs.close()  # so that its end is noticed here

    def give(self, index: int, jobs: Sequence[Job]) -> None:
        self.job = index
        with suppress(OSError):  # it is dead; `take` will say so
            self.pipe.send(jobs[index])

    def take(self) -> tuple[bool, Any] | None:
        """(whether it went well, result or error), or None when the process died."""
        self.job = None
        try:
            answer: tuple[bool, Any] = self.pipe.recv()
        except (EOFError, OSError):
            self.alive = False
            return None
        return answer

    def ended(self) -> str:
        self.process.join(_PATIENCE)
        code = self.process.exitcode
        if code is not None and code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with code {code}"

    def dismiss(self) -> None:
        """Let it end: there are no more jobs."""
        self.pipe.close()
        self.process.join(_PATIENCE)

    def stop(self) -> None:
        """End it, whatever it is doing; it tidies up first."""
        if self.process.is_alive():
            self.process.terminate()
            self.process.join(_PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()


@contextmanager
def _interruption_deferred() -> Iterator[None]:
    """Handle SIGINT and SIGTERM after the block, in which a process is started.

    An interruption half-way would leave that process without its work, and it would print a traceback. It begins
    with SIGINT blocked, for the time before it can ignore it.
    """
    if threading.current_thread() is not threading.main_thread():  # where signals are not handled
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # otherwise started in the block, where it would unblock SIGINT
    held: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: held.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT]) if hasattr(signal, "pthread_sigmask") else None
    try:
        yield
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


def _died(how: str, job: object) -> str:
    return (
        f"a worker process {how} {_ATTEMPTS} times on the same job, {job!r}. If memory ran out, give fewer --workers. "
        "What is finished is kept: run the command again to go on"
    )


def _result(answer: tuple[bool, Any]) -> Any:
    fine, value = answer
    if fine:
        return value
    error, trace = value
    if not isinstance(error, MnprobeError | OSError):
        error.add_note(f"in a worker process:\n{trace}")
    raise error


def _serve(work: Callable[[Any], Any], pipe: Connection) -> None:
    """Main loop of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the starter decides
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])  # blocked while this process was started
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that unfinished pieces are removed on the way out
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        try:
            answer: tuple[bool, Any] = True, work(job)
        except Exception as error:  # any exception is raised in the calling process
            answer = False, (error, traceback.format_exc())
        try:
            pipe.send(answer)
        except OSError:
            return
        except Exception as error:  # objects that cannot be pickled
            pipe.send((False, (TypeError(f"{answer[1]!r} cannot be sent between processes: {error}"), "")))


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(_PATIENCE)
        os._exit(1)
