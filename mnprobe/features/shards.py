"""Shards: finished batches on disk, from which an interrupted job resumes."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mnprobe.core.errors import FeatureError
from mnprobe.core.files import whole_file
from mnprobe.core.job import exclusive
from mnprobe.features.extractors.base import EpisodeFeatures, LayerInfo, Tokens
from mnprobe.features.writer import beyond_type

__all__ = ["Shard", "ShardFolder"]

_DIGEST_BYTES = 32


class Shard:
    """One batch of episodes: joined tokens, lengths and keyframes of each layer, and further results.

    `skipped` gives the reason for each broken episode of the batch, by id; `remarks` are messages for the user and the
    store's provenance.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray[Any, Any]], notes: Mapping[str, Any]) -> None:
        self.arrays = arrays
        self.predictions: list[str | None] = notes["predictions"]
        self.counts: dict[str, int] = notes["counts"]
        self.layers: tuple[str, ...] = tuple(notes["layers"])
        self.model_config: dict[str, Any] = notes["model_config"]
        self.layer_info: dict[str, LayerInfo] = notes.get("layer_info", {})
        self.skipped: dict[str, str] = notes.get("skipped", {})
        self.remarks: list[str] = notes.get("remarks", [])

    @classmethod
    def of(
        cls,
        results: Sequence[EpisodeFeatures],
        layers: Sequence[str],
        dtype: str,
        model_config: Mapping[str, Any],
        *,
        names: Sequence[str] = (),
        layer_info: Mapping[str, LayerInfo] | None = None,
        skipped: Mapping[str, str] | None = None,
        remarks: Sequence[str] = (),
    ) -> "Shard":
        """Join the results of one batch; values are converted to `dtype`, the stored type.

        Raises FeatureError, naming the episode in `names`, for values that are not finite or too large for `dtype`, and
        for anything that the store's writer would reject.
        """
        arrays: dict[str, np.ndarray[Any, Any]] = {}
        layers = layers if results else ()  # a batch without valid episodes
        for layer in layers:
            tokens = [_checked_tokens(result, layer, _who(names, i)) for i, result in enumerate(results)]
            widths = {piece.values.shape[1] for piece in tokens}
            if len(widths) > 1:
                raise FeatureError(
                    f"layer {layer!r}: tokens of one batch have {sorted(widths)} numbers; one width is needed"
                )
            joined = np.concatenate([piece.values for piece in tokens])
            with np.errstate(over="ignore"):
                arrays[f"{layer}/values"] = joined.astype(dtype)
            arrays[f"{layer}/lengths"] = np.array([len(piece.values) for piece in tokens], np.int64)
            arrays[f"{layer}/keyframe"] = np.concatenate([piece.keyframe for piece in tokens]).astype(np.int32)
            if not np.isfinite(arrays[f"{layer}/values"]).all():
                raise _not_finite(layer, tokens, dtype, names)
        counts: dict[str, int] = {}
        for result in results:
            for name, number in result.counts.items():
                counts[name] = counts.get(name, 0) + int(number)
        predictions = [result.prediction for result in results]
        for i, text in enumerate(predictions):
            if text is not None and (not isinstance(text, str) or "\0" in text):
                raise FeatureError(f"{_who(names, i)}: a prediction must be text without NUL, or None, got {text!r}")
        notes = {
            "predictions": predictions,
            "counts": counts,
            "layers": list(layers),
            "model_config": dict(model_config),
            "layer_info": dict(layer_info or {}),
            "skipped": dict(skipped or {}),
            "remarks": list(remarks),
        }
        return cls(arrays, notes)

    def to_bytes(self) -> bytes:
        """SHA-256 of the payload, then the payload."""
        names = ("predictions", "counts", "layers", "model_config", "layer_info", "skipped", "remarks")
        text = np.frombuffer(json.dumps({name: getattr(self, name) for name in names}).encode(), np.uint8)
        payload = save({**self.arrays, "notes": text})
        return hashlib.sha256(payload).digest() + payload

    @classmethod
    def from_bytes(cls, data: bytes) -> "Shard | None":
        """Parse a shard; None when the bytes are not a result of `to_bytes`."""
        digest, payload = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if hashlib.sha256(payload).digest() != digest:
            return None
        try:
            arrays = load(payload)
        except SafetensorError:
            return None
        return cls(arrays, json.loads(arrays.pop("notes").tobytes()))


