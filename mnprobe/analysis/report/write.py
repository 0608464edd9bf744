"""`mnprobe report` as a function."""

from dataclasses import dataclass
from pathlib import Path

from mnprobe.analysis.report.gather import gather
from mnprobe.analysis.report.parts import ReportData
from mnprobe.analysis.report.render import render
from mnprobe.core.files import write_text
from mnprobe.core.rundir import RunDir

__all__ = ["WrittenReport", "write_report"]


@dataclass(frozen=True, kw_only=True)
class WrittenReport:
    """Where the report lies, and what it says."""

    path: Path
    data: ReportData


def write_report(run: RunDir, path: Path | None = None) -> WrittenReport:
    """Write the report of `run` to `path` (report.html in the run), whole or not at all.

    Everything is inside: style, figures, tables. Parts that the run does not have are named with the command that
    makes them. Raises ConfigError when run.toml cannot be read.
    """
    data = gather(run)
    target = path or run.report
    write_text(target, render(data))
    return WrittenReport(path=target, data=data)
