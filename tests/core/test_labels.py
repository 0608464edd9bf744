"""Labels, partitions and outcomes of every make, and those that are none."""

import numpy as np
import pandas as pd
import pytest
import torch

from mnprobe.core.errors import FeatureError
from mnprobe.core.labels import (
    as_labels,
    as_outcome,
    as_outcomes,
    as_partitions,
    asked_partition,
    encode_labels,
    has_control_characters,
    is_missing,
    label_list,
    one_spelling,
    partition_of,
    same_text,
    some,
)

MISSING = [
    None,
    float("nan"),
    np.float32("nan"),
    np.nan,
    pd.NA,
    pd.NaT,
    np.datetime64("NaT"),
    "",
    "  ",
    "nan",
    "None",
    b"",
]


@pytest.mark.parametrize("value", MISSING, ids=repr)
def test_what_is_missing_is_no_label(value):
    assert is_missing(value)
    with pytest.raises(FeatureError, match=r"groups: 1 of 3 rows have none .* the first is row 1"):
        as_labels(["a", value, "b"], 3, "groups")
    assert as_labels(["a", value, "b"], 3, "groups", missing=True).tolist() == ["a", "", "b"]


@pytest.mark.parametrize("value", [0, 0.0, False, "0", "none at all", "N/A", b"x", np.int8(0), "naN"], ids=repr)
def test_what_is_there_is_not_missing(value):
    assert not is_missing(value)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ([1, 0, 2], [1, 0, 2]),
        ((1.0, 0.0, 2.0), [1, 0, 2]),
        ([True, False, 2], [1, 0, 2]),
        (range(3), [0, 1, 2]),
        (np.array([1, 0, 2], dtype=">i2"), [1, 0, 2]),
        (np.array([1, 0, 255], dtype=np.uint8), [1, 0, 255]),
        (np.array([1, 0, 2], dtype=np.float16), [1, 0, 2]),
        (torch.tensor([1, 0, 2]), [1, 0, 2]),
        (torch.tensor([1.0, 0.0, 2.0], requires_grad=True), [1, 0, 2]),
        (torch.tensor([1.0, 0.0, 2.0], dtype=torch.bfloat16), [1, 0, 2]),
        (torch.tensor([True, False, True]), [1, 0, 1]),
        ([torch.tensor(1), torch.tensor(0.0), 2], [1, 0, 2]),
        (pd.Series([1, 0, 2], index=[7, 8, 9]), [1, 0, 2]),
        (pd.array([1, 0, 2], dtype="Int64"), [1, 0, 2]),
        (pd.Categorical([1, 0, 2]), [1, 0, 2]),
        (pd.Index(["b", "a", "c"]), ["b", "a", "c"]),
        (pd.Series(["b", "a", "c"], dtype="string"), ["b", "a", "c"]),
        (pd.Categorical(["b", "a", "c"]), ["b", "a", "c"]),
        (np.array(["b", "a", "c"]), ["b", "a", "c"]),
        (np.array([b"b", b"a", b"c"]), ["b", "a", "c"]),
        (np.array(["b", 1, 2.0], dtype=object), ["b", "1", "2"]),
        (iter(["b", "a", "c"]), ["b", "a", "c"]),
        ({"b": 1, "a": 2, "c": 3}, ["b", "a", "c"]),
        ([0.5, 1, 2], ["0.5", "1", "2"]),
        ([2**63, 1, 2], [str(2**63), "1", "2"]),
        (["a\0b", "a", "b"], ["a\0b", "a", "b"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_labels_of_any_make_are_read_by_value(given, found):
    assert as_labels(given, 3, "groups").tolist() == found


def test_one_value_is_one_label_whatever_its_type():
    arrays = [as_labels([value, "x"], 2, "g") for value in (1, 1.0, True, "1", np.uint8(1), torch.tensor(1.0), b"1")]
    arrays.append(as_labels([1, 1], 2, "g"))  # of integers alone
    codes, names = encode_labels(*arrays)
    assert {int(code[0]) for code in codes} == {names.index("1")}
    assert names == ["1", "x"]
    doubles = as_labels(torch.tensor([0.1, 0.2], dtype=torch.float64), 2, "g")
    assert doubles.tolist() == as_labels([0.1, 0.2], 2, "g").tolist()


@pytest.mark.parametrize(
    "given",
    [
        np.ma.masked_array(["a", "b", "c"], mask=[False, True, False]),
        np.ma.masked_array([1, 2, 3], mask=[False, True, False]),
        pd.Series(["a", None, "c"]),
        pd.array(["a", pd.NA, "c"], dtype="string"),
        pd.array([1, pd.NA, 3], dtype="Int64"),
        pd.Categorical(["a", np.nan, "c"]),
        torch.tensor([1.0, float("nan"), 3.0]),
        np.array([1.0, np.nan, 3.0]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_gaps_of_any_make_are_refused_with_their_row(given):
    with pytest.raises(FeatureError, match=r"groups: 1 of 3 rows have none .* the first is row 1"):
        as_labels(given, 3, "groups")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("abc", "groups must give one label per row, got one text 'abc'"),
        (b"abc", "got one text b'abc'"),
        (5, "got int"),
        (None, "got NoneType"),
        (["a", "b"], "3 rows, 2 labels"),
        (np.zeros((3, 1)), r"labels of shape \(3, 1\)"),
        (np.array(5), r"labels of shape \(\)"),
        (torch.zeros(3, 2), r"labels of shape \(3, 2\)"),
        (["a", ("b", 1), "c"], r"groups, row 1: a label is text or a number, got tuple"),
        (["a", "b", b"\xff"], "groups, row 2: the label is not UTF-8"),
        ([1, 2, 1j], "row 2: a label is text or a number, got complex"),
        ([1, 2, {}], "row 2: a label is text or a number, got dict"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_no_list_of_labels_is_refused(given, message):
    with pytest.raises(FeatureError, match=message):
        as_labels(given, 3, "groups")


def test_a_list_of_labels_keeps_types_and_order():
    assert label_list(pd.Series([1, "a", None], dtype=object), 3, "x") == [1, "a", None]
    assert label_list([], None, "x") == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        *[(name, "train") for name in ("train", "Train", " TRAIN ", "training")],
        *[(name, "val") for name in ("val", "valid", "Validation", "dev", "DEV")],
        *[(name, "test") for name in ("test", "Testing")],
        *[(name, "") for name in ("", "  ")],
        *[(name, None) for name in ("holdout", "train_split", "tests", "eval", "0")],
    ],
)
def test_partitions_are_known_by_several_names(name, meant):
    assert partition_of(name) == meant


def test_partitions_are_mapped_refused_or_none():
    found, note = as_partitions(pd.Categorical(["Training", "test", "Training"]), 3)
    assert (found.tolist(), note) == (["train", "test", "train"], "partitions: 'Training' is read as 'train'")
    assert as_partitions([b"train", b"test"], 2)[0].tolist() == ["train", "test"]
    for nothing in ([None, ""], [np.nan, " "], pd.array([pd.NA, pd.NA], dtype="string")):
        found, note = as_partitions(nothing, 2)
        assert (found.tolist(), note) == (["", ""], "")
    with pytest.raises(
        FeatureError, match="partitions: 'holdout', '0' are not known; a partition is one of train, val"
    ):
        as_partitions(["train", "holdout", 0], 3)
    with pytest.raises(FeatureError, match="partitions: 2 of 3 rows have none, the first is row 1"):
        as_partitions(["train", None, ""], 3)


def test_a_partition_that_is_asked_for_is_mapped_with_a_warning():
    assert [asked_partition(name) for name in ("val", "", "holdout")] == ["val", "", "holdout"]
    with pytest.warns(UserWarning, match="partition 'Valid' is read as 'val'"):
        assert asked_partition("Valid") == "val"


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        *[
            (value, 1)
            for value in (1, 1.0, True, "1", " True ", "1.0", b"1", np.bool_(True), np.uint8(1), np.float16(1))
        ],
        *[(value, 0) for value in (0, 0.0, -0.0, False, "0", "false", b"false", np.int8(0))],
        *[(value, -1) for value in (-1, -1.0, "-1", np.int8(-1), *MISSING)],
        *[(value, None) for value in (2, 257, 256, 255, -2, 0.5, 1e300, float("inf"), "yes", "2", 1j, (1,), 2**70)],
    ],
    ids=repr,
)
def test_outcomes_are_one_zero_or_not_known(value, outcome):
    assert as_outcome(value) == outcome
    if outcome is None:
        with pytest.raises(FeatureError, match=r"success: row 1 \(b\): an outcome is 1, 0 or -1"):
            as_outcomes([1, value], 2, "success", ["a", "b"])
    else:
        assert as_outcomes([1, value], 2, "success").tolist() == [1, outcome]


def test_outcomes_of_any_make():
    for given in (
        torch.tensor([1.0, 0.0, float("nan")], requires_grad=True),
        np.array([1, 0, -1], dtype=">f8"),
        pd.array([True, False, pd.NA], dtype="boolean"),
        np.ma.masked_array([1, 0, 1], mask=[False, False, True]),
    ):
        found = as_outcomes(given, 3, "success")
        assert found.tolist() == [1, 0, -1]
        assert found.dtype == np.int8


def test_texts_are_equal_but_for_case_blanks_and_form():
    assert same_text("Caf\u00e9  au\u3000lait\n") == same_text(" cafe\u0301 AU lait")
    assert same_text("open it") != same_text("openit")
    found, note = one_spelling(["open it", "Open it", "shut it", "open  it"], "instructions")
    assert found.tolist() == ["Open it", "Open it", "shut it", "Open it"]
    assert note.startswith("instructions: 1 are spelled in several ways")
    assert one_spelling(["a", "b"], "x")[1] == ""


@pytest.mark.parametrize("text", ["a\nb", "a\tb", "\0", "\x7f", "\ud800", "\u2028", "\u2029", "\x85"], ids=ascii)
def test_control_characters_are_found(text):
    assert has_control_characters(text)


@pytest.mark.parametrize("text", ["a b", "a\u00a0b", "\u3000", "\u200d", "\u200c", "\u00ad", "\u202f", ""], ids=ascii)
def test_ordinary_text_of_any_language_has_none(text):
    assert not has_control_characters(text)


def test_long_lists_are_cut_in_messages():
    assert some(list("abc")) == "'a', 'b', 'c'"
    assert some(list("abcdefg")) == "'a', 'b', 'c', 'd', 'e' and 2 more"
