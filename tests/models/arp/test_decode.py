"""The best point of three heatmaps against the measured ones and a search through all candidates."""

import numpy as np
import pytest
import torch

from mnprobe.core.errors import ConfigError
from mnprobe.models.arp import decode
from mnprobe.models.arp.decode import decode_point
from mnprobe.models.arp.heatmap import label_heatmap
from mnprobe.models.arp.sampling import sample_map
from mnprobe.models.arp.views import project


@pytest.fixture(scope="module")
def geometry(golden):
    with np.load(golden / "arp-tiny" / "geometry.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files if name.startswith("decode")}


def search(maps):
    """The best of all s^3 candidates of one sample (3, s, s), x slowest, z fastest."""
    size = maps.shape[-1]
    line = torch.linspace(-1 + 1 / size, 1 - 1 / size, size)
    candidates = torch.cartesian_prod(line, line, line)
    xy = project(candidates[None], size)[0]
    read = [sample_map(maps[None, view : view + 1], xy[None, :, view])[0, :, 0] for view in range(3)]
    scores = (read[0] + read[1] + read[2]) / 3
    best = scores.argmax()
    return candidates[best], scores[best]


def random_maps(batch, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(batch, 3, size * size, generator=generator) * 2).softmax(-1).unflatten(-1, (size, size))


def test_points_and_scores_equal_the_measured_ones(geometry):
    point, score = decode_point(geometry["decode.heatmaps"])
    torch.testing.assert_close(point, geometry["decode.point"], rtol=0, atol=1e-6)
    torch.testing.assert_close(score, geometry["decode.best_score"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("size", [1, 2, 5, 16])
@pytest.mark.parametrize("block", [1, 10**9])
def test_points_equal_the_search_through_all_candidates(monkeypatch, size, block):
    monkeypatch.setitem(decode._BLOCK, "cpu", block)  # one slice at a time, or all at once
    maps = random_maps(3, size, seed=size)
    point, score = decode_point(maps)
    for i in range(3):
        expected, best = search(maps[i])
        assert torch.equal(point[i], expected)
        assert score[i] == best


@pytest.mark.parametrize("seed", range(5))
def test_of_equal_scores_the_first_wins(seed):
    # Few distinct whole values: very many candidates tie exactly.
    maps = torch.randint(0, 2, (2, 3, 7, 7), generator=torch.Generator().manual_seed(seed)).float()
    point, _ = decode_point(maps)
    for i in range(2):
        assert torch.equal(point[i], search(maps[i])[0])


def test_flat_maps_give_the_first_candidate_that_all_views_see():
    point, score = decode_point(torch.full((1, 3, 6, 6), 1 / 36))
    # The last row and column of candidates project half a pixel beyond the image; the mirrored axes put it first.
    torch.testing.assert_close(point, search(torch.full((3, 6, 6), 1 / 36))[0][None])
    torch.testing.assert_close(score, torch.tensor([1 / 36]))


def test_a_planted_point_is_found_again():
    size = 32
    points = torch.rand(8, 3, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8
    labels = label_heatmap(project(points[:, None], size).flatten(0, 2), size).unflatten(0, (8, 3))
    found, _ = decode_point(labels)
    assert (found - points).abs().max() <= 1.5 * 2 / size


def test_a_batch_equals_one_by_one():
    maps = random_maps(4, 9)
    point, score = decode_point(maps)
    for i in range(4):
        alone = decode_point(maps[i : i + 1])
        assert torch.equal(alone[0][0], point[i])
        assert alone[1][0] == score[i]


def test_maps_must_be_square():
    with pytest.raises(ConfigError, match="heatmaps must be square, got 4 x 5"):
        decode_point(torch.zeros(1, 3, 4, 5))
