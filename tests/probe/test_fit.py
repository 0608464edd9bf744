import hashlib

import numpy as np
import pytest
import torch
from torch import nn

from mnprobe.core.errors import CheckpointError, ConfigError, FeatureError, ProbeError, TooFewSamples
from mnprobe.probe import (
    AlignmentHeads,
    FitConfig,
    Pairing,
    Validation,
    fit_heads,
    info_nce,
    load_heads,
    recall_at_k,
    save_heads,
)
from mnprobe.probe.sampling import GroupMembers

QUICK = {"dim": 16, "steps": 60, "lr": 1e-2}


def weights(heads):
    return hashlib.sha256(b"".join(v.numpy().tobytes() for v in heads.state_dict().values())).hexdigest()


def score(heads, u, e, labels):
    z_u, z_e = heads(torch.from_numpy(u), torch.from_numpy(e))
    return recall_at_k(z_u, z_e, labels).recall(1)


# heads -------------------------------------------------------------------------------------------------------------


def test_linear_heads_are_one_linear_layer_after_standardising(generator):
    heads = AlignmentHeads(3, 5, dim=4, generator=generator)
    u, e = torch.randn(6, 3, generator=generator), 3 + 2 * torch.randn(7, 5, generator=generator)
    heads.set_standardization(u, e)
    z_u, z_e = heads(u, e)
    assert isinstance(heads.t_e, nn.Linear)
    expected = (e - e.mean(0)) / e.std(0, correction=0) @ heads.t_e.weight.T + heads.t_e.bias
    torch.testing.assert_close(z_e, expected)
    assert z_u.shape == (6, 4)


def test_features_that_never_change_are_only_centred():
    heads = AlignmentHeads(2, 2, dim=2)
    values = torch.tensor([[1e4, 1.0], [1e4, 3.0]])
    heads.set_standardization(values, values)
    assert heads.standardize_u(values).tolist() == [[0.0, -1.0], [0.0, 1.0]]


def test_initial_weights_come_from_the_generator_alone():
    state = torch.get_rng_state()
    one = AlignmentHeads(8, 6, generator=torch.Generator().manual_seed(3))
    same = AlignmentHeads(8, 6, generator=torch.Generator().manual_seed(3))
    other = AlignmentHeads(8, 6, generator=torch.Generator().manual_seed(4))
    assert weights(one) == weights(same) != weights(other)
    assert torch.equal(torch.get_rng_state(), state)
    assert one.t_u.weight.abs().max() <= 8**-0.5
    assert one.t_u.weight.std().item() == pytest.approx((8 * 3) ** -0.5, rel=0.05)


@pytest.mark.parametrize("depth", [2, 3])
def test_mlp_heads_have_their_depth(depth):
    heads = AlignmentHeads(3, 5, dim=4, kind="mlp", depth=depth)
    assert sum(isinstance(layer, nn.Linear) for layer in heads.t_u) == depth


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_saved_heads_map_raw_features_as_before(kind, tmp_path, generator):
    heads = AlignmentHeads(3, 5, dim=4, kind=kind, generator=generator)
    u, e = torch.randn(6, 3, generator=generator), torch.randn(6, 5, generator=generator)
    heads.set_standardization(u, e)
    save_heads(tmp_path / "h.safetensors", heads, {"u": "viclip", "steps": 3})
    loaded = load_heads(tmp_path / "h.safetensors")
    assert loaded.fitted_on == {"u": "viclip", "steps": 3}
    assert loaded.config == heads.config
    torch.testing.assert_close(loaded(u, e), heads(u, e), rtol=0, atol=0)


