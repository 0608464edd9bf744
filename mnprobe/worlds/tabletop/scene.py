"""Scenes as MJCF text: the table, its surroundings, bodies and geoms."""

from collections.abc import Sequence
from dataclasses import dataclass

from mnprobe.worlds.tabletop.hand import hand_mjcf
from mnprobe.worlds.tabletop.palette import WOOD, Colour

__all__ = [
    "OBJECTS_X",
    "OBJECTS_Y",
    "SCENE_BOUNDS",
    "TABLE_TOP",
    "Mjcf",
    "body",
    "compose",
    "exclude",
    "geom",
    "joint",
    "numbers",
    "site",
]

TABLE_TOP = 0.75
"""Height of the table's surface, metres (as in RLBench)."""
OBJECTS_X = (0.0, 0.42)
OBJECTS_Y = (-0.30, 0.30)
"""Where objects lie, metres."""
SCENE_BOUNDS = (-0.3, -0.5, 0.6, 0.7, 0.5, 1.6)
"""x y z lowest, x y z highest: the volume that policies look at (PerAct's)."""

# Parameters measured in the study of the embedded benchmark (specs/tabletop.md ii); the time step must stay below a
# third of the weld's time constant 0.006 s, beyond which every grasp fails.
_HEAD = """<mujoco model="tabletop">
<compiler angle="radian" autolimits="true"/>
<option timestep="0.002" integrator="implicitfast" cone="elliptic" impratio="10" iterations="30"{option}>
<statistic extent="1" center="0.2 0 0.8"/>
<visual><map znear="0.01" zfar="5"/><quality shadowsize="0" offsamples="0" numslices="16" numstacks="8" numquads="1"/>
<headlight active="0"/></visual>
<default>
  <geom condim="4" friction="1.5 0.01 0.001" solref="0.01 1" solimp="0.95 0.99 0.001"/>
  <default class="pad"><geom condim="6" friction="2 0.05 0.001" solref="0.01 1" solimp="0.95 0.99 0.001"/></default>
  <default class="pushed"><geom condim="4" friction="0.3 0.01 0.001" priority="1"/></default>
  <default class="visual"><geom contype="0" conaffinity="0"/></default>
  <default class="hidden"><geom group="3"/></default>
  <default class="backdrop"><geom group="2"/></default>
</default>
"""


@dataclass(frozen=True, kw_only=True)
class Mjcf:
    """Parts that a task adds to the world: contents of MJCF's sections, as text.

    Names of bodies, joints and geoms must be unique; "hand", "mocap", "palm", "flange", "finger_left", "finger_right",
    "fingers", "table" and "floor" are taken. Default classes for geoms: none (hard, friction 1.5), "pushed" (slides on
    the table), "visual" (touches nothing), "hidden" (touches, is not drawn), "backdrop" (part of floor and table).
    `option` is the content of the option element, such as flags of the simulation.
    """

    worldbody: str
    option: str = ""
    asset: str = ""
    equality: str = ""
    actuator: str = ""
    contact: str = ""


def compose(task: Mjcf) -> str:
    """Build the complete model: surroundings, hand and task."""
    hand = hand_mjcf()
    red, green, blue = WOOD
    world = (
        '<body name="floor"><geom name="floor" class="backdrop" type="box" size="4 4 0.05" pos="0 0 -0.05" '
        'contype="0" conaffinity="0" rgba="0.36 0.38 0.41 1"/></body>'
        f'<body name="table"><geom name="table" class="backdrop" type="box" size="0.55 0.65 0.025" '
        f'pos="0.25 0 {TABLE_TOP - 0.025}" '
        f'rgba="{red} {green} {blue} 1"/>'
        f'<geom class="backdrop" contype="0" conaffinity="0" type="box" size="0.25 0.3 {(TABLE_TOP - 0.05) / 2}" '
        f'pos="0.25 0 {(TABLE_TOP - 0.05) / 2}" rgba="0.30 0.27 0.25 1"/></body>'
    )
    return (
        _HEAD.replace("{option}>", f">{task.option}</option>" if task.option else "/>")
        + f"<asset>{task.asset}</asset>\n"
        # The hand comes first: its joints are the first nine numbers of qpos.
        + f"<worldbody>{hand['worldbody']}{world}{task.worldbody}</worldbody>\n"
        + f"<equality>{hand['equality']}{task.equality}</equality>\n"
        + f"<actuator>{hand['actuator']}{task.actuator}</actuator>\n"
        + f"<contact>{hand['contact']}{task.contact}</contact>\n"
        + "</mujoco>\n"
    )


