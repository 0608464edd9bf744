"""A report's data as one HTML text: Jinja with autoescape, style and images inside, nothing to fetch."""

import math
from collections.abc import Iterable
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from mnprobe.analysis.differences import MARGIN
from mnprobe.analysis.findings import Comparison
from mnprobe.analysis.report.parts import ReportData
from mnprobe.analysis.report.words import CONTROLS, GLOSSARY

__all__ = ["render"]

OPEN_UP_TO = 12  # rows: longer tables are folded


def render(data: ReportData) -> str:
    """The whole page as text; every string that comes from a file is escaped.

    The page forbids itself scripts and requests (Content-Security-Policy) and needs neither.
    """
    here = files("mnprobe.analysis.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "percent": _percent,
        "unbroken": _unbroken,
        "number": _number,
        "signed": _signed,
        "by_where": _by_where,
    }
    template = environment.from_string(here.joinpath("report.html").read_text(encoding="utf-8"))
    page = template.render(
        data=data,
        style=Markup(here.joinpath("report.css").read_text(encoding="utf-8")),  # our own file, not a user's
        controls=CONTROLS,
        glossary=GLOSSARY,
        open_up_to=OPEN_UP_TO,
        margin=f"{100 * MARGIN:g}",
    )
    return page.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")


def _percent(share: float | None, digits: int = 1) -> str:
    """0.125 as '12.5'; '' for None."""
    return "" if share is None else f"{share * 100:.{digits}f}"


def _number(share: float) -> str:
    """0.125 as '12.5'; '' where there is none."""
    return "" if math.isnan(share) else _percent(share)


def _signed(share: float) -> str:
    """0.125 as '+12.5', -0.125 with a true minus sign; 'none' where there is none."""
    return "none" if math.isnan(share) else f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}")


def _by_where(rows: Iterable[Comparison]) -> list[tuple[str, list[Comparison]]]:
    """Comparisons that share a place, in order of first appearance, under the place with a capital letter."""
    found: dict[str, list[Comparison]] = {}
    for row in rows:
        found.setdefault(f"{row.where[:1].upper()}{row.where[1:]}", []).append(row)
    return list(found.items())


def _unbroken(text: str) -> str:
    """Keep the percent sign on the line of its number."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")
