"""Manifest of a demonstration folder, compared before anything is added."""

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from mnprobe.core.errors import ConfigError, DataError
from mnprobe.core.files import write_text
from mnprobe.core.job import JobRecord, in_turn
from mnprobe.core.provenance import canonical_json, config_hash

__all__ = ["MANIFEST_FILE", "Manifest", "alone_in_folder", "open_folder", "remove_leftovers"]

MANIFEST_FILE = "manifest.json"
SCHEMA = "mnprobe.demos/1"
_LOCK = ".lock"
_PART = re.compile(r"\..+\.([0-9]+)\.part")


class Manifest:
    """`manifest.json` at the root of a folder of demonstrations.

    `config` is what all episodes of the folder share and what must not change: the world as it describes itself,
    versions, seeds, images. `tasks` are all requests so far: task -> {"variations": [...], "per_variation":
    {partition: demonstrations}}; tasks can be added and numbers can grow. `complete` says whether all of it is there.
    `failed_seeds` are by task those on which the expert failed. No date is in it: the same demonstrations have the same
    manifest.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        tasks: Mapping[str, Mapping[str, Any]],
        *,
        complete: bool = False,
        failed_seeds: Mapping[str, Iterable[int]] | None = None,
    ) -> None:
        self.config: dict[str, Any] = json.loads(canonical_json(config))  # as it comes back from a file
        self.tasks: dict[str, dict[str, Any]] = json.loads(canonical_json(tasks))
        self.complete = complete
        self.failed_seeds = {task: list(seeds) for task, seeds in (failed_seeds or {}).items()}

    @property
    def hash(self) -> str:
        """Of `config`: written into every episode."""
        return config_hash(self.config)

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Read a file; DataError with the problem when it is not a manifest of demonstrations."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read {path}: {error}") from error
        schema = found.get("schema") if isinstance(found, dict) else None
        if schema != SCHEMA:
            raise DataError(f"{path}: its schema is {schema!r}; demonstrations have {SCHEMA!r}")
        for name, kind in (("config", dict), ("tasks", dict), ("failed_seeds", dict), ("complete", bool)):
            if not isinstance(found.get(name), kind):
                raise DataError(f"{path}: {name} is missing or damaged")
        for task, entry in found["tasks"].items():
            if not isinstance(entry, dict) or not {"variations", "per_variation"} <= entry.keys():
                raise DataError(f"{path}: tasks, {task}: variations or per_variation are missing")
        return cls(found["config"], found["tasks"], complete=found["complete"], failed_seeds=found["failed_seeds"])

    def write(self, folder: Path) -> None:
        """Write the manifest atomically."""
        content = {
            "schema": SCHEMA,
            "complete": self.complete,
            "config": self.config,
            "tasks": self.tasks,
            "failed_seeds": self.failed_seeds,
        }
        write_text(folder / MANIFEST_FILE, json.dumps(content, indent=2, sort_keys=True) + "\n")

    def joined(self, asked: "Manifest", folder: Path) -> "Manifest":
        """Merge the requested manifest into this one (of `folder`); incomplete if anything is new.

        Raises ConfigError, naming both values, when the two differ in what must be alike.
        """
        JobRecord(
            path=folder / MANIFEST_FILE,
            config=asked.config,
            what="this folder of demonstrations",
            remedy="name another folder",
        ).check_config(self.config)
        tasks = json.loads(canonical_json(self.tasks))
        for task, entry in asked.tasks.items():
            held = tasks.setdefault(task, entry)
            if held["variations"] != entry["variations"]:
                raise ConfigError(
                    f"{folder} holds variations {_listed(held['variations'])} of {task}; asked for is "
                    f"{_listed(entry['variations'])}; name another folder, or ask for what this one has"
                )
            for partition, number in entry["per_variation"].items():
                held["per_variation"][partition] = max(held["per_variation"].get(partition, 0), number)
        unchanged = tasks == self.tasks
        return Manifest(self.config, tasks, complete=self.complete and unchanged, failed_seeds=self.failed_seeds)


def open_folder(folder: Path, asked: Manifest) -> Manifest:
    """Manifest of `folder` after the job: the existing one merged with the requested one.

    Nothing is written. Raises ConfigError when the folder is a file, holds other things, or demonstrations of another
    configuration; DataError when its manifest is damaged.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; demonstrations need a folder")
    if (folder / MANIFEST_FILE).exists():
        return Manifest.read(folder / MANIFEST_FILE).joined(asked, folder)
    strange = sorted(path.name for path in folder.iterdir() if not _is_ours(path.name)) if folder.exists() else []
    if strange:
        raise ConfigError(
            f"{folder} is not empty ({_listed(strange)}) and has no {MANIFEST_FILE}, so these are not demonstrations "
            "made by this command; name a new folder"
        )
    return asked


def alone_in_folder(folder: Path) -> AbstractContextManager[None]:
    """Wait for the right to change the manifest and the outcomes of a folder, which several commands may fill."""
    return in_turn(folder / _LOCK, leave=False)


def remove_leftovers(folder: Path) -> int:
    """Remove incomplete files of killed processes below `folder`, not those of running ones; return their number."""
    removed = 0
    for pattern in (".*.part", "*/*/all_variations/episodes/.*.part", "*/all_variations/episodes/.*.part"):
        for path in folder.glob(pattern):
            match = _PART.fullmatch(path.name)
            if match and not _alive(int(match[1])):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
                removed += 1
    return removed


def _is_ours(name: str) -> bool:
    return _PART.fullmatch(name) is not None or name.startswith(_LOCK)


def _alive(process: int) -> bool:
    if os.name == "nt":  # there, this signal would end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    try:
        state = (
            Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
        )
    except (OSError, IndexError):
        return True
    return state not in ("Z", "X")  # dead, only not yet fetched by the process that must


def _listed(things: Iterable[object]) -> str:
    texts = [str(thing) for thing in things]
    return ", ".join(texts[:8]) + (f" and {len(texts) - 8} more" if len(texts) > 8 else "")
