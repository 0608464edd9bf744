"""A report's data as one HTML text: Jinja with autoescape, style and images inside, nothing to fetch."""

import math
from collections.abc import Iterable
from importlib.resources import files

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from mnprobe.analysis.differences import MARGIN
from mnprobe.analysis.findings import Comparison
from mnprobe.analysis.report.library import plotly_library, policy, script_hash
from mnprobe.analysis.report.parts import ReportData
from mnprobe.analysis.report.words import CONTROLS, GLOSSARY

__all__ = ["read_piece", "render", "render_page"]

OPEN_UP_TO = 12  # rows: longer tables are folded


_PAGES = ("report.html", "pieces.html", "explorer.html", "side_by_side.html")


def render(data: ReportData) -> str:
    """The whole page as text; every string that comes from a file is escaped.

    The page forbids itself all requests (Content-Security-Policy). Without an interactive plot it has no script; with
    one, only the two scripts whose hashes the policy names may run: ours and plotly.js.
    """
    words = {"controls": CONTROLS, "glossary": GLOSSARY, "open_up_to": OPEN_UP_TO, "margin": f"{100 * MARGIN:g}"}
    if data.explorer is None:
        return render_page("report.html", policy=policy(), data=data, **words)
    script, library = read_piece("explorer.js"), plotly_library()
    return render_page(
        "report.html",
        policy=policy(script_hash(script.encode("utf-8")), library.digest),
        data=data,
        script=Markup(script),  # our own file, not a user's
        library=library,
        payload=Markup(data.explorer.payload),  # `as_json` left no character in it that could end the element
        **words,
    )


def render_page(name: str, **values: object) -> str:
    """One of the page templates with `values`, as text that is valid UTF-8."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=DictLoader({page: read_piece(page) for page in _PAGES}),
    )
    environment.filters |= {
        "percent": _percent,
        "unbroken": _unbroken,
        "number": _number,
        "signed": _signed,
        "by_where": _by_where,
    }
    style = Markup(read_piece("report.css") + read_piece("explorer.css"))  # our own files, not a user's
    page = environment.get_template(name).render(style=style, **values)
    return page.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")


def read_piece(name: str) -> str:
    """The text of a file of this package."""
    return files("mnprobe.analysis.report").joinpath(name).read_text(encoding="utf-8")


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
