import numpy as np
import pytest

from mnprobe.core.errors import ConfigError
from mnprobe.worlds.tabletop.hand import matrix_to_quaternion, pointing, pointing_down, pose_matrix


@pytest.mark.parametrize("yaw", [-2.0, -0.4, 0.0, 0.7, 3.0])
def test_pointing_down_keeps_the_approach_and_turns_the_fingers(yaw):
    turned = pose_matrix([0, 0, 0], pointing_down(yaw))[:3, :3]
    np.testing.assert_allclose(turned[:, 2], [0, 0, -1], atol=1e-12)
    np.testing.assert_allclose(turned[:, 1], [-np.sin(yaw), np.cos(yaw), 0], atol=1e-12)


def test_pointing_anywhere_gives_a_right_handed_frame():
    rng = np.random.default_rng(0)
    for _ in range(20):
        approach, other = rng.normal(size=(2, 3))
        finger = np.cross(approach, other)
        turned = pose_matrix([0, 0, 0], pointing(approach, finger))[:3, :3]
        np.testing.assert_allclose(turned[:, 2], approach / np.linalg.norm(approach), atol=1e-9)
        np.testing.assert_allclose(turned[:, 1], finger / np.linalg.norm(finger), atol=1e-9)
        assert np.linalg.det(turned) == pytest.approx(1)


def test_quaternions_and_matrices_agree():
    rng = np.random.default_rng(1)
    for quaternion in [*rng.normal(size=(20, 4)), *np.eye(4)]:
        unit = quaternion / np.linalg.norm(quaternion)
        back = matrix_to_quaternion(pose_matrix([0, 0, 0], unit)[:3, :3])
        assert abs(back @ unit) == pytest.approx(1)


def test_a_finger_axis_along_the_approach_is_refused():
    with pytest.raises(ConfigError, match="right angles"):
        pointing([0, 0, -1], [0, 1, 1])
