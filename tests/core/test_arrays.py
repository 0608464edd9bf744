"""Conversions at the entrance: arrays, weights, whole numbers and settings."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from mnprobe.core.arrays import as_array, as_number, as_vector, as_weights, as_whole, power_near_one, settle
from mnprobe.core.errors import ConfigError, FeatureError
from mnprobe.core.seeds import check_seed


@dataclass(frozen=True)
class _Settings:
    count: int = 3
    rate: float = 0.5
    on: bool = False
    limit: int | None = None

    def __post_init__(self) -> None:
        settle(self, wholes=("count", "limit"), numbers=("rate",), truths=("on",))


def test_settings_become_pythons_own():
    found = _Settings(count=np.int64(4), rate=np.float32(0.25), on=np.bool_(True), limit=torch.tensor(7))
    assert found == _Settings(4, 0.25, True, 7)
    assert [type(one) for one in vars(found).values()] == [int, float, bool, int]
    for wrong in ({"count": None}, {"count": 1.5}, {"count": True}, {"rate": "1"}, {"rate": None}, {"on": 1}):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))} must be"):
            _Settings(**wrong)


def test_a_single_number_is_no_row_of_numbers():
    assert as_array(5.0, "x").shape == ()
    for value in (5.0, np.float64(5), torch.tensor(5.0)):
        with pytest.raises(FeatureError, match=r"x must hold numbers in one row, got shape \(\)"):
            as_vector(value, "x")
    with pytest.raises(FeatureError, match="no float can hold"):
        as_vector([10**400, 1], "x")


def test_weights_are_looked_at():
    assert as_weights(None, 3).tolist() == [1, 1, 1]
    assert as_weights(torch.tensor([1, 0, 2]), 3).tolist() == [1, 0, 2]
    for wrong, text in (
        ([1, 2], "got shape"),
        ([1, -1, 0], "row 1"),
        ([0, 0, 0], "0 in all 3"),
        ([1, 2, np.nan], "nan"),
    ):
        with pytest.raises(FeatureError, match=text):
            as_weights(wrong, 3)


def test_seeds_and_numbers_of_every_make():
    for seed in (7, np.int64(7), np.uint8(7), 7.0, torch.tensor(7), np.array(7)):
        assert check_seed(seed) == 7
        assert type(check_seed(seed)) is int
    for wrong in (-1, 1.5, "7", True, None, np.nan, 2**63, [7]):
        with pytest.raises(ConfigError, match="seed must be a whole number from 0 to 9223372036854775807"):
            check_seed(wrong)
    assert as_whole(np.float32(5), "k") == 5
    assert np.isnan([as_number(wrong) for wrong in ("1", True, None, [1.0], np.ones(1), 1j)]).all()
    for size in (1e-300, 1e-30, 1.0, 1e300):
        power = power_near_one(np.array([0.0, size]))
        assert power == 1 or 0.5 <= size * power <= 1
