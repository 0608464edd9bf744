"""Names of feature files, models, sources and steps."""

import dataclasses
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnprobe.core.errors import ConfigError, FeatureError
from mnprobe.core.names import (
    FeatureId,
    LayerId,
    ModelName,
    Side,
    Source,
    feature_path,
    model_of_training,
    parse_feature_path,
    step_name,
    step_of,
)

TEXT = st.text(max_size=12) | st.sampled_from(["a/b", "%2F", "100%", "demos", "demos-blank", "x-blank-blank", "-blank"])
STEPS = st.integers(0, 10**15 - 1)
FEATURES = {
    "model": TEXT,
    "side": st.sampled_from([*Side, *map(str, Side)]),
    "source": TEXT | st.sampled_from(Source),
    "blank": st.booleans(),
    "step": STEPS,
    "training": TEXT,
    "trained": st.booleans(),
}
PLAIN = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True)


@given(st.builds(FeatureId, **FEATURES))
def test_features_survive_their_text(feature):
    assert FeatureId.parse(str(feature)) == feature
    assert FeatureId(**vars(feature)) == feature


@given(st.builds(LayerId, **FEATURES, layer=TEXT, pool=TEXT))
def test_layers_survive_their_text(layer):
    assert LayerId.parse(str(layer)) == layer
    assert LayerId.of(layer.id, layer=layer.layer, pool=layer.pool) == layer
    with pytest.raises(FeatureError, match="the form is <side>/<model>/<source>/step_<number>/trained/<training>"):
        FeatureId.parse(str(layer))


@given(st.text() | PLAIN.map("arp-{}".format) | PLAIN.map("viclip-{}-seed3".format) | PLAIN.map("arp-{}-blank".format))
def test_model_names_survive_their_parts(text):
    parts = ModelName.parse(text)
    assert ModelName.parse(str(parts)) == parts
    assert dataclasses.replace(parts) == parts
    if "seed0" not in text:  # seeds are numbers: "seed007" is seed 7
        assert str(parts) == text


@given(PLAIN, PLAIN, STEPS)
def test_feature_paths_survive(folder, source, step):
    path = feature_path(folder, source, step)
    assert parse_feature_path(Path("/run/features") / path) == (folder, source, step)
    assert step_of(step_name(step)) == step


@pytest.mark.parametrize(
    ("feature", "path", "text"),
    [
        (
            FeatureId(model="arp-joint", side=Side.EXECUTION, source="demos-blank", step=1000, training="joint"),
            "arp-joint/demos-blank/step_00001000.h5",
            "execution/arp-joint/demos-blank/step_00001000/trained/joint",
        ),
        (
            FeatureId(model="viclip", side=Side.UNDERSTANDING, trained=False),
            "viclip/demos/step_00000000.h5",
            "understanding/viclip/demos/step_00000000/untrained/",
        ),
        (
            FeatureId(
                model="pixels",
                side=Side.UNDERSTANDING,
                source=Source.ROLLOUTS,
                step=123456789,
                training="joint-seed1",
                trained=False,
            ),
            "pixels-joint-seed1/rollouts/step_123456789.h5",
            "understanding/pixels/rollouts/step_123456789/untrained/joint-seed1",
        ),
        (
            FeatureId(model="arp", side=Side.EXECUTION, source="lab/2", blank=True, step=7, training="100%"),
            "arp/lab/2-blank/step_00000007.h5",
            "execution/arp/lab%2F2-blank/step_00000007/trained/100%25",
        ),
    ],
)
def test_golden_names_of_features(feature, path, text):
    assert (feature.path.as_posix(), str(feature)) == (path, text)


def test_a_blanked_source_is_one_source():
    named = FeatureId(model="arp", side=Side.EXECUTION, source="demos-blank")
    assert named == FeatureId(model="arp", side=Side.EXECUTION, source=Source.DEMOS, blank=True)
    assert (named.source, named.blank, named.source_name) == ("demos", True, "demos-blank")
    assert named.source in list(Source)
    assert FeatureId(model="arp", side=Side.EXECUTION, source="lab").source_name == "lab"


