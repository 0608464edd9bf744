"""Process that starts commands as forks of itself, with all imports done once.

A command of its own costs four CPU seconds of imports before it does anything; a fork costs none. This process only
imports and forks: it never computes, so that no thread and no device is open where it forks. Requests come on standard
input, one JSON line each; the end of a command is answered on standard output. When standard input ends, also because
whoever asked was killed, all commands are interrupted.
"""

import importlib
import json
import os
import select
import signal
import sys
import time
import warnings
from contextlib import suppress
from typing import Any

__all__ = ["PATIENCE"]

PATIENCE = 60.0  # seconds between the interruption of a command, which tidies up, and its end by force
_POLL = 0.05  # seconds between two looks at the running commands

_NEEDED = (
    *("torch", "pandas", "scipy.stats", "matplotlib.figure", "h5py", "mnprobe.cli.main"),
    *("mnprobe.training.trainer", "mnprobe.worlds.rollout", "mnprobe.features.recognition.evaluate"),
    *("mnprobe.probe.alignment", "mnprobe.analysis.report"),
)


def _serve() -> dict[str, Any] | None:
    """Answer requests until there are no more; in a fork, return the request that it is to carry out."""
    warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork")  # beside pandas' idle thread
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; whoever asked decides
    for name in _NEEDED:
        importlib.import_module(name)
    running: dict[int, int] = {}
    begun = b""
    while True:
        if select.select([0], [], [], _POLL if running else None)[0]:
            piece = os.read(0, 1 << 16)
            if not piece:
                _stop(running)
                return None
            *lines, begun = (begun + piece).split(b"\n")
            for line in lines:
                request: dict[str, Any] = json.loads(line)
                with warnings.catch_warnings():
                    warnings.simplefilter(
                        "ignore", DeprecationWarning
                    )  # of forks beside threads: pandas has an idle one
                    process = os.fork()
                if process == 0:
                    return request
                running[process] = request["id"]
        _answer(running)


def _answer(running: dict[int, int]) -> None:
    for process in list(running):
        ended, status, usage = os.wait4(process, os.WNOHANG)
        if ended:
            used = usage.ru_utime + usage.ru_stime
            answer = {"id": running.pop(process), "code": os.waitstatus_to_exitcode(status), "cpu": used}
            with suppress(BrokenPipeError):
                os.write(1, json.dumps(answer).encode() + b"\n")


def _stop(running: dict[int, int]) -> None:
    for process in running:
        os.kill(process, signal.SIGINT)
    end = time.monotonic() + PATIENCE
    while running and time.monotonic() < end:
        _answer(running)
        time.sleep(_POLL)
    for process in running:
        os.kill(process, signal.SIGKILL)


def _carry_out(request: dict[str, Any]) -> None:
    """Be the command: with its own log, session and environment."""
    from mnprobe.cli.main import main

    os.setsid()  # the terminal's Ctrl-C goes to whoever asked, who interrupts this process once
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(log)
    os.environ.update(request["environment"])
    sys.argv = ["mnprobe", *request["words"]]
    main(request["words"])


if __name__ == "__main__":
    asked = _serve()
    if asked is not None:
        _carry_out(asked)
