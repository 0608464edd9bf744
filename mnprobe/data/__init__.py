"""Demonstrations and rollouts: reading, validation, writing; without torch."""

from mnprobe.data.camera import Camera, depth_to_points, look_at, pinhole, points_to_pixels
from mnprobe.data.dataset import Dataset, describe, open_dataset, write_episode_table
from mnprobe.data.episode import Episode, Signals, find_camera, require
from mnprobe.data.frame import Frame
from mnprobe.data.images import code_to_depth, depth_to_code, read_png, rgb_to_code, rgb_to_mask
from mnprobe.data.keyframes import Keyframe, find_keyframes, gripper_states, next_keyframe
from mnprobe.data.outcomes import OUTCOMES_FILE, read_outcomes
from mnprobe.data.rlbench import RLBenchEpisode
from mnprobe.data.tasks import COLOURS, TASKS, Task, instruction, slots, task_named
from mnprobe.data.writer import FrameData, episode_folder, write_episode

__all__ = [
    "COLOURS",
    "OUTCOMES_FILE",
    "TASKS",
    "Camera",
    "Dataset",
    "Episode",
    "Frame",
    "FrameData",
    "Keyframe",
    "RLBenchEpisode",
    "Signals",
    "Task",
    "code_to_depth",
    "depth_to_code",
    "depth_to_points",
    "describe",
    "episode_folder",
    "find_camera",
    "find_keyframes",
    "gripper_states",
    "instruction",
    "look_at",
    "next_keyframe",
    "open_dataset",
    "pinhole",
    "points_to_pixels",
    "read_outcomes",
    "read_png",
    "require",
    "rgb_to_code",
    "rgb_to_mask",
    "slots",
    "task_named",
    "write_episode",
    "write_episode_table",
]
