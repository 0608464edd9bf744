"""Statistics: block intervals, permutation, multiple testing, power, chance."""

from mnprobe.analysis.statistics._blocks import match_weights
from mnprobe.analysis.statistics.contrasts import OutcomeContrast, PairedContrast, outcome_contrast, paired_contrast
from mnprobe.analysis.statistics.multiple_testing import benjamini_hochberg, holm
from mnprobe.analysis.statistics.permutation import Test, flip_test, permutation_test
from mnprobe.analysis.statistics.power import detectable_difference, effective_blocks, expected_error, power_at
from mnprobe.core.proportions import wilson_interval
from mnprobe.probe.retrieval import chance_recall
from mnprobe.probe.uncertainty import Interval, cluster_jackknife, cluster_jackknife_difference, standard_error

__all__ = [
    "Interval",
    "OutcomeContrast",
    "PairedContrast",
    "Test",
    "benjamini_hochberg",
    "chance_recall",
    "cluster_jackknife",
    "cluster_jackknife_difference",
    "detectable_difference",
    "effective_blocks",
    "expected_error",
    "flip_test",
    "holm",
    "match_weights",
    "outcome_contrast",
    "paired_contrast",
    "permutation_test",
    "power_at",
    "standard_error",
    "wilson_interval",
]
