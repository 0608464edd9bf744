"""Pictures of a scene: matrices as measured on real data, points pixel by pixel through the inverse projection."""

import math

import numpy as np
from standin_log import CHANGES, DEPTHS, RENDERED

POSES = {
    "front": [[0, -0.422618, -0.906308, 1.35], [-1, 0, 0, 0], [0, 0.906308, -0.422618, 1.58]],
    "left_shoulder": [
        [0.173648, 0.892539, 0.416198, -0.175],
        [0.984808, -0.157379, -0.073387, 0.2],
        [0, 0.422619, -0.906308, 1.98],
    ],
    "right_shoulder": [
        [-0.173648, 0.892539, 0.416198, -0.175],
        [0.984808, 0.157379, 0.073387, -0.2],
        [0, 0.422619, -0.906308, 1.98],
    ],
    "overhead": [[0, 0.906308, 0.422619, -0.175], [1, 0, 0, 0], [0, 0.422619, -0.906308, 2.43]],
}
COS, SIN = math.cos(math.radians(5)), math.sin(math.radians(5))
ON_HAND = [[0, -COS, SIN, -0.05001], [1, 0, 0, 0.002], [0, SIN, COS, -0.09207]]
FAR = {"front": 4.5, "left_shoulder": 3.2, "right_shoulder": 3.2, "overhead": 3.3, "wrist": 3.5}
NEAR = 0.009999999776482582


class Observation:
    pass


def matrix(rows):
    return np.array([*rows, [0, 0, 0, 1]], dtype=np.float64)


def pose_matrix(pose):
    x, y, z, w = pose[3:]
    turned = np.eye(4)
    turned[:3, :3] = np.eye(3) + 2 * np.array(
        [
            [-y * y - z * z, x * y - z * w, x * z + y * w],
            [x * y + z * w, -x * x - z * z, y * z - x * w],
            [x * z - y * w, y * z + x * w, -x * x - y * y],
        ]
    )
    turned[:3, 3] = pose[:3]
    return turned


def observe(config, scene):
    seen = Observation()
    numbers = {
        "joint_positions": np.full(7, scene._pose[0]),
        "joint_velocities": np.full(7, scene._speed),
        "joint_forces": np.zeros(7),
        "gripper_open": scene._open,
        "gripper_pose": scene._pose.copy(),
        "gripper_matrix": pose_matrix(scene._pose),
        "gripper_joint_positions": np.full(2, 0.04 * scene._open),
        "gripper_touch_forces": np.zeros(6),
        "task_low_dim_state": scene._task.get_low_dim_state(),
    }
    for name, value in numbers.items():
        setattr(seen, name, value if config._numbers[name] else None)
    seen.ignore_collisions = np.array(scene._ignore)
    seen.misc = {}
    for name in config._cameras:
        for kind in ("rgb", "depth", "mask", "point_cloud"):
            setattr(seen, f"{name}_{kind}", None)
    for name, camera in scene._cameras.items():
        _look(seen, name, camera, scene)
    for name in CHANGES.get("absent", ()):
        setattr(seen, name, None)
    return seen


def _look(seen, name, camera, scene):
    height, width = camera.image_size
    pose = pose_matrix(scene._pose) @ matrix(ON_HAND) if name == "wrist" else matrix(POSES[name])
    focal = -width / (2 * math.tan(math.radians(60 if name == "wrist" else 40) / 2))
    intrinsics = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    rows, columns = np.mgrid[:height, :width]
    target = scene._task._target
    depth = 1.0 + 0.3 * np.sin(rows + target[0]) * np.cos(columns + target[1])
    depth[0, 0] = FAR[name]  # a pixel that hit nothing
    seen.misc |= {
        f"{name}_camera_intrinsics": intrinsics,
        f"{name}_camera_extrinsics": pose,
        f"{name}_camera_near": NEAR,
        f"{name}_camera_far": FAR[name],
    }
    if camera.rgb:
        RENDERED.append(name)
        red = (100 * target[0] + rows).astype(np.uint8)
        rgb = np.stack([red, columns.astype(np.uint8), np.full_like(red, len(name))], axis=-1)
        setattr(seen, f"{name}_rgb", rgb)
    if camera.point_cloud and (camera.rgb or camera.depth):
        points = np.empty((height, width, 3))
        inverse = np.linalg.inv(intrinsics)
        for row in range(height):
            for column in range(width):
                local = depth[row, column] * (inverse @ [column, row, 1])
                points[row, column] = (pose @ [*local, 1])[:3]
        setattr(seen, f"{name}_point_cloud", points + CHANGES.get("cloud", 0))
    DEPTHS[name] = depth
