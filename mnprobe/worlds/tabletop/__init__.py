"""The tabletop: MuJoCo physics, a floating hand, tasks, RLBench's cameras."""

from mnprobe.core.environment import with_variables

# MuJoCo looks for a window system when it is imported, and refuses values of this variable that it does not know.
# Nothing here needs it: images are made by ray casting, or in an off-screen context of our own.
with with_variables(MUJOCO_GL="disable"):
    import mujoco  # noqa: F401

from mnprobe.worlds.tabletop.base import Task, TaskScene
from mnprobe.worlds.tabletop.palette import PALETTE
from mnprobe.worlds.tabletop.tabletop import Tabletop
from mnprobe.worlds.tabletop.tasks import TASKS

__all__ = ["PALETTE", "TASKS", "Tabletop", "Task", "TaskScene"]
