from .ablation.grid import ablation_cells
from .ablation.study import Ablation, AblationPlan, Study, ablate, open_study, plan_ablation
from .audit.controls import controls_table
from .audit.decomposition import decompose, oracle_recall
from .audit.figures import draw_controls, draw_decomposition
from .audit.findings import Finding, findings, verdicts
from .audit.leakage import leakage_table
from .audit.run import Audit, audit_run
from .comparison.compare import (
    CompareConfig,
    CompareInputs,
    Comparison,
    FeatureSet,
    compare,
    compare_inputs,
    find_stores,
)
from .comparison.figure import DrawnComparison, compare_figure, draw_compare, read_similarity
from .figures.curve import DrawnCurve, curve_caption, curve_figure, draw_curve
from .figures.curve_data import CurveData, curve_data
from .figures.style import SavedFigure
from .report import WrittenReport, write_report
from .success.contrast import contrast_sentences, contrast_table, read_contrasts, write_contrasts
from .success.figure import DrawnSuccess, draw_success
from .tables.alignment import headline, read_alignment, write_table
from .tables.episode_scores import EpisodeScores, episode_scores
from .tables.paper import (
    ShapedTable,
    ablation_table,
    execution_table,
    grid_text,
    paper_table,
    recognition_table,
    shaped_table,
)
from .tables.rollouts import Rollouts, find_rollouts, format_success, success_table, wilson_interval
from .tsne.contact_sheet import contact_sheet, draw_sheets
from .tsne.embedding import Embedding, Quality, TsneConfig, embed, knn_purity, map_qualities, trust
from .tsne.inputs import (
    TsneInput,
    find_heads,
    find_pairs,
    series_inputs,
    tsne_inputs,
)
from .tsne.maps import DrawnTsne, TsneSeries, draw_tsne, tsne_panels, tsne_series
from .tsne.series import DrawnSeries, draw_tsne_series

__all__ = [
    "Ablation",
    "AblationPlan",
    "Audit",
    "CompareConfig",
    "CompareInputs",
    "Comparison",
    "CurveData",
    "DrawnComparison",
    "DrawnCurve",
    "DrawnSeries",
    "DrawnSuccess",
    "DrawnTsne",
    "Embedding",
    "EpisodeScores",
    "FeatureSet",
    "Finding",
    "Quality",
    "Rollouts",
    "SavedFigure",
    "ShapedTable",
    "Study",
    "TsneConfig",
    "TsneInput",
    "TsneSeries",
    "WrittenReport",
    "ablate",
    "ablation_cells",
    "ablation_table",
    "audit_run",
    "compare",
    "compare_figure",
    "compare_inputs",
    "contact_sheet",
    "contrast_sentences",
    "contrast_table",
    "controls_table",
    "curve_caption",
    "curve_data",
    "curve_figure",
    "decompose",
    "draw_compare",
    "draw_controls",
    "draw_curve",
    "draw_decomposition",
    "draw_sheets",
    "draw_success",
    "draw_tsne",
    "draw_tsne_series",
    "embed",
    "episode_scores",
    "execution_table",
    "find_heads",
    "find_pairs",
    "find_rollouts",
    "find_stores",
    "findings",
    "format_success",
    "grid_text",
    "headline",
    "knn_purity",
    "leakage_table",
    "map_qualities",
    "open_study",
    "oracle_recall",
    "paper_table",
    "plan_ablation",
    "read_alignment",
    "read_contrasts",
    "read_similarity",
    "recognition_table",
    "series_inputs",
    "shaped_table",
    "success_table",
    "trust",
    "tsne_inputs",
    "tsne_panels",
    "tsne_series",
    "verdicts",
    "wilson_interval",
    "write_contrasts",
    "write_report",
    "write_table",
]
