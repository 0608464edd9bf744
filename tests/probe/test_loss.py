import math

import numpy as np
import pytest
import torch

from mnprobe.core.errors import ConfigError, ProbeError
from mnprobe.probe import held_out_bound, info_nce, info_nce_directions, mi_bound


def slow_info_nce(z_u, z_e, tau, groups=None, positives="diagonal"):
    """Equation 2 in scalar loops, with the two other meanings of a positive."""

    def sim(a, b):
        dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
        return dot / (math.sqrt(sum(float(x) ** 2 for x in a)) * math.sqrt(sum(float(y) ** 2 for y in b)))

    n = len(z_u)
    total = 0.0
    for one, other in ((z_u, z_e), (z_e, z_u)):
        for i in range(n):
            same = [j for j in range(n) if j == i or (groups is not None and groups[j] == groups[i])]
            below = [j for j in range(n) if positives != "exclude" or j == i or j not in same]
            denominator = sum(math.exp(sim(one[i], other[j]) / tau) for j in below)
            wanted = same if positives == "multi" else [i]
            total -= sum(math.log(math.exp(sim(one[i], other[j]) / tau) / denominator) for j in wanted) / len(wanted)
    return total / (2 * n)


@pytest.mark.parametrize("batch", [2, 7])
@pytest.mark.parametrize("positives", ["diagonal", "exclude", "multi"])
@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_loss_equals_the_loops(batch, positives, tau, generator):
    z_u, z_e = torch.randn(2, batch, 5, generator=generator, dtype=torch.float64)
    groups = torch.arange(batch) % 3
    loss = info_nce(z_u, z_e, tau=tau, groups=groups, positives=positives)
    assert loss.item() == pytest.approx(slow_info_nce(z_u, z_e, tau, groups.tolist(), positives), rel=1e-9)


@pytest.mark.parametrize("positives", ["diagonal", "exclude", "multi"])
def test_gradients_equal_finite_differences(positives, generator):
    z = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    groups = torch.tensor([0, 1, 0, 2, 1])
    assert torch.autograd.gradcheck(lambda z: info_nce(z[0], z[1], groups=groups, positives=positives), (z,))


def test_loss_is_the_mean_of_its_directions(generator):
    z_u, z_e = torch.randn(2, 6, 4, generator=generator)
    one, other = info_nce_directions(z_u, z_e)
    assert one != other
    torch.testing.assert_close(info_nce(z_u, z_e), (one + other) / 2)
    torch.testing.assert_close(info_nce_directions(z_e, z_u), (other, one))


def test_scale_and_order_do_not_matter(generator):
    z_u, z_e = torch.randn(2, 6, 4, generator=generator)
    order = torch.tensor([3, 1, 0, 5, 4, 2])
    torch.testing.assert_close(info_nce(3 * z_u[order], z_e[order] / 7), info_nce(z_u, z_e))


def test_equal_features_give_log_batch_and_unique_groups_make_the_forms_equal(generator):
    torch.testing.assert_close(info_nce(torch.ones(9, 4), torch.ones(9, 4)), torch.tensor(math.log(9)))
    z_u, z_e = torch.randn(2, 6, 4, generator=generator)
    groups = torch.arange(6)
    for positives in ("exclude", "multi"):
        torch.testing.assert_close(info_nce(z_u, z_e, groups=groups, positives=positives), info_nce(z_u, z_e))


def test_small_tau_and_half_precision_stay_finite(generator):
    z_u, z_e = torch.randn(2, 6, 4, generator=generator)
    z_u.requires_grad_(True)
    loss = info_nce(z_u, z_e, tau=1e-4, groups=torch.zeros(6, dtype=torch.int64), positives="exclude")
    loss = loss + info_nce(z_u, z_e, tau=1e-4) + info_nce(z_u.half(), z_e.half(), tau=0.01)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(z_u.grad).all()
    assert info_nce(torch.zeros(3, 2), torch.zeros(3, 2)).item() == pytest.approx(math.log(3))


@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan, math.inf])
def test_an_impossible_tau_is_quoted(tau):
    with pytest.raises(ConfigError, match=f"tau must be a positive number, got {tau!r}"):
        info_nce(torch.ones(2, 2), torch.ones(2, 2), tau=tau)


def test_groups_are_asked_for():
    with pytest.raises(ConfigError, match="positives='multi' needs the group of every pair"):
        info_nce(torch.ones(2, 2), torch.ones(2, 2), positives="multi")


def test_bound_is_capped_by_log_batch(generator):
    z = torch.randn(40, 16, generator=generator)
    groups = np.arange(40)
    bound = held_out_bound(z, z, groups, groups, tau=0.01, batch=8)
    assert bound.batch == 8
    assert bound.cap == pytest.approx(math.log(8))
    assert 0.99 * bound.cap < bound.mean <= bound.cap
    assert bound.mean == pytest.approx((bound.u2e + bound.e2u) / 2)
    assert mi_bound(1.0, 8) == pytest.approx(math.log(8) - 1.0)


def test_bound_takes_one_pair_of_every_group(generator):
    z = torch.randn(4, 16, generator=generator).repeat(10, 1)
    groups = np.arange(40) % 4
    bound = held_out_bound(z, z, groups, groups, tau=0.01, batch=32)
    assert bound.batch == 4
    assert bound.mean == pytest.approx(math.log(4), abs=1e-3)  # equal pairs of one group would halve it


def test_bound_of_independent_features_is_not_positive(generator):
    z_u, z_e = torch.randn(2, 60, 16, generator=generator)
    groups = np.arange(60)
    assert held_out_bound(z_u, z_e, groups, groups).mean < 0


def test_bound_of_one_group_is_refused():
    with pytest.raises(ProbeError, match="needs pairs of at least 2 groups, got 1"):
        held_out_bound(torch.ones(3, 2), torch.ones(3, 2), ["a"] * 3, ["a"] * 3)
