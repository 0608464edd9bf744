import numpy as np
import pandas as pd
import pytest
from sklearn.manifold import trustworthiness

from mnprobe.analysis.tsne.embedding import (
    main_quality,
    map_qualities,
    purity_by_chance,
    purity_of_neighbors,
    quality_lines,
)


@pytest.fixture(scope="module")
def given():
    """Values, a map that is no good, and points: 30 episodes of 5 instructions on both sides, 18 of them fitted."""
    generator = np.random.default_rng(2)
    values, spots = generator.standard_normal((60, 6)), generator.standard_normal((60, 2))
    points = pd.DataFrame({"task": [f"t{i % 2}" for i in range(30)] * 2, "side": ["understanding"] * 30 + ["e"] * 30})
    points["instruction"] = [f"do {i % 5}" for i in range(30)] * 2
    points["fitted"] = np.tile(np.arange(30) < 18, 2)
    return values, spots, points


def _slow(spots, labels, count, sides=None):
    shares = []
    for row, spot in enumerate(spots):
        others = [i for i in range(len(spots)) if (i != row if sides is None else sides[i] != sides[row])]
        near = sorted(others, key=lambda i: ((spots[i] - spot) ** 2).sum())[:count]
        shares.append(np.mean([labels[i] == labels[row] for i in near]))
    return np.mean(shares)


def test_each_group_is_judged_among_its_own_points_as_slow_loops_and_scikit_learn_do(given):
    values, spots, points = given
    found = map_qualities(values, spots, points, 4)
    assert [quality.points for quality in found] == ["all", "held-out", "fitted"]
    fitted = points["fitted"].to_numpy()
    labels = (points["task"] + points["instruction"]).to_numpy()
    for quality, here in zip(found, (fitted | True, ~fitted, fitted), strict=True):
        sides = points["side"].to_numpy()[here]
        assert quality.count == here.sum()
        assert quality.trustworthiness == trustworthiness(values[here], spots[here], n_neighbors=4)
        assert quality.purity == pytest.approx(_slow(spots[here], labels[here], quality.neighbours), abs=1e-12)
        across = _slow(spots[here], labels[here], quality.across_neighbours, sides)
        assert quality.across == pytest.approx(across, abs=1e-12)
    assert main_quality(found) is found[1]


def test_chance_is_the_mean_of_many_random_maps(given):
    _, _, points = given
    labels, sides = points["instruction"].to_numpy(), points["side"].to_numpy()
    labels = np.where(np.arange(60) < 13, "do 0", labels)  # not balanced
    generator = np.random.default_rng(0)
    maps = [generator.standard_normal((60, 2)) for _ in range(300)]
    alone = np.mean([purity_of_neighbors(spots, labels, 5) for spots in maps])
    across = np.mean([purity_of_neighbors(spots, labels, 5, sides) for spots in maps])
    assert purity_by_chance(labels) == pytest.approx(alone, abs=0.01)
    assert purity_by_chance(labels, sides) == pytest.approx(across, abs=0.01)


def test_a_perfect_map_has_purity_one_within_and_across(given):
    _, _, points = given
    labels = points.groupby(["task", "instruction"]).ngroup().to_numpy()
    values = 50.0 * np.eye(10)[labels] + 0.01 * np.random.default_rng(1).standard_normal((60, 10))
    found = map_qualities(values, values[:, :2] + 100 * labels[:, None], points.assign(fitted=False), 10)
    (quality,) = found
    assert (quality.points, quality.purity, quality.across) == ("all", 1.0, 1.0)
    assert (quality.neighbours, quality.across_neighbours) == (5, 3)  # six points of an instruction, three on a side


def test_one_side_has_no_neighbors_across_and_few_points_no_group(given):
    values, spots, points = given
    alone = points[:30].assign(fitted=np.arange(30) < 27)
    found = map_qualities(values[:30], spots[:30], alone, 10)
    assert [quality.points for quality in found] == ["all", "fitted"]  # three held-out points are no neighbourhood
    assert np.isnan(found[0].across)
    assert found[0].across_neighbours == 0
    assert len(quality_lines(found)) == 2
    assert quality_lines(found)[1].startswith("fitted purity 0.")


def test_words_name_the_points_they_are_of(given):
    lines = quality_lines(map_qualities(*given, 4))
    assert lines[0].startswith("trustworthiness 0.")
    assert ", held-out 0." in lines[0]
    assert lines[1].startswith("held-out purity 0.")
    assert lines[2].startswith("across models 0.")
