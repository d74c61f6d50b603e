"""Training: the loop, its hooks and their usual assembly."""

from fastreid.engine.train_loop import HookBase, NonFiniteLossError, SimpleTrainer, TrainerBase

__all__ = ["HookBase", "NonFiniteLossError", "SimpleTrainer", "TrainerBase"]
