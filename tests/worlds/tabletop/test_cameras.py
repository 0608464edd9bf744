"""Camera matrices against those of real RLBench demonstrations."""

import json
from pathlib import Path

import numpy as np
import pytest

from mnprobe.core.errors import ConfigError
from mnprobe.worlds.tabletop.cameras import CAMERAS, cameras_at, check_cameras

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "rlbench-demos.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("frame", [0, 1, 2])
def test_matrices_are_those_of_real_demonstrations(frame):
    recorded = GOLDEN["demos"][0]["frames"][frame]
    ours = cameras_at(CAMERAS, 128, np.array(recorded["gripper_matrix"]))
    for name, camera in recorded["cameras"].items():
        np.testing.assert_allclose(ours[name].intrinsics, camera["intrinsics"], atol=1e-9)
        np.testing.assert_allclose(ours[name].extrinsics, camera["extrinsics_cam_to_world"], atol=2e-5)
        assert (ours[name].near, ours[name].far) == (camera["near"], camera["far"])


def test_another_size_has_the_same_view():
    small, large = (cameras_at(["front"], size, np.eye(4))["front"] for size in (128, 320))
    np.testing.assert_allclose(small.resized(320, 320).intrinsics, large.intrinsics)


def test_the_wrist_camera_alone_moves():
    away = np.eye(4)
    away[:3, 3] = 0.1
    here, there = cameras_at(CAMERAS, 64, np.eye(4)), cameras_at(CAMERAS, 64, away)
    moved = [name for name in CAMERAS if not np.array_equal(here[name].extrinsics, there[name].extrinsics)]
    assert moved == ["wrist"]


@pytest.mark.parametrize(
    ("names", "words"), [(["front", "side"], "unknown camera 'side'"), ("front", "list"), (["front"] * 2, "different")]
)
def test_wrong_names_are_refused(names, words):
    with pytest.raises(ConfigError, match=words):
        check_cameras(names)
