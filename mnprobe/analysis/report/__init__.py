"""The report: one HTML file that holds everything a run has measured, and opens anywhere without a network."""

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
