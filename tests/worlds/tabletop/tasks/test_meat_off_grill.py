import pytest

from mnprobe.worlds.tabletop.tasks._moves import grasp, set_down
from mnprobe.worlds.tabletop.tasks.meat_off_grill import MeatOffGrill


def test_the_wording_is_rlbenchs_with_paraphrases():
    assert [MeatOffGrill().instructions(variation)[0] for variation in range(MeatOffGrill.variations)] == [
        "take the chicken off the grill",
        "take the steak off the grill",
    ]
    assert all("steak" in text and "grill" in text for text in MeatOffGrill().instructions(1))


@pytest.mark.parametrize("variation", [0, 1])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_expert_takes_the_piece_off(stage, variation, seed):
    stage = stage("meat_off_grill", variation, seed)
    assert stage.do(stage.expert())


def test_the_other_piece_does_not_count(stage):
    chicken, steak = stage("meat_off_grill", 0, 3), stage("meat_off_grill", 1, 3)
    assert chicken.scene.mjcf == steak.scene.mjcf  # which one is wanted cannot be seen
    assert not chicken.do(steak.expert())
    assert chicken.sim.position("steak")[2] < 0.78  # it did come off


def test_the_piece_must_be_let_go(stage):
    stage = stage("meat_off_grill", 1, 4)
    poses = stage.expert()
    assert not stage.do(poses[:6])
    assert stage.do(poses[6:])


def test_a_piece_beside_the_plate_does_not_count(stage):
    stage = stage("meat_off_grill", 0, 5)
    poses = stage.expert()
    place = poses[5].position.copy()
    place[0] = 0.42
    assert not stage.do([*poses[:4], *set_down(place, 0.0)])


def test_pieces_and_plate_change_sides(stage):
    sims = [stage("meat_off_grill", 0, seed).sim for seed in range(12)]
    assert {bool(sim.position("chicken")[1] < sim.position("steak")[1]) for sim in sims} == {True, False}
    assert {bool(sim.position("plate")[1] < 0) for sim in sims} == {True, False}


def test_lifting_the_piece_does_not_count(stage):
    stage = stage("meat_off_grill", 0, 6)
    assert not stage.do(grasp(stage.sim.position("chicken"), stage.sim.yaw("chicken")))
