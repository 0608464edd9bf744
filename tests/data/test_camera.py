import dataclasses

import numpy as np
import pytest

from mnprobe.core.errors import ConfigError
from mnprobe.data import Camera, depth_to_points, look_at, pinhole, points_to_pixels


@pytest.fixture
def camera():
    pose = look_at([1.35, 0.2, 1.58], [0.2, 0.0, 0.9])
    return Camera(name="front", intrinsics=pinhole(40, 6, 8), extrinsics=pose, near=0.01, far=4.5)


def test_points_equal_the_slow_formula(camera):
    depth = np.random.default_rng(1).uniform(0.5, 3, (6, 8))
    points = depth_to_points(depth, camera.intrinsics, camera.extrinsics)
    for v in range(6):
        for u in range(8):
            x = (u - camera.intrinsics[0, 2]) / camera.intrinsics[0, 0]
            y = (v - camera.intrinsics[1, 2]) / camera.intrinsics[1, 1]
            local = np.array([x * depth[v, u], y * depth[v, u], depth[v, u], 1.0])
            np.testing.assert_allclose(points[v, u], (camera.extrinsics @ local)[:3], atol=1e-12)


def test_points_fall_back_on_their_pixels(camera):
    depth = np.random.default_rng(1).uniform(0.5, 3, (6, 8))
    pixels, back = points_to_pixels(depth_to_points(depth, camera.intrinsics, camera.extrinsics), camera)
    v, u = np.mgrid[:6, :8]
    np.testing.assert_allclose(pixels, np.stack([u, v], axis=-1), atol=1e-9)
    np.testing.assert_allclose(back, depth, atol=1e-12)


def test_the_golden_pixels_project_back_to_themselves(demo_facts):
    for demo in demo_facts["demos"]:
        for frame in demo["frames"]:
            for name, facts in frame["cameras"].items():
                camera = Camera(
                    name=name,
                    intrinsics=facts["intrinsics"],
                    extrinsics=facts["extrinsics_cam_to_world"],
                    near=facts["near"],
                    far=facts["far"],
                )
                for pixel in facts["pixels"]:
                    found, depth = points_to_pixels(pixel["world_xyz"], camera)
                    np.testing.assert_allclose(found, [pixel["col"], pixel["row"]], atol=1e-3)
                    assert depth == pytest.approx(pixel["depth_m"], abs=1e-5)


def test_intrinsics_follow_the_size(camera):
    assert camera.resized(6, 8) is camera
    double = camera.resized(12, 16)
    np.testing.assert_allclose(double.intrinsics, pinhole(40, 12, 16))
    stretched = camera.resized(6, 16)
    assert stretched.intrinsics[0].tolist() == (camera.intrinsics[0] * 2).tolist()
    assert stretched.intrinsics[1].tolist() == camera.intrinsics[1].tolist()
    assert stretched.intrinsics[2].tolist() == [0, 0, 1]


def test_the_angle_belongs_to_the_longer_side():
    assert pinhole(40, 64, 128)[0, 0] == pinhole(40, 128, 64)[0, 0] == pytest.approx(-175.83856040078922)
    assert pinhole(60, 128, 128)[0, 0] == pytest.approx(-110.85124795436963)


def test_look_at_looks_at_its_target_upright():
    pose = look_at([1, 2, 3], [0, 0, 0.5])
    camera = Camera(name="a", intrinsics=pinhole(50, 100, 100), extrinsics=pose, near=0, far=9)
    pixels, _ = points_to_pixels([[0, 0, 0.5], [0, 0, 0.6]], camera)
    np.testing.assert_allclose(pixels[0], [50, 50], atol=1e-9)
    assert pixels[1, 1] < 50  # a higher point lies higher in the image
    np.testing.assert_allclose(pixels[1, 0], 50, atol=1e-9)
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(pose[:3, :3]) == pytest.approx(1)


def test_rlbenchs_front_camera_is_a_look_at(demo_facts):
    stored = np.array(demo_facts["demos"][0]["frames"][0]["cameras"]["front"]["extrinsics_cam_to_world"])
    made = look_at(stored[:3, 3], stored[:3, 3] + stored[:3, 2])
    np.testing.assert_allclose(made, stored, atol=2e-6)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"intrinsics": np.eye(2)}, "camera 'front': intrinsics must be finite"),
        ({"extrinsics": np.full((4, 4), np.nan)}, "camera 'front': extrinsics must be finite"),
        ({"intrinsics": np.zeros((3, 3))}, "a focal length in intrinsics is 0"),
        ({"near": 2.0, "far": 1.0}, "near < far, got 2.0 and 1.0"),
        ({"far": np.nan}, "near < far, got 0.01 and nan"),
    ],
)
def test_cameras_that_cannot_be_are_refused(changes, text):
    good = {"name": "front", "intrinsics": pinhole(40, 4, 4), "extrinsics": np.eye(4), "near": 0.01, "far": 4.5}
    with pytest.raises(ConfigError, match=text):
        Camera(**(good | changes))


