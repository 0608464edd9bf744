"""Synthetic alignment tables and feature pairs that follow the contracts, for the tests of figures and report."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mnprobe.analysis.tables import ALIGNMENT_COLUMNS


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
