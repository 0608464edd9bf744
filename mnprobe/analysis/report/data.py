"""Data classes of a report, without HTML."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mnprobe.analysis.audit.findings import Finding
from mnprobe.analysis.report.overview import Card, Plot
from mnprobe.analysis.tables.paper import Grid
from mnprobe.core.commands import command_line
from mnprobe.core.names import FeatureId

__all__ = [
    *("Episodes", "Explorer", "Figure", "Headline", "Judgement", "Missing", "Model", "ReportData", "Shaped", "Table")
]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as text: `shown` rows of `total`; `command` makes it, `problem` says why it cannot be shown."""

    name: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    total: int = 0
    command: str = ""
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure with its image as base64 text, what kind of image it is, and its size in pixels.

    `vector` is the same as SVG, compressed by gzip and in base64, or "". `problem` says why it cannot be shown.
    """

    name: str
    title: str
    caption: str
    command: str
    image: str = ""
    kind: str = "image/png"
    vector: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Headline:
    """One line of the first table: a value with all that is needed to judge it (shares from 0 to 1).

    Lines of one `place` are shown in one table.
    """

    what: str
    step: int
    pair: str
    place: int
    holdout: str
    holdout_words: str
    value: float
    low: float | None
    high: float | None
    chance: float | None
    verdict: str
    n_test: str
    n_groups: str
    n_gallery: str
    n_seeds: str
    sd_seeds: str
    weights: str
    is_claim: bool


@dataclass(frozen=True, kw_only=True)
class Shaped:
    """A table in the shape of the paper's; without `grid` it was not measured, and `command` does that."""

    number: int
    title: str
    command: str
    grid: Grid | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """How many episodes there are, by task, instruction, partition and outcome."""

    rows: tuple[tuple[str, ...], ...] = ()
    columns: tuple[str, ...] = ("task", "instruction", "partition", "episodes", "success", "failure", "not known")
    total: int = 0
    instructions: int = 0
    tasks: int = 0


@dataclass(frozen=True, kw_only=True)
class Model:
    """Identity and origin of one feature file; `config` and `provenance` are JSON to unfold."""

    id: FeatureId
    episodes: int
    layers: str
    checkpoint: str
    created: str
    versions: str
    language: str
    config: str
    provenance: str
    file: str
    worlds: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The findings of `mnprobe audit` on one pair and holdout, alarms first; `leading` is the one to show."""

    pair: str
    holdout: str
    leading: Finding
    findings: tuple[Finding, ...] = ()

    @property
    def conclusion(self) -> str:
        """Of the leading finding."""
        return self.leading.conclusion

    @property
    def sentence(self) -> str:
        """Of the leading finding."""
        return self.leading.sentence

    @property
    def rows(self) -> tuple[tuple[str, str, str, bool], ...]:
        """All findings as (topic, conclusion, sentence, alarm)."""
        return tuple((one.topic, one.conclusion, one.sentence, one.alarm) for one in self.findings)

    @property
    def alarms(self) -> list[str]:
        """Sentences that must be read before any number is."""
        return [one.sentence for one in self.findings if one.alarm]


@dataclass(frozen=True, kw_only=True)
class Explorer:
    """The interactive t-SNE: `payload` is JSON that is safe in a script element, `sheet` its thumbnails (WebP)."""

    payload: str
    sheet: str = ""
    size: tuple[int, int] = (0, 0)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Missing:
    """Something the run does not have yet, and the command that makes it."""

    what: str
    command: str


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """All that a report says."""

    name: str
    path: str
    command: str
    created: str
    run_created: str
    config_hash: str
    config: str
    versions: Mapping[str, str]
    facts: tuple[str, ...] = ()
    cards: tuple[Card, ...] = ()
    plot: Plot | None = None
    progress: tuple[Plot, ...] = ()
    warnings: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    shaped: tuple[Shaped, ...] = ()
    summary: tuple[str, ...] = ()
    headline: tuple[Headline, ...] = ()
    caveats: tuple[str, ...] = ()
    episodes: Episodes = field(default_factory=Episodes)
    world: str = ""
    models: tuple[Model, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    missing: tuple[Missing, ...] = ()
    problems: tuple[str, ...] = ()
    judgements: tuple[Judgement, ...] = ()
    contrasts: tuple[str, ...] = ()
    condensed: Mapping[str, Table] = field(default_factory=dict)
    explorer: Explorer | None = None
    hashes: tuple[tuple[str, str], ...] = ()
    seeds: tuple[tuple[str, str], ...] = ()
    probe: Table | None = None

    def figures_of(self, *kinds: str) -> list[Figure]:
        """Figures of these kinds: 'curve', 'outcomes' (curves of success and failure), 'success' (the contrast),
        'audit', 'similarity', 'tsne', 'ablation' or 'other'."""
        return [figure for figure in self.figures if _kind(figure.name) in kinds]

    def draw(self, name: str, **options: str) -> str:
        """The command that draws a figure which is missing."""
        return command_line(name, run=self.path, **options)

    @property
    def all_problems(self) -> list[str]:
        """What could not be read, of the run and of each figure and table."""
        pieces = [figure.problem for figure in self.figures] + [table.problem for table in self.tables]
        return [*self.problems, *(problem for problem in pieces if problem)]


_KINDS = {
    "tsne": "tsne",
    "success": "success",
    "controls": "audit",
    "decomposition": "audit",
    "similarity": "similarity",
    "ablation": "ablation",
}


def _kind(name: str) -> str:
    first = name.partition("-")[0]
    if first == "curve":
        return "outcomes" if "outcomes" in name or "success" in name or "failure" in name else "curve"
    return _KINDS.get(first, "other")
