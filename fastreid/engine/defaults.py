"""The usual assembly of a run: arguments, set-up, and a trainer with its loaders, hooks and checkpoints."""

from __future__ import annotations

import argparse
import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fastreid.analysis import MODES
from fastreid.config import CfgNode, get_cfg
from fastreid.data.build import TrainLoaders, build_train_loaders
from fastreid.engine import hooks
from fastreid.engine.batch_check import check_batches
from fastreid.engine.chosen_model import UNTRAINED, note_unused_weights, require_one_model
from fastreid.engine.compile import compile_model, is_compiled
from fastreid.engine.precise_bn import PreciseStatistics
from fastreid.engine.preflight import check_options, find_test_sets, require_room
from fastreid.engine.resumable import ResumableTrainer
from fastreid.engine.weight_averaging import WeightAveraging, total_iterations
from fastreid.engine.writers import JSONWriter, LogWriter, TensorBoardWriter, Writer
from fastreid.evaluation.feature_cache import FeatureCache
from fastreid.evaluation.reid_evaluation import evaluate
from fastreid.evaluation.results import Results
from fastreid.modeling import build_model
from fastreid.report.plots import plot_result
from fastreid.solver import build_lr_scheduler, build_optimizer
from fastreid.solver.sgd import MergedSGD
from fastreid.utils import run_files
from fastreid.utils.checkpoint import (
    CLASSIFIER,
    Checkpointer,
    checkpoint_names,
    load_weights,
    read_checkpoint,
    read_last,
)
from fastreid.utils.errors import UserError
from fastreid.utils.files import remove_leftovers, write_text
from fastreid.utils.launch import add_launch_arguments
from fastreid.utils.locks import hold_lock
from fastreid.utils.logger import setup_logger
from fastreid.utils.machine import machine_name
from fastreid.utils.memory import keep_freed_memory
from fastreid.utils.processes import gather, process_rank

logger = logging.getLogger(__name__)

EPOCH_OPTIONS = ("MAX_ITER", "WARMUP_ITERS", "DELAY_ITERS", "CHECKPOINT_PERIOD", "FREEZE_ITERS")


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a config, and which of its checkpoints is meant where there are several."""
    parser.add_argument("--config-file", required=True, metavar="FILE", help="a file in configs/")
    last = "go on from, or test, the last checkpoint of the output folder, whatever MODEL.WEIGHTS is"
    parser.add_argument("--resume", action="store_true", help=last)
    numbered = "--resume from model_<K>.pth instead of the last checkpoint"
    parser.add_argument("--num-pth", type=int, metavar="K", help=numbered)
    trust = "read checkpoints that could run any code while they are read"
    parser.add_argument("--trust-checkpoint", action="store_true", help=trust)


def default_argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line that FastReID users know."""
    parser = argparse.ArgumentParser(description="Train or test a re-identification model.")
    add_checkpoint_arguments(parser)
    parser.add_argument("--eval-only", action="store_true", help="test only")
    parser.add_argument(
        "--tsne-only", action="store_true", help="draw t-SNE of the features, by domain and by identity"
    )
    parser.add_argument("--dist-only", action="store_true", help="draw distances within and between identities")
    parser.add_argument("--domain-only", action="store_true", help="draw distances between domains")
    features = parser.add_mutually_exclusive_group()
    features.add_argument(
        "--save-features",
        action="store_true",
        help="with --eval-only, keep the features in features/ of the output folder",
    )
    features.add_argument("--features", action="store_true", help="with --eval-only, take the features that were kept")
    add_launch_arguments(parser)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="options that override the config file")
    return parser


def analysis_modes(args: argparse.Namespace) -> list[str]:
    """Return the analyses that are asked for; with any of them, nothing is trained."""
    return [mode for mode in MODES if getattr(args, f"{mode}_only")]


