"""Every public function of the probe, given numbers of every make, scale and offset: the plain oracle, or a refusal."""

import itertools
import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose

import mnprobe.probe as probe
from mnprobe.core.errors import ConfigError, FeatureError, MnprobeError
from mnprobe.probe import (
    AlignConfig,
    AlignmentHeads,
    FitConfig,
    Pairing,
    Validation,
    align,
    balanced_draw,
    chance_recall,
    cluster_jackknife,
    cluster_jackknife_difference,
    fit_heads,
    held_out_bound,
    hold_out,
    info_nce,
    info_nce_directions,
    mi_bound,
    pair_arrays,
    paired_ranks,
    recall_at_k,
    shuffled_groups,
    spread,
    standard_error,
    true_recall_at_k,
)
from mnprobe.training.config import TrainConfig
from mnprobe.training.optimizers import OptimizerConfig

LONG = np.longdouble
GROUPS = [0, 1, 2, 0, 1, 2, 3, 3, 1, 0]
FIT = FitConfig(dim=4, steps=3, lr=1e-2, batch=4, ridge=0.0, decay=False)

# the plain oracle: loops over numpy's longest floats, no code of mnprobe -------------------------------------------


def plain(values):
    if isinstance(values, torch.Tensor):
        values = values.detach().double().numpy()
    return np.array(values, dtype=np.float64).astype(LONG)


def cosines(u, e):
    u, e = plain(u), plain(e)
    found = np.zeros((len(u), len(e)), LONG)
    for (i, a), (j, b) in itertools.product(enumerate(u), enumerate(e)):
        lengths = np.sqrt((a * a).sum()) * np.sqrt((b * b).sum())
        found[i, j] = (a * b).sum() / lengths if lengths > 0 else 0
    return found


def slow_hits(similar, groups, k, tolerance):
    hits = []
    for i, row in enumerate(similar):
        same = np.array([group == groups[i] for group in groups])
        edge = np.sort(row)[::-1][min(k, len(row)) - 1]
        above, tied = row > edge + tolerance, np.abs(row - edge) <= tolerance
        left = min(k, len(row)) - above.sum()
        miss = math.comb(int((tied & ~same).sum()), left) / math.comb(int(tied.sum()), left)
        hits.append(1.0 if (above & same).any() else 1 - miss)
    return float(np.mean(hits))


def slow_recall(u, e, groups, tolerance=1e-15):
    similar = cosines(u, e)
    return [slow_hits(one, groups, k, tolerance) for one in (similar, similar.T) for k in (1, 3)]


def slow_true_recall(u, e, groups, tolerance=1e-15):
    shares = []
    for i, row in enumerate(cosines(u, e)):
        same = np.array([group == groups[i] for group in groups])
        edge = np.sort(row)[::-1][0]
        tied = np.abs(row - edge) <= tolerance
        shares.append((tied & same).sum() / tied.sum() / same.sum())
    return [float(np.mean(shares))]


def slow_ranks(u, e, groups, tolerance=1e-15):
    similar = cosines(u, e)
    ranks = []
    for rows in (similar, similar.T):
        for i, row in enumerate(rows):
            others = np.delete(row, i)
            tied = np.abs(others - row[i]) <= tolerance
            ranks.append(float(1 + (others > row[i] + tolerance).sum() + tied.sum() / 2))
    return ranks


def slow_directions(u, e, groups, tolerance=0):
    logits = cosines(u, e) / LONG("0.1")
    return [
        float(np.mean([-(row[i] - np.log(np.exp(row).sum())) for i, row in enumerate(rows)]))
        for rows in (logits, logits.T)
    ]


def slow_loss(u, e, groups, tolerance=0):
    return [float(np.mean(slow_directions(u, e, groups)))]


def slow_bound(u, e, groups, tolerance=0):
    """Of distinct groups, so that every batch holds all pairs."""
    return [math.log(len(plain(u))) - one for one in slow_directions(u, e, groups)]


def slow_standardised(x):
    x = plain(x)
    mean = x.mean(0)
    deviation = np.sqrt(((x - mean) ** 2).mean(0))
    return (x - mean) / np.where(deviation > 1e-6 * np.abs(mean), deviation, 1)


def slow_heads(u, e, groups, tolerance=0):
    """The mean and deviation of the training features, and the random start of the heads on top."""
    start = AlignmentHeads(len(plain(u)[0]), len(plain(e)[0]), dim=4, generator=torch.Generator().manual_seed(1))
    out = []
    for x, head in ((u, start.t_u), (e, start.t_e)):
        weight, bias = plain(head.weight), plain(head.bias)
        out += (slow_standardised(x) @ weight.T + bias).astype(float).ravel().tolist()
    return out


