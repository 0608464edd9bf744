"""Policies of LeRobot are asked as LeRobot asks them; a stand-in checks every call."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from mnprobe.cli.main import app
from mnprobe.core.errors import CheckpointError, ConfigError, DataError
from mnprobe.data import open_dataset
from mnprobe.features import extract, open_features
from mnprobe.features.extractors.policies import (
    match_cameras,
    parse_rename,
    seeded_noise,
    select_state,
    state_columns,
    step_indices,
)

SPEC = importlib.util.spec_from_file_location("lerobot_standin", Path(__file__).with_name("lerobot_standin.py"))
standin = sys.modules["lerobot_standin"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(standin)
DATA = Path(__file__).parents[2] / "golden" / "lerobot" / "v30-images"
FRONT, WRIST = "observation.images.front", "observation.images.wrist"


@pytest.fixture(scope="module")
def dataset():
    return open_dataset(f"lerobot:{DATA}", decisions=3)


@pytest.fixture(autouse=True)
def lerobot(monkeypatch):
    """The stand-in; deleting it gives an environment without lerobot."""
    standin.install(monkeypatch)


def run(model, out, layers=(), **options):
    more = {name: options.pop(name) for name in ("seed", "batch_size", "config", "episodes") if name in options}
    more |= {"layers": list(layers)} if layers else {}
    notes = []
    (done,) = extract(
        f"lerobot:{DATA}", out=out, models=[f"lerobot:{model}"], decisions=3, device="cpu", options=options,
        note=notes.append, **more,
    )  # fmt: skip
    with open_features(done.path) as file:
        return done, {name: file.layer(name).values[:] for name in file.layers}, file.attrs, notes


def config_of(kind, dataset, cameras=(FRONT, WRIST), state=None, **fields):
    episode = dataset[0]
    size = episode.image(FRONT, 0).shape[:2]
    inputs = {name: standin.Feature("VISUAL", (3, *size)) for name in cameras}
    inputs["observation.state"] = standin.Feature("STATE", (state or episode.state.values.shape[1],))
    actions = {"action": standin.Feature("ACTION", (episode.action.values.shape[1],))}
    fields = {"device": "cpu", "pretrained_backbone_weights": None, "load_vlm_weights": False, **fields}
    return standin.Config(kind, inputs, actions, compile_model=False, **fields)


def saved(kind, dataset, folder, mean=0.0, **fields):
    """A checkpoint as LeRobot leaves it: my_policy/checkpoints/000020/pretrained_model."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        policy = standin.POLICIES[kind](config_of(kind, dataset, **fields)).eval()
    path = folder / "my_policy" / "checkpoints" / "000020" / "pretrained_model"
    policy.save(path, mean)
    config = json.loads((path / "config.json").read_text())
    config |= {"pretrained_backbone_weights": "ResNet18", "load_vlm_weights": True, "compile_model": True}
    (path / "config.json").write_text(json.dumps(config))
    return path, policy


def seen(dataset, deltas, cameras=(FRONT, WRIST)):
    """State and mean of each image at the decisions of all episodes, one row each: (N, deltas, width)."""
    rows = []
    for episode in dataset:
        for decision in episode.decisions:
            steps = [max(decision + delta, 0) for delta in deltas]
            parts = [episode.state.values[steps].astype(np.float32)]
            parts += [
                episode.images(name, steps).reshape(len(steps), -1).mean(1, keepdims=True) / 255 for name in cameras
            ]
            rows.append(np.concatenate(parts, axis=1))
    return np.array(rows, dtype=np.float32)


# ---- values --------------------------------------------------------------------------------------------------------


def test_act_gives_the_decoder_states_of_every_decision(dataset, tmp_path):
    path, policy = saved("act", dataset, tmp_path, mean=0.25)
    done, values, attrs, _ = run(path, tmp_path / "out", ["e", "encoder", "output"])
    assert (done.id.model, done.id.step, done.id.trained) == ("my_policy", 20, True)
    inputs = seen(dataset, [0])[:, 0]
    inputs[:, : inputs.shape[1] - 2] -= 0.25
    tokens = policy.model.encoder(torch.from_numpy(inputs)).detach().numpy()
    for layer in ("e", "encoder"):
        np.testing.assert_allclose(values[layer], np.repeat(tokens, 5, axis=0), rtol=1e-4, atol=1e-5)
    assert len(values["output"]) == len(values["e"])
    assert attrs["model_config"]["cameras"] == {FRONT: FRONT, WRIST: WRIST}
    assert "decoder" in attrs["provenance"]["layers"]["e"]["meaning"]


