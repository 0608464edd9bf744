"""pi0 of transformers: the same values as a plain call of `sample_actions`, with tiny random weights."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers.utils import logging

from mnprobe.core.errors import CheckpointError, ConfigError
from mnprobe.data import open_dataset
from mnprobe.features import extract, open_features
from mnprobe.features.extractors.pi0 import _Pictures

DATA = Path(__file__).parents[2] / "golden" / "lerobot" / "v30-images"
WORDS = ["<pad>", "<bos>", "<eos>", "<unk>", "<image>", "pick", "the", "red", "cube", "open", "drawer"]
GEMMA = {
    "model_type": "gemma",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "vocab_size": len(WORDS),
}
CONFIG = {
    "vlm_config": {
        "model_type": "paligemma",
        "text_config": GEMMA,
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
            "vision_use_head": False,
        },
        "projection_dim": 16,
        "image_token_id": 4,
    },
    "dit_config": GEMMA,
    "chunk_size": 3,
    "max_state_dim": 8,
    "max_action_dim": 8,
    "num_inference_steps": 4,
}
CAMERAS = {"cameras": "front,wrist"}


@pytest.fixture(scope="module")
def dataset():
    return open_dataset(f"lerobot:{DATA}", decisions=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, dataset):
    """A tiny pi0 with tokenizer, and statistics of the state in its processor's JSON."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    home = tmp_path_factory.mktemp("pi0") / "mine" / "checkpoint-30"
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = transformers.PI0ForConditionalGeneration(transformers.PI0Config(**CONFIG))
        model.save_pretrained(home)
        words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
        words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=words, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>"
        ).save_pretrained(home)
    finally:
        logging.set_verbosity(before)
    width = dataset[0].state.values.shape[1]
    fields = {"state_mean": [0.5] * width, "state_std": [2.0] * width}
    (home / "processor_config.json").write_text(json.dumps(fields))
    return home


def run(folder, out, layers=(), **options):
    settings = {"layers": list(layers)} if layers else {}
    seed = options.pop("seed", 0)
    (done,) = extract(
        f"lerobot:{DATA}", out=out, models=[f"pi0:{folder}"], decisions=2, device="cpu", seed=seed, options=options,
        **settings,
    )  # fmt: skip
    with open_features(done.path) as file:
        return done, {name: file.layer(name).values[:] for name in file.layers}, file.attrs


def plain(model, episode, decision, text, noise):
    """Sample actions at one decision, and return what the halves gave."""
    kept = {}
    hooks = [
        model.action_out_proj.register_forward_pre_hook(lambda _, args: kept.update(e=args[0][0])),
        model.model.vlm.register_forward_hook(lambda *call: kept.update(vlm=call[2].last_hidden_state[0])),
    ]
    pictures = []
    for camera in ("observation.images.front", "observation.images.wrist"):
        image = torch.from_numpy(episode.image(camera, decision)).movedim(-1, 0)[None].float()
        height, width = image.shape[-2:]
        size = [int(height * 28 / max(height, width)), int(width * 28 / max(height, width))]
        for step in ((height, size[1]), size):  # as torchvision does with bytes: rounded after each
            image = torch.nn.functional.interpolate(image, size=step, mode="bicubic", antialias=True)
            image = (image.clamp(0, 255) + 0.5).floor()
        image = (image / 255 - 0.5) / 0.5
        pictures.append(torch.nn.functional.pad(image, (0, 28 - size[1], 0, 28 - size[0]))[0])
    state = (torch.from_numpy(episode.state.values[decision]).float() - 0.5) / 2
    state = torch.nn.functional.pad(state, (0, 8 - len(state)))[None]
    ids = torch.tensor([[4] * 8 + [1] + [WORDS.index(word) for word in text.split()]])
    model.sample_actions(
        state=state,
        input_ids=ids,
        pixel_values=torch.stack(pictures)[None],
        attention_mask=torch.ones_like(ids),
        pixel_attention_mask=torch.ones(1, 2, dtype=torch.bool),
        noise=noise,
    )
    for hook in hooks:
        hook.remove()
    return kept


