"""`mnprobe doctor`: planted features go through the very pipeline and must come out as they should."""

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
