"""Five small demonstrations; stores of any content."""

import numpy as np
import pytest

from mnprobe.features import write_features

EPISODES = [  # task, variation, partition, number, instruction, frames
    ("open_drawer", 0, "train", 0, "open the bottom drawer", 14),
    ("open_drawer", 1, "train", 1, "open the middle drawer", 12),
    ("open_drawer", 0, "val", 0, "open the bottom drawer", 10),
    ("reach_target", 3, "train", 0, "reach the red target", 12),
    ("reach_target", 4, "val", 0, "reach the blue target", 5),
]


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
        "partition": ["train", "val", "test"],
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