def default_setup(args: argparse.Namespace) -> CfgNode:
    """Return the frozen config of a run after making its output folder, log and random seed.

    Raises:
        UserError: no such config file, an unknown key, or a folder that cannot be written to.
    """
    setup_logger()
    cfg = get_cfg()
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    if not cfg.OUTPUT_DIR:
        cfg.OUTPUT_DIR = str(output_folder(Path(args.config_file)))
    folder = Path(cfg.OUTPUT_DIR)
    if cfg.SEED < 0:
        # One for all processes, kept in config.yaml, so that the run can be repeated, and goes on with the same data.
        earlier = earlier_seed(folder) if args.resume or args.num_pth is not None else None
        cfg.SEED = gather(random.SystemRandom().randrange(2**31) if earlier is None else earlier)[0]
    cfg.freeze()
    setup_logger(folder)
    logger.info(f"config {args.config_file}, output folder {folder}, seed {cfg.SEED}")
    if args.eval_only or analysis_modes(args):
        require_one_model(cfg, args.opts, args.resume, args.num_pth)
    elif process_rank() == 0:
        hold_lock(folder / run_files.LOCK)
        write_text(folder / run_files.CONFIG, cfg.dump())
    random.seed(cfg.SEED)
    np.random.seed(cfg.SEED)
    torch.manual_seed(cfg.SEED)
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    if cfg.MODEL.DEVICE.startswith("cpu") or not torch.cuda.is_available():
        keep_freed_memory()
    return cfg


def earlier_seed(folder: Path) -> int | None:
    """Return the seed of the run whose config.yaml is in a folder, None without one."""
    path = folder / run_files.CONFIG
    if not path.is_file():
        return None
    cfg = get_cfg()
    cfg.merge_from_file(path)
    return cfg.SEED if cfg.SEED >= 0 else None


def output_folder(config_file: Path) -> Path:
    """Return the config's path with configs -> logs, without its suffix; logs/<name> for a file elsewhere."""
    parts = config_file.with_suffix("").parts
    if "configs" not in parts:
        return Path("logs") / parts[-1]
    position = len(parts) - 1 - parts[::-1].index("configs")
    return Path(*parts[:position], "logs", *parts[position + 1 :])


