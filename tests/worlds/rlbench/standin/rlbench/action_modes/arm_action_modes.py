import numpy as np
from pyrep.errors import ConfigurationPathError
from standin_log import CHANGES, TREE, called

from rlbench.backend.exceptions import InvalidActionError


class EndEffectorPoseViaPlanning:
    def __init__(self, absolute_mode=True, frame="world", collision_checking=False):
        called("EndEffectorPoseViaPlanning", absolute_mode, frame, collision_checking)
        assert absolute_mode
        assert frame == "world"

    def action(self, scene, action, ignore_collisions=True):
        if np.shape(action) != (7,):
            raise InvalidActionError("wrong length")
        if not np.isclose(np.linalg.norm(action[3:]), 1.0):
            raise InvalidActionError("no unit quaternion")
        low, high = scene._bounds
        if not ((action[:3] > low) & (action[:3] < high)).all():
            raise InvalidActionError("target outside of the workspace")
        if not ignore_collisions:
            for entry in TREE:  # the forks leave them so
                if entry[1] in CHANGES.get("touched", ()):
                    entry[2] = False
        if CHANGES.get("no path"):
            try:
                raise ConfigurationPathError("no path")
            except ConfigurationPathError as error:
                raise InvalidActionError("no path") from error
        scene._move_to(action)