def fitted(u, e, groups):
    heads = fit_heads(u, e, groups, config=FitConfig(dim=4, steps=0, ridge=0.0), seed=1).heads
    z_u, z_e = heads(u, e)
    assert z_u.dtype == torch.float32
    return [*z_u.flatten().tolist(), *z_e.flatten().tolist()]


def standardised_pair(u, e, groups):
    pair = pair_arrays(u, e, groups)
    assert pair.u.dtype == pair.e.dtype == np.float32
    return [*slow_standardised(pair.u).astype(float).ravel(), *slow_standardised(pair.e).astype(float).ravel()]


def slow_pair(u, e, groups, tolerance=0):
    return [*slow_standardised(u).astype(float).ravel(), *slow_standardised(e).astype(float).ravel()]


def recall(u, e, groups):
    found = recall_at_k(u, e, groups, k=(1, 3))
    return [side.recall(k) for side in (found.u2e, found.e2u) for k in (1, 3)]


def bound(u, e, groups):
    rows = list(range(len(groups)))
    found = held_out_bound(u, e, rows, rows, draws=1)
    return [found.u2e, found.e2u]


def directions(u, e, groups):
    return [one.item() for one in info_nce_directions(u, e)]


OF_FEATURES = {  # name: call, oracle; both (u, e, groups) -> numbers
    "recall_at_k": (recall, slow_recall),
    "true_recall_at_k": (
        lambda u, e, groups: list(true_recall_at_k(u, e, groups, groups, k=1).values()),
        slow_true_recall,
    ),
    "paired_ranks": (lambda u, e, groups: np.concatenate(paired_ranks(u, e)).tolist(), slow_ranks),
    "info_nce": (lambda u, e, groups: [info_nce(u, e).item()], slow_loss),
    "info_nce_directions": (directions, slow_directions),
    "held_out_bound": (bound, slow_bound),
    "fit_heads": (fitted, slow_heads),
    "AlignmentHeads": (fitted, slow_heads),
    "pair_arrays": (standardised_pair, slow_pair),
}


def slow_jackknife(values, clusters, weights):
    """Mean and delete-one-cluster error in loops."""
    values, weights = plain(values), plain(weights)
    names = sorted(set(clusters))

    def mean(left_out):
        rows = [i for i, name in enumerate(clusters) if name != left_out]
        return (values[rows] * weights[rows]).sum() / weights[rows].sum()

    middle, without = mean(None), [mean(name) for name in names]
    return middle, np.sqrt((len(names) - 1) / len(names) * sum((one - middle) ** 2 for one in without))


def jackknife(values, other, clusters, weights):
    found = cluster_jackknife(values, clusters, weights=weights)
    return [(found.low + found.high) / 2, found.high - found.low]


def jackknife_difference(values, other, clusters, weights):
    found = cluster_jackknife_difference(values, other, clusters, weights=weights)
    return [(found.low + found.high) / 2, found.high - found.low]


def slow_interval(values, clusters, weights):
    from scipy.stats import t

    middle, error = slow_jackknife(values, clusters, weights)
    mass = np.array([plain(weights)[[name == one for name in clusters]].sum() for one in sorted(set(clusters))])
    effective = float((mass / mass.sum()).sum() ** 2 / ((mass / mass.sum()) ** 2).sum())
    return [float(middle), 2 * float(error) * t.ppf(0.975, max(effective - 1, 1))]


OF_VALUES = {  # name: call, oracle; both (values, other, clusters, weights) -> numbers
    "cluster_jackknife": (jackknife, lambda v, o, c, w: slow_interval(v, c, w)),
    "cluster_jackknife_difference": (
        jackknife_difference,
        lambda v, o, c, w: slow_interval(plain(v) - plain(o), c, w),
    ),
    "standard_error": (
        lambda v, o, c, w: [standard_error(v, o, c, weights=w)],
        lambda v, o, c, w: [float(slow_jackknife(plain(v) - plain(o), c, w)[1])],
    ),
    "spread": (
        lambda v, o, c, w: [spread(v)],
        lambda v, o, c, w: [float(np.sqrt(((plain(v) - plain(v).mean()) ** 2).sum() / (len(plain(v)) - 1)))],
    ),
}
OF_LABELS = {"chance_recall", "shuffled_groups", "Pairing"}
OF_SETTINGS = {"AlignConfig", "FitConfig", "balanced_draw", "hold_out", "mi_bound", "align"}
NO_ARRAYS = {  # results, constants, files and tables; Items and what takes Items: tests/probe/test_items.py and others
    *(
        "COLUMNS",
        "SETTINGS",
        "DirectionRecall",
        "Feasibility",
        "FitResult",
        "HeldOutBound",
        "HitScores",
        "Interval",
        "Items",
    ),
    *("FeaturePair", "Partition", "Recall", "StoredPair", "Validation", "align_stores", "check_no_overlap"),
    *(
        "feasible_measurements",
        "inspect_dataset",
        "find_hits",
        "join_stores",
        "load_heads",
        "load_pair",
        "measurable_sides",
        "pair_across",
        "summary_table",
    ),
    *("read_alignment", "read_hits", "save_heads", "write_alignment", "write_hits"),
}


