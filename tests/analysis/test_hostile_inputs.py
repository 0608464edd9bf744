"""Arrays of hostile scale, type, layout and shape: the value of ordinary ones, or one error of ours, from every door.

Every public function of mnprobe.analysis and mnprobe.analysis.similarity is in a table here, or in the list of those
that take no arrays, so that a new one cannot be forgotten.
"""

import inspect
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from mnprobe import analysis
from mnprobe.analysis import similarity
from mnprobe.analysis.audit.decomposition import decompose, oracle_recall
from mnprobe.analysis.audit.leakage import twins
from mnprobe.analysis.comparison.compare import CompareConfig, FeatureSet, compare
from mnprobe.analysis.similarity import INDICES, make_index
from mnprobe.analysis.tsne.embedding import TsneConfig, embed, knn_purity, map_qualities, nearest_across, trust
from mnprobe.core.errors import ConfigError, FeatureError, MnprobeError, ProbeError
from mnprobe.core.names import LayerId, Side
from mnprobe.probe import FitConfig, pair_arrays

N, GROUPS = 24, np.repeat(np.arange(8), 3)
QUICK = {
    "infonce": {"steps": 20, "dim": 8, "draws": 4},
    "minibatch_cka": {"batch": 8},
    "mutual_knn": {"k": 3},
    "cknna": {"k": 3},
    "ridge_cca": {"pcs": 4},
}
INDEX_FUNCTIONS = {  # a function, and the index that it is
    "cca": "cca", "cknna": "cknna", "debiased_cka": "debiased_cka", "infonce_bound": "infonce", "linear_cka": "cka",
    "mutual_knn": "mutual_knn", "procrustes": "procrustes", "procrustes_distance": "procrustes_distance",
    "pwcca": "pwcca", "rbf_cka": "rbf_cka", "ridge_cca": "ridge_cca", "rsa": "rsa", "svcca": "svcca",
}  # fmt: skip
FALSE_REASONS = ("collapsed", "equal", "do not differ")


def features(width=4, n=N):
    return np.random.default_rng(3).normal(size=(n, width)) + 0.5


def partner(x):
    return x @ np.random.default_rng(4).normal(size=(x.shape[1], 3)) + 0.3 * np.random.default_rng(5).normal(
        size=(len(x), 3)
    )


def index_of(name):
    return make_index(name, QUICK.get(name))


# What every function gives for features (N, D): one number or a few, as an array.
def _minibatch(x):
    y = partner(features(n=len(x)))
    return similarity.minibatch_cka([(x[:8], y[:8]), (x[8:16], y[8:16])])


def _column(x):
    index = index_of("debiased_cka")
    y = partner(features(n=len(x)))
    orders = [list(range(len(x)))[::-1]]
    value, null = similarity.column_values(index, [index.ready(x)], index.ready(y), orders)
    return [value[0], null[0, 0]]


def _tested(x):
    y = partner(features(n=len(x)))
    found = similarity.similarity_test(index_of("cka"), x, y, permutations=np.int64(19), groups=GROUPS[: len(x)])
    return [found.value, found.p, found.null_95]


def _compared(x):
    names = LayerId(model="m", side=Side.UNDERSTANDING), LayerId(model="n", side=Side.EXECUTION)
    values = x, partner(features(n=len(x)))
    sets = [[FeatureSet(values=side, origin=name)] for side, name in zip(values, names, strict=True)]
    config = CompareConfig(index="cka", permute="free", permutations=np.int64(19))
    found = compare(*sets, tasks=[""] * len(x), instructions=GROUPS[: len(x)], config=config)
    return found.table[["value", "p", "null_mean"]].to_numpy()[0]


def _laid_out(x):
    return embed(x, TsneConfig(iterations=np.int64(5), exaggeration_iterations=5)).trustworthiness


def _qualities(x):
    points = pd.DataFrame(
        {"task": "t", "instruction": [str(i % 2) for i in range(len(x))], "side": "u", "fitted": False}
    )
    found = map_qualities(x, features(2, len(x)), points, np.int64(3))
    return [found[0].trustworthiness, found[0].purity] if found else []


