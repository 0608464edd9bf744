"""Closed-loop success rates by task (paper, Table 2)."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mnprobe.core.errors import ProbeError
from mnprobe.core.names import step_of
from mnprobe.core.proportions import mean_interval, wilson_interval
from mnprobe.core.table import text_table
from mnprobe.data import OUTCOMES_FILE
from mnprobe.worlds.outcomes import ALL_TASKS, SUCCESS, SUCCESS_COLUMNS, Outcome, read_played
from mnprobe.worlds.rollout import read_rollout

__all__ = [
    "ALL_TASKS",
    "SUCCESS",
    "SUCCESS_COLUMNS",
    "Rollouts",
    "find_rollouts",
    "format_success",
    "mean_interval",
    "success_table",
    "wilson_interval",
]

_REASONS = {name.replace(" ", "_"): name for name in ("step limit", "unreachable pose", "collision", "invalid action")}


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """The played episodes of one model at one training step, in one world."""

    world: str
    model: str
    step: int
    outcomes: tuple[Outcome, ...]


def success_table(rollouts: Iterable[Rollouts]) -> pd.DataFrame:
    """Success by model, training step and task, and the mean over tasks: tidy, with SUCCESS_COLUMNS.

    Columns: `value` the share of successes, `ci_low`, `ci_high` its 95 % interval over all episodes, `n` episodes,
    `repeats` evaluations, `sd_repeats` the standard deviation (divisor: one less) between the shares of the
    evaluations, empty for a single one; `mean_steps` key poses per episode; failures by reason.

    The row of ALL_TASKS counts each task alike; its deviation is that of the evaluations' own means over tasks.

    Raises ProbeError when there is no episode.
    """
    rows = [row for played in rollouts for row in _rows(played)]
    if not rows:
        raise ProbeError("no played episodes to tabulate. `mnprobe rollout` plays them")
    return pd.DataFrame(rows, columns=list(SUCCESS_COLUMNS))


def find_rollouts(root: Path) -> list[Rollouts]:
    """All played episodes below `root` (a run's `rollouts`), by model and training step."""
    found = []
    for folder in sorted(root.glob("*/step_*")):
        step = step_of(folder.name)
        if step is not None and (folder / OUTCOMES_FILE).is_file():
            world = str(read_rollout(folder)["world"]["name"])
            outcomes = tuple(read_played(folder))
            found.append(Rollouts(world=world, model=folder.parent.name, step=step, outcomes=outcomes))
    return sorted(found, key=lambda played: (played.model, played.step))


def format_success(table: pd.DataFrame, *, width: int | None = None) -> str:
    """`table` for people: a row per task, a column per model and step: percent, interval, episodes.

    Lines wider than `width` continue in a further block.

    >>> one = Outcome(id="t/0/episode0", success=1, steps=3, reason="success", task="t", variation=0, seed=0)
    >>> print(format_success(success_table([Rollouts(world="tabletop", model="arp", step=9, outcomes=(one,))])))
    tabletop: success, %   arp 9
    t                      100.0 [20.7, 100.0] n=1
    all tasks              100.0 [20.7, 100.0] n=1
    """
    columns = list(dict.fromkeys(zip(table["model"], table["step"], strict=True)))
    tasks = [task for task in sorted(set(table["task"])) if task != ALL_TASKS] + [ALL_TASKS]
    cells = {(row["model"], row["step"], row["task"]): _cell(row) for _, row in table.iterrows()}
    worlds = ", ".join(sorted(set(table["world"])))
    rows = [[task, *(cells.get((*column, task), "-") for column in columns)] for task in tasks]
    heads = [f"{worlds}: success, %", *(f"{model} {step}" for model, step in columns)]
    return text_table(heads, rows, gap=3, width=width)


def _rows(played: Rollouts) -> Iterable[dict[str, object]]:
    table = pd.DataFrame([outcome.to_dict() for outcome in played.outcomes])
    if table.empty:
        return
    by_task = table.groupby("task", sort=True)
    counts = by_task["success"].agg(["sum", "size"])
    evaluations = table.pivot_table(index="repeat", columns="task", values="success", aggfunc="mean")
    for task, rows in by_task:
        n, successes = len(rows), int(rows["success"].sum())
        yield {
            **_head(played, str(task), rows),
            "value": successes / n,
            **_interval(wilson_interval(successes, n)),
            **_repeats(evaluations[task].dropna()),
        }
    yield {
        **_head(played, ALL_TASKS, table),
        "value": float((counts["sum"] / counts["size"]).mean()),
        **_interval(mean_interval(counts["sum"].tolist(), counts["size"].tolist())),
        **_repeats(evaluations.dropna().mean(axis="columns")),  # evaluations that played every task
        "mean_steps": float(by_task["steps"].mean().mean()),
    }


def _head(played: Rollouts, task: str, rows: pd.DataFrame) -> dict[str, object]:
    reasons = rows["reason"].value_counts()
    return {
        "world": played.world,
        "model": played.model,
        "step": played.step,
        "task": task,
        "n": len(rows),
        "successes": int(rows["success"].sum()),
        "mean_steps": float(rows["steps"].mean()),
        **{column: int(reasons.get(reason, 0)) for column, reason in _REASONS.items()},
    }


def _interval(limits: tuple[float, float]) -> dict[str, object]:
    return {"ci_low": limits[0], "ci_high": limits[1]}


def _repeats(shares: "pd.Series[float]") -> dict[str, object]:
    return {"repeats": len(shares), "sd_repeats": float(shares.std(ddof=1)) if len(shares) > 1 else math.nan}


def _cell(row: "pd.Series[Any]") -> str:
    value, low, high, deviation = (100 * float(row[name]) for name in ("value", "ci_low", "ci_high", "sd_repeats"))
    spread = "" if math.isnan(deviation) else f" ± {deviation:.1f}"
    return f"{value:.1f}{spread} [{low:.1f}, {high:.1f}] n={row['n']}"
