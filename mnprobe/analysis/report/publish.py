"""Published studies: what is copied, and numbers of pages checked against it."""

import json
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from mnprobe.analysis.audit.finding_text import QUESTIONS, answer
from mnprobe.analysis.audit.findings import Finding
from mnprobe.analysis.report.collect import gather
from mnprobe.analysis.report.render import render
from mnprobe.core.commands import command_line
from mnprobe.core.errors import ConfigError, MnprobeError
from mnprobe.core.files import sha256_file, write_text
from mnprobe.core.provenance import commit, now, versions
from mnprobe.core.rundir import RunDir
from mnprobe.core.table import TableSchema, read_cells

__all__ = [
    *("ANSWERS", "LIMIT", "PICTURE_OF", "PUBLISHED", "answers_block", "answers_lines", "answers_table", "pictures"),
    *("publish_run", "rewritten", "unpublished", "wrong_numbers"),
]

LIMIT = 6_000_000
"""Bytes that a published report may have."""

PUBLISHED = "published.json"
PICTURE_OF = "SHA-256 of the report"
"""Text in a PNG file that shows a report: of which one."""

ANSWERS = TableSchema(
    name="answers",
    columns=(
        *("question", "short", "subject", "where", "held_out", "before", "after", "difference", "low", "high"),
        *("within_low", "within_high", "comparisons", "decision", "said", "n", "basis", "seeds", "leads"),
    ),
    key=("question", "subject", "where", "held_out"),
    whole=("comparisons", "seeds"),
    real=("before", "after", "difference", "low", "high", "within_low", "within_high"),
    truth=("leads",),
    command="report",
)
"""results/answers.csv of a published study: every comparison behind the answers, with the interval that decides."""


def answers_table(found: tuple[Finding, ...]) -> pd.DataFrame:
    """The comparisons of the questions as rows of ANSWERS; a question without any has none."""
    rows: list[dict[str, object]] = []
    for one in found:
        for row in one.rows:
            made = row.difference
            base: dict[str, object] = {
                "question": one.question,
                "short": one.short,
                "subject": row.subject,
                "where": row.where,
            }
            base |= {"held_out": row.held_out, "before": made.before, "after": made.after, "difference": made.value}
            ends = {"low": made.low, "high": made.high, "within_low": made.within[0], "within_high": made.within[1]}
            said: dict[str, object] = {
                "comparisons": made.comparisons,
                "decision": made.decision,
                "n": made.n,
                "basis": made.basis,
            }
            said |= {"said": answer(made).partition(" from n")[0], "seeds": made.seeds, "leads": row in one.leading}
            rows.append(base | ends | said)
    return ANSWERS.frame(rows)


