"""Point renderer of ARP: orthographic images of colored points.

Each point fills one pixel of each view; the nearest point wins by an integer z-buffer, then every drawn pixel spreads
over a small disc. All points of all samples are drawn at once by a scatter-minimum of integer keys, on CPU and GPU
alike. Own code after measured rules (specs/arp.md, section 3).
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mnprobe.core.errors import ConfigError
from mnprobe.models.arp.views import VIEWS, View

__all__ = ["DRAWN_CHANNELS", "EMPTY_DEPTH", "network_input", "render_views", "with_place_channels"]

EMPTY_DEPTH = -1.0
"""Depth of a pixel that no point reaches; its features are 0."""

DRAWN_CHANNELS = 7
"""Channels of `network_input` that depend on the cloud: position, colour, depth; the constant ones follow."""

_DEPTH_STEPS = 1000  # depth is counted in steps of 1 / 1000 cube unit
_MAX_STEPS = 2**32 - 1  # the depth count is an unsigned 32-bit integer
_INDEX_BITS = 31  # key = depth count (32 bits), then point index (31 bits): a positive int64
_EMPTY_KEY = 2**63 - 1
_MAX_WINDOW = 51  # pixels; the splat window never grows beyond this
_RANK_BITS = 12  # 51 * 51 loop steps fit
_OWN_RANK = 2**_RANK_BITS - 1  # the pixel itself, before any step of the loop
_NOTHING = (1 << 60) | _OWN_RANK  # an empty pixel keeps itself until a neighbour offers a point
_NO_OFFER = 1 << 61


def render_views(
    points: Sequence[Float[Tensor, "_ 3"]],
    features: Sequence[Float[Tensor, "_ c"]],
    *,
    size: int,
    radius: float,
    views: Sequence[View] = VIEWS,
) -> Float[Tensor, "b v c+1 {size} {size}"]:
    """Images of point clouds in every view: the features of the nearest point, then its depth.

    1. A point at signed coordinates (a, b) of a view falls into the pixel floor(f * a + f), floor(f * b + f), with
       f = size / 2 in float32; points beyond the image are not drawn. Points behind the camera are.
    2. Depth is cut to whole 1/1000 cube units, negative depth becomes 0. The nearest point wins its pixel; equal depth
       goes to the point that comes first.
    3. Every pixel then takes over the nearest pixel closer than f * radius pixels (of equal ones the last by column,
       then by row). A pixel of depth 0 does not spread.
    4. From the depth of each view its mean over drawn pixels is taken away; empty pixels keep -1, their features are 0.

    Points with a NaN or infinite coordinate are not drawn. No gradient flows. The result does not depend on the device.

    Args:
        points: one cloud per sample, in the cube frame; clouds may differ in length and be empty.
        features: for each cloud the feature vectors of its points.
        size: image side in pixels.
        radius: radius of a drawn point in cube units; below one pixel (2 / size) nothing spreads.
        views: the cameras.

    Returns:
        Images (sample, view, channel, row, column): the features, then the centred depth in cube units.

    Raises:
        ConfigError: if `size` or `radius` are not positive, or clouds and features do not match.

    Example:
        >>> image = render_views([torch.zeros(1, 3)], [torch.ones(1, 1)], size=4, radius=0.1)
        >>> image[0, 0, 0]
        tensor([[0., 0., 0., 0.],
                [0., 0., 0., 0.],
                [0., 0., 1., 0.],
                [0., 0., 0., 0.]])

    Source: specs/arp.md, section 3 (the renderer of RVT-2, arXiv 2406.08545).
    """
    _check(points, features, size, radius)
    with torch.no_grad():
        cloud = torch.cat([p.float() for p in points])
        table = torch.cat([f.float() for f in features])
        key = _z_buffer(cloud, [len(p) for p in points], size, views)
        key = _splat(key, size, radius)
        return _develop(key, table, len(points), len(views), size)


def network_input(
    points: Sequence[Float[Tensor, "_ 3"]],
    rgb: Sequence[Float[Tensor, "_ 3"]],
    *,
    size: int,
    radius: float,
    views: Sequence[View] = VIEWS,
) -> Float[Tensor, "b v 10 {size} {size}"]:
    """Render the input of the visual transformer from coloured clouds: ten channels per view.

    Channels 0-2: position divided by the greatest |coordinate| of this sample's cloud, 3-5: colour, 6: centred depth
    (`render_views`), then three constant ones: 7 the view (-1 .. 1), 8 the row (-1 at the top .. 1), 9 the column
    (-1 at the left .. 1).

    Args:
        points: one cloud per sample, in the cube frame (zoomed in stage 2).
        rgb: its colours, 0..1.
        size: image side in pixels.
        radius: radius of a drawn point in cube units.
        views: the cameras.

    Raises:
        ConfigError: as `render_views`.

    Source: specs/arp.md, section 3.
    """
    features = [torch.cat([_normalised(p.float()), c.float()], dim=1) for p, c in zip(points, rgb, strict=True)]
    images = render_views(points, features, size=size, radius=radius, views=views)
    return with_place_channels(images)


def with_place_channels(images: Float[Tensor, "b v 7 s s"]) -> Float[Tensor, "b v 10 s s"]:
    """Add the constant channels of `network_input` to drawn ones."""
    place = _place_channels(images.shape[1], images.shape[-1], images.device)
    return torch.cat([images, place.expand(len(images), -1, -1, -1, -1)], dim=2)


def _check(points: Sequence[Tensor], features: Sequence[Tensor], size: int, radius: float) -> None:
    if size < 1:
        raise ConfigError(f"size must be at least 1 pixel, got {size}")
    if not (radius > 0 and math.isfinite(radius)):
        raise ConfigError(f"radius must be a positive number of cube units, got {radius}")
    if not points or len(points) != len(features):
        raise ConfigError(f"one feature table per cloud is needed, got {len(points)} clouds, {len(features)} tables")
    for number, (cloud, table) in enumerate(zip(points, features, strict=True)):
        if len(cloud) != len(table):
            raise ConfigError(f"sample {number} has {len(cloud)} points but {len(table)} feature vectors")
    if sum(len(cloud) for cloud in points) >= 2**_INDEX_BITS:
        raise ConfigError("more than 2^31 points in one batch; render fewer samples at a time")


def _z_buffer(cloud: Float[Tensor, "m 3"], lengths: list[int], size: int, views: Sequence[View]) -> Int[Tensor, " p"]:
    """For each pixel of (sample, view, row, column) the least key `depth count << 31 | point index`."""
    device = cloud.device
    key = torch.full((len(lengths) * len(views) * size * size,), _EMPTY_KEY, device=device)
    if len(cloud) == 0:
        return key
    half = size / 2
    index = torch.arange(len(cloud), device=device)
    sample = torch.repeat_interleave(torch.tensor(lengths, device=device), output_size=len(cloud))
    finite = torch.isfinite(cloud).all(dim=1)
    axes = cloud.t().contiguous()
    for number, view in enumerate(views):
        column = axes[view.column_axis] * view.column_sign * half + half
        row = axes[view.row_axis] * view.row_sign * half + half
        drawn = (column >= 0) & (column < size) & (row >= 0) & (row < size) & finite
        chosen = drawn.nonzero().squeeze(1)
        pixel = row[chosen].long() * size + column[chosen].long()
        pixel += (sample[chosen] * len(views) + number) * (size * size)
        # The product stays in float32, as on the GPU; clamping before the cast gives CUDA's saturating conversion.
        steps = (view.eye - axes[view.depth_axis][chosen]) * _DEPTH_STEPS
        count = steps.clamp(0, float(2**32)).long().clamp(max=_MAX_STEPS)
        key.scatter_reduce_(0, pixel, (count << _INDEX_BITS) | index[chosen], reduce="amin")
    return key


def _splat(key: Int[Tensor, " p"], size: int, radius: float) -> Int[Tensor, " p"]:
    """Assign to every pixel the key of the nearest pixel in its neighbourhood.

    The rule is a loop over the window in which a pixel at least as near replaces what was found before. It becomes one
    minimum over numbers `depth bits << 12 | rank`: positive floats order like their bits, and later steps of the loop
    have smaller ranks.
    """
    steps = _window(size, radius)
    if len(steps) == 1:
        return key
    drawn = key != _EMPTY_KEY
    depth = (_depth(key).view(torch.int32).long() << _RANK_BITS).view(-1, size, size)
    own = torch.where(drawn.view_as(depth), depth | _OWN_RANK, _NOTHING)
    spread = torch.where((drawn & (key >= 1 << _INDEX_BITS)).view_as(depth), depth, _NO_OFFER)
    for number, (dx, dy) in enumerate(steps):
        rank = len(steps) - 1 - number
        rows, columns = _overlap(dy, size), _overlap(dx, size)
        here = own[:, rows[0], columns[0]]
        torch.minimum(here, spread[:, rows[1], columns[1]] + rank, out=here)
    jumps = torch.zeros(2**_RANK_BITS, dtype=torch.int64, device=key.device)
    jumps[: len(steps)] = torch.tensor([dy * size + dx for dx, dy in reversed(steps)], device=key.device)
    source = jumps[own.flatten() & _OWN_RANK]
    source += torch.arange(len(key), device=key.device)
    return key[source]


def _develop(key: Int[Tensor, " p"], table: Float[Tensor, "m c"], batch: int, views: int, size: int) -> Tensor:
    """Images (B, V, C + 1, S, S) from the keys: features, then depth less its mean over the drawn pixels of a view."""
    channels = table.shape[1]
    drawn = key != _EMPTY_KEY
    index = torch.where(drawn, key & (2**_INDEX_BITS - 1), len(table))
    padded = torch.cat([table, table.new_zeros(1, channels)])
    colours = padded[index].view(batch, views, size * size, channels)
    # The mean comes from whole numbers, so that it does not depend on the order of a sum.
    count = drawn.view(batch, views, -1).sum(dim=2)
    total = torch.where(drawn, key >> _INDEX_BITS, 0).view(batch, views, -1).sum(dim=2)
    mean = (total.double() / count.clamp(min=1) / _DEPTH_STEPS).float()
    depth = _depth(key).view(batch, views, -1) - mean[..., None]
    depth = torch.where(drawn.view_as(depth), depth, EMPTY_DEPTH)
    images = table.new_empty(batch, views, channels + 1, size * size)
    images[:, :, :channels] = colours.transpose(2, 3)
    images[:, :, channels] = depth
    return images.view(batch, views, channels + 1, size, size)


def _depth(key: Int[Tensor, " p"]) -> Float[Tensor, " p"]:
    """The depth of a key in cube units, rounded as the original does (meaningless for empty pixels)."""
    return (key >> _INDEX_BITS).float() * (1 / _DEPTH_STEPS)


def _window(size: int, radius: float) -> list[tuple[int, int]]:
    """The offsets (dx, dy) of the splat in the order of the loop: those nearer than f * radius pixels, float32."""
    reach = np.float32(size / 2) * np.float32(radius)
    half = int(min(2 * math.ceil(reach) + 1, _MAX_WINDOW)) // 2
    span = range(-half, half + 1)
    return [(dx, dy) for dx in span for dy in span if reach > np.sqrt(np.float32(dx * dx + dy * dy))]


def _overlap(shift: int, size: int) -> tuple[slice, slice]:
    """Pixels whose neighbour at `shift` is inside the image, and those neighbours."""
    low, high = max(0, -shift), min(size, size - shift)
    high = max(low, high)
    return slice(low, high), slice(low + shift, high + shift)


def _normalised(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Points divided by their greatest finite |coordinate|; unchanged where there is none or it is 0."""
    size = torch.where(torch.isfinite(points), points.abs(), 0)
    greatest = torch.cat([size.flatten(), size.new_zeros(1)]).amax()
    return points / torch.where(greatest > 0, greatest, 1)


def _place_channels(views: int, size: int, device: torch.device) -> Float[Tensor, "1 v 3 s s"]:
    """The constant channels: view, row and column, each from -1 to 1."""
    line = torch.linspace(-1, 1, size, device=device)
    view = torch.linspace(-1, 1, views, device=device)
    shape = (1, views, size, size)
    parts = [view.view(1, -1, 1, 1), line.view(1, 1, -1, 1), line.view(1, 1, 1, -1)]
    return torch.stack([part.expand(shape) for part in parts], dim=2)
