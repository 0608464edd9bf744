"""Stages of a study, run and shown: one line each, with bar, time left and result."""

import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import typer

from mnprobe.cli.processes import Commands, Running, last_lines, terminable
from mnprobe.cli.study import Command, Stage
from mnprobe.core.commands import shell_line
from mnprobe.core.progress import time_span

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Estimate", "StageRun", "cost_of", "run_stages"]

_GO_ON = "What was finished is kept: run the same command again to go on"
_REFUSED = 2  # exit code of bad input and too few samples
_GLANCE = 0.5  # seconds between two looks at the running commands
_MINUTE = 60.0  # seconds between two lines about a running stage, where nobody watches
_TRUST = 10.0  # seconds of expected time that the table of costs is worth against what was measured
_KEPT = 0.2  # share of its expected time under which a stage tells nothing of speed: it was kept from before

_COSTS: tuple[tuple[str, str, float, tuple[str, ...], float], ...] = (
    ("demos", "", 110, ("--train", "--val", "--test"), 50),
    ("train", "", 225, ("--updates",), 900),
    ("rollout", "--step", 40, ("--episodes",), 12),
    ("rollout", "", 200, ("--episodes",), 12),
    ("extract", "--also-blank", 250, (), 1),
    ("extract", "pixels", 15, (), 1),
    ("extract", "", 70, (), 1),
    ("recognize", "", 35, (), 1),
    ("align", "--split", 75, (), 1),
    ("align", "", 100, (), 1),
    ("tsne", "raw", 6, (), 1),
    ("tsne", "", 25, (), 1),
    ("audit", "", 20, (), 1),
    ("compare", "", 15, (), 1),
    ("report", "", 12, (), 1),
)
"""Seconds of each command (with a word among its own) in the quick study on two cores, and the options whose sum
changes it in proportion, with their sum there. From the times of the stages of one run, shared out among the commands
of a stage. Only the proportions matter: what is measured while a study runs corrects the whole."""
_OTHERS = 6.0
_LATE = 0.1  # share of the time so far that a command is expected to need yet, when it takes longer than expected
_ONE_BAR = ("demos", "train", "align")  # their one bar is the whole command; others have a bar per checkpoint or store


def cost_of(command: Sequence[str]) -> float:
    """Expected seconds of one command.

    >>> cost_of(["train", "--updates", "450"])
    112.5
    """
    for name, word, seconds, options, usual in _COSTS:
        if name == command[0] and (not word or word in command):
            numbers = [float(command[at + 1]) for at, option in enumerate(command) if option in options]
            return seconds * sum(numbers) / usual if numbers else seconds
    return _OTHERS


@dataclass(kw_only=True)
class StageRun:
    """One stage as it goes.

    `took` and `cpu` are its seconds once it has ended, `left_out` the commands that were left out.
    """

    number: int
    stage: Stage
    at_once: int
    began: float = 0.0
    took: float | None = None
    cpu: float = 0.0
    result: str = ""
    left_out: list[Running] = field(default_factory=list)

    @property
    def cost(self) -> float:
        """Expected seconds of the stage."""
        return _packed([cost_of(command) for command in self.stage.commands], self.at_once)

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return time.perf_counter() - self.began


class Estimate:
    """Time left, from the costs of commands, their bars, and what was measured so far."""

    def __init__(self, runs: Sequence[StageRun]) -> None:
        self.runs = runs

    @property
    def speed(self) -> float:
        """Seconds per expected second: 1 at first, then what the stages took that were not kept from before."""
        told = [run for run in self.runs if run.took is not None and run.took > _KEPT * run.cost]
        spent = sum(run.took for run in told if run.took is not None)
        return (_TRUST + spent) / (_TRUST + sum(run.cost for run in told))

    def left(self, run: StageRun, running: Sequence[Running], waiting: Sequence[Command]) -> float:
        """Seconds left of a running stage."""
        times = [self._left_of(command) for command in running]
        return _packed([*times, *(self.speed * cost_of(command) for command in waiting)], run.at_once)

    def after(self, run: StageRun) -> float:
        """Seconds of all stages after this one."""
        return self.speed * sum(other.cost for other in self.runs if other.number > run.number)

    def _left_of(self, command: Running) -> float:
        expected = max(self.speed * cost_of(command.words) - command.elapsed, _LATE * command.elapsed)
        state = command.state
        left = None if state is None else state.left(time.time())
        if left is None:
            return expected
        return left if command.words[0] in _ONE_BAR and left > 0 else max(left, expected)


