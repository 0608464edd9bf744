"""Selection of checkpoints: names, files and random weights, for each purpose."""

import pytest

from mnprobe.core.errors import ConfigError, FeatureError
from mnprobe.core.rundir import RunDir
from mnprobe.features.selection import CheckpointQuery, inspect_checkpoint, select_checkpoints
from mnprobe.models.arp import save_arp
from mnprobe.models.loading import save_checkpoint
from mnprobe.models.untrained import untrained_arp, untrained_viclip


def _save(path, kind, step, training):
    model = untrained_viclip("tiny", step) if kind == "viclip" else untrained_arp("tiny", step)
    save_checkpoint(
        path, model.state_dict(), model=kind, config=model.config.to_dict(), step=step, extra={"training": training}
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    home = RunDir.create(tmp_path_factory.mktemp("selection") / "run")
    for model, kind, steps in (
        ("viclip", "viclip", (0,)),
        ("viclip-joint", "viclip", (0, 8)),
        ("arp-joint", "arp", (0, 8)),
    ):
        for step in steps:
            _save(home.checkpoint(model, step), kind, step, "joint" if "joint" in model else "")
    return home


def _ids(run, purpose, **query):
    return [str(choice.id) for choice in select_checkpoints(run, CheckpointQuery(purpose=purpose, **query))]


ALL = [
    "execution/arp-joint/demos/step_00000000/untrained/joint",
    "execution/arp-joint/demos/step_00000008/trained/joint",
    "understanding/viclip/demos/step_00000000/untrained/",
    "understanding/viclip-joint/demos/step_00000000/untrained/joint",
    "understanding/viclip-joint/demos/step_00000008/trained/joint",
]


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ({}, ALL),
        ({"models": ["viclip"]}, ALL[2:]),
        ({"models": ["viclip-joint", "viclip-joint"]}, ALL[3:]),
        ({"models": ["arp"], "source": "lab"}, [name.replace("demos", "lab") for name in ALL[:2]]),
        (
            {"models": ["arp"], "options": {"blank_instruction": True}},
            [name.replace("demos", "demos-blank") for name in ALL[:2]],
        ),
        ({"models": ["viclip"], "options": {"blank_instruction": True}}, ALL[2:]),  # it reads no instruction
        ({"models": ["pixels"], "step": 3}, ["understanding/pixels/demos/step_00000003/untrained/"]),
        (
            {"models": ["hook"], "name": "mine", "options": {"side": "execution"}},
            ["execution/mine/demos/step_00000000/untrained/"],
        ),
    ],
)
def test_features_of_the_runs_models_and_of_random_weights(query, ids, run):
    assert _ids(run, "extract", **query) == ids


def test_features_of_given_files(run):
    file = run.checkpoint("arp-joint", 8)
    (choice,) = select_checkpoints(None, CheckpointQuery(purpose="extract", files=[file], step=80, name="mine"))
    assert str(choice.id) == "execution/mine/demos/step_00000080/trained/joint"
    assert (choice.kind, choice.checkpoint) == ("arp", inspect_checkpoint(file, step=80))
    assert choice.identity() == {"checkpoint_sha256": inspect_checkpoint(file).sha256, "config": None}
    moved = choice.on("rollouts-blank")
    assert (moved.id.source, moved.id.blank, moved.checkpoint) == ("rollouts", True, choice.checkpoint)
    assert moved.on("demos").id == choice.id


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ({"models": ["vidclip"]}, "unknown model 'vidclip'"),
        ({"models": ["arp"], "step": 8}, "--step 8: fits one checkpoint, but 2 were chosen"),
        ({"name": "mine"}, "--name mine: names one model, but arp-joint, viclip, viclip-joint were chosen"),
        ({"models": ["viclip", "arp"], "name": "m"}, "--name m: names one model, but arp-joint, viclip, viclip-joint"),
        ({"models": ["hook"]}, "--model hook: say with --side .*: understanding, execution"),
    ],
)
def test_what_cannot_be_extracted(query, text, run):
    with pytest.raises(ConfigError, match=text):
        _ids(run, "extract", **query)


def test_files_that_cannot_be_extracted(run, tmp_path):
    viclip, arp = run.checkpoint("viclip", 0), run.checkpoint("arp-joint", 8)
    with pytest.raises(ConfigError, match="is of 'arp', but --model says viclip"):
        _ids(None, "extract", models=["viclip"], files=[arp])
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(viclip.read_bytes())
    with pytest.raises(ConfigError, match=f"would be step 0 of 'viclip': {viclip} and {copy}. Extract them apart"):
        _ids(None, "extract", files=[viclip, copy])
    with pytest.raises(ConfigError, match=r"nothing to extract: there is no run\. Give --checkpoint FILE, or --model"):
        _ids(None, "extract")
    with pytest.raises(FeatureError, match="side must be one of understanding, execution, got 'left'"):
        _ids(None, "extract", models=["hook"], options={"side": "left"})


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ({}, ALL[2:]),  # each checkpoint once, although "viclip" names a kind as well
        ({"models": ["viclip"]}, ALL[2:3]),
        ({"models": ["viclip-joint"], "step": 8, "name": "mine"}, [ALL[4].replace("viclip-joint", "mine")]),
        ({"preset": "tiny", "seed": 3}, ["understanding/viclip-untrained/demos/step_00000000/untrained/"]),
    ],
)
def test_video_models(query, ids, run):
    assert _ids(run, "recognize", **query) == ids


def test_random_video_models_are_known_by_preset_and_seed():
    (choice,) = select_checkpoints(None, CheckpointQuery(purpose="recognize", preset="tiny", seed=3))
    assert choice.identity() == {"preset": "tiny", "seed": 3, "config": None}
    assert (choice.path, choice.sha256, choice.zero_shot) == (None, "", False)
    weights = untrained_viclip("tiny", 3).state_dict()
    assert all(bool((value == weights[name]).all()) for name, value in choice.load_viclip("cpu").state_dict().items())


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ({"models": ["arp-joint"]}, "--model arp-joint: its weights are of arp, not of a ViCLIP"),
        ({"models": ["other"]}, "there are: arp-joint, viclip, viclip-joint"),
        ({"step": 7}, "--step 7: the run has ViCLIP checkpoints at steps 0, 8"),
        ({"name": "mine"}, "names one model, but viclip, viclip-joint were chosen; say which with --model"),
        ({"preset": "tiny", "models": ["viclip"]}, "leave out --model and --checkpoint"),
        ({"preset": "huge"}, "--preset huge: there are "),
    ],
)
def test_what_cannot_be_recognized_with(query, text, run):
    with pytest.raises(ConfigError, match=text):
        _ids(run, "recognize", **query)


def test_policies_have_the_identity_of_their_features(run, tmp_path):
    assert _ids(run, "play") == [name.replace("demos", "rollouts") for name in ALL[:2]]
    assert _ids(run, "play", options={"blank_instruction": True})[1] == (
        "execution/arp-joint-blank/rollouts/step_00000008/trained/joint"
    )
    path = tmp_path / "arp.safetensors"
    save_arp(path, untrained_arp("tiny", 0), step=20)
    assert _ids(None, "play", files=[path]) == ["execution/arp/rollouts/step_00000020/trained/"]
