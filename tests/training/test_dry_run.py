"""Sizing up a training without doing it."""

from dataclasses import replace

import pytest
import torch

from mnprobe.core.errors import ConfigError
from mnprobe.core.runtime import Team
from mnprobe.models.untrained import write_untrained
from mnprobe.training import BatchLoader, prepare_inputs, preset
from mnprobe.training.dry_run import plan_training
from mnprobe.training.initialization import initial_models


def test_parameters_are_those_of_the_models(micro):
    plan = plan_training(micro())
    model = initial_models(micro()).model
    counts = {
        "video": model.viclip.vision_encoder,
        "text": model.viclip.text_encoder,
        "policy": model.arp,
        "heads": model.heads,
    }
    assert plan.parameters == {
        name: sum(weight.numel() for weight in part.parameters()) for name, part in counts.items()
    }


@pytest.fixture(scope="module")
def paper():
    """The plan of the paper's training, whose models take seconds to size up."""
    return plan_training(preset("paper"), device="cuda", preset="paper")


def test_published_sizes(paper):
    plan = paper
    assert plan.parameters["video"] + plan.parameters["text"] == 427_590_144  # and the temperature
    assert plan.parameters["policy"] == 72_115_622
    assert plan.parameters["heads"] == 768 * 1024 + 128 * 1024 + 2 * 1024


@pytest.mark.parametrize("changes", [{}, {"sides": "understanding", "lambda_align": 0.0}, {"clips": 8}])
def test_activations_are_about_what_a_real_pass_keeps(micro, micro_dataset, tmp_path, changes):
    config = micro(understanding_share=1.0, **changes)
    start = initial_models(config)
    model = start.model
    inputs = prepare_inputs(
        micro_dataset,
        viclip=config.viclip_config(),
        arp=config.arp_config() if config.trains_arp else None,
        cache=tmp_path,
        quiet=True,
    )
    feed = BatchLoader(
        inputs,
        config,
        viclip=config.viclip_config(),
        arp=config.arp_config() if config.trains_arp else None,
        language=start.language,
        device="cpu",
        team=Team(),
    )
    own = {weight.data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}
    held = []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model(feed(0))
    assert torch.isfinite(out.total)
    assert plan_training(config).memory["activations"] == pytest.approx(sum(kept.values()), rel=0.35)


def test_memory_follows_the_settings(micro):
    whole = plan_training(micro()).memory
    assert plan_training(micro(batch=8)).memory["activations"] > 1.9 * whole["activations"]
    assert plan_training(micro(), processes=2).memory["activations"] == pytest.approx(
        whole["activations"] / 2, rel=0.01
    )
    assert plan_training(micro(precision="bf16")).memory["activations"] < 0.6 * whole["activations"]
    assert plan_training(micro(text_share=0.0)).memory["optimisers"] < whole["optimisers"]
    assert plan_training(micro(), device="cuda").memory["activations"] < whole["activations"]
    deep = micro(sides="understanding", lambda_align=0.0, viclip=replace(micro().viclip_config(), layers=12))
    again = plan_training(replace(deep, recompute=True)).memory["activations"]
    assert again < 0.7 * plan_training(deep).memory["activations"]


def test_the_schedule_tells_steps_and_rates_at_every_checkpoint(micro):
    rows = plan_training(micro()).schedule
    assert [(row.step, row.own_updates) for row in rows] == [
        (0, {"viclip": 0, "arp": 0, "heads": 0}),
        (3, {"viclip": 1, "arp": 3, "heads": 1}),
        (6, {"viclip": 3, "arp": 6, "heads": 3}),
    ]
    assert rows[0].rates["viclip"] == pytest.approx(5e-4)  # half of the warm-up of two updates
    assert rows[-1].rates["viclip"] == pytest.approx(1e-5)


def test_what_was_changed_in_the_papers_preset_is_told(paper):
    config = replace(preset("paper"), tau=0.2, policy=replace(preset("paper").policy, rule="uncorrected"))
    plan = plan_training(config, preset="paper")
    assert plan.sources["tau"] == "changed: 0.2 instead of 0.1 (0.1 (paper, 4.1))"
    assert plan.sources["policy.rule"].startswith("changed: 'uncorrected' instead of 'capped'")
    assert plan.sources["dim"] == "1024 (paper, 4.1)"
    assert "changed" not in paper.text()
    assert plan_training(preset("tiny"), preset="tiny").sources == {}


def test_sizes_come_from_files_where_models_start_from_them(micro, tmp_path):
    write_untrained(tmp_path / "arp.safetensors", "arp", "tiny", 0)
    plan = plan_training(micro(), start_arp=tmp_path / "arp.safetensors")
    assert plan.config.arp_config().width == 64
    with pytest.raises(ConfigError, match="only the understanding side"):
        plan_training(micro(sides="understanding", lambda_align=0.0), start_arp=tmp_path / "arp.safetensors")
