from dataclasses import replace

import torch
from torch import nn

from mnprobe.models.arp.config import ARPConfig
from mnprobe.models.arp.model import ARP
from mnprobe.models.arp.mvt import MultiViewTransformer


def _load(piece):
    mvt = MultiViewTransformer(piece.config).eval()
    mvt.load_state_dict(piece.weights, strict=True)
    return mvt


def _inputs(arrays):
    return arrays["img"].float(), arrays["proprio"], arrays["lang"]


def test_feature_map_and_every_stage_on_the_way_equal_the_golden_arrays(piece, assert_golden):
    golden = piece("mvt")
    mvt = _load(golden)
    seen: dict[str, torch.Tensor] = {}

    def tap(module: nn.Module, name: str, *, before: str | None = None) -> None:
        def hook(_module, inputs, output):
            seen[name] = output
            if before is not None:
                seen[before] = inputs[0]

        module.register_forward_hook(hook)

    tap(mvt.patchify, "mid.patchify")
    tap(mvt.proprio_preprocess, "mid.proprio")
    tap(mvt.lang_preprocess, "mid.lang")
    tap(mvt.fc_bef_attn, "mid.tokens_after_fc", before="mid.tokens_before_fc")
    for i, layer in enumerate(mvt.layers):
        tap(layer, f"mid.stream_after_layer{i}")
    tap(mvt.fc_aft_attn, "mid.tokens_out")
    seen["output"] = mvt(*_inputs(golden.arrays))
    assert set(seen) == set(golden.arrays) - {"img", "proprio", "lang", "pixel_loc"}
    for name, value in seen.items():
        assert_golden(value, golden.arrays[name], name)


def test_views_meet_only_in_the_second_half(piece):
    golden = piece("mvt")
    mvt, (views, state, language) = _load(golden), _inputs(golden.arrays)
    changed = views.clone()
    changed[:, 0] += 1.0
    first: list[torch.Tensor] = []
    mvt.layers[0].register_forward_hook(lambda _m, _i, out: first.append(out))
    before, after = mvt(views, state, language), mvt(changed, state, language)
    apart = [x.unflatten(0, (2, 3)) for x in first]
    assert torch.equal(apart[0][:, 1:], apart[1][:, 1:])
    assert not torch.equal(before[:, 1:], after[:, 1:])


def test_sizes_are_free():
    config = ARPConfig(
        image_size=24,
        patch_size=4,
        vision_width=20,
        vision_heads=2,
        vision_head_width=6,
        vision_depth=3,
        language_length=5,
        language_width=9,
        state_width=4,
        width=16,
        heads=2,
    )
    out = MultiViewTransformer(config)(torch.rand(2, 3, 10, 24, 24), torch.rand(2, 4), torch.rand(2, 5, 9))
    assert out.shape == (2, 3, 16, 6, 6)


def test_the_attention_gain_scales_queries_and_keys_of_fresh_weights_alone():
    plain, sharp = ARP(ARPConfig.tiny()), ARP(replace(ARPConfig.tiny(), attention_gain=1.7))
    for policy in (plain, sharp):
        policy.init_weights(torch.Generator().manual_seed(0))
    scaled = 0
    for (name, before), after in zip(plain.named_parameters(), sharp.parameters(), strict=True):
        factor = torch.ones(len(before))
        if ".to_q." in name:
            factor[:] = 1.7
        elif ".to_kv." in name:
            factor[: len(before) // 2] = 1.7
        assert torch.equal(after, before * factor.view(-1, *[1] * (before.ndim - 1))), name
        scaled += int(bool((factor != 1).any()))
    assert scaled == 2 * 2 * ARPConfig.tiny().vision_depth
