"""Episodes to recognise among instructions: their candidates, features and rows."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mnprobe.core.errors import ConfigError, DataError, FeatureError
from mnprobe.core.labels import asked_partition
from mnprobe.core.provenance import config_hash
from mnprobe.core.rundir import RunDir
from mnprobe.data import Dataset, open_dataset
from mnprobe.features.extraction import ExtractConfig, extract, separate_broken
from mnprobe.features.extractors.viclip import ViCLIPExtractor
from mnprobe.features.recognition.config import RecognitionConfig
from mnprobe.features.recognition.tables import PREDICTIONS, RECOGNITION, prediction_rows, recognition_rows
from mnprobe.features.recognition.videos import Features
from mnprobe.features.schema import Columns
from mnprobe.features.selection import CheckpointChoice
from mnprobe.features.store import FeatureFile, open_features
from mnprobe.features.text_ranking import ALL_EPISODES, Ranking, distinct_texts, own_numbers, plain_text
from mnprobe.models.viclip import ViCLIP

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Episodes", "read_candidates"]

_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """Episodes of one dataset, recognised among its instructions; see `mnprobe.features.recognition.evaluate.Subject`.

    `whole` is the dataset that gives the candidates, `seen` the partition to recognise; `broken` gives the reasons of
    the episodes that are left out, by id.
    """

    config: RecognitionConfig
    run: RunDir | None
    folder: Any
    source: str
    partition: str
    columns: Columns
    texts: tuple[str, ...]
    fingerprints: tuple[str, str]
    settings: Mapping[str, Any]
    home: Path
    quiet: bool
    say: Callable[[str], None] = field(repr=False)
    broken: dict[str, str] = field(default_factory=dict)

    kind: ClassVar[str] = "instructions"
    where: ClassVar[str] = "source"
    rows: ClassVar = RECOGNITION
    predictions: ClassVar = PREDICTIONS

    @classmethod
    def of(
        cls,
        data: Any,
        config: RecognitionConfig,
        *,
        run: RunDir | None,
        home: Path,
        quiet: bool,
        say: Callable[[str], None],
    ) -> "Episodes":
        """Open the dataset, choose the partition and the candidates."""
        folder, source = _data(data, run, config.source)
        whole = open_dataset(folder, instructions=config.instructions, skip_broken=config.skip_broken)
        for text in whole.notes:
            say(text)
        whole, broken = separate_broken(whole, say) if config.skip_broken else (whole, {})
        seen, partition = _seen(folder, whole, config)
        for remark in whole.instruction_notes():
            say(remark)
        texts = _candidates(config.candidates, whole, seen)
        fingerprint = whole.fingerprint()
        settings = {
            "revision": ViCLIPExtractor.revision,
            "data": {"fingerprint": fingerprint, "episodes": sorted((e.id, e.partition) for e in whole)},
            "candidates": list(texts),
            "camera": whole.camera(config.camera),
            "frames_rule": config.frames_rule,
            "precision": config.precision,
            **({"skip_broken": True} if config.skip_broken else {}),
        }
        return cls(
            config=config,
            run=run,
            folder=folder,
            source=source,
            partition=partition,
            columns=_columns(seen),
            texts=texts,
            fingerprints=(fingerprint, fingerprint if seen is whole else seen.fingerprint()),
            settings=settings,
            home=home,
            quiet=quiet,
            say=say,
            broken=broken,
        )

    @property
    def head(self) -> dict[str, Any]:
        """The columns of the tables that all rows share."""
        return {
            "source": self.source,
            "partition": self.partition,
            "candidates_sha256": config_hash(list(self.texts)),
            "data_fingerprint": self.fingerprints[0],
        }

    @property
    def ids(self) -> list[str]:
        """Ids of the episodes to recognise."""
        names: list[str] = self.columns["id"].tolist()
        return names

    def is_complete(self, rows: "pd.DataFrame", predictions: "pd.DataFrame") -> bool:
        """Whether the rows of one model are there for all episodes that are not broken."""
        overall = rows[(rows["partition"] == self.partition) & (rows["task"] == ALL_EPISODES)]
        known = set(self.ids) & set(predictions["id"])
        if not len(overall) or len(known) != int(overall["n"].iloc[0]):
            return False
        missing = [name for name in self.ids if name not in known]
        if missing and not self.config.skip_broken:
            return False
        for name in missing:
            self.broken.setdefault(name, "left out when these results were computed")
        return True

    def stored(self, model: CheckpointChoice) -> Features | None:
        """Read u of these episodes from the run's store, if it has this checkpoint, data and input settings."""
        path = self.run.features(model.name, self.source, model.step) if self.run is not None else None
        if path is None or not path.is_file():
            return None
        try:
            with open_features(path) as file:
                features = self._features(file) if self._is_same(file, model) else None
                if features is not None:
                    self._compare(file, model)
                return features
        except FeatureError as error:
            self.say(f"{error}\nThe features are computed anew for the recognition")
            return None

    def compute(self, model: CheckpointChoice, digest: str, load: Callable[[], ViCLIP]) -> None:
        """Extract u into a separate resumable store."""
        extract(
            self.folder,
            ExtractConfig(
                models=() if model.path is not None else ("viclip",),
                checkpoints=() if model.path is None else (model.path,),
                name=model.name,
                step=model.step,
                preset=model.preset,
                model_config=model.config,
                seed=model.seed,
                source=self.source,
                partitions=None if self.partition == "all" else self.partition.split("+"),
                instructions=self.config.instructions,
                layers=("u",),
                options=self._look,
                device=self.config.device,
                batch_size=self.config.batch_size,
                precision=self.config.precision,
                skip_broken=self.config.skip_broken,
            ),
            out=self._cache(model, digest),
            quiet=self.quiet,
            note=self.say,
        )

    def read(self, model: CheckpointChoice, digest: str) -> Features:
        """Read u from the separate store."""
        with open_features(self._cache(model, digest)) as file:
            features = self._features(file)
        if features is None:
            raise FeatureError(f"{file.path}: holds other episodes than those to recognise; remove it")
        return features

    def clean(self, model: CheckpointChoice, digest: str) -> None:
        """Remove the separate store, if there is one."""
        cache = self._cache(model, digest)
        cache.unlink(missing_ok=True)
        with suppress(OSError):  # the folder may contain unfinished pieces of other models
            cache.parent.rmdir()

    def own_texts(self, features: Features) -> list[int]:
        """Number of the own text of each episode."""
        words = self.columns["instruction"][features.index].tolist()
        return [number for number in own_numbers(words, self.texts) if number is not None]

    def prediction_rows(self, head: Mapping[str, Any], features: Features, ranking: Ranking) -> list[dict[str, Any]]:
        """One row per episode."""
        columns = {name: column[features.index] for name, column in self.columns.items()}
        return prediction_rows(head, columns, self.texts, ranking)

    def result_rows(self, head: Mapping[str, Any], features: Features, ranking: Ranking) -> list[dict[str, Any]]:
        """One row per task, and of all."""
        return recognition_rows(head, self.columns["task"][features.index].tolist(), ranking, len(self.texts))

    @property
    def _look(self) -> dict[str, Any]:
        return {"camera": self.settings["camera"], "frames_rule": self.settings["frames_rule"]}

    def _cache(self, model: CheckpointChoice, digest: str) -> Path:
        key = config_hash([digest, model.name, model.step, self.source, self.partition])
        return self.home / ".recognition" / f"{key}.h5"

    def _is_same(self, file: FeatureFile, model: CheckpointChoice) -> bool:
        """Whether a store has u of this checkpoint on these data, seen in the same way."""
        asked = file.attrs["provenance"].get("asked", {})
        return (
            {name: asked.get(name) for name in model.identity()} == model.identity()
            and asked.get("revision") == self.settings["revision"]
            and asked.get("options") == self._look
            and asked.get("precision") == self.settings["precision"]
            and asked.get("dtype") == "float32"  # float16 could change the order of near ties
            and file.attrs["data_fingerprint"] in self.fingerprints
            and "u" in file.layers
        )

    def _features(self, file: FeatureFile) -> Features | None:
        """Read u; None when an episode is missing that was not skipped as broken."""
        skipped = {entry["id"]: entry["reason"] for entry in file.attrs["provenance"].get("skipped", ())}
        row_of = {name: row for row, name in enumerate(file.columns["id"].tolist())}
        missing = [name for name in self.ids if name not in row_of]
        if missing and not (self.config.skip_broken and set(missing) <= set(skipped)):
            return None
        self.broken.update({name: skipped[name] for name in missing})
        index = [i for i, name in enumerate(self.ids) if name in row_of]
        u = file.layer("u").pooled("mean")[[row_of[self.ids[i]] for i in index]]
        return Features(index=np.array(index, dtype=np.int64), u=u)

    def _compare(self, file: FeatureFile, model: CheckpointChoice) -> None:
        """Report when the success labels of `align` were computed with other candidate texts."""
        if "prediction" in file.columns and distinct_texts(file.columns["instruction"].tolist()) != self.texts:
            self.say(
                f"{model.name} step {model.step}: the predictions in {file.path} were made among other instructions "
                f"({len(set(file.columns['instruction'].tolist()))}); those counted here are among {len(self.texts)}"
            )


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


def _seen(folder: Any, whole: Dataset, config: RecognitionConfig) -> tuple[Dataset, str]:
    """Return the episodes of the requested partitions that are in `whole`, and their joined name."""
    wanted = list(dict.fromkeys(map(asked_partition, config.partitions))) or (
        ["test"] if "test" in whole.partitions else ["all"]
    )
    if "all" in wanted:
        if len(wanted) > 1:
            raise ConfigError(f"--partition all is everything; leave out {', '.join(set(wanted) - {'all'})}")
        return whole, "all"
    seen = open_dataset(folder, partitions=wanted, instructions=config.instructions, skip_broken=config.skip_broken)
    name = "+".join(wanted)
    if not config.skip_broken:
        return seen, name
    sound = {episode.where for episode in whole}
    left = [episode for episode in seen if episode.where in sound]
    if not left:
        raise DataError(f"all {len(seen)} episodes of partition {name} are broken")
    return seen.having(left), name


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
