"""Inputs are prepared once for all checkpoints and variants of one command, and nothing else changes."""

from dataclasses import replace

import pytest
import torch

from mnprobe.core.errors import ConfigError, FeatureError, MnprobeError
from mnprobe.core.rundir import RunDir
from mnprobe.features import extract, extraction, open_features
from mnprobe.features.extractors.arp import ARPExtractor
from mnprobe.features.extractors.viclip import ViCLIPExtractor
from mnprobe.models.arp import ARP, ARPConfig
from mnprobe.models.loading import save_checkpoint
from mnprobe.models.viclip import ViCLIP, ViCLIPConfig

STEPS = (0, 10, 20)
SIZE = 3  # episodes in a batch


@pytest.fixture(scope="module")
def arp_config():
    return replace(ARPConfig.tiny(), image_size=24, patch_size=6)


@pytest.fixture
def home(tmp_path, write_demo, arp_config):
    """A run with three checkpoints of each model, and four demonstrations: two batches of three and one."""
    run = RunDir.create(tmp_path / "run")
    for step in STEPS:
        generator = torch.Generator().manual_seed(step)
        arp = _policy(arp_config, generator)
        for kind, model in (("viclip", ViCLIP(ViCLIPConfig.tiny(), generator=generator)), ("arp", arp)):
            save_checkpoint(
                run.checkpoint(kind, step), model.state_dict(), model=kind, config=model.config.to_dict(), step=step
            )
    for number in range(4):
        write_demo(run.demos, "t", number % 2, "train", number, ("do it", "undo it")[number % 2], 9)
    return run


def _policy(config, generator):
    policy = ARP(config)
    policy.init_weights(generator)
    for name, weight in policy.named_parameters():
        if "adaLN_modulation" in name:  # zero in fresh weights, never in trained ones
            weight.data.fill_(0.1)
    return policy


def _extract(home, out, **settings):
    return extract(None, run=home, out=out, device="cpu", batch_size=SIZE, **settings)


def _content(folder):
    """Everything of all stores in a folder but the time at which they were made."""
    found = {}
    for path in sorted(folder.rglob("*.h5")):
        with open_features(path) as file:
            attributes = {name: value for name, value in file.attrs.items() if name not in ("created", "digest")}
            layers = {name: file.layer(name) for name in file.layers}
            arrays = {
                name: [part.tolist() for part in (layer.values[:], layer.offsets, layer.keyframe)]
                for name, layer in layers.items()
            }
            found[path.relative_to(folder).as_posix()] = attributes, arrays, file.episodes.to_dict("list")
    return found


@pytest.fixture
def prepared(monkeypatch):
    """The batches that were prepared, by ids."""
    seen = []
    for kind in (ARPExtractor, ViCLIPExtractor):

        def counting(self, episodes, kind=kind, prepare=kind.prepare):
            seen.append((kind.kind, len(episodes)))
            return prepare(self, episodes)

        monkeypatch.setattr(kind, "prepare", counting)
    return seen


def test_one_command_prepares_once_and_writes_what_many_write(home, tmp_path, prepared, monkeypatch):
    done = _extract(home, tmp_path / "one", models=["arp", "viclip"], also_blank=True)
    assert sorted(prepared) == [("arp", 1), ("arp", 3), ("viclip", 1), ("viclip", 3)]
    assert [(entry.id.model, entry.id.source_name, entry.id.step, entry.status) for entry in done] == [
        *(("arp", source, step, "written") for step in STEPS for source in ("demos", "demos-blank")),
        *(("viclip", "demos", step, "written") for step in STEPS),
    ]
    for blank in (None, True):
        for step in STEPS:
            for kind in ("arp", "viclip") if not blank else ("arp",):
                settings = {"checkpoints": [home.checkpoint(kind, step)], "options": {"blank_instruction": blank}}
                settings = settings if kind == "arp" else settings | {"options": {}}
                _extract(home, tmp_path / "many", **settings)
    assert _content(tmp_path / "one") == _content(tmp_path / "many")
    prepared.clear()
    monkeypatch.setattr(extraction, "_WEIGHTS_AT_ONCE", 0)  # models that do not fit into memory together
    _extract(home, tmp_path / "apart", models=["arp"])
    assert len(prepared) == 2 * len(STEPS)
    apart = _content(tmp_path / "apart")
    assert apart == {name: value for name, value in _content(tmp_path / "one").items() if name in apart}


