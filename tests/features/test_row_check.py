"""The check finds what depends on the batch or on chance, and nothing else."""

import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from mnprobe.core.errors import FeatureError
from mnprobe.data import FrameData, open_dataset, write_episode
from mnprobe.features import ExtractorSpec, HookInputs, HookTarget, extract, open_features
from mnprobe.features.extractors.hook import HookExtractor
from mnprobe.features.row_check import check_rows

X = torch.randn(12, 6, 8, generator=torch.Generator().manual_seed(1))  # episodes, tokens, width


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve episodes of 4 to 15 frames, in another order than their lengths."""
    root = tmp_path_factory.mktemp("twelve")
    for n in range(12):
        frame = FrameData(
            gripper_pose=[0, 0, 1, 0, 0, 0, 1],
            gripper_open=1.0,
            joint_velocities=[0.5] * 7,
            gripper_joint_positions=[0.04, 0.04],
        )
        frames = [frame] * (4 + 7 * n % 12)
        write_episode(root, task="t", variation=0, episode=n, instructions=["open it"], frames=frames)
    return root


@pytest.fixture(scope="module")
def episodes(folder):
    return open_dataset(folder)


def numbers(batch):
    return [one.number for one in batch]


def vectors(batch):
    return X[numbers(batch), 0]


def tokens(batch):
    return X[numbers(batch)]


def padded(batch):
    """Tokens 0 to length, padded with zeros to the longest of the batch; a mask of what is data."""
    lengths = [1 + one.number % 5 for one in batch]
    filled = torch.zeros(len(batch), max(lengths), 8)
    mask = torch.zeros(len(batch), max(lengths), dtype=torch.bool)
    for row, (one, length) in enumerate(zip(batch, lengths, strict=True)):
        filled[row, :length], mask[row, :length] = X[one.number, :length], True
    return filled, mask


class Function(nn.Module):
    def __init__(self, function, *parts):
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(parts)

    def forward(self, *inputs):
        return self.function(self.parts, *inputs)


def _stubborn(parts, x):
    parts[0].train()
    return parts[0](x)


def _across(parts, x):
    return parts[0](x[None], x[None], x[None])[0][0]  # attention over the rows


def _masked_mean(parts, x, mask):
    return (parts[0](x) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def _encoder(batch_first, **options):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first, **options)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


class Counting(nn.Module):
    """Adds the number of its call."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return x + self.calls


BATCH, CHANCE = "the values depend on the batch", "the same inputs give other values"
FAULTY = {
    "batch norm in training": (
        lambda: Function(_stubborn, nn.BatchNorm1d(8)),
        vectors,
        rf"{BATCH}.*parts\.0 \(BatchNorm1d\)",
    ),
    "mean of the batch taken off": (lambda: Function(lambda _, x: x - x.mean(0)), vectors, BATCH),
    "softmax over rows": (lambda: Function(lambda _, x: x.softmax(0)), vectors, BATCH),
    "attention over rows": (lambda: Function(_across, nn.MultiheadAttention(8, 2, batch_first=True)), vectors, BATCH),
    "place in the batch": (lambda: Function(lambda _, x: x + torch.arange(len(x))[:, None]), vectors, BATCH),
    "mean over padding": (lambda: Function(lambda _, x, mask: x.mean(1)), padded, BATCH),
    "padding among the tokens": (
        lambda: Function(lambda _, x, mask: x),
        padded,
        r"has \d tokens and \d tokens \(padding",
    ),
    "dropout": (lambda: Function(lambda _, x: nn.functional.dropout(x, 0.5, training=True)), vectors, CHANCE),
    "noise": (lambda: Function(lambda _, x: x + 0.1 * torch.randn_like(x)), vectors, CHANCE),
    "a state between calls": (Counting, vectors, CHANCE),
    "rows second": (
        lambda: _encoder(False),
        lambda batch: tokens(batch).transpose(0, 1),
        r"\(6, \d, 8\), which looks like \(tokens, rows, width\)",
    ),
    "learned queries": (
        lambda: Function(lambda _, x: x.sum() + torch.eye(6)),
        vectors,
        r"gave \(6, 6\); needed is \(\d, D\)",
    ),
}
SOUND = {
    "linear": (lambda: nn.Linear(8, 8), vectors),
    "batch norm in evaluation": (lambda: nn.BatchNorm1d(8).train(), vectors),
    "attention over tokens": (lambda: _encoder(True), tokens),
    "masked padding": (lambda: Function(_masked_mean, nn.Linear(8, 8)), padded),
    "noise of a fixed seed": (
        lambda: Function(lambda _, x: x + torch.randn(8, generator=torch.Generator().manual_seed(0))),
        vectors,
    ),
    "large offset": (lambda: Function(lambda _, x: x + 1e4), vectors),
    "all zero": (lambda: Function(lambda _, x: 0 * x), vectors),
    "half precision": (lambda: _encoder(True).bfloat16(), lambda batch: tokens(batch).bfloat16()),
    "single rows squeezed away": (lambda: Function(lambda _, x: x[:, None].squeeze()), vectors),
}