def publish_run(run: RunDir, folder: Path) -> dict[str, Any]:
    """Copy what a published study consists of out of its run: report, tables, figures, run.toml, command and commit.

    The report is written again; where it would be larger than LIMIT, it is written without the interactive t-SNE.
    results/answers.csv is added. A study that was published to `folder` before is replaced.

    Returns what published.json holds. Raises ConfigError for a folder that holds anything else, for a run without
    results, and for a report that is too large all the same.
    """
    if folder.exists() and not (folder / PUBLISHED).is_file() and any(folder.iterdir()):
        raise ConfigError(f"--publish {folder}: holds something that is no published study; name another folder")
    tables = sorted((run.path / "results").glob("*.csv"))
    if not tables:
        raise ConfigError(f"{run.path} has no results to publish. `{command_line('align', run=run.path)}` makes some")
    data = gather(run)
    page = render(data).encode("utf-8")
    if len(page) > LIMIT:
        page = render(replace(data, explorer=None)).encode("utf-8")
    if len(page) > LIMIT:
        raise ConfigError(
            f"the report of {run.path} has {len(page) / 1e6:.1f} MB, and a published one may have {LIMIT / 1e6:g} MB: "
            "remove figures of the run that are not needed"
        )
    if folder.exists():
        shutil.rmtree(folder)
    (folder / "results").mkdir(parents=True)
    (folder / "figures").mkdir()
    write_text(folder / "report.html", page.decode("utf-8"))
    for path in (
        *tables,
        *sorted(path for path in run.figures.glob("*.*") if path.suffix in (".png", ".svg", ".json")),
    ):
        shutil.copyfile(path, folder / path.parent.name / path.name)
    shutil.copyfile(run.config_path, folder / run.config_path.name)
    ANSWERS.write(folder / "results" / "answers.csv", answers_table(data.findings))
    made = run.config.get("demo")
    made = made if isinstance(made, dict) else {}
    about = {
        "command": str(made.get("command", "")),
        "commit": made.get("commit") or [commit()],
        "published": now(),
        "versions": versions("torch", "numpy", "scikit-learn", "openTSNE"),
        "files": {
            path.relative_to(folder).as_posix(): sha256_file(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        },
    }
    write_text(folder / PUBLISHED, json.dumps(about, indent=1) + "\n")
    return about


def answers_block(folder: Path) -> str:
    """The answers of a published study as a Markdown table: question, answer, difference with interval, n.

    Of a question with several leading comparisons the first is given; the others are in results/answers.csv.
    """
    table = ANSWERS.read(folder / "results" / "answers.csv")
    lines = ["| question | answer | first comparison | points | 95 % interval | n |", "|---|---|---|---|---|---|"]
    for question in QUESTIONS.values():
        rows = table[(table["question"] == question) & table["leads"]]
        if rows.empty:
            lines.append(f"| {question} | Not measured. | | | | |")
            continue
        row = rows.iloc[0]
        cells = (question, row["short"], f"{row['subject']}; {row['where']}", f"{100 * row['difference']:+z.1f}")
        lines.append(f"| {' | '.join(cells)} | {_ends(row)} | {row['n']} |")
    return "\n".join(lines)


def answers_lines(folder: Path) -> str:
    """The answers of a published study as one line each, and a line that says how the study was made."""
    table = ANSWERS.read(folder / "results" / "answers.csv")
    lines = []
    for question in QUESTIONS.values():
        rows = table[(table["question"] == question) & table["leads"]]
        if rows.empty:
            lines.append(f"- {question} **Not measured.**")
            continue
        row = rows.iloc[0]
        first = "first of them: " if len(rows) > 1 else ""
        points, ends = f"{100 * row['difference']:+z.1f}", _ends(row)
        about = f"{first}{row['subject']}, {row['where'].partition(' (')[0]}"
        lines.append(f"- {question} **{row['short']}** ({about}: {points} points, interval {ends}; n = {row['n']})")
    made = folder / PUBLISHED
    if made.is_file():
        command = json.loads(made.read_text(encoding="utf-8"))["command"]
        lines += ["", f"Made by `{command}`; the whole report is `{folder.parent.name}/{folder.name}/report.html`."]
    return "\n".join(lines)


def _ends(row: "pd.Series[Any]") -> str:
    inside = " within the pair" if row["seeds"] == 1 else ""
    low, high = (row["within_low"], row["within_high"]) if inside else (row["low"], row["high"])
    return "none" if math.isnan(low) else f"{100 * low:+z.1f} to {100 * high:+z.1f}{inside}"


_MARK = re.compile(r"<!-- published: (?P<words>.*?) -->(?P<text>.*?)<!-- end -->", re.DOTALL)
_CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.DOTALL | re.MULTILINE)
_NUMBER = re.compile(r"(?P<before>\s*)(?P<number>[+-]?\d+(?:\.(?P<digits>\d+))?)(?P<unit>\s*(?P<percent>%|points)?\s*)")
_IMAGE = re.compile(r"!\[[^\]]*\]\((?P<path>[^()\s]+)\)")
_BLOCKS = {"answers": answers_block, "lines": answers_lines}
_NAMES = {"answers": "table is", "lines": "text is"}


def wrong_numbers(page: str, reports: Path) -> list[str]:
    """What a page says between markers and the published tables do not: one sentence each; empty where all agree.

    `<!-- published: NAME answers -->` stands before the table of `answers_block`, `<!-- published: NAME lines -->`
    before the lines of `answers_lines`, `<!-- published: NAME picture -->` before an image, with its path from the
    folder that holds `reports`, that shows the published report, and
    `<!-- published: NAME TABLE COLUMN key=value key=value -->` before one number: that cell of results/TABLE.csv,
    rounded as it is written; with % or points after it, a share times 100. `<!-- end -->` ends each. A value with
    spaces is written with _ for each. Markers in code are none. While a study is not published, `unpublished` stands in
    place of its answers, and any image.
    """
    return [problem for mark in _marks(page) for problem in _problems(mark["words"].split(), mark["text"], reports)]


def rewritten(page: str, reports: Path) -> str:
    """`page` with the answers and numbers between its markers made from the published tables; images stay.

    A number keeps its digits and its unit. Raises MnprobeError or OSError for a marker that cannot be followed.
    """
    pieces, place = [], 0
    for mark in _marks(page):
        pieces += [page[place : mark.start("text")], _made(mark["words"].split(), mark["text"], reports)]
        place = mark.end("text")
    return "".join([*pieces, page[place:]])


