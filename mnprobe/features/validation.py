"""Validation of a feature store file from an untrusted source."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mnprobe.core.commands import command_of
from mnprobe.core.errors import FeatureError
from mnprobe.core.names import Side
from mnprobe.features.schema import (
    DTYPES,
    MAGIC,
    NUMBER_COLUMNS,
    SCHEMA,
    SCHEMA_WITH_COLUMNS,
    TEXT_COLUMNS,
    Columns,
    check_column_name,
    check_columns,
    check_layer_name,
    content_digest,
    decode_text,
)
from mnprobe.features.writer import describe_values

__all__ = ["Contents", "LayerContents", "read_contents"]

Array = np.ndarray[Any, Any]
_TEXTS = (
    *("schema", "model", "side", "source", "checkpoint_sha256", "model_config", "data_fingerprint"),
    *("mnprobe_version", "torch_version", "created", "provenance", "digest"),
)
_OPTIONAL = ("training",)  # texts that older stores lack; '' then
_FLETCHER32 = 3  # HDF5's number of this filter


@dataclass(frozen=True, kw_only=True)
class LayerContents:
    """A layer in a file: the open values dataset, and the small arrays in memory."""

    values: Any
    offsets: Array
    keyframe: Array | None


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Contents of a store, with its file open."""

    file: Any
    attributes: dict[str, Any]
    columns: Columns
    layers: dict[str, LayerContents]


def read_contents(path: Path) -> Contents:
    """Open and validate `path`; the file stays open on success and is closed on FeatureError."""
    file = _open(path)
    try:
        return _Reader(file, str(path)).read()
    except FeatureError:
        file.close()
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError) as error:
        file.close()  # HDF5 raises all of these on damaged structure
        raise FeatureError(f"{path}: the file is damaged ({error}); extract it again") from error


def _open(path: Path) -> Any:
    try:
        with path.open("rb") as raw:
            start = raw.read(len(MAGIC))
    except FileNotFoundError:
        make = command_of(path, "extract")
        raise FeatureError(f"{path}: there is no such file; `{make}` makes feature stores") from None
    except IsADirectoryError:
        raise FeatureError(f"{path}: this is a folder; name the .h5 file inside it") from None
    if start != MAGIC:
        raise FeatureError(f"{path}: not an HDF5 file (it begins with {start!r}), so not a feature store")
    try:
        return h5py.File(path, "r", locking=False)  # finished files never change, so readers need no lock
    except (OSError, RuntimeError) as error:
        raise FeatureError(f"{path}: an HDF5 file, but truncated or damaged ({error}); extract it again") from error


