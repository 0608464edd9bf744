"""Curves, t-SNE, tables, figures and the report: what people look at."""
