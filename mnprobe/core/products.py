"""Matrix products on the CPU: oneDNN in place of MKL on wide AMD processors.

torch computes float32 products by Intel MKL, which chooses its code by the vendor of the processor and uses half of
what AMD processors with 512-bit units (Zen 5 on) can do. oneDNN, which comes with the same wheels, chooses by what the
processor can do. Values differ by rounding (at most 1e-5 of their scale), so what is used must not change by itself: it
follows from the processor, the variable MNPROBE_PRODUCTS, and the type and shape of the operands, never from a timing.
Rows then do not depend on the rows beside them, nor bytes on the load of the machine. Provenance records the choice.
"""

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from mnprobe.core.errors import ConfigError

__all__ = [
    "VARIABLE",
    "Choice",
    "Linear",
    "Processor",
    "choose",
    "describe_products",
    "linear",
    "plain_tensors",
    "product",
    "products_in_use",
    "recording",
    "this_processor",
]

VARIABLE = "MNPROBE_PRODUCTS"
"""Environment variable: "auto" (the default), "torch" (always torch's own), or "onednn" (on any processor)."""

Operation = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(x, weight, bias) to x @ weight.T + bias, without gradients."""

_LEAST_ROWS = 32  # with fewer rows oneDNN takes another path, whose sums differ
_LEAST_WEIGHTS = 1 << 14  # smaller products take less time than the call
_TOLERANCE = 1e-5
_WIDE_AMD = 26  # family of the first AMD processors (Zen 5) whose AVX-512 units are 512 bits wide


@dataclass(frozen=True)
class Processor:
    """What the choice depends on: the vendor's identifier, the family, and torch's name of the instruction set."""

    vendor: str
    family: int
    instructions: str
    mkl: bool = True
    """Whether torch multiplies by MKL."""


@dataclass(frozen=True)
class Choice:
    """What computes products: `operation`, or torch's own where it is None, and why."""

    operation: Operation | None
    reason: str

    @property
    def attention(self) -> bool:
        """Whether attention at inference is computed in blocks of rows by the same operation."""
        return self.operation is not None


def choose(wish: str, processor: Processor, find: Callable[[], Operation]) -> Choice:
    """Choose the operation.

    Args:
        wish: value of MNPROBE_PRODUCTS.
        processor: the processor.
        find: returns oneDNN's operation, or raises where this torch does not have it.
    Raises:
        ConfigError: an unknown wish.

    >>> choose("auto", Processor("GenuineIntel", 6, "AVX512"), print).reason
    'MKL suits this processor (GenuineIntel, family 6, AVX512)'
    """
    if wish not in ("auto", "torch", "onednn"):
        raise ConfigError(f"{VARIABLE} must be auto, torch or onednn, got {wish!r}")
    if wish == "torch":
        return Choice(None, f"{VARIABLE}=torch")
    amd = processor.vendor == "AuthenticAMD"
    if wish == "auto" and not processor.mkl:
        return Choice(None, "torch does not use MKL")
    wide = amd and processor.family >= _WIDE_AMD and processor.instructions.startswith("AVX512")
    if wish == "auto" and not wide:  # Zen 4 gains 5 to 20 % on large layers, and loses on small ones
        return Choice(None, f"MKL suits this processor ({_name(processor)})")
    try:
        operation = find()
        problem = _disagreement(operation)
    except Exception as error:  # a private operation of torch may change in any way
        return Choice(None, f"oneDNN's operation cannot be used: {type(error).__name__}: {error}")
    if problem:
        return Choice(None, f"oneDNN's operation disagrees with torch's: {problem}")
    return Choice(operation, _name(processor))


def _name(processor: Processor) -> str:
    return f"{processor.vendor}, family {processor.family}, {processor.instructions}"


def products_in_use() -> Choice:
    """The choice of this process, made and checked at first use."""
    return _chosen(os.environ.get(VARIABLE, "auto"))


def describe_products(device: str = "cpu") -> str:
    """What computes float32 products on `device`, for provenance: "torch", or "onednn, attention in blocks"."""
    by_onednn = device == "cpu" and products_in_use().operation is not None
    return "onednn, attention in blocks" if by_onednn else "torch"


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias, as `torch.nn.functional.linear`, by oneDNN where that is the choice.

    oneDNN serves float32 on the CPU, without autocast, from 32 rows and 16,384 weights. Rows are those of the last two
    axes of x, so that what computes an item does not depend on the number of items in its batch. Everything else goes
    to torch: other types and devices, tensor subclasses, torch.compile, export and tracing, torch.func, forward-mode
    derivatives.

    Args:
        x: (..., rows, inputs), or (inputs,).
        weight: (outputs, inputs).
        bias: (outputs,).

    >>> linear(torch.ones(2, 3), torch.ones(4, 3), torch.ones(4))
    tensor([[4., 4., 4., 4.],
            [4., 4., 4., 4.]])
    """
    if recording() or not _fits(x, weight, bias):
        return F.linear(x, weight, bias)
    operation = products_in_use().operation
    if operation is None:
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and (
        x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    ):
        out: Tensor = _apply(x, weight, bias, operation)
        return out
    return operation(x, weight, bias)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b.T of matrices (n, d) and (m, d), by oneDNN where that is the choice; see `linear`.

    >>> product(torch.eye(2), torch.tensor([[1.0, 2.0]]))
    tensor([[1.],
            [2.]])
    """
    return linear(a, b)


