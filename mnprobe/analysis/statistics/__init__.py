"""Statistics on arrays: intervals over blocks, block permutation, families of tests, power, exact chance."""

from mnprobe.analysis.statistics.family import benjamini_hochberg, holm
from mnprobe.analysis.statistics.flips import flip_test
from mnprobe.analysis.statistics.matching import match_weights
from mnprobe.analysis.statistics.outcomes import OutcomeContrast, outcome_contrast
from mnprobe.analysis.statistics.paired import PairedContrast, paired_contrast
from mnprobe.analysis.statistics.permutation import Test, permutation_test
from mnprobe.analysis.statistics.power import detectable_difference, effective_blocks, expected_error, power_at
from mnprobe.analysis.success_table import wilson_interval
from mnprobe.probe.chance import chance_recall
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
