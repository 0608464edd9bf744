import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from mnprobe.core.errors import ConfigError, DataError
from mnprobe.data.images import (
    DEPTH_STEPS,
    code_to_depth,
    code_to_rgb,
    depth_to_code,
    mask_to_rgb,
    png_size,
    read_png,
    rgb_to_code,
    rgb_to_mask,
    write_png,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def test_depth_bytes_are_big_endian_and_mask_bytes_little_endian():
    pixel = np.array([[[1, 2, 3], [255, 255, 255]]], dtype=np.uint8)
    assert rgb_to_code(pixel).tolist() == [[1 * 65536 + 2 * 256 + 3, DEPTH_STEPS]]
    assert rgb_to_mask(pixel).tolist() == [[1 + 2 * 256 + 3 * 65536, DEPTH_STEPS]]
    assert rgb_to_code(pixel).dtype == rgb_to_mask(pixel).dtype == np.int64


def test_depth_codes_of_the_golden_pixels(demo_facts):
    seen = 0
    for demo in demo_facts["demos"]:
        for frame in demo["frames"]:
            for camera in frame["cameras"].values():
                for pixel in camera["pixels"]:
                    code = rgb_to_code(np.array(pixel["depth_png_rgb"], dtype=np.uint8))
                    depth = code_to_depth(code, camera["near"], camera["far"])
                    assert abs(float(depth) - pixel["depth_m"]) < 1e-9
                    assert depth_to_code(depth, camera["near"], camera["far"]) == code
                    seen += 1
    assert seen > 90


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(hnp.arrays(np.int64, (2, 3), elements=st.integers(0, DEPTH_STEPS)), st.floats(0, 0.5), st.floats(0.6, 50))
def test_codes_survive_every_form(code, near, far):
    np.testing.assert_array_equal(rgb_to_code(code_to_rgb(code)), code)
    np.testing.assert_array_equal(rgb_to_mask(mask_to_rgb(code)), code)
    np.testing.assert_array_equal(depth_to_code(code_to_depth(code, near, far), near, far), code)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(hnp.arrays(np.float64, 6, elements=st.floats(0.01, 3.0)))
def test_depth_is_kept_to_half_a_step(depth):
    found = code_to_depth(depth_to_code(depth, 0.01, 3.0), 0.01, 3.0)
    assert np.abs(found - depth).max() <= 2.99 / DEPTH_STEPS / 2 * 1.0001


def test_depth_may_leave_its_range_by_rounding_only():
    assert depth_to_code(np.float32(4.1), 0.1, 4.1) == DEPTH_STEPS
    assert depth_to_code(0.1 - 1e-9, 0.1, 4.1) == 0
    for wrong in (4.2, 0.0, np.nan, np.inf):
        with pytest.raises(ConfigError, match=r"depth must lie between near 0.1 m and far 4.1 m"):
            depth_to_code([1.0, wrong], 0.1, 4.1)
    with pytest.raises(ConfigError, match="near < far, got near 2 and far 1"):
        depth_to_code(1.0, 2, 1)


@pytest.mark.parametrize("handles", [[[-1]], [[2**24]], [[0.5]]])
def test_handles_that_do_not_fit_are_refused(handles):
    with pytest.raises(ConfigError, match=r"whole numbers in 0 \.\. 16777215"):
        mask_to_rgb(handles)


def test_images_are_read_as_written(tmp_path):
    path = tmp_path / "0.png"
    write_png(path, PIXELS)
    np.testing.assert_array_equal(read_png(path), PIXELS, strict=True)
    assert png_size(path) == (5, 7)
    assert np.array_equal(np.array(Image.open(path)), PIXELS)


def test_only_rgb_pixels_are_written(tmp_path):
    for wrong in (PIXELS[..., 0], PIXELS.astype(float), PIXELS[:0]):
        with pytest.raises(ConfigError, match="uint8 pixels, got"):
            write_png(tmp_path / "0.png", wrong)


def test_an_image_cut_anywhere_is_truncated(tmp_path):
    path = tmp_path / "3.png"
    write_png(path, PIXELS)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=f"{path}: truncated PNG"):
            read_png(path)


def test_any_changed_byte_is_found(tmp_path):
    path = tmp_path / "3.png"
    write_png(path, PIXELS)
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 64]) + whole[position + 1 :])
        with pytest.raises(DataError, match=f"{path}: "):
            read_png(path)


@pytest.mark.parametrize(
    ("mode", "text"), [("L", "8-bit grey;"), ("RGBA", "8-bit RGBA"), ("P", "palette"), ("I;16", "16-bit grey")]
)
def test_other_kinds_of_png_are_refused(tmp_path, mode, text):
    path = tmp_path / "0.png"
    Image.new(mode, (4, 4)).save(path)
    for reader in (read_png, png_size):
        with pytest.raises(DataError, match=f"{path}: .*{text}"):
            reader(path)


def test_a_file_that_is_no_png_is_refused(tmp_path):
    path = tmp_path / "0.png"
    Image.new("RGB", (40, 40)).save(path, format="JPEG")
    with pytest.raises(DataError, match=f"{path}: not a PNG"):
        read_png(path)
    with pytest.raises(DataError, match=r"1\.png: there is no such image file"):
        read_png(tmp_path / "1.png")
    (tmp_path / "2.png").mkdir()
    with pytest.raises(DataError, match=r"2\.png: there is no such image file"):
        read_png(tmp_path / "2.png")


def test_a_header_that_claims_too_much_is_refused(tmp_path):
    path = tmp_path / "0.png"
    write_png(path, PIXELS)
    whole = bytearray(path.read_bytes())
    for width, text in ((100_000, "100000 x 5 pixels"), (0, "0 x 5 pixels"), (8000, "damaged PNG")):
        whole[16:20] = width.to_bytes(4, "big")
        whole[29:33] = zlib.crc32(whole[12:29]).to_bytes(4, "big")
        path.write_bytes(whole)
        with pytest.raises(DataError, match=f"{path}: .*{text}"):
            read_png(path)
