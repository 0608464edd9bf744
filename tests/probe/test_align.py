import re
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from mnprobe.analysis.audit.controls import score_difference
from mnprobe.analysis.tables.episode_scores import episode_scores
from mnprobe.core.errors import ConfigError, FeatureError, ProbeError, TooFewSamples
from mnprobe.core.names import LayerId, Side
from mnprobe.core.provenance import config_hash
from mnprobe.core.rundir import RunDir
from mnprobe.features import open_features, write_features
from mnprobe.features.schema import content_digest
from mnprobe.features.writer import describe_values
from mnprobe.probe import (
    COLUMNS,
    SETTINGS,
    AlignConfig,
    FitConfig,
    StoredPair,
    align,
    align_stores,
    alignment,
    cluster_jackknife,
    join_stores,
    load_heads,
    load_pair,
    pair_across,
    pair_arrays,
    read_alignment,
    read_hits,
    recall_at_k,
    runs,
    summary_table,
    write_alignment,
)
from mnprobe.probe.config import read_settings, record_settings
from mnprobe.probe.results import HELD_OUT, HELD_OUT_FILE

FIT = FitConfig(dim=16, steps=40, lr=5e-3, ridge=0.0, decay=False)
TINY = {"fit": FitConfig(dim=4, steps=1), "seeds": 2, "splits": 2, "draws": 2, "bound_draws": 2}


AROUND = {"adjusted_recall@1", "mi_bound", "tied_share"}


def tiny(**change):
    return AlignConfig(**(TINY | change))


@pytest.fixture
def pair(planted):
    u, e, labels = planted(instructions=8, per=8)
    rng = np.random.default_rng(1)
    return pair_arrays(
        u,
        e,
        labels,
        tasks=[f"task {i // 16}" for i in range(64)],
        success_u=rng.integers(0, 2, 64),
        success_e=rng.integers(0, 2, 64),
        understanding=LayerId(model="viclip", side=Side.UNDERSTANDING, step=5, layer="u"),
        execution=LayerId(model="arp", side=Side.EXECUTION, step=5, layer="e"),
    )


def mean_of(table, holdout, metric="recall@1", direction="mean", control="none", split="all"):
    rows = table[
        (table["statistic"] == "mean")
        & (table["metric"] == metric)
        & (table["direction"] == direction)
        & (table["holdout"] == holdout)
        & (table["control"] == control)
        & (table["split"] == split)
    ]
    assert len(rows) == 1
    return rows.iloc[0]


# planted truths ----------------------------------------------------------------------------------------------------


def test_a_shared_latent_is_found_and_shuffled_pairs_are_not(planted):
    u, e, labels = planted(instructions=16, per=6)
    table = align(pair_arrays(u, e, labels), AlignConfig(fit=FIT, seeds=3, splits=2))
    for holdout in ("episodes", "instructions"):
        found, control = mean_of(table, holdout), mean_of(table, holdout, control="shuffled")
        assert found["ci_low"] > found["chance"] + 0.1
        assert found["ci_low"] <= found["value"] <= found["ci_high"]
        assert control["value"] < found["value"] - 0.2
    control = mean_of(table, "episodes", control="shuffled")
    assert control["ci_low"] <= control["chance"] <= control["ci_high"]
    assert mean_of(table, "episodes", "mi_bound")["value"] > 0.5
    assert mean_of(table, "episodes", "tied_share")["value"] == 0.0


def test_independent_noise_is_at_chance(planted):
    u, e, labels = planted(instructions=12, per=8, related=False, noise=1.0)
    table = align(pair_arrays(u, e, labels), AlignConfig(fit=FIT, seeds=3, splits=3, shuffled=False))
    for holdout in ("episodes", "instructions"):
        found = mean_of(table, holdout)
        assert found["ci_low"] <= found["chance"] <= found["ci_high"]
        assert mean_of(table, holdout, "adjusted_recall@1")["value"] == pytest.approx(0.0, abs=0.12)
        assert mean_of(table, holdout, "mi_bound")["value"] < 0.2


def test_arbitrary_instruction_ids_show_why_the_holdout_decides(rng):
    labels = np.repeat(np.arange(40), 4)
    u, e = (rng.normal(size=(40, 40)).astype(np.float32)[labels] for _ in range(2))
    table = align(
        pair_arrays(u, e, [f"i{i}" for i in labels]),
        AlignConfig(fit=FitConfig(dim=64, steps=100, lr=5e-3), seeds=1, splits=6, shuffled=False),
    )
    assert mean_of(table, "episodes")["value"] > 0.97
    found = mean_of(table, "instructions")
    assert found["chance"] == pytest.approx(1 / 12)
    assert found["value"] == pytest.approx(found["chance"], abs=0.08)


def test_an_interval_belongs_to_its_value_when_test_sets_differ_in_size(rng):
    sizes = [2, 2, 3, 4, 6, 30, 2, 2, 3, 4, 6, 30]  # which instructions are held out decides n and chance
    labels = np.repeat(np.arange(12), sizes)
    u, e = (rng.normal(size=(len(labels), 8)).astype(np.float32) for _ in range(2))
    table = align(pair_arrays(u, e, [f"i{i}" for i in labels]), tiny(splits=5, seeds=1, fit=FIT))
    means = table[(table["statistic"] == "mean") & table["ci_low"].notna()]
    assert table[(table["holdout"] == "instructions") & (table["statistic"] == "seed")]["n_test"].nunique() > 1
    assert set(means["metric"]) == {"recall@1", "recall@5", "recall@10", "adjusted_recall@1"}
    assert (means["ci_low"] <= means["value"]).all()
    assert (means["value"] <= means["ci_high"]).all()
    assert means[means["metric"] != "adjusted_recall@1"]["ci_high"].le(1).all()


def test_constant_features_score_chance_by_ties(planted):
    labels = planted()[2]
    same = np.ones((64, 3), np.float32)
    table = align(pair_arrays(same, same, labels), tiny())
    for holdout in ("episodes", "instructions"):
        found = mean_of(table, holdout)
        assert found["value"] == pytest.approx(found["chance"])
        assert mean_of(table, holdout, "tied_share")["value"] == 1.0
    assert "(100% ties)" in summary_table(table)


# the table ---------------------------------------------------------------------------------------------------------


def test_the_table_is_complete_and_consistent(pair):
    table = align(pair, tiny(seeds=3, splits=2))
    assert tuple(table.columns) == COLUMNS
    metrics = {"recall@1", "recall@5", "recall@10"} | AROUND
    assert set(table["metric"]) == metrics
    for control in ("none", "shuffled"):  # on the same test sets
        for metric in metrics:
            for direction in ("u2e", "e2u", "mean"):
                rows = table[
                    (table["control"] == control)
                    & (table["metric"] == metric)
                    & (table["direction"] == direction)
                    & (table["holdout"] == "episodes")
                ]
                number = 3 if control == "none" else 2  # seeds; of shuffled pairs fewer
                assert rows["statistic"].tolist() == ["mean"] + ["seed"] * (number + 1)  # and seed 0 on split 1
                mean, seeds = rows.iloc[0], rows.iloc[1:]
                assert (mean["seed"], mean["draw"], mean["n_seeds"]) == (-1, -1, number)
                assert mean["value"] == pytest.approx(seeds.groupby("draw")["value"].mean().mean())
                assert mean["sd_seeds"] == pytest.approx(seeds[seeds["draw"] == 0]["value"].std())
                assert mean["sd_draws"] == pytest.approx(seeds[seeds["seed"] == 0]["value"].std())
    recall, adjusted = mean_of(table, "episodes"), mean_of(table, "episodes", "adjusted_recall@1")
    chance = recall["chance"]
    assert adjusted["value"] == pytest.approx((recall["value"] - chance) / (1 - chance))
    assert adjusted["ci_low"] == pytest.approx((recall["ci_low"] - chance) / (1 - chance))
    assert (recall["n_test"], recall["n_groups"], recall["n_train"], recall["n_train_groups"]) == (16, 8, 48, 8)
    assert recall["chance"] == pytest.approx(1 / 8)
    assert mean_of(table, "instructions")["n_groups"] == 2


