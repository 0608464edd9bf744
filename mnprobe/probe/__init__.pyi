from .alignment import align, align_stores
from .config import AlignConfig, FitConfig
from .fitting import FitResult, Validation, fit_heads
from .heads import AlignmentHeads, load_heads, save_heads
from .losses import info_nce, info_nce_directions
from .mutual_information import HeldOutBound, held_out_bound, mi_bound
from .outcome_balance import SETTINGS, balanced_draw, measurable_sides
from .pairs import FeaturePair, StoredPair, join_stores, load_pair, pair_across, pair_arrays
from .results import COLUMNS, read_alignment, summary_table, write_alignment
from .retrieval import DirectionRecall, Recall, chance_recall, paired_ranks, recall_at_k, true_recall_at_k
from .sampling import Pairing, shuffled_groups
from .scores import HitScores, find_hits, read_hits, write_hits
from .splits import Items, Partition, check_no_overlap, hold_out
from .uncertainty import Interval, cluster_jackknife, cluster_jackknife_difference, spread, standard_error

__all__ = [
    "COLUMNS",
    "SETTINGS",
    "AlignConfig",
    "AlignmentHeads",
    "DirectionRecall",
    "FeaturePair",
    "FitConfig",
    "FitResult",
    "HeldOutBound",
    "HitScores",
    "Interval",
    "Items",
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
    "load_pair",
    "measurable_sides",
    "mi_bound",
    "pair_across",
    "pair_arrays",
    "paired_ranks",
    "read_alignment",
    "read_hits",
    "recall_at_k",
    "save_heads",
    "shuffled_groups",
    "spread",
    "standard_error",
    "summary_table",
    "true_recall_at_k",
    "write_alignment",
    "write_hits",
]
