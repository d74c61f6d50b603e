"""Average query expansion with similarity weights (alpha-QE).

Radenovic et al., "Fine-tuning CNN Image Retrieval with No Human Annotation" (TPAMI 2018).
"""

import torch

from fastreid.evaluation.distance import distance_blocks, nearest
from fastreid.utils.errors import UserError


def check_expansion(times: int, k: int, alpha: float) -> None:
    """Raise UserError for impossible values of `average_query_expansion`'s options."""
    for name, value, least in (("times", times, 0), ("k", k, 1), ("alpha", alpha, 0)):
        if value < least:
            raise UserError(f"Query expansion: {name} must be at least {least}, found {value}.")


def average_query_expansion(
    q_feat: torch.Tensor, g_feat: torch.Tensor, times: int = 1, k: int = 5, alpha: float = 3.0, block_size: int = 256
) -> tuple[torch.Tensor, torch.Tensor]:
    """Replace every feature, query (Q, D) and gallery (G, D), by a weighted mean over its neighbourhood.

    The k nearest features by cosine over query and gallery together, the feature itself among them, are averaged (the
    sum divided by k) with weights cosine ** alpha; the whole is repeated `times` times. Returns the new query and
    gallery features, float32. With a fractional alpha a negative cosine weighs nothing.

    Raises:
        UserError: features of different lengths or values of times, k or alpha below their minimum (0, 1, 0).
    """
    check_expansion(times, k, alpha)
    # Checks the lengths before the features are joined.
    distance_blocks(q_feat, g_feat)
    features = torch.cat([q_feat, g_feat]).detach().float()
    for _ in range(times):
        expanded = torch.empty_like(features)
        for start, block in distance_blocks(features, features, "cosine", block_size):
            neighbours = torch.from_numpy(nearest(block.cpu().numpy(), k)).to(block.device)
            similarity = 1 - block.gather(1, neighbours)
            if not float(alpha).is_integer():
                similarity = similarity.clamp(min=0)
            weighted = features[neighbours] * similarity.pow(alpha).unsqueeze(2)
            expanded[start : start + len(block)] = weighted.mean(dim=1)
        features = expanded
    return features[: len(q_feat)], features[len(q_feat) :]