def test_a_recall_can_be_had_again_from_its_saved_heads(pair, tmp_path):
    table = align(pair, tiny(fit=FIT, shuffled=False), heads=tmp_path / "heads")
    saved = table[(table["heads_file"] != "") & (table["seed"] == 0) & (table["metric"] == "recall@1")]
    assert len(saved) == 6  # two holdouts, three directions
    row = saved[(saved["direction"] == "u2e") & (saved["holdout"] == "instructions")].iloc[0]
    heads = load_heads(tmp_path / row["heads_file"])
    assert "viclip-demos-step5-u" in row["heads_file"]
    test = np.isin(pair.items.ids, heads.fitted_on["test_ids"]["all"])
    assert not set(heads.fitted_on["train_ids"]) & set(heads.fitted_on["test_ids"]["all"])
    z_u, z_e = heads(torch.from_numpy(pair.u[test]), torch.from_numpy(pair.e[test]))
    assert recall_at_k(z_u, z_e, pair.items.instructions[test]).u2e.recall(1) == pytest.approx(row["value"])


def test_processes_do_not_change_the_numbers(pair):
    config = tiny(shuffled=False, seeds=3, splits=1)
    pd.testing.assert_frame_equal(align(pair, config, n_jobs=1), align(pair, config, n_jobs=2))


def test_reading_back_gives_every_digit(pair, tmp_path):
    table = align(pair, tiny())
    write_alignment(tmp_path / "a.csv", table)
    pd.testing.assert_frame_equal(read_alignment(tmp_path / "a.csv"), table)
    (tmp_path / "b.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ProbeError, match="lacks the columns understanding, "):
        read_alignment(tmp_path / "b.csv")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"holdout": "seeds"}, "holdout must be one of both, episodes, instructions, tasks, got 'seeds'"),
        ({"split": "good"}, "split must be one of all, success, .* got 'good'"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"k": (5,)}, r"hold 1, got \(5,\)"),
        ({"modes": ()}, "modes must be some of own-probe, shared-probe"),
        ({"test_share": 1.0}, "test_share must lie between 0 and 1, got 1.0"),
        ({"pairing": "episode", "exclude_own": True}, "leaves no positive"),
    ],
)
def test_impossible_settings_are_quoted(change, text):
    with pytest.raises(ConfigError, match=text):
        AlignConfig(**change)


def test_random_galleries_are_said_in_the_notes_and_in_the_table(pair):
    config = {"shuffled": True, "seeds": 2, "splits": 2, "holdout": "episodes", "pairing": "episode"}
    whole, table = align(pair, tiny(**config)), align(pair, tiny(**config, gallery=5))
    tested = whole["n_test"].unique().item()
    assert tested > 10
    assert (table["n_test"].unique().item(), table["n_gallery"].unique().item()) == (tested, 5)
    means = table[(table["metric"] == "recall@1") & (table["statistic"] == "mean") & (table["direction"] == "mean")]
    assert means["chance"].tolist() == pytest.approx([1 / 5, 1 / 5])  # of the pairs and of the control
    assert ((means["ci_low"] < means["value"]) & (means["value"] < means["ci_high"])).all()
    (note,) = [note for note in table.attrs["notes"] if "galleries" in note]
    assert f"{tested} tested episodes are ranked in {-(-tested // 5)} random galleries of 5" in note
    assert f"{tested} in 5" in summary_table(table)
    assert not [note for note in whole.attrs["notes"] if "galleries" in note]
    assert "gallery" not in tiny().measurement()  # tables of before stay those of the same settings


@pytest.mark.parametrize(
    "change",
    [
        {"fit": FitConfig(dim=4, steps=2)},
        {"pairing": "episode"},
        {"pairing": "task"},
        {"exclude_own": True},
        {"gallery": 5},
        {"test_share": 0.5},
        {"bound_draws": 3},
    ],
    ids=str,
)
def test_every_option_changes_the_numbers_and_the_hash(change, pair):
    base = {"shuffled": False, "seeds": 1, "splits": 1, "holdout": "episodes"}
    plain, changed = align(pair, tiny(**base)), align(pair, tiny(**(base | change)))
    assert plain["config_hash"].unique() != changed["config_hash"].unique()
    assert not plain[["value", "ci_low"]].equals(changed[["value", "ci_low"]])


def test_what_cannot_be_held_out_is_said_or_refused(planted):
    u, e, labels = planted(instructions=3, per=6)
    pair = pair_arrays(u, e, labels)
    table = align(pair, tiny())
    assert set(table["holdout"]) == {"episodes"}
    assert any(
        "instructions held out: left out. holding out instructions needs at least 4" in n for n in table.attrs["notes"]
    )
    assert any("only 3 instructions: the interval is not to be relied on" in note for note in table.attrs["notes"])
    with pytest.raises(TooFewSamples, match=r"needs at least 4 instructions .*found 3"):
        align(pair, tiny(holdout="instructions"))
    with pytest.raises(TooFewSamples, match="nothing can be measured"):
        align(pair_arrays(u, e, ["the same"] * 18), tiny())
    with pytest.raises(ConfigError, match="the same pair is given twice"):
        align([pair, pair], tiny())


def test_with_one_instruction_the_interval_leaves_out_single_episodes(planted, tmp_path):
    u, e, _ = planted(instructions=6, per=6)
    config = tiny(pairing="episode", holdout="episodes", shuffled=False)
    table = align(pair_arrays(u, e, ["push it"] * 36), config, hits=tmp_path)
    (path,) = tmp_path.glob("*.npz")
    scores = episode_scores(read_hits(path))
    expected = cluster_jackknife(scores.hits, scores.ids, weights=scores.weights, shares=True)
    rows = table[(table["metric"] == "recall@1") & (table["statistic"] == "mean") & (table["direction"] == "mean")]
    assert rows[["ci_low", "ci_high"]].to_numpy()[0] == pytest.approx(expected[:2], rel=1e-6)
    assert 0 <= expected.low < expected.high <= 1
    assert scores.unit == "episodes"
    same = score_difference(scores, replace(scores, hits=np.zeros_like(scores.hits)), resamples=99)
    assert (same.n_blocks, same.value) == (len(scores.ids), pytest.approx(scores.recall))
    assert any("the interval leaves out single episodes" in note for note in table.attrs["notes"])
    for labels in ({"tasks": ["a", "b"] * 18}, {"instructions": None}):  # alike in a way that the text does not tell
        pair = pair_arrays(u, e, **({"instructions": ["push it"] * 36} | labels))
        rows = align(pair, config)
        assert rows["ci_low"].isna().all()
        assert any("no interval: it takes at least 2 instructions, there is 1" in n for n in rows.attrs["notes"])


