"""Evaluation of re-identification: distances, ranking measures and verification rates."""

from fastreid.evaluation.distance import compute_distance, distance_blocks
from fastreid.evaluation.query_expansion import average_query_expansion
from fastreid.evaluation.rank import Labels, evaluate_rank
from fastreid.evaluation.rerank import re_ranking
from fastreid.evaluation.roc import evaluate_roc, evaluate_tpr_at_fpr
from fastreid.evaluation.streaming import FeatureDistances, MatrixDistances, evaluate_blocks

__all__ = [
    "FeatureDistances",
    "Labels",
    "MatrixDistances",
    "average_query_expansion",
    "compute_distance",
    "distance_blocks",
    "evaluate_blocks",
    "evaluate_rank",
    "evaluate_roc",
    "evaluate_tpr_at_fpr",
    "re_ranking",
]
