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
from typing import TYPE_CHECKING, Any, Protocol

import typer

from mnprobe.cli.processes import Commands, Running, last_lines
from mnprobe.core.commands import shell_line
from mnprobe.core.progress import time_span

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Estimate", "Stage", "cost_of", "run_stages"]

Command = list[str]

_REFUSED = 2  # exit code of bad input and too few samples
_GLANCE = 0.5  # seconds between two looks at the running commands
_MINUTE = 60.0  # seconds between two lines about a running stage, where nobody watches
_TRUST = 10.0  # seconds of expected time that the table of costs is worth against what was measured
_KEPT = 0.2  # share of its expected time under which a stage tells nothing of speed: it was kept from before

_COSTS: dict[str, tuple[float, tuple[str, ...], float]] = {
    "demos": (40, ("--train", "--val", "--test"), 50),
    "train": (330, ("--updates",), 900),
    "rollout": (55, ("--episodes",), 12),
    "extract": (45, (), 1),
    "recognize": (12, (), 1),
    "align": (60, (), 1),
    "tsne": (25, (), 1),
    "audit": (20, (), 1),
    "compare": (15, (), 1),
    "report": (12, (), 1),
}
"""Seconds of each command in the quick study on two cores, and the options whose sum changes it in proportion.

Only the proportions matter: what is measured corrects the whole."""
_OTHERS = 6.0
_LATE = 0.1  # share of the time so far that a command is expected to need yet, when it takes longer than expected
_ONE_BAR = ("demos", "train", "align")  # their one bar is the whole command; others have a bar per checkpoint or store


def cost_of(command: Sequence[str]) -> float:
    """Expected seconds of one command.

    >>> cost_of(["train", "--updates", "450"])
    165.0
    """
    seconds, options, usual = _COSTS.get(command[0], (_OTHERS, (), 1))
    numbers = [float(command[at + 1]) for at, word in enumerate(command) if word in options]
    return seconds * sum(numbers) / usual if numbers else float(seconds)


@dataclass(kw_only=True)
class Stage:
    """One stage as it goes.

    `took` and `cpu` are its seconds once it has ended, `left_out` the commands that were left out.
    """

    number: int
    commands: list[Command]
    at_once: int
    began: float = 0.0
    took: float | None = None
    cpu: float = 0.0
    result: str = ""
    left_out: list[Running] = field(default_factory=list)

    @property
    def what(self) -> str:
        """Names of its commands."""
        return ", ".join(dict.fromkeys(command[0] for command in self.commands))

    @property
    def cost(self) -> float:
        """Expected seconds of the stage."""
        return _packed([cost_of(command) for command in self.commands], self.at_once)


class Estimate:
    """Time left, from the costs of commands, their bars, and what was measured so far."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = stages

    @property
    def speed(self) -> float:
        """Seconds per expected second: 1 at first, then what the stages took that were not kept from before."""
        told = [one for one in self.stages if one.took is not None and one.took > _KEPT * one.cost]
        spent = sum(one.took for one in told if one.took is not None)
        return (_TRUST + spent) / (_TRUST + sum(one.cost for one in told))

    def left(self, stage: Stage, running: Sequence[Running], waiting: Sequence[Command]) -> float:
        """Seconds left of a running stage."""
        times = [self._left_of(one) for one in running]
        return _packed([*times, *(self.speed * cost_of(command) for command in waiting)], stage.at_once)

    def after(self, stage: Stage) -> float:
        """Seconds of all stages after this one."""
        return self.speed * sum(one.cost for one in self.stages if one.number > stage.number)

    def _left_of(self, one: Running) -> float:
        expected = max(self.speed * cost_of(one.words) - one.elapsed, _LATE * one.elapsed)
        state = one.state
        left = None if state is None else state.left(time.time())
        if left is None:
            return expected
        return left if one.words[0] in _ONE_BAR and left > 0 else max(left, expected)


def run_stages(
    stages: Sequence[Sequence[Command]],
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
        stages: commands of each stage.
        logs: folder of the logs: one a command, and demo.log with the lines of the stages.
        at_once: number of parallel commands.
        optional: whether a command may fail for too few samples.
        result: what a stage gave, in a few words, from the files of the run.
    """
    plan = [Stage(number=number, commands=list(one), at_once=at_once) for number, one in enumerate(stages, start=1)]
    start = time.perf_counter()
    count = sum(len(one.commands) for one in plan)
    with _terminable(), Commands(logs, planned=count) as commands, _display(Estimate(plan), logs) as display:
        for stage in plan:
            stage.began, used = time.perf_counter(), sum(os.times()[:4])
            _run(stage, commands, display, optional)
            stage.took = time.perf_counter() - stage.began
            stage.cpu += sum(os.times()[:4]) - used
            stage.result = result([one for one in stage.commands if one not in [out.words for out in stage.left_out]])
            display.end(stage, time.perf_counter() - start)


