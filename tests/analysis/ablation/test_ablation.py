"""The ablation of Table 3 with models that train in a moment: what each cell is, and that nothing gets lost."""

import csv
import json
import os
import pickle
import signal
from dataclasses import replace

import joblib
import numpy as np
import pytest

from mnprobe.analysis.ablation.grid import ablation_cells
from mnprobe.analysis.ablation.study import ablate, open_study, plan_ablation
from mnprobe.analysis.tables.paper import ablation_table, grid_of, grid_text
from mnprobe.analysis.tables.progress import ABLATION, read_ablation
from mnprobe.core.errors import ConfigError, DataError
from mnprobe.core.rundir import RunDir
from mnprobe.features.recognition.tables import RECOGNITION
from mnprobe.models.arp import ARPConfig
from mnprobe.models.loading import read_metadata
from mnprobe.models.viclip import ViCLIPConfig
from mnprobe.training import OptimizerConfig, TrainConfig
from mnprobe.worlds.demos import DemosConfig, write_demos

TASKS = ("open_drawer", "slide_block_to_color_target")
MICRO = TrainConfig(
    viclip=ViCLIPConfig(
        image_size=16,
        patch_size=8,
        frames=2,
        width=16,
        layers=1,
        heads=2,
        embed_dim=8,
        text_context=12,
        text_width=8,
        text_layers=1,
        text_heads=2,
    ),
    arp=ARPConfig(
        image_size=28,
        patch_size=14,
        vision_width=16,
        vision_heads=2,
        vision_head_width=8,
        vision_depth=2,
        language_length=12,
        language_width=16,
        width=16,
        heads=2,
        cross_blocks=1,
        self_blocks=1,
        render_radius=0.096,
    ),
    updates=6,
    batch=4,
    understanding_share=0.5,
    dim=8,
    text_share=1.0,
    video=OptimizerConfig(kind="adamw", lr=1e-2),
    policy=OptimizerConfig(kind="adamw", lr=1e-2),
    align=OptimizerConfig(kind="adamw", lr=1e-2),
    augment="shift",
    colour_noise=False,
)
GRID = {"pairings": ("instruction", "task"), "taus": (0.1, 0.2)}
JUDGED = {"episodes": 1, "max_steps": 1, "world_options": {"image_size": 24}}


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    """One demonstration for training and one held out of each of four instructions, of two tasks."""
    folder = tmp_path_factory.mktemp("ablation") / "demos"
    options = {"image_size": 24, "renderer": "rays"}
    write_demos(
        folder, DemosConfig(options=options, tasks=TASKS, variations=(0, 1), train=1, test=1), workers=0, quiet=True
    )
    return folder


@pytest.fixture(scope="module")
def opened(demos):
    """A study of these cells in a run, made if needed."""

    def open_(path, cells, **changes):
        return open_study(RunDir.create(path), cells, data=(demos,), device="cpu", save_every=2, **(JUDGED | changes))

    return open_


@pytest.fixture(scope="module")
def finished(opened, tmp_path_factory):
    """Two by two cells and their baseline, through joblib, as a parallel_config from outside says."""
    study = opened(tmp_path_factory.mktemp("runs") / "run", ablation_cells(MICRO, **GRID))
    with joblib.parallel_config(backend="sequential"):
        return study, ablate(study, jobs=2)


def checkpoints(study, name):
    return [
        study.shared.folder / "checkpoints" / f"{part}-{name}" / f"step_{step:08d}.safetensors"
        for part in ("viclip", "arp")
        for step in (0, MICRO.updates)
    ]


def test_the_papers_grid_is_nine_cells_and_a_baseline_for_each_seed():
    cells = ablation_cells(MICRO, seeds=2)
    assert len(cells) == len({cell.name for cell in cells}) == 20
    assert [cell.name for cell in cells[:5]] == [
        "baseline-seed0",
        "pairing-episode_tau-0.02-seed0",
        "pairing-episode_tau-0.1-seed0",
        "pairing-episode_tau-0.2-seed0",
        "pairing-instruction_tau-0.02-seed0",
    ]
    for cell in cells:
        own = replace(cell.config, seed=0, pairing=MICRO.pairing, tau=MICRO.tau, lambda_align=MICRO.lambda_align)
        assert own == replace(MICRO, checkpoints=(0.0, 1.0))
        assert cell.config.checkpoint_steps() == (0, MICRO.updates)
        assert cell.config.aligns is (cell.tau is not None)


