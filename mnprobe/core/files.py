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
_SOON = 0.25  # seconds until the lock of a dead process is taken over
_PATIENCE = 1.0  # seconds of waiting before a message
_remarks: list[str] = []  # file systems without locks that were reported: one warning per process


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; on success it is synced to disk and renamed to `path`, else removed.

    The write is atomic: a reader sees the old file or the new one. The temporary name starts with a dot and ends with
    `.part`, and contains the process number, so that several processes may write to one folder.

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
        mode = part.stat().st_mode  # apply the umask; some writers create files that only their owner can read
        yield part
        if part.stat().st_mode != mode:  # some file systems do not allow changes
            part.chmod(mode)
        sync(part)
        part.replace(path)
        sync(path.parent)
    except OSError as error:
        if error.errno in _NO_ROOM and error.filename is None:  # the error of a full disk does not name the file
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path` atomically.

    File names that the system's encoding could not decode (such as `ä` under LC_ALL=C) are written as their original
    bytes; bytes that are not UTF-8 are written with escapes.
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
    """Hold the lock file `path` (its folder is created if needed); the lock is freed when the process ends.

    On file systems without locks, the existence of the file `<path>.soft` is the lock, which is reported once; the lock
    of a process killed on this machine is taken over.

    Args:
        path: path of the lock file; its name or its folder's name starts with a dot.
        refuse: builds the exception when another process holds the lock, from a text that names this process, such as "
            (process 123 on host)", or "" if unknown. When not given, wait for the lock.
        waiting: called with the same text after waiting for more than a second; by default a warning is issued.
        leave: do not remove the lock file, which is safest; otherwise it is removed, for folders without other files.

    Raises:
        OSError: the lock file cannot be created.

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
                path.unlink(missing_ok=True)  # before release: a process that holds an unlinked file tries again
        lock.release()


def update_table(
    path: Path, read: Callable[[Path], Table], change: Callable[[Table], Table], write: Callable[[Path, Table], None]
) -> Table:
    """Replace the content of the file `path` by `change` of it under a lock; return the new content.

    All tables to which several commands add rows are written by this function, so that concurrent commands on one run
    do not lose rows. `change` should be fast: measure first, and join the rows here.

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
    """Raise OSError "No space left on device" when `size` more bytes do not fit on the disk of the file `path`.

    For writers that fail badly on a full disk: HDF5 crashes the process on closing such a file.
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
    """Sync a file, or the names in a folder, to disk; folders only if the system supports it."""
    folder = path.is_dir()
    try:
        descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    except PermissionError:
        if folder:  # Windows cannot open folders, other systems only readable ones
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
    """Acquire the system's lock, or a file whose existence is the lock."""
    from filelock import FileLock, SoftFileLock  # imported here, because reading needs no lock

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
            with suppress(OSError):  # for waiting processes; some systems do not allow writing a locked file
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
    """Describe the holder of a lock from its file."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return f" (process {lines[0]} on {lines[1]})" if len(lines) >= 2 and lines[0].isdigit() else ""
