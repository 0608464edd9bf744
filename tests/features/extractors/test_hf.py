import json
import shutil
import socket
import sys
import warnings

import numpy as np
import pytest
import torch
import transformers
from typer.testing import CliRunner

from mnprobe.cli.main import app
from mnprobe.core.errors import CheckpointError, ConfigError, FeatureError
from mnprobe.core.files import sha256_file
from mnprobe.data import open_dataset
from mnprobe.features import extract, open_features
from mnprobe.features.extractors import hf_models
from mnprobe.features.extractors.hf_preprocessing import Preprocessing, default_fields, processor_kind
from mnprobe.features.inputs import read_clip
from mnprobe.features.store import describe_features, format_description

TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = TOWER | {"vocab_size": 20, "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 2}
IMAGE = {"image_size": 16, "patch_size": 8}
VIDEO = IMAGE | {"num_frames": 4}
VJEPA2 = {
    "crop_size": 16,
    "patch_size": 8,
    "frames_per_clip": 4,
    "hidden_size": 12,
    "num_attention_heads": 1,
    "num_hidden_layers": 2,
    "mlp_ratio": 2,
    "pred_hidden_size": 12,
    "pred_num_attention_heads": 1,
    "pred_num_hidden_layers": 1,
    "pred_num_mask_tokens": 1,
    "num_pooler_layers": 1,
    "num_labels": 3,
}
CONFIGS = {
    "videomae": ("VideoMAEConfig", VIDEO | TOWER),
    "vjepa2": ("VJEPA2Config", VJEPA2),
    "timesformer": ("TimesformerConfig", VIDEO | TOWER),
    "vivit": ("VivitConfig", TOWER | {"image_size": 16, "tubelet_size": [2, 8, 8], "num_frames": 4}),
    "xclip": (
        "XCLIPConfig",
        {
            "text_config": TEXT,
            "vision_config": TOWER
            | VIDEO
            | {"mit_hidden_size": 16, "mit_intermediate_size": 16, "mit_num_attention_heads": 2},
            "projection_dim": 16,
            "prompt_num_attention_heads": 2,
            "prompt_layers": 1,
        },
    ),
    "videoprism": (
        "VideoPrismConfig",
        {
            "text_config": TEXT,
            "vision_config": {
                "hidden_size": 16,
                "intermediate_size": 24,
                "num_attention_heads": 2,
                "image_size": 16,
                "tubelet_size": [1, 8, 8],
                "num_frames": 4,
                "num_spatial_layers": 1,
                "num_temporal_layers": 1,
                "num_auxiliary_layers": 1,
            },
        },
    ),
    "dinov3_vit": ("DINOv3ViTConfig", IMAGE | TOWER | {"num_register_tokens": 2}),
    "dinov2": ("Dinov2Config", IMAGE | {**TOWER, "mlp_ratio": 2}),
    "siglip": ("SiglipConfig", {"text_config": TEXT, "vision_config": TOWER | IMAGE}),
    "siglip2": ("Siglip2Config", {"text_config": TEXT, "vision_config": TOWER | {"num_patches": 9, "patch_size": 4}}),
    "clip": ("CLIPConfig", {"text_config": TEXT, "vision_config": TOWER | IMAGE, "projection_dim": 10}),
    "vit": ("ViTConfig", IMAGE | TOWER),  # of no family that mnprobe knows
}
KINDS = {
    "videomae": "VideoMAE",
    "vjepa2": "VJEPA2",
    "timesformer": "Timesformer",
    "vivit": "Vivit",
    "xclip": "VideoMAE",
}
KINDS |= {"videoprism": "LlavaOnevision", "dinov3_vit": "DINOv3ViT", "dinov2": "Bit", "siglip": "Siglip"}
LEADING = {"timesformer": 1, "vivit": 1, "xclip": 1, "dinov3_vit": 3, "dinov2": 1, "clip": 1, "vit": 1}
KINDS |= {"siglip2": "Siglip2", "clip": "CLIP", "vit": "ViT"}
LAYERS = {  # every layer of the tiny models; u is the first named
    "videomae": "mean",
    "vjepa2": "mean",
    "timesformer": "cls mean",
    "vivit": "cls pooled mean",
    "xclip": "pooled cls mean",
    "videoprism": "pooled mean",
    **dict.fromkeys(("dinov3_vit", "dinov2", "clip", "vit"), "pooled cls mean"),
    **dict.fromkeys(("siglip", "siglip2"), "pooled mean"),
}
VIDEOS = ("videomae", "vjepa2", "timesformer", "vivit", "xclip", "videoprism")


def _json(kind, **more):
    extra = {"patch_size": 4, "max_num_patches": 9} if kind == "Siglip2" else {}
    return default_fields(kind, 16) | extra | more


def _shaken(model):
    """Random numbers in all weights: freshly made ones have many that are zero, such as class tokens."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(5)
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return model.eval()


def _save(model, folder, kind):
    with hf_models._quiet(transformers):
        model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(_json(kind)))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One folder with a tiny model of each family."""
    root = tmp_path_factory.mktemp("hf")
    with hf_models._quiet(transformers):
        for name, (config, fields) in CONFIGS.items():
            if not hasattr(transformers, config):
                continue  # a family that this transformers does not have yet
            model = transformers.AutoModel.from_config(getattr(transformers, config)(**fields))
            _save(_shaken(model), root / name, KINDS[name])
    return root


@pytest.fixture(autouse=True)
def family(request):
    """Skip tests of a family that this transformers does not have yet."""
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    for value in parameters.values():
        if isinstance(value, str) and value in CONFIGS and not hasattr(transformers, CONFIGS[value][0]):
            pytest.skip(f"transformers {transformers.__version__} has no {value}")


@pytest.fixture
def copy(folders, tmp_path):
    """Copy the folder of a model to change it."""

    def make(name, to="copy", **config):
        folder = shutil.copytree(folders / name, tmp_path / to)
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | config))
        return folder

    return make


