"""The base and the meta step: what each of them updates, and with which gradient."""

import copy

import pytest
import torch
from torch.func import functional_call

from fastreid.engine import train_loop
from fastreid.layers import running_stats
from fastreid.modeling.losses.build import build_losses
from fastreid.utils.errors import UserError


def meta_losses(trainer, names, domains, gates):
    """Return the sum of losses of the meta batch's images of some domains, with `gates` in the model."""
    part = train_loop.select_domains(trainer.meta_batch, domains)
    losses = build_losses(trainer.cfg, names, "")
    with running_stats(trainer.model, "hold"):
        outputs = functional_call(trainer.model.train(), gates, (part,))
    return sum(losses(outputs, part["targets"], part["domains"]).values())


def expected_meta_gradients(trainer, second_order=False):
    """Return the gates' meta-test gradients, their meta-train gradients, and g', each by name, written out."""
    names = trainer.cfg.META.LOSS
    gates = {name: gate.detach().clone().requires_grad_() for name, gate in trainer.gates.items()}
    inner = meta_losses(trainer, names.MTRAIN_NAME, [2, 0], gates)
    inner_gradients = torch.autograd.grad(inner, list(gates.values()), create_graph=second_order)
    step = trainer.optimizer_norm.param_groups[0]["lr"] * trainer.cfg.META.SOLVER.LR_FACTOR.META
    fast = {name: gate - step * gradient for (name, gate), gradient in zip(gates.items(), inner_gradients)}
    if not second_order:
        fast = {name: value.detach().clamp(0, 1).requires_grad_() for name, value in fast.items()}
    outer = meta_losses(trainer, names.MTEST_NAME, [1], fast)
    outer_gradients = torch.autograd.grad(outer, list((gates if second_order else fast).values()))
    return dict(zip(gates, outer_gradients)), dict(zip(gates, inner_gradients)), fast


def found_gradients(trainer):
    return {name: gate.grad for name, gate in trainer.gates.items()}


class TestBaseStep:
    def test_leaves_the_gates_to_the_meta_step(self, tiny):
        trainer = tiny.make_trainer()
        before = tiny.snapshot(trainer)
        trainer.run_step_meta_learning1()
        assert tiny.changed(trainer, before) == before.keys() - tiny.gate_names(trainer) - {
            "heads.classifier_norm.bias"
        }
        assert all(gate.grad is None for gate in trainer.gates.values())

    def test_without_a_meta_step_trains_the_gates_with_their_own_optimizer(self, tiny):
        trainer = tiny.make_trainer(meta=False)
        before = tiny.snapshot(trainer)
        trainer.run_step_meta_learning1()
        for name, gate in trainer.gates.items():
            torch.testing.assert_close(gate.detach(), before[name] - 0.1 * gate.grad)
        assert tiny.changed(trainer, before) == before.keys() - {"heads.classifier_norm.bias"}
        assert not trainer.optimizer_norm.state[next(iter(trainer.gates.values()))].get("momentum_buffer")

    @pytest.mark.parametrize("all_params", [False, True])
    def test_trains_the_gates_too_where_meta_steps_train_everything(self, tiny, all_params):
        trainer = tiny.make_trainer(META__MODEL__ALL_PARAMS=all_params)
        before = tiny.snapshot(trainer)
        trainer.run_step_meta_learning1()
        assert bool(tiny.gate_names(trainer) & tiny.changed(trainer, before)) == all_params
        for name, gate in trainer.gates.items():  # by optimizer_norm
            torch.testing.assert_close(gate.detach(), before[name] - 0.1 * gate.grad if all_params else before[name])

    def test_gates_may_have_momentum_and_decay(self, tiny):
        trainer = tiny.make_trainer(meta=False, SOLVER__MOMENTUM_NORM=0.5, SOLVER__WEIGHT_DECAY_NORM=0.01)
        gate, velocity = next(iter(trainer.gates.values())), 0
        for _ in range(2):
            before = gate.detach().clone()
            trainer.run_step_meta_learning1()
            velocity = 0.5 * velocity + gate.grad + 0.01 * before
            torch.testing.assert_close(gate.detach(), before - 0.1 * velocity)

    def test_moves_running_statistics_once(self, tiny):
        trainer = tiny.make_trainer()
        trainer.run_step_meta_learning1()
        counts = [t.item() for name, t in trainer.model.state_dict().items() if name.endswith("num_batches_tracked")]
        assert counts == [1, 1, 1]

    def test_returns_its_losses_by_name(self, tiny):
        losses = tiny.make_trainer().run_step_meta_learning1()
        assert list(losses) == ["base/loss_cls", "base/loss_triplet"]
        assert all(value.shape == () and not value.requires_grad for value in losses.values())

    def test_weights_follow_sgd_with_momentum_and_decay(self, tiny):
        trainer = tiny.make_trainer()
        weight = trainer.model.backbone[0].weight
        velocity = torch.zeros_like(weight)
        for _ in range(2):
            before = weight.detach().clone()
            trainer.run_step_meta_learning1()
            velocity = 0.9 * velocity + weight.grad + 5e-4 * before
            torch.testing.assert_close(weight.detach(), before - 0.01 * velocity)

    def test_lowers_the_loss_of_a_batch_it_sees_again(self, tiny):
        trainer = tiny.make_trainer(SOLVER__BASE_LR=0.05)
        totals = [sum(trainer.run_step_meta_learning1().values()) for _ in range(8)]
        assert totals[-1] < 0.8 * totals[0]


