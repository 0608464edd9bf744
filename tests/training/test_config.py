"""Settings of a training: what is refused, what follows from them, and the presets."""

import dataclasses
import itertools
import json
import re
from pathlib import Path

import pytest

from mnprobe.core.errors import ConfigError
from mnprobe.models.arp import ARPConfig
from mnprobe.models.viclip import ViCLIPConfig
from mnprobe.training import PRESETS, SOURCES, OptimizerConfig, TrainConfig, preset

BAD = [
    ({"lambda_ee": -1.0}, "lambda_ee must be a number of at least 0, got -1.0"),
    ({"lambda_align": -0.5}, "lambda_align must be a number of at least 0, got -0.5"),
    ({"lambda_align": float("nan")}, "lambda_align"),
    ({"tau": 0.0}, "tau must be a positive number, got 0.0"),
    ({"tau": -1.0}, "tau"),
    ({"temperature": 0.0}, "temperature must be a positive number"),
    ({"text_share": -0.1}, "text_share"),
    ({"updates": 0}, "updates must be a whole number above 0, got 0"),
    ({"clips": 0}, "clips"),
    ({"clips": 1}, "2 clips at least"),
    ({"batch": 1, "clips": 4}, "nothing to contrast"),
    ({"clip_norm": 0.0}, "clip_norm"),
    ({"understanding_share": 0.0}, "to leave the video model out, train the execution side alone"),
    ({"understanding_share": 1.5}, "understanding_share"),
    ({"first_step_share": 1.5}, r"first_step_share must lie in \[0, 1\], got 1.5"),
    ({"first_step_share": float("nan")}, "first_step_share"),
    ({"understanding_share": 0.001}, "none at all"),
    ({"sides": "understanding"}, "needs\\s+both"),
    ({"lambda_ee": 0.0, "lambda_align": 0.0}, "nothing trains the policy"),
    ({"checkpoints": (0.5, 1.5)}, "shares of the updates"),
    ({"checkpoints": 0}, "checkpoints must be a whole number above 0"),
    ({"viclip": "tny"}, "unknown size of viclip 'tny'. Did you mean 'tiny'"),
    ({"seed": -1}, "seed"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[str(changes) for changes, _ in BAD])
def test_what_cannot_be_is_refused_with_its_value(changes, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**changes)


def test_the_video_model_trains_in_its_share_of_the_updates_evenly_spread():
    for share, updates in ((0.2, 100), (0.5, 7), (1.0, 5), (0.3, 1000), (0.1, 10)):
        config = TrainConfig(understanding_share=share, updates=updates)
        turns = [update for update in range(updates) if config.understands(update)]
        assert len(turns) == int(round(share * updates, 6))
        gaps = {later - earlier for earlier, later in itertools.pairwise(turns)}
        assert max(gaps, default=1) - min(gaps, default=1) <= 1
    assert not TrainConfig(sides="execution", lambda_align=0.0).understands(4)


def test_the_papers_share_is_every_fifth_update_of_all():
    config = preset("paper")
    assert sum(config.understands(update) for update in range(config.updates)) == 16_000
    assert config.checkpoint_steps() == tuple(range(0, 80_001, 10_000))


def test_settings_survive_json():
    for config in PRESETS.values():
        again = TrainConfig.from_dict(json.loads(json.dumps(config.to_dict())))
        assert again.to_dict() == config.to_dict()
        assert again.digest() == config.digest()
        assert again.viclip == config.viclip_config()
        assert again.arp == config.arp_config()


def test_unknown_settings_are_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"unknown training option 'lambda_aligne'\. Did you mean 'lambda_align'"):
        TrainConfig.from_dict({"lambda_aligne": 1})
    with pytest.raises(ConfigError, match=r"unknown option of the optimiser 'policy': 'lrr'\. Did you mean 'lr'"):
        TrainConfig.from_dict({"policy": {"lrr": 1}})


def test_a_training_of_one_side_is_not_another_when_a_setting_of_the_other_side_changes():
    alone = TrainConfig(sides="execution", lambda_align=0.0)
    assert dataclasses.replace(alone, viclip="b16", temperature=0.1, dim=7).digest() == alone.digest()
    assert dataclasses.replace(alone, augment="none").digest() != alone.digest()
    baseline = TrainConfig(lambda_align=0.0)
    assert dataclasses.replace(baseline, tau=0.5).digest() == baseline.digest()
    assert dataclasses.replace(baseline, recompute=True).digest() == baseline.digest()
    assert dataclasses.replace(baseline, temperature=0.1).digest() != baseline.digest()


