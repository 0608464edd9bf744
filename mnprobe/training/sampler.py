"""Training sampler: the clips, steps and noise of an update, from seed and number."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnprobe.core.errors import ConfigError, DataError
from mnprobe.core.runtime import Team
from mnprobe.core.seeds import check_seed, derived_seed
from mnprobe.models.arp import ARPConfig, SE3Draws, TrainNoise
from mnprobe.models.arp.augment import draw_colour_noise, draw_rotation_shift, draw_se3, draw_zoom_noise
from mnprobe.models.clip import END, WordVectors
from mnprobe.models.viclip import Tokenizer, ViCLIPConfig
from mnprobe.probe.sampling import GroupMembers
from mnprobe.probe.splits import GroupKind
from mnprobe.training.config import Augment, TrainConfig
from mnprobe.training.dataset import Language, TrainingInputs
from mnprobe.training.model import StepInputs, StepSettings

__all__ = ["BatchLoader", "BatchRows", "BatchSampler", "sample_noise", "shard"]


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchRows:
    """The sampled rows of one update.

    Attributes:
        transitions: (B,) rows of key-to-key steps.
        clips: (C,) rows of episodes, empty in updates without action understanding.
        pairs: number of pairs: for i < pairs, clip i shows an episode of the group of step i.
        positions: (B,) position of each step in the joint batch of all processes, which selects its noise.
    """

    transitions: NDArray[np.int64]
    clips: NDArray[np.int64]
    pairs: int
    positions: NDArray[np.int64]


class BatchSampler:
    """Sampler of a training. It has no state between updates, so a stopped training resumes exactly.

    A step is sampled by uniform task, then uniform episode of that task, then uniform step of that episode
    (specs of the published policy). The first `min(batch, clips)` clips are random episodes of the same group as the
    step at the same index (paper, section 4.1); further clips are sampled like the episodes of steps. Steps, paired
    clips and further clips have separate random streams: with the same seed, trainings that differ in `clips`,
    `pairing` or understanding updates use the same steps.

    With a share of first steps, a step is the first of its episode with this chance, otherwise a uniform other one (of
    an episode with a single step, always that one).

    Args:
        inputs: the prepared inputs.
        batch: steps per update, summed over processes.
        clips: clips per understanding update; 0 when no video model is trained.
        pairing: property that defines a group.
        seed: seed of the training.
        first_step_share: share of first steps; None makes all steps of an episode equally likely.

    Raises:
        ConfigError: numbers out of range, an unknown pairing.
        DataError: no steps, or fewer than two instructions or groups, so that there are no negatives.
    """

    def __init__(
        self,
        inputs: TrainingInputs,
        *,
        batch: int,
        clips: int,
        pairing: GroupKind,
        seed: int,
        first_step_share: float | None = None,
    ) -> None:
        if batch < 1:
            raise ConfigError(f"batch must be at least 1 step, got {batch!r}")
        if clips < 0 or clips == 1:
            raise ConfigError(f"clips must be 0 (no video model) or at least 2 (to tell apart), got {clips!r}")
        self.batch, self.clips, self.seed = batch, clips, check_seed(seed)
        self.groups = inputs.groups(pairing)
        if not len(inputs.transition_episode):
            raise DataError("the episodes have no key-to-key step to train on; use demonstrations with keyframes")
        if clips:
            _check_several_groups(inputs, self.groups, pairing)
        tasks = np.unique(inputs.tasks, return_inverse=True)[1].astype(np.int64)
        steps = GroupMembers(inputs.transition_episode, len(inputs.ids))
        drawable = np.flatnonzero(steps.counts)
        self._steps = steps
        self._first_step_share = first_step_share
        with_steps, first = np.unique(inputs.transition_episode, return_index=True)  # rows are in order of time
        self._first_of = np.full(len(inputs.ids), -1, dtype=np.int64)
        self._first_of[with_steps] = first
        is_later = np.ones(len(inputs.transition_episode), dtype=bool)
        is_later[first] = False
        self._later = GroupMembers(inputs.transition_episode, len(inputs.ids), np.flatnonzero(is_later))
        self._of_task = GroupMembers(tasks, int(tasks.max()) + 1, drawable)
        self._tasks = np.flatnonzero(self._of_task.counts)
        self._of_group = GroupMembers(self.groups, int(self.groups.max()) + 1)
        self._episode_of = inputs.transition_episode

    def at(self, update: int, understanding: bool) -> BatchRows:
        """Sample update number `update` (from 0), with clips if it is an understanding update."""
        rng = self._generator(update, "transitions")
        episodes = self._episodes(self.batch, rng)
        transitions = self._steps.sample(episodes, rng)
        if self._first_step_share is not None:
            transitions = self._first_or_later(episodes, self._first_step_share, self._generator(update, "first steps"))
        clips, pairs = np.empty(0, dtype=np.int64), 0
        if understanding and self.clips:
            pairs = min(self.batch, self.clips)
            wanted = self.groups[self._episode_of[transitions[:pairs]]]
            partners = self._of_group.sample(wanted, self._generator(update, "partners"))
            more = self._episodes(self.clips - pairs, self._generator(update, "clips"))
            clips = np.concatenate([partners, more])
        return BatchRows(transitions=transitions, clips=clips, pairs=pairs, positions=np.arange(self.batch))

    def _first_or_later(self, episodes: NDArray[np.int64], share: float, rng: np.random.Generator) -> NDArray[np.int64]:
        """Sample the first step of each episode with chance `share`, else a uniform later one."""
        is_later = rng.random(len(episodes)) >= share
        is_later &= self._later.counts[episodes] > 0
        steps: NDArray[np.int64] = self._first_of[episodes]
        steps[is_later] = self._later.sample(episodes[is_later], rng)
        return steps

    def _generator(self, update: int, use: str) -> np.random.Generator:
        return np.random.default_rng(derived_seed(self.seed, update, use))

    def _episodes(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Sample uniform tasks, then a uniform episode of each."""
        return self._of_task.sample(self._tasks[rng.integers(0, len(self._tasks), count)], rng)


