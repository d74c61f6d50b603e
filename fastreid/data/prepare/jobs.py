"""Work on many files in several processes, with a progress bar."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

from fastreid.utils.errors import shield_pool_worker

J = TypeVar("J")
R = TypeVar("R")


def run_jobs(
    function: Callable[[J], R],
    jobs: Sequence[J],
    workers: int,
    description: str,
    unit: str = "image",
    chunk: int = 16,
    total: int | None = None,
    amount: Callable[[R], int] = lambda result: 1,
) -> Iterator[R]:
    """Yield function(job) of each job, in any order; with one worker in this process.

    The bar counts to `total` (the number of jobs) by the `amount` of each result. What a job raises is raised here. The
    function must be one that another process can import.
    """
    total = len(jobs) if total is None else total
    with tqdm(total=total, unit=unit, desc=description, disable=None if jobs else True, mininterval=0.5) as bar:
        if workers == 1 or len(jobs) <= chunk:
            for job in jobs:
                result = function(job)
                yield result
                bar.update(amount(result))
            return
        with multiprocessing.Pool(workers, shield_pool_worker) as pool:
            for result in pool.imap_unordered(function, jobs, chunksize=chunk):
                yield result
                bar.update(amount(result))
