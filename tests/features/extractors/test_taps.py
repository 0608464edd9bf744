"""Taps read the input or output that is named, in the order of axes that is told, at the call that is asked for."""

import json
import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from typer.testing import CliRunner

from mnprobe.cli.main import app
from mnprobe.core.errors import ConfigError, FeatureError
from mnprobe.features import HookTarget, extract, open_features
from mnprobe.features.extractors.taps import TapName, arrange, catch, find_tap, parse_axes, parse_call, tokens_of

X = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))


def read(module, name, *args, rows=3, axes=None, call="all", **kwargs):
    """The values that one tap gives in one call of `module`."""
    tap = find_tap(name, module, axes=axes, call=call)
    with catch([tap], rows) as caught:
        result = module(*args, **kwargs)
    if tap.is_result:
        caught.take(tap, result)
    return caught.array(tap)


class Twice(nn.Module):
    """Calls its head by keyword, several times."""

    def __init__(self, steps=3):
        super().__init__()
        self.head = Head()
        self.steps = steps

    def forward(self, x):
        for step in range(self.steps):
            x = self.head(x + 1, (x, [2 * x]), scale=x * 10, step=step)["out"][0]
        return x


class Head(nn.Module):
    def forward(self, x, more, extra=None, *, scale, step):
        return {"out": (x.clone(), scale), "deep": types.SimpleNamespace(last=x * 3, all=[x, x + 1])}


class InPlace(nn.Module):
    def forward(self, x):
        return x.mul_(0)


def flat(array):
    return np.asarray(array).reshape(len(array), -1)


# ---- inputs --------------------------------------------------------------------------------------------------------


def test_an_input_is_copied_before_the_module_changes_it():
    module = nn.Sequential(nn.Linear(8, 8), InPlace(), nn.Linear(8, 2))
    expected = module[0](X).detach().numpy()
    np.testing.assert_array_equal(flat(read(module, "1:in", X)), expected)
    np.testing.assert_array_equal(flat(read(module, "0", X)), expected)
    np.testing.assert_array_equal(flat(read(module, "2:in", X)), 0 * expected)
    np.testing.assert_array_equal(flat(read(module, "output:in", X)), X)


@pytest.mark.parametrize(
    ("name", "factor", "offset"),
    [
        ("head:in", 1, 1),
        ("head:in[0]", 1, 1),
        ("head:in.x", 1, 1),
        ("head:in[1]", 1, 0),
        ("head:in[1][0]", 1, 0),
        ("head:in[-1][1][0]", 2, 0),
        ("head:in.more[1][0]", 2, 0),
        ("head:in.scale", 10, 0),
    ],
)
def test_arguments_are_named_by_place_or_keyword(name, factor, offset):
    np.testing.assert_allclose(flat(read(Twice(1), name, X)), factor * X.numpy() + offset, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "head:in.nothing",
            r"is called with 0 \(3, 8\), 1 tuple of 2, scale \(3, 8\), step int, .*--layer 'head:in\[0\]'",
        ),
        ("head:in[5]", r"no positional argument 5"),
        ("head:in.step", r"gave int"),
        (
            "head:out.deep.first",
            r"head:out\[deep\] gave a SimpleNamespace with the members last \(3, 8\), all list of 2",
        ),
        ("head:out.deep", r"--layer head:out\.deep\.last"),
    ],
)
def test_what_is_no_tensor_is_named_with_its_members(name, message):
    with pytest.raises(FeatureError, match=message):
        read(Twice(1), name, X)


