"""Push one of six colored pucks to the left."""

from typing import ClassVar

from mnprobe.worlds.tabletop.tasks._pucks import PushPuckTask

__all__ = ["PushPuckLeft"]


class PushPuckLeft(PushPuckTask):
    """The robot looks along x: its left is +y, on the right of the front camera's picture."""

    name: ClassVar[str] = "push_puck_left"
    direction: ClassVar[tuple[float, float]] = (0.0, 1.0)
    wordings: ClassVar[tuple[str, ...]] = (
        "push the {} puck to the left",
        "slide the {} puck to the left",
        "move the {} one over to the left",
        "shove the {} puck left",
    )