def shard(batch: BatchRows, rank: int, size: int) -> BatchRows:
    """Return the shard of process `rank` of `size`: an equal slice of pairs, other steps and other clips.

    Pairs stay together and come first; the shards of all processes together are the whole batch.

    Raises: ConfigError if `rank` is out of range, or the numbers are not divisible by `size`.
    """
    if not 0 <= rank < size:
        raise ConfigError(f"there is no process {rank} of {size}")
    counts = {"pairs": batch.pairs, "steps": len(batch.transitions), "clips": len(batch.clips)}
    for what, count in counts.items():
        if count % size:
            raise ConfigError(
                f"{count} {what} of an update cannot be shared equally by {size} processes; "
                f"choose batch and clips that are multiples of {size}"
            )
    steps = _share(len(batch.transitions), batch.pairs, rank, size)
    clips = _share(len(batch.clips), batch.pairs, rank, size)
    return BatchRows(
        transitions=batch.transitions[steps],
        clips=batch.clips[clips],
        pairs=batch.pairs // size,
        positions=batch.positions[steps],
    )


def _share(count: int, pairs: int, rank: int, size: int) -> NDArray[np.int64]:
    rows = np.arange(count)
    return np.concatenate([np.split(piece, size)[rank] for piece in np.split(rows, [pairs])])


def _check_several_groups(inputs: TrainingInputs, groups: NDArray[np.int64], pairing: str) -> None:
    examples = {"instruction": inputs.instructions, "task": inputs.tasks, "episode": inputs.ids}
    for what, count in (("instruction", len(inputs.texts)), (pairing, len(np.unique(groups)))):
        if count < 2:
            raise DataError(
                f"the {len(inputs.ids)} episodes are all of one {what} ({str(examples[what][0])!r}), so there is "
                f"nothing to tell apart; add episodes of another {what}, or train the execution side alone"
            )


def sample_noise(
    config: ARPConfig,
    *,
    rows: NDArray[np.int64],
    batch: int,
    points: int,
    augment: Augment,
    colour: bool,
    seed: int,
    update: int,
) -> TrainNoise:
    """Sample the noise of the rows `rows` of a batch, on the CPU; each part has a separate random stream.

    Disabling a part does not change the others, and the noise of a row does not depend on the number of processes.

    Args:
        config: configuration of the policy, which sets the amounts.
        rows: (b,) indices of rows of the batch.
        batch: size of the whole batch.
        points: number of points of one scene, all cameras together.
        augment: "se3" translates and rotates the scene, "shift" only translates it, "none" disables it.
        colour: whether noise is added to colours.
        seed: seed of the training.
        update: index of the update, from 0.
    """

    def generator(name: str) -> torch.Generator:
        return torch.Generator().manual_seed(derived_seed(seed, update, "noise", name))

    se3 = None
    if augment != "none":
        se3 = draw_se3(batch, generator("se3"))
        if augment == "shift":
            still = torch.zeros_like(se3.yaw)
            se3 = SE3Draws(trans=se3.trans, roll=still, pitch=still, yaw=still)
    indices = torch.from_numpy(rows)

    def select(values: Tensor) -> Tensor:
        return values[indices]

    shifts, chances = config.rotation_shifts, config.rotation_shift_probabilities
    colours = None
    if colour:
        colours = select(draw_colour_noise((batch, points, 3), generator("colour"), config.colour_noise))
    return TrainNoise(
        waypoint_noise_unit=select(draw_zoom_noise(batch, generator("zoom"))),
        rot_token_shift=select(draw_rotation_shift(batch, generator("rotation"), shifts, chances)),
        colour=colours,
        se3=None if se3 is None else SE3Draws(*(select(part) for part in se3)),
    )


