import pytest

from mnprobe.data import find_keyframes
from mnprobe.worlds import make_world


@pytest.fixture(scope="session")
def world():
    """The tabletop with small images."""
    made = make_world("tabletop", image_size=32)
    yield made
    made.close()


@pytest.fixture(scope="session")
def play():
    """Play the expert's key poses; the last step's result."""

    def played(world, task, variation=0, seed=0):
        world.reset(task, variation, seed)
        for pose in world.expert():
            result = world.step(pose)
            if result.done:
                break
        return result

    return played


@pytest.fixture(scope="session")
def keyframes_of():
    """What the ordinary rule finds in an episode."""

    def found(frames):
        return find_keyframes(
            [frame.gripper_open for frame in frames], [list(frame.joint_velocities) for frame in frames]
        )

    return found
