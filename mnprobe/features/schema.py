"""The feature store's schema `mnprobe.features/1`: names, types and what may lie where in the HDF5 file.

One file holds the features of one model at one training step on one source of episodes. Tokens are ragged: episode i
owns rows `offsets[i]:offsets[i+1]` of each layer's `values`.

    attributes  schema, model, side, source, step, trained, checkpoint_sha256, model_config (JSON), data_fingerprint,
                mnprobe_version, torch_version, created, provenance (JSON of everything else), digest,
                training (optional: the name of the training that the checkpoint comes from)
    /episodes/{id, task, instruction, partition}  (N,) UTF-8    /episodes/variation  (N,) int64
    /episodes/success     (N,) int8: 1, 0, -1 = not known       /episodes/prediction (N,) UTF-8, optional
    /episodes/extra/<name>   (N,) UTF-8, int64, float64 or bool: columns that the user added. Only in files of schema
                             `mnprobe.features/2`, which is the same but for these
    /layers/<name>/values    (M, D) float32 or float16, fletcher32, no compression
    /layers/<name>/offsets   (N+1,) int64
    /layers/<name>/keyframe  (M,) int32, optional: the keyframe (or clip) a token belongs to

Every byte is guarded: values by HDF5's fletcher32 sums, structure by the sums of file format 1.10, and all the rest
(attributes, episodes, offsets, keyframe) by `digest`, a SHA-256.
"""

import hashlib
import re
import struct
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

from mnprobe.core.errors import FeatureError

__all__ = [
    "CHUNK_ROWS",
    "DTYPES",
    "LIBVER",
    "MAGIC",
    "NUMBER_COLUMNS",
    "SCHEMA",
    "SCHEMA_WITH_COLUMNS",
    "SIDES",
    "TEXT_COLUMNS",
    "Side",
    "check_column_name",
    "check_layer_name",
    "content_digest",
]

SCHEMA = "mnprobe.features/1"
SCHEMA_WITH_COLUMNS = "mnprobe.features/2"
MAGIC = b"\x89HDF\r\n\x1a\n"  # how every HDF5 file begins
LIBVER = ("v110", "v110")  # the first file format whose structure carries checksums, readable since HDF5 1.10
CHUNK_ROWS = 256
DTYPES = ("float32", "float16")
Side = Literal["understanding", "execution"]
SIDES: tuple[Side, ...] = ("understanding", "execution")
TEXT_COLUMNS = ("id", "task", "instruction", "partition", "prediction")
NUMBER_COLUMNS: dict[str, np.dtype[Any]] = {"variation": np.dtype("<i8"), "success": np.dtype("i1")}
_LAYER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def check_layer_name(name: str) -> str:
    """Return `name`, or raise FeatureError: letters, digits, `_`, `-` and `.`, not beginning with `.` or `-`.

    >>> check_layer_name("blocks.3")
    'blocks.3'
    """
    if not _LAYER_NAME.fullmatch(name):
        raise FeatureError(f"layer name {name!r}: use letters, digits, '_', '-' and '.', with no '/' or space")
    return name


def check_column_name(name: str, *, where: str) -> str:
    """Return the name of a user's column, or raise FeatureError: printable text without '/', outer space or NUL.

    >>> check_column_name("scene", where="x.h5")
    'scene'
    """
    if not name.strip() or name != name.strip() or not name.isprintable() or "/" in name or set(name) == {"."}:
        raise FeatureError(
            f"{where}: an episode column cannot be called {name!r}: use printable text without '/' or outer space"
        )
    return name


def content_digest(attributes: Mapping[str, Any], arrays: Iterable[tuple[str, np.ndarray[Any, Any]]]) -> str:
    """SHA-256 over attributes and the small arrays, each with name, type and shape, so that no byte can move unseen."""
    total = hashlib.sha256()

    def add(*pieces: bytes) -> None:
        for piece in pieces:
            total.update(struct.pack("<q", len(piece)))
            total.update(piece)

    for name in sorted(attributes):
        add(name.encode(), type(attributes[name]).__name__.encode(), str(attributes[name]).encode())
    for name, array in sorted(arrays, key=lambda item: item[0]):
        add(name.encode(), array.dtype.str.encode(), repr(array.shape).encode(), np.ascontiguousarray(array).tobytes())
    return total.hexdigest()