def _stored(path):
    with open_features(path) as file:
        return {name: file.layer(name).values[:] for name in file.layers}, dict(file.attrs)


def _extract(demos, folder, out, *layers, **settings):
    (done,) = extract(demos, models=[f"hf:{folder}"], layers=layers, out=out / "x.h5", **settings)
    return (*_stored(done.path), done)


def _clips(demos, kind, frames):
    made = Preprocessing.from_json(_json(kind), where="test")
    ready = [made(read_clip(episode, "front", frames, "middle").frames) for episode in open_dataset(demos)]
    return {name: torch.stack([one[name] for one in ready]) for name in ready[0]}


@torch.no_grad()
def _expected(demos, folder, frames):
    """All layers by plain transformers, episode by episode."""
    name = folder.name
    with hf_models._quiet(transformers):
        model = transformers.AutoModel.from_pretrained(folder).eval()
    rows = []
    inputs = _clips(demos, KINDS[name], frames)
    for number in range(len(inputs["pixel_values"])):
        pixels = inputs["pixel_values"][number]
        if name in ("vjepa2", "videoprism"):
            call = {"vjepa2": model, "videoprism": getattr(model, "get_video_features", None)}[name]
            more = {"skip_predictor": True} if name == "vjepa2" else {}
            found = call(pixel_values_videos=pixels[None], output_hidden_states=True, **more)
        elif name == "xclip":
            vision = model.vision_model(pixels, output_hidden_states=True)
            pooled = model.get_video_features(pixels[None]).pooler_output
        elif name in VIDEOS:
            found = model(pixel_values=pixels[None], output_hidden_states=True)
        elif name in ("siglip", "clip"):
            found = model.get_image_features(pixels, output_hidden_states=True)
        elif name == "siglip2":
            given = {key: value[number] for key, value in inputs.items()}
            found = model.get_image_features(**given, output_hidden_states=True)
        else:
            found = model(pixel_values=pixels, output_hidden_states=True)
        if name == "xclip":
            found = vision
        leading = LEADING.get(name, 0)
        mask = inputs["pixel_attention_mask"][number].bool() if name == "siglip2" else None

        def average(tokens, leading=leading, mask=mask):
            if mask is not None:
                return torch.stack([one[keep].mean(0) for one, keep in zip(tokens, mask, strict=True)]).mean(0)
            return tokens[:, leading:].mean(1).mean(0)

        row = {"mean": average(found.last_hidden_state)}
        if leading:
            row["cls"] = found.last_hidden_state[:, 0].mean(0)
        if "pooled" in LAYERS[name]:
            row["pooled"] = (pooled if name == "xclip" else found.pooler_output).flatten(0, -2).mean(0)
        if name != "videoprism":
            for i, state in enumerate(found.hidden_states):
                row[f"hidden.{i}"] = average(state)
        row["u"] = row[LAYERS[name].split()[0]]
        rows.append(row)
    return {layer: torch.stack([row[layer] for row in rows]).numpy() for layer in rows[0]}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_layer_equals_plain_transformers(demos, folders, tmp_path, name):
    hidden = ("hidden.0", "hidden.1", "hidden.2") if name != "videoprism" else ()
    layers = ("u", *LAYERS[name].split(), *hidden)
    found, attributes, done = _extract(demos, folders / name, tmp_path, *layers)
    expected = _expected(demos, folders / name, 4 if name in VIDEOS else 8)
    assert set(found) == set(expected) == set(layers)
    for layer, values in found.items():
        np.testing.assert_allclose(values, expected[layer], rtol=0, atol=1e-6 * max(1, np.abs(expected[layer]).max()))
        assert values.std(axis=0).min() > 0, f"{layer} is the same for all episodes"
    assert (done.id.model, done.kind, done.id.side, done.id.step, done.id.trained) == (
        name,
        "hf",
        "understanding",
        0,
        True,
    )
    described = attributes["model_config"]
    assert described["model_type"] == name
    assert described["transformers"] == transformers.__version__
    assert described["preprocessing"]["kind"] == KINDS[name]
    assert set(described["layers"]) == set(layers)


