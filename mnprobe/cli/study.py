"""Stages of `mnprobe demo`: the commands of a study and their order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["STUDIES", "Command", "Stage", "Study", "may_be_left_out", "probe_stages", "study_stages"]

Command = list[str]


@dataclass(frozen=True)
class Stage:
    """Commands that do not wait for each other, and what they are about, in one or two words."""

    title: str
    commands: list[Command]


@dataclass(frozen=True, kw_only=True)
class Study:
    """Sizes of a complete study on the embedded tabletop.

    Attributes:
        tasks: demonstrated tasks; empty for all tasks of the tabletop.
        max_variations: maximum number of instructions per task; None for all.
        train, val, test: demonstrations per instruction: models are trained on train; heads are fitted on val, which no
            model was trained on, and measured on test.
        preset: preset of the trainings.
        updates: updates per training.
        seeds: number of trainings of each kind (baseline and joint), each with its own weights and batches.
        checkpoints: shares of the updates at which checkpoints are written; None for those of the preset.
        episodes: rollout episodes per checkpoint and task, from the initial states of test demonstrations.
        half_episodes: the same at the checkpoint of each policy whose success is nearest one half, where success is
            compared with failure; None compares them at the last checkpoint.
        max_steps: number of key poses after which a rollout fails.
        probe_seeds: number of seeds of the heads.
        first_seed: seed of the first training; the others are consecutive.
        scene_seed: seed of the first demonstrated scene.
    """

    tasks: tuple[str, ...]
    max_variations: int | None
    train: int
    val: int
    test: int
    preset: str
    updates: int
    seeds: int = 1
    checkpoints: tuple[float, ...] | None = None
    episodes: int
    half_episodes: int | None = None
    max_steps: int
    probe_seeds: int
    first_seed: int = 0
    scene_seed: int = 0


_PUCKS = ("tap_puck", "lift_puck", "push_puck_left", "push_puck_right", "push_puck_away", "push_puck_near")

STUDIES: Mapping[str, Study] = {
    "quick": Study(
        tasks=_PUCKS,
        max_variations=None,
        train=30,
        val=12,
        test=8,
        preset="goal",
        updates=900,
        checkpoints=(0.0, 0.4, 0.65, 1.0),
        episodes=12,
        half_episodes=36,
        max_steps=8,
        probe_seeds=2,
        first_seed=20,
        scene_seed=500_000,
    ),
    "reference": Study(
        tasks=_PUCKS,
        max_variations=None,
        train=30,
        val=12,
        test=12,
        preset="goal",
        updates=2_000,
        seeds=10,
        checkpoints=(0.0, 0.15, 0.25, 0.4, 1.0),
        episodes=18,
        half_episodes=36,
        max_steps=8,
        probe_seeds=2,
        first_seed=100,
        scene_seed=700_000,
    ),
    "full": Study(
        tasks=(),
        max_variations=None,
        train=40,
        val=10,
        test=10,
        preset="small",
        updates=10_000,
        seeds=3,
        episodes=25,
        max_steps=25,
        probe_seeds=5,
    ),
}
"""quick: minutes on two cores, 36 instructions in one scene, one seed pair; reference: the same suite with ten seed
pairs, two hours on two cores (docs/study.md fixes both); full: all 77 instructions, three seeds, hours."""

_SAVE_EVERY = "100"  # updates between two saved states of a training, in studies of several pairs


def study_stages(study: Study, run: Path, *, seed: int | None, device: str, probe_steps: int | None) -> list[Stage]:
    """Stages of a complete study: demonstrations, trainings, rollouts, features, recognition, alignment, report.

    Where success is judged nearest one half, seed pairs are made one after the other, each with its episodes, features
    and alignment, so that a study that is stopped holds whole pairs; else all trainings come first.

    Args:
        study: sizes of the study.
        run: run directory.
        seed: seed of the first training in place of the study's.
        device: value of --device.
        probe_steps: optimiser steps per probe fit; None for the default.
    """
    first = study.first_seed if seed is None else seed
    run_option = ["--run", str(run)]
    tasks = [word for task in study.tasks for word in ("--task", task)]
    few = [] if study.max_variations is None else ["--max-variations", str(study.max_variations)]
    numbers = ["--train", str(study.train), "--val", str(study.val), "--test", str(study.test)]
    numbers += ["--seed", str(study.scene_seed)] if study.scene_seed else []
    made = [Stage("demonstrations", [["demos", *run_option, *tasks, *few, *numbers]])]
    fit = _fit(study.probe_seeds, probe_steps)
    if study.half_episodes is None:
        made += _together(study, run, first, device)
        late = ["--source", "demos", "--source", "rollouts", "--step", str(study.updates), "--holdout", "episodes"]
        made.append(Stage("alignment", [["align", *run_option, *fit]]))
        made.append(Stage("outcomes", [["align", *run_option, *fit, "--split", "success", *late]]))
        return made + _pictures(run, joint=True)
    half = ["--split", "success", "--source", "rollouts", "--step", "half", "--holdout", "episodes"]
    for number in range(study.seeds):
        only = [word for kind in _kinds(number) for word in ("--model", f"arp-{kind}")]
        pair = [
            *_pair(study, run, number, first + number, device),
            Stage("alignment", [["align", *run_option, *fit, *only]]),
            Stage("outcomes", [["align", *run_option, *fit, *half, *only]]),
        ]
        prefix = f"pair {number + 1}: " if study.seeds > 1 else ""
        made += [Stage(prefix + stage.title, stage.commands) for stage in pair]
    return made + _pictures(run, joint=True)


def _kinds(number: int) -> tuple[str, str]:
    """Names of the joint and the baseline training of a seed pair."""
    return ("joint", "baseline") if number == 0 else (f"joint-seed{number}", f"baseline-seed{number}")


def _trainings(study: Study, run: Path, number: int, seed: int, device: str) -> list[Command]:
    common = ["--preset", study.preset, "--updates", str(study.updates), "--threads", "1", "--device", device]
    if study.checkpoints is not None:
        common += ["--checkpoint-at", ",".join(f"{share:g}" for share in study.checkpoints)]
    if study.half_episodes is not None:
        common += ["--save-every", _SAVE_EVERY]
    return [
        ["train", "--run", str(run), *common, "--name", name, "--lambda-align", weight, "--seed", str(seed)]
        for name, weight in zip(_kinds(number), ("0.5", "0"), strict=True)
    ]


def _play(study: Study, run: Path) -> Command:
    command = ["rollout", "--run", str(run), "--from-demos", str(run / "demos"), "--partition", "test"]
    return [*command, "--max-steps", str(study.max_steps), "--workers", "0"]


def _together(study: Study, run: Path, seed: int, device: str) -> list[Stage]:
    """All trainings, then all that they play and are measured on."""
    run_option, device_option = ["--run", str(run)], ["--device", device]
    names = [name for number in range(study.seeds) for name in _kinds(number)]
    play = [*_play(study, run), "--episodes", str(study.episodes)]
    held_out = ["extract", *run_option, "--partition", "val", "--partition", "test", *device_option]
    played = ["extract", *run_option, "--source", "rollouts", *device_option]
    trainings = [one for number in range(study.seeds) for one in _trainings(study, run, number, seed + number, device)]
    return [
        Stage("training", trainings),
        Stage(
            "features",
            [
                *([*play, "--model", f"arp-{name}"] for name in names),
                [*held_out, "--model", "arp"],
                [*held_out, "--model", "arp", "--blank-instruction"],
                [*held_out, "--model", "viclip"],
                [*held_out, "--model", "pixels"],
                ["recognize", *run_option, "--partition", "test", *device_option],
            ],
        ),
        Stage(
            "own features",
            [
                [*played],
                [*played, "--model", "arp", "--blank-instruction"],
                [*played, "--model", "pixels"],
            ],
        ),
    ]


def _pair(study: Study, run: Path, number: int, seed: int, device: str) -> list[Stage]:
    """One seed pair: trained, played, played on where success is nearest one half, and all its features.

    e of played episodes, with and without the instruction, is written while they are played.
    """
    run_option, device_option = ["--run", str(run)], ["--device", device]
    kinds = _kinds(number)
    policies = [word for kind in kinds for word in ("--model", f"arp-{kind}")]
    watching = [word for kind in kinds for word in ("--model", f"viclip-{kind}")]
    pixels = [word for kind in kinds for word in ("--model", f"pixels-{kind}")]
    play = [*_play(study, run), "--features"]
    held_out = ["extract", *run_option, "--partition", "val", "--partition", "test", *device_option]
    played = ["extract", *run_option, "--source", "rollouts", *device_option]
    return [
        Stage("training", _trainings(study, run, number, seed, device)),
        Stage("own episodes", [[*play, "--episodes", str(study.episodes), "--model", f"arp-{kind}"] for kind in kinds]),
        Stage(
            "features",
            [
                [*held_out, *policies, "--also-blank"],  # the longest first
                *(
                    [*play, "--episodes", str(study.half_episodes), "--step", "half", "--model", f"arp-{kind}"]
                    for kind in kinds
                ),
                [*held_out, *watching],
                ["recognize", *run_option, *watching, "--partition", "test", *device_option],
                *([[*held_out, "--model", "pixels"]] if number == 0 else []),
            ],
        ),
        Stage("own features", [[*played, *watching], [*played, *pixels]]),
    ]


def probe_stages(run: Path, steps: int | None) -> list[Stage]:
    """Stages from features to the report, for demonstrations of your own."""
    return [Stage("alignment", [["align", "--run", str(run), *_fit(None, steps)]]), *_pictures(run, joint=False)]


def _fit(seeds: int | None, steps: int | None) -> Command:
    fit = [] if steps is None else ["--steps", str(steps)]
    return fit + ([] if seeds is None else ["--seeds", str(seeds)])


def _pictures(run: Path, *, joint: bool) -> list[Stage]:
    """Everything that is drawn from the tables, and the report; `joint`: the joint training is compared in the grid."""
    run_option = ["--run", str(run)]
    pair = ["--understanding", "viclip-joint", "--execution", "arp-joint"] if joint else []
    return [
        Stage(
            "audit",
            [
                ["tsne", *run_option],
                ["audit", *run_option],
                ["compare", *run_option, "--grid", "checkpoints", *pair],
            ],
        ),
        Stage(
            "figures",  # their titles are what the audit finds
            [
                ["success", *run_option],
                ["curve", *run_option],
                ["tsne", *run_option, "--space", "raw"],
            ],
        ),
        Stage("report", [["report", *run_option]]),
    ]


def may_be_left_out(command: Sequence[str]) -> bool:
    """Whether a command may fail for too few samples without stopping the study."""
    return command[0] in ("audit", "compare", "success") or "--split" in command
