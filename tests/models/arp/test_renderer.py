"""The renderer against measured images, against a slow renderer that follows the rules word for word, and its laws."""

import json
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mnprobe.core.errors import ConfigError
from mnprobe.models.arp.renderer import network_input, render_views
from mnprobe.models.arp.views import VIEWS, View

F = np.float32
CASES = ["native224", "small", "zoomed", "nosplat", "two_views_empty", "wide_splat"]


def slow_render(points: NDArray, features: NDArray, size: int, radius: float) -> NDArray:
    """One cloud, point by point and pixel by pixel: (3, C + 1, S, S)."""
    half = F(size / 2)
    reach = half * F(radius)
    window = min(2 * math.ceil(reach) + 1, 51) // 2
    images = np.zeros((3, features.shape[1] + 1, size, size), F)
    for view in range(3):
        depth = np.full((size, size), F(-1))
        source = np.full((size, size), -1)
        for i, (x, y, z) in enumerate(points.astype(F)):
            if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(z)):
                continue
            a, b, d = [(x, -y, F(1) - z), (y, -z, F(1) - x), (-x, -z, F(0.5) - y)][view]
            u, w = half * a + half, half * b + half
            if u < 0 or u >= size or w < 0 or w >= size:
                continue
            column, row = int(u), int(w)
            steps = min(max(int(d * F(1000)), 0), 2**32 - 1)
            d = F(steps) * F(0.001)
            if source[row, column] == -1 or d < depth[row, column]:  # ties stay with the point that came first
                depth[row, column], source[row, column] = d, i
        before, before_source = depth.copy(), source.copy()
        for row in range(size):
            for column in range(size):
                m = before[row, column]
                for dx in range(-window, window + 1):
                    for dy in range(-window, window + 1):
                        r, c = row + dy, column + dx
                        if not (0 <= r < size and 0 <= c < size):
                            continue
                        d = before[r, c]
                        if d == -1 or (d > m and m != -1):
                            continue
                        if reach > np.sqrt(F(dx * dx + dy * dy)) and d != 0:
                            m, source[row, column] = d, before_source[r, c]
                depth[row, column] = m
        drawn = source >= 0
        images[view, :-1, drawn] = features[source[drawn]]
        images[view, -1] = np.where(drawn, depth - (depth[drawn].mean(dtype=np.float64) if drawn.any() else 0), -1)
    return images


def assert_same(images: torch.Tensor, expected: NDArray) -> None:
    """Features bit for bit, depth within rounding, empty pixels exactly."""
    found = images.numpy()
    np.testing.assert_array_equal(found[:, :-1], expected[:, :-1])
    np.testing.assert_allclose(found[:, -1], expected[:, -1], rtol=0, atol=2e-6)
    np.testing.assert_array_equal(found[:, -1] == -1, expected[:, -1] == -1)


def slow_and_fast(points, size, radius):
    features = np.random.default_rng(1).random((len(points), 3), dtype=F)
    images = render_views([torch.from_numpy(points)], [torch.from_numpy(features)], size=size, radius=radius)
    assert_same(images[0], slow_render(points, features, size, radius))
    return images[0]