def build(make, prepare, **changes):
    spec = ExtractorSpec(options={"side": "execution", "factory": "a:b"}, **changes)
    return HookExtractor(HookTarget(module=make(), prepare=prepare), spec)


def check(make, prepare, batch, others=(), **options):
    extractor = build(make, prepare)
    results = extractor.compute(extractor.prepare(batch))
    return check_rows(extractor, batch, results, others, half=bool(extractor.half_precision), **options)


@pytest.mark.parametrize("size", [6, 3, 2])
@pytest.mark.parametrize("name", FAULTY)
def test_what_depends_on_the_batch_or_on_chance_is_refused(episodes, name, size):
    make, prepare, message = FAULTY[name]
    if name in ("rows second", "learned queries") and size != 6:
        with pytest.raises(FeatureError, match=r"needed is \(\d, D\)"):
            check(make, prepare, episodes[:size])
        return
    with pytest.raises(FeatureError, match=message):
        check(make, prepare, episodes[:size])


@pytest.mark.parametrize("size", [6, 3, 2, 1])
@pytest.mark.parametrize("name", SOUND)
def test_what_gives_each_row_its_own_value_is_let_through(episodes, name, size):
    if name == "single rows squeezed away" and size == 1:
        return  # that module does not take one row at all
    make, prepare = SOUND[name]
    assert check(make, prepare, episodes[:size], episodes[6:7]) == []


@pytest.mark.parametrize("name", ["mean of the batch taken off", "mean over padding", "batch norm in training"])
def test_alone_an_episode_has_its_own_value(episodes, name):
    make, prepare, _ = FAULTY[name]
    remarks = check(make, prepare, episodes[:1], episodes[1:2], alone=True) if "norm" not in name else None
    if remarks is not None:
        assert "depend on the batch" in remarks[0]
    with pytest.raises(FeatureError, match="the same inputs give other values"):
        check(*FAULTY["dropout"][:2], episodes[:1], episodes[1:2], alone=True)


def test_rows_second_are_found_with_one_episode_too(episodes):
    inputs = lambda batch: HookInputs(args=(X[:6].transpose(0, 1).repeat(1, len(batch), 1),), lengths=[6] * len(batch))  # noqa: E731
    with pytest.raises(FeatureError, match=r"\(6, 12, 8\), which looks like \(tokens, rows, width\), the 12 rows"):
        check(lambda: _encoder(False), inputs, episodes[:1], alone=True)


def test_rows_of_one_episode_may_depend_on_each_other(episodes):
    """Episodes of several rows are compared whole: attention over the keyframes of one episode is its own affair."""

    def prepare(batch):
        return HookInputs(args=(tokens(batch),), lengths=[6] * len(batch))

    assert (
        check(lambda: Function(lambda _, x: (x - x.mean(1, keepdim=True)).flatten(0, 1)), prepare, episodes[:4]) == []
    )


