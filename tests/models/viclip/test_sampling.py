"""Frame choice against the indices measured on the official code."""

import json

import pytest
import torch

from mnprobe.core.errors import ConfigError
from mnprobe.models.viclip import sample_frames


@pytest.fixture(scope="module")
def measured(folder):
    return json.loads((folder / "sampling.json").read_text())


@pytest.mark.parametrize("rule", ["strided", "middle"])
def test_chosen_frames_equal_the_official_ones(measured, rule):
    assert len(measured[rule]) > 40
    for case in measured[rule]:
        assert list(sample_frames(case["num_frames"], case["length"], rule)) == case["index"], case


def test_random_frames_reach_exactly_the_official_ranges(measured):
    generator = torch.Generator().manual_seed(0)
    for case in measured["rand_ranges"]:
        draws = torch.tensor(
            [sample_frames(case["num_frames"], case["length"], "rand", generator=generator) for _ in range(2000)]
        )
        assert draws.min(dim=0).values.tolist() == case["min"]
        assert draws.max(dim=0).values.tolist() == case["max"]


def test_random_frames_fall_back_to_distinct_sorted_ones():
    generator = torch.Generator().manual_seed(0)
    for length in (8, 11, 15):
        for _ in range(50):
            chosen = sample_frames(8, length, "rand", generator=generator)
            assert list(chosen) == sorted(set(chosen))
            assert len(chosen) == 8
            assert chosen[-1] < length


@pytest.mark.parametrize("rule", ["middle", "rand"])
def test_short_recordings_repeat_their_last_frame(rule):
    assert sample_frames(5, 3, rule, generator=torch.Generator()) == (0, 1, 2, 2, 2)
    assert sample_frames(2, 1, rule, generator=torch.Generator()) == (0, 0)


def test_what_cannot_be_sampled_is_an_error():
    with pytest.raises(ConfigError, match=r"needs at least 8 frames, the recording has 7\. Use rule 'middle'"):
        sample_frames(8, 7, "strided")
    with pytest.raises(ConfigError, match="pass generator="):
        sample_frames(8, 20, "rand")
    with pytest.raises(ConfigError, match="cannot take 8 frames of a recording of 0"):
        sample_frames(8, 0, "middle")
