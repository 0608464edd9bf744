import numpy as np
import pytest

from mnprobe.worlds.tabletop.palette import PALETTE
from mnprobe.worlds.tabletop.tasks.close_jar import CloseJar


def test_the_wording_is_rlbenchs_with_paraphrases():
    texts = [CloseJar().instructions(variation) for variation in range(CloseJar.variations)]
    assert [text[0] for text in texts] == [f"close the {colour} jar" for colour in PALETTE]
    assert all(len(text) >= 3 for text in texts)


@pytest.mark.parametrize("variation", [0, 3, 5])
def test_the_expert_sets_the_lid_on_and_lets_go(stage, variation):
    stage = stage("close_jar", variation, 1)
    poses = stage.expert()
    assert not stage.do(poses[:6])
    assert stage.sim.holds("lid")
    assert stage.do(poses[6:])


def test_the_other_jar_does_not_count(stage):
    stage = stage("close_jar", 2, 2)
    (other,) = (
        name
        for name in (stage.sim.model.body(index).name for index in range(stage.sim.model.nbody))
        if name.startswith("jar_") and name != "jar_blue"
    )
    poses = stage.expert()
    aside = stage.sim.position(other) - stage.sim.position("jar_blue")
    for pose in poses[4:]:
        pose.position[:] += aside
    assert not stage.do(poses)
    assert stage.sim.position("lid")[2] - stage.sim.position(other)[2] == pytest.approx(0.07, abs=0.003)


def test_a_lid_dropped_askew_does_not_count(stage):
    stage = stage("close_jar", 4, 3)
    poses = stage.expert()
    for pose in poses[4:]:
        pose.position[:2] += np.array([0.03, 0.0])
    assert not stage.do(poses)