def test_every_public_name_is_in_a_table_here_or_takes_no_arrays():
    tables = [set(OF_FEATURES), set(OF_VALUES), OF_LABELS, OF_SETTINGS, NO_ARRAYS]
    assert sorted(name for table in tables for name in table) == sorted(probe.__all__)


# makes -------------------------------------------------------------------------------------------------------------


def masked(x):
    return np.ma.MaskedArray(x, mask=np.zeros(x.shape, bool))


def read_only(x):
    x = x.astype(np.float32)
    x.flags.writeable = False
    return x


MAKES = {  # of a float64 array of whole numbers from 0 to 15, which every one of these types holds
    "float16": lambda x: x.astype("f2"),
    "float32": lambda x: x.astype("f4"),
    "longdouble": lambda x: x.astype(LONG),
    "big-endian": lambda x: x.astype(">f4"),
    "uint8": lambda x: x.astype("u1"),
    "uint16": lambda x: x.astype("u2"),
    "int64": lambda x: x.astype("i8"),
    "Fortran": np.asfortranarray,
    "negative strides": lambda x: np.ascontiguousarray(x[::-1])[::-1],
    "every second": lambda x: np.repeat(x, 2, axis=0)[::2],
    "read-only": read_only,
    "masked": masked,
    "list": lambda x: x.tolist(),
    "list of arrays": list,
    "frame": lambda x: pd.DataFrame(x, index=range(100, 100 + len(x))) if x.ndim == 2 else pd.Series(x, index=x * 2),
    "nullable": lambda x: (pd.DataFrame(x) if x.ndim == 2 else pd.Series(x)).astype("Float64"),
    "object": lambda x: x.astype(object),
    "tensor": torch.tensor,
    "half tensor": lambda x: torch.tensor(x).half(),
    "bfloat16 tensor": lambda x: torch.tensor(x).bfloat16(),
    "tensor with gradient": lambda x: torch.tensor(x, dtype=torch.float32, requires_grad=True),
    "bfloat16 with gradient": lambda x: torch.tensor(x).bfloat16().requires_grad_(),
    "byte tensor": lambda x: torch.tensor(x).byte(),
    "transposed tensor": lambda x: torch.tensor(x).T.contiguous().T if x.ndim == 2 else torch.tensor(x),
}


