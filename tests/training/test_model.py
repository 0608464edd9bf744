from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from mnprobe.core.errors import ConfigError
from mnprobe.models.arp import TrainNoise
from mnprobe.models.viclip import contrastive_loss
from mnprobe.probe import AlignmentHeads, info_nce
from mnprobe.training.model import JointModel, StepInputs, StepSettings

EE = [
    "stage1-screen-pts.2d_ce_loss",
    "stage2-screen-pts.2d_ce_loss",
    "rot-x.ce_loss",
    "rot-y.ce_loss",
    "rot-z.ce_loss",
    "grip.ce_loss",
    "collision.ce_loss",
]


def gradients(model, loss):
    model.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def assert_close(found, expected, tolerance=1e-5):
    assert found.keys() == expected.keys()
    for name, want in expected.items():
        got = found[name]
        assert (got is None) == (want is None), name
        if want is not None:
            assert (got - want).abs().max() <= tolerance * max(1e-3, want.abs().max()), name


@pytest.mark.parametrize("positives", ["diagonal", "exclude", "multi"])
def test_losses_are_those_of_the_parts(micro_model, make_inputs, positives):
    model, inputs = micro_model(), make_inputs(positives=positives, lambda_ee=0.7, lambda_align=0.3, tau=0.2)
    out = model(inputs)
    u = model.viclip.encode_video(inputs.clips)
    text = model.viclip.encode_text(inputs.text_ids[inputs.text_of])
    taught = model.arp(inputs.batch, inputs.noise)
    z = model.heads(u, taught.hidden["e"].mean(dim=1))
    au = contrastive_loss(u, text, 0.05, ids=inputs.clip_ids)
    align = info_nce(*z, tau=0.2, groups=inputs.pair_groups, positives=positives)
    ee = sum(taught.losses.values())
    assert list(out.losses) == ["au", "ee", "align", *(f"ee/{name}" for name in EE)]
    assert out.losses["au"].item() == pytest.approx(au.item(), rel=1e-5)
    assert out.losses["align"].item() == pytest.approx(align.item(), rel=1e-5)
    assert out.losses["ee"].item() == pytest.approx(ee.item(), rel=1e-5)
    assert out.total.item() == pytest.approx((au + 0.7 * ee + 0.3 * align).item(), rel=1e-5)
    for name in EE:
        assert out.losses[f"ee/{name}"].item() == pytest.approx(taught.losses[name].item(), rel=1e-6)


def test_every_setting_arrives(micro_model, make_inputs):
    model = micro_model()
    usual = model(make_inputs())
    for changed, name in [({"tau": 0.5}, "align"), ({"temperature": 0.5}, "au"), ({"positives": "multi"}, "align")]:
        assert model(make_inputs(**changed)).losses[name].item() != usual.losses[name].item(), changed
    for changed in ({"lambda_ee": 0.5}, {"lambda_align": 0.25}):
        out = model(make_inputs(**changed))
        assert out.losses["ee"].item() == usual.losses["ee"].item()
        assert out.total.item() != usual.total.item()


def test_total_and_gradients_are_linear_in_the_weights(micro_model, make_inputs):
    model = micro_model()
    parts = {name: gradients(model, model(make_inputs()).losses[name]) for name in ("au", "ee", "align")}
    values = {name: model(make_inputs()).losses[name].item() for name in parts}
    for lambda_ee, lambda_align in [(1.0, 0.5), (0.25, 2.0), (0.0, 1.0)]:
        out = model(make_inputs(lambda_ee=lambda_ee, lambda_align=lambda_align))
        weights = {"au": 1.0, "ee": lambda_ee, "align": lambda_align}
        assert out.total.item() == pytest.approx(sum(weights[n] * values[n] for n in weights), rel=1e-5)
        expected = {}
        for name, p in model.named_parameters():
            terms = [weights[n] * parts[n][name] for n in parts if parts[n][name] is not None]
            expected[name] = sum(terms, torch.zeros_like(p)) if terms else None
        assert_close(gradients(model, out.total), expected, tolerance=1e-4)