def test_a_vertical_look_and_a_missing_principal_point_are_refused():
    with pytest.raises(ConfigError, match="not vertical"):
        look_at([0, 0, 1], [0, 0, 0])
    with pytest.raises(ConfigError, match="0 < angle < 180"):
        pinhole(180, 4, 4)
    camera = Camera(name="a", intrinsics=np.diag([-5.0, -5.0, 1.0]), extrinsics=np.eye(4), near=0, far=1)
    with pytest.raises(ConfigError, match="principal point"):
        camera.resized(4, 4)


CALIBRATED = {  # height, width, focal lengths, principal point (u, v)
    "off the middle": (480, 640, (592.6, 592.6), (319.1, 246.9)),
    "middle at (W-1)/2": (480, 640, (600.0, 600.0), (319.5, 239.5)),
    "middle at (W-1)/2, square": (128, 128, (-150.0, -150.0), (63.5, 63.5)),
    "negative focal lengths": (480, 640, (-592.6, -588.1), (319.1, 246.9)),
    "negative, whole numbers": (480, 640, (-600.0, -600.0), (300.0, 250.0)),
    "square, whole numbers": (128, 128, (-150.0, -150.0), (60.0, 70.0)),
    "odd sizes": (241, 323, (-300.0, 300.0), (160.2, 118.0)),
    "RLBench": (128, 128, (-175.83856040078922, -175.83856040078922), (64.0, 64.0)),
}


def _calibrated(case, **changes):
    height, width, (across, down), (u, v) = CALIBRATED[case]
    lens = np.array([[across, 0, u], [0, down, v], [0, 0, 1.0]])
    good = {"name": "front", "intrinsics": lens, "extrinsics": look_at([1.2, 0.1, 1.6], [0.2, 0, 0.9])}
    return Camera(**(good | {"near": 0.01, "far": 4.0} | changes)), (height, width)


@pytest.mark.parametrize("case", CALIBRATED)
def test_intrinsics_are_as_they_are_at_the_native_size(case):
    camera, native = _calibrated(case)
    for known in (None, native):
        one = dataclasses.replace(camera, size=known)
        for same in (one.resized(*native), one.for_image(*native), one.resized(*native).for_image(*native)):
            np.testing.assert_array_equal(same.intrinsics, camera.intrinsics)
        assert one.for_image(*native).size == native


@pytest.mark.parametrize("case", CALIBRATED)
@pytest.mark.parametrize("factors", [(0.5, 0.5), (2, 2), (1.5, 0.25)])
def test_resizing_multiplies_by_the_ratio_of_the_sizes(case, factors):
    camera, native = _calibrated(case)
    size = round(native[0] * factors[0]), round(native[1] * factors[1])
    ratio = np.array([[size[1] / native[1]], [size[0] / native[0]], [1.0]])
    for known in (dataclasses.replace(camera, size=native), camera.for_image(*native)):
        resized = known.resized(*size)
        np.testing.assert_allclose(resized.intrinsics, camera.intrinsics * ratio, rtol=1e-14)
        assert resized.size == size
        np.testing.assert_allclose(resized.resized(*native).intrinsics, camera.intrinsics, rtol=1e-14)


@pytest.mark.parametrize(
    ("principal", "size"),
    [((219.1, 186.9), (240, 320)), ((500.0, 100.0), (480, 640)), ((-20.0, 30.0), (64, 64)), ((3.5, 90.0), (64, 128))],
)
def test_a_cropped_image_has_the_intrinsics_that_were_stored_with_it(principal, size):
    camera, _ = _calibrated("off the middle")
    lens = camera.intrinsics.copy()
    lens[:2, 2] = principal
    cropped = dataclasses.replace(camera, intrinsics=lens)
    seen = cropped.for_image(*size)
    np.testing.assert_array_equal(seen.intrinsics, lens)
    assert seen.size == size
    np.testing.assert_array_equal(seen.resized(2 * size[0], 2 * size[1]).intrinsics[0], 2 * lens[0])


@pytest.mark.parametrize("case", ["off the middle", "middle at (W-1)/2", "negative focal lengths", "odd sizes"])
def test_a_size_that_nobody_has_said_is_not_guessed(case):
    camera, (height, width) = _calibrated(case)
    with pytest.raises(ConfigError, match=r"not known.*is not the middle of .* Give it, as Camera\(.*size=\(height"):
        camera.resized(height // 2, width // 2)


def test_rlbenchs_cameras_tell_their_size_by_their_middle():
    camera, _ = _calibrated("RLBench")
    np.testing.assert_allclose(camera.resized(120, 120).intrinsics, camera.intrinsics * [[0.9375], [0.9375], [1]])
    np.testing.assert_allclose(camera.for_image(256, 256).intrinsics, pinhole(40, 256, 256))
    assert camera.for_image(256, 256).size == (256, 256)


@pytest.mark.parametrize(
    ("size", "text"),
    [((0, 4), "whole number of at least 1, got 0"), ((4.5, 4), "got 4.5"), ((4,), r"must be \(height, width\)")],
)
def test_a_size_is_two_whole_numbers(size, text):
    with pytest.raises(ConfigError, match=text):
        _calibrated("RLBench", size=size)
    assert _calibrated("RLBench", size=np.array([128, 64]))[0].size == (128, 64)
