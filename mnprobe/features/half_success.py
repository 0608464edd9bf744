"""The checkpoint of each policy whose closed-loop success is nearest one half."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mnprobe.core.commands import command_line
from mnprobe.core.errors import ConfigError
from mnprobe.core.labels import some
from mnprobe.core.rundir import RunDir
from mnprobe.core.table import TableSchema
from mnprobe.worlds.outcomes import ALL_TASKS, SUCCESS

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["HALF", "HALF_SUCCESS", "half_steps", "nearest_half"]

HALF = "half"
"""What --step says for this checkpoint."""

HALF_SUCCESS = TableSchema(
    name="half success",
    columns=("world", "model", "step", "value", "n", "candidates"),
    key=("model",),
    whole=("step", "n"),
    real=("value",),
    command="rollout",
)
"""results/half_success.csv: the choice for each policy, and what it was made from. Once made it stays."""

_ROUNDING = 1e-9


def nearest_half(success: "pd.DataFrame") -> "pd.DataFrame":
    """Choose for each model of results/success.csv the step whose success (mean over tasks) is nearest one half.

    Of two that are equally near, the later. The rule sees success alone: no feature, no alignment. All steps of a
    model must have played equally many episodes: further episodes, which are played after the choice, must not make it.

    Returns rows of HALF_SUCCESS. Raises ConfigError for a model whose steps played unequally many episodes, or that
    played in two worlds.
    """
    rows = []
    for model, table in success[success["task"] == ALL_TASKS].groupby("model", sort=True):
        table = table.sort_values("step", kind="stable")
        if table["world"].nunique() > 1:
            worlds = ", ".join(sorted(set(table["world"])))
            raise ConfigError(f"--step {HALF}: {model} played in {worlds}; the choice is made in one world")
        if table["n"].nunique() > 1:
            counts = ", ".join(f"step {row['step']}: {row['n']}" for _, row in table.iterrows())
            raise ConfigError(
                f"--step {HALF}: the checkpoints of {model} have played unequally many episodes ({counts}), and the "
                "one nearest one half is chosen from equally many. Play the same episodes with all of them first"
            )
        distance = (table["value"] - 0.5).abs()
        chosen = table[distance <= distance.min() + _ROUNDING].iloc[-1]
        candidates = " ".join(str(step) for step in table["step"])
        found = {name: chosen[name] for name in ("world", "step", "value", "n")}
        rows.append(found | {"model": model, "candidates": candidates})
    return HALF_SUCCESS.frame(rows)


def half_steps(run: RunDir, models: Sequence[str]) -> dict[str, int]:
    """The step of each model (a policy of the run) whose success is nearest one half.

    The first call for a model chooses by `nearest_half` from results/success.csv and records the choice in
    results/half_success.csv; later ones read it there, so that episodes played afterwards do not change it.

    Raises ConfigError for a model without closed-loop success, and as `nearest_half`.
    """
    path, table = run.results(HALF_SUCCESS.stem), run.results(SUCCESS.stem)
    with run.alone(path.name):
        known = HALF_SUCCESS.read(path) if path.is_file() else HALF_SUCCESS.frame([])
        missing = [model for model in dict.fromkeys(models) if model not in set(known["model"])]
        if missing:
            played = SUCCESS.read(table) if table.is_file() else SUCCESS.frame([])
            absent = [model for model in missing if model not in set(played["model"])]
            if absent:
                raise ConfigError(
                    f"--step {HALF}: closed-loop success of {some(absent)} is not in {table}. "
                    f"`{command_line('rollout', run=run.path)}` plays episodes with every checkpoint"
                )
            known = HALF_SUCCESS.replace_rows(known, nearest_half(played[played["model"].isin(missing)]))
            HALF_SUCCESS.write(path, known)
    steps = dict(zip(known["model"], known["step"], strict=True))
    return {model: int(steps[model]) for model in models}
