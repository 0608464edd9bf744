"""The policy's language tokens: golden values, loading from CLIP files, the random variant."""

import json

import numpy as np
import pytest
import torch

from mnprobe.core.errors import CheckpointError, ConfigError
from mnprobe.models.clip import (
    LanguageConfig,
    Tokenizer,
    WordVectors,
    load_language_encoder,
    random_language_encoder,
)
from mnprobe.models.loading import read_state_dict

SMALL = LanguageConfig(context=12, width=64, layers=2, heads=1, embed_dim=8)


@pytest.fixture(scope="module")
def clip_text(golden):
    sizes = json.loads((golden / "arp-tiny" / "clip_text.json").read_text())
    config = LanguageConfig(
        context=sizes["context"],
        width=sizes["width"],
        layers=sizes["layers"],
        heads=sizes["heads"],
        vocabulary=sizes["vocab"],
        embed_dim=sizes["embed_dim"],
    )
    with np.load(golden / "arp-tiny" / "clip_text.npz") as arrays:
        return golden / "arp-tiny" / "clip_text.safetensors", config, dict(arrays)


def test_token_states_and_sentence_equal_the_official_ones(clip_text):
    path, config, arrays = clip_text
    encoder = load_language_encoder(path, config=config)
    ids = torch.from_numpy(arrays["tokens"])
    np.testing.assert_allclose(encoder.encode_ids(ids), arrays["token_embeddings"], atol=5e-6, rtol=1e-5)
    np.testing.assert_allclose(encoder.text(ids), arrays["sentence_embedding"], atol=5e-6, rtol=1e-5)


def test_weights_are_said_to_be_trained_and_named_by_their_hash(clip_text):
    path, config, _ = clip_text
    described = load_language_encoder(path, config=config).describe()
    assert described["trained"] is True
    assert described["file"] == "clip_text.safetensors"
    assert len(described["sha256"]) == 64
    assert described["config"]["width"] == 24


def test_instructions_become_float32_token_states_of_all_positions():
    encoder = random_language_encoder(SMALL, seed=1)
    tokens = encoder(["open the drawer", "", "open the drawer"])
    assert tokens.shape == (3, 12, 64)
    assert tokens.dtype == torch.float32
    assert not tokens.requires_grad
    assert torch.equal(tokens[0], tokens[2])
    assert not torch.allclose(tokens[0, 1], tokens[1, 1])
    torch.testing.assert_close(
        tokens, encoder.encode_ids(Tokenizer(12).tokenize(["open the drawer", "", "open the drawer"]))
    )


