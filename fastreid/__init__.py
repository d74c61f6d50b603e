"""MetaBIN: generalizable person re-identification by meta batch-instance normalization (CVPR 2021)."""

__version__ = "1.0.0"
