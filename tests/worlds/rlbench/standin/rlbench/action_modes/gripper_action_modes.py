import numpy as np
from standin_log import called

from rlbench.backend.exceptions import InvalidActionError


class Discrete:
    def __init__(self, attach_grasped_objects=True, detach_before_open=True):
        called("Discrete")

    def action(self, scene, action):
        if np.shape(action) != (1,):
            raise InvalidActionError("wrong length")
        scene._open = float(action[0] > 0.5)
