import pytest

from mnprobe.worlds.tabletop.palette import PALETTE
from mnprobe.worlds.tabletop.tasks._moves import grasp, raised, set_down
from mnprobe.worlds.tabletop.tasks.stack_cups import StackCups


def cups(sim):
    names = (sim.model.body(index).name for index in range(sim.model.nbody))
    return {name for name in names if name.startswith("cup_")}


def stack(sim, base, others):
    """Key poses that stack these cups into `base`."""
    poses = []
    for level, cup in enumerate(others, start=1):
        poses += grasp(raised(sim.position(cup), 0.057), sim.yaw(cup), clearance=0.16)
        poses += set_down(raised(sim.position(base), 0.06 + 0.045 * level), sim.yaw(base), clearance=0.08)
    return poses


def test_the_wording_is_rlbenchs_with_paraphrases_that_name_the_colour():
    texts = [StackCups().instructions(variation) for variation in range(StackCups.variations)]
    assert texts[0][0] == "stack the other cups on top of the red cup"
    for colour, paraphrases in zip(PALETTE, texts, strict=True):
        assert len(paraphrases) >= 3
        assert all(colour in text for text in paraphrases)


@pytest.mark.parametrize("variation", [1, 4])
def test_the_expert_nests_both_cups(stage, variation):
    stage = stage("stack_cups", variation, 1)
    assert len(stage.expert()) == 16
    assert stage.do(stage.expert())
    base = stage.sim.position(f"cup_{list(PALETTE)[variation]}")
    heights = sorted(float(stage.sim.position(cup)[2] - base[2]) for cup in cups(stage.sim))
    assert heights == pytest.approx([0, 0.045, 0.09], abs=0.005)


def test_one_cup_is_not_enough_and_the_last_must_be_let_go(stage):
    stage = stage("stack_cups", 0, 2)
    poses = stage.expert()
    assert not stage.do(poses[:8])
    assert not stage.do(poses[8:14])
    assert stage.do(poses[14:15])


def test_a_stack_on_another_cup_does_not_count(stage):
    stage = stage("stack_cups", 0, 3)
    base = min(cups(stage.sim) - {"cup_red"})
    others = sorted(cups(stage.sim) - {base})
    assert not stage.do(stack(stage.sim, base, others))
    heights = [float(stage.sim.position(cup)[2] - stage.sim.position(base)[2]) for cup in others]
    assert heights == pytest.approx([0.045, 0.09], abs=0.005)
