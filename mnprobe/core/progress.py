"""Progress bars on standard error, with time left, and their state in a file."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

__all__ = ["PROGRESS_FILE", "Advance", "ProgressState", "progress", "time_span"]

PROGRESS_FILE = "MNPROBE_PROGRESS"
"""Environment variable that names the file to which the state of the bar is written, for whoever waits for it."""

_MINUTE = 60.0  # seconds between two lines about a bar where nobody watches
_OFTEN = 1.0  # seconds between two writes of the state, at least
_bars: list["_Part"] = []  # the bars of this process that are open, outermost first


class Advance(Protocol):
    """Call it with the number of finished units (1 by default); `note` replaces the text next to the bar."""

    def __call__(self, units: int = 1, *, note: str | None = None) -> None:
        """Count `units` more as finished."""


@dataclass(frozen=True, kw_only=True)
class ProgressState:
    """What a bar counts, as it is written to the file that MNPROBE_PROGRESS names.

    Attributes:
        what: what is counted.
        total: number of units.
        done: units that are finished, the last one perhaps in part.
        before: units that were finished when the bar was opened (a resumed job).
        started, time: when the bar was opened, and when this was written; seconds since the epoch.
    """

    what: str
    total: int
    done: float
    before: int
    started: float
    time: float

    @classmethod
    def read(cls, path: Path) -> "ProgressState | None":
        """The state in `path`; None where there is none, or something else."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def left(self, now: float) -> float | None:
        """Seconds left at the speed so far; None before the first unit is finished.

        >>> ProgressState(what="x", total=10, done=4, before=2, started=0.0, time=8.0).left(9.0)
        23.0
        """
        units = self.done - self.before
        if self.done >= self.total:
            return 0.0
        if units <= 0:
            return None
        each = (self.time - self.started) / units
        return max(0.0, each * (self.total - self.done) - (now - self.time))

    def write(self, path: Path) -> None:
        """Write it at once (a reader sees the old state or this one); what fails is left: it stops no job."""
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        with suppress(OSError):
            part.write_text(json.dumps(asdict(self)), encoding="utf-8")
            part.replace(path)


class _Part(Protocol):
    """Called with what an inner bar has done of the current unit, from 0 to 1, and with words about it."""

    def __call__(self, share: float, note: str) -> None: ...


class _Update(Protocol):
    """Called with the units that are finished, also in part, and with words about the last one."""

    def __call__(self, done: float, note: str | None) -> None: ...


@contextmanager
def progress(what: str, total: int, *, done: int = 0, quiet: bool = False) -> Iterator[Advance]:
    """Show a bar for `total` units of work, `done` of which were finished before (a resumed job).

    On a terminal the bar is live; elsewhere one line is written at the start, and one per minute, so that logs stay
    short. A bar inside another one is a part of its current unit: one bar is shown. If the environment variable
    MNPROBE_PROGRESS names a file, the state is written to it as well, at most once a second.

    >>> with progress("rendering", 3, quiet=True) as advance:
    ...     for _ in range(3):
    ...         advance()
    """
    if quiet or total <= 0:
        yield lambda units=1, *, note=None: None
        return
    with ExitStack() as stack:
        updates = [_inside(_bars[-1], what, total)] if _bars else []
        if not _bars:
            updates = [stack.enter_context(_written(what, total, done)), stack.enter_context(_shown(what, total, done))]
        finished, inner = done, 0.0

        def update(note: str | None) -> None:
            for each in updates:
                each(finished + inner, note)

        def part(share: float, note: str) -> None:
            nonlocal inner
            inner = min(max(inner, share), 1.0)
            update(note)

        def advance(units: int = 1, *, note: str | None = None) -> None:
            nonlocal finished, inner
            finished, inner = finished + units, 0.0
            update(note)

        _bars.append(part)
        try:
            yield advance
        finally:
            _bars.remove(part)


def _inside(part: _Part, what: str, total: int) -> _Update:
    """Tell the outer bar."""

    def update(done: float, note: str | None) -> None:
        part(done / total, f"{what} {int(done)}/{total}")

    return update


@contextmanager
def _written(what: str, total: int, done: int) -> Iterator[_Update]:
    """Keep the state in the file that the environment names, if it names one."""
    name = os.environ.get(PROGRESS_FILE)
    if not name:
        yield lambda done, note: None
        return
    path, started = Path(name), time.time()
    finished, written = float(done), started

    def write() -> None:
        nonlocal written
        written = time.time()
        ProgressState(what=what, total=total, done=finished, before=done, started=started, time=written).write(path)

    def update(done: float, note: str | None) -> None:
        nonlocal finished
        finished = done
        if not 0 <= time.time() - written < _OFTEN:
            write()

    write()
    yield update
    write()


@contextmanager
def _shown(what: str, total: int, done: int) -> Iterator[_Update]:
    if sys.stderr is None:  # some services and windows have no stderr
        yield lambda done, note: None
        return
    from rich.console import Console  # costs 0.1 s: only when something is shown
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    watched = sys.stderr.isatty()  # despite FORCE_COLOR: a bar is useless in a file
    console = Console(file=sys.stderr, force_terminal=None if watched else False)
    if not console.is_terminal:
        resumed = f", {done} of them done before" if done else ""
        console.print(f"{what}: {total} to do{resumed}", highlight=False, markup=False)
        yield _by_minutes(what, total, done, lambda text: console.print(text, highlight=False, markup=False))
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=total, completed=done)

        def update(done: float, note: str | None) -> None:
            bar.update(task, completed=done, description=what if note is None else f"{what} {note}")

        yield update


def _by_minutes(what: str, total: int, before: int, write: Callable[[str], None]) -> _Update:
    """Write a line when a minute has passed since the last one."""
    started = told = time.time()

    def update(done: float, note: str | None) -> None:
        nonlocal told
        now = time.time()
        if 0 <= now - told < _MINUTE:
            return
        told = now
        state = ProgressState(what=what, total=total, done=done, before=before, started=started, time=now)
        left = state.left(now)
        part = f" ({note})" if note and done % 1 else ""
        write(f"{what}: {int(done)} of {total}{part}{f', about {time_span(left)} left' if left else ''}")

    return update


def time_span(seconds: float) -> str:
    """Seconds as people read them.

    >>> time_span(12.4), time_span(150), time_span(7500)
    ('12 s', '2 min', '2 h 05 min')
    """
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