def test_equal_heads_are_equal_bytes(tmp_path):
    heads = AlignmentHeads(3, 2, dim=4)
    for number in range(8):  # safetensors alone writes its metadata in another order each time
        save_heads(tmp_path / f"{number}.safetensors", heads, {"instruction": "öffne", "steps": 3})
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_bad_heads_files_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    path = tmp_path / "h.safetensors"
    with pytest.raises(CheckpointError, match="no such heads file"):
        load_heads(path)
    path.write_bytes(b"\x00" * 40)
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_heads(path)
    save_file({"x": torch.ones(2)}, path, metadata={"format": "mnprobe.checkpoint/1"})
    with pytest.raises(CheckpointError, match=r"not alignment heads: expected format .* found 'mnprobe.checkpoint/1'"):
        load_heads(path)
    save_heads(path, AlignmentHeads(2, 3, dim=4))
    whole, metadata = load_file(path), {"format": "mnprobe.heads/1", "fitted_on": "{}"}
    config = '{"depth":2,"dim":4,"dim_e":3,"dim_u":2,"kind":"linear"}'
    save_file({k: v for k, v in whole.items() if k != "t_u.weight"}, path, metadata=metadata | {"config": config})
    with pytest.raises(CheckpointError, match=r"'t_u.weight': expected \(4, 2\), found none"):
        load_heads(path)
    save_file(whole | {"t_u.bias": torch.full((4,), torch.nan)}, path, metadata=metadata | {"config": config})
    with pytest.raises(CheckpointError, match=r"'t_u.bias' holds NaN"):
        load_heads(path)
    save_file(whole, path, metadata=metadata)
    with pytest.raises(CheckpointError, match="metadata of these heads cannot be read"):
        load_heads(path)


# pairing -----------------------------------------------------------------------------------------------------------


def test_partners_are_of_the_same_group_and_all_come_up(generator, rng):
    groups_u, groups_e = rng.integers(0, 4, 30), np.array([0, 1, 2, 3, 3, 3, 2])
    pairing = Pairing(groups_u, groups_e)
    seen = {(int(u), int(e)) for _ in range(60) for u, e in enumerate(pairing.draw(generator))}
    assert seen == {(u, e) for u in range(30) for e in range(7) if groups_u[u] == groups_e[e]}


def test_partners_are_drawn_evenly(generator):
    drawn = torch.cat([Pairing(np.zeros(5, int), np.zeros(4, int)).draw(generator) for _ in range(800)])
    assert np.bincount(drawn.numpy()) == pytest.approx([1000] * 4, rel=0.1)


def test_groups_on_one_side_only_are_listed():
    with pytest.raises(ProbeError, match=r"of 3 groups 1 only in u \('b'\) and 1 only in e \('c'\)"):
        fit_heads(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32), ["a", "a", "b"], ["a", "a", "c"])


# fit ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positives", ["diagonal", "exclude", "multi"])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_planted_agreement_is_found_and_was_not_there_before(positives, kind, planted):
    u, e, labels = planted(noise=0.1)
    train, test = np.arange(64) % 2 == 0, np.arange(64) % 2 == 1
    own = np.array(labels)
    before = fit_heads(u[train], e[train], own[train], config=FitConfig(dim=16, steps=0, heads=kind)).heads
    after = fit_heads(u[train], e[train], own[train], config=FitConfig(**QUICK, heads=kind, positives=positives))
    assert after.history[-1].loss < after.history[0].loss
    assert score(before, u[test], e[test], own[test]) < 0.45
    assert score(after.heads, u[test], e[test], own[test]) > 0.9


def test_rotated_inputs_score_the_same(planted, rng):
    u, e, labels = planted(noise=0.8, per=12)
    own, test = np.array(labels), np.arange(96) % 3 == 0
    rotation = np.linalg.qr(rng.normal(size=(12, 12)))[0].astype(np.float32)
    scores = []
    for features in (u, u @ rotation):
        seeds = [
            fit_heads(features[~test], e[~test], own[~test], seed=seed, config=FitConfig(dim=32)) for seed in range(4)
        ]
        scores.append(np.mean([score(fit.heads, features[test], e[test], own[test]) for fit in seeds]))
    assert scores[0] == pytest.approx(scores[1], abs=0.06)
    assert scores[0] > 0.5


