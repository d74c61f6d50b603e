"""CMC by the single-gallery-shot protocol of CUHK03's first papers.

Li et al., "DeepReID: Deep Filter Pairing Neural Network for Person Re-identification" (CVPR 2014): the gallery holds
one image of each identity, drawn at random, and the curve is the mean over several draws.
"""

import numpy as np

from fastreid.evaluation.rank import check_inputs, evaluate_rank


def eval_cuhk03(
    distmat: np.ndarray,
    q_pids: np.ndarray,
    g_pids: np.ndarray,
    q_camids: np.ndarray,
    g_camids: np.ndarray,
    max_rank: int = 50,
    repeats: int = 10,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Evaluate a distance matrix (Q, G) with one gallery image of each identity, drawn `repeats` times per query.

    Gallery images of the query's identity and camera are dropped before the draw. Returns `cmc` (min(max_rank,
    gallery identities),), the mean over draws and valid queries, and AP and INP of each valid query over the whole kept
    gallery, as `evaluate_rank`. A query's draws depend on `seed` and its index only. Equal distances are ordered by
    gallery index. Raises UserError as `evaluate_rank` does.
    """
    distmat = check_inputs(distmat, q_pids, g_pids, q_camids, g_camids)
    _, all_ap, all_inp = evaluate_rank(distmat, q_pids, g_pids, q_camids, g_camids, max_rank)
    g_pids, g_camids = np.asarray(g_pids), np.asarray(g_camids)
    identities, numbers, counts = np.unique(g_pids, return_inverse=True, return_counts=True)
    # The images of identity i are by_identity[begins[i]:begins[i] + counts[i]].
    by_identity, begins = np.argsort(numbers, kind="stable"), np.cumsum(counts) - counts
    length = min(max_rank, len(identities))
    hits = np.zeros(length)
    for query, (row, pid, camid) in enumerate(zip(distmat, q_pids, q_camids)):
        own = int(np.searchsorted(identities, pid))
        if own == len(identities) or identities[own] != pid:
            continue
        images = by_identity[begins[own] : begins[own] + counts[own]]
        matches = images[g_camids[images] != camid]
        if len(matches) == 0:
            continue
        shares = np.random.default_rng([seed, query]).random((repeats, len(identities)))
        drawn = by_identity[begins + (shares * counts).astype(np.int64)]
        match = matches[(shares[:, own] * len(matches)).astype(np.int64)]
        drawn[:, own] = match
        cutoff = row[match][:, None]
        nearer = (row[drawn] < cutoff) | ((row[drawn] == cutoff) & (drawn < match[:, None]))
        ranks = nearer.sum(axis=1)
        hits += np.bincount(ranks[ranks < length], minlength=length)
    return np.cumsum(hits) / (repeats * len(all_ap)), all_ap, all_inp
