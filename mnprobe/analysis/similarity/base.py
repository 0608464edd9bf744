"""The similarity index protocol, descriptions of indices, and the registry."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar, Literal, cast, final

import numpy as np
from numpy.typing import NDArray

from mnprobe.analysis.similarity._arrays import (
    Codes,
    Rows,
    as_codes,
    as_rows,
    centered,
    in_range,
    memory_told,
    require_memory,
    rounding,
    varying,
)
from mnprobe.core.arrays import Array
from mnprobe.core.errors import ConfigError, FeatureError, ProbeError, TooFewSamples
from mnprobe.core.labels import Labels
from mnprobe.core.registry import Registry, unknown_name

__all__ = [
    "INDICES",
    "About",
    "Index",
    "Invariance",
    "MatrixIndex",
    "MatrixRelation",
    "Relation",
    "make_index",
    "parse_options",
]

Invariance = Literal["orthogonal", "scale", "translation", "linear"]
"""Changes of one side's features that leave a value alone: rotation or reflection, one positive factor for all, one
vector added to every row, any invertible linear map."""


@dataclass(frozen=True, kw_only=True)
class About:
    """The declaration of an index; its invariances are tested as laws, those not declared as not holding.

    Attributes:
        name: the registered name.
        title: name in text.
        symbol: short, for axes and color bars.
        formula: the definition in one line of plain text.
        low: smallest value there can be.
        high: largest value there can be; infinite where it depends on the data.
        higher_is_alike: True for similarities, False for distances.
        invariances: see `Invariance`.
        source: paper and equation.
        smallest: minimum number of rows.
        unbiased: True where independent features give 0 on average whatever N and the widths are.
        remark: further limitations.
        tolerance: how exactly the invariances hold in floating point, relative to 1.
    """

    name: str
    title: str
    symbol: str
    formula: str
    low: float
    high: float
    higher_is_alike: bool = True
    invariances: frozenset[Invariance]
    source: str
    smallest: int
    unbiased: bool = False
    remark: str = ""
    tolerance: float = 1e-8


ROUNDED = 8 / 1e-12  # errors of a product by rounding, in units of what counts as zero
_BLOCK = 1 << 23  # numbers of permuted matrices held at once: 64 MiB


class Relation(ABC):
    """Two prepared sides that belong together, ready to be permuted against each other."""

    @abstractmethod
    def value(self, order: Codes | None = None) -> float:
        """The index when row i of one side meets row `order[i]` of the other; row i meets row i without an order.

        Whatever belongs to the place and not to the features (groups, batches, folds) stays where it is.
        """

    def values(self, orders: NDArray[np.int64]) -> Rows:
        """`value` for every row of `orders` (K, N)."""
        return np.array([self.value(order) for order in orders], dtype=np.float64)


class Index(ABC):
    """A similarity index; subclasses are frozen dataclasses whose fields are its options.

    To add one of your own, subclass it, and name it under the entry-point group `mnprobe.indices`
    (`yourname = "package.module:YourIndex"`); see docs/similarity.md.
    """

    about: ClassVar[About]
    held: ClassVar[int] = 0
    """How many (N, N) matrices of float64 one prepared side holds; two more are there while it is made."""

    @abstractmethod
    def prepare(self, values: Rows, groups: Codes) -> Any:
        """All that depends on one side alone.

        `values` (N, D) are finite float64, and of a size near 1 where the given ones were of no ordinary size and
        `about` says that no factor changes the index; `groups` (N,) are numbers of groups.
        """

    @abstractmethod
    def relate(self, one: Any, other: Any) -> Relation:
        """Join two prepared sides of the same N rows."""

    @final
    def options(self) -> dict[str, Any]:
        """Names and values of the options in use."""
        return (
            {field.name: getattr(self, field.name) for field in fields(cast(Any, self))} if is_dataclass(self) else {}
        )

    @final
    def ready(self, values: Array, groups: Labels | None = None, *, name: str = "x") -> Any:
        """Check features and groups (each row its own where left out), then `prepare` them.

        Raises FeatureError for wrong shapes or values that are not finite, TooFewSamples for fewer rows than
        `about.smallest`, ProbeError where the features leave the index undefined (such as all rows equal) or float64
        has too few digits for them, TooLittleMemory where the machine cannot hold what is needed.
        """
        rows = as_rows(values, name)
        about, n = self.about, len(rows)
        if n < about.smallest:
            raise TooFewSamples(f"{about.title} needs at least {about.smallest} rows, {name} has {n}")
        codes = as_codes(groups, n)
        if "scale" in about.invariances:
            shifts = "translation" in about.invariances
            rows, _ = in_range(rows, name=name, title=about.title, translation=shifts)
        if self.held:
            require_memory(about.title, n, self.held + 2)
        with memory_told(about.title, n):
            return self.prepare(rows, codes)

    @final
    def relation(self, x: Array, y: Array, groups: Labels | None = None) -> Relation:
        """Both sides checked, prepared and joined; errors as `ready`."""
        one, other = as_rows(x, "x"), as_rows(y, "y")
        if len(one) != len(other):
            raise FeatureError(f"x and y must have one row per episode each, got {len(one)} and {len(other)} rows")
        if self.held:
            require_memory(self.about.title, len(one), 2 * self.held + 2)
        with memory_told(self.about.title, len(one)):
            return self.relate(self.ready(one, groups, name="x"), self.ready(other, groups, name="y"))

    @final
    def score(self, x: Array, y: Array, groups: Labels | None = None) -> float:
        """The index between x (N, p) and y (N, q), row i of both belonging together."""
        relation = self.relation(x, y, groups)
        with memory_told(self.about.title, len(x)):
            return relation.value()


class MatrixRelation(Relation):
    """The sum over all entries of one symmetric (N, N) matrix times another."""

    def __init__(self, one: Rows, other: Rows) -> None:
        self.one = one
        self.other = other

    def value(self, order: Codes | None = None) -> float:
        """See `Relation.value`."""
        other = self.other if order is None else self.other.take(order, 0).take(order, 1)
        return float(np.vdot(self.one, other))


class MatrixIndex(Index):
    """An index that is the inner product of two matrices, one of each side, whose rows and columns are episodes.

    Permuting episodes permutes such a matrix, so nothing is computed again, and one permuted matrix serves every layer
    of the other side.
    """

    held = 1

    @abstractmethod
    def matrix(self, values: Rows) -> Rows:
        """The symmetric (N, N) matrix of one side, not yet scaled."""

    @final
    def prepare(self, values: Rows, groups: Codes) -> Rows:
        """`matrix`, scaled to Frobenius norm 1; ProbeError when it is all zeros."""
        found = self.matrix(values)
        norm = float(np.linalg.norm(found))
        if not norm > 1e-12 * self.size(values):
            alike = "" if varying(values).any() else " (collapsed embeddings?)"
            raise ProbeError(
                f"{self.about.title} is not defined for these features: {len(values)} rows that do not differ "
                f"in any way it looks at{alike}"
            )
        return found / norm

    def size(self, values: Rows) -> float:
        """The size that a matrix of such features has unless everything cancels; tells zero from rounding.

        Here that of inner products of centered rows, and what an offset leaves of them by rounding.
        """
        if "translation" not in self.about.invariances:
            return float(np.einsum("nd,nd->", values, values))
        middle = float(np.linalg.norm(centered(values)))
        return middle * (middle + ROUNDED * rounding(values))

    @final
    def relate(self, one: Rows, other: Rows) -> MatrixRelation:
        """See `Index.relate`."""
        return MatrixRelation(one, other)

    @staticmethod
    def permuted(ones: list[Rows], other: Rows, orders: NDArray[np.int64]) -> Rows:
        """Values (len(ones), K) of many first sides against one second side in K orders: one product per block."""
        flat = np.stack([one.reshape(-1) for one in ones])
        found = np.empty((len(ones), len(orders)))
        step = max(1, _BLOCK // other.size)
        block = np.empty((min(step, len(orders)), other.size))
        for start in range(0, len(orders), step):
            part = orders[start : start + step]
            for place, order in enumerate(part):
                np.take(other.take(order, 0), order, 1, out=block[place].reshape(other.shape))
            found[:, start : start + len(part)] = flat @ block[: len(part)].T
        return found


INDICES = Registry("similarity index", "mnprobe.indices")
for _name, _target in {
    "cka": "cka:LinearCKA",
    "debiased_cka": "cka:DebiasedCKA",
    "minibatch_cka": "cka:MinibatchCKA",
    "rbf_cka": "cka:RBFCKA",
    "mutual_knn": "neighbors:MutualKNN",
    "cknna": "neighbors:CKNNA",
    "cca": "cca:CCA",
    "svcca": "cca:SVCCA",
    "pwcca": "cca:PWCCA",
    "procrustes": "procrustes:Procrustes",
    "procrustes_distance": "procrustes:ProcrustesDistance",
    "rsa": "rsa:RSA",
    "ridge_cca": "cca:RidgeCCA",
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
