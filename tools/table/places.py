"""Where the runs of a table may run: shares of the cores, or GPUs, as environment variables of their processes."""

from __future__ import annotations

import os

import torch

from fastreid.utils.errors import UserError
from fastreid.utils.machine import num_cores


def places_for(jobs: int, gpus: str | None) -> list[dict[str, str]]:
    """Return the environment of each run at a time: `jobs` of them, or one for each GPU of a list such as 0,1.

    Several runs share the cores, unless OMP_NUM_THREADS is set.

    Raises:
        UserError: there is no such number of runs, or no such GPU.
    """
    if jobs < 1:
        raise UserError(f"--jobs must be at least 1; found {jobs}")
    places = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in visible_gpus(gpus)] if gpus is not None else [{}] * jobs
    if len(places) > 1 and "OMP_NUM_THREADS" not in os.environ:
        threads = {"OMP_NUM_THREADS": str(max(1, num_cores() // len(places)))}
        places = [place | threads for place in places]
    return places


def visible_gpus(gpus: str) -> list[str]:
    """Return the names, as CUDA_VISIBLE_DEVICES has them, of the GPUs of a list of numbers from 0.

    Raises:
        UserError: it is no such list, or a number is twice in it or too high.
    """
    words = gpus.split(",")
    if not all(word.isdecimal() for word in words) or len(set(words)) < len(words):
        raise UserError(f"--gpus must be different numbers, such as 0,1; found {gpus!r}")
    count = torch.cuda.device_count()
    missing = [word for word in words if int(word) >= count]
    if missing:
        raise UserError(f"--gpus {gpus}: there is no GPU {missing[0]}, this machine shows {count}; --jobs needs none")
    # A batch system may have given this process a choice, which its processes' numbers are within.
    given = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return [given[int(word)] for word in words] if given else words