def test_the_drawn_sets_are_written_down_once_for_all_pairs_of_a_source(planted, tmp_path):
    u, e, labels = planted(instructions=6, per=6)
    ids = [f"set/{row}" for row in range(36)]
    for name, values, side in (("viclip-a", u, "understanding"), ("arp-a", e, "execution")):
        for step in (0, 10):
            write_features(
                tmp_path / name / "demos" / f"step_{step:08d}.h5",
                layers={side[0]: values + np.float32(step)},
                episodes={"id": ids, "instruction": labels},
                model=name,
                side=side,
                step=step,
            )
    stored = [
        StoredPair(*(tmp_path / name / "demos" / f"step_{step:08d}.h5" for name in ("viclip-a", "arp-a")))
        for step in (0, 10)
    ]
    given = {"table": tmp_path / "alignment.csv", "hits": tmp_path / "hits", "quiet": True}
    rows, _ = align_stores(stored, tiny(shuffled=False), **given)
    written = HELD_OUT.read(tmp_path / "hits" / HELD_OUT_FILE)
    assert len(written) == 2 * 2 * 36  # holdouts, draws, episodes
    assert set(written["config_hash"]) == set(rows["config_hash"])
    assert written["episodes_hash"].nunique() == 1
    for path in (tmp_path / "hits").glob("*.npz"):
        scores = read_hits(path)
        for record, draw in enumerate(scores.draws):
            mine = written[(written["holdout"] == scores.about["holdout"]) & (written["draw"] == draw)]
            for name, marks in (("train", scores.train[record]), ("test", scores.test[record])):
                assert set(mine[mine["set"] == name]["id"]) == set(scores.ids[marks])
    before = (tmp_path / "hits" / HELD_OUT_FILE).read_bytes()
    align_stores(stored, tiny(shuffled=False), **given)
    assert (tmp_path / "hits" / HELD_OUT_FILE).read_bytes() == before


# heads of another source, controls, shared fits --------------------------------------------------------------------


def test_what_was_mapped_in_the_labels_is_noted(planted):
    u, e, labels = planted(instructions=4, per=6)
    labels = [label.upper() if row % 2 else label for row, label in enumerate(labels)]
    pair = pair_arrays(u, e, labels, partitions=["training", "training", "Validation"] * 8)
    notes = align(pair, tiny(holdout="episodes", shuffled=False)).attrs["notes"]
    assert "partitions: 'training' is read as 'train', 'Validation' is read as 'val'" in notes
    assert any(note.startswith("instructions: 4 are spelled in several ways") for note in notes)
    across = pair_across(pair, pair_arrays(u, e, labels, understanding=pair.origin_u, execution=pair.origin_e))
    assert set(across.items.notes) == set(pair.items.notes)


@pytest.mark.parametrize("split", ["all", "execution-success"])
def test_groups_of_one_episode_are_noted(split, rng):
    x = rng.normal(size=(48, 4)).astype(np.float32)
    words, tasks = [f"open drawer {row}" for row in range(48)], [f"task {row % 4}" for row in range(48)]
    once = pair_arrays(x, x, words, tasks=tasks)
    config = tiny(holdout="instructions", shuffled=False)
    (note,) = align(once, config).attrs["notes"][:1]
    assert "instructions held out: 14 groups of 14 tested episodes: every instruction occurs once among them" in note
    assert not any("occurs once" in note for note in align(once, replace(config, pairing="episode")).attrs["notes"])
    assert not any("occurs once" in note for note in align(once, replace(config, pairing="task")).attrs["notes"])
    twice = pair_arrays(x, x, [f"open drawer {row // 2}" for row in range(48)], tasks=tasks, success_e=[0, 1] * 24)
    change = {} if split == "all" else {"split": split, "modes": ("own-probe",)}
    notes = align(twice, replace(config, **change)).attrs["notes"]
    assert any("occurs once" in note for note in notes) == (split != "all")


def test_tasks_with_a_wording_in_common_are_measured_and_noted(rng):
    x = rng.normal(size=(64, 4)).astype(np.float32)
    words = ["open it" if row % 8 < 2 else f"do {row % 8}" for row in range(64)]
    pair = pair_arrays(x, x, words, tasks=[f"task {row % 4}" for row in range(64)], success_e=[0, 1] * 4 * 8)
    for change in ({}, {"split": "execution-success", "modes": ("own-probe",)}):
        pair = replace(pair, items=replace(pair.items, success_e=np.repeat([0, 1], 32).astype(np.int8)))
        table = align(pair, tiny(holdout="tasks", shuffled=False, splits=4, **change))
        (note,) = (note for note in table.attrs["notes"] if "more than one task" in note)
        assert "tasks held out: 1 instructions occur in more than one task ('open it')" in note


@pytest.fixture
def across(planted):
    """Demonstrations of 8 instructions in train and test, rollouts of 6 of them, from one latent for both."""
    u, e, labels = planted(instructions=8, per=16, noise=0.2)
    place = np.arange(128) % 16
    tasks = np.array([f"task {i // 32}" for i in range(128)])

    def part(rows, source, **given):
        origins = {
            "understanding": LayerId(model="viclip", side=Side.UNDERSTANDING, source=source, step=5, layer="u"),
            "execution": LayerId(model="arp", side=Side.EXECUTION, source=source, step=5, layer="e"),
        }
        ids = [f"t/0/episode{i}" for i in range(len(rows))]  # those of demonstrations and rollouts are the same
        return pair_arrays(u[rows], e[rows], np.array(labels)[rows], ids=ids, tasks=tasks[rows], **origins, **given)

    demos = np.flatnonzero(place < 8)
    rollouts = np.flatnonzero((place >= 8) & (np.arange(128) < 96))
    return (
        part(demos, "demos", partitions=["train" if i % 8 < 5 else "test" for i in range(64)], success_e=[1] * 64),
        part(rollouts, "rollouts", success_e=np.arange(48) % 2),
    )


def test_heads_of_demonstrations_are_measured_on_rollouts(across, tmp_path):
    demos, rollouts = across
    pair = pair_across(demos, rollouts)
    table = align(pair, tiny(fit=FIT, seeds=2, splits=2), heads=tmp_path)
    assert set(table["fit_source"]) == {"demos"}
    assert set(table["source_e"]) == {"rollouts"}
    found = mean_of(table, "episodes")
    assert (found["n_train"], found["n_test"], found["n_groups"]) == (40, 48, 6)
    assert found["chance"] == pytest.approx(1 / 6)
    assert found["ci_low"] > found["chance"] + 0.1
    assert mean_of(table, "episodes", control="shuffled")["value"] < found["value"] - 0.2
    unseen = mean_of(table, "instructions")
    assert (unseen["n_groups"], unseen["n_train_groups"]) == (2, 6)
    heads = load_heads(tmp_path / found["heads_file"].split("/")[-1])
    assert all(name.startswith("demos:") for name in heads.fitted_on["train_ids"])
    instructions = dict(zip(pair.items.ids, pair.items.instructions, strict=True))
    file = next(tmp_path.glob("*instructions*"))
    names = load_heads(file).fitted_on
    trained = {instructions[name] for name in names["train_ids"]}
    assert not trained & {instructions[name] for name in names["test_ids"]["all"]}
    z_u, z_e = heads(torch.from_numpy(rollouts.u), torch.from_numpy(rollouts.e))
    rows = table[(table["seed"] == 0) & (table["holdout"] == "episodes") & (table["metric"] == "recall@1")]
    rows = rows[(rows["direction"] == "u2e") & (rows["control"] == "none")]
    assert recall_at_k(z_u, z_e, rollouts.items.instructions).u2e.recall(1) == pytest.approx(rows["value"].item())
    assert "arp step 5 on rollouts, heads from demos" in summary_table(table)


def test_one_fit_serves_demonstrations_and_rollouts(across, monkeypatch):
    demos, rollouts = across
    fits = []
    original = runs.fit_heads
    monkeypatch.setattr(
        runs, "fit_heads", lambda *given, **named: fits.append(named["seed"]) or original(*given, **named)
    )
    config = tiny(seeds=3, holdout="episodes")
    together = align([demos, pair_across(demos, rollouts)], config)
    assert sorted(fits) == [0, 0, 1, 1, 2]  # three true ones and two of shuffled pairs
    alone = align(pair_across(demos, rollouts), config)
    assert len(fits) == 10
    pd.testing.assert_frame_equal(together[together["source_e"] == "rollouts"].reset_index(drop=True), alone)


