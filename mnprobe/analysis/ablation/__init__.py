"""Ablation of pairing and temperature (paper, section 4.5, Table 3)."""