@pytest.mark.parametrize("name", ["videomae", "xclip", "siglip2", "dinov3_vit"])
def test_values_do_not_depend_on_the_batch(demos, folders, tmp_path, name):
    layers = ("u", "hidden.1")
    one, _, _ = _extract(demos, folders / name, tmp_path / "1", *layers, batch_size=1)
    all_at_once, _, _ = _extract(demos, folders / name, tmp_path / "5", *layers, batch_size=5)
    for layer in layers:
        np.testing.assert_allclose(one[layer], all_at_once[layer], rtol=0, atol=2e-6)


def test_the_command_line_takes_the_folder_after_the_colon_or_as_checkpoint(demos, folders, tmp_path):
    common = ["extract", "--data", demos, "--layer", "hidden.*", "--json"]
    ways = (["--model", f"hf:{folders / 'videomae'}"], ["--model", "hf", "--checkpoint", folders / "videomae"])
    stores = []
    for number, way in enumerate(ways):
        result = CliRunner().invoke(app, list(map(str, [*common, *way, "--out", tmp_path / str(number)])))
        assert result.exit_code == 0, result.output
        (entry,) = json.loads(result.stdout)
        assert entry["path"] == str(tmp_path / str(number) / "videomae" / "demos" / "step_00000000.h5")
        assert entry["layers"] == ["hidden.0", "hidden.1", "hidden.2"]
        stores.append(_stored(entry["path"]))
    for layer, values in stores[0][0].items():
        np.testing.assert_array_equal(values, stores[1][0][layer])
    assert stores[0][1]["checkpoint_sha256"] == stores[1][1]["checkpoint_sha256"]


def test_the_number_of_frames_on_the_command_line(demos, folders, tmp_path):
    common = ["extract", "--data", demos, "--out", tmp_path / "x.h5", "--frames", 2]
    hf = ["--model", f"hf:{folders / 'dinov3_vit'}"]
    result = CliRunner().invoke(app, list(map(str, [*common, *hf])))
    assert result.exit_code == 0, result.output
    assert _stored(tmp_path / "x.h5")[1]["model_config"]["frames"] == 2
    twice = [*common, *hf, "--option", "frames=2"]
    hook = [*common, "--model", "hook", "--factory", "some:factory", "--side", "execution"]
    for wrong, message in ((twice, "are the same; leave one out"), (hook, "unknown option for hook: 'frames'")):
        with pytest.raises(ConfigError, match=message):
            CliRunner().invoke(app, list(map(str, wrong)), catch_exceptions=False)


def test_the_record_says_what_was_taken(demos, folders, tmp_path):
    _, attributes, _ = _extract(demos, folders / "siglip", tmp_path, "u", "hidden.1")
    described = attributes["model_config"]
    assert described["layers"] == {
        "u": "pooler_output of get_image_features, of each frame, mean over frames",
        "hidden.1": "hidden state 1 (0: embeddings), mean over the patch tokens, of each frame, mean over frames",
    }
    assert (described["frames"], described["over_frames"]) == (8, "mean")
    assert described["source"] == str(folders / "siglip")
    assert described["config"]["model_type"] == "siglip"
    assert described["recommended"].startswith("pooled: ")
    assert described["architecture"].endswith("SiglipModel")
    assert attributes["provenance"]["layers"]["u"]["class"].endswith("SiglipModel")
    text = format_description(describe_features(tmp_path / "x.h5"))
    assert "SiglipModel: pooler_output of get_image_features, of each frame, mean over frames" in text


def test_frames_of_a_model_of_pictures_are_averaged_or_concatenated(demos, folders, tmp_path):
    mean, _, _ = _extract(demos, folders / "dinov3_vit", tmp_path / "a", options={"frames": 4})
    chained, attributes, _ = _extract(
        demos, folders / "dinov3_vit", tmp_path / "b", options={"over_frames": "concat", "frames": 4}
    )
    assert chained["u"].shape == (5, 4 * 16)
    np.testing.assert_allclose(chained["u"].reshape(5, 4, 16).mean(axis=1), mean["u"], atol=1e-6)
    assert attributes["model_config"]["over_frames"] == "concat"
    assert attributes["provenance"]["asked"]["options"]["over_frames"] == "concat"


