import pytest

from mnprobe.worlds.tabletop.tasks.turn_tap import TurnTap


def test_the_wording_is_rlbenchs_with_paraphrases():
    assert [TurnTap().instructions(variation)[0] for variation in range(TurnTap.variations)] == [
        "turn left tap",
        "turn right tap",
    ]
    assert all("right" in text for text in TurnTap().instructions(1))


@pytest.mark.parametrize("variation", [0, 1])
def test_turning_the_handle_solves_it_and_the_other_stays(stage, variation):
    stage = stage("turn_tap", variation, 1)
    assert stage.do(stage.expert())
    turned, other = ("left", "right") if variation == 0 else ("right", "left")
    assert stage.sim.joint(f"handle_{turned}") > 1.1
    assert abs(stage.sim.joint(f"handle_{other}")) < 0.05


def test_left_is_on_the_left_of_one_who_looks_along_x(stage):
    for seed in range(5):
        sim = stage("turn_tap", 0, seed).sim
        assert sim.position("handle_left")[1] > sim.position("handle_right")[1] + 0.1


def test_turning_the_other_handle_does_not_solve_it(stage):
    left, right = stage("turn_tap", 0, 2), stage("turn_tap", 1, 2)
    assert left.scene.mjcf == right.scene.mjcf  # which one is wanted cannot be seen
    assert not left.do(right.expert())


def test_turning_both_handles_does_not_solve_it(stage):
    left, right = stage("turn_tap", 0, 2), stage("turn_tap", 1, 2)
    poses = [*right.expert(), *left.expert()]
    assert not left.do(poses)


def test_turning_halfway_does_not_solve_it(stage):
    stage = stage("turn_tap", 0, 3)
    assert not stage.do(stage.expert()[:-1])
