"""The 18 RLBench tasks of the paper: names, variations, instructions, colors."""

from dataclasses import dataclass
from itertools import islice, permutations
from typing import Literal, TypeAlias

from mnprobe.core.errors import ConfigError
from mnprobe.core.registry import unknown_name

__all__ = ["COLOURS", "PUSH_BUTTONS_COLOURS", "TASKS", "Task", "instruction", "slots", "task_named"]

Rule: TypeAlias = Literal["list", "colour", "colour and number", "buttons"]

# Name and RGB in 0 .. 1; the index is the variation of the tasks that vary by colour.
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (1.0, 0.0, 0.0),
    "maroon": (0.5, 0.0, 0.0),
    "lime": (0.0, 1.0, 0.0),
    "green": (0.0, 0.5, 0.0),
    "blue": (0.0, 0.0, 1.0),
    "navy": (0.0, 0.0, 0.5),
    "yellow": (1.0, 1.0, 0.0),
    "cyan": (0.0, 1.0, 1.0),
    "magenta": (1.0, 0.0, 1.0),
    "silver": (0.75, 0.75, 0.75),
    "gray": (0.5, 0.5, 0.5),
    "orange": (1.0, 0.5, 0.0),
    "olive": (0.5, 0.5, 0.0),
    "purple": (0.5, 0.0, 0.5),
    "teal": (0.0, 0.5, 0.5),
    "azure": (0.0, 0.5, 1.0),
    "violet": (0.5, 0.0, 1.0),
    "rose": (1.0, 0.0, 0.5),
    "black": (0.0, 0.0, 0.0),
    "white": (1.0, 1.0, 1.0),
}
# push_buttons has a list of its own, from which ordered triples are taken.
PUSH_BUTTONS_COLOURS: tuple[str, ...] = tuple(name for name in COLOURS if name not in ("red", "lime"))


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task of the benchmark.

    Attributes:
        module: RLBench's module name, which is also the folder's name.
        paper: the name in the paper's tables.
        varies: the difference between variations, in the paper's words.
        variations: number of variations.
        template: the first paraphrase, the only one that PerAct, RVT and ARP use; `{slot}` is the varying part.
        paraphrases: number of paraphrases in RLBench.
        success: success condition; all parts must hold at the same time.
        released: whether the gripper must be empty at success.
        values: the slot of each variation, for `rule` "list".
        rule: mapping from the variation index to its slots.
    """

    module: str
    paper: str
    varies: str
    variations: int
    template: str
    paraphrases: int
    success: str
    released: bool = False
    values: tuple[str, ...] = ()
    rule: Rule = "list"


_THREE_HEIGHTS = ("bottom", "middle", "top")
_GROCERIES = (
    "crackers",
    "chocolate jello",
    "strawberry jello",
    "soup",
    "tuna",
    "spam",
    "coffee",
    "mustard",
    "sugar",
)

_ALL = (
    Task(
        module="open_drawer",
        paper="open drawer",
        varies="placement",
        variations=3,
        values=_THREE_HEIGHTS,
        template="open the {slot} drawer",
        paraphrases=3,
        success="that drawer's joint moved more than 0.15 m",
    ),
    Task(
        module="slide_block_to_color_target",
        paper="slide block",
        varies="color",
        variations=4,
        values=("green", "blue", "pink", "yellow"),
        template="slide the block to {slot} target",
        paraphrases=5,
        success="the block is seen by that target's sensor",
    ),
    Task(
        module="sweep_to_dustpan_of_size",
        paper="sweep to dustpan",
        varies="size",
        variations=2,
        values=("tall", "short"),
        template="sweep dirt to the {slot} dustpan",
        paraphrases=4,
        success="all 5 pieces of dirt are in that pan",
    ),
    Task(
        module="meat_off_grill",
        paper="meat off grill",
        varies="category",
        variations=2,
        values=("chicken", "steak"),
        template="take the {slot} off the grill",
        paraphrases=3,
        success="that piece is in the side zone",
        released=True,
    ),
    Task(
        module="turn_tap",
        paper="turn tap",
        varies="placement",
        variations=2,
        values=("left", "right"),
        template="turn {slot} tap",
        paraphrases=3,
        success="that handle turned more than 1.57 rad",
    ),
    Task(
        module="put_item_in_drawer",
        paper="put in drawer",
        varies="placement",
        variations=3,
        values=_THREE_HEIGHTS,
        template="put the item in the {slot} drawer",
        paraphrases=4,
        success="the item is seen inside that drawer",
    ),
    Task(
        module="close_jar",
        paper="close jar",
        varies="color",
        variations=20,
        rule="colour",
        template="close the {slot} jar",
        paraphrases=4,
        success="the lid is on that jar",
        released=True,
    ),
    Task(
        module="reach_and_drag",
        paper="drag stick",
        varies="color",
        variations=20,
        rule="colour",
        template="use the stick to drag the cube onto the {slot} target",
        paraphrases=4,
        success="the cube is on that target",
    ),
    Task(
        module="stack_blocks",
        paper="stack blocks",
        varies="color, count",
        variations=60,
        rule="colour and number",
        template="stack {slot} blocks",
        paraphrases=6,
        success="at least that number of target blocks is in the stack zone",
        released=True,
    ),
    Task(
        module="light_bulb_in",
        paper="screw bulb",
        varies="color",
        variations=20,
        rule="colour",
        template="screw in the {slot} light bulb",
        paraphrases=4,
        success="the bulb from the holder of that colour is in the lamp",
        released=True,
    ),
    Task(
        module="put_money_in_safe",
        paper="put in safe",
        varies="placement",
        variations=3,
        values=_THREE_HEIGHTS,
        template="put the money away in the safe on the {slot} shelf",
        paraphrases=3,
        success="the money is on that shelf",
        released=True,
    ),
    Task(
        module="place_wine_at_rack_location",
        paper="place wine",
        varies="placement",
        variations=3,
        values=("middle", "left", "right"),
        template="stack the wine bottle to the {slot} of the rack",
        paraphrases=5,
        success="the bottle is at that place",
        released=True,
    ),
    Task(
        module="put_groceries_in_cupboard",
        paper="put in cupboard",
        varies="category",
        variations=9,
        values=_GROCERIES,
        template="put the {slot} in the cupboard",
        paraphrases=4,
        success="that item is in the cupboard",
        released=True,
    ),
    Task(
        module="place_shape_in_shape_sorter",
        paper="sort shape",
        varies="shape",
        variations=5,
        values=("cube", "cylinder", "triangular prism", "star", "moon"),
        template="put the {slot} in the shape sorter",
        paraphrases=4,
        success="that shape is inside the sorter",
        released=True,
    ),
    Task(
        module="push_buttons",
        paper="push buttons",
        varies="color",
        variations=50,
        rule="buttons",
        template="push the {slot} button",
        paraphrases=3,
        success="these buttons were pressed in this order; they need not stay pressed",
    ),
    Task(
        module="insert_onto_square_peg",
        paper="insert peg",
        varies="color",
        variations=20,
        rule="colour",
        template="put the ring on the {slot} spoke",
        paraphrases=3,
        success="the ring is at all four sensors of that spoke",
        released=True,
    ),
    Task(
        module="stack_cups",
        paper="stack cups",
        varies="color",
        variations=20,
        rule="colour",
        template="stack the other cups on top of the {slot} cup",
        paraphrases=6,
        success="both other cups are in the cup of that colour",
        released=True,
    ),
    Task(
        module="place_cups",
        paper="place cups",
        varies="count",
        variations=3,
        values=("1", "2", "3"),
        template="place {slot} cups on the cup holder",
        paraphrases=4,
        success="that number of cups is on spokes",
        released=True,
    ),
)
TASKS: dict[str, Task] = {task.module: task for task in _ALL}
"""The 18 tasks by module name, in the order of the paper's table; 249 variations in all."""