def test_hidden_states_as_their_class_token(demos, folders, tmp_path):
    found, attributes, _ = _extract(demos, folders / "timesformer", tmp_path, "hidden.*", options={"tokens": "cls"})
    assert list(found) == ["hidden.1", "hidden.2"]  # before the first block it is the same for every clip
    with hf_models._quiet(transformers), torch.no_grad():
        model = transformers.AutoModel.from_pretrained(folders / "timesformer").eval()
        states = model(**_clips(demos, "Timesformer", 4), output_hidden_states=True).hidden_states
    for i in (1, 2):
        np.testing.assert_allclose(found[f"hidden.{i}"], states[i][:, 0].numpy(), atol=1e-6)
    assert "class token" in attributes["model_config"]["layers"]["hidden.1"]


def test_half_precision_is_near_and_recorded(demos, folders, tmp_path):
    full, _, _ = _extract(demos, folders / "videomae", tmp_path / "a")
    half, attributes, _ = _extract(demos, folders / "videomae", tmp_path / "b", options={"dtype": "bfloat16"})
    assert 0 < np.abs(half["u"] - full["u"]).max() < 0.05 * np.abs(full["u"]).max()
    assert attributes["model_config"]["dtype"] == "bfloat16"


# ---- random weights ------------------------------------------------------------------------------------------------


def test_random_weights_come_from_the_seed(demos, folders, copy, tmp_path):
    folder = copy("videomae")
    (folder / "model.safetensors").unlink()  # only a configuration
    said = []
    bare, attributes, done = _extract(demos, folder, tmp_path / "a", seed=3, note=said.append)
    assert (done.id.model, done.id.trained, done.id.step) == ("copy-untrained", False, 0)
    assert attributes["provenance"]["asked"]["seed"] == 3
    assert any("random weights from seed 3, not trained" in text for text in said)
    asked, _, other = _extract(demos, folders / "videomae", tmp_path / "b", seed=3, options={"weights": "random"})
    np.testing.assert_array_equal(asked["u"], bare["u"])
    assert other.id.model == "videomae-untrained"
    another, _, _ = _extract(demos, folder, tmp_path / "c", seed=4)
    assert np.abs(another["u"] - bare["u"]).max() > 0.1
    with torch.random.fork_rng():
        torch.manual_seed(3)
        plain = transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(folder)).eval()
    with torch.no_grad():
        values = plain(**_clips(demos, "VideoMAE", 4)).last_hidden_state.mean(1).numpy()
    np.testing.assert_allclose(bare["u"], values, atol=1e-6)
    with pytest.raises(FeatureError, match="seed"):
        _extract(demos, folder, tmp_path / "a", seed=4)
    with pytest.raises(CheckpointError, match="holds no weights"):
        _extract(demos, folder, tmp_path / "d", options={"weights": "pretrained"})


def test_hidden_states_that_do_not_add_up_are_refused(folders):
    """As another version of transformers could give them."""
    model = hf_models.TransformersModel(hf_models.ModelFolder.read(folders / "videomae"), random=True)
    model.module.encoder.layer = model.module.encoder.layer[:1]
    with pytest.raises(FeatureError, match="gave 2 hidden states, not 3 as its blocks"):
        model.vectors({"pixel_values": torch.zeros(1, 4, 3, 16, 16)}, ["hidden.0"], "None")


def test_drawing_weights_leaves_the_random_state_alone(folders):
    folder = hf_models.ModelFolder.read(folders / "videomae")
    before = torch.random.get_rng_state()
    hf_models.TransformersModel(folder, random=True, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())