@pytest.fixture(scope="module")
def whole():
    """Whole numbers from 0 to 15, no row of zeros, u and e related."""
    rng = np.random.default_rng(3)
    u = rng.integers(0, 16, (10, 5)).astype(float)
    return u, np.clip(u[:, :4] + rng.integers(-2, 3, (10, 4)), 0, 15) + 0.0


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("name", OF_FEATURES)
def test_features_of_every_make(name, make, whole):
    call, oracle = OF_FEATURES[name]
    u, e = whole
    u = u if name in ("fit_heads", "AlignmentHeads", "pair_arrays") else u[:, :4]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = call(MAKES[make](u), MAKES[make](e), GROUPS)
    assert_allclose(found, oracle(u, e, GROUPS, 2e-6), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("name", OF_VALUES)
def test_values_of_every_make(name, make, whole):
    call, oracle = OF_VALUES[name]
    values, other = whole[0][:, 0], whole[1][:, 1]
    weights = whole[0][:, 2] + 1
    clusters = list("abcabcddba")
    found = call(MAKES[make](values), MAKES[make](other), clusters, MAKES[make](weights))
    assert_allclose(found, oracle(values, other, clusters, weights), rtol=1e-6)


LABELS = {
    "list": list,
    "floats": lambda x: [float(one) for one in x],
    "text": lambda x: [str(one) for one in x],
    "array": np.array,
    "object array": lambda x: np.array(x, dtype=object),
    "uint8": lambda x: np.array(x, dtype="u1"),
    "big-endian": lambda x: np.array(x, dtype=">i4"),
    "Series": lambda x: pd.Series(x, index=range(50, 50 + len(x))),
    "category": lambda x: pd.Series(x).astype("category"),
    "Categorical": lambda x: pd.Categorical([str(one) for one in x]),
    "nullable": lambda x: pd.Series(x, dtype="Int64"),
    "tensor": torch.tensor,
    "float tensor": lambda x: torch.tensor(x).float(),
    "generator": lambda x: (one for one in x),
}


@pytest.mark.parametrize("make", LABELS)
def test_labels_of_every_make(make, whole):
    u, e = whole[0][:, :4], whole[1]
    of = LABELS[make]
    plain_recall = recall_at_k(u, e, GROUPS, k=[1, 2]).recall(1)
    assert recall_at_k(u, e, of(GROUPS), GROUPS, k=[1, 2]).recall(1) == plain_recall
    assert true_recall_at_k(u, e, GROUPS, of(GROUPS), k=1) == true_recall_at_k(u, e, GROUPS, GROUPS, k=1)
    assert chance_recall(of(GROUPS), GROUPS) == chance_recall(GROUPS)
    assert info_nce(u, e, groups=of(GROUPS), positives="multi") == info_nce(
        u, e, groups=torch.tensor(GROUPS), positives="multi"
    )
    assert held_out_bound(u, e, of(GROUPS), GROUPS) == held_out_bound(u, e, GROUPS, GROUPS)
    assert cluster_jackknife(u[:, 0], of(GROUPS)) == cluster_jackknife(u[:, 0], GROUPS)
    shuffled = [str(one) for one in shuffled_groups(of(GROUPS), seed=4)]
    assert shuffled == [str(one) for one in shuffled_groups(GROUPS, seed=4)]
    draws = [Pairing(groups, GROUPS).draw(torch.Generator().manual_seed(0)).tolist() for groups in (of(GROUPS), GROUPS)]
    assert draws[0] == draws[1]
    fits = [fit_heads(u, e, groups, GROUPS, config=FIT).history for groups in (of(GROUPS), GROUPS)]
    assert fits[0] == fits[1]


def test_a_validation_set_of_any_make_is_taken(whole):
    u, e = whole
    config = FitConfig(dim=4, steps=2, early_stop=True, check_every=1)
    sets = [
        Validation(u, e, GROUPS, GROUPS),
        Validation(u.tolist(), pd.DataFrame(e), np.array(GROUPS, float), pd.Series(GROUPS, index=range(7, 17))),
        Validation(torch.tensor(u).bfloat16(), torch.tensor(e).half(), torch.tensor(GROUPS), map(str, GROUPS)),
    ]
    found = [fit_heads(u, e, GROUPS, config=config, validation=one).history for one in sets]
    assert found[0] == found[1] == found[2]


def test_gradients_flow_through_losses_and_heads(whole):
    u, e = (torch.tensor(x, dtype=torch.float32, requires_grad=True) for x in whole)
    heads = AlignmentHeads(5, 4, dim=3)
    info_nce(*heads(u, e)).backward()
    assert u.grad is not None
    assert float(u.grad.abs().sum()) > 0
    tiny = (1e-30 * torch.tensor(whole[0][:, :4])).requires_grad_()
    info_nce(tiny, torch.tensor(whole[1])).backward()
    large = torch.tensor(whole[0][:, :4], requires_grad=True)
    info_nce(large, torch.tensor(whole[1])).backward()
    assert_allclose(tiny.grad * 1e-30, large.grad, rtol=1e-9, atol=1e-18)  # d loss / d log scale is the same


def test_heads_under_autocast_keep_their_types():
    heads, x = AlignmentHeads(5, 4, dim=3), torch.randn(2, 6, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert heads.map_u(x).dtype == torch.bfloat16
        assert heads.map_u(x.bfloat16()).dtype == torch.bfloat16
    assert heads.map_u(x).shape == (2, 6, 3)


# scale and offset --------------------------------------------------------------------------------------------------


def equal_or_refused(name, u, e, groups=GROUPS, *, tolerance=1e-15, rtol=2e-5, atol=2e-6):
    """The oracle's value, or a MnprobeError: True where it was refused."""
    call, oracle = OF_FEATURES[name]
    try:
        found = call(u, e, groups)
    except MnprobeError as error:
        return "Extract" not in str(error) or pytest.fail("the fault is not the extraction's")
    assert_allclose(found, oracle(u, e, groups, tolerance), rtol=rtol, atol=atol)
    return False


@pytest.fixture(scope="module")
def normal():
    rng = np.random.default_rng(5)
    u = rng.normal(size=(10, 6))
    return u, u + 0.5 * rng.normal(size=(10, 6))


@pytest.mark.parametrize("scale", [1e-37, 1e-30, 1e-20, 1e-13, 1e-6, 1.0, 1e13, 1e20, 1e30, 1e36])
@pytest.mark.parametrize("name", OF_FEATURES)
def test_scale_changes_nothing(name, scale, normal):
    u, e = normal
    exact = u * scale
    for one in (exact, exact.astype("f4"), torch.tensor(exact)):
        for given in ((one, e.astype("f4")), (e.astype("f4"), one)):
            assert not equal_or_refused(name, *given, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e-45, 1e100, 1e200, 1e300])
@pytest.mark.parametrize("name", OF_FEATURES)
def test_scales_of_float64_are_taken_or_refused_by_name(name, scale, normal):
    u, e = normal
    refused = equal_or_refused(name, u * scale, e)
    assert refused == (name in ("fit_heads", "AlignmentHeads", "pair_arrays"))


@pytest.mark.parametrize("name", ["recall_at_k", "true_recall_at_k", "paired_ranks", "info_nce"])
def test_every_row_has_a_scale_of_its_own(name, normal):
    u, e = normal
    scales = 10.0 ** np.arange(-200, 200, 40)[:, None]
    assert not equal_or_refused(name, u * scales, e / scales)


@pytest.mark.parametrize("offset", [10.0, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e9, 1e12, -1e9])
@pytest.mark.parametrize("name", OF_FEATURES)
def test_an_offset_is_seen_through_or_refused(name, offset, normal):
    u, e = normal
    both = equal_or_refused(name, u + offset, e + offset, rtol=1e-3, atol=1e-3)
    one = equal_or_refused(name, u + offset, e, rtol=1e-3, atol=1e-3)
    if abs(offset) <= 1e3:
        assert not both
        assert not one
    if abs(offset) == 1e9:
        assert both or name.startswith(("info", "held"))  # the loss of equal cosines is log n, and right


@pytest.mark.parametrize("offset", [1e2, 1e3, 1e4, 1e5])
@pytest.mark.parametrize("name", ["recall_at_k", "true_recall_at_k", "paired_ranks"])
def test_float32_with_an_offset_is_seen_through_or_refused(name, offset, normal):
    u, e = normal
    equal_or_refused(name, (u + offset).astype("f4"), (e + offset).astype("f4"))


def test_a_refused_offset_says_the_way_out(normal):
    u, e = normal
    with pytest.raises(FeatureError, match=r"the rows of z_e point in the same direction.*z_e - z_e\.mean\(0\)"):
        recall_at_k(u, e + np.eye(1, 6)[0] * 1e15, GROUPS)
    with pytest.raises(FeatureError, match=r"the rows of z_u point in the same direction"):
        paired_ranks(u + 1e9, e + 1e9)
    with pytest.raises(FeatureError, match=r"u: float32.*6 of 6 columns.*u - u\.mean\(0\)"):
        pair_arrays(u + 1e9, e, GROUPS)
    with pytest.raises(FeatureError, match=r"e: float32.*Multiply them by a constant"):
        fit_heads(u, e * 1e-200, GROUPS)
    with pytest.raises(FeatureError, match=r"u: column . holds numbers up to .*Divide them by a constant"):
        fit_heads(u * 1e200, e, GROUPS)


def test_whole_numbers_that_float32_holds_and_constants_are_no_loss(normal):
    u, e = normal
    counts = 1e7 + np.arange(10.0)[:, None]
    assert pair_arrays(counts, e, GROUPS).u.tolist() == counts.tolist()
    constant = np.c_[u, np.full(10, 1e9 + 0.1), np.full(10, 0.1) + 1e-17 * np.arange(10)]
    assert_allclose(pair_arrays(constant, e, GROUPS).u, constant, rtol=1e-7)


def test_columns_of_different_units_weigh_alike(normal):
    u, e = normal
    units = np.array([1e-30, 1e-20, 1e-10, 1.0, 1e10, 1e30])
    assert not equal_or_refused("fit_heads", u * units, e, rtol=1e-4, atol=1e-5)


def test_unstandardised_heads_take_huge_features_in_both_forms(normal):
    u, e = (x.astype("f4") for x in normal)
    config = FitConfig(dim=64, steps=4, standardise=False, batch=10)
    losses = [
        [record.loss for record in fit_heads(scale * u, e, GROUPS, config=config, form=form).history]
        for form in ("direct", "gram")
        for scale in (1e25, 1e15)
    ]
    for one in losses[1:]:
        assert_allclose(one, losses[0], rtol=1e-3)


def test_rows_equal_up_to_their_rounding_are_ties_and_zeros_are_as_near_to_all(normal):
    rng = np.random.default_rng(0)
    direction = rng.normal(size=6)
    equal = (direction * (1 + 3e-8 * rng.normal(size=(10, 6)))).astype("f4")
    for values in (np.ones((10, 6)), equal, equal.astype("f8"), np.zeros((10, 6)), np.full((10, 6), 1e-200)):
        found = recall_at_k(values, normal[1], GROUPS)
        assert found.e2u.recall(1) == pytest.approx(chance_recall(GROUPS))
        assert paired_ranks(normal[1], values)[0].tolist() == [5.5] * 10


def test_shuffled_rows_give_the_same(normal):
    u, e = normal
    order = np.random.default_rng(1).permutation(10)
    groups = [GROUPS[i] for i in order]
    for offset in (0.0, 300.0):
        for name in ("recall_at_k", "true_recall_at_k", "info_nce"):
            call = OF_FEATURES[name][0]
            assert_allclose(
                call((u + offset)[order], (e + offset)[order], groups), call(u + offset, e + offset, GROUPS), rtol=1e-5
            )


# few rows, one column, one group -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("name", OF_FEATURES)
def test_few_rows_and_one_column(name, rows, width, normal):
    u, e = normal[0][:rows, :width], normal[1][:rows, :width]
    for groups in (GROUPS[:rows], [7] * rows):
        equal_or_refused(name, u, e, groups, tolerance=2e-6)
        equal_or_refused(name, u.astype("f4"), e.astype("f4"), groups, tolerance=2e-6)


@pytest.mark.parametrize("name", OF_FEATURES)
def test_what_is_no_matrix_of_finite_numbers_is_refused(name, whole):
    call = OF_FEATURES[name][0]
    u, e = whole
    wrong = [u[0], u[None], u.astype(str), u * 1j, "text", None, [[1.0, 2.0], [3.0]], np.where(u == u[2, 1], np.nan, u)]
    wrong += [torch.full((10, 4), torch.inf), np.zeros((10, 0)), u[:7], [[None] * 4] * 10, 5.0]
    for values in wrong:
        for given in ((values, e), (u[:, :4], values)):
            with pytest.raises(MnprobeError):
                call(*given, GROUPS)


# values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OF_VALUES)
def test_values_at_any_scale_and_offset(name, normal):
    call, oracle = OF_VALUES[name]
    values, other, clusters = normal[0][:, 0], normal[1][:, 0], list("abcabcddba")
    weights = np.arange(10) + 1.0
    for scale in (1e-200, 1e-30, 1.0, 1e30, 1e200):
        given = (values * scale, other * scale, clusters, weights)
        assert_allclose(call(*given), oracle(*given), rtol=1e-9)
    for scale in (1e-300, 1e-30, 1e300):
        given = (values, other, clusters, weights * scale)
        assert_allclose(call(*given), oracle(values, other, clusters, weights), rtol=1e-9)
    for offset in (1e5, 1e9, -1e9):
        given = (values + offset, other + offset, clusters, weights)
        assert_allclose(call(*given)[-1], oracle(*given)[-1], rtol=1e-6)  # ends near 1e9 have 7 digits behind the point


@pytest.mark.parametrize("name", ["cluster_jackknife", "cluster_jackknife_difference", "standard_error"])
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"values": np.ones(7)}, "7 "),
        ({"values": 1.0}, "shape"),
        ({"values": [1.0, np.inf, *[0.0] * 8]}, "infinite"),
        ({"values": ["a"] * 10}, "real numbers"),
        ({"weights": np.ones(3)}, "one number for each of 10 rows, got shape"),
        ({"weights": [1.0] * 9 + [-1.0]}, r"at least 0.*row 9: -1\.0"),
        ({"weights": [np.nan] + [1.0] * 9}, "row 0: nan"),
        ({"weights": np.zeros(10)}, "0 in all 10 rows"),
        ({"clusters": list("abc")}, "10 rows, 3 labels"),
        ({"clusters": [None, *"abcdefghi"]}, "the first is row 0"),
    ],
)
def test_values_that_do_not_fit_are_refused(name, changes, text):
    given = {"values": np.arange(10.0), "other": np.zeros(10), "clusters": list("abcabcddba"), "weights": None}
    given |= changes
    if name == "standard_error" and "values" in changes and text == "7 ":
        text = "equal shapes"
    with pytest.raises(FeatureError, match="equal shapes|" + text):
        OF_VALUES[name][0](*given.values())


