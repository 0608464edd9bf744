"""Reading feature stores: lazy, by rows, after validation; and their summary."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from mnprobe.core.commands import command_of
from mnprobe.core.errors import FeatureError
from mnprobe.core.labels import same_text
from mnprobe.core.names import FeatureId, Side
from mnprobe.core.registry import unknown_name
from mnprobe.features.pooling import BLOCK_ROWS, pool
from mnprobe.features.schema import Columns, extra_columns
from mnprobe.features.validation import Contents, read_contents

__all__ = [
    "FeatureFile",
    "Layer",
    "Rows",
    "describe_features",
    "format_description",
    "open_features",
    "verify",
    "worlds_of",
]

if TYPE_CHECKING:
    import pandas as pd


Array = np.ndarray[Any, Any]


class Rows:
    """The (M, D) values of a layer, read from disk when sliced: `rows[a:b]`, `rows[i]`, `rows[[i, j]]`."""

    def __init__(self, dataset: Any, where: str) -> None:
        self._dataset = dataset
        self._where = where
        self.shape: tuple[int, int] = tuple(dataset.shape)
        self.dtype: np.dtype[Any] = np.dtype(dataset.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Array:
        try:
            if isinstance(key, list | np.ndarray):  # HDF5 requires ascending rows without repetition
                wanted = np.asarray(key) if len(key) else np.zeros(0, np.intp)
                unique, back = np.unique(np.arange(len(self))[wanted], return_inverse=True)
                read = self._dataset[unique] if len(unique) else np.zeros((0, self.shape[1]), self.dtype)
                return np.asarray(read[back])
            return np.asarray(self._dataset[key])
        except OSError as error:
            raise FeatureError(f"{self._where}: damaged values, rows {key} cannot be read ({error})") from error

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        values = self[:]
        return values if dtype is None else values.astype(dtype)

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[Array]:
        """All values in order, at most `rows` rows at a time."""
        for start in range(0, len(self), rows):
            yield self[start : start + rows]


class Layer:
    """One layer of a store: `values` (M, D) lazily, `offsets` (N+1,), `keyframe` (M,) or None."""

    def __init__(self, name: str, values: Rows, offsets: Array, keyframe: Array | None, where: str) -> None:
        self.name = name
        self.values = values
        self.offsets = offsets
        self.keyframe = keyframe
        self._where = where

    @property
    def dim(self) -> int:
        """Width D of a token."""
        return self.values.shape[1]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def tokens(self, episode: int) -> Array:
        """Tokens (m, D) of one episode, by its row in the table of episodes."""
        if not -len(self) <= episode < len(self):
            raise FeatureError(f"{self._where}: episode {episode} is outside 0..{len(self) - 1}")
        episode %= len(self)
        return self.values[int(self.offsets[episode]) : int(self.offsets[episode + 1])]

    def pooled(self, how: str = "mean") -> Array:
        """One vector per episode, (N, D) float32: "mean", "first", "last", "max", "token:<k>" or "concat".

        See `mnprobe.features.pooling.pool` for their meaning. Reads in blocks; raises FeatureError for values that are
        not finite.
        """
        return pool(self.values, self.offsets, self.keyframe, how, where=self._where)


class FeatureFile:
    """An open, validated feature store. Close it, or use it in a `with` block; a pickled store is reopened on
    loading."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._contents: Contents = read_contents(self.path)

    def __enter__(self) -> "FeatureFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return open_features, (self.path,)

    def __len__(self) -> int:
        return len(self.columns["id"])

    def __repr__(self) -> str:
        return f"FeatureFile({str(self.path)!r}: {self.model}, {self.source}, step {self.step}, {len(self)} episodes)"

    def close(self) -> None:
        """Close the file; values can no longer be read."""
        self._contents.file.close()

    @property
    def attrs(self) -> dict[str, Any]:
        """All attributes; `model_config` and `provenance` are parsed from JSON."""
        parsed = {name: json.loads(self._contents.attributes[name]) for name in ("model_config", "provenance")}
        return self._contents.attributes | parsed

    @property
    def id(self) -> FeatureId:
        """Identity of the features."""
        return FeatureId(
            model=self.model,
            side=self.side,
            source=self.source,
            step=self.step,
            training=self.training,
            trained=self.trained,
        )

    @property
    def model(self) -> str:
        """Name of the model."""
        return str(self._contents.attributes["model"])

    @property
    def side(self) -> Side:
        """ "understanding" or "execution"."""
        return Side(self._contents.attributes["side"])

    @property
    def source(self) -> str:
        """Source of the episodes: "demos", "rollouts", "demos-blank", ..."""
        return str(self._contents.attributes["source"])

    @property
    def step(self) -> int:
        """Optimiser steps of the model."""
        return int(self._contents.attributes["step"])

    @property
    def trained(self) -> bool:
        """False for a model with random weights."""
        return bool(self._contents.attributes["trained"])

    @property
    def training(self) -> str:
        """Name of the training of the checkpoint, such as "baseline" or "joint"; "" if unknown."""
        return str(self._contents.attributes["training"])

    @property
    def columns(self) -> Columns:
        """The table of episodes as arrays: id, task, instruction, partition, variation, success[, prediction], and
        columns of the user (`extra_columns`)."""
        return self._contents.columns

    @property
    def episodes(self) -> "pd.DataFrame":
        """The table of episodes: one row per episode, in the order of every layer."""
        import pandas as pd  # imported here, because reading values does not need it

        order = ("id", "task", "instruction", "variation", "partition", "success", "prediction", *self.extra_columns)
        return pd.DataFrame({name: self.columns[name] for name in order if name in self.columns})

    @property
    def worlds(self) -> tuple[str, ...]:
        """Names of the simulated worlds of the episodes; () if not recorded, as for RLBench's own demonstrations."""
        return worlds_of(self.attrs)

    @property
    def extra_columns(self) -> tuple[str, ...]:
        """Names of the episode columns added by the user."""
        return tuple(extra_columns(self.columns))

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, sorted."""
        return tuple(sorted(self._contents.layers))

    def layer(self, name: str) -> Layer:
        """One layer; FeatureError with the nearest name when there is none called `name`."""
        if name not in self._contents.layers:
            hint = unknown_name("layer", name, list(self.layers))
            again = command_of(self.path, "extract", layer=name)
            raise FeatureError(f"{self.path}: {hint}. Extract it with `{again}`")
        found = self._contents.layers[name]
        where = f"{self.path}:/layers/{name}/values"
        return Layer(name, Rows(found.values, where), found.offsets, found.keyframe, where)


def worlds_of(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the worlds in the attributes of a store; () if not recorded, as for RLBench's own demonstrations."""
    provenance = attributes["provenance"]
    return tuple(map(str, provenance.get("worlds", ()))) if isinstance(provenance, Mapping) else ()


