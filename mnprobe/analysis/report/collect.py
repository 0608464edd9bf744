"""Collecting a report's content from a run directory."""

import base64
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from mnprobe.analysis.audit.findings import audited, findings
from mnprobe.analysis.figures.curve import curve_progress
from mnprobe.analysis.figures.curve_data import CurveData, curve_data
from mnprobe.analysis.figures.metadata import read_note
from mnprobe.analysis.report.data import Episodes, Figure, Headline, Missing, Model, ReportData, Shaped, Table
from mnprobe.analysis.report.explorer import explorer, packed
from mnprobe.analysis.report.overview import Plot, answer_cards, plot_curve, plot_progress, warning_lines
from mnprobe.analysis.report.summary import (
    CONDENSED,
    caveats,
    condensed,
    contrasts,
    headlines,
    judgements,
    last_points,
    probe_settings,
    summary,
)
from mnprobe.analysis.tables.paper import TABLES, grid_of, shaped_table
from mnprobe.analysis.tables.progress import MEASURED_RECOGNITION, world_note
from mnprobe.analysis.tables.rollouts import SUCCESS
from mnprobe.analysis.tables.run_tables import RunTables
from mnprobe.core.commands import command_line, option_line, shell_line
from mnprobe.core.errors import FeatureError, MnprobeError
from mnprobe.core.files import sha256_file
from mnprobe.core.names import PIXELS, ModelName, Side, blanked
from mnprobe.core.provenance import config_hash, now, versions
from mnprobe.core.rundir import RunDir
from mnprobe.core.table import UNREADABLE
from mnprobe.features import open_features
from mnprobe.features.store import worlds_of

__all__ = ["ReportData", "gather"]

if TYPE_CHECKING:
    from PIL import Image


MOST_ROWS = 2000  # of one table; the file in results has them all
MOST_CELLS = 2_000  # of one table: a wide one is cut sooner
FEWEST_ROWS = 50  # of any table
_LARGEST_SVG = 2_000_000  # bytes
_PLACES = re.compile(r' (?:d|x|y|points|transform)="[^"]*"')
_DIGITS = re.compile(r"(\d\.\d\d)\d+")  # places are in points: a hundredth is not seen
_WEBP_EDGE = 16383  # pixels: what the format can hold
_PACKAGES = ("torch", "numpy", "scikit-learn", "pandas", "matplotlib", "openTSNE", "h5py")
_MAKERS = {"alignment": "align", "curve": "curve", "tsne": "tsne", "recognition": "recognize"}
_MAKERS |= {"predictions": "recognize", "success": "rollout", "ablation": "ablate", "similarity": "compare"}
_MAKERS |= {"success_contrast": "success"}
_MAKERS |= dict.fromkeys(("leakage", "controls", "decomposition", "verdict"), "audit")


def gather(run: RunDir | RunTables, *, explore: bool = True) -> ReportData:
    """Collect what the run holds. Only an unreadable run.toml is an error; all else becomes part of the report.

    `explore`: with the points, neighbours and thumbnails of the interactive t-SNE.
    """
    problems: list[str] = []
    tables = RunTables.load(run)
    run = tables.run
    models, episodes = _features(run, problems)
    figures = _figures(run)
    results = _tables(tables)
    headline, sentences, doubts, probe, curve = _measured(tables, problems)
    answers = findings(tables, problems)
    shaped = tuple(_shaped(tables, number, problems) for number in TABLES)
    judgement = judgements(tables, problems)
    compared = contrasts(tables, problems)
    points = explorer(tables, problems) if explore else None
    episodes_found, worlds = _episodes(episodes), sorted({name for model in models for name in model.worlds})
    cut = {name: table for name in CONDENSED if (table := condensed(tables, name)) is not None}
    return ReportData(
        name=run.name,
        path=str(run.path),
        command=command_line("report", run=run.path),
        created=now(),
        run_created=str(run.config.get("run", {}).get("created", ""))
        if isinstance(run.config.get("run"), dict)
        else "",
        config_hash=config_hash(json.loads(json.dumps(run.config, default=str))),
        config=run.config_path.read_text(encoding="utf-8"),
        versions=versions(*_PACKAGES),
        episodes=episodes_found,
        world=world_note(worlds),
        facts=tuple(_facts(models, episodes_found, headline, worlds)),
        cards=answer_cards(answers),
        plot=None if curve is None else plot_curve(curve),
        progress=tuple(_progress(tables, curve, problems)),
        warnings=warning_lines(doubts, [*(found for one in judgement for found in one.findings), *answers]),
        models=models,
        figures=figures,
        tables=results,
        missing=_missing(run, models, figures),
        problems=tuple(problems),
        findings=answers,
        shaped=shaped,
        headline=headline,
        summary=sentences,
        caveats=doubts,
        judgements=judgement,
        contrasts=compared,
        condensed=cut,
        explorer=points,
        hashes=_hashes(run),
        seeds=tuple(_seeds(run.config)),
        probe=probe,
    )


