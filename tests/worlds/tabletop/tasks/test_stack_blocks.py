import pytest

from mnprobe.worlds.tabletop.tasks._moves import grasp, raised, set_down
from mnprobe.worlds.tabletop.tasks.stack_blocks import StackBlocks

EDGE = 0.04


def tower(sim, names):
    """Key poses that stack these blocks on the plate."""
    poses = []
    for level, name in enumerate(names):
        poses += grasp(sim.position(name), sim.yaw(name), clearance=0.15)
        poses += set_down(raised(sim.position("plate"), 0.004 + EDGE / 2 + EDGE * level), 0.0, clearance=0.06)
    return poses


def blocks(sim):
    """Names by colour."""
    found = {}
    for index in range(sim.model.nbody):
        name = sim.model.body(index).name
        if name.startswith("block_"):
            found.setdefault(name.split("_")[1], []).append(name)
    return found


def test_the_wording_is_rlbenchs_with_paraphrases():
    texts = [StackBlocks().instructions(variation) for variation in range(StackBlocks.variations)]
    assert texts[0][0] == "stack 2 red blocks"
    assert texts[1][0] == "stack 3 red blocks"
    assert texts[11][0] == "stack 3 cyan blocks"
    assert len({text[0] for text in texts}) == 12
    assert all("3" in text and "cyan" in text for text in texts[11])


@pytest.mark.parametrize(("variation", "poses"), [(2, 16), (5, 24)])
def test_the_expert_stacks_as_many_as_asked_for(stage, variation, poses):
    stage = stage("stack_blocks", variation, 1)
    assert len(stage.expert()) == poses
    assert stage.do(stage.expert())


def test_neither_colour_nor_number_can_be_seen(stage):
    found = blocks(stage("stack_blocks", 2, 4).sim)
    assert [len(names) for names in found.values()] == [3, 3]
    assert stage("stack_blocks", 2, 4).scene.mjcf == stage("stack_blocks", 3, 4).scene.mjcf


def test_two_blocks_are_not_three(stage):
    two, three = stage("stack_blocks", 0, 5), stage("stack_blocks", 1, 5)
    assert not three.do(two.expert())


def test_the_other_colour_does_not_count(stage):
    stage = stage("stack_blocks", 0, 6)
    (other,) = set(blocks(stage.sim)) - {"red"}
    assert not stage.do(tower(stage.sim, blocks(stage.sim)[other][:2]))


def test_a_block_of_the_other_colour_below_does_not_count(stage):
    stage = stage("stack_blocks", 0, 6)
    found = blocks(stage.sim)
    (other,) = set(found) - {"red"}
    assert not stage.do(tower(stage.sim, [found[other][0], found["red"][0]]))


def test_the_last_block_must_be_let_go(stage):
    stage = stage("stack_blocks", 4, 7)
    poses = stage.expert()
    assert not stage.do(poses[:-2])
    assert stage.do(poses[-2:])
