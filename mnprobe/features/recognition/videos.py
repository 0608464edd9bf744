"""Natural videos among class names: features, rows, and comparison over steps."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnprobe.core.errors import DataError
from mnprobe.core.progress import progress
from mnprobe.core.provenance import config_hash
from mnprobe.core.runtime import autocast, prefetch
from mnprobe.data.videos import Video, find_videos, read_video
from mnprobe.features.extractors.base import EpisodeFeatures, Tokens
from mnprobe.features.inputs import FramesRule, choose_frames
from mnprobe.features.recognition.config import TEMPLATE, RecognitionConfig
from mnprobe.features.recognition.tables import FORGETTING, VIDEO_PREDICTIONS, forgetting_rows, video_prediction_rows
from mnprobe.features.selection import VideoModel
from mnprobe.features.shards import Shard, ShardFolder
from mnprobe.features.text_ranking import Ranking
from mnprobe.models.viclip import ViCLIP, preprocess

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Features", "Videos"]

_REVISION = 1  # version of reading and recognising videos


@dataclass(frozen=True, kw_only=True)
class Features:
    """`u` (n, E) of the readable episodes or videos, and their positions `index` (n,) among all."""

    index: NDArray[np.int64]
    u: NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Videos:
    """Videos of natural classes, recognised by class; see `mnprobe.features.recognition.evaluate.Subject`.

    `broken` holds one message per file that is left out; `linked` counts those that were left out before reading.
    """

    config: RecognitionConfig
    folder: str
    videos: tuple[Video, ...]
    settings: Mapping[str, Any]
    device: str
    home: Path
    linked: int
    quiet: bool
    say: Callable[[str], None] = field(repr=False)
    broken: dict[str, str] = field(default_factory=dict)

    kind: ClassVar[str] = "the names of classes"
    where: ClassVar[str] = "videos"
    rows: ClassVar = FORGETTING
    predictions: ClassVar = VIDEO_PREDICTIONS

    @classmethod
    def of(
        cls,
        folder: Path,
        config: RecognitionConfig,
        *,
        device: str,
        home: Path,
        quiet: bool,
        say: Callable[[str], None],
    ) -> "Videos":
        """Find the videos."""
        broken: dict[str, str] = {}
        skip = partial(_skip, broken, say) if config.skip_broken else None
        videos = find_videos(folder, skip=skip)
        settings = {
            "revision": _REVISION,
            "videos": [[video.name, video.path.stat().st_size] for video in videos],
            "template": config.template or TEMPLATE,
            "frames_rule": config.frames_rule,
            "precision": config.precision,
        }
        return cls(
            config=config,
            folder=folder.resolve().name,
            videos=videos,
            settings=settings,
            device=device,
            home=home,
            linked=len(broken),
            quiet=quiet,
            say=say,
            broken=broken,
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """The sorted classes."""
        return tuple(sorted({video.label for video in self.videos}))

    @property
    def texts(self) -> tuple[str, ...]:
        """Candidate text of each class."""
        return tuple(self.settings["template"].replace("{}", label) for label in self.labels)

    @property
    def head(self) -> dict[str, Any]:
        """The columns of the tables that all rows share."""
        return {
            "videos": self.folder,
            "template": self.settings["template"],
            "settings_hash": config_hash(self.settings),
        }

    def is_complete(self, rows: "pd.DataFrame", predictions: "pd.DataFrame") -> bool:
        """Whether the predictions of one model are there for all videos; with `skip_broken`, for any."""
        done = set(predictions["name"])
        return done == {video.name for video in self.videos} or bool(done and self.config.skip_broken)

    def stored(self, model: VideoModel) -> Features | None:
        """None: a run has no features of natural videos."""
        return None

    def compute(self, model: VideoModel, digest: str, load: Callable[[], ViCLIP]) -> None:
        """Compute u of the missing batches of videos."""
        viclip = load()
        shards = self._shards(model, digest)
        batches = self._batches
        with shards.lock():
            shards.clean()
            left = [index for index in range(len(batches)) if not shards.has(index)]
            finished = sum(len(batch) for index, batch in enumerate(batches) if index not in set(left))
            what = f"{model.name} step {model.step} (videos)"
            with progress(what, len(self.videos), done=finished, quiet=self.quiet) as advance:
                for index, clips in prefetch(left, lambda index: self._clips(batches[index], viclip)):
                    names = [video.name for video in batches[index]]
                    shards.write(index, Shard.of(self._encode(viclip, clips), ("u",), "float32", {}, names=names))
                    advance(len(batches[index]))

    def read(self, model: VideoModel, digest: str) -> Features:
        """Read u of the readable videos from the finished batches."""
        shards = self._shards(model, digest)
        rows: list[NDArray[Any]] = []
        for index in range(len(self._batches)):
            shard = shards.read(index)
            if shard is None:
                raise DataError(f"{shards.folder}: batch {index} is gone; run the same command again")
            rows += np.split(shard.arrays["u/values"], np.cumsum(shard.arrays["u/lengths"])[:-1])
        index_of = [i for i, row in enumerate(rows) if len(row)]
        if not index_of:
            raise DataError(f"none of the {len(self.videos)} videos could be read")
        return Features(index=np.array(index_of), u=np.concatenate([rows[i] for i in index_of]))

    def clean(self, model: VideoModel, digest: str) -> None:
        """Remove the batches."""
        shards = self._shards(model, digest)
        shards.remove()
        with suppress(OSError):  # the folder may contain unfinished pieces of other models
            shards.target.parent.rmdir()

    def own_texts(self, features: Features) -> list[int]:
        """Number of the class of each video."""
        return [self.labels.index(self.videos[i].label) for i in features.index]

    def prediction_rows(self, head: Mapping[str, Any], features: Features, ranking: Ranking) -> list[dict[str, Any]]:
        """One row per video."""
        seen = [self.videos[i] for i in features.index]
        names, labels = [video.name for video in seen], [video.label for video in seen]
        return video_prediction_rows(head, names, labels, self.labels, ranking)

    def result_rows(self, head: Mapping[str, Any], features: Features, ranking: Ranking) -> list[dict[str, Any]]:
        """None yet: `compare` writes them, for all steps together."""
        return []

    def compare(self, heads: Sequence[Mapping[str, Any]], table: Path, predictions: Path) -> "pd.DataFrame":
        """Write the rows of the models in `heads`, and those of their other steps on the same videos.

        Rows made from other videos or settings are replaced.
        """
        fresh = {(str(head["model"]), int(head["step"])): head for head in heads}
        written = FORGETTING.frame([])

        def change(old: "pd.DataFrame") -> "pd.DataFrame":
            nonlocal written
            written = FORGETTING.frame(self._compared_rows(old, fresh, predictions))
            stale = old["model"].isin({name for name, _ in fresh}) & (old["videos"] == self.folder)
            gone = int((stale & (old["settings_hash"] != config_hash(self.settings))).sum())
            if gone:
                self.say(f"{table}: {gone} rows made from other videos or settings are replaced")
            return FORGETTING.replace_rows(old[~stale], written)

        FORGETTING.update(table, change)
        return FORGETTING.replace_rows(FORGETTING.frame([]), written)

    def _compared_rows(
        self, old: "pd.DataFrame", fresh: Mapping[tuple[str, int], Mapping[str, Any]], path: Path
    ) -> list[dict[str, Any]]:
        """Compute the rows of the models in `fresh` from the present predictions."""
        predictions = VIDEO_PREDICTIONS.read_or_empty(path)
        predictions = predictions[predictions["videos"] == self.folder]
        known = old[old["videos"] == self.folder].to_dict("records")
        heads: dict[tuple[str, int], dict[Any, Any]] = {(str(row["model"]), int(row["step"])): row for row in known}
        for key, head in fresh.items():
            if heads.get(key, {}).get("config_hash") != head["config_hash"]:
                heads[key] = dict(head)
        mine = config_hash(self.settings)
        rows: list[dict[str, Any]] = []
        names = {name for name, _ in fresh}
        for name, part in predictions[predictions["settings_hash"] == mine].groupby("model", sort=True):
            if name not in names:
                continue
            steps = {step: part[part["step"] == step].set_index("name") for step in sorted(map(int, set(part["step"])))}
            first = min(steps)
            for step, group in steps.items():
                found = heads.get((str(name), step))
                if found is None or found["config_hash"] != group["config_hash"].iloc[0]:
                    continue
                group = group.loc[[video for video in group.index if video in steps[first].index]]
                reference = steps[first].loc[group.index]
                left_out = len(self.videos) + self.linked - len(steps[step])
                identity = {**found, "reference_step": first, "broken": left_out}
                right, then = group["correct"].tolist(), reference["correct"].tolist()
                rows += forgetting_rows(identity, group["label"].tolist(), right, then, candidates=len(self.labels))
        return rows

    @property
    def _batches(self) -> list[tuple[Video, ...]]:
        size = self.config.batch_size
        return [self.videos[start : start + size] for start in range(0, len(self.videos), size)]

    def _shards(self, model: VideoModel, digest: str) -> ShardFolder:
        target = self.home / ".forgetting" / config_hash([digest, model.name, model.step])
        ran = [self.device.split(":")[0], self.config.batch_size, bool(self.config.skip_broken)]
        return ShardFolder(target, config_hash(ran))

    def _clips(self, batch: Sequence[Video], viclip: ViCLIP) -> list[Tensor | None]:
        """Read the clip of each video; None for a broken one."""
        config = viclip.config
        clips: list[Tensor | None] = []
        for video in batch:
            try:
                frames = read_video(video.path, partial(self._choose, frames=config.frames))
                clips.append(preprocess(frames, size=config.image_size, crop=config.crop))
            except DataError as error:
                if not self.config.skip_broken:
                    raise DataError(f"{error}. To go on without such files, add --skip-broken") from error
                _skip(self.broken, self.say, str(error))
                clips.append(None)
        return clips

    def _choose(self, count: int, *, frames: int) -> tuple[int, ...]:
        return choose_frames(tuple(range(count)), count, frames, cast(FramesRule, self.config.frames_rule))

    @torch.inference_mode()
    def _encode(self, viclip: ViCLIP, clips: Sequence[Tensor | None]) -> list[EpisodeFeatures]:
        """Compute u of each clip, (1, E), or (0, E) for a broken one."""
        there = [clip for clip in clips if clip is not None]
        empty = np.zeros((0, viclip.config.embed_dim), np.float32)
        rows: Iterator[NDArray[Any]] = iter(())
        if there:
            with autocast(self.device, self.config.precision):
                u = viclip.encode_video(torch.stack(there).to(self.device))
            rows = iter(np.split(u.float().cpu().numpy(), len(there)))
        values = [empty if clip is None else next(rows) for clip in clips]
        return [
            EpisodeFeatures(layers={"u": Tokens(values=value, keyframe=np.zeros(len(value), np.int32))})
            for value in values
        ]


def _skip(broken: dict[str, str], say: Callable[[str], None], message: str) -> None:
    """Report a file that is left out, once."""
    if message not in broken:
        broken[message] = ""
        say(f"left out: {message}")