def test_a_pair_across_sources_needs_the_same_models(across, planted):
    demos, rollouts = across
    with pytest.raises(
        FeatureError, match=r"heads fitted on e of \('arp', 'e', 'mean'\) cannot be tested on \('other'"
    ):
        pair_across(demos, replace(rollouts, origin_e=LayerId(model="other", side=Side.EXECUTION, layer="e")))
    with pytest.raises(FeatureError, match=r"widths \(12, 10\), those on rollouts \(11, 10\)"):
        pair_across(demos, replace(rollouts, u=rollouts.u[:, 1:]))


def test_rollouts_are_split_by_success_with_a_probe_of_demonstrations(across):
    demos, rollouts = across
    pair = pair_across(demos, rollouts)
    noise = np.random.default_rng(3).normal(size=(48, 10))
    e = pair.e.copy()
    e[40:] = np.where((pair.items.success_e[40:] == 0)[:, None], noise, e[40:])  # failed rollouts carry nothing
    table = align(replace(pair, e=e), tiny(fit=FIT, split="success", draws=3))
    assert set(table["mode"]) == {"shared-probe"}
    assert set(table["split"]) == {"execution-success", "execution-failure"}
    good, bad = (mean_of(table, "episodes", split=f"execution-{name}") for name in ("success", "failure"))
    assert (good["n_train"], good["n_test"], bad["n_test"]) == (40, 24, 24)
    assert good["ci_low"] > bad["ci_high"]
    assert mean_of(table, "instructions", split="execution-success")["n_train_groups"] == 6
    notes = "\n".join(table.attrs["notes"])
    assert "own-probe: execution success against failure" in notes
    assert "give only 0 training episodes of 0 instructions" in notes
    known = replace(pair, items=replace(pair.items, success_u=np.arange(88, dtype=np.int8) % 2))
    own = align(known, tiny(fit=FIT, split="success", modes=("own-probe",), holdout="episodes", shuffled=False))
    assert set(own["split"]) == {"understanding-success", "understanding-failure"}
    assert set(own[own["metric"] == "recall@1"]["n_train"]) == {16}  # 2 of 5 of each of 8 instructions, either way


@pytest.mark.parametrize("outcome", [0, 1])
def test_rollouts_that_all_end_alike_are_one_message(outcome, across):
    demos, rollouts = across
    items = replace(rollouts.items, success_e=np.full(48, outcome, np.int8))
    pairs = [demos, pair_across(demos, replace(rollouts, items=items))]
    with pytest.raises(
        ProbeError, match=rf"{48 * outcome} successes and {48 - 48 * outcome} failures among 48 episodes"
    ):
        align(pairs, tiny(split="success"))


def test_pixels_go_through_principal_components_of_training_episodes(planted, tmp_path):
    u, e, labels = planted(instructions=8, per=16, noise=0.2, dims=(12, 10))
    u = np.concatenate([u, 1e-3 * np.random.default_rng(5).normal(size=(128, 60))], axis=1).astype(np.float32)
    origin = LayerId(model="pixels", side=Side.UNDERSTANDING, layer="u")
    pixels = pair_arrays(u, e, labels, understanding=origin)
    config = tiny(fit=FIT, pixel_components=12, holdout="episodes")
    table = align(pixels, config, heads=tmp_path)
    plain = align(pixels, tiny(fit=FIT, pixel_components=0, holdout="episodes"))
    found, other = mean_of(table, "episodes"), mean_of(plain, "episodes")
    assert found["value"] > other["value"] + 0.05  # sixty columns of noise, standardised, are no help
    assert found["config_hash"] != other["config_hash"]
    heads = load_heads(next(tmp_path.iterdir()))  # and they take all pixels
    test = np.isin(pixels.items.ids, heads.fitted_on["test_ids"]["all"])
    z_u, z_e = heads(torch.from_numpy(u[test]), torch.from_numpy(e[test]))
    rows = table[(table["seed"] == 0) & (table["draw"] == 0) & (table["metric"] == "recall@1")]
    value = rows[rows["direction"] == "u2e"]["value"].item()
    assert recall_at_k(z_u, z_e, pixels.items.instructions[test]).u2e.recall(1) == pytest.approx(value)
    other_model = replace(pixels, origin_u=replace(origin, model="viclip"))
    assert mean_of(align(other_model, config), "episodes")["value"] == pytest.approx(other["value"], abs=0.03)


@pytest.mark.parametrize(("parts", "fitted"), [("train val test", 40), ("val test", 24)])
def test_heads_are_fitted_on_val_where_only_val_and_test_were_extracted(parts, fitted, planted):
    u, e, labels = planted(instructions=8, per=16, noise=0.2)
    place = np.arange(128) % 16
    named = np.select([place < 5, place < 8], ["train", "val"], "test")
    keep = np.isin(named, parts.split())
    success = np.arange(128) % 2
    pair = pair_arrays(u[keep], e[keep], np.array(labels)[keep], partitions=named[keep], success_e=success[keep])
    table = align(pair, tiny(fit=FIT, shuffled=False))
    found = mean_of(table, "episodes")
    assert (found["n_train"], found["n_test"]) == (fitted, 64)
    split = align(pair, tiny(fit=FIT, split="success", holdout="episodes", shuffled=False, modes=("own-probe",)))
    assert set(split[split["metric"] == "recall@1"]["n_train"]) == {8 * (2 if "train" in parts else 1)}
    test = pair_across(pair, replace(pair, origin_u=replace(pair.origin_u, source="rollouts")))
    assert (test.items.partitions == "train").sum() == fitted


def test_control_pairs_take_fewer_fits_and_no_shuffled_pairs(pair):
    blank = replace(pair, origin_e=replace(pair.origin_e, source="demos-blank"))
    pixels = replace(pair, origin_u=replace(pair.origin_u, model="pixels"))
    table = align([pair, blank, pixels], tiny(seeds=4, control_seeds=3, shuffled_seeds=1))
    means = table[(table["statistic"] == "mean") & (table["metric"] == "recall@1") & (table["direction"] == "mean")]
    means = means[means["holdout"] == "instructions"]
    counted = means.set_index(["understanding", "source_e", "control"])["n_seeds"].to_dict()
    assert counted == {
        ("viclip", "demos", "none"): 4,
        ("viclip", "demos", "shuffled"): 1,
        ("viclip", "demos-blank", "none"): 3,
        ("pixels", "demos", "none"): 3,
    }
    split = align([pair, blank, pixels], tiny(split="success", holdout="episodes"))
    assert set(zip(split["understanding"], split["source_e"], strict=True)) == {("viclip", "demos")}
    assert "2 control pairs (pixels, instruction blanked) are not split by success" in split.attrs["notes"]


# success and failure -----------------------------------------------------------------------------------------------


def test_four_settings_in_both_modes(pair):
    table = align(pair, tiny(split="success", holdout="episodes", seeds=2, draws=3))
    rows = table[(table["metric"] == "recall@1") & (table["direction"] == "mean") & (table["control"] == "none")]
    assert set(rows["split"]) == set(SETTINGS)
    assert set(rows["mode"]) == {"own-probe", "shared-probe"}
    own = rows[(rows["mode"] == "own-probe") & (rows["statistic"] == "seed")]
    assert own.groupby("split").size().tolist() == [4] * 4  # draws 0, 1, 2 by seed 0 and draw 0 by seed 1
    for _, same in own.groupby(["seed", "draw"]):
        assert same["n_test"].nunique() == same["n_train"].nunique() == 1
        for side in ("understanding", "execution"):
            assert same[same["split"].str.startswith(side)]["chance"].nunique() == 1
    within = table[table["metric"] == "within_task_recall@1"]
    assert within.groupby(["split", "mode"]).size().tolist() == [1] * 8
    shuffled = table[
        (table["control"] == "shuffled") & (table["metric"] == "recall@1") & (table["direction"] == "mean")
    ]
    assert set(shuffled["mode"]) == {"own-probe"}
    assert shuffled.groupby(["split", "statistic"]).size().tolist() == [1, 2] * 4  # the mean; two seeds, first draw


