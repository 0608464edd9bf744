"""Every option of `mnprobe extract` arrives: in the store's attributes, in its values, or in what is printed."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from mnprobe.cli.main import main
from mnprobe.core.rundir import RunDir
from mnprobe.data import Camera, FrameData, look_at, pinhole, write_episode
from mnprobe.features import open_features
from mnprobe.models.arp import ARPConfig
from mnprobe.models.clip import LanguageConfig, random_language_encoder
from mnprobe.models.loading import save_checkpoint
from mnprobe.models.viclip import ViCLIP, ViCLIPConfig

CAMERAS = {"front": 1.2, "left_shoulder": 1.3, "right_shoulder": 1.4, "wrist": 1.5}


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    """Three episodes: two tasks, train and val, four cameras of 12 x 12 pixels."""
    root = tmp_path_factory.mktemp("demos")
    for number, (task, variation, partition, text) in enumerate(
        [("open", 0, "train", "open it"), ("open", 1, "val", "open that"), ("reach", 0, "train", "reach it")]
    ):
        draw = np.random.default_rng(number)
        cameras = {
            name: Camera(
                name=name,
                intrinsics=pinhole(60, 12, 12),
                extrinsics=look_at([x, 0.1, 1.6], [0.2, 0, 0.9]),
                near=0.01,
                far=4.5,
            )
            for name, x in CAMERAS.items()
        }
        frames = [
            FrameData(
                gripper_pose=[0.2, 0.01 * i, 1.0, 0, 0, 0, 1],
                gripper_open=float(i < 6),
                joint_velocities=[0.5] * 7,
                gripper_joint_positions=[0.04, 0.04],
                cameras=cameras,
                rgb={name: draw.integers(0, 256, (12, 12, 3), dtype=np.uint8) for name in cameras},
                depth={name: draw.uniform(0.6, 1.8, (12, 12)) for name in cameras},
            )
            for i in range(13)
        ]
        write_episode(
            root,
            task=task,
            variation=variation,
            episode=number,
            partition=partition,
            instructions=[text],
            frames=frames,
        )
    return root


@pytest.fixture
def run(demos, tmp_path, capsys):
    """Run the command into a folder of its own; return the entries that --json gives, and standard error."""

    def call(*arguments, folder="out", data=demos):
        with pytest.raises(SystemExit) as end:
            main(["extract", "--data", str(data), "--out", str(tmp_path / folder), "--json", *map(str, arguments)])
        shown = capsys.readouterr()
        assert not end.value.code, shown.err
        return json.loads(shown.out), shown.err

    return call


def _asked(entry):
    with open_features(entry["path"]) as file:
        return file.attrs["provenance"]["asked"]


def _values(entry, layer):
    with open_features(entry["path"]) as file:
        return file.layer(layer).values[:]


def test_model_out_json_and_remarks(run, tmp_path):
    entries, err = run("--model", "viclip", "--model", "pixels")
    assert [entry["model"] for entry in entries] == ["viclip", "pixels"]
    assert entries[0]["path"] == str(tmp_path / "out/viclip/demos/step_00000000.h5")
    assert (entries[0]["trained"], entries[0]["episodes"], entries[0]["layers"]) == (False, 3, ["u"])
    assert "viclip: random weights of size 'tiny' from seed 0, not trained" in err
    assert "extracting (models): 2 to do" in err
    _, err = run("--model", "viclip", "--quiet", folder="quiet")
    assert err == ""


def test_data_may_be_given_several_times(run, demos):
    entries, _ = run("--model", "pixels", "--data", demos / "val", data=demos / "train")
    assert entries[0]["episodes"] == 3


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (["--partition", "val"], ["open/1/val-episode1"]),
        (
            ["--partition", "val", "--partition", "train", "--task", "open"],
            ["open/0/train-episode0", "open/1/val-episode1"],
        ),
        (["--task", "reach"], ["reach/0/train-episode2"]),
        (["--limit", "1"], ["open/0/train-episode0"]),
    ],
)
def test_which_episodes(run, options, ids):
    entries, _ = run("--model", "pixels", *options)
    with open_features(entries[0]["path"]) as file:
        assert file.episodes["id"].tolist() == ids


def test_instructions_and_outcomes(run, tmp_path):
    (tmp_path / "words.csv").write_text("task,variation,instruction\nopen,0,pull the handle\n")
    (tmp_path / "outcomes.csv").write_text("id,success\nopen/0/train-episode0,1\nreach/0/train-episode2,0\n")
    options = ["--instructions", tmp_path / "words.csv", "--outcomes", tmp_path / "outcomes.csv"]
    entries, _ = run("--model", "pixels", *options)
    with open_features(entries[0]["path"]) as file:
        assert file.episodes["instruction"].tolist() == ["pull the handle", "open that", "reach it"]
        assert file.episodes["success"].tolist() == [1, -1, 0]
    entries, _ = run("--model", "pixels", "--outcomes", "successful", folder="good")
    with open_features(entries[0]["path"]) as file:
        assert file.episodes["success"].tolist() == [1, 1, 1]


def test_checkpoint_name_and_step(run, tmp_path):
    model = ViCLIP(ViCLIPConfig.tiny(), generator=torch.Generator().manual_seed(3))
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, model.state_dict(), model="viclip", config=model.config.to_dict(), step=70)
    entries, _ = run("--checkpoint", path)
    assert (entries[0]["model"], entries[0]["step"], entries[0]["trained"]) == ("viclip", 70, True)
    named, _ = run("--checkpoint", path, "--name", "watcher", "--step", "80")
    assert (named[0]["model"], named[0]["kind"], named[0]["step"]) == ("watcher", "viclip", 80)
    seeded, _ = run("--model", "viclip", "--seed", "3", folder="seeded")
    np.testing.assert_array_equal(_values(entries[0], "u"), _values(seeded[0], "u"))


def test_seed_and_preset(run):
    first, _ = run("--model", "viclip")
    other, err = run("--model", "viclip", "--seed", "1", "--preset", "tiny", folder="b")
    assert "seed 1" in err
    assert (_asked(other[0])["seed"], _asked(other[0])["preset"]) == (1, "tiny")
    assert not np.allclose(_values(first[0], "u"), _values(other[0], "u"))


def test_config_gives_the_sizes_of_weights_that_do_not_tell_them(run, demos, tmp_path, capsys):
    config = ViCLIPConfig.tiny().to_dict() | {"heads": 6, "layers": 1}
    model = ViCLIP(ViCLIPConfig.from_dict(config), generator=torch.Generator().manual_seed(0))
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    with pytest.raises(SystemExit):
        main(
            ["extract", "--data", str(demos), "--out", str(tmp_path / "x"), "--checkpoint", str(tmp_path / "bare.pth")]
        )
    assert "no published size" in capsys.readouterr().err
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded, _ = run("--checkpoint", tmp_path / "bare.pth", "--config", tmp_path / "config.json")
    assert _asked(loaded[0])["config"] == config
    drawn, err = run("--model", "viclip", "--config", tmp_path / "config.json", folder="drawn")
    assert "random weights of the given size from seed 0" in err
    np.testing.assert_array_equal(_values(loaded[0], "u"), _values(drawn[0], "u"))
    policy = ARPConfig.tiny().to_dict() | {"self_blocks": 1}
    (tmp_path / "arp.json").write_text(json.dumps(policy))
    small, _ = run("--model", "arp", "--config", tmp_path / "arp.json", "--limit", "1", "--layer", "blocks.2")
    assert small[0]["layers"] == ["blocks.2"]


def test_source_names_the_folder_and_the_attribute(run, tmp_path):
    entries, _ = run("--model", "pixels", "--source", "rollouts")
    assert entries[0]["path"] == str(tmp_path / "out/pixels/rollouts/step_00000000.h5")
    with open_features(entries[0]["path"]) as file:
        assert file.source == "rollouts"


def test_layers(run):
    entries, _ = run("--model", "viclip", "--layer", "u", "--layer", "blocks.0", "--layer", "viclip=cls")
    with open_features(entries[0]["path"]) as file:
        assert file.layers == ("blocks.0", "cls", "u")


def test_camera_and_frames_rule(run):
    front, _ = run("--model", "pixels")
    wrist, _ = run("--model", "pixels", "--camera", "wrist", folder="b")
    strided, _ = run("--model", "pixels", "--frames-rule", "strided", folder="c")
    assert _asked(front[0])["options"] == {"camera": "front", "frames_rule": "middle", "frames": 8, "size": 8}
    assert _asked(wrist[0])["options"]["camera"] == "wrist"
    assert _asked(strided[0])["options"]["frames_rule"] == "strided"
    assert not np.allclose(_values(front[0], "u"), _values(wrist[0], "u"))
    assert not np.allclose(_values(front[0], "u"), _values(strided[0], "u"))


def test_decoding_blank_and_language(run, tmp_path):
    greedy, _ = run("--model", "arp", "--limit", "1")
    teacher, _ = run("--model", "arp", "--limit", "1", "--decoding", "teacher", folder="b")
    assert _asked(teacher[0])["options"]["decoding"] == "teacher"
    assert not np.array_equal(_values(greedy[0], "e"), _values(teacher[0], "e"))
    blank, _ = run("--model", "arp", "--limit", "1", "--blank-instruction")
    assert blank[0]["source"] == "demos-blank"
    assert not np.array_equal(_values(greedy[0], "e"), _values(blank[0], "e"))
    spoken = random_language_encoder(LanguageConfig(context=16, width=64, layers=1, heads=1, embed_dim=8), 4)
    torch.save(spoken.text.state_dict(), tmp_path / "clip.pth")
    told, _ = run("--model", "arp", "--limit", "1", "--language-weights", tmp_path / "clip.pth", folder="d")
    assert _asked(told[0])["options"]["language_weights"].startswith("sha256:")
    with open_features(told[0]["path"]) as file:
        assert file.attrs["model_config"]["language"]["trained"] is True
    assert not np.array_equal(_values(greedy[0], "e"), _values(told[0], "e"))


def test_hook_factory_side_and_options(run, tmp_path, monkeypatch):
    (tmp_path / "their_model.py").write_text(
        "import torch\n"
        "from mnprobe.features import HookTarget\n"
        "def make(checkpoint, width=2):\n"
        "    module = torch.nn.Sequential(torch.nn.Linear(1, width))\n"
        "    return HookTarget(module=module, prepare=lambda episodes: torch.ones(len(episodes), 1))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    options = ["--factory", "their_model:make", "--side", "execution", "--option", "width=5", "--layer", "0"]
    entries, err = run("--model", "hook", "--name", "theirs", *options)
    assert "depend" not in err
    assert (entries[0]["model"], entries[0]["side"], entries[0]["layers"]) == ("theirs", "execution", ["0"])
    assert _values(entries[0], "0").shape == (3, 5)


def test_options_of_an_extractor_by_key_and_value(run):
    entries, _ = run("--model", "pixels", "--option", "size=4", "--option", "frames=2")
    assert _values(entries[0], "u").shape == (3, 2 * 4 * 4 * 3)


def test_device_batch_size_dtype_and_precision(run):
    plain, _ = run("--model", "viclip", "--device", "cpu")
    options = ["--device", "auto", "--batch-size", "2", "--dtype", "float16", "--precision", "bf16"]
    rough, _ = run("--model", "viclip", *options, folder="b")
    with open_features(rough[0]["path"]) as file:
        provenance = file.attrs["provenance"]
    assert provenance["ran"]["batch_size"] == 2
    assert (provenance["asked"]["dtype"], provenance["asked"]["precision"]) == ("float16", "bf16")
    assert _values(rough[0], "u").dtype == np.float16
    assert not np.array_equal(_values(plain[0], "u").astype(np.float16), _values(rough[0], "u"))
    np.testing.assert_allclose(_values(plain[0], "u"), _values(rough[0], "u"), atol=0.1)


def test_run_and_overwrite(demos, tmp_path, capsys):
    RunDir.create(tmp_path / "run")
    command = ["extract", "--run", str(tmp_path / "run"), "--data", str(demos), "--model", "pixels"]
    for extra, code, text in (
        ([], 0, "written"),
        ([], 0, "kept"),
        (["--overwrite", "--camera", "wrist"], 0, "written"),
    ):
        with pytest.raises(SystemExit) as end:
            main([*command, *extra])
        shown = capsys.readouterr()
        assert (end.value.code or 0) == code, shown.err
        first, *rest = shown.out.splitlines()
        assert first == f"run: {tmp_path / 'run'}"
        assert rest == [f"{text} {tmp_path / 'run'}/features/pixels/demos/step_00000000.h5: 3 episodes, u, not trained"]
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 2
    assert "options.camera was 'wrist', now 'front'" in capsys.readouterr().err


def test_a_run_that_is_not_there_is_made_by_its_first_store(demos, tmp_path, capsys):
    run = tmp_path / "runs" / "new"
    for options, message in (
        (["--data", str(demos)], "not a run of mnprobe"),  # which models?
        (["--model", "pixels"], "not a run of mnprobe"),  # which episodes?
        (["--data", str(demos), "--model", "pixels", "--task", "none"], "no episode of task 'none'"),
        (["--data", str(demos), "--model", "pixels"], ""),
    ):
        with pytest.raises(SystemExit) as end:
            main(["extract", "--run", str(run), *options])
        assert (end.value.code or 0) == (2 if message else 0)
        assert message in capsys.readouterr().err
        assert run.exists() == (not message)
    assert RunDir(run).config["extract"]["data"] == [str(demos)]
    assert RunDir(run).features("pixels", "demos", 0).is_file()


def test_layer_patterns(run):
    entries, _ = run("--model", "viclip", "--model", "arp", "--layer", "viclip=*", "--layer", "e*", "--limit", "1")
    assert entries[0]["layers"][:2] == ["u", "cls"]
    assert entries[0]["layers"][2:] == [f"blocks.{i}" for i in range(len(entries[0]["layers"]) - 2)]
    assert entries[1]["layers"] == ["e"]


def test_skip_broken_leaves_out_lists_and_counts(demos, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(demos, data)
    for image in data.rglob("episode1/front_rgb/*.png"):
        image.write_bytes(image.read_bytes()[:60])
    command = ["extract", "--data", str(data), "--model", "pixels", "--out", str(tmp_path / "out")]

    def call(*more):
        with pytest.raises(SystemExit) as end:
            main([*command, *more])
        shown = capsys.readouterr()
        return end.value.code or 0, shown.out, shown.err

    code, out, err = call("--quiet")
    assert (code, out) == (2, "")
    assert "episode1" in err
    code, out, err = call("--skip-broken")
    assert code == 0
    assert out.endswith("2 episodes, u, not trained; 1 broken episode left out\n")
    assert "left out open/1/val-episode1: " in err
    assert "1 of 3 episodes left out as broken: open/1/val-episode1 (" in err
    code, out, _ = call("--skip-broken", "--json")
    (entry,) = json.loads(out)
    assert (code, entry["status"], entry["episodes"], entry["skipped"]) == (0, "kept", 2, 1)
    with pytest.raises(SystemExit):
        main(["inspect", entry["path"]])
    shown = capsys.readouterr().out
    assert "  left out   open/1/val-episode1: " in shown
    assert "episodes skipped: 1" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "viclp"], "unknown model 'viclp'. Did you mean 'viclip'?"),
        (["--model", "pixels", "--option", "size"], "--option must be KEY=VALUE, got 'size'"),
        (["--model", "pixels", "--option", "size=4", "--option", "size=5"], "--option size is given twice: 4 and '5'"),
        (["--model", "pixels", "--option", "sise=4"], "unknown option for pixels: 'sise'. Did you mean 'size'?"),
        (["--model", "viclip", "--layer", "bloks.*"], "unknown layer 'bloks.*'. Did you mean 'blocks."),
        (["--model", "hook", "--side", "execution", "--layer", "a b"], "--layer a b: a store cannot hold it"),
        (["--model", "viclip", "--camera", "top"], "no images of camera 'top'"),
        (["--model", "viclip", "--config", "none.json"], "--config none.json: cannot be read (No such file"),
        (["--model", "viclip", "--config", "x", "--preset", "tiny"], "both give the size"),
        (["--model", "pixels", "--config", "x"], "--config is of one model that has sizes, but chosen are pixels"),
        (["--checkpoint", "none.pth"], "none.pth: does not exist"),
        (["--model", "viclip", "--seed", "-1"], "--seed must be a whole number from 0 to 9223372036854775807, got -1"),
        (["--model", "viclip", "--seed", "9" * 30], "--seed must be a whole number from 0"),
        (["--model", "viclip", "--step", "9" * 30], "step must be below 10^15"),
        (["--model", "viclip", "--name", "a\nb"], "must be a plain name that can be a folder's name, got 'a\\nb'"),
        (["--model", "viclip", "--option", "camera=wrist"], "--option camera: is an option of its own; write --camera"),
        (["--model", "pixels", "--option", "size=100000"], "must be a whole number from 1 to 1024, got 100000"),
        (["--model", "arp", "--language-weights", "none"], "--language-weights none: there is no such file"),
        (["--model", "arp", "--option", "language_seed=x"], "option language_seed must be a whole number"),
        (["--model", "pixels", "--outcomes", "sucessful"], "or the word 'successful'"),
        (["--model", "hook", "--side", "execution", "--factory", "os:sep"], "factory 'os:sep' is a str"),
        (
            ["--model", "hook", "--side", "execution", "--factory", "os:fspath", "--option", "a=1"],
            "the --option arguments a, which does not fit its parameters",
        ),
    ],
)
def test_errors_are_one_message_and_code_2(demos, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as end:
        main(["extract", "--data", str(demos), "--out", str(tmp_path / "out"), "--quiet", *options])
    shown = capsys.readouterr()
    assert end.value.code == 2
    assert shown.err.startswith("mnprobe: ")
    assert message in shown.err
    assert shown.out == ""


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", 130, "interrupted. What was finished is kept: run the"),
        ("raise MemoryError", 2, "out of memory (no more can be had); ask for less, such as a smaller --batch-size"),
        ("np.zeros(10**15)", 2, "out of memory (Unable to allocate"),
        ("torch.zeros(10**15)", 2, "out of memory ("),
        ("warnings.warn('mind the gap')", 2, "mnprobe: UserWarning: mind the gap\nmnprobe: factory 'stops:make' must"),
    ],
)
def test_what_ends_a_job_from_outside_is_one_message(demos, tmp_path, line, code, message):
    (tmp_path / "stops.py").write_text(
        f"import os, signal, time, warnings\nimport numpy as np\nimport torch\ndef make(checkpoint):\n    {line}\n"
    )
    arguments = ["--data", demos, "--out", tmp_path / "out", "--model", "hook", "--side", "execution", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-m", "mnprobe", "extract", *map(str, arguments), "--factory", "stops:make"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
