"""Atomic file writes, locks between processes, and hashing."""

import errno
import hashlib
import os
import platform
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from filelock import BaseFileLock

__all__ = ["locked", "require_room", "sha256_file", "sync", "update_table", "whole_file", "write_text"]

Table = TypeVar("Table")

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EPERM, errno.EINVAL)
_SOON = 0.25  # seconds in which a lock whose holder has died is taken over
_PATIENCE = 1.0  # seconds of waiting before it is said
_remarks: list[str] = []  # what was said of file systems without locks: one sentence per process


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced to disk and renamed to `path`, else removed.

    A reader sees the old file or the new one, never a half. The temporary name starts with a dot and ends with
    `.part`, and carries the process number, so that several processes may write different files of one folder.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with whole_file(folder / "a.txt") as part:
    ...     _ = part.write_text("all of it")
    >>> sorted(p.name for p in folder.iterdir())
    ['a.txt']
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.touch()
        mode = part.stat().st_mode  # as the umask has it; some writers make files that only their owner can read
        yield part
        if part.stat().st_mode != mode:  # some file systems refuse any change
            part.chmod(mode)
        sync(part)
        part.replace(path)
        sync(path.parent)
    except OSError as error:
        if error.errno in _NO_ROOM and error.filename is None:  # a full disk does not say which
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all.

    File names that the system's encoding could not read (as of `ä` under LC_ALL=C) become the bytes that they are; what
    is no UTF-8 at all is written with escapes.
    """
    try:
        content = text.encode()
    except UnicodeEncodeError:
        try:
            content = text.encode(errors="surrogateescape")
            content.decode()
        except UnicodeError:
            content = text.encode(errors="backslashreplace")
    with whole_file(path) as part:
        part.write_bytes(content)


@contextmanager
def locked(
    path: Path,
    *,
    refuse: Callable[[str], Exception] | None = None,
    waiting: Callable[[str], None] | None = None,
    leave: bool = True,
) -> Iterator[None]:
    """Hold the lock file `path` (its folder is made if needed); the end of the process, however it ends, frees it.

    Where the file system has no locks, the existence of the file `<path>.soft` is the lock, and that is said once; of a
    process that was killed on this machine it is taken over.

    Args:
        path: of the lock file; its name starts with a dot, or its folder's does.
        refuse: makes the error for when another process holds it, from the words that name that process, as in
            " (process 123 on host)", or from "" where it is not known. When not given, wait for it.
        waiting: told the same words when it has to wait for more than a second; by default a warning says so.
        leave: the lock file in place, as is safest; else it is removed, where a folder must hold nothing else.

    Raises:
        OSError: the lock file cannot be made.

    >>> import tempfile
    >>> with locked(Path(tempfile.mkdtemp()) / ".a.lock"):
    ...     pass
    """
    lock = _hold(path, refuse, waiting)
    try:
        yield
    finally:
        if not leave:
            with suppress(OSError):
                path.unlink(missing_ok=True)  # before it is free: who holds a file without a name tries again
        lock.release()


def update_table(
    path: Path, read: Callable[[Path], Table], change: Callable[[Table], Table], write: Callable[[Path, Table], None]
) -> Table:
    """Replace what the file `path` holds by `change` of it, while all others who do the same wait; returns it.

    All tables that several commands add to are written by this function: of commands that work on one run at the same
    time, none loses the rows of another. `change` should be quick: measure first, and join the rows here.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "lines.txt"
    >>> update_table(path, lambda path: path.read_text() if path.exists() else "", lambda old: old + "new", write_text)
    'new'
    """
    with locked(path.with_name(f".{path.name}.lock")):
        table = change(read(path))
        write(path, table)
    return table


def require_room(path: Path, size: int) -> None:
    """OSError "No space left on device" when `size` more bytes do not fit where the file `path` lies.

    For writers that cannot stand a disk that fills up under them: HDF5 crashes the process on closing such a file.
    """
    free = shutil.disk_usage(path.parent).free
    if free < size:
        needed = f"{free / 2**20:.1f} MiB are free, {size / 2**20:.1f} MiB are needed"
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} ({needed})", str(path))


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk; folders only where the system can."""
    folder = path.is_dir()
    try:
        descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    except PermissionError:
        if folder:  # Windows opens none, others only those that may be read
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not folder or error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP):
            raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)


def _hold(
    path: Path, refuse: Callable[[str], Exception] | None, waiting: Callable[[str], None] | None
) -> "BaseFileLock":
    """The lock, held: that of the system, or else a file whose existence is the lock."""
    from filelock import FileLock, SoftFileLock  # here, because reading needs no lock

    path.parent.mkdir(parents=True, exist_ok=True)
    if not issubclass(FileLock, SoftFileLock):
        try:
            lock = _take(FileLock(path, fallback_to_soft=False), path, refuse, waiting)
        except OSError as error:
            if error.filename is not None:
                raise
            if error.errno not in _NO_LOCKS:
                raise OSError(error.errno, f"the lock cannot be had ({error.strerror})", str(path)) from error
        else:
            with suppress(OSError):  # for those who wait; what is locked may not be written on some systems
                path.write_text(f"{os.getpid()}\n{platform.node()}\n", encoding="utf-8")
            return lock
    soft = path.with_name(f"{path.name}.soft")
    if not _remarks:
        _remarks.append(
            f"{path.parent}: this file system has no locks, so files ending in .lock.soft stand for them; if a command "
            "is killed on another machine, its file stays and has to be removed by hand"
        )
        warnings.warn(_remarks[0], stacklevel=4)
    return _take(SoftFileLock(soft), soft, refuse, waiting)


def _take(
    lock: "BaseFileLock",
    path: Path,
    refuse: Callable[[str], Exception] | None,
    waiting: Callable[[str], None] | None,
) -> "BaseFileLock":
    from filelock import Timeout

    try:
        lock.acquire(timeout=_PATIENCE if refuse is None else _SOON)
    except Timeout:
        who = _holder(path)
        if refuse is not None:
            raise refuse(who) from None
        if waiting is not None:
            waiting(who)
        else:
            way_out = f"; if that process is no more, remove {path}" if path.suffix == ".soft" else ""
            warnings.warn(f"waiting for another process{who} that holds {path}{way_out}", stacklevel=5)
        lock.acquire(timeout=-1)
    return lock


def _holder(path: Path) -> str:
    """Whose lock it is, as its file says."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return f" (process {lines[0]} on {lines[1]})" if len(lines) >= 2 and lines[0].isdigit() else ""
