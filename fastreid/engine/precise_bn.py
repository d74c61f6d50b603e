"""Precise running statistics: `TEST.PRECISE_BN`.

Running statistics are moving averages over the last few dozen batches, computed while the weights moved. Wu and
Johnson, "Rethinking 'Batch' in BatchNorm" (arXiv 2105.07576, section 3), replace them, before a test, by those of many
batches under the present weights.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from contextlib import nullcontext
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from fastreid.data.stream import BatchStream
from fastreid.engine.hooks import is_due
from fastreid.engine.train_loop import SimpleTrainer
from fastreid.engine.trainer_base import HookBase
from fastreid.layers import population_statistics, style_layers, take_population_statistics
from fastreid.utils.processes import hide_progress_bar

logger = logging.getLogger(__name__)


@torch.no_grad()
def compute_precise_statistics(trainer: SimpleTrainer, batches: Iterable[dict[str, Any]]) -> None:
    """Replace a model's running statistics by mean and variance of all `batches` under its present weights.

    Every layer normalizes with the batch's statistics while it is done, as in training, but in float32, as in a test;
    layers that are frozen keep theirs. With several processes each gives its share of every batch, and all get the
    statistics of the whole.
    """
    model, cfg = trainer.model, trainer.cfg
    trainer.trained.set_training_mode(model, trainer.iter)
    for layer in style_layers(model):
        layer.eval()  # statistics are for tests, which change no styles
    # A compiled model would have to be compiled again for this.
    compiled = cfg.SOLVER.COMPILE == "model"
    with (
        torch.compiler.set_stance("force_eager") if compiled else nullcontext(),
        population_statistics(model) as populations,
    ):
        for batch in batches:
            model(trainer.to_device(batch))
    take_population_statistics(populations)


class PreciseStatistics(HookBase):
    """Compute precise statistics before each test: every `period` iterations and at the end.

    It stands before the checkpoints among the hooks: they hold the statistics that are tested, with which training goes
    on, and a resumed run too. Each time the batches are the same, the first ones of a stream of their own, so that
    training sees the same data with it as without.

    Args:
        loader: of the batches.
        num_batches: TEST.PRECISE_BN.NUM_ITER.
        period: 0: at the end only.
    """

    def __init__(self, loader: DataLoader, num_batches: int, period: int):
        self.loader, self.num_batches, self.period = loader, num_batches, period

    def after_step(self) -> None:
        if is_due(self.trainer.iter, self.period) and self.trainer.iter + 1 < self.trainer.max_iter:
            self.run()

    def after_train(self) -> None:
        self.run()

    def run(self) -> None:
        start, stream = time.perf_counter(), BatchStream(self.loader)
        batches, hidden = islice(stream, self.num_batches), hide_progress_bar()
        try:
            with tqdm(
                batches, "precise statistics", self.num_batches, unit=" batches", leave=False, disable=hidden
            ) as bar:
                compute_precise_statistics(self.trainer, bar)
        finally:
            stream.end()
        logger.info(
            f"running statistics are those of {self.num_batches} batches now, {time.perf_counter() - start:.1f} s"
        )
