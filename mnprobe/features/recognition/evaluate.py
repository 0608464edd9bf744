"""Evaluation of `mnprobe recognize`: dataset instructions and natural videos."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np

from mnprobe.core.errors import CheckpointError, ConfigError
from mnprobe.core.progress import progress
from mnprobe.core.provenance import config_hash, now
from mnprobe.core.registry import merge_settings
from mnprobe.core.rundir import RunDir
from mnprobe.core.runtime import Team, join_team, resolve_device
from mnprobe.core.table import TableSchema
from mnprobe.features.recognition.config import RecognitionConfig
from mnprobe.features.recognition.episodes import Episodes
from mnprobe.features.recognition.videos import Features, Videos
from mnprobe.features.selection import CheckpointChoice, CheckpointQuery, select_checkpoints
from mnprobe.features.text_ranking import Ranking, encode_texts, rank_texts, reads_text, told_texts
from mnprobe.models.viclip import ViCLIP

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Recognized", "Subject", "check_forgetting", "recognize"]

Status = Literal["kept", "store", "computed"]
_STATUS: tuple[Status, ...] = ("kept", "store", "computed")


@dataclass(frozen=True, kw_only=True)
class Recognized:
    """Result of one call: rows of its two tables for the models of the call, and the paths of the tables.

    `status` of each (model, step): "kept" (measured before), "store" (from the run's features) or "computed". `broken`
    has one text for each episode or video that was left out, with the reason.
    """

    rows: "pd.DataFrame"
    predictions: "pd.DataFrame"
    table: Path
    predictions_table: Path
    status: Mapping[tuple[str, int], Status]
    broken: tuple[str, ...] = ()


def recognize(
    data: Path | str | Sequence[Path | str] | None = None,
    config: RecognitionConfig | None = None,
    *,
    run: RunDir | None = None,
    out: Path | None = None,
    quiet: bool = True,
    note: Callable[[str], None] | None = None,
    **settings: Any,
) -> Recognized:
    """Top-1 and top-5 recognition of each episode's instruction among all instructions of the dataset, by task.

    An episode is recognised when the default instruction with the highest cosine to u is its own; the candidates are
    those of the whole dataset, for every partition. u is read from the run's feature stores if they contain this
    checkpoint on these data; otherwise it is computed in resumable pieces. Finished results are reused if weights,
    data, candidates and settings are equal. Under torchrun the processes share the episodes. Rows go to
    results/recognition.csv and results/predictions.csv.

    Args:
        data: folders of episodes; by default the run's `demos`. Rollouts are folders of episodes too.
        config: what to recognise with, and how; the defaults if None.
        run: run directory; tables go into its `results`.
        out: folder for the tables in place of the run's `results`.
        quiet: show no progress.
        note: called with messages for the user.
        settings: single fields of `RecognitionConfig` by name, in place of those of `config`, such as `step=100`.
    Raises: ConfigError, DataError, CheckpointError, FeatureError; finished results remain.
    Source: the paper, section 4.2 and Table 1; specs/viclip.md, section 10.
    """
    config = merge_settings(RecognitionConfig, config, settings)
    config.check_for_episodes()
    if run is None and out is None:
        raise ConfigError("recognition needs a run (--run) or a folder for its tables (--out)")
    device = resolve_device(config.device)
    say = _once(note)  # the extraction of u reports some of it as well
    models = _video_models(run, config)
    home = out if out is not None else (run.path / "results" if run else Path())
    episodes = Episodes.of(data, config, run=run, home=home, quiet=quiet, say=say)
    models = [model.on(episodes.source) for model in models]
    work = _Evaluation(subject=episodes, config=config, device=device, home=home, say=say)
    with join_team() as team:
        status = work.evaluate(models, team)
    rows = work.own(episodes.rows.read_or_empty(work.table), models)
    rows = rows[rows["partition"] == episodes.partition]
    predictions = work.own(episodes.predictions.read_or_empty(work.predictions), models)
    predictions = predictions[predictions["id"].isin(set(episodes.ids))]
    return work.result(rows, predictions, status, [f"{name}: {reason}" for name, reason in episodes.broken.items()])


def check_forgetting(
    videos: Path,
    config: RecognitionConfig | None = None,
    *,
    run: RunDir | None = None,
    out: Path | None = None,
    quiet: bool = True,
    note: Callable[[str], None] | None = None,
    **settings: Any,
) -> Recognized:
    """Recognise videos of natural classes with every checkpoint, and compare each with its model's first step.

    The candidates are the class names in the template. Cropping, number and choice of frames are those for episodes. An
    interrupted call resumes when repeated: finished batches and checkpoints are reused if weights, videos and settings
    are equal. Rows go to results/forgetting.csv and results/video_predictions.csv.

    Args:
        videos: folder of class-named folders of video files; see `mnprobe.data.videos.find_videos`.
        config, run, out, quiet, note, settings: see `recognize`.
    Raises: ConfigError, DataError (naming the file), CheckpointError; finished results remain.
    """
    config = merge_settings(RecognitionConfig, config, settings)
    config.check_for_videos()
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError("the forgetting check runs in one process; start it without torchrun")
    if run is None and out is None:
        raise ConfigError("the forgetting check needs a run (--run) or a folder for its tables (--out)")
    device = resolve_device(config.device)
    say = _once(note)
    models = _video_models(run, config)
    home = out if out is not None else (run.path / "results" if run else Path())
    found = Videos.of(Path(videos), config, device=device, home=home, quiet=quiet, say=say)
    models = [model.on(found.folder) for model in models]
    work = _Evaluation(subject=found, config=config, device=device, home=home, say=say)
    status = work.evaluate(models, Team())
    rows = found.compare([work.head(model) for model in models], work.table, work.predictions)
    predictions = work.own(found.predictions.read_or_empty(work.predictions), models)
    return work.result(rows, predictions, status, list(found.broken))


class Subject(Protocol):
    """What is recognised (episodes or videos): candidate texts, features, and the rows of two tables."""

    kind: ClassVar[str]
    """What the candidate texts are, for messages."""
    where: ClassVar[str]
    """Column that names the data in both tables."""
    rows: ClassVar[TableSchema]
    """Table of results."""
    predictions: ClassVar[TableSchema]
    """Table of single predictions."""

    @property
    def quiet(self) -> bool:
        """Whether no progress is shown."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """All that decides the predictions, except the weights, as JSON."""

    @property
    def texts(self) -> tuple[str, ...]:
        """Candidate texts."""

    @property
    def head(self) -> Mapping[str, Any]:
        """Columns that all rows share."""

    def is_complete(self, rows: "pd.DataFrame", predictions: "pd.DataFrame") -> bool:
        """Whether these rows of one model, of equal settings and weights, are all."""

    def stored(self, model: CheckpointChoice) -> Features | None:
        """Read the features from the run, if they are there."""

    def compute(self, model: CheckpointChoice, digest: str, load: Callable[[], ViCLIP]) -> None:
        """Compute the features in resumable pieces; called in every process."""

    def read(self, model: CheckpointChoice, digest: str) -> Features:
        """Read the computed features."""

    def clean(self, model: CheckpointChoice, digest: str) -> None:
        """Remove the computed features."""

    def own_texts(self, features: Features) -> list[int]:
        """Number of the own text of each row of the features."""

    def prediction_rows(self, head: Mapping[str, Any], features: Features, ranking: Ranking) -> list[dict[str, Any]]:
        """Rows of the table of predictions."""

    def result_rows(self, head: Mapping[str, Any], features: Features, ranking: Ranking) -> list[dict[str, Any]]:
        """Rows of the table of results that concern one model alone."""


@dataclass(frozen=True, kw_only=True)
class _Evaluation:
    """Recognition of one subject by the models of one command."""

    subject: Subject
    config: RecognitionConfig
    device: str
    home: Path
    say: Callable[[str], None] = field(repr=False)

    @property
    def table(self) -> Path:
        """Path of the table of results."""
        return self.home / f"{self.subject.rows.name}.csv"

    @property
    def predictions(self) -> Path:
        """Path of the table of predictions."""
        return self.home / f"{self.subject.predictions.name.replace(' ', '_')}.csv"

    def evaluate(self, models: Sequence[CheckpointChoice], team: Team) -> dict[tuple[str, int], Status]:
        """Measure all models, or reuse their results."""
        status: dict[tuple[str, int], Status] = {}
        alone = len(models) == 1 or not team.leads
        with progress("recognizing (checkpoints)", len(models), quiet=self.subject.quiet or alone) as advance:
            for model in models:
                status[model.name, model.step] = self._evaluate(model, team)
                advance()
        team.barrier()
        return status

    def digest(self, model: CheckpointChoice) -> str:
        """Hash of all that decides the predictions of `model`."""
        return config_hash({**self.subject.settings, "weights": model.identity()})

    def head(self, model: CheckpointChoice) -> dict[str, Any]:
        """Identifying columns of the rows of `model`."""
        return {
            "model": model.name,
            "training": model.id.training,
            "step": model.step,
            "trained": model.id.trained,
            "zero_shot": model.zero_shot,
            "checkpoint_sha256": model.sha256,
            "config_hash": self.digest(model),
            "created": now(),
            **self.subject.head,
        }

    def own(self, table: "pd.DataFrame", models: Sequence[CheckpointChoice]) -> "pd.DataFrame":
        """The rows of these models on this subject, of equal settings and weights."""
        wanted = {(model.name, model.step, self._data, self.digest(model)) for model in models}
        keys = table[["model", "step", self.subject.where, "config_hash"]].itertuples(index=False, name=None)
        return table[np.array([key in wanted for key in keys], dtype=bool)]

    def result(
        self,
        rows: "pd.DataFrame",
        predictions: "pd.DataFrame",
        status: Mapping[tuple[str, int], Status],
        broken: Sequence[str],
    ) -> Recognized:
        """The result of the command."""
        return Recognized(
            rows=rows.reset_index(drop=True),
            predictions=predictions.reset_index(drop=True),
            table=self.table,
            predictions_table=self.predictions,
            status=status,
            broken=tuple(broken),
        )

    @property
    def _data(self) -> str:
        return str(self.subject.head[self.subject.where])

    def _evaluate(self, model: CheckpointChoice, team: Team) -> Status:
        """Measure one model, or reuse its results; process 0 decides, scores and writes."""
        subject, digest = self.subject, self.digest(model)
        load = cache(partial(self._load, model))
        features: Features | None = None
        status: Status = "kept"
        if team.leads and not self._is_finished(model):
            features = subject.stored(model)
            status = "computed" if features is None else "store"
        status = _STATUS[team.agree(_STATUS.index(status))]
        if status == "computed":
            subject.compute(model, digest, load)
        if team.leads and status != "kept":
            self._write(model, subject.read(model, digest) if features is None else features, load())
            subject.clean(model, digest)
        return status

    def _is_finished(self, model: CheckpointChoice) -> bool:
        rows = self.own(self.subject.rows.read_or_empty(self.table), [model])
        predictions = self.own(self.subject.predictions.read_or_empty(self.predictions), [model])
        return self.subject.is_complete(rows, predictions)

    def _load(self, model: CheckpointChoice) -> ViCLIP:
        """Load the model; CheckpointError when it cannot read the candidate texts."""
        viclip = model.load_viclip(self.device)
        if not reads_text(viclip):
            raise CheckpointError(
                f"{model.path or model.name}: its text side has a vocabulary of {viclip.config.vocabulary}, which is "
                f"not CLIP's, so it cannot read {self.subject.kind} and recognises nothing"
            )
        for remark in told_texts(self.subject.texts, viclip.config.text_context):
            self.say(f"{model.name}: {remark}")
        return viclip

    def _write(self, model: CheckpointChoice, features: Features, viclip: ViCLIP) -> None:
        """Rank the candidate texts, and write both tables."""
        subject = self.subject
        texts = encode_texts(viclip, subject.texts, precision=self.config.precision)
        ranking = rank_texts(features.u, texts, np.array(subject.own_texts(features), dtype=np.int64))
        head = self.head(model)
        self._save(subject.predictions, self.predictions, head, subject.prediction_rows(head, features, ranking))
        rows = subject.result_rows(head, features, ranking)
        if rows:
            self._save(subject.rows, self.table, head, rows)

    def _save(
        self, schema: TableSchema, path: Path, head: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Replace the rows of this model, step and data, including those of other settings."""

        def change(old: "pd.DataFrame") -> "pd.DataFrame":
            stale = old["config_hash"] != head["config_hash"]
            for name in ("model", "step", self.subject.where):
                stale &= old[name] == head[name]
            if stale.any():
                self.say(
                    f"{path}: {int(stale.sum())} rows of {head['model']} step {head['step']} on {self._data}, made "
                    "from other weights, data or settings, are replaced"
                )
            return schema.replace_rows(old[~stale], schema.frame(rows))

        schema.update(path, change)


def _video_models(run: RunDir | None, config: RecognitionConfig) -> list[CheckpointChoice]:
    query = CheckpointQuery(
        purpose="recognize",
        models=config.models,
        files=config.checkpoints,
        name=config.name,
        step=config.step,
        preset=config.preset,
        seed=config.seed,
        config=config.model_config,
    )
    return select_checkpoints(run, query)


def _once(note: Callable[[str], None] | None) -> Callable[[str], None]:
    """Return a function that passes each text to `note` once."""
    told: set[str] = set()

    def say(text: str) -> None:
        if note is not None and text not in told:
            told.add(text)
            note(text)

    return say
