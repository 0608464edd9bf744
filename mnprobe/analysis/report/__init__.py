"""The report: one self-contained HTML file with all results of a run."""

from mnprobe.analysis.report.collect import ReportData, gather
from mnprobe.analysis.report.comparison import SideBySide, set_side_by_side, write_side_by_side
from mnprobe.analysis.report.render import WrittenReport, render, write_report

__all__ = [
    "ReportData",
    "SideBySide",
    "WrittenReport",
    "gather",
    "render",
    "set_side_by_side",
    "write_report",
    "write_side_by_side",
]
