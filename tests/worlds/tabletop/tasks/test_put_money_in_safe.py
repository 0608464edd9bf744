import pytest

from mnprobe.worlds.tabletop.tasks.put_money_in_safe import PutMoneyInSafe


def test_the_wording_is_rlbenchs_with_paraphrases():
    texts = [PutMoneyInSafe().instructions(variation) for variation in range(PutMoneyInSafe.variations)]
    assert [text[0] for text in texts] == [
        "put the money away in the safe on the bottom shelf",
        "put the money away in the safe on the middle shelf",
        "put the money away in the safe on the top shelf",
    ]
    assert all(len(text) >= 3 for text in texts)


@pytest.mark.parametrize("variation", [0, 1, 2])
def test_the_expert_puts_it_on_the_shelf_and_lets_go(stage, variation):
    stage = stage("put_money_in_safe", variation, 1)
    poses = stage.expert()
    assert len(poses) == 8
    assert not stage.do(poses[:6])
    assert stage.sim.holds("money")
    assert stage.do(poses[6:7])


@pytest.mark.parametrize("variation", [0, 2])
def test_another_shelf_does_not_count(stage, variation):
    middle, wanted = stage("put_money_in_safe", 1, 2), stage("put_money_in_safe", variation, 2)
    assert middle.scene.mjcf == wanted.scene.mjcf
    assert not wanted.do(middle.expert())


def test_before_the_safe_does_not_count(stage):
    stage = stage("put_money_in_safe", 0, 3)
    poses = stage.expert()
    poses[5].position[:] = poses[6].position[:] = poses[4].position
    assert not stage.do(poses)
