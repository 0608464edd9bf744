"""Fits run until their training loss is flat, and a longer fit gives the same recall."""

import numpy as np
import pytest
import torch

from mnprobe.core.errors import ConfigError
from mnprobe.probe import (
    AlignConfig,
    AlignmentHeads,
    FitConfig,
    Validation,
    align,
    fit_heads,
    info_nce,
    pair_arrays,
    read_alignment,
    recall_at_k,
    summary_table,
    write_alignment,
)
from mnprobe.probe.config import MOST_STEPS, PRESETS
from mnprobe.probe.fitting import Plateau
from mnprobe.probe.heads import ridge_axes
from mnprobe.probe.losses import gram_step
from mnprobe.probe.results import convergence_note


def first_flat(losses):
    rule = Plateau()
    return next((step for step, loss in enumerate(losses, start=1) if rule.add(loss)), None)


# the rule ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "step"),
    [
        (lambda t: 3.0, 300),  # flat from the start
        (lambda t: 3.0 - min(t, 400) / 100, 1100),  # falls until 400, all but the first third of 1200
        (lambda t: 1 + 4 * np.exp(-t / 40), 500),
        (lambda t: 6 - 1e-4 * t, 300),  # 0.01 nats in a hundred steps
        (lambda t: 6 - 1e-3 * t, None),
        (lambda t: 6 - 0.3 * np.log(t), None),  # every doubling gains as much: never
        (lambda t: 3 + t / 100, 300),  # that it rises is no reason to go on
    ],
)
def test_a_loss_is_flat_when_its_last_third_gains_nothing(loss, step):
    losses = [float(loss(t)) for t in range(1, MOST_STEPS + 1)]
    assert first_flat(losses) == step
    checks = range(300, MOST_STEPS + 1, 50)
    gains = {t: np.mean(losses[t // 3 : 2 * (t // 3)]) - np.mean(losses[t - t // 3 : t]) for t in checks if t % 3 == 0}
    assert all(gain > 0.02 for t, gain in gains.items() if step is None or t < step)


def test_a_loss_that_was_flat_stays_so():
    rule = Plateau()
    assert [rule.add(1.0) for _ in range(300)].index(True) == 299
    assert all(rule.add(1.0 - step) for step in range(100))
    assert rule.met


# the fit -----------------------------------------------------------------------------------------------------------


def goal_like(seed=0, groups=12, per=12, dims=(24, 16), noise=0.7):
    """Features of both sides (n, d) of training and test episodes: two signals in common, and own falling spectra."""
    generator = np.random.default_rng(seed)
    labels = np.tile(np.arange(groups), 2 * per)
    shared = 0.8 * generator.normal(size=(groups, 4))[labels] + 0.4 * generator.normal(size=(len(labels), 4))
    sides = []
    for d in dims:
        own = generator.normal(size=(len(labels), d)) * np.arange(1, d + 1) ** -0.7 * d**0.35
        turned = own @ np.linalg.qr(generator.normal(size=(d, d)))[0]
        sides.append((shared @ generator.normal(size=(4, d)) / 2 + noise * turned).astype(np.float32))
    half = groups * per
    return [
        (u, e, labels[rows]) for rows in (slice(half), slice(half, None)) for u, e in [(sides[0][rows], sides[1][rows])]
    ]


def recall(heads, test):
    u, e, labels = test
    with torch.no_grad():
        return recall_at_k(*heads(u, e), labels, k=1).recall(1)


def test_a_fit_five_times_as_long_gives_the_same_recall():
    train, test = goal_like()
    fits = [fit_heads(*train, config=FitConfig(dim=64), seed=number) for number in range(2)]
    assert all(fit.converged and fit.ended == "converged" and fit.steps_run < 1000 for fit in fits)
    longer = [
        fit_heads(*train, config=FitConfig(dim=64, steps=5 * fit.steps_run), seed=number)
        for number, fit in enumerate(fits)
    ]
    usual, later = (np.mean([recall(fit.heads, test) for fit in both]) for both in (fits, longer))
    assert usual > 0.3  # chance is 1/12
    assert later == pytest.approx(usual, abs=0.02)


def test_at_the_rate_of_the_paper_the_same_steps_are_too_few():
    """What the default was until now: 400 steps at 1e-4, whose training loss still falls."""
    train, _ = goal_like()
    old = fit_heads(*train, config=FitConfig(dim=64, steps=400, **PRESETS["mirror"]))
    assert not old.converged
    assert old.lr == 1e-4
    assert old.ended == "all steps"
    losses = [record.loss for record in fit_heads(*train, config=FitConfig(dim=64)).history]
    assert np.mean(losses[-50:]) < np.mean([record.loss for record in old.history[-50:]]) - 0.1


def test_the_rule_sees_the_training_loss_alone():
    """The same seed gives the same steps and bytes, whatever else there is."""
    train, test = goal_like()
    fits = [fit_heads(*train, config=FitConfig(dim=32), seed=5)]
    state = torch.get_rng_state()
    torch.manual_seed(17)
    fits.append(fit_heads(*train, config=FitConfig(dim=32), seed=5))
    torch.set_rng_state(state)
    watched = FitConfig(dim=32, early_stop=True, patience=10_000)
    fits.append(fit_heads(*train, config=watched, seed=5, validation=Validation(*test, test[2])))
    first, *others = ([record.loss for record in fit.history] for fit in fits)
    assert all(losses == first for losses in others)
    assert torch.equal(fits[0].heads.t_u.weight, fits[1].heads.t_u.weight)


def test_a_fit_that_is_not_flat_ends_at_the_cap(monkeypatch):
    train, _ = goal_like(groups=4, per=3)
    monkeypatch.setattr(Plateau, "GAIN", -1.0)  # nothing is flat enough
    fit = fit_heads(*train, config=FitConfig(dim=8, batch=8))
    assert (fit.steps_run, fit.converged, fit.ended) == (MOST_STEPS, False, "all steps")


@pytest.mark.parametrize("decay", [True, False])
def test_the_rate_is_constant_until_the_loss_is_flat(decay, monkeypatch):
    from mnprobe.probe import fitting

    rates = []
    for form in (fitting._Direct, fitting._Gram):
        monkeypatch.setattr(form, "set_rate", lambda self, lr: rates.append(lr))
    monkeypatch.setattr(Plateau, "GAIN", 10.0)  # flat at the first check
    train, _ = goal_like(groups=4, per=3)
    fit = fit_heads(*train, config=FitConfig(dim=8, lr=1e-3, decay=decay))
    assert fit.steps_run == len(rates) == (450 if decay else 300)
    assert rates[:300] == [1e-3] * 300
    assert rates[300:] == pytest.approx([1e-3 * (150 - k) / 151 for k in range(150)] if decay else [])
    rates.clear()
    fixed = fit_heads(*train, config=FitConfig(dim=8, lr=1e-3, decay=decay, steps=90))
    assert (fixed.steps_run, fixed.converged) == (90, False)  # too short to tell
    assert rates == pytest.approx([1e-3] * 60 + [1e-3 * (30 - k) / 31 for k in range(30)] if decay else [1e-3] * 90)


def test_given_steps_are_taken_exactly_and_the_rule_is_still_told():
    train, _ = goal_like(groups=4, per=3)
    fit = fit_heads(*train, config=FitConfig(dim=8, steps=900))
    assert (fit.steps_run, fit.ended, fit.converged) == (900, "all steps", True)


# the ridge ---------------------------------------------------------------------------------------------------------


def test_axes_have_variance_one_with_the_noise(rng):
    x = torch.from_numpy((rng.normal(size=(50, 6)) * [9, 3, 1, 1, 0.1, 1e-6]).astype(np.float32))
    axes = ridge_axes(x, 0.1)
    noise = 0.1 * float(x.double().var(0, correction=0).mean())
    mapped = axes.of(x).double()
    assert mapped.shape[1] == 4  # directions far below the noise are left out
    total = mapped.T @ mapped / 50 + noise * axes.basis.T.double() @ axes.basis.double()
    torch.testing.assert_close(total, torch.eye(4, dtype=torch.float64), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(axes.noise.double(), noise * axes.basis.double().square().sum(0), rtol=1e-5, atol=1e-7)


def test_heads_found_in_axes_take_the_features_themselves(rng):
    x = torch.from_numpy(rng.normal(loc=3.0, size=(20, 5)).astype(np.float32))
    axes = ridge_axes(x, 0.03)
    narrow, wide = AlignmentHeads(5, 5, dim=7), AlignmentHeads(5, 5, dim=7)
    axes.unfold(narrow.t_u, wide.t_u)
    torch.testing.assert_close(wide.t_u(x), narrow.t_u(axes.of(x)), rtol=1e-4, atol=1e-5)


def test_features_without_any_difference_are_still_fitted():
    x = np.ones((6, 3), np.float32)
    result = fit_heads(x, x, list("aabbcc"), config=FitConfig(dim=4, steps=3))
    assert [record.loss for record in result.history] == pytest.approx([np.log(6)] * 3, rel=1e-5)


@pytest.mark.parametrize("standardise", [True, False])
def test_unit_and_origin_of_features_change_nothing(standardise):
    (u, e, labels), _ = goal_like(groups=4, per=3)
    config = FitConfig(dim=8, steps=20, standardise=standardise)
    usual, moved = (
        [record.loss for record in fit_heads(a, b, labels, config=config).history]
        for a, b in ((u, e), (1024.0 * u, e.astype(np.float64) / 4 + 32))
    )
    assert moved == pytest.approx(usual, rel=1e-3)


def test_lengths_count_the_noise(generator):
    """The Gram form's loss and gradients are those of cosines whose lengths have the noise as a coordinate."""
    draw = {"generator": generator, "dtype": torch.float64}
    t_u, t_e = torch.randn(20, 6, **draw).requires_grad_(), torch.randn(20, 5, **draw).requires_grad_()
    x_u, x_e = torch.randn(12, 6, **draw), torch.randn(12, 5, **draw)
    noise_u, noise_e = torch.rand(6, **draw), torch.rand(5, **draw)
    apart = torch.zeros(12, 1, dtype=torch.float64)
    far_u, far_e = (apart + (t.square() @ noise).sum().sqrt() for t, noise in ((t_u, noise_u), (t_e, noise_e)))
    loss = info_nce(torch.cat([x_u @ t_u.T, far_u, apart], 1), torch.cat([x_e @ t_e.T, apart, far_e], 1))
    wanted = torch.autograd.grad(loss, (t_u, t_e))
    found = gram_step(t_u.detach(), t_e.detach(), x_u, x_e, tau=0.1, noise_u=noise_u, noise_e=noise_e)
    torch.testing.assert_close(found.loss, loss.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((found.grad_u, found.grad_e), wanted, rtol=1e-10, atol=1e-12)


# tables ------------------------------------------------------------------------------------------------------------


def table_of(**change):
    (u, e, labels), _ = goal_like(groups=4, per=6)
    fit = FitConfig(dim=8, **change)
    return align(pair_arrays(u, e, labels), AlignConfig(fit=fit, seeds=2, splits=1, shuffled=False, holdout="episodes"))


def test_table_and_output_tell_steps_rate_and_convergence():
    table = table_of()
    seeds = table[table["statistic"] == "seed"]
    means = table[table["statistic"] == "mean"]
    assert set(seeds["fit_converged"]) == set(means["fit_converged"]) == {1.0}
    assert set(table["fit_lr"]) == {FitConfig().lr}
    assert set(means["fit_steps"]) == {seeds["fit_steps"].mean()}
    assert seeds["fit_steps"].between(450, 1000).all()
    assert f"{means['fit_steps'].iloc[0]:.0f} at 0.01" in summary_table(table)
    assert not any("flat" in note for note in table.attrs["notes"])


def test_fits_that_are_not_flat_are_noted_once():
    table = table_of(steps=20, **PRESETS["mirror"])
    assert set(table["fit_converged"]) == {0.0}
    notes = [note for note in table.attrs["notes"] if "flat" in note]
    assert notes == [convergence_note(table)]
    assert notes[0].startswith(
        "2 of 2 measured fits ended (after 20 steps at most) before their training loss was flat"
    )
    assert "20 at 0.0001 (100% not flat)" in summary_table(table)


def test_tables_of_earlier_versions_stay_readable_and_are_continued(tmp_path):
    table = table_of(steps=2)
    path = tmp_path / "alignment.csv"
    names = ["fit_steps", "fit_lr", "fit_converged"]
    table.drop(columns=names).to_csv(path, index=False)
    old = read_alignment(path)
    assert old[names].isna().all(axis=None)
    assert convergence_note(old) is None
    assert summary_table(old).splitlines()[-1].endswith("  -")
    (u, e, labels), _ = goal_like(groups=4, per=6)
    config = AlignConfig(fit=FitConfig(dim=8, steps=3), seeds=2, splits=1, shuffled=False, holdout="episodes")
    found = align(pair_arrays(u, e, labels), config, previous=old)
    assert set(found["fit_steps"]) == {3.0}  # other settings: measured again, not taken over
    write_alignment(path, found)
    assert set(read_alignment(path)["fit_steps"]) == {3.0}


def test_settings_of_earlier_versions_keep_their_meaning():
    old = {"dim": 16, "tau": 0.1, "lr": 1e-4, "steps": None, "epochs": None, "batch": 32}
    assert FitConfig.of_record(old) == FitConfig(dim=16, batch=32, steps=400, **PRESETS["mirror"])
    new = FitConfig(dim=16, ridge=0.5, steps=7)
    assert FitConfig.of_record(vars(new)) == new


def test_a_ridge_below_zero_is_refused():
    with pytest.raises(ConfigError, match="ridge must be >= 0, got -1"):
        FitConfig(ridge=-1)
