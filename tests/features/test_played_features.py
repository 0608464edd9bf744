"""Features that a policy gives while it plays: those of an extraction afterwards, to the last bit."""

from pathlib import Path

import numpy as np
import pytest

from mnprobe.core.errors import ConfigError, FeatureError
from mnprobe.core.names import step_name
from mnprobe.core.rundir import RunDir
from mnprobe.features import extract, open_features
from mnprobe.features.extractors.arp import ARPExtractor
from mnprobe.features.played import PlayedFeatures
from mnprobe.features.selection import CheckpointQuery, select_checkpoints
from mnprobe.models.untrained import write_untrained
from mnprobe.worlds.rollout import RolloutConfig, rollout
from mnprobe.worlds.rollout_plan import RolloutPlan
from mnprobe.worlds.trace import TRACES_FOLDER

LAYERS = PlayedFeatures.layers
SOURCES = ("rollouts", "rollouts-blank")


@pytest.fixture
def home(tmp_path):
    run = RunDir.create(tmp_path / "run")
    write_untrained(run.checkpoint("arp", 0), "arp", "tiny", 0)
    return run


def _play(home, *, episodes=2, trace=LAYERS, **settings):
    folder = home.rollouts / "arp" / step_name(0)
    config = RolloutConfig(
        world_options={"image_size": 16}, policy="arp", checkpoint=home.checkpoint("arp", 0), max_steps=2, **settings
    )
    plan = RolloutPlan(tasks=("open_drawer",), episodes=episodes, seed=7)
    return folder, rollout(folder, config, plan, workers=0, trace=trace)


def _store(home, source):
    """Everything of a store but the time at which it was made."""
    with open_features(home.features("arp", source, 0)) as file:
        attributes = {name: value for name, value in file.attrs.items() if name not in ("created", "digest")}
        layers = {name: file.layer(name) for name in file.layers}
        arrays = {
            name: [part.tolist() for part in (layer.values[:], layer.offsets, layer.keyframe)]
            for name, layer in layers.items()
        }
        return attributes, arrays, file.episodes.to_dict("list")


def _both(home):
    return [_store(home, source) for source in SOURCES]


def _extract(home, **settings):
    """Extract as `mnprobe extract --source rollouts` does, shown and blanked."""
    return [
        entry
        for blank in (None, True)
        for entry in extract(
            run=home,
            source="rollouts",
            models=["arp"],
            options={"blank_instruction": blank},
            device="cpu",
            **settings,
        )
    ]


def _refuse(*_):
    raise AssertionError("an episode with a trace was read again")


def test_the_stores_are_those_of_an_extraction_afterwards(home, monkeypatch):
    folder, _ = _play(home)
    with monkeypatch.context() as patch:
        patch.setattr(ARPExtractor, "prepare", _refuse)
        patch.setattr(ARPExtractor, "compute", _refuse)
        done = PlayedFeatures(home, {}).write(folder)
    assert [(entry.id.source_name, entry.status, entry.episodes) for entry in done] == [
        (source, "written", 2) for source in SOURCES
    ]
    mine = _both(home)
    assert [entry.status for entry in _extract(home)] == ["kept", "kept"]
    for source in SOURCES:
        home.features("arp", source, 0).unlink()
    _extract(home, batch_size=1)
    assert _both(home) == mine
    assert mine[0][1]["e"] != mine[1][1]["e"]
    for source in SOURCES:
        home.features("arp", source, 0).unlink()
    _extract(home)  # in batches of 8: other sums, other last digits
    for (_, others, _), (_, ours, _) in zip(_both(home), mine, strict=True):
        np.testing.assert_allclose(others["e"][0], ours["e"][0], atol=1e-5)
        assert others["e"][1:] == ours["e"][1:]


def test_episodes_are_the_same_with_and_without_and_no_trace_is_needed(home, tmp_path):
    folder, plain = _play(home, trace=())
    PlayedFeatures(home, {}).write(folder)  # from the images
    extracted, before = _both(home), _files(folder)
    folder.rename(tmp_path / "plain")
    again, traced = _play(home)
    assert _files(again) == before
    assert traced.outcomes == plain.outcomes
    traces = sorted(again.joinpath(TRACES_FOLDER).rglob("*.safetensors"))
    assert [path.name for path in traces] == ["episode0.safetensors", "episode1.safetensors"]
    traces[0].write_bytes(traces[0].read_bytes()[:-8])  # cut short
    traces[1].rename(traces[0].with_name("episode7.safetensors"))
    for source in SOURCES:
        home.features("arp", source, 0).unlink()
    PlayedFeatures(home, {}).write(again)
    assert _both(home) == extracted


def _files(folder: Path):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(files)
        if TRACES_FOLDER not in path.parts
    }


def test_a_trace_of_another_episode_is_not_taken(home, monkeypatch):
    folder, _ = _play(home)
    one, other = sorted(folder.joinpath(TRACES_FOLDER).rglob("*.safetensors"))
    other.write_bytes(one.read_bytes())
    read = []
    prepare = ARPExtractor.prepare

    def counting(self, episodes):
        read.extend(episode.id for episode in episodes)
        return prepare(self, episodes)

    monkeypatch.setattr(ARPExtractor, "prepare", counting)
    PlayedFeatures(home, {}).write(folder)
    assert read == ["open_drawer/1/episode1"] * 2


def test_more_episodes_replace_the_stores_and_the_same_ones_keep_them(home, monkeypatch):
    folder, _ = _play(home, episodes=1)
    features = PlayedFeatures(home, {})
    assert [entry.status for entry in features.write(folder)] == ["written", "written"]
    assert [entry.status for entry in features.write(folder)] == ["kept", "kept"]
    _play(home, episodes=2)
    monkeypatch.setattr(ARPExtractor, "prepare", _refuse)
    assert [(entry.status, entry.episodes) for entry in features.write(folder)] == [("written", 2)] * 2
    assert [entry.status for entry in _extract(home)] == ["kept", "kept"]


def test_what_is_in_the_way_is_told_before_anything_is_played(home, tmp_path):
    players = [(one, home.rollouts / "arp" / step_name(0)) for one in _players(home)]
    PlayedFeatures(home, {}).check(players)
    folder, _ = _play(home, episodes=1)
    extract(run=home, source="rollouts", models=["arp"], layers=["norm"], device="cpu")
    for call in (lambda: PlayedFeatures(home, {}).check(players), lambda: PlayedFeatures(home, {}).write(folder)):
        with pytest.raises(FeatureError, match=r"made with another configuration \(layers was \['norm'\]"):
            call()
    write_untrained(tmp_path / "step_00000000.safetensors", "arp", "tiny", 5)
    (foreign,) = _players(home, files=(tmp_path / "step_00000000.safetensors",))
    with pytest.raises(ConfigError, match=r"is no ARP checkpoint of run .* at step 0"):
        PlayedFeatures(home, {}).check([(foreign, folder)])


def _players(home, **query):
    return select_checkpoints(home, CheckpointQuery(purpose="play", policy="arp", **query))


def test_a_policy_without_states_cannot_be_traced(home):
    config = RolloutConfig(world_options={"image_size": 16}, policy="expert")
    plan = RolloutPlan(tasks=("open_drawer",), episodes=1, seed=7)
    with pytest.raises(ConfigError, match=r"policy 'expert' does not give its states \(act_traced, computation\)"):
        rollout(home.rollouts / "expert", config, plan, workers=0, trace=LAYERS)
    assert not home.rollouts.exists()