def open_features(path: Path | str) -> FeatureFile:
    """Open a feature store for reading and validate everything except the values, which stay on disk.

    Checked are schema, attributes, the table of episodes, sizes, offsets and the digest over all these. Values are
    checked by their checksums whenever rows are read, and for NaN by `pooled` and `verify`.

    Raises FeatureError that names the file, the HDF5 path and the problem.
    """
    return FeatureFile(Path(path))


def verify(path: Path | str) -> None:
    """Read a complete store; FeatureError at the first problem: any changed byte, any NaN."""
    with open_features(path) as file:
        for name in file.layers:
            layer = file.layer(name)
            start = 0
            for block in layer.values.blocks():
                finite = np.isfinite(block)
                if not finite.all():
                    row, column = np.argwhere(~finite)[0]
                    where = f"{path}:/layers/{name}/values[{start + row}, {column}]"
                    raise FeatureError(f"{where}: the value is {block[row, column]}, not finite")
                start += len(block)


_SUCCESS = {1: "success", 0: "failure", -1: "not known"}
_SHOWN = 12  # number of listed instructions before "and N more"


def describe_features(path: Path | str) -> dict[str, Any]:
    """Read a complete store and describe it; `sound` is False, with `problem`, if the store is invalid.

    A file that cannot be opened gives only path, sound and problem.
    """
    path = Path(path)
    facts: dict[str, Any] = {"path": str(path), "sound": True, "problem": None}
    try:
        with open_features(path) as file:
            facts |= _contents(file)
        verify(path)
    except FeatureError as error:
        facts |= {"sound": False, "problem": str(error)}
    return facts


