"""The embedded tabletop benchmark: MuJoCo physics, a floating hand, scripted tasks, RLBench's cameras."""

import os

# MuJoCo looks for a window system when it is imported. Nothing here needs it: images are made by ray casting, or in an
# off-screen context of our own.
os.environ.setdefault("MUJOCO_GL", "disable")

from mnprobe.worlds.tabletop.palette import PALETTE
from mnprobe.worlds.tabletop.tabletop import Tabletop
from mnprobe.worlds.tabletop.task import Task, TaskScene
from mnprobe.worlds.tabletop.tasks import TASKS

__all__ = ["PALETTE", "TASKS", "Tabletop", "Task", "TaskScene"]