def test_sides_may_hold_different_items(planted):
    u, e, labels = planted()
    result = fit_heads(u, e[::2], labels, labels[::2], config=FitConfig(**QUICK))
    assert score(result.heads, u, e, labels) > 0.9


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_cores(planted):
    u, e, labels = planted()
    config = FitConfig(dim=16, steps=5, batch=10)
    before = torch.get_num_threads()
    state = torch.get_rng_state()
    try:
        hashes = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            hashes.append(weights(fit_heads(u, e, labels, config=config, seed=7).heads))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert hashes[0] == hashes[1] != weights(fit_heads(u, e, labels, config=config, seed=8).heads)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_steps_are_those_of_torchs_adam(weight_decay, rng):
    u, e = (torch.from_numpy(rng.normal(size=(12, 5)).astype(np.float32)) for _ in range(2))
    config = {"dim": 4, "steps": 7, "lr": 0.05, "weight_decay": weight_decay, "standardise": False, "batch": 12}
    config |= {"ridge": 0.0, "decay": False}
    fitted = fit_heads(u, e, range(12), config=FitConfig(**config), form="direct").heads
    draws = torch.Generator().manual_seed(0)
    heads = AlignmentHeads(5, 5, dim=4, generator=draws)
    adam = torch.optim.Adam(heads.parameters(), lr=0.05, weight_decay=weight_decay, fused=True)
    for _ in range(7):
        rows = torch.randperm(12, generator=draws)
        partners = Pairing(np.arange(12), np.arange(12)).draw(draws)
        adam.zero_grad()
        info_nce(heads.t_u(u[rows]), heads.t_e(e[partners[rows]]), tau=0.1).backward()
        adam.step()
    assert weights(fitted) == weights(heads)


@pytest.mark.parametrize(
    ("items", "batch", "epochs", "used", "steps"), [(6, 256, 2, 6, 2), (10, 4, 3, 4, 6), (8, 4, 1, 4, 2)]
)
def test_last_partial_batches_are_dropped(items, batch, epochs, used, steps, rng):
    x = rng.normal(size=(items, 3)).astype(np.float32)
    result = fit_heads(x, x, np.arange(items) % 3, config=FitConfig(dim=4, batch=batch, epochs=epochs))
    assert (result.batch, result.steps_run, result.ended) == (used, steps, "all steps")
    assert [record.step for record in result.history] == list(range(1, steps + 1))


def test_the_first_loss_is_the_loss_of_the_initial_heads(rng):
    x = rng.normal(size=(6, 3)).astype(np.float32)
    start = AlignmentHeads(3, 3, dim=4, generator=torch.Generator().manual_seed(5))
    start.set_standardization(torch.from_numpy(x), torch.from_numpy(x))
    z_u, z_e = start(torch.from_numpy(x), torch.from_numpy(x))  # own groups: the partner is the item itself
    result = fit_heads(x, x, np.arange(6), config=FitConfig(dim=4, steps=1, tau=0.5, ridge=0), seed=5)
    assert result.history[0].loss == pytest.approx(info_nce(z_u, z_e, tau=0.5).item(), rel=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"tau": 0.5},
        {"lr": 1e-3},
        {"ridge": 0.3},
        {"ridge": 0},
        {"decay": False},
        {"weight_decay": 0.5},
        {"steps": 7},
        {"batch": 9},
        {"positives": "exclude"},
        {"positives": "multi"},
        {"heads": "mlp"},
        {"standardise": False},
        {"dim": 12},
        {"steps": None, "epochs": 3},
    ],
    ids=str,
)
def test_every_option_arrives(change, planted):
    u, e, labels = planted(instructions=4, per=5)
    base = {"dim": 8, "steps": 4, "batch": 10}
    plain = fit_heads(u, e, labels, config=FitConfig(**base))
    changed = fit_heads(u, e, labels, config=FitConfig(**(base | change)))
    assert weights(plain.heads) != weights(changed.heads)


def test_depth_arrives(planted):
    u, e, labels = planted(instructions=4, per=5)
    heads = fit_heads(u, e, labels, config=FitConfig(dim=8, steps=1, heads="mlp", depth=3)).heads
    assert heads.config["depth"] == 3
    assert len(heads.t_u) == 5