def format_description(facts: dict[str, Any]) -> str:
    """Format the description as text."""
    lines = [f"{facts['path']}: {'sound' if facts['sound'] else 'NOT SOUND'}"]
    if facts["problem"]:
        lines.append(f"  {facts['problem']}")
    if "model" not in facts:
        return "\n".join(lines)
    state = "trained" if facts["trained"] else "not trained"
    state += f", training {facts['training']}" if facts["training"] else ""
    lines += [
        f"  model      {facts['model']}, {facts['side']} side, step {facts['step']}, {state}",
        f"  weights    {facts['checkpoint_sha256'] or 'no checkpoint file'}",
        f"  source     {facts['source']}, data {facts['data_fingerprint'] or 'not recorded'}",
        f"  made       {facts['created']} by mnprobe {facts['mnprobe_version']}, torch {facts['torch_version']}",
    ]
    for name, layer in facts["layers"].items():
        extra = ", by keyframe" if layer["keyframes"] else ""
        per = layer["tokens_per_episode"]
        each = str(per[0]) if per[0] == per[1] else f"{per[0]} to {per[1]}"
        rows, dim = layer["shape"]
        module = f", {layer['class']}" if "class" in layer else ""
        module += f" at {layer['module']}{layer.get('member', '')}" if layer.get("module") or "member" in layer else ""
        module += f": {layer['meaning']}" if "meaning" in layer else ""
        lines.append(f"  layer      {name}: {rows} x {dim} {layer['dtype']}, {each} tokens per episode{extra}{module}")
    lines.append(f"  episodes   {facts['episodes']}")
    for title in ("task", "partition", "success", "instruction"):
        counts = list(facts["episodes_by"][title].items())
        shown = [f"{name or '(none)'}: {number}" for name, number in counts[:_SHOWN]]
        more = [f"and {len(counts) - _SHOWN} more"] if len(counts) > _SHOWN else []
        lines.append(f"    by {title}: " + "; ".join(shown + more))
    for name, counts in facts["extra_columns"].items():
        shown = [f"{value if value != '' else '(none)'}: {number}" for value, number in list(counts.items())[:_SHOWN]]
        more = [f"and {len(counts) - _SHOWN} more"] if len(counts) > _SHOWN else []
        lines.append(f"    own column {name}: " + "; ".join(shown + more))
    if facts["recognised"] is not None:
        lines.append(f"    instruction recognised: {facts['recognised']} of {facts['episodes']}")
    for name, number in facts["provenance"].get("counts", {}).items():
        lines.append(f"  note       {name.replace('_', ' ')}: {number}")
    for skipped in facts["provenance"].get("skipped", []):
        lines.append(f"  left out   {skipped['id']}: {skipped['reason']}")
    lines += [f"  remark     {remark}" for remark in facts["provenance"].get("remarks", [])]
    return "\n".join(lines)


def _contents(file: FeatureFile) -> dict[str, Any]:
    columns = file.columns
    by = {name: Counter(columns[name].tolist()) for name in ("task", "partition", "instruction")}
    success = Counter(_SUCCESS[int(value)] for value in columns["success"])
    places = file.attrs["provenance"].get("layers", {})
    layers: dict[str, dict[str, Any]] = {}
    for name in file.layers:
        layer = file.layer(name)
        lengths = [int(b - a) for a, b in zip(layer.offsets[:-1], layer.offsets[1:], strict=True)]
        layers[name] = {
            "shape": list(layer.values.shape),
            "dtype": layer.values.dtype.name,
            "tokens_per_episode": [min(lengths), max(lengths)],
            "keyframes": layer.keyframe is not None,
            **places.get(name, {}),
        }
    own = {name: dict(Counter(map(str, sorted(columns[name].tolist())))) for name in file.extra_columns}
    recognised = None
    if "prediction" in columns:
        pairs = zip(columns["prediction"], columns["instruction"], strict=True)
        recognised = sum(same_text(prediction) == same_text(own) != "" for prediction, own in pairs)
    counted = {name: dict(sorted(counter.items())) for name, counter in {**by, "success": success}.items()}
    return file.attrs | {
        "layers": layers,
        "episodes": len(file),
        "episodes_by": counted,
        "extra_columns": own,
        "recognised": recognised,
    }