class BatchLoader:
    """Data loader: makes the inputs of any update on `device`, as a pure function of seed and update index.

    Args:
        inputs: result of `prepare_inputs`.
        config: configuration of the training.
        viclip: configuration of the video model; None when it is not trained.
        arp: configuration of the policy; None when it is not trained.
        language: encoder of the policy's language tokens.
        device: target device.
        team: processes that share each batch.

    Raises:
        ConfigError: the batch is not divisible by the number of processes, the text encoder lacks CLIP's vocabulary, or
            the policy's language cannot tell two instructions apart.
        DataError: the data have no negatives, see `BatchSampler`.
    """

    def __init__(
        self,
        inputs: TrainingInputs,
        config: TrainConfig,
        *,
        viclip: ViCLIPConfig | None,
        arp: ARPConfig | None,
        language: Language | None,
        device: str,
        team: Team,
    ) -> None:
        clips = config.clips_drawn if viclip is not None else 0
        sampler = BatchSampler(
            inputs,
            batch=config.batch,
            clips=clips,
            pairing=config.pairing,
            seed=config.seed,
            first_step_share=config.first_step_share,
        )
        if isinstance(language, WordVectors):
            language.check_distinct(inputs.texts)
        shard(sampler.at(0, understanding=clips > 0), team.rank, team.size)  # raise now, not at the first update
        self._inputs, self._sampler, self._config = inputs, sampler, config
        self._viclip, self._arp, self._language = viclip, arp, language
        self._device, self._team = device, team
        self._tokens = None if viclip is None else _tokens(inputs.texts, viclip)

    def __call__(self, update: int) -> StepInputs:
        """Sample this process's shard of update number `update`, from 0."""
        config = self._config
        understanding = self._viclip is not None and config.understands(update)
        rows = shard(self._sampler.at(update, understanding), self._team.rank, self._team.size)
        inputs = StepInputs(
            settings=StepSettings(
                understanding=understanding,
                lambda_ee=config.lambda_ee,
                lambda_align=config.lambda_align if config.aligns else 0.0,
                tau=config.tau,
                temperature=config.temperature,
                positives=config.positives,
            )
        )
        parts: dict[str, object] = {}
        if understanding:
            parts |= self._clips(rows.clips)
            parts["generator"] = torch.Generator(self._device).manual_seed(
                derived_seed(config.seed, update, "depth", self._team.rank)
            )
        if self._arp is not None and self._language is not None:
            draws = self._kept_draws(update, rows.positions)
            batch = self._inputs.policy_batch(rows.transitions, self._language, device=self._device, draws=draws)
            parts["batch"] = batch
            noise = sample_noise(
                self._arp,
                rows=rows.positions,
                batch=config.batch,
                points=sum(batch.observation.rgb[camera][0, 0].numel() for camera in self._arp.cameras),
                augment=config.augment,
                colour=config.colour_noise,
                seed=config.seed,
                update=update,
            )
            parts["noise"] = noise if draws is None else replace(noise, waypoint_noise_unit=None)
            if understanding:
                episodes = self._inputs.transition_episode[rows.transitions[: rows.pairs]]
                parts["pair_groups"] = torch.from_numpy(self._sampler.groups[episodes])
        return StepInputs(**(vars(inputs) | parts)).to(self._device)

    def _kept_draws(self, update: int, positions: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Sample one of the kept draws for each row; None without kept views."""
        if not self._config.kept_views:
            return None
        rng = np.random.default_rng(derived_seed(self._config.seed, update, "kept views"))
        draws: NDArray[np.int64] = rng.integers(0, self._config.kept_views, self._config.batch)
        return draws[positions]

    def _clips(self, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> dict[str, Tensor]:
        numbers = self._inputs.instruction_of[rows]
        distinct, text_of = np.unique(numbers, return_inverse=True)
        assert self._tokens is not None  # there is a video model
        return {
            "clips": self._inputs.clips(rows, device=self._device),
            "text_ids": self._tokens[torch.from_numpy(distinct)],
            "text_of": torch.from_numpy(text_of),
            "clip_ids": torch.from_numpy(numbers),
        }


def _tokens(texts: tuple[str, ...], config: ViCLIPConfig) -> Tensor:
    """Tokenize all instructions, as recognition does."""
    if config.vocabulary <= END:
        raise ConfigError(
            f"the text encoder knows {config.vocabulary} tokens, CLIP's tokenizer gives ids up to {END}: instructions "
            f"cannot be read. Set the vocabulary of the video model to {END + 1}"
        )
    return Tokenizer(config.text_context).tokenize(texts)
