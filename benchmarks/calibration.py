"""Whether the tests and intervals keep their word: simulated data without and with a difference (docs/statistics.md).

    python benchmarks/calibration.py --datasets 1000 --out docs/calibration

Every data set has 10 to 30 instructions of unequal size, three to a task, each with its own difficulty; harder
instructions succeed less often, so successes and failures are unequal, and matched by the draws that `mnprobe align`
makes. Three kinds: "hits" (a hit or miss of each episode, nothing shared), "one probe" (features, retrieval in each
balanced draw), "own probes" (features, a closed-form probe fitted for each outcome and draw, then retrieval).

Beside the intervals of mnprobe (cluster jackknife) stand those of the cluster bootstrap: whole instructions drawn with
replacement, percentiles taken further out where they are few (Hesterberg 2015), at the same simulated data. Intervals
of one Recall@1 are held against its mean over all data sets: five kinds, some with few instructions.

The one decision rule (`mnprobe.analysis.audit.effects.decide`) is checked on questions of 6 comparisons with one claim:
how often any is called more or less where none differs, how often a planted difference is called more, and how often a
difference of 0, and one as large as the margin, is called none.
"""

import argparse
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from mnprobe.analysis.audit.effects import MARGIN, decide_rows, from_intervals, from_pairs, over_trainings
from mnprobe.analysis.figures.style import INK, PALETTE, house_style, new_figure, save_figure
from mnprobe.analysis.statistics import (
    cluster_jackknife,
    detectable_difference,
    effective_blocks,
    expected_error,
    outcome_contrast,
    paired_contrast,
)
from mnprobe.analysis.tables.alignment import write_table
from mnprobe.core.errors import TooFewSamples
from mnprobe.probe import Items, balanced_draw

Array = NDArray[np.float64]
KINDS = ("hits", "one probe", "own probes")
MEANS = (("hits", 15, False), ("one probe", 15, False), *(("own probes", n, n < 24) for n in (8, 12, 24)))
"""Kind, instructions, and whether these have equally many episodes, of data for one Recall@1."""
_SIZE, _COVERAGE, _POWER = (0.035, 0.065), (0.93, 0.97), (0.75, 0.85)
_AT_MOST, _AT_LEAST = (0.0, 0.065), (0.75, 1.0)
_FAMILY = 6  # leading comparisons of one question
_DECISIONS = {
    "decide: no difference": _AT_MOST,
    "decide: planted": _POWER,
    "decide: practically none": _AT_LEAST,
    "decide: as large as the margin": _AT_MOST,
}


class Data(NamedTuple):
    """One simulated data set: instruction, difficulty and outcome of every episode, and features of both sides."""

    names: NDArray[np.int64]
    hard: Array
    items: Items
    u: Array
    e: Array
    other: Array  # a second e, as good as the first: for paired comparisons


