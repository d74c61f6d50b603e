"""Whole training steps against the published program: the vectors step_*.npz beside this file."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from fastreid.config import get_cfg
from fastreid.engine import SimpleTrainer
from fastreid.modeling import build_model
from fastreid.solver import build_optimizer

GOLDEN = Path(__file__).parent
ROOT = GOLDEN.parents[1]
LOSS_GROUPS = {"1)": "base/", "2)": "mtrain/", "3)": "mtest/"}


def make_trainer(
    meta: dict, recipe: ModuleType, options: Sequence[str], device: str, dtype: torch.dtype
) -> tuple[SimpleTrainer, Tensor]:
    """Return a trainer of a vector's run, and the images that its features are computed of."""
    cfg = get_cfg()
    cfg.merge_from_file(ROOT / meta["config"])
    cfg.merge_from_list([*meta["opts"], *options])
    cfg.merge_from_list(["MODEL.DEVICE", device, "MODEL.BACKBONE.PRETRAIN", "False", "SOLVER.AMP", "False"])
    cfg.MODEL.HEADS.NUM_CLASSES = meta["num_classes"]
    cfg.META.DATA.NUM_DOMAINS = meta["num_domains"]
    cfg.SOLVER.ITERS_PER_EPOCH = meta["iters_per_epoch"]
    model = build_model(cfg)
    recipe.fill_model(model)
    model.to(dtype)
    n = meta["n"]
    ids = torch.arange(n // 4).repeat_interleave(4)
    first, second = (recipe.images(n, *meta["size"], meta["seed"] + i).to(dtype) for i in (0, 1))

    def batch(images):
        domains = ids % meta["num_domains"]
        return dict(
            images=images, targets=ids, camids=domains, domains=domains, img_paths=[f"{i}.jpg" for i in range(n)]
        )

    loaders = [batch(first), batch(second)], [batch(second), batch(first)]
    optimizers = build_optimizer(cfg, model, "main"), build_optimizer(cfg, model, "norm")
    trainer = SimpleTrainer(cfg, model, *loaders, *optimizers)
    orders = iter(meta["domain_order"])

    def split_domains():
        order, count = next(orders), cfg.META.SOLVER.MTRAIN.NUM_DOMAIN
        return order[:count], order[count:]

    trainer.split_domains = split_domains
    return trainer, first


def check(
    name: str,
    recipe: ModuleType,
    tolerances: Sequence[float],
    options: Sequence[str] = (),
    device: str = "cpu",
    dtype: torch.dtype = torch.float64,
) -> None:
    """Train as many iterations as there are tolerances, or vectors, and compare all that the vectors hold.

    Args:
        name: of the vectors. recipe: the module recipe.py. tolerances: of each iteration, relative to the norm of each
            tensor.
    """
    vectors = np.load(GOLDEN / f"{name}.npz")
    meta = json.loads(str(vectors["meta"]))
    trainer, images = make_trainer(meta, recipe, options, device, dtype)
    model = trainer.model

    def check_features(key, rtol):
        model.eval()
        with torch.no_grad():
            features = model({"images": images}).double().cpu().numpy()
        np.testing.assert_allclose(features, vectors[key], rtol=rtol, atol=rtol * np.abs(vectors[key]).max())

    def check_state(key, rtol):
        state = model.state_dict()
        names = [k.removeprefix(f"{key}/") for k in vectors.files if k.startswith(f"{key}/")]
        assert set(names) <= set(state)
        for tensor_name in names:
            expected = vectors[f"{key}/{tensor_name}"]
            found = recipe.summary(state[tensor_name].cpu())
            # last entry: the L2 norm. The sum may cancel, so it is measured against the norm too.
            np.testing.assert_allclose(
                found, expected, rtol=rtol, atol=rtol * max(expected[-1], 1e-3), err_msg=tensor_name
            )
        for gate_name in (k.removeprefix(f"{key}_gate/") for k in vectors.files if k.startswith(f"{key}_gate/")):
            found = state[gate_name].double().cpu().numpy()
            np.testing.assert_allclose(found, vectors[f"{key}_gate/{gate_name}"], rtol=rtol, atol=rtol)

    check_features("eval_features_before", tolerances[0])
    iterations = len(meta["domain_order"])
    for iteration, rtol in enumerate(tolerances[:iterations]):
        losses = trainer.run_step_meta_learning1()
        check_state(f"iter{iteration}/after_base", rtol)
        losses |= trainer.run_step_meta_learning2()
        check_state(f"iter{iteration}/after_meta", rtol)
        prefix = f"iter{iteration}/loss/"
        expected = {k.removeprefix(prefix): float(vectors[k]) for k in vectors.files if k.startswith(prefix)}
        expected = {LOSS_GROUPS[k[:2]] + k[2:]: value for k, value in expected.items()}
        assert {key: float(loss) for key, loss in losses.items()} == pytest.approx(expected, rel=rtol)
        assert trainer.inner_ratio.value == pytest.approx(float(vectors[f"iter{iteration}/inner_ratio"]), abs=1e-12)
        assert trainer.optimizer_norm.param_groups[0]["lr"] == pytest.approx(float(vectors[f"iter{iteration}/gate_lr"]))
    if len(tolerances) >= iterations:
        check_features("eval_features_after", rtol)
