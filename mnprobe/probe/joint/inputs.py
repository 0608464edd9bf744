"""Everything that a training reads, decoded once from a dataset and then only looked up."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mnprobe.core.errors import ConfigError, DataError
from mnprobe.core.labels import one_spelling
from mnprobe.core.progress import progress
from mnprobe.core.provenance import config_hash, versions
from mnprobe.core.registry import unknown_name
from mnprobe.data import Dataset, Episode
from mnprobe.features.frames import FramesRule
from mnprobe.models.arp import ARPConfig, Batch
from mnprobe.models.viclip import ViCLIPConfig
from mnprobe.probe.items import GroupKind
from mnprobe.probe.joint.arrays import Arrays, Rows, kept_arrays
from mnprobe.probe.joint.clips import clip_key, normalised_clips, read_clip_bytes
from mnprobe.probe.joint.transitions import batch_of_steps, read_steps, steps_key

__all__ = ["Language", "TrainingInputs", "prepare_inputs"]

Language = Callable[[Sequence[str]], Tensor]
"""Instructions -> language tokens (number of instructions, L, W)."""

_Reader = Callable[[int, Episode], Arrays]

_SPOKEN_AT_ONCE = 64
_STATE_WIDTH = 3


class TrainingInputs:
    """What a training draws its batches from. Episodes and steps are numbered by row; memory maps stay on disk.

    Attributes:
        ids: (N,) episode ids, in the order of the dataset.
        tasks: (N,) tasks.
        instructions: (N,) the instruction that each episode is told by (its first), in one spelling where there are
            several that differ only in case, blanks or Unicode form.
        texts: the distinct instructions, by alphabet.
        instruction_of: (N,) int64, number of each episode's instruction in `texts`.
        transition_episode: (M,) int64, the episode that each key-to-key step belongs to.
        dataset: fingerprint of the dataset.
    """

    def __init__(
        self,
        *,
        ids: Sequence[str],
        tasks: Sequence[str],
        instructions: Sequence[str],
        dataset: str,
        steps: Arrays,
        clips: Arrays | None,
        cameras: tuple[str, ...],
        point_stride: int,
        made_of: dict[str, Any],
    ) -> None:
        self.ids: NDArray[np.str_] = np.array(ids)
        self.tasks: NDArray[np.str_] = np.array(tasks)
        self.instructions: NDArray[np.str_] = one_spelling(instructions, "instructions")[0].astype(np.str_)
        texts, numbers = np.unique(self.instructions, return_inverse=True)
        self.texts: tuple[str, ...] = tuple(texts.tolist())
        self.instruction_of: NDArray[np.int64] = numbers.astype(np.int64)
        self.transition_episode: NDArray[np.int64] = np.array(steps["episode"])
        self.dataset = dataset
        self._steps = steps
        self._clips = clips
        self._cameras = cameras
        self._stride = point_stride
        self._made_of = made_of
        self._spoken: tuple[Language, Tensor] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays on disk."""
        return sum(array.nbytes for arrays in (self._steps, self._clips or {}) for array in arrays.values())

    def groups(self, kind: GroupKind) -> NDArray[np.int64]:
        """(N,) number of each episode's group: what counts as the same action when clips and steps are paired.

        Raises ConfigError for an unknown kind.
        """
        labels = {"episode": self.ids, "instruction": self.instructions, "task": self.tasks}
        if kind not in labels:
            raise unknown_name("pairing", kind, list(labels))
        return np.unique(labels[kind], return_inverse=True)[1].astype(np.int64)

    def clips(self, rows: ArrayLike, *, device: torch.device | str = "cpu") -> Float[Tensor, "b t 3 size size"]:
        """The clips of the episodes `rows`, normalised: what the ViCLIP extractor computes, bit for bit.

        Raises ConfigError when no clips were prepared.
        """
        if self._clips is None:
            raise ConfigError("no clips were prepared: prepare_inputs was given no configuration of a video model")
        return normalised_clips(self._clips["clips"][np.asarray(rows, dtype=np.int64)], device)

    def policy_batch(self, rows: ArrayLike, language: Language, *, device: torch.device | str = "cpu") -> Batch:
        """The key-to-key steps `rows` as a batch on `device`, where the world points are computed.

        `language` is called when it is first seen, with all distinct instructions of the dataset, and remembered: pass
        the same one again.

        Raises ConfigError when no steps were prepared.
        """
        if not self._cameras:
            raise ConfigError("no steps were prepared: prepare_inputs was given no configuration of a policy")
        chosen = np.asarray(rows, dtype=np.int64)
        spoken = self._speak(language)
        told = torch.from_numpy(self.instruction_of[self.transition_episode[chosen]]).to(spoken.device)
        return batch_of_steps(self._steps, chosen, self._cameras, self._stride, spoken[told], device)

    def describe(self) -> dict[str, Any]:
        """What the inputs were made of, for provenance, and how many there are."""
        return {
            "dataset": self.dataset,
            **self._made_of,
            "episodes": len(self.ids),
            "tasks": len(np.unique(self.tasks)),
            "instructions": len(self.texts),
            "transitions": len(self.transition_episode),
            "bytes": self.nbytes,
        }

    def _speak(self, language: Language) -> Tensor:
        if self._spoken is None or self._spoken[0] != language:
            parts = [
                language(self.texts[start : start + _SPOKEN_AT_ONCE]).detach()
                for start in range(0, len(self.texts), _SPOKEN_AT_ONCE)
            ]
            self._spoken = language, torch.cat(parts)
        return self._spoken[1]