def run_stages(
    stages: Sequence[Stage],
    *,
    logs: Path,
    at_once: int,
    optional: Callable[[Sequence[str]], bool],
    result: Callable[[Sequence[Command]], str],
) -> None:
    """Run all stages in order, each with its time; show them on a terminal as a table, elsewhere line by line.

    The commands are processes whose output goes to `logs`. When one fails the others are interrupted, its last lines
    are shown, and this process exits with its exit code; exit code 2 of an optional command leaves it out. SIGTERM
    ends the commands as Ctrl-C does. Finished work is kept in each case.

    Args:
        stages: the stages, with their commands.
        logs: folder of the logs: one a command, and demo.log with the lines of the stages.
        at_once: number of parallel commands.
        optional: whether a command may fail for too few samples.
        result: what a stage gave, in a few words, from the files of the run.
    """
    runs = [StageRun(number=number, stage=stage, at_once=at_once) for number, stage in enumerate(stages, start=1)]
    start = time.perf_counter()
    with terminable(_GO_ON), Commands(logs) as commands, _display(Estimate(runs), logs, start) as display:
        for run in runs:
            run.began, used = time.perf_counter(), sum(os.times()[:4])
            _run(run, commands, display, optional)
            run.took = run.elapsed
            run.cpu += sum(os.times()[:4]) - used
            left_out = [command.words for command in run.left_out]
            run.result = result([command for command in run.stage.commands if command not in left_out])
            display.end(run)


def _run(run: StageRun, commands: Commands, display: "_Display", optional: Callable[[Sequence[str]], bool]) -> None:
    waiting = deque(run.stage.commands)
    while waiting or commands.running:
        display.show(run, commands.running, waiting)
        while waiting and len(commands.running) < run.at_once:
            commands.start(waiting.popleft())
        for ended in commands.wait(_GLANCE):
            run.cpu += ended.cpu()
            if ended.code == _REFUSED and optional(ended.words):
                run.left_out.append(ended)
            elif ended.code:
                display.close()
                _tell_failure(run, len(display.estimate.runs), ended)
                raise SystemExit(ended.code if ended.code > 0 else 128 - ended.code)


def _tell_failure(run: StageRun, count: int, failed: Running) -> None:
    assert failed.code is not None
    how = f"failed with exit code {failed.code}"
    if failed.code < 0:
        how = f"was ended by {signal.Signals(-failed.code).name}"
    where = f"stage {run.number} of {count} ({run.stage.title})"
    typer.echo(f"{where}: `{shell_line(failed.words)}` {how}. Its last lines:", err=True)
    for line in last_lines(failed.log):
        typer.echo(f"    {line}", err=True)
    typer.echo(f"all of them: {failed.log}", err=True)
    typer.echo(_GO_ON, err=True)


class _Display(Protocol):
    estimate: Estimate

    def show(self, run: StageRun, running: Sequence[Running], waiting: Sequence[Command]) -> None: ...

    def end(self, run: StageRun) -> None: ...

    def close(self) -> None: ...


@contextmanager
def _display(estimate: Estimate, logs: Path, start: float) -> "Iterator[_Display]":
    display: _Lines | _Live = _Lines(estimate, logs, start)
    if sys.stdout is not None and sys.stdout.isatty():
        from rich.console import Console

        console = Console(file=sys.stdout, highlight=False)
        if console.is_terminal and not console.is_dumb_terminal:
            display = _Live(estimate, logs, start)
    try:
        yield display
    finally:
        display.close()


def _line(run: StageRun, estimate: Estimate, start: float) -> str:
    """What a finished stage took and gave, for logs."""
    count = len(estimate.runs)
    rest = f"; about {time_span(estimate.after(run))} left" if run.number < count else ""
    found = f"; {run.result}" if run.result else ""
    out = "".join(f"; {command.words[0]} left out, see {command.log}" for command in run.left_out)
    return (
        f"stage {run.number} of {count} ({run.stage.title}): {run.took:.1f} s by the clock, {run.cpu:.1f} CPU-s; "
        f"{time.perf_counter() - start:.0f} s since the start{rest}{found}{out}"
    )


