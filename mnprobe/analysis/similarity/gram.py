"""Matrices of episodes by episodes: inner products, distances, and the two ways of centring them."""

import numpy as np

from mnprobe.analysis.similarity.arrays import Rows, centred

__all__ = ["double_centred", "gram", "squared_distances", "u_centred"]


def gram(values: Rows) -> Rows:
    """Inner products of the centred rows, (N, N). Centring changes nothing in exact arithmetic, but keeps digits."""
    middle = centred(values)
    return np.asarray(middle @ middle.T)


def squared_distances(values: Rows) -> Rows:
    """Squared Euclidean distances between rows, (N, N), never below 0."""
    product = gram(values)
    square = np.diagonal(product)
    found = np.maximum(square[:, None] + square[None, :] - 2 * product, 0.0)
    np.fill_diagonal(found, 0.0)
    return np.asarray(found)


def double_centred(matrix: Rows) -> Rows:
    """H K H with H = I - 11^T / N: rows and columns sum to zero (Gretton et al. 2005)."""
    rows = matrix.mean(axis=1, keepdims=True)
    return np.asarray(matrix - rows - rows.T + rows.mean())


def u_centred(matrix: Rows) -> Rows:
    """U-centring of symmetric matrices (..., N, N), N >= 4 (Szekely and Rizzo 2014, definition 2).

    Off the diagonal K_ij - (row i) / (N - 2) - (row j) / (N - 2) + (all) / ((N - 1)(N - 2)), where sums leave the
    diagonal out; on the diagonal 0. The inner product of two such matrices over N (N - 3) is HSIC_1, the unbiased
    estimator of the Hilbert-Schmidt independence criterion (Song et al. 2012, equation 5).
    """
    n = matrix.shape[-1]
    diagonal = np.eye(n, dtype=bool)
    hollow = np.where(diagonal, 0.0, matrix)
    rows = hollow.sum(axis=-1) / (n - 2)
    everything = rows.sum(axis=-1) / (n - 1)
    found = hollow - rows[..., :, None] - rows[..., None, :] + everything[..., None, None]
    return np.where(diagonal, 0.0, found)