def _hashes(run: RunDir) -> tuple[tuple[str, str], ...]:
    """SHA-256 of every table and figure that this page shows."""
    paths = [*_inside(run, run.path / "results", "*.csv"), *_inside(run, run.figures, "*.png")]
    return tuple((_relative(path, run), sha256_file(path)) for path in paths)


def _seeds(config: object, place: str = "") -> Iterator[tuple[str, str]]:
    """Every setting of run.toml that is called a seed, as ('section.name', value)."""
    for name, value in config.items() if isinstance(config, dict) else ():
        if isinstance(value, dict):
            yield from _seeds(value, f"{place}{name}.")
        elif str(name).endswith(("seed", "seeds")) and not isinstance(value, str):
            yield f"{place}{name}", str(value)


_Measured = tuple[tuple[Headline, ...], tuple[str, ...], tuple[str, ...], Table | None, CurveData | None]


def _measured(tables: RunTables, problems: list[str]) -> _Measured:
    """Headline, summary, caveats and the settings of the probe; empty where nothing was measured."""
    probe = None
    try:
        table = tables.alignment
        if table is None:
            return (), (), (), None, None
        probe = probe_settings(tables.run, table)
        data, curve = last_points(table), curve_data(table)
    except MnprobeError as error:
        problems.append(f"No headline: {error}")
        return (), (), (), probe, None
    doubts = caveats(data.points, table, data.notes, audited(tables))
    return headlines(data.points), summary(data.points), doubts, probe, curve


def _progress(tables: RunTables, curve: CurveData | None, problems: list[str]) -> Iterator[Plot]:
    """Recognition and success over training, of the models of the curve."""
    if curve is None:
        return
    try:
        found = curve_progress(curve, tables.table(MEASURED_RECOGNITION), tables.table(SUCCESS))
    except MnprobeError as error:
        problems.append(f"No recognition or success over training: {error}")
        return
    for number, one in enumerate(found, start=1):
        plot = plot_progress(one, name=f"progress-{number}", axis=curve.axis)
        if plot is not None:
            yield plot


def _facts(
    models: tuple[Model, ...], episodes: Episodes, headline: tuple[Headline, ...], worlds: list[str]
) -> Iterator[str]:
    """What was compared, in one line: models, world, episodes, steps, seeds of the heads."""
    for side in (Side.UNDERSTANDING, Side.EXECUTION):
        names = {model.id.model for model in models if model.id.side == side and not model.id.model.startswith(PIXELS)}
        if names:
            kinds = Counter(ModelName.parse(name).without_seed for name in names)
            shown = [f"{name} ({count} seeds)" if count > 1 else name for name, count in sorted(kinds.items())]
            yield f"{'u watches' if side == Side.UNDERSTANDING else 'e acts'}: {', '.join(shown)}"
    if worlds:
        yield f"world: {', '.join(worlds)}"
    if episodes.total:
        yield f"{episodes.total:,} demonstrations, {episodes.instructions} instructions, {episodes.tasks} tasks"
    claims = [line for line in headline if line.is_claim]
    if claims:
        last = max(line.step for line in claims)
        yield f"last step {last:,}"
        yield f"{claims[0].n_seeds} probe seed{'s' if claims[0].n_seeds != '1' else ''}"


def _shaped(tables: RunTables, number: int, problems: list[str]) -> Shaped:
    _, maker, _ = TABLES[number]
    empty = Shaped(number=number, title=f"Table {number}", command=command_line(maker, run=tables.run.path))
    try:
        made = shaped_table(tables, number)
    except MnprobeError as error:
        problems.append(f"No Table {number}: {error}")
        return empty
    return empty if made is None else replace(empty, title=made.title, grid=grid_of(made), notes=made.notes)


