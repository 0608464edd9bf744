"""Which feature stores of a run belong together: every understanding side with every execution side of its source."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from mnprobe.core.errors import FeatureError
from mnprobe.features import open_features

__all__ = ["PIXELS", "StoredPair", "join_stores"]

_BLANK = "-blank"
PIXELS = "pixels"
"""The understanding side that no model made: a control, for which a choice of layer is not meant (DESIGN 6, c)."""


@dataclass(frozen=True, order=True)
class _Store:
    model: str
    source: str
    step: int
    path: Path
    side: str


@dataclass(frozen=True)
class StoredPair:
    """Two feature stores to be probed together."""

    u: Path
    e: Path


def join_stores(paths: Sequence[Path]) -> tuple[list[StoredPair], list[str]]:
    """Pairs of stores (understanding x execution), and sentences about stores that found no partner.

    Sources join by family: features of "demos-blank" (instruction blanked) meet those of "demos", likewise for
    "rollouts". Training steps join one to one where both sides have them; a side with one step (such as pixels, or a
    model that was not trained here) meets every step of the other. Pixels, the control for u, meet the policy's
    features as they are and not the blanked ones, the control for e. Where both sides have as many checkpoints but at
    other steps, they are joined in order (first with first, last with last), and a note says so.

    Raises FeatureError when one side is missing altogether or no pair can be made; the message lists what there is.
    """
    stores = []
    for path in paths:
        with open_features(path) as file:
            stores.append(_Store(file.model, file.source, file.step, path, file.side))
    for side in ("understanding", "execution"):
        if not any(store.side == side for store in stores):
            raise FeatureError(
                f"no features of the {side} side among {len(stores)} stores ({_listed(stores) or 'none at all'}). "
                "Make them with `mnprobe extract`"
            )
    pairs: list[StoredPair] = []
    notes: list[str] = []
    series = [list(group) for _, group in groupby(sorted(stores), key=lambda store: (store.model, store.source))]
    sides_u = [group for group in series if group[0].side == "understanding" and not group[0].source.endswith(_BLANK)]
    sides_e = [group for group in series if group[0].side == "execution"]
    for group_e in sides_e:
        family = group_e[0].source.removesuffix(_BLANK)
        blanked = group_e[0].source != family
        partners = [group for group in sides_u if group[0].source == family]
        partners = [group for group in partners if not (blanked and group[0].model == PIXELS)] or partners
        if not partners:
            notes.append(f"{group_e[0].model} on {group_e[0].source}: no understanding features of source {family!r}")
        for group_u in partners:
            found, note = _by_step(group_u, group_e)
            pairs += found
            notes += [note] if note else []
    if not pairs:
        raise FeatureError(
            f"no understanding and execution stores fit together: {_listed(stores)}. They must come from the same "
            f"source (demos, rollouts) and share a training step, unless one side has a single step. {' '.join(notes)}"
        )
    return pairs, notes


def _by_step(group_u: list[_Store], group_e: list[_Store]) -> tuple[list[StoredPair], str]:
    name = f"{group_u[0].model} x {group_e[0].model} ({group_e[0].source})"
    if len(group_u) == 1 or len(group_e) == 1:
        return [StoredPair(u.path, e.path) for u in group_u for e in group_e], ""
    by_step = {store.step: store for store in group_u}
    equal = [StoredPair(by_step[e.step].path, e.path) for e in group_e if e.step in by_step]
    if len(equal) == len(group_u) == len(group_e):
        return equal, ""
    if len(group_u) == len(group_e):
        ordered = [StoredPair(u.path, e.path) for u, e in zip(group_u, group_e, strict=True)]
        return ordered, f"{name}: steps differ ({_steps(group_u)} and {_steps(group_e)}), joined in order"
    left = f"{name}: only steps that both have are joined ({_steps(group_u)} and {_steps(group_e)})"
    return equal, left


def _steps(group: list[_Store]) -> str:
    return ", ".join(str(store.step) for store in group)


def _listed(stores: Sequence[_Store]) -> str:
    return "; ".join(f"{s.side} {s.model} on {s.source} at step {s.step}" for s in sorted(stores))
