import copy
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
import torch

from mnprobe.core.errors import ConfigError
from mnprobe.models.arp import Lamb
from mnprobe.training.model import JointModel
from mnprobe.training.optimizers import OptimizerConfig, build_optimizers, rate_at

EXEMPT = {  # of those that are no vectors
    "vision_encoder.positional_embedding",
    "vision_encoder.temporal_positional_embedding",
    "text_encoder.positional_embedding",
}


@dataclass
class Settings:
    video: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(lr=1e-3, weight_decay=0.2, betas=(0.9, 0.98))
    )
    policy: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(kind="lamb", lr=2e-3, rule="capped"))
    align: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(kind="adam", lr=1e-4))
    text_share: float = 0.05


def test_groups_of_the_video_model(micro_model):
    model = micro_model()
    viclip = build_optimizers(model, Settings())[0]
    assert viclip.name == "viclip"
    names = {id(p): name for name, p in model.viclip.named_parameters()}
    groups = {g["name"]: ({names[id(p)] for p in g["params"]}, g) for g in viclip.optimizer.param_groups}
    assert list(groups) == ["video", "video-no-decay", "text", "text-no-decay"]
    assert sorted(name for found, _ in groups.values() for name in found) == sorted(set(names.values()) - {"temp"})
    shapes = {name: p.ndim for name, p in model.viclip.named_parameters()}
    for kind, encoder, share in (("video", "vision_encoder.", 1.0), ("text", "text_encoder.", 0.05)):
        decaying, group = groups[kind]
        exempt, other = groups[f"{kind}-no-decay"]
        assert all(name.startswith(encoder) for name in decaying | exempt)
        assert exempt == {n for n, ndim in shapes.items() if n.startswith(encoder) and (ndim <= 1 or n in EXEMPT)}
        assert (group["weight_decay"], other["weight_decay"]) == (0.2, 0.0)
        assert group["lr"] == other["lr"] == pytest.approx(1e-3 * share)
        assert group["betas"] == (0.9, 0.98)
    assert "text_encoder.token_embedding.weight" in groups["text"][0]
    assert {"vision_encoder.proj", "vision_encoder.conv1.weight"} <= groups["video"][0]


def test_every_part_has_its_optimiser(micro_model):
    model = micro_model()
    video, policy, heads = build_optimizers(model, Settings())
    assert [part.name for part in (video, policy, heads)] == ["viclip", "arp", "heads"]
    assert type(video.optimizer) is torch.optim.AdamW
    assert type(heads.optimizer) is torch.optim.Adam
    assert isinstance(policy.optimizer, Lamb)
    (group,) = policy.optimizer.param_groups
    assert (group["lr"], group["rule"], group["weight_decay"]) == (2e-3, "capped", 0.0)
    assert len(group["params"]) == len(list(model.arp.parameters()))
    assert len(heads.optimizer.param_groups[0]["params"]) == len(list(model.heads.parameters()))
    alone = build_optimizers(JointModel(arp=model.arp), Settings())
    assert [part.name for part in alone] == ["arp"]
    alone = build_optimizers(JointModel(viclip=model.viclip), Settings())
    assert [part.name for part in alone] == ["viclip"]


def test_no_share_freezes_the_text_encoder(micro_model, make_inputs):
    model = micro_model()
    frozen = build_optimizers(model, Settings(text_share=0.0))[0]
    assert [g["name"] for g in frozen.optimizer.param_groups] == ["video", "video-no-decay"]
    torch.autograd.backward(model(make_inputs()).total)
    assert all(p.grad is None for p in model.viclip.text_encoder.parameters())
    assert any(p.grad is not None for p in model.viclip.vision_encoder.parameters())
    build_optimizers(model, Settings())
    assert all(p.requires_grad for p in model.viclip.text_encoder.parameters())


def test_rates_are_set_by_share(micro_model):
    part = build_optimizers(micro_model(), Settings(video=OptimizerConfig(lr=1.0, warmup=4)))[0]
    assert part.set_rate(1, 20) == 0.5
    assert [g["lr"] for g in part.optimizer.param_groups] == [0.5, 0.5, 0.025, 0.025]