def test_early_stopping_keeps_the_best_heads(planted):
    u, e, labels = planted(noise=1.5, per=6)
    held = np.arange(48) % 3 == 0
    own = np.array(labels)
    config = FitConfig(dim=32, steps=400, lr=3e-2, decay=False, early_stop=True, patience=3, check_every=5)
    watch = Validation(u[held], e[held], own[held], own[held])
    result = fit_heads(u[~held], e[~held], own[~held], config=config, validation=watch)
    checks = {record.step: record.validation for record in result.history if record.validation is not None}
    assert result.ended == "early stop"
    assert result.steps_run < 400
    assert list(checks) == list(range(5, result.steps_run + 1, 5))
    assert result.best_step == min(checks, key=checks.get) == result.steps_run - 3 * 5
    config = FitConfig(dim=32, steps=result.best_step, lr=3e-2, decay=False)
    again = fit_heads(u[~held], e[~held], own[~held], config=config)
    assert weights(again.heads) == weights(result.heads)


@pytest.mark.parametrize(("name", "value"), [("patience", 1), ("check_every", 2)])
def test_early_stopping_options_arrive(name, value, planted):
    u, e, labels = planted(noise=1.5, per=6)
    base = {"dim": 32, "steps": 200, "lr": 3e-2, "early_stop": True, "patience": 3, "check_every": 5}
    watch = Validation(u[::3], e[::3], labels[::3], labels[::3])
    runs = [
        fit_heads(u, e, labels, config=FitConfig(**given), validation=watch) for given in (base, base | {name: value})
    ]
    assert runs[0].steps_run != runs[1].steps_run


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"dim": 0}, "dim must be at least 1, got 0"),
        ({"batch": 1}, "batch must be at least 2.*got 1"),
        ({"tau": float("nan")}, "tau must be a positive number, got nan"),
        ({"lr": 0.0}, "lr must be a positive number, got 0.0"),
        ({"ridge": -0.5}, "ridge must be >= 0, got -0.5"),
        ({"weight_decay": -1.0}, "weight_decay must be >= 0, got -1.0"),
        ({"steps": 1, "epochs": 2}, "steps or epochs, not both: steps=1, epochs=2"),
        ({"steps": -1}, "steps must be >= 0, got -1"),
        ({"heads": "mlp", "depth": 1}, "at least 2 layers, got depth=1"),
    ],
)
def test_impossible_settings_are_quoted(change, text):
    with pytest.raises(ConfigError, match=text):
        FitConfig(**change)


def test_what_cannot_be_fitted_is_refused():
    x = np.eye(3, dtype=np.float32)
    with pytest.raises(TooFewSamples, match="at least 2 items of 2 groups, got 3 items of 1 groups"):
        fit_heads(x, x, ["a"] * 3)
    with pytest.raises(ConfigError, match="early_stop=True but validation data were not given"):
        fit_heads(x, x, ["a", "b", "c"], config=FitConfig(early_stop=True))
    with pytest.raises(ConfigError, match=r"device 'cuda:99' was asked for, but torch sees \d+ CUDA devices"):
        fit_heads(x, x, ["a", "b", "c"], device="cuda:99")
    with pytest.raises(FeatureError, match="u must be one row per item"):
        fit_heads(np.zeros((0, 3), np.float32), x, [])
    with pytest.raises(ProbeError, match=r"the loss became (nan|inf) at step \d+: lower lr"):
        fit_heads(x, x, ["a", "b", "c"], config=FitConfig(dim=4, lr=3e38, steps=9))


def test_members_are_sampled_as_the_two_earlier_classes_did():
    """Values of the classes that this one replaced: with torch's generator in the probe, with NumPy's in training."""
    groups, wanted = np.array([0, 2, 1, 0, 2, 2, 1, 0]), np.array([0, 0, 1, 2, 2, 2, 1, 0])
    members = GroupMembers(groups, 3)
    assert members.sample(wanted, torch.Generator().manual_seed(7)).tolist() == [0, 0, 6, 4, 5, 5, 2, 3]
    assert members.sample(wanted, np.random.default_rng(7)).tolist() == [7, 3, 6, 5, 4, 5, 6, 0]
    some = GroupMembers(groups, 4, np.array([1, 3, 4]))
    assert some.counts.tolist() == [1, 0, 2, 0]
    assert set(some.sample(np.full(50, 2), np.random.default_rng(0)).tolist()) == {1, 4}
