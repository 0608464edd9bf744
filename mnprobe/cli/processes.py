"""Commands run by a command: each in a process of its own, with its own log."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from mnprobe.cli.starter import PATIENCE
from mnprobe.core.commands import shell_line
from mnprobe.core.errors import MnprobeError
from mnprobe.core.progress import PROGRESS_FILE, ProgressState
from mnprobe.core.provenance import config_hash

__all__ = ["Commands", "Running", "last_lines"]

_TOLD = 30  # number of last lines shown of a failed command
_FEW = 3  # as many commands are started one by one; of more, one process imports once for all of them
_FORKS = sys.platform == "linux"  # elsewhere forks of a process with these imports are not safe


@dataclass(kw_only=True)
class Running:
    """One command; `code` is its exit code once it has ended, negative where a signal ended it.

    `cpu` are its CPU seconds as far as they are not among those of this process's own children.
    """

    words: Sequence[str]
    log: Path
    state_file: Path
    process: subprocess.Popen[bytes] | None = None
    code: int | None = None
    cpu: float = 0.0
    began: float = field(default_factory=time.monotonic)

    @property
    def state(self) -> ProgressState | None:
        """What its bar says; None before it has one."""
        return ProgressState.read(self.state_file)

    @property
    def elapsed(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.began


class Commands:
    """Starts commands of mnprobe, whose whole output goes to `logs`, one file each; used as a context.

    Those that run when the context is left are interrupted, which preserves their finished work.

    Args:
        logs: folder of the logs, created if needed.
        planned: number of commands to come; one process imports for all where they are many and the system allows it.
    """

    def __init__(self, logs: Path, *, planned: int) -> None:
        self.logs = logs
        self.running: list[Running] = []
        self._many = _FORKS and planned > _FEW
        self._starter: subprocess.Popen[bytes] | None = None
        self._asked: dict[int, Running] = {}
        self._heard = b""

    def __enter__(self) -> "Commands":
        self.logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._starter is not None:
            assert self._starter.stdin is not None
            assert self._starter.stdout is not None
            self._starter.stdin.close()  # which interrupts what runs
            self._starter.wait()
            self._starter.stdout.close()
        alone = [one.process for one in self.running if one.process is not None]
        for process in alone:
            process.send_signal(signal.SIGINT if os.name == "posix" else signal.SIGTERM)
        for process in alone:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for one in self.running:
            one.state_file.unlink(missing_ok=True)

    def start(self, words: Sequence[str]) -> Running:
        """Start one command; its log begins with the command line."""
        stem = f"{words[0]}-{config_hash({'command': list(words)})}"
        one = Running(words=words, log=self.logs / f"{stem}.log", state_file=self.logs / f".{stem}.progress")
        one.state_file.unlink(missing_ok=True)
        one.log.write_text(f"$ {shell_line(words)}\n", encoding="utf-8", errors="backslashreplace")
        environment = {PROGRESS_FILE: str(one.state_file.resolve())}
        if self._many:
            self._ask(one, environment)
        else:
            with one.log.open("ab") as log:
                one.process = subprocess.Popen(
                    [sys.executable, "-m", "mnprobe", *words],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=os.environ | environment,
                    start_new_session=True,
                )
        self.running.append(one)
        return one

    def wait(self, seconds: float) -> list[Running]:
        """Wait at most this long; return the commands that have ended meanwhile."""
        if self._starter is not None:
            self._listen(seconds)
        else:
            end = time.monotonic() + seconds
            while not any(self._ended(one) for one in self.running) and time.monotonic() < end:
                time.sleep(min(0.05, seconds))
        ended = [one for one in self.running if self._ended(one)]
        for one in ended:
            self.running.remove(one)
            one.state_file.unlink(missing_ok=True)
        return ended

    @staticmethod
    def _ended(one: Running) -> bool:
        if one.process is not None:
            one.code = one.process.poll()
        return one.code is not None

    def _ask(self, one: Running, environment: dict[str, str]) -> None:
        if self._starter is None:
            call = [sys.executable, "-m", "mnprobe.cli.starter"]
            self._starter = subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        number = len(self._asked)
        self._asked[number] = one
        request = {"id": number, "words": list(one.words), "log": str(one.log), "environment": environment}
        try:
            os.write(self._starter.stdin.fileno(), json.dumps(request).encode() + b"\n")  # type: ignore[union-attr]
        except BrokenPipeError:
            raise self._starter_ended() from None

    def _listen(self, seconds: float) -> None:
        pipe = self._starter.stdout.fileno()  # type: ignore[union-attr]  # called once it is there
        if not select.select([pipe], [], [], seconds)[0]:
            return
        piece = os.read(pipe, 1 << 16)
        if not piece:
            raise self._starter_ended()
        *lines, self._heard = (self._heard + piece).split(b"\n")
        for line in lines:
            answer = json.loads(line)
            one = self._asked[answer["id"]]
            one.code, one.cpu = answer["code"], answer["cpu"]

    def _starter_ended(self) -> MnprobeError:
        return MnprobeError("the process that starts the commands has ended. Run the same command again to go on")


def last_lines(log: Path) -> list[str]:
    """The last lines of a log, without its first line, the command."""
    return log.read_text(encoding="utf-8", errors="replace").splitlines()[1:][-_TOLD:]
