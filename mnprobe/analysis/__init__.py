"""What people look at: curves, t-SNE, similarity, contrasts, audits, tables, figures and the report.

Every command that measures or draws is a function here, on arrays or on stores; docs/api.md lists them.
`mnprobe.analysis.similarity` and `mnprobe.analysis.statistics` work on arrays alone.
"""

from mnprobe.analysis.ablation import Ablation, ablate
from mnprobe.analysis.ablation_cells import ablation_cells
from mnprobe.analysis.ablation_plan import AblationPlan, plan_ablation
from mnprobe.analysis.ablation_study import Study, open_study
from mnprobe.analysis.audit import Audit, audit_run
from mnprobe.analysis.compare import CompareConfig, Comparison, FeatureSet, compare
from mnprobe.analysis.compare_figure import compare_figure
from mnprobe.analysis.compare_inputs import CompareInputs, compare_inputs, find_stores
from mnprobe.analysis.contact_sheet import contact_sheet, draw_sheets
from mnprobe.analysis.controls import controls_table
from mnprobe.analysis.controls_figure import draw_controls
from mnprobe.analysis.curve import CurveData, curve_data
from mnprobe.analysis.curve_figure import curve_figure
from mnprobe.analysis.curve_words import curve_caption
from mnprobe.analysis.decomposition import decompose
from mnprobe.analysis.decomposition_figure import draw_decomposition
from mnprobe.analysis.draw_compare import DrawnComparison, draw_compare, read_similarity
from mnprobe.analysis.draw_curve import DrawnCurve, draw_curve
from mnprobe.analysis.draw_tsne import DrawnTsne, TsneInput, draw_tsne, tsne_panels
from mnprobe.analysis.draw_tsne_series import DrawnSeries, draw_tsne_series
from mnprobe.analysis.embedding import Embedding, TsneConfig, embed, knn_purity, trust
from mnprobe.analysis.episode_scores import EpisodeScores, episode_scores
from mnprobe.analysis.figures import SavedFigure
from mnprobe.analysis.findings import Finding, findings
from mnprobe.analysis.leakage import leakage_table
from mnprobe.analysis.oracles import oracle_recall
from mnprobe.analysis.pairs import FeaturePair, find_heads, find_pairs, load_pair
from mnprobe.analysis.paper import paper_table
from mnprobe.analysis.report import WrittenReport, write_report
from mnprobe.analysis.success_contrast import contrast_table, read_contrasts, write_contrasts
from mnprobe.analysis.success_figure import DrawnSuccess, draw_success
from mnprobe.analysis.success_table import Rollouts, find_rollouts, format_success, success_table, wilson_interval
from mnprobe.analysis.success_words import contrast_sentences
from mnprobe.analysis.table_grid import grid_text
from mnprobe.analysis.tables import headline, read_alignment, write_table
from mnprobe.analysis.task_tables import ShapedTable, ablation_table, execution_table, recognition_table, shaped_table
from mnprobe.analysis.tsne_inputs import series_inputs, tsne_inputs
from mnprobe.analysis.tsne_quality import Quality, map_qualities
from mnprobe.analysis.tsne_series import TsneSeries, tsne_series
from mnprobe.analysis.verdict import verdicts

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
    "FeaturePair",
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
    "load_pair",
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
