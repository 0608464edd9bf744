"""What one check says: what was done, what should come out, what came out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mnprobe.core.errors import TooFewSamples

__all__ = ["BROKEN", "Check", "NotPossible", "Status"]

Status = Literal["pass", "FAIL", "not possible", "look", "reported"]
"""pass, FAIL: of the pipeline. look: the pipeline is sound, but something about the features is not. reported: a number
to set beside others, which no rule judges."""

BROKEN = "the pipeline is broken: do not trust any number that it gave"


class NotPossible(TooFewSamples):
    """The user's own episodes do not allow a check; the message says how many there are and are needed."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the doctor's report.

    Attributes:
        name: short, the same in every run.
        did: what was done.
        expected: what should come out, in words, with the interval where there is one.
        found: what came out; for `not possible`, why.
        status: see `Status`.
        meaning: what follows from a FAIL or a look; '' otherwise.
        numbers: the same as plain numbers: value, low, high, chance, n, seeds, p ...
    """

    name: str
    did: str
    expected: str
    found: str
    status: Status
    meaning: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)
