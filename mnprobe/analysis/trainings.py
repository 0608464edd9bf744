"""Which training a model came from, read off its name in a run: viclip-joint-seed1 is a ViCLIP of training joint."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Named", "in_order", "named"]

_BLANK = "-blank"
_OURS = re.compile(r"(?P<family>viclip|arp)(?:-(?P<training>(?!seed\d+$).+?))?(?:-seed(?P<seed>\d+))?")
_FIRST = ("baseline", "joint")


@dataclass(frozen=True, kw_only=True)
class Named:
    """A model's name, taken apart.

    `family` says what kind of model it is, `training` which training (empty for a model that no training named),
    `seed` the number after "-seed" (None where there is none), `blank` whether it was told no instruction.
    """

    family: str
    training: str
    seed: int | None
    blank: bool

    @property
    def without_seed(self) -> str:
        """The name that all seeds of a training share."""
        return "-".join(part for part in (self.family, self.training) if part) + (_BLANK if self.blank else "")


def named(model: str) -> Named:
    """Take apart the name of a model; only ViCLIP and ARP are trained here, any other name is its own family.

    >>> named("arp-joint-seed1-blank")
    Named(family='arp', training='joint', seed=1, blank=True)
    >>> named("my-model")
    Named(family='my-model', training='', seed=None, blank=False)
    """
    blank = model.endswith(_BLANK)
    found = _OURS.fullmatch(model.removesuffix(_BLANK))
    if found is None:
        return Named(family=model, training="", seed=None, blank=False)
    seed = found["seed"]
    return Named(
        family=found["family"],
        training=found["training"] or "",
        seed=None if seed is None else int(seed),
        blank=blank,
    )


def in_order(trainings: Iterable[str]) -> list[str]:
    """Each training once: baseline, joint, then the others by name.

    >>> in_order(["wide", "joint", "baseline", "joint"])
    ['baseline', 'joint', 'wide']
    """
    found = set(trainings)
    return [name for name in _FIRST if name in found] + sorted(found - set(_FIRST))
