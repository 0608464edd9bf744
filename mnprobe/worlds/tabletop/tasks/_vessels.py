"""Eight-sided walls and solids, as MJCF: what cups, lids and jars are made of.

Fingers press through walls of a few millimetres, so that what is to be grasped needs a solid inside.
"""

import math

from mnprobe.worlds.tabletop.palette import Colour
from mnprobe.worlds.tabletop.scene import geom, numbers

__all__ = ["EIGHTH", "darker", "prism", "wall"]

_SIDES = 8
EIGHTH = 2 * math.pi / _SIDES
"""Turned by this angle, radians, an eight-sided thing looks the same."""


def wall(
    colour: Colour,
    *,
    bottom: float,
    top: float,
    low: float,
    high: float,
    thickness: float,
    mass: float,
    style: str = "",
    more: str = "",
) -> str:
    """Eight sides around the z axis from `low` to `high`, metres.

    `bottom` and `top` are the distances from the axis to the middle of a side's outer face at either end; `style`
    and `more` are handed to every geom.
    """
    lean = math.atan2(top - bottom, high - low)
    half_width = max(bottom, top) * math.tan(EIGHTH / 2)
    half_height = (high - low) / 2 / math.cos(lean)
    radius = (bottom + top) / 2 - thickness / 2
    sides = []
    for side in range(_SIDES):
        around = side * EIGHTH
        # A turn about y by `lean`, then one about z by `around`: w x y z.
        c, s, d, t = math.cos(around / 2), math.sin(around / 2), math.cos(lean / 2), math.sin(lean / 2)
        sides.append(
            geom(
                "box",
                (thickness / 2, half_width, half_height),
                colour,
                at=(radius * math.cos(around), radius * math.sin(around), (low + high) / 2),
                mass=mass / _SIDES,
                style=style,
                more=f'quat="{numbers((c * d, -s * t, c * t, s * d))}" {more}',
            )
        )
    return "".join(sides)


def prism(
    colour: Colour, *, radius: float, low: float, high: float, mass: float, style: str = "", more: str = ""
) -> str:
    """An eight-sided solid around the z axis; `radius` is the distance from the axis to the middle of a side."""
    slab = (radius, radius * math.tan(EIGHTH / 2), (high - low) / 2)
    return "".join(
        geom(
            "box",
            slab,
            colour,
            at=(0.0, 0.0, (low + high) / 2),
            yaw=index * EIGHTH,
            mass=mass / (_SIDES // 2),
            style=style,
            more=more,
        )
        for index in range(_SIDES // 2)
    )


def darker(colour: Colour) -> Colour:
    """The colour in shade, for the inside of a vessel."""
    red, green, blue = colour
    return (0.6 * red, 0.6 * green, 0.6 * blue)
