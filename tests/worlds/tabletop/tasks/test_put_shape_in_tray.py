import pytest

from mnprobe.worlds.tabletop.tasks._moves import set_down
from mnprobe.worlds.tabletop.tasks.put_shape_in_tray import PutShapeInTray


def test_each_shape_and_tray_is_one_variation():
    texts = [PutShapeInTray().instructions(variation) for variation in range(PutShapeInTray.variations)]
    assert [text[0] for text in texts] == [
        f"put the {shape} in the {tray} tray"
        for shape in ("cube", "cylinder", "cross")
        for tray in ("red", "green", "blue")
    ]
    assert all("cross" in phrase and "blue" in phrase for phrase in texts[8])


@pytest.mark.parametrize("variation", range(9))
def test_the_expert_puts_the_shape_in(stage, variation):
    stage = stage("put_shape_in_tray", variation, variation)
    assert stage.do(stage.expert())


@pytest.mark.parametrize("other", [1, 3])  # the cube in another tray; another shape in the tray
def test_another_shape_or_tray_does_not_count(stage, other):
    right, wrong = stage("put_shape_in_tray", 0, 2), stage("put_shape_in_tray", other, 2)
    assert right.scene.mjcf == wrong.scene.mjcf  # which ones are wanted cannot be seen
    assert not right.do(wrong.expert())


def test_the_shape_must_be_let_go_inside(stage):
    stage = stage("put_shape_in_tray", 5, 1)
    poses = stage.expert()
    assert not stage.do(poses[:6])
    assert stage.do(poses[6:])


def test_a_shape_beside_the_tray_does_not_count(stage):
    stage = stage("put_shape_in_tray", 0, 4)
    poses = stage.expert()
    place = poses[5].position.copy()
    place[0] = 0.20
    assert not stage.do([*poses[:4], *set_down(place, 0.0)])
