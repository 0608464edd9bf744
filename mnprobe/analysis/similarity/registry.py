"""The similarity indices by name: ours, and users' own through the entry-point group `mnprobe.indices`."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from mnprobe.analysis.similarity.index import Index
from mnprobe.core.errors import ConfigError
from mnprobe.core.registry import Registry, unknown_name

__all__ = ["INDICES", "make_index", "parse_options"]

INDICES = Registry("similarity index", "mnprobe.indices")
for _name, _target in {
    "cka": "cka:LinearCKA",
    "debiased_cka": "debiased_cka:DebiasedCKA",
    "minibatch_cka": "minibatch_cka:MinibatchCKA",
    "rbf_cka": "rbf_cka:RBFCKA",
    "mutual_knn": "mutual_knn:MutualKNN",
    "cknna": "cknna:CKNNA",
    "cca": "cca:CCA",
    "svcca": "svcca:SVCCA",
    "pwcca": "pwcca:PWCCA",
    "procrustes": "procrustes:Procrustes",
    "procrustes_distance": "procrustes:ProcrustesDistance",
    "rsa": "rsa:RSA",
    "ridge_cca": "ridge_cca:RidgeCCA",
    "infonce": "infonce:InfoNCEBound",
}.items():
    INDICES.add(_name, f"mnprobe.analysis.similarity.{_target}")


def make_index(name: str, options: Mapping[str, Any] | None = None) -> Index:
    """The index called `name` with its options.

    Raises ConfigError for an unknown name or option (with the nearest known one), and for an impossible value.

    >>> make_index("mutual_knn", {"k": 5})
    MutualKNN(k=5, outside=False)
    """
    kind = INDICES.load(name)
    if not (isinstance(kind, type) and issubclass(kind, Index)):
        raise ConfigError(f"similarity index {name!r} is {kind!r}, which is no subclass of Index (docs/similarity.md)")
    known = _option_types(kind)
    for option in options or {}:
        if option not in known:
            if not known:
                raise ConfigError(f"similarity index {name!r} has no options, got {option!r}")
            raise unknown_name(f"option of similarity index {name!r}:", option, list(known))
    return kind(**dict(options or {}))


def parse_options(name: str, texts: list[str]) -> dict[str, Any]:
    """Options written as `option=value`, with the type that the index `name` gives them.

    >>> parse_options("rbf_cka", ["width=0.5", "debiased=false"])
    {'width': 0.5, 'debiased': False}
    """
    known = _option_types(INDICES.load(name))
    found: dict[str, Any] = {}
    for text in texts:
        option, sign, value = text.partition("=")
        if not sign:
            raise ConfigError(f"--option must be name=value, got {text!r}")
        found[option] = _converted(option, value, known.get(option, str))
    return found


def _option_types(kind: Any) -> dict[str, type]:
    return {field.name: type(field.default) for field in fields(kind)} if hasattr(kind, "__dataclass_fields__") else {}


def _converted(option: str, value: str, kind: type) -> Any:
    if kind is bool:
        if value.lower() not in ("true", "false"):
            raise ConfigError(f"--option {option} must be true or false, got {value!r}")
        return value.lower() == "true"
    try:
        return kind(value)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise ConfigError(f"--option {option} must be {what}, got {value!r}") from None