def test_the_random_encoder_follows_its_seed_and_says_it_is_not_trained():
    first, again, other = (random_language_encoder(SMALL, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first(["push"]), again(["push"]))
    assert not torch.equal(first(["push"]), other(["push"]))
    assert first.describe() == {"kind": "clip-text", "trained": False, "seed": 3, "config": first.describe()["config"]}


def test_words_are_repeated_to_the_length_without_padding():
    vectors = WordVectors(length=7, width=16, seed=2)
    tokens = vectors(["push the red puck", "lift the red puck", "push"])
    assert (tokens.shape, tokens.dtype, tokens.requires_grad) == ((3, 7, 16), torch.float32, False)
    push, red, puck = tokens[0, :3]
    assert torch.equal(tokens[0], torch.stack([push, red, puck, push, red, puck, push]))
    assert torch.equal(tokens[1, 1:3], tokens[0, 1:3])  # the same words, the same vectors
    assert torch.equal(tokens[2], push.expand(7, -1))
    assert len({tuple(row.tolist()) for row in tokens[:2].flatten(0, 1)}) == 4
    assert bool(vectors(["to the"]).any())  # nothing else is left, so these words count
    assert torch.equal(vectors(["  Push the RED\tpuck "])[0], tokens[0])
    assert vectors([]).shape == (0, 7, 16)


def test_the_empty_instruction_is_zeros_and_no_other_is():
    vectors = WordVectors(length=4, width=8)
    assert not vectors([""]).any()
    assert bool((vectors(["push", "."]).norm(dim=2) > 0).all())


def test_word_vectors_follow_seed_and_word_alone():
    one, other = WordVectors(length=3, width=64, seed=5), WordVectors(length=6, width=64, seed=5)
    assert torch.equal(one(["red blue"])[0, 0], other(["lift red"])[0, 1])
    assert not torch.equal(one(["red"]), WordVectors(length=3, width=64, seed=6)(["red"]))
    many = WordVectors(length=20, width=2000)([" ".join("bcdefghijklmnopqrstu")])
    assert abs(float(many.mean())) < 0.02
    assert abs(float(many.std()) - 1) < 0.02
    assert one.describe() == {
        "kind": "word-vectors",
        "config": {"length": 3, "width": 64},
        "trained": False,
        "seed": 5,
    }


def test_word_vectors_refuse_what_they_would_confuse():
    vectors = WordVectors(length=9, width=8)
    with pytest.raises(ConfigError, match=r"has 10 words .* the policy reads 9"):
        vectors(["b c d e f g h i j k"])
    vectors.check_distinct(["put red on blue", "put red on green", "put red on blue", "put red"])
    with pytest.raises(ConfigError, match="'put red on blue' and 'put blue on red' have the same words"):
        vectors.check_distinct(["put red on blue", "lift red", "put blue on red"])
    with pytest.raises(ConfigError, match="'lift red' and 'lift the red' have the same words"):
        vectors.check_distinct(["lift red", "lift the red"])
    with pytest.raises(ConfigError, match=r"WordVectors\.length must be at least 1, got 0"):
        WordVectors(length=0, width=8)


def test_making_one_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    random_language_encoder(SMALL)
    WordVectors(length=3, width=4)(["push"])
    assert torch.equal(before, torch.get_rng_state())


def test_the_default_sizes_are_those_of_rn50():
    config = LanguageConfig()
    assert (config.context, config.width, config.layers, config.heads, config.embed_dim) == (77, 512, 12, 8, 1024)


def full_clip(dtype=torch.float32):
    text = random_language_encoder(SMALL).text.state_dict()
    extra = {
        "visual.conv1.weight": torch.ones(2, 3, 1, 1),
        "logit_scale": torch.tensor(4.6),
        "vocab_size": torch.tensor(5),
    }
    return {name: value.to(dtype) for name, value in text.items()} | extra


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_whole_clip_state_dict_gives_its_text_part_in_float32(tmp_path, dtype):
    torch.save(full_clip(dtype), tmp_path / "clip.pth")
    encoder = load_language_encoder(tmp_path / "clip.pth")  # sizes read off the tensors
    assert encoder.config == SMALL
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    torch.testing.assert_close(encoder(["push"]), random_language_encoder(SMALL)(["push"]), atol=0.02, rtol=0.02)


def test_what_is_no_clip_text_branch_is_refused(tmp_path, golden):
    with pytest.raises(CheckpointError, match="no CLIP text branch"):
        load_language_encoder(golden / "viclip-tiny" / "weights.safetensors")
    short = full_clip()
    del short["transformer.resblocks.1.ln_2.bias"]
    torch.save(short, tmp_path / "short.pth")
    with pytest.raises(CheckpointError, match=r"missing \(1\): transformer.resblocks.1.ln_2.bias"):
        load_language_encoder(tmp_path / "short.pth")
    with pytest.raises(CheckpointError, match="asked for CLIP weights, found those of ViCLIP"):
        load_language_encoder(golden / "viclip-tiny" / "weights.safetensors", config=SMALL)


def test_unknown_heads_ask_for_a_configuration(clip_text):
    with pytest.raises(CheckpointError, match=r"width 24\. Pass config"):
        load_language_encoder(clip_text[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": 0}, "context must be at least 1, got 0"),
        ({"heads": 7}, r"width \(512\) must be a multiple of heads \(7\)"),
    ],
)
def test_impossible_sizes_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        LanguageConfig(**change)


def test_ids_that_do_not_fit_are_refused(clip_text):
    path, config, _ = clip_text
    encoder = load_language_encoder(path, config=config)
    with pytest.raises(ConfigError, match=r"reads 9 ids per text, got 4.*context_length=9"):
        encoder.encode_ids(torch.zeros(1, 4, dtype=torch.int64))
    with pytest.raises(ConfigError, match=r"0\.\.39 for this text encoder, got 0\.\.40"):
        encoder.encode_ids(torch.full((1, 9), 40) * torch.tensor([1, 0, 0, 0, 0, 0, 0, 0, 0]))


def test_the_golden_file_is_the_text_part_with_a_scale(clip_text):
    assert "logit_scale" in read_state_dict(clip_text[0])
