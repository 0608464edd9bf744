"""Provenance: versions, canonical configuration, its hash, the time."""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mnprobe import __version__

__all__ = ["canonical_json", "config_hash", "differences", "now", "versions"]


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal configurations give equal text.

    >>> canonical_json({"b": 1, "a": [1.5, "x"]})
    '{"a":[1.5,"x"],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def config_hash(value: Any) -> str:
    """First 16 hexadecimal digits of the SHA-256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Differences of two configurations, one text per entry; `path` is the prefix of the names.

    >>> differences({"seed": 1, "size": {"width": 8}}, {"seed": 1, "size": {"width": 9}})
    ['size.width was 8, now 9']
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        texts = []
        for name in sorted({*old, *new}):
            texts += differences(old.get(name), new.get(name), f"{path}.{name}" if path else name)
        return texts
    plain = list(new) if isinstance(new, tuple) else new
    return [] if old == plain else [f"{path} was {_short(old)}, now {_short(new)}"]


def now() -> str:
    """Current time, UTC, ISO 8601, in seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions(*packages: str) -> dict[str, str]:
    """Installed versions of mnprobe and of `packages`; 'absent' if not installed."""
    installed = {"mnprobe": __version__}
    for package in packages:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            installed[package] = "absent"
    return installed


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
