"""Evaluation of `mnprobe recognize`: dataset instructions and natural videos."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnprobe.core.errors import CheckpointError, ConfigError, DataError, FeatureError
from mnprobe.core.labels import asked_partition
from mnprobe.core.progress import progress
from mnprobe.core.provenance import config_hash, now
from mnprobe.core.rundir import RunDir
from mnprobe.core.runtime import Team, autocast, join_team, prefetch, resolve_device
from mnprobe.core.table import TableSchema
from mnprobe.data import Dataset, open_dataset
from mnprobe.data.videos import Video, find_videos, read_video
from mnprobe.features.extraction import extract
from mnprobe.features.extractors.base import EpisodeFeatures, Tokens, one_of
from mnprobe.features.extractors.viclip import ViCLIPExtractor
from mnprobe.features.inputs import choose_frames
from mnprobe.features.recognition.tables import (
    FORGETTING,
    PREDICTIONS,
    RECOGNITION,
    VIDEO_PREDICTIONS,
    forgetting_rows,
    prediction_rows,
    recognition_rows,
)
from mnprobe.features.schema import Columns
from mnprobe.features.selection import CheckpointChoice, CheckpointQuery, select_checkpoints
from mnprobe.features.shards import Shard, ShardFolder
from mnprobe.features.store import FeatureFile, open_features
from mnprobe.features.text_ranking import (
    distinct_texts,
    encode_texts,
    own_numbers,
    plain_text,
    rank_texts,
    reads_text,
    told_texts,
)
from mnprobe.models.viclip import ViCLIP, preprocess

__all__ = ["TEMPLATE", "Forgetting", "Recognized", "check_forgetting", "read_candidates", "recognize"]

_SHOWN = 3
_WHERE = ("model", "step", "source")
Status = Literal["kept", "store", "computed"]


@dataclass(frozen=True, kw_only=True)
class Recognized:
    """Result of one call: rows of results/recognition.csv and results/predictions.csv, and their paths.

    `status` of each (model, step): "kept" (measured before), "store" (from the run's features) or "computed".
    """

    rows: "pd.DataFrame"
    predictions: "pd.DataFrame"
    table: Path
    predictions_table: Path
    status: Mapping[tuple[str, int], Status]


def recognize(
    data: Path | str | Sequence[Path | str] | None = None,
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
    source: str | None = None,
    partitions: Sequence[str] = (),
    candidates: Path | Sequence[str] | None = None,
    instructions: Path | Mapping[str, str | Sequence[str]] | None = None,
    camera: str = "front",
    frames_rule: str = "middle",
    device: str = "auto",
    batch_size: int = 8,
    precision: Literal["float32", "bf16"] = "float32",
    quiet: bool = True,
    note: Callable[[str], None] | None = None,
) -> Recognized:
    """Top-1 and top-5 recognition of each episode's instruction among all instructions of the dataset, by task.

    An episode is recognised when the default instruction with the highest cosine to u is its own; the candidates are
    those of the whole dataset, for every partition. u is read from the run's feature stores if they contain this
    checkpoint on these data; otherwise it is computed in resumable pieces. Finished results are reused if weights,
    data, candidates and settings are equal. Under torchrun the processes share the episodes.

    Args:
        data: folders of episodes; by default the run's `demos`. Rollouts are folders of episodes too.
        run: run directory; tables go into its `results`.
        out: folder for the tables in place of the run's `results`.
        models, checkpoints, name, step, preset, config, seed: see `select_checkpoints`.
        source: name of the data in the tables; "rollouts" for a folder within the run's rollouts, else "demos".
        partitions: "train", "val", "test", or "all"; by default "test" if the data have it, else all.
        candidates: candidate texts, or a file with one per line, instead of the dataset's instructions.
        instructions: see `mnprobe.data.open_dataset`.
        camera, frames_rule: input of the model, as in extraction.
        device, batch_size, precision: computation, as in extraction.
        note: called with messages for the user.
    Raises: ConfigError, DataError, CheckpointError, FeatureError; finished results remain.
    Source: the paper, section 4.2 and Table 1; specs/viclip.md, section 10.
    """
    told: set[str] = set()

    def say(text: str) -> None:
        if note is not None and text not in told:  # the extraction of u reports some of it as well
            told.add(text)
            note(text)

    one_of("frames_rule", frames_rule, ("middle", "strided"))
    if run is None and out is None:
        raise ConfigError("recognition needs a run (--run) or a folder for its tables (--out)")
    resolve_device(device)
    query = CheckpointQuery(
        purpose="recognize",
        models=models,
        files=checkpoints,
        name=name,
        step=step,
        preset=preset,
        seed=seed,
        config=config,
    )
    chosen = select_checkpoints(run, query)
    folder, source = _data(data, run, source)
    chosen = [choice.on(source) for choice in chosen]
    whole = open_dataset(folder, instructions=instructions)
    for text in whole.notes:
        say(text)
    seen, partition = _seen(folder, whole, partitions, instructions)
    for remark in whole.instruction_notes():
        say(remark)
    texts = _candidates(candidates, whole, seen)
    columns = _columns(seen)
    fingerprint = whole.fingerprint()
    settings: dict[str, Any] = {
        "revision": ViCLIPExtractor.revision,
        "data": {"fingerprint": fingerprint, "episodes": sorted((e.id, e.partition) for e in whole)},
        "candidates": list(texts),
        "camera": camera,
        "frames_rule": frames_rule,
        "precision": precision,
    }
    home = out if out is not None else (run.path / "results" if run else Path())
    work = _RecognitionRun(
        run=run,
        folder=folder,
        source=source,
        partition=partition,
        partitions=None if partition == "all" else partition.split("+"),
        columns=columns,
        texts=texts,
        fingerprints=(fingerprint, fingerprint if seen is whole else seen.fingerprint()),
        settings=settings,
        instructions=instructions,
        device=device,
        batch_size=batch_size,
        table=home / "recognition.csv",
        predictions=home / "predictions.csv",
        quiet=quiet,
        say=say,
    )
    with join_team() as team:
        status = {(model.name, model.step): work.do(model, team) for model in chosen}
        team.barrier()
    return work.result(chosen, status)


def read_candidates(path: Path) -> tuple[str, ...]:
    """Read candidate texts: one per line of a UTF-8 file, without empty lines and outer spaces.

    Raises ConfigError when the file is not readable, or has duplicates or fewer than two texts.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except OSError as error:
        raise ConfigError(f"--candidates {path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--candidates {path}: is not UTF-8 (byte {error.start})") from error
    return _checked([line for line in lines if line], f"--candidates {path}")


@dataclass(frozen=True, kw_only=True)
class _RecognitionRun:
    """Settings and data that all models of one command share."""

    run: RunDir | None
    folder: Any
    source: str
    partition: str
    partitions: list[str] | None
    columns: Columns
    texts: tuple[str, ...]
    fingerprints: tuple[str, str]
    settings: Mapping[str, Any]
    instructions: Any
    device: str
    batch_size: int
    table: Path
    predictions: Path
    quiet: bool
    say: Callable[[str], None]

    def do(self, model: CheckpointChoice, team: Team) -> Status:
        """Measure one model, or reuse its results; process 0 decides, scores and writes."""
        digest = self.digest(model)
        key = config_hash([digest, model.name, model.step, self.source, self.partition])
        cache = self.table.parent / ".recognition" / f"{key}.h5"
        stored = None
        ways: tuple[Status, ...] = ("kept", "store", "computed")
        way = 0
        if team.leads and not self._finished(model):
            stored = self._stored(model)
            way = 2 if stored is None else 1
        way = team.agree(way)
        if ways[way] == "computed":
            self._compute(model, cache)
        if team.leads and ways[way] != "kept":
            self._write(model, digest, _values(cache) if stored is None else stored)
            _remove(cache)
        return ways[way]

    def digest(self, model: CheckpointChoice) -> str:
        """Hash of all that decides the predictions of `model`, independent of the partition."""
        return config_hash({**self.settings, "weights": model.identity()})

    def result(self, models: Sequence[CheckpointChoice], status: Mapping[tuple[str, int], Status]) -> Recognized:
        """The rows of these models."""
        rows, predictions = RECOGNITION.read_or_empty(self.table), PREDICTIONS.read_or_empty(self.predictions)
        own, mine = (self._of(table, models) for table in (rows, predictions))
        own &= rows["partition"] == self.partition
        mine &= predictions["id"].isin(set(self.columns["id"].tolist()))
        return Recognized(
            rows=rows[own].reset_index(drop=True),
            predictions=predictions[mine].reset_index(drop=True),
            table=self.table,
            predictions_table=self.predictions,
            status=status,
        )

    def _finished(self, model: CheckpointChoice) -> bool:
        rows, predictions = RECOGNITION.read_or_empty(self.table), PREDICTIONS.read_or_empty(self.predictions)
        own = self._of(rows, [model]) & (rows["partition"] == self.partition)
        known = predictions["id"][self._of(predictions, [model])]
        return bool(own.any()) and set(self.columns["id"].tolist()) <= set(known)

    def _of(self, table: "pd.DataFrame", models: Sequence[CheckpointChoice]) -> "pd.Series[bool]":
        """Mask of the rows of these models on this source with the requested settings."""
        wanted = {(model.name, model.step, self.source, self.digest(model)) for model in models}
        keys = table[[*_WHERE, "config_hash"]].itertuples(index=False, name=None)
        return pd.Series([key in wanted for key in keys], index=table.index, dtype=bool)

    def _stored(self, model: CheckpointChoice) -> NDArray[Any] | None:
        """Read u of these episodes from the run's store, if it has this checkpoint, data and input settings."""
        path = self.run.features(model.name, self.source, model.step) if self.run is not None else None
        if path is None or not path.is_file():
            return None
        try:
            with open_features(path) as file:
                rows = self._rows_of(file, model)
                if rows is None:
                    return None
                self._compare(file, model)
                return file.layer("u").pooled("mean")[rows]
        except FeatureError as error:
            self.say(f"{error}\nThe features are computed anew for the recognition")
            return None

    def _rows_of(self, file: FeatureFile, model: CheckpointChoice) -> list[int] | None:
        asked = file.attrs["provenance"].get("asked", {})
        weights = {name: asked.get(name) for name in model.identity()}
        seen = {"camera": self.settings["camera"], "frames_rule": self.settings["frames_rule"]}
        same = (
            weights == model.identity()
            and asked.get("revision") == self.settings["revision"]
            and asked.get("options") == seen
            and asked.get("precision") == self.settings["precision"]
            and asked.get("dtype") == "float32"  # float16 could change the order of near ties
            and file.attrs["data_fingerprint"] in self.fingerprints
            and "u" in file.layers
        )
        place = {name: row for row, name in enumerate(file.columns["id"].tolist())}
        wanted = self.columns["id"].tolist()
        return [place[name] for name in wanted] if same and all(name in place for name in wanted) else None

    def _compare(self, file: FeatureFile, model: CheckpointChoice) -> None:
        """Report when the success labels of `align` were computed with other candidate texts."""
        if "prediction" in file.columns and distinct_texts(file.columns["instruction"].tolist()) != self.texts:
            self.say(
                f"{model.name} step {model.step}: the predictions in {file.path} were made among other instructions "
                f"({len(set(file.columns['instruction'].tolist()))}); those counted here are among {len(self.texts)}"
            )

    def _compute(self, model: CheckpointChoice, cache: Path) -> None:
        """Extract u into a separate resumable store."""
        extract(
            self.folder,
            out=cache,
            models=() if model.path is not None else ("viclip",),
            checkpoints=() if model.path is None else (model.path,),
            name=model.name,
            step=model.step,
            preset=model.preset,
            config=model.config,
            seed=model.seed,
            source=self.source,
            partitions=self.partitions,
            instructions=self.instructions,
            layers=("u",),
            options={"camera": self.settings["camera"], "frames_rule": self.settings["frames_rule"]},
            device=self.device,
            batch_size=self.batch_size,
            precision=self.settings["precision"],
            quiet=self.quiet,
            note=self.say,
        )

    def _write(self, model: CheckpointChoice, digest: str, u: NDArray[Any]) -> None:
        viclip = model.load_viclip(resolve_device(self.device))
        if not reads_text(viclip):
            raise CheckpointError(
                f"{model.path or model.name}: its text side has a vocabulary of {viclip.config.vocabulary}, which is "
                "not CLIP's, so it cannot read instructions and recognises nothing"
            )
        for remark in told_texts(self.texts, viclip.config.text_context):
            self.say(f"{model.name}: {remark}")
        own = [number for number in own_numbers(self.columns["instruction"].tolist(), self.texts) if number is not None]
        features = encode_texts(viclip, self.texts, precision=self.settings["precision"])
        ranking = rank_texts(u, features, np.array(own, dtype=np.int64))
        head = self._head(model, digest)
        self._save(PREDICTIONS, self.predictions, head, prediction_rows(head, self.columns, self.texts, ranking))
        tasks = self.columns["task"].tolist()
        self._save(RECOGNITION, self.table, head, recognition_rows(head, tasks, ranking, len(self.texts)))

    def _head(self, model: CheckpointChoice, digest: str) -> dict[str, Any]:
        return {
            "model": model.name,
            "training": model.id.training,
            "step": model.step,
            "trained": model.id.trained,
            "zero_shot": model.zero_shot,
            "source": self.source,
            "partition": self.partition,
            "candidates_sha256": config_hash(list(self.texts)),
            "checkpoint_sha256": model.sha256,
            "data_fingerprint": self.fingerprints[0],
            "config_hash": digest,
            "created": now(),
        }

    def _save(self, kind: TableSchema, path: Path, head: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
        """Replace the rows of this model, step and source, including those of other settings."""

        def change(old: "pd.DataFrame") -> "pd.DataFrame":
            stale = old["config_hash"] != head["config_hash"]
            for name in _WHERE:
                stale &= old[name] == head[name]
            if stale.any():
                self.say(
                    f"{path}: {int(stale.sum())} rows of {head['model']} step {head['step']} on {head['source']}, made "
                    "from other weights, data or settings, are replaced"
                )
            return kind.replace_rows(old[~stale], kind.frame(rows))

        kind.update(path, change)


def _data(data: Any, run: RunDir | None, source: str | None) -> tuple[Any, str]:
    if data is None:
        if run is None or not run.demos.is_dir():
            where = f"run {run.path} has no demos folder" if run else "there is no run"
            raise ConfigError(f"no episodes: {where}. Give their folder with --data")
        return run.demos, source or "demos"
    paths = [Path(path) for path in ([data] if isinstance(data, str | Path) else data)]
    if source is None and run is not None:
        rollouts = run.rollouts.resolve()
        played = [path for path in paths if path.resolve().is_relative_to(rollouts)]
        source = "rollouts" if played else None
    return paths, source or "demos"


def _seen(folder: Any, whole: Dataset, partitions: Sequence[str], instructions: Any) -> tuple[Dataset, str]:
    wanted = list(dict.fromkeys(map(asked_partition, partitions))) or (
        ["test"] if "test" in whole.partitions else ["all"]
    )
    if "all" in wanted:
        if len(wanted) > 1:
            raise ConfigError(f"--partition all is everything; leave out {', '.join(set(wanted) - {'all'})}")
        return whole, "all"
    return open_dataset(folder, partitions=wanted, instructions=instructions), "+".join(wanted)


def _candidates(given: Path | Sequence[str] | None, whole: Dataset, seen: Dataset) -> tuple[str, ...]:
    if given is None:
        texts = distinct_texts([episode.instruction for episode in whole])
        if len(texts) < 2:
            raise DataError(
                f"{', '.join(map(str, whole.paths))}: all episodes have the instruction {texts[0]!r}; recognition "
                "needs two to choose from. Give more with --candidates FILE"
            )
        return texts
    texts = read_candidates(given) if isinstance(given, Path) else _checked(list(given), "candidates")
    own = own_numbers([episode.instruction for episode in seen], texts)
    absent = sorted({episode.instruction for episode, number in zip(seen, own, strict=True) if number is None})
    if absent:
        more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
        where = f"--candidates {given}" if isinstance(given, Path) else "candidates"
        raise ConfigError(
            f"{where}: {len(absent)} instructions of the episodes are not among them, so they could never be "
            f"recognised: {', '.join(map(repr, absent[:_SHOWN]))}{more}"
        )
    return texts


def _checked(texts: Sequence[str], where: str) -> tuple[str, ...]:
    seen: dict[str, str] = {}
    for text in texts:
        other = seen.setdefault(plain_text(text), text)
        if other is not text:
            raise ConfigError(f"{where}: {text!r} is there twice")
    if len(seen) < 2:
        raise ConfigError(f"{where}: recognition needs at least two texts to choose from, found {len(seen)}")
    return tuple(sorted(texts))


def _columns(dataset: Dataset) -> Columns:
    rows = {
        name: [getattr(episode, name) for episode in dataset] for name in ("id", "task", "instruction", "partition")
    }
    return {name: np.array(values, dtype=object) for name, values in rows.items()}


def _values(cache: Path) -> NDArray[Any]:
    with open_features(cache) as file:
        return file.layer("u").pooled("mean")


def _remove(cache: Path) -> None:
    cache.unlink(missing_ok=True)
    with suppress(OSError):  # the folder may contain unfinished pieces of other models
        cache.parent.rmdir()


if TYPE_CHECKING:
    import pandas as pd


TEMPLATE = "a video of {}"
"""Text template of a class, common for image-text and video-text classifiers."""

_REVISION = 1  # version of reading and recognising videos


@dataclass(frozen=True, kw_only=True)
class Forgetting:
    """Rows of results/forgetting.csv for the models of one call, its path, and the skipped files."""

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

    The candidates are the class names in `template`. Cropping, number and choice of frames are those for episodes. An
    interrupted call resumes when repeated: finished batches and checkpoints are reused if weights, videos and settings
    are equal.

    Args:
        videos: folder of class-named folders of video files; see `mnprobe.data.videos.find_videos`.
        run, out, models, checkpoints, name, step, preset, config, seed, frames_rule, device, batch_size, precision,
            quiet, note: see `mnprobe.features.recognition.evaluate.recognize`.
        template: text template of a class; "{}" is replaced by its name.
        skip_broken: skip and report unreadable files instead of raising at the first.
    Raises: ConfigError, DataError (naming the file), CheckpointError; finished results remain.
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
    resolved = resolve_device(device)
    query = CheckpointQuery(
        purpose="recognize",
        models=models,
        files=checkpoints,
        name=name,
        step=step,
        source=videos.resolve().name,
        preset=preset,
        seed=seed,
        config=config,
    )
    chosen = select_checkpoints(run, query)
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
    work = _ForgettingRun(
        folder=videos.resolve().name,
        videos=found,
        settings=settings,
        template=template,
        rule=frames_rule,
        device=resolved,
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
class _ForgettingRun:
    """Settings and data that all models of one command share."""

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
        """The sorted classes."""
        return tuple(sorted({video.label for video in self.videos}))

    @property
    def texts(self) -> tuple[str, ...]:
        """Candidate text of each class."""
        return tuple(self.template.replace("{}", label) for label in self.labels)

    def digest(self, model: CheckpointChoice) -> str:
        """Hash of all that decides the predictions of `model`."""
        return config_hash({**self.settings, "weights": model.identity()})

    def do(self, model: CheckpointChoice) -> Literal["kept", "computed"]:
        """Recognise all videos with one model, or reuse its results."""
        digest = self.digest(model)

        def own(table: "pd.DataFrame") -> "pd.Series[bool]":
            found = (table["model"] == model.name) & (table["step"] == model.step) & (table["videos"] == self.folder)
            return found.astype(bool)

        old = VIDEO_PREDICTIONS.read_or_empty(self.predictions)
        done = set(old["name"][own(old) & (old["config_hash"] == digest)])
        names = {video.name for video in self.videos}
        if done == names or (done and self.skip is not None):
            return "kept"
        viclip = model.load_viclip(self.device)
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
        VIDEO_PREDICTIONS.update(self.predictions, lambda old: VIDEO_PREDICTIONS.replace_rows(old[~own(old)], new))
        shards = self._shards(model, digest)
        shards.remove()
        with suppress(OSError):  # the folder may contain unfinished pieces of other models
            shards.target.parent.rmdir()
        return "computed"

    def compare(self, models: Sequence[CheckpointChoice]) -> "pd.DataFrame":
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
            return FORGETTING.replace_rows(old[~stale], written)

        FORGETTING.update(self.table, change)
        return FORGETTING.replace_rows(FORGETTING.frame([]), written)

    def _rows(self, old: "pd.DataFrame", fresh: Mapping[tuple[str, int], Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Compute the rows of the models in `fresh` from the present predictions."""
        predictions = VIDEO_PREDICTIONS.read_or_empty(self.predictions)
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

    def _head(self, model: CheckpointChoice) -> dict[str, Any]:
        return {
            "model": model.name,
            "training": model.id.training,
            "step": model.step,
            "trained": model.id.trained,
            "zero_shot": model.zero_shot,
            "videos": self.folder,
            "template": self.template,
            "checkpoint_sha256": model.sha256,
            "settings_hash": config_hash(self.settings),
            "config_hash": self.digest(model),
            "created": now(),
        }

    def _shards(self, model: CheckpointChoice, digest: str) -> ShardFolder:
        target = self.table.parent / ".forgetting" / config_hash([digest, model.name, model.step])
        return ShardFolder(target, config_hash([self.device.split(":")[0], self.batch_size, self.skip is not None]))

    def _features(self, model: CheckpointChoice, viclip: ViCLIP, digest: str) -> list[NDArray[Any]]:
        """Compute u of each video, (1, E), or (0, E) for a skipped one."""
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