class _Lines:
    """One line per stage and minute, for files; each is also written to demo.log."""

    def __init__(self, estimate: Estimate, logs: Path, start: float) -> None:
        self.estimate = estimate
        self._start = start
        self._log = logs / "demo.log"
        self._told = time.monotonic()

    def show(self, run: StageRun, running: Sequence[Running], waiting: Sequence[Command]) -> None:
        if time.monotonic() - self._told < _MINUTE:
            return
        left = self.estimate.left(run, running, waiting)
        self._write(
            f"stage {run.number} of {len(self.estimate.runs)} ({run.stage.title}): "
            f"{100 * _share(run.elapsed, left):.0f} %, about {time_span(left)} left; of the whole "
            f"{time_span(left + self.estimate.after(run))}"
        )

    def end(self, run: StageRun) -> None:
        self._write(_line(run, self.estimate, self._start))

    def close(self) -> None:
        """Nothing is open."""

    def _write(self, text: str) -> None:
        self._told = time.monotonic()
        typer.echo(text)
        if sys.stdout is not None:
            sys.stdout.flush()
        _note(self._log, text)


class _Live:
    """A table on the terminal: a line per stage, the last one live, and below it the whole."""

    def __init__(self, estimate: Estimate, logs: Path, start: float) -> None:
        from rich.console import Console
        from rich.live import Live

        self.estimate = estimate
        self._start = start
        self._log = logs / "demo.log"
        self._live = Live(console=Console(file=sys.stdout, highlight=False), auto_refresh=False, transient=True)
        self._live.start()

    def show(self, run: StageRun, running: Sequence[Running], waiting: Sequence[Command]) -> None:
        from rich.console import Group

        left = self.estimate.left(run, running, waiting)
        whole = left + self.estimate.after(run)
        states = [command.state for command in running]
        counts = [
            f"{one.what} {int(one.done)}/{one.total}" for one in states if one is not None and one.done < one.total
        ]
        share = _share(run.elapsed, left)
        now = self._row(f"{self._number(run)}", run.stage.title, share, f"{time_span(left)} left", "; ".join(counts))
        share = _share(time.perf_counter() - self._start, whole)
        last = self._row("", "all stages", share, f"{time_span(whole)} left", f"output: {self._log.parent}")
        self._live.update(Group(now, last), refresh=True)

    def end(self, run: StageRun) -> None:
        out = ", ".join(f"{command.words[0]} left out" for command in run.left_out)
        found = "; ".join(filter(None, (run.result, out)))
        self._clear()
        self._live.console.print(self._row(self._number(run), run.stage.title, 1.0, time_span(run.took or 0.0), found))
        _note(self._log, _line(run, self.estimate, self._start))

    def close(self) -> None:
        if self._live.is_started:
            self._clear()
            self._live.stop()

    def _clear(self) -> None:
        from rich.console import Group

        self._live.update(Group(), refresh=True)

    def _number(self, run: StageRun) -> str:
        return f"{run.number}/{len(self.estimate.runs)}"

    def _row(self, number: str, what: str, share: float, when: str, told: str) -> "Table":
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(width=len(self._number(self.estimate.runs[-1])), justify="right", no_wrap=True)
        titles = max(len(run.stage.title) for run in self.estimate.runs)
        table.add_column(width=max(titles, len("all stages")), no_wrap=True, overflow="ellipsis")
        table.add_column(width=10)
        table.add_column(width=len("2 h 05 min left"), no_wrap=True)
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        table.add_row(number, Text(what), ProgressBar(total=1.0, completed=share, width=10), when, Text(told))
        return table


def _note(log: Path, text: str) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")


def _packed(seconds: Sequence[float], at_once: int) -> float:
    """Seconds of commands of which some run at once."""
    return max(*seconds, sum(seconds) / min(at_once, len(seconds))) if len(seconds) > 1 else sum(seconds)


def _share(elapsed: float, left: float) -> float:
    return elapsed / (elapsed + left) if elapsed + left > 0 else 0.0
