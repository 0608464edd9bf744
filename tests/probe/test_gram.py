import pytest
import torch

from mnprobe.core.errors import ConfigError
from mnprobe.probe import AlignmentHeads, FitConfig, fit_heads, info_nce
from mnprobe.probe.losses import gram_step, worth_it


@pytest.mark.parametrize("tau", [0.1, 0.01])  # with 0.01 one exponential for both directions would leave float range
@pytest.mark.parametrize("positives", ["diagonal", "exclude", "multi"])
def test_loss_and_gradients_are_those_of_the_direct_form(positives, tau, generator):
    draw = {"generator": generator, "dtype": torch.float64}
    t_u, t_e = torch.randn(40, 9, **draw).requires_grad_(), torch.randn(40, 7, **draw).requires_grad_()
    x_u, x_e = torch.randn(12, 9, **draw), torch.randn(12, 7, **draw)
    groups = torch.arange(12) % 5
    loss = info_nce(x_u @ t_u.T, x_e @ t_e.T, tau=tau, groups=groups, positives=positives)
    wanted = torch.autograd.grad(loss, (t_u, t_e))
    found = gram_step(t_u.detach(), t_e.detach(), x_u, x_e, tau=tau, groups=groups, positives=positives)
    torch.testing.assert_close(found.loss, loss.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((found.grad_u, found.grad_e), wanted, rtol=1e-10, atol=1e-12)


def test_positives_by_group_need_groups(generator):
    x = torch.randn(3, 2, generator=generator)
    with pytest.raises(ConfigError, match="positives='multi' needs the group"):
        gram_step(x, x, x, x, tau=0.1, positives="multi")


@pytest.mark.parametrize("change", [{}, {"positives": "multi"}, {"weight_decay": 0.1}, {"batch": 20}], ids=str)
def test_both_forms_fit_the_same_heads(change, planted):
    u, e, labels = planted()
    config = FitConfig(**({"dim": 48, "steps": 60} | change))
    direct, gram = (fit_heads(u, e, labels, config=config, seed=3, form=form) for form in ("direct", "gram"))
    losses = [[record.loss for record in one.history] for one in (direct, gram)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert losses[0][-1] < losses[0][0]
    ours, theirs = gram.heads.state_dict(), direct.heads.state_dict()
    moved = AlignmentHeads(12, 10, dim=48, generator=torch.Generator().manual_seed(3)).state_dict()
    for name in ("t_u.weight", "t_u.bias", "t_e.weight", "t_e.bias"):
        difference = (ours[name] - theirs[name]).norm() / (theirs[name] - moved[name]).norm()
        assert difference < 0.02, name  # Adam divides by gradients, so rounding shows where they are almost nothing


def test_the_cheaper_form_is_taken_and_only_linear_heads_have_both(planted):
    u, e, labels = planted()
    assert worth_it(64, 64, 1024, 256)
    assert not worth_it(1536, 64, 1024, 256)
    assert not worth_it(768, 512, 1024, 32)
    with pytest.raises(ConfigError, match="the Gram form is of linear heads, these are 'mlp'"):
        fit_heads(u, e, labels, config=FitConfig(dim=4, steps=1, heads="mlp"), form="gram")
