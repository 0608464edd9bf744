"""The tasks of the tabletop, one file each: a new file is a new task.

A file `<name>.py` holds a class called as the file in CamelCase, such as `OpenDrawer` in `open_drawer.py`.
"""

import pkgutil
from collections.abc import Iterator, Mapping

from mnprobe.core.registry import import_object, unknown_name
from mnprobe.worlds.tabletop.base import Task

__all__ = ["SUITES", "TASKS"]


class _Tasks(Mapping[str, type[Task]]):
    """Task classes by name, imported on first access."""

    def __init__(self) -> None:
        self._names = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name[0] != "_"))

    def __getitem__(self, name: str) -> type[Task]:
        if name not in self._names:
            raise unknown_name("tabletop task", name, list(self._names))
        camel = "".join(word.capitalize() for word in name.split("_"))
        found: type[Task] = import_object(f"{__name__}.{name}:{camel}", kind="tabletop task")
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names


TASKS = _Tasks()
"""Task name -> class."""

SUITES: Mapping[str, tuple[str, ...]] = {
    "goal": ("lift_puck", "push_puck_away", "push_puck_left", "push_puck_near", "push_puck_right", "tap_puck"),
}
"""Suite name -> its tasks, which are played only where they or the suite are named; all other tasks are the default."""
