"""Small demonstrations with four cameras, written by the package's own writer; stores of any content."""

import numpy as np
import pytest

from mnprobe.data import Camera, FrameData, look_at, pinhole, write_episode
from mnprobe.features import write_features

CAMERAS = {
    "front": [1.2, 0.1, 1.6],
    "left_shoulder": [-0.4, 0.9, 1.7],
    "right_shoulder": [-0.4, -0.9, 1.7],
    "wrist": [0.3, 0.2, 1.5],
}
EPISODES = [  # task, variation, partition, number, instruction, frames
    ("open_drawer", 0, "train", 0, "open the bottom drawer", 14),
    ("open_drawer", 1, "train", 1, "open the middle drawer", 12),
    ("open_drawer", 0, "val", 0, "open the bottom drawer", 10),
    ("reach_target", 3, "train", 0, "reach the red target", 12),
    ("reach_target", 4, "val", 0, "reach the blue target", 5),
]


def _frames(seed, count, size=16):
    generator = np.random.default_rng(seed)
    cameras = {
        name: Camera(
            name=name, intrinsics=pinhole(60, size, size), extrinsics=look_at(eye, [0.2, 0, 0.9]), near=0.01, far=4.5
        )
        for name, eye in CAMERAS.items()
    }
    for index in range(count):
        yield FrameData(
            gripper_pose=[0.2 + 0.01 * index, 0.02 * seed, 1.0, 0, 0, 0, 1],
            gripper_open=float(index < count // 2),
            joint_velocities=[0.5] * 7,
            gripper_joint_positions=[0.04, 0.03],
            ignore_collisions=float(index % 2),
            cameras=cameras,
            rgb={name: generator.integers(0, 256, (size, size, 3), dtype=np.uint8) for name in cameras},
            depth={name: generator.uniform(0.6, 1.8, (size, size)) for name in cameras},
        )


@pytest.fixture(scope="session")
def write_demo():
    """Write one synthetic episode: task, variation, partition, number, instruction, frames."""

    def write(root, task, variation, partition, number, instruction, count, *, size=16, images="all"):
        return write_episode(
            root,
            task=task,
            variation=variation,
            episode=number,
            instructions=[instruction],
            partition=partition,
            frames=_frames(variation + 10 * number, count, size),
            images=images,
        )

    return write


@pytest.fixture(scope="session")
def demos(tmp_path_factory, write_demo):
    """Five episodes of two tasks in train and val; the last is shorter than a clip of eight frames."""
    root = tmp_path_factory.mktemp("demos")
    for episode in EPISODES:
        write_demo(root, *episode)
    return root


@pytest.fixture
def store(tmp_path):
    """A store with ragged execution tokens and one understanding layer: path, and the arrays in it."""
    generator = np.random.default_rng(0)
    lengths = [5, 15, 10]
    tokens = [generator.normal(size=(count, 6)).astype(np.float32) for count in lengths]
    marks = [np.repeat(np.arange(count // 5), 5) for count in lengths]
    clip = generator.normal(size=(3, 4)).astype(np.float32)
    episodes = {
        "id": ["a/0/episode0", "a/1/episode1", "b/0/ep-ö"],
        "task": ["a", "a", "b"],
        "instruction": ["open it", "schließe es", "开"],
        "variation": [0, 1, 0],
        "partition": ["train", "val", ""],
        "success": [1, 0, -1],
    }
    path = write_features(
        tmp_path / "store.h5",
        model="mine",
        side="execution",
        step=1000,
        layers={"e": tokens, "clip": clip},
        keyframes={"e": marks},
        episodes=episodes,
        model_config={"width": 6},
        provenance={"why": "test"},
        data_fingerprint="f" * 64,
    )
    return path, tokens, clip, episodes