def test_temperatures_that_differ_have_names_that_differ():
    cells = ablation_cells(MICRO, pairings=("task",), taus=(0.1, 0.1000001, 1e20, 0.1))
    names = [cell.name for cell in cells[1:]]
    assert names == ["pairing-task_tau-0.1-seed0", "pairing-task_tau-0.1000001-seed0", "pairing-task_tau-1e20-seed0"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairings": ("instructions",)}, "unknown pairing 'instructions'"),
        ({"taus": (0.1, 0.0)}, r"--tau must be a positive number, got 0\.0"),
        ({"taus": (float("nan"),)}, "--tau must be a positive number, got nan"),
        ({"seeds": 0}, "--seeds must be at least 1, got 0"),
    ],
)
def test_an_impossible_grid_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ablation_cells(MICRO, **options)


@pytest.mark.parametrize("changes", [{"lambda_align": 0.0}, {"sides": "execution", "lambda_align": 0.0}])
def test_without_an_alignment_there_is_nothing_to_vary(changes):
    with pytest.raises(ConfigError, match="every cell would be the baseline"):
        ablation_cells(replace(MICRO, **changes))


def test_the_table_has_the_baseline_and_every_cell(finished):
    study, found = finished
    assert [cell.status for cell in found.cells] == ["done"] * 5
    table = read_ablation(found.table)
    assert tuple(table.columns) == ABLATION.columns
    assert table["training"].tolist() == [cell.name for cell in study.cells]
    assert table["pairing"].tolist() == ["", "instruction", "instruction", "task", "task"]
    assert table["tau"].tolist()[1:] == [0.1, 0.2, 0.1, 0.2]
    assert np.isnan(table["tau"][0])
    assert table["n_understanding"].tolist() == [4] * 5
    assert table["n_execution"].tolist() == [2] * 5
    for side in ("understanding", "execution"):
        assert (table[f"ci_low_{side}"] <= table[side]).all()
        assert (table[side] <= table[f"ci_high_{side}"]).all()


def test_its_numbers_are_those_of_the_cells_own_tables(finished):
    study, found = finished
    for row in found.rows.to_dict("records"):
        by_task = {task: [] for task in TASKS}
        with (study.shared.folder / "cells" / row["training"] / "predictions.csv").open() as file:
            for line in csv.DictReader(file):
                assert line["partition"] == "test"
                by_task[line["task"]].append(int(line["prediction"] == line["instruction"]))
        assert row["understanding"] == pytest.approx(np.mean([np.mean(hits) for hits in by_task.values()]))
        played = study.shared.folder / "rollouts" / f"arp-{row['training']}" / f"step_{MICRO.updates:08d}"
        with (played / "outcomes.csv").open() as file:
            assert row["execution"] == np.mean([int(line["success"]) for line in csv.DictReader(file)])


def test_cells_and_what_became_of_them_travel_between_processes(finished):
    study, found = finished
    for thing in (study.cells[1], study.shared, found.cells[1]):
        assert pickle.loads(pickle.dumps(thing)) == thing


def test_all_cells_start_alike_and_play_the_same_scenes(finished):
    study, _ = finished
    starts, ends, scenes = set(), set(), set()
    for cell in study.cells:
        first, last = (checkpoints(study, cell.name)[place] for place in (0, 1))
        assert read_metadata(first)["training"] == cell.name
        starts.add(weights(first))
        ends.add(weights(last))
        with next(study.shared.folder.glob(f"rollouts/arp-{cell.name}/*/outcomes.csv")).open() as file:
            scenes.add(tuple((line["id"], line["seed"]) for line in csv.DictReader(file)))
    assert (len(starts), len(ends), len(scenes)) == (1, 5, 1)


def weights(path):
    """The numbers of a checkpoint, without what it says about itself."""
    content = path.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def test_in_the_papers_shape_the_baseline_is_one_row_and_the_papers_numbers_stand_apart(finished):
    table = ablation_table(finished[1].table)
    grid = grid_of(table)
    assert [row[:2] for row in grid.rows] == [
        ("none (baseline)", "\N{EN DASH}"),
        *((pairing, tau) for pairing in ("episode", "instruction", "task") for tau in ("0.02", "0.1", "0.2")),
    ]
    assert [name for name, _ in grid.groups][1] == "ours"
    text = grid_text(table)
    assert "77.1" in text
    assert "n=4" in text


def test_the_cells_folder_is_a_run_with_tables_of_its_own(finished):
    study, _ = finished
    home = RunDir(study.shared.folder)
    table = RECOGNITION.read_or_empty(home.results("recognition"))
    assert set(table["model"]) == {f"viclip-{cell.name}" for cell in study.cells}
    assert home.results("success").is_file()
    assert not (home.path / "cache").exists()
    assert study.run.checkpoints() == []
    assert study.run.config["ablate"]["updates"] == MICRO.updates