def epochs_to_iterations(cfg: CfgNode, iters_per_epoch: int, num_classes: int, num_domains: int) -> CfgNode:
    """Return a copy of the config with what the data decide filled in, and epochs turned into iterations."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.HEADS.NUM_CLASSES = num_classes
    cfg.META.DATA.NUM_DOMAINS = num_domains
    solver = cfg.SOLVER
    solver.ITERS_PER_EPOCH = iters_per_epoch
    for option in EPOCH_OPTIONS:
        solver[option] *= iters_per_epoch
    for option in ("ITER", "PERIOD"):
        solver.SWA[option] *= iters_per_epoch
    solver.STEPS = [step * iters_per_epoch for step in solver.STEPS]
    period = cfg.TEST.EVAL_PERIOD * iters_per_epoch
    cfg.TEST.EVAL_PERIOD = -(-period // solver.WRITE_PERIOD) * solver.WRITE_PERIOD
    if solver.CHECKPOINT_SAME_AS_EVAL and cfg.TEST.EVAL_PERIOD:
        solver.CHECKPOINT_PERIOD = cfg.TEST.EVAL_PERIOD
    cfg.freeze()
    return cfg


class DefaultTrainer(ResumableTrainer):
    """Everything a run needs, from its config: loaders, model, optimizers, schedules, checkpoints, logs, evaluation.

    Override a `build_` method for what the config does not offer; see tools/train_net.py.
    """

    def __init__(self, cfg: CfgNode):
        check_options(cfg)
        config = cfg.dump()
        self.test_sets = find_test_sets(cfg)
        loaders = self.build_loaders(cfg)
        cfg = epochs_to_iterations(cfg, loaders.iters_per_epoch, loaders.num_classes, loaders.num_meta_domains)
        model = self.build_model(cfg)
        main, norm = self.build_optimizers(cfg, model)
        super().__init__(cfg, model, loaders.base, loaders.meta, main, norm)
        check_batches(cfg, loaders)
        self.statistics_batches = loaders.statistics
        self.schedulers = {"lr": build_lr_scheduler(cfg, main, "main")}
        if norm is not None:
            self.schedulers["lr_gate"] = build_lr_scheduler(cfg, norm, "norm")
        self.averaging = WeightAveraging(cfg, model, self.schedulers["lr"]) if cfg.SOLVER.SWA.ENABLED else None
        self.checkpointer = Checkpointer(model, self.folder, cfg.SOLVER.CHECKPOINT_KEEP, config)
        self.writer = hooks.PeriodicWriter(self.build_writers, cfg.SOLVER.WRITE_PERIOD)
        self.register_hooks(self.build_hooks())
        logger.info(
            f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(self.gates)} layers with "
            f"gates, {loaders.num_classes} identities, {loaders.iters_per_epoch} iterations per epoch, on {self.device}"
        )

    def build_loaders(self, cfg: CfgNode) -> TrainLoaders:
        """Return the loaders of the training data, and the sizes found in them; `cfg` counts epochs, not iterations."""
        return build_train_loaders(cfg)

    def build_model(self, cfg: CfgNode) -> nn.Module:
        """Return the model, on its device."""
        return build_model(cfg)

    def build_optimizers(self, cfg: CfgNode, model: nn.Module) -> tuple[MergedSGD, MergedSGD | None]:
        """Return the optimizer of the base model, and that of the gates if there are any."""
        return build_optimizer(cfg, model, "main"), build_optimizer(cfg, model, "norm")

    def build_hooks(self) -> list[hooks.HookBase]:
        """Return what happens around iterations, in this order; cfg, model, optimizers and schedules are there."""
        cfg = self.cfg
        found: list[hooks.HookBase] = [
            hooks.IterationTimer(),
            self.rollback,
            hooks.SchedulerStep(self.schedulers),
            hooks.ScalerSkips(cfg.SOLVER.WRITE_PERIOD),
        ]
        # These two make weights and statistics other ones, which the next two save and test.
        if self.averaging is not None:
            found.append(self.averaging)
        if self.statistics_batches is not None:
            node = cfg.TEST.PRECISE_BN
            period = cfg.TEST.EVAL_PERIOD if node.ENABLED else 0
            found.append(PreciseStatistics(self.statistics_batches, node.NUM_ITER, period))
        found += [
            hooks.PeriodicCheckpoint(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD),
            hooks.PeriodicEvaluation(cfg.TEST.EVAL_PERIOD, self.evaluate, self.evaluation_is_recorded),
            self.writer,
            hooks.CallAfterTraining(self.draw_result),
            hooks.StopOnSignal(self.signals),
        ]
        if is_compiled(cfg.SOLVER.COMPILE, self.device):
            found.append(hooks.CompilationReport())
        return found

    def build_writers(self) -> list[Writer]:
        """Return what writes the run's numbers; of several processes, the first one does."""
        if process_rank() > 0:
            return []
        return [
            LogWriter(self.cfg.SOLVER.ITERS_PER_EPOCH),
            JSONWriter(self.folder / run_files.METRICS),
            TensorBoardWriter(self.folder),
        ]

    def draw_result(self) -> None:
        """Draw the run's numbers."""
        if process_rank() == 0:
            plot_result(self.folder / run_files.METRICS, self.folder / run_files.RESULT_FIGURE)

    def resume_or_load(self, resume: bool, number: int | None = None, trust: bool = False) -> None:
        """Go on from a checkpoint of the output folder if `resume`, else start from `MODEL.WEIGHTS` if given.

        Args:
            number: take model_<number>.pth instead of the last checkpoint.
            trust: read a file that could run code while it is read.
        """
        if process_rank() == 0:
            hold_lock(self.folder / run_files.LOCK)
            remove_leftovers(self.folder)
        found = find_checkpoint(self.folder, number, trust) if resume else None
        self.require_one_folder(found)
        if found is not None:
            self.resume(*found)
            logger.info(f"resumed {found[0]} at iteration {self.start_iter}")
            note_unused_weights(self.cfg, found[0])
            return
        if self.cfg.MODEL.WEIGHTS not in ("", UNTRAINED):
            self.checkpointer.load(Path(self.cfg.MODEL.WEIGHTS), trust)
        elif resume:
            logger.warning(f"--resume: {self.folder} has no checkpoint, training from the beginning")
        self.set_earlier_run_aside()

    def require_one_folder(self, found: tuple[Path, dict[str, Any]] | None) -> None:
        """Raise UserError when not all processes have found the same checkpoint."""
        names = gather(found[0].name if found else "none")
        if len(set(names)) > 1:
            raise UserError(
                f"the processes have found different checkpoints ({', '.join(names)}): OUTPUT_DIR {self.folder} must "
                "be one folder that all machines see"
            )

    def run(self) -> Results:
        """Train to the end and return the last evaluation's results.

        Raises:
            Stopped: by SIGINT or SIGTERM, after the iteration's end and a checkpoint.
            UserError: a loss is not finite, a loader's worker was killed, the disk is full, ...
        """
        end = total_iterations(self.cfg)
        if self.start_iter >= end and (self.averaging is None or self.averaging.in_model):
            self.test_what_is_trained()
            return self.results
        if process_rank() == 0:
            require_room(self, self.folder, self.checkpointer.history, end)
        self.train_and_survive()
        return self.results

    def test_what_is_trained(self) -> None:
        """Test a run that is at its end, and record the numbers if that is still to do."""
        logger.info(f"training ended at iteration {self.start_iter} already: testing it")
        if self.cfg.TEST.PRECISE_BN.ENABLED:
            logger.info("TEST.PRECISE_BN belongs to training: the statistics are those of the checkpoint")
        if self.evaluation_is_recorded(self.start_iter):
            self.evaluate(self.start_iter)
            return
        self.storage.iter = self.start_iter - 1
        self.storage.put_scalars(self.evaluate(self.start_iter))
        self.writer.close()
        self.draw_result()

    def evaluate(self, finished: int) -> dict[str, float]:
        """Test the model after `finished` iterations, log and save the table, return Rank-1 and mAP by data set.

        The best model so far is kept as model_best.pth.
        """
        with self.signals.interruptible():
            results = evaluate(self.cfg, self.model, test_sets=self.test_sets)
        self.results = report(self.cfg, results, iteration=finished, max_iter=total_iterations(self.cfg))
        if self.best.update(self.results.overall, finished - 1):
            logger.info(f"best {self.best.metric} so far: {self.best.value:.2f}")
            self.checkpointer.write(run_files.BEST, finished - 1)
        averages = self.results.averages | {"all_average": self.results.overall}
        return {f"test/{name} {key}": row[key] for name, row in averages.items() for key in ("Rank-1", "mAP")}


