"""The run directory: its layout, configuration and discovery."""

import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tomli_w

from mnprobe.core.commands import command_line
from mnprobe.core.errors import ConfigError
from mnprobe.core.files import write_text
from mnprobe.core.job import in_turn
from mnprobe.core.names import RUN_CONFIG, feature_path, step_name, step_of
from mnprobe.core.provenance import now, versions

__all__ = ["Piece", "RunDir", "resolve_run"]


@dataclass(frozen=True, order=True)
class Piece:
    """One file of a run, for a model at a training step; `source` is empty for checkpoints."""

    model: str
    source: str
    step: int
    path: Path


class RunDir:
    """A run directory (DESIGN 4): `run.toml`, checkpoints, features, results, heads, figures, report."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, config: Mapping[str, Any] | None = None) -> "RunDir":
        """Create the folder and its `run.toml`; an existing run and its configuration are not changed.

        Raises ConfigError when `path` is a file, or a non-empty folder that is not a run.
        """
        if path.exists() and not path.is_dir():
            raise ConfigError(f"--run {path}: that is a file; a run is a folder")
        if path.is_dir() and not (path / RUN_CONFIG).exists() and any(path.iterdir()):
            raise ConfigError(
                f"--run {path}: this folder is not empty and has no {RUN_CONFIG}, so it is not a run of mnprobe; "
                "name a new folder"
            )
        run = cls(path)
        if not run.config_path.exists():
            made = {"created": now(), "versions": versions("torch", "numpy", "scikit-learn", "h5py", "openTSNE")}
            with run.alone(RUN_CONFIG):
                if not run.config_path.exists():  # another process may have created it in the meantime
                    run._write({"run": made} | dict(config or {}))
        return run

    @property
    def name(self) -> str:
        """The folder's name, which is the run's name."""
        return self.path.resolve().name

    @property
    def config_path(self) -> Path:
        """Path of the configuration."""
        return self.path / RUN_CONFIG

    @cached_property
    def config(self) -> dict[str, Any]:
        """Read the recorded configuration; ConfigError when the file is missing or is not TOML."""
        try:
            return tomllib.loads(self.config_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{self.path} is not a run: it has no {RUN_CONFIG}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self.config_path} is damaged: {error}") from error

    def record(self, section: str, values: Mapping[str, Any]) -> None:
        """Write `values` under `[section]` of run.toml: the configuration of a command, replacing its previous one.

        Concurrent commands on one run do not overwrite each other's sections.
        """
        with self.alone(RUN_CONFIG):
            self.__dict__.pop("config", None)
            self._write(self.config | {section: {key: value for key, value in values.items() if value is not None}})

    @contextmanager
    def alone(self, what: str) -> Iterator[None]:
        """Wait until no other process works on `what` of this run, and keep others waiting meanwhile."""
        with in_turn(self.path / f".{what}.lock"):
            yield

    def feature_files(self, model: str | None = None, source: str | None = None) -> list[Piece]:
        """Feature stores of the run, sorted by model, source and step; hidden and unfinished files are excluded."""
        return [
            Piece(path.parent.parent.name, path.parent.name, step, path)
            for path, step in _steps(self.path / "features", "*/*/step_*.h5")
            if model in (None, path.parent.parent.name) and source in (None, path.parent.name)
        ]

    def checkpoints(self, model: str | None = None) -> list[Piece]:
        """Checkpoints of the run, sorted by model and step."""
        return [
            Piece(path.parent.name, "", step, path)
            for path, step in _steps(self.path / "checkpoints", "*/step_*.safetensors")
            if model in (None, path.parent.name)
        ]

    def checkpoint(self, model: str, step: int) -> Path:
        """Path of the checkpoint of `model` at `step`."""
        return self.path / "checkpoints" / model / f"{step_name(step)}.safetensors"

    def features(self, model: str, source: str, step: int) -> Path:
        """Path of the features of `model` on `source` at `step`."""
        return self.path / "features" / feature_path(model, source, step)

    @property
    def demos(self) -> Path:
        """Folder of demonstrations of the embedded benchmark."""
        return self.path / "demos"

    @property
    def rollouts(self) -> Path:
        """Folder of rollouts: `<model>/step_<number>/`, each a dataset."""
        return self.path / "rollouts"

    def results(self, name: str) -> Path:
        """Path of the table `name` (without extension)."""
        return self.path / "results" / f"{name}.csv"

    @property
    def figures(self) -> Path:
        """Folder of figures."""
        return self.path / "figures"

    @property
    def heads(self) -> Path:
        """Folder of fitted heads."""
        return self.path / "heads"

    @property
    def report(self) -> Path:
        """Path of the report."""
        return self.path / "report.html"

    def _write(self, config: Mapping[str, Any]) -> None:
        write_text(self.config_path, tomli_w.dumps(dict(config)))
        self.__dict__.pop("config", None)


def resolve_run(path: Path | None, *, root: Path = Path("runs")) -> RunDir:
    """The run at `path`, or the newest run under `root` (the one whose `run.toml` changed last).

    Raises ConfigError with a remedy when there is none.
    """
    if path is not None:
        if not (path / RUN_CONFIG).is_file():
            problem = "it is not there" if not path.exists() else f"it has no {RUN_CONFIG}"
            make = command_line("init", run=path)
            raise ConfigError(f"--run {path}: not a run of mnprobe ({problem}). `{make}` makes one")
        return RunDir(path)
    runs = sorted(root.glob(f"*/{RUN_CONFIG}"), key=lambda file: (file.stat().st_mtime_ns, file))
    if not runs:
        raise ConfigError(
            f"there is no run under {root.resolve()}; name one with --run, "
            "or make one with `mnprobe init --run runs/first`"
        )
    return RunDir(runs[-1].parent)


def _steps(folder: Path, pattern: str) -> list[tuple[Path, int]]:
    candidates = [(path, step_of(path.name)) for path in folder.glob(pattern) if path.is_file()]
    known = [(path, step) for path, step in candidates if step is not None]
    return sorted(known, key=lambda item: (item[0].parent, item[1]))
