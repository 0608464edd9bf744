"""Who made a feature store and from what: the attributes of the file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mnprobe.core.arrays import as_whole
from mnprobe.core.errors import ConfigError, FeatureError
from mnprobe.core.provenance import canonical_json, now, versions
from mnprobe.features.schema import SCHEMA, SIDES, Side

__all__ = ["Header"]

_LARGEST_STEP = 10**15 - 1


@dataclass(frozen=True, kw_only=True)
class Header:
    """Identity and origin of one feature store.

    `step` counts optimiser steps of the checkpointed model; `trained` is False for random weights. `training` names the
    training that the checkpoint comes from ("baseline", "joint", ...), "" where there was none or it is not known;
    stores of one training belong together. `model_config` describes the model, `provenance` everything else that
    decided the values (layers, camera, data, seed, ...); both must be JSON. Raises FeatureError for a side that is
    none, a step that is no whole number from 0, a `trained` that is no truth value, empty names, or what JSON cannot
    hold.
    """

    model: str
    side: Side
    source: str = "demos"
    step: int = 0
    trained: bool = True
    training: str = ""
    checkpoint_sha256: str = ""
    model_config: Mapping[str, Any] = field(default_factory=dict)
    data_fingerprint: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.side not in SIDES:
            raise FeatureError(f"side must be one of {', '.join(SIDES)}, got {self.side!r}")
        try:
            object.__setattr__(self, "step", as_whole(self.step, "step"))  # also numpy's integers, and 5.0
        except ConfigError as error:
            raise FeatureError(str(error)) from None
        if not isinstance(self.trained, bool | np.bool_):
            raise FeatureError(f"trained must be True or False, got {self.trained!r}")
        object.__setattr__(self, "trained", bool(self.trained))
        if not 0 <= self.step <= _LARGEST_STEP:
            raise FeatureError(
                f"step must be >= 0, got {self.step}" if self.step < 0 else f"step must be below 10^15, got {self.step}"
            )
        for name in ("model", "source"):
            value = getattr(self, name)
            if not value or "/" in value or "\\" in value or value.startswith(".") or not value.isprintable():
                raise FeatureError(f"{name} must be a plain name that can be a folder's name, got {value!r}")
        if not self.training.isprintable():
            raise FeatureError(f"training must be a plain name or '', got {self.training!r}")

    def attributes(self, schema: str = SCHEMA) -> dict[str, str | int | bool]:
        """The attributes as written: schema, identity, JSON texts, versions and the present time.

        `training` is written only where there is one.
        """
        found = versions("torch")
        return {
            "schema": schema,
            "model": self.model,
            "side": self.side,
            "source": self.source,
            "step": self.step,
            "trained": self.trained,
            "checkpoint_sha256": self.checkpoint_sha256,
            "model_config": _json("model_config", self.model_config),
            "data_fingerprint": self.data_fingerprint,
            "mnprobe_version": found["mnprobe"],
            "torch_version": found["torch"],
            "created": now(),
            "provenance": _json("provenance", self.provenance),
            **({"training": self.training} if self.training else {}),
        }


def _json(name: str, value: Mapping[str, Any]) -> str:
    try:
        text = canonical_json(dict(value))
        json.loads(text)
    except (TypeError, ValueError) as error:
        raise FeatureError(f"{name} must hold only what JSON can hold: {error}") from error
    return text
