"""Similarity indices on two arrays of features, their permutation null, and the registry for users' own."""

from mnprobe.analysis.similarity.about import About, Invariance
from mnprobe.analysis.similarity.cca import cca
from mnprobe.analysis.similarity.cka import linear_cka
from mnprobe.analysis.similarity.cknna import cknna
from mnprobe.analysis.similarity.debiased_cka import debiased_cka
from mnprobe.analysis.similarity.family import Family, calibrate, column_values
from mnprobe.analysis.similarity.hsic import hsic_1
from mnprobe.analysis.similarity.index import Index, MatrixIndex, Relation
from mnprobe.analysis.similarity.infonce import infonce_bound
from mnprobe.analysis.similarity.minibatch_cka import minibatch_cka
from mnprobe.analysis.similarity.mutual_knn import mutual_knn
from mnprobe.analysis.similarity.null import SimilarityTest, calibrated_level, p_value, similarity_test
from mnprobe.analysis.similarity.permutations import SCHEMES, Scheme, balanced_rows, exchange
from mnprobe.analysis.similarity.procrustes import procrustes, procrustes_distance
from mnprobe.analysis.similarity.pwcca import pwcca
from mnprobe.analysis.similarity.rbf_cka import rbf_cka
from mnprobe.analysis.similarity.registry import INDICES, make_index, parse_options
from mnprobe.analysis.similarity.ridge_cca import ridge_cca
from mnprobe.analysis.similarity.rsa import rsa
from mnprobe.analysis.similarity.svcca import svcca

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