def test_inputs_that_are_not_the_episodes_are_told_and_not_blamed_on_the_module(episodes):
    remarks = check(lambda: nn.Linear(8, 8), lambda batch: torch.randn(len(batch), 8), episodes[:4])
    assert "prepare gives other inputs each time" in remarks[0]
    remarks = check(lambda: nn.Linear(8, 8), lambda batch: X[: len(batch), 0], episodes[:4])
    assert "whichever episodes" in remarks[0]
    with pytest.raises(FeatureError, match="depend on the batch"):
        check(lambda: Function(lambda _, x: x - x.mean(0)), lambda batch: X[: len(batch), 0], episodes[:4])


def test_a_module_of_one_batch_size_is_compared_in_another_order(episodes):
    fixed = lambda: Function(lambda _, x: x.reshape(4, 8))  # noqa: E731
    assert check(fixed, vectors, episodes[:4]) == []
    with pytest.raises(FeatureError, match="depend on the batch"):
        check(lambda: Function(lambda _, x: x.reshape(4, 8).cumsum(0)), vectors, episodes[:4])


def test_training_mode_without_effect_is_a_remark(episodes):
    def forward(parts, x):
        parts[0].train()
        return parts[0](x)

    (remark,) = check(lambda: Function(forward, nn.Linear(8, 8)), vectors, episodes[:4])
    assert "parts.0 (Linear)" in remark


# ---- as part of an extraction ------------------------------------------------------------------------------------


@pytest.fixture
def store(folder, tmp_path, monkeypatch):
    """Extract with a module and its inputs; returns values by episode, and remarks."""

    def run(make, prepare, **options):
        module = types.ModuleType("models_of_row_check")
        module.make = lambda checkpoint: HookTarget(module=make(), prepare=prepare)
        monkeypatch.setitem(sys.modules, "models_of_row_check", module)
        told = []
        spec = {"factory": "models_of_row_check:make", "side": "execution"}
        path = tmp_path / f"{options}.h5".replace("/", "")
        extract(folder, out=path, models=["hook"], options=spec, note=told.append, **options)
        with open_features(path) as file:
            return {layer: file.layer(layer).pooled() for layer in file.layers}, told, file.attrs["provenance"]

    return run


@pytest.mark.parametrize("name", SOUND)
def test_values_are_the_same_in_all_batch_sizes(store, name):
    if name in ("single rows squeezed away", "half precision"):
        return
    found = [store(*SOUND[name], batch_size=size)[0]["output"] for size in (1, 5, 12)]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-4, atol=1e-5)


def test_batch_size_1_is_the_way_out_that_the_refusal_names(store):
    make, prepare, _ = FAULTY["mean over padding"]
    with pytest.raises(FeatureError, match="or take --batch-size 1"):
        store(make, prepare, batch_size=4)
    found, told, provenance = store(make, prepare, batch_size=1)
    expected = np.stack([X[n, : 1 + n % 5].mean(0).numpy() for n in range(12)])
    np.testing.assert_allclose(found["output"], expected, rtol=1e-5)
    assert told == provenance["remarks"]
    assert "depend on the batch; they are an episode's own because it is alone" in told[0]


def test_padding_that_only_later_batches_have_is_a_remark(store):
    def prepare(batch):
        length = 2 if batch[0].number < 6 else 3
        return X[numbers(batch), :length]

    _, told, provenance = store(nn.Identity, prepare, batch_size=6)
    assert "batches differ (2 to 3)" in told[0]
    assert provenance["remarks"] == told


def test_a_pattern_leaves_out_layers_that_depend_on_the_batch(store):
    def make():
        module = nn.Sequential(nn.Linear(8, 8), Function(lambda _, x: x - x.mean(0)), nn.Linear(8, 8))
        forward = module.forward
        module.forward = lambda x: (forward(x), module[0](x))[1]
        return module

    found, told, _ = store(make, vectors, layers=["*"], batch_size=4)
    assert sorted(found) == ["0", "output"]
    assert "layer '1': the values depend on the batch" in told[0]


def test_the_check_costs_one_batch(store):
    sizes = []

    def make():
        return Function(lambda _, x: (sizes.append(len(x)), x)[1])

    store(make, vectors, batch_size=4)
    assert sizes == [4, 2, 2, 4, 4]