def _who(names: Sequence[str], number: int) -> str:
    return f"episode {names[number]}" if names else f"episode number {number} of the batch"


def _checked_tokens(result: EpisodeFeatures, layer: str, who: str) -> Tokens:
    """Apply the writer's checks to the first batch already, before everything is computed."""
    if layer not in result.layers:
        raise FeatureError(f"layer {layer!r}: the extractor gave none for {who}, only {', '.join(result.layers)}")
    tokens = result.layers[layer]
    values, keyframe = np.asarray(tokens.values), np.asarray(tokens.keyframe)
    if values.ndim != 2 or values.shape[1] == 0 or values.dtype.kind not in "fiu":
        raise FeatureError(
            f"layer {layer!r}: values of {who} must be numbers of shape (tokens, D), got {values.dtype} {values.shape}"
        )
    if keyframe.shape != (len(values),):
        raise FeatureError(f"layer {layer!r}: keyframe of {who} has shape {keyframe.shape}, not ({len(values)},)")
    return tokens


def _not_finite(layer: str, tokens: Sequence[Tokens], dtype: str, names: Sequence[str]) -> FeatureError:
    for number, piece in enumerate(tokens):
        if not np.isfinite(piece.values).all():
            who = names[number] if names else f"number {number} of the batch"
            return FeatureError(
                f"layer {layer!r}: the model gave NaN or infinite values for episode {who}. "
                "Its weights may have diverged; with --precision bf16, try float32"
            )
    with np.errstate(over="ignore"):
        number = next(i for i, piece in enumerate(tokens) if not np.isfinite(piece.values.astype(dtype)).all())
    who = f"{_who(names, number)}, " if names else ""
    return FeatureError(f"{who}layer {layer!r}: {beyond_type(tokens[number].values, dtype)}")


class ShardFolder:
    """The shards of one store: `.<file>.shards/<configuration>/00000.shard`, next to the final store."""

    def __init__(self, target: Path, configuration: str) -> None:
        self.target = target
        self.root = target.with_name(f".{target.name}.shards")
        self.folder = self.root / configuration

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the right to make this store; FeatureError while another process has it. Death releases it."""
        with exclusive(
            self.root / "lock",
            self.target,
            doing="extracting this very file",
            remedy="wait for it, or write elsewhere",
            error=FeatureError,
        ):
            yield

    def clean(self) -> None:
        """Remove shards of other configurations and incomplete files of interrupted writers. Call under the lock."""
        for path in self.root.iterdir():
            if path.is_dir() and path != self.folder:
                shutil.rmtree(path)
        halves = [*self.target.parent.glob(f".{self.target.name}.*.part"), *self.folder.glob(".*.part")]
        for path in halves:
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove all shards of the finished store, and the lock file if the system allows it."""
        shutil.rmtree(self.folder)
        shutil.rmtree(self.root, ignore_errors=True)

    def has(self, index: int) -> bool:
        """Whether shard `index` exists and is valid."""
        return self.read(index) is not None

    def read(self, index: int) -> Shard | None:
        """Shard `index`, or None when it is absent or damaged."""
        try:
            return Shard.from_bytes(self._path(index).read_bytes())
        except FileNotFoundError:
            return None

    def write(self, index: int, shard: Shard) -> None:
        """Write shard `index` atomically."""
        with whole_file(self._path(index)) as part:
            part.write_bytes(shard.to_bytes())

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:05d}.shard"
