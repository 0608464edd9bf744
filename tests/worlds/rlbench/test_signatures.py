"""The stand-in is what real_signatures.json says of the real packages and offers nothing else; mnprobe uses no more."""

import ast
import dataclasses
import importlib
import inspect
import json
from enum import Enum
from pathlib import Path

import pytest

import mnprobe.worlds
from mnprobe.data.camera import CAMERA_ORDER
from mnprobe.worlds import rlbench_api, rlbench_frames
from mnprobe.worlds.environment import Observation

REAL = json.loads((Path(__file__).parent / "real_signatures.json").read_text(encoding="utf-8"))
NAMES = REAL["names"]
IMAGES = ("rgb", "point_cloud")  # what frames are made of
ADAPTER = sorted(Path(mnprobe.worlds.__file__).parent.glob("rlbench*.py"))

# What mnprobe holds of the two packages, by the name under which its adapter holds it.
HELD = {
    "_task": "rlbench.task_environment:TaskEnvironment",
    "environment": "rlbench.environment:Environment",
    "_camera": "rlbench.observation_config:CameraConfig",
    "unused": "rlbench.observation_config:CameraConfig",
    "shape": "pyrep.objects.shape:Shape",
    "demo": "rlbench.demo:Demo",
    "item": "rlbench.backend.observation:Observation",
    "observation": "rlbench.backend.observation:Observation",
    "object_type": "pyrep.const:ObjectType",
    "render_mode": "pyrep.const:RenderMode",
    "arm": "rlbench.action_modes.arm_action_modes:EndEffectorPoseViaPlanning",
}


def found(target):
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def arguments(function):
    """As real_signatures.json writes them, `self` left out."""
    written = []
    parameters = inspect.signature(function).parameters.values()
    for parameter in parameters:
        assert parameter.kind is not parameter.POSITIONAL_ONLY
        prefix = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        if parameter.kind is parameter.KEYWORD_ONLY:
            prefix = "keyword "
        default = "" if parameter.default is parameter.empty else f"={told(parameter.default)}"
        written.append(f"{prefix}{parameter.name}{default}")
    return [argument for argument in written if argument != "self"]


def told(default):
    if isinstance(default, Enum):
        return str(default)
    plain = default is None or isinstance(default, bool | int | float | str | tuple)
    return repr(default) if plain else f"{type(default).__name__}()"


def members(target):
    entry = NAMES[target]
    return {*entry.get("methods", ()), *entry.get("attributes", ())}


@pytest.mark.parametrize("target", NAMES)
def test_the_standin_has_the_real_names_and_arguments(simulator, target):
    entry, thing = NAMES[target], found(target)
    if entry["signature"] is not None:
        assert arguments(thing) == entry["signature"]
    for method, signature in entry.get("methods", {}).items():
        if signature is not None:
            assert arguments(getattr(thing, method)) == signature, method
    if "base" in entry:
        assert thing.__mro__[1].__name__ == entry["base"]
    if isinstance(thing, type) and issubclass(thing, Enum):
        assert set(entry["attributes"]) <= set(thing.__members__)


def test_a_shape_is_comparable_and_has_no_hash(simulator):
    assert found("pyrep.objects.shape:Shape").__hash__ is None


def test_every_source_is_named():
    for target, entry in NAMES.items():
        assert any(source in entry["source"] for source in REAL["sources"]), target


def _standin_classes():
    for target in sorted({target.partition(":")[0] for target in NAMES}):
        module = importlib.import_module(target)
        yield from (
            (f"{target}:{name}", thing)
            for name, thing in vars(module).items()
            if isinstance(thing, type) and thing.__module__ == target
        )


def test_the_standin_offers_nothing_that_the_real_packages_are_not_known_to_have(world, simulator):
    for target, thing in _standin_classes():
        assert target in NAMES, f"{target} is in the stand-in and not in real_signatures.json"
        public = {name for name in vars(thing) if not name.startswith("_")}
        assert public <= members(target), (target, public - members(target))
    observation = world.reset("turn_tap", 0, 0)
    seen = world._task._scene._look()
    demo = world._task.get_demos(1, live_demos=True)[0]
    assert observation.step == 0
    for target, thing in {
        "rlbench.environment:Environment": world._simulator.environment,
        "rlbench.task_environment:TaskEnvironment": world._task,
        "rlbench.observation_config:CameraConfig": world._simulator._camera,
        "rlbench.observation_config:ObservationConfig": world._simulator.environment._obs_config,
        "rlbench.backend.observation:Observation": seen,
        "rlbench.demo:Demo": demo,
        "pyrep.objects.shape:Shape": world._simulator._shapes()[0],
    }.items():
        assert {name for name in vars(thing) if not name.startswith("_")} <= members(target), target


def _used():
    """(name of what is held, attribute, file and line) of all attributes that the adapter takes of what it holds."""
    for path in ADAPTER:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Attribute(value=holder, attr=attribute):
                    pass
                case ast.Call(func=ast.Name(id="getattr"), args=[holder, ast.Constant(value=str(attribute)), *_]):
                    pass
                case _:
                    continue
            name = holder.id if isinstance(holder, ast.Name) else getattr(holder, "attr", None)
            if isinstance(holder, ast.Subscript) and isinstance(holder.value, ast.Name):
                name = {"observations": "item", "demo": "item"}.get(holder.value.id)
            if name in HELD:
                yield name, attribute, f"{path.name}:{node.lineno}"


def test_the_adapter_uses_nothing_that_is_not_listed():
    used = list(_used())
    assert {name for name, _, _ in used} == set(HELD), "HELD names something that the adapter holds no more"
    for name, attribute, where in used:
        ours = name == "observation" and attribute in {field.name for field in dataclasses.fields(Observation)}
        assert ours or attribute in members(HELD[name]), f"{where}: {name}.{attribute}"
    fields = {*rlbench_frames._SHAPES, "misc", *(f"{name}_{kind}" for name in CAMERA_ORDER for kind in IMAGES)}
    assert fields <= members(HELD["item"])


def test_everything_that_is_imported_is_listed():
    assert set(rlbench_api._PLACES.values()) <= set(NAMES)
