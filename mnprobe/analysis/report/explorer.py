"""Data of the interactive t-SNE, and the embedded plotly.js."""

import base64
import gzip
import hashlib
import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mnprobe.analysis.figures.metadata import read_note
from mnprobe.analysis.report.data import Explorer
from mnprobe.analysis.report.thumbnails import MOST_THUMBNAILS, Origin, draw_thumbnails
from mnprobe.analysis.tables.run_tables import RunTables
from mnprobe.analysis.tsne.embedding import NEAREST
from mnprobe.analysis.tsne.legend import kinds
from mnprobe.core.commands import command_line, command_of
from mnprobe.core.errors import MnprobeError
from mnprobe.core.names import BLANK
from mnprobe.core.rundir import RunDir
from mnprobe.core.table import UNREADABLE, Cells

__all__ = ["MOST_POINTS", "Library", "as_json", "explorer", "packed", "plotly_library", "policy", "script_hash"]

MOST_POINTS = 20_000  # of all pictures together; the page must stay small
_COLUMNS = ("panel", "side", "model", "id", "task", "instruction", "partition", "success", "fitted", "x", "y")
_STEP = re.compile(r"[,:]?\s*steps? (\d+)(?: and (\d+))?")
_OUTCOMES = {"0": 0, "1": 1}
_NOT_OWN = {*_COLUMNS, "source", "step", "training", "own_cosine", "own_rank"}
_OF_NEIGHBORS = re.compile(r"(neighbour|cosine)_\d+")
_MOST_COLUMNS, _MOST_VALUES = 8, 60  # columns of the user's own that become filters, and different values of one
_ORDER = {"tsne": 0, "tsne-raw": 2}


@dataclass(frozen=True, kw_only=True)
class _Picture:
    """One panel of one table."""

    table: str
    title: str
    rows: pd.DataFrame
    origin: Origin
    step: int | None

    @property
    def group(self) -> str:
        """What checkpoints of one thing share: pictures of one group follow each other on a slider."""
        return f"{self.table}: {_STEP.sub('', self.title).strip(' ,:')}"


def explorer(run: RunDir | RunTables, problems: list[str]) -> Explorer | None:
    """All that results/tsne*.csv of the run show, or None where there is nothing to show.

    Tables that cannot be read are added to `problems`.
    """
    tables = RunTables.load(run)
    run = tables.run
    found: list[_Picture] = []
    paths = sorted((run.path / "results").glob("tsne*.csv"), key=lambda path: (_ORDER.get(path.stem, 1), path.stem))
    root = run.path.resolve()
    for path in paths:
        if path.resolve().is_relative_to(root):
            try:
                found += _pictures(path, tables.cells(path))
            except UNREADABLE as error:
                problems.append(f"results/{path.name} cannot be explored: {error}")
    notes, kept, total = [], list[_Picture](), 0
    for picture in found:
        total += len(picture.rows)
        if total <= MOST_POINTS or not kept:
            kept.append(picture)
    if len(kept) < len(found):
        notes.append(f"The first {len(kept)} of {len(found)} pictures; results/tsne*.csv have all of them.")
    return _explorer(run, kept, notes) if kept else None