def test_success_minus_failure_is_the_difference_of_the_two_values(pair):
    table = align(pair, tiny(split="success", holdout="both", seeds=2, draws=3, fit=FIT, shuffled=False))
    means = table[table["statistic"] == "mean"].set_index(["holdout", "mode", "split", "metric", "direction"])
    found = means[means.index.get_level_values("metric").str.endswith("success_minus_failure@1")]
    assert len(found) == 2 * 2 * 2 * (3 + 1)
    for (holdout, mode, split, metric, direction), row in found.iterrows():
        single = {"success_minus_failure@1": "recall@1"}.get(metric, "within_task_recall@1")
        good, bad = (means.loc[(holdout, mode, name, single, direction)] for name in (split, split[:-7] + "failure"))
        assert row["value"] == pytest.approx(good["value"] - bad["value"])
        assert -1 <= row["ci_low"] <= row["value"] <= row["ci_high"] <= 1
        assert (row["chance"], row["n_test"]) == (0.0, good["n_test"])


def test_planted_failures_align_less(planted):
    u, e, labels = planted(instructions=6, per=20, noise=0.2)
    success = np.arange(120) % 2
    e[success == 0] = np.random.default_rng(3).normal(size=(60, e.shape[1]))  # a failure carries nothing
    config = AlignConfig(fit=FIT, split="success", holdout="episodes", seeds=1, draws=3, modes=("own-probe",))
    table = align(pair_arrays(u, e, labels, tasks=["thing"] * 120, success_e=success), config)
    good = mean_of(table, "episodes", split="execution-success")
    bad = mean_of(table, "episodes", split="execution-failure")
    assert good["ci_low"] > bad["ci_high"]
    for metric in ("success_minus_failure@1", "within_task_success_minus_failure@1"):
        more = mean_of(table, "episodes", metric, split="execution-success")
        assert more["value"] == pytest.approx(good["value"] - bad["value"], abs=0.05)
    assert mean_of(table, "episodes", "success_minus_failure@1", split="execution-success")["ci_low"] > 0
    header, everywhere, inside = summary_table(table).split("\n\n")[1].splitlines()
    assert "success minus failure of" in header
    assert f"all           {good['value'] - bad['value']:+.3f}" in everywhere
    assert inside.endswith("2 x 18 in 1 tasks")
    assert any(note.endswith("predicted instruction") for note in table.attrs["notes"])


def test_unknown_outcomes_are_named(planted):
    u, e, labels = planted(instructions=5, per=2)
    with pytest.raises(
        ProbeError, match="execution outcomes: 0 of 10 episodes known; give --outcomes to mnprobe extract"
    ):
        align(pair_arrays(u, e, labels), tiny(split="success"))
    with pytest.raises(ProbeError, match="execution outcomes: 10 successes and 0 failures"):
        align(pair_arrays(u, e, labels, success_e=[1] * 10), tiny(split="execution-failure"))


def test_the_contrast_inside_tasks_gives_every_task_the_same_weight(planted):
    u, e, labels = planted(instructions=9, per=20, noise=0.1)
    tasks = np.where(np.arange(180) < 20, "small", "large")  # one instruction of the one, eight of the other
    success = np.arange(180) % 2
    noise = np.random.default_rng(3).normal(size=e.shape)
    e = np.where(((success == 0) & (tasks == "small"))[:, None], noise, e).astype(np.float32)
    config = AlignConfig(fit=FIT, split="success", holdout="episodes", seeds=2, draws=2, modes=("own-probe",))
    table = align(pair_arrays(u, e, labels, tasks=tasks, success_e=success), config)
    overall = mean_of(table, "episodes", "success_minus_failure@1", split="execution-success")
    inside = mean_of(table, "episodes", "within_task_success_minus_failure@1", split="execution-success")
    assert inside["n_groups"] == 2
    assert overall["value"] < 0.25 < inside["value"]


def test_pairs_without_failures_do_not_keep_the_others_from_being_split(planted):
    u, e, labels = planted(instructions=6, per=8)
    success = np.arange(48) % 2
    arp = LayerId(model="arp", side=Side.EXECUTION, layer="e")
    pairs = [
        pair_arrays(
            u,
            e,
            labels,
            success_e=outcome,
            execution=replace(arp, source=source),
        )
        for source, outcome in (("demos", [1] * 48), ("rollouts", success))
    ]
    config = tiny(split="success", holdout="episodes")
    table = align(pairs, config)
    assert set(table["source_e"]) == {"rollouts"}
    assert any("(demos): left out. --split success cannot be measured" in note for note in table.attrs["notes"])
    both = ("none of 2 pairs can be measured:", r"\(demos\)", "48 successes and 0 failures", "0 of 48 episodes known")
    with pytest.raises(ProbeError, match="(?s:.*)".join(both)):
        align([pairs[0], pair_arrays(u, e, labels)], config)


# resuming ----------------------------------------------------------------------------------------------------------


def test_finished_measurements_are_kept_and_changed_ones_replaced(pair, planted, tmp_path):
    saved = []
    config = tiny()
    whole = align(pair, config, on_rows=lambda frame: saved.append(frame.copy()), heads=tmp_path)
    assert [len(frame) for frame in saved] == sorted(len(frame) for frame in saved)
    assert len(saved) == 4  # two holdouts, with and without shuffled pairs
    again = []
    resumed = align(pair, config, previous=saved[1], on_rows=lambda frame: again.append(frame), heads=tmp_path)
    assert len(again) == 2
    pd.testing.assert_frame_equal(resumed, whole)
    marked = whole.assign(value=-1.0)
    kept = align(pair, config, previous=marked, heads=tmp_path)
    assert (kept["value"] == -1.0).all()
    for file in tmp_path.glob("*episodes*"):
        file.unlink()
    assert 0 < (align(pair, config, previous=marked, heads=tmp_path)["value"] != -1.0).sum() < len(whole)
    more_steps = align(pair, tiny(fit=FitConfig(dim=4, steps=2)), previous=marked)
    assert len(more_steps) == len(whole)
    assert (more_steps["value"] != -1.0).all()
    other_tau = align(pair, tiny(fit=FitConfig(dim=4, steps=1, tau=0.2)), previous=marked)
    assert len(other_tau) == 2 * len(whole)
    u, e, labels = planted(seed=9)
    changed = pair_arrays(u, e, labels, understanding=pair.origin_u, execution=pair.origin_e)
    assert (align(changed, config, previous=marked)["value"] != -1.0).all()


# feature stores ----------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path, planted):
    u, e, labels = planted()
    episodes = {"id": [f"t/0/episode{i}" for i in range(64)], "task": ["t"] * 64, "instruction": labels}

    def write(
        side, *, model=None, source="demos", step=0, layer=None, training="", data="", keep=slice(None), **columns
    ):
        model = model or {"understanding": "viclip", "execution": "arp"}[side]
        path = tmp_path / "features" / model / source / f"step_{step:08d}.h5"
        table = {name: list(values)[keep] for name, values in (episodes | columns).items()}
        values = (u if side == "understanding" else e)[keep]
        layers = {layer or ("u" if side == "understanding" else "e"): values}
        header = {"model": model, "side": side, "source": source, "step": step, "trained": step > 0}
        header |= {"training": training, "data_fingerprint": data}
        return write_features(path, layers=layers, episodes=table, **header)

    return write