def _features(run: RunDir, problems: list[str]) -> tuple[tuple[Model, ...], list[pd.DataFrame]]:
    models, tables = [], []
    for piece in run.feature_files():
        try:
            with open_features(piece.path) as file:
                identity, attributes, table = file.id, file.attrs, file.episodes
                shapes = [f"{name} ({file.layer(name).dim})" for name in file.layers]
        except FeatureError as error:
            problems.append(f"A feature file cannot be read: {error}")
            continue
        tables.append(table.assign(source=piece.source))
        config = attributes["model_config"]
        made = f"mnprobe {attributes['mnprobe_version']}, torch {attributes['torch_version']}"
        models.append(
            Model(
                id=identity,
                episodes=len(table),
                layers=", ".join(shapes),
                checkpoint=str(attributes["checkpoint_sha256"]),
                created=str(attributes["created"]),
                versions=made,
                language=_flat(config.get("language")) if isinstance(config, dict) else "",
                config=_pretty(config),
                provenance=_pretty(attributes["provenance"]),
                file=_relative(piece.path, run),
                worlds=worlds_of(attributes),
            )
        )
    return tuple(models), tables


def _episodes(tables: list[pd.DataFrame]) -> Episodes:
    """Each episode once, by id and source of the demonstrations; outcomes from any file that knows them."""
    demonstrations = [table for table in tables if not str(table["source"].iloc[0]).startswith("rollouts")]
    if not demonstrations:
        return Episodes()
    joined = pd.concat(demonstrations).sort_values("success", ascending=False, kind="stable")
    joined = joined.drop_duplicates("id")
    groups = joined.groupby(["task", "instruction", "partition"], sort=True)["success"]
    rows = tuple(
        (*map(str, key), str(len(found)), *(str(int((found == value).sum())) for value in (1, 0, -1)))
        for key, found in groups
    )
    return Episodes(
        rows=rows,
        total=len(joined),
        instructions=len(joined[["task", "instruction"]].drop_duplicates()),
        tasks=joined["task"].nunique(),
    )


def _figures(run: RunDir) -> tuple[Figure, ...]:
    paths = _inside(run, run.figures, "*.png")
    order = {"curve": 0, "tsne": 1}
    paths.sort(key=lambda path: (order.get(path.stem.partition("-")[0], 2), path.stem))
    return tuple(_figure(path, run) for path in paths)


def _figure(path: Path, run: RunDir) -> Figure:
    from PIL import Image, UnidentifiedImageError

    problem, title, caption, command = "", path.stem, "", ""
    try:
        note = read_note(path.with_suffix(""))
    except MnprobeError as error:
        note, problem = None, str(error)
    if note is not None:
        title, caption, command = note.title or path.stem, note.caption, note.command
    command = command or _maker(path.stem, run, in_figures=True)
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.verify()
        with Image.open(path, formats=["PNG"]) as image:
            width, height = image.size
            kind, packed = _packed(image, path.read_bytes())
    except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        problem = f"{_relative(path, run)} is no whole PNG image ({error}). Draw it again"
        return Figure(name=path.stem, title=title, caption=caption, command=command, problem=problem)
    return Figure(
        name=path.stem,
        title=title,
        caption=caption,
        command=command,
        image=base64.b64encode(packed).decode("ascii"),
        kind=kind,
        vector=_vector(path.with_suffix(".svg"), run),
        width=width,
        height=height,
        problem=problem,
    )


def _vector(path: Path, run: RunDir) -> str:
    """The drawing as compressed SVG, to be downloaded; places have two digits. "" where there is none, or too large."""
    if path not in _inside(run, path.parent, "*.svg") or path.stat().st_size > _LARGEST_SVG:
        return ""
    text = path.read_text(encoding="utf-8")
    return packed(_PLACES.sub(lambda match: _DIGITS.sub(r"\1", match[0]), text).encode("utf-8"))


def _packed(image: "Image.Image", png: bytes) -> tuple[str, bytes]:
    """The same pixels in the smaller of PNG and lossless WebP, which takes less than half for drawings."""
    from PIL import features

    if features.check("webp") and max(image.size) <= _WEBP_EDGE:
        out = io.BytesIO()
        image.save(out, "WEBP", lossless=True, method=4)
        if out.tell() < len(png):
            return "image/webp", out.getvalue()
    return "image/png", png


def _tables(tables: RunTables) -> tuple[Table, ...]:
    paths = _inside(tables.run, tables.run.path / "results", "*.csv")
    return tuple(_table(path, tables) for path in paths)