def as_json(value: object) -> str:
    """JSON that is safe inside a script element: no character in it can end the element or open a tag.

    >>> as_json({"a": "</script>&"})
    '{"a":"\\\\u003c/script\\\\u003e\\\\u0026"}'
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _pictures(path: Path, cells: Cells) -> list[_Picture]:
    table = cells.frame()
    missing = [name for name in _COLUMNS if name not in table.columns]
    if missing:
        raise ValueError(f"it lacks the columns {', '.join(missing)}; `{command_of(path, 'tsne')}` writes it again")
    for name in ("x", "y"):
        table[name] = pd.to_numeric(table[name], errors="coerce")
        if not np.isfinite(table[name]).all():
            raise ValueError(
                f"column {name} has cells that are no number; `{command_of(path, 'tsne')}` writes it again"
            )
    return [_picture(path.stem, str(title), rows) for title, rows in table.groupby("panel", sort=False)]


def _picture(table: str, title: str, rows: pd.DataFrame) -> _Picture:
    own = rows[rows["side"] == "execution"]
    first = (own if len(own) else rows).iloc[0]
    recorded = str(first.get("step", ""))
    match = _STEP.search(title)
    step = int(recorded) if recorded.isdigit() else (int(match[2] or match[1]) if match else None)
    source = str(first.get("source", "demos")) or "demos"
    played = source.startswith("rollouts")
    origin = Origin(source.removesuffix(BLANK), str(first["model"]), step or 0) if played else Origin("demos")
    return _Picture(table=table, title=title, rows=rows.reset_index(drop=True), origin=origin, step=step)


def _explorer(run: RunDir, pictures: list[_Picture], notes: list[str]) -> Explorer:
    episodes: dict[tuple[Origin, str], list[Any]] = {}
    for picture in pictures:
        for row in picture.rows.itertuples(index=False):
            outcome = _OUTCOMES.get(str(row.success), -1)
            key = picture.origin, str(row.id)
            known = episodes.setdefault(key, [row.id, row.task, row.instruction, row.partition, outcome])
            known[4] = max(known[4], outcome)
    sheet = draw_thumbnails(run, [(*key, str(known[2])) for key, known in episodes.items()])
    if sheet.places and len(sheet.places) < len(episodes):
        few = f"Pictures are shown of {len(sheet.places)} of {len(episodes)} episodes: "
        limit = f"of {MOST_THUMBNAILS} at most, and " if len(episodes) > MOST_THUMBNAILS else ""
        notes.append(f"{few}{limit}of those whose data are still where the run had them.")
    if not sheet.places:
        notes.append("No pictures: the episodes' data are not where the run had them.")
    numbers = {key: place for place, key in enumerate(episodes)}
    models = list(dict.fromkeys(name for picture in pictures for name in picture.rows["model"]))
    steps: dict[str, int] = {}
    for picture in pictures:
        steps[picture.group] = steps.get(picture.group, 0) + 1
    qualities = _qualities(run, {picture.table for picture in pictures})
    colors = _colors(list(episodes.values()))
    columns = _own_columns(pictures, numbers, notes)
    if not any("neighbour_1" in picture.rows.columns for picture in pictures):
        again = command_line("tsne", run=run.path)
        notes.append(f"These pictures were drawn without their neighbours across the models: run `{again}` again.")
    payload = {
        "episodes": [[*known, sheet.places.get(key, -1)] for key, known in episodes.items()],
        "models": models,
        "colours": colors,
        "columns": [
            {"name": name, "values": values, "colours": _colors_of(name, values)} for name, values in columns.items()
        ],
        "sheet": {"columns": sheet.columns, "width": sheet.width, "height": sheet.height, "size": sheet.size},
        "views": [
            _view(picture, numbers, models, qualities.get((picture.table, picture.title), ""))
            | {"group": picture.group, "slides": steps[picture.group] > 1}
            for picture in pictures
        ],
    }
    return Explorer(payload=as_json(payload), sheet=sheet.image, size=sheet.size, notes=tuple(notes))


def _own_columns(
    pictures: list[_Picture], numbers: dict[tuple[Origin, str], int], notes: list[str]
) -> dict[str, list[str]]:
    """Columns of the user's own in the tables, with each episode's text; a note names those with too many values."""
    found: dict[str, list[str]] = {}
    for picture in pictures:
        places = [numbers[picture.origin, name] for name in picture.rows["id"]]
        for name in map(str, picture.rows.columns):
            if name in _NOT_OWN or _OF_NEIGHBORS.fullmatch(name):
                continue
            values = found.setdefault(name, [""] * len(numbers))
            for place, value in zip(places, picture.rows[name], strict=True):
                values[place] = values[place] or str(value)
    wide = [name for name, values in found.items() if len(set(values)) > _MOST_VALUES]
    wide += [name for name in found if name not in wide][_MOST_COLUMNS:]
    if wide:
        notes.append(
            f"No filter by {', '.join(wide)}: {_MOST_COLUMNS} columns of at most {_MOST_VALUES} values have one."
        )
    return {name: values for name, values in found.items() if name not in wide}


def _colors_of(name: str, values: list[str]) -> dict[str, str]:
    """Colour of each value of a column; episodes without one have the value ''."""
    return {str(kind.instruction): kind.color for kind in kinds([(name, value) for value in values], by="instruction")}


def _view(
    picture: _Picture, numbers: dict[tuple[Origin, str], int], models: list[str], quality: str
) -> dict[str, object]:
    rows = picture.rows
    shared = rows["side"].nunique() == 2
    places = [numbers[picture.origin, name] for name in rows["id"]]
    near: list[list[float]] = []
    if "neighbour_1" in rows.columns:
        near = [_near(row, picture.origin, numbers) for row in rows.to_dict("records")]
    return {
        "table": picture.table,
        "title": picture.title,
        "step": picture.step,
        "shared": shared,
        "quality": quality,
        "episode": places,
        "side": [0 if side == "understanding" else 1 for side in rows["side"]],
        "model": [models.index(name) for name in rows["model"]],
        "x": [round(float(value), 3) for value in rows["x"]],
        "y": [round(float(value), 3) for value in rows["y"]],
        "fitted": [int(str(value).lower() == "true") for value in rows["fitted"]],
        "near": near,
    }


def _near(row: dict[Any, Any], origin: Origin, numbers: dict[tuple[Origin, str], int]) -> list[float]:
    """[own cosine, own rank, episode, cosine, episode, cosine, ...]; empty where the table has none."""
    own = [_number(row.get("own_cosine", "")), _number(row.get("own_rank", ""))]
    if any(value is None for value in own):
        return []
    found = [float(value) for value in own if value is not None]
    for place in range(1, NEAREST + 1):
        number = numbers.get((origin, str(row.get(f"neighbour_{place}", ""))))
        cosine = _number(row.get(f"cosine_{place}", ""))
        if number is not None and cosine is not None:
            found += [number, cosine]
    return found


def _number(cell: object) -> float | None:
    try:
        value = float(str(cell))
    except ValueError:
        return None
    return round(value, 3) if np.isfinite(value) else None


def _colors(episodes: list[list[Any]]) -> dict[str, dict[str, str]]:
    """Colours by instruction, by 'task\\ninstruction', and by task."""
    pairs = [(str(known[1]), str(known[2])) for known in episodes]
    by_task = {kind.task: kind.color for kind in kinds(pairs, by="task")}
    by_pair = {f"{kind.task}\n{kind.instruction}": kind.color for kind in kinds(pairs, by="instruction")}
    return {"task": by_task, "instruction": by_pair}


def _qualities(run: RunDir, tables: set[str]) -> dict[tuple[str, str], str]:
    """Trustworthiness, purity, N and perplexity of each panel, from the figure's note."""
    found = {}
    for table in tables:
        try:
            note = read_note(run.figures / table)
        except MnprobeError:
            continue  # the figure itself says that its note cannot be read
        panels = note.facts.get("panels") if note is not None else None
        for facts in panels if isinstance(panels, list) else []:
            if isinstance(facts, dict):
                found[table, str(facts.get("title", ""))] = _quality(facts)
    return found


