"""Comparison of layers and checkpoints: the table, its null, what is refused, resuming, and what the heatmap shows."""

import json
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from mnprobe.analysis.comparison.compare import (
    COLUMNS,
    CompareConfig,
    CompareInputs,
    FeatureSet,
    _random_parts,
    compare,
    compare_inputs,
    comparison_hash,
    find_stores,
)
from mnprobe.analysis.comparison.figure import compare_figure, draw_compare, read_similarity
from mnprobe.analysis.similarity import balanced_rows, exchange, make_index, similarity_test
from mnprobe.core.errors import ConfigError, FeatureError, ProbeError, TooFewSamples, TooLittleMemory
from mnprobe.core.names import LayerId, Side
from mnprobe.core.rundir import RunDir
from mnprobe.features import open_features, write_features

QUICK = CompareConfig(index="debiased_cka", permute="within-task", permutations=99)


@pytest.fixture
def sides():
    """Three u layers and two e layers for 48 episodes of 12 instructions in 3 tasks; the last share something."""
    generator = np.random.default_rng(0)
    instructions = [f"instruction {i // 4}" for i in range(48)]
    tasks = [f"task {i // 16}" for i in range(48)]
    latent = generator.standard_normal((48, 4))
    u = [
        FeatureSet(
            values=share * latent @ generator.standard_normal((4, 9)) + generator.standard_normal((48, 9)),
            origin=LayerId(model="viclip", side=Side.UNDERSTANDING, step=10, layer=layer),
        )
        for layer, share in (("blocks.0", 0.0), ("blocks.1", 0.0), ("u", 2.0))
    ]
    e = [
        FeatureSet(
            values=share * latent @ generator.standard_normal((4, 6)) + generator.standard_normal((48, 6)),
            origin=LayerId(model="arp", side=Side.EXECUTION, step=10, layer=layer, trained=False),
        )
        for layer, share in (("blocks.0", 0.0), ("e", 2.0))
    ]
    return u, e, {"tasks": tasks, "instructions": instructions}


def test_cells_that_another_command_writes_meanwhile_stay(sides, tmp_path, monkeypatch):
    given = {"table": tmp_path / "similarity.csv", "folder": tmp_path, "quiet": True}
    module = sys.modules["mnprobe.analysis.comparison.figure"]  # the function has the same name

    def meanwhile(*args, **named):
        monkeypatch.setattr(module, "compare", compare)
        draw_compare(inputs_of(sides), [replace(QUICK, index="cka")], **given)
        return compare(*args, **named)

    monkeypatch.setattr(module, "compare", meanwhile)
    draw_compare(inputs_of(sides), [QUICK], **given)
    assert read_similarity(given["table"])["index"].value_counts().to_dict() == {"cka": 6, "debiased_cka": 6}


