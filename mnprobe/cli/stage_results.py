"""Results of a study and its stages, in a few words from its tables."""

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from mnprobe.core.errors import MnprobeError
from mnprobe.core.rundir import RunDir
from mnprobe.core.table import UNREADABLE

if TYPE_CHECKING:
    import pandas as pd

    from mnprobe.analysis.tables.run_tables import RunTables

__all__ = ["answers", "stage_result"]


def stage_result(run: RunDir, commands: Sequence[Sequence[str]]) -> str:
    """What the commands of one stage gave, in about five words; "" where nothing fits or nothing can be read."""
    from mnprobe.analysis.tables.run_tables import RunTables

    tables = RunTables(run)  # loaded again after each stage, since tables grow
    for name, describe in _RESULTS.items():
        matches = [command for command in commands if command[0] == name]
        if matches:
            with suppress(MnprobeError, *UNREADABLE):
                return describe(tables, matches)
    return ""


def answers(run: RunDir) -> list[str]:
    """The questions of the study, each with its answer in a few words."""
    from mnprobe.analysis.audit.findings import findings

    return [f"{one.question} {one.short}" for one in findings(run, [])]


def _demos(tables: "RunTables", commands: Sequence[Sequence[str]]) -> str:
    from mnprobe.worlds.outcomes import read_played

    return f"{len(read_played(tables.run.demos)):,} demonstrations"


def _init(tables: "RunTables", commands: Sequence[Sequence[str]]) -> str:
    return f"{len({piece.model for piece in tables.run.checkpoints()})} models, random weights"


def _train(tables: "RunTables", commands: Sequence[Sequence[str]]) -> str:
    names = [f"arp-{name}" for command in commands for name in _values(command, "--name")]
    steps = {piece.step for piece in tables.run.checkpoints() if piece.model in names}
    return f"{len(names)} trainings, {max(steps):,} updates" if steps else ""


def _recognize(tables: "RunTables", commands: Sequence[Sequence[str]]) -> str:
    from mnprobe.analysis.tables.progress import MEASURED_RECOGNITION, settled_recognition

    table = tables.table(MEASURED_RECOGNITION)
    if table is None or table.empty:
        return ""
    rows = _last(_of_models(_all_tasks(settled_recognition(table)[0]), commands))
    return f"recognition {100 * rows['top1'].mean():.0f} %" if len(rows) else ""


def _rollout(tables: "RunTables", commands: Sequence[Sequence[str]]) -> str:
    from mnprobe.worlds.outcomes import SUCCESS

    table = tables.table(SUCCESS)
    if table is None or table.empty:
        return ""
    rows = _last(_of_models(_all_tasks(table), commands))
    return f"success {100 * rows['value'].mean():.0f} %" if len(rows) else ""


def _extract(tables: "RunTables", commands: Sequence[Sequence[str]]) -> str:
    return f"{len(tables.run.feature_files())} feature files"


def _align(tables: "RunTables", commands: Sequence[Sequence[str]]) -> str:
    from mnprobe.core.names import BLANK, PIXELS

    table = tables.alignment
    if any("--split" in command for command in commands):
        return _outcomes(tables, commands)
    if table is None:
        return ""
    claims = table[
        (table["metric"] == "recall@1")
        & (table["statistic"] == "mean")
        & (table["direction"] == "mean")
        & (table["control"] == "none")
        & (table["split"] == "all")
        & (table["holdout"] == "episodes")
        & (table["understanding"] != PIXELS)
        & ~table["source_e"].str.endswith(BLANK)
    ]
    if claims.empty:
        return ""
    claims = claims[claims["source_e"] == claims["source_e"].iloc[0]]  # demonstrations, where there are any
    rows = _last(_of_models(claims, commands, column="execution"), column="execution", step="step_e")
    return f"Recall@1 {100 * rows['value'].mean():.0f} %, chance {100 * rows['chance'].mean():.0f} %"


def _outcomes(tables: "RunTables", commands: Sequence[Sequence[str]]) -> str:
    """Recall@1 where the policy succeeded and where it failed."""
    from mnprobe.analysis.success.contrast import CONTRASTS
    from mnprobe.core.names import BLANK, PIXELS

    table = tables.table(CONTRASTS)
    if table is None:
        return ""
    rows = table[
        (table["side"] == "execution")
        & (table["where"] == "all")
        & (table["control"] == "none")
        & (table["understanding"] != PIXELS)
        & ~table["source_e"].str.endswith(BLANK)
    ]
    rows = _of_models(rows, commands, column="execution")
    if rows.empty:
        return ""
    return f"successes {100 * rows['success'].mean():.0f} %, failures {100 * rows['failure'].mean():.0f} %"


def _figures(tables: "RunTables", commands: Sequence[Sequence[str]]) -> str:
    return f"{len(list(tables.run.figures.glob('*.png')))} figures"


def _report(tables: "RunTables", commands: Sequence[Sequence[str]]) -> str:
    return f"report of {tables.run.report.stat().st_size / 1e6:.1f} MB"


_RESULTS = {
    "demos": _demos,
    "init": _init,
    "train": _train,
    "recognize": _recognize,
    "rollout": _rollout,
    "extract": _extract,
    "align": _align,
    "curve": _figures,
    "report": _report,
}


def _values(command: Sequence[str], option: str) -> list[str]:
    return [command[at + 1] for at, word in enumerate(command[:-1]) if word == option]


def _all_tasks(table: "pd.DataFrame") -> "pd.DataFrame":
    from mnprobe.worlds.outcomes import ALL_TASKS

    return table[table["task"] == ALL_TASKS]


def _of_models(table: "pd.DataFrame", commands: Sequence[Sequence[str]], *, column: str = "model") -> "pd.DataFrame":
    """The rows of the models that the commands name; all where they name none."""
    names = {name for command in commands for name in _values(command, "--model")}
    return table[table[column].isin(names)] if names & set(table[column]) else table


def _last(table: "pd.DataFrame", *, column: str = "model", step: str = "step") -> "pd.DataFrame":
    """The rows of each model's last step."""
    return table[table[step] == table.groupby(column)[step].transform("max")]
