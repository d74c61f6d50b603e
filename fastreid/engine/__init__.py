"""Training: the loop, its hooks and their usual assembly."""

from fastreid.engine.train_loop import NonFiniteLossError, SimpleTrainer
from fastreid.engine.trainer_base import HookBase, TrainerBase

__all__ = ["HookBase", "NonFiniteLossError", "SimpleTrainer", "TrainerBase"]
