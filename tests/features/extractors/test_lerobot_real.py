"""The real lerobot, where it is installed (Python 3.12 or later): the same values as a plain call of the policy."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mnprobe.core.errors import CheckpointError
from mnprobe.data import open_dataset
from mnprobe.features import extract, open_features

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("lerobot") is None, reason="lerobot is not installed (Python >= 3.12)"),
    pytest.mark.filterwarnings("ignore"),
]
DATA = Path(__file__).parents[2] / "golden" / "lerobot" / "v30-images"
SMALL = {
    "act": {"dim_model": 32, "n_heads": 2, "dim_feedforward": 32, "n_encoder_layers": 1, "n_vae_encoder_layers": 1,
            "chunk_size": 5, "n_action_steps": 5, "latent_dim": 4},
    "diffusion": {"down_dims": [16, 32], "horizon": 8, "n_action_steps": 4, "n_groups": 4, "num_inference_steps": 3,
                  "spatial_softmax_num_keypoints": 4, "crop_shape": None, "crop_ratio": 1.0},
}  # fmt: skip


@pytest.fixture(scope="module")
def dataset():
    return open_dataset(f"lerobot:{DATA}", decisions=3)


def config_of(kind, episode):
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.factory import make_policy_config

    height, width = episode.image(episode.cameras[0], 0).shape[:2]
    inputs = {name: PolicyFeature(FeatureType.VISUAL, (3, height, width)) for name in episode.cameras}
    inputs["observation.state"] = PolicyFeature(FeatureType.STATE, (episode.state.values.shape[1],))
    outputs = {"action": PolicyFeature(FeatureType.ACTION, (episode.action.values.shape[1],))}
    fields = {} if kind == "smolvla" else {"pretrained_backbone_weights": None}
    fields |= {name: tuple(value) if isinstance(value, list) else value for name, value in SMALL[kind].items()}
    return make_policy_config(kind, input_features=inputs, output_features=outputs, device="cpu", **fields)


@pytest.fixture(scope="module", params=["act", "diffusion"])
def checkpoint(request, dataset, tmp_path_factory):
    """A folder that lerobot itself saved, with statistics of the data, and the policy in memory."""
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    kind, episode = request.param, dataset[0]
    config = config_of(kind, episode)
    torch.manual_seed(3)
    policy = get_policy_class(kind)(config).eval()
    state, action = episode.state.values, episode.action.values
    stats = {
        "observation.state": {"mean": state.mean(0), "std": state.std(0) + 1, "min": state.min(0), "max": state.max(0)},
        "action": {"mean": action.mean(0), "std": action.std(0) + 1, "min": action.min(0), "max": action.max(0)},
    }
    stats |= {
        name: {"mean": np.full((3, 1, 1), 0.4), "std": np.full((3, 1, 1), 0.2), "min": np.zeros((3, 1, 1)),
               "max": np.ones((3, 1, 1))}
        for name in episode.cameras
    }  # fmt: skip
    stats = {name: {key: torch.tensor(value).float() for key, value in one.items()} for name, one in stats.items()}
    processors = make_pre_post_processors(config, dataset_stats=stats)
    folder = tmp_path_factory.mktemp(kind) / "mine" / "checkpoints" / "000020" / "pretrained_model"
    policy.save_pretrained(folder)
    for one in processors:
        one.save_pretrained(folder)
    (folder.parent / "training_state").mkdir()
    (folder.parent / "training_state" / "training_step.json").write_text(json.dumps({"step": 20}))
    return kind, folder, policy, processors[0]


def plain(kind, policy, preprocess, episode):
    """What enters the head, by a plain call at the decisions."""
    kept = []
    if kind == "act":
        module, take = policy.model.action_head, lambda args, kwargs: args[0]
    else:
        module, take = policy.diffusion.unet, lambda args, kwargs: kwargs["global_cond"]
    handle = module.register_forward_pre_hook(lambda _, args, kwargs: kept.append(take(args, kwargs)), with_kwargs=True)
    values = []
    for decision in episode.decisions:
        steps = [decision] if kind == "act" else [max(decision - 1, 0), decision]
        batch = {"task": [episode.instruction]}
        for name in episode.cameras:
            images = torch.from_numpy(episode.images(name, steps)).movedim(-1, -3).float() / 255
            batch[name] = images if kind == "act" else images[None]
        state = torch.from_numpy(episode.state.values[steps].astype(np.float32))
        batch["observation.state"] = state if kind == "act" else state[None]
        policy.reset()
        kept.clear()
        policy.predict_action_chunk(preprocess(batch))
        values.append(kept[0].flatten(0, -2) if kind == "act" else kept[0])
    handle.remove()
    return torch.cat(values).numpy()


def test_a_checkpoint_of_lerobot_gives_what_enters_its_head(checkpoint, dataset, tmp_path):
    kind, folder, policy, preprocess = checkpoint
    (done,) = extract(f"lerobot:{DATA}", out=tmp_path, models=[f"lerobot:{folder}"], decisions=3, device="cpu")
    assert (done.id.model, done.id.step, done.id.trained, done.layers) == ("mine", 20, True, ("e",))
    with open_features(done.path) as file:
        for number, episode in enumerate(dataset):
            rows = file.layer("e").tokens(number)
            np.testing.assert_allclose(rows, plain(kind, policy, preprocess, episode), rtol=2e-4, atol=2e-5)


def test_every_layer_is_the_same_in_other_batches_and_again(checkpoint, tmp_path):
    _, folder, _, _ = checkpoint
    layers = ["e", "denoised"] if checkpoint[0] == "diffusion" else ["e", "encoder", "output"]
    files = []
    for name, size in (("a", 8), ("b", 2), ("c", 8)):
        (done,) = extract(
            f"lerobot:{DATA}", out=tmp_path / name, models=[f"lerobot:{folder}"], layers=layers, decisions=3,
            device="cpu", batch_size=size,
        )  # fmt: skip
        with open_features(done.path) as file:
            files.append({layer: file.layer(layer).values[:] for layer in layers})
    for layer in layers:
        np.testing.assert_allclose(files[0][layer], files[1][layer], rtol=2e-4, atol=2e-5)
        assert files[0][layer].tobytes() == files[2][layer].tobytes()


def test_weights_of_another_size_are_refused(checkpoint, tmp_path):
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(checkpoint[1], broken)
    weights = load_file(broken / "model.safetensors")
    weights.popitem()
    save_file(weights, broken / "model.safetensors")
    with pytest.raises(CheckpointError, match="does not fit this version of lerobot"):
        extract(f"lerobot:{DATA}", out=tmp_path / "out", models=[f"lerobot:{broken}"], device="cpu")


# ---- SmolVLA -------------------------------------------------------------------------------------------------------

WORDS = ["<unk>", "<pad>", "<s>", "</s>", "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
WORDS += ["pick", "the", "red", "cube", "open", "drawer"]


def tiny_vlm(folder):
    """A local SmolVLM of a few thousand weights: configuration, tokenizer by words, processor."""
    import transformers as tf
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"image_token": WORDS[4], "fake_image_token": WORDS[5], "global_image_token": WORDS[6]}
    special["end_of_utterance_token"] = WORDS[7]
    tokenizer = tf.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        extra_special_tokens=special,
    )  # fmt: skip
    tokenizer.fake_image_token_id, tokenizer.global_image_token_id = 5, 6
    text = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    text |= {"vocab_size": len(WORDS), "pad_token_id": 1}
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 32, "patch_size": 8}
    tf.SmolVLMConfig(
        text_config=text, vision_config=vision, scale_factor=2, image_token_id=4, pad_token_id=1
    ).save_pretrained(folder)
    tf.SmolVLMProcessor(
        image_processor=tf.SmolVLMImageProcessor(), tokenizer=tokenizer, video_processor=tf.SmolVLMVideoProcessor()
    ).save_pretrained(folder)


@pytest.fixture(scope="module", params=["longest", "max_length"])
def smolvla(request, dataset, tmp_path_factory):
    """A folder that lerobot saved, the policy in memory, and its preprocessing."""
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    root = tmp_path_factory.mktemp("smolvla")
    tiny_vlm(root / "vlm")
    SMALL["smolvla"] = {
        "vlm_model_name": str(root / "vlm"), "chunk_size": 6, "n_action_steps": 6, "num_steps": 4, "num_vlm_layers": 2,
        "resize_imgs_with_padding": [32, 32], "load_vlm_weights": False, "max_state_dim": 16, "max_action_dim": 16,
        "pad_language_to": request.param, "tokenizer_max_length": 12,
    }  # fmt: skip
    config = config_of("smolvla", dataset[0])
    torch.manual_seed(3)
    policy = get_policy_class("smolvla")(config).eval()
    processors = make_pre_post_processors(config)
    folder = root / "mine" / "checkpoints" / "000020" / "pretrained_model"
    policy.save_pretrained(folder)
    for one in processors:
        one.save_pretrained(folder)
    return folder, policy, processors[0]


def test_both_halves_of_smolvla_are_what_a_plain_call_with_this_noise_gives(smolvla, dataset, tmp_path):
    folder, policy, preprocess = smolvla
    (done,) = extract(f"lerobot:{DATA}", out=tmp_path, models=[f"lerobot:{folder}"], decisions=3, device="cpu")
    assert done.layers == ("e", "vlm")
    noise = torch.randn((1, 6, 16), generator=torch.Generator().manual_seed(0))
    kept = {}
    norm = policy.model.vlm_with_expert.vlm.model.text_model.norm
    policy.model.action_out_proj.register_forward_pre_hook(lambda _, args: kept.update(e=args[0][0].clone()))
    norm.register_forward_hook(lambda *call: kept.update(vlm=call[2][0].clone()))
    with open_features(done.path) as file:
        for number, episode in enumerate(dataset):
            expected = {"e": [], "vlm": []}
            for decision in episode.decisions:
                batch = {name: torch.from_numpy(episode.image(name, decision)).movedim(-1, 0)[None] / 255
                         for name in episode.cameras}  # fmt: skip
                batch["observation.state"] = torch.from_numpy(episode.state.values[[decision]].astype(np.float32))
                policy.reset()
                ready = preprocess(batch | {"task": [episode.instruction]})
                policy.predict_action_chunk(ready, noise=noise.clone())
                mask = ready["observation.language.attention_mask"][0].bool()
                images = len(kept["vlm"]) - len(mask) - 1
                keep = [True] * images + mask.tolist() + [True]
                expected["e"].append(kept["e"])
                expected["vlm"].append(kept["vlm"][torch.tensor(keep)])
            for layer, parts in expected.items():
                found = file.layer(layer).tokens(number)
                np.testing.assert_allclose(found, torch.cat(parts).detach().numpy(), rtol=1e-3, atol=1e-4)


def test_a_blank_instruction_changes_smolvla(smolvla, tmp_path):
    stores = []
    for name, blank in (("a", False), ("b", True)):
        (done,) = extract(
            f"lerobot:{DATA}", out=tmp_path / name, models=[f"lerobot:{smolvla[0]}"], decisions=3, device="cpu",
            options={"blank_instruction": blank},
        )  # fmt: skip
        with open_features(done.path) as file:
            stores.append(file.layer("e").values[:])
    assert not np.allclose(*stores)


@pytest.mark.parametrize("kind", ["vqbet"])
def test_a_policy_that_reads_its_history_from_queues(kind, tmp_path):
    (done,) = extract(
        f"lerobot:{DATA}", out=tmp_path, models=[f"lerobot:{kind}"], decisions=2, device="cpu",
        model_config={"crop_shape": None, "gpt_n_layer": 1, "gpt_n_head": 2, "gpt_hidden_dim": 32,
                      "gpt_output_dim": 32},
        options={"camera": "front"},
    )  # fmt: skip
    assert done.episodes == 5


def test_pictures_of_pi0_are_those_of_the_official_processor(dataset):
    """transformers makes them with torchvision, which comes with lerobot."""
    from transformers.models.pi0.image_processing_pi0 import PI0ImageProcessor

    from mnprobe.features.extractors.pi0 import _Pictures

    for camera in dataset[0].cameras:
        image = torch.from_numpy(dataset[0].image(camera, 0)).movedim(-1, 0)
        official = PI0ImageProcessor()([image], return_tensors="pt")["pixel_values"]
        difference = (official - _Pictures(size=224)(image[None].float() / 255)).abs().max() * 127.5
        assert difference < 1.01  # grey levels
