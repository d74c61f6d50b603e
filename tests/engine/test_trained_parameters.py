"""What a step computes gradients of; MODEL.FREEZE_LAYERS: what is not trained in the first iterations, and what is."""

import logging

import pytest
import torch

from fastreid.layers import BatchNorm
from fastreid.solver.trained_parameters import gradients_for
from fastreid.utils.errors import UserError

FIRST_LAYERS = ("backbone.0", "backbone.1")  # a convolution and its batch-instance normalization
VARIANTS = {
    "metabin": {},
    "combined_and_second_order": {
        "META__LOSS__COMBINED": True,
        "META__SOLVER__MTRAIN__SECOND_ORDER": True,
        "META__SOLVER__STOP_GRADIENT": False,
    },
    "mldg": {"META__MODEL__ALL_PARAMS": True},
    "gate1": {"MODEL__NORM__TYPE_BACKBONE": "BIN_gate1"},
    "half_without_meta": {"MODEL__NORM__TYPE_BACKBONE": "BIN_half", "meta": False},
    "gates_in_base_steps": {"meta": False},
}


def of_modules(state, names):
    return {key for key in state if key.startswith(tuple(f"{name}." for name in names))}


def trained_tensors(state):
    """All that a few steps move: not the neck's bias, and IN's parameters only where a gate lets some of it through."""
    return {key for key in state if key != "heads.classifier_norm.bias"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_frozen_layers_stay_bit_equal_then_move_and_the_others_move_from_the_start(tiny, variant):
    options = {"MODEL__FREEZE_LAYERS": FIRST_LAYERS, "SOLVER__FREEZE_ITERS": 2, **VARIANTS[variant]}
    trainer = tiny.make_trainer(**options)
    start = tiny.snapshot(trainer)
    frozen = of_modules(start, FIRST_LAYERS)
    trainer.train(0, 2)
    assert tiny.changed(trainer, start) == trained_tensors(start) - frozen
    assert not [name for name, p in trainer.model.named_parameters() if name in frozen and p.grad is not None]
    trainer.train(2, 4)
    assert tiny.changed(trainer, start) == trained_tensors(start)


def test_frozen_layers_normalize_with_their_running_statistics(tiny):
    trainer = tiny.make_trainer(MODEL__FREEZE_LAYERS=FIRST_LAYERS, SOLVER__FREEZE_ITERS=1)
    frozen, free = trainer.model.backbone[1].bat_n, trainer.model.backbone[4].bat_n
    seen = []
    trainer.model.register_forward_pre_hook(lambda *_: seen.append((frozen.training, free.training)))
    trainer.train(0, 2)
    per_iteration = trainer.cfg.META.SOLVER.INIT.FIRST_INNER_LOOP + 2
    assert seen == [(False, True)] * per_iteration + [(True, True)] * 3


@pytest.mark.parametrize("all_params", [False, True])
def test_meta_steps_with_nothing_to_train_take_their_batches_all_the_same(tiny, all_params):
    """The metric losses do not depend on the head, so that in MLDG, too, a frozen backbone leaves nothing to learn."""
    options = {"MODEL__FREEZE_LAYERS": ("backbone",), "SOLVER__FREEZE_ITERS": 2, "META__MODEL__ALL_PARAMS": all_params}
    trainer = tiny.make_trainer(**options)
    free = tiny.make_trainer(META__MODEL__ALL_PARAMS=all_params)
    start = tiny.snapshot(trainer)
    for each in (trainer, free):
        each.train(0, 2)
    assert {name.split(".")[0] for name in tiny.changed(trainer, start)} == {"heads"}
    assert trainer.inner_ratio.steps == free.inner_ratio.steps == 2
    assert torch.equal(trainer.domain_rng.get_state(), free.domain_rng.get_state())
    trainer.train(2, 3)
    assert set(of_modules(start, ["backbone"])) <= tiny.changed(trainer, start)


def test_an_epoch_is_the_unit(root, make_full_run):
    trainer = make_full_run(root / "run", MODEL__FREEZE_LAYERS=("backbone.layer1", "heads"), SOLVER__FREEZE_ITERS=3)
    assert trainer.trained.frozen_until == 3 * trainer.cfg.SOLVER.ITERS_PER_EPOCH
    assert {type(layer) for layer in trainer.trained.frozen_norms} == {BatchNorm}
    assert len(trainer.trained.frozen_norms) == 2  # layer1's batch part and the neck


@pytest.mark.parametrize("options", [{}, {"MODEL__FREEZE_LAYERS": ("",), "SOLVER__FREEZE_ITERS": 5}])
def test_nothing_is_frozen_without_names(tiny, options):
    trainer = tiny.make_trainer(**options)
    start = tiny.snapshot(trainer)
    trainer.train(0, 1)
    assert tiny.changed(trainer, start) == trained_tensors(start)


def test_names_without_a_duration_are_warned_of(tiny, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("fastreid"), "propagate", True)
    tiny.make_trainer(MODEL__FREEZE_LAYERS=("backbone",))
    assert "MODEL.FREEZE_LAYERS has no effect while SOLVER.FREEZE_ITERS, in epochs, is 0" in caplog.text


@pytest.mark.parametrize("iterations", [0, 1])
@pytest.mark.parametrize(
    "name, nearest",
    [("backbone.01", "backbone.0,"), ("heads.classifer_fc", "heads.classifier_fc"), ("zzz", "backbone, heads")],
)
def test_an_unknown_name_lists_those_near_it(tiny, name, nearest, iterations):
    with pytest.raises(UserError, match=f"no module '{name}'; nearest: .*{nearest}"):
        tiny.make_trainer(MODEL__FREEZE_LAYERS=(name,), SOLVER__FREEZE_ITERS=iterations)


def test_freezing_everything_is_an_error(tiny):
    with pytest.raises(UserError, match="FREEZE_LAYERS backbone, heads leaves nothing to train"):
        tiny.make_trainer(MODEL__FREEZE_LAYERS=("backbone", "heads"), SOLVER__FREEZE_ITERS=1)


def test_freezing_all_that_the_losses_depend_on_is_an_error(tiny):
    options = {
        "MODEL__FREEZE_LAYERS": ("backbone",),
        "SOLVER__FREEZE_ITERS": 1,
        "MODEL__LOSSES__NAME": ("TripletLoss",),
    }
    with pytest.raises(UserError, match="nothing that MODEL.LOSSES.NAME depends on"):
        tiny.make_trainer(**options).train(0, 1)


def test_a_rollback_leaves_no_gradient_for_layers_that_are_frozen_there(root, make_full_run):
    trainer = make_full_run(root / "run")
    path = trainer.checkpointer.save("model_0000000", 0)
    for parameter in trainer.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    trainer.resume(path, torch.load(path, weights_only=True))
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_a_step_computes_no_gradient_that_it_does_not_use(tiny):
    trainer = tiny.make_trainer()
    convolutions = [m.weight for m in trainer.model.backbone if isinstance(m, torch.nn.Conv2d)]
    seen = []
    for name, weight in [("weight", convolutions[0]), ("gate", trainer.model.backbone[1].gate)]:
        weight.register_hook(lambda gradient, name=name: seen.append(name))
    trainer.run_step_meta_learning1()
    assert seen == ["weight"]
    seen.clear()
    trainer.run_step_meta_learning2()
    assert set(seen) == {"gate"}
    assert all(p.requires_grad for n, p in trainer.model.named_parameters() if n != "heads.classifier_norm.bias")


def test_parameters_ask_for_gradients_again_after_an_error(tiny):
    model = tiny.make_trainer().model
    with pytest.raises(ValueError), gradients_for([], model):
        assert not any(p.requires_grad for p in model.parameters())
        raise ValueError
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["heads.classifier_norm.bias"]
