"""Figures: style, metadata, and the alignment curve."""
