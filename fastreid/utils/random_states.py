"""The states of all random number generators of all processes, as tensors and plain values."""

from __future__ import annotations

import logging
import random
from typing import Any

import numpy as np
import torch

from fastreid.utils.processes import gather, process_rank

logger = logging.getLogger(__name__)


class RandomStates:
    """What a checkpoint keeps of the generators of Python, NumPy and PyTorch: one entry for each process, by rank.

    Args:
        device: its generator is kept too, if it is a CUDA device.
        seed: for processes that a checkpoint does not know.
    """

    def __init__(self, device: torch.device, seed: int):
        self.device, self.seed = device, seed

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the states by rank; all processes must call it."""
        return gather(self.own_state())

    def own_state(self) -> dict[str, Any]:
        """Return the states of this process."""
        version, words, gauss = random.getstate()
        name, keys, position, has_gauss, cached = np.random.get_state()
        state = {
            "python": {"version": version, "words": torch.tensor(words), "gauss": gauss},
            "numpy": {
                "name": name,
                "keys": torch.from_numpy(keys.astype(np.int64)),
                "position": position,
                "has_gauss": has_gauss,
                "cached": cached,
            },
            "torch": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Take up this process's states; those that are not there start from the seed, with a line in the log."""
        rank = process_rank()
        if rank >= len(states):
            logger.warning(
                f"process {rank}: the checkpoint is of a run in {len(states)} process(es), random numbers "
                "start from the seed here"
            )
            self.seed_anew(rank)
            return
        state = states[rank]
        python, numpy = state["python"], state["numpy"]
        random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
        keys = numpy["keys"].numpy().astype(np.uint32)
        np.random.set_state((numpy["name"], keys, numpy["position"], numpy["has_gauss"], numpy["cached"]))
        torch.set_rng_state(state["torch"])
        if self.device.type == "cuda" and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], self.device)

    def seed_anew(self, rank: int) -> None:
        """Seed all generators of this process by the run's seed and its rank."""
        first, second, third = np.random.SeedSequence([self.seed, rank]).generate_state(3).tolist()
        random.seed(first)
        np.random.seed(second)
        torch.manual_seed(third)
