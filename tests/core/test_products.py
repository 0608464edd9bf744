"""Products by oneDNN: the law, gradients, what is left to torch, the choice, and what falls back."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mnprobe.core.environment import with_variables
from mnprobe.core.errors import ConfigError
from mnprobe.core.products import (
    VARIABLE,
    Linear,
    Processor,
    choose,
    describe_products,
    linear,
    product,
    products_in_use,
    read_cpuinfo,
    read_identifier,
)

ZEN_5 = Processor("AuthenticAMD", 26, "AVX512")
ZEN_4 = Processor("AuthenticAMD", 25, "AVX512")


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain(x, weight, bias):
    return F.linear(x, weight, bias)


def never():
    raise AssertionError("oneDNN's operation was looked up")


@pytest.fixture(params=["onednn", "torch"])
def by(request):
    with with_variables(**{VARIABLE: request.param}):
        yield request.param


@pytest.fixture
def onednn():
    with with_variables(**{VARIABLE: "onednn"}):
        yield products_in_use()


def counted(onednn, monkeypatch):
    """Count the calls of the operation that is in use."""
    calls = []

    def operation(x, weight, bias):
        calls.append(x.shape)
        return onednn.operation(x, weight, bias)

    choice = choose("onednn", ZEN_5, lambda: operation)
    calls.clear()
    monkeypatch.setattr("mnprobe.core.products.products_in_use", lambda: choice)
    return calls


# The choice


@pytest.mark.parametrize(
    ("wish", "processor", "taken", "attention"),
    [
        ("auto", ZEN_5, True, True),
        ("auto", ZEN_4, False, False),
        ("auto", Processor("AuthenticAMD", 23, "AVX2"), False, False),
        ("auto", Processor("GenuineIntel", 6, "AVX512"), False, False),
        ("auto", Processor("", 0, "DEFAULT"), False, False),
        ("auto", Processor("AuthenticAMD", 26, "AVX512", mkl=False), False, False),
        ("torch", ZEN_5, False, False),
        ("onednn", Processor("GenuineIntel", 6, "AVX2"), True, True),
    ],
)
def test_the_choice_follows_from_the_processor_and_the_variable(wish, processor, taken, attention):
    choice = choose(wish, processor, lambda: plain)
    assert (choice.operation is not None, choice.attention) == (taken, attention)
    assert choice.reason


def test_where_it_is_not_wanted_the_operation_is_not_even_looked_up():
    assert choose("torch", ZEN_5, never).operation is None
    assert choose("auto", Processor("GenuineIntel", 6, "AVX512"), never).operation is None


def test_an_unknown_wish_is_refused():
    with pytest.raises(ConfigError, match="must be auto, torch or onednn, got 'mkl'"):
        choose("mkl", ZEN_5, lambda: plain)
    with with_variables(**{VARIABLE: "fast"}), pytest.raises(ConfigError, match=VARIABLE):
        products_in_use()


def test_a_missing_operation_falls_back():
    choice = choose("auto", ZEN_5, lambda: torch.ops.mkldnn.no_such_operation.default)
    assert choice.operation is None
    assert "cannot be used: AttributeError" in choice.reason


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        (lambda x, w, b: F.linear(x, w, b) * 1.001, "disagrees.*rounding"),
        (lambda x, w, b: F.linear(x, w), "disagrees"),
        (lambda x, w, b: F.linear(x.bfloat16(), w.bfloat16(), None if b is None else b.bfloat16()), "bfloat16"),
        (lambda x, w, b: F.linear(x, w, b) * torch.nan, "disagrees"),
        (lambda x, w, b: F.linear(x, w, b)[:1], r"disagrees.*\(1, 384\)"),
        (lambda x, w: F.linear(x, w), "cannot be used: TypeError"),
    ],
)
def test_an_operation_that_disagrees_falls_back(operation, reason):
    choice = choose("onednn", ZEN_5, lambda: operation)
    assert choice.operation is None
    assert not choice.attention
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(choice.reason)


def test_this_torch_has_the_operation_and_it_agrees(onednn):
    assert onednn.operation is not None, onednn.reason


def test_processors_are_read_from_what_systems_tell():
    text = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nflags\t: fpu avx512f\n\nvendor_id\t: other\n"
    assert read_cpuinfo(text) == ("GenuineIntel", 6)
    assert read_cpuinfo("processor : 0\nBogoMIPS : 50.00\nCPU implementer : 0x41\n") == ("", 0)
    assert read_cpuinfo("") == ("", 0)
    assert read_identifier("Intel64 Family 6 Model 85 Stepping 7, GenuineIntel") == ("GenuineIntel", 6)
    assert read_identifier("arm") == ("", 0)
    assert read_identifier("") == ("", 0)


def test_provenance_names_what_multiplies(by):
    assert describe_products() == ("torch" if by == "torch" else "onednn, attention in blocks")
    assert describe_products("cuda") == "torch"


# The law


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(
    ("shape", "outputs"),
    [((77, 257), 65), ((2, 33, 128), 130), ((2, 3, 40, 96), 384), ((5, 96), 384), ((96,), 384), ((40, 3), 7)],
)
def test_values_are_those_of_float64(by, shape, outputs, with_bias):
    x, weight = numbers(*shape), numbers(outputs, shape[-1], seed=1)
    bias = numbers(outputs, seed=2) if with_bias else None
    exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    found = linear(x, weight, bias)
    assert found.dtype == torch.float32
    assert found.shape == (*shape[:-1], outputs)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-5 * float(exact.abs().max()))


def test_a_product_is_that_of_float64(by):
    a, b = numbers(100, 300), numbers(70, 300, seed=1)
    exact = a.double() @ b.double().T
    torch.testing.assert_close(product(a, b).double(), exact, rtol=0, atol=1e-5 * float(exact.abs().max()))


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(0, 128, 128), (64, 0, 128), (64, 128, 0), (0, 0, 0)])
def test_nothing_in_gives_what_torch_gives(by, rows, inputs, outputs):
    x, weight, bias = numbers(rows, inputs), numbers(outputs, inputs), numbers(outputs)
    assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))


def test_operands_may_lie_in_memory_in_any_order(onednn):
    x, weight, bias = numbers(128, 64), numbers(256, 128, seed=1), numbers(512, seed=2)
    expected = linear(x.T.contiguous(), weight, bias[::2].contiguous())
    assert torch.equal(linear(x.T, weight.T.contiguous().T, bias[::2]), expected)
    spread = numbers(50, 3, 128)
    assert torch.equal(linear(spread[:, 1], weight), linear(spread[:, 1].contiguous(), weight))
    assert torch.equal(linear(spread.transpose(0, 1), weight), linear(spread, weight).transpose(0, 1))


def test_rows_do_not_depend_on_the_rows_beside_them(onednn):
    x, weight, bias = numbers(6, 33, 96), numbers(384, 96, seed=1), numbers(384, seed=2)
    every = linear(x, weight, bias)
    assert all(torch.equal(linear(x[i : i + 1], weight, bias)[0], every[i]) for i in range(6))
    assert torch.equal(linear(x.flatten(0, 1)[40:100], weight, bias), every.flatten(0, 1)[40:100])


def test_bytes_repeat_in_another_process():
    code = (
        "import hashlib, torch\n"
        "from mnprobe.core.products import linear\n"
        "torch.set_num_threads(1)\n"
        "x, w = (torch.randn(n, 500, generator=torch.Generator().manual_seed(n)) for n in (70, 300))\n"
        "print(hashlib.sha256(linear(x, w).numpy().tobytes()).hexdigest())"
    )
    variables = os.environ | {VARIABLE: "onednn"}
    runs = [subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)]
    runs += [subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)]
    assert runs[0].stdout == runs[1].stdout != ""


# Gradients


@pytest.mark.parametrize(
    "needing", [(True, True, True), (True, False, False), (False, True, False), (False, False, True)]
)
@pytest.mark.parametrize("shape", [(64, 96), (3, 40, 96)])
def test_gradients_are_those_of_torch(onednn, shape, needing):
    tensors = [numbers(*shape), numbers(200, 96, seed=1), numbers(200, seed=2)]
    weighting = numbers(*shape[:-1], 200, seed=3)
    found = []
    for layer in (linear, F.linear):
        own = [tensor.clone().requires_grad_(need) for tensor, need in zip(tensors, needing, strict=True)]
        (layer(*own).sin() * weighting).sum().backward()
        found.append([tensor.grad for tensor in own])
    for own, other in zip(*found, strict=True):
        if other is None:
            assert own is None
        else:
            torch.testing.assert_close(own, other, rtol=0, atol=1e-5 * float(other.abs().max()))


def test_a_layer_without_bias_and_a_product_have_gradients(onednn):
    a, b = numbers(50, 400).requires_grad_(), numbers(60, 400, seed=1).requires_grad_()
    by_us = torch.autograd.grad(product(a, b).square().sum(), (a, b))
    by_torch = torch.autograd.grad((a @ b.T).square().sum(), (a, b))
    for own, other in zip(by_us, by_torch, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-5 * float(other.abs().max()))


def test_second_derivatives_are_those_of_torch(onednn):
    x, weight = numbers(40, 128).requires_grad_(), numbers(130, 128, seed=1).requires_grad_()
    found = []
    for layer in (linear, F.linear):
        (first,) = torch.autograd.grad(layer(x, weight).tanh().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), (x, weight)))
    for own, other in zip(*found, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize("needing", [(True, False), (False, True)])
def test_no_more_is_kept_for_the_gradients_than_torch_keeps(onednn, needing):
    x, weight = numbers(3, 40, 96), numbers(200, 96, seed=1)
    kept = []
    operands = [one.clone().requires_grad_(need) for one, need in zip((x, weight), needing, strict=True)]
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one.shape) or one, lambda one: one):
        linear(*operands)
    assert kept == [(weight if needing[0] else x).shape]


def test_checkpointing_gives_the_same_gradients(onednn):
    from torch.utils.checkpoint import checkpoint

    layer, x = Linear(128, 128), numbers(40, 128).requires_grad_()
    direct = torch.autograd.grad(layer(x).sin().sum(), (x, *layer.parameters()))
    again = torch.autograd.grad(checkpoint(layer, x, use_reentrant=False).sin().sum(), (x, *layer.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(direct, again, strict=True))


# What is left to torch


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # torch's own, on leaving mkldnn.flags
def test_large_float32_products_go_to_onednn_and_all_else_to_torch(onednn, monkeypatch):
    calls = counted(onednn, monkeypatch)
    x, weight, bias = numbers(64, 128), numbers(128, 128, seed=1), numbers(128, seed=2)
    linear(x, weight, bias)
    assert calls == [x.shape]
    calls.clear()
    assert torch.equal(linear(x[:31], weight, bias), F.linear(x[:31], weight, bias))  # few rows
    many = x[:31].expand(8, -1, -1)
    assert torch.equal(linear(many, weight, bias), F.linear(many, weight, bias))  # few rows of each item
    assert torch.equal(linear(x, weight[:127], bias[:127]), F.linear(x, weight[:127], bias[:127]))  # few weights
    exact = [one.double() for one in (x, weight, bias)]
    assert torch.equal(linear(*exact), F.linear(*exact))
    half = [one.bfloat16() for one in (x, weight, bias)]
    assert torch.equal(linear(*half), F.linear(*half))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16
    with torch.backends.mkldnn.flags(enabled=False):
        assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))
    meta = [one.to("meta") for one in (x, weight, bias)]
    assert linear(*meta).is_meta
    for wrong in ((x[:, :5], weight, bias), (x, weight, bias[:5]), (x, weight.double(), bias)):
        with pytest.raises(RuntimeError):
            linear(*wrong)
    assert calls == []


def test_autocast_keeps_its_gradients(onednn):
    x, layer = numbers(64, 128).requires_grad_(), Linear(128, 128)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x)
    out.sum().backward()
    assert x.grad.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")  # within torch
def test_torch_func_and_forward_derivatives_work(onednn, monkeypatch):
    calls = counted(onednn, monkeypatch)
    x, weight = numbers(4, 40, 128), numbers(128, 128, seed=1)
    torch.testing.assert_close(torch.func.vmap(lambda one: linear(one, weight))(x), F.linear(x, weight))
    slope = torch.func.grad(lambda w: linear(x, w).sum())(weight)
    torch.testing.assert_close(slope, x.sum((0, 1)).expand(128, -1), rtol=1e-4, atol=1e-4)
    _, tangent = torch.func.jvp(lambda one: linear(one, weight), (x,), (x,))
    torch.testing.assert_close(tangent, F.linear(x, weight))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, x)
        tangent = torch.autograd.forward_ad.unpack_dual(linear(dual, weight)).tangent
    torch.testing.assert_close(tangent, F.linear(x, weight))
    assert calls == []
    needing = x.requires_grad_()
    out = linear(needing, weight)
    directions = numbers(3, *out.shape, seed=4)
    (batched,) = torch.autograd.grad(out, needing, directions, is_grads_batched=True)
    torch.testing.assert_close(batched, directions @ weight, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")
def test_export_and_tracing_see_an_ordinary_linear_layer(onednn):
    layer, x = Linear(128, 128), numbers(40, 128)
    graph = torch.export.export(layer, (x,)).graph
    assert not any("mkldnn" in str(node.target) or "mnprobe" in str(node.target) for node in graph.nodes)
    traced = torch.jit.trace(layer, (x,), check_trace=False)
    assert "mkldnn" not in str(traced.graph)
    torch.testing.assert_close(traced(x), layer(x))


# The layer


def test_the_layer_is_torchs_in_names_hooks_and_weights(onednn):
    torch.manual_seed(0)
    ours = Linear(128, 130)
    torch.manual_seed(0)
    theirs = nn.Linear(128, 130)
    assert isinstance(ours, nn.Linear)
    assert repr(ours) == repr(theirs)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert torch.equal(ours.weight, theirs.weight)
    seen = []
    ours.register_forward_hook(lambda module, args, out: seen.append(out))
    x = numbers(40, 128)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)
    assert len(seen) == 1


def test_inference_mode_and_a_default_device_do_not_disturb(onednn):
    x, weight = numbers(64, 128), numbers(128, 128, seed=1)
    with torch.inference_mode():
        first = linear(x, weight)
    with torch.device("meta"):
        assert torch.equal(linear(x, weight), first)
        assert choose("onednn", ZEN_4, lambda: onednn.operation).operation is not None
