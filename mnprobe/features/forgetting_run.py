"""What `mnprobe recognize --videos` does: natural videos at every checkpoint, compared with the first one."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnprobe.core.errors import CheckpointError, ConfigError, DataError
from mnprobe.core.progress import progress
from mnprobe.core.provenance import config_hash, now
from mnprobe.core.rundir import RunDir
from mnprobe.data.videos import Video, find_videos, read_video
from mnprobe.features.devices import autocast, resolve_device
from mnprobe.features.extractor import EpisodeFeatures, Tokens
from mnprobe.features.forgetting import FORGETTING, VIDEO_PREDICTIONS, forgetting_rows
from mnprobe.features.frames import choose_frames
from mnprobe.features.options import one_of
from mnprobe.features.prefetch import prefetch
from mnprobe.features.recognition import encode_texts, rank_texts, reads_text
from mnprobe.features.shards import Shard, ShardFolder
from mnprobe.features.video_models import VideoModel, choose_video_models
from mnprobe.models.viclip import ViCLIP, preprocess

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TEMPLATE", "Forgetting", "check_forgetting"]

TEMPLATE = "a video of {}"
"""The text of a class, as image and video classifiers of this kind are commonly asked."""

_REVISION = 1  # of how videos are read and recognised


@dataclass(frozen=True, kw_only=True)
class Forgetting:
    """Rows of results/forgetting.csv for the models of one call, where it lies, and the files that were left out."""

    rows: "pd.DataFrame"
    table: Path
    predictions_table: Path
    broken: tuple[str, ...]
    status: Mapping[tuple[str, int], Literal["kept", "computed"]]


def check_forgetting(
    videos: Path,
    *,
    run: RunDir | None = None,
    out: Path | None = None,
    models: Sequence[str] = (),
    checkpoints: Sequence[Path] = (),
    name: str | None = None,
    step: int | None = None,
    preset: str | None = None,
    config: Mapping[str, Any] | None = None,
    seed: int = 0,
    template: str = TEMPLATE,
    skip_broken: bool = False,
    frames_rule: str = "middle",
    device: str = "auto",
    batch_size: int = 8,
    precision: Literal["float32", "bf16"] = "float32",
    quiet: bool = True,
    note: Callable[[str], None] | None = None,
) -> Forgetting:
    """Recognise videos of natural classes with every checkpoint, and compare each with its model's first step.

    The candidates are the classes, put into `template`. The part of the image that a model is shown, the number of
    frames and how they are chosen are those of its episodes. May be stopped and called again: finished batches and
    checkpoints are kept where weights, videos and settings are the same.

    Args:
        videos: folder of class-named folders of video files; see `mnprobe.data.videos.find_videos`.
        run, out, models, checkpoints, name, step, preset, config, seed, frames_rule, device, batch_size, precision,
            quiet, note: see `mnprobe.features.recognition_run.recognize`.
        template: the text of a class; "{}" stands for its name.
        skip_broken: leave out files that cannot be read and say so, rather than stop at the first.
    Raises: ConfigError, DataError (naming the file), CheckpointError; what was finished until then is kept.
    """
    if template.count("{}") != 1:
        raise ConfigError(f"--template {template!r}: must hold {{}} once, where the name of the class goes")
    if batch_size < 1:
        raise ConfigError(f"batch size must be >= 1, got {batch_size}")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError("the forgetting check runs in one process; start it without torchrun")
    if run is None and out is None:
        raise ConfigError("the forgetting check needs a run (--run) or a folder for its tables (--out)")
    one_of("frames_rule", frames_rule, ("middle", "strided"))
    place = resolve_device(device)
    chosen = choose_video_models(
        run, models=models, checkpoints=checkpoints, name=name, step=step, preset=preset, seed=seed, config=config
    )
    broken: dict[str, None] = {}
    say = note or (lambda text: None)

    def skip(message: str) -> None:
        if message not in broken:
            broken[message] = None
            say(f"left out: {message}")

    found = find_videos(videos, skip=skip if skip_broken else None)
    settings = {
        "revision": _REVISION,
        "videos": [[video.name, video.path.stat().st_size] for video in found],
        "template": template,
        "frames_rule": frames_rule,
        "precision": precision,
    }
    home = out if out is not None else (run.path / "results" if run else Path())
    work = _Work(
        folder=videos.resolve().name,
        videos=found,
        settings=settings,
        template=template,
        rule=frames_rule,
        device=place,
        batch_size=batch_size,
        precision=precision,
        table=home / "forgetting.csv",
        predictions=home / "video_predictions.csv",
        skip=skip if skip_broken else None,
        linked=len(broken),
        quiet=quiet,
        say=say,
    )
    status = {(model.name, model.step): work.do(model) for model in chosen}
    rows = work.compare(chosen)
    return Forgetting(
        rows=rows, table=work.table, predictions_table=work.predictions, broken=tuple(broken), status=status
    )


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What all models of one command share."""

    folder: str
    videos: tuple[Video, ...]
    settings: Mapping[str, Any]
    template: str
    rule: Any
    device: str
    batch_size: int
    precision: str
    table: Path
    predictions: Path
    skip: Callable[[str], None] | None
    linked: int
    quiet: bool
    say: Callable[[str], None] = field(repr=False)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, by alphabet."""
        return tuple(sorted({video.label for video in self.videos}))

    @property
    def texts(self) -> tuple[str, ...]:
        """What each class is called before the model."""
        return tuple(self.template.replace("{}", label) for label in self.labels)

    def digest(self, model: VideoModel) -> str:
        """Of all that decides the predictions of `model`."""
        return config_hash({**self.settings, "weights": model.identity()})

    def do(self, model: VideoModel) -> Literal["kept", "computed"]:
        """Recognise all videos with one model, or keep what is there."""
        digest = self.digest(model)

        def own(table: "pd.DataFrame") -> "pd.Series[bool]":
            found = (table["model"] == model.name) & (table["step"] == model.step) & (table["videos"] == self.folder)
            return found.astype(bool)

        old = VIDEO_PREDICTIONS.read(self.predictions)
        done = set(old["name"][own(old) & (old["config_hash"] == digest)])
        names = {video.name for video in self.videos}
        if done == names or (done and self.skip is not None):
            return "kept"
        viclip = model.load(self.device)
        if not reads_text(viclip):
            raise CheckpointError(
                f"{model.path or model.name}: its text side has a vocabulary of {viclip.config.vocabulary}, which is "
                "not CLIP's, so it cannot read the names of classes and recognises nothing"
            )
        u = self._features(model, viclip, digest)
        kept = [i for i, row in enumerate(u) if len(row)]
        if not kept:
            raise DataError(f"none of the {len(self.videos)} videos could be read")
        texts = encode_texts(viclip, self.texts, precision=self.precision)
        right = np.array([self.labels.index(self.videos[i].label) for i in kept])
        ranking = rank_texts(np.concatenate([u[i] for i in kept]), texts, right)
        rows = [
            {
                "model": model.name,
                "step": model.step,
                "videos": self.folder,
                "name": self.videos[i].name,
                "label": self.videos[i].label,
                "prediction": self.labels[int(ranking.best[k])],
                "correct": int(ranking.correct[k]),
                "rank": int(ranking.rank[k]),
                "margin": float(ranking.margin[k]),
                "settings_hash": config_hash(self.settings),
                "config_hash": digest,
            }
            for k, i in enumerate(kept)
        ]
        new = VIDEO_PREDICTIONS.frame(rows)
        VIDEO_PREDICTIONS.update(self.predictions, lambda old: VIDEO_PREDICTIONS.replace(old[~own(old)], new))
        shards = self._shards(model, digest)
        shards.remove()
        with suppress(OSError):  # other models' unfinished pieces may lie there
            shards.target.parent.rmdir()
        return "computed"

    def compare(self, models: Sequence[VideoModel]) -> "pd.DataFrame":
        """Write the rows of these models, and those of their other steps on the same videos with a new first step."""
        heads = {(model.name, model.step): self._head(model) for model in models}
        written = FORGETTING.frame([])

        def change(old: "pd.DataFrame") -> "pd.DataFrame":
            nonlocal written
            written = FORGETTING.frame(self._rows(old, heads))
            stale = old["model"].isin({name for name, _ in heads}) & (old["videos"] == self.folder)
            gone = int((stale & (old["settings_hash"] != config_hash(self.settings))).sum())
            if gone:
                self.say(f"{self.table}: {gone} rows made from other videos or settings are replaced")
            return FORGETTING.replace(old[~stale], written)

        FORGETTING.update(self.table, change)
        return FORGETTING.replace(FORGETTING.frame([]), written)

    def _rows(self, old: "pd.DataFrame", fresh: Mapping[tuple[str, int], Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The rows of the models in `fresh`, from the predictions that there are now."""
        predictions = VIDEO_PREDICTIONS.read(self.predictions)
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

    def _head(self, model: VideoModel) -> dict[str, Any]:
        return {
            "model": model.name,
            "training": model.training,
            "step": model.step,
            "trained": model.choice.trained,
            "zero_shot": model.zero_shot,
            "videos": self.folder,
            "template": self.template,
            "checkpoint_sha256": model.sha256,
            "settings_hash": config_hash(self.settings),
            "config_hash": self.digest(model),
            "created": now(),
        }

    def _shards(self, model: VideoModel, digest: str) -> ShardFolder:
        target = self.table.parent / ".forgetting" / config_hash([digest, model.name, model.step])
        return ShardFolder(target, config_hash([self.device.split(":")[0], self.batch_size, self.skip is not None]))

    def _features(self, model: VideoModel, viclip: ViCLIP, digest: str) -> list[NDArray[Any]]:
        """u of each video, (1, E), or (0, E) for one that was left out."""
        shards = self._shards(model, digest)
        size = self.batch_size
        batches = [self.videos[start : start + size] for start in range(0, len(self.videos), size)]
        what = f"{model.name} step {model.step} (videos)"
        with shards.lock():
            shards.clean()
            left = [index for index in range(len(batches)) if not shards.has(index)]
            finished = sum(len(batch) for index, batch in enumerate(batches) if index not in set(left))
            read = partial(self._read, config=viclip.config)
            with progress(what, len(self.videos), done=finished, quiet=self.quiet) as advance:
                for index, clips in prefetch(left, lambda index: read(batches[index])):
                    results = self._look(viclip, clips)
                    names = [video.name for video in batches[index]]
                    shards.write(index, Shard.of(results, ("u",), "float32", {}, names=names))
                    advance(len(batches[index]))
            rows: list[NDArray[Any]] = []
            for index in range(len(batches)):
                shard = shards.read(index)
                if shard is None:
                    raise DataError(f"{shards.folder}: batch {index} is gone; run the same command again")
                rows += np.split(shard.arrays["u/values"], np.cumsum(shard.arrays["u/lengths"])[:-1])
        return rows

    def _read(self, batch: Sequence[Video], *, config: Any) -> list[Tensor | None]:
        clips: list[Tensor | None] = []
        for video in batch:
            try:
                frames = read_video(video.path, partial(self._choose, frames=config.frames))
                clips.append(preprocess(frames, size=config.image_size, crop=config.crop))
            except DataError as error:
                if self.skip is None:
                    raise DataError(f"{error}. To go on without such files, add --skip-broken") from error
                self.skip(str(error))
                clips.append(None)
        return clips

    def _choose(self, count: int, *, frames: int) -> tuple[int, ...]:
        return choose_frames(tuple(range(count)), count, frames, self.rule)

    @torch.inference_mode()
    def _look(self, viclip: ViCLIP, clips: Sequence[Tensor | None]) -> list[EpisodeFeatures]:
        there = [clip for clip in clips if clip is not None]
        empty = np.zeros((0, viclip.config.embed_dim), np.float32)
        rows: Iterator[NDArray[Any]] = iter(())
        if there:
            with autocast(self.device, self.precision):
                u = viclip.encode_video(torch.stack(there).to(self.device))
            rows = iter(np.split(u.float().cpu().numpy(), len(there)))
        values = [empty if clip is None else next(rows) for clip in clips]
        return [
            EpisodeFeatures(layers={"u": Tokens(values=value, keyframe=np.zeros(len(value), np.int32))})
            for value in values
        ]
