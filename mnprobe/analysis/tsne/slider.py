"""HTML page of a t-SNE over training with a slider, offline and escaped."""

import base64
import hashlib
import json
from dataclasses import dataclass, fields
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd

from mnprobe.analysis.tsne.embedding import Quality, quality_lines
from mnprobe.analysis.tsne.legend import kinds

__all__ = ["MOST_POINTS", "Slider", "series_slider", "slider_page"]

MOST_POINTS = 3000  # of one map: of more, evenly chosen episodes are shown
_NOT_IN_SCRIPT = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


@dataclass(frozen=True, kw_only=True)
class Slider:
    """The three parts of a slider, to be put into a page; `style` and `script` are the same for every slider.

    `markup` holds the data (as inert JSON) and the text, and may occur in a page many times.
    """

    markup: str
    style: str
    script: str

    @property
    def fragment(self) -> str:
        """All three parts together, to paste into a page that allows scripts."""
        return f"<style>\n{self.style}</style>\n{self.markup}<script>{self.script}</script>\n"

    @property
    def policy(self) -> str:
        """Content-Security-Policy under which the slider works and nothing else is run or fetched."""
        return (
            f"default-src 'none'; img-src data:; style-src {_digest(chr(10) + self.style)}; "
            f"script-src {_digest(self.script)}"
        )


def series_slider(coordinates: pd.DataFrame, quality: pd.DataFrame, *, color: str = "auto", note: str = "") -> Slider:
    """A slider from the tables results/tsne-series.csv and results/map-quality.csv.

    Args:
        coordinates: as `series_coordinates` makes it.
        quality: as `quality_table` makes it.
        color: 'auto', 'instruction' or 'task'.
        note: text below the maps.
    """
    here = files("mnprobe.analysis.tsne")
    data, cut = _data(coordinates, quality, color)
    text = " ".join(part for part in (cut, note) if part)
    inert = json.dumps(data, separators=(",", ":")).translate(_NOT_IN_SCRIPT)
    markup = (
        '<div class="mnprobe-tsne-series">\n'
        f'<script type="application/json">{inert}</script>\n'
        "<noscript>Scripts are off: the figure tsne-series shows the same maps side by side.</noscript>\n"
        f'</div>\n<p class="mnprobe-tsne-note">{escape(_text(text))}</p>\n'
    )
    return Slider(
        markup=markup,
        style=here.joinpath("tsne_slider.css").read_text(encoding="utf-8"),
        script=here.joinpath("tsne_slider.js").read_text(encoding="utf-8"),
    )


def slider_page(slider: Slider, title: str) -> str:
    """A whole page around a slider, for a file of its own; it forbids itself everything but this slider."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(slider.policy)}">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(_text(title))}</title>\n</head>\n"
        f'<body class="mnprobe-tsne-page">\n<h1>{escape(_text(title))}</h1>\n{slider.fragment}</body>\n</html>\n'
    )


def _data(coordinates: pd.DataFrame, quality: pd.DataFrame, color: str) -> tuple[dict[str, Any], str]:
    table, cut = _few(coordinates)
    table = table.assign(training=table["training"].fillna(""))
    quality = quality.assign(training=quality["training"].fillna(""))
    steps = sorted({int(step) for step in table["step"]})
    maps = dict(list(table.groupby(["training", "step"], sort=False)))
    first = next(iter(maps.values()))
    pairs = list(zip(first["task"].map(_text), first["instruction"].map(_text), strict=True))
    named = kinds(pairs, by=color)
    place = {(kind.task, kind.instruction): row for row, kind in enumerate(named)}
    furthest = float(table[["x", "y"]].abs().to_numpy().max()) or 1.0
    trainings = [
        {
            "name": _text(name),
            "models": dict(zip(own["side"].map(_text), own["model"].map(_text), strict=True)),
            "maps": [_map(maps.get((name, step)), quality, name, step, furthest) for step in steps],
        }
        for name, own in table.groupby("training", sort=False)
    ]
    points = {
        "id": first["id"].map(_text).tolist(),
        "instruction": [instruction for _, instruction in pairs],
        "side": first["side"].map(_text).tolist(),
        "kind": [place.get(pair, place.get((pair[0], None), 0)) for pair in pairs],
    }
    shown = [
        {"task": kind.task, "colour": kind.color, "label": kind.instruction if kind.instruction else kind.task}
        for kind in named
    ]
    return {"steps": steps, "kinds": shown, "points": points, "trainings": trainings}, cut


def _map(
    part: pd.DataFrame | None, quality: pd.DataFrame, training: object, step: int, furthest: float
) -> dict[str, object] | None:
    if part is None:
        return None
    spots = np.rint(part[["x", "y"]].to_numpy() * (960.0, -960.0) / furthest).astype(int)
    rows = quality[(quality["training"] == training) & (quality["step"] == step)]
    names = [field.name for field in fields(Quality)]
    found = [Quality(**{name: row[name] for name in names}) for row in rows.to_dict("records")]
    fitted = part["fitted"].to_numpy(dtype=bool)
    pale = fitted & (not fitted.all())
    return {
        "xy": spots.ravel().tolist(),
        "pale": "".join("1" if one else "0" for one in pale),
        "quality": "\n".join(quality_lines(found)) if found else "",
    }


def _few(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """At most MOST_POINTS points of each map, by episodes, and words for what is missing."""
    ids = list(dict.fromkeys(table["id"]))
    points = len(table) // max(1, len(table.groupby(["training", "step"], dropna=False)))
    if points <= MOST_POINTS:
        return table, ""
    count = max(1, len(ids) * MOST_POINTS // points)
    chosen = {ids[round(spot)] for spot in np.linspace(0, len(ids) - 1, count)}
    return table[table["id"].isin(chosen)], f"{count} of {len(ids)} episodes are shown, evenly chosen."


def _text(value: object) -> str:
    """Text that HTML can hold."""
    words = "" if pd.isna(value) else str(value)  # type: ignore[call-overload]  # any scalar will do
    return words.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
