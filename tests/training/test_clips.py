"""Clips of a training: those that the extractor computes, bit for bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mnprobe.core.errors import ConfigError, DataError
from mnprobe.data import open_dataset
from mnprobe.features import ExtractorSpec
from mnprobe.features.extractors.viclip import ViCLIPExtractor
from mnprobe.models.untrained import untrained_viclip
from mnprobe.models.viclip import ViCLIPConfig
from mnprobe.training.dataset import prepare_inputs

SMALL = ViCLIPConfig(
    image_size=64,
    width=24,
    layers=1,
    heads=2,
    embed_dim=8,
    vocabulary=60,
    text_width=8,
    text_layers=1,
    text_heads=1,
)


def _extracted(dataset, config, camera, rule):
    spec = ExtractorSpec(preset="tiny", options={"camera": camera, "frames_rule": rule})
    return ViCLIPExtractor(untrained_viclip(config, 0), spec).prepare(dataset).clips


@pytest.mark.parametrize(
    ("changes", "camera", "rule"),
    [
        ({}, "front", "middle"),
        ({"crop": (0.25, 0.1, 1.0, 0.9), "frames": 3}, "front", "strided"),
        ({"image_size": 32, "patch_size": 8}, "wrist", "middle"),  # the images' own size: nothing is resized
    ],
)
def test_they_equal_the_extractors(micro_dataset, tmp_path, changes, camera, rule):
    config = replace(SMALL, **changes)
    inputs = prepare_inputs(
        micro_dataset, viclip=config, arp=None, cache=tmp_path, camera=camera, frames_rule=rule, quiet=True
    )
    rows = np.arange(len(micro_dataset))
    found = inputs.clips(rows)
    assert found.dtype == torch.float32
    assert torch.equal(found, _extracted(micro_dataset, config, camera, rule))
    mixed = np.array([3, 0, 3, 7])
    assert torch.equal(inputs.clips(mixed), found[mixed])
    assert inputs.clips([2]).shape == (1, config.frames, 3, config.image_size, config.image_size)


def test_an_episode_shorter_than_a_clip_repeats_its_last_frame(write_demo, tmp_path):
    write_demo(tmp_path / "demos", "open_drawer", 0, "train", 0, "open it", 5)
    dataset = open_dataset(tmp_path / "demos")
    clip = prepare_inputs(dataset, viclip=SMALL, arp=None, cache=tmp_path / "cache", quiet=True).clips([0])
    assert torch.equal(clip, _extracted(dataset, SMALL, "front", "middle"))
    assert torch.equal(clip[0, 4], clip[0, 7])
    assert not torch.equal(clip[0, 3], clip[0, 4])


def test_a_camera_that_is_not_there_is_named(micro_dataset, tmp_path):
    with pytest.raises(DataError, match="overhead"):
        prepare_inputs(micro_dataset, viclip=SMALL, arp=None, cache=tmp_path, camera="overhead", quiet=True)


def test_clips_that_were_not_prepared_are_refused(micro_dataset, tmp_path):
    inputs = prepare_inputs(micro_dataset, viclip=None, arp=None, cache=tmp_path, quiet=True)
    with pytest.raises(ConfigError, match="no clips were prepared"):
        inputs.clips([0])
