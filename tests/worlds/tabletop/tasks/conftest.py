import numpy as np
import pytest

from mnprobe.worlds.tabletop.physics import Simulation, settle
from mnprobe.worlds.tabletop.scene import compose
from mnprobe.worlds.tabletop.tasks import TASKS


class Stage:
    """One scene with its simulation, in which any key poses can be tried."""

    def __init__(self, task, variation, seed):
        self.scene = TASKS[task]().build(variation, np.random.default_rng(seed))
        self.sim = Simulation(compose(self.scene.mjcf))
        settle(self.sim)

    @property
    def solved(self):
        return self.scene.success(self.sim)

    def expert(self):
        return self.scene.expert(self.sim)

    def do(self, poses):
        """Carry out key poses; whether the task was solved at some moment."""

        def observe():
            self.scene.observe(self.sim)
            return self.scene.success(self.sim)

        solved = False
        for pose in poses:
            solved = self.sim.carry_out(pose, observe).success or solved
        return solved


@pytest.fixture(scope="session")
def stage():
    """Make a stage: task, variation, seed."""
    return Stage
