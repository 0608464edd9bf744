import dataclasses

import pytest
import torch

from mnprobe.models.arp.losses import class_cross_entropy, heatmap_cross_entropy
from mnprobe.models.arp.masks import generation_mask, two_stream_mask
from mnprobe.models.arp.tokens import action_layout, screen_layout
from mnprobe.models.arp.transformer import ChunkTransformer

VARIANTS = ("policy_arp", "policy_arp_plus")
CHUNKS = {"self": (1, 1, 1, 1, 1), "chunk2": (1, 1, 1, 2)}
NAMES = ("rot-x", "rot-y", "rot-z", "grip", "collision")


def _load(golden, **changes):
    policy = ChunkTransformer(dataclasses.replace(golden.config, **changes)).eval()
    policy.load_state_dict(golden.weights, strict=True)
    return policy


def _check_blocks(states, arrays, pattern, first, assert_golden):
    assert states.blocks, "no block ran"
    for i, x in states.blocks.items():
        assert_golden(x, arrays[pattern.format(i)], pattern.format(i))
    assert min(states.blocks) == first


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stage", [0, 1])
def test_screen_point_pass_equals_golden(piece, assert_golden, variant, stage):
    golden = piece(variant)
    policy, arrays, prefix = _load(golden), golden.arrays, f"cross.stage{stage + 1}"
    maps, layout = arrays["cross.featmap"], screen_layout(stage)
    streams = policy.two_streams(
        layout, torch.zeros(2, 1, dtype=torch.int64), condition=maps.flatten(2).transpose(1, 2)
    )
    for name, states in zip(("star", "hat"), streams, strict=True):
        assert_golden(states.norm, arrays[f"{prefix}.train.{name}_out"])
        _check_blocks(states, arrays, f"{prefix}.train.block{{}}.{name}", 0, assert_golden)
    star_in = policy.embed_content(layout, torch.zeros(2, 1, dtype=torch.int64))
    assert_golden(star_in, arrays[f"{prefix}.train.star_in"])
    assert_golden(policy.embed_query(layout, 2), arrays[f"{prefix}.train.hat_in"])
    assert_golden(policy.embed_query(layout, 2), arrays[f"{prefix}.infer.in"])
    states, logits = policy.screen(stage, maps)
    assert_golden(states.norm, arrays[f"{prefix}.infer.out"])
    _check_blocks(states, arrays, f"{prefix}.infer.block{{}}", 0, assert_golden)
    assert_golden(logits[:, None], arrays[f"{prefix}.logits"])
    loss = heatmap_cross_entropy(logits, arrays["cross.label_heatmap"].unflatten(1, logits.shape[1:]))
    torch.testing.assert_close(loss, arrays[f"{prefix}.loss"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", CHUNKS)
def test_teacher_forced_action_pass_equals_golden(piece, assert_golden, variant, case):
    golden = piece(variant)
    policy, arrays = _load(golden, action_chunks=CHUNKS[case]), golden.arrays
    layout = policy.layout
    assert layout.chunks == tuple(arrays[f"{case}.chunk_ids"].tolist())
    assert layout.types == tuple(arrays["self.sequence"][0, :, 1].tolist())
    values, prompts = arrays["self.sequence"][..., 0], arrays["self.prompt_features"]
    assert_golden(policy.embed_content(layout, values, prompts), arrays[f"{case}.train.star_in"])
    assert_golden(policy.embed_query(layout, 2), arrays[f"{case}.train.hat_in"])
    streams, logits = policy.teach(values, prompts)
    for name, states in zip(("star", "hat"), streams, strict=True):
        assert_golden(states.norm, arrays[f"{case}.train.{name}_out"])
        _check_blocks(states, arrays, f"{case}.train.block{{}}.{name}", golden.config.cross_blocks, assert_golden)
    labels = torch.cat([arrays["self.label_rot_bins"], arrays["self.grip_collision"]], dim=1)
    for i, name in enumerate(NAMES):
        assert_golden(logits[name], arrays[f"{case}.train.logits.{name}"], name)
        loss = class_cross_entropy(logits[name], labels[:, i])
        torch.testing.assert_close(loss, arrays[f"{case}.loss.{name}"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", CHUNKS)
def test_generation_equals_golden_at_every_step(piece, assert_golden, variant, case):
    golden = piece(variant)
    policy, arrays = _load(golden, action_chunks=CHUNKS[case]), golden.arrays
    prompts = arrays["self.prompt_features"]
    done = policy.generate(prompts)
    assert torch.equal(done.values, arrays[f"{case}.generate.sequence"][..., 0].long())
    for name in NAMES:
        assert_golden(done.logits[name], arrays[f"{case}.generate.logits.{name}"], name)
    for step in range(len(CHUNKS[case])):
        layout = policy.layout.until(6 + step)
        known, size = 6 + sum(CHUNKS[case][:step]), len(layout)
        prefix = f"{case}.generate.step{step}"
        fed = policy.embed_step(layout, done.values[:, :known], prompts)
        assert_golden(fed, arrays[f"{prefix}.in"])
        states = policy._run(fed, torch.arange(size), generation_mask(layout))
        assert_golden(states.norm, arrays[f"{prefix}.out"])
        _check_blocks(states, arrays, f"{prefix}.block{{}}", golden.config.cross_blocks, assert_golden)
        assert_golden(done.states.norm[:, known - 6 : size - 6], arrays[f"{prefix}.out"][:, known:])
        for i, x in done.states.blocks.items():
            assert_golden(x[:, known - 6 : size - 6], arrays[f"{prefix}.block{i}"][:, known:])


@pytest.mark.parametrize("chunks", [(1, 1, 1, 1, 1), (1, 1, 1, 2), (2, 1, 2), (1, 2, 1, 1)])
def test_teacher_forcing_and_generation_give_the_same_states_on_the_same_tokens(piece, chunks):
    golden = piece("policy_arp")
    policy = _load(golden, action_chunks=chunks)
    prompts = torch.randn(5, 6, golden.config.width, generator=torch.Generator().manual_seed(3))
    done = policy.generate(prompts)
    streams, logits = policy.teach(done.values, prompts)
    torch.testing.assert_close(done.states.norm, streams.hat.norm[:, 6:], rtol=1e-5, atol=1e-5)
    for i, x in done.states.blocks.items():
        torch.testing.assert_close(x, streams.hat.blocks[i][:, 6:], rtol=1e-5, atol=1e-5)
    for name in NAMES:
        torch.testing.assert_close(logits[name], done.logits[name], rtol=1e-5, atol=1e-5)


def _may_look(types, chunks, i, j):
    """The rule of the two streams in words: i and j are (stream, position)."""
    (row_stream, row), (column_stream, column) = i, j
    if types[row] in (6, 7) and types[column] in (3, 4, 5):
        return False
    if row_stream == "star":
        return column_stream == "star" and column <= row
    if column_stream == "star":
        return chunks[column] < chunks[row]
    return chunks[column] == chunks[row]


@pytest.mark.parametrize("chunks", [(1, 1, 1, 1, 1), (1, 1, 1, 2), (2, 2, 1)])
def test_masks_equal_the_rule_spelled_out(chunks):
    layout = action_layout(chunks)
    places = [(stream, i) for stream in ("star", "hat") for i in range(len(layout))]
    expected = [[_may_look(layout.types, layout.chunks, i, j) for j in places] for i in places]
    assert two_stream_mask(layout).tolist() == expected
    for chunk in set(layout.chunks):
        part = layout.until(chunk)
        for i, row in enumerate(generation_mask(part).tolist()):
            for j, allowed in enumerate(row):
                blocked = part.types[i] in (6, 7) and part.types[j] in (3, 4, 5)
                assert allowed == (not blocked and (j <= i or part.chunks[i] == chunk))


def test_gripper_and_collision_do_not_depend_on_the_angles(piece):
    golden = piece("policy_arp")
    policy = _load(golden)
    values, prompts = golden.arrays["self.sequence"][..., 0].clone(), golden.arrays["self.prompt_features"]
    _, before = policy.teach(values, prompts)
    values[:, 6:9] = (values[:, 6:9] + 17) % 72
    _, after = policy.teach(values, prompts)
    assert torch.equal(before["grip"], after["grip"])
    assert torch.equal(before["collision"], after["collision"])
    assert torch.equal(before["rot-x"], after["rot-x"])
    assert not torch.equal(before["rot-y"], after["rot-y"])


def test_zero_gates_are_seen_and_make_the_screen_state_blind(piece):
    golden = piece("policy_arp")
    policy = _load(golden)
    assert not policy.zero_gates()
    maps = golden.arrays["cross.featmap"]
    states, _ = policy.screen(0, maps)
    assert not torch.allclose(states.norm[0], states.norm[1])
    for name, parameter in policy.named_parameters():
        if "adaLN_modulation" in name:
            torch.nn.init.zeros_(parameter)
    assert policy.zero_gates()
    states, logits = policy.screen(0, maps)
    assert torch.equal(states.norm[0], states.norm[1])
    assert not torch.equal(logits[0], logits[1])
