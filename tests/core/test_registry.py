from dataclasses import dataclass

import pytest

from mnprobe.core.errors import ConfigError
from mnprobe.core.registry import Registry, import_object, merge_settings, unknown_name


def test_a_name_is_imported_only_when_it_is_asked_for():
    shapes = Registry("shape", "mnprobe.test.none")
    shapes.add("broken", "no.such.module:Thing")
    shapes.add("path", "pathlib:Path")
    assert shapes.names() == ["broken", "path"]
    assert shapes.load("path").__name__ == "Path"
    with pytest.raises(ConfigError, match=r"cannot import 'no.such.module'"):
        shapes.load("broken")


@pytest.mark.parametrize("target", ["pathlib", ":Path", "pathlib:", ""])
def test_a_target_of_another_form_is_refused(target):
    with pytest.raises(ConfigError, match=r"must be written as 'package.module:name'"):
        import_object(target)


def test_a_wrong_attribute_gets_the_nearest_one():
    with pytest.raises(ConfigError, match="Did you mean 'PurePath'"):
        import_object("pathlib:PurPath")


def test_plugins_enter_through_entry_points_and_cannot_replace_what_is_built_in():
    scripts = Registry("script", "console_scripts")
    assert "mnprobe" in scripts.names()
    scripts.add("mnprobe", "pathlib:Path")
    assert scripts.load("mnprobe").__name__ == "Path"


def test_of_very_many_names_only_some_are_listed():
    known = [f"name{i:03d}" for i in range(300)]
    message = str(unknown_name("name", "name0300", known))
    assert "Did you mean 'name" in message
    assert message.endswith("name059 and 240 more")


@dataclass(frozen=True)
class _Config:
    size: int = 1
    name: str = "a"


def test_a_configuration_takes_single_settings():
    assert merge_settings(_Config, None, {}) == _Config()
    assert merge_settings(_Config, None, {"size": 2}) == _Config(2)
    assert merge_settings(_Config, _Config(3, "b"), {"size": 2}) == _Config(2, "b")
    given = _Config(3)
    assert merge_settings(_Config, given, {}) == given
    with pytest.raises(ConfigError, match=r"unknown setting of _Config: 'sise'. Did you mean 'size'\?"):
        merge_settings(_Config, given, {"sise": 2})
    with pytest.raises(ConfigError, match="config must be of _Config, got dict; give single settings by their own"):
        merge_settings(_Config, {"size": 2}, {})
