"""The report: one HTML file that holds everything a run has measured, and opens anywhere without a network."""

from mnprobe.analysis.report.gather import ReportData, gather
from mnprobe.analysis.report.render import render
from mnprobe.analysis.report.write import WrittenReport, write_report

__all__ = ["ReportData", "WrittenReport", "gather", "render", "write_report"]