def test_an_interrupted_command_goes_on_where_each_store_was(home, tmp_path, prepared, monkeypatch):
    _extract(home, tmp_path / "whole", models=["arp"])
    calls = iter(range(100))
    compute = ARPExtractor.compute

    def until_the_fifth(self, batch):
        if next(calls) == 4:  # the second checkpoint at the second batch
            raise KeyboardInterrupt
        return compute(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(ARPExtractor, "compute", until_the_fifth)
        with pytest.raises(KeyboardInterrupt):
            _extract(home, tmp_path / "stopped", models=["arp"])
    prepared.clear()
    left = []
    monkeypatch.setattr(ARPExtractor, "compute", lambda self, batch: left.append(1) or compute(self, batch))
    _extract(home, tmp_path / "stopped", models=["arp"])
    assert (prepared, len(left)) == ([("arp", 1)], 2)
    assert _content(tmp_path / "stopped") == _content(tmp_path / "whole")
    assert not list((tmp_path / "stopped").rglob("*.shard"))


@pytest.mark.parametrize("when", ["loading", "computing"])
def test_a_checkpoint_that_fails_leaves_those_before_it_finished(home, tmp_path, arp_config, monkeypatch, when):
    if when == "loading":
        bad = _policy(arp_config, torch.Generator().manual_seed(1))
        weights = {name: torch.full_like(value, float("nan")) for name, value in bad.state_dict().items()}
        save_checkpoint(home.checkpoint("arp", 10), weights, model="arp", config=bad.config.to_dict(), step=10)
    calls, compute = iter(range(100)), ARPExtractor.compute

    def failing(self, batch):
        if next(calls) == 1 and when == "computing":
            raise FeatureError("weights that are NaN")
        return compute(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(ARPExtractor, "compute", failing)
        with pytest.raises(MnprobeError, match=r"weights that are NaN"):
            _extract(home, tmp_path / "out", models=["arp"])
    assert next(calls) == (2 if when == "loading" else 3)  # the checkpoint before it, and nothing after it
    assert [path.name for path in sorted((tmp_path / "out").rglob("*.h5"))] == ["step_00000000.h5"]
    home.checkpoint("arp", 10).unlink()
    assert [entry.status for entry in _extract(home, tmp_path / "out", models=["arp"])] == ["kept", "written"]


def test_models_that_draw_otherwise_share_nothing(home, tmp_path, arp_config, prepared):
    other = _policy(replace(arp_config, render_radius=0.1), torch.Generator().manual_seed(0))
    save_checkpoint(
        home.checkpoint("arp-wide", 0), other.state_dict(), model="arp", config=other.config.to_dict(), step=0
    )
    _extract(home, tmp_path / "together", models=["arp"])  # the kind: models in all folders
    assert sorted(prepared) == [("arp", 1)] * 2 + [("arp", 3)] * 2
    for name, step in (*(("arp", step) for step in STEPS), ("arp-wide", 0)):
        _extract(home, tmp_path / "apart", checkpoints=[home.checkpoint(name, step)], name=name)
    assert _content(tmp_path / "together") == _content(tmp_path / "apart")


def test_both_and_blank_alone_contradict_each_other(home, tmp_path):
    with pytest.raises(ConfigError, match="leave out one of --also-blank and --blank-instruction"):
        _extract(home, tmp_path, models=["arp"], also_blank=True, options={"blank_instruction": True})
