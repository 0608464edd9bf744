"""`mnprobe doctor`: planted features go through the very pipeline and must come out as they should."""

from mnprobe.analysis.sanity.check import Check, Status
from mnprobe.analysis.sanity.inputs import Examined, examine
from mnprobe.analysis.sanity.pipeline import Pipeline
from mnprobe.analysis.sanity.subject import Subject, sampled
from mnprobe.analysis.sanity.suite import CHECKS, broken, sanity_suite

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
