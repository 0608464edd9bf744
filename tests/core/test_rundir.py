import os

import pytest

from mnprobe.core.errors import ConfigError
from mnprobe.core.names import step_name, step_of
from mnprobe.core.rundir import RunDir, resolve_run


def test_pieces_are_found_sorted_by_number_and_unfinished_ones_are_not(tmp_path):
    run = RunDir.create(tmp_path / "first")
    for step in (100000000, 10, 2):
        path = run.features("viclip", "demos", step)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (path.parent / ".step_00000005.h5.77.part").touch()
    (path.parent / "notes.h5").touch()
    assert [piece.step for piece in run.feature_files("viclip")] == [2, 10, 100000000]
    assert run.feature_files("arp") == run.feature_files(source="demos-blank") == run.checkpoints() == []
    assert run.feature_files()[0].path == run.features("viclip", "demos", 2)


def test_what_a_command_used_is_recorded_and_read_back(tmp_path):
    run = RunDir.create(tmp_path / "first", {"init": {"seed": 3}})
    run.record("align", {"tau": 0.1, "holdout": ["episodes"], "jobs": None})
    again = RunDir(run.path).config
    assert again["init"] == {"seed": 3}
    assert again["align"] == {"tau": 0.1, "holdout": ["episodes"]}
    assert {"mnprobe", "torch"} <= set(again["run"]["versions"])


def test_creating_a_run_twice_keeps_what_it_holds(tmp_path):
    RunDir.create(tmp_path / "r").record("init", {"seed": 1})
    assert RunDir.create(tmp_path / "r", {"init": {"seed": 2}}).config["init"] == {"seed": 1}


def test_a_folder_with_other_things_is_not_taken_for_a_run(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"not empty and has no run\.toml"):
        RunDir.create(tmp_path)
    with pytest.raises(ConfigError, match="that is a file"):
        RunDir.create(tmp_path / "thesis.tex")


def test_the_newest_run_is_taken_when_none_is_named(tmp_path):
    old, new = RunDir.create(tmp_path / "b"), RunDir.create(tmp_path / "a")
    os.utime(old.config_path, (1, 1))
    assert resolve_run(None, root=tmp_path).path == new.path
    assert resolve_run(old.path).name == "b"


def test_no_run_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError, match="mnprobe init --run runs/first"):
        resolve_run(None, root=tmp_path)
    with pytest.raises(ConfigError, match="it is not there"):
        resolve_run(tmp_path / "nope")
    with pytest.raises(ConfigError, match=r"it has no run\.toml"):
        resolve_run(tmp_path)


def test_a_damaged_configuration_is_named(tmp_path):
    run = RunDir.create(tmp_path / "r")
    run.config_path.write_text("[init\n")
    with pytest.raises(ConfigError, match=r"run\.toml is damaged"):
        _ = RunDir(run.path).config


def test_steps_are_read_from_names():
    assert step_of(step_name(123456789) + ".h5") == 123456789
    assert step_of("model_80000.pth") is None
    with pytest.raises(ConfigError, match="got -1"):
        step_name(-1)


def test_commands_that_work_on_one_run_at_once_keep_each_others_sections(tmp_path):
    one = RunDir.create(tmp_path / "r")
    other = RunDir(one.path)
    assert "run" in one.config
    assert "run" in other.config  # both have read the file before either writes
    one.record("train-baseline", {"seed": 1})
    other.record("train-joint", {"seed": 1})
    assert {"train-baseline", "train-joint"} <= set(RunDir(one.path).config)


def test_a_run_that_another_process_made_meanwhile_is_kept(tmp_path, monkeypatch):
    alone = RunDir.alone

    def late(run, what):
        if not run.config_path.exists():
            monkeypatch.setattr(RunDir, "alone", alone)
            RunDir.create(run.path, {"init": {"seed": 1}})
        return alone(run, what)

    monkeypatch.setattr(RunDir, "alone", late)
    assert RunDir.create(tmp_path / "r", {"init": {"seed": 2}}).config["init"] == {"seed": 1}
