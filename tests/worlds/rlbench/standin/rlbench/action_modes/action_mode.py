import numpy as np
from standin_log import called

from rlbench.action_modes.arm_action_modes import EndEffectorPoseViaPlanning
from rlbench.action_modes.gripper_action_modes import Discrete


class MoveArmThenGripper:
    def __init__(self, arm_action_mode, gripper_action_mode):
        assert isinstance(arm_action_mode, EndEffectorPoseViaPlanning)
        assert isinstance(gripper_action_mode, Discrete)
        called("MoveArmThenGripper")
        self.arm_action_mode = arm_action_mode
        self.gripper_action_mode = gripper_action_mode

    def action(self, scene, action):
        ignore_collisions = bool(action[8:9])  # with 8 numbers: the truth of an empty array, an error in numpy 2
        self.arm_action_mode.action(scene, np.array(action[:7]), ignore_collisions)
        self.gripper_action_mode.action(scene, np.array(action[7:8]))
        scene._ignore = float(ignore_collisions)