def find_checkpoint(folder: Path, number: int | None, trust: bool = False) -> tuple[Path, dict[str, Any]] | None:
    """Return model_<number>.pth of a folder, or its last readable checkpoint, and the content; None without any.

    Raises:
        UserError: there is no checkpoint of that number, or none can be read.
    """
    if number is None:
        return read_last(folder, trust)
    path = folder / run_files.numbered_checkpoint(number)
    if not path.is_file():
        found = ", ".join(checkpoint_names(folder)) or "none"
        raise UserError(f"--num-pth {number}: no checkpoint {path}; found {found}")
    return path, read_checkpoint(path, trust)


def feature_cache(cfg: CfgNode, args: argparse.Namespace) -> FeatureCache | None:
    """Return where `--save-features` or `--features` keep features, None without either.

    Raises:
        UserError: they are given for a training run, whose features change.
    """
    if not (args.save_features or args.features):
        return None
    if not args.eval_only:
        raise UserError("--save-features and --features are for tests: add --eval-only, or leave them out")
    return FeatureCache(Path(cfg.OUTPUT_DIR) / run_files.FEATURES, reuse=args.features)


def load_model(
    cfg: CfgNode, resume: bool, number: int | None = None, trust: bool = False
) -> tuple[nn.Module, Path | None]:
    """Return the model of `MODEL.WEIGHTS`, or with `resume` or without these of a checkpoint of the output folder.

    The second value is that file, None for MODEL.WEIGHTS "untrained", the model that training starts from. No training
    data are needed.

    Args:
        number: take model_<number>.pth instead of the last checkpoint.
        trust: read a file that could run code while it is read.

    Raises:
        UserError: there is no such checkpoint, or it is of another architecture than the config.
    """
    folder, weights = Path(cfg.OUTPUT_DIR), cfg.MODEL.WEIGHTS
    if weights == UNTRAINED and not resume:
        logger.info("this is the untrained model")
        return build_from_checkpoint(cfg, None), None
    named = weights not in ("", UNTRAINED)
    found = find_checkpoint(folder, number, trust) if resume or not named else None
    if found is None and named:
        found = Path(weights), read_checkpoint(Path(weights), trust)
    if found is None:
        raise UserError(
            f"no checkpoint in {folder}: train first, or put a trained model there and its file name into "
            f"{folder / run_files.LAST_CHECKPOINT}, or name it with MODEL.WEIGHTS (MODEL.WEIGHTS {UNTRAINED}: the "
            "model that training starts from)"
        )
    path, content = found
    note_unused_weights(cfg, path)
    if not resume and not named:
        logger.info(f"no MODEL.WEIGHTS: this is {path}, the last checkpoint of the output folder")
    return build_from_checkpoint(cfg, path, content), path


