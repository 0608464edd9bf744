"""How fast ARP's renderer draws, beside a plain renderer that goes point by point; and whether both draw the same.

    python benchmarks/renderer.py

One thread; 65,536 points, 3 views of 224 x 224, as in one observation of four cameras. Prints milliseconds per sample
and the ratio, which must be at least 20, and ends with exit code 1 if it is smaller or an image differs.
"""

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from mnprobe.models.arp.decode import decode_point
from mnprobe.models.arp.renderer import render_views

WANTED = 20.0
RADIUS = 0.012
# Per view: axis and sign of the column, axis and sign of the row, axis of the depth, eye.
VIEWS = ((0, 1, 1, -1, 2, 1.0), (1, 1, 2, -1, 0, 1.0), (0, -1, 2, -1, 1, 0.5))

Array = NDArray[np.float32]


def draw_points(points: Array, size: int) -> tuple[Array, NDArray[np.int64]]:
    """Depth (-1: empty) and index of the nearest point of every pixel of every view, one point after the other."""
    depth = np.full((len(VIEWS), size, size), -1, np.float32)
    index = np.full((len(VIEWS), size, size), -1, np.int64)
    half, step = np.float32(size / 2), np.float32(0.001)
    for view, (column_axis, column_sign, row_axis, row_sign, depth_axis, eye) in enumerate(VIEWS):
        for i in range(len(points)):
            u = points[i, column_axis] * np.float32(column_sign) * half + half
            w = points[i, row_axis] * np.float32(row_sign) * half + half
            if u < 0 or u >= size or w < 0 or w >= size:
                continue
            column, row = int(u), int(w)
            d = np.float32(max(int((np.float32(eye) - points[i, depth_axis]) * np.float32(1000)), 0)) * step
            if index[view, row, column] < 0 or d < depth[view, row, column]:
                depth[view, row, column] = d
                index[view, row, column] = i
    return depth, index


def spread(depth: Array, index: NDArray[np.int64], radius: float) -> tuple[Array, NDArray[np.int64]]:
    """The splat, one pixel after the other, over its window (without the offsets that are too far)."""
    views, size, _ = depth.shape
    reach = np.float32(size / 2) * np.float32(radius)
    half = min(2 * int(np.ceil(reach)) + 1, 51) // 2
    offsets = [(x, y) for x in range(-half, half + 1) for y in range(-half, half + 1) if np.hypot(x, y) < reach]
    after, source = depth.copy(), index.copy()
    for view in range(views):
        for row in range(size):
            for column in range(size):
                nearest = after[view, row, column]
                for dx, dy in offsets:
                    r, c = row + dy, column + dx
                    if not (0 <= r < size and 0 <= c < size):
                        continue
                    d = depth[view, r, c]
                    if d != -1 and d != 0 and (d <= nearest or nearest == -1):
                        nearest = d
                        source[view, row, column] = index[view, r, c]
                after[view, row, column] = nearest
    return after, source


def develop(depth: Array, index: NDArray[np.int64], features: Array) -> Array:
    """Images (V, C + 1, S, S)."""
    images = np.zeros((len(depth), features.shape[1] + 1, *depth.shape[1:]), np.float32)
    for view in range(len(depth)):
        drawn = index[view] >= 0
        images[view, :-1, drawn] = features[index[view][drawn]]
        mean = depth[view][drawn].mean(dtype=np.float64) if drawn.any() else 0.0
        images[view, -1] = np.where(drawn, depth[view] - mean, -1)
    return images


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median wall time of `work`, after one run that does not count."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def compare(name: str, points: Array, features: Array, size: int, repeats: int) -> bool:
    """Times both renderers on one cloud, prints what came out, and says whether all is well."""
    start = time.perf_counter()
    depth, index = draw_points(points, size)
    drawn = time.perf_counter()
    plain = develop(*spread(depth, index, RADIUS), features)
    whole, loop = time.perf_counter() - start, drawn - start

    cloud, table = [torch.from_numpy(points)], [torch.from_numpy(features)]
    ours = seconds(lambda: render_views(cloud, table, size=size, radius=RADIUS), repeats)
    images = render_views(cloud, table, size=size, radius=RADIUS)[0].numpy()
    same = np.array_equal(images[:, :-1], plain[:, :-1]) and np.allclose(images[:, -1], plain[:, -1], rtol=0, atol=2e-6)
    batch = seconds(lambda: render_views(cloud * 4, table * 4, size=size, radius=RADIUS), repeats) / 4
    print(f"{name}: {len(points):,} points, 3 views of {size} x {size}, one thread")
    print(f"  mnprobe      {ours * 1e3:9.1f} ms per sample ({batch * 1e3:.1f} ms in a batch of 4)")
    print(f"  plain NumPy  {whole * 1e3:9.1f} ms per sample ({loop * 1e3:.1f} ms of it for the loop over points)")
    print(
        f"  ratio        {whole / ours:9.1f} (wanted: {WANTED:g} or more; the loop over points alone {loop / ours:.1f})"
    )
    print(f"  images       {'equal' if same else 'DIFFERENT'}")
    return same and whole / ours >= WANTED


def main() -> int:
    parser = argparse.ArgumentParser(description="Speed of ARP's renderer beside a plain per-point one.")
    parser.add_argument("--points", type=int, default=65_536)
    parser.add_argument("--size", type=int, default=224, help="image side in pixels")
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (given.points, 3)).astype(np.float32)
    features = rng.random((given.points, 6), dtype=np.float32)
    well = [
        compare("stage 1 (all points in the cube)", points, features, given.size, given.repeats),
        compare("stage 2 (zoomed by 4: most points outside)", points * 4, features, given.size, given.repeats),
    ]
    maps = torch.from_numpy(rng.random((1, 3, given.size, given.size), dtype=np.float32))
    print(f"decode_point, {given.size}^3 candidates: {seconds(lambda: decode_point(maps), given.repeats) * 1e3:.1f} ms")
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
