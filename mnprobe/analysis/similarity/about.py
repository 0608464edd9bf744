"""What every similarity index says about itself: name, range, direction, invariances, source, smallest N."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["About", "Invariance"]

Invariance = Literal["orthogonal", "scale", "translation", "linear"]
"""Changes of one side's features that leave a value alone: rotation or reflection, one positive factor for all, one
vector added to every row, any invertible linear map."""


@dataclass(frozen=True, kw_only=True)
class About:
    """The declaration of an index; its invariances are tested as laws, those not declared as not holding.

    Attributes:
        name: the registered name.
        title: what people read.
        symbol: short, for axes and colour bars.
        formula: the definition in one line of plain text.
        low: smallest value there can be.
        high: largest value there can be; infinite where it depends on the data.
        higher_is_alike: True for similarities, False for distances.
        invariances: see `Invariance`.
        source: paper and equation.
        smallest: fewest rows for which it is defined.
        unbiased: True where independent features give 0 on average whatever N and the widths are.
        remark: what a reader must know besides.
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
