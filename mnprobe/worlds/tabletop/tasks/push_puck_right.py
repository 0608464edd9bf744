"""Push one of six colored pucks to the right."""

from typing import ClassVar

from mnprobe.worlds.tabletop.tasks._pucks import PushPuckTask

__all__ = ["PushPuckRight"]


class PushPuckRight(PushPuckTask):
    """The robot looks along x: its right is -y, on the left of the front camera's picture."""

    name: ClassVar[str] = "push_puck_right"
    direction: ClassVar[tuple[float, float]] = (0.0, -1.0)
    wordings: ClassVar[tuple[str, ...]] = (
        "push the {} puck to the right",
        "slide the {} puck to the right",
        "move the {} one over to the right",
        "shove the {} puck right",
    )