def test_stores_are_joined_by_id(store):
    order = [*range(63, -1, -1)]
    path_u = store("understanding", prediction=["do thing 0"] * 64)
    path_e = store("execution", success=[1, 0] * 32)
    with open_features(path_u) as file_u, open_features(path_e) as file_e:
        pair = load_pair(file_u, file_e)
    assert pair.items.success_u.tolist() == [1] * 8 + [0] * 56
    assert pair.items.success_e.tolist() == [1, 0] * 32
    assert (pair.origin_u.model, pair.origin_e.layer, pair.origin_e.trained) == ("viclip", "e", False)
    assert order[0] == 63


def test_episodes_on_one_side_only_are_refused_or_left_out(store):
    path_u, path_e = store("understanding"), store("execution", keep=slice(0, 60))
    with open_features(path_u) as file_u, open_features(path_e) as file_e:
        with pytest.raises(FeatureError, match=r"\(64 and 60, 60 in both\)[\s\S]*missing from e: t/0/episode60"):
            load_pair(file_u, file_e)
        shared = load_pair(file_u, file_e, episodes="shared")
        assert len(shared.items) == len(shared.u) == 60
        with pytest.raises(FeatureError, match="holds features of the execution side"):
            load_pair(file_e, file_u)
        with pytest.raises(FeatureError, match=r"blocks.9"):
            load_pair(file_u, file_e, layer_u="blocks.9", episodes="shared")


def test_other_instructions_are_refused_but_blanked_ones_are_not(store):
    path_u = store("understanding")
    for words, fine in (("", True), ("something else", False)):
        path_e = store("execution", instruction=[words] * 64)
        with open_features(path_u) as file_u, open_features(path_e) as file_e:
            if fine:
                assert load_pair(file_u, file_e).items.instructions[0] == "do thing 0"
            else:
                with pytest.raises(FeatureError, match=r"64 episodes .* have other instructions"):
                    load_pair(file_u, file_e)


def paired(path_u, path_e, **options):
    with open_features(path_u) as file_u, open_features(path_e) as file_e:
        return load_pair(file_u, file_e, **options)


@pytest.mark.parametrize("column", ["instruction", "task", "partition"])
def test_stores_that_disagree_in_a_label_are_refused(column, store):
    given = {
        "instruction": [f"do thing {i // 8}" for i in range(64)],
        "task": ["t"] * 64,
        "partition": ["train"] * 32 + ["test"] * 32,
    }
    path_u = store("understanding", **given)
    assert paired(path_u, store("execution", **given)).items.notes == ()
    not_given = paired(path_u, store("execution", **{**given, column: [""] * 64})).items
    for name, values in given.items():
        assert getattr(not_given, f"{name}s").tolist() == values
    changed = list(given[column])
    changed[3] = {"instruction": "do another", "task": "s", "partition": "test"}[column]
    path_e = store("execution", **{**given, column: changed})
    with pytest.raises(
        FeatureError, match=rf"1 episodes \('t/0/episode3'\) have other {column}s: .*viclip.*arp"
    ) as caught:
        paired(path_u, path_e)
    assert f"{given[column][3]!r} in {path_u} and {changed[3]!r} in {path_e}" in str(caught.value)


def test_labels_that_only_one_store_has_are_taken_from_it(store):
    path_u = store("understanding", instruction=[""] * 64, prediction=["do thing 0"] * 64)
    items = paired(path_u, store("execution")).items
    assert items.instructions.tolist() == [f"do thing {i // 8}" for i in range(64)]
    assert items.success_u.tolist() == [1] * 8 + [0] * 56


def test_other_spellings_are_one_instruction_in_groups_and_in_recognition(store):
    words = [f"Do  thing {i // 8}" if i % 2 else f"do thing {i // 8}" for i in range(64)]
    predicted = [text.upper() for text in words[:-2]] + ["", "do thing 0"]
    items = paired(store("understanding", instruction=words, prediction=predicted), store("execution")).items
    assert len(set(items.instructions)) == 8
    assert items.success_u.tolist() == [1] * 62 + [-1, 0]
    assert any(note.startswith("instructions: 8 are spelled in several ways") for note in items.notes)


def test_other_data_under_the_same_ids_are_noted(store, tmp_path):
    path_u, path_e = store("understanding", data="a" * 64), store("execution", data="b" * 64)
    (note,) = paired(path_u, path_e).items.notes
    assert "were made from other data (fingerprints aaaaaaaaaaaa and bbbbbbbbbbbb)" in note
    rows, _ = align_stores([StoredPair(path_u, path_e)], tiny(shuffled=False), table=tmp_path / "t.csv", quiet=True)
    assert note in rows.attrs["notes"]
    for data in ("", "a" * 64):
        assert paired(path_u, store("execution", data=data)).items.notes == ()


@pytest.mark.parametrize("column", ["instruction", "task", "partition"])
def test_a_foreign_store_with_gaps_is_refused_with_the_episode(column, store):
    """Such stores cannot be written any more, but older and foreign ones are there."""
    label = {"instruction": "do thing 0", "task": "t", "partition": "test"}[column]
    path_u = store("understanding", **{column: [label] * 64})
    path_e = store("execution", **{column: [label] * 64})
    edit(path_u, column, 5, b"")
    with pytest.raises(FeatureError, match=r"viclip.*row 5"):
        paired(path_u, path_e)


def test_a_foreign_store_of_other_partition_names_is_mapped_or_refused(store):
    parts = ["train"] * 32 + ["test"] * 32
    path_u, path_e = (store(side, partition=parts) for side in ("understanding", "execution"))
    for row in range(32):
        edit(path_u, "partition", row, b"Train")
    items = paired(path_u, path_e).items
    assert items.partitions.tolist() == parts
    assert items.notes == (f"{path_u}: partitions: 'Train' is read as 'train'",)
    edit(path_u, "partition", 7, b"seen")
    with pytest.raises(FeatureError, match=r"viclip.*'seen' is not known; a partition is one of train, val, test"):
        paired(path_u, path_e)


def edit(path, column, row, value):
    """Change one cell as another program would have written it, digest and all."""
    with open_features(path) as file:
        described = [(f"layers/{name}/values", describe_values(file.layer(name).values)) for name in file.layers]
        attributes = {
            name: file._contents.attributes[name] for name in file.attrs if name not in ("digest", "training")
        }
    with h5py.File(path, "r+") as file:
        file[f"episodes/{column}"][row] = value
        small = [(f"episodes/{name}", file[f"episodes/{name}"][...]) for name in file["episodes"]]
        small += [(f"layers/{name}/offsets", file[f"layers/{name}/offsets"][...]) for name in file["layers"]]
        digest = content_digest(attributes, [*small, *described]).encode()
        file.attrs.create("digest", np.array(digest), dtype=h5py.string_dtype("utf-8", len(digest)))


def test_ids_that_only_look_alike_are_named(store):
    forms = [[unicodedata.normalize(form, f"caf\u00e9 {i}") for i in range(64)] for form in ("NFD", "NFC")]
    path_u, path_e = store("understanding", id=forms[0]), store("execution", id=forms[1])
    text = r"64 ids differ only in case, blanks or Unicode form, such as 'cafe\\u0301 0' and 'caf\\xe9 0'; write them"
    with pytest.raises(FeatureError, match=text):
        paired(path_u, path_e)
    path_e = store("execution", id=[*forms[0][:63], forms[1][63]])
    assert "1 ids differ only in case" in paired(path_u, path_e, episodes="shared").items.notes[0]


def joined(paths):
    pairs, notes = join_stores(paths)
    names = {(p.u.parts[-3], p.u.stem[-1], p.e.parts[-3], p.e.parts[-2], p.e.stem[-1]) for p in pairs}
    assert len(names) == len(pairs)
    return names, notes