def test_every_setting_that_counts_changes_the_digest():
    other = {
        "viclip": ViCLIPConfig.b16(),
        "arp": ARPConfig.arp(),
        "updates": 301,
        "batch": 33,
        "clips": 7,
        "first_step_share": 0.5,
        "understanding_share": 0.3,
        "lambda_ee": 2.0,
        "lambda_align": 0.4,
        "pairing": "task",
        "positives": "multi",
        "tau": 0.2,
        "heads": "mlp",
        "head_depth": 3,
        "dim": 8,
        "temperature": 0.1,
        "text_share": 0.5,
        "video": OptimizerConfig(lr=1.0),
        "policy": OptimizerConfig(lr=1.0),
        "align": OptimizerConfig(lr=1.0),
        "augment": "none",
        "colour_noise": False,
        "camera": "wrist",
        "frames_rule": "strided",
        "clip_norm": 1.0,
        "precision": "bf16",
        "checkpoints": 10,
        "language_seed": 1,
        "seed": 1,
    }
    names = {field.name for field in dataclasses.fields(TrainConfig)} - {"sides", "recompute"}
    assert set(other) == names - {"kept_views"}
    digests = [TrainConfig(**{name: value}).digest() for name, value in other.items()]
    assert len({TrainConfig().digest(), *digests}) == len(other) + 1
    still = TrainConfig(augment="none", colour_noise=False)  # the only trainings that can keep views
    assert len({dataclasses.replace(still, kept_views=draws).digest() for draws in (0, 1, 2)}) == 3


DIGESTS = {"tiny": "84f21795d36344b7", "small": "85eb72876a5a3b8a", "paper": "11bddce963cc5644"}  # as first released


def test_trainings_from_before_there_were_tubelets_and_shares_of_first_steps_stay_what_they_are():
    for name in ("tiny", "small", "paper"):
        settings = preset(name).measurement()
        assert "first_step_share" not in settings
        assert "tubelet" not in settings["viclip"]
        assert not {"attention_gain", "untrained_language"} & settings["arp"].keys()
    digests = {name: preset(name).digest() for name in ("tiny", "small", "paper")}
    assert digests == DIGESTS


def test_the_goal_preset_records_what_it_uses():
    settings = preset("goal").measurement()
    assert (settings["first_step_share"], settings["understanding_share"]) == (0.64, 1 / 3)
    assert (settings["viclip"]["tubelet"], settings["viclip"]["frames"]) == (8, 8)
    assert (settings["arp"]["attention_gain"], settings["arp"]["untrained_language"]) == (1.7, "words")
    assert preset("goal").checkpoint_steps() == (0, 90, 225, 270, 315, 360, 450, 900)
    turns = [update for update in range(9) if preset("goal").understands(update)]
    assert turns == [2, 5, 8]


def test_names_of_trainings_follow_from_what_is_trained():
    assert TrainConfig().default_name == "joint"
    assert TrainConfig(lambda_align=0.0).default_name == "baseline"
    assert TrainConfig(lambda_align=0.0, sides="execution").default_name == "alone"


def test_the_papers_preset_holds_the_papers_numbers():
    config = preset("paper")
    assert (config.viclip, config.arp) == ("l14", "arp")
    assert (config.updates, config.batch, config.understanding_share) == (80_000, 192, 0.2)
    assert (config.lambda_ee, config.lambda_align, config.tau, config.dim) == (1.0, 0.5, 0.1, 1024)
    assert (config.temperature, config.text_share) == (0.05, 0.05)
    assert (config.heads, config.pairing) == ("linear", "instruction")
    assert (config.video.lr, config.align.lr, config.policy.kind) == (1e-5, 1e-4, "lamb")
    assert config.policy.lr == pytest.approx(2.4e-3)
    assert (config.policy.warmup, config.policy.schedule, config.augment) == (2000, "cosine", "se3")


def test_every_setting_of_the_papers_preset_has_a_source():
    whole = {"viclip", "arp", "video", "policy", "align", "sides", "head_depth"}  # in parts below, or not a number
    fields = {field.name for field in dataclasses.fields(TrainConfig)} - whole
    assert fields <= set(SOURCES)
    for part in ("video", "policy", "align"):
        assert {f"{part}.lr", f"{part}.kind"} <= set(SOURCES)
    for source in SOURCES.values():
        assert "paper" in source or "specs/" in source


def test_an_unknown_preset_is_refused():
    with pytest.raises(ConfigError, match=r"unknown preset 'papper'\. Did you mean 'paper'"):
        preset("papper")


def test_the_documentation_gives_the_source_of_every_number_of_the_paper():
    page = Path(__file__).resolve().parents[2] / "docs" / "training.md"
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| [^|]+ \| ([^|]+) \|$", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert rows == dict(SOURCES)