def test_every_cell_is_what_the_test_of_two_arrays_gives(sides):
    u, e, labels = sides
    table = compare(u, e, **labels, config=QUICK).table
    assert tuple(table.columns) == COLUMNS
    assert table[["layer_u", "layer_e"]].to_numpy().tolist() == [[a.origin.layer, b.origin.layer] for a in u for b in e]
    for place, row in table.iterrows():
        one, other = u[place // 2], e[place % 2]
        found = similarity_test(
            make_index("debiased_cka"), one.values, other.values, permute="within-task", permutations=99, **labels
        )
        for name in ("value", "null_mean", "null_95", "p"):
            assert row[name] == pytest.approx(getattr(found, name), abs=1e-12)


def test_the_planted_cell_is_the_best_and_choosing_is_paid_for(sides):
    u, e, labels = sides
    table = compare(u, e, **labels, config=QUICK).table
    best = table[table["best"]].iloc[0]
    assert (best["layer_u"], best["layer_e"]) == ("u", "e")
    assert best["p_max"] == best["p"] == 0.01
    assert (table["p_max"] >= table["p"] - 1e-12).all()
    others = table[~table["best"]]
    assert (others["p_max"] > 0.05).all()
    assert set(table["n_cells"]) == {6}
    assert set(table["trained_e"]) == {False}


def test_results_do_not_depend_on_the_number_of_processes(sides):
    u, e, labels = sides
    one = compare(u, e, **labels, config=QUICK, n_jobs=1).table
    pd.testing.assert_frame_equal(one, compare(u, e, **labels, config=QUICK, n_jobs=2).table)


def test_unequal_instructions_are_balanced_and_it_is_said(sides):
    u, e, labels = sides
    keep = np.flatnonzero(np.arange(48) != 5)
    u, e = ([replace(item, values=item.values[keep]) for item in side] for side in (u, e))
    labels = {name: [values[i] for i in keep] for name, values in labels.items()}
    found = compare(u, e, **labels, config=replace(QUICK, permute="instructions", seed=3))
    row = found.table.iloc[0]
    assert (row["n"], row["n_groups"], row["block"]) == (44, 11, 4)
    assert "44 of 47 episodes are used, 4 of each instruction; 1 of 12 instructions have fewer" in found.notes[0]
    kept = balanced_rows(labels["instructions"], seed=3)
    orders = exchange("instructions", instructions=np.asarray(labels["instructions"])[kept], n=44).orders(99, 3)
    x, y = u[0].values[kept], e[0].values[kept]
    null = [make_index("debiased_cka").score(x, y[order]) for order in orders]
    assert row["null_mean"] == pytest.approx(np.mean(null), abs=1e-12)


def test_cells_without_a_value_say_why_and_leave_the_others(sides):
    u, e, labels = sides
    u = [*u, FeatureSet(values=np.ones((48, 3)), origin=replace(u[0].origin, layer="collapsed"))]
    found = compare(u, e, **labels, config=QUICK)
    lost = found.table[found.table["layer_u"] == "collapsed"]
    assert lost[["value", "p", "p_max"]].isna().all(axis=None)
    assert set(found.table["n_cells"]) == {6}
    assert any("layer collapsed has no value: debiased CKA is not defined" in note for note in found.notes)
    pd.testing.assert_series_equal(found.table["p_max"][:6], compare(u[:3], e, **labels, config=QUICK).table["p_max"])


def test_saturated_cca_is_told_and_refused_when_nothing_is_left(sides):
    u, e, labels = sides
    wide = replace(u[0], values=np.random.default_rng(0).standard_normal((48, 45)))
    found = compare([u[2], wide], e, **labels, config=replace(QUICK, index="cca"))
    assert any("have no value: mean canonical correlation: 45 and 6 dimensions" in note for note in found.notes)
    with pytest.raises(ProbeError, match=r"no value for any of the 2 cells: .*45 and 6 dimensions"):
        compare([wide], e, **labels, config=replace(QUICK, index="cca"))


def test_refusals(sides):
    u, e, labels = sides
    short = replace(u[0], values=u[0].values[:40])
    with pytest.raises(FeatureError, match="40 rows of features for 48 episodes"):
        compare([short], e, **labels, config=QUICK)
    with pytest.raises(ConfigError, match="permutations must be at least 19"):
        replace(QUICK, permutations=10)
    with pytest.raises(ConfigError, match="Did you mean 'debiased_cka'"):
        compare(u, e, **labels, config=replace(QUICK, index="debiased_ka"))
    one = {name: ["same"] * 48 for name in labels}
    with pytest.raises(TooFewSamples, match="at least 8 that can move"):
        compare(u, e, **one, config=replace(QUICK, permute="instructions"))


@pytest.mark.parametrize(
    "changes",
    [
        {"index": "cka"},
        {"index": "mutual_knn", "options": {"k": 5}},
        {"permute": "free"},
        {"permutations": 199},
        {"seed": 1},
        {"grid": "checkpoints"},
    ],
)
def test_the_hash_knows_every_setting(sides, changes):
    u, e, labels = sides
    assert comparison_hash(u, e, **labels, config=QUICK) != comparison_hash(
        u, e, **labels, config=replace(QUICK, **changes)
    )


@pytest.mark.parametrize("permute", ["instructions", "within-task", "free"])
def test_neighbors_in_random_draws_are_means_over_disjoint_ones(sides, permute):
    u, e, labels = sides
    config = replace(QUICK, index="mutual_knn", options={"k": 3}, permute=permute, gallery=12)
    index, words = make_index("mutual_knn", {"k": 3}), np.array(labels["instructions"], dtype=object)
    parts = _random_parts(index, words, config)
    assert [len(part) for part in parts] == [12, 12, 12]
    assert len(np.unique(np.concatenate(parts))) == 36
    if permute == "instructions":  # one of each in every draw, so that the same permutation fits all
        assert all(words[part].tolist() == sorted(set(words)) for part in parts)
    found = compare(u, e, **labels, config=config)
    expected = np.mean([[[index.score(a.values[part], b.values[part]) for b in e] for a in u] for part in parts], 0)
    cells = found.table["value"].to_numpy().reshape(3, 2)
    np.testing.assert_allclose(cells, expected, rtol=1e-12)
    assert set(found.table["n"]) == {12}
    np.testing.assert_allclose(found.table["null_mean"], 3 / 11, atol=0.06)  # chance is k / (n - 1)
    (note,) = [note for note in found.notes if "draws" in note]
    assert "neighbours of 48 episodes are sought among 12 of them at a time" in note
    assert "means over 3 draws" in note
    best = found.table[found.table["best"]].iloc[0]
    assert (best["layer_u"], best["layer_e"]) == ("u", "e")


def test_a_gallery_of_all_and_other_indices_change_nothing(sides):
    u, e, labels = sides
    knn = replace(QUICK, index="mutual_knn", options={"k": 3})
    for config, gallery in ((knn, 0), (knn, 48), (QUICK, 12)):
        same = compare(u, e, **labels, config=replace(config, gallery=gallery)).table
        pd.testing.assert_frame_equal(
            same.drop(columns="config_hash"), compare(u, e, **labels, config=config).table.drop(columns="config_hash")
        )
    assert comparison_hash(u, e, **labels, config=replace(QUICK, gallery=12)) == comparison_hash(
        u, e, **labels, config=QUICK
    )
    with pytest.raises(ConfigError, match="gallery must be at least 2 items"):
        replace(QUICK, gallery=1)


def test_the_null_of_random_draws_holds_for_whole_instructions():
    """Features of the instruction alone, independent on both sides: p is below 0.1 in a tenth of the cases."""
    small = 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        sets = [
            [
                FeatureSet(
                    values=np.repeat(generator.normal(size=(12, 4)), 6, axis=0) + 0.1 * generator.normal(size=(72, 4)),
                    origin=LayerId(model=model, side=side),
                )
            ]
            for model, side in (("viclip", Side.UNDERSTANDING), ("arp", Side.EXECUTION))
        ]
        names = {"tasks": ["t"] * 72, "instructions": [f"i{row // 6}" for row in range(72)]}
        config = CompareConfig(index="mutual_knn", options={"k": 3}, permutations=39, seed=seed, gallery=24)
        small += int(compare(*sets, **names, config=config).table["p"].item() <= 0.1)
    assert 1 <= small <= 13  # binomial of 60 at 0.1: outside once in a thousand


def test_the_hash_knows_every_number_and_label(sides):
    u, e, labels = sides
    base = comparison_hash(u, e, **labels, config=QUICK)
    other = u[0].values.copy()
    other[3, 2] += 1e-9
    assert comparison_hash([replace(u[0], values=other), *u[1:]], e, **labels, config=QUICK) != base
    assert comparison_hash(u, e, tasks=labels["tasks"], instructions=["x"] * 48, config=QUICK) != base
    assert (
        comparison_hash(u, [replace(e[0], origin=replace(e[0].origin, step=11)), e[1]], **labels, config=QUICK) != base
    )
    assert comparison_hash(u[:2], e, **labels, config=QUICK) != base


def patches(figure):
    return {
        patch.get_gid(): patch
        for axes in figure.axes
        for patch in axes.patches
        if isinstance(patch, Rectangle) and str(patch.get_gid()).startswith("cell")
    }


@pytest.mark.parametrize("index", ["debiased_cka", "procrustes_distance"])
def test_the_heatmap_grays_what_does_not_pass_its_level(sides, index):
    u, e, labels = sides
    table = compare(u, e, **labels, config=replace(QUICK, index=index)).table
    about = make_index(index).about
    figure = compare_figure(table, about, title="title", caption="caption")
    cells = patches(figure)
    assert len(cells) == 6
    for place, row in table.iterrows():
        cell = cells[f"cell-{place // 2}-{place % 2}"]
        passes = row["p"] <= 0.05
        assert (cell.get_hatch() is None) == passes
        assert (to_hex(cell.get_facecolor()) != "#e4e4e4") == passes
    frames = [patch for patch in figure.axes[0].patches if not patch.get_fill()]
    assert len(frames) == (table["p_max"] <= 0.05).sum()
    levels = table["null_95"]
    assert f"{levels.min():.2f} to {levels.max():.2f}" in figure.axes[1].get_title(loc="left")
    assert figure.axes[1].get_ylabel() == about.symbol
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["blocks.0", "blocks.1", "u"]


def test_a_cell_without_a_value_is_a_dash_and_many_cells_carry_no_numbers(sides):
    u, e, labels = sides
    empty = FeatureSet(values=np.ones((48, 3)), origin=replace(u[0].origin, layer="collapsed"))
    about = make_index("debiased_cka").about
    table = compare([u[2], empty], e, **labels, config=QUICK).table
    texts = [text.get_text() for text in compare_figure(table, about, title="t", caption="c").axes[0].texts]
    assert texts.count("–") == 2  # noqa: RUF001  # the dash that is drawn
    many = pd.concat([table.iloc[[0]].assign(layer_u=f"blocks.{i}") for i in range(30)], ignore_index=True)
    assert not compare_figure(many, about, title="t", caption="c").axes[0].texts


def inputs_of(sides):
    u, e, labels = sides
    episodes = pd.DataFrame(
        {
            "id": [str(i) for i in range(48)],
            "task": labels["tasks"],
            "instruction": labels["instructions"],
            "partition": "",
        }
    )
    return CompareInputs(rows=tuple(u), columns=tuple(e), episodes=episodes, worlds=("tabletop",))


def test_drawing_writes_table_figures_and_note(sides, tmp_path):
    configs = [QUICK, replace(QUICK, index="rsa")]
    drawn = draw_compare(
        inputs_of(sides), configs, table=tmp_path / "similarity.csv", folder=tmp_path, command="the command", quiet=True
    )
    assert [item.figure.png.name for item in drawn] == [
        "similarity-debiased-cka-layers.png",
        "similarity-rsa-layers.png",
    ]
    read = read_similarity(tmp_path / "similarity.csv")
    pd.testing.assert_frame_equal(
        read, pd.concat([item.table for item in drawn], ignore_index=True), check_dtype=False, rtol=1e-12
    )
    note = json.loads((tmp_path / "similarity-rsa-layers.json").read_text())
    assert note["command"] == "the command"
    for words in (
        "Spearman",
        "48 episodes of 12 instructions",
        "99 permutations of episodes of one task",
        "p_max 0.01",
    ):
        assert words in note["caption"]
    assert "Episodes of the world tabletop" in note["caption"]
    assert note["facts"]["best"][0]["layer_e"] == "e"


def test_finished_comparisons_are_kept_and_others_stay(sides, tmp_path):
    table = tmp_path / "similarity.csv"
    arguments = {"table": table, "folder": tmp_path, "quiet": True}
    first = draw_compare(inputs_of(sides), [QUICK], **arguments)[0]
    svg = first.figure.svg.read_bytes()
    assert not first.kept
    again = draw_compare(inputs_of(sides), [QUICK], **arguments)[0]
    assert again.kept
    assert again.figure.svg.read_bytes() == svg  # drawn from the table alone
    draw_compare(inputs_of(sides), [replace(QUICK, index="cka")], **arguments)
    assert read_similarity(table)["index"].unique().tolist() == ["debiased_cka", "cka"]
    other = draw_compare(inputs_of(sides), [replace(QUICK, seed=5)], **arguments)[0]
    assert not other.kept
    read = read_similarity(table)
    assert len(read) == 12
    assert set(read.loc[read["index"] == "debiased_cka", "seed"]) == {5}


def test_a_table_of_something_else_is_refused(sides, tmp_path):
    path = tmp_path / "similarity.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ProbeError, match="lacks the columns index"):
        draw_compare(inputs_of(sides), [QUICK], table=path, folder=tmp_path, quiet=True)


@pytest.fixture
def run(tmp_path):
    """A run with steps 0 and 10 of both models, three numbered layers on the understanding side."""
    found = RunDir.create(tmp_path / "run")
    generator = np.random.default_rng(1)
    episodes = {
        "id": [f"t/{i // 3}/episode{i}" for i in range(30)],
        "task": [f"t{i // 15}" for i in range(30)],
        "instruction": [f"do {i // 3}" for i in range(30)],
        "partition": ["test" if i % 3 == 0 else "train" for i in range(30)],
    }
    for model, side, layers in (
        ("viclip", "understanding", ("u", "blocks.10", "blocks.2")),
        ("arp", "execution", ("e",)),
    ):
        for step in (0, 10):
            end = 29 if step and side == "execution" else 30
            last = {name: values[:end] for name, values in episodes.items()}
            count = len(last["id"])
            write_features(
                found.features(model, "demos", step),
                layers={name: generator.standard_normal((count, 5)) for name in layers},
                episodes=last,
                model=model,
                side=side,
                step=step,
                trained=step > 0,
            )
    return found


def test_layers_of_the_last_step_in_natural_order_on_shared_episodes(run):
    found = compare_inputs(*find_stores(run, "layers"))
    assert [item.origin.layer for item in found.rows] == ["blocks.2", "blocks.10", "u"]
    assert [(item.origin.layer, item.origin.step) for item in found.columns] == [("e", 10)]
    assert len(found.episodes) == 29
    assert {len(item.values) for item in (*found.rows, *found.columns)} == {29}


def test_checkpoints_take_every_step_and_the_papers_layer(run):
    found = compare_inputs(*find_stores(run, "checkpoints"), grid="checkpoints", partition="test", pool_u="first")
    assert [(item.origin.step, item.origin.layer, item.origin.trained) for item in found.rows] == [
        (0, "u", False),
        (10, "u", True),
    ]
    assert [item.origin.step for item in found.columns] == [0, 10]
    assert set(found.episodes["partition"]) == {"test"}
    assert found.rows[0].origin.pool == "first"


@pytest.mark.parametrize("column", ["instruction", "task", "partition"])
def test_stores_that_disagree_are_refused_and_other_data_noted(run, tmp_path, column):
    store, path = run.features("viclip", "demos", 0), run.features("arp", "demos", 0)
    with open_features(path) as file:
        table, values = file.episodes, file.layer("e").pooled()
    other = tmp_path / "other.h5"
    header = {"model": "arp", "side": "execution", "layers": {"e": values}}

    def write(labels, data=""):
        return write_features(other, episodes=table.assign(**{column: labels}), data_fingerprint=data, **header)

    assert compare_inputs([store], [write("")]).episodes.equals(compare_inputs([store], [path]).episodes)
    changed = table[column].copy()
    changed[4] = "test" if column == "partition" else "another"
    write(changed)
    with pytest.raises(FeatureError, match=rf"1 episodes \('t/1/episode4'\) have other {column}s: .*viclip.*other.h5"):
        compare_inputs([store], [other])
    assert compare_inputs([store], [write(table[column], "f" * 64)]).notes == ()
    own = tmp_path / "own.h5"
    with open_features(store) as file:
        values = {"u": file.layer("u").pooled()}
        write_features(
            own, episodes=file.episodes, layers=values, model="v", side="understanding", data_fingerprint="a"
        )
    (note,) = compare_inputs([own], [other]).notes
    assert "were made from other data (fingerprints a and ffffffffffff)" in note


def test_a_partition_may_be_called_by_another_name(run):
    with pytest.warns(UserWarning, match="partition 'Testing' is read as 'test'"):
        found = compare_inputs(*find_stores(run, "layers"), partition="Testing")
    assert set(found.episodes["partition"]) == {"test"}


def test_rows_are_joined_by_id(run, tmp_path):
    path = run.features("arp", "demos", 0)
    with open_features(path) as file:
        episodes, values = file.episodes, file.layer("e").pooled()
    order = np.random.default_rng(0).permutation(30)
    other = tmp_path / "shuffled.h5"
    table = {name: episodes[name].to_numpy()[order].tolist() for name in ("id", "task", "instruction", "partition")}
    write_features(other, layers={"e": values[order]}, episodes=table, model="arp", side="execution", step=0)
    store = run.features("viclip", "demos", 0)
    straight, joined = compare_inputs([store], [path]), compare_inputs([store], [other])
    assert straight.episodes["id"].tolist() == joined.episodes["id"].tolist()
    np.testing.assert_array_equal(straight.columns[0].values, joined.columns[0].values)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda run: find_stores(run, "steps"), ConfigError, "grid must be layers or checkpoints, got 'steps'"),
        (lambda run: find_stores(run, "checkpoints", step=10), ConfigError, "--step chooses one checkpoint"),
        (lambda run: find_stores(run, "layers", step=7), FeatureError, "no execution features at step 7"),
        (
            lambda run: compare_inputs(*find_stores(run, "checkpoints"), grid="checkpoints", layers_u=["u", "x"]),
            ConfigError,
            "--layer-u names u, x",
        ),
        (
            lambda run: compare_inputs(*find_stores(run, "layers"), layers_u=["blocks.3"]),
            FeatureError,
            "unknown layer 'blocks.3'",
        ),
        (
            lambda run: compare_inputs(*find_stores(run, "layers"), partition="val"),
            FeatureError,
            "none of the common episodes is in partition 'val'; there are 'test', 'train'",
        ),
        (
            lambda run: compare_inputs(*reversed(find_stores(run, "layers"))),
            FeatureError,
            "holds features of the execution side; the understanding side is needed here",
        ),
    ],
)
def test_inputs_that_cannot_be_are_refused(run, call, error, message):
    with pytest.raises(error, match=message):
        call(run)


