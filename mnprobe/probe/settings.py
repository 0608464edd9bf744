"""Settings of an alignment table, recorded in run.toml for repetition."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnprobe.core.commands import run_above
from mnprobe.core.provenance import canonical_json
from mnprobe.core.rundir import RunDir
from mnprobe.probe.config import AlignConfig
from mnprobe.probe.pairs import FeaturePair

__all__ = ["SETTINGS_SECTION", "check_settings", "read_settings", "record_settings"]

SETTINGS_SECTION = "align"
"""Section of run.toml: one table of settings for each config_hash of results/alignment.csv."""


def record_settings(table: Path, config: AlignConfig, pairs: Sequence[FeaturePair], **asked: object) -> None:
    """Keep under [align.<config_hash>] of the run that `table` lies in what was measured and how.

    That is `config.measurement()`, the optimiser with its steps, and in `asked` one entry for each call that was told
    apart by what it asked for: holdout, split, layers, pools, and whatever else is given here. Nothing is written where
    `table` lies in no run, or where the run says all of this already. Sections of other settings stay.

    Raises ConfigError when run.toml cannot be read, OSError when it cannot be written.
    """
    place = run_above(table)
    if place is None:
        return
    run, key, entry = RunDir(place), config.digest(), _plain(_asked(config, pairs) | asked)
    if _with(run, key, config, entry) is None:
        return
    with run.alone(SETTINGS_SECTION):  # two that align at once keep each other's entries
        sections = _with(RunDir(place), key, config, entry)  # read again: the other may have written meanwhile
        if sections is not None:
            run.record(SETTINGS_SECTION, sections)


def check_settings(table: Path) -> None:
    """Refuse a run.toml that cannot be read (ConfigError) before hours of fits, where `table` lies in a run."""
    place = run_above(table)
    if place is not None:
        read_settings(RunDir(place))


def read_settings(run: RunDir) -> dict[str, dict[str, Any]]:
    """What `record_settings` kept, by config_hash; what has another form is left out."""
    found = run.config.get(SETTINGS_SECTION)
    sections = found.items() if isinstance(found, dict) else ()
    return {str(key): section for key, section in sections if isinstance(section, dict)}


def _with(run: RunDir, key: str, config: AlignConfig, entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """All sections with this one in its place; None where it stands there already."""
    before = read_settings(run)
    old = before.get(key, {}).get("asked", [])
    calls = old if isinstance(old, list) else []
    section = _settings(config) | {"asked": calls if entry in calls else [*calls, entry]}
    return None if before.get(key) == section else before | {key: section}


def _settings(config: AlignConfig) -> dict[str, Any]:
    found = _plain(config.measurement()) | {"optimiser": "Adam"}
    if config.fit.epochs is None:
        found["optimiser_steps"] = config.fit.total_steps(0)
    return found


def _asked(config: AlignConfig, pairs: Sequence[FeaturePair]) -> dict[str, Any]:
    origins = {"u": [pair.origin_u for pair in pairs], "e": [pair.origin_e for pair in pairs]}
    found: dict[str, Any] = {"holdout": config.holdout, "split": config.split, "shuffled": config.shuffled}
    if config.split != "all":
        found["modes"] = config.modes
    for side, some in origins.items():
        found[f"layers_{side}"] = sorted({origin.layer for origin in some})
        found[f"pools_{side}"] = sorted({origin.pool for origin in some})
    return found


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As TOML has it: lists for tuples, nothing for None."""
    found: dict[str, Any] = json.loads(canonical_json(dict(values)))
    return _without_none(found)


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in values.items() if value is not None}
    return {name: _without_none(value) if isinstance(value, dict) else value for name, value in kept.items()}
