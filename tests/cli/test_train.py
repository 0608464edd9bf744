"""`mnprobe train` from the command line: options that arrive, plans that write nothing, refusals, several processes."""

import json
from contextlib import nullcontext

import pytest
import torch

from mnprobe.cli.main import main
from mnprobe.core.rundir import RunDir
from mnprobe.core.runtime import Team
from mnprobe.models.loading import read_state_dict
from mnprobe.training import trainer

VIDEO = {
    "image_size": 28,
    "patch_size": 14,
    "frames": 2,
    "width": 16,
    "layers": 1,
    "heads": 2,
    "embed_dim": 12,
    "text_context": 12,
    "text_width": 16,
    "text_layers": 1,
    "text_heads": 2,
}
POLICY = {
    "image_size": 28,
    "patch_size": 14,
    "vision_width": 16,
    "vision_heads": 2,
    "vision_head_width": 8,
    "vision_depth": 2,
    "language_length": 12,
    "language_width": 16,
    "width": 16,
    "heads": 2,
    "cross_blocks": 1,
    "self_blocks": 1,
    "dropout": 0.0,
    "render_radius": 0.096,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory, write_demo):
    """A run with demonstrations of three instructions, in train and val, and files of small sizes beside it."""
    folder = tmp_path_factory.mktemp("train")
    run = RunDir.create(folder / "run")
    for number in range(6):
        partition = "train" if number < 5 else "val"
        variation = number % 3
        write_demo(run.demos, "open_drawer", variation, partition, number, f"open {variation}", 6, images="keyframes")
    (folder / "video.json").write_text(json.dumps(VIDEO))
    (folder / "policy.json").write_text(json.dumps(POLICY))
    return folder


def sized(place, *arguments):
    return [
        *("train", "--run", place / "run", "--device", "cpu", "--updates", "2", "--batch", "4", "--clips", "4"),
        *("--understanding-share", "0.5"),
        *("--viclip-size", place / "video.json", "--arp-size", place / "policy.json", "--dim", "8", *arguments),
    ]


def run(*arguments):
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return end.value.code


def refused(capsys, *arguments):
    """The one message of a refusal."""
    assert run(*arguments) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