def _quality(facts: dict[str, Any]) -> str:
    pieces = [str(facts.get("subtitle", ""))]
    for name, words in (("trustworthiness", "trustworthiness {:.3f}"), ("purity", "instruction purity {:.2f}")):
        if isinstance(facts.get(name), int | float):
            of = f" of {facts['purity_of']} points" if name == "purity" and facts.get("purity_of") else ""
            count = facts.get("neighbours" if name == "trustworthiness" else "purity_neighbours")
            chance = facts.get("purity_chance") if name == "purity" else None
            aside = [f"k = {count}"] if count else []
            aside += [f"chance {chance:.2f}"] if isinstance(chance, int | float) else []
            pieces.append(words.format(facts[name]) + of + (f" ({', '.join(aside)})" if aside else ""))
    for name, words in (("n_points", "N = {:.0f} points"), ("perplexity", "perplexity {:g}")):
        if isinstance(facts.get(name), int | float):
            pieces.append(words.format(facts[name]))
    return "; ".join(piece for piece in pieces if piece)


@dataclass(frozen=True, kw_only=True)
class Library:
    """plotly.js as the page carries it: `packed` is base64 of gzip, `digest` what the policy calls its text."""

    packed: str
    digest: str
    version: str


@cache
def plotly_library() -> Library:
    """plotly.js out of the Python package plotly, so that its version is the one that pip installed.

    4.8 MB shrink to 2 MB; the browser unpacks them when the plot comes into view (DecompressionStream).
    """
    source = files("plotly").joinpath("package_data/plotly.min.js").read_bytes()
    head = source[:200].decode("utf-8", "replace")
    version = next((word for word in head.split() if word[:1] == "v" and word[1:2].isdigit()), "")
    return Library(packed=packed(source), digest=script_hash(source), version=version)


def packed(content: bytes) -> str:
    """Compressed by gzip, in base64: what the page's scripts unpack. The same content gives the same text."""
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode("ascii")


def script_hash(text: bytes) -> str:
    """The name of a script in a Content-Security-Policy: only a text with this hash may run.

    >>> script_hash(b"1")
    "'sha256-a4ayc/80/OGda4BO/1o/V0etpOqiLx1JwB5S3beHW0s='"
    """
    return f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode('ascii')}'"


def policy(*scripts: str) -> str:
    """The page's Content-Security-Policy: no request, images and style from inside, and only scripts of these hashes.

    >>> policy()
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    """
    allowed = f"; script-src {' '.join(scripts)}" if scripts else ""
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'{allowed}"
