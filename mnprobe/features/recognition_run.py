"""What `mnprobe recognize` does: every video model of a run against all instructions of the dataset (Table 1)."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnprobe.core.errors import CheckpointError, ConfigError, DataError, FeatureError
from mnprobe.core.labels import asked_partition
from mnprobe.core.provenance import config_hash, now
from mnprobe.core.rundir import RunDir
from mnprobe.data import Dataset, open_dataset
from mnprobe.features.devices import resolve_device
from mnprobe.features.distributed import Team, join_team
from mnprobe.features.extract import extract
from mnprobe.features.options import one_of
from mnprobe.features.recognition import (
    distinct_texts,
    encode_texts,
    own_numbers,
    plain_text,
    rank_texts,
    reads_text,
    told_texts,
)
from mnprobe.features.recognition_table import PREDICTIONS, RECOGNITION, prediction_rows, recognition_rows
from mnprobe.features.store import FeatureFile, open_features
from mnprobe.features.table import Columns
from mnprobe.features.tidy import Tidy
from mnprobe.features.viclip import ViCLIPExtractor
from mnprobe.features.video_models import VideoModel, choose_video_models

__all__ = ["Recognized", "read_candidates", "recognize"]

_SHOWN = 3
_WHERE = ("model", "step", "source")
Status = Literal["kept", "store", "computed"]


@dataclass(frozen=True, kw_only=True)
class Recognized:
    """What one call measured: rows of results/recognition.csv and results/predictions.csv, and where these lie.

    `status` says for each (model, step) what was done: "kept" (measured before), "store" (from the run's features) or
    "computed".
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
    those of the whole dataset, whichever partition is looked at. u comes from the run's feature stores where they hold
    this checkpoint on these data; else it is computed, in pieces that a killed run leaves to the next. What is finished
    is kept where weights, data, candidates and settings are the same. Under torchrun the processes share the episodes.

    Args:
        data: folders of episodes; by default the run's `demos`. Rollouts are folders of episodes too.
        run: run directory; tables go into its `results`.
        out: folder for the tables in place of the run's `results`.
        models, checkpoints, name, step, preset, config, seed: see `choose_video_models`.
        source: name of the data in the tables; "rollouts" for a folder within the run's rollouts, else "demos".
        partitions: "train", "val", "test", or "all"; by default "test" where the data have one, else all.
        candidates: texts to choose from, or a file with one per line, in place of the dataset's instructions.
        instructions: see `mnprobe.data.open_dataset`.
        camera, frames_rule: what the model sees, as in extraction.
        device, batch_size, precision: how it is computed, as in extraction.
        note: called with remarks for the user.
    Raises: ConfigError, DataError, CheckpointError, FeatureError; what was finished until then is kept.
    Source: the paper, section 4.2 and Table 1; specs/viclip.md, section 10.
    """
    told: set[str] = set()

    def say(text: str) -> None:
        if note is not None and text not in told:  # the extraction of u says some of it as well
            told.add(text)
            note(text)

    one_of("frames_rule", frames_rule, ("middle", "strided"))
    if run is None and out is None:
        raise ConfigError("recognition needs a run (--run) or a folder for its tables (--out)")
    resolve_device(device)
    chosen = choose_video_models(
        run, models=models, checkpoints=checkpoints, name=name, step=step, preset=preset, seed=seed, config=config
    )
    folder, source = _data(data, run, source)
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
    work = _Work(
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
    """Texts to choose from: one per line of a UTF-8 file, empty lines and outer space left out.

    Raises ConfigError when it cannot be read, or holds the same text twice or fewer than two.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except OSError as error:
        raise ConfigError(f"--candidates {path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--candidates {path}: is not UTF-8 (byte {error.start})") from error
    return _checked([line for line in lines if line], f"--candidates {path}")


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What all models of one command share."""

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

    def do(self, model: VideoModel, team: Team) -> Status:
        """Measure one model, or keep what is there; process 0 decides, scores and writes."""
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

    def digest(self, model: VideoModel) -> str:
        """Of all that decides the predictions of `model`, whichever partition is looked at."""
        return config_hash({**self.settings, "weights": model.identity()})

    def result(self, models: Sequence[VideoModel], status: Mapping[tuple[str, int], Status]) -> Recognized:
        """The rows of these models."""
        rows, predictions = RECOGNITION.read(self.table), PREDICTIONS.read(self.predictions)
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

    def _finished(self, model: VideoModel) -> bool:
        rows, predictions = RECOGNITION.read(self.table), PREDICTIONS.read(self.predictions)
        own = self._of(rows, [model]) & (rows["partition"] == self.partition)
        known = predictions["id"][self._of(predictions, [model])]
        return bool(own.any()) and set(self.columns["id"].tolist()) <= set(known)

    def _of(self, table: "pd.DataFrame", models: Sequence[VideoModel]) -> "pd.Series[bool]":
        """Which rows are of these models on this source, measured as now asked."""
        wanted = {(model.name, model.step, self.source, self.digest(model)) for model in models}
        keys = table[[*_WHERE, "config_hash"]].itertuples(index=False, name=None)
        return pd.Series([key in wanted for key in keys], index=table.index, dtype=bool)

    def _stored(self, model: VideoModel) -> NDArray[Any] | None:
        """u of these episodes from the run's store, if it holds this checkpoint on these data, seen the same way."""
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

    def _rows_of(self, file: FeatureFile, model: VideoModel) -> list[int] | None:
        asked = file.attrs["provenance"].get("asked", {})
        weights = {name: asked.get(name) for name in model.identity()}
        seen = {"camera": self.settings["camera"], "frames_rule": self.settings["frames_rule"]}
        same = (
            weights == model.identity()
            and asked.get("revision") == self.settings["revision"]
            and asked.get("options") == seen
            and asked.get("precision") == self.settings["precision"]
            and asked.get("dtype") == "float32"  # float16 would decide near ties otherwise than the model does
            and file.attrs["data_fingerprint"] in self.fingerprints
            and "u" in file.layers
        )
        place = {name: row for row, name in enumerate(file.columns["id"].tolist())}
        wanted = self.columns["id"].tolist()
        return [place[name] for name in wanted] if same and all(name in place for name in wanted) else None

    def _compare(self, file: FeatureFile, model: VideoModel) -> None:
        """Say when the labels that `align` reads were chosen among other texts than are chosen among here."""
        if "prediction" in file.columns and distinct_texts(file.columns["instruction"].tolist()) != self.texts:
            self.say(
                f"{model.name} step {model.step}: the predictions in {file.path} were made among other instructions "
                f"({len(set(file.columns['instruction'].tolist()))}); those counted here are among {len(self.texts)}"
            )

    def _compute(self, model: VideoModel, cache: Path) -> None:
        """Extract u into a store of its own, which a stopped run leaves to the next."""
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

    def _write(self, model: VideoModel, digest: str, u: NDArray[Any]) -> None:
        viclip = model.load(resolve_device(self.device))
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

    def _head(self, model: VideoModel, digest: str) -> dict[str, Any]:
        return {
            "model": model.name,
            "training": model.training,
            "step": model.step,
            "trained": model.choice.trained,
            "zero_shot": model.zero_shot,
            "source": self.source,
            "partition": self.partition,
            "candidates_sha256": config_hash(list(self.texts)),
            "checkpoint_sha256": model.sha256,
            "data_fingerprint": self.fingerprints[0],
            "config_hash": digest,
            "created": now(),
        }

    def _save(self, kind: Tidy, path: Path, head: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
        """Put rows in the place of their own and of those of this model, step and source that other settings made."""

        def change(old: "pd.DataFrame") -> "pd.DataFrame":
            stale = old["config_hash"] != head["config_hash"]
            for name in _WHERE:
                stale &= old[name] == head[name]
            if stale.any():
                self.say(
                    f"{path}: {int(stale.sum())} rows of {head['model']} step {head['step']} on {head['source']}, made "
                    "from other weights, data or settings, are replaced"
                )
            return kind.replace(old[~stale], kind.frame(rows))

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
    with suppress(OSError):  # other models' unfinished pieces may lie there
        cache.parent.rmdir()