def test_models_are_in_evaluation_mode(folders, copy):
    folder = copy("timesformer", hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    for random in (True, False):
        model = hf_models.TransformersModel(hf_models.ModelFolder.read(folder), random=random)
        assert not any(part.training for part in model.module.modules())


# ---- weights -------------------------------------------------------------------------------------------------------


def test_the_digest_covers_weights_configuration_and_preprocessing(copy):
    folder = copy("videomae")
    digests = {hf_models.ModelFolder.read(folder).sha256(weights=True)}
    for name in ("model.safetensors", "config.json", "preprocessor_config.json"):
        path = folder / name
        before = sha256_file(path)
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        assert sha256_file(path) != before
        digests.add(hf_models.ModelFolder.read(folder).sha256(weights=True))
        path.write_bytes(content)
    assert len(digests) == 4


def test_weights_in_parts_and_pickled_ones_are_the_same(demos, folders, tmp_path):
    whole, _, _ = _extract(demos, folders / "videomae", tmp_path / "a")
    with hf_models._quiet(transformers):
        model = transformers.AutoModel.from_pretrained(folders / "videomae")
        model.save_pretrained(tmp_path / "parts", max_shard_size="10KB")
    assert len(list((tmp_path / "parts").glob("model-*.safetensors"))) > 1
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    model.config.save_pretrained(pickled)
    torch.save(model.state_dict(), pickled / "pytorch_model.bin")
    for folder in (tmp_path / "parts", pickled):
        shutil.copy(folders / "videomae" / "preprocessor_config.json", folder)
        found, _, _ = _extract(demos, folder, tmp_path / f"{folder.name}-out")
        np.testing.assert_array_equal(found["u"], whole["u"])
    next((tmp_path / "parts").glob("model-00001*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="model-00001"):
        _extract(demos, tmp_path / "parts", tmp_path / "out")


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_pickles_run_no_code(demos, copy, tmp_path, capsys):
    folder = copy("videomae")
    (folder / "model.safetensors").unlink()
    torch.save({"embeddings": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        _extract(demos, folder, tmp_path)
    assert "code ran" not in capsys.readouterr().out


def test_missing_and_senseless_weights_are_refused(demos, folders, copy, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = copy("videomae")
    weights = load_file(folder / "model.safetensors")
    lacking = {name: value for name, value in weights.items() if "encoder.layer.1.attention" not in name}
    save_file(lacking, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lack \d+ weights of VideoMAEModel: 'encoder.layer.1.attention"):
        _extract(demos, folder, tmp_path)
    fewer = {name: value[:8] if "layer.1.layernorm" in name else value for name, value in weights.items()}
    save_file(fewer, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"weights cannot be loaded.*mismatch"):
        _extract(demos, folder, tmp_path)
    name = next(iter(weights))
    save_file(weights | {name: weights[name] * np.nan}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        _extract(demos, folder, tmp_path)
    (folder / "model.safetensors").write_bytes((folders / "videomae" / "model.safetensors").read_bytes()[:900])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        _extract(demos, folder, tmp_path)
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(CheckpointError, match="Git LFS pointer"):
        _extract(demos, folder, tmp_path)


def test_a_pooler_without_weights_is_no_layer(demos, folders, tmp_path):
    """Classifiers of ViViT are saved without the pooler, which transformers would fill with random numbers."""
    with hf_models._quiet(transformers):
        config = transformers.VivitConfig(**CONFIGS["vivit"][1], num_labels=3)
        _save(_shaken(transformers.VivitForVideoClassification(config)), tmp_path / "vivit", "Vivit")
    found, _, _ = _extract(demos, tmp_path / "vivit", tmp_path / "a")
    assert found["u"].shape == (5, 16)
    with pytest.raises(
        ConfigError, match=r"unknown layer of vivit 'pooled'.*Known: cls, hidden.0, hidden.1, hidden.2, mean"
    ):
        _extract(demos, tmp_path / "vivit", tmp_path / "b", "pooled")


def test_a_model_without_its_pooler_says_what_u_is_instead(demos, tmp_path):
    with hf_models._quiet(transformers):
        fields = CONFIGS["siglip"][1]
        config = transformers.SiglipConfig(**fields | {"vision_config": TOWER | IMAGE | {"vision_use_head": False}})
        _save(_shaken(transformers.AutoModel.from_config(config)), tmp_path / "siglip", "Siglip")
    said = []
    found, attributes, _ = _extract(demos, tmp_path / "siglip", tmp_path, "u", "mean", note=said.append)
    np.testing.assert_array_equal(found["u"], found["mean"])
    reason = "mean: the files of this siglip hold no trained pooled output"
    assert f"siglip: u is {reason}" in said
    assert attributes["model_config"]["recommended"] == reason


def test_the_pooler_of_a_v_jepa_2_classifier_is_a_layer(demos, tmp_path):
    with hf_models._quiet(transformers):
        config = transformers.VJEPA2Config(**VJEPA2)
        model = _shaken(transformers.VJEPA2ForVideoClassification(config))
    _save(model, tmp_path / "vjepa2", "VJEPA2")
    found, _, _ = _extract(demos, tmp_path / "vjepa2", tmp_path / "a", "u", "pooled")
    with torch.no_grad():
        last = model.vjepa2(_clips(demos, "VJEPA2", 4)["pixel_values"], skip_predictor=True).last_hidden_state
        pooled = model.pooler(last)
    np.testing.assert_allclose(found["pooled"], pooled.numpy(), atol=1e-6)
    np.testing.assert_allclose(found["u"], last.mean(1).numpy(), atol=1e-6)
    drawn, _, _ = _extract(demos, tmp_path / "vjepa2", tmp_path / "b", "pooled", options={"weights": "random"})
    assert drawn["pooled"].shape == (5, 12)


def test_the_folder_of_a_trainer_tells_the_step(demos, copy, tmp_path):
    folders = [copy("videomae", to=f"mine/checkpoint-{step}") for step in (500, 1000)]
    done = extract(demos, models=["hf"], checkpoints=folders, out=tmp_path / "out")
    assert [(one.id.model, one.id.step, one.id.trained) for one in done] == [("mine", 500, True), ("mine", 1000, True)]


# ---- names on the Hub ----------------------------------------------------------------------------------------------


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache of the Hub; whoever tries the network fails."""
    from huggingface_hub import constants

    def refuse(*_):
        raise AssertionError("the network was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_name_in_the_cache_is_found(demos, folders, cache, tmp_path):
    commit = "a" * 40
    place = cache / "models--someone--tiny-mae"
    shutil.copytree(folders / "videomae", place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    for number, name in enumerate(("someone/tiny-mae", f"someone/tiny-mae@{commit}")):
        _, attributes, done = _extract(demos, name, tmp_path / str(number))
        assert done.id.model == "tiny-mae"
        described = attributes["model_config"]
        assert (described["source"], described["revision"]) == ("someone/tiny-mae", commit)
    (place / "snapshots" / commit / "model.safetensors").unlink()  # as after an interrupted download
    with pytest.raises(ConfigError, match="hf download someone/tiny-mae"):
        _extract(demos, "someone/tiny-mae", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("facebook/nothing", r"Nothing is downloaded unasked; fetch it once:\n  hf download facebook/nothing$"),
        ("facebook/nothing@v2", r"hf download facebook/nothing --revision v2$"),
        ("./no/such/folder", "there is no folder './no/such/folder'"),
        ("no such name", "there is no folder 'no such name'"),
        ("", "say which model"),
    ],
)
def test_a_name_that_is_nowhere_is_one_message(demos, cache, tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        _extract(demos, text, tmp_path)


def test_kinds_without_a_text_are_told_apart(demos, folders, tmp_path):
    with pytest.raises(ConfigError, match=r"write --model viclip --checkpoint weights\.pth"):
        extract(demos, models=["viclip:weights.pth"], out=tmp_path)
    with pytest.raises(ConfigError, match="say which model"):
        extract(demos, models=["hf"], out=tmp_path)
    with pytest.raises(ConfigError, match="say which model"):
        extract(demos, models=["hf", "pixels"], checkpoints=[folders / "videomae"], out=tmp_path)
    with pytest.raises(ConfigError, match="unknown model 'hg:x'"):
        extract(demos, models=["hg:x"], out=tmp_path)
    with pytest.raises(ConfigError, match="is a file; give the folder"):
        _extract(demos, folders / "videomae" / "model.safetensors", tmp_path)


def test_several_models_of_one_command(demos, folders, tmp_path):
    done = extract(
        demos,
        models=[f"hf:{folders / 'videomae'}", "pixels", f"hf:{folders / 'siglip'}"],
        layers=["videomae=mean", "siglip=pooled"],
        out=tmp_path,
    )
    assert {entry.id.model: entry.layers for entry in done} == {
        "videomae": ("mean",),
        "siglip": ("pooled",),
        "pixels": ("u",),
    }


def test_without_transformers_one_message_names_the_extra(demos, folders, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r'pip install "mnprobe\[hf\]"'):
        _extract(demos, folders / "videomae", tmp_path)


def test_a_torchvision_of_another_torch_is_told(demos, folders, tmp_path, monkeypatch):
    (tmp_path / "torchvision").mkdir()
    text = 'raise RuntimeError("operator torchvision::nms does not exist")'
    (tmp_path / "torchvision" / "__init__.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    with pytest.raises(ConfigError, match=r"nms does not exist.*pip uninstall torchvision"):
        _extract(demos, folders / "videomae", tmp_path)


# ---- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("videomae", {"auto_map": {"AutoModel": "mine.Model"}}, "names code of its own"),
        ("videomae", {"quantization_config": {"load_in_8bit": True}}, "quantised"),
        ("videomae", {"model_type": None}, "names no model_type"),
        ("videomae", {"model_type": "no_such_model"}, "cannot be read by transformers.*--model hook"),
        ("videomae", {"num_frames": 5}, "option frames=5: videomae joins 2 frames"),
        (
            "videomae",
            {"image_size": 24},
            r"pictures of 16 x 16, but the positions of this videomae are learned for 24 x 24",
        ),
        ("timesformer", {"attention_type": "space_only"}, r"layer 'cls' of timesformer: gave \(20, 5, 16\)"),
    ],
)
def test_configurations_that_cannot_be_used(demos, copy, tmp_path, name, config, message):
    folder = copy(name, **config)
    options = {"weights": "random"}
    with pytest.raises((ConfigError, FeatureError), match=message):
        _extract(demos, folder, tmp_path, options=options)


def test_folders_that_are_no_model(demos, copy, tmp_path):
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        _extract(demos, demos, tmp_path)
    folder = copy("videomae")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds an adapter"):
        _extract(demos, folder, tmp_path)
    (folder / "adapter_config.json").unlink()
    (folder / "config.json").write_text("[1")
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        _extract(demos, folder, tmp_path)


@pytest.mark.parametrize(
    ("name", "layers", "options", "message"),
    [
        (
            "videomae",
            ["pooled"],
            {},
            r"unknown layer of videomae 'pooled'\..*Known: hidden\.0, hidden\.1, hidden\.2, mean, u",
        ),
        ("videomae", ["cls"], {}, "unknown layer of videomae 'cls'"),
        ("siglip", ["hidden.9"], {}, "unknown layer of siglip 'hidden.9'"),
        ("videoprism", ["hidden.0"], {}, "unknown layer of videoprism 'hidden.0'.*Known: mean, pooled, u"),
        ("videomae", ["blocks.3"], {}, "no chosen model has such a layer"),
        ("videomae", [], {"frames": 8}, "this videomae has positions for 4 frames and takes no other number"),
        ("timesformer", [], {"frames": 8}, "this timesformer has positions for 4 frames"),
        ("vivit", [], {"frames": 2}, "this vivit has positions for 4 frames"),
        ("xclip", [], {"frames": 2}, "this xclip has positions for 4 frames"),
        ("vjepa2", [], {"frames": 5}, "give a multiple of 2"),
        ("vjepa2", [], {"frames": 0}, "option 'frames' must be a whole number"),
        ("videomae", [], {"over_frames": "mean"}, "u of videomae are of whole clips"),
        ("siglip", [], {"over_frames": "max"}, "unknown value for option 'over_frames'"),
        ("siglip", [], {"tokens": "cls"}, "option tokens=cls: siglip has no class token"),
        ("siglip", [], {"dtype": "int8"}, "unknown value for option 'dtype'"),
        ("siglip", [], {"weights": "radnom"}, "Did you mean 'random'"),
        ("siglip", [], {"frame": 3}, "unknown option for hf"),
    ],
)
def test_requests_that_a_model_cannot_fulfil(demos, folders, tmp_path, name, layers, options, message):
    with pytest.raises(ConfigError, match=message):
        _extract(demos, folders / name, tmp_path, *layers, options=options)
    assert not (tmp_path / "x.h5").exists()


def test_v_jepa_2_takes_other_numbers_of_frames(demos, folders, tmp_path):
    found, attributes, _ = _extract(demos, folders / "vjepa2", tmp_path, options={"frames": 6})
    np.testing.assert_allclose(found["u"], _expected(demos, folders / "vjepa2", 6)["u"], atol=1e-6)
    assert attributes["model_config"]["frames"] == 6


def test_unknown_models_whose_shapes_leave_a_doubt(demos, folders, tmp_path):
    """DeiT has a second leading token; a language model reads no pictures."""
    deit = transformers.DeiTConfig(**IMAGE, **TOWER)
    bert = transformers.BertConfig(**TOWER, vocab_size=20)
    for name, config, message in (
        ("deit", deit, "6 tokens are not 1 and one per patch"),
        ("bert", bert, "its input is 'input"),
    ):
        with hf_models._quiet(transformers):
            _save(transformers.AutoModel.from_config(config), tmp_path / name, "ViT")
        with pytest.raises(ConfigError, match=f"model_type {name!r} is none of those.*{message}.*--model hook"):
            _extract(demos, tmp_path / name, tmp_path / "out")


# ---- preprocessing -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def official(golden):
    facts = json.loads((golden / "hf" / "preprocess.json").read_text())
    with np.load(golden / "hf" / "preprocess.npz") as arrays:
        return facts, dict(arrays)


def test_preprocessing_equals_the_official_processors_within_one_grey_level(official):
    facts, arrays = official
    for case, fields in facts["cases"].items():
        made = Preprocessing.from_json(fields, where=case)
        level = (made.rescale or 1.0) / np.array(made.std or (1.0,) * 3)
        for clip in ("wide", "tall", "small"):
            found = made(arrays[f"input/{clip}"])
            for name, values in found.items():
                expected = arrays[f"{case}/{clip}/{name}"]
                assert values.shape == expected.shape, case
                if made.patch_size is not None or name != "pixel_values":
                    most = level.max() if name == "pixel_values" else 0
                    np.testing.assert_allclose(values.numpy(), expected, rtol=0, atol=most * 1.001, err_msg=case)
                else:
                    difference = np.abs(values.numpy() - expected) / level[:, None, None]
                    assert difference.max() <= 1.001, (case, clip, difference.max())
                    assert (difference > 0.01).mean() < 0.05, (case, clip)


def test_what_a_json_leaves_out_is_as_in_the_official_classes(official):
    """Old files name a few keys only, and sizes as one number."""
    for name, fields in official[0]["defaults"].items():
        kind = processor_kind(fields)
        bare = Preprocessing.from_json({"image_processor_type": name}, where=name)
        assert bare == Preprocessing.from_json(fields, where=name), name
        assert Preprocessing.from_json({}, where=name, kind=kind) == bare
    old = {"feature_extractor_type": "VideoMAEFeatureExtractor", "size": 20, "crop_size": 20}
    assert Preprocessing.from_json(old, where="old").describe()["size"] == 20
    assert Preprocessing.from_json({"size": 20}, where="old", kind="ViT").describe()["size"] == [20, 20]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"crop_pct": 0.9},
            "the key 'crop_pct' .0.9. is a step of preprocessing that mnprobe does not do for VideoMAE",
        ),
        ({"do_pad": True}, "the key 'do_pad'"),
        ({"do_flip_channel_order": True}, "the key 'do_flip_channel_order'"),
        ({"offset": True}, "the key 'offset'"),
        ({"patch_size": 4}, "the key 'patch_size'"),
        ({"data_format": "channels_last"}, "the key 'data_format'"),
        ({"resample": 1}, r"resample 1 \(Lanczos\) is not supported"),
        ({"resample": "bilinear"}, "resample 'bilinear'"),
        ({"size": {"longest_edge": 20}}, "size must be"),
        ({"size": {"shortest_edge": 20, "longest_edge": 30}}, "size must be"),
        ({"size": 0}, "size must be whole numbers from 1"),
        ({"crop_size": {"shortest_edge": 20}}, "crop_size must be"),
        ({"image_std": [1, 0, 1]}, "image_std must be one number or three above 0"),
        ({"image_mean": [1, 0]}, "image_mean must be"),
        ({"rescale_factor": -1}, "rescale_factor must be"),
        ({"do_resize": "yes"}, "do_resize must be true or false"),
        ({"image_processor_type": "ConvNextImageProcessor"}, "unknown processor 'ConvNext'"),
    ],
)
def test_preprocessing_that_is_not_supported_is_refused_by_name(demos, copy, tmp_path, fields, message):
    folder = copy("videomae")
    (folder / "preprocessor_config.json").write_text(json.dumps(_json("VideoMAE") | fields))
    with pytest.raises(ConfigError, match=message):
        _extract(demos, folder, tmp_path)


def test_keys_that_change_nothing_are_taken():
    extra = {"do_pad": False, "pad_size": None, "do_sample_frames": True, "fps": 4, "data_format": "channels_first"}
    made = Preprocessing.from_json(_json("VideoMAE") | extra, where="x")
    assert made == Preprocessing.from_json(_json("VideoMAE"), where="x")


def test_the_json_is_sought_where_transformers_seeks_it(copy):
    folder = copy("videomae")
    model = hf_models.ModelFolder.read(folder)
    names = ("preprocessor_config.json", "video_preprocessor_config.json")
    for number, name in enumerate(names):
        (folder / name).write_text(json.dumps({"size": number}))
    whole = {"video_processor": {"size": 2}, "image_processor": {"size": 3}}
    assert model.processor(video=True) == ({"size": 1}, str(folder / names[1]))
    assert model.processor(video=False) == ({"size": 0}, str(folder / names[0]))
    (folder / "processor_config.json").write_text(json.dumps(whole))
    assert model.processor(video=True)[0] == {"size": 2}
    assert model.processor(video=False)[0] == {"size": 3}
    for name in (*names, "processor_config.json"):
        (folder / name).unlink()
    assert model.processor(video=True) is None


def test_without_a_json_the_official_defaults_are_taken_and_said(demos, folders, copy, tmp_path):
    for name in ("videomae", "siglip2"):
        folder = copy(name, to=name)
        (folder / "preprocessor_config.json").unlink()
        said = []
        found, attributes, _ = _extract(demos, folder, tmp_path / f"{name}-a", note=said.append)
        expected, _, _ = _extract(demos, folders / name, tmp_path / f"{name}-b")
        np.testing.assert_array_equal(found["u"], expected["u"])
        assert any("has no preprocessor_config.json" in text for text in said)
        assert attributes["model_config"]["preprocessing"]["kind"] == KINDS[name]
    folder = copy("vit", to="vit")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match=r"save_pretrained\(FOLDER\)"):
        _extract(demos, folder, tmp_path / "out")


def test_pictures_of_several_sizes_are_refused(write_demo, copy, tmp_path):
    for number in (0, 1):
        write_demo(tmp_path / "data", "open_drawer", 0, "train", number, "open it", 6, size=16 + 2 * number)
    folder = copy("dinov3_vit")
    (folder / "preprocessor_config.json").write_text(json.dumps(_json("DINOv3ViT", do_resize=False)))
    with pytest.raises(ConfigError, match=r"several sizes \(16 x 16, 18 x 18\)"):
        _extract(tmp_path / "data", folder, tmp_path)


def test_loading_is_silent(demos, folders, tmp_path, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _extract(demos, folders / "vivit", tmp_path)
    assert capfd.readouterr() == ("", "")