def test_the_history_is_stacked_oldest_first_and_repeats_the_first_frame(dataset, tmp_path):
    path, _ = saved("diffusion", dataset, tmp_path)
    _, values, attrs, _ = run(path, tmp_path / "out")
    np.testing.assert_allclose(values["e"], seen(dataset, [-1, 0]).reshape(len(values["e"]), -1), rtol=1e-4, atol=1e-5)
    assert attrs["model_config"]["history"] == [-1, 0]


def test_frames_after_the_decision_are_never_read(dataset, tmp_path):
    path, policy = saved("futurist", dataset, tmp_path)
    _, values, attrs, _ = run(path, tmp_path / "out")
    assert attrs["model_config"]["history"] == [-2, 0]
    expected = policy.trunk(torch.from_numpy(seen(dataset, [0])[:, 0])).detach().numpy()
    np.testing.assert_allclose(values["e"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["act", "diffusion", "smolvla"])
def test_values_do_not_depend_on_batches_random_state_or_chance(kind, dataset, tmp_path):
    path, _ = saved(kind, dataset, tmp_path)
    layers = {"act": ["e", "encoder"], "diffusion": ["e", "denoised"], "smolvla": ["e", "vlm"]}[kind]
    _, first, _, _ = run(path, tmp_path / "a", layers)
    torch.rand(3)
    state = torch.get_rng_state()
    _, again, _, _ = run(path, tmp_path / "b", layers)
    _, small, _, _ = run(path, tmp_path / "c", layers, batch_size=2)
    _, part, _, _ = run(path, tmp_path / "d", layers, episodes="2:3")
    assert torch.equal(state, torch.get_rng_state())
    for layer in layers:
        assert first[layer].tobytes() == again[layer].tobytes()
        np.testing.assert_allclose(small[layer], first[layer], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(part["e"], first["e"].reshape(5, -1, first["e"].shape[1])[2], rtol=1e-4, atol=1e-5)


def test_noise_comes_from_its_seed_and_reaches_only_the_action_half(dataset, tmp_path):
    path, _ = saved("smolvla", dataset, tmp_path)
    _, first, _, _ = run(path, tmp_path / "a")
    _, other, _, _ = run(path, tmp_path / "b", noise_seed=1)
    assert not np.allclose(first["e"], other["e"])
    np.testing.assert_array_equal(first["vlm"], other["vlm"])


def test_both_halves_are_the_default_and_padding_of_the_text_is_left_out(dataset, tmp_path):
    path, policy = saved("smolvla", dataset, tmp_path)
    done, values, _, _ = run(path, tmp_path / "a")
    assert done.layers == ("e", "vlm")
    words = [len(episode.instruction.split()) for episode in dataset]
    assert len(values["vlm"]) == sum(3 * (1 + count + 1) for count in words)
    inputs = policy.model.state(torch.from_numpy(seen(dataset, [0])[0, 0]))
    norm = policy.model.vlm_with_expert.vlm.model.text_model.norm(inputs).detach().numpy()
    for token in (0, 1 + words[0]):  # the image before, the state after the text
        np.testing.assert_allclose(values["vlm"][token], norm, rtol=1e-4, atol=1e-5)
    done, blank, _, _ = run(path, tmp_path / "b", blank_instruction=True)
    assert done.id.source_name == "demos-blank"
    assert len(blank["vlm"]) == 3 * 2 * len(dataset)


def test_the_last_denoising_step_is_taken_and_others_can_be(dataset, tmp_path):
    path, _ = saved("smolvla", dataset, tmp_path)
    _, values, _, _ = run(path, tmp_path / "a", ["e"])
    layer = "model.action_out_proj:in"
    for call, same in (("last", True), (2, True), ("first", False)):
        _, other, _, _ = run(path, tmp_path / str(call), [layer], call=call)
        assert np.array_equal(other["model.action_out_proj.in"], values["e"]) is same
    _, other, _, _ = run(path, tmp_path / "all", [layer])
    assert len(other["model.action_out_proj.in"]) == standin.STEPS * len(values["e"])


# ---- random weights ------------------------------------------------------------------------------------------------


def test_a_type_gives_random_weights_with_the_sizes_of_the_dataset(dataset, tmp_path):
    done, first, attrs, notes = run("act", tmp_path / "a")
    assert (done.id.model, done.id.step, done.id.trained) == ("act-untrained", 0, False)
    assert attrs["checkpoint_sha256"] == ""
    assert attrs["model_config"]["config"]["input_features"][FRONT]["shape"] == [
        3,
        *dataset[0].image(FRONT, 0).shape[:2],
    ]
    assert any("not normalized" in note for note in notes)
    _, other, _, _ = run("act", tmp_path / "b", seed=1)
    assert not np.allclose(first["e"], other["e"])
    _, one, _, _ = run("act", tmp_path / "c", camera="wrist")
    assert one["e"].shape == first["e"].shape
    _, long, _, _ = run("act", tmp_path / "d", layers=["e"])
    assert long["e"].tobytes() == first["e"].tobytes()


def test_a_folder_without_weights_and_one_asked_for_random_ones(dataset, tmp_path):
    path, _ = saved("act", dataset, tmp_path)
    done, first, _, _ = run(path, tmp_path / "a", weights="random")
    assert (done.id.model, done.id.trained) == ("my_policy-untrained", False)
    (path / "model.safetensors").unlink()
    _, second, _, _ = run(path, tmp_path / "b")
    np.testing.assert_array_equal(first["e"], second["e"])


def test_a_type_that_mnprobe_does_not_know_is_tapped_at_its_head(tmp_path):
    done, _, attrs, _ = run("plugin", tmp_path / "a")
    assert attrs["provenance"]["layers"]["e"] | {"meaning": ""} == {
        "class": "torch.nn.modules.linear.Linear",
        "module": "action_head",
        "member": ":in",
        "meaning": "",
    }
    assert done.layers == ("e",)
    with pytest.raises(ConfigError, match=r"which layer of the type 'headless' is e is not known.*trunk"):
        run("headless", tmp_path / "b")
    _, values, _, _ = run("headless", tmp_path / "c", ["out:in"])
    assert values["out.in"].shape[1] == standin.WIDTH


def test_a_pattern_takes_what_can_be_stored(dataset, tmp_path):
    path, _ = saved("smolvla", dataset, tmp_path)
    done, values, attrs, _ = run(path, tmp_path / "a", ["model.*"])
    assert "model.action_out_proj" in done.layers
    assert "model.vlm_with_expert" not in done.layers
    assert any("did not run" in remark for remark in attrs["provenance"]["remarks"])
    assert len(values["model.action_out_proj"]) == standin.STEPS * 5 * 3 * len(dataset)
    with pytest.raises(ConfigError, match="name layers without a pattern"):
        run("act", tmp_path / "b", ["model.*"])


def test_demonstrations_of_rlbench_are_asked_at_their_keyframes(demos, tmp_path):
    (done,) = extract(demos, out=tmp_path, models=["lerobot:act"], device="cpu", options={"camera": "front"})
    keyframes = sum(len(episode.decisions) for episode in open_dataset(demos))
    with open_features(done.path) as file:
        assert len(file.layer("e").values) == 5 * keyframes


# ---- what does not fit ---------------------------------------------------------------------------------------------


def test_cameras_of_other_names_are_named_with_the_option(dataset, tmp_path):
    path, _ = saved("act", dataset, tmp_path, cameras=("observation.images.top", WRIST))
    with pytest.raises(ConfigError, match=r"--rename observation\.images\.front=observation\.images\.top"):
        run(path, tmp_path / "out")
    run(path, tmp_path / "out", rename=["front=observation.images.top"])
    arguments = ["extract", "--data", f"lerobot:{DATA}", "--model", f"lerobot:{path}", "--rename", "front=top"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "cli"), "--json", "--quiet"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)[0]["model"] == "my_policy"  # what lerobot prints while loading is not in it


def test_a_state_of_another_size_is_refused_and_columns_can_be_chosen(dataset, tmp_path):
    path, policy = saved("plugin", dataset, tmp_path, state=2)
    names = dataset[0].state.names
    with pytest.raises(ConfigError, match=f"reads a state of 2 numbers, and the dataset has {len(names)}"):
        run(path, tmp_path / "a")
    _, values, _, _ = run(path, tmp_path / "b", state=f"{names[1]},{names[0]}")
    inputs = seen(dataset, [0])[:, 0]
    chosen = torch.from_numpy(np.concatenate([inputs[:, [1, 0]], inputs[:, -2:]], axis=1))
    np.testing.assert_allclose(values["e"], policy.trunk(chosen).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_images_of_another_size_are_refused_where_the_policy_takes_one_size(dataset, tmp_path):
    path, _ = saved("act", dataset, tmp_path)
    config = json.loads((path / "config.json").read_text())
    config["input_features"][FRONT]["shape"] = config["input_features"][WRIST]["shape"] = [3, 20, 30]
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"20 x 30 .*resize=true"):
        run(path, tmp_path / "a")
    run(path, tmp_path / "b", resize=True)


def test_a_checkpoint_that_is_not_whole_is_refused(dataset, tmp_path):
    path, _ = saved("act", dataset, tmp_path)
    (path / "policy_preprocessor.json").rename(path / "kept")
    with pytest.raises(CheckpointError, match="migrate_policy_normalization"):
        run(path, tmp_path / "out")
    (path / "kept").rename(path / "policy_preprocessor.json")
    (path / "model.safetensors").write_bytes(b"x" * 40)
    with pytest.raises(CheckpointError):
        run(path, tmp_path / "out")


def test_a_loader_that_only_prints_that_it_failed_is_found_out(dataset, tmp_path):
    path, _ = saved("silent", dataset, tmp_path)
    with pytest.raises(CheckpointError, match="other numbers of"):
        run(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("atc", "folder or type of policy: 'atc'.*act"),
        ("someone/policy", "no such folder.*hf download someone/policy"),
        (str(DATA), "has no config.json"),
        ("", "say which model"),
    ],
)
def test_what_is_no_policy_gets_one_sentence(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        run(text, tmp_path)


def test_without_lerobot_the_message_says_what_can_be_done(monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.split(".")[0] == "lerobot"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "version_info", (3, 11, 9))
    with pytest.raises(ConfigError, match=r"Python 3.12 .*this is 3.11.*mnprobe\[lerobot\].*`mnprobe import`"):
        run("act", tmp_path)
    monkeypatch.setattr(sys, "version_info", (3, 12, 1))
    with pytest.raises(ConfigError, match=r'needs the package lerobot: pip install "mnprobe\[lerobot\]"'):
        run("act", tmp_path)


def test_a_dataset_without_state_is_refused(dataset, monkeypatch):
    monkeypatch.setattr(type(dataset[0]), "state", None)
    with pytest.raises(DataError, match="the dataset has no state"):
        select_state(dataset[0], 3)


# ---- laws ----------------------------------------------------------------------------------------------------------

NAMES = st.text("abc", min_size=1, max_size=3)


@given(st.lists(NAMES, unique=True, min_size=1, max_size=5), st.randoms())
def test_equal_names_are_matched_in_any_order(names, random):
    cameras = [f"observation.images.{name}" for name in names]
    shuffled = random.sample(cameras, len(cameras))
    assert match_cameras(cameras, shuffled) == {name: name for name in cameras}
    assert match_cameras(cameras, random.sample(names, len(names))) == dict(zip(cameras, names, strict=True))


@given(st.lists(NAMES, unique=True, min_size=2, max_size=5), st.integers(0, 4))
def test_renaming_gives_any_pairing(names, shift):
    turned = names[shift % len(names) :] + names[: shift % len(names)]
    rename = parse_rename([f"cam.{ours}=pol.{theirs}" for ours, theirs in zip(turned, names, strict=True)])
    found = match_cameras([f"pol.{name}" for name in names], [f"cam.{name}" for name in names], rename)
    assert found == {f"pol.{theirs}": f"cam.{ours}" for ours, theirs in zip(turned, names, strict=True)}


def test_two_cameras_of_a_policy_never_share_one_unasked():
    with pytest.raises(ConfigError, match="Say which is meant"):
        match_cameras(["observation.images.front", "left.front"], ["front"])
    both = {"observation.images.front": "front", "left.front": "front"}
    assert match_cameras(list(both), ["front"], both) == both
    with pytest.raises(ConfigError, match="camera of the policy in --rename"):
        match_cameras(["a"], ["b"], {"c": "b"})
    for pair in ("front", "=a", "a="):
        with pytest.raises(ConfigError, match="CAMERA=CAMERA_OF_THE_POLICY"):
            parse_rename([pair])


@given(st.integers(0, 50), st.lists(st.integers(-9, 0), min_size=1, max_size=4))
def test_steps_of_the_history_are_never_after_the_decision(decision, deltas):
    steps = step_indices(decision, deltas)
    assert len(steps) == len(deltas)
    assert all(0 <= step <= decision for step in steps)


@given(st.integers(1, 6), st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(0, 99))
def test_noise_is_the_same_in_every_row_and_number_of_rows(rows, shape, seed):
    noise = seeded_noise(rows, shape, seed)
    assert noise.shape == (rows, *shape)
    assert all(torch.equal(row, seeded_noise(1, shape, seed)[0]) for row in noise)


@given(st.lists(NAMES, unique=True, min_size=1, max_size=6), st.randoms())
def test_columns_of_the_state_come_in_the_order_asked(names, random):
    chosen = random.sample(names, random.randint(1, len(names)))
    assert [names[i] for i in state_columns(names, chosen)] == chosen