def test_runs_are_joined_by_source_family_and_step(store):
    paths = [store("understanding", step=step) for step in (0, 5)]
    paths += [store("understanding", model="pixels")]
    paths += [store("execution", step=step) for step in (0, 5)]
    paths += [store("execution", source="demos-blank", step=5), store("execution", source="rollouts", step=5)]
    names, notes = joined(paths)
    assert names == {
        ("viclip", "0", "arp", "demos", "0"),
        ("viclip", "5", "arp", "demos", "5"),
        ("viclip", "0", "arp", "demos-blank", "5"),
        ("viclip", "5", "arp", "demos-blank", "5"),
        ("pixels", "0", "arp", "demos", "0"),
        ("pixels", "0", "arp", "demos", "5"),
    }  # and no control of a control: pixels with blanked instructions
    assert notes == ["arp on rollouts: no understanding features of source 'rollouts'"]


def test_models_of_different_trainings_do_not_meet(store):
    paths = [store("understanding", model="pixels")]
    for training in ("baseline", "joint"):
        for step in (0, 5):
            paths.append(store("understanding", model=f"viclip-{training}", step=step, training=training))
            paths.append(store("execution", model=f"arp-{training}", step=step, training=training))
    own = {(f"viclip-{one}", step, f"arp-{one}", "demos", step) for one in ("baseline", "joint") for step in "05"}
    pixels = {("pixels", "0", f"arp-{one}", "demos", step) for one in ("baseline", "joint") for step in "05"}
    names, notes = joined(paths)
    assert names == own | pixels
    assert notes == []
    names, _ = joined([*paths, store("understanding", model="foreign")])  # of no training: meets all
    assert names == own | pixels | {("foreign", *rest) for _, *rest in pixels}
    store("execution", model="arp-joint", step=0)  # now names no training: it belongs to the one that its model has
    assert joined(paths)[0] == own | pixels
    with pytest.raises(FeatureError, match="no understanding features of source 'demos' of training 'joint'"):
        join_stores([paths[1], paths[8]])


def test_rollouts_join_only_when_they_are_the_same_episodes(store):
    paths = [store("understanding", model="viclip", source="rollouts", step=5, data="of arp-a")]
    paths += [
        store("execution", model=f"arp-{name}", source="rollouts", step=5, data=f"of arp-{name}") for name in "ab"
    ]
    assert joined(paths)[0] == {("viclip", "5", "arp-a", "rollouts", "5")}


def test_heads_for_rollouts_are_fitted_on_demonstrations_of_the_same_models(store):
    paths = [store("understanding", model="pixels"), store("understanding", model="pixels", source="rollouts", step=5)]
    for source in ("demos", "rollouts"):
        for step in (0, 5):
            paths.append(store("understanding", source=source, step=step, training="joint"))
            paths.append(store("execution", source=source, step=step, training="joint"))
    paths.append(store("execution", source="demos-blank", step=5, training="joint"))
    paths += [store("execution", source="rollouts-blank", step=step, training="joint") for step in (0, 5)]
    pairs, notes = join_stores(paths, fit_on="demos")

    def name(path):
        return None if path is None else f"{path.parts[-3]}/{path.parts[-2]}/{path.stem[-1]}"

    found = {(name(p.u), name(p.e)): (name(p.fit_u), name(p.fit_e)) for p in pairs}
    assert found["viclip/rollouts/5", "arp/rollouts/5"] == ("viclip/demos/5", "arp/demos/5")
    assert found["viclip/rollouts/0", "arp/rollouts/0"] == ("viclip/demos/0", "arp/demos/0")
    assert found["viclip/rollouts/5", "arp/rollouts-blank/5"] == ("viclip/demos/5", "arp/demos-blank/5")
    assert found["pixels/rollouts/5", "arp/rollouts/5"] == ("pixels/demos/0", "arp/demos/5")
    assert found["viclip/rollouts/0", "arp/rollouts-blank/0"] == (None, None)
    assert found["viclip/demos/5", "arp/demos/5"] == (None, None)
    assert any("arp step 0 (rollouts-blank): no features of the same models on demos" in note for note in notes)


def test_other_steps_join_in_order_and_say_so(store):
    paths = [store("understanding", step=step) for step in (0, 4)] + [store("execution", step=step) for step in (0, 7)]
    names, notes = joined(paths)
    assert names == {("viclip", "0", "arp", "demos", "0"), ("viclip", "4", "arp", "demos", "7")}
    assert "steps differ (0, 4 and 0, 7), joined in order" in notes[0]
    names, notes = joined([*paths, store("execution", step=4)])
    assert names == {("viclip", "0", "arp", "demos", "0"), ("viclip", "4", "arp", "demos", "4")}
    assert "only steps that both have are joined" in notes[0]


def test_a_missing_side_is_named(store):
    with pytest.raises(FeatureError, match="no features of the execution side among 1 stores"):
        join_stores([store("understanding")])
    with pytest.raises(FeatureError, match="no understanding and execution stores fit together"):
        join_stores([store("understanding"), store("execution", source="rollouts")])


def test_stores_are_measured_into_a_table_that_is_kept(store, tmp_path):
    stored = [StoredPair(store("understanding"), store("execution", layer="blocks.1"))]
    pixels = StoredPair(store("understanding", model="pixels"), stored[0].e)
    table = tmp_path / "results" / "alignment.csv"
    given = {"table": table, "heads": tmp_path / "heads", "layer_u": "u", "layer_e": "blocks.1", "quiet": True}
    first, whole = align_stores(stored, tiny(), **given)
    assert len(first) == len(whole) == len(read_alignment(table))
    stamp = table.stat().st_mtime_ns
    again, _ = align_stores(stored, tiny(), **given)
    pd.testing.assert_frame_equal(again, first)
    assert table.stat().st_mtime_ns == stamp
    second, whole = align_stores([pixels], tiny(), **given)
    assert set(second["understanding"]) == {"pixels"}
    assert len(whole) == len(first) + len(second)
    text = summary_table(whole)
    assert "viclip step 0 untrained" in text
    assert "[blocks.1]" in text


ALIGN = """
import sys
from pathlib import Path
from mnprobe.probe import AlignConfig, FitConfig, StoredPair, align_stores, alignment
alignment._SAVE_EVERY = 0.0
u, e, folder, holdout = sys.argv[1:]
config = AlignConfig(fit=FitConfig(dim=4, steps=1), seeds=2, splits=2, draws=2, bound_draws=2, holdout=holdout)
print("ready", flush=True)
sys.stdin.readline()
align_stores([StoredPair(Path(u), Path(e))], config, table=Path(folder) / "alignment.csv", heads=Path(folder) / "heads",
             hits=Path(folder) / "hits", quiet=True)
"""


def test_commands_that_measure_into_one_table_at_once_leave_what_they_leave_one_after_the_other(
    store, tmp_path, monkeypatch
):
    pair = [str(store("understanding")), str(store("execution"))]
    holdouts = ("episodes", "instructions")

    def start(folder, holdout):
        command = [sys.executable, "-c", ALIGN, *pair, str(folder), holdout]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    monkeypatch.setattr(alignment, "_SAVE_EVERY", 0.0)
    for holdout in holdouts:
        folder = tmp_path / "in turn"
        given = {"table": folder / "alignment.csv", "heads": folder / "heads", "hits": folder / "hits"}
        align_stores([StoredPair(*map(Path, pair))], tiny(holdout=holdout), **given, quiet=True)
    together = [start(tmp_path / "at once", holdout) for holdout in holdouts]
    for process in together:
        assert process.stdout.readline() == "ready\n"
    for process in together:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in together:
        process.communicate()
        assert process.returncode == 0
    for path in (tmp_path / "in turn").rglob("*.*"):
        if path.suffix != ".lock":
            assert (tmp_path / "at once" / path.relative_to(tmp_path / "in turn")).is_file()
    tables = [tmp_path / name / "alignment.csv" for name in ("in turn", "at once")]
    assert tables[0].read_bytes() == tables[1].read_bytes()
    assert set(read_alignment(tables[0])["holdout"]) == set(holdouts)


