"""From stored depth to the world points that ARP starts from: measured arrays against the maths of mnprobe.data."""

import numpy as np
import pytest

from mnprobe.data.camera import depth_to_points
from mnprobe.data.images import code_to_depth, rgb_to_code


@pytest.mark.parametrize("case", ["0", "1"])
def test_depth_and_world_points_equal_the_measured_ones(golden, case):
    with np.load(golden / "arp-tiny" / "depth_points.npz") as file:
        arrays = {name.removeprefix(f"{case}."): file[name] for name in file.files if name.startswith(case)}
    near, far = arrays["near_far_64"]
    depth = code_to_depth(rgb_to_code(arrays["depth_rgb"]), near, far)
    np.testing.assert_allclose(depth, arrays["depth_m_64"], rtol=0, atol=1e-12)
    points = depth_to_points(depth, arrays["intrinsics_64"], arrays["extrinsics_64"])
    np.testing.assert_allclose(points, arrays["points_64"], rtol=0, atol=1e-9)
