"""Compiled helpers of the evaluation; `fastreid.evaluation.rank` uses NumPy when they are not built."""
