"""Training settings from options, a preset and `--set KEY=VALUE`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnprobe.training import TrainConfig

__all__ = ["changed", "over_updates", "read_settings"]


def read_settings(pairs: Sequence[str], *, own: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the settings of `--set`, by dotted key, into those given by dedicated options.

    `own` names the dedicated option of a key, which `--set` must not set.

    Raises ConfigError for text other than KEY=VALUE, repeated keys, and keys with a dedicated option.
    """
    from mnprobe.core.errors import ConfigError
    from mnprobe.features.extractors.base import parse_options

    for pair in pairs:
        if "=" not in pair[1:]:
            raise ConfigError(f"--set must be KEY=VALUE, such as policy.kind=lamb; got {pair!r}")
    settings = dict(given)
    for key, value in parse_options(pairs).items():
        if key in given:
            raise ConfigError(f"--set {key}: is given by another option too; leave one of them out")
        if key in own:
            raise ConfigError(f"--set {key}: is an option of its own; write {own[key]}")
        settings[key] = value
    return settings


def over_updates(base: "TrainConfig", updates: int | None) -> dict[str, Any]:
    """Settings that follow from another number of updates: scaled warm-ups. None changes nothing."""
    if updates is None:
        return {}
    parts = {"video": base.video, "policy": base.policy, "align": base.align}
    warmups = {f"{name}.warmup": round(part.warmup * updates / base.updates) for name, part in parts.items()}
    return {"updates": updates, **warmups}


def changed(base: "TrainConfig", settings: Mapping[str, Any]) -> "TrainConfig":
    """Return `base` with these settings; "policy.lr" is the learning rate of the policy's optimiser.

    Raises ConfigError for an unknown key or an invalid value.
    """
    from mnprobe.core.errors import ConfigError
    from mnprobe.training import TrainConfig

    values = base.to_dict()
    for key, value in settings.items():
        section, _, entry = key.partition(".")
        if not entry:
            values[section] = _like(values.get(section), value)
        elif isinstance(values.get(section), dict):
            values[section] = values[section] | {entry: _like(values[section].get(entry), value)}
        else:
            raise ConfigError(
                f"--set {key}: there are no settings below {section!r}; known are viclip, arp, video, policy, align"
            )
    if values["clip_norm"] == 0:
        values["clip_norm"] = None
    return TrainConfig.from_dict(values)


def _like(before: Any, value: Any) -> Any:
    """Convert 1 to 1.0 for a float setting, so that equal settings compare equal."""
    return float(value) if isinstance(before, float) and type(value) is int else value
