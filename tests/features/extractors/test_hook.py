"""What a hook stores is what the layer returned, and it stores nothing that it does not understand."""

import dataclasses
import sys
import types
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import torch
from torch import nn

from mnprobe.core.errors import ConfigError, FeatureError
from mnprobe.data import open_dataset
from mnprobe.features import ExtractorSpec, HookInputs, HookTarget, describe_features, extract, open_features
from mnprobe.features.extractors.hook import HookExtractor

Pair = namedtuple("Pair", "pixels mask")
X = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
TASKS = ("open_drawer", "reach_target")


def rows_of(episodes):
    """Each episode's own row of X."""
    return X[[2 * TASKS.index(one.task) + one.number + (one.partition == "val") for one in episodes]]


@dataclasses.dataclass(frozen=True)
class Frozen:
    pixels: torch.Tensor
    mask: torch.Tensor
    name: str = "frozen"


class Model(nn.Module):
    """Calls a function of the input in place of layers."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args, **kwargs):
        return self.function(*args, **kwargs)


@pytest.fixture(scope="module")
def dataset(demos):
    return open_dataset(demos)


def hook(module, *layers, inputs=None, optional=()):
    """An extractor on `module`, which reads rows of X unless `inputs` gives something else."""

    def prepare(episodes):
        return X[: len(episodes)] if inputs is None else inputs(episodes)

    spec = ExtractorSpec(layers=layers, optional=frozenset(optional), options={"side": "execution", "factory": "a:b"})
    return HookExtractor(HookTarget(module=module, prepare=prepare), spec)


def values(extractor, episodes, layer="output"):
    found = extractor.compute(extractor.prepare(episodes))
    return np.concatenate([one.layers[layer].values for one in found])


@pytest.fixture
def factory(monkeypatch):
    """Register a factory under a name; returns options for `extract`."""

    def register(make):
        module = types.ModuleType("factories_of_test")
        module.make = make
        monkeypatch.setitem(sys.modules, "factories_of_test", module)
        return {"factory": "factories_of_test:make", "side": "execution"}

    return register


# ---- a value, not a reference ------------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x):
        y = self.inner(x)
        y += x
        return y


class Buffered(nn.Module):
    """Returns one buffer from every call."""

    def __init__(self):
        super().__init__()
        self.register_buffer("kept", torch.zeros(2, 8))

    def forward(self, x):
        self.kept.copy_(2 * x)
        return self.kept


class Step(nn.Module):
    def forward(self, x):
        return x.add_(1)


def test_a_layer_before_an_in_place_activation_keeps_its_own_values(dataset):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 6), nn.ReLU(inplace=True))
    extractor = hook(module, "0", "1")
    expected = nn.functional.linear(X, module[0].weight, module[0].bias).detach().numpy()
    assert (expected < 0).any()
    np.testing.assert_allclose(values(extractor, dataset, "0"), expected, rtol=1e-6)
    np.testing.assert_allclose(values(extractor, dataset, "1"), np.maximum(expected, 0), rtol=1e-6)


def test_a_residual_added_in_place_is_not_in_the_inner_layer(dataset):
    module = Residual()
    expected = nn.functional.linear(X, module.inner.weight, module.inner.bias).detach().numpy()
    extractor = hook(module, "inner", "output")
    np.testing.assert_allclose(values(extractor, dataset, "inner"), expected, rtol=1e-6)
    np.testing.assert_allclose(values(extractor, dataset), expected + X.numpy(), rtol=1e-6)


def test_what_a_module_keeps_from_the_pass_can_be_trained_on(dataset):
    class Caches(nn.Module):
        def forward(self, x):
            self.kept = 2 * x
            return self.kept

    module = Caches()
    values(hook(module, "output"), dataset)
    weight = torch.ones(8, requires_grad=True)
    (module.kept * weight).sum().backward()  # tensors of inference mode refuse this
    assert torch.equal(weight.grad, module.kept.sum(0))


@pytest.mark.parametrize("layer", ["output", "0"])
def test_a_buffer_that_is_returned_twice_holds_two_values(dataset, layer):
    extractor = hook(nn.Sequential(Buffered()), layer, inputs=lambda e: torch.full((2, 8), float(e[0].number)))
    first = extractor.compute(extractor.prepare([dataset[0], dataset[0]]))
    second = extractor.compute(extractor.prepare([dataset[1], dataset[1]]))
    assert first[0].layers[layer].values.tolist() == [[0.0] * 8]
    assert second[0].layers[layer].values.tolist() == [[2.0] * 8]


def test_a_layer_that_works_in_place_and_runs_twice_gives_both_values(dataset):
    step = Step()
    extractor = hook(nn.Sequential(step, step), "0", inputs=lambda e: torch.zeros(len(e), 2))
    found = extractor.compute(extractor.prepare(dataset[:1]))
    assert found[0].layers["0"].values.tolist() == [[1, 1], [2, 2]]


def test_a_module_that_changes_its_input_does_not_change_the_callers_data(dataset):
    mine = torch.zeros(5, 2)
    extractor = hook(nn.Sequential(Step()), "output", inputs=lambda e: mine[: len(e)])
    for _ in range(2):
        assert values(extractor, dataset).tolist() == [[1.0, 1.0]] * 5
    assert not mine.any()


# ---- containers --------------------------------------------------------------------------------------------------


class Moved:
    """Like a BatchEncoding: no mapping, but it can be moved."""

    def __init__(self, pixels):
        self.pixels = pixels

    def to(self, device):
        return Moved(self.pixels.to(device))


@pytest.mark.parametrize(
    ("make", "read", "kind"),
    [
        (lambda x: Pair(x, x > 0), lambda v: v.pixels * v.mask, Pair),
        (lambda x: OrderedDict(pixels=x, mask=x > 0), lambda v: v["pixels"] * v["mask"], OrderedDict),
        (lambda x: {"pixels": x, "mask": x > 0}, lambda v: v["pixels"] * v["mask"], dict),
        (lambda x: Frozen(x, x > 0), lambda v: v.pixels * v.mask, Frozen),
        (lambda x: [x, (x > 0,)], lambda v: v[0] * v[1][0], list),
        (lambda x: Moved(x), lambda v: v.pixels * (v.pixels > 0), Moved),
    ],
)
def test_inputs_arrive_in_containers_of_their_own_type(dataset, make, read, kind):
    seen = []

    def forward(value, again=None):
        seen.append((type(value), type(again)))
        return read(value) + read(again)

    inputs = lambda e: HookInputs(args=(make(X[: len(e)]),), kwargs={"again": make(X[: len(e)])})  # noqa: E731
    found = values(hook(Model(forward), inputs=inputs), dataset)
    np.testing.assert_array_equal(found, 2 * X.clamp(min=0).numpy())
    assert seen == [(kind, kind)]


def test_a_named_tuple_from_prepare_is_one_argument(dataset):
    found = values(hook(Model(lambda pair: pair.pixels), inputs=lambda e: Pair(X[: len(e)], None)), dataset)
    np.testing.assert_array_equal(found, X.numpy())


class Output(OrderedDict):
    """Like an output of transformers: members by name and by number."""

    def __getitem__(self, key):
        return tuple(self.values())[key] if isinstance(key, int) else super().__getitem__(key)

    def __getattr__(self, name):
        return self[name]


@dataclasses.dataclass
class Plain:
    state: torch.Tensor
    pooled: torch.Tensor


CONTAINERS = {
    "mapping": lambda x: OrderedDict(state=x[:, None].repeat(1, 3, 1), pooled=2 * x),
    "transformers": lambda x: Output(state=x[:, None].repeat(1, 3, 1), pooled=2 * x),
    "dataclass": lambda x: Plain(state=x[:, None].repeat(1, 3, 1), pooled=2 * x),
    "named tuple": lambda x: namedtuple("Out", "state pooled")(x[:, None].repeat(1, 3, 1), 2 * x),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_container_is_refused_with_its_members_and_one_can_be_taken(dataset, kind):
    module = nn.Sequential(Model(CONTAINERS[kind]))
    for layer, example in (("output", "output.state"), ("0", "'0[state]'")):
        with pytest.raises(FeatureError) as refusal:
            values(hook(module, layer), dataset, layer)
        for text in (f"layer {layer!r}", "state (5, 3, 8)", "pooled (5, 8)", f"--layer {example}"):
            assert text in str(refusal.value)
    for name, stored in (
        ("output.pooled", "output.pooled"),
        ("output[pooled]", "output.pooled"),
        ("0[pooled]", "0.pooled"),
    ):
        extractor = hook(module, name)
        assert extractor.layers == (stored,)
        np.testing.assert_array_equal(values(extractor, dataset, stored), 2 * X.numpy())


@pytest.mark.parametrize("name", ["output[1]", "output.1", "output[-1]"])
@pytest.mark.parametrize("kind", ["transformers", "named tuple"])
def test_members_can_be_counted(dataset, kind, name):
    extractor = hook(Model(CONTAINERS[kind]), name)
    np.testing.assert_array_equal(values(extractor, dataset, extractor.layers[0]), 2 * X.numpy())


def test_members_of_members(dataset):
    module = Model(lambda x: {"hidden": [x, 2 * x], "n": 3})
    extractor = hook(module, "output.hidden[1]")
    np.testing.assert_array_equal(values(extractor, dataset, "output.hidden.1"), 2 * X.numpy())
    with pytest.raises(ConfigError, match="a store cannot hold it"):
        hook(module, "output['hidden states'][1]")


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (lambda x: (x, x.sum()), None),
        (lambda x: [x], None),
        (lambda x: (x, None, [x]), None),
        (lambda x: (x, 2 * x), "a tuple with the members 0 (5, 8), 1 (5, 8). Name the member"),
        (lambda x: (x.sum(), x), "a tuple with the members 0 (), 1 (5, 8). Name the member"),
        (lambda x: [x, x[:, None]], "a list with the members 0 (5, 8), 1 (5, 1, 8)"),
        (lambda x: [], "list of 0; needed is (5, D)"),
        (lambda x: None, "NoneType; needed is (5, D)"),
        (lambda x: x.T, "(8, 5); needed is (5, D) or (5, T, D)"),
        (lambda x: x[None].repeat(3, 1, 1), "(3, 5, 8), which looks like (tokens, rows, width)"),
        (lambda x: x.to(torch.complex64), "complex64"),
        (lambda x: torch.nested.as_nested_tensor(list(x[:, None])), "nested tensor"),
        (lambda x: x.to_sparse(), "sparse"),
    ],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_the_first_of_several_is_taken_only_where_it_is_the_only_one(dataset, give, message):
    extractor = hook(Model(give))
    if message is None:
        np.testing.assert_array_equal(values(extractor, dataset), X.numpy())
        return
    with pytest.raises(FeatureError) as refusal:
        values(extractor, dataset)
    assert message in str(refusal.value)


def test_a_member_that_is_not_there_is_named_with_those_that_are(dataset):
    for layer in ("output.poled", "output[7]"):
        with pytest.raises(FeatureError, match=r"with the members state .*so no member"):
            values(hook(Model(CONTAINERS["mapping"]), layer), dataset)
    with pytest.raises(FeatureError, match=r"layer 'output\[0\]': output gave \(5, 8\), so no member 0"):
        values(hook(Model(lambda x: x), "output[0]"), dataset)


def test_a_layer_that_runs_twice_with_two_widths_is_refused(dataset):
    module = nn.Sequential(nn.Identity())
    module.forward = lambda x: module[0](x[:, :2]).sum() + module[0](x)
    with pytest.raises(FeatureError, match="layer '0' ran 2 times in one pass and gave tokens of 2, 8 numbers"):
        values(hook(module, "0"), dataset, "0")


def test_values_of_double_precision_beyond_float32_are_told_as_such(dataset, tmp_path, factory, demos):
    options = factory(
        lambda c: HookTarget(
            module=nn.Identity(), prepare=lambda e: torch.full((len(e), 2), 1e300, dtype=torch.float64)
        )
    )
    with pytest.raises(FeatureError, match=r"layer 'output': holds 1e.300, which is beyond float32; scale the values"):
        extract(demos, out=tmp_path / "x.h5", models=["hook"], options=options)


@pytest.mark.parametrize("lengths", [[1.5], ["1"], [True]])
def test_lengths_must_be_whole_numbers(dataset, lengths):
    extractor = hook(nn.Identity(), inputs=lambda e: HookInputs(args=(X,), lengths=lengths))
    with pytest.raises(ConfigError, match=r"HookInputs\.lengths must be a whole number"):
        extractor.prepare(dataset[:1])


def test_lengths_may_be_a_tensor(dataset):
    extractor = hook(nn.Identity(), inputs=lambda e: HookInputs(args=(X,), lengths=torch.tensor([2, 3])))
    assert extractor.prepare(dataset[:2])[1] == [2, 3]


# ---- names and patterns ------------------------------------------------------------------------------------------


def _named(*names):
    module = nn.Module()
    module.parts = nn.ModuleDict({name: nn.Linear(8, 4) for name in names})
    module.passes = 0

    def forward(x):
        module.passes += 1
        return torch.cat([part(x) for part in module.parts.values()], dim=1)

    module.forward = forward
    return module


@pytest.mark.parametrize("name", ["front cam", "caméra", "a/b", "x:y", "Ω"])
def test_a_name_that_a_store_cannot_hold_is_refused_before_anything_is_read(tmp_path, factory, name):
    module, read = _named("plain", name), []
    options = factory(lambda c: HookTarget(module=module, prepare=lambda e: read.append(e)))
    with pytest.raises(ConfigError, match=r"a store cannot hold it .*second name in the factory"):
        # the folder of demonstrations is not even looked at
        extract(
            tmp_path / "none", out=tmp_path, models=["hook"], layers=["parts.plain", f"parts.{name}"], options=options
        )
    assert (module.passes, read) == (0, [])


def test_the_way_out_for_such_a_name_works(dataset):
    module = _named("front cam")
    module.front_cam = module.parts["front cam"]
    extractor = hook(module, "front_cam")
    np.testing.assert_allclose(values(extractor, dataset, "front_cam"), module.front_cam(X).detach().numpy(), rtol=1e-5)


def test_two_layers_of_one_stored_name_are_refused(dataset, tmp_path):
    for layers in (["output[0]", "output.0"], ["0[a]", "0['a']"]):
        with pytest.raises(ConfigError, match="would both be stored as"):
            extract(tmp_path / "none", out=tmp_path, models=["hook"], layers=layers, options={"side": "execution"})


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", ("blocks", "blocks.0", "blocks.1", "blocks.2", "head", "output")),
        ("blocks.*", ("blocks.0", "blocks.1", "blocks.2")),
        ("blocks.[0-1]", ("blocks.0", "blocks.1")),
        ("hook=blocks.[12]", ("blocks.1", "blocks.2")),
        ("?ead", ("head",)),
    ],
)
def test_patterns_take_layers_in_the_order_of_the_model(demos, tmp_path, factory, pattern, expected):
    made = []

    def make(checkpoint):
        made.append(checkpoint)
        blocks = nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 8))
        module = nn.Sequential(OrderedDict(blocks=blocks, head=nn.Linear(8, 2)))
        return HookTarget(module=module, prepare=rows_of)

    options = factory(make)
    remarks = []
    (entry,) = extract(demos, out=tmp_path, models=["hook"], layers=[pattern], options=options, note=remarks.append)
    assert entry.layers == expected
    assert (made, remarks) == ([None], [])
    by_name = extract(demos, out=tmp_path, models=["hook"], layers=list(expected), options=options)
    assert [one.status for one in by_name] == ["kept"]


def test_a_pattern_leaves_out_what_cannot_be_stored_and_says_so(demos, tmp_path, factory):
    module = nn.ModuleDict(
        {"a b": nn.Linear(8, 4), "never": nn.Linear(8, 4), "map": nn.Identity(), "good": nn.Linear(8, 4)}
    )
    module.forward = lambda x: module["good"](module["map"](x[:, None, None])[:, 0, 0]) + 0 * module["a b"](x)
    options = factory(lambda c: HookTarget(module=module, prepare=rows_of))
    remarks = []
    (entry,) = extract(demos, out=tmp_path, models=["hook"], layers=["*"], options=options, note=remarks.append)
    assert entry.layers == ("good", "output")
    first, second = remarks
    assert "'a b'" in first
    assert second.startswith("2 layers that a pattern names are left out: ")
    assert "layer 'never' did not run" in second
    assert "layer 'map' gave (5, 1, 1, 8)" in second
    described = describe_features(entry.path)
    assert described["layers"]["good"]["class"] == "torch.nn.modules.linear.Linear"
    assert described["layers"]["good"]["module"] == "good"
    assert described["provenance"]["remarks"] == [second]
    with pytest.raises(FeatureError, match="layer 'never' did not run"):
        extract(demos, out=tmp_path / "b", models=["hook"], layers=["never"], options=options)
    with pytest.raises(FeatureError, match="no layer that the pattern names can be stored:\nlayer 'never'"):
        extract(demos, out=tmp_path / "c", models=["hook"], layers=["nev*"], options=options)


def test_a_pattern_that_fits_nothing_gets_a_near_name(tmp_path, factory):
    options = factory(lambda c: HookTarget(module=nn.Sequential(nn.Linear(8, 4)), prepare=rows_of))
    with pytest.raises(ConfigError, match=r"unknown layer 'outputs\*'. Did you mean 'output'\? Known: 0, output"):
        extract(tmp_path / "none", out=tmp_path, models=["hook"], layers=["outputs*"], options=options)


def test_patterns_of_built_in_models(demos, tmp_path):
    layers = ["blocks.*", "arp=[en]*"]
    done = extract(demos, out=tmp_path, models=["viclip", "arp", "pixels"], layers=layers, limit=1)
    with open_features(done[0].path) as file:
        depth = file.attrs["model_config"]["layers"]
        assert file.attrs["provenance"]["asked"]["layers"] == [f"blocks.{i}" for i in range(depth)]
    assert done[0].layers == tuple(f"blocks.{i}" for i in range(depth))
    assert done[1].layers[-2:] == ("e", "norm")
    assert all(name.startswith("blocks.") for name in done[1].layers[:-2])
    assert done[2].layers == ("u",)
    for entry, layer, kind in ((done[0], "blocks.0", "ResidualBlock"), (done[1], "norm", "LayerNorm")):
        found = describe_features(entry.path)["layers"][layer]
        assert found["class"].endswith(kind)
        assert found["module"]
