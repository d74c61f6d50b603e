"""Optimizers and learning rate schedules."""

from fastreid.solver.build import build_optimizer
from fastreid.solver.lr_scheduler import InnerRatio, build_lr_scheduler

__all__ = ["InnerRatio", "build_lr_scheduler", "build_optimizer"]