def test_the_baseline_is_two_separate_trainings_to_the_bit(micro_model, make_inputs):
    model = micro_model()
    out = model(make_inputs(lambda_align=0.0))
    assert "align" not in out.losses
    found = gradients(model, out.total)
    assert all(found[f"heads.{name}"] is None for name, _ in model.heads.named_parameters())
    understanding = JointModel(viclip=model.viclip)
    execution = JointModel(arp=model.arp)
    alone = gradients(understanding, understanding(make_inputs()).total)
    alone |= gradients(execution, execution(make_inputs()).total)
    assert set(alone) == {name for name in found if not name.startswith("heads.")}
    for name, want in alone.items():
        assert (found[name] is None) == (want is None), name
        assert want is None or torch.equal(found[name], want), name


def test_alignment_moves_both_models_and_the_heads(micro_model, make_inputs):
    model = micro_model()
    found = gradients(model, model(make_inputs()).losses["align"])
    for part in ("viclip.vision_encoder", "arp.mvt2", "arp.policy", "heads.t_u", "heads.t_e"):
        moved = [g for name, g in found.items() if name.startswith(part) and g is not None and bool(g.any())]
        assert moved, part
    for part in ("viclip.text_encoder", "viclip.temp", "arp.mvt1"):  # stage one hands on nothing but a point
        assert all(g is None or not bool(g.any()) for name, g in found.items() if name.startswith(part)), part


def test_alignment_reads_the_pass_that_the_losses_come_from(micro_model, make_inputs):
    model, inputs = micro_model(dropout=0.3), make_inputs()
    torch.manual_seed(5)
    out = model(inputs)
    torch.manual_seed(5)
    taught = model.arp(inputs.batch, inputs.noise)
    assert out.losses["ee"].item() == pytest.approx(sum(taught.losses.values()).item(), rel=1e-6)
    z = model.heads(model.viclip.encode_video(inputs.clips), taught.hidden["e"].mean(dim=1))
    assert out.losses["align"].item() == pytest.approx(info_nce(*z).item(), rel=1e-5)


def test_an_update_without_understanding_trains_the_policy_alone(micro_model, make_inputs):
    model = micro_model()
    inputs = make_inputs(understanding=False, lambda_ee=0.5)
    for given in (inputs, replace(inputs, clips=None, text_ids=None, text_of=None, clip_ids=None, pair_groups=None)):
        out = model(given)
        assert set(out.losses) == {"ee", *(f"ee/{name}" for name in EE)}
        assert out.total.item() == pytest.approx(0.5 * out.losses["ee"].item())
        found = gradients(model, out.total)
        assert all((g is None) == (not name.startswith("arp.mvt")) for name, g in found.items() if "policy" not in name)


def test_each_side_can_be_trained_alone(micro_model, make_inputs):
    model, inputs = micro_model(), make_inputs()
    whole = model(inputs)
    understanding = JointModel(viclip=model.viclip)(replace(inputs, batch=None, noise=None, pair_groups=None))
    assert set(understanding.losses) == {"au"}
    assert understanding.total.item() == whole.losses["au"].item()
    execution = JointModel(arp=model.arp)(inputs)
    assert "au" not in execution.losses
    assert execution.total.item() == whole.losses["ee"].item()


@pytest.mark.parametrize("positives", ["diagonal", "exclude", "multi"])
def test_the_order_of_a_batch_does_not_matter(micro_model, make_inputs, take_rows, positives):
    model, inputs = micro_model(), make_inputs(positives=positives)
    order = [3, 0, 2, 1, 5, 4]
    mixed = take_rows(inputs, clips=order, transitions=order, pairs=order)
    for name, value in model(inputs).losses.items():
        assert model(mixed).losses[name].item() == pytest.approx(value.item(), rel=2e-5), name


