"""Push one of six colored pucks nearer to the robot."""

from typing import ClassVar

from mnprobe.worlds.tabletop.tasks._pucks import PushPuckTask

__all__ = ["PushPuckNear"]


class PushPuckNear(PushPuckTask):
    """The robot looks along x: nearer to it is -x, up in the front camera's picture; the hand comes from behind."""

    name: ClassVar[str] = "push_puck_near"
    direction: ClassVar[tuple[float, float]] = (-1.0, 0.0)
    wordings: ClassVar[tuple[str, ...]] = (
        "pull the {} puck closer",
        "slide the {} puck nearer to the robot",
        "bring the {} one nearer",
        "draw the {} puck near",
    )
