"""Provenance: versions, canonical configuration, its hash, the time."""

import hashlib
import json
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mnprobe import __version__

__all__ = ["canonical_json", "config_hash", "now", "versions"]


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal configurations give equal text.

    >>> canonical_json({"b": 1, "a": [1.5, "x"]})
    '{"a":[1.5,"x"],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def config_hash(value: Any) -> str:
    """First 16 hexadecimal digits of the SHA-256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


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
