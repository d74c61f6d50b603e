"""Optimizers: `optimizer_main` for the base model, `optimizer_norm` for the balancing parameters (gates)."""

from __future__ import annotations

import torch
from torch import nn

from fastreid.solver.sgd import MergedSGD
from fastreid.solver.trained_parameters import gate_parameters, main_parameters


def build_optimizer(cfg, model: nn.Module, which: str) -> torch.optim.Optimizer | None:
    """Return the SGD optimizer called `which`, whose state has one group per parameter as published checkpoints do.

    "main": every trained parameter but the gates, with momentum and weight decay; learning rate BASE_LR times the
    factors for biases, backbone and heads. "norm": the gates, at BASE_LR x LR_FACTOR.GATE, with MOMENTUM_NORM and
    WEIGHT_DECAY_NORM; None for a model that has no gates.
    """
    solver = cfg.SOLVER
    if which == "norm":
        lr = solver.BASE_LR * cfg.META.SOLVER.LR_FACTOR.GATE
        groups = [{"name": name, "params": [p], "lr": lr} for name, p in gate_parameters(model).items()]
        options = {"lr": lr, "momentum": solver.MOMENTUM_NORM, "weight_decay": solver.WEIGHT_DECAY_NORM}
        return MergedSGD(groups, **options) if groups else None
    if which != "main":
        raise ValueError(f'an optimizer is called "main" or "norm"; found {which!r}')
    groups = []
    for name, parameter in main_parameters(model).items():
        is_bias = name.endswith(".bias")
        lr = solver.BASE_LR * (solver.BIAS_LR_FACTOR if is_bias else 1.0)
        lr *= solver.BACKBONE_LR_FACTOR if name.startswith("backbone.") else solver.HEADS_LR_FACTOR
        decay = solver.WEIGHT_DECAY_BIAS if is_bias else solver.WEIGHT_DECAY
        groups.append({"name": name, "params": [parameter], "lr": lr, "weight_decay": decay})
    return MergedSGD(groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM)
