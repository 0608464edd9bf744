"""Shared options: one declaration, one help text, and the defaults of the configuration classes."""

import ast
from collections import Counter
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import typer

import mnprobe.cli
from mnprobe.analysis.tsne.embedding import TsneConfig
from mnprobe.cli import options
from mnprobe.cli.main import COMMANDS, command_app
from mnprobe.core.errors import ConfigError
from mnprobe.features import ExtractConfig, RecognitionConfig
from mnprobe.probe import AlignConfig, FitConfig
from mnprobe.training import TrainConfig
from mnprobe.worlds.demos import DemosConfig
from mnprobe.worlds.rollout_plan import RolloutPlan

FOLDER = Path(mnprobe.cli.__file__).parent
ONE_MEANING = (
    *("--json", "--quiet", "--device", "--instructions", "--outcomes", "--language-weights", "--precision", "--camera"),
    *("--pool-u", "--pool-e", "--dim", "--heads", "--resamples", "--max-steps", "--save-every", "--image-size"),
    *("--frames-rule", "--renderer", "--run"),
)
OTHER_MEANING = {  # of the same words, in these commands
    "--run": {"init", "demos", "demo", "doctor"},  # created, or optional
    "--heads": {"tsne"},  # a file
}


def parameters(command):
    return {option: one for one in typer.main.get_command(command_app(command)).params for option in one.opts}


@pytest.mark.parametrize("option", ONE_MEANING)
def test_an_option_says_the_same_in_every_command(option):
    others = OTHER_MEANING.get(option, set())
    texts = {known[option].help for name in COMMANDS if name not in others and option in (known := parameters(name))}
    assert len(texts) == 1


def test_no_help_text_is_written_twice():
    texts = Counter(
        keyword.value.value
        for path in FOLDER.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "Option"
        for keyword in node.keywords
        if keyword.arg == "help" and isinstance(keyword.value, ast.Constant)
    )
    assert len(texts) > 100
    assert [text for text, count in texts.items() if count > 1] == []


def test_every_shared_option_is_used_by_several_commands():
    names = [name for name in options.__all__ if name.endswith("Option")]
    uses = {name: [p for p in FOLDER.glob("*.py") if f"opt.{name}" in p.read_text(encoding="utf-8")] for name in names}
    assert sorted(name for name, files in uses.items() if len(files) < 2) == []


@pytest.mark.parametrize(
    ("command", "config", "other"),
    [
        ("extract", ExtractConfig, {}),
        ("recognize", RecognitionConfig, {}),
        ("align", AlignConfig, {"k": "1,5,10"}),  # as text
        ("align", FitConfig, {}),
        ("tsne", TsneConfig, {}),
        ("demos", DemosConfig, {"train": 10, "test": 5}),  # a folder without episodes would be of no use
        ("rollout", RolloutPlan, {}),
        ("train", TrainConfig, {}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_defaults_are_those_of_the_configuration(command, config, other):
    """An option that is not given leaves the field to its class; one with a default has the same."""
    known = {one.name: one.default for one in typer.main.get_command(command_app(command)).params}
    shared = [entry for entry in fields(config) if known.get(entry.name) is not None]
    assert shared or command == "train"  # whose defaults are the preset's
    for entry in shared:
        if entry.default is not MISSING:
            assert known[entry.name] == other.get(entry.name, entry.default), entry.name


def test_every_setting_has_its_option():
    assert {entry.name for entry in fields(ExtractConfig)} - {"options"} <= set(names_of("extract"))
    assert {entry.name for entry in fields(RecognitionConfig)} - {"model_config"} <= set(names_of("recognize"))


def names_of(command):
    return [one.name for one in typer.main.get_command(command_app(command)).params]


def test_options_that_were_not_given_are_left_to_the_configuration():
    given = {"models": ["viclip"], "step": 0, "name": None, "tasks": [], "skip_broken": False, "out": Path("x")}
    assert options.select_fields(ExtractConfig, given) == {"models": ("viclip",), "step": 0, "skip_broken": False}


def test_a_suite_stands_for_its_tasks_and_not_beside_others():
    assert options.chosen_tasks(["turn_tap"], None, "tabletop", {}) == ["turn_tap"]
    assert options.chosen_tasks(None, None, "tabletop", {}) is None
    pucks = options.chosen_tasks(None, "goal", "tabletop", {})
    assert pucks is not None
    assert len(pucks) == 6
    with pytest.raises(ConfigError, match="--suite and --task both choose tasks"):
        options.chosen_tasks(["turn_tap"], "goal", "tabletop", {})
    with pytest.raises(ConfigError, match=r"unknown suite of world 'tabletop': 'gaol'\. Did you mean 'goal'"):
        options.chosen_tasks(None, "gaol", "tabletop", {})
