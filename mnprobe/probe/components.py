"""Principal components before the heads: many raw numbers (pixels) become few, and the heads still take raw numbers."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mnprobe.probe.heads import AlignmentHeads

__all__ = ["Components", "principal_components", "widen"]


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
    exact = x.double()
    mean = exact.mean(0)
    _, _, directions = torch.linalg.svd(exact - mean, full_matrices=False)
    count = max(1, min(k, len(x) - 1, x.shape[1]))
    return Components(mean.float(), directions[:count].T.float().contiguous())


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
