"""Decoding: from heatmaps of three views to one point (specs/arp.md, 10)."""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from mnprobe.core.errors import ConfigError
from mnprobe.models.arp.sampling import corners, sample_at
from mnprobe.models.arp.views import VIEWS, project

__all__ = ["decode_point"]

_BLOCK = {"cpu": 2**18, "cuda": 2**26}  # candidates per block


def decode_point(probs: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b 3"], Float[Tensor, " b"]]:
    """Return the most probable point of the cube according to the three views.

    Candidates are the s^3 centres of a grid over the cube, at -1 + 1/s .. 1 - 1/s along each axis. A candidate's score
    is the mean over the views of the map read (`sample_at`) where the candidate projects to. Of equal scores the first
    wins, x running slowest and z fastest. A view sees two coordinates only, so the scores are sums of three tables of
    s^2 numbers, and are built block by block: the s^3 scores are never in memory together.

    Args:
        probs: one probability map per view (`VIEWS`), rows then columns.

    Returns:
        The points (cube frame) and their scores.

    Raises:
        ConfigError: if the maps are not square.

    Example:
        >>> maps = torch.zeros(1, 3, 8, 8)
        >>> maps[0, 0, 3, 4] = maps[0, 1, 3, 4] = maps[0, 2, 3, 3] = 1.0
        >>> decode_point(maps)[0]
        tensor([[0.1250, 0.1250, 0.1250]])

    Source: specs/arp.md, section 10.
    """
    size = probs.shape[-1]
    if probs.shape[-2] != size:
        raise ConfigError(f"heatmaps must be square, got {probs.shape[-2]} x {size}")
    with torch.no_grad():
        line = _line(size, probs.device)
        tables = _tables(probs.float(), line)
        x, score = _best_slice(*tables)
        rest = _slices(*tables, x)[:, 0].flatten(1).argmax(dim=1)  # argmax names the first of equal values
        point = line[torch.stack([x[:, 0], rest // size, rest % size], dim=1)]
        return point, score


def _tables(probs: Float[Tensor, "b 3 s s"], line: Float[Tensor, " s"]) -> tuple[Tensor, Tensor, Tensor]:
    """Score tables of the views: the first over (x, y), the second over (y, z), the third over (x, z), each (B, S,
    S)."""
    size = len(line)
    places = _places(size, str(line.device))
    read = [sample_at(probs[:, n : n + 1], *places[n]).view(-1, size, size) for n in range(len(VIEWS))]
    return read[0], read[1], read[2]


@lru_cache(maxsize=8)
def _places(size: int, device: str) -> tuple[tuple[Tensor, Tensor], ...]:
    """The corners of the candidates of each view; the same for all maps of a size."""
    line = _line(size, device)
    first, second = (part.flatten() for part in torch.meshgrid(line, line, indexing="ij"))
    places = []
    for view in VIEWS:
        axes = sorted((view.column_axis, view.row_axis))
        candidates = torch.zeros(size * size, 3, device=device)
        candidates[:, axes[0]], candidates[:, axes[1]] = first, second
        places.append(corners(project(candidates[None], size, [view])[:, :, 0], size, size))
    return tuple(places)


def _line(size: int, device: str | torch.device) -> Tensor:
    return torch.linspace(-1 + 1 / size, 1 - 1 / size, size, device=device)


def _slices(above: Tensor, left: Tensor, front: Tensor, x: Tensor) -> Tensor:
    """Scores (B, K, S, S) of the candidates (x, y, z) whose x index is one of `x` (B, K)."""
    sample = torch.arange(len(x), device=x.device)[:, None]
    scores = above[sample, x][:, :, :, None] + left[:, None]
    scores += front[sample, x][:, :, None, :]
    return scores.div_(3)


def _best_slice(above: Tensor, left: Tensor, front: Tensor) -> tuple[Tensor, Tensor]:
    """The first x index (B, 1) that holds the greatest score, and that score (B,)."""
    batch, size = above.shape[:2]
    step = max(1, _BLOCK.get(above.device.type, _BLOCK["cpu"]) // (batch * size * size))
    best = []
    for start in range(0, size, step):
        x = torch.arange(start, min(start + step, size), device=above.device).expand(batch, -1)
        best.append(_slices(above, left, front, x).amax(dim=(2, 3)))
    scores = torch.cat(best, dim=1)
    x = scores.argmax(dim=1, keepdim=True)
    return x, scores.gather(1, x)[:, 0]
