"""The numbers that the paper prints, as data: Tables 1 to 4 of arXiv 2509.21136, measured on RLBench."""

from mnprobe.analysis.paper.numbers import PAPER_HEAD, STAND_INS, module_of, paper_table

__all__ = ["PAPER_HEAD", "STAND_INS", "module_of", "paper_table"]