def _run(stage: Stage, commands: Commands, display: "_Display", optional: Callable[[Sequence[str]], bool]) -> None:
    waiting = deque(stage.commands)
    while waiting or commands.running:
        while waiting and len(commands.running) < stage.at_once:
            commands.start(waiting.popleft())
        display.show(stage, commands.running, waiting)
        for ended in commands.wait(_GLANCE):
            stage.cpu += ended.cpu
            if ended.code == _REFUSED and optional(ended.words):
                stage.left_out.append(ended)
            elif ended.code:
                display.close()
                _tell_failure(stage, len(display.estimate.stages), ended)
                raise SystemExit(ended.code)


def _tell_failure(stage: Stage, count: int, failed: Running) -> None:
    assert failed.code is not None
    how = f"failed with exit code {failed.code}"
    if failed.code < 0:
        how = f"was ended by {signal.Signals(-failed.code).name}"
    typer.echo(f"stage {stage.number} of {count}: `{shell_line(failed.words)}` {how}. Its last lines:", err=True)
    for line in last_lines(failed.log):
        typer.echo(f"    {line}", err=True)
    typer.echo(f"all of them: {failed.log}", err=True)
    typer.echo("What was finished is kept: run the same command again to go on", err=True)


@contextmanager
def _terminable() -> Iterator[None]:
    """End by SIGTERM and SIGHUP as by an exception, so that the commands are interrupted on the way out."""

    def end(number: int, frame: Any) -> None:
        name = signal.Signals(number).name
        typer.echo(f"mnprobe: {name}. What was finished is kept: run the same command again to go on", err=True)
        raise SystemExit(128 + number)

    signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    try:
        before = {one: signal.signal(one, end) for one in signals}
    except ValueError:  # in a thread: there they cannot be handled
        before = {}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


class _Display(Protocol):
    estimate: Estimate

    def show(self, stage: Stage, running: Sequence[Running], waiting: Sequence[Command]) -> None: ...

    def end(self, stage: Stage, since: float) -> None: ...

    def close(self) -> None: ...


@contextmanager
def _display(estimate: Estimate, logs: Path) -> "Iterator[_Display]":
    display: _Lines | _Live
    display = _Lines(estimate, logs)
    if sys.stdout is not None and sys.stdout.isatty():
        from rich.console import Console

        console = Console(file=sys.stdout, highlight=False)
        if console.is_terminal and not console.is_dumb_terminal:
            display = _Live(estimate, logs)
    try:
        yield display
    finally:
        display.close()


def _line(stage: Stage, estimate: Estimate, since: float) -> str:
    """What a finished stage took and gave, for logs."""
    count = len(estimate.stages)
    rest = f"; about {time_span(estimate.after(stage))} left" if stage.number < count else ""
    found = f"; {stage.result}" if stage.result else ""
    out = "".join(f"; {one.words[0]} left out, see {one.log}" for one in stage.left_out)
    return (
        f"stage {stage.number} of {count} ({stage.what}): {stage.took:.1f} s by the clock, {stage.cpu:.1f} CPU-s; "
        f"{since:.0f} s since the start{rest}{found}{out}"
    )


