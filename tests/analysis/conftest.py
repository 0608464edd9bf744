"""Synthetic alignment tables and feature pairs that follow the contracts, for the tests of figures and report."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from mnprobe.analysis.tables.alignment import ALIGNMENT_COLUMNS
from mnprobe.probe.scores import HitScores

if TYPE_CHECKING:
    from mnprobe.core.rundir import RunDir


def _row(**changes: object) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(ALIGNMENT_COLUMNS, "")
    row |= {"understanding": "viclip", "execution": "arp", "source_u": "demos", "source_e": "demos"}
    row |= {"step_u": 0, "step_e": 0, "trained_u": True, "trained_e": True, "layer_u": "u", "layer_e": "e"}
    row |= {"pool_u": "mean", "pool_e": "mean", "heads": "linear", "pairing": "instruction", "loss": "diagonal"}
    row |= {"tau": 0.1, "holdout": "episodes", "split": "all", "mode": "own-probe", "control": "none"}
    row |= {"metric": "recall@1", "direction": "mean", "statistic": "mean", "seed": -1, "draw": -1, "value": 0.5}
    row |= {"ci_low": 0.4, "ci_high": 0.6, "sd_seeds": 0.01, "chance": 0.125, "n_test": 40, "n_groups": 8}
    row |= {"n_gallery": 40, "n_train": 160, "n_train_groups": 8, "n_seeds": 5, "batch": 32, "config_hash": "c0ffee"}
    return row | changes


def _table(
    steps: tuple[int, ...] = (0, 1000, 2000, 4000, 8000),
    *,
    controls: bool = True,
    holdouts: tuple[str, ...] = ("episodes", "instructions"),
    seed: int = 0,
) -> pd.DataFrame:
    """What `mnprobe align` would write: rising alignment, its controls, one mean row and five seed rows per point."""
    generator = np.random.default_rng(seed)
    kinds: list[tuple[dict[str, object], float]] = [({}, 1.0)]
    if controls:
        kinds += [
            ({"source_e": "demos-blank"}, 0.45),
            ({"understanding": "pixels", "layer_u": "pixels", "step_u": 0, "trained_u": False}, 0.6),
            ({"source_e": "rollouts", "source_u": "rollouts"}, 0.8),
            ({"control": "shuffled"}, 0.0),
        ]
    rows = []
    for holdout in holdouts:
        chance = 0.125 if holdout == "episodes" else 0.2
        for change, share in kinds:
            for step in steps:
                height = 0.75 if holdout == "episodes" else 0.35
                value = chance + share * (height - chance) * (0.35 + 0.65 * (1 - np.exp(-step / 2000)))
                point: dict[str, object] = {"step_u": step, "step_e": step, "trained_e": step > 0, "chance": chance}
                point |= {"holdout": holdout} | change
                values = np.clip(value + 0.02 * generator.standard_normal(5), 0, 1)
                for seed_number, one in enumerate(values):
                    for direction in ("u2e", "e2u", "mean"):
                        single: dict[str, object] = {"statistic": "seed", "seed": seed_number, "value": one}
                        single |= {"direction": direction, "ci_low": "", "ci_high": "", "sd_seeds": ""}
                        rows.append(_row(**(point | single)))
                for direction in ("u2e", "e2u", "mean"):
                    mean = float(values.mean())
                    summary = {"value": mean, "ci_low": max(mean - 0.09, 0), "ci_high": min(mean + 0.09, 1)}
                    rows.append(_row(**(point | {"direction": direction} | summary)))
    return pd.DataFrame(rows)


@pytest.fixture(scope="session")
def alignment_row() -> Callable[..., dict[str, object]]:
    """Makes one row of alignment.csv; arguments replace its cells."""
    return _row


@pytest.fixture(scope="session")
def alignment_table() -> Callable[..., pd.DataFrame]:
    """Makes a whole alignment table; see `_table`."""
    return _table


@pytest.fixture
def write_alignment(tmp_path: Path) -> Callable[[pd.DataFrame], Path]:
    """Writes a table to results/alignment.csv of a run under the test's folder, and gives the run's folder."""

    def write(table: pd.DataFrame, name: str = "run") -> Path:
        run = tmp_path / name
        (run / "results").mkdir(parents=True, exist_ok=True)
        (run / "run.toml").write_text('[run]\ncreated = "2025-01-01T00:00:00+00:00"\n')
        table.to_csv(run / "results" / "alignment.csv", index=False)
        return run

    return write


_SHADES = ("red", "maroon", "lime", "green", "blue", "navy", "yellow", "cyan", "magenta", "silver")


@pytest.fixture(scope="session")
def many_instructions() -> list[tuple[str, str]]:
    """54 instructions of 18 tasks, three each, as long as those of RLBench."""
    templates = {
        "open_drawer": "open the {} drawer",
        "slide_block_to_color_target": "slide the block to {} target",
        "sweep_to_dustpan_of_size": "sweep dirt to the {} dustpan",
        "meat_off_grill": "take the {} off the grill",
        "turn_tap": "turn {} tap",
        "put_item_in_drawer": "put the item in the {} drawer",
        "close_jar": "close the {} jar",
        "reach_and_drag": "use the stick to drag the cube onto the {} target",
        "stack_blocks": "stack 4 {} blocks",
        "light_bulb_in": "screw in the {} light bulb",
        "put_money_in_safe": "put the money away in the safe on the {} shelf",
        "place_wine_at_rack_location": "stack the wine bottle to the {} of the rack",
        "put_groceries_in_cupboard": "put the {} in the cupboard",
        "place_shape_in_shape_sorter": "put the {} in the shape sorter",
        "push_buttons": "push the {0} button, then push the white button, then push the {0} button",
        "insert_onto_square_peg": "put the ring on the {} spoke",
        "stack_cups": "stack the other cups on top of the {} cup",
        "place_cups": "place {} cups on the cup holder",
    }
    return [
        (task, template.format(_SHADES[(number + 3 * place) % len(_SHADES)]))
        for place, (task, template) in enumerate(templates.items())
        for number in range(3)
    ]


@pytest.fixture(scope="session")
def write_pair() -> Callable[..., tuple[Path, Path]]:
    """Writes features of both sides that share a latent vector per instruction, and gives the paths (u, e)."""
    from mnprobe.features import write_features

    def write(
        folder: Path,
        instructions: list[tuple[str, str]],
        *,
        each: int = 4,
        noise: float = 0.5,
        step: int = 0,
        trained: bool = False,
        seed: int = 0,
        source: str = "demos",
        understanding: str = "viclip",
        execution: str = "arp",
    ) -> tuple[Path, Path]:
        generator = np.random.default_rng(seed)
        count = len(instructions) * each
        rows = np.repeat(np.arange(len(instructions)), each)
        latent = generator.standard_normal((len(instructions), 16))[rows]
        episodes = {
            "id": [f"{instructions[k][0]}/{k}/episode{i}" for i, k in enumerate(rows)],
            "task": [instructions[k][0] for k in rows],
            "instruction": [instructions[k][1] for k in rows],
            "partition": ["test" if i % each == 0 else "train" for i in range(count)],
            "success": [1] * count,
        }
        paths = []
        for side, model, layer, width in (("understanding", understanding, "u", 24), ("execution", execution, "e", 12)):
            values = latent @ generator.standard_normal((16, width)) + noise * generator.standard_normal((count, width))
            path = folder / "features" / model / source / f"step_{step:08d}.h5"
            write_features(
                path,
                layers={layer: values.astype(np.float32), "other": values[:, :5].astype(np.float32)},
                episodes=episodes,
                model=model,
                side=side,
                source=source,
                step=step,
                trained=trained,
            )
            paths.append(path)
        return paths[0], paths[1]

    return write


_TASKS = ("close_jar", "open_drawer", "push_buttons", "put_shape_in_tray", "turn_tap")
_EACH = 12  # episodes of a task
_STEPS = (0, 200, 500, 1000, 2000)


def _trained_alignment(seeds: tuple[int, ...], *, lift: float, seed: int) -> pd.DataFrame:
    """Two trainings, four sources, pixels, shuffled pairs, two holdouts, success and failure."""
    generator = np.random.default_rng(seed)
    rows = []
    for training, number in [(name, number) for name in ("baseline", "joint") for number in seeds]:
        name = training if number == 0 else f"{training}-seed{number}"
        pair = {"understanding": f"viclip-{name}", "execution": f"arp-{name}"}
        pixels = pair | {"understanding": "pixels", "layer_u": "pixels", "step_u": 0, "trained_u": False}
        own = {"source_u": "rollouts", "source_e": "rollouts", "n_test": 60}
        kinds: list[tuple[dict[str, object], float, float]] = [
            (pair, 0.62, 0.25),
            (pair | {"source_e": "demos-blank"}, 0.2, 0.2),
            (pixels, 0.4, 0.1),
            (pair | {"control": "shuffled"}, 0.0, 0.0),
            (pair | own, 0.5, 0.2),
            (pair | own | {"source_e": "rollouts-blank"}, 0.15, 0.15),
            (pixels | own, 0.3, 0.1),
            (pair | own | {"control": "shuffled"}, 0.0, 0.0),
        ]
        for holdout, chance in (("episodes", 0.125), ("instructions", 0.2)):
            for change, start, growth in kinds:
                for step in _STEPS:
                    told = 1.0 + (lift if training == "joint" else 0.0)
                    value = chance + (start + told * growth * step / _STEPS[-1]) * (1 if holdout == "episodes" else 0.3)
                    value = float(np.clip(value + 0.015 * generator.standard_normal(), 0.02, 0.98))
                    point: dict[str, object] = {"step_u": step, "step_e": step, "chance": chance, "holdout": holdout}
                    point |= {"trained_u": step > 0, "trained_e": step > 0} | change
                    limits = {"value": value, "ci_low": max(value - 0.08, 0), "ci_high": min(value + 0.08, 1)}
                    rows.append(_row(**(point | limits)))
                    rows.append(_row(**(point | limits | {"statistic": "seed", "seed": 0})))
        for step in _STEPS[1:]:
            where = pair | own | {"split": "execution-success", "step_u": step, "step_e": step, "n_test": 20}
            for split, value in (("execution-success", 0.7 + 0.05 * (training == "joint")), ("execution-failure", 0.5)):
                rows.append(
                    _row(**(where | {"split": split, "value": value, "ci_low": value - 0.1, "ci_high": value + 0.1}))
                )
            for metric, value in (("success_minus_failure@1", 0.2), ("within_task_success_minus_failure@1", 0.02)):
                found = {
                    "metric": metric,
                    "value": value,
                    "ci_low": value - 0.12,
                    "ci_high": value + 0.12,
                    "chance": 0.0,
                }
                rows.append(_row(**(where | found)))
    return pd.DataFrame(rows)


@pytest.fixture(scope="session")
def write_trained() -> Callable[..., Path]:
    """Writes a run in which baseline and joint training were measured in every way, from planted numbers.

    `lift` is what joint training adds, `seeds` the seeds of each training; the run has no features.
    """
    import json

    from mnprobe.analysis.tables.alignment import write_table
    from mnprobe.analysis.tables.rollouts import find_rollouts, success_table, wilson_interval
    from mnprobe.core.rundir import RunDir
    from mnprobe.features.text_ranking import ALL_EPISODES, ALL_TASKS, COLUMNS, PREDICTION_COLUMNS
    from mnprobe.worlds.outcomes import Outcome, write_outcomes

    def recognized(share: float, generator: np.random.Generator) -> list[tuple[str, int, int]]:
        return [
            (task, i, int(generator.random() < np.clip(share + 0.12 * (place - 2), 0, 1)))
            for place, task in enumerate(_TASKS)
            for i in range(_EACH)
        ]

    def write(folder: Path, *, seeds: tuple[int, ...] = (0,), lift: float = 0.5, seed: int = 0) -> Path:
        run = RunDir.create(folder)
        generator = np.random.default_rng(seed)
        write_table(_trained_alignment(seeds, lift=lift, seed=seed), run.results("alignment"))
        table, predictions, ablation = [], [], []
        for training, number in [(name, number) for name in ("baseline", "joint") for number in seeds]:
            name = training if number == 0 else f"{training}-seed{number}"
            for step in _STEPS:
                share = 0.1 + 0.5 * step / _STEPS[-1] * (1 + (lift if training == "joint" else 0))
                head = {"model": f"viclip-{name}", "training": name, "step": step, "trained": step > 0}
                head |= {"zero_shot": False, "source": "demos", "partition": "test", "config_hash": "c0ffee"}
                found = recognized(share, generator)
                shares = []
                for task in _TASKS:
                    hits = [hit for one, _, hit in found if one == task]
                    low, high = wilson_interval(sum(hits), len(hits))
                    shares.append(sum(hits) / len(hits))
                    counts = {"task": task, "n": len(hits), "correct": sum(hits), "top1": shares[-1]}
                    table.append(head | counts | {"ci_low": low, "ci_high": high, "chance": 1 / 20, "candidates": 20})
                for task in (ALL_TASKS, ALL_EPISODES):
                    mean = float(np.mean(shares))
                    counts = {"task": task, "n": len(found), "correct": sum(hit for *_, hit in found), "top1": mean}
                    limits = {"ci_low": max(mean - 0.09, 0), "ci_high": min(mean + 0.09, 1)}
                    table.append(head | counts | limits | {"chance": 1 / 20, "candidates": 20})
                predictions += [
                    head | {"id": f"{task}/0/episode{i}", "task": task, "correct": hit} for task, i, hit in found
                ]
                for blank, factor in (("", 1.0), ("-blank", 0.4)):
                    place = run.rollouts / f"arp-{name}{blank}" / f"step_{step:08d}"
                    place.mkdir(parents=True)
                    description = {"schema": "mnprobe.rollout/1", "world": {"name": "tabletop"}}
                    (place / "rollout.json").write_text(json.dumps(description))
                    outcomes = [
                        Outcome(
                            id=f"{task}/0/episode{i}",
                            success=hit,
                            steps=5,
                            reason="success" if hit else "step limit",
                            task=task,
                            variation=0,
                            seed=i,
                        )
                        for task, i, hit in recognized(share * factor, generator)
                    ]
                    write_outcomes(place, outcomes)
            for pairing in ("episode", "instruction", "task"):
                for tau in (0.02, 0.1, 0.2):
                    cell: dict[str, object] = {"pairing": pairing, "tau": tau, "training": f"{pairing}-{tau:g}"}
                    cell |= {"seed": number, "understanding": 0.5 + 0.1 * tau, "execution": 0.4 + 0.02 * number}
                    cell |= {"n_understanding": 60, "n_execution": 60}
                    for side, value in (("understanding", 0.5), ("execution", 0.4)):
                        cell |= {f"ci_low_{side}": value - 0.1, f"ci_high_{side}": value + 0.1}
                    ablation.append(cell)
        write_table(pd.DataFrame(table, columns=list(COLUMNS)), run.results("recognition"))
        write_table(pd.DataFrame(predictions, columns=list(PREDICTION_COLUMNS)), run.results("predictions"))
        write_table(success_table(find_rollouts(run.rollouts)), run.results("success"))
        write_table(pd.DataFrame(ablation).drop_duplicates(["pairing", "tau", "seed"]), run.results("ablation"))
        return run.path

    return write


@pytest.fixture(scope="session")
def one(write_trained: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> "RunDir":
    """A run of `write_trained` with one seed of each training; tests only read it."""
    from mnprobe.core.rundir import RunDir

    return RunDir(write_trained(tmp_path_factory.mktemp("one") / "run"))


@pytest.fixture(scope="session")
def three(write_trained: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> "RunDir":
    """A run of `write_trained` with three seeds of each training; tests only read it."""
    from mnprobe.core.rundir import RunDir

    return RunDir(write_trained(tmp_path_factory.mktemp("three") / "run", seeds=(0, 1, 2)))


def _about(**changes: object) -> dict[str, object]:
    about: dict[str, object] = {
        "understanding": "viclip", "execution": "arp", "source_u": "rollouts", "source_e": "rollouts", "step_u": 8000,
        "step_e": 8000, "trained_u": True, "trained_e": True, "layer_u": "u", "layer_e": "e", "pool_u": "mean",
        "pool_e": "mean", "heads": "linear", "pairing": "instruction", "loss": "diagonal", "tau": 0.1,
        "holdout": "episodes", "mode": "own-probe", "control": "none", "batch": 256, "config_hash": "c0ffee",
        "features_hash": "beef", "fit_source": "rollouts",
    }  # fmt: skip
    return about | changes


def _scores(
    *,
    difference: float = 0.0,
    instructions: int = 18,
    each: int = 16,
    draws: int = 6,
    seeds: int = 2,
    sides: tuple[str, ...] = ("understanding", "execution"),
    seed: int = 0,
    **about: object,
) -> HitScores:
    """Half of each instruction's episodes succeed; two of each outcome are tested in every draw."""
    rng = np.random.default_rng(seed)
    names = np.repeat(np.arange(instructions), each)
    success = np.tile(np.arange(each) % 2 == 0, instructions)
    rate = np.clip(rng.uniform(0.2, 0.7, instructions)[names] + np.where(success, difference, 0.0), 0, 1)
    hit = (rng.random((len(names), 2)) < rate[:, None]).astype(np.float32)
    splits, numbers, hits, train, test = [], [], [], [], []
    for draw in range(draws):
        for side in sides:
            for outcome, value in (("success", True), ("failure", False)):
                own = [np.flatnonzero((names == g) & (success == value)) for g in range(instructions)]
                rows = np.concatenate([rng.permutation(one)[:2] for one in own])
                for seed_number in range(seeds if draw == 0 else 1):
                    kept = np.full((len(names), 2), np.nan, np.float32)
                    kept[rows] = hit[rows]
                    splits.append(f"{side}-{outcome}")
                    numbers.append((seed_number, draw))
                    hits.append(kept)
                    test.append(np.isin(np.arange(len(names)), rows))
                    train.append(~test[-1])
    return HitScores(
        about=_about(**about),
        splits=np.array(splits),
        seeds=np.array([one[0] for one in numbers]),
        draws=np.array([one[1] for one in numbers]),
        hits=np.stack(hits),
        chance=np.full((len(splits), 2), 1 / instructions),
        train=np.stack(train),
        test=np.stack(test),
        ids=np.array([f"task_{g // 3}/{g}/episode{k}" for k, g in enumerate(names)]),
        instructions=np.array([f"do {g}" for g in names]),
        tasks=np.array([f"task_{g // 3}" for g in names]),
    )


@pytest.fixture(scope="session")
def kept_scores() -> Callable[..., HitScores]:
    return _scores
