import copy

import numpy as np
import pytest
import torch

from mnprobe.core.errors import ConfigError
from mnprobe.models.arp import Lamb, learning_rate


@pytest.fixture(scope="module")
def arrays(golden):
    with np.load(golden / "arp-tiny" / "optimizer.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.mark.parametrize(("rule", "name"), [("uncorrected", "lamb"), ("capped", "bnb_formula")])
def test_updates_equal_golden(arrays, assert_golden, rule, name):
    parameters = [torch.nn.Parameter(arrays[f"lamb.param{i}.init"].clone()) for i in range(3)]
    optimiser = Lamb(parameters, lr=0.02, rule=rule)
    for step, rate in enumerate(arrays["schedule.lr_used_at_step_64"][:8].tolist()):
        optimiser.param_groups[0]["lr"] = rate
        for i, p in enumerate(parameters):
            p.grad = arrays[f"lamb.grad{i}.step{step}"].clone()
        optimiser.step()
        for i, p in enumerate(parameters):
            assert_golden(p, arrays[f"{name}.param{i}.after_step{step}"], f"param{i} step{step}", tolerance=2e-6)


def test_schedule_equals_golden(arrays):
    expected = arrays["schedule.lr_used_at_step_64"].tolist()
    found = [learning_rate(t, peak=0.02, warmup=6, period=20) for t in range(len(expected))]
    assert found == pytest.approx(expected, rel=1e-12)


def test_schedule_of_the_released_training():
    assert learning_rate(1999, peak=2.4e-3) == 2.4e-3
    assert learning_rate(2000 + 83_333, peak=2.4e-3) == pytest.approx(2.4e-5)
    assert learning_rate(83_332, peak=2.4e-3) > 2.4e-5


@pytest.mark.parametrize(("rule", "moves"), [("uncorrected", True), ("capped", False)])
def test_only_one_rule_moves_a_tensor_that_starts_at_zero(rule, moves):
    p = torch.nn.Parameter(torch.zeros(4))
    optimiser = Lamb([p], lr=0.1, rule=rule)
    for _ in range(3):
        p.grad = torch.ones(4)
        optimiser.step()
    assert bool(p.any()) == moves


@pytest.mark.parametrize("rule", ["uncorrected", "capped"])
def test_options_arrive_and_the_state_continues(rule):
    def run(steps, **options):
        p = torch.nn.Parameter(torch.linspace(1, 2, 5))
        optimiser = Lamb([p], lr=0.1, rule=rule, **options)
        for t in range(steps):
            p.grad = torch.sin(torch.arange(5.0) + t)
            optimiser.step()
        return p, optimiser

    plain, optimiser = run(3)
    for options in ({"betas": (0.5, 0.999)}, {"betas": (0.9, 0.5)}, {"weight_decay": 0.5}):
        assert not torch.equal(run(3, **options)[0], plain), options
    half, first = run(2)
    second = Lamb([half], lr=0.5, rule=rule)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    half.grad = torch.sin(torch.arange(5.0) + 2)
    second.step()
    assert torch.equal(half, plain)
    assert optimiser.step(lambda: 2.5) == 2.5


def test_unknown_rules_and_values_are_refused():
    p = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(ConfigError, match="lr >= 0"):
        Lamb([p], lr=-1.0)
    with pytest.raises(ConfigError, match="weight_decay"):
        Lamb([p], lr=0.1, betas=(0.9, 1.0))
