import csv
import itertools
import re

import pytest

from mnprobe.core.errors import ConfigError
from mnprobe.data import COLOURS, TASKS, instruction, slots, task_named


@pytest.fixture(scope="module")
def table(golden):
    with (golden / "table4_tasks.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_tasks_are_those_of_the_papers_table_in_its_order(table):
    assert [task.paper for task in TASKS.values()] == [row["task"] for row in table]
    assert [task.variations for task in TASKS.values()] == [int(row["variations"]) for row in table]
    assert [task.varies for task in TASKS.values()] == [row["variation_type"] for row in table]
    assert len(TASKS) == 18
    assert sum(task.variations for task in TASKS.values()) == 249


def _words(text):
    """Without articles, slots and what the paper puts in brackets: they are loose between sources."""
    text = re.sub(r"\[.*\]|\{slot\}|_+", " ", text.replace("'", ""))
    return [word for word in re.findall("[a-z]+", text) if word not in ("the", "a")]


def test_the_templates_agree_with_the_paper(table):
    for task, row in zip(TASKS.values(), table, strict=True):
        assert _words(task.template) == _words(row["language_template"]), task.module
        before, after = row["language_template"].split("[")[0].split("___")[:2]
        assert task.template.split("{slot}")[0].split()[-1:] in (before.split()[-1:], ["the"]), task.module
        assert _words(task.template.split("{slot}")[1]) == _words(after), task.module


def test_all_249_instructions_can_be_made_and_differ_within_a_task_but_one():
    for task in TASKS:
        texts = [instruction(task, variation) for variation in range(TASKS[task].variations)]
        # Variations 0, 3, 6, ... of push_buttons differ only in buttons that are not to be pushed.
        assert len(set(texts)) == (19 if task == "push_buttons" else TASKS[task].variations)
        assert all(text == text.lower().strip() and "{" not in text and text[-1] != "." for text in texts)


def test_lists_give_a_value_for_each_variation():
    for task in TASKS.values():
        assert len(task.values) == (task.variations if task.rule == "list" else 0)
        assert not (task.rule == "colour" and task.variations != len(COLOURS))


def test_colours():
    assert list(COLOURS)[:5] == ["red", "maroon", "lime", "green", "blue"]
    assert list(COLOURS)[-1] == "white"
    assert COLOURS["silver"] == (0.75, 0.75, 0.75)
    assert len(COLOURS) == 20 == len(set(COLOURS.values()))


def test_stack_blocks_counts_fastest():
    expected = [(str(n), colour) for colour in COLOURS for n in (2, 3, 4)]
    assert [slots("stack_blocks", i) for i in range(60)] == expected
    assert instruction("stack_blocks", 59) == "stack 4 white blocks"


def test_push_buttons_takes_ordered_triples_of_its_own_colours():
    own = [name for name in COLOURS if name not in ("red", "lime")]
    triples = [(a, b, c) for a, b, c in itertools.product(own, repeat=3) if len({a, b, c}) == 3]
    assert [slots("push_buttons", i) for i in range(50)] == [triples[i // 3][: 1 + i % 3] for i in range(50)]
    assert instruction("push_buttons", 0) == "push the maroon button"
    assert slots("push_buttons", 5) == ("maroon", "green", "navy")
    assert {slots("push_buttons", i)[0] for i in range(50)} == {"maroon"}
    assert {i for i in range(50) if slots("push_buttons", i)[1:2] == ("blue",)} == {49}


def test_place_cups_knows_one_cup():
    assert [instruction("place_cups", i) for i in range(3)] == [
        "place 1 cup on the cup holder",
        "place 2 cups on the cup holder",
        "place 3 cups on the cup holder",
    ]


def test_tasks_are_known_by_both_names():
    assert all(task_named(task.paper) is task_named(task.module) is task for task in TASKS.values())


def test_unknown_tasks_and_variations_are_refused():
    with pytest.raises(ConfigError, match=r"unknown task 'open_draver'\. Did you mean 'open_drawer'"):
        instruction("open_draver", 0)
    with pytest.raises(ConfigError, match="open_drawer has variations 0 to 2, got 3"):
        instruction("open_drawer", 3)
    with pytest.raises(ConfigError, match="got -1"):
        slots("push buttons", -1)
