"""Whole files or none: writing under a temporary name, hashing."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["require_room", "sha256_file", "whole_file", "write_text"]

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
        part.chmod(mode)
        _sync(part)
        part.replace(path)
        _sync(path.parent)
    except OSError as error:
        if error.errno in _NO_ROOM and error.filename is None:  # a full disk does not say which
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