@pytest.fixture(scope="module")
def arrays(golden):
    with np.load(golden / "arp-tiny" / "renderer.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def settings(golden):
    return json.loads((golden / "arp-tiny" / "renderer.json").read_text())["cases"]


def cloud(count: int, seed: int = 0, low: float = -1.1, high: float = 1.1) -> NDArray:
    return np.random.default_rng(seed).uniform(low, high, (count, 3)).astype(F)


@pytest.mark.parametrize("case", CASES)
def test_images_equal_the_measured_ones(arrays, settings, case):
    points, features = torch.from_numpy(arrays[f"{case}.points"]), torch.from_numpy(arrays[f"{case}.features"])
    size, radius = settings[case]["img_size"], settings[case]["radius"]
    found = render_views([points], [features], size=size, radius=radius)[0].permute(0, 2, 3, 1).numpy()
    expected = arrays[f"{case}.image"]
    np.testing.assert_allclose(found[..., :-1], expected[..., :-1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[..., -1], expected[..., -1], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "radius"), [(1, 0.5), (2, 1.2), (7, 0.3), (16, 0.05), (16, 0.2), (25, 0.16), (33, 0.3)]
)
def test_images_equal_the_slow_renderer(size, radius):
    slow_and_fast(cloud(300, seed=size), size, radius)


@pytest.mark.parametrize("seed", range(4))
def test_ties_and_borders_equal_the_slow_renderer(seed):
    # Coordinates in eighths: many points share pixel and depth, lie on pixel borders, on the image's edge, at depth 0.
    grid = np.random.default_rng(seed).integers(-10, 11, (200, 3)).astype(F) / 8
    slow_and_fast(grid, 16, 0.3)


def test_points_that_are_not_numbers_are_not_drawn():
    points = cloud(60)
    points[::7, 0], points[1::7, 1], points[2::7, 2] = np.nan, np.inf, -np.inf
    images = slow_and_fast(points, 12, 0.2)
    finite = points[np.isfinite(points).all(axis=1)]
    alone = render_views([torch.from_numpy(finite)], [torch.ones(len(finite), 1)], size=12, radius=0.2)[0]
    torch.testing.assert_close(images[:, -1], alone[:, -1])


def test_a_point_lands_where_the_table_of_views_says():
    image = render_views([torch.tensor([[0.3, -0.6, 0.1]])], [torch.ones(1, 1)], size=10, radius=0.01)[0, :, 0]
    # column, row: top 5(1 + 0.3), 5(1 + 0.6); left 5(1 - 0.6), 5(1 - 0.1); front 5(1 - 0.3), 5(1 - 0.1)
    assert image.nonzero().tolist() == [[0, 8, 6], [1, 4, 2], [2, 4, 3]]


def test_the_image_holds_its_lower_edge_and_not_its_upper():
    points = torch.tensor([[-1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [-0.0, 0.25, 1.0]])
    top = render_views([points], [torch.eye(4)], size=4, radius=0.1)[0, 0]
    assert [channel.nonzero().tolist() for channel in top[:4]] == [[[0, 0]], [], [], [[1, 2]]]


def test_all_points_behind_the_camera_tie_at_depth_zero_and_never_spread():
    points = torch.tensor([[0.1, 0.1, 3.0], [0.1, 0.1, 9.0], [0.1, 0.1, 0.9]])
    top = render_views([points], [torch.eye(3)], size=5, radius=0.9)[0, 0]
    assert top[0].nonzero().tolist() == [[2, 2]]  # the first of the two behind, before the one in sight
    assert not top[1:3].any()
    assert (top[3] != -1).sum() == 1


def test_the_lower_index_wins_a_tie_and_later_steps_win_equal_depth():
    twice = torch.tensor([[0.0, 0.0, 0.5], [0.0, 0.0, 0.4996]])  # both in step 500
    assert render_views([twice], [torch.eye(2)], size=1, radius=0.1)[0, 0, :2].flatten().tolist() == [1, 0]
    # An empty pixel between a left and a right neighbour of one depth takes the right: dx is the outer loop.
    apart = torch.tensor([[-0.5, 0.0, 0.5], [0.5, 0.0, 0.5], [0.0, 0.7, 0.5], [0.0, -0.7, 0.5]])
    top = render_views([apart], [torch.eye(4)], size=3, radius=0.7)[0, 0]
    assert top[:4, 1, 1].tolist() == [0, 1, 0, 0]


def test_depth_is_cut_to_thousandths_then_centred():
    points = torch.tensor([[-0.5, 0.5, 0.9996], [0.5, 0.5, 0.5004], [0.5, -0.5, 0.2999]])
    depth = render_views([points], [torch.ones(3, 1)], size=2, radius=0.1)[0, 0, 1]
    cut = torch.tensor([0.0, 0.499, 0.700])
    torch.testing.assert_close(depth.flatten()[[0, 1, 3]], cut - cut.mean())
    assert depth[1, 0] == -1


def test_depth_saturates_far_away():
    points = torch.tensor([[0.5, 0.5, -1e30], [0.5, 0.5, -9e9], [-0.5, 0.5, -1e30], [-0.5, 0.5, 0.5]])
    top = render_views([points], [torch.eye(4)], size=2, radius=0.1)[0, 0]
    assert top[:4, 0].T.tolist() == [[0, 0, 0, 1], [1, 0, 0, 0]]  # the near one wins; both saturated: the first
    assert top[4].isfinite().all()


def test_the_splat_never_reaches_beyond_25_pixels():
    top = render_views([torch.zeros(1, 3)], [torch.ones(1, 1)], size=65, radius=0.9)[0, 0, 0]
    rows, columns = top.nonzero().T  # the reach is 29.25 pixels, the window 51 x 51 around pixel 32
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (7, 57, 7, 57)


@pytest.mark.parametrize("radius", [0.01, 0.5])
def test_an_empty_cloud_gives_empty_images(radius):
    images = render_views([torch.zeros(0, 3)], [torch.zeros(0, 5)], size=8, radius=radius)
    assert images.shape == (1, 3, 6, 8, 8)
    assert not images[:, :, :5].any()
    assert (images[:, :, 5] == -1).all()


def test_a_ragged_batch_equals_one_by_one():
    clouds = [torch.from_numpy(cloud(n, seed=n)) for n in (100, 0, 37, 1, 250)]
    tables = [torch.rand(len(c), 4, generator=torch.Generator().manual_seed(len(c))) for c in clouds]
    batch = render_views(clouds, tables, size=17, radius=0.2)
    for image, points, table in zip(batch, clouds, tables, strict=True):
        assert torch.equal(image, render_views([points], [table], size=17, radius=0.2)[0])


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_points_matters_in_ties_only(seed):
    # Each axis holds every depth step at most once, so no two points tie in any view.
    rng = np.random.default_rng(seed)
    levels = (np.arange(400) * 3.5e-3 - 0.95).astype(F)  # below 0.5: view 2 sees nothing behind its eye
    points = torch.from_numpy(np.stack([rng.permutation(levels) for _ in range(3)], axis=1))
    table = torch.from_numpy(rng.random((400, 2), dtype=F))
    order = torch.from_numpy(rng.permutation(400))
    straight = render_views([points], [table], size=20, radius=0.25)
    assert torch.equal(straight, render_views([points[order]], [table[order]], size=20, radius=0.25))


def test_a_hidden_point_changes_nothing_but_itself():
    points, table = torch.from_numpy(cloud(200)), torch.arange(200.0)[:, None] + 1
    behind = torch.tensor([[0.0, 0.0, -20.0]])
    before = render_views([points], [table], size=6, radius=0.4, views=VIEWS[:1])
    after = render_views([torch.cat([points, behind])], [torch.cat([table, torch.zeros(1, 1)])], size=6, radius=0.4)
    assert torch.equal(before, after[:, :1])


def test_the_radius_arrives():
    point = [torch.tensor([[0.05, 0.05, 0.0]])]
    drawn = [
        (render_views(point, [torch.ones(1, 1)], size=21, radius=r)[0, 0, 0] > 0).sum().item()
        for r in (0.09, 0.1, 0.12, 0.15, 0.2)
    ]
    assert drawn == [1, 5, 5, 9, 13]  # reach 0.945, 1.05, 1.26, 1.575, 2.1 pixels


def test_other_views_can_be_given():
    back = View(name="back", column_axis=0, column_sign=1.0, row_axis=2, row_sign=-1.0, depth_axis=1, eye=1.0)
    points, table = torch.from_numpy(cloud(50)), torch.rand(50, 2, generator=torch.Generator().manual_seed(0))
    images = render_views([points], [table], size=9, radius=0.1, views=[VIEWS[1], back])
    assert images.shape == (1, 2, 3, 9, 9)
    assert torch.equal(images[:, 0], render_views([points], [table], size=9, radius=0.1)[:, 1])
    assert not torch.equal(images[0, 1], render_views([points], [table], size=9, radius=0.1)[0, 2])


def test_no_gradient_flows():
    points = torch.rand(5, 3, requires_grad=True)
    assert not render_views([points], [points * 2], size=4, radius=0.1).requires_grad


def test_network_input_normalises_each_cloud_by_its_own_extent():
    clouds = [torch.from_numpy(cloud(80, seed=s)) * scale for s, scale in ((1, 0.5), (2, 1.0))]
    colours = [torch.rand(80, 3, generator=torch.Generator().manual_seed(s)) for s in (1, 2)]
    images = network_input(clouds, colours, size=9, radius=0.2)
    assert images.shape == (2, 3, 10, 9, 9)
    for image, points, rgb in zip(images, clouds, colours, strict=True):
        features = torch.cat([points / points.abs().max(), rgb], dim=1)
        torch.testing.assert_close(image[:, :7], render_views([points], [features], size=9, radius=0.2)[0])
    line = torch.linspace(-1, 1, 9)
    assert images[:, :, 7].unique().tolist() == [-1, 0, 1]
    assert (images[:, 2, 7] == 1).all()
    assert torch.equal(images[1, 1, 8, :, 4], line)
    assert torch.equal(images[0, 0, 9, 5], line)


def test_network_input_survives_clouds_without_extent():
    clouds = [torch.zeros(0, 3), torch.zeros(1, 3), torch.tensor([[torch.nan, 0.0, 0.0], [0.5, 0.0, 0.0]])]
    images = network_input(clouds, [torch.ones_like(c) for c in clouds], size=4, radius=0.1)
    assert images.isfinite().all()
    assert images[2, 0, 0].max() == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 0}, "size must be at least 1 pixel, got 0"),
        ({"radius": 0.0}, r"radius must be a positive number of cube units, got 0\.0"),
        ({"radius": math.nan}, "got nan"),
        ({"points": []}, "one feature table per cloud is needed, got 0 clouds, 1 tables"),
        ({"features": [torch.ones(4, 2)]}, "sample 0 has 3 points but 4 feature vectors"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    good = {"points": [torch.zeros(3, 3)], "features": [torch.ones(3, 2)], "size": 4, "radius": 0.1}
    with pytest.raises(ConfigError, match=message):
        render_views(**(good | change))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_draws_the_same():
    grid = torch.from_numpy(np.random.default_rng(0).integers(-40, 41, (5000, 3)).astype(F) / 32)
    clouds = [grid, torch.from_numpy(cloud(3000))]
    tables = [torch.rand(len(c), 4) for c in clouds]
    here = render_views(clouds, tables, size=56, radius=0.05)
    there = render_views([c.cuda() for c in clouds], [t.cuda() for t in tables], size=56, radius=0.05)
    assert torch.equal(here, there.cpu())
