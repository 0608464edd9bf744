"""Matrices of episodes by episodes are told before they are made, where this machine cannot hold them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mnprobe.core.errors import TooLittleMemory

__all__ = ["free_memory", "memory_told", "require_memory"]

_SMALL = 1 << 26  # bytes: less is not looked at
_WAY_OUT = (
    "Compare fewer episodes, or use minibatch_cka (`mnprobe compare --index minibatch_cka`), which measures linear CKA "
    "from batches of episodes and makes no such matrix"
)


def free_memory() -> int | None:
    """Bytes that this process can still take, by the machine and by its own limit; None where that cannot be known."""
    found = [room for room in (_free_on_machine(), _left_of_limit()) if room is not None]
    return min(found) if found else None


def require_memory(title: str, n: int, matrices: int, *, more: int = 0) -> None:
    """TooLittleMemory where `matrices` float64 matrices (n, n) and `more` bytes are more than there is room for."""
    need = 8 * n * n * matrices + more
    if need < _SMALL:
        return
    room = free_memory()
    if room is not None and need > room:
        raise TooLittleMemory(
            f"{title} of {n} episodes holds {matrices} matrices of {n} x {n} numbers at once and needs about "
            f"{_gigabytes(need)} of memory; {_gigabytes(room)} can be had. {_WAY_OUT}"
        )


@contextmanager
def memory_told(title: str, n: int) -> Iterator[None]:
    """A MemoryError inside becomes a TooLittleMemory that says what to do."""
    try:
        yield
    except MemoryError as error:
        raise TooLittleMemory(
            f"{title} of {n} episodes does not fit into memory ({str(error) or 'no more can be had'}). {_WAY_OUT}"
        ) from error


def _free_on_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not every system counts them
        return None


def _left_of_limit() -> int | None:
    try:
        import resource  # not on Windows

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return None
        taken = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    except (ImportError, AttributeError, OSError, ValueError):
        return None
    return max(limit - taken, 0)


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
