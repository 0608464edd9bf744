"""The checkpoint nearest one half is chosen from success alone, once, and every command means the same one."""

import pandas as pd
import pytest

from mnprobe.core.errors import ConfigError
from mnprobe.core.rundir import RunDir
from mnprobe.features.half_success import HALF_SUCCESS, half_steps, nearest_half
from mnprobe.features.selection import CheckpointQuery, select_checkpoints
from mnprobe.models.arp import save_arp
from mnprobe.models.untrained import untrained_arp
from mnprobe.worlds.outcomes import ALL_TASKS, SUCCESS


def success(rates, *, n=72, world="tabletop"):
    """results/success.csv of models with their rates by step; a task's own rates are misleading on purpose."""
    rows = []
    for model, steps in rates.items():
        for step, value in steps.items():
            head = {"world": world, "model": model, "step": step, "ci_low": 0.0, "ci_high": 1.0, "successes": 1}
            head |= {"repeats": 1, "sd_repeats": float("nan"), "mean_steps": 4.0, "step_limit": 1, "collision": 0}
            head |= {"unreachable_pose": 0, "invalid_action": 0}
            count = n[step] if isinstance(n, dict) else n
            rows.append(head | {"task": "tap_puck", "value": 0.5 if value in (0.0, 1.0) else 0.0, "n": count // 2})
            rows.append(head | {"task": ALL_TASKS, "value": value, "n": count})
    return SUCCESS.frame(rows)


def chosen(table):
    return dict(zip(table["model"], table["step"], strict=True))


@pytest.mark.parametrize(
    ("rates", "step"),
    [
        ({0: 0.0, 100: 0.38, 200: 0.86, 400: 0.99}, 100),
        ({0: 0.0, 100: 0.3, 200: 0.7, 400: 1.0}, 200),  # equally near: the later
        ({0: 0.1 + 0.2, 100: 0.7}, 100),  # 0.3 as it is computed: still a tie
        ({400: 0.9, 0: 0.0, 100: 0.1}, 400),  # in any order of rows
        ({0: 0.0}, 0),
        ({0: 1.0, 100: 1.0}, 100),
    ],
)
def test_the_rule_by_hand(rates, step):
    found = nearest_half(success({"arp-joint": rates}))
    assert found["step"].tolist() == [step]
    assert found["value"].tolist() == [rates[step]]
    assert found["candidates"].tolist() == [" ".join(map(str, sorted(rates)))]


def test_each_training_and_each_seed_has_its_own():
    rates = {"arp-baseline": {0: 0.0, 9: 0.6}, "arp-joint": {0: 0.45, 9: 1.0}, "arp-joint-seed1": {0: 0.0, 9: 0.9}}
    assert chosen(nearest_half(success(rates))) == {"arp-baseline": 9, "arp-joint": 0, "arp-joint-seed1": 9}


def test_unequal_numbers_of_episodes_make_no_choice():
    table = success({"arp-joint": {0: 0.0, 9: 0.4}}, n={0: 72, 9: 216})
    with pytest.raises(ConfigError, match=r"arp-joint have played unequally many episodes \(step 0: 72, step 9: 216\)"):
        nearest_half(table)
    two = pd.concat([success({"arp": {0: 0.1}}), success({"arp": {0: 0.1}}, world="rlbench")])
    with pytest.raises(ConfigError, match="arp played in rlbench, tabletop"):
        nearest_half(two)


def test_further_episodes_do_not_change_the_choice(tmp_path):
    run = RunDir.create(tmp_path / "run")
    with pytest.raises(ConfigError, match="closed-loop success of 'arp-joint' is not in"):
        half_steps(run, ["arp-joint"])
    SUCCESS.write(run.results("success"), success({"arp-joint": {0: 0.0, 9: 0.45, 20: 0.56}, "arp-baseline": {0: 0.2}}))
    assert half_steps(run, ["arp-joint"]) == {"arp-joint": 9}
    more = success({"arp-joint": {0: 0.0, 9: 0.1, 20: 0.5}, "arp-baseline": {0: 0.2}}, n={0: 72, 9: 216, 20: 72})
    SUCCESS.write(run.results("success"), more)  # the further episodes at step 9 went badly
    assert half_steps(run, ["arp-joint"]) == {"arp-joint": 9}
    assert half_steps(run, ["arp-baseline", "arp-joint"]) == {"arp-baseline": 0, "arp-joint": 9}
    assert HALF_SUCCESS.read(run.results("half_success"))["n"].tolist() == [72, 72]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two policies with three checkpoints each, whose success is known."""
    home = RunDir.create(tmp_path_factory.mktemp("half") / "run")
    for seed, training in enumerate(("baseline", "joint")):
        for step in (0, 4, 8):
            path = home.checkpoint(f"arp-{training}", step)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_arp(path, untrained_arp("tiny", 10 * seed + step), step=step)
    rates = {"arp-baseline": {0: 0.0, 4: 0.5, 8: 0.9}, "arp-joint": {0: 0.0, 4: 0.1, 8: 0.6}}
    SUCCESS.write(home.results("success"), success(rates))
    return home


def test_policies_to_play_are_chosen_by_step_or_by_success(run):
    def found(**query):
        choices = select_checkpoints(run, CheckpointQuery(purpose="play", **query))
        return [(choice.name, choice.step) for choice in choices]

    assert found(half=True) == [("arp-baseline", 4), ("arp-joint", 8)]
    assert found(half=True, models=["arp-joint"]) == [("arp-joint", 8)]
    assert found(step=4) == [("arp-baseline", 4), ("arp-joint", 4)]


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ({"step": 3}, r"--step 3: the run has ARP checkpoints at steps 0, 4, 8"),
        ({"half": True, "policy": "expert"}, "--step chooses among the run's ARP checkpoints"),
        ({"half": True, "name": "mine"}, "--step chooses among the run's ARP checkpoints"),
        ({"half": True, "purpose": "extract"}, "give --source rollouts as well"),
    ],
)
def test_what_cannot_be_chosen(query, text, run):
    with pytest.raises(ConfigError, match=text):
        select_checkpoints(run, CheckpointQuery(**({"purpose": "play"} | query)))


def test_a_choice_whose_checkpoint_is_gone_is_said(run, tmp_path):
    home = RunDir.create(tmp_path / "run")
    path = home.checkpoint("arp-joint", 4)
    path.parent.mkdir(parents=True)
    path.write_bytes(run.checkpoint("arp-joint", 4).read_bytes())
    SUCCESS.write(home.results("success"), success({"arp-joint": {8: 0.5}}))
    with pytest.raises(
        ConfigError, match=r"arp-joint at step 8, .*half_success.csv, and the run has no such checkpoint"
    ):
        select_checkpoints(home, CheckpointQuery(purpose="play", half=True))
