"""The embedded tabletop benchmark: MuJoCo physics, a floating hand, scripted tasks, RLBench's cameras."""

from mnprobe.worlds.tabletop.palette import PALETTE
from mnprobe.worlds.tabletop.tabletop import Tabletop
from mnprobe.worlds.tabletop.task import Task, TaskScene
from mnprobe.worlds.tabletop.tasks import TASKS

__all__ = ["PALETTE", "TASKS", "Tabletop", "Task", "TaskScene"]
