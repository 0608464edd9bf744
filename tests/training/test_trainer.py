"""Training end to end on a micro dataset: what is written, what trains what, and what stops it."""

import json
from dataclasses import replace

import pytest
import torch

from mnprobe.core.errors import CheckpointError, ConfigError, DataError, TrainingError
from mnprobe.core.rundir import RunDir
from mnprobe.data import open_dataset
from mnprobe.models.arp import load_arp
from mnprobe.models.loading import read_metadata, read_state_dict
from mnprobe.models.viclip import load_viclip
from mnprobe.probe import load_heads
from mnprobe.training import OptimizerConfig, read_metrics, train
from mnprobe.training.checkpointing import training_lock


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run that all trainings of this file share; their inputs are prepared once."""
    return RunDir.create(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def joint(home, micro, micro_dataset):
    """The joint training and its remarks."""
    notes = []
    return train(micro(), micro_dataset, home, device="cpu", log_every=2, note=notes.append), notes


@pytest.fixture(scope="module")
def baseline(home, micro, micro_dataset):
    return train(micro(lambda_align=0.0), micro_dataset, home, device="cpu")


def weights(home, model, step):
    return read_state_dict(home.checkpoint(model, step))


def equal(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def test_checkpoints_carry_weights_steps_and_what_made_them(home, joint):
    result, notes = joint
    assert (result.status, result.steps) == ("trained", (0, 3, 6))
    assert result.own_updates == {"viclip": 3, "arp": 6, "heads": 3}
    assert all(path.is_file() for path in result.checkpoints)
    assert len(result.checkpoints) == 6
    for model, own in (("viclip", ("0", "1", "3")), ("arp", ("0", "3", "6"))):
        for step, updates in zip(result.steps, own, strict=True):
            metadata = read_metadata(home.checkpoint(f"{model}-joint", step))
            assert (metadata["step"], metadata["updates"], metadata["training"]) == (str(step), updates, "joint")
            assert metadata["trained"] == ("false" if updates == "0" else "true")
            losses = json.loads(metadata["metrics"])
            assert losses == {} if step == 0 else {"au", "ee", "align"} <= set(losses)
    assert json.loads(read_metadata(home.checkpoint("arp-joint", 6))["language"])["trained"] is False
    assert load_viclip(home.checkpoint("viclip-joint", 6)).temp.item() == pytest.approx(0.05)
    assert load_arp(home.checkpoint("arp-joint", 6)).config.width == 16
    assert load_heads(result.folder / "heads" / "step_00000006.safetensors").fitted_on["training"] == "joint"
    assert any("language tokens" in note for note in notes)


def test_tubelets_word_vectors_and_first_steps_are_trained_and_recorded(tmp_path, home, micro, micro_dataset):
    plain = micro()
    config = replace(
        plain,
        viclip=replace(plain.viclip, frames=4, tubelet=2, crop=(0.5, 0.11, 0.94, 0.89)),
        arp=replace(plain.arp, untrained_language="words", attention_gain=1.7, language_length=24),
        policy=replace(plain.policy, betas=(0.9, 0.98)),
        first_step_share=0.64,
        understanding_share=1 / 3,
    )
    run = RunDir.create(tmp_path / "run")
    result = train(config, micro_dataset, run, device="cpu", cache=home.path / "cache")
    assert result.own_updates == {"viclip": 2, "arp": 6, "heads": 2}
    assert load_viclip(run.checkpoint("viclip-joint", 6)).config == config.viclip
    policy = run.checkpoint("arp-joint", 6)
    assert load_arp(policy).config == config.arp
    assert json.loads(read_metadata(policy)["language"])["kind"] == "word-vectors"
    recorded = RunDir(run.path).config["train-joint"]["config"]
    assert (recorded["first_step_share"], recorded["policy"]["betas"]) == (0.64, [0.9, 0.98])
    assert (recorded["viclip"]["tubelet"], recorded["arp"]["attention_gain"]) == (2, 1.7)
    with pytest.raises(ConfigError, match="first_step_share"):
        train(replace(config, first_step_share=0.5), micro_dataset, run, device="cpu", cache=home.path / "cache")


def test_the_run_records_the_training(home, joint, micro_dataset):
    section = RunDir(home.path).config["train-joint"]
    assert section["fingerprint"] == micro_dataset.fingerprint()
    assert section["config"]["lambda_align"] == 0.5
    assert section["start"]["viclip"] == "seed"


def test_losses_go_into_a_table_and_to_tensorboard(joint):
    result, _ = joint
    rows = read_metrics(result.folder / "metrics.csv")
    assert sorted({update for update, _, _ in rows}) == [2, 3, 4, 6]
    names = {name for _, name, _ in rows}
    assert {"au", "ee", "align", "ee/rot-x.ce_loss", "norm/arp", "rate/viclip"} <= names
    last = {name: value for update, name, value in rows if update == 6}
    assert result.metrics["ee"] == last["ee"]
    parts = sum(value for name, value in last.items() if name.startswith("ee/"))
    assert parts == pytest.approx(last["ee"], rel=1e-5)
    (events,) = (result.folder / "tensorboard").iterdir()
    assert b"ee/rot-x.ce_loss" in events.read_bytes()


def test_waiting_for_data_is_measured(joint):
    result, _ = joint
    assert 0 < result.waiting < 1
    assert result.seconds > 0


def test_training_changes_every_part(home, joint):
    for model in ("viclip-joint", "arp-joint"):
        before, after = weights(home, model, 0), weights(home, model, 6)
        same = [name for name in before if torch.equal(before[name], after[name])]
        # the temperature is fixed, div_term are constants, and no token comes after the last one, the collision flag
        fixed = ("temp", "div_term", "token_embedders.7.")
        assert all(any(part in name for part in fixed) for name in same), same
    heads = [load_heads(joint[0].folder / "heads" / f"step_0000000{step}.safetensors") for step in (0, 6)]
    assert not torch.equal(heads[0].t_u.weight, heads[1].t_u.weight)
    assert not torch.equal(heads[0].t_e.weight, heads[1].t_e.weight)


@pytest.mark.parametrize(("side", "model"), [("understanding", "viclip"), ("execution", "arp")])
def test_a_model_trained_alone_equals_the_baselines_bit_for_bit(home, micro, micro_dataset, baseline, side, model):
    name = f"only-{model}"
    alone = train(micro(sides=side, lambda_align=0.0), micro_dataset, home, name=name, device="cpu")
    assert {path.parent.name for path in alone.checkpoints} == {f"{model}-{name}"}
    assert alone.own_updates == {model: baseline.own_updates[model]}
    for step in (0, 3, 6):
        assert equal(weights(home, f"{model}-{name}", step), weights(home, f"{model}-baseline", step))


def test_alignment_moves_both_models_away_from_the_baseline(home, joint, baseline):
    for model in ("viclip", "arp"):
        assert equal(weights(home, f"{model}-joint", 0), weights(home, f"{model}-baseline", 0))
        assert not equal(weights(home, f"{model}-joint", 6), weights(home, f"{model}-baseline", 6))
    assert "align" not in baseline.metrics
    assert "heads" not in baseline.own_updates


CHANGES = {
    "lambda_ee": (2.0, ("arp",)),
    "lambda_align": (1.0, ("viclip", "arp")),
    "clips": (6, ("viclip",)),
    "positives": ("multi", ("viclip", "arp")),
    "tau": (0.5, ("viclip", "arp")),
    "heads": ("mlp", ("viclip", "arp")),
    "dim": (9, ("viclip", "arp")),
    "temperature": (0.5, ("viclip",)),
    "video": (OptimizerConfig(lr=2e-3), ("viclip",)),
    "policy": (OptimizerConfig(kind="lamb", lr=1e-3), ("arp",)),
    "align": (OptimizerConfig(lr=2e-1), ("viclip",)),
    "augment": ("se3", ("arp",)),
    "colour_noise": (True, ("arp",)),
    "camera": ("wrist", ("viclip",)),
    "frames_rule": ("strided", ("viclip",)),
    "clip_norm": (1e-3, ("viclip", "arp")),
    "seed": (1, ("viclip", "arp")),
    "understanding_share": (1.0, ("viclip",)),
    "precision": ("bf16", ("viclip", "arp")),
    "language_seed": (1, ("arp",)),
}


@pytest.mark.parametrize("setting", CHANGES)
def test_every_setting_arrives_in_the_weights(home, micro, micro_dataset, setting):
    value, models = CHANGES[setting]
    short = {"updates": 4, "checkpoints": (1.0,)}
    if not (home.path / "training" / "short").is_dir():
        train(micro(**short), micro_dataset, home, name="short", device="cpu")
    train(micro(**(short | {setting: value})), micro_dataset, home, name=f"short-{setting}", device="cpu")
    for model in models:
        assert not equal(weights(home, f"{model}-short", 4), weights(home, f"{model}-short-{setting}", 4))


def test_the_density_of_clouds_is_the_policys(home, micro, micro_dataset):
    dense = micro(updates=1, sides="execution", lambda_align=0.0)
    sparse = replace(dense, arp=replace(dense.arp_config(), point_stride=2))
    for name, config in (("dense", dense), ("sparse", sparse)):
        train(config, micro_dataset, home, name=name, device="cpu")
    assert equal(weights(home, "arp-dense", 0), weights(home, "arp-sparse", 0))
    assert not equal(weights(home, "arp-dense", 1), weights(home, "arp-sparse", 1))


def test_a_frozen_text_encoder_stays(home, micro, micro_dataset):
    train(micro(text_share=0.0, updates=2), micro_dataset, home, name="frozen", device="cpu")
    before, after = weights(home, "viclip-frozen", 0), weights(home, "viclip-frozen", 2)
    same = {name: torch.equal(before[name], after[name]) for name in before}
    assert all(kept for name, kept in same.items() if name.startswith("text_encoder."))
    assert not any(kept for name, kept in same.items() if name.startswith("vision_encoder.transformer"))


def test_blocks_computed_twice_give_the_same_weights_bit_for_bit(home, micro, micro_dataset, joint):
    train(micro(recompute=True), micro_dataset, home, name="twice", device="cpu")
    assert equal(weights(home, "viclip-twice", 6), weights(home, "viclip-joint", 6))
    assert equal(weights(home, "arp-twice", 6), weights(home, "arp-joint", 6))


def test_recomputation_does_not_go_with_stochastic_depth(home, micro, micro_dataset):
    config = micro(recompute=True)
    deep = replace(config, viclip=replace(config.viclip_config(), stochastic_depth=0.1))
    with pytest.raises(ConfigError, match="recompute does not go with a stochastic depth of"):
        train(deep, micro_dataset, home, name="deep", device="cpu")


def test_a_training_starts_from_files_and_says_so(home, micro, micro_dataset, joint):
    files = {f"start_{model}": home.checkpoint(f"{model}-joint", 6) for model in ("viclip", "arp")}
    config = micro(viclip="tiny", arp="tiny", updates=2)
    result = train(config, micro_dataset, home, name="further", device="cpu", **files)
    for model in ("viclip", "arp"):
        assert equal(weights(home, f"{model}-further", 0), weights(home, f"{model}-joint", 6))
        assert read_metadata(home.checkpoint(f"{model}-further", 0))["trained"] == "true"
    recorded = json.loads((result.folder / "config.json").read_text())["asked"]
    assert recorded["start"]["viclip"].startswith("sha256:")
    assert recorded["training"]["viclip"]["width"] == 16  # that of the file, whatever the size asked for


def test_files_of_a_side_that_rests_are_refused(home, micro, micro_dataset, joint):
    config = micro(sides="execution", lambda_align=0.0)
    with pytest.raises(ConfigError, match="only the execution side is trained, which does not use it"):
        train(config, micro_dataset, home, start_viclip=home.checkpoint("viclip-joint", 6), device="cpu")


def test_a_loss_that_is_no_number_stops_the_training_and_keeps_what_was_good(home, micro, micro_dataset):
    config = micro(updates=20, policy=OptimizerConfig(lr=1e30), checkpoints=1)
    with pytest.raises(TrainingError, match=r"broke at update (\d+) of 20: (loss|the gradient)") as caught:
        train(config, micro_dataset, home, name="ruined", device="cpu")
    message = str(caught.value)
    assert "is nan" in message or "is inf" in message
    assert "the last good checkpoint is" in message
    assert "losses: " in message
    last = home.checkpoints("arp-ruined")[-1]
    assert str(last.path.name) in message
    assert all(bool(torch.isfinite(value).all()) for value in read_state_dict(last.path).values())
    with pytest.raises(TrainingError, match="broke at update"):  # again at the same place, not silently further
        train(config, micro_dataset, home, name="ruined", device="cpu")
    assert home.checkpoints("arp-ruined")[-1] == last


def test_a_finished_training_is_kept(home, micro, micro_dataset, joint):
    before = {path: path.stat().st_mtime_ns for path in joint[0].checkpoints}
    again = train(micro(), micro_dataset, home, device="cpu")
    assert again.status == "kept"
    assert (again.metrics, again.own_updates) == (joint[0].metrics, joint[0].own_updates)
    assert {path: path.stat().st_mtime_ns for path in again.checkpoints} == before
    assert not (again.folder / "state.pt").exists()


def test_a_finished_training_without_its_checkpoints_is_told(home, micro, micro_dataset):
    config = micro(sides="execution", lambda_align=0.0, updates=1)
    result = train(config, micro_dataset, home, name="lost", device="cpu")
    result.checkpoints[-1].unlink()
    with pytest.raises(CheckpointError, match="is missing, but its training wrote it"):
        train(config, micro_dataset, home, name="lost", device="cpu")


def test_checkpoints_that_no_training_here_wrote_are_not_overwritten(tmp_path, micro, micro_dataset):
    run = RunDir.create(tmp_path / "run")
    stranger = run.checkpoint("arp-joint", 5)
    stranger.parent.mkdir(parents=True)
    stranger.write_bytes(b"mine")
    with pytest.raises(ConfigError, match="has no record of their training"):
        train(micro(), micro_dataset, run, device="cpu")
    assert stranger.read_bytes() == b"mine"


def test_two_processes_do_not_train_into_one_folder(home, micro, micro_dataset):
    with (
        training_lock(home.path / "training" / "busy"),
        pytest.raises(ConfigError, match="another process is training"),
    ):
        train(micro(), micro_dataset, home, name="busy", device="cpu")


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "joint-blank"])
def test_names_that_are_no_names_are_refused(home, micro, micro_dataset, name):
    with pytest.raises(ConfigError, match="a training is named by letters"):
        train(micro(), micro_dataset, home, name=name or "-", device="cpu")


def test_data_that_do_not_fit_are_refused_before_anything_is_written(tmp_path, micro, micro_demos, write_demo):
    run = RunDir.create(tmp_path / "run")
    for number in range(2):
        write_demo(tmp_path / "one", "open_drawer", 0, "train", number, "open it", 6, images="keyframes")
    with pytest.raises(DataError, match="nothing to tell apart"):
        train(micro(), open_dataset(tmp_path / "one"), run, device="cpu")
    with pytest.raises(DataError, match="overhead"):
        train(micro(camera="overhead"), open_dataset(micro_demos), run, device="cpu")
    cameras = replace(micro().arp_config(), cameras=("front", "behind"))
    with pytest.raises(DataError, match="behind"):
        train(micro(arp=cameras), open_dataset(micro_demos), run, device="cpu")
    words = replace(micro().viclip_config(), vocabulary=100)
    with pytest.raises(ConfigError, match="the text encoder knows 100 tokens"):
        train(micro(viclip=words), open_dataset(micro_demos), run, device="cpu")
    assert not run.checkpoints()
    train(micro(updates=2), open_dataset(micro_demos), run, device="cpu")  # under the same name


def test_lamb_that_cannot_move_the_gates_is_told(home, micro, micro_dataset):
    notes = []
    policy = OptimizerConfig(kind="lamb", rule="capped", lr=1e-3)
    config = micro(sides="execution", lambda_align=0.0, updates=1, policy=policy)
    train(config, micro_dataset, home, name="capped", device="cpu", note=notes.append)
    assert any("modulation layers of zero" in note for note in notes)
    with pytest.warns(UserWarning, match="exactly zero"):
        load_arp(home.checkpoint("arp-capped", 1))
