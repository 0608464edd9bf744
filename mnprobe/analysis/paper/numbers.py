"""Reading the paper's tables, with its short task names set to RLBench's module names."""

from importlib.resources import files

import pandas as pd

from mnprobe.core.errors import ConfigError
from mnprobe.data import TASKS

__all__ = ["AVERAGE", "PAPER_HEAD", "STAND_INS", "module_of", "paper_table"]

PAPER_HEAD = "paper, on RLBench"
"""Heads every column of the paper's numbers: never set against numbers of another world."""

AVERAGE = "average"
"""In the paper's column `task`: the mean over its 18 tasks."""

STAND_INS = {"put_shape_in_tray": "place_shape_in_shape_sorter"}
"""The tabletop's tasks that stand in for one of RLBench's under a name of their own (docs/tabletop.md)."""

_FILES = (
    "table1_action_recognition.csv",
    "table2_embodied_execution.csv",
    "table3_ablation.csv",
    "table4_tasks.csv",
)
# Short names of Tables 1 and 2 that are not those of Table 4 in other letters.
_SHORT = {
    "Place Cup": "place cups",
    "Push Btn.": "push buttons",
    "Put in Cpd.": "put in cupboard",
    "Stack Block": "stack blocks",
    "Stack Cup": "stack cups",
    "Sweep Dust": "sweep to dustpan",
}


def paper_table(number: int) -> pd.DataFrame:
    """Table `number` of the paper (1 to 4), in percent as printed.

    Tables 1 and 2: method, task (as printed, or `average`), module (empty for the average), mean_percent, std_percent
    (NaN where none is printed). Table 3: pairing, temperature, action_understanding_percent,
    embodied_execution_percent. Table 4: task, module, variation_type, variations, average_keyframes,
    language_template. Raises ConfigError for another number.

    >>> table = paper_table(2)
    >>> table[(table["method"] == "ARP") & (table["module"] == "close_jar")]["mean_percent"].item()
    100.0
    """
    if not 1 <= number <= len(_FILES):
        raise ConfigError(f"the paper has Tables 1 to {len(_FILES)}, got {number!r}")
    with files("mnprobe.analysis.paper").joinpath(_FILES[number - 1]).open(encoding="utf-8") as file:
        table = pd.read_csv(file)
    if "task" in table:
        table.insert(list(table.columns).index("task") + 1, "module", table["task"].map(module_of))
    return table


def module_of(name: str) -> str:
    """RLBench's module name of a task as the paper calls it; empty for the average.

    >>> module_of("Push Btn."), module_of("sweep to dustpan"), module_of("average")
    ('push_buttons', 'sweep_to_dustpan_of_size', '')

    Raises ConfigError for a name that is none of the paper's.
    """
    if name == AVERAGE:
        return ""
    modules = {task.paper: module for module, task in TASKS.items()}
    wanted = _SHORT.get(name, name).lower()
    if wanted not in modules:
        raise ConfigError(f"{name!r} is no task of the paper's; they are {', '.join(modules)}")
    return modules[wanted]
