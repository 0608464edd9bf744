import pytest

from mnprobe.worlds.tabletop.tasks.put_item_in_drawer import PutItemInDrawer


def test_the_wording_is_rlbenchs_with_paraphrases():
    texts = [PutItemInDrawer().instructions(variation) for variation in range(PutItemInDrawer.variations)]
    assert [text[0] for text in texts] == [
        "put the item in the bottom drawer",
        "put the item in the middle drawer",
        "put the item in the top drawer",
    ]
    assert all(len(text) >= 3 for text in texts)


@pytest.mark.parametrize("variation", [0, 1, 2])
def test_the_expert_opens_and_puts_in_and_lets_go(stage, variation):
    stage = stage("put_item_in_drawer", variation, 1)
    poses = stage.expert()
    assert len(poses) == 15
    assert not stage.do(poses[:13])
    assert stage.sim.holds("item")
    assert stage.do(poses[13:14])


def test_another_drawer_does_not_count(stage):
    bottom, top = stage("put_item_in_drawer", 0, 2), stage("put_item_in_drawer", 2, 2)
    assert bottom.scene.mjcf == top.scene.mjcf
    assert not top.do(bottom.expert())


def test_without_opening_the_item_does_not_get_in(stage):
    stage = stage("put_item_in_drawer", 2, 3)
    assert not stage.do(stage.expert()[7:])
