"""Push one of six colored pucks away from the robot."""

from typing import ClassVar

from mnprobe.worlds.tabletop.tasks._pucks import PushPuckTask

__all__ = ["PushPuckAway"]


class PushPuckAway(PushPuckTask):
    """The robot looks along x: away from it is +x, down in the front camera's picture."""

    name: ClassVar[str] = "push_puck_away"
    direction: ClassVar[tuple[float, float]] = (1.0, 0.0)
    wordings: ClassVar[tuple[str, ...]] = (
        "push the {} puck away",
        "slide the {} puck away from the robot",
        "move the {} one farther away",
        "shove the {} puck away",
    )
