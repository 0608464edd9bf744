"""Arrays and whole numbers of every make, and those that are none."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mnprobe.core.arrays import (
    as_array,
    as_matrix,
    as_number,
    as_positive,
    as_vector,
    as_weights,
    as_whole,
    as_wholes,
    check_finite,
    is_tensor,
    power_near_one,
    settle,
)
from mnprobe.core.errors import ConfigError, FeatureError
from mnprobe.core.seeds import check_seed

ROWS = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.5]]


@pytest.mark.parametrize(
    "given",
    [
        ROWS,
        tuple(map(tuple, ROWS)),
        np.array(ROWS),
        np.array(ROWS, dtype=">f4"),
        np.array(ROWS, dtype=np.longdouble),
        np.asfortranarray(ROWS),
        np.array(ROWS).T.copy().T,
        np.array(ROWS)[::-1][::-1],
        np.array(ROWS, dtype=object),
        np.ma.masked_array(ROWS),
        torch.tensor(ROWS),
        torch.tensor(ROWS, requires_grad=True),
        torch.tensor(ROWS, dtype=torch.bfloat16),
        torch.tensor(ROWS, dtype=torch.float64).T.contiguous().T,
        torch.tensor(ROWS, dtype=torch.complex64).conj().real,
        [torch.tensor(row, requires_grad=True) for row in ROWS],
        [np.array(row) for row in ROWS],
        pd.DataFrame(ROWS, index=[5, 6, 7], columns=["a", "b"]),
        pd.DataFrame(ROWS).astype("Float64"),
        pd.DataFrame({"a": [1, 3, 5], "b": [2.0, 4.0, 6.5]}),
        [[Decimal(1), Fraction(2)], [3, 4], [5, Decimal("6.5")]],
    ],
    ids=lambda value: type(value).__name__,
)
def test_numbers_of_any_make_are_the_same_matrix(given):
    found = as_matrix(given, "u")
    np.testing.assert_array_equal(found, ROWS)
    assert found.dtype == np.float64
    assert found.flags.c_contiguous
    native = as_array(given, "u")
    assert native.dtype.isnative
    assert native.flags.c_contiguous


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.uint16, np.bool_])
def test_types_are_kept_and_byte_orders_are_not(dtype):
    given = np.array([0, 1], dtype=dtype)
    assert as_array(given, "u").dtype == dtype
    swapped = given.astype(np.dtype(dtype).newbyteorder(">"))
    assert as_array(swapped, "u").dtype == dtype
    assert as_array(swapped, "u").tolist() == given.tolist()
    tensor = torch.from_numpy(given) if dtype is not np.uint16 else torch.tensor([0, 1], dtype=torch.uint16)
    assert as_array(tensor, "u").dtype == dtype


@pytest.mark.parametrize(
    "given",
    [
        [1.0, None, 3.0],
        np.array([1.0, None, 3.0], dtype=object),
        pd.array([1, pd.NA, 3], dtype="Int64"),
        pd.Series([1.0, np.nan, 3.0]),
        pd.Series([1, pd.NA, 3], dtype=object),
        np.ma.masked_array([1, 2, 3], mask=[False, True, False]),
        torch.tensor([1.0, float("nan"), 3.0]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_gaps_are_nan(given):
    np.testing.assert_array_equal(as_vector(given, "length"), [1.0, np.nan, 3.0])
    with pytest.raises(FeatureError, match="length: 1 of 3 rows hold NaN or infinity, the first is row 1"):
        as_vector(given, "length", finite=True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([["a", "b"]], "u must hold real numbers, got list"),
        ("text", "u must hold real numbers, got str"),
        (np.array([[1 + 2j]]), "u must hold real numbers, got numpy ndarray of type complex128"),
        (torch.zeros(2, 2, dtype=torch.complex64), "u must hold real numbers"),
        ([[1, 2], [3]], "u must be an array of numbers, got list"),
        (np.array([[1.0, "x"]], dtype=object), "u must hold real numbers, got str 'x', the first at row 0"),
        (np.array([[1, 2], [3, {}]], dtype=object), "got dict {}, the first at row 1"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), "u must hold real numbers"),
        (pd.DataFrame({"a": ["x", "y"]}), "u must hold real numbers"),
        (torch.eye(2).to_sparse(), "u is a sparse or quantized tensor"),
        (None, "u must hold real numbers, got None"),
        (print, "u must hold real numbers, got builtin"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_no_array_of_numbers_is_refused_by_name(given, message):
    with pytest.raises(FeatureError, match=message):
        as_array(given, "u")


def test_shapes_and_values_are_checked():
    for shape in ((3,), (0, 2), (2, 0), (2, 2, 2), ()):
        with pytest.raises(FeatureError, match=r"u must be one row per item, shape \(items, width\)"):
            as_matrix(np.ones(shape), "u")
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(FeatureError, match="u: 1 of 2 rows hold NaN or infinity, the first is row 1"):
            as_matrix([[1.0, 2.0], [bad, 1.0]], "u")
    assert np.isinf(as_matrix([[np.inf]], "u", finite=False)).all()
    check_finite(np.ones((2, 2)), "u")
    for rows in (2, 4):
        with pytest.raises(FeatureError, match=rf"length must hold one number for each of {rows} rows, got shape"):
            as_vector([1, 2, 3], "length", rows)
    with pytest.raises(FeatureError, match="must hold numbers in one row"):
        as_vector([[1, 2]], "length")


@pytest.mark.parametrize(
    "value", [5, np.int64(5), np.uint8(5), 5.0, np.float32(5), torch.tensor(5), np.array(5)], ids=repr
)
def test_whole_numbers_of_any_type(value):
    found = as_whole(value, "k", least=1)
    assert (found, type(found)) == (5, int)
    assert as_wholes(value, "k") == (5,)


@pytest.mark.parametrize(
    "value", [5.5, "5", True, np.bool_(True), None, float("nan"), float("inf"), [5], np.array([5]), 1j, b"5"], ids=repr
)
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(ConfigError, match="k must be a whole number"):
        as_whole(value, "k")


def test_whole_numbers_have_bounds():
    with pytest.raises(ConfigError, match="k must be a whole number of at least 1, got 0"):
        as_whole(0, "k", least=1)
    with pytest.raises(ConfigError, match="k must be a whole number from 1 to 4, got 5"):
        as_whole(5, "k", least=1, most=4)
    with pytest.raises(ConfigError, match="k must be a whole number from -infinity to 4, got 5"):
        as_whole(5, "k", most=4)
    assert as_whole(2**80, "k") == 2**80


@pytest.mark.parametrize(
    "values",
    [
        (5, 1),
        [1, 5, 5],
        {1, 5},
        range(1, 6, 4),
        np.array([5, 1]),
        torch.tensor([5, 1]),
        pd.Series([5, 1]),
        (5.0, np.int8(1)),
    ],
    ids=repr,
)
def test_several_whole_numbers_of_any_make(values):
    assert as_wholes(values, "k") == (1, 5)


@pytest.mark.parametrize("values", [[], (), "1,5", None, [1, 1.5], [0], [True], [None], np.array([])], ids=repr)
def test_what_are_no_whole_numbers_is_refused(values):
    with pytest.raises(ConfigError, match="k must be one or more whole numbers of at least 1, got"):
        as_wholes(values, "k")


def test_positive_numbers():
    for value in (2, 2.0, np.float32(2), torch.tensor(2.0), Fraction(2), Decimal(2)):
        assert as_positive(value, "tau") == 2.0
    assert as_positive(0, "tau", zero=True) == 0.0
    for value in (0, -1, float("nan"), float("inf"), "2", True, None, [2, 3], np.ones(3), 10**400):
        with pytest.raises(ConfigError, match="tau must be a finite number above 0, got"):
            as_positive(value, "tau")


def test_tensors_are_known_without_torch():
    assert is_tensor(torch.zeros(1))
    assert not any(map(is_tensor, (np.zeros(1), [1], pd.Series([1]), "x", None)))


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


@dataclass(frozen=True)
class _Chosen:
    names: Sequence[str] = ()
    files: Sequence[Path] | None = None

    def __post_init__(self) -> None:
        settle(self, lists=("names", "files"))


def test_one_or_several_names_become_a_tuple():
    assert _Chosen() == _Chosen((), None)
    assert _Chosen("viclip", Path("a")) == _Chosen(["viclip"], [Path("a")]) == _Chosen(("viclip",), (Path("a"),))
    assert _Chosen(["a"]).names == ("a",)
    for wrong in (None, 3, [1], ["a", None]):
        with pytest.raises(ConfigError, match="names must be a list of names, got "):
            _Chosen(wrong)


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