class _Lines:
    """One line per stage and minute, for files; each is also written to demo.log."""

    def __init__(self, estimate: Estimate, logs: Path) -> None:
        self.estimate = estimate
        self._log = logs / "demo.log"
        self._told = time.monotonic()

    def show(self, stage: Stage, running: Sequence[Running], waiting: Sequence[Command]) -> None:
        if time.monotonic() - self._told < _MINUTE:
            return
        left = self.estimate.left(stage, running, waiting)
        elapsed = time.perf_counter() - stage.began
        count, whole = len(self.estimate.stages), left + self.estimate.after(stage)
        self._write(
            f"stage {stage.number} of {count} ({stage.what}): {100 * _share(elapsed, left):.0f} %, "
            f"about {time_span(left)} left; of the whole {time_span(whole)}"
        )

    def end(self, stage: Stage, since: float) -> None:
        self._write(_line(stage, self.estimate, since))

    def close(self) -> None:
        """Nothing is open."""

    def _write(self, text: str) -> None:
        self._told = time.monotonic()
        typer.echo(text)
        if sys.stdout is not None:
            sys.stdout.flush()
        _note(self._log, text)


class _Live:
    """A table on the terminal: a line per stage, the last one live, and below it the time left of the whole."""

    def __init__(self, estimate: Estimate, logs: Path) -> None:
        from rich.console import Console
        from rich.live import Live

        self.estimate = estimate
        self._log = logs / "demo.log"
        self._live = Live(console=Console(file=sys.stdout, highlight=False), auto_refresh=False, transient=True)
        self._live.start()

    def show(self, stage: Stage, running: Sequence[Running], waiting: Sequence[Command]) -> None:
        from rich.console import Group
        from rich.text import Text

        left = self.estimate.left(stage, running, waiting)
        elapsed = time.perf_counter() - stage.began
        states = [one.state for one in running]
        counts = [f"{state.what} {state.done}/{state.total}" for state in states if state is not None]
        row = self._row(stage, _share(elapsed, left), f"{time_span(left)} left", "; ".join(counts))
        whole = f"about {time_span(left + self.estimate.after(stage))} left of the whole; output in {self._log.parent}"
        self._live.update(Group(row, Text(whole, style="dim")), refresh=True)

    def end(self, stage: Stage, since: float) -> None:
        from rich.text import Text

        out = ", ".join(f"{one.words[0]} left out" for one in stage.left_out)
        found = "; ".join(filter(None, (stage.result, out)))
        assert stage.took is not None
        self._live.update(Text(""))
        self._live.console.print(self._row(stage, 1.0, time_span(stage.took), found))
        _note(self._log, _line(stage, self.estimate, since))

    def close(self) -> None:
        from rich.text import Text

        if self._live.is_started:
            self._live.update(Text(""))
            self._live.stop()

    def _row(self, stage: Stage, share: float, when: str, told: str) -> "Table":
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        count = len(self.estimate.stages)
        names = max(len(one.what) for one in self.estimate.stages)
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(width=2 * len(str(count)) + 1, justify="right", no_wrap=True)
        table.add_column(width=min(names, 25), no_wrap=True, overflow="ellipsis")
        table.add_column(width=10)
        table.add_column(width=12, no_wrap=True)
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        bar = ProgressBar(total=1.0, completed=share, width=10)
        table.add_row(f"{stage.number}/{count}", Text(stage.what), bar, when, Text(told))
        return table


def _note(log: Path, text: str) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")


def _packed(seconds: Sequence[float], at_once: int) -> float:
    """Seconds of commands of which some run at once."""
    return max(*seconds, sum(seconds) / min(at_once, len(seconds))) if len(seconds) > 1 else sum(seconds)


def _share(elapsed: float, left: float) -> float:
    return elapsed / (elapsed + left) if elapsed + left > 0 else 0.0
