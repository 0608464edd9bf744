"""The tabletop: MuJoCo physics, a floating hand, tasks, RLBench's cameras."""

from mnprobe.core.environment import with_variables
from mnprobe.core.errors import WorldError

# MuJoCo looks for a window system when it is imported, and refuses values of this variable that it does not know.
# Nothing here needs it: images are made by ray casting, or in an off-screen context of our own.
with with_variables(MUJOCO_GL="disable"):
    try:
        import mujoco  # noqa: F401
    except ModuleNotFoundError:
        raise WorldError("the tabletop needs MuJoCo, which is not installed: pip install 'mnprobe[tabletop]'") from None

from mnprobe.worlds.tabletop.base import Task, TaskScene
from mnprobe.worlds.tabletop.palette import PALETTE
from mnprobe.worlds.tabletop.tabletop import Tabletop
from mnprobe.worlds.tabletop.tasks import SUITES, TASKS

__all__ = ["PALETTE", "SUITES", "TASKS", "Tabletop", "Task", "TaskScene"]
