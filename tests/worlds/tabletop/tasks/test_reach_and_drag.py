import numpy as np
import pytest

from mnprobe.worlds.tabletop.palette import PALETTE
from mnprobe.worlds.tabletop.tasks.reach_and_drag import ReachAndDrag


def targets(sim):
    names = {sim.model.body(index).name for index in range(sim.model.nbody)}
    return [colour for colour in PALETTE if f"target_{colour}" in names]


def test_the_wording_is_rlbenchs_with_paraphrases():
    texts = [ReachAndDrag().instructions(variation) for variation in range(ReachAndDrag.variations)]
    assert [text[0] for text in texts] == [
        f"use the stick to drag the cube onto the {colour} target" for colour in PALETTE
    ]
    assert all(colour in phrase for colour, text in zip(PALETTE, texts, strict=True) for phrase in text)


@pytest.mark.parametrize("variation", range(6))
def test_the_expert_drags_the_cube(stage, variation):
    stage = stage("reach_and_drag", variation, 10 + variation)
    assert len(targets(stage.sim)) == 4
    assert stage.do(stage.expert())
    assert stage.sim.holds("stick")


def test_dragging_onto_another_target_does_not_count(stage):
    stage = stage("reach_and_drag", 0, 3)
    sim, cube = stage.sim, stage.sim.position("cube")
    poses = stage.expert()
    # The target across from the wanted one lies the other way along the stick.
    across = max(targets(sim), key=lambda c: np.linalg.norm(sim.position(f"target_{c}") - sim.position("target_red")))
    last = poses[-1]
    moved = sim.position(f"target_{across}") - sim.position("target_red")
    wrong = type(last)(position=last.position + moved, quaternion=last.quaternion, gripper_open=False)
    assert not stage.do([*poses[:-1], wrong])
    assert np.linalg.norm(sim.position("cube") - cube) > 0.08


def test_lowering_the_stick_does_not_move_the_cube(stage):
    for seed in range(4):
        made = stage("reach_and_drag", seed, seed)
        before = made.sim.position("cube")
        assert not made.do(made.expert()[:-1])
        assert np.linalg.norm(made.sim.position("cube") - before) < 0.006