def test_rows_of_other_commands_stay_and_stale_ones_go(store, tmp_path, monkeypatch):
    """Another command writes while this one measures: its rows stay, and outdated ones of this one go all the same."""
    given = {"table": tmp_path / "alignment.csv", "quiet": True}
    stored = [StoredPair(store("understanding"), store("execution"))]
    pixels = [StoredPair(store("understanding", model="pixels"), stored[0].e)]
    align_stores(stored, tiny(k=(1,)), **given)
    outdated = read_alignment(given["table"])["config_hash"].iloc[0]
    original = runs.fit_heads

    def meanwhile(*args, **named):
        monkeypatch.setattr(runs, "fit_heads", original)
        align_stores(pixels, tiny(), **given)
        return original(*args, **named)

    monkeypatch.setattr(runs, "fit_heads", meanwhile)
    rows, whole = align_stores(stored, tiny(), **given)
    assert set(whole["understanding"]) == {"viclip", "pixels"}
    assert outdated not in set(whole["config_hash"])
    pd.testing.assert_frame_equal(read_alignment(given["table"]), whole)
    assert set(rows["understanding"]) == {"viclip"}
    alone, _ = align_stores(stored, tiny(), table=tmp_path / "alone.csv", quiet=True)
    pd.testing.assert_frame_equal(rows, alone)


def test_rows_wait_to_be_saved_and_none_is_lost(pair, monkeypatch):
    saved = []
    whole = align(pair, tiny(), every=1e9, on_rows=saved.append)
    assert [len(frame) for frame in saved] == [len(whole)]
    pd.testing.assert_frame_equal(saved[0], whole)
    calls = []
    original = runs.fit_heads

    def interrupted(*given, **named):
        calls.append(named["seed"])
        if len(calls) == 6:
            raise KeyboardInterrupt
        return original(*given, **named)

    monkeypatch.setattr(runs, "fit_heads", interrupted)
    saved.clear()
    with pytest.raises(KeyboardInterrupt):
        align(pair, tiny(), every=1e9, on_rows=saved.append)
    assert len(saved) == 1
    assert set(saved[0]["control"]) == {"none"}  # three fits of the first measurement; the second was under way


@pytest.fixture
def measured(store, tmp_path):
    """Align two stores into the table of the run around them; gives what run.toml then says of it."""
    RunDir.create(tmp_path, {"train": {"seed": 3}})
    stored = [StoredPair(store("understanding"), store("execution"))]

    def call(config, **given):
        table = tmp_path / "results" / "alignment.csv"
        align_stores(stored, config, table=table, layer_u="u", layer_e="e", quiet=True, **given)
        return RunDir(tmp_path).config

    return call


def test_the_settings_of_a_table_are_kept_in_its_run(measured):
    config = tiny(fit=FitConfig(dim=6, steps=2, lr=2.73e-3, batch=61, tau=0.1234), test_share=0.4)
    found = measured(config, pool_u="max", pool_e="last")
    assert found["train"] == {"seed": 3}
    section = found["align"][config.digest()]
    assert section.pop("optimiser") == "Adam"
    assert section.pop("optimiser_steps") == 2
    asked = section.pop("asked")
    section["fit"]["epochs"] = None  # TOML has no none
    assert config_hash(section) == config.digest()  # every setting that changes numbers, with its exact value
    assert asked == [
        {
            "holdout": config.holdout,
            "split": "all",
            "shuffled": config.shuffled,
            "layers_u": ["u"],
            "pools_u": ["max"],
            "layers_e": ["e"],
            "pools_e": ["last"],
            "episodes": "all",
        }
    ]


def test_no_call_of_align_displaces_the_settings_of_another(measured, tmp_path):
    first, other = tiny(), tiny(fit=FitConfig(dim=5, epochs=3))
    measured(first)
    measured(first, pool_u="max")
    found = measured(other)["align"]
    assert list(found) == [first.digest(), other.digest()]
    assert [one["pools_u"] for one in found[first.digest()]["asked"]] == [["mean"], ["max"]]
    assert found[other.digest()]["fit"]["epochs"] == 3
    assert "optimiser_steps" not in found[other.digest()]
    before = (tmp_path / "run.toml").stat().st_mtime_ns
    measured(first)  # all is kept and all is said
    assert (tmp_path / "run.toml").stat().st_mtime_ns == before


def test_how_many_steps_the_default_takes_is_told(tmp_path, pair):
    RunDir.create(tmp_path)
    record_settings(tmp_path / "results" / "a.csv", AlignConfig(), [pair])
    (section,) = read_settings(RunDir(tmp_path)).values()
    assert section["optimiser_steps"] == "until the loss is flat, at most 2000"
    record_settings(tmp_path.parent / "elsewhere.csv", tiny(), [pair])  # in no run: nothing to write into
    assert len(read_settings(RunDir(tmp_path))) == 1


def test_a_damaged_run_is_refused_before_anything_is_measured(measured, tmp_path):
    (tmp_path / "run.toml").write_text("[")
    with pytest.raises(ConfigError, match="is damaged"):
        measured(tiny(), heads=tmp_path / "heads")
    assert not (tmp_path / "heads").exists()


def test_shared_episodes_come_with_a_note_that_counts_those_left_out(store):
    """Of 64 and 60 episodes 60 are shared: rows by id, equal arrays from files and paths, and one note."""
    path_u, path_e = store("understanding"), store("execution", keep=slice(0, 60), success=[1, 0] * 32)
    pair = load_pair(path_u, path_e, episodes="shared")
    assert pair.items.notes == (
        f"{path_u} and {path_e} share 60 episodes; 4 only in the first and 0 only in the second are left out",
    )
    with open_features(path_u) as file_u, open_features(path_e) as file_e:
        again = load_pair(file_u, file_e, episodes="shared")
        assert pair.u.tolist() == file_u.layer("u").pooled()[:60].tolist()
        assert file_u.layers  # a store that was given open stays open
    assert pair.digest() == again.digest()
    assert load_pair(path_u, store("execution")).items.notes == ()
    rows = pair.take(np.arange(60) % 7 == 0)
    assert rows.episodes["id"].tolist() == rows.items.ids.tolist() == pair.items.ids[::7].tolist()
    assert rows.items.success_e.tolist() == ([1, 0] * 30)[::7]
    assert rows.episodes["success"].tolist() == pair.columns["success"].tolist()[::7]
    with pytest.raises(FeatureError, match="share no episode: the first ids are 't/0/episode0' and 't/0/episode60'"):
        load_pair(store("understanding", keep=slice(0, 60)), store("execution", keep=slice(60, 64)), episodes="shared")


def test_a_narrow_summary_says_the_same_in_a_hundred_characters():
    joint = read_alignment(Path(__file__).parent.parent / "golden" / "run-tables" / "alignment.csv")
    joint = joint.assign(understanding="viclip-joint", execution="arp-joint")
    names = {"understanding": "viclip-baseline", "execution": "arp-baseline"}
    baseline = joint.assign(**names, ci_low=joint["ci_low"] / 2)
    pixels = joint.assign(understanding="pixels", layer_u="pixels", ci_low=joint["ci_low"] / 4)
    table = pd.concat([joint, baseline, pixels])
    whole, narrow = summary_table(table), summary_table(table, width=100)
    assert max(map(len, whole.splitlines())) > 130
    assert max(map(len, narrow.splitlines())) <= 100
    assert "pairs: viclip-… x arp-…" in narrow
    assert "pixels x joint" in narrow

    def scores(text):
        return sorted(re.findall(r"[+-]?\d\.\d{3} to [+-]?\d\.\d{3}", text))

    assert scores(narrow) == scores(whole)
