import numpy as np
import pandas as pd
import pytest

from mnprobe.analysis.success.contrast import (
    CONTRAST_COLUMNS,
    contrast_sentences,
    contrast_table,
    read_contrasts,
    write_contrasts,
)
from mnprobe.analysis.success.figure import draw_success, last_contrasts, success_caption
from mnprobe.analysis.tables.alignment import write_table
from mnprobe.analysis.tables.episode_scores import episode_scores
from mnprobe.core.errors import ProbeError
from mnprobe.probe import AlignConfig, FitConfig, align, find_hits, pair_arrays, read_hits, write_hits


def test_episodes_are_averaged_as_the_table_does(kept_scores):
    scores = kept_scores()
    found = episode_scores(scores, "execution-success")
    slow = []
    for draw in range(6):
        chosen = (scores.splits == "execution-success") & (scores.draws == draw)
        slow.append(np.mean([np.nanmean(one, axis=0).mean() for one in scores.hits[chosen]]))
    assert found.n_draws == 6
    assert found.recall == pytest.approx(np.mean(slow))
    assert found.weights.sum() == pytest.approx(6)
    with pytest.raises(ProbeError, match="was not measured; there are execution-failure"):
        episode_scores(scores, "all")


@pytest.fixture(scope="module")
def aligned(tmp_path_factory):
    """A real measurement with its kept scores."""
    rng = np.random.default_rng(0)
    names = np.repeat(np.arange(9), 14)
    latent = rng.normal(size=(9, 5))[names]
    success = (rng.random(len(names)) < 0.5).astype(int)
    noise = np.where(success == 1, 0.4, 1.5)[:, None]
    u, e = ((latent + noise * rng.normal(size=latent.shape)).astype(np.float32) for _ in range(2))
    pair = pair_arrays(
        u, e, [f"do {k}" for k in names], ids=[f"t{k // 3}/{k}/e{i}" for i, k in enumerate(names)],
        tasks=[f"t{k // 3}" for k in names], success_e=success,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("aligned") / "results"
    config = AlignConfig(
        fit=FitConfig(dim=8, steps=25, lr=1e-2), seeds=2, draws=4, split="success", holdout="episodes", shuffled=False
    )
    table = align(pair, config, hits=folder / "hits")
    return pair, config, table, folder


def test_the_contrast_is_that_of_the_alignment_table(aligned):
    _, _, table, folder = aligned
    found = contrast_table([read_hits(path) for path in find_hits(folder / "hits")], resamples=199)
    for mode in ("own-probe", "shared-probe"):
        for where, metric in (
            ("all", "success_minus_failure@1"),
            ("within tasks", "within_task_success_minus_failure@1"),
        ):
            mine = found[(found["mode"] == mode) & (found["where"] == where)].iloc[0]
            theirs = table[(table["mode"] == mode) & (table["metric"] == metric) & (table["direction"] == "mean")]
            assert mine["difference"] == pytest.approx(theirs["value"].iloc[0], abs=1e-6)
        recall = table[
            (table["mode"] == mode) & (table["metric"] == "recall@1") & (table["direction"] == "mean")
            & (table["statistic"] == "mean")
        ].set_index("split")  # fmt: skip
        whole = found[(found["mode"] == mode) & (found["where"] == "all")].iloc[0]
        for name in ("success", "failure"):
            assert whole[name] == pytest.approx(recall.loc[f"execution-{name}", "value"], abs=1e-6)
            assert whole[f"{name}_chance"] == pytest.approx(recall.loc[f"execution-{name}", "chance"])


def test_kept_scores_survive_and_are_needed_to_go_on(aligned, tmp_path):
    pair, config, table, folder = aligned
    path = find_hits(folder / "hits", mode="own-probe")[0]
    copy = tmp_path / path.name
    write_hits(copy, read_hits(path))
    assert copy.read_bytes() == path.read_bytes()
    same = align(pair, config, hits=folder / "hits", previous=table)
    pd.testing.assert_frame_equal(same, table)
    before = path.read_bytes()
    path.unlink()
    align(pair, config, hits=folder / "hits", previous=table)
    assert path.read_bytes() == before
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    with pytest.raises(ProbeError, match="cannot be read as scores"):
        find_hits(tmp_path)


def test_a_planted_difference_is_found_and_none_where_there_is_none(kept_scores):
    found = contrast_table([kept_scores(difference=0.35), kept_scores(holdout="instructions", seed=1)], resamples=499)
    planted, null = (found[found["holdout"] == name] for name in ("episodes", "instructions"))
    assert (planted["p_holm"] < 0.05).all()
    assert (planted["ci_low"] > 0).all()
    assert (null["p_holm"] > 0.05).all()
    assert set(found["family"]) == {8}
    assert (found["p_holm"] >= found["p_bh"]).all()
    assert (found["p_bh"] >= found["p_blocks"]).all()


def test_the_table_is_written_and_read_back(aligned):
    _, _, table, folder = aligned
    write_table(table, folder / "alignment.csv")
    target = folder / "success_contrast.csv"
    written = write_contrasts(folder / "alignment.csv", folder / "hits", target, resamples=99)
    again = read_contrasts(target)
    assert tuple(again.columns) == CONTRAST_COLUMNS
    pd.testing.assert_frame_equal(again, written, check_dtype=False)
    with pytest.raises(ProbeError, match="align --split success"):
        write_contrasts(folder / "none.csv", folder / "hits", target)
    with pytest.raises(ProbeError, match="no scores of success and failure"):
        write_contrasts(folder / "alignment.csv", folder / "elsewhere", target)


def _drawn(kept_scores, **changes):
    scores = [
        kept_scores(difference=0.3, holdout=holdout, mode=mode, seed=place, **changes)
        for place, (holdout, mode) in enumerate(
            (holdout, mode) for holdout in ("episodes", "instructions") for mode in ("own-probe", "shared-probe")
        )
    ]
    return contrast_table(scores, resamples=199)


def test_the_figure_shows_every_value_and_says_how_to_read_it(kept_scores, tmp_path):
    table = _drawn(kept_scores)
    drawn = draw_success(table, stem=tmp_path / "success", note="Episodes of the world tabletop")
    assert drawn.figure.png.stat().st_size > 20_000
    svg = drawn.figure.svg.read_text()
    whole = table[(table["where"] == "all")]
    for value in whole["difference"]:
        assert f"{100 * value:+.1f} points" in svg
    for word in ("n = 2 x 36", "18 instructions", "one probe for all outcomes", "visible from"):
        assert word in svg
    assert "Holm over the 16 tests" in drawn.caption
    assert drawn.caption.endswith("Episodes of the world tabletop.")


def test_only_the_last_checkpoint_and_the_wanted_source_are_drawn(kept_scores):
    table = contrast_table(
        [kept_scores(), kept_scores(step_e=0, step_u=0), kept_scores(source_e="demos")], resamples=19
    )
    rows = last_contrasts(table, source="rollouts")
    assert set(rows["step_e"]) == {8000}
    assert set(rows["source_e"]) == {"rollouts"}
    with pytest.raises(ProbeError, match="there are demos, rollouts"):
        last_contrasts(table, source="dreams")
    assert "would have been seen" in success_caption(rows)


def test_sentences_follow_the_numbers(kept_scores):
    table = contrast_table([kept_scores(difference=0.35)], resamples=499)
    shown = contrast_sentences(table)
    assert all("successes align more than failures" in text and "within tasks too" in text for text in shown)
    inside = table["where"] == "within tasks"
    harder = table.assign(ci_low=table["ci_low"].where(~inside, -0.1))
    assert all("which tasks are hard may explain it" in text for text in contrast_sentences(harder))
    reversed_inside = table.assign(
        ci_low=table["ci_low"].where(~inside, -0.6), ci_high=table["ci_high"].where(~inside, -0.5)
    )
    reversed_inside.loc[inside, "difference"] = -0.55
    assert all("within tasks it is not shown" in text for text in contrast_sentences(reversed_inside))
    untested = contrast_sentences(table.assign(ci_low=np.nan, ci_high=np.nan, note="one instruction only"))
    assert all("cannot be compared: one instruction only" in text for text in untested)
    # p decides nothing, in either direction
    assert all("successes align more" in text for text in contrast_sentences(table.assign(p_holm=0.5)))
    wide = table.assign(ci_low=-0.1, ci_high=0.3, difference=0.1, p_holm=0.001, n_instructions=np.nan, detectable=0.12)
    # over the 4 rows of the pair, source and holdout, normal: 0.2 x 2.4977 / 1.9600, 0.12 x (2.4977 + 0.8416) / 2.8016
    told = (
        "no difference between success and failure is shown: +10.0 points (-15.5 to +35.5 over 4 comparisons), p 0.001"
    )
    assert all(f"{told}; one of 14 points would mostly have been seen" in text for text in contrast_sentences(wide))
    alike = table.assign(ci_low=-0.02, ci_high=0.03, difference=0.005, n_instructions=np.nan)
    assert all("align alike, within 5 points: +0.5 points" in text for text in contrast_sentences(alike))
