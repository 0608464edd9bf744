"""The model's laws: fresh weights from a generator, input checks, masking, layers by name, resizing."""

from dataclasses import replace

import pytest
import torch

from mnprobe.core.errors import ConfigError
from mnprobe.models.viclip import ViCLIP, ViCLIPConfig, draw_mask, resize_spatial, resize_temporal, resize_text


@pytest.fixture(scope="module")
def fresh(small) -> ViCLIP:
    return ViCLIP(small, generator=torch.Generator().manual_seed(0)).eval()


@pytest.fixture
def clip() -> torch.Tensor:
    return torch.randn(3, 2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_fresh_weights_follow_the_generator_and_leave_the_global_state_alone(small):
    before = torch.get_rng_state()
    states = [ViCLIP(small, generator=torch.Generator().manual_seed(seed)).state_dict() for seed in (1, 1, 2)]
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["vision_encoder.proj"], states[2]["vision_encoder.proj"])


def test_fresh_weights_are_all_set_and_of_sensible_size():
    model = ViCLIP(ViCLIPConfig.tiny()).eval()
    clip = torch.randn(2, 4, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    assert all(bool(torch.isfinite(p).all()) and p.abs().max() < 2 for p in model.parameters())
    hidden = model.video_hidden(clip, model.hidden_names)
    assert 0.3 < hidden["u"].std() < 3
    assert hidden["blocks.2"].std() < 5
    assert model.temp.item() == pytest.approx(0.01)


def test_init_weights_overwrites_everything(small):
    model = ViCLIP(small)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    model.init_weights(torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.state_dict(), ViCLIP(small).state_dict())


def test_the_order_of_frames_matters(fresh, clip):
    with torch.no_grad():
        assert not torch.allclose(fresh.encode_video(clip), fresh.encode_video(clip.flip(1)), atol=1e-4)


def test_clips_do_not_see_each_other(fresh, clip):
    with torch.no_grad():
        torch.testing.assert_close(fresh.encode_video(clip)[1:2], fresh.encode_video(clip[1:2]))


def test_layers_come_in_the_order_asked_and_only_as_deep_as_needed(fresh, clip):
    assert fresh.hidden_names == ("u", "cls", "blocks.0", "blocks.1")
    calls: list[int] = []
    hook = fresh.vision_encoder.transformer.resblocks[1].register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        assert list(fresh.video_hidden(clip, ["blocks.0"])) == ["blocks.0"]
        assert not calls
        hidden = fresh.video_hidden(clip, ["cls", "u"])
        assert list(hidden) == ["cls", "u"]
        assert fresh.video_hidden(clip, []) == {}
    hook.remove()
    torch.testing.assert_close(hidden["u"], hidden["cls"] @ fresh.vision_encoder.proj.detach())
    with pytest.raises(ConfigError, match=r"unknown ViCLIP layer 'block\.1'. Did you mean 'blocks\.1'"):
        fresh.video_hidden(clip, ["block.1"])


def test_clips_that_do_not_fit_say_what_to_do(fresh, clip):
    with pytest.raises(ConfigError, match=r"reads 2 frames per clip.*got 4.*resized\(frames=4\)"):
        fresh.encode_video(clip.repeat(1, 2, 1, 1, 1))
    with pytest.raises(ConfigError, match=r"frames of 32x32, got 32x48.*preprocess\(frames, size=32\)"):
        fresh.encode_video(torch.zeros(1, 2, 3, 32, 48))
    with pytest.raises(ConfigError, match="reads 8 ids per text, got 77"):
        fresh.encode_text(torch.zeros(1, 77, dtype=torch.int64))


def test_nothing_is_masked_unless_asked_also_in_training_mode(small, clip):
    model = ViCLIP(small).train()
    everything = torch.arange(small.tokens).expand(3, -1)
    torch.testing.assert_close(model.encode_video(clip), model.encode_video(clip, kept=everything))
    torch.testing.assert_close(model.encode_video(clip), model.eval().encode_video(clip))


def test_the_order_of_kept_tokens_does_not_change_u(fresh, clip):
    kept = torch.tensor([[0, 3, 6]]).expand(3, -1)
    with torch.no_grad():
        torch.testing.assert_close(fresh.encode_video(clip, kept=kept), fresh.encode_video(clip, kept=kept.flip(1)))


def test_kept_tokens_outside_of_the_clip_are_an_error(fresh, clip):
    with pytest.raises(ConfigError, match=r"must lie in 0\.\.7.*got 0\.\.8"):
        fresh.encode_video(clip, kept=torch.tensor([[0, 8]]).expand(3, -1))


@pytest.fixture(scope="module")
def tubelets(small):
    """A model of six frames in tubelets of three."""
    return ViCLIP(replace(small, frames=6, tubelet=3), generator=torch.Generator().manual_seed(3)).eval().double()


def test_a_tubelet_sums_what_kernels_of_one_frame_see(tubelets, small):
    """Oracle: one model of single frames for each slice of the kernel; their patches are summed over each group."""
    clip = torch.randn(2, 6, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    kernel = tubelets.vision_encoder.conv1.weight
    expected = torch.zeros(2, 64, 2, 2, 2, dtype=torch.float64)
    with torch.no_grad():
        for offset in range(3):
            single = ViCLIP(small).double().vision_encoder
            single.conv1.weight.copy_(kernel[:, :, offset : offset + 1])
            expected += single.patches(clip[:, offset::3])
        torch.testing.assert_close(tubelets.vision_encoder.patches(clip), expected)
        torch.testing.assert_close(tubelets.vision_encoder.conv1(clip.transpose(1, 2)), expected)
        tokens = tubelets.vision_encoder.tokens(clip)
    assert tokens.shape == (2, 1 + tubelets.config.tokens, 64)
    encoder = tubelets.vision_encoder
    third = expected[1, :, 1, 1, 0] + encoder.positional_embedding[3] + encoder.temporal_positional_embedding[0, 1]
    torch.testing.assert_close(tokens[1, 1 + 2 * 2 + 1], third)  # patch 2 (second row, first column), second group


def test_a_single_frame_fills_a_tubelet(tubelets):
    frame = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    encoder = tubelets.vision_encoder
    with torch.no_grad():
        repeated = encoder.patches(frame[:, None].expand(-1, 3, -1, -1, -1).contiguous())
        torch.testing.assert_close(encoder.patches(frame[:, None]), repeated)
        expected = repeated[0, :, 0, 0, 0] + encoder.positional_embedding[1]
        expected = expected + encoder.temporal_positional_embedding[0].mean(dim=0)
        torch.testing.assert_close(encoder.tokens(frame[:, None])[0, 1], expected)
        assert torch.equal(tubelets.encode_video(frame), tubelets.encode_video(frame[:, None]))


def test_every_part_of_a_tubelet_learns(tubelets):
    clip = torch.randn(1, 6, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    tubelets.zero_grad()
    tubelets.encode_video(clip).square().sum().backward()
    gradient = tubelets.vision_encoder.conv1.weight.grad
    assert bool((gradient.abs().sum(dim=(0, 1, 3, 4)) > 0).all())


def test_masks_count_tubelets(tubelets):
    clip = torch.randn(1, 6, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    everything = torch.arange(8)[None]
    with torch.no_grad():
        torch.testing.assert_close(tubelets.encode_video(clip, kept=everything), tubelets.encode_video(clip))
        with pytest.raises(ConfigError, match=r"must lie in 0\.\.7"):
            tubelets.encode_video(clip, kept=everything + 1)


def test_tubelets_resize_in_whole_groups(tubelets):
    longer = tubelets.resized(frames=12)
    assert longer.vision_encoder.temporal_positional_embedding.shape == (1, 4, 64)
    rows = tubelets.vision_encoder.temporal_positional_embedding
    torch.testing.assert_close(longer.vision_encoder.temporal_positional_embedding, resize_temporal(rows, 4))
    assert torch.equal(longer.vision_encoder.conv1.weight, tubelets.vision_encoder.conv1.weight)
    shorter = tubelets.resized(frames=3).vision_encoder.temporal_positional_embedding
    assert torch.equal(shorter, rows[:, :1])
    with pytest.raises(ConfigError, match=r"frames \(8\) must be a multiple of tubelet \(3\)"):
        tubelets.resized(frames=8)


@pytest.mark.parametrize(("tokens", "kept"), [(1568, 157), (2048, 205), (72, 8)])
def test_a_mask_keeps_the_official_number_of_tokens(tokens, kept):
    mask = draw_mask(4, tokens, 0.9, generator=torch.Generator().manual_seed(0))
    assert mask.shape == (4, kept)
    assert bool((mask.diff(dim=1) > 0).all())
    assert int(mask.min()) >= 0
    assert int(mask.max()) < tokens
    assert not torch.equal(mask[0], mask[1])
    assert torch.equal(mask, draw_mask(4, tokens, 0.9, generator=torch.Generator().manual_seed(0)))


def test_masks_are_uniform_over_tokens():
    mask = draw_mask(4000, 10, 0.5, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(mask.flatten(), minlength=10)
    assert bool(((counts - 2000).abs() < 5 * 1000**0.5).all())


@pytest.mark.parametrize("probability", [-0.1, 1.0, float("nan")])
def test_an_impossible_masking_probability_is_refused(probability):
    with pytest.raises(ConfigError, match=r"must lie in \[0, 1\)"):
        draw_mask(1, 8, probability, generator=torch.Generator())


def test_stochastic_depth_acts_in_training_only(small, clip):
    config = ViCLIPConfig.from_dict(small.to_dict() | {"stochastic_depth": 0.5})
    model = ViCLIP(config).train()
    with pytest.raises(ConfigError, match="pass generator="):
        model.encode_video(clip)
    draws = [model.encode_video(clip, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2, 3, 4, 5)]
    assert torch.equal(draws[0], draws[1])
    assert any(not torch.equal(draws[0], other) for other in draws[2:])
    torch.testing.assert_close(model.eval().encode_video(clip), ViCLIP(small).eval().encode_video(clip))


def test_the_temperature_has_a_floor(small):
    model = ViCLIP(small)
    with torch.no_grad():
        model.temp.fill_(0.001)
    model.clamp_temperature()
    assert model.temp.item() == pytest.approx(0.01)
    model.clamp_temperature(0.05)
    assert model.temp.item() == pytest.approx(0.05)


def test_resizing_gives_a_copy_and_leaves_the_model_alone(fresh, small, clip):
    assert fresh.resized().config == small
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    changed = fresh.resized(frames=4, image_size=64, text_context=12)
    assert (changed.config.frames, changed.config.image_size, changed.config.text_context) == (4, 64, 12)
    assert changed.encode_video(torch.zeros(1, 4, 3, 64, 64)).shape == (1, 16)
    assert changed.encode_text(torch.zeros(1, 12, dtype=torch.int64)).shape == (1, 16)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.zero_()
    torch.testing.assert_close(fresh.state_dict(), before)
    assert all(isinstance(p, torch.nn.Parameter) and p.is_leaf for p in changed.parameters())
    with torch.no_grad():
        torch.testing.assert_close(fresh.resized().encode_video(clip), fresh.encode_video(clip))


def test_linear_resizing_equals_the_definition():
    rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for new in (6, 12):
        at = ((torch.arange(new, dtype=torch.float64) + 0.5) * 5 / new - 0.5).clamp(0, 4)
        low = at.floor().long()
        share = (at - low)[:, None]
        expected = rows[low] * (1 - share) + rows[(low + 1).clamp(max=4)] * share
        torch.testing.assert_close(resize_text(rows, new), expected)
        torch.testing.assert_close(resize_temporal(rows[None], new)[0], expected)
    assert torch.equal(resize_text(rows, 2), rows[:2])


def test_a_constant_grid_stays_constant():
    torch.testing.assert_close(resize_spatial(torch.ones(10, 4), 7), torch.ones(50, 4))


def test_impossible_resizing_is_refused():
    with pytest.raises(ConfigError, match="cannot resize an embedding to 0 rows"):
        resize_text(torch.ones(3, 2), 0)
    with pytest.raises(ConfigError, match="cannot resize 7 spatial positions"):
        resize_spatial(torch.ones(8, 2), 3)
