"""load_viclip: each form of file that is in circulation, and one clear error for each bad one."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from mnprobe.core.errors import CheckpointError
from mnprobe.models.loading import save_checkpoint
from mnprobe.models.viclip import ViCLIP, ViCLIPConfig, load_viclip


@pytest.fixture(scope="module")
def state(small):
    return ViCLIP(small, generator=torch.Generator().manual_seed(5)).state_dict()


def same(model: ViCLIP, state: dict[str, torch.Tensor]) -> bool:
    found = model.state_dict()
    return found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)


def test_flat_safetensors_with_sizes_read_off_the_tensors(tmp_path, state, small):
    save_file(state, tmp_path / "model.safetensors")
    model = load_viclip(tmp_path / "model.safetensors")
    assert model.config == small
    assert not model.training
    assert same(model, state)


@pytest.mark.parametrize("nest", [None, "model", "module"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_pth_files_of_the_official_training(tmp_path, state, nest, prefix):
    weights = {prefix + name: value for name, value in state.items()}
    extra = {"optimizer": {"lr": 1.0}, "scheduler": {}, "scaler": {}, "config": {"a": 1}, "epoch": 9, "global_step": 99}
    torch.save(weights if nest is None else {nest: weights, **extra}, tmp_path / "ViClip.pth")
    assert same(load_viclip(tmp_path / "ViClip.pth"), state)


def test_our_own_checkpoint_brings_its_configuration(tmp_path, config, folder):
    weights = load_file(folder / "weights.safetensors")
    save_checkpoint(tmp_path / "c", weights, model="viclip", config=config.to_dict(), step=3)
    model = load_viclip(tmp_path / "c")
    assert model.config == config
    assert same(model, weights)
    assert model.temp.item() == pytest.approx(0.043)


@pytest.mark.parametrize("ours", [True, False])
def test_tubelets_survive_a_file(tmp_path, small, ours):
    model = ViCLIP(replace(small, frames=8, tubelet=4), generator=torch.Generator().manual_seed(6)).eval()
    if ours:
        save_checkpoint(tmp_path / "w", model.state_dict(), model="viclip", config=model.config.to_dict(), step=3)
    else:
        torch.save(model.state_dict(), tmp_path / "w")  # sizes read off the tensors
    loaded = load_viclip(tmp_path / "w")
    assert loaded.config == model.config
    clip = torch.randn(2, 8, 3, 32, 32, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        assert torch.equal(loaded.encode_video(clip), model.encode_video(clip))
    with pytest.raises(CheckpointError, match="another configuration" if ours else "wrong shape"):
        load_viclip(tmp_path / "w", replace(small, frames=8))


def test_a_loaded_model_owns_its_weights(tmp_path, state):
    torch.save(state, tmp_path / "w.pth")
    model = load_viclip(tmp_path / "w.pth")
    with torch.no_grad():
        model.temp.fill_(9)
    (tmp_path / "w.pth").write_bytes(b"")  # would reach weights that are still mapped from the file
    assert same(model, state | {"temp": torch.tensor(9.0)})
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_the_number_type_is_as_asked(tmp_path, state, dtype):
    torch.save({name: value.half() for name, value in state.items()}, tmp_path / "w.pth")
    assert {p.dtype for p in load_viclip(tmp_path / "w.pth").parameters()} == {torch.float32}
    assert {p.dtype for p in load_viclip(tmp_path / "w.pth", dtype=dtype).parameters()} == {dtype}


def test_loading_leaves_the_global_random_state_alone(tmp_path, state):
    torch.save(state, tmp_path / "w.pth")
    before = torch.get_rng_state()
    load_viclip(tmp_path / "w.pth")
    assert torch.equal(before, torch.get_rng_state())


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


BROKEN = {
    "missing": (lambda s: without(s, "vision_encoder.ln_post.bias"), r"missing \(1\): vision_encoder\.ln_post\.bias"),
    "size missing": (lambda s: without(s, "vision_encoder.proj"), r"cannot tell the sizes.*: vision_encoder\.proj"),
    "extra": (lambda s: s | {"itm_head.weight": torch.ones(1)}, r"unexpected \(1\): itm_head\.weight"),
    "shape": (lambda s: s | {"temp": torch.ones(2)}, r"wrong shape \(1\): temp \[2\] instead of \[\]"),
    "nan": (lambda s: s | {"temp": torch.tensor(float("nan"))}, "NaN or infinite in 1 of .* entries: temp"),
    "arp": (lambda s: {"mvt1.pos_encoding": torch.ones(1)}, "asked for ViCLIP weights, found those of ARP"),
    "clip": (
        lambda s: {"token_embedding.weight": torch.ones(1), "ln_final.weight": torch.ones(1)},
        "asked for ViCLIP weights, found those of CLIP",
    ),
    "foreign": (lambda s: {"fc.weight": torch.ones(1)}, "no ViCLIP weights: not one of the 303 expected names"),
    "integers": (lambda s: s | {"temp": torch.tensor(1)}, r"wrong kind in 1 of .*: temp \(torch\.int64 instead of"),
    "block lost": (lambda s: {k: v for k, v in s.items() if ".resblocks.0." not in k}, "missing|impossible sizes"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_bad_weights_get_one_clear_error(tmp_path, state, case, suffix):
    change, message = BROKEN[case]
    path = tmp_path / f"bad.{suffix}"
    if suffix == "pth":
        torch.save({"model": change(state)}, path)
    else:
        save_file(change(state), path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_viclip(path)
    assert str(path) in str(caught.value)


def test_truncated_files_are_called_damaged(tmp_path, state):
    torch.save({"model": state}, tmp_path / "a.pth")
    save_file(state, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(CheckpointError, match="damaged or cut short"):
            load_viclip(tmp_path / name)


def test_a_configuration_of_another_model_does_not_fit(tmp_path, state):
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="wrong shape"):
        load_viclip(tmp_path / "w.pth", ViCLIPConfig.tiny())
    with pytest.raises(CheckpointError, match="cannot hold the 999 video and 12 text blocks"):
        load_viclip(tmp_path / "w.pth", ViCLIPConfig(layers=999))


def test_a_stored_configuration_is_not_overruled(tmp_path, state, small):
    save_checkpoint(tmp_path / "c", state, model="viclip", config=small.to_dict(), step=0)
    with pytest.raises(CheckpointError, match=r"another configuration than the one given(?s:.*)resized"):
        load_viclip(tmp_path / "c", ViCLIPConfig.from_dict(small.to_dict() | {"heads": 2}))
    dropping = ViCLIPConfig.from_dict(small.to_dict() | {"stochastic_depth": 0.1})
    assert load_viclip(tmp_path / "c", dropping).config == dropping


@pytest.mark.parametrize("config", [{"with": 1}, {"layers": 10**9}, {"frames": 0}])
def test_a_senseless_stored_configuration_is_refused(tmp_path, state, config):
    save_checkpoint(tmp_path / "c", state, model="viclip", config=config, step=0)
    with pytest.raises(CheckpointError, match=r"no ViCLIPConfig|cannot hold"):
        load_viclip(tmp_path / "c")
