import pytest

from mnprobe.worlds.tabletop.tasks.place_cups import PlaceCups


def test_the_wording_is_rlbenchs_with_paraphrases():
    texts = [PlaceCups().instructions(variation) for variation in range(PlaceCups.variations)]
    assert [text[0] for text in texts] == [
        "place 1 cup on the cup holder",
        "place 2 cups on the cup holder",
        "place 3 cups on the cup holder",
    ]
    assert all(len(text) >= 3 for text in texts)


@pytest.mark.parametrize("variation", [0, 1, 2])
def test_the_expert_places_as_many_as_asked_for(stage, variation):
    stage = stage("place_cups", variation, 1)
    poses = stage.expert()
    assert len(poses) == 8 * (variation + 1)
    assert not stage.do(poses[:-2])
    assert stage.do(poses[-2:-1])


def test_the_number_cannot_be_seen(stage):
    assert stage("place_cups", 0, 4).scene.mjcf == stage("place_cups", 2, 4).scene.mjcf


def test_one_cup_is_not_two(stage):
    one, two = stage("place_cups", 0, 5), stage("place_cups", 1, 5)
    assert not two.do(one.expert())


def test_a_cup_beside_the_holder_does_not_count(stage):
    stage = stage("place_cups", 0, 6)
    poses = stage.expert()
    for pose in poses[4:]:
        pose.position[:2] = (0.2, 0.0)
    assert not stage.do(poses)
    assert stage.sim.holds_nothing()
