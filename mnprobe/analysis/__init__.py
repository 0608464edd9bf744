"""What people look at: curves, t-SNE, tables, figures and the report."""

from mnprobe.analysis.contact_sheet import contact_sheet, draw_sheets
from mnprobe.analysis.curve import CurveData, curve_data
from mnprobe.analysis.curve_figure import curve_figure
from mnprobe.analysis.curve_words import curve_caption
from mnprobe.analysis.draw_curve import DrawnCurve, draw_curve
from mnprobe.analysis.draw_tsne import DrawnTsne, TsneInput, draw_tsne, tsne_panels
from mnprobe.analysis.embedding import Embedding, TsneConfig, embed, knn_purity, trust
from mnprobe.analysis.findings import Finding, findings
from mnprobe.analysis.pairs import FeaturePair, load_pair
from mnprobe.analysis.paper import paper_table
from mnprobe.analysis.report import WrittenReport, write_report
from mnprobe.analysis.success_table import Rollouts, find_rollouts, success_table, wilson_interval
from mnprobe.analysis.table_grid import grid_text
from mnprobe.analysis.tables import headline, read_alignment
from mnprobe.analysis.task_tables import ShapedTable, ablation_table, execution_table, recognition_table, shaped_table
from mnprobe.analysis.tsne_inputs import tsne_inputs

__all__ = [
    "CurveData",
    "DrawnCurve",
    "DrawnTsne",
    "Embedding",
    "FeaturePair",
    "Finding",
    "Rollouts",
    "ShapedTable",
    "TsneConfig",
    "TsneInput",
    "WrittenReport",
    "ablation_table",
    "contact_sheet",
    "curve_caption",
    "curve_data",
    "curve_figure",
    "draw_curve",
    "draw_sheets",
    "draw_tsne",
    "embed",
    "execution_table",
    "find_rollouts",
    "findings",
    "grid_text",
    "headline",
    "knn_purity",
    "load_pair",
    "paper_table",
    "read_alignment",
    "recognition_table",
    "shaped_table",
    "success_table",
    "trust",
    "tsne_inputs",
    "tsne_panels",
    "wilson_interval",
    "write_report",
]
