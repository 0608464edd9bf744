"""Every array of the golden tiny ViCLIP, within the tolerances that its README suggests."""

from contextlib import ExitStack

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mnprobe.models.clip import TextEncoder, Tokenizer
from mnprobe.models.viclip import (
    Recognition,
    contrastive_loss,
    inflate_patch,
    resize_spatial,
    resize_temporal,
    zero_shot,
)

INSIDE = {"atol": 2e-5, "rtol": 1e-4}
FEATURE = {"atol": 6e-6, "rtol": 0}


@pytest.fixture(scope="module")
def checked() -> set[str]:
    """Names of the arrays that the tests of this file have compared."""
    return set()


@pytest.fixture
def equal(gold, checked):
    def compare(name: str, value: torch.Tensor, tolerance: dict[str, float] = FEATURE) -> None:
        torch.testing.assert_close(value.detach(), gold[name], **tolerance)
        checked.add(name)

    return compare


@pytest.fixture
def inside(model):
    """Outputs of the named modules during the calls of a test."""
    seen: dict[str, torch.Tensor] = {}
    names = ["vision_encoder.ln_pre", "text_encoder.ln_final"]
    names += [f"vision_encoder.transformer.resblocks.{i}" for i in range(3)]
    names += [f"text_encoder.transformer.resblocks.{i}" for i in range(2)]
    with ExitStack() as stack:
        for name in names:
            hook = model.get_submodule(name).register_forward_hook(
                lambda _, __, out, name=name: seen.update({name: out})
            )
            stack.callback(hook.remove)
        yield seen


def test_video_encoder_step_by_step(model, gold, inside, equal):
    video = gold["video"]
    encoder = model.vision_encoder
    equal("v_conv", encoder.patches(video), INSIDE)
    equal("v_tokens", encoder.tokens(video), INSIDE)
    u = model.encode_video(video)
    equal("v_ln_pre", inside["vision_encoder.ln_pre"], INSIDE)
    for i in range(3):
        equal(f"v_block{i}", inside[f"vision_encoder.transformer.resblocks.{i}"], INSIDE)
    last = inside["vision_encoder.transformer.resblocks.2"]
    equal("v_ln_post", encoder.ln_post(last), INSIDE)
    equal("v_cls", encoder.class_vector(last), INSIDE)
    equal("video_feature", u)
    equal("video_feature_norm", F.normalize(u, dim=-1))


def test_hidden_states_are_those_class_tokens(model, gold):
    names = ["blocks.2", "u", "cls", "blocks.0"]
    hidden = model.video_hidden(gold["video"], names)
    assert list(hidden) == names
    torch.testing.assert_close(hidden["u"], gold["video_feature"], **FEATURE)
    torch.testing.assert_close(hidden["cls"], gold["v_cls"], **INSIDE)
    for i in (0, 2):
        torch.testing.assert_close(hidden[f"blocks.{i}"], gold[f"v_block{i}"][:, 0], **INSIDE)


def test_text_encoder_step_by_step(model, gold, inside, equal):
    ids = gold["token_ids"].long()
    encoder = model.text_encoder
    feature = model.encode_text(ids)
    equal("t_tokens", encoder.token_embedding(ids) + encoder.positional_embedding, INSIDE)
    for i in range(2):
        equal(f"t_block{i}", inside[f"text_encoder.transformer.resblocks.{i}"], INSIDE)
    states = inside["text_encoder.ln_final"]
    equal("t_ln_final", states, INSIDE)
    equal("eot_index", ids.argmax(dim=1))
    equal("t_pooled", states[torch.arange(len(ids)), ids.argmax(dim=1)], INSIDE)
    equal("text_feature", feature)
    equal("text_feature_norm", F.normalize(feature, dim=-1))
    assert torch.equal(encoder.encode_tokens(ids), states)


def test_int32_ids_are_taken_too(model, gold):
    torch.testing.assert_close(model.encode_text(gold["token_ids"]), gold["text_feature"], **FEATURE)


def test_zero_shot(model, gold, equal):
    logits = zero_shot(model.encode_video(gold["video"]), model.encode_text(gold["token_ids"]))
    equal("cosine", logits / 100, INSIDE)
    loose = {"atol": 1e-3, "rtol": 0}
    ranked = Recognition.of(logits, top=3)
    equal("zeroshot_logits", ranked.logits, loose)
    equal("zeroshot_probs", ranked.probabilities, loose)
    equal("zeroshot_top3_probs", ranked.top_probabilities, loose)
    equal("zeroshot_top3_labels", ranked.labels)


def test_losses_and_their_gradients(gold, equal):
    close = {"atol": 1e-5, "rtol": 1e-5}
    video = gold["video_feature"].clone().requires_grad_()
    text = gold["text_feature"][:3].clone().requires_grad_()
    loss = contrastive_loss(video, text, 0.05)
    loss.backward()
    equal("loss_t005", loss, close)
    equal("loss_t005_grad_video_feature", video.grad, INSIDE)
    equal("loss_t005_grad_text_feature", text.grad, INSIDE)
    equal("loss_t005_dup", contrastive_loss(video, text, 0.05, ids=gold["dup_idx"]), close)
    equal("loss_unique_idx_t005", contrastive_loss(video, text, 0.05, ids=torch.tensor([7, 1, 3])), close)
    logits = zero_shot(video, text, scale=1 / 0.05)
    equal("logits_t005_v2t", logits, INSIDE)
    equal("logits_t005_t2v", logits.T, INSIDE)


