"""Commands run by a command: each in a process of its own, with its own log."""

import atexit
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mnprobe.core.commands import shell_line
from mnprobe.core.progress import PROGRESS_FILE, ProgressState
from mnprobe.core.provenance import config_hash

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

__all__ = ["Commands", "Running", "last_lines", "terminable"]

_PATIENCE = 60.0  # seconds between the interruption of a command, which tidies up, and its end by force
_LAST = 30  # number of last lines shown of a failed command

_FORKS = sys.platform == "linux"  # elsewhere forks of a process with these imports are not safe
_PRELOADED = (
    *("torch", "pandas", "scipy.stats", "matplotlib.figure", "h5py", "mnprobe.cli.main", "mnprobe.cli.processes"),
    *("mnprobe.training.trainer", "mnprobe.worlds.rollout", "mnprobe.features.recognition.evaluate"),
    *("mnprobe.probe.alignment", "mnprobe.analysis.report"),
)
"""Modules that one process imports for all commands, which are forks of it: four CPU seconds each otherwise.

That process only imports and forks. It never computes, so that no thread and no device is open where it forks.
"""


@dataclass(kw_only=True)
class Running:
    """One command that was started; `began` is the time of `time.monotonic`."""

    words: Sequence[str]
    log: Path
    state_file: Path
    process: multiprocessing.process.BaseProcess
    times: Connection
    began: float = field(default_factory=time.monotonic)

    @property
    def code(self) -> int | None:
        """Exit code once it has ended, negative where a signal ended it."""
        return self.process.exitcode

    @property
    def state(self) -> ProgressState | None:
        """State of its bar; None before it has one."""
        return ProgressState.read(self.state_file)

    @property
    def elapsed(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.began

    def cpu(self) -> float:
        """CPU seconds of a command that has ended; 0 where it was killed."""
        try:
            return float(self.times.recv()) if self.times.poll() else 0.0
        except EOFError:
            return 0.0

    def kill(self) -> None:
        """End it by force, with all processes that it started."""
        self.process.kill()
        if hasattr(os, "killpg") and self.process.pid:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)


class Commands:
    """Starts commands of mnprobe, whose whole output goes to `logs`, one file each; used as a context.

    Those that run when the context is left are interrupted, which preserves their finished work. They also end when
    this process is killed.
    """

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.running: list[Running] = []
        self._context: ForkServerContext | SpawnContext
        self._context = multiprocessing.get_context("forkserver") if _FORKS else multiprocessing.get_context("spawn")

    def __enter__(self) -> "Commands":
        self.logs.mkdir(parents=True, exist_ok=True)
        if _FORKS:
            from multiprocessing import forkserver

            self._context.set_forkserver_preload(list(_PRELOADED))
            with _without_interruption():  # inherited: it would print where it was when Ctrl-C came
                forkserver.ensure_running()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end = time.monotonic() + _PATIENCE
        try:
            for command in self.running:
                command.process.terminate()
            for command in self.running:
                command.process.join(max(0.0, end - time.monotonic()))
        finally:  # also when interrupted for the second time
            for command in self.running:
                command.kill()
                _remove(command.state_file)

    def start(self, words: Sequence[str]) -> Running:
        """Start one command; its log begins with the command line."""
        stem = f"{words[0]}-{config_hash({'command': list(words)})}"
        log, state_file = self.logs / f"{stem}.log", self.logs / f".{stem}.progress"
        _remove(state_file)
        log.write_text(f"$ {shell_line(words)}\n", encoding="utf-8", errors="backslashreplace")
        environment = dict(os.environ) | {PROGRESS_FILE: str(state_file.resolve())}
        times, end_of_times = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_carry_out, args=(list(words), log.resolve(), environment, end_of_times))
        process.start()
        end_of_times.close()
        command = Running(words=words, log=log, state_file=state_file, process=process, times=times)
        self.running.append(command)
        return command

    def wait(self, seconds: float) -> list[Running]:
        """Wait at most this long for the end of a command; return those that have ended."""
        wait([command.process.sentinel for command in self.running], timeout=seconds)
        ended = [command for command in self.running if command.code is not None]
        for command in ended:
            self.running.remove(command)
            _remove(command.state_file)
        return ended


def last_lines(log: Path) -> list[str]:
    """The last lines of a log, without its first line, the command."""
    return log.read_text(encoding="utf-8", errors="replace").splitlines()[1:][-_LAST:]


@contextmanager
def terminable(message: str) -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise SystemExit, after `message`, so that commands are interrupted on the way out."""

    def end(number: int, frame: Any) -> None:
        with suppress(OSError, AttributeError):  # the terminal may be gone, or never have been there
            sys.stderr.write(f"mnprobe: {signal.Signals(number).name}: {message}\n")
        raise SystemExit(128 + number)

    signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    try:
        before = {number: signal.signal(number, end) for number in signals}
    except ValueError:  # in a thread: there they cannot be handled
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _without_interruption() -> Iterator[None]:
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # in a thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _remove(state_file: Path) -> None:
    """Remove the state of a bar, and one that was being written when its command was killed."""
    for path in state_file.parent.glob(f"{state_file.name}*"):
        path.unlink(missing_ok=True)


def _carry_out(words: list[str], log: Path, environment: Mapping[str, str], times: Connection) -> None:
    """Be the command: with its own log, environment, and process group."""
    from mnprobe.cli.main import main

    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C in the terminal reaches the starter alone, which interrupts this process
    with log.open("ab", buffering=0) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stdout
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["mnprobe", *words]
    threading.Thread(target=_end_with_starter, daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        main(words)
    finally:  # as at the end of any interpreter, which multiprocessing leaves out or does in another order
        threading._shutdown()  # type: ignore[attr-defined]  # workers of joblib end here, or after five minutes
        atexit._run_exitfuncs()
        sys.stdout.flush()
        with suppress(OSError):
            times.send(sum(os.times()[:4]))


def _end_with_starter() -> None:
    """Interrupt this process when the one that started it has ended."""
    starter = multiprocessing.parent_process()
    if starter is not None:
        starter.join()
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(_PATIENCE)
        os._exit(1)
