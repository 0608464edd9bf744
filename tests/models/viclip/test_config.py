"""Sizes: the published ones by name, shape and count; sizes read off tensors; impossible sizes."""

import json
from dataclasses import replace

import pytest
import torch

from mnprobe.core.errors import CheckpointError, ConfigError
from mnprobe.models.loading import shapes_of
from mnprobe.models.viclip import ViCLIP, ViCLIPConfig

SIZES = {"B-16": ViCLIPConfig.b16(), "L-14": ViCLIPConfig.l14()}
COUNTS = {"B-16": (86_198_784, 63_405_056), "L-14": (303_974_400, 123_615_744)}


def empty(config: ViCLIPConfig) -> ViCLIP:
    with torch.device("meta"):
        return ViCLIP(config)


@pytest.fixture(scope="module")
def keys(folder) -> dict[str, dict[str, list[int]]]:
    return json.loads((folder / "keys.json").read_text())


@pytest.mark.parametrize("size", SIZES)
def test_published_state_dicts_load_strictly(keys, size):
    published = {name: torch.empty(shape, device="meta") for name, shape in keys[size].items()}
    model = empty(SIZES[size])
    assert shapes_of(model) == {name: tuple(shape) for name, shape in keys[size].items()}
    assert not any(model.load_state_dict(published, strict=True, assign=True))


@pytest.mark.parametrize("size", SIZES)
def test_parameter_counts(size):
    model = empty(SIZES[size])
    counts = [sum(p.numel() for p in part.parameters()) for part in (model.vision_encoder, model.text_encoder)]
    assert tuple(counts) == COUNTS[size]
    assert sum(p.numel() for p in model.parameters()) == sum(COUNTS[size]) + 1
    assert not list(model.buffers())


@pytest.mark.parametrize("size", SIZES)
def test_published_sizes_are_read_off_the_tensors(keys, size):
    published = {name: torch.empty(shape, device="meta") for name, shape in keys[size].items()}
    assert ViCLIPConfig.from_state_dict(published) == SIZES[size]


def test_the_golden_model_has_the_count_measured_on_the_official_code(config, facts):
    assert sum(p.numel() for p in empty(config).parameters()) == facts["param_count"]


def test_tokens_of_the_published_sizes():
    assert (ViCLIPConfig.b16().tokens, ViCLIPConfig.l14().tokens) == (1568, 2048)


def test_the_tiny_preset_is_small_and_speaks_the_full_vocabulary():
    tiny = ViCLIPConfig.tiny()
    assert tiny.vocabulary == 49408
    assert sum(p.numel() for p in empty(tiny).parameters()) < 5_000_000


@pytest.mark.parametrize("field", [*ViCLIPConfig.tiny().to_dict(), "tubelet"])
def test_a_dictionary_keeps_every_field(field):
    others = {"tubelet": 2, "stochastic_depth": 0.25, "crop": (0.25, 0.0, 1.0, 0.5)}
    value = others[field] if field in others else 2 * ViCLIPConfig.tiny().to_dict()[field]
    changed = replace(ViCLIPConfig.tiny(), **({"image_size": 128} if field == "patch_size" else {}), **{field: value})
    assert changed != ViCLIPConfig.tiny()
    assert ViCLIPConfig.from_dict(json.loads(json.dumps(changed.to_dict()))) == changed


@pytest.mark.parametrize(
    "field", [*(name for name in ViCLIPConfig.tiny().to_dict() if "heads" not in name and name != "crop"), "tubelet"]
)
def test_every_size_reaches_the_model(field):
    tiny = replace(ViCLIPConfig.tiny(), image_size=128)
    if field == "stochastic_depth":
        drops = [
            block.drop for block in empty(replace(tiny, stochastic_depth=0.2)).vision_encoder.transformer.resblocks
        ]
        assert drops == pytest.approx([0, 0.1, 0.2])
    else:
        assert shapes_of(empty(replace(tiny, **{field: 2 * getattr(tiny, field)}))) != shapes_of(empty(tiny))


def test_files_of_one_frame_a_token_stay_as_they_were():
    assert "tubelet" not in ViCLIPConfig.b16().to_dict()
    assert replace(ViCLIPConfig.b16(), tubelet=4).to_dict()["tubelet"] == 4


@pytest.mark.parametrize(("tubelet", "instants"), [(1, 8), (2, 4), (8, 1)])
def test_tubelets_are_read_off_the_tensors(tubelet, instants):
    config = replace(ViCLIPConfig.b16(), tubelet=tubelet)
    state = empty(config).state_dict()
    assert state["vision_encoder.conv1.weight"].shape == (768, 3, tubelet, 16, 16)
    assert state["vision_encoder.temporal_positional_embedding"].shape == (1, instants, 768)
    assert ViCLIPConfig.from_state_dict(state) == config
    assert (config.instants, config.tokens) == (instants, 196 * instants)


def test_heads_reach_the_model():
    model = empty(replace(ViCLIPConfig.tiny(), heads=6, text_heads=4))
    assert model.vision_encoder.transformer.resblocks[0].attn.heads == 6
    assert model.text_encoder.transformer.resblocks[0].attn.heads == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": 0}, "frames must be a whole number above 0, got 0"),
        ({"layers": True}, "layers must be a whole number above 0, got True"),
        ({"image_size": 60}, r"image_size \(60\) must be a multiple of patch_size \(16\)"),
        ({"heads": 5}, r"width \(96\) must be a multiple of heads \(5\)"),
        ({"text_heads": 3}, r"text_width \(64\) must be a multiple of text_heads \(3\)"),
        ({"tubelet": 3}, r"frames \(4\) must be a multiple of tubelet \(3\)"),
        ({"tubelet": 0}, "tubelet must be a whole number above 0, got 0"),
        ({"stochastic_depth": 1.0}, r"must lie in \[0, 1\), got 1.0"),
        ({"stochastic_depth": float("nan")}, "got nan"),
        ({"crop": (0.5, 0.0, 0.5, 1.0)}, "crop must be top < bottom"),
        ({"crop": (0.0, 0.0, 1.0, 1.5)}, r"within 0..1, got \(0.0, 0.0, 1.0, 1.5\)"),
    ],
)
def test_impossible_sizes_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(ViCLIPConfig.tiny(), **change)


def test_an_unknown_field_is_named():
    with pytest.raises(ConfigError, match=r"'patchsize'\. Did you mean 'patch_size'"):
        ViCLIPConfig.from_dict({"patchsize": 16})


def test_sizes_that_cannot_be_read_are_an_error(config):
    state = empty(config).state_dict()
    with pytest.raises(CheckpointError, match=r"f\.pth: no published size of ViCLIP \(width 64, text width 32"):
        ViCLIPConfig.from_state_dict(state, path="f.pth")
    del state["vision_encoder.proj"]
    with pytest.raises(CheckpointError, match=r"missing, or with a wrong number of axes: vision_encoder\.proj"):
        ViCLIPConfig.from_state_dict(state)
