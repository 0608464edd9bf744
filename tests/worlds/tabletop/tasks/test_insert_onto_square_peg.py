import pytest

from mnprobe.worlds.tabletop.palette import PALETTE
from mnprobe.worlds.tabletop.tasks._moves import raised, set_down
from mnprobe.worlds.tabletop.tasks.insert_onto_square_peg import InsertOntoSquarePeg

TASK = "insert_onto_square_peg"


def spokes(sim):
    return [
        colour for colour in PALETTE if f"spoke_{colour}" in {sim.model.body(i).name for i in range(sim.model.nbody)}
    ]


def test_the_wording_is_rlbenchs_with_paraphrases():
    texts = [InsertOntoSquarePeg().instructions(variation) for variation in range(InsertOntoSquarePeg.variations)]
    assert [text[0] for text in texts] == [f"put the ring on the {colour} spoke" for colour in PALETTE]
    assert all(colour in phrase for colour, text in zip(PALETTE, texts, strict=True) for phrase in text)


@pytest.mark.parametrize("variation", range(6))
def test_the_expert_puts_the_ring_on(stage, variation):
    stage = stage(TASK, variation, variation)
    assert len(spokes(stage.sim)) == 3
    assert stage.do(stage.expert())


def test_another_spoke_does_not_count(stage):
    stage = stage(TASK, 0, 3)
    other = next(colour for colour in spokes(stage.sim) if colour != "red")
    poses = stage.expert()
    away = stage.sim.position(f"spoke_{other}") - stage.sim.position("spoke_red")
    put = set_down(poses[5].position + away, stage.sim.yaw("board"), clearance=0.1)
    assert not stage.do([*poses[:4], *put])
    assert abs(stage.sim.position("ring") - stage.sim.position(f"spoke_{other}"))[:2].max() < 0.011


def test_the_ring_must_be_let_go(stage):
    stage = stage(TASK, 4, 1)
    poses = stage.expert()
    assert not stage.do(poses[:6])
    assert stage.do(poses[6:])


def test_a_ring_upon_the_spoke_does_not_count(stage):
    stage = stage(TASK, 2, 2)
    poses = stage.expert()
    beside = raised(poses[5].position, 0.06)
    beside[:2] += 0.02
    assert not stage.do([*poses[:4], *set_down(beside, stage.sim.yaw("ring"))])