def simulate(rng: np.random.Generator) -> Data:
    count = int(rng.integers(10, 31))
    sizes = np.clip(np.rint(rng.pareto(1.2, count) * 4 + 6), 6, 40).astype(int)
    names = np.repeat(np.arange(count), sizes)
    hard = rng.random(count)
    rate = np.clip(0.15 + 0.7 * (1 - hard) + 0.15 * rng.normal(size=count), 0.1, 0.9)
    success = (rng.random(len(names)) < rate[names]).astype(np.int8)
    place = rng.normal(size=(count, 8)) + 0.7 * rng.normal(size=(count // 3 + 1, 8))[np.arange(count) // 3]
    noise = (0.4 + 0.9 * hard)[names, None]
    sides = [(place[names] + noise * rng.normal(size=(len(names), 8))) @ rng.normal(size=(8, 12)) for _ in range(3)]
    items = Items.of(
        ids=np.arange(len(names)).astype(str),
        instructions=np.char.mod("do %d", names),
        tasks=np.char.mod("task %d", names // 3),
        success_e=success,
    )
    return Data(names, hard, items, *sides)


def draws(data: Data, number: int, seed: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(train, test) of success and failure in turn, as `mnprobe align --split success` draws them."""
    found = []
    for draw in range(number):
        drawn = balanced_draw(data.items, "episodes", sides=["execution"], draw=draw, seed=seed)
        found += [(part.train, part.test) for part in drawn.values()]
    return found


def probe(u: Array, e: Array, names: NDArray[np.int64], train: NDArray[np.int64]) -> tuple[Array, Array]:
    """Closed-form heads: the leading directions in which whitened u predicts the mean whitened e of its instruction."""
    centred = [side - side[train].mean(0) for side in (u, e)]
    white = []
    for side in centred:
        values, vectors = np.linalg.eigh(side[train].T @ side[train] / len(train) + 0.1 * np.eye(side.shape[1]))
        white.append(side @ (vectors / np.sqrt(values)) @ vectors.T)
    same = names[train][:, None] == names[train]
    mean = same @ white[1][train] / same.sum(1, keepdims=True)
    left, strength, right = np.linalg.svd(white[0][train].T @ mean / len(train), full_matrices=False)
    z = white[0] @ left[:, :8] * np.sqrt(strength[:8]), white[1] @ right[:8].T * np.sqrt(strength[:8])
    return z[0] / np.linalg.norm(z[0], axis=1, keepdims=True), z[1] / np.linalg.norm(z[1], axis=1, keepdims=True)


def retrieve(z_u: Array, z_e: Array, names: NDArray[np.int64]) -> Array:
    """Hits of every item as a query, u to e and e to u (n, 2)."""
    nearness = z_u @ z_e.T
    return np.stack([names[nearness.argmax(k)] == names for k in (1, 0)], axis=1).astype(np.float64)


def scored(
    data: Data, kind: str, parts: list[tuple[NDArray[np.int64], NDArray[np.int64]]], hit: Array
) -> tuple[Array, Array]:
    """Mean hit of every episode over the draws that tested it, and its weight."""
    total, weights = np.zeros(len(data.names)), np.zeros(len(data.names))
    for place, (train, test) in enumerate(parts):
        if kind == "hits":
            hits = hit[test]
        else:
            if kind == "one probe":  # on all that neither setting of this draw tests
                tested = np.concatenate([parts[place - place % 2][1], parts[place - place % 2 + 1][1]])
                train = np.setdiff1d(np.arange(len(data.names)), tested)
            z_u, z_e = probe(data.u, data.e, data.names, train)
            hits = retrieve(z_u[test], z_e[test], data.names[test]).mean(1)
        total[test] += hits / len(test)
        weights[test] += 1 / len(test)
    return total / np.where(weights > 0, weights, 1), weights


def measure(datasets: int, seed: int, resamples: int, number: int) -> pd.DataFrame:
    counts: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    means: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for one in range(datasets):
        rng = np.random.default_rng([seed, one])
        data = simulate(rng)
        try:
            parts = draws(data, number, one)
        except TooFewSamples:
            continue
        success = data.items.success_e == 1
        rate = np.clip(0.3 + 0.4 * (1 - data.hard), 0, 1)[data.names]
        hit = (rng.random(len(data.names)) < rate).astype(np.float64)
        for kind in KINDS:
            score, weights = scored(data, kind, parts, hit)
            keep = weights > 0
            found = outcome_contrast(
                score[keep], success[keep], data.names[keep], weights=weights[keep], resamples=resamples, seed=one
            )
            counts["success minus failure", "p, outcomes exchanged within instructions", kind].append(
                found.p_within <= 0.05
            )
            counts["success minus failure", "p, whole instructions exchanged", kind].append(found.p_blocks <= 0.05)
            counts["success minus failure", "interval, jackknife t", kind].append(found.low <= 0 <= found.high)
            sides = np.stack([np.where(success[keep] == outcome, score[keep], np.nan) for outcome in (True, False)], 1)
            low, high = bootstrap(sides, data.names[keep], np.array([1.0, -1.0]), weights[keep], resamples, one)
            counts["success minus failure", "interval, bootstrap", kind].append(low <= 0 <= high)
        _power(data, parts, rng, resamples, one, counts)
        _paired(data, parts, resamples, one, counts)
        _means(rng, resamples, one, means)
    for one in range(datasets):
        _decide(np.random.default_rng([seed, one, 1]), counts)
    for kind, rows in means.items():
        table = np.array(rows)
        truth = table[:, 0].mean()
        for place, name in ((1, "interval, jackknife t (log-odds)"), (3, "interval, bootstrap")):
            counts["Recall@1", name, kind] = list((table[:, place] <= truth) & (truth <= table[:, place + 1]))
    lines: list[tuple[object, ...]] = []
    for (what, name, kind), hit_or_miss in counts.items():
        band = _POWER if "power" in what else _SIZE if name.startswith("p,") else _DECISIONS.get(what, _COVERAGE)
        share = float(np.mean(np.array(hit_or_miss, dtype=np.float64)))
        error = float(np.sqrt(share * (1 - share) / len(hit_or_miss)))
        lines.append((what, name, kind, share, error, len(hit_or_miss), *band, band[0] <= share <= band[1]))
    columns = ["what", "method", "data", "share", "standard_error", "datasets", "band_low", "band_high", "inside"]
    return pd.DataFrame(lines, columns=columns)


def _power(
    data: Data,
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64]]],
    rng: np.random.Generator,
    resamples: int,
    seed: int,
    counts: dict[tuple[str, str, str], list[float]],
) -> None:
    """Plant the difference that the counts promise to show in 80 of 100 cases."""
    _, weights = scored(data, "hits", parts, np.zeros(len(data.names)))
    keep = weights > 0
    success, names = data.items.success_e[keep] == 1, data.names[keep]
    error = expected_error(success, names, rate=0.5, weights=weights[keep])
    planted = detectable_difference(error, effective_blocks(np.bincount(names, weights[keep]).astype(np.float64)))
    if planted > 0.8:
        return
    rate = 0.5 + np.where(success, planted, -planted) / 2
    hit = (rng.random(len(rate)) < rate).astype(np.float64)
    found = outcome_contrast(hit, success, names, weights=weights[keep], resamples=resamples, seed=seed)
    counts["power 80 %", "p, outcomes exchanged within instructions", "hits"].append(found.p_within <= 0.05)
    counts["power 80 %", "p, whole instructions exchanged", "hits"].append(found.p_blocks <= 0.05)


def _paired(
    data: Data,
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64]]],
    resamples: int,
    seed: int,
    counts: dict[tuple[str, str, str], list[float]],
) -> None:
    """Two execution models that are equally good, tested on the same episodes: claim minus control."""
    test = np.sort(np.concatenate([parts[0][1], parts[1][1]]))
    train = np.setdiff1d(np.arange(len(data.names)), test)
    scores = []
    for side in (data.e, data.other):
        z_u, z_e = probe(data.u, side, data.names, train)
        scores.append(retrieve(z_u[test], z_e[test], data.names[test]).mean(1))
    found = paired_contrast(scores[0], scores[1], data.names[test], resamples=resamples, seed=seed)
    counts["claim minus control", "p, whole instructions exchanged", "own probes"].append(found.p <= 0.05)
    counts["claim minus control", "interval, jackknife t", "own probes"].append(found.low <= 0 <= found.high)
    signs = np.array([1.0, -1.0])
    low, high = bootstrap(np.stack(scores, 1), data.names[test], signs, np.ones(len(test)), resamples, seed)
    counts["claim minus control", "interval, bootstrap", "own probes"].append(low <= 0 <= high)


def _decide(rng: np.random.Generator, counts: dict[tuple[str, str, str], list[float]]) -> None:
    """What the rule says of questions without a difference, with a planted one, and at the margin."""
    nothing, planted, none, margin = _DECISIONS
    any_of, all_of = f"decide, more or less in any of {_FAMILY}", f"decide, more, one of {_FAMILY}"
    count = int(rng.integers(10, 31))
    sizes = np.clip(np.rint(rng.pareto(1.2, count) * 4 + 6), 6, 40).astype(int)
    for kind, sized in (("equal instructions", np.full(count, 10)), ("unequal instructions", sizes)):
        decided = _question(rng, sized, np.zeros(_FAMILY))
        counts[nothing, any_of, kind].append(bool(decided["decision"].isin(["more", "less"]).any()))
        names = np.repeat(np.arange(count), sized)
        error = float(np.sqrt(0.5 / len(names)))  # two hits or misses of each episode, rate one half
        blocks = effective_blocks(sized.astype(np.float64))
        difference = detectable_difference(error, blocks, level=0.05 / _FAMILY)
        if difference < 0.8:
            decided = _question(rng, sized, np.array([difference, *np.zeros(_FAMILY - 1)]), rate=0.5)
            counts[planted, all_of, kind].append(bool(decided["decision"].iloc[0] == "more"))
        for what, true in ((none, 0.0), (margin, MARGIN)):
            decided = _question(rng, np.maximum(sized, 20) * 3, np.array([true]), same=0.8)
            counts[what, "decide, none, 1 comparison", kind].append(bool(decided["decision"].iloc[0] == "none"))
    first, second = (rng.random((_FAMILY, 60)) < rate for rate in (0.4, 0.4))
    pairs = [from_pairs(a, b).over(_FAMILY) for a, b in zip(first, second, strict=True)]
    counts[nothing, any_of, "60 episodes, paired"].append(any(one.decision in ("more", "less") for one in pairs))
    trainings = []
    for _ in range(_FAMILY):
        own = 0.4 + 0.05 * rng.normal(size=(2, 3))
        episodes = 0.05 * rng.normal(size=(2, 1))  # what these test episodes add, alike in each training
        before, after = own + episodes
        ends = [
            (float(side.mean()), float(side.mean()) - 0.098, float(side.mean()) + 0.098) for side in (before, after)
        ]
        made = over_trainings(before, after, from_intervals(ends[0], ends[1], n=""))
        trainings.append(made.over(_FAMILY).decision in ("more", "less"))
    counts[nothing, any_of, "3 trainings, one test set"].append(any(trainings))
    levels = []
    for _ in range(_FAMILY):
        sides = []
        for _side in range(2):
            rate = np.clip(0.4 + 0.15 * rng.normal(size=15), 0.05, 0.95)
            hits = (rng.random((15, 8)) < rate[:, None]).astype(np.float64).ravel()
            found = cluster_jackknife(hits, np.repeat(np.arange(15), 8), shares=True)
            sides.append((float(hits.mean()), found.low, found.high))
        made = from_intervals(sides[0], sides[1], n="", degrees=14)
        levels.append(made.over(_FAMILY).decision in ("more", "less"))
    counts[nothing, any_of, "two intervals of 15 instructions"].append(any(levels))


def _question(
    rng: np.random.Generator, sizes: NDArray[np.int64], true: Array, *, rate: float | None = None, same: float = 0.0
) -> pd.DataFrame:
    """One claim against as many controls as `true` has differences, on the same episodes, decided together.

    `rate`: of hits, of all episodes (else each instruction has its own); `same`: share of episodes on which a control
    ends as the claim does.
    """
    names = np.repeat(np.arange(len(sizes)), sizes)
    rates = np.full(len(sizes), rate) if rate is not None else rng.uniform(0.3, 0.7, len(sizes))
    claim = (rng.random(len(names)) < np.minimum(rates[names] + true[0] / 2, 1)).astype(np.float64)
    rows = []
    for difference in true:
        kept = rng.random(len(names)) < same
        other = np.clip(rates[names] + true[0] / 2 - difference / (1 - same), 0, 1)
        control = np.where(kept, claim, rng.random(len(names)) < other)
        found = paired_contrast(claim, control, names, shares=True, resamples=1)
        rows.append((found.value, found.low, found.high, found.detectable, found.n_blocks, "claim"))
    table = pd.DataFrame(rows, columns=["difference", "low_95", "high_95", "detectable", "n_instructions", "asked"])
    leading = pd.Series(True, index=table.index)
    return decide_rows(table, low="low_95", high="high_95", question=["asked"], leading=leading)


def _means(rng: np.random.Generator, resamples: int, seed: int, means: dict[str, list[tuple[float, ...]]]) -> None:
    """Recall@1 itself; the truth is its mean over all data sets."""
    for kind, count, equal in MEANS:
        sizes = np.full(count, 4) if equal else np.clip(np.rint(rng.pareto(1.2, count) * 2 + 3), 3, 20).astype(int)
        fitted = 2 * sizes if kind == "own probes" else np.zeros_like(sizes)
        names = np.concatenate([np.repeat(np.arange(count), fitted), np.repeat(np.arange(count), sizes)])
        test = np.arange(fitted.sum(), len(names))
        hard = rng.random(count)
        if kind == "hits":
            values = (rng.random((len(names), 1)) < (0.15 + 0.7 * (1 - hard))[names, None]).astype(np.float64)
        else:
            place = rng.normal(size=(count, 8))
            if kind == "own probes":  # instructions of one task resemble each other
                place += 0.7 * rng.normal(size=(count // 3 + 1, 8))[np.arange(count) // 3]
            noise = (0.4 + 0.9 * hard)[names, None]
            u, e = (place[names] + noise * rng.normal(size=(len(names), 8)) for _ in range(2))
            if kind == "own probes":
                u, e = (side @ rng.normal(size=(8, 12)) for side in (u, e))
                u, e = probe(u, e, names, np.arange(fitted.sum()))
            else:
                u, e = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (u, e))
            values = retrieve(u[test], e[test], names[test])
        own = cluster_jackknife(values, names[test], shares=True)
        signs = np.full(values.shape[1], 1 / values.shape[1])
        boot = bootstrap(values, names[test], signs, np.ones(len(test)), resamples, seed)
        name = f"{kind}, {count} {'equal' if equal else 'unequal'} instructions"
        means[name].append((float(values.mean()), own.low, own.high, *boot))


def bootstrap(
    columns: Array, names: NDArray[np.int64], signs: Array, weights: Array, resamples: int, seed: int
) -> tuple[float, float]:
    """Expanded percentiles of the signed sum of the column means when whole instructions are drawn again."""
    codes = np.unique(names, return_inverse=True)[1]
    number = int(codes.max()) + 1
    here = ~np.isnan(columns)
    known = np.where(here, columns, 0.0)
    sums = np.stack([np.bincount(codes, column * weights, number) for column in known.T], 1)
    mass = np.stack([np.bincount(codes, column * weights, number) for column in here.T], 1)
    times = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=resamples)
    statistic = ((times @ sums) / (times @ mass)) @ signs
    tail = float(ndtr(np.sqrt(number / (number - 1)) * stdtrit(number - 1, 0.025)))
    low, high = (float(end) for end in np.quantile(statistic[np.isfinite(statistic)], [tail, 1 - tail]))
    if low == high and low in (0.0, 1.0) and signs.min() > 0:
        reach = 0.025 ** (1 / number)
        low, high = (0.0, 1 - reach) if low == 0.0 else (reach, 1.0)
    return low, high


def draw(table: pd.DataFrame, stem: Path) -> None:
    """One line per row: the share with two standard errors, over the band it must lie in."""
    with house_style():
        figure = new_figure(9.4, 0.27 * len(table) + 1.1)
        panels = (
            ("p,", "share of p < 0.05 without a difference"),
            ("interval", "share of intervals that hold the truth"),
        )
        power = table["what"].str.startswith("power")
        groups = [(title, table[table["method"].str.startswith(start) & ~power]) for start, title in panels]
        groups.append(("share of planted differences that are found", table[power]))
        groups.append(("share of decisions", table[table["method"].str.startswith("decide")]))
        total = sum(len(rows) + 2.6 for _, rows in groups)
        bottom = 1.0
        for title, rows in groups:
            height = len(rows) / total
            bottom -= (len(rows) + 1.3) / total
            axes = figure.add_axes((0.52, bottom + 0.01, 0.46, height * 0.98))
            bottom -= 1.3 / total
            for place, (_, row) in enumerate(rows.iterrows()):
                colour = PALETTE["green"] if row["inside"] else PALETTE["vermillion"]
                axes.plot([row["band_low"], row["band_high"]], [place] * 2, color="#DDDDDD", linewidth=9, zorder=1)
                reach = 2 * row["standard_error"]
                axes.plot([row["share"] - reach, row["share"] + reach], [place] * 2, color=colour, linewidth=1.6)
                axes.plot([row["share"]], [place], "o", color=colour)
            labels = [f"{row['what']}: {row['method'].split(', ', 1)[1]} ({row['data']})" for _, row in rows.iterrows()]
            axes.set_yticks(range(len(rows)), labels)
            axes.set_ylim(len(rows) - 0.5, -0.5)
            axes.set_title(title, loc="left", fontsize=9, color=INK)
    save_figure(figure, stem)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--datasets", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--resamples", type=int, default=399)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/calibration"))
    chosen = parser.parse_args()
    start = time.process_time()
    table = measure(chosen.datasets, chosen.seed, chosen.resamples, chosen.draws)
    write_table(table, chosen.out.with_suffix(".csv"))
    draw(table, chosen.out)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    print(f"{len(table)} rows from {chosen.datasets} data sets in {time.process_time() - start:.0f} CPU seconds")


if __name__ == "__main__":
    main()
