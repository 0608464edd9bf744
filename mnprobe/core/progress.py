"""Progress bars on standard error, with time left; silent without a terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Advance", "progress"]


class Advance(Protocol):
    """Call it with the number of finished units (1 by default); `note` replaces the text next to the bar."""

    def __call__(self, units: int = 1, *, note: str | None = None) -> None:
        """Count `units` more as finished."""


@contextmanager
def progress(what: str, total: int, *, done: int = 0, quiet: bool = False) -> Iterator[Advance]:
    """Show a bar for `total` units of work, `done` of which were finished before (a resumed job).

    On a terminal the bar is live; elsewhere only a start and an end line are written, so that logs stay short.

    >>> with progress("rendering", 3, quiet=True) as advance:
    ...     for _ in range(3):
    ...         advance()
    """
    if quiet or total <= 0 or sys.stderr is None:  # some services and windows have no stderr
        yield lambda units=1, *, note=None: None
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
        yield lambda units=1, *, note=None: None
        console.print(f"{what}: done", highlight=False, markup=False)
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

        def advance(units: int = 1, *, note: str | None = None) -> None:
            bar.update(task, advance=units, description=what if note is None else f"{what} {note}")

        yield advance