def _marks(page: str) -> "Iterator[re.Match[str]]":
    """Markers outside of code, each with what it encloses."""
    codes = [match.span() for match in _CODE.finditer(page)]
    return (mark for mark in _MARK.finditer(page) if not any(start <= mark.start() < end for start, end in codes))


def unpublished(name: str) -> str:
    """What stands in place of the answers of a study that is not published yet."""
    return f"*The study `{name}` is not published yet.*"


def pictures(page: str) -> list[tuple[str, str]]:
    """Name of the study and path of each image that shows a published report."""
    found = []
    for mark in _marks(page):
        words, image = mark["words"].split(), _IMAGE.search(mark["text"])
        if words[1:] == ["picture"] and image:
            found.append((words[0], image["path"]))
    return found


def _made(words: list[str], text: str, reports: Path) -> str:
    """What belongs between the markers."""
    told = " ".join(words)
    if len(words) == 2 and words[1] == "picture":
        return text
    if len(words) == 2 and words[1] in _BLOCKS:
        folder = reports / words[0]
        return f"\n{_BLOCKS[words[1]](folder) if (folder / 'results').is_dir() else unpublished(words[0])}\n"
    if len(words) < 3:
        kinds = ", ".join(f"`NAME {kind}`" for kind in (*_BLOCKS, "picture"))
        raise ConfigError(f"{told}: a marker is {kinds} or `NAME TABLE COLUMN key=value ...`")
    value = _cell(reports / words[0] / "results" / f"{words[1]}.csv", words[2], words[3:])
    found = _NUMBER.fullmatch(text)
    if found is None:
        raise ConfigError(f"{told}: between the markers there must be one number, got {text.strip()!r}")
    sign = "+" if found["number"].startswith("+") else ""
    shown = 100 * value if found["percent"] else value
    return f"{found['before']}{shown:{sign}z.{len(found['digits'] or '')}f}{found['unit']}"


def _problems(words: list[str], text: str, reports: Path) -> Iterator[str]:
    told = " ".join(words)
    try:
        if len(words) == 2 and words[1] == "picture":
            yield from _other_picture(told, reports / words[0], _IMAGE.search(text), reports.parent)
            return
        expected = _made(words, text, reports)
    except (MnprobeError, OSError) as error:
        yield str(error) if str(error).startswith(told) else f"{told}: {error}"
        return
    if len(words) == 2:
        if text.strip() != expected.strip():
            source = reports / words[0] / "results" / "answers.csv"
            yield f"{told}: the {_NAMES[words[1]]} not that of {source}, which is\n{expected.strip()}"
        return
    value = _cell(reports / words[0] / "results" / f"{words[1]}.csv", words[2], words[3:])
    found = _NUMBER.fullmatch(text)
    assert found is not None  # `_made` has seen it
    shown = 100 * value if found["percent"] else value
    digits = len(found["digits"] or "")
    if abs(float(found["number"]) - shown) > 0.5 * 10**-digits + 1e-9:
        yield f"{told}: the page says {text.strip()}, the table {shown:.{digits + 2}f}"


def _other_picture(told: str, folder: Path, image: "re.Match[str] | None", home: Path) -> Iterator[str]:
    """A problem where the image does not show the study's report."""
    from PIL import Image

    if image is None:
        yield f"{told}: between the markers there must be an image"
    elif (folder / "report.html").is_file():
        with Image.open(home / image["path"]) as picture:
            shown = picture.info.get(PICTURE_OF, "")
        if shown != sha256_file(folder / "report.html"):
            yield f"{told}: {image['path']} does not show {folder / 'report.html'}; `make readme` makes it again"


def _cell(path: Path, column: str, conditions: list[str]) -> float:
    cells = read_cells(path)
    rows = [dict(zip(cells.header, row, strict=True)) for row in cells.rows]
    for condition in conditions:
        name, _, value = condition.partition("=")
        rows = [row for row in rows if row.get(name, "").replace(" ", "_") == value]
    if len(rows) != 1:
        raise ConfigError(f"{len(rows)} rows of {path} fit {' '.join(conditions)}; one is needed")
    if column not in rows[0]:
        raise ConfigError(f"{path} has no column {column}; there are {', '.join(cells.header)}")
    return float(rows[0][column])
