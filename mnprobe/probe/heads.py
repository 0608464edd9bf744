"""The heads T_u and T_e (paper, equation 1), standardisation and PCA of inputs."""

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mnprobe.core.arrays import Array, Whole, as_whole
from mnprobe.core.commands import command_of
from mnprobe.core.errors import CheckpointError, ConfigError, FeatureError
from mnprobe.core.products import Linear
from mnprobe.core.provenance import canonical_json
from mnprobe.models.loading import write_safetensors
from mnprobe.probe._arrays import as_features, as_floats, check_finite_rows

__all__ = [
    "AlignmentHeads",
    "Axes",
    "Components",
    "HeadKind",
    "load_heads",
    "principal_components",
    "ridge_axes",
    "save_heads",
    "widen",
]

HeadKind = Literal["linear", "mlp"]

_FORMAT = "mnprobe.heads/1"


class AlignmentHeads(nn.Module):
    """T_u and T_e with the means and standard deviations of what they were fitted on, so that they take raw features.

    A new instance standardises by mean 0 and deviation 1, that is, not at all, until `set_standardization`.

    Args:
        dim_u: width of the observed side's features.
        dim_e: width of the executed side's features.
        dim: width of the shared space; 1024 in the paper.
        kind: "linear" (the paper's) or "mlp" (`depth` layers with GELU between, to test whether linear suffices).
        depth: layers of an "mlp" head, at least 2.
        generator: source of the initial weights (uniform, as torch.nn.Linear's own); seed 0 when not given.

    >>> heads = AlignmentHeads(3, 5, dim=4)
    >>> z_u, z_e = heads(torch.ones(2, 3), torch.ones(2, 5))
    >>> z_u.shape, z_e.shape
    (torch.Size([2, 4]), torch.Size([2, 4]))
    """

    mean_u: Tensor
    std_u: Tensor
    mean_e: Tensor
    std_e: Tensor

    def __init__(
        self,
        dim_u: Whole,
        dim_e: Whole,
        dim: Whole = 1024,
        kind: HeadKind = "linear",
        depth: Whole = 2,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        dim_u, dim_e, dim = as_whole(dim_u, "dim_u"), as_whole(dim_e, "dim_e"), as_whole(dim, "dim")
        depth = as_whole(depth, "depth")
        for name, value in (("dim_u", dim_u), ("dim_e", dim_e), ("dim", dim)):
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value!r}")
        if kind not in get_args(HeadKind):
            raise ConfigError(f"heads must be 'linear' or 'mlp', got {kind!r}")
        if kind == "mlp" and depth < 2:
            raise ConfigError(f"an mlp head has at least 2 layers, got depth={depth!r}")
        self.config: dict[str, Any] = {"dim_u": dim_u, "dim_e": dim_e, "dim": dim, "kind": kind, "depth": depth}
        self.fitted_on: dict[str, Any] = {}
        source = generator or torch.Generator().manual_seed(0)
        self.t_u = _head(dim_u, dim, kind, depth, source)
        self.t_e = _head(dim_e, dim, kind, depth, source)
        for side, width in (("u", dim_u), ("e", dim_e)):
            self.register_buffer(f"mean_{side}", torch.zeros(width))
            self.register_buffer(f"std_{side}", torch.ones(width))

    def set_standardization(self, u: Array, e: Array) -> None:
        """Take means and deviations from training features; a feature that never changes is only centred.

        A feature counts as one that never changes where its deviation is at most 1e-6 of its mean, some ten roundings
        of a float32.
        """
        for side, values in (("u", u), ("e", e)):
            mean, std = _moments(as_features(values, side))
            getattr(self, f"mean_{side}").copy_(mean)
            getattr(self, f"std_{side}").copy_(std)

    def standardize_u(self, u: Array) -> Float[Tensor, "*n du"]:
        """Observed features with the training mean taken off, over the training deviation."""
        return _standardized(u, self.mean_u, self.std_u, "u")

    def standardize_e(self, e: Array) -> Float[Tensor, "*n de"]:
        """Executed features with the training mean taken off, over the training deviation."""
        return _standardized(e, self.mean_e, self.std_e, "e")

    def map_u(self, u: Array) -> Float[Tensor, "*n dim"]:
        """z_u = T_u(u) of raw features (..., du)."""
        return torch.as_tensor(self.t_u(self.standardize_u(u)))

    def map_e(self, e: Array) -> Float[Tensor, "*n dim"]:
        """z_e = T_e(e) of raw features (..., de)."""
        return torch.as_tensor(self.t_e(self.standardize_e(e)))

    def forward(self, u: Array, e: Array) -> tuple[Float[Tensor, "*n dim"], Float[Tensor, "*m dim"]]:
        """(z_u, z_e) of raw features; the two sides may have different numbers of rows.

        Takes what `fit_heads` takes: arrays, tensors, lists or DataFrames of any type of numbers. Gradients flow
        through tensors.

        Raises FeatureError for features of another width than the heads', and for NaN or infinity.
        """
        return self.map_u(u), self.map_e(e)


