"""`mnprobe rollout` from the command line: a tiny untrained policy on two tasks, features of what it played."""

import json
import shutil

import pandas as pd
import pytest

from mnprobe.cli.main import main
from mnprobe.core.rundir import RunDir
from mnprobe.data import open_dataset
from mnprobe.features import open_features
from mnprobe.worlds.rollout import read_rollout

TWO = ["--task", "open_drawer", "--task", "push_buttons"]
SMALL = ["--image-size", "24", "--workers", "0"]


@pytest.fixture
def command(capsys):
    """Run a command line; give what it printed, or, where `code` is 2, its one message."""

    def call(*arguments, code=0):
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        shown = capsys.readouterr()
        assert (end.value.code or 0) == code, shown.err
        return shown.out if code == 0 else shown.err

    return call


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with untrained tiny models whose policy played each task twice, two steps each."""
    path = tmp_path_factory.mktemp("runs") / "first"
    for arguments in (
        ["init", "--run", path],
        ["rollout", "--run", path, *TWO, "--episodes", "2", "--max-steps", "2", "--film", "1", *SMALL, "--quiet"],
    ):
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        assert not end.value.code
    return RunDir(path)


def test_the_runs_policy_plays_and_its_episodes_are_a_dataset(run):
    folder = run.rollouts / "arp" / "step_00000000"
    dataset = open_dataset(folder)
    assert [episode.id for episode in dataset] == [
        *("open_drawer/0/episode0", "open_drawer/1/episode1", "push_buttons/0/episode0", "push_buttons/1/episode1")
    ]
    assert all(episode.success in (0, 1) for episode in dataset)
    assert len(list((folder / "films").glob("*.gif"))) == 2
    assert read_rollout(folder)["max_steps"] == 2
    assert run.config["rollout"]["tasks"] == ["open_drawer", "push_buttons"]


def test_features_are_extracted_as_from_demonstrations(run, command):
    folder = run.rollouts / "arp" / "step_00000000"
    source = ["extract", "--run", run.path, "--data", folder, "--source", "rollouts"]
    entries = json.loads(command(*source, "--model", "arp", "--model", "viclip", "--json", "--quiet"))
    assert [entry["source"] for entry in entries] == ["rollouts", "rollouts"]
    dataset = open_dataset(folder)
    for entry, tokens in zip(entries, (5, 1), strict=True):
        with open_features(entry["path"]) as file:
            assert file.episodes["id"].tolist() == [episode.id for episode in dataset]
            assert file.episodes["success"].tolist() == [episode.success for episode in dataset]
            layer = file.layer(file.layers[0])
            counts = [tokens * (len(episode.keyframes) if tokens == 5 else 1) for episode in dataset]
            assert (layer.offsets[1:] - layer.offsets[:-1]).tolist() == counts


def test_played_again_everything_is_kept(run, command):
    arguments = ["rollout", "--run", run.path, *TWO, "--episodes", "2", "--max-steps", "2", "--film", "1", *SMALL]
    said = json.loads(command(*arguments, "--json", "--quiet"))
    (entry,) = said["rollouts"]
    assert (entry["model"], entry["step"], entry["played"], entry["kept"], len(entry["films"])) == ("arp", 0, 0, 4, 2)
    table = pd.read_csv(said["table"])
    assert said["table"] == str(run.results("success"))
    assert table["task"].tolist() == ["open_drawer", "push_buttons", "all tasks"]
    assert [row["n"] for row in said["success"]] == table["n"].tolist() == [2, 2, 4]
    assert set(table["world"]) == {"tabletop"}


def test_further_episodes_are_played_where_success_is_nearest_one_half(run, command, tmp_path):
    home = RunDir(tmp_path / "run")
    shutil.copytree(run.path, home.path)
    arguments = ["rollout", "--run", home.path, *TWO, "--step", "half", "--max-steps", "2", *SMALL, "--json", "--quiet"]
    (entry,) = json.loads(command(*arguments, "--episodes", "3"))["rollouts"]
    assert (entry["step"], entry["played"], entry["kept"]) == (0, 2, 4)
    (choice,) = pd.read_csv(home.results("half_success")).to_dict("records")
    assert (choice["model"], choice["step"], choice["n"]) == ("arp", 0, 4)  # from the first episodes
    (entry,) = json.loads(command(*arguments, "--episodes", "3"))["rollouts"]
    assert (entry["played"], entry["kept"]) == (0, 6)
    assert pd.read_csv(home.results("success"))["n"].tolist() == [3, 3, 6]
    assert "whole number from 0 on, or half, got 'last'" in command(
        "rollout", "--run", home.path, "--step", "last", code=2
    )


def test_features_come_with_the_episodes_and_extract_keeps_them(run, command):
    arguments = ["rollout", "--run", run.path, *TWO, "--episodes", "2", "--max-steps", "2", *SMALL, "--features"]
    said = json.loads(command(*arguments, "--json", "--quiet"))
    assert [(entry["source"], entry["episodes"], entry["layers"]) for entry in said["features"]] == [
        ("rollouts", 4, ["e", "screen"]),
        ("rollouts-blank", 4, ["e", "screen"]),
    ]
    assert RunDir(run.path).config["rollout"]["features"] is True
    source = ["extract", "--run", run.path, "--source", "rollouts", "--model", "arp", "--device", "cpu"]
    assert command(*source, "--quiet").startswith(f"kept {run.features('arp', 'rollouts', 0)}: 4 episodes, e")
    blanked = command(*source, "--blank-instruction", "--quiet")
    assert blanked.startswith(f"kept {run.features('arp', 'rollouts-blank', 0)}: 4 episodes, e")
    assert f"kept {run.features('arp', 'rollouts', 0)}: 4 episodes, e" in command(*arguments, "--quiet")


def test_table_without_a_run(tmp_path, command):
    arguments = ["--policy", "expert", "--task", "push_buttons", "--variation", "3", "--episodes", "1", "--repeat", "2"]
    said = command("rollout", "--out", tmp_path / "here", *arguments, *SMALL, "--seed", "5")
    assert f"{tmp_path / 'here/expert/step_00000000'}: 2 episodes (2 played now)" in said
    assert "push_buttons           100.0 ± 0.0 [34.2, 100.0] n=2" in said
    played = pd.read_csv(tmp_path / "here/expert/step_00000000/outcomes.csv")
    assert played[["variation", "seed", "repeat"]].to_numpy().tolist() == [[3, 5, 0], [3, 6, 1]]
    again = ["--policy", "random", "--name", "coin", "--from-demos", tmp_path / "here/expert", "--max-steps", "1"]
    command("rollout", "--out", tmp_path / "there", *again, *SMALL)
    played = pd.read_csv(tmp_path / "there/coin/step_00000000/outcomes.csv")
    assert played["demo"].tolist() == ["push_buttons/3/episode0", "push_buttons/3/episode1"]
    assert played["seed"].tolist() == [5, 6]
    assert pd.read_csv(tmp_path / "there/success.csv")["model"].tolist() == ["coin", "coin"]


def test_told_nothing_it_plays_beside(run, command):
    arguments = ["--task", "push_buttons", "--episodes", "1", "--max-steps", "1", "--blank-instruction"]
    command("rollout", "--run", run.path, *arguments, "--policy-option", "language_seed=3", *SMALL)
    said = read_rollout(run.rollouts / "arp-blank" / "step_00000000")
    assert said["policy"]["blank_instruction"] is True
    assert said["policy"]["language"]["seed"] == 3
    assert {"arp", "arp-blank"} == set(pd.read_csv(run.results("success"))["model"])


def test_options_of_the_world_and_a_named_checkpoint(run, command, tmp_path):
    file = run.checkpoint("arp", 0)
    arguments = ["--checkpoint", file, "--name", "mine", "--option", "shadow=true", "--renderer", "rays"]
    limits = ["--task", "push_buttons", "--episodes", "1", "--max-steps", "1"]
    command("rollout", "--out", tmp_path, *arguments, *limits, *SMALL)
    said = read_rollout(tmp_path / "mine/step_00000000")
    assert (said["world"]["shadow"], said["world"]["image_size"], said["world"]["renderer"]) == (True, 24, "rays")
    assert len(said["checkpoint_sha256"]) == 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--world", "tabletopp"], "unknown world 'tabletopp'. Did you mean 'tabletop'?"),
        (["--policy", "exprt"], "unknown policy 'exprt'. Did you mean 'expert'?"),
        (["--policy", "nowhere.at:all"], "cannot import 'nowhere.at'"),
        (["--task", "open_draw"], "unknown task of world 'tabletop': 'open_draw'. Did you mean 'open_drawer'?"),
        (["--task", "open_drawer", "--variation", "3"], "task open_drawer has variations 0 to 2, got 3"),
        (["--episodes", "0"], "--episodes must be at least 1 per task, got 0"),
        (["--repeat", "0"], "--repeat must be at least 1, got 0"),
        (["--max-steps", "40"], "--max-steps must be from 1 to 25, got 40"),
        (["--film", "-1"], "--film must be 0 or more, got -1"),
        (["--seed", "-1"], "--seed must be 0 or more, got -1"),
        (["--workers", "-1"], "--workers must be 0 (this process) or more, got -1"),
        (["--option", "colour=1"], "unexpected keyword argument 'colour'"),
        (["--policy-option", "speed=1"], "unknown option of policy 'arp': 'speed'"),
        (["--policy", "expert", "--blank-instruction"], "policy 'expert' has no options, got blank_instruction"),
        (["--partition", "test"], "--partition is a part of --from-demos"),
        (["--out", "elsewhere"], "--run and --out both say where to write"),
        (["--features", "--policy", "expert"], "--features is for the ARP checkpoints of a run, told their instruct"),
        (["--features", "--blank-instruction"], "--features is for the ARP checkpoints of a run, told their instruct"),
        (["--from-demos", "nothing-here"], "nothing-here does not exist"),
        (
            [*TWO, "--episodes", "2"],
            "this folder of rollouts was made with another configuration (max_steps was 2, now 25",
        ),
        ([*TWO, "--max-steps", "2", "--seed", "9"], "was played from another situation (policy_seed was"),
    ],
)
def test_bad_input_is_one_message(run, command, arguments, message):
    small = [] if "--workers" in arguments else SMALL
    said = command("rollout", "--run", run.path, *arguments, *small, "--image-size", "24", "--quiet", code=2)
    assert message in said
    assert said.startswith("mnprobe: ")
    assert said.count("\n") == 1


def test_weights_that_do_not_act(run, command):
    said = command("rollout", "--run", run.path, "--checkpoint", run.checkpoint("viclip", 0), code=2)
    assert "weights of viclip; --policy arp needs ARP's" in said
