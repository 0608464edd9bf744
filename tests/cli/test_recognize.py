"""Every option of `mnprobe recognize` arrives: in its tables, or in what is printed."""

import json
import shutil

import numpy as np
import pytest
import torch

from mnprobe.cli.main import main
from mnprobe.core.rundir import RunDir
from mnprobe.data import Camera, FrameData, look_at, pinhole, write_episode
from mnprobe.features.recognition.tables import PREDICTIONS, RECOGNITION
from mnprobe.models.loading import save_checkpoint
from mnprobe.models.viclip import ViCLIP, ViCLIPConfig

SMALL = ViCLIPConfig(
    image_size=16, patch_size=8, frames=2, width=32, layers=1, heads=1, embed_dim=16, text_width=32, text_layers=1,
    text_heads=1,
)  # fmt: skip
EPISODES = [("open", 0, "train", "open it"), ("open", 1, "test", "open that"), ("reach", 0, "test", "reach it")]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run with three episodes of two cameras and a video model at steps 0 and 7."""
    home = RunDir.create(tmp_path_factory.mktemp("cli") / "run")
    for number, (task, variation, partition, text) in enumerate(EPISODES):
        draw = np.random.default_rng(number)
        cameras = {
            name: Camera(
                name=name,
                intrinsics=pinhole(60, 12, 12),
                extrinsics=look_at([x, 0.1, 1.6], [0.2, 0, 0.9]),
                near=0.01,
                far=4.5,
            )
            for name, x in {"front": 1.2, "wrist": 1.5}.items()
        }
        frames = [
            FrameData(
                gripper_pose=[0.2, 0.01 * i, 1.0, 0, 0, 0, 1],
                gripper_open=float(i < 4),
                joint_velocities=[0.5] * 7,
                gripper_joint_positions=[0.04, 0.04],
                cameras=cameras,
                rgb={name: draw.integers(0, 256, (12, 12, 3), dtype=np.uint8) for name in cameras},
                depth={name: draw.uniform(0.6, 1.8, (12, 12)) for name in cameras},
            )
            for i in range(7)
        ]
        write_episode(
            home.demos,
            task=task,
            variation=variation,
            episode=number,
            partition=partition,
            instructions=[text],
            frames=frames,
        )
    for step in (0, 7):
        model = ViCLIP(SMALL, generator=torch.Generator().manual_seed(step))
        path = home.checkpoint("viclip-baseline", step)
        save_checkpoint(path, model.state_dict(), model="viclip", config=SMALL.to_dict(), step=step)
    return home


@pytest.fixture
def call(home, tmp_path, capsys):
    """Run the command into a folder of its own: what --json printed, and standard error."""

    def call(*arguments, out="out"):
        main(["recognize", "--run", str(home.path), "--out", str(tmp_path / out), "--json", *map(str, arguments)])

    def run(*arguments, out="out"):
        try:
            call(*arguments, out=out)
        except SystemExit as end:
            if end.code:
                return end.code, capsys.readouterr().err
        printed = capsys.readouterr()
        return json.loads(printed.out), printed.err

    return run


def test_tables_are_written_and_printed(home, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["recognize", "--run", str(home.path)])
    printed = capsys.readouterr()
    assert printed.out.startswith(f"run: {home.path}\ntop-1 recognition on demos (test)")
    assert "viclip-baseline 7 " in printed.out
    assert printed.out.rstrip().endswith(f"{home.results('recognition')} and {home.results('predictions')}")
    assert printed.err.splitlines()[-1] == "recognizing (checkpoints): 2 to do"
    assert len(RECOGNITION.read(home.results("recognition"))) == 8
    assert len(PREDICTIONS.read(home.results("predictions"))) == 4


def test_every_option_arrives(home, call, tmp_path):
    found, err = call("--step", 7, "--quiet")
    assert err == ""
    plain = found["rows"]
    assert {row["step"] for row in plain} == {7}
    assert {row["source"] for row in plain} == {"demos"}
    base = PREDICTIONS.read(tmp_path / "out" / "predictions.csv")["margin"].tolist()

    def margins(*arguments):
        found, _ = call("--step", 7, *arguments, out="other")
        table = PREDICTIONS.read(tmp_path / "other" / "predictions.csv")
        (tmp_path / "other" / "predictions.csv").unlink()
        return found["rows"], table["margin"].tolist()

    assert margins()[1] == base
    assert margins("--camera", "wrist")[1] != base
    assert margins("--frames-rule", "strided")[1] != base
    assert margins("--precision", "bf16")[1] != base
    assert margins("--batch-size", 1, "--device", "cpu")[1] == pytest.approx(base, abs=1e-6)
    rows, more = margins("--partition", "train", "--partition", "test")
    assert {row["partition"] for row in rows} == {"train+test"}
    assert len(more) == 3
    assert {row["source"] for row in margins("--source", "mine")[0]} == {"mine"}
    (tmp_path / "texts.txt").write_text("open it\nopen that\nreach it\nclose it\n")
    assert {row["candidates"] for row in margins("--candidates", tmp_path / "texts.txt")[0]} == {4}
    (tmp_path / "new.csv").write_text("task,variation,instruction\nreach,0,touch it\n")
    assert margins("--instructions", tmp_path / "new.csv")[1] != base
    assert {row["model"] for row in margins("--model", "viclip-baseline", "--name", "mine")[0]} == {"mine"}
    rows, _ = margins("--data", home.demos / "test", "--source", "half")
    assert {row["candidates"] for row in rows} == {2}


def test_given_files_and_random_weights_are_recognised_with(home, call):
    path = home.checkpoint("viclip-baseline", 7)
    found, _ = call("--checkpoint", path, "--name", "official", "--step", 0)
    assert {(row["model"], row["step"], row["zero_shot"]) for row in found["rows"]} == {("official", 0, True)}
    one, _ = call("--preset", "tiny", "--seed", 1)
    assert {(row["model"], row["trained"]) for row in one["rows"]} == {("viclip-untrained", False)}
    other, _ = call("--preset", "tiny", "--seed", 2, out="two")
    assert one["rows"][0]["config_hash"] != other["rows"][0]["config_hash"]


def test_broken_episodes_are_left_out_and_listed(home, call, tmp_path, capsys):
    shutil.copytree(home.demos, tmp_path / "data")
    for image in (tmp_path / "data").rglob("episode2/front_rgb/*.png"):
        image.write_bytes(image.read_bytes()[:60])
    arguments = ("--data", tmp_path / "data", "--step", 7)
    code, err = call(*arguments)
    assert code == 2
    assert "truncated PNG" in err
    found, err = call(*arguments, "--skip-broken")
    (message,) = found["broken"]
    assert message.startswith("reach/0/test-episode2: ")
    assert f"left out {message}" in err
    assert [row["n"] for row in found["rows"] if row["task"] == "all episodes"] == [1]
    with pytest.raises(SystemExit, match="0"):
        main(["recognize", f"--run={home.path}", f"--out={tmp_path / 'new'}", *map(str, arguments), "--skip-broken"])
    assert f"\nleft out {message}\nwrote " in capsys.readouterr().out


def test_natural_videos_are_checked_for_forgetting(home, call, tmp_path, capsys):
    av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'mnprobe[data]'")
    for label, colour in {"red_light": (200, 30, 30), "blue_light": (30, 30, 200)}.items():
        path = tmp_path / "videos" / label / "one.avi"
        path.parent.mkdir(parents=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
            image = np.full((32, 32, 3), colour, np.uint8)
            for _ in range(4):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
    videos = ("--videos", tmp_path / "videos")
    found, _ = call(*videos, "--template", "this is {}")
    assert {row["template"] for row in found["rows"]} == {"this is {}"}
    assert {(row["step"], row["reference_step"]) for row in found["rows"]} == {(0, 0), (7, 0)}
    assert [path.rsplit("/", 1)[1] for path in found["tables"]] == ["forgetting.csv", "video_predictions.csv"]
    (tmp_path / "videos" / "red_light" / "broken.mp4").write_text("no video")
    code, err = call(*videos, out="broken")
    assert code == 2
    assert "broken.mp4: cannot be decoded" in err
    found, err = call(*videos, "--skip-broken", out="broken")
    assert len(found["broken"]) == 1
    assert "left out: " in err
    with pytest.raises(SystemExit, match="0"):
        main(["recognize", f"--run={home.path}", f"--out={tmp_path / 'out'}", *map(str, videos), "--skip-broken"])
    assert "step 7 less step 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--template", "{}"], "--template: belongs to the forgetting check"),
        (["--videos", "x", "--camera", "wrist"], "--camera: is about episodes"),
        (["--videos", "x", "--partition", "test"], "--partition: is about episodes"),
        (["--videos", "absent"], "absent: there is no such folder"),
        (["--data", "absent"], "absent"),
        (["--model", "nobody"], "no checkpoints of it"),
    ],
)
def test_mistakes_end_in_one_message(call, arguments, message):
    code, err = call(*arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
