"""Rollouts of every checkpoint are extracted by one command."""

import json
from types import SimpleNamespace

import pytest
import torch

from mnprobe.core.errors import ConfigError
from mnprobe.core.files import sha256_file
from mnprobe.core.names import step_name
from mnprobe.core.rundir import RunDir
from mnprobe.features import ExtractConfig, extract, open_features
from mnprobe.models.arp import ARP, ARPConfig
from mnprobe.models.loading import save_checkpoint
from mnprobe.models.viclip import ViCLIP, ViCLIPConfig
from mnprobe.probe import join_stores
from mnprobe.worlds.outcomes import ALL_TASKS, SUCCESS, Outcome, write_outcomes


@pytest.fixture
def run(tmp_path, write_demo):
    """Two trainings of two checkpoints each, and a function that files episodes as one of them played them."""
    home = RunDir.create(tmp_path / "run")
    viclip = ViCLIP(ViCLIPConfig.tiny(), generator=torch.Generator().manual_seed(0))
    arp = ARP(ARPConfig.tiny())
    arp.init_weights(torch.Generator().manual_seed(0))
    for name, weight in arp.named_parameters():  # zero in fresh weights, never in trained ones
        if "adaLN_modulation" in name:
            weight.data.fill_(0.1)
    for training in ("baseline", "joint"):
        for step in (0, 8):
            for kind, model in (("viclip", viclip), ("arp", arp)):
                save_checkpoint(
                    home.checkpoint(f"{kind}-{training}", step),
                    model.state_dict(),
                    model=kind,
                    config=model.config.to_dict(),
                    step=step,
                    extra={"training": training},
                )

    def played(model, step, *, weights=None, **policy):
        folder = home.rollouts / model / step_name(step)
        write_demo(folder, "t", 0, "", 0, "do it", 9)
        file = weights or home.checkpoint(model, step)
        manifest = {"schema": "mnprobe.rollout/1", "world": {"name": "tabletop"}, "step": step}
        manifest["policy"] = {"name": "arp", "from": "arp", "blank_instruction": False} | policy
        manifest["checkpoint_sha256"] = sha256_file(file) if file.is_file() else "of no file"
        (folder / "rollout.json").write_text(json.dumps(manifest))
        ending = {"success": 0, "steps": 3, "reason": "step limit", "task": "t", "variation": 0, "seed": 0}
        write_outcomes(folder, [Outcome(id="t/0/episode0", **ending)])
        return folder

    return SimpleNamespace(home=home, played=played)


def stored(entries):
    return [
        (entry.path.parent.parent.name, entry.id.source_name, entry.id.step, entry.id.training, entry.status)
        for entry in entries
    ]


def test_every_checkpoint_is_extracted_on_the_episodes_that_it_played(run):
    for training in ("baseline", "joint"):
        for step in (0, 8):
            run.played(f"arp-{training}", step)
    remarks = []
    done = extract(run=run.home, source="rollouts", note=remarks.append)
    wanted = [(t, s) for t in ("baseline", "joint") for s in (0, 8)]
    assert stored(done) == [
        (f"{kind}-{t}", "rollouts", s, t, "written") for t, s in wanted for kind in ("arp", "viclip")
    ]
    assert sum(" of 4)" in remark for remark in remarks) == 4
    with open_features(done[0].path) as file:
        assert file.columns["success"].tolist() == [0]
        assert file.training == "baseline"
    assert {status for *_, status in stored(extract(run=run.home, source="rollouts"))} == {"kept"}
    assert len(run.home.config["extract"]["data"]) == 4
    assert len(RunDir(run.home.path).config["extract"]["asked"]) == 8
    blank = extract(run=run.home, source="rollouts", options={"blank_instruction": True})
    assert stored(blank) == [(f"arp-{t}", "rollouts-blank", s, t, "written") for t, s in wanted]
    alone = extract(run=run.home, source="rollouts", models=["pixels-joint"])
    assert stored(alone) == [("pixels-joint", "rollouts", s, "joint", "written") for s in (0, 8)]
    for entry in alone:
        entry.path.unlink()
    with pytest.raises(ConfigError, match="pixels-joint"):
        extract(run=run.home, source="rollouts", models=["pixels-other"])
    pixels = extract(run=run.home, source="rollouts", models=["pixels"])
    assert stored(pixels) == [(f"pixels-{t}", "rollouts", s, t, "written") for t, s in wanted]
    with open_features(pixels[0].path) as file:
        assert (file.model, file.training) == ("pixels", "baseline")
    pairs, notes = join_stores([piece.path for piece in run.home.feature_files()])
    names = {tuple(f"{path.parts[-3]}/{path.parts[-2]}/{path.stem[-1]}" for path in (p.u, p.e)) for p in pairs}
    plain = {(f"{u}-{t}/rollouts/{s}", f"arp-{t}/rollouts/{s}") for t, s in wanted for u in ("viclip", "pixels")}
    assert names == plain | {(f"viclip-{t}/rollouts/{s}", f"arp-{t}/rollouts-blank/{s}") for t, s in wanted}
    assert notes == []