def test_gradients_of_all_parameters_at_the_stored_temperature(model, gold, facts, equal):
    video = model.encode_video(gold["video"])
    text = model.encode_text(gold["token_ids"][:3])
    loss = contrastive_loss(video, text, model.temp)
    loss.backward()
    equal("loss_model_temp", loss, {"atol": 1e-5, "rtol": 1e-5})
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name in [name for name in gold if name.startswith("grad/")]:
        equal(name, gradients[name.removeprefix("grad/")], INSIDE)
    order = facts["grad_norms_order"]
    assert sorted(order) == sorted(gradients)
    equal("grad_norms", torch.stack([gradients[name].norm() for name in order]), INSIDE)


def test_masking_with_the_given_tokens(model, gold, equal):
    kept = gold["mask_kept_index"]
    equal("mask_tokens", model.vision_encoder.tokens(gold["video"], kept=kept), INSIDE)
    equal("mask_video_feature", model.encode_video(gold["video"], kept=kept))
    equal("mask_kept_index", kept)


def test_one_frame_takes_the_mean_temporal_position(model, gold, equal):
    frame = gold["video"][:, 0]
    equal("image_feature_4d", model.encode_video(frame))
    equal("image_feature_T1", model.encode_video(frame[:, None]))


def test_resizing_in_time(model, gold, equal):
    embedding = model.vision_encoder.temporal_positional_embedding.detach()
    equal("temporal_up", resize_temporal(embedding, 12))
    equal("temporal_down", resize_temporal(embedding, 4))
    clip = gold["video"][:1]
    longer = torch.cat([clip, clip.flip(1)], dim=1)[:, :12]
    equal("temporal_up_feature", model.resized(frames=12).encode_video(longer))
    equal("temporal_down_feature", model.resized(frames=4).encode_video(clip[:, :4]))


def test_resizing_in_space(model, gold, equal):
    equal("spatial_pos", resize_spatial(model.vision_encoder.positional_embedding.detach(), 5))
    padded = F.pad(gold["video"][:1], (0, 32, 0, 32))
    equal("spatial_feature", model.resized(image_size=80).encode_video(padded))


def test_inflating_the_patch_kernel(gold, equal):
    equal("inflate_center_k3", inflate_patch(gold["inflate_in"], 3))
    equal("inflate_mean_k3", inflate_patch(gold["inflate_in"], 3, rule="mean"))


def test_no_golden_array_was_forgotten(gold, checked):
    if len(checked) < 5:
        pytest.skip("only meaningful when the whole file runs")
    assert set(gold) - checked == {"video", "token_ids", "dup_idx", "inflate_in"}  # the inputs


def test_strings_through_the_true_vocabulary(folder, facts):
    with np.load(folder / "strings.npz") as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    sizes = facts["text_strings"]
    ids = Tokenizer(sizes["context_length"], special_markers=True).tokenize(facts["strings"])
    assert torch.equal(ids, arrays["token_ids"].long())
    encoder = TextEncoder(
        context=sizes["context_length"],
        vocabulary=sizes["vocab_size"],
        width=sizes["width"],
        layers=sizes["layers"],
        heads=sizes["heads"],
        embed_dim=sizes["embed_dim"],
    )
    state = {name.removeprefix("weight/"): array for name, array in arrays.items() if name.startswith("weight/")}
    rows = torch.zeros(sizes["vocab_size"], sizes["width"])
    rows[arrays["embedding_row_ids"].long()] = arrays["embedding_rows"]
    encoder.load_state_dict({**state, "token_embedding.weight": rows}, strict=True)
    with torch.no_grad():
        feature = encoder(ids)
    torch.testing.assert_close(feature, arrays["text_feature"], **FEATURE)
    torch.testing.assert_close(F.normalize(feature, dim=-1), arrays["text_feature_norm"], **FEATURE)


@pytest.mark.parametrize("part", ["video", "text"])
def test_bfloat16_autocast_keeps_the_direction(model, gold, part):
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        rough = model.encode_video(gold["video"]) if part == "video" else model.encode_text(gold["token_ids"])
    assert F.cosine_similarity(rough.float(), gold[f"{part}_feature"]).min() > 0.999


def test_weights_in_bfloat16_work_in_both_encoders(model, gold):
    model = model.to(torch.bfloat16)
    with torch.no_grad():
        for rough, name in (
            (model.encode_video(gold["video"]), "video_feature"),
            (model.encode_text(gold["token_ids"]), "text_feature"),
        ):
            assert rough.dtype == torch.bfloat16
            assert F.cosine_similarity(rough.float(), gold[name]).min() > 0.99


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_features(model, gold):
    model = model.to("cuda")
    with torch.no_grad():
        u = model.encode_video(gold["video"].cuda()).cpu()
        t = model.encode_text(gold["token_ids"].cuda()).cpu()
    torch.testing.assert_close(u, gold["video_feature"], atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(t, gold["text_feature"], atol=2e-4, rtol=1e-3)
