import dataclasses
import json

import pytest

from mnprobe.core.errors import ConfigError
from mnprobe.models.arp import ARPConfig


def test_presets_are_the_released_variants_and_differ_in_three_ways():
    arp, plus = ARPConfig.arp(), ARPConfig.arp_plus()
    assert arp == ARPConfig()
    assert (arp.blocks, arp.upsample_width, arp.grid, arp.rotation_resolution) == (8, 160, 16, 5)
    assert (plus.blocks, plus.upsample_width) == (10, 256)
    changed = {f.name for f in dataclasses.fields(arp) if getattr(arp, f.name) != getattr(plus, f.name)}
    assert changed == {"self_blocks", "norm_before_modulation", "upsample_multiplier"}


@pytest.mark.parametrize("preset", ["arp", "arp_plus", "tiny"])
def test_configurations_survive_json(preset):
    config = getattr(ARPConfig, preset)()
    assert ARPConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    hash(config)


@pytest.mark.parametrize("changes", [{"attention_gain": 1.7}, {"untrained_language": "words"}])
def test_settings_that_files_did_not_have_are_stored_where_they_are_used(changes):
    plain = ARPConfig.tiny()
    changed = dataclasses.replace(plain, **changes)
    assert changed.to_dict() == plain.to_dict() | changes
    assert not changes.keys() & plain.to_dict().keys()
    assert ARPConfig.from_dict(json.loads(json.dumps(changed.to_dict()))) == changed


def test_whole_numbers_stand_for_real_ones_in_json():
    config = ARPConfig.from_dict({"zoom": 4, "bounds": [0, 0, 0, 1, 1, 1]})
    assert isinstance(config.zoom, float)
    assert config.bounds == (0.0, 0.0, 0.0, 1.0, 1.0, 1.0)
    assert all(isinstance(x, float) for x in config.bounds)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 225}, "multiple of patch_size, got 225 and 14"),
        ({"width": 100}, "multiple of 8 .* got 100"),
        ({"heads": 3}, "multiple of heads, got 128 and 3"),
        ({"self_blocks": 0}, "self_blocks must be at least 1, got 0"),
        ({"action_chunks": (1, 1, 1)}, r"five action tokens .* got \(1, 1, 1\)"),
        ({"action_chunks": (1, 1, 3)}, r"chunks of 1 to 2, got \(1, 1, 3\)"),
        ({"max_sequence": 10}, "at least 11 .* got 10"),
        ({"dropout": 1.0}, r"\[0, 1\), got 1.0"),
        ({"dropout": float("nan")}, "got nan"),
        ({"rotation_bins": 70}, "divide 360, got 70"),
        ({"bounds": (0.0, 0.0, 0.0, 1.0, 0.0, 1.0)}, "lower x, y, z"),
        ({"zoom": 0.0}, "zoom must be > 0, got 0.0"),
        ({"waypoint_noise": -0.1}, "waypoint_noise must be >= 0, got -0.1"),
        ({"cameras": ("front", "front")}, "each once"),
        ({"rotation_shift_probabilities": (0.5, 0.5)}, "a chance, with sum 1"),
        ({"attention_gain": 0.0}, "attention_gain must be > 0, got 0.0"),
        ({"untrained_language": "word"}, "must be 'encoder' or 'words', got 'word'"),
    ],
)
def test_impossible_settings_are_refused_with_their_value(change, message):
    with pytest.raises(ConfigError, match=message):
        ARPConfig(**change)


def test_unknown_field_names_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown ARPConfig field 'cross_block'\. Did you mean 'cross_blocks'"):
        ARPConfig.from_dict({"cross_block": 4})
