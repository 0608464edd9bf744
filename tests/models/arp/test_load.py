import json
import warnings

import pytest
import torch
from safetensors.torch import save_file

from mnprobe.core.errors import CheckpointError
from mnprobe.models.arp import ARP, ARPConfig, ZeroGateWarning, load_arp, save_arp
from mnprobe.models.arp.load import recognise_arp
from mnprobe.models.loading import read_metadata

COUNTS = {"arp": (72_115_622, 4_048_166, 386), "arp_plus": (74_014_374, 5_946_918, 410)}


@pytest.fixture(scope="module")
def small():
    """A policy small enough to write to disk many times, with gates that are open."""
    config = ARPConfig(
        image_size=16,
        patch_size=4,
        vision_width=8,
        vision_heads=2,
        vision_head_width=4,
        vision_depth=2,
        language_length=3,
        language_width=8,
        width=16,
        heads=2,
        cross_blocks=1,
        self_blocks=1,
        render_radius=0.2,
    )
    policy = ARP(config)
    policy.init_weights(torch.Generator().manual_seed(0))
    torch.nn.init.ones_(policy.policy.blocks[0].adaLN_modulation[1].bias)
    return policy


def _same(first, second):
    found = second.state_dict()
    return all(torch.equal(x, found[name]) for name, x in first.state_dict().items()) and len(found) == len(
        first.state_dict()
    )


@pytest.mark.parametrize("variant", COUNTS)
def test_full_size_state_dict_has_the_published_names_and_shapes(golden, variant):
    listed = json.loads((golden / "arp-tiny" / f"state_dict_{variant}.json").read_text())
    with torch.device("meta"):
        policy = ARP(getattr(ARPConfig, variant)())
    assert {name: list(x.shape) for name, x in policy.state_dict().items()} == listed
    assert all(x.dtype == torch.float32 for x in policy.state_dict().values())
    whole, part = (sum(p.numel() for p in module.parameters()) for module in (policy, policy.policy))
    assert (whole, part, len(listed)) == COUNTS[variant]
    tensors = {name: torch.empty(shape, device="meta") for name, shape in listed.items()}
    policy.load_state_dict(tensors, strict=True, assign=True)
    assert recognise_arp(tensors, path="x.pth") == getattr(ARPConfig, variant)()


def test_own_checkpoint_comes_back_with_its_configuration(tmp_path, small):
    save_arp(tmp_path / "a.safetensors", small, step=7, metrics={"loss": 1.5}, extra={"note": "x"})
    loaded = load_arp(tmp_path / "a.safetensors")
    assert loaded.config == small.config
    assert _same(small, loaded)
    assert not loaded.training
    assert not any(p.is_meta for p in loaded.parameters())
    metadata = read_metadata(tmp_path / "a.safetensors")
    assert (metadata["model"], metadata["step"], metadata["trained"], metadata["note"]) == ("arp", "7", "true", "x")
    assert json.loads(metadata["metrics"]) == {"loss": 1.5}


def test_published_nesting_is_read_and_a_given_configuration_wins(tmp_path, small):
    path = tmp_path / "arp_model_80000.pth"
    torch.save({"step": 80000, "model_state": small.state_dict(), "optimizer_state": {}, "lr_sched_state": {}}, path)
    assert _same(small, load_arp(path, small.config))
    save_arp(tmp_path / "a.safetensors", small, step=1)
    changed = ARPConfig.from_dict(small.config.to_dict() | {"zoom": 3.0})
    assert load_arp(tmp_path / "a.safetensors", changed).config.zoom == 3.0
    torch.save({"model_state": {name: x.half() for name, x in small.state_dict().items()}}, path)
    assert load_arp(path, small.config).mvt1.pos_encoding.dtype == torch.float32


def test_zero_gates_are_warned_about_unless_the_file_says_it_is_untrained(tmp_path, small):
    fresh = ARP(small.config)
    fresh.init_weights(torch.Generator().manual_seed(0))
    for step in (0, 5):
        save_arp(tmp_path / f"{step}.safetensors", fresh, step=step)
    torch.save({"model_state": fresh.state_dict()}, tmp_path / "p.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_arp(tmp_path / "0.safetensors")
    with pytest.warns(ZeroGateWarning, match="exactly zero"):
        load_arp(tmp_path / "5.safetensors")
    with pytest.warns(ZeroGateWarning, match="know nothing of the image"):
        load_arp(tmp_path / "p.pth", small.config)


def _break(state, how):
    if how == "missing":
        del state["policy.final_ln.weight"], state["mvt1.pos_encoding"]
    if how == "unexpected":
        state["policy.blocks.0.extra"] = torch.zeros(1)
    if how == "shape":
        state["policy.pos_emb.weight"] = torch.zeros(18, 16)
    if how == "nan":
        state["mvt2.fc_bef_attn.linear.weight"][0, 0] = torch.nan
    return state


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", r"missing \(2\): mvt1.pos_encoding, policy.final_ln.weight"),
        ("unexpected", r"unexpected \(1\): policy.blocks.0.extra"),
        ("shape", r"policy.pos_emb.weight \[18, 16\] instead of \[17, 16\]"),
        ("nan", "NaN or infinite in 1 of .*mvt2.fc_bef_attn.linear.weight"),
    ],
)
def test_files_that_do_not_fit_are_refused_naming_the_entry(tmp_path, small, how, message):
    state = _break({name: x.clone() for name, x in small.state_dict().items()}, how)
    save_file(state, tmp_path / "bad.safetensors")
    with pytest.raises(CheckpointError, match=message) as error:
        load_arp(tmp_path / "bad.safetensors", small.config)
    assert "bad.safetensors" in str(error.value)


def test_other_sizes_without_a_configuration_say_what_is_needed(tmp_path, small):
    save_file(small.state_dict(), tmp_path / "small.safetensors")
    with pytest.raises(CheckpointError, match=r"of neither released variant: found 2 blocks, 20 .*config=ARPConfig"):
        load_arp(tmp_path / "small.safetensors")


@pytest.mark.parametrize("given", [True, False])
def test_the_other_model_and_foreign_files_are_named(tmp_path, small, given):
    config = small.config if given else None
    save_file({"vision_encoder.proj": torch.zeros(2, 2)}, tmp_path / "v.safetensors")
    with pytest.raises(CheckpointError, match="asked for ARP weights, found those of ViCLIP"):
        load_arp(tmp_path / "v.safetensors", config)
    save_file({"fc.weight": torch.zeros(2, 2)}, tmp_path / "f.safetensors")
    with pytest.raises(CheckpointError, match="no ARP weights"):
        load_arp(tmp_path / "f.safetensors", config)


def test_damaged_files_and_configurations_are_refused(tmp_path, small):
    path = tmp_path / "a.safetensors"
    save_arp(path, small, step=1)
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"cut.safetensors: damaged or cut short"):
        load_arp(tmp_path / "cut.safetensors")
    with pytest.raises(CheckpointError, match="does not exist"):
        load_arp(tmp_path / "none.pth")
    metadata = {"format": "mnprobe.checkpoint/1", "model": "arp", "step": "1", "metrics": "{}", "trained": "true"}
    save_file(small.state_dict(), tmp_path / "odd.safetensors", metadata=metadata | {"config": '{"width": 100}'})
    with pytest.raises(CheckpointError, match=r"configuration cannot be used: .*got 100"):
        load_arp(tmp_path / "odd.safetensors")