def save_heads(path: Path, heads: AlignmentHeads, fitted_on: Mapping[str, Any] | None = None) -> None:
    """Write heads atomically as safetensors, with `fitted_on` (plain JSON values) in the metadata."""
    metadata = {
        "format": _FORMAT,
        "config": canonical_json(heads.config),
        "fitted_on": canonical_json(dict(heads.fitted_on if fitted_on is None else fitted_on)),
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in heads.state_dict().items()}
    write_safetensors(path, tensors, metadata)


def load_heads(path: Path, device: str | torch.device = "cpu") -> AlignmentHeads:
    """Read heads written by `save_heads`; what they were fitted on is in `.fitted_on`.

    Raises CheckpointError for a file that is missing, damaged, or holds something else.
    """
    if not path.is_file():
        make = command_of(path, "align")
        raise CheckpointError(f"{path}: no such heads file. `{make}` writes them into the run's heads/ folder.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no iteration over safe_open
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error}). Fit the heads again.") from error
    if metadata.get("format") != _FORMAT:
        found = metadata.get("format") or metadata.get("model") or "no format at all"
        raise CheckpointError(f"{path}: these are not alignment heads: expected format {_FORMAT!r}, found {found!r}")
    try:
        config, fitted_on = json.loads(metadata["config"]), json.loads(metadata["fitted_on"])
        heads = AlignmentHeads(**config)
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: the metadata of these heads cannot be read ({error})") from error
    _fill(heads, tensors, path)
    heads.fitted_on = fitted_on
    return heads.to(device).eval()