class Linear(nn.Linear):
    """torch's linear layer, with its names, hooks and initial weights, computed by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        return linear(input, self.weight, self.bias)


class _LinearFunction(torch.autograd.Function):
    """`linear` with gradients by the same products; second derivatives by torch's own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, operation: Operation) -> Tensor:
        by_x, by_weight = ctx.needs_input_grad[:2]
        ctx.save_for_backward(x if by_weight else None, weight if by_x else None)
        return operation(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        by_x = by_weight = by_bias = None
        multiply = torch.matmul if torch.is_grad_enabled() else _multiplied
        if ctx.needs_input_grad[0]:
            by_x = multiply(grad, weight)
        rows = grad.reshape(-1, grad.shape[-1])
        if ctx.needs_input_grad[1]:
            by_weight = multiply(rows.T, x.reshape(-1, x.shape[-1]))
        if ctx.needs_input_grad[2]:
            by_bias = rows.sum(0)
        return by_x, by_weight, by_bias, None


_apply: Callable[..., Tensor] = _LinearFunction.apply


def _multiplied(a: Tensor, b: Tensor) -> Tensor:
    return linear(a, b.T)


def _fits(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether oneDNN may compute this product, as far as operands and torch's modes tell."""
    return (
        x.ndim > 1
        and weight.ndim == 2
        and x.shape[-2] >= _LEAST_ROWS
        and weight.numel() >= _LEAST_WEIGHTS
        and x.numel() > 0
        and x.shape[-1] == weight.shape[1]
        and (bias is None or bias.shape == weight.shape[:1])
        and plain_tensors(x, weight, *(() if bias is None else (bias,)))
    )


def recording() -> bool:
    """Whether torch.compile, export or tracing records operations, for which shapes may be unknown."""
    return torch.compiler.is_compiling() or _traced()


def plain_tensors(*tensors: Tensor) -> bool:
    """Whether all are float32 tensors on the CPU, to be computed now, as they are: no autocast, no torch.func.

    >>> plain_tensors(torch.ones(2)), plain_tensors(torch.ones(2, dtype=torch.float64))
    (True, False)
    """
    return (
        all(
            type(one) in (Tensor, nn.Parameter)
            and one.dtype == torch.float32
            and one.is_cpu
            and one.layout == torch.strided
            and _unpack(one).tangent is None
            for one in tensors
        )
        and not torch.is_autocast_enabled("cpu")
        and bool(torch.backends.mkldnn.enabled)
        and not _transformed()
    )


_unpack: Callable[[Tensor], forward_ad.UnpackedDualTensor] = forward_ad.unpack_dual
_traced: Callable[[], bool] = torch.jit.is_tracing  # type: ignore[attr-defined]
_has_mkl: Callable[[], bool] = torch.backends.mkl.is_available
_transformed: Callable[[], bool] = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)
"""Whether torch.func (vmap, grad, jvp) is at work; where this torch does not tell, it is assumed to be."""


@lru_cache(maxsize=4)
def _chosen(wish: str) -> Choice:
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        return choose(wish, this_processor(), _onednn)


def _onednn() -> Operation:
    """oneDNN's linear layer, which torch.compile uses."""
    found = torch.ops.mkldnn._linear_pointwise.default

    def operation(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        if not weight.T.is_contiguous():
            weight = weight.contiguous()
        if bias is not None:
            bias = bias.contiguous()  # the operation reads it without regard to its stride
        out: Tensor = found(rows, weight, bias, "none", [], "")
        return out.view(*x.shape[:-1], weight.shape[0])

    return operation


def _disagreement(operation: Operation) -> str:
    """Compare with torch's own on fixed numbers of several shapes and strides; "" if all agree."""
    for rows, inputs, outputs in ((32, 96, 384), (77, 257, 65), (3, 513, 48)):
        x, weight, bias = (
            torch.arange(n, dtype=torch.float32, device="cpu").mul_(step).sin_()
            for n, step in ((rows * inputs, 0.7), (outputs * inputs, 1.3), (outputs, 2.9))
        )
        x = x.view(rows, inputs)
        for matrix in (weight.view(outputs, inputs), weight.view(inputs, outputs).T):
            for shift in (bias, None):
                expected = F.linear(x, matrix, shift)
                found = operation(x, matrix, shift)
                limit = _TOLERANCE * float(expected.abs().max())
                if found.shape != expected.shape or found.dtype != expected.dtype:
                    return f"{tuple(found.shape)} {found.dtype} for {tuple(expected.shape)} {expected.dtype}"
                if not float((found - expected).abs().max()) <= limit:
                    return f"by {float((found - expected).abs().max()):.1e} where {limit:.1e} is rounding"
    return ""


@cache
def this_processor() -> Processor:
    """The processor that this process runs on."""
    try:
        vendor, family = read_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        vendor, family = read_identifier(platform.processor())
    return Processor(vendor, family, torch.backends.cpu.get_cpu_capability(), _has_mkl())


def read_cpuinfo(text: str) -> tuple[str, int]:
    """Vendor and family of the first processor in the text of /proc/cpuinfo; "" and 0 where it does not tell.

    >>> read_cpuinfo("processor : 0\\nvendor_id : AuthenticAMD\\ncpu family : 26\\n")
    ('AuthenticAMD', 26)
    """
    facts: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    family = facts.get("cpu family", "")
    return facts.get("vendor_id", ""), int(family) if family.isdecimal() else 0


def read_identifier(text: str) -> tuple[str, int]:
    """The same from Windows' name of a processor, such as "AMD64 Family 26 Model 68 Stepping 0, AuthenticAMD".

    >>> read_identifier("AMD64 Family 26 Model 68 Stepping 0, AuthenticAMD")
    ('AuthenticAMD', 26)
    """
    words = text.replace(",", " ").split()
    after = words[words.index("Family") + 1] if "Family" in words[:-1] else ""
    return (words[-1] if len(words) > 1 else ""), int(after) if after.isdecimal() else 0
