"""Comparison of features by similarity indices: matrices and heatmaps."""