def _decomposed(x):
    pair = pair_arrays(x, partner(features(n=len(x))), GROUPS[: len(x)], tasks=GROUPS[: len(x)] // 4)
    rows = torch.arange(len(x)) % 3
    table = decompose(pair, rows != 0, rows == 0, fit=FitConfig(dim=2, steps=1), seeds=np.int64(1))
    return table.loc[table["quantity"].isin(["recall", "oracle"]), "chance"]


OF_FEATURES = {
    "minibatch_cka": (_minibatch, 1e-4, {"scale", "translation"}),
    "column_values": (_column, 1e-4, {"scale", "translation"}),
    "similarity_test": (_tested, 1e-4, {"scale", "translation"}),
    "compare": (_compared, 1e-4, {"scale", "translation"}),
    "embed": (_laid_out, 0.2, {"scale", "translation"}),  # the layout of so few points moves with the last digits
    "trust": (lambda x: trust(x, features(2, len(x)), np.int64(3)), 1e-9, {"scale", "translation"}),
    "knn_purity": (lambda x: knn_purity(x, GROUPS[: len(x)], np.int64(3)), 1e-9, {"scale", "translation"}),
    "map_qualities": (_qualities, 1e-9, {"scale", "translation"}),
    "decompose": (_decomposed, 1e-9, set()),
    "twins": (lambda x: twins(x[:16], x[8:]), 0, {"scale", "translation"}),
}
NOT_EXPORTED = {"twins"}  # by the package, but the sanity suite and users of the audit call it

# What takes numbers or labels that are no features; each has a test of its own below.
OF_OTHER_ARRAYS = {
    *("oracle_recall", "balanced_rows", "exchange", "hsic_1", "p_value", "calibrated_level", "calibrate"),
}
TAKE_NO_ARRAYS = {
    *("ablate", "ablation_cells", "ablation_table", "audit_run", "compare_figure", "compare_inputs", "contact_sheet"),
    *("contrast_sentences", "contrast_table", "controls_table", "curve_caption", "curve_data", "curve_figure"),
    *("draw_compare", "draw_controls", "draw_curve", "draw_decomposition", "draw_sheets", "draw_success", "draw_tsne"),
    *("draw_tsne_series", "episode_scores", "execution_table", "find_heads", "find_pairs", "find_rollouts"),
    *("find_stores", "findings", "format_success", "grid_text", "headline", "leakage_table", "open_study"),
    *("paper_table", "plan_ablation", "read_contrasts", "read_similarity", "recognition_table"),
    *("series_inputs", "shaped_table", "success_table", "tsne_inputs", "tsne_panels", "tsne_series", "verdicts"),
    *("write_contrasts", "write_report", "make_index", "parse_options"),
}


def test_every_public_function_has_its_place_here():
    public = {
        name
        for module in (analysis, similarity)
        for name in module.__all__
        if inspect.isfunction(getattr(module, name)) and getattr(module, name).__module__.startswith("mnprobe.analysis")
    }
    placed = {*OF_FEATURES, *INDEX_FUNCTIONS, *OF_OTHER_ARRAYS, *TAKE_NO_ARRAYS} - NOT_EXPORTED
    assert public == placed
    assert set(INDEX_FUNCTIONS.values()) == {*INDICES.names()} - {"minibatch_cka"}  # which takes batches


SIZES = {f"1e{power} x": (lambda x, power=power: x * 10.0**power, "scale") for power in (-200, -160, -30, 9, 150, 200)}
SIZES |= {
    "1e300 x": (lambda x: x * 1e300, "scale"),
    "2^-70 x": (lambda x: np.ldexp(x, -70), "scale"),
    "1e9 + x": (lambda x: 1e9 + x, "translation"),
    "1e6 (1e3 + x)": (lambda x: 1e6 * (1e3 + x), "translation"),
    "a column of 1e7": (lambda x: np.c_[np.full(len(x), 1e7), x], "translation"),
    "a column of 1e300": (lambda x: np.c_[x, np.full(len(x), 1e300)], "translation"),
    "1e13 + x": (lambda x: 1e13 + x, "none"),
    "1e17 + x": (lambda x: 1e17 + x, "none"),
    "1e-321 x": (lambda x: x * 1e-321, "none"),
}


def given(call, *arguments):
    """The value as an array, or None for an error of ours; anything else is raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return np.asarray(call(*arguments), dtype=float)
        except MnprobeError as error:
            return error


def check(found, base, *, free, tolerance, what):
    if isinstance(found, Exception):
        assert not free, f"{what}: {found}"
        assert not any(word in str(found) for word in FALSE_REASONS), f"{what}: {found}"
        return
    assert np.isfinite(found).all(), what
    if free:
        np.testing.assert_allclose(found, base, rtol=0, atol=tolerance * max(1, np.abs(base).max()), err_msg=what)


@pytest.mark.parametrize("size", SIZES)
def test_indices_of_features_of_any_size_and_offset(size):
    change, kind = SIZES[size]
    x = features()
    y = partner(x)
    for name in INDICES.names():
        index = index_of(name)
        base = index.score(x, y, GROUPS)
        invariant = kind in index.about.invariances
        tolerance = max(1e-4, index.about.tolerance)
        for sides in ((change(x), y), (x, change(y))):
            found = given(index.score, *sides, GROUPS)
            check(found, base, free=invariant, tolerance=tolerance, what=f"{name} of {size}")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", OF_FEATURES)
def test_functions_of_features_of_any_size_and_offset(name, size):
    call, tolerance, invariances = OF_FEATURES[name]
    change, kind = SIZES[size]
    base = np.asarray(call(features()), dtype=float)
    check(
        given(call, change(features())), base, free=kind in invariances, tolerance=tolerance, what=f"{name} of {size}"
    )


# Every make of the same numbers: whole quarters, which bfloat16 and float16 hold exactly.
MAKES = {
    "float32": lambda x: x.astype(np.float32),
    "float16": lambda x: x.astype(np.float16),
    "long double": lambda x: x.astype(np.longdouble),
    "big endian": lambda x: x.astype(">f4"),
    "Fortran order": np.asfortranarray,
    "every other row backwards": lambda x: np.repeat(x, 2, axis=0)[::-2][::-1],
    "read only": lambda x: np.frombuffer(x.tobytes()).reshape(x.shape),
    "objects": lambda x: x.astype(object),
    "masked array": lambda x: np.ma.masked_array(x, mask=False),
    "lists": lambda x: x.tolist(),
    "DataFrame": pd.DataFrame,
    "tensor": torch.tensor,
    "bfloat16": lambda x: torch.tensor(x).bfloat16(),
    "tensor with gradient": lambda x: torch.tensor(x, requires_grad=True),
    "transposed tensor": lambda x: torch.tensor(x.T.copy()).T,
}
OTHERWISE = {"minibatch_cka", "twins", "decompose"}  # their calls above cut rows, or make a pair first


@pytest.mark.parametrize("make", MAKES)
def test_arrays_of_any_make_give_the_value_of_plain_ones(make):
    x = np.round(4 * features()) / 4
    y = partner(x)
    for name in INDICES.names():
        index = index_of(name)
        groups = pd.Series(GROUPS.astype(float))
        assert index.score(MAKES[make](x), y, groups) == index.score(x, y, GROUPS), name
    for name, (call, _, _) in OF_FEATURES.items():
        if name not in OTHERWISE:
            np.testing.assert_array_equal(call(MAKES[make](x)), call(x), err_msg=name)
    np.testing.assert_array_equal(twins(MAKES[make](x[:16]), MAKES[make](x[8:])), twins(x[:16], x[8:]))
    batches = [(MAKES[make](x[:8]), MAKES[make](y[:8].round())), (MAKES[make](x[8:16]), MAKES[make](y[8:16].round()))]
    plain = [(x[:8], y[:8].round()), (x[8:16], y[8:16].round())]
    assert similarity.minibatch_cka(batches) == similarity.minibatch_cka(plain)


SHAPES = {f"{n} rows": features(3, n) for n in range(5)}
SHAPES |= {
    "one column": features(1),
    "one column of two values": np.sign(features(1) - 0.5),
    "all rows the same": np.full((N, 3), 2.5),
    "all zeros": np.zeros((N, 3)),
    "one odd row": np.eye(N)[:, :1],
    "ties everywhere": np.repeat([[0.0, 1.0], [1.0, 0.0]], N // 2, axis=0),
    "no columns": np.zeros((N, 0)),
    "rank one": np.outer(np.arange(1.0, N + 1), [1.0, 2.0, 3.0]),
    "NaN": np.where(np.arange(N)[:, None] == 3, np.nan, features()),
    "infinity": np.where(np.arange(N)[:, None] == 3, np.inf, features()),
    "text": np.full((N, 2), "a"),
    "three dimensions": np.zeros((N, 2, 2)),
    "complex": features() * 1j,
}
IMPOSSIBLE = {"0 rows", "no columns", "NaN", "infinity", "text", "three dimensions", "complex"}


@pytest.mark.parametrize("shape", SHAPES)
def test_few_rows_ties_and_one_column_give_a_number_or_one_error_of_ours(shape):
    x = SHAPES[shape]
    n = len(x)
    for name in INDICES.names():
        found = given(index_of(name).score, x, features(3, n), GROUPS[:n])
        assert isinstance(found, MnprobeError) or np.isfinite(found), name
        assert isinstance(found, MnprobeError) or shape not in IMPOSSIBLE, name
    for name, (call, _, _) in OF_FEATURES.items():
        if name == "decompose" and shape in IMPOSSIBLE:
            continue  # what pair_arrays refuses is tested with it
        found = given(call, x)
        assert isinstance(found, MnprobeError) or np.isfinite(found).all(), name
        harmless = name == "map_qualities" and n < 4  # too few points for any quality
        assert isinstance(found, MnprobeError) or shape not in IMPOSSIBLE or harmless, name


def test_one_group_and_missing_groups():
    x, y = features(), partner(features())
    for name in INDICES.names():
        index = index_of(name)
        found = given(index.score, x, y, ["same"] * N)
        assert isinstance(found, MnprobeError) or np.isfinite(found), name
        with pytest.raises(FeatureError, match="groups: 1 of 24 rows have none"):
            index.score(x, y, ["a", None, *"bcd" * 7, "e"])


def test_options_are_pythons_own_numbers():
    index = make_index("mutual_knn", {"k": np.int64(5), "outside": np.bool_(True)})
    assert index.options() == {"k": 5, "outside": True}
    assert [type(value) for value in index.options().values()] == [int, bool]
    assert make_index("ridge_cca", {"ridge": torch.tensor(0.5), "seed": np.uint8(3)}).options()["ridge"] == 0.5
    assert similarity.cknna(features(), partner(features()), k=np.int32(3)) == similarity.cknna(
        features(), partner(features()), k=3
    )
    for name, options in {
        "mutual_knn": ({"k": True}, {"k": 1.5}, {"k": [5]}, {"k": "5"}, {"k": None}, {"k": 0}, {"outside": "no"}),
        "minibatch_cka": ({"batch": 2}, {"passes": 0.5}, {"seed": -1}, {"seed": 0.5}),
        "rbf_cka": ({"width": np.nan}, {"width": "1"}, {"width": True}, {"debiased": 1}),
        "svcca": ({"variance": 1.5}, {"variance": np.inf}, {"variance": None}),
        "infonce": ({"steps": 0}, {"tau": -1.0}, {"dim": False}),
    }.items():
        for given_options in options:
            with pytest.raises(ConfigError):
                make_index(name, given_options)


def test_matrices_samples_and_labels_of_any_make():
    k, m = (side @ side.T for side in (features(), partner(features())))
    base = similarity.hsic_1(k, m)
    assert similarity.hsic_1(torch.tensor(k), m.tolist()) == base
    assert similarity.hsic_1(1e200 * k, m) == pytest.approx(1e200 * base, rel=1e-12)
    assert similarity.hsic_1(1e200 * k, 1e-200 * m) == pytest.approx(base, rel=1e-12)
    for bad in (lambda: similarity.hsic_1(1e200 * k, 1e200 * m), lambda: similarity.hsic_1(k, m[:3])):
        with pytest.raises(MnprobeError, match=r"size that float64|two matrices"):
            bad()

    value, null = 2.0, np.arange(99.0)
    for scale in (1.0, 1e-200, 1e200):
        sample = torch.tensor(scale * null)
        assert similarity.p_value(scale * value, sample) == 0.98
        assert similarity.calibrated_level(sample) == scale * 94
        family = similarity.calibrate([[scale * 98.5]], [[(scale * null).tolist()]])
        assert (family.p[0, 0], family.p_max[0, 0]) == (0.01, 0.01)
    for bad in (
        lambda: similarity.p_value(np.nan, null), lambda: similarity.p_value(1.0, [np.nan, 1.0]),
        lambda: similarity.p_value(1.0, []), lambda: similarity.calibrated_level([np.nan] * 99),
        lambda: similarity.calibrate(null, null),
    ):  # fmt: skip
        with pytest.raises(FeatureError):
            bad()

    z = features() / np.linalg.norm(features(), axis=1, keepdims=True)
    across, _ = nearest_across(torch.tensor(z), pd.DataFrame(z), range(N), count=np.int64(2))
    assert (across["own_rank"] == 1).all()
    for size in (2.0, 1e-200, 1e200):
        with pytest.raises(FeatureError, match="z_e: rows must have length 1; row 0 has"):
            nearest_across(z, size * z, range(N))

    names = [f"do {i}" for i in GROUPS]
    for made in (names, np.array(names), pd.Series(names), GROUPS.astype(np.float32), torch.tensor(GROUPS)):
        assert similarity.balanced_rows(made, seed=np.int64(1)).tolist() == list(range(N))
        found = similarity.exchange("instructions", instructions=made, n=np.int64(N))
        assert found.log_count == pytest.approx(np.log(np.arange(1, 9)).sum())
        assert oracle_recall(made, [0] * N) == pytest.approx(1 / 8)
    with pytest.raises(FeatureError, match="instructions: 1 of 24 rows have none"):
        similarity.balanced_rows([None, *names[1:]])
    with pytest.raises(ProbeError, match="none of 0 queries"):
        oracle_recall([], [])
