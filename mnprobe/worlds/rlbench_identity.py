"""Identity of an installed RLBench or PyRep: git commit and source hash."""

import hashlib
import json
import re
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mnprobe.data import TASKS

__all__ = ["find_commit", "identify_pyrep", "identify_rlbench"]

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_HEX = 16  # number of recorded hash digits


def identify_rlbench() -> dict[str, str]:
    """Identify the installed RLBench: "rlbench-commit", "" if unknown, and "rlbench-tasks".

    The forks all call themselves 1.2.0 and differ in what counts as success. "rlbench-tasks" is a hash of the Python
    and scene files of the 18 tasks; it tells changed files too, which a commit does not.
    """
    folder = _folder("rlbench")
    if folder is None:
        return {"rlbench-commit": "", "rlbench-tasks": ""}
    files = [folder / place / f"{task}.{kind}" for task in sorted(TASKS) for place, kind in _TASK_FILES]
    return {"rlbench-commit": find_commit("rlbench", folder), "rlbench-tasks": _hash(folder, files)}


def identify_pyrep() -> dict[str, str]:
    """Identify the installed PyRep: "pyrep-commit", "" if unknown, and "pyrep-code", a hash of its Python code."""
    folder = _folder("pyrep")
    if folder is None:
        return {"pyrep-commit": "", "pyrep-code": ""}
    return {"pyrep-commit": find_commit("pyrep", folder), "pyrep-code": _hash(folder, folder.rglob("*.py"))}


_TASK_FILES = (("tasks", "py"), ("task_ttms", "ttm"))


def find_commit(package: str, folder: Path) -> str:
    """Git commit of `package` with code in `folder`: from its checkout, or as recorded by pip.

    A checkout is searched next to the package only (an editable installation, or a folder on PYTHONPATH), so that a
    virtual environment inside another repository is not taken for it. pip's note is `direct_url.json` (PEP 610).
    Returns "" where neither is there.
    """
    if commit := _head(folder.parent):
        return commit
    try:
        found = distribution(package)
        if Path(str(found.locate_file(folder.name))).resolve() != folder.resolve():
            return ""  # another installation of the same name, behind this one
        noted = json.loads(found.read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError, OSError):
        return ""
    vcs = noted.get("vcs_info") if isinstance(noted, dict) else None
    if isinstance(vcs, dict) and _COMMIT.fullmatch(str(vcs.get("commit_id"))):
        return str(vcs["commit_id"])
    url = urlsplit(str(noted.get("url", ""))) if isinstance(noted, dict) else urlsplit("")
    return _head(Path(unquote(url.path))) if url.scheme == "file" else ""


def _folder(package: str) -> Path | None:
    spec = find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return Path(folders[0]) if folders else None


def _head(checkout: Path) -> str:
    """Commit checked out in a folder, read from git's files; "" if it is not a checkout."""
    place = checkout / ".git"
    try:
        if place.is_file():  # a worktree or a submodule says where its files are
            place = checkout / place.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
        head = (place / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref:"):
            return head if _COMMIT.fullmatch(head) else ""
        name = head.removeprefix("ref:").strip()
        shared = place / "commondir"
        main = place / shared.read_text(encoding="utf-8").strip() if shared.is_file() else place
        return _reference(main, name) or _reference(place, name)
    except (OSError, UnicodeDecodeError):
        return ""


def _reference(place: Path, name: str) -> str:
    loose = place / name
    if loose.is_file():
        commit = loose.read_text(encoding="utf-8").strip()
        return commit if _COMMIT.fullmatch(commit) else ""
    packed = place / "packed-refs"
    for line in packed.read_text(encoding="utf-8").splitlines() if packed.is_file() else ():
        commit, _, found = line.partition(" ")
        if found.strip() == name and _COMMIT.fullmatch(commit):
            return commit
    return ""


def _hash(folder: Path, files: Iterable[Path]) -> str:
    """First digits of the SHA-256 of files with their places in `folder`; "" where there is none."""
    existing = sorted(path for path in files if path.is_file())
    return _hash_files(folder, tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in existing))


@lru_cache(maxsize=8)
def _hash_files(folder: Path, files: tuple[tuple[Path, int, int], ...]) -> str:
    if not files:
        return ""
    total = hashlib.sha256()
    for path, _, _ in files:
        total.update(f"{path.relative_to(folder).as_posix()}\n".encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:_HEX]