def _table(path: Path, tables: RunTables) -> Table:
    run = tables.run
    command = _maker(path.stem, run)
    try:
        note = read_note(run.figures / path.stem)
        command = note.command or command if note is not None else command
    except MnprobeError:
        pass  # the figure itself says that its note cannot be read
    try:
        cells = tables.cells(path)
    except UNREADABLE as error:
        return Table(name=path.name, command=command, problem=f"{_relative(path, run)} cannot be read ({error})")
    if not cells.header:
        return Table(name=path.name, command=command, problem=f"{_relative(path, run)} is empty")
    most = max(FEWEST_ROWS, min(MOST_ROWS, MOST_CELLS // len(cells.header)))
    shown = tuple(tuple(_short(cell) for cell in row) for row in cells.rows[:most])
    return Table(name=path.name, columns=cells.header, rows=shown, total=len(cells.rows), command=command)


_WITH_TEXT = ("arp", "lerobot", "pi0")  # extractors that can leave the instruction out


def _blanking(run: RunDir, model: Model) -> str:
    """The command that makes the features of an execution model without its instruction."""
    try:
        kind = str(json.loads(model.provenance)["asked"]["extractor"])
    except (ValueError, KeyError, TypeError):
        kind = ""
    if kind == "arp" or (not kind and model.id.model.partition("-")[0] == "arp"):
        return command_line("extract", run=run.path, model="arp", blank_instruction=True)
    if kind in _WITH_TEXT:
        return command_line(
            "extract", run=run.path, model=f"{kind}:FOLDER", data="DATASET", name=model.id.model, blank_instruction=True
        )
    names = {"side": "execution", "name": model.id.model, "source": blanked(model.id.source)}
    options = option_line(episodes="TABLE", **names, run=run.path)
    return f"{shell_line(['import', 'FEATURES_WITHOUT_INSTRUCTION'])} {options}"


def _missing(run: RunDir, models: tuple[Model, ...], figures: tuple[Figure, ...]) -> tuple[Missing, ...]:
    drawn = {figure.name.partition("-")[0] for figure in figures if figure.image}
    sides = {(model.id.side, model.id.blank) for model in models if model.id.model != PIXELS}
    found = []
    for side in ("understanding", "execution"):
        if not any(name == side for name, _ in sides):
            found.append(Missing(what=f"features of the {side} side", command=command_line("extract", run=run.path)))
    executions = [model for model in models if model.id.side == Side.EXECUTION and model.id.model != PIXELS]
    if executions and not any(blank for _, blank in sides):
        what = "features with the instruction blanked (control a)"
        found.append(Missing(what=what, command=_blanking(run, executions[0])))
    if models and not any(model.id.model == PIXELS for model in models):
        command = command_line("extract", run=run.path, model="pixels")
        found.append(Missing(what="pixel features (control c)", command=command))
    for what, command in (
        ("alignment scores", "" if run.results("alignment").is_file() else "align"),
        ("verdict in plain words", "" if run.results("verdict").is_file() else "audit"),
        ("alignment curve", "" if "curve" in drawn else "curve"),
        ("similarity heatmap", "" if "similarity" in drawn else "compare"),
        ("t-SNE", "" if "tsne" in drawn else "tsne"),
    ):
        if command:
            found.append(Missing(what=what, command=command_line(command, run=run.path, **_last_pair(command, models))))
    return tuple(found)


def _last_pair(command: str, models: tuple[Model, ...]) -> dict[str, str]:
    """The models to name for `mnprobe compare` where the run has several of a side: those trained last."""
    sides = {
        side: sorted(
            {model.id.model for model in models if model.id.side == side and not model.id.model.startswith(PIXELS)}
        )
        for side in ("understanding", "execution")
    }
    if command != "compare" or all(len(names) < 2 for names in sides.values()) or not all(sides.values()):
        return {}
    return {side: names[-1] for side, names in sides.items()}


def _maker(stem: str, run: RunDir, *, in_figures: bool = False) -> str:
    name = _MAKERS.get(stem.partition("-")[0])
    name = "success" if stem == "success" and in_figures else name
    return command_line(name, run=run.path) if name else ""


def _inside(run: RunDir, folder: Path, pattern: str) -> list[Path]:
    """Files of a folder of the run, sorted; hidden files and links that lead out of the run are left alone."""
    root = run.path.resolve()
    found = [path for path in folder.glob(pattern) if path.is_file() and not path.name.startswith(".")]
    return sorted(path for path in found if path.resolve().is_relative_to(root))


def _relative(path: Path, run: RunDir) -> str:
    return str(path.relative_to(run.path)) if path.is_relative_to(run.path) else str(path)


def _pretty(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True) if value else ""


def _flat(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_flat(one)}" for name, one in value.items())
    return "" if value is None else str(value)


def _short(cell: str) -> str:
    """Long decimal fractions to six digits, everything else unchanged."""
    if len(cell) > 8 and "." in cell:
        try:
            return f"{float(cell):.6g}"
        except ValueError:
            return cell
    return cell