class _Reader:
    """Reader that validates one store, item by item."""

    def __init__(self, file: Any, path: str) -> None:
        self.file = file
        self.path = path
        self.small: dict[str, Array] = {}

    def read(self) -> Contents:
        attributes = self._attributes()
        self._members(self.file, "/", {"episodes", "layers"}, set())
        columns = self._episodes(self._group("episodes"), extra=attributes["schema"] == SCHEMA_WITH_COLUMNS)
        layers = self._layers(self._group("layers"), len(columns["id"]))
        expected = attributes.pop("digest")
        described = [(f"layers/{name}/values", describe_values(layer.values)) for name, layer in layers.items()]
        if content_digest(attributes, [*self.small.items(), *described]) != expected:
            raise FeatureError(
                f"{self.path}: the attributes or the table of episodes do not match their digest: "
                "the file was damaged or edited; extract it again"
            )
        whole = dict.fromkeys(_OPTIONAL, "") | attributes | {"digest": expected}
        return Contents(file=self.file, attributes=whole, columns=columns, layers=layers)

    def _attributes(self) -> dict[str, Any]:
        if "schema" not in self.file.attrs:
            raise FeatureError(f"{self.path}: an HDF5 file without a 'schema' attribute, so not a feature store")
        schema = self._attribute("schema")
        if schema not in (SCHEMA, SCHEMA_WITH_COLUMNS):
            raise FeatureError(
                f"{self.path}: schema {schema!r}; this version of mnprobe reads {SCHEMA!r} and {SCHEMA_WITH_COLUMNS!r}"
            )
        present = [name for name in _OPTIONAL if name in self.file.attrs]
        attributes = {name: self._attribute(name) for name in (*_TEXTS, "step", "trained", *present)}
        extra = set(self.file.attrs) - set(attributes)
        if extra:
            raise FeatureError(f"{self.path}: unknown attributes {', '.join(sorted(extra))}")
        if attributes["side"] not in list(Side):
            raise FeatureError(f"{self.path}: attribute side must be {' or '.join(Side)}, found {attributes['side']!r}")
        if attributes["step"] < 0:
            raise FeatureError(f"{self.path}: attribute step must be >= 0, found {attributes['step']}")
        for name in ("model_config", "provenance"):
            try:
                good = isinstance(json.loads(attributes[name]), dict)
            except ValueError:
                good = False
            if not good:
                raise FeatureError(f"{self.path}: attribute {name} is not a JSON object: {attributes[name][:60]!r}")
        return attributes

    def _attribute(self, name: str) -> Any:
        if name not in self.file.attrs:
            raise FeatureError(f"{self.path}: attribute {name!r} is missing")
        kind = {"step": "iu", "trained": "b"}.get(name, "S")
        described: Any = self.file.attrs.get_id(name)
        if described.shape != () or described.dtype.kind not in kind:
            raise FeatureError(
                f"{self.path}: attribute {name!r} must be one {'text' if kind == 'S' else 'number'}, "
                f"found {described.dtype} of shape {described.shape}"
            )
        value = self.file.attrs[name]
        if kind == "S":
            return str(decode_text(np.array([value]), where=f"{self.path}: attribute {name}")[0])
        return bool(value) if kind == "b" else int(value)

    def _group(self, path: str) -> Any:
        group = self._own(self.file, path)
        if not isinstance(group, h5py.Group):
            raise FeatureError(f"{self.path}:/{path}: must be a group, found a dataset")
        return group

    def _own(self, group: Any, name: str) -> Any:
        """Return a member stored in this file; external links raise before they are followed."""
        path = f"{group.name.rstrip('/')}/{name}"
        link = group.get(name, getlink=True)
        if link is None:
            raise FeatureError(f"{self.path}:{path}: missing")
        if not isinstance(link, h5py.HardLink):
            raise FeatureError(f"{self.path}:{path}: a link to another place, which a feature store may not hold")
        return group[name]

    def _members(self, group: Any, path: str, needed: set[str], optional: set[str]) -> None:
        members = set(group)
        if needed - members:
            raise FeatureError(f"{self.path}:{path}: missing {', '.join(sorted(needed - members))}")
        if members - needed - optional:
            raise FeatureError(f"{self.path}:{path}: unexpected {', '.join(sorted(members - needed - optional))}")

    def _dataset(self, group: Any, name: str, *, small: bool, dims: int) -> Any:
        dataset = self._own(group, name)
        where = f"{self.path}:{group.name}/{name}"
        if not isinstance(dataset, h5py.Dataset):
            raise FeatureError(f"{where}: must be a dataset")
        if dataset.is_virtual or dataset.external:
            raise FeatureError(f"{where}: its data lie outside this file, which a feature store may not do")
        if dataset.shape is None or len(dataset.shape) != dims:
            raise FeatureError(f"{where}: must have {dims} dimension(s), has shape {dataset.shape}")
        if dataset.dtype.hasobject:
            raise FeatureError(f"{where}: holds entries of variable length or references; must be of fixed length")
        if small and (dataset.chunks is not None or dataset.id.get_storage_size() != dataset.nbytes):
            raise FeatureError(f"{where}: must be stored in one plain piece")
        return dataset

    def _episodes(self, group: Any, *, extra: bool) -> Columns:
        optional = {"prediction"}
        needed = {*TEXT_COLUMNS, *NUMBER_COLUMNS} - optional
        self._members(group, "/episodes", needed | ({"extra"} if extra else set()), optional)
        columns: Columns = {}
        for name in (*TEXT_COLUMNS, *NUMBER_COLUMNS):
            if name not in group:
                continue
            dataset = self._dataset(group, name, small=True, dims=1)
            place = f"{self.path}:/episodes/{name}"
            text = name in TEXT_COLUMNS
            good = dataset.dtype.kind == "S" if text else dataset.dtype == NUMBER_COLUMNS[name]
            if not good:
                wanted = "UTF-8 text of fixed length" if text else NUMBER_COLUMNS[name].name
                raise FeatureError(f"{place}: must be {wanted}, found {dataset.dtype}")
            raw = dataset[...]
            self.small[f"episodes/{name}"] = raw
            columns[name] = decode_text(raw, where=place) if text else raw
        if extra:
            columns |= self._own_columns(group)
        count = len(columns["id"])
        for name, column in columns.items():
            if len(column) != count:
                raise FeatureError(f"{self.path}:/episodes/{name}: {len(column)} rows, but there are {count} ids")
        check_columns(columns, where=self.path)
        return columns

    def _own_columns(self, episodes: Any) -> Columns:
        """Return the columns added by the user."""
        group = self._own(episodes, "extra")
        if not isinstance(group, h5py.Group):
            raise FeatureError(f"{self.path}:/episodes/extra: must be a group, found a dataset")
        columns: Columns = {}
        for name in group:
            check_column_name(name, where=self.path)
            dataset = self._dataset(group, name, small=True, dims=1)
            place = f"{self.path}:/episodes/extra/{name}"
            if name in (*TEXT_COLUMNS, *NUMBER_COLUMNS):
                raise FeatureError(f"{place}: is the name of a column of the store's own")
            text = dataset.dtype.kind == "S"
            if not text and dataset.dtype not in (np.dtype("<i8"), np.dtype("<f8"), np.dtype("?")):
                raise FeatureError(f"{place}: must be text, int64, float64 or bool, found {dataset.dtype}")
            raw = dataset[...]
            self.small[f"episodes/extra/{name}"] = raw
            columns[name] = decode_text(raw, where=place) if text else raw
        return columns

    def _layers(self, group: Any, episodes: int) -> dict[str, LayerContents]:
        if not len(group):
            raise FeatureError(f"{self.path}:/layers: there are no layers")
        return {check_layer_name(name): self._layer(name, episodes) for name in group}

    def _layer(self, name: str, episodes: int) -> LayerContents:
        path = f"layers/{name}"
        if not isinstance(self._own(self.file["layers"], name), h5py.Group):
            raise FeatureError(f"{self.path}:/{path}: must be a group")
        group = self.file[path]
        self._members(group, f"/{path}", {"values", "offsets"}, {"keyframe"})
        values = self._values(group)
        offsets = self._small(group, "offsets", "<i8", episodes + 1)
        rows = values.shape[0]
        if offsets[0] != 0 or offsets[-1] != rows or (np.diff(offsets) < 0).any():
            raise FeatureError(
                f"{self.path}:/{path}/offsets: must rise from 0 to {rows} (the rows of values), "
                f"found {offsets[0]} to {offsets[-1]}"
            )
        keyframe = self._small(group, "keyframe", "<i4", rows) if "keyframe" in group else None
        return LayerContents(values=values, offsets=offsets, keyframe=keyframe)

    def _small(self, group: Any, name: str, dtype: str, length: int) -> Array:
        dataset = self._dataset(group, name, small=True, dims=1)
        where = f"{self.path}:{group.name}/{name}"
        if dataset.dtype != np.dtype(dtype):
            raise FeatureError(f"{where}: must be {np.dtype(dtype).name}, found {dataset.dtype}")
        if dataset.shape[0] != length:
            raise FeatureError(f"{where}: must have {length} entries, found {dataset.shape[0]}")
        self.small[f"{group.name.lstrip('/')}/{name}"] = dataset[...]
        return self.small[f"{group.name.lstrip('/')}/{name}"]

    def _values(self, group: Any) -> Any:
        values = self._dataset(group, "values", small=False, dims=2)
        where = f"{self.path}:{group.name}/values"
        if values.dtype.name not in DTYPES or values.shape[1] < 1:
            raise FeatureError(f"{where}: must be (M, D) {' or '.join(DTYPES)}, found {values.dtype} {values.shape}")
        plan = values.id.get_create_plist()
        filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
        if values.chunks is None or filters != [_FLETCHER32]:
            raise FeatureError(f"{where}: must be chunked with fletcher32 checksums and no other filter")
        wanted = int(np.prod([-(-size // chunk) for size, chunk in zip(values.shape, values.chunks, strict=True)]))
        if values.id.get_num_chunks() != wanted:
            raise FeatureError(
                f"{where}: {values.id.get_num_chunks()} of {wanted} blocks are there; values are missing"
            )
        return values
