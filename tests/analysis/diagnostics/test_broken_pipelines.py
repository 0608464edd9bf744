"""Each check is shown to fail: a pipeline is broken in one way, and the checks that look there must say so."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mnprobe.analysis.diagnostics import CHECKS, Pipeline, sanity_suite
from mnprobe.analysis.diagnostics.known_answer_checks import against_null
from mnprobe.analysis.diagnostics.pipeline import transform
from mnprobe.analysis.diagnostics.reference import Null
from mnprobe.analysis.similarity import make_index, similarity_test
from mnprobe.core.errors import ProbeError, TooFewSamples
from mnprobe.probe import align, fit_heads, hold_out, load_pair, recall_at_k

REPORTED = [
    "copies in your features",
    *(
        f"{what}, {held} held out"
        for what in ("sample sizes", "your features")
        for held in ("episodes", "instructions")
    ),
]


def _cosines(z_u, z_e):
    u, e = (torch.nn.functional.normalize(torch.as_tensor(z).double(), dim=1).numpy() for z in (z_u, z_e))
    return u @ e.T


def _recall(hits):
    """What recall_at_k returns, from the hits of a broken rule: (z_u, z_e, groups, k) -> (forth, back)."""

    def broken(z_u, z_e, groups_u, groups_e=None, *, k=(1,), **_):
        cosine, labels = _cosines(z_u, z_e), np.asarray(groups_u)
        sides = [np.mean(hits(table, labels)) for table in (cosine, cosine.T)]
        u2e, e2u = (SimpleNamespace(recall=lambda k=1, value=value: float(value)) for value in sides)
        return SimpleNamespace(
            u2e=u2e, e2u=e2u, chance=lambda k=1: 0.5, tied_share=1.0, recall=lambda k=1: float(np.mean(sides))
        )

    return broken


def own_index_wins_ties(cosine, labels):
    best = cosine.max(axis=1, keepdims=True)
    tied = cosine > best - 1e-6
    choice = np.where(np.diag(tied), np.arange(len(labels)), tied.argmax(axis=1))
    return labels[choice] == labels


def ties_are_hits(cosine, labels):
    tied = cosine > cosine.max(axis=1, keepdims=True) - 1e-6
    return (tied & (labels == labels[:, None])).any(axis=1)


def first_of_ties(cosine, labels):
    return labels[(cosine > cosine.max(axis=1, keepdims=True) - 1e-6).argmax(axis=1)] == labels


def own_index_is_favored(cosine, labels):
    return labels[(cosine + 0.5 * np.eye(len(labels))).argmax(axis=1)] == labels


def only_the_own_counts(cosine, labels):
    return cosine.argmax(axis=1) == np.arange(len(labels))


def nearest_is_farthest(cosine, labels):
    return labels[cosine.argmin(axis=1)] == labels


def test_rows_leak_into_training(items, holdout, **options):
    found = hold_out(items, holdout, **options)
    return SimpleNamespace(train=np.concatenate([found.train, found.test]), test=found.test)


test_rows_leak_into_training.__test__ = False  # a name for people, no test


def instructions_are_not_held_out(items, holdout, **options):
    return hold_out(items, "episodes", **options)


def nothing_is_too_few(items, holdout, **options):
    try:
        return hold_out(items, holdout, **options)
    except TooFewSamples:
        rows = np.arange(len(items))
        return SimpleNamespace(train=rows[::2], test=rows[1::2])


def partners_at_random(u, e, groups, **options):
    order = np.random.default_rng(0).permutation(len(e))
    return fit_heads(u, e[order], groups, **options)


def standardized_by_the_test_set(heads, u, e):
    return transform(heads, (u - u.mean(0)) / (u.std(0) + 1e-6), (e - e.mean(0)) / (e.std(0) + 1e-6))


def standardized_by_all_rows(pair, config, **options):
    u, e = ((x - x.mean(0)) / (x.std(0) + 1e-6) for x in (pair.u, pair.e))
    return align(replace(pair, u=u, e=e), config, **options)


def a_table_of_train_recall(pair, config, **options):
    table = align(pair, config, **options)
    return table.assign(value=table["value"] * 0.9)


def chance_in_the_table_is_one_in_n(pair, config, **options):
    return align(pair, config, **options).assign(chance=1 / len(pair.items))


def rows_joined_by_place(file_u, file_e, **options):
    found = load_pair(file_u, file_e, **options)
    return replace(found, e=file_e.layer("e").pooled("mean"))


def biased_index(name, *rest):
    return make_index("cka" if name == "debiased_cka" else name, *rest)


class _Wrong:
    """An index that reads features place by place, so that a rotation destroys it; 1 for collapsed features."""

    def __init__(self, name):
        self.about = make_index(name).about
        self.options = make_index(name).options

    def score(self, x, y):
        spread = np.std(x) * np.std(y)
        return 1.0 if spread < 1e-12 else float(np.mean((x - x.mean()) * (y - y.mean())) / spread)


def test_without_permuting(index, x, y, **options):
    found = similarity_test(index, x, y, **options)
    return replace(found, null=np.full_like(found.null, found.value), p=1.0)


test_without_permuting.__test__ = False


BROKEN = [
    ("stores joined by episode", {"join": rows_joined_by_place}),
    ("train and test apart", {"hold_out": test_rows_leak_into_training}),
    ("train and test apart", {"hold_out": instructions_are_not_held_out}),
    ("chance level", {"chance": lambda groups, k=1: k / len(groups)}),
    ("chance level", {"chance": lambda groups, k=1: k / len(set(groups))}),
    ("random features, episodes held out", {"hold_out": test_rows_leak_into_training}),
    ("random features, episodes held out", {"recall": _recall(own_index_is_favored)}),
    ("random features, instructions held out", {"hold_out": test_rows_leak_into_training}),
    ("random features, instructions held out", {"recall": _recall(own_index_is_favored)}),
    ("shuffled pairs, episodes held out", {"hold_out": test_rows_leak_into_training}),
    ("shuffled pairs, episodes held out", {"recall": _recall(own_index_is_favored)}),
    ("shuffled pairs, instructions held out", {"hold_out": test_rows_leak_into_training}),
    ("shuffled pairs, instructions held out", {"recall": _recall(own_index_is_favored)}),
    ("collapsed embeddings", {"recall": _recall(own_index_wins_ties)}),
    ("collapsed embeddings", {"recall": _recall(ties_are_hits)}),
    ("collapsed embeddings", {"recall": _recall(first_of_ties)}),
    ("id-only features, episodes held out", {"fit": partners_at_random}),
    ("id-only features, episodes held out", {"recall": _recall(nearest_is_farthest)}),
    ("id-only features, episodes held out", {"recall": _recall(only_the_own_counts)}),
    ("id-only features, instructions held out", {"hold_out": instructions_are_not_held_out}),
    ("id-only features, instructions held out", {"hold_out": test_rows_leak_into_training}),
    ("u against itself, rotated", {"fit": partners_at_random}),
    ("u against itself, rotated", {"recall": _recall(nearest_is_farthest)}),
    ("test episodes mapped alone", {"transform": standardized_by_the_test_set}),
    ("heads blind to test episodes", {"align": standardized_by_all_rows}),
    ("heads blind to test episodes", {"align": a_table_of_train_recall}),
    ("heads blind to test episodes", {"align": chance_in_the_table_is_one_in_n}),
    (
        "similarity indices of u and itself, rotated",
        {"index": _Wrong, "index_test": lambda *_, **__: SimpleNamespace(p=0.005)},
    ),
    ("similarity indices of u and itself, rotated", {"index_test": test_without_permuting}),
    ("similarity indices of random features", {"index": biased_index}),
    ("similarity indices of random features", {"index_test": test_without_permuting}),
    ("similarity indices of collapsed embeddings", {"index": _Wrong}),
    ("copies are noticed", {"twins": lambda train, test: (0, 0)}),
    ("copies are noticed", {"twins": lambda train, test: (4, 4)}),
    ("too few samples", {"hold_out": nothing_is_too_few}),
]


@pytest.mark.parametrize(
    ("name", "parts"),
    BROKEN,
    ids=[f"{name}-{'-'.join(parts)}-{number}" for number, (name, parts) in enumerate(BROKEN)],
)
def test_a_broken_pipeline_is_found(name, parts, subject):
    (check,) = sanity_suite(replace(subject, pipeline=Pipeline(**parts)), only=[name])
    assert check.name == name
    assert check.status == "FAIL", check
    assert "the pipeline is broken" in check.meaning


def test_every_check_of_the_pipeline_is_shown_to_fail():
    assert {name for name, _ in BROKEN} == set(CHECKS) - set(REPORTED)


def test_less_than_chance_is_an_alarm_too(subject):
    rng = np.random.default_rng(0)
    null = Null(mean=0.5, log_count=50.0, values=rng.uniform(0.4, 0.6, 999))
    name = "random features, episodes held out"
    (found,) = sanity_suite(subject, only=[name])
    one = SimpleNamespace(value=0.3, forth=0.3, back=0.3, test=[1], train=[1])
    low = against_null(name, "", [one], null)
    assert (found.status, low.status) == ("pass", "FAIL")
    assert "less than chance" in low.meaning
    assert null.p(0.3) == 2 / 1000


def _refuses(*_, **__):
    raise ProbeError("the loss became nan")


def _excuses_itself(*_, **__):
    raise TooFewSamples("never enough")


@pytest.mark.parametrize("fit", [_refuses, _excuses_itself])
def test_a_pipeline_that_stops_where_a_sound_one_does_not_is_broken(fit, subject):
    names = ["random features, episodes held out", "id-only features, instructions held out"]
    for check in sanity_suite(replace(subject, pipeline=Pipeline(fit=fit)), only=names):
        assert check.status == "FAIL"
        assert "Error" in check.found or "TooFewSamples" in check.found


def test_the_stand_in_for_recall_agrees_with_the_true_one_where_nothing_ties(subject):
    rng = np.random.default_rng(0)
    z_u, z_e = rng.standard_normal((2, 20, 5))
    groups = np.repeat(np.arange(5), 4)
    own = _recall(first_of_ties)(z_u, z_e, groups)
    assert own.recall(1) == pytest.approx(recall_at_k(z_u, z_e, groups, k=[1]).recall(1))
