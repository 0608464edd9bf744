"""Frames to model input: byte for byte as measured, and the laws of the resizing."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mnprobe.core.errors import ConfigError, DataError
from mnprobe.models.viclip import preprocess, resize_bilinear, sample_frames


@pytest.fixture(scope="module")
def arrays(folder):
    with np.load(folder / "preprocess.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.mark.parametrize("case", [0, 1, 2])
def test_bytes_and_input_equal_the_official_ones(arrays, case):
    frames, index = arrays[f"frames{case}"], arrays[f"index{case}"]
    assert list(sample_frames(len(index), len(frames))) == index.tolist()
    resized = resize_bilinear(frames[index].flip(-1), 48)
    assert torch.equal(resized, arrays[f"resized{case}"])
    ready = preprocess(frames[index], size=48, channels="bgr")
    assert torch.equal(ready[None], arrays[f"tensor{case}"])
    assert torch.equal(preprocess(frames[index].flip(-1), size=48), ready)


@pytest.mark.parametrize("case", [0, 1])
def test_features_from_raw_frames_equal_the_official_ones(arrays, model, case):
    clip = preprocess(arrays[f"frames{case}"][arrays[f"index{case}"]], size=48, channels="bgr")[None]
    with torch.no_grad():
        u = F.normalize(model.encode_video(clip), dim=-1)
    torch.testing.assert_close(u, arrays[f"feature{case}"], atol=6e-6, rtol=0)


@pytest.mark.parametrize("shape", [(128, 128), (30, 40), (300, 17), (1, 1), (448, 448)])
def test_resizing_stays_within_one_level_of_float_bilinear(shape):
    images = torch.randint(0, 256, (2, *shape, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    exact = F.interpolate(images.permute(0, 3, 1, 2).double(), size=(224, 224), mode="bilinear", align_corners=False)
    ours = resize_bilinear(images, 224).permute(0, 3, 1, 2).double()
    assert (ours - exact).abs().max() < 1.01


def test_halving_is_the_rounded_mean_of_four():
    images = torch.randint(0, 256, (1, 64, 64, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    sums = images.int().reshape(1, 32, 2, 32, 2, 3).sum(dim=(2, 4))
    assert torch.equal(resize_bilinear(images, 32).int(), (sums + 2) // 4)


@pytest.mark.parametrize("level", [0, 1, 127, 254, 255])
@pytest.mark.parametrize("size", [31, 224])
def test_one_colour_stays_that_colour(level, size):
    image = torch.full((1, 50, 37, 3), level, dtype=torch.uint8)
    assert bool((resize_bilinear(image, size) == level).all())


def test_normalisation_is_imagenets_in_rgb_order():
    pixel = torch.tensor([[[10, 100, 200]]], dtype=torch.uint8)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = ((np.array([10, 100, 200]) / 255 - mean) / std).astype(np.float32)
    assert preprocess(pixel, size=1).flatten().tolist() == expected.tolist()
    swapped = ((np.array([200, 100, 10]) / 255 - mean) / std).astype(np.float32)
    assert preprocess(pixel, size=1, channels="bgr").flatten().tolist() == swapped.tolist()


def test_batches_and_numpy_arrays_give_the_same(arrays):
    frames = arrays["frames0"][:8]
    single = preprocess(frames, size=64)
    assert single.shape == (8, 3, 64, 64)
    assert single.dtype == torch.float32
    assert torch.equal(preprocess(frames.numpy(), size=64), single)
    assert torch.equal(preprocess(frames.reshape(2, 4, *frames.shape[1:]), size=64).flatten(0, 1), single)
    assert torch.equal(preprocess(frames[0], size=64), single[0])


def test_read_only_and_flipped_arrays_are_taken(arrays):
    frames = arrays["frames0"].numpy().copy()
    expected = preprocess(frames, size=16)
    frames.flags.writeable = False
    assert torch.equal(preprocess(frames, size=16), expected)
    assert torch.equal(preprocess(frames[..., ::-1], size=16, channels="bgr"), expected)


def test_empty_images_are_an_error():
    with pytest.raises(DataError, match=r"frames must be uint8.*got uint8 of shape \(2, 0, 4, 3\)"):
        preprocess(torch.zeros(2, 0, 4, 3, dtype=torch.uint8))


def test_impossible_options_are_an_error():
    with pytest.raises(ConfigError, match="at least 1 pixel, got 0"):
        resize_bilinear(torch.zeros(1, 4, 4, 3, dtype=torch.uint8), 0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_bytes(arrays):
    frames = arrays["frames0"]
    assert torch.equal(preprocess(frames, device="cuda").cpu(), preprocess(frames))


def test_a_crop_is_cut_off_before_resizing():
    frames = torch.randint(0, 256, (2, 40, 60, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    cut = preprocess(frames[:, 10:40, 15:45], size=16)
    assert torch.equal(preprocess(frames, size=16, crop=(0.25, 0.25, 1.0, 0.75)), cut)
    assert torch.equal(preprocess(frames, size=16, crop=(0.0, 0.0, 1.0, 1.0)), preprocess(frames, size=16))
