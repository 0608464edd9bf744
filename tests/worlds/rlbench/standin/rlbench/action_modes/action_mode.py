from standin_log import called

from rlbench.action_modes.arm_action_modes import EndEffectorPoseViaPlanning
from rlbench.action_modes.gripper_action_modes import Discrete


class MoveArmThenGripper:
    def __init__(self, arm_action_mode, gripper_action_mode):
        assert isinstance(arm_action_mode, EndEffectorPoseViaPlanning)
        assert isinstance(gripper_action_mode, Discrete)
        called("MoveArmThenGripper")
