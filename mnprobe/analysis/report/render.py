"""Rendering a report as one self-contained HTML file."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from mnprobe.analysis.audit import finding_text
from mnprobe.analysis.audit.effects import MARGIN
from mnprobe.analysis.audit.findings import Effect
from mnprobe.analysis.report.collect import gather
from mnprobe.analysis.report.data import ReportData
from mnprobe.analysis.report.explorer import packed, plotly_library, policy, script_hash
from mnprobe.analysis.report.overview import answer_id
from mnprobe.core.files import write_text
from mnprobe.core.rundir import RunDir

__all__ = ["CONTROLS", "GLOSSARY", "WrittenReport", "read_piece", "render", "render_page", "write_report"]

CONTROLS = (
    (
        "Instruction blanked",
        "The policy is given the instruction, and the probe asks for the instruction: a policy with random weights "
        "passes it "
        "on and scores nearly as high as a trained one. With the instruction blanked, only what the policy saw and "
        "did is left.",
        "mnprobe extract --blank-instruction",
    ),
    (
        "Step 0",
        "The same networks before any training. What training adds is the distance to this level, not to chance.",
        "mnprobe init, then mnprobe extract and align as usual",
    ),
    (
        "Pixels instead of u",
        "Colours and places of the pictures alone, without a model. A score that pixels reach needs no understanding.",
        "mnprobe extract --model pixels",
    ),
    (
        "Shuffled pairs",
        "Heads fitted on pairs that do not belong together. They must not score above chance; if they do, "
        "something leaks.",
        "part of mnprobe align",
    ),
    (
        "The policy's own episodes",
        "Demonstrations were carried out by an expert. Episodes that the policy played itself show what it does, "
        "not what "
        "it was shown.",
        "features with source rollouts",
    ),
)

GLOSSARY = (
    ("u", "what the understanding model makes of a watched action: the output feature of its video encoder"),
    ("e", "what the execution model carries while it acts: the output of the last block of its policy network"),
    ("z_u, z_e", "u and e mapped into one space by the two heads T_u and T_e"),
    (
        "heads",
        "two linear maps, fitted with the bidirectional InfoNCE loss on training episodes; the models stay frozen",
    ),
    (
        "Recall@1",
        "for each test item of one side, is the nearest item of the other side of the same group? The share of yes, "
        "averaged over both directions; ties count by expectation",
    ),
    ("group", "what counts as the same action: the episode, the instruction or the task (the pairing)"),
    ("chance", "what random ranking would score on this very test set; not 1/n where groups repeat or differ in size"),
    (
        "95 % interval",
        "cluster jackknife: each instruction is left out in turn, as its episodes are alike, and what the score varies "
        "by is multiplied by Student's t, wider where instructions are few; shares on the scale of log-odds, so that "
        "they stay between 0 and 100 %; where every query hits or misses, the binomial bound for as many trials as "
        "instructions; where all episodes have one instruction, single episodes take the place of instructions",
    ),
    (
        "holdout",
        "what the test set has that training had not: new episodes of known instructions, new instructions, or new "
        "tasks. "
        "Two models that carry nothing but an instruction's number score 100 % when episodes are held out and "
        "chance when "
        "instructions are",
    ),
    ("n, groups, gallery", "test episodes, groups among them, and items that each query is ranked against"),
    ("seeds", "how often the heads were refitted from other random starts; sd is the spread this makes"),
    ("step", "optimiser steps of the model that was checkpointed; step 0 has random weights"),
    (
        "mutual-information bound",
        "log B minus the loss on held-out batches of B pairs, in nats; it cannot exceed log B",
    ),
    (
        "trustworthiness",
        "share (0 to 1) of neighbours in a t-SNE picture that are neighbours in the space too, weighted by how far "
        "off the "
        "others are",
    ),
)


OPEN_UP_TO = 12  # rows: longer tables are folded


_PAGES = ("report.html", "pieces.html", "explorer.html", "side_by_side.html")


def render(data: ReportData) -> str:
    """The whole page as text; every string that comes from a file is escaped.

    The page forbids itself all requests (Content-Security-Policy). Only scripts whose hashes the policy names may run:
    ours and, with an interactive t-SNE, plotly.js. Without scripts everything is shown, one section after another.
    """
    page_script = read_piece("page.js")
    page_hash = script_hash(page_script.encode("utf-8"))
    words = {
        "controls": CONTROLS,
        "glossary": GLOSSARY,
        "open_up_to": OPEN_UP_TO,
        "margin": f"{100 * MARGIN:g}",
        "page_script": Markup(page_script),  # our own file, not a user's
    }
    if data.explorer is None:
        return render_page("report.html", policy=policy(page_hash), data=data, **words)
    script, library = read_piece("explorer.js"), plotly_library()
    return render_page(
        "report.html",
        policy=policy(page_hash, script_hash(script.encode("utf-8")), library.digest),
        data=data,
        script=Markup(script),  # our own file, not a user's
        library=library,
        payload=packed(data.explorer.payload.encode("ascii")),
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
        "answer_id": answer_id,
        "answer": finding_text.answer,
        "unsaid": finding_text.unsaid,
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
    return "none" if math.isnan(share) else f"{100 * share:+z.1f}".replace("-", "\N{MINUS SIGN}")


def _by_where(rows: Iterable[Effect]) -> list[tuple[str, list[Effect]]]:
    """Comparisons that share a place, in order of first appearance, under the place with a capital letter."""
    found: dict[str, list[Effect]] = {}
    for row in rows:
        found.setdefault(f"{row.where[:1].upper()}{row.where[1:]}", []).append(row)
    return list(found.items())


def _unbroken(text: str) -> str:
    """Keep the percent sign on the line of its number."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


@dataclass(frozen=True, kw_only=True)
class WrittenReport:
    """Path and content of a report."""

    path: Path
    data: ReportData


def write_report(run: RunDir, path: Path | None = None) -> WrittenReport:
    """Write the report of `run` to `path` (report.html in the run), atomically.

    Everything is inside: style, figures, tables. Parts that the run does not have are named with the command that
    makes them. Raises ConfigError when run.toml cannot be read.
    """
    data = gather(run)
    target = path or run.report
    write_text(target, render(data))
    return WrittenReport(path=target, data=data)