def test_features_and_labels_of_any_make_are_measured_alike(sides):
    u, e, labels = sides
    base = compare(u[:1], e[:1], **labels, config=QUICK)
    given = replace(u[0], values=torch.tensor(u[0].values, requires_grad=True))
    series = {name: pd.Series(values) for name, values in labels.items()}
    found = compare([given], e[:1], **series, config=replace(QUICK, permutations=np.int64(99)))
    pd.testing.assert_frame_equal(found.table, base.table)


def test_missing_labels_are_refused_where_they_decide_what_changes_places(sides):
    u, e, labels = sides
    gaps = {name: ["", *values[1:]] for name, values in labels.items()}
    with pytest.raises(FeatureError, match="instructions: 1 of 48 rows have none"):
        compare(
            u,
            e,
            tasks=labels["tasks"],
            instructions=gaps["instructions"],
            config=replace(QUICK, permute="instructions"),
        )
    with pytest.raises(FeatureError, match="tasks: 1 of 48 rows have none"):
        compare(u, e, **gaps, config=replace(QUICK, permute="within-task"))
    free = replace(QUICK, permute="free")
    found, base = (compare(u[:1], e[:1], **names, config=free).table for names in (gaps, labels))
    assert found["value"].equals(base["value"])


def test_the_hash_tells_labels_from_joined_ones(sides):
    u, e, _ = sides
    rows = {"tasks": ["a", "b\0c"], "instructions": ["d", "e"]}
    other = {"tasks": ["a\0b", "c"], "instructions": ["d", "e"]}
    u, e = ([replace(side[0], values=side[0].values[:2])] for side in (u, e))
    assert comparison_hash(u, e, **rows, config=QUICK) != comparison_hash(u, e, **other, config=QUICK)


def test_stores_that_are_too_large_for_an_index_are_told_before_anything_is_computed():
    n = 400_000
    sets = [FeatureSet(values=np.arange(float(n))[:, None], origin=LayerId(model="m", side=Side.UNDERSTANDING))]
    config = replace(QUICK, permute="free", permutations=19)
    with pytest.raises(TooLittleMemory, match=r"debiased CKA of 400000 episodes.*--index minibatch_cka"):
        compare(sets, sets, tasks=[""] * n, instructions=np.arange(n), config=config)
