from pyrep.const import RenderMode
from standin_log import called

from rlbench.noise_model import Identity

IDENTITY = Identity()


class CameraConfig:
    def __init__(
        self,
        rgb=True,
        rgb_noise=IDENTITY,
        depth=True,
        depth_noise=IDENTITY,
        point_cloud=True,
        mask=True,
        image_size=(128, 128),
        render_mode=RenderMode.OPENGL3,
        masks_as_one_channel=True,
        depth_in_meters=False,
    ):
        called(
            "CameraConfig",
            rgb=rgb,
            depth=depth,
            point_cloud=point_cloud,
            mask=mask,
            image_size=image_size,
            render_mode=render_mode,
        )
        self.rgb, self.depth, self.point_cloud, self.mask = rgb, depth, point_cloud, mask
        self.image_size, self.render_mode = image_size, render_mode

    def set_all(self, value):
        called("CameraConfig.set_all", value)
        self.rgb = self.depth = self.point_cloud = self.mask = value


class ObservationConfig:
    def __init__(
        self,
        left_shoulder_camera=None,
        right_shoulder_camera=None,
        overhead_camera=None,
        wrist_camera=None,
        front_camera=None,
        joint_velocities=True,
        joint_velocities_noise=IDENTITY,
        joint_positions=True,
        joint_positions_noise=IDENTITY,
        joint_forces=True,
        joint_forces_noise=IDENTITY,
        gripper_open=True,
        gripper_pose=True,
        gripper_matrix=False,
        gripper_joint_positions=False,
        gripper_touch_forces=False,
        wrist_camera_matrix=False,
        record_gripper_closing=False,
        task_low_dim_state=False,
        record_ignore_collisions=True,
    ):
        self._numbers = {
            "joint_velocities": joint_velocities,
            "joint_positions": joint_positions,
            "joint_forces": joint_forces,
            "gripper_open": gripper_open,
            "gripper_pose": gripper_pose,
            "gripper_matrix": gripper_matrix,
            "gripper_joint_positions": gripper_joint_positions,
            "gripper_touch_forces": gripper_touch_forces,
            "task_low_dim_state": task_low_dim_state,
        }
        self._cameras = {
            "left_shoulder": left_shoulder_camera,
            "right_shoulder": right_shoulder_camera,
            "overhead": overhead_camera,
            "wrist": wrist_camera,
            "front": front_camera,
        }
        called("ObservationConfig", **self._numbers)
