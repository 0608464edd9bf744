import numpy as np
from standin_log import CHANGES


class Task:
    """One object, the target; its name and how many variations it has are the subclass's."""

    def __init__(self, pyrep, robot, name=None):
        self._target = None

    def variation_count(self):
        raise NotImplementedError

    def get_low_dim_state(self):
        return np.array([*self._target, 0.0, 0.0, 0.0, 1.0]) + CHANGES.get("state", 0.0)