def test_shares_are_shares():
    with pytest.raises(FeatureError, match="shares=True is for numbers from 0 to 1, but their mean is 50"):
        cluster_jackknife([0.0, 100.0], ["a", "b"], shares=True)
    with pytest.raises(FeatureError, match="but other holds others"):
        cluster_jackknife_difference([0.0, 1.0], [0.0, 2.0], ["a", "b"], shares=True)
    hits = np.array([True, False, True, True])
    assert cluster_jackknife(hits, list("aabb"), shares=True) == cluster_jackknife(
        hits.astype(float), list("aabb"), shares=True
    )
    low = np.array([0, 0, 3, 1], dtype="u1")
    found = cluster_jackknife_difference(low, np.array([1, 1, 4, 3], dtype="u1"), list("abcd"))
    assert (found.low + found.high) / 2 == pytest.approx(-1.25)  # and not what is left of it in 8 bits


# settings ----------------------------------------------------------------------------------------------------------

K_FORMS = [1, (1,), [1], np.array([1]), np.int64(1), np.array(1), torch.tensor(1), torch.tensor([1]), range(1, 2), 1.0]
NO_WHOLE = [1.5, "5", True, math.nan, math.inf, None, -1, [1.5], np.array([0.5]), []]


@pytest.mark.parametrize("k", K_FORMS, ids=repr)
def test_k_of_every_make(k, normal):
    u, e = normal
    assert recall_at_k(u, e, GROUPS, k=k).recall(1) == recall_at_k(u, e, GROUPS).recall(1)
    assert true_recall_at_k(u, e, GROUPS, GROUPS, k=k) == true_recall_at_k(u, e, GROUPS, GROUPS, k=[1])
    assert AlignConfig(k=k).k == (1,)
    assert AlignConfig(k=k).digest() == AlignConfig(k=(1,)).digest()


