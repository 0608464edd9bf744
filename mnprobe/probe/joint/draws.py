"""Which steps and clips an update trains on: a pure function of the seed and the update's number."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnprobe.core.errors import ConfigError, DataError
from mnprobe.core.seeds import check_seed, derived_seed
from mnprobe.probe.items import GroupKind
from mnprobe.probe.joint.inputs import TrainingInputs

__all__ = ["Draw", "Draws", "part"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Draw:
    """What one update is given.

    Attributes:
        transitions: (B,) rows of key-to-key steps.
        clips: (C,) rows of episodes, empty in updates without action understanding.
        pairs: how many are paired: for i < pairs, clip i shows an episode of the group of step i.
        positions: (B,) where each step stands in the draw of all processes, to cut the same rows out of its noise.
    """

    transitions: NDArray[np.int64]
    clips: NDArray[np.int64]
    pairs: int
    positions: NDArray[np.int64]


class Draws:
    """Draws of a training. Nothing is remembered between updates, so that a stopped training can go on exactly.

    A step is of a uniformly drawn task, then of a uniformly drawn episode of that task, then uniform among its steps
    (specs of the published policy). The first `min(batch, clips)` clips are each of a random episode of the same group
    as the step in the same place (paper, section 4.1); further clips are drawn like the episodes of steps. Steps,
    partners and further clips have random numbers of their own: with one seed, trainings that differ in `clips` or
    `pairing`, or in their understanding updates, see the same steps.

    Args:
        inputs: the prepared inputs.
        batch: steps of an update (of all processes together).
        clips: clips of an understanding update; 0 when no video model is trained.
        pairing: what counts as the same action.
        seed: of the training.

    Raises:
        ConfigError: impossible numbers, an unknown pairing.
        DataError: no steps, or fewer than two instructions or groups, so that nothing can be told apart.
    """

    def __init__(self, inputs: TrainingInputs, *, batch: int, clips: int, pairing: GroupKind, seed: int) -> None:
        if batch < 1:
            raise ConfigError(f"batch must be at least 1 step, got {batch!r}")
        if clips < 0 or clips == 1:
            raise ConfigError(f"clips must be 0 (no video model) or at least 2 (to tell apart), got {clips!r}")
        self.batch, self.clips, self.seed = batch, clips, check_seed(seed)
        self.groups = inputs.groups(pairing)
        if not len(inputs.transition_episode):
            raise DataError("the episodes have no key-to-key step to train on; use demonstrations with keyframes")
        if clips:
            _refuse_one_group(inputs, self.groups, pairing)
        tasks = np.unique(inputs.tasks, return_inverse=True)[1].astype(np.int64)
        steps = _Members(inputs.transition_episode, len(inputs.ids))
        drawable = np.flatnonzero(steps.counts)
        self._steps = steps
        self._of_task = _Members(tasks, int(tasks.max()) + 1, drawable)
        self._tasks = np.flatnonzero(self._of_task.counts)
        self._of_group = _Members(self.groups, int(self.groups.max()) + 1)
        self._episode_of = inputs.transition_episode

    def at(self, update: int, understanding: bool) -> Draw:
        """The draw of update number `update` (from 0), with clips if it is an understanding update."""
        rng = self._generator(update, "transitions")
        transitions = self._steps.pick(self._episodes(self.batch, rng), rng)
        clips, pairs = np.empty(0, dtype=np.int64), 0
        if understanding and self.clips:
            pairs = min(self.batch, self.clips)
            wanted = self.groups[self._episode_of[transitions[:pairs]]]
            partners = self._of_group.pick(wanted, self._generator(update, "partners"))
            more = self._episodes(self.clips - pairs, self._generator(update, "clips"))
            clips = np.concatenate([partners, more])
        return Draw(transitions=transitions, clips=clips, pairs=pairs, positions=np.arange(self.batch))

    def _generator(self, update: int, use: str) -> np.random.Generator:
        return np.random.default_rng(derived_seed(self.seed, update, use))

    def _episodes(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Uniform tasks, then uniform episodes of each."""
        return self._of_task.pick(self._tasks[rng.integers(0, len(self._tasks), count)], rng)


def part(draw: Draw, rank: int, size: int) -> Draw:
    """The share of process `rank` of `size`: an equal slice of the pairs, of the other steps and of the other clips.

    Pairs stay pairs and stand first again; the shares of all processes together are the whole draw.

    Raises: ConfigError if there is no such process, or the numbers cannot be shared equally.
    """
    if not 0 <= rank < size:
        raise ConfigError(f"there is no process {rank} of {size}")
    rest = {"pairs": draw.pairs, "steps": len(draw.transitions), "clips": len(draw.clips)}
    for what, count in rest.items():
        if count % size:
            raise ConfigError(
                f"{count} {what} of an update cannot be shared equally by {size} processes; "
                f"choose batch and clips that are multiples of {size}"
            )
    steps = _share(len(draw.transitions), draw.pairs, rank, size)
    clips = _share(len(draw.clips), draw.pairs, rank, size)
    return Draw(
        transitions=draw.transitions[steps],
        clips=draw.clips[clips],
        pairs=draw.pairs // size,
        positions=draw.positions[steps],
    )


def _share(count: int, pairs: int, rank: int, size: int) -> NDArray[np.int64]:
    places = np.arange(count)
    return np.concatenate([np.split(piece, size)[rank] for piece in np.split(places, [pairs])])


class _Members:
    """The members of every group, laid end to end, so that one random member of many groups is a vector operation."""

    def __init__(self, groups: NDArray[np.int64], count: int, members: NDArray[np.int64] | None = None) -> None:
        chosen = np.arange(len(groups)) if members is None else members
        self._members = chosen[np.argsort(groups[chosen], kind="stable")]
        self.counts: NDArray[np.int64] = np.bincount(groups[chosen], minlength=count).astype(np.int64)
        self._starts = np.cumsum(self.counts) - self.counts

    def pick(self, groups: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """A uniform member of each of these groups, which must have some."""
        picked: NDArray[np.int64] = self._members[self._starts[groups] + rng.integers(0, self.counts[groups])]
        return picked


def _refuse_one_group(inputs: TrainingInputs, groups: NDArray[np.int64], pairing: str) -> None:
    examples = {"instruction": inputs.instructions, "task": inputs.tasks, "episode": inputs.ids}
    for what, count in (("instruction", len(inputs.texts)), (pairing, len(np.unique(groups)))):
        if count < 2:
            raise DataError(
                f"the {len(inputs.ids)} episodes are all of one {what} ({str(examples[what][0])!r}), so there is "
                f"nothing to tell apart; add episodes of another {what}, or train the execution side alone"
            )
