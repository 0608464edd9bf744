"""Audit of a run: leakage, controls, decomposition, effects and findings."""
