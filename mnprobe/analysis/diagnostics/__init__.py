"""Diagnostics of `mnprobe doctor`: the pipeline on features with known answers."""

from mnprobe.analysis.diagnostics.pipeline import Check, Pipeline, Status, Subject, sampled
from mnprobe.analysis.diagnostics.suite import CHECKS, Examined, broken, examine, sanity_suite

__all__ = [
    "CHECKS",
    "Check",
    "Examined",
    "Pipeline",
    "Status",
    "Subject",
    "broken",
    "examine",
    "sampled",
    "sanity_suite",
]