def test_of_each_policy_only_what_it_played_where_it_succeeds_in_half(run):
    rows = []
    for training, value in (("baseline", 0.6), ("joint", 0.2)):
        for step in (0, 8):
            run.played(f"arp-{training}", step)
            rows.append(
                {"world": "tabletop", "model": f"arp-{training}", "step": step, "task": ALL_TASKS, "value": value}
                | dict.fromkeys(("ci_low", "ci_high", "sd_repeats", "mean_steps"), 0.0)
                | dict.fromkeys(("n", "successes", "repeats", "step_limit", "unreachable_pose"), 1)
                | dict.fromkeys(("collision", "invalid_action"), 0)
            )
    rows[3]["value"] = 0.95  # joint is nearer to one half at step 0, baseline equally near: the later
    SUCCESS.write(run.home.results("success"), SUCCESS.frame(rows))
    config = ExtractConfig(models=("arp", "viclip"), source="rollouts", step="half")
    found = stored(extract(None, config, run=run.home))
    assert [entry[:4] for entry in found] == [
        ("arp-baseline", "rollouts", 8, "baseline"),
        ("viclip-baseline", "rollouts", 8, "baseline"),
        ("arp-joint", "rollouts", 0, "joint"),
        ("viclip-joint", "rollouts", 0, "joint"),
    ]


def test_names_choose_and_other_policies_are_left_out(run):
    run.played("arp-joint", 8)
    run.played("arp-baseline", 8)
    run.played("arp-joint-blank", 8, weights=run.home.checkpoint("arp-joint", 8), blank_instruction=True)
    run.played("expert", 0, **{"from": "expert", "name": "expert"})
    run.played("arp-old", 8)
    remarks = []
    done = extract(run=run.home, source="rollouts", models=["viclip-joint"], note=remarks.append)
    assert [entry.path for entry in done] == [run.home.features("viclip-joint", "rollouts", 8)]
    told = "\n".join(remarks)
    assert "arp-joint-blank/step_00000008: was played by an ARP that was told nothing, so it is left out" in told
    assert "expert/step_00000000: was played by policy 'expert', so it is left out" in told
    assert "arp-old/step_00000008: was played by weights that the run has no longer" in told
    run.home.checkpoint("viclip-joint", 8).unlink()
    remarks.clear()
    done = extract(run=run.home, source="rollouts", models=["arp-joint", "viclip-joint"], note=remarks.append)
    assert [entry.id.model for entry in done] == ["arp-joint"]
    assert any("arp-joint step 8: no ViCLIP checkpoint of training 'joint' at this step" in text for text in remarks)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "that the policies of run .* played are needed, but it has none. `mnprobe rollout --run"),
        ({"models": ["hook"]}, r"unknown model of played episodes \(give --data for any other\): 'hook'"),
        ({"step": 3}, "takes the run's own checkpoints, .* give --data as well to use --checkpoint, --name or --step"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments, text, run):
    with pytest.raises(ConfigError, match=text):
        extract(run=run.home, source="rollouts", **arguments)


def test_a_kind_means_all_models_of_it_however_they_are_called(run, write_demo):
    write_demo(run.home.demos, "t", 0, "train", 0, "do it", 9)
    done = extract(run=run.home, models=["arp"], options={"blank_instruction": True})
    assert [(entry.id.model, entry.id.step, entry.id.trained) for entry in done] == [
        ("arp-baseline", 0, False),
        ("arp-baseline", 8, True),
        ("arp-joint", 0, False),
        ("arp-joint", 8, True),
    ]
    assert len(extract(run=run.home)) == 8