def test_values_of_enums_are_those_on_disk():
    assert [str(side) for side in Side] == ["understanding", "execution"]
    assert [str(source) for source in Source] == ["demos", "rollouts"]


def test_the_file_stem_of_a_layer_is_that_of_heads_and_scores():
    layer = LayerId(
        model="arp-joint", side=Side.EXECUTION, source="demos-blank", step=20, layer="blocks.3", pool="token:3"
    )
    assert layer.file_stem == "arp-joint-demos-blank-step20-blocks.3-token3"


@pytest.mark.parametrize(
    ("text", "parts", "without_seed"),
    [
        ("viclip", ("viclip", "", None, False), "viclip"),
        ("arp-blank", ("arp", "", None, True), "arp-blank"),
        ("arp-seed3", ("arp", "", 3, False), "arp"),
        ("arp-joint-0.02-seed12-blank", ("arp", "joint-0.02", 12, True), "arp-joint-0.02-blank"),
        ("arp_plus", ("arp_plus", "", None, False), "arp_plus"),
        ("sim-clip-seed1", ("sim-clip-seed1", "", None, False), "sim-clip-seed1"),
        ("pixels", ("pixels", "", None, False), "pixels"),
        ("expert-blank", ("expert-blank", "", None, False), "expert-blank"),
        ("", ("", "", None, False), ""),
    ],
)
def test_golden_names_of_models(text, parts, without_seed):
    name = ModelName.parse(text)
    assert (name.family, name.training, name.seed, name.blank) == parts
    assert (str(name), name.without_seed) == (text, without_seed)
    assert FeatureId(model=text, side=Side.EXECUTION).seed == name.seed


def test_models_of_a_training_have_its_name_and_seed():
    assert model_of_training("viclip", "baseline") == "viclip-baseline"
    assert ModelName.parse(model_of_training("arp", "joint-seed2")) == ModelName(family="arp", training="joint", seed=2)


@pytest.mark.parametrize(
    "parts",
    [
        {"family": "arp", "training": "joint-seed1"},
        {"family": "arp", "training": "blank"},
        {"family": "arp", "training": "seed1"},
        {"family": "arp-joint"},
        {"family": "mine", "training": "joint"},
        {"family": "mine", "seed": 1},
        {"family": "mine", "blank": True},
        {"family": "arp", "seed": -1},
    ],
)
def test_parts_whose_text_means_something_else_are_refused(parts):
    with pytest.raises(ConfigError, match="this has other parts than"):
        ModelName(**parts)


@pytest.mark.parametrize(
    "text",
    [
        *("", "arp", "execution/arp/demos/step_00000001/trained", "execution/arp/demos/step_00000001/trained/a/b"),
        *("execution/arp/demos/1/trained/", "execution/arp/demos/step_00000001/yes/", "execution/arp/demos"),
        *("execution/arp/demos/step_00000001x/trained/", "execution/arp/demos/step_000000001/trained/"),
        *("execution/arp/demos/step_00000001/trained/%41", "sideways/arp/demos/step_00000001/trained/"),
    ],
)
def test_other_texts_do_not_identify_features(text):
    with pytest.raises(FeatureError):
        FeatureId.parse(text)


def test_an_unknown_side_is_refused_with_those_that_are_known():
    with pytest.raises(FeatureError, match="side must be one of understanding, execution, got 'both'"):
        FeatureId(model="m", side="both")


def test_other_paths_are_no_features():
    assert parse_feature_path(Path("arp/demos/model_80000.h5")) is None
    assert parse_feature_path(Path("demos/step_00000001.h5")) is None
    assert parse_feature_path(PureWindowsPath("r\\features\\arp\\demos\\step_00000001.h5")) == ("arp", "demos", 1)
    with pytest.raises(ConfigError, match="step must be >= 0, got -1"):
        step_name(-1)