def task_named(name: str) -> Task:
    """The task with this module name or this name in the paper; ConfigError with the nearest name otherwise.

    >>> task_named("drag stick").module
    'reach_and_drag'
    """
    by_name = {task.paper: task for task in _ALL} | TASKS
    if name not in by_name:
        raise unknown_name("task", name, list(TASKS))
    return by_name[name]


def slots(task: str, variation: int) -> tuple[str, ...]:
    """Slots of a variation's template: one word group, number and colour, or one to three button colours.

    >>> slots("stack_blocks", 4)
    ('3', 'maroon')
    >>> slots("push_buttons", 2)
    ('maroon', 'green', 'blue')
    """
    spec = task_named(task)
    if not 0 <= variation < spec.variations:
        raise ConfigError(f"{spec.module} has variations 0 to {spec.variations - 1}, got {variation!r}")
    match spec.rule:
        case "colour":
            return (list(COLOURS)[variation],)
        case "colour and number":
            return str(2 + variation % 3), list(COLOURS)[variation // 3]
        case "buttons":
            triple = next(islice(permutations(PUSH_BUTTONS_COLOURS, 3), variation // 3, None))
            return triple[: 1 + variation % 3]
        case "list":
            return (spec.values[variation],)


def instruction(task: str, variation: int) -> str:
    """The first paraphrase of a variation, lower case and without a full stop.

    >>> instruction("open_drawer", 2)
    'open the top drawer'
    >>> instruction("push_buttons", 1)
    'push the maroon button, then push the green button'
    >>> instruction("place_cups", 0)
    'place 1 cup on the cup holder'
    """
    spec = task_named(task)
    words = slots(task, variation)
    if spec.rule == "buttons":
        return ", then ".join(spec.template.format(slot=colour) for colour in words)
    text = spec.template.format(slot=" ".join(words))
    return text.replace("1 cups", "1 cup")