def test_k_may_be_larger_than_any_gallery(normal):
    assert recall_at_k(*normal, GROUPS, k=10**9).recall(10**9) == 1.0
    assert chance_recall(GROUPS, k=10**9) == 1.0


@pytest.mark.parametrize("wrong", NO_WHOLE, ids=repr)
def test_what_is_no_whole_number_is_refused(wrong, normal):
    u, e = normal
    calls = [
        lambda: recall_at_k(u, e, GROUPS, k=wrong),
        lambda: true_recall_at_k(u, e, GROUPS, GROUPS, k=wrong),
        lambda: chance_recall(GROUPS, k=wrong),
        lambda: AlignConfig(k=wrong),
        lambda: fit_heads(u, e, GROUPS, config=FIT, seed=wrong),
        lambda: fit_heads(u, e, GROUPS, config=FIT, threads=wrong),
        lambda: held_out_bound(u, e, GROUPS, GROUPS, batch=wrong),
        lambda: held_out_bound(u, e, GROUPS, GROUPS, draws=wrong),
        lambda: held_out_bound(u, e, GROUPS, GROUPS, seed=wrong),
        lambda: shuffled_groups(GROUPS, seed=wrong),
        lambda: AlignmentHeads(wrong, 2),
        lambda: AlignmentHeads(2, 2, dim=wrong),
        lambda: hold_out(pair_arrays(u, e, GROUPS).items, "episodes", seed=wrong),
        lambda: balanced_draw(pair_arrays(u, e, GROUPS).items, "episodes", sides=["execution"], seed=wrong),
        lambda: balanced_draw(pair_arrays(u, e, GROUPS).items, "episodes", sides=["execution"], draw=wrong),
        lambda: align(pair_arrays(u, e, GROUPS), AlignConfig(fit=FIT), n_jobs=[wrong] if wrong == -1 else wrong),
        lambda: OptimizerConfig(warmup=wrong),
    ]
    names = ("dim", "batch", "patience", "check_every", "depth")
    calls += [lambda name=name: FitConfig(**{name: wrong}) for name in names]
    counts = ("seeds", "control_seeds", "shuffled_seeds", "splits", "draws", "bound_draws", "pixel_components")
    calls += [lambda name=name: AlignConfig(**{name: wrong}) for name in counts]
    names = ("updates", "batch", "dim", "head_depth", "seed", "language_seed")
    calls += [lambda name=name: TrainConfig(**{name: wrong}) for name in names]
    for place, call in enumerate(calls):
        with pytest.raises(ConfigError):
            print("call", place, "took", call())


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -1.0, "0.1", True, [0.1], None, 1j], ids=repr)
def test_what_is_no_number_is_refused(wrong, normal):
    u, e = normal
    calls = [
        lambda: recall_at_k(u, e, GROUPS, tolerance=wrong),
        lambda: paired_ranks(u, e, tolerance=wrong),
        lambda: true_recall_at_k(u, e, GROUPS, GROUPS, tolerance=wrong),
        lambda: info_nce(u, e, tau=wrong),
        lambda: held_out_bound(u, e, GROUPS, GROUPS, tau=wrong),
        lambda: cluster_jackknife(u[:, 0], GROUPS, level=wrong),
        lambda: hold_out(pair_arrays(u, e, GROUPS).items, "episodes", test_share=wrong),
        lambda: AlignConfig(test_share=wrong),
        *(lambda name=name: FitConfig(**{name: wrong}) for name in ("tau", "lr", "weight_decay")),
        *(lambda name=name: TrainConfig(**{name: wrong}) for name in ("tau", "temperature", "lambda_ee")),
        *(lambda name=name: OptimizerConfig(**{name: wrong}) for name in ("lr", "weight_decay", "floor")),
    ]
    for place, call in enumerate(calls):
        with pytest.raises(ConfigError):
            print("call", place, "took", call())
    with pytest.raises(ConfigError):
        mi_bound("0.1" if wrong == -1.0 else wrong, 8)


