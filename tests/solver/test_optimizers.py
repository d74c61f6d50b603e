"""Which parameter is in which optimizer, and with what learning rate, decay and momentum."""

import pytest
import torch

from fastreid.config import get_cfg
from fastreid.modeling import build_model
from fastreid.solver import build_optimizer
from fastreid.solver.trained_parameters import gate_parameters, layer_parameters, main_parameters
from fastreid.utils.errors import UserError

FROZEN = "heads.classifier_norm.bias"


def make(kind="BIN_gate2", *options):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "meta", "MODEL.BACKBONE.NAME", "build_mobilenet_v2_backbone"])
    cfg.merge_from_list(["MODEL.BACKBONE.DEPTH", 2, "MODEL.BACKBONE.PRETRAIN", "False", "MODEL.HEADS.IN_FEAT", 1280])
    cfg.merge_from_list(["MODEL.NORM.TYPE_BACKBONE", kind, "MODEL.HEADS.NUM_CLASSES", 5, *options])
    with torch.device("meta"):  # shapes only
        return cfg, build_model(cfg)


def groups_by_name(optimizer, model):
    """Return the parameter group of each parameter's name."""
    names = {p: name for name, p in model.named_parameters()}
    return {names[p]: group for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize("kind", ["BN", "IN", "BIN_half", "BIN_gate1", "BIN_gate2", "DualNorm"])
def test_each_trained_parameter_is_in_exactly_one_optimizer(kind):
    cfg, model = make(kind)
    main, norm = (build_optimizer(cfg, model, which) for which in ("main", "norm"))
    in_main = groups_by_name(main, model)
    in_norm = groups_by_name(norm, model) if norm is not None else {}
    assert not in_main.keys() & in_norm.keys()
    assert in_main.keys() | in_norm.keys() == {n for n, _ in model.named_parameters()} - {FROZEN}
    assert set(in_norm) == {n for n, _ in model.named_parameters() if n.endswith(".gate")}
    assert bool(in_norm) == ("gate" in kind)


def test_a_model_without_gates_has_no_second_optimizer():
    cfg, model = make("BN")
    assert build_optimizer(cfg, model, "norm") is None


def test_main_rates_decay_and_momentum_are_the_published_ones():
    cfg, model = make()
    for name, group in groups_by_name(build_optimizer(cfg, model, "main"), model).items():
        assert group["lr"] == pytest.approx(0.02 if name.endswith(".bias") else 0.01)
        assert group["weight_decay"] == 5e-4 and group["momentum"] == 0.9 and not group["nesterov"]


def test_gates_have_neither_momentum_nor_decay():
    cfg, model = make()
    for group in groups_by_name(build_optimizer(cfg, model, "norm"), model).values():
        assert group["lr"] == pytest.approx(0.01 * 10)
        assert group["weight_decay"] == 0 and group["momentum"] == 0


def test_every_factor_is_read():
    options = {
        "SOLVER.BASE_LR": 0.1,
        "SOLVER.BIAS_LR_FACTOR": 3.0,
        "SOLVER.BACKBONE_LR_FACTOR": 0.5,
        "SOLVER.HEADS_LR_FACTOR": 7.0,
        "SOLVER.WEIGHT_DECAY": 0.01,
        "SOLVER.WEIGHT_DECAY_BIAS": 0.02,
        "SOLVER.MOMENTUM": 0.8,
        "META.SOLVER.LR_FACTOR.GATE": 20.0,
    }
    cfg, model = make("BIN_gate2", *(word for pair in options.items() for word in pair))
    main = groups_by_name(build_optimizer(cfg, model, "main"), model)
    for name, lr, decay in [
        ("backbone.layer1.conv.weight", 0.1 * 0.5, 0.01),
        ("backbone.layer1.bn.bat_n.weight", 0.1 * 0.5, 0.01),
        ("backbone.layer1.bn.ins_n.bias", 0.1 * 0.5 * 3, 0.02),
        ("heads.classifier_fc.weight", 0.1 * 7, 0.01),
        ("heads.classifier_norm.weight", 0.1 * 7, 0.01),
    ]:
        assert (main[name]["lr"], main[name]["weight_decay"]) == (pytest.approx(lr), decay)
        assert main[name]["momentum"] == 0.8
    assert build_optimizer(cfg, model, "norm").param_groups[0]["lr"] == pytest.approx(0.1 * 20)


def test_the_saved_state_is_in_the_models_order():
    cfg, model = make()
    chosen = main_parameters(model)
    assert list(chosen) == [name for name, _ in model.named_parameters() if name in chosen]
    optimizer = build_optimizer(cfg, model, "main")
    for parameter in chosen.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    state = optimizer.state_dict()["state"]
    assert [state[i]["momentum_buffer"].shape for i in range(len(chosen))] == [p.shape for p in chosen.values()]
    gates = gate_parameters(model)
    assert [g["params"] for g in build_optimizer(cfg, model, "norm").state_dict()["param_groups"]] == [
        [i] for i in range(len(gates))
    ]


def test_layer_groups_divide_the_trained_parameters():
    _, model = make()
    groups = {
        g: set(layer_parameters(model, [g])) for g in ("backbone_bn_gate", "backbone_bn", "backbone_conv", "heads")
    }
    everything = {n for n, _ in model.named_parameters()} - {FROZEN}
    assert sum(map(len, groups.values())) == len(everything) and set.union(*groups.values()) == everything
    assert groups["backbone_bn_gate"] == set(gate_parameters(model))
    assert "backbone.layer2.0.bn.ins_n.weight" in groups["backbone_bn"]
    assert "backbone.layer2.0.conv3.weight" in groups["backbone_conv"]
    assert groups["heads"] == {"heads.classifier_norm.weight", "heads.classifier_fc.weight"}
    both = layer_parameters(model, ("heads", "backbone_conv"))
    assert set(both) == groups["heads"] | groups["backbone_conv"]


def test_layer_groups_divide_the_parameters_of_a_resnet_with_everything():
    options = [word for name in ("IBN", "SE", "NL") for word in (f"MODEL.BACKBONE.WITH_{name}", "True")]
    _, model = make("BIN_gate2", "MODEL.BACKBONE.NAME", "resnet18", "MODEL.HEADS.IN_FEAT", 0, *options)
    groups = [layer_parameters(model, [g]) for g in ("backbone_bn_gate", "backbone_bn", "backbone_conv", "heads")]
    assert sum(map(len, groups)) == len({n for n, _ in model.named_parameters()} - {FROZEN})
    assert {"backbone.layer1.0.bn1.IN.weight", "backbone.NL_2.0.W.1.bias"} <= set(groups[1])
    assert {"backbone.layer1.0.se.fc.0.weight", "backbone.NL_2.0.theta.weight"} <= set(groups[2])


def test_an_unknown_layer_group_lists_the_known_ones():
    _, model = make()
    with pytest.raises(UserError, match="META_COMPUTE_LAYER: names out of backbone_bn_gate, .*; found 'backbone_gate'"):
        layer_parameters(model, ["backbone_bn", "backbone_gate"])


def test_an_unknown_optimizer_is_refused():
    cfg, model = make()
    with pytest.raises(ValueError, match="found 'gate'"):
        build_optimizer(cfg, model, "gate")