def prepare_inputs(
    dataset: Dataset,
    *,
    viclip: ViCLIPConfig | None,
    arp: ARPConfig | None,
    cache: Path,
    camera: str = "front",
    frames_rule: FramesRule = "middle",
    point_stride: int | None = None,
    workers: int = 1,
    quiet: bool = False,
    note: Callable[[str], None] | None = None,
) -> TrainingInputs:
    """Decode what a training of these models reads, once; later calls with the same data and settings only open it.

    Clips are kept at the size of the video model, one per episode; steps with all images of the policy's cameras
    (3 + 4 bytes a pixel). Clips and steps lie in folders of their own below `cache`, named by a hash of all that they
    depend on, so that another training shares what it can. Key-to-key steps are listed even without a policy, so that
    the draws of a training do not depend on which models take part.

    Args:
        dataset: the episodes; all of them are used.
        viclip: sizes of the video model; None leaves the clips out.
        arp: configuration of the policy; None leaves its images out.
        cache: folder of prepared inputs; made if needed.
        camera: whose colours the clips show.
        frames_rule: which frames of an episode make its clip.
        point_stride: keep every so many-th row and column of the policy's images; None takes the policy's own setting,
            with which it is shown scenes when it acts.
        workers: processes that decode; 1 decodes in this one. Others take seconds to start, which pays for hundreds
            of long episodes (RLBench's), not for the tabletop's.
        quiet: show no progress.
        note: told in a sentence what a person may want to know.

    Raises:
        ConfigError: an impossible setting, or a policy that reads another state than demonstrations have.
        DataError: no episodes, an episode without instruction, camera or depth, images of unequal sizes.
        OSError: the disk is full, or nothing can be written there.
    """
    _check(arp, point_stride, workers)
    if not len(dataset):
        raise DataError("there is no episode to train on; choose other tasks or partitions")
    ids = [episode.id for episode in dataset]
    instructions = [episode.instruction for episode in dataset]
    fingerprint = dataset.fingerprint()
    cameras = arp.cameras if arp is not None else ()
    own = arp.point_stride if arp is not None else 1
    stride = own if arp is None or point_stride is None else point_stride
    readers: dict[str, _Reader] = {"steps": partial(_read_steps, cameras=cameras, point_stride=stride)}
    keys = {"steps": steps_key(cameras, stride)}
    if viclip is not None:
        readers["clips"] = partial(_read_clip, config=viclip, camera=camera, frames_rule=frames_rule)
        keys["clips"] = clip_key(viclip, camera, frames_rule)
    common = {"dataset": fingerprint, "order": config_hash(ids), "versions": versions("numpy", "pillow")}
    found = kept_arrays(
        cache,
        {kind: common | key for kind, key in keys.items()},
        lambda kinds: _read_all(dataset, {kind: readers[kind] for kind in kinds}, workers, quiet),
        note=note,
    )
    return TrainingInputs(
        ids=ids,
        tasks=[episode.task for episode in dataset],
        instructions=instructions,
        dataset=fingerprint,
        steps=found["steps"],
        clips=found.get("clips"),
        cameras=cameras,
        point_stride=stride,
        made_of={"versions": common["versions"], "steps": keys["steps"], "clips": keys.get("clips")},
    )


def _check(arp: ARPConfig | None, point_stride: int | None, workers: int) -> None:
    if point_stride is not None and point_stride < 1:
        raise ConfigError(f"point_stride must be at least 1, got {point_stride!r}")
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers!r}")
    if arp is not None and arp.state_width != _STATE_WIDTH:
        raise ConfigError(
            f"the policy reads a state of {arp.state_width} numbers, demonstrations give {_STATE_WIDTH}: gripper open, "
            f"two fingers. Set state_width to {_STATE_WIDTH}"
        )


def _read_steps(row: int, episode: Episode, *, cameras: Sequence[str], point_stride: int) -> dict[str, NDArray[Any]]:
    return read_steps(episode, row, cameras, point_stride)


def _read_clip(
    _row: int, episode: Episode, *, config: ViCLIPConfig, camera: str, frames_rule: FramesRule
) -> dict[str, NDArray[Any]]:
    return read_clip_bytes(episode, config, camera, frames_rule)


def _read_all(dataset: Dataset, readers: Mapping[str, _Reader], workers: int, quiet: bool) -> Iterator[Rows]:
    """Rows of all episodes, in order."""
    jobs = (joblib.delayed(_read_one)(readers, row, episode) for row, episode in enumerate(dataset))
    with progress("decoding demonstrations", len(dataset), quiet=quiet) as advance:
        for rows in joblib.Parallel(n_jobs=workers, return_as="generator")(jobs):
            yield rows
            advance()


def _read_one(readers: Mapping[str, _Reader], row: int, episode: Episode) -> Rows:
    """What every reader makes of one episode; its numbers are read from disk once for all of them."""
    return episode.id, {kind: read(row, episode) for kind, read in readers.items()}
