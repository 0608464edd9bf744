"""What is left of an ablation, and how long it takes by trainings that were measured before."""

import json
from dataclasses import dataclass
from typing import Any

from mnprobe.analysis.ablation_run import read_cell
from mnprobe.analysis.ablation_study import Study
from mnprobe.core.errors import ConfigError
from mnprobe.probe.joint import read_metrics
from mnprobe.worlds.parallel import default_workers

__all__ = ["AblationPlan", "jobs_of", "plan_ablation"]

_ALIKE = ("viclip", "arp", "batch", "clips", "understanding_share", "sides", "precision", "recompute")


@dataclass(frozen=True, kw_only=True)
class AblationPlan:
    """What is left to do.

    Attributes:
        rows: by cell: name, pairing, tau, seed, updates, done (updates made), status ("finished", "begun", "to do").
        updates: that are left, of all cells.
        seconds_per_update: as measured in `measured_in`, a finished training of these sizes; None where there is none.
        jobs: cells at once.
    """

    rows: tuple[dict[str, Any], ...]
    updates: int
    seconds_per_update: float | None
    measured_in: str
    jobs: int

    @property
    def seconds(self) -> float | None:
        """Estimated time of what is left, without the evaluation."""
        return None if self.seconds_per_update is None else self.updates * self.seconds_per_update / self.jobs


def plan_ablation(study: Study, *, jobs: int | None = None) -> AblationPlan:
    """Cells, what is left of them, and the time it takes, where a training of these sizes was measured before."""
    rows: list[dict[str, Any]] = []
    for cell in study.cells:
        folder = study.shared.folder / "training" / cell.name
        done = max((row[0] for row in read_metrics(folder / "metrics.csv")), default=0)
        finished = read_cell(cell, study.shared) is not None
        status = "finished" if finished else "begun" if folder.is_dir() else "to do"
        own: dict[str, Any] = {"name": cell.name, "pairing": cell.pairing or "", "tau": cell.tau, "seed": cell.seed}
        rows.append(own | {"updates": cell.config.updates, "done": done, "status": status})
    seconds, where = _measured(study)
    return AblationPlan(
        rows=tuple(rows),
        updates=sum(row["updates"] - row["done"] for row in rows),
        seconds_per_update=seconds,
        measured_in=where,
        jobs=jobs_of(jobs, study),
    )


def jobs_of(jobs: int | None, study: Study) -> int:
    """Cells at once: as asked, else as an enclosing `joblib.parallel_config` says, else one per processor or GPU.

    Raises ConfigError for fewer than one.
    """
    from joblib import effective_n_jobs

    if jobs is not None and jobs < 1:
        raise ConfigError(f"--jobs must be at least 1, got {jobs}")
    outer = int(effective_n_jobs(None))  # of an enclosing joblib.parallel_config
    own = default_workers() if study.shared.device == "cpu" else 1
    return min(len(study.cells), jobs or (outer if outer > 1 else own))


def _measured(study: Study) -> tuple[float | None, str]:
    """Seconds of an update in finished trainings of these sizes, of the ablation itself or else of the run."""
    asked = study.config.measurement()
    for root in (study.shared.folder, study.run.path):
        found = []
        for path in sorted(root.glob("training/*/result.json")):
            try:
                result = json.loads(path.read_text(encoding="utf-8"))
                made = json.loads((path.parent / "config.json").read_text(encoding="utf-8"))["asked"]["training"]
                alike = all(made.get(name) == asked.get(name) for name in _ALIKE)
                if alike:
                    found.append((float(result["seconds"]) / int(result["updates"]), path.parent.name))
            except (OSError, ValueError, KeyError, TypeError):
                continue  # nothing was measured there
        if found:
            return sum(one for one, _ in found) / len(found), ", ".join(name for _, name in found[:2])
    return None, ""