def build_from_checkpoint(cfg: CfgNode, path: Path | None, content: dict[str, Any] | None = None) -> nn.Module:
    """Return the config's model with a checkpoint's weights, or with those that training starts from.

    The classifier has the checkpoint's identities, or one: it takes no part in testing.

    Args:
        content: of the file, if it was read already.

    Raises:
        UserError: there is no such file, it is damaged, or of another architecture than the config.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.HEADS.NUM_CLASSES = 1
    if path is not None:
        content = read_checkpoint(path) if content is None else content
        cfg.MODEL.BACKBONE.PRETRAIN = False  # every weight comes from the checkpoint
        if CLASSIFIER in content["model"]:
            cfg.MODEL.HEADS.NUM_CLASSES = content["model"][CLASSIFIER].shape[0]
    model = build_model(cfg)
    if path is not None:
        load_weights(model, {CLASSIFIER: model.state_dict()[CLASSIFIER]} | content["model"], path)
    if cfg.SOLVER.COMPILE == "auto":  # what else it may say takes longer to compile than a test does
        compile_model(model, "auto", next(model.parameters()).device)
    return model


def test_only(
    cfg: CfgNode, resume: bool, number: int | None = None, cache: FeatureCache | None = None, trust: bool = False
) -> Results:
    """Test `MODEL.WEIGHTS`, or a checkpoint of the output folder: see `load_model`."""
    model, path = load_model(cfg, resume, number, trust)
    return report(cfg, evaluate(cfg, model, cache), checkpoint=str(path) if path else "")


def report(cfg: CfgNode, results: Results, **about) -> Results:
    """Log the table of results, and save it in the output folder; of several processes, the first one does."""
    if process_rank() > 0:
        return results
    test = cfg.TEST
    options = {
        "metric": test.METRIC,
        "flip": test.FLIP,
        "query_expansion": test.AQE.ENABLED,
        "re_ranking": test.RERANK.ENABLED,
    }
    results.save(Path(cfg.OUTPUT_DIR), **about, options=options, machine=machine_name(cfg.MODEL.DEVICE))
    logger.info(f"results:\n{results.table()}\n{results.counted()}{results.open_set_table()}")
    return results
