"""Similarity indices of two feature arrays: permutation null and registry."""

from mnprobe.analysis.similarity.base import (
    INDICES,
    About,
    Index,
    Invariance,
    MatrixIndex,
    Relation,
    make_index,
    parse_options,
)
from mnprobe.analysis.similarity.cca import cca, pwcca, ridge_cca, svcca
from mnprobe.analysis.similarity.cka import debiased_cka, hsic_1, linear_cka, minibatch_cka, rbf_cka
from mnprobe.analysis.similarity.infonce import infonce_bound
from mnprobe.analysis.similarity.neighbors import cknna, mutual_knn
from mnprobe.analysis.similarity.permutation_test import (
    SCHEMES,
    Family,
    Scheme,
    SimilarityTest,
    balanced_rows,
    calibrate,
    calibrated_level,
    column_values,
    exchange,
    p_value,
    similarity_test,
)
from mnprobe.analysis.similarity.procrustes import procrustes, procrustes_distance
from mnprobe.analysis.similarity.rsa import rsa

__all__ = [
    "INDICES",
    "SCHEMES",
    "About",
    "Family",
    "Index",
    "Invariance",
    "MatrixIndex",
    "Relation",
    "Scheme",
    "SimilarityTest",
    "balanced_rows",
    "calibrate",
    "calibrated_level",
    "cca",
    "cknna",
    "column_values",
    "debiased_cka",
    "exchange",
    "hsic_1",
    "infonce_bound",
    "linear_cka",
    "make_index",
    "minibatch_cka",
    "mutual_knn",
    "p_value",
    "parse_options",
    "procrustes",
    "procrustes_distance",
    "pwcca",
    "rbf_cka",
    "ridge_cca",
    "rsa",
    "similarity_test",
    "svcca",
]