def test_both_halves_are_what_a_plain_call_gives(folder, dataset, tmp_path):
    done, values, attrs = run(folder, tmp_path, **CAMERAS)
    assert (done.id.model, done.id.step, done.id.trained, done.layers) == ("mine", 30, True, ("e", "vlm"))
    model = transformers.PI0ForConditionalGeneration.from_pretrained(folder).eval()
    noise = torch.randn((1, 3, 8), generator=torch.Generator().manual_seed(0))
    expected = [
        plain(model, episode, decision, episode.instruction, noise)
        for episode in dataset
        for decision in episode.decisions
    ]
    for layer in ("e", "vlm"):
        joined = torch.cat([one[layer] for one in expected]).detach().numpy()
        np.testing.assert_allclose(values[layer], joined, rtol=1e-4, atol=1e-5)
    assert attrs["model_config"]["cameras"] == ["observation.images.front", "observation.images.wrist"]


def test_noise_state_and_instruction_matter_and_nothing_else(folder, tmp_path):
    before, _ = torch.get_rng_state(), torch.manual_seed(5)
    _, first, _ = run(folder, tmp_path / "a", **CAMERAS)
    torch.manual_seed(6)
    state = torch.get_rng_state()
    _, again, _ = run(folder, tmp_path / "b", **CAMERAS)
    assert torch.equal(torch.get_rng_state(), state)
    torch.set_rng_state(before)
    assert first["e"].tobytes() == again["e"].tobytes()
    _, noisy, _ = run(folder, tmp_path / "c", noise_seed=1, **CAMERAS)
    assert not np.allclose(noisy["e"], first["e"])
    np.testing.assert_array_equal(noisy["vlm"], first["vlm"])  # no noise enters the vision-language half
    _, blank, _ = run(folder, tmp_path / "d", blank_instruction=True, **CAMERAS)
    assert len(blank["vlm"]) < len(first["vlm"])
    _, raw, _ = run(folder, tmp_path / "e", normalize=False, **CAMERAS)
    assert not np.allclose(raw["e"], first["e"])


def test_the_last_step_is_taken_and_others_can_be(folder, tmp_path):
    _, values, _ = run(folder, tmp_path / "a", ["e", "dit"], **CAMERAS)
    name = "action_out_proj:in"
    for call, same in ((3, True), ("last", True), ("first", False)):
        _, other, _ = run(folder, tmp_path / str(call), [name], call=call, **CAMERAS)
        assert np.array_equal(other["action_out_proj.in"], values["e"]) is same
    _, every, _ = run(folder, tmp_path / "all", [name], **CAMERAS)
    assert len(every["action_out_proj.in"]) == 4 * len(values["e"])
    rows = values["dit"].reshape(-1, 4, 16)[:, 1:].reshape(-1, 16)  # the state's token comes first
    np.testing.assert_array_equal(rows, values["e"])


def test_random_weights_are_the_control_at_step_0(folder, tmp_path):
    done, first, _ = run(folder, tmp_path / "a", weights="random", **CAMERAS)
    assert (done.id.model, done.id.step, done.id.trained) == ("mine-untrained", 0, False)
    _, other, _ = run(folder, tmp_path / "b", weights="random", seed=1, **CAMERAS)
    assert not np.allclose(first["e"], other["e"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "by their order only: name the dataset's.*observation.images.front"),
        ({"cameras": "front,back"}, "the cameras here are"),
        (CAMERAS | {"state": "nothing"}, "column of the state"),
    ],
)
def test_what_does_not_fit_is_refused(folder, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        run(folder, tmp_path, **options)


def test_a_folder_without_statistics_or_with_other_weights_is_refused(folder, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    (bare / "processor_config.json").unlink()
    with pytest.raises(ConfigError, match="normalize=false"):
        run(bare, tmp_path / "out", **CAMERAS)
    config = json.loads((folder / "config.json").read_text())
    (bare / "config.json").write_text(json.dumps(config | {"model_type": "siglip"}))
    with pytest.raises(ConfigError, match="not a pi0"):
        run(bare, tmp_path / "out", **CAMERAS)
    config["dit_config"]["num_hidden_layers"] = 3
    (bare / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="do not fit"):
        run(bare, tmp_path / "out", normalize=False, **CAMERAS)


def test_pictures_keep_their_shape_and_are_filled_below_and_right():
    made = _Pictures(size=8)(torch.ones(1, 3, 4, 2))
    assert made.shape == (1, 3, 8, 8)
    assert (made[..., :4] == 1).all()
    assert (made[..., 4:] == 0).all()
