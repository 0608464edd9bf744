import itertools

import numpy as np
import pytest

from mnprobe.core.errors import FeatureError
from mnprobe.features import open_features, pooling
from mnprobe.features.pooling import pool


def _slow(rows, offsets, keyframe, how):
    """Pooling by plain loops, one token after the other."""
    result = []
    for a, b in itertools.pairwise(offsets):
        tokens = [row.astype(float) for row in rows[a:b]]
        groups = {}
        for token, mark in zip(tokens, keyframe[a:b], strict=True):
            groups.setdefault(int(mark), []).append(token)
        if how == "mean":
            result.append(sum(tokens) / len(tokens))
        elif how == "max":
            result.append(np.array([max(column) for column in zip(*tokens, strict=True)]))
        elif how == "first":
            result.append(tokens[0])
        elif how == "last":
            result.append(tokens[-1])
        elif how == "concat":
            result.append(sum(np.concatenate(group) for group in groups.values()) / len(groups))
        else:
            k = int(how.split(":")[1])
            result.append(sum(group[k] for group in groups.values()) / len(groups))
    return np.array(result)


@pytest.mark.parametrize("block", [1, 3, 7, 64, 10_000])
@pytest.mark.parametrize("how", ["mean", "max", "first", "last", "token:0", "token:3", "token:4", "concat"])
def test_pooling_equals_the_loops_whatever_the_blocks(monkeypatch, how, block):
    monkeypatch.setattr(pooling, "BLOCK_ROWS", block)
    generator = np.random.default_rng(0)
    keyframes = [3, 1, 6, 2, 1]
    rows = generator.normal(size=(5 * sum(keyframes), 4)).astype(np.float32)
    offsets = np.cumsum([0, *(5 * count for count in keyframes)])
    marks = np.concatenate([np.repeat(np.arange(count), 5) for count in keyframes])
    found = pool(rows, offsets, marks, how, where="x")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, _slow(rows, offsets, marks, how), rtol=1e-6, atol=1e-6)


def test_a_layer_without_keyframes_is_one_group_per_episode():
    rows, offsets = np.arange(12.0).reshape(6, 2), np.array([0, 3, 6])
    np.testing.assert_array_equal(pool(rows, offsets, None, "token:1", where="x"), rows[[1, 4]])
    np.testing.assert_array_equal(pool(rows, offsets, None, "concat", where="x"), rows.reshape(2, 6))


def test_equal_keyframe_numbers_of_neighbouring_episodes_are_not_joined():
    rows, offsets = np.arange(4.0).reshape(4, 1), np.array([0, 2, 4])
    assert pool(rows, offsets, np.zeros(4, int), "token:0", where="x").ravel().tolist() == [0, 2]


def test_float16_sums_do_not_overflow():
    rows = np.full((1000, 1), 6e4, np.float16)
    assert pool(rows, np.array([0, 1000]), None, "mean", where="x").item() == 6e4


class _Counting:
    """Rows that remember the largest block that was asked for."""

    def __init__(self, rows):
        self.rows, self.largest = rows, 0

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, key):
        block = self.rows[key]
        self.largest = max(self.largest, len(block))
        return block


@pytest.mark.parametrize("how", ["mean", "max", "first", "token:0", "concat"])
def test_pooling_never_reads_more_than_a_block(monkeypatch, how):
    monkeypatch.setattr(pooling, "BLOCK_ROWS", 16)
    rows = _Counting(np.ones((100, 2), np.float32))
    pool(rows, np.arange(0, 101, 5), None, how, where="x")
    assert rows.largest == 16


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("median", "unknown pooling 'median'; known are mean, first, last, max, token:<k>, concat"),
        ("token:5", r"asks for token 5, but there are groups of only 5 tokens"),
        ("token:-1", "unknown pooling"),
    ],
)
def test_impossible_pooling_is_refused(store, how, message):
    with open_features(store[0]) as file, pytest.raises(FeatureError, match=message):
        file.layer("e").pooled(how)


def test_ragged_groups_cannot_be_concatenated_and_empty_episodes_not_pooled():
    rows = np.zeros((5, 1))
    with pytest.raises(FeatureError, match="'concat' needs equally many tokens at every keyframe, found 2 to 3"):
        pool(rows, np.array([0, 2, 5]), None, "concat", where="x")
    with pytest.raises(FeatureError, match="episode number 1 has no tokens"):
        pool(rows, np.array([0, 2, 2, 5]), None, "mean", where="x")
