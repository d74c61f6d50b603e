"""A training run that can be killed, stopped or led astray, and goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fastreid.data.stream import Batch, BatchStream, DataPositions, worker_errors
from fastreid.engine.changed_options import changed_options, convert_iteration, forget_random_numbers, report_changes
from fastreid.engine.hooks import PeriodicWriter
from fastreid.engine.recovery import BestResult, Rollback, require_finite_weights
from fastreid.engine.stopping import StopRequested, StopSignals
from fastreid.engine.train_loop import NonFiniteLossError, SimpleTrainer
from fastreid.engine.trainer_base import HookBase
from fastreid.engine.weight_averaging import require_plain_weights, total_iterations
from fastreid.report.plots import read_metrics
from fastreid.solver.lr_scheduler import Schedule
from fastreid.utils import run_files
from fastreid.utils.checkpoint import Checkpointer, read_checkpoint, read_last
from fastreid.utils.errors import Stopped, UserError
from fastreid.utils.processes import gather, process_rank
from fastreid.utils.random_states import RandomStates

logger = logging.getLogger(__name__)


class ResumableTrainer(SimpleTrainer):
    """MetaBIN's loop with checkpoints of everything that moves.

    Its loaders are those of `build_train_loaders`. A subclass sets `checkpointer`, `schedulers` and `writer` before it
    registers hooks.
    """

    checkpointer: Checkpointer
    schedulers: dict[str, Schedule]
    writer: PeriodicWriter

    def __init__(self, cfg, model, base_loader, meta_loader, optimizer_main, optimizer_norm):
        self.streams = {"base": BatchStream(base_loader)}
        if meta_loader is not None:
            self.streams["meta"] = BatchStream(meta_loader)
        super().__init__(cfg, model, self.streams["base"], self.streams.get("meta"), optimizer_main, optimizer_norm)
        self.folder = Path(cfg.OUTPUT_DIR)
        self.best = BestResult(cfg.TEST.BEST_METRIC)
        self.signals = StopSignals()
        self.rollback = Rollback(cfg.SOLVER.MAX_ROLLBACKS)

    def checkpoint_entries(self) -> dict[str, Any]:
        """Return all that a checkpoint holds, by entry, beside the `model`, the `iteration` and the `config`.

        Raises:
            ValueError: two hooks name one entry, or a hook names one of these.
        """
        domain_rng = self.domain_rng if self.has_meta_step else None
        entries = {
            "optimizer_main": self.optimizer_main,
            "scheduler_main": self.schedulers["lr"],
            "optimizer_norm": self.optimizer_norm,
            "scheduler_norm": self.schedulers.get("lr_gate"),
            "inner_ratio": self.inner_ratio if self.has_meta_step else None,
            "scaler": self.scaler if self.scaler.is_enabled() else None,
            "data_positions": DataPositions(self.streams, domain_rng, self.cfg.SOLVER.ITERS_PER_EPOCH),
            "random_states": RandomStates(self.device, self.cfg.SEED),
            "best_result": self.best,
        }
        for hook in self.hooks:
            if hook.checkpoint_entry in (*entries, "model", "iteration", "config"):
                raise ValueError(f"{type(hook).__name__}: a checkpoint has an entry {hook.checkpoint_entry} already")
            if hook.checkpoint_entry:
                entries[hook.checkpoint_entry] = hook
        return {entry: thing for entry, thing in entries.items() if thing is not None}

    def register_hooks(self, hooks: Iterable[HookBase]) -> None:
        """Append hooks, which run in this order; those with a state are in checkpoints from now on."""
        super().register_hooks(hooks)
        self.checkpointer.objects = self.checkpoint_entries()

    def resume(self, path: Path, content: dict[str, Any]) -> None:
        """Take up what a checkpoint of this run holds; what follows from its iteration need not be in it.

        Learning rates, decay and the like are those of the present config in that iteration.
        """
        changed = changed_options(content["config"], self.checkpointer.config) if "config" in content else {}
        before = content.get("iteration")
        if isinstance(before, int):
            convert_iteration(path, content, changed, self.cfg.SOLVER.ITERS_PER_EPOCH)
            if "SEED" in changed:
                forget_random_numbers(content)
            self.complete(content)
        self.start_iter = self.checkpointer.restore(path, content)
        for scheduler in self.schedulers.values():
            scheduler.go_to(self.start_iter)
        require_plain_weights(content, self.start_iter, total_iterations(self.cfg))
        self.model.zero_grad()  # the gradients of iterations that are undone are not for modules that are frozen there
        self.resume_best(before + 1)
        report_changes(path, changed)

    def complete(self, content: dict[str, Any]) -> None:
        """Add to a checkpoint's content what follows from its iteration."""
        base, meta = self.steps_before(content["iteration"] + 1)
        positions = content.get("data_positions", {})
        if not positions.keys() >= {*self.streams, *(["domain_splits"] if self.has_meta_step else [])}:
            content["data_positions"] = self.positions_after(base, meta) | positions
        content.setdefault("inner_ratio", {"steps": meta})
        if content["iteration"] < self.cfg.SOLVER.MAX_ITER:
            content.setdefault("weight_averaging", {"models": 0, "in_model": False})

    def evaluation_is_recorded(self, finished: int) -> bool:
        """Tell whether metrics.json has the evaluation after `finished` iterations; all processes must call it.

        Raises:
            UserError: the file holds something else.
        """
        path = self.folder / run_files.METRICS
        records = read_metrics(path) if path.is_file() else []
        last = next((record for record in records if record["iteration"] == finished - 1), {})
        return gather(any(name.startswith("test/") for name in last))[0]

    def positions_after(self, base: int, meta: int) -> dict[str, Any]:
        """Return where the data are after so many base and meta steps of a run in which no batch was left out."""
        positions = {"base": base, "meta": meta}
        if self.has_meta_step:
            self.domain_rng.manual_seed(self.cfg.SEED)
            for _ in range(meta):
                self.split_domains()
            positions["domain_splits"] = self.domain_rng.get_state()
        return positions

    def resume_best(self, end: int) -> None:
        """Take the best result of model_best.pth if it is of the evaluation that came right after the checkpoint.

        Args:
            end: the iterations that were done when the checkpoint was written.
        """
        path = self.folder / run_files.BEST
        if not path.is_file():
            return
        try:
            kept = read_checkpoint(path).get("best_result")
        except UserError as error:
            logger.warning(f"{error}: the next best model replaces it")
            return
        if kept and kept["metric"] == self.best.metric and self.best.iteration < kept["iteration"] < end:
            self.best.load_state_dict(kept)

    def set_earlier_run_aside(self) -> None:
        """See to it that what a run from the beginning leaves is not taken for an earlier run's, nor the reverse."""
        if process_rank() > 0:
            return
        if (self.folder / run_files.LAST_CHECKPOINT).is_file():
            logger.warning(f"{self.folder} holds an earlier run: its checkpoints stay until this run replaces them")
            (self.folder / run_files.LAST_CHECKPOINT).unlink()
        (self.folder / run_files.CHECKPOINTS).unlink(missing_ok=True)
        for path in (self.folder / run_files.BEST, self.folder / run_files.METRICS):
            if path.is_file():
                path.replace(path.with_stem(f"{path.stem}.previous"))

    def train_and_survive(self) -> None:
        """Train to the end, whatever can be survived.

        Raises:
            Stopped: by SIGINT or SIGTERM, after the end of the iteration and a checkpoint.
            UserError: a loss is not finite, a loader's worker was killed, the disk is full, ...
        """
        try:
            with worker_errors(), self.signals:
                self.train_or_roll_back()
        except StopRequested as request:
            self.stop(request)
        finally:
            for stream in self.streams.values():
                stream.end()

    def train_or_roll_back(self) -> None:
        """Train to the end; with SOLVER.ON_NAN rollback, go back to the last checkpoint when a loss is not finite."""
        while True:
            try:
                self.train(self.start_iter, total_iterations(self.cfg))
                return
            except NonFiniteLossError as error:
                if self.cfg.SOLVER.ON_NAN == "stop":
                    raise
                self.roll_back(error)

    def roll_back(self, error: NonFiniteLossError) -> None:
        """Go back to the last checkpoint of this run, and on without the batches of the iteration that failed.

        Raises:
            NonFiniteLossError: there is no checkpoint yet, or there were SOLVER.MAX_ROLLBACKS rollbacks.
        """
        if self.rollback.done >= self.rollback.limit:
            raise NonFiniteLossError(f"after {self.rollback.done} rollback(s): {error}", error.iteration) from error
        found = read_last(self.folder)
        if found is None:
            raise NonFiniteLossError(f"no checkpoint yet to roll back to: {error}", error.iteration) from error
        self.rollback.note(error.iteration)
        self.storage.discard()
        self.unread.clear()
        self.resume(*found)
        logger.warning(
            f"{str(error).splitlines()[0]} Rolled back to {found[0]}; the batches of iteration {error.iteration} are "
            f"left out (rollback {self.rollback.done} of at most {self.rollback.limit})"
        )

    def next_batch(self, source: Iterator[Batch]) -> Batch:
        """Return the next batch; a signal to stop does not wait for it for ever."""
        with self.signals.waiting():
            return super().next_batch(source)

    def skip_batches(self) -> None:
        """Leave out the batches of the present iteration."""
        before, after = self.steps_before(self.iter), self.steps_before(self.iter + 1)
        for stream, first, last in zip(self.streams.values(), before, after):
            stream.seek(stream.position + last - first)

    def stop(self, request: StopRequested) -> None:
        """Save what the run has done until now, and end it.

        Raises:
            Stopped: always, unless it cannot be saved.
        """
        name = run_files.numbered_checkpoint(self.iter)
        if not request.midway and self.iter < self.max_iter and self.checkpointer.history[-1:] != [name]:
            try:
                self.require_finite()
                self.checkpointer.save(name, self.iter)
            except NonFiniteLossError as error:
                if self.cfg.SOLVER.ON_NAN == "stop":
                    raise
                logger.warning(f"not saved, the resumed run rolls back: {str(error).splitlines()[0]}")
        self.writer.close()
        last = self.checkpointer.history[-1] if self.checkpointer.history else "the beginning"
        why = f"{request}, as no batch came" if request.midway else str(request)
        raise Stopped(f"stopped by {why}: the same command with --resume goes on from {last}", request.signum)

    def require_finite(self) -> None:
        """Check all losses, and the weights.

        Raises:
            NonFiniteLossError: one is not finite.
        """
        self.read_losses()
        require_finite_weights(self.model, min(self.iter, self.max_iter - 1))