def test_a_text_given_twice_is_the_text_given_once(micro_model, make_inputs):
    model, inputs = micro_model(), make_inputs()
    twice = replace(
        inputs,
        text_ids=inputs.text_ids[inputs.text_of],
        text_of=torch.arange(len(inputs.clips)),
        clip_ids=inputs.clip_ids,
    )
    once = model(inputs)
    assert model(twice).losses["au"].item() == pytest.approx(once.losses["au"].item(), rel=1e-6)
    assert_close(gradients(model, model(twice).total), gradients(model, model(inputs).total))


def test_further_clips_and_further_transitions_do_not_pair(micro_model, make_inputs, take_rows):
    model, inputs = micro_model(), make_inputs(positives="multi")
    every = list(range(6))
    first = model(take_rows(inputs, clips=every[:3], transitions=every[:3], pairs=every[:3]))
    more_clips = model(take_rows(inputs, clips=every, transitions=every[:3], pairs=every[:3]))
    more_transitions = model(take_rows(inputs, clips=every[:3], transitions=every, pairs=every[:3]))
    for out in (more_clips, more_transitions):
        assert out.losses["align"].item() == pytest.approx(first.losses["align"].item(), rel=1e-5)
    assert more_clips.losses["au"].item() != first.losses["au"].item()
    assert more_clips.losses["ee"].item() == first.losses["ee"].item()
    assert more_transitions.losses["au"].item() == first.losses["au"].item()
    assert more_transitions.losses["ee"].item() != first.losses["ee"].item()
    plain = replace(take_rows(inputs, clips=every, transitions=every[:3], pairs=every[:3]), pair_groups=None)
    assert plain.pairs == 3


def test_contrastive_losses_are_exact_under_autocast(micro_model, make_inputs):
    model, inputs = micro_model(), make_inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(inputs)
        u = model.viclip.encode_video(inputs.clips)
        text = model.viclip.encode_text(inputs.text_ids)[inputs.text_of]
        e = model.arp(inputs.batch, inputs.noise).hidden["e"]
    assert {value.dtype for value in out.losses.values()} == {torch.float32}
    u, text, e = u.float(), text.float(), e.float().mean(dim=1)
    assert out.losses["au"].item() == pytest.approx(
        contrastive_loss(u, text, 0.05, ids=inputs.clip_ids).item(), rel=1e-6
    )
    assert out.losses["align"].item() == pytest.approx(info_nce(*model.heads(u, e)).item(), rel=1e-6)
    exact = model(inputs)
    assert out.total.item() != exact.total.item()
    assert out.total.item() == pytest.approx(exact.total.item(), rel=0.05)
    found = gradients(model, out.total)
    assert all(bool(g.isfinite().all()) for g in found.values() if g is not None)


def test_gradients_equal_finite_differences(micro_model, make_inputs):
    model = micro_model().double()
    for mvt in (model.arp.mvt1, model.arp.mvt2):  # images are rendered in float32
        mvt.register_forward_pre_hook(lambda _, given: tuple(x.double() for x in given))
    inputs = make_inputs(positives="multi")
    inputs = replace(inputs, clips=inputs.clips.double())
    generator = torch.Generator().manual_seed(3)
    parameters = dict(model.named_parameters())
    direction = {
        name: torch.randn(p.shape, generator=generator, dtype=torch.float64) * (p.abs().mean() + 1e-2)
        for name, p in parameters.items()
    }

    def value(loss, step):
        with torch.no_grad():
            for name, p in parameters.items():
                p.add_(direction[name], alpha=step)
            found = model(inputs).losses[loss].item()
            for name, p in parameters.items():
                p.sub_(direction[name], alpha=step)
        return found

    for loss, step, tolerance in [
        ("au", 1e-6, 1e-6),
        ("align", 1e-6, 1e-6),
        ("ee", 2e-4, 2e-3),
    ]:  # ee is cut to float32
        found = gradients(model, model(inputs).losses[loss])
        slope = sum((found[name] * direction[name]).sum().item() for name in found if found[name] is not None)
        numeric = (value(loss, step) - value(loss, -step)) / (2 * step)
        assert abs(slope) > 1e-3
        assert numeric == pytest.approx(slope, rel=tolerance), loss