def test_run_again_finished_cells_are_kept(finished, opened):
    study, found = finished
    before = found.table.read_bytes()
    again = ablate(opened(study.run.path, study.cells), jobs=1)
    assert [cell.status for cell in again.cells] == ["kept"] * 5
    assert again.table.read_bytes() == before
    plan = plan_ablation(study, jobs=2)
    assert plan.updates == 0
    assert {row["status"] for row in plan.rows} == {"finished"}


def test_what_is_left_is_estimated_from_a_measured_training(finished, opened):
    study, _ = finished
    plan = plan_ablation(opened(study.run.path, ablation_cells(MICRO, **GRID, seeds=3)), jobs=2)
    assert plan.updates == 2 * 5 * MICRO.updates
    spent = []
    for path in study.shared.folder.glob("training/*/result.json"):
        spent.append(json.loads(path.read_text())["seconds"] / MICRO.updates)
    assert plan.seconds_per_update == pytest.approx(np.mean(spent))
    assert plan.seconds == pytest.approx(plan.updates * np.mean(spent) / 2)


def test_a_killed_ablation_ends_as_if_it_had_not_been(finished, opened, tmp_path):
    study, found = finished
    wanted = [cell for cell in study.cells if cell.tau is None or (cell.pairing, cell.tau) == ("task", 0.1)]
    begun = opened(tmp_path / "run", wanted)
    state = begun.shared.folder / "training" / wanted[1].name / "state.pt"
    child = os.fork()
    if child == 0:
        replace_file = os.replace

        def die_with_the_first_state(source, target):
            replace_file(source, target)
            if state.exists():
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = die_with_the_first_state
        try:
            ablate(begun, jobs=1)
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert [row["status"] for row in plan_ablation(begun).rows] == ["finished", "begun"]
    ended = ablate(begun, jobs=1)
    assert [cell.status for cell in ended.cells] == ["kept", "done"]
    names = [cell.name for cell in wanted]
    whole = found.rows[found.rows["training"].isin(names)]
    assert ended.rows.to_dict("list") == whole.to_dict("list")
    for name in names:
        for mine, theirs in zip(checkpoints(begun, name), checkpoints(study, name), strict=True):
            assert mine.read_bytes() == theirs.read_bytes()


def test_judged_otherwise_trainings_are_kept_and_only_rows_that_compare_are_shown(finished, opened):
    study, _ = finished
    wanted = [study.cells[0], study.cells[1]]
    before = [path.stat().st_mtime_ns for cell in wanted for path in checkpoints(study, cell.name)]
    found = ablate(opened(study.run.path, wanted, episodes=2), jobs=1)
    assert found.rows["training"].tolist() == [cell.name for cell in wanted]
    assert found.rows["n_execution"].tolist() == [4, 4]
    assert [path.stat().st_mtime_ns for cell in wanted for path in checkpoints(study, cell.name)] == before


def test_an_ablation_begun_otherwise_is_not_mixed_with(finished, opened):
    study, _ = finished
    with pytest.raises(
        ConfigError, match=r"ablation was made with another configuration \(played\.max_steps was 1, now 2\)"
    ):
        opened(study.run.path, study.cells, max_steps=2)
    other = ablation_cells(replace(MICRO, video=OptimizerConfig(lr=0.5)), **GRID)
    with pytest.raises(
        ConfigError, match=r"ablation was made with another configuration \(.*training\.video\.lr was 0\.01, now 0\.5"
    ):
        opened(study.run.path, other)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"episodes": 0}, ConfigError, "--episodes must be at least 1 per task, got 0"),
        ({"max_steps": 99}, ConfigError, "--max-steps must be from 1 to 25, got 99"),
        ({"world": "tabletopp"}, ConfigError, "tabletopp"),
        ({"tasks": ("opn_drawer",)}, DataError, "opn_drawer"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_anything_is_trained(opened, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        opened(tmp_path / "run", ablation_cells(MICRO), **changes)
    assert not (tmp_path / "run" / "ablation").exists()


def test_without_held_out_demonstrations_there_is_nothing_to_recognize(write_demo, tmp_path):
    for variation in (0, 1):
        write_demo(tmp_path / "demos", "open_drawer", variation, "train", variation, f"open drawer {variation}", 4)
    with pytest.raises(DataError, match="there are none of test, which are recognised"):
        open_study(RunDir.create(tmp_path / "run"), ablation_cells(MICRO), data=(tmp_path / "demos",), device="cpu")


def test_without_demonstrations_their_place_is_asked_for(tmp_path):
    with pytest.raises(ConfigError, match=r"has no demos folder\. Give their folder with --data"):
        open_study(RunDir.create(tmp_path / "run"), ablation_cells(MICRO), device="cpu")