def test_equal_settings_have_equal_digests_whichever_make_they_are_of():
    numbers = {"seeds": np.int64(5), "draws": torch.tensor(20), "splits": 3.0, "k": np.array([10, 5, 1])}
    config = AlignConfig(**numbers, test_share=np.float64(0.3), fit=FitConfig(dim=np.int32(1024), tau=np.float64(0.1)))
    assert config.digest() == AlignConfig().digest() == "dbbd87f1c9a37f0b"
    assert (type(config.seeds), type(config.fit.dim), config.k) == (int, int, (1, 5, 10))
    training = TrainConfig(updates=np.int64(300), tau=np.float64(0.1), checkpoints=np.array([0.0, 0.1, 0.25, 0.5, 1.0]))
    assert training.digest() == TrainConfig().digest() == "218fbd4c5ffe04f8"
    assert TrainConfig(checkpoints=np.int64(7)).digest() == TrainConfig(checkpoints=7).digest()


def test_seeds_of_every_make_give_the_same(normal):
    u, e = normal
    items = pair_arrays(u, e, [0, 1] * 5).items
    for seed in (np.int64(3), np.uint8(3), 3.0, torch.tensor(3)):
        assert (
            fit_heads(u, e, GROUPS, config=FIT, seed=seed).history
            == fit_heads(u, e, GROUPS, config=FIT, seed=3).history
        )
        assert hold_out(items, "episodes", seed=seed).test.tolist() == hold_out(items, "episodes", seed=3).test.tolist()
        assert shuffled_groups(GROUPS, seed=seed).tolist() == shuffled_groups(GROUPS, seed=3).tolist()


def test_shapes_that_do_not_fit_name_both(whole):
    u, e = whole
    heads = fit_heads(u, e, GROUPS, config=FIT).heads
    with pytest.raises(FeatureError, match=r"u has width 3 .*but these heads take u of width 5"):
        heads(u[:, :3], e)
    with pytest.raises(FeatureError, match=r"e has width 5 .*but these heads take e of width 4"):
        heads.map_e(torch.tensor(u))
    with pytest.raises(FeatureError, match="widths 5 and 4"):
        recall_at_k(u, e, GROUPS)
    with pytest.raises(FeatureError, match="widths 5 and 4"):
        held_out_bound(u, e, GROUPS, GROUPS)
    with pytest.raises(FeatureError, match=r"shapes \(10, 4\) and \(9, 4\)"):
        info_nce(u[:, :4], e[:9])
    with pytest.raises(FeatureError, match=r"groups must give one label per row: 10 rows, 3 labels"):
        info_nce(u[:, :4], e, groups=[1, 2, 3], positives="multi")


def test_an_own_item_of_another_group_is_no_positive_to_take_away():
    with pytest.raises(MnprobeError, match="has one group on side query and another on side gallery"):
        chance_recall(["a", "b"], ["b", "a"], exclude_own=True)