def numbers(values: Sequence[float] | float) -> str:
    """Numbers as MJCF writes them, exact.

    >>> numbers([0.1, 2])
    '0.1 2.0'
    """
    if isinstance(values, int | float):
        return repr(float(values))
    return " ".join(repr(float(value)) for value in values)


def geom(
    kind: str,
    size: Sequence[float] | float,
    colour: Colour,
    *,
    at: Sequence[float] = (0.0, 0.0, 0.0),
    yaw: float = 0.0,
    euler: Sequence[float] | None = None,
    name: str = "",
    mass: float | None = None,
    style: str = "",
    more: str = "",
) -> str:
    """One geom: "box" (half sizes), "cylinder" and "capsule" (radius, half height), "sphere" (radius), "ellipsoid", ...

    `at` and `yaw` (about z), or `euler` (radians, about x, y, z in turn), place it in its body; `style` is one of the
    default classes; `more` holds further attributes as text.
    """
    turn = (0.0, 0.0, yaw) if euler is None else euler
    parts = [f'type="{kind}" size="{numbers(size)}" pos="{numbers(at)}" rgba="{numbers(colour)} 1"']
    if any(turn):
        parts.append(f'euler="{numbers(turn)}"')
    if name:
        parts.append(f'name="{name}"')
    if mass is not None:
        parts.append(f'mass="{numbers(mass)}"')
    if style:
        parts.append(f'class="{style}"')
    return f"<geom {' '.join([*parts, more])}/>"


def body(
    name: str,
    content: str,
    *,
    at: Sequence[float] = (0.0, 0.0, 0.0),
    yaw: float = 0.0,
    free: bool = False,
    more: str = "",
) -> str:
    """One body at `at`, turned by `yaw` about z; `free` lets it move (its joint has the body's name)."""
    joint_text = f'<freejoint name="{name}"/>' if free else ""
    turn = f' euler="{numbers((0.0, 0.0, yaw))}"' if yaw else ""
    return f'<body name="{name}" pos="{numbers(at)}"{turn} {more}>{joint_text}{content}</body>'


def joint(
    name: str,
    kind: str,
    axis: Sequence[float],
    limits: tuple[float, float],
    *,
    at: Sequence[float] = (0.0, 0.0, 0.0),
    damping: float = 0.0,
    stiffness: float = 0.0,
    friction: float = 0.0,
    more: str = "",
) -> str:
    """A "slide" (metres) or "hinge" (radians) joint; `friction` is the dry friction it needs to move, N or Nm."""
    return (
        f'<joint name="{name}" type="{kind}" axis="{numbers(axis)}" pos="{numbers(at)}" range="{numbers(limits)}" '
        f'damping="{numbers(damping)}" stiffness="{numbers(stiffness)}" frictionloss="{numbers(friction)}" {more}/>'
    )


def site(name: str, at: Sequence[float] = (0.0, 0.0, 0.0)) -> str:
    """A named point of a body."""
    return f'<site name="{name}" pos="{numbers(at)}" size="0.005" group="5"/>'


def exclude(first: str, second: str) -> str:
    """For the contact section: two bodies that never touch.

    Needed between a body and its child that overlap where the parent stands still: MuJoCo lets only moving parents and
    their children pass through each other.
    """
    return f'<exclude body1="{first}" body2="{second}"/>'