class TestMetaStep:
    def test_leaves_base_weights_and_running_statistics_alone(self, tiny):
        trainer = tiny.make_trainer()
        trainer.run_step_meta_learning1()
        before, momentum = tiny.snapshot(trainer), copy.deepcopy(trainer.optimizer_main.state_dict())
        trainer.run_step_meta_learning2()
        assert tiny.changed(trainer, before) == tiny.gate_names(trainer)
        torch.testing.assert_close(trainer.optimizer_main.state_dict()["state"], momentum["state"], rtol=0, atol=0)

    def test_returns_its_losses_by_name(self, tiny):
        names = ["mtrain/loss_triplet_add", "mtrain/loss_triplet_mtrain", "mtrain/loss_stc", "mtest/loss_triplet_mtest"]
        assert list(tiny.make_trainer().run_step_meta_learning2()) == names

    def test_gates_stay_between_zero_and_one(self, tiny):
        trainer = tiny.make_trainer(META__SOLVER__LR_FACTOR__GATE=1e5)
        trainer.run_step_meta_learning2()
        gates = torch.cat([gate.detach() for gate in trainer.gates.values()])
        assert gates.min() == 0 and gates.max() == 1
        trainer = tiny.make_trainer(meta=False, META__SOLVER__LR_FACTOR__GATE=1e5)
        trainer.run_step_meta_learning1()
        assert all(0 <= gate.min() and gate.max() <= 1 for gate in trainer.gates.values())

    def test_first_order_gradient_is_the_meta_test_one_at_the_moved_gates(self, tiny):
        trainer = tiny.prepare_meta()
        before = {name: gate.detach().clone() for name, gate in trainer.gates.items()}
        expected, _, fast = expected_meta_gradients(trainer)
        assert any((fast[name] - before[name]).abs().max() > 1e-4 for name in fast)
        trainer.run_step_meta_learning2()
        torch.testing.assert_close(found_gradients(trainer), expected, rtol=1e-10, atol=1e-12)
        for name, gate in trainer.gates.items():
            torch.testing.assert_close(gate.detach(), before[name] - 0.1 * expected[name])

    def test_gradient_passes_a_gate_that_the_clamp_holds(self, tiny):
        trainer = tiny.prepare_meta(META__SOLVER__LR_FACTOR__GATE=1e5)
        expected, _, fast = expected_meta_gradients(trainer)
        held = {name: (value == 0) | (value == 1) for name, value in fast.items()}
        assert all(mask.any() for mask in held.values())
        trainer.run_step_meta_learning2()
        found = found_gradients(trainer)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        assert all(found[name][mask].any() for name, mask in held.items())

    def test_inner_gradient_is_a_constant_in_an_update_of_first_order(self, tiny):
        trainer = tiny.prepare_meta(META__SOLVER__STOP_GRADIENT=False)
        expected, *_ = expected_meta_gradients(trainer)
        trainer.run_step_meta_learning2()
        torch.testing.assert_close(found_gradients(trainer), expected, rtol=1e-10, atol=1e-12)

    def test_second_order_with_a_gradient_that_is_stopped_is_refused(self, tiny):
        with pytest.raises(UserError, match="SECOND_ORDER True does nothing while META.SOLVER.STOP_GRADIENT is True"):
            tiny.make_trainer(META__SOLVER__MTRAIN__SECOND_ORDER=True)

    def test_second_order_gradient_equals_finite_differences(self, tiny):
        options = {"META__SOLVER__MTRAIN__SECOND_ORDER": True, "META__SOLVER__STOP_GRADIENT": False}
        trainer = tiny.prepare_meta(**options, META__SOLVER__LR_FACTOR__GATE=100.0, META__LOSS__MTRAIN_NAME=("SCT",))
        first_order, *_ = expected_meta_gradients(trainer)
        gates = {name: gate.detach().clone() for name, gate in trainer.gates.items()}
        step = trainer.optimizer_norm.param_groups[0]["lr"] * trainer.cfg.META.SOLVER.LR_FACTOR.META

        def objective(moved):
            leaves = {name: gate.clone().requires_grad_() for name, gate in moved.items()}
            inner = meta_losses(trainer, ("SCT",), [2, 0], leaves)
            gradients = torch.autograd.grad(inner, list(leaves.values()))
            fast = {name: gate - step * gradient for (name, gate), gradient in zip(moved.items(), gradients)}
            assert all(0 < value.min() and value.max() < 1 for value in fast.values())
            return meta_losses(trainer, trainer.cfg.META.LOSS.MTEST_NAME, [1], fast).item()

        expected, eps = {}, 1e-5
        for name, gate in gates.items():
            expected[name] = torch.zeros_like(gate)
            for i in range(len(gate)):
                ends = []
                for sign in (1, -1):
                    shifted = gate.clone()
                    shifted[i] += sign * eps
                    ends.append(objective({**gates, name: shifted}))
                expected[name][i] = (ends[0] - ends[1]) / (2 * eps)
        trainer.run_step_meta_learning2()
        found = found_gradients(trainer)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)
        assert any((found[name] - first_order[name]).abs().max() > 1e-4 for name in found)

    @pytest.mark.parametrize("clamp", [True, False])
    def test_the_inner_update_s_clamp_is_an_option(self, tiny, clamp):
        trainer = tiny.prepare_meta(META__SOLVER__LR_FACTOR__GATE=1e5, META__SOLVER__INNER_CLAMP=clamp)
        fast = spy_on_inner_update(trainer)
        trainer.run_step_meta_learning2()
        gates = torch.cat(list(fast.values()))
        assert (gates.min() < 0 and gates.max() > 1) != clamp

    @pytest.mark.parametrize("second_order", [False, True])
    def test_combined_adds_the_weighted_meta_train_gradient(self, tiny, second_order):
        options = {"META__SOLVER__MTRAIN__SECOND_ORDER": second_order, "META__SOLVER__STOP_GRADIENT": not second_order}
        trainer = tiny.prepare_meta(**options, META__LOSS__COMBINED=True, META__LOSS__WEIGHT=0.3)
        outer, inner, _ = expected_meta_gradients(trainer, second_order)
        trainer.run_step_meta_learning2()
        expected = {name: (outer[name] + 0.3 * inner[name]).detach() for name in outer}
        torch.testing.assert_close(found_gradients(trainer), expected, rtol=1e-9, atol=1e-11)

    def test_inner_ratio_is_fixed_or_advances_before_each_meta_step(self, tiny):
        trainer = tiny.make_trainer()
        trainer.run_step_meta_learning2()
        assert trainer.inner_ratio.value == trainer.cfg.META.SOLVER.LR_FACTOR.META
        trainer = tiny.make_trainer(META__SOLVER__LR_FACTOR__META=0.0)  # cycle of 100 steps from 0.001 to 0.1
        used = []
        inner_update = trainer.inner_update
        trainer.inner_update = lambda loss, ratio: used.append(ratio) or inner_update(loss, ratio)
        trainer.run_step_meta_learning1()
        trainer.run_step_meta_learning2(), trainer.run_step_meta_learning2()
        assert used == pytest.approx([0.001 + 0.099 / 50, 0.001 + 2 * 0.099 / 50])

    @pytest.mark.parametrize(
        "groups, prefixes",
        [
            (("backbone_bn_gate",), {"gate"}),
            (("backbone_bn_gate", "backbone_bn"), {"gate", "bn"}),
            (("backbone_conv",), {"conv"}),
            (("backbone_conv", "heads"), {"conv"}),  # no meta-train loss looks at the logits
        ],
    )
    def test_meta_compute_layer_chooses_what_the_inner_update_moves(self, tiny, groups, prefixes):
        trainer = tiny.make_trainer(META__MODEL__META_COMPUTE_LAYER=groups)
        fast = spy_on_inner_update(trainer)
        before = tiny.snapshot(trainer)
        trainer.run_step_meta_learning2()
        parameters = dict(trainer.model.named_parameters())

        def kind(name):
            if name.startswith("heads"):
                return "heads"
            return "gate" if name.endswith("gate") else "bn" if parameters[name].dim() == 1 else "conv"

        assert {kind(name) for name in fast} == prefixes
        assert set(fast) == {name for name in parameters if kind(name) in prefixes}
        assert tiny.changed(trainer, before) <= tiny.gate_names(trainer)

    def test_inner_step_of_a_weight_uses_its_own_learning_rate(self, tiny):
        trainer = tiny.make_trainer(META__MODEL__META_COMPUTE_LAYER=("backbone_bn",), META__LOSS__COMBINED=True)
        seen = {}
        real_grad = torch.autograd.grad

        def grad(loss, inputs, *arguments, **options):
            gradients = real_grad(loss, inputs, *arguments, **options)
            if isinstance(loss, torch.Tensor):  # else of a normalization's coefficients
                seen["gradients"] = gradients
            return gradients

        fast = spy_on_inner_update(trainer)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.autograd, "grad", grad)
            trainer.run_step_meta_learning2()
        parameters = dict(trainer.model.named_parameters())
        for name, gradient in zip(fast, seen["gradients"]):
            lr = 0.02 if name.endswith("bias") else 0.01
            torch.testing.assert_close(
                fast[name], parameters[name] - lr * trainer.cfg.META.SOLVER.LR_FACTOR.META * gradient
            )

    @pytest.mark.parametrize("kind", ["BIN_gate2", "BIN_gate1", "BN"])
    def test_all_params_is_mldg(self, tiny, kind):
        trainer = tiny.make_trainer(META__MODEL__ALL_PARAMS=True, MODEL__NORM__TYPE_BACKBONE=kind)
        fast = spy_on_inner_update(trainer)
        before = tiny.snapshot(trainer)
        trainer.run_step_meta_learning2()
        seen_by_triplet = {n for n, _ in trainer.model.named_parameters() if n.startswith("backbone.")}
        assert set(fast) == seen_by_triplet
        assert tiny.changed(trainer, before) == seen_by_triplet


def spy_on_inner_update(trainer):
    """Return a dictionary that the next inner update fills with its result."""
    result, inner_update = {}, trainer.inner_update

    def spy(loss, ratio):
        fast = inner_update(loss, ratio)
        result.update({name: value.detach() for name, value in fast.items()})
        return fast

    trainer.inner_update = spy
    return result


def test_straight_through_clamp_has_the_gradient_of_the_identity():
    values = torch.tensor([-0.5, 0.0, 0.3, 1.0, 1.7], dtype=torch.float64, requires_grad=True)
    (out,) = train_loop.StraightThroughClamp.apply(values)
    torch.testing.assert_close(out.detach(), torch.tensor([0.0, 0.0, 0.3, 1.0, 1.0], dtype=torch.float64))
    cotangent = torch.arange(5.0, dtype=torch.float64)
    assert torch.equal(torch.autograd.grad(out, values, cotangent)[0], cotangent)
