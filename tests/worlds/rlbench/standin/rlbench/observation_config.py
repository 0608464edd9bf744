from pyrep.const import RenderMode
from standin_log import called


class CameraConfig:
    def __init__(
        self,
        rgb=True,
        depth=True,
        point_cloud=True,
        mask=True,
        image_size=(128, 128),
        render_mode=RenderMode.OPENGL3,
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

    @property
    def anything(self):
        return self.rgb or self.depth or self.point_cloud or self.mask


class ObservationConfig:
    def __init__(
        self,
        *,
        left_shoulder_camera,
        right_shoulder_camera,
        overhead_camera,
        wrist_camera,
        front_camera,
        joint_velocities=True,
        joint_positions=True,
        joint_forces=True,
        gripper_open=True,
        gripper_pose=True,
        gripper_matrix=False,
        gripper_joint_positions=False,
        gripper_touch_forces=False,
        task_low_dim_state=True,
    ):
        self.numbers = {
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
        self.cameras = {
            "left_shoulder": left_shoulder_camera,
            "right_shoulder": right_shoulder_camera,
            "overhead": overhead_camera,
            "wrist": wrist_camera,
            "front": front_camera,
        }
        called("ObservationConfig", **self.numbers)