def test_it_trains_on_the_runs_training_episodes_and_says_what_it_wrote(place, capsys):
    assert run(*sized(place, "--seed", "3", "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["name"], told["status"], told["steps"]) == ("joint", "trained", [0, 1, 2])
    assert 0 < told["waiting_for_data"] < 1
    section = RunDir(place / "run").config["train-joint"]
    assert section["episodes"] == 5  # not the one of val
    assert (section["config"]["seed"], section["config"]["dim"], section["config"]["batch"]) == (3, 8, 4)
    assert section["config"]["arp"]["width"] == 16
    assert run(*sized(place, "--seed", "3")) == 0
    out, _ = capsys.readouterr()
    assert "kept " in out
    assert "waiting for data" in out


def test_resuming_with_other_options_is_refused_with_what_differs(place, capsys):
    assert run(*sized(place, "--name", "first", "--quiet")) == 0
    message = refused(capsys, *sized(place, "--name", "first", "--tau", "0.3"))
    assert "training 'first'" in message
    assert "training.tau was 0.1, now 0.3" in message


def test_one_side_alone_writes_its_folder_only(place, capsys):
    arguments = ["train", "--run", place / "run", "--device", "cpu", "--updates", "2", "--batch", "4", "--quiet"]
    assert run(*arguments, "--only", "execution", "--arp-size", place / "policy.json", "--checkpoint-every", "1") == 0
    models = {path.name for path in (place / "run" / "checkpoints").iterdir()}
    assert "arp-alone" in models
    assert "viclip-alone" not in models


def test_a_dry_run_tells_everything_and_writes_nothing(place, capsys):
    before = sorted(place.rglob("*"))
    assert run("train", "--run", place / "run", "--preset", "paper", "--dry-run", "--lambda-align", "0.25") == 0
    out = capsys.readouterr().out
    for text in ("303,974,400 parameters", "memory of a process", "80000", "nothing was written", "5 episodes of 3"):
        assert text in out
    assert "lambda_align" in out
    assert "changed: 0.25 instead of 0.5" in out
    assert run("train", "--run", place / "run", "--preset", "paper", "--dry-run", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schedule"][1]["step"] == 10_000
    assert told["config"]["policy"]["kind"] == "lamb"
    assert told["data"]["instructions"] == 3
    assert sorted(place.rglob("*")) == before


def test_every_option_arrives_in_the_configuration(place, capsys):
    options = {
        "--seed": ("7", "seed", 7),
        "--updates": ("40", "updates", 40),
        "--batch": ("9", "batch", 9),
        "--clips": ("11", "clips", 11),
        "--understanding-share": ("0.25", "understanding_share", 0.25),
        "--lambda-ee": ("2", "lambda_ee", 2.0),
        "--lambda-align": ("0.1", "lambda_align", 0.1),
        "--pairing": ("task", "pairing", "task"),
        "--positives": ("multi", "positives", "multi"),
        "--tau": ("0.3", "tau", 0.3),
        "--heads": ("mlp", "heads", "mlp"),
        "--head-depth": ("3", "head_depth", 3),
        "--dim": ("77", "dim", 77),
        "--temperature": ("0.2", "temperature", 0.2),
        "--text-share": ("0.5", "text_share", 0.5),
        "--clip-norm": ("5", "clip_norm", 5.0),
        "--augment": ("none", "augment", "none"),
        "--colour-noise": (None, "colour_noise", True),
        "--camera": ("wrist", "camera", "wrist"),
        "--precision": ("bf16", "precision", "bf16"),
        "--checkpoint-at": ("0,0.3,1", "checkpoints", [0.0, 0.3, 1.0]),
        "--video-lr": ("0.5", "video.lr", 0.5),
        "--policy-lr": ("0.25", "policy.lr", 0.25),
        "--heads-lr": ("0.125", "align.lr", 0.125),
        "--arp-size": ("tiny", "arp.width", 64),
    }
    words = [word for option, (value, _, _) in options.items() for word in (option, value) if word is not None]
    changes = ["--set", "policy.kind=lamb", "--set", "policy.rule=capped", "--set", "viclip.width=48"]
    assert run("train", "--dry-run", "--json", *words, *changes, "--set", "recompute=true") == 0
    config = json.loads(capsys.readouterr().out)["config"]
    for _, name, expected in options.values():
        part, _, entry = name.partition(".")
        assert (config[part][entry] if entry else config[part]) == expected, name
    assert (config["policy"]["kind"], config["policy"]["rule"]) == ("lamb", "capped")
    assert (config["viclip"]["width"], config["recompute"]) == (48, True)
    assert run("train", "--dry-run", "--json", "--clip-norm", "0", "--checkpoint-every", "50") == 0
    config = json.loads(capsys.readouterr().out)["config"]
    assert (config["clip_norm"], config["checkpoints"]) == (None, 50)


REFUSALS = [
    (["--lambda-align", "-1"], "lambda_align must be a number of at least 0, got -1.0"),
    (["--lambda-ee", "-0.5"], "lambda_ee must be a number of at least 0"),
    (["--tau", "0"], "tau must be a positive number, got 0.0"),
    (["--temperature", "-2"], "temperature must be a positive number"),
    (["--preset", "papr"], "unknown preset 'papr'. Did you mean 'paper'"),
    (["--only", "execution", "--lambda-align", "0.5"], "an alignment needs both"),
    (["--only", "execution", "--temperature", "0.1"], "temperature is set, but only the execution side is trained"),
    (["--only", "understanding", "--policy-lr", "0.1"], "policy.lr is set, but only the understanding side"),
    (["--only", "execution", "--viclip", "x.pth"], "--viclip x.pth: only the execution side is trained"),
    (["--viclip", "x.pth", "--viclip-size", "tiny"], "tells the sizes of the model"),
    (["--checkpoint-every", "5", "--checkpoint-at", "0,1"], "both say when"),
    (["--checkpoint-at", "0;1"], "--checkpoint-at must be numbers with commas"),
    (["--checkpoint-at", "0,2"], "shares of the updates from 0 to 1"),
    (["--set", "tau"], "--set must be KEY=VALUE"),
    (["--set", "tau=0.2", "--tau", "0.1"], "--set tau: is given by another option too"),
    (["--set", "sides=execution"], "write --only"),
    (["--set", "teau=1"], "unknown training option 'teau'. Did you mean 'tau'"),
    (["--set", "policy.kin=lamb"], "Did you mean 'kind'"),
    (["--set", "batch.size=3"], "there are no settings below 'batch'"),
    (["--set", "arp.widht=3"], "Did you mean 'width'"),
    (["--arp-size", "tiyn"], "unknown size of arp 'tiyn'. Did you mean 'tiny'"),
    (["--arp-size", "missing.json"], "--arp-size missing.json: cannot be read"),
    (["--threads", "0"], "--threads must be at least 1"),
    (["--run", "nowhere"], "--run nowhere: not a run of mnprobe"),
    (["--viclip", "missing.pth"], "missing.pth: does not exist"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSALS, ids=[" ".join(words) for words, _ in REFUSALS])
def test_what_cannot_be_is_one_message_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, "train", "--dry-run", "--device", "cpu", *arguments)
    assert not list(tmp_path.iterdir())


def test_without_demonstrations_it_says_where_they_come_from(tmp_path, capsys):
    RunDir.create(tmp_path / "run")
    message = refused(capsys, "train", "--run", tmp_path / "run")
    assert "has no demos folder" in message
    assert "mnprobe demos" in message


def test_one_instruction_is_too_few(tmp_path, write_demo, capsys):
    for number in range(2):
        write_demo(tmp_path / "demos", "open_drawer", 0, "train", number, "open it", 6, images="keyframes")
    message = refused(capsys, "train", "--run", tmp_path / "run", "--data", tmp_path / "demos", "--device", "cpu")
    assert "nothing to tell apart" in message


def test_two_processes_train_as_one(place, in_two_processes):
    """Same batches, same noise, and (without dropout) the same weights up to the order of sums."""
    alone = sized(place, "--name", "one", "--threads", "1", "--quiet", "--set", "policy.kind=lamb")
    assert run(*alone) == 0
    team = [str(word).replace("one", "two") if word == "one" else str(word) for word in alone]
    done = in_two_processes("-m", "mnprobe", *team, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["own_updates"] == {"viclip": 1, "arp": 2, "heads": 1}
    assert RunDir(place / "run").config["train-two"]["processes"] == 2
    for model in ("viclip", "arp"):
        one, two, start = (
            read_state_dict(RunDir(place / "run").checkpoint(f"{model}-{name}", step))
            for name, step in (("one", 2), ("two", 2), ("two", 0))
        )
        # as a whole: Adam makes steps of full size of the noise in gradients that are zero, such as those of key biases
        moved, apart = (
            torch.cat([(end[name] - begin[name]).flatten().float() for name in one]).norm()
            for end, begin in ((one, start), (two, one))
        )
        assert moved > 1e-2
        assert apart < 1e-2 * moved


class FirstOfTwo(Team):
    def barrier(self):
        """The other process has always arrived."""


def test_a_batch_that_cannot_be_shared_is_refused(place, monkeypatch, capsys):
    monkeypatch.setattr(trainer, "join_team", lambda **given: nullcontext(FirstOfTwo(size=2)))
    words = sized(place, "--name", "odd", "--set", "batch=5")
    words = [word for at, word in enumerate(words) if word != "--batch" and words[at - 1] != "--batch"]
    assert "cannot be shared equally by 2 processes" in refused(capsys, *words)
    assert not (place / "run" / "checkpoints" / "arp-odd").exists()
