"""Stages of `mnprobe demo`: the commands of a study and their order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["STUDIES", "Study", "may_be_left_out", "probe_stages", "study_stages"]

Command = list[str]
Stage = list[Command]


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
        episodes: rollout episodes per checkpoint and task, from the initial states of test demonstrations.
        max_steps: number of key poses after which a rollout fails.
        probe_seeds: number of seeds of the heads.
    """

    tasks: tuple[str, ...]
    max_variations: int | None
    train: int
    val: int
    test: int
    preset: str
    updates: int
    seeds: int = 1
    episodes: int
    max_steps: int
    probe_seeds: int


_FIVE = ("meat_off_grill", "open_drawer", "push_buttons", "slide_block_to_color_target", "turn_tap")

STUDIES: Mapping[str, Study] = {
    "quick": Study(
        tasks=_FIVE,
        max_variations=4,
        train=30,
        val=6,
        test=6,
        preset="tiny",
        updates=600,
        episodes=8,
        max_steps=8,
        probe_seeds=5,
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
"""quick: minutes on two cores, 15 instructions of 5 tasks; full: all 77 instructions, three seeds, hours."""


def study_stages(study: Study, run: Path, *, seed: int, device: str, probe_steps: int | None) -> list[Stage]:
    """Stages of a complete study: demonstrations, trainings, rollouts, features, recognition, alignment, report.

    Args:
        study: sizes of the study.
        run: run directory.
        seed: seed of the first training; the others are consecutive.
        device: value of --device.
        probe_steps: optimiser steps per probe fit; None for the default.
    """
    run_option = ["--run", str(run)]
    device_option = ["--device", device]
    tasks = [word for task in study.tasks for word in ("--task", task)]
    few = [] if study.max_variations is None else ["--max-variations", str(study.max_variations)]
    numbers = ["--train", str(study.train), "--val", str(study.val), "--test", str(study.test)]
    kinds = [
        (f"{kind}-seed{number}" if number else kind, weight)
        for number in range(study.seeds)
        for kind, weight in (("joint", "0.5"), ("baseline", "0"))
    ]
    common = ["--preset", study.preset, "--updates", str(study.updates), "--threads", "1", *device_option]
    trainings = [
        ["train", *run_option, *common, "--name", name, "--lambda-align", weight, "--seed", str(seed + number // 2)]
        for number, (name, weight) in enumerate(kinds)
    ]
    play = ["rollout", *run_option, "--from-demos", str(run / "demos"), "--partition", "test"]
    play += ["--episodes", str(study.episodes), "--max-steps", str(study.max_steps)]
    played = ["extract", *run_option, "--source", "rollouts", *device_option]
    held_out = ["extract", *run_option, "--partition", "val", "--partition", "test", *device_option]
    late = ["--source", "demos", "--source", "rollouts"]
    late += ["--step", str(study.updates), "--holdout", "episodes"]
    return [
        [["demos", *run_option, *tasks, *few, *numbers]],
        trainings,
        [
            *([*play, "--model", f"arp-{name}", "--workers", "0"] for name, _ in kinds),
            [*held_out, "--model", "arp"],
            [*held_out, "--model", "arp", "--blank-instruction"],
            [*held_out, "--model", "viclip"],
            [*held_out, "--model", "pixels"],
            ["recognize", *run_option, "--partition", "test", *device_option],
        ],
        [
            [*played],
            [*played, "--model", "arp", "--blank-instruction"],
            [*played, "--model", "pixels"],
        ],
        *probe_stages(run, study.probe_seeds, probe_steps, split=late),
    ]


def probe_stages(run: Path, seeds: int | None, steps: int | None, *, split: Command | None = None) -> list[Stage]:
    """Stages from features to the report; `split`: options of an alignment that separates success and failure."""
    run_option = ["--run", str(run)]
    fit = [] if steps is None else ["--steps", str(steps)]
    fit += [] if seeds is None else ["--seeds", str(seeds)]
    job: list[Stage] = [[["align", *run_option, *fit]]]
    if split is not None:
        job += [[["align", *run_option, *fit, "--split", "success", *split]]]
    joint = ["--understanding", "viclip-joint", "--execution", "arp-joint"] if split is not None else []
    job += [
        [
            ["tsne", *run_option],
            ["audit", *run_option],
            ["compare", *run_option, "--grid", "checkpoints", *joint],
            ["success", *run_option],
            ["curve", *run_option],
            ["tsne", *run_option, "--space", "raw"],
        ],
        [["report", *run_option]],
    ]
    return job


def may_be_left_out(command: Sequence[str]) -> bool:
    """Whether a command may fail for too few samples without stopping the study."""
    return command[0] in ("audit", "compare", "success") or "--split" in command