def test_lamb_runs_the_schedule_of_the_released_policy(golden):
    with np.load(golden / "arp-tiny" / "optimizer.npz") as file:
        expected = file["schedule.lr_used_at_step_64"]
    config = OptimizerConfig(kind="lamb", lr=0.02, warmup=6)
    assert [rate_at(config, t, 20) for t in range(20)] == pytest.approx(expected[:20].tolist(), rel=1e-6)


def test_schedules():
    cosine = OptimizerConfig(lr=2.0, warmup=5, floor=0.1)
    rates = [rate_at(cosine, t, 25) for t in range(26)]
    assert rates[:6] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0, 2.0])
    assert rates[15] == pytest.approx(1.1)  # half way down: the mean of peak and floor
    assert rates[25] == pytest.approx(0.2)
    assert all(a > b for a, b in pairwise(rates[5:]))
    constant = OptimizerConfig(lr=2.0, warmup=5, schedule="constant")
    assert {rate_at(constant, t, 25) for t in range(5, 26)} == {2.0}
    assert rate_at(constant, 0, 25) == pytest.approx(0.4)
    assert rate_at(OptimizerConfig(lr=2.0), 0, 25) == 2.0
    assert rate_at(OptimizerConfig(lr=2.0, warmup=100), 9, 10) == pytest.approx(0.2)  # a run that ends in its warm-up


@pytest.mark.parametrize("kind", ["adamw", "adam", "lamb"])
def test_a_saved_state_continues_exactly(micro_model, make_inputs, tmp_path, kind):
    config = OptimizerConfig(kind=kind, lr=1e-3, weight_decay=0.1, warmup=3)
    settings = Settings(video=config, policy=config, align=config)

    def train(model, parts, updates):
        for update in updates:
            for part in parts:
                part.set_rate(update, 6)
                part.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(model(make_inputs(understanding=update % 2 == 0)).total)
            for part in parts:
                part.optimizer.step()
        return model.state_dict()

    straight = micro_model()
    expected = train(straight, build_optimizers(straight, settings), range(6))
    first = micro_model()
    parts = build_optimizers(first, settings)
    train(first, parts, range(3))
    torch.save({part.name: part.optimizer.state_dict() for part in parts}, tmp_path / "state.pt")
    second = micro_model()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    again = build_optimizers(second, settings)
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    for part in again:
        part.optimizer.load_state_dict(saved[part.name])
        assert [g["share"] for g in part.optimizer.param_groups] == (
            [1, 1, 0.05, 0.05] if part.name == "viclip" else [1]
        )
    found = train(second, again, range(3, 6))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert not torch.equal(
        expected["viclip.vision_encoder.proj"], micro_model().state_dict()["viclip.vision_encoder.proj"]
    )


def test_an_update_without_understanding_leaves_the_video_model_alone(micro_model, make_inputs):
    model = micro_model()
    parts = build_optimizers(model, Settings())
    before = copy.deepcopy(model.state_dict())
    torch.autograd.backward(model(make_inputs(understanding=False)).total)
    for part in parts:
        part.optimizer.step()
    after = model.state_dict()
    same = {name for name in after if torch.equal(after[name], before[name])}
    assert {name for name in after if name.startswith(("viclip.", "heads."))} <= same
    assert any(name not in same for name in after if name.startswith("arp."))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "sgd"}, "kind"),
        ({"rule": "bnb"}, "rule"),
        ({"schedule": "linear"}, "schedule"),
        ({"lr": -1.0}, "lr"),
        ({"weight_decay": float("nan")}, "weight_decay"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"warmup": -1}, "warmup"),
        ({"floor": 1.5}, "floor"),
    ],
)
def test_impossible_settings_are_refused(options, words):
    with pytest.raises((ConfigError, TypeError), match=words):
        OptimizerConfig(**options)


def test_impossible_questions_are_refused(micro_model):
    with pytest.raises(ConfigError, match="text_share"):
        build_optimizers(micro_model(), Settings(text_share=-0.1))
    with pytest.raises(ConfigError, match=r"all updates \(10\), got 11"):
        rate_at(OptimizerConfig(), 11, 10)