def _fill(heads: AlignmentHeads, tensors: dict[str, Tensor], path: Path) -> None:
    expected = {name: tuple(value.shape) for name, value in heads.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if expected != found:
        wrong = sorted(name for name in expected | found if expected.get(name) != found.get(name))
        raise CheckpointError(
            f"{path}: {len(wrong)} tensors do not fit the heads its metadata describes; the first is {wrong[0]!r}: "
            f"expected {expected.get(wrong[0], 'none')}, found {found.get(wrong[0], 'none')}"
        )
    broken = [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise CheckpointError(f"{path}: tensor {broken[0]!r} holds NaN or infinity. Fit the heads again.")
    heads.load_state_dict(tensors)


def _head(dim_in: int, dim: int, kind: HeadKind, depth: int, generator: torch.Generator) -> nn.Module:
    widths = [dim_in] + [dim] * (depth if kind == "mlp" else 1)
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        if layers:
            layers.append(nn.GELU())
        layers.append(_linear(width_in, width_out, generator))
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


def _linear(width_in: int, width_out: int, generator: torch.Generator) -> nn.Linear:
    """torch.nn.Linear with its usual initial distribution, drawn from `generator` and not from the global state."""
    layer = Linear(width_in, width_out, device="meta").to_empty(device="cpu")
    bound = width_in**-0.5
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer


def _moments(values: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
    """Mean and population deviation in float64; deviation 1 where it is only rounding."""
    exact = values.double()
    mean = exact.mean(0)
    largest = exact.abs().amax(0)
    ordinary = (largest == 0) | ((largest > 1e-100) & (largest < 1e100))  # the squares of others leave float64
    unit = torch.where(ordinary, 1.0, largest)
    std = (exact / unit).std(0, correction=0) * unit
    constant = (std <= 1e-6 * mean.abs()) | (std.float() == 0)
    return mean.float(), torch.where(constant, 1.0, std).float()


def _standardized(values: Array, mean: Tensor, std: Tensor, side: str) -> Tensor:
    """Raw features of any make on the heads' device, standardised; float64 is centred before it is rounded."""
    if isinstance(values, Tensor) and values.is_floating_point():
        x = values.to(mean.device)
    else:
        x = as_floats(values, side).to(mean.device)
    if not x.ndim or x.shape[-1] != len(mean):
        width = f"width {x.shape[-1]}" if x.ndim else "no width"
        raise FeatureError(
            f"{side} has {width} (shape {tuple(x.shape)}), but these heads take {side} of width {len(mean)}, that of "
            "the features they were fitted on"
        )
    if x.dtype == torch.float64 and mean.dtype != torch.float64:
        out = ((x - mean.double()) / std.double()).to(mean.dtype)
    else:
        out = (x.to(mean.dtype) - mean) / std
    if x.numel() and not x.requires_grad:  # in training the loss is looked at, and no device is waited for
        check_finite_rows(x, side)
        if not bool(torch.isfinite(out).all()):
            raise FeatureError(
                f"{side}: numbers up to {float(x.abs().max()):.3g} are too large for these heads (mean "
                f"{float(mean.abs().max()):.3g}). Were they fitted on features of another unit"
            )
    return out


class Components(NamedTuple):
    """Mean (d,) and an orthonormal basis (d, k) of the directions along which the training features vary most."""

    mean: Float[Tensor, " d"]
    basis: Float[Tensor, "d k"]

    def of(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Coordinates of raw features."""
        return (x - self.mean) @ self.basis


def principal_components(x: Float[Tensor, "n d"], k: int) -> Components:
    """The first k principal components of training features, in float64; at most n - 1 and d of them, at least one.

    >>> x = torch.tensor([[0.0, 0.0], [2.0, 2.0], [4.0, 4.0]])
    >>> principal_components(x, 1).of(x).abs().T.round(decimals=3)
    tensor([[2.8280, 0.0000, 2.8280]])
    """
    mean, _, directions = _principal_directions(x)
    count = max(1, min(k, len(x) - 1, x.shape[1]))
    return Components(mean.float(), directions[:count].T.float().contiguous())


def _principal_directions(x: Float[Tensor, "n d"]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (d,), singular values (r,) and directions (r, d) of centered features, in float64, the largest first."""
    exact = x.double()
    mean = exact.mean(0)
    _, lengths, directions = torch.linalg.svd(exact - mean, full_matrices=False)
    return mean, lengths, directions


class Axes(NamedTuple):
    """Coordinates in which every direction of the training features, with noise added, has variance 1.

    Attributes:
        mean: (d,) what is taken off first.
        basis: (d, k) principal directions, each over the deviation of features and noise along it.
        noise: (k,) share of the noise in the variance of each coordinate.
    """

    mean: Float[Tensor, " d"]
    basis: Float[Tensor, "d k"]
    noise: Float[Tensor, " k"]

    def of(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Coordinates of features, without the noise."""
        return (x - self.mean) @ self.basis

    def to(self, device: torch.device) -> "Axes":
        """The same on a device."""
        return Axes(*(part.to(device) for part in self))

    @torch.no_grad()
    def unfold(self, narrow: nn.Module, wide: nn.Module) -> None:
        """Write a linear head that takes these coordinates into one that takes the features."""
        weight = narrow.get_parameter("weight") @ self.basis.T
        wide.get_parameter("weight").copy_(weight)
        wide.get_parameter("bias").copy_(narrow.get_parameter("bias") - weight @ self.mean)


_FAINT = 0.01  # directions with less variance than this share of the noise's are left out


def ridge_axes(x: Float[Tensor, "n d"], ridge: float) -> Axes:
    """Axes of training features (n, d) with independent noise of `ridge` times their mean variance on each.

    Directions whose variance is below a hundredth of the noise's are left out; at least one is kept.

    >>> axes = ridge_axes(torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]]), 0.5)
    >>> axes.noise, axes.of(torch.tensor([[2.0, 9.0]])).tolist()
    (tensor([0.2000]), [[0.0]])
    """
    mean, lengths, directions = _principal_directions(x)
    variances = lengths.square() / len(x)
    noise = ridge * (float(variances.sum()) / x.shape[1] or 1.0)
    count = max(1, int((variances >= _FAINT * noise).sum()))
    directions = directions[:count]
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    directions = directions * largest.sign()  # of the two signs of a direction always the same
    total = variances[:count] + noise
    return Axes(mean.float(), (directions.T / total.sqrt()).float().contiguous(), (noise / total).float())


@torch.no_grad()
def widen(heads: AlignmentHeads, components: Components) -> AlignmentHeads:
    """The same maps, with T_u taking raw features in place of their components: its first layer takes both steps."""
    config = heads.config | {"dim_u": len(components.mean)}
    wide = AlignmentHeads(**config)
    narrow = heads.state_dict()
    first = "t_u.weight" if isinstance(heads.t_u, nn.Linear) else "t_u.0.weight"
    own = {first: (narrow[first] / narrow["std_u"]) @ components.basis.T}
    own["mean_u"] = components.mean + components.basis @ narrow["mean_u"]
    own["std_u"] = torch.ones_like(components.mean)
    wide.load_state_dict(narrow | own)
    return wide.requires_grad_(False).eval()