def test_inputs_move_as_a_whole(micro_model, make_inputs):
    inputs = make_inputs()
    moved = inputs.to("cpu")
    for name in ("clips", "text_ids", "text_of", "clip_ids", "pair_groups"):
        assert torch.equal(getattr(moved, name), getattr(inputs, name))
    assert torch.equal(moved.noise.se3.trans, inputs.noise.se3.trans)
    assert moved.settings == inputs.settings
    assert micro_model()(moved).total.item() == micro_model()(inputs).total.item()
    empty = StepInputs(batch=inputs.batch, noise=TrainNoise()).to("cpu")
    assert empty.clips is None
    assert empty.noise.se3 is None
    assert empty.pairs == 0


def test_stochastic_depth_draws_from_the_given_generator(micro_model, make_inputs):
    model, inputs = micro_model(stochastic_depth=0.5), make_inputs()

    def loss(seed):
        return model(replace(inputs, generator=torch.Generator().manual_seed(seed))).losses["au"].item()

    assert loss(1) == loss(1)
    assert len({loss(seed) for seed in range(8)}) > 1
    with pytest.raises(ConfigError, match="stochastic depth"):
        model(inputs)


def test_models_and_heads_that_do_not_fit_are_refused(micro_model):
    model = micro_model()
    with pytest.raises(ConfigError, match="got neither"):
        JointModel()
    with pytest.raises(ConfigError, match="need both models"):
        JointModel(viclip=model.viclip, heads=model.heads)
    with pytest.raises(ConfigError, match=r"widths \(3, 16\), the models give \(8, 16\)"):
        JointModel(viclip=model.viclip, arp=model.arp, heads=AlignmentHeads(3, 16))


def test_inputs_that_lack_what_is_asked_are_refused(micro_model, make_inputs):
    model, inputs = micro_model(), make_inputs()
    with pytest.raises(ConfigError, match="needs clips"):
        model(StepInputs(batch=inputs.batch))
    with pytest.raises(ConfigError, match="needs a batch"):
        model(replace(inputs, batch=None, pair_groups=None))
    with pytest.raises(ConfigError, match="no heads to align"):
        JointModel(viclip=model.viclip, arp=model.arp)(inputs)
    with pytest.raises(ConfigError, match="at least one pair"):
        model(replace(inputs, pair_groups=torch.zeros(0, dtype=torch.int64)))
    with pytest.raises(ConfigError, match="trains nothing"):
        JointModel(viclip=model.viclip)(make_inputs(understanding=False))
    with pytest.raises(ConfigError, match="needs the group"):
        model(replace(make_inputs(positives="multi"), pair_groups=None))
    with pytest.raises(ConfigError, match="text_of is missing"):
        StepInputs(clips=inputs.clips, text_ids=inputs.text_ids)
    with pytest.raises(ConfigError, match="clip_ids must have one number for each of 6 clips"):
        replace(inputs, clip_ids=torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ConfigError, match="first 6 rows"):
        replace(inputs, pair_groups=torch.zeros(7, dtype=torch.int64))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lambda_ee": -1.0}, "lambda_ee"),
        ({"lambda_align": float("inf")}, "lambda_align"),
        ({"tau": 0.0}, "tau"),
        ({"temperature": float("nan")}, "temperature"),
    ],
)
def test_impossible_settings_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        StepSettings(**options)


def test_features_are_normalised_inside_the_losses(micro_model, make_inputs):
    model, inputs = micro_model(), make_inputs()
    before = model(inputs).losses["au"].item()
    with torch.no_grad():
        model.viclip.vision_encoder.proj.mul_(3.0)
    assert model(inputs).losses["au"].item() == pytest.approx(before, rel=1e-4)
    u = model.viclip.encode_video(inputs.clips)
    assert not torch.allclose(u, F.normalize(u, dim=1))
