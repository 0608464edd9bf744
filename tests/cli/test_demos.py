"""Every option of `mnprobe demos` arrives: in the files, in the manifest, or in what is printed."""

import json

import pytest

from mnprobe.cli.main import main
from mnprobe.data import open_dataset, read_png
from mnprobe.worlds.record import read_situation


@pytest.fixture
def demos(capsys):
    """Run the command; return standard output, standard error and the exit code."""

    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            main(["demos", *map(str, arguments)])
        shown = capsys.readouterr()
        return shown.out, shown.err, end.value.code or 0

    return call


SMALL = ("--task", "push_buttons", "--variation", 0, "--workers", 1, "--image-size", 16)


def test_a_run_is_made_with_demonstrations_and_sheets(demos, tmp_path):
    run = tmp_path / "first"
    numbers = ("--train", 1, "--val", 1, "--test", 1, "--seed", 7, "--video-frames", 3)
    out, err, code = demos("--run", run, *SMALL, "--variation", 4, *numbers, "--sheet", "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert facts["partitions"] == {"train": 2, "val": 2, "test": 2}
    assert (facts["made"], facts["kept"], facts["renderer"], facts["world"]) == (6, 0, "rays", "tabletop")
    assert facts["sheets"] == [str(run / "figures" / "sheets" / "push_buttons.png")]
    assert "demonstrations: 6 to do" in err
    assert f"run: {run}" in err
    found = open_dataset(run / "demos")
    assert {episode.variation for episode in found} == {0, 4}
    assert {episode.success for episode in found} == {1}
    assert {read_situation(episode.folder)["seed"] // 1_000_000 for episode in found} == {0, 1, 2}
    assert read_situation(found[0].folder)["seed"] == 7
    first = found[0]
    assert read_png(first.folder / "front_rgb" / "0.png").shape == (16, 16, 3)
    assert set(first.frames_on_disk("front")) == {0, round((len(first) - 1) / 2), *first.keyframes}
    recorded = (run / "run.toml").read_text()
    assert "[demos]" in recorded
    assert "image_size = 16" in recorded
    again, _, _ = demos("--run", run, *SMALL, "--variation", 4, *numbers, "--quiet")
    assert "2 train, 2 val, 2 test (0 made now" in again


def test_quiet_and_out(demos, tmp_path):
    arguments = ("--out", tmp_path / "d", *SMALL, "--train", 1, "--test", 0, "--renderer", "rays", "--quiet")
    out, err, code = demos(*arguments, "--option", 'cameras=["front"]', "--sheet")
    assert (code, err) == (0, "")
    assert f"{tmp_path / 'd'}: 1 train, 0 val, 0 test (1 made now" in out
    assert f"wrote {tmp_path / 'd' / 'sheets' / 'push_buttons.png'}" in out
    assert open_dataset(tmp_path / "d")[0].cameras == ("front",)
    _, err, code = demos(*arguments)
    assert code == 2
    assert "world.cameras was ['front'], now ['front', 'left_shoulder'" in err


def test_sheets_of_any_demonstrations(demos, write_demo, tmp_path):
    for number in (0, 1):
        write_demo(tmp_path / "data", "open", 0, "train", number, "open it", 9)
    out, _, code = demos("--sheet", "--data", tmp_path / "data", "--out", tmp_path / "s", "--json")
    assert code == 0
    assert json.loads(out) == {"sheets": [str(tmp_path / "s" / "open.png")]}
    out, _, _ = demos(
        "--sheet", "--data", tmp_path / "data", "--out", tmp_path / "s", "--episode", "open/0/train-episode1"
    )
    assert out == f"wrote {tmp_path / 's' / 'open-0-train-episode1.png'}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "push_button"], "unknown task 'push_button'. Did you mean 'push_buttons'?"),
        (["--task", "open_drawer", "--variation", "3"], "unknown variation 3 of task 'open_drawer': it has 0 to 2"),
        (["--world", "tabeltop"], "unknown world 'tabeltop'. Did you mean 'tabletop'?"),
        (["--renderer", "ray"], "ray"),
        (["--image-size", "0"], "image_size must be a whole number from 8 to 2048, got 0"),
        (["--option", "colour=1"], "world 'tabletop'"),
        (["--train", "0", "--test", "0"], "there is no demonstration to make"),
        (["--test", "-3"], "--test must be 0 or more"),
        (["--workers", "0"], "--workers must be 1 or more, got 0"),
        (["--episode", "x"], "give --sheet as well"),
        (["--run", "r"], "--run and --out both say where to write"),
    ],
)
def test_what_cannot_be_is_one_message_and_exit_code_2(demos, tmp_path, arguments, message):
    out, err, code = demos("--out", tmp_path / "out", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