def test_a_module_called_without_arguments_says_so():
    class Caller(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = Constant()

        def forward(self, x):
            return self.part() + x

    class Constant(nn.Module):
        def forward(self):
            return torch.ones(3, 8)

    with pytest.raises(FeatureError, match="part is called without arguments"):
        read(Caller(), "part:in", X)


def test_paths_into_outputs_of_any_depth():
    for name, factor, offset in (("head:out.deep.last", 3, 3), ("head:out.deep.all[1]", 1, 2), ("head[out][1]", 10, 0)):
        np.testing.assert_allclose(flat(read(Twice(1), name, X)), factor * X.numpy() + offset, rtol=1e-5)


# ---- calls ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("call", "steps"), [("all", [0, 1, 2]), ("first", [0]), ("last", [2]), (1, [1]), (-2, [1])])
def test_one_of_several_calls_is_taken(call, steps):
    found = read(Twice(3), "head:in", X, call=call)
    assert found.shape == (3, len(steps), 8)
    for place, step in enumerate(steps):
        np.testing.assert_allclose(found[:, place], X.numpy() + step + 1, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("call", [3, -4])
def test_a_call_that_never_happened_is_refused(call):
    with pytest.raises(FeatureError, match=rf"ran 3 times in one pass, so there is no call {call}; calls count from 0"):
        read(Twice(3), "head:in", X, call=call)


def test_one_call_is_the_way_out_where_widths_differ():
    class Growing(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = nn.Identity()

        def forward(self, x):
            return self.part(torch.cat([self.part(x), x], 1))

    with pytest.raises(FeatureError, match="--option call=last"):
        read(Growing(), "part", X)
    assert read(Growing(), "part", X, call="last").shape == (3, 1, 16)


@pytest.mark.parametrize("wrong", ["second", "", True, 1.5, None, "1.0"])
def test_calls_are_checked(wrong):
    with pytest.raises(ConfigError, match="first, last, all, or the number of a call"):
        parse_call(wrong)


# ---- axes ----------------------------------------------------------------------------------------------------------


def test_axes_decide_where_the_sizes_do_not():
    tokens = torch.arange(3 * 3 * 2.0).reshape(3, 3, 2)
    module = nn.Identity()
    np.testing.assert_array_equal(read(module, "output", tokens), tokens)
    np.testing.assert_array_equal(read(module, "output", tokens, axes="SBD"), tokens.transpose(0, 1))
    np.testing.assert_array_equal(read(module, "output@SBD", tokens), tokens.transpose(0, 1))
    np.testing.assert_array_equal(read(module, "output@BCT", tokens, axes="SBD"), tokens.transpose(1, 2))
    np.testing.assert_array_equal(read(module, "output:in@TBC", tokens), tokens.transpose(0, 1))


SIZES = {"B": 3, "S": 2, "T": 4, "H": 1, "W": 5, "D": 7, "C": 7}


@given(st.permutations("STHW"), st.integers(0, 4), st.sampled_from("DC"), st.randoms())
def test_arranging_undoes_any_order_of_axes(tokens, count, width, random):
    names = ["B", *sorted(tokens[:count]), width]
    values = torch.arange(np.prod([SIZES[name] for name in names])).reshape([SIZES[name] for name in names])
    order = random.sample(range(len(names)), len(names))
    axes = "".join(names[i] for i in order)
    kept = [name for name in axes if name in "STHW"]
    found = arrange(values.permute(order), axes)
    expected = values.permute(0, *(names.index(name) for name in kept), len(names) - 1).reshape(3, -1, 7)
    assert torch.equal(found, expected)
    flattened, rows = tokens_of(found.numpy())
    assert np.array_equal(rows, np.repeat([0, 1, 2], found.shape[1]))
    assert np.array_equal(flattened.reshape(found.shape), found.numpy())


@given(st.text("BSTDCHWX", max_size=6))
def test_axes_are_taken_only_when_every_one_is_named_once(text):
    right = text.count("B") == 1 and sum(map(text.count, "DC")) == 1 and "X" not in text and len({*text}) == len(text)
    if right:
        assert parse_axes(text.lower()) == text
    else:
        with pytest.raises(ConfigError, match="name every axis once"):
            parse_axes(text)


def test_a_tensor_that_does_not_fit_its_axes_is_refused_with_them():
    for axes, shape in (("SBD", (3, 2, 8)), ("BD", (3, 2, 8)), ("BCHW", (2, 8, 1, 1))):
        with pytest.raises(FeatureError, match=f"does not fit the axes {axes} with 3 rows"):
            read(nn.Identity(), "output", torch.zeros(shape), axes=axes)
    with pytest.raises(FeatureError, match="such as --axes BCHW"):
        read(nn.Identity(), "output", torch.zeros(3, 8, 2, 2))
    with pytest.raises(FeatureError, match="--axes SBD"):
        read(nn.Identity(), "output", torch.zeros(2, 3, 8))
    with pytest.raises(ValueError, match="2 axes"):
        arrange(torch.zeros(3, 8), "SBD")


# ---- names ---------------------------------------------------------------------------------------------------------

WORD = st.from_regex(r"[a-z][a-z0-9_]{0,4}", fullmatch=True)


@given(
    st.lists(WORD, min_size=1, max_size=3), st.sampled_from(["", "in", "out"]),
    st.lists(WORD | st.integers(-3, 9), max_size=3), st.sampled_from([None, "SBD", "BCHW"]),
)  # fmt: skip
def test_names_are_taken_apart_as_they_were_put_together(parts, tapped, path, axes):
    base = ".".join(parts)
    steps = "".join(f".{step}" if tapped and isinstance(step, str) else f"[{step}]" for step in path)
    name = base + (f":{tapped}" if tapped else "") + steps + (f"@{axes}" if axes else "")
    assert TapName.parse(name) == TapName(base=base, tapped=tapped, path=tuple(path), axes=axes)


def test_a_submodule_whose_own_name_looks_like_a_tap_is_found_first():
    module = nn.Module()
    module.add_module("head:in", nn.Identity())
    tap = find_tap("head:in", module)
    assert (tap.module_name, tap.tapped) == ("head:in", "")


# ---- extraction ----------------------------------------------------------------------------------------------------


class Denoiser(nn.Module):
    """A policy in small: an encoder of (S, B, D), and a head that runs four times behind an in-place ReLU."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Identity()
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 8)

    def forward(self, x):
        tokens = self.encoder(torch.stack([x, 2 * x]))
        for _ in range(4):
            x = self.head(self.relu(tokens.sum(0) - x))
        return x


@pytest.fixture
def factory(monkeypatch):
    """A factory of a Denoiser that reads the number of frames and the variation of an episode."""

    def prepare(episodes):
        numbers = [
            [len(one), one.image("front", 0)[0, 0, 0], *[i + len(one) % 3 for i in range(6)]] for one in episodes
        ]
        return torch.tensor(numbers, dtype=torch.float32)

    def make(checkpoint, width=8):
        assert width == 8
        return HookTarget(module=Denoiser(), prepare=prepare)

    module = types.ModuleType("denoisers_of_test")
    module.make = make
    monkeypatch.setitem(sys.modules, "denoisers_of_test", module)
    return "denoisers_of_test:make"


def test_the_command_line_has_inputs_axes_and_calls(factory, demos, tmp_path):
    arguments = ["extract", "--data", str(demos), "--model", "hook", "--factory", factory, "--side", "execution"]
    arguments += ["--layer", "head:in", "--layer", "encoder@SBD", "--option", "call=last", "--option", "width=8"]
    arguments.append("--json")
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path), "--quiet"])
    assert done.exit_code == 0, done.output
    (entry,) = json.loads(done.stdout)
    assert entry["layers"] == ["head.in", "encoder"]
    with open_features(entry["path"]) as file:
        assert file.layer("head.in").values[:].shape == (5, 8)
        encoder = file.layer("encoder").values[:].reshape(5, 2, 8)
        np.testing.assert_array_equal(encoder[:, 1], 2 * encoder[:, 0])
        info = file.attrs["provenance"]["layers"]
        assert info["head.in"]["member"] == ":in"
        assert file.attrs["provenance"]["asked"]["options"]["call"] == "last"
    wrong = CliRunner().invoke(app, [*arguments[:-1], "--axes", "SBX", "--out", str(tmp_path / "other")])
    assert isinstance(wrong.exception, ConfigError)
    assert "name every axis once" in str(wrong.exception)


def test_options_that_are_not_given_are_not_recorded(factory, demos, tmp_path):
    """Stores of earlier versions, whose records do not have them, count as extracted with the same settings."""
    options = {"factory": factory, "side": "execution"}
    (done,) = extract(demos, out=tmp_path, models=["hook"], options=options)
    with open_features(done.path) as file:
        recorded = file.attrs["provenance"]["asked"]["options"]
    assert recorded == options | {"arguments": {}}
    (again,) = extract(demos, out=tmp_path, models=["hook"], options=options)
    assert again.status == "kept"
