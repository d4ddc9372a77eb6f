"""Meta-Experience Learning (MEL, arXiv 2602.10224) on unmodified OpenRLHF."""

__version__ = "0.2.0"
