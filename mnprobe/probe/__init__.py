"""Probing: heads, InfoNCE, pairing, fit, retrieval with exact chance, what is held out, the whole measurement."""

from mnprobe.probe.align import align
from mnprobe.probe.balance import SETTINGS, balanced_draw, measurable_sides
from mnprobe.probe.bound import HeldOutBound, held_out_bound, mi_bound
from mnprobe.probe.chance import chance_recall
from mnprobe.probe.config import AlignConfig
from mnprobe.probe.fit import FitConfig, FitResult, Validation, fit_heads
from mnprobe.probe.heads import AlignmentHeads, load_heads, save_heads
from mnprobe.probe.hits import HitScores, find_hits, read_hits, write_hits
from mnprobe.probe.items import Items
from mnprobe.probe.join import StoredPair, join_stores
from mnprobe.probe.loss import info_nce, info_nce_directions
from mnprobe.probe.other_recalls import paired_ranks, true_recall_at_k
from mnprobe.probe.pairing import Pairing
from mnprobe.probe.pairs import Origin, Pair, pair_across, pair_arrays, pair_files
from mnprobe.probe.retrieval import DirectionRecall, Recall, recall_at_k
from mnprobe.probe.rows import COLUMNS, read_alignment, write_alignment
from mnprobe.probe.shuffled import shuffled_groups
from mnprobe.probe.splits import Partition, check_no_overlap, hold_out
from mnprobe.probe.stored import align_stores
from mnprobe.probe.table import people_table
from mnprobe.probe.uncertainty import Interval, cluster_jackknife, cluster_jackknife_difference, spread, standard_error

__all__ = [
    "COLUMNS",
    "SETTINGS",
    "AlignConfig",
    "AlignmentHeads",
    "DirectionRecall",
    "FitConfig",
    "FitResult",
    "HeldOutBound",
    "HitScores",
    "Interval",
    "Items",
    "Origin",
    "Pair",
    "Pairing",
    "Partition",
    "Recall",
    "StoredPair",
    "Validation",
    "align",
    "align_stores",
    "balanced_draw",
    "chance_recall",
    "check_no_overlap",
    "cluster_jackknife",
    "cluster_jackknife_difference",
    "find_hits",
    "fit_heads",
    "held_out_bound",
    "hold_out",
    "info_nce",
    "info_nce_directions",
    "join_stores",
    "load_heads",
    "measurable_sides",
    "mi_bound",
    "pair_across",
    "pair_arrays",
    "pair_files",
    "paired_ranks",
    "people_table",
    "read_alignment",
    "read_hits",
    "recall_at_k",
    "save_heads",
    "shuffled_groups",
    "spread",
    "standard_error",
    "true_recall_at_k",
    "write_alignment",
    "write_hits",
]
