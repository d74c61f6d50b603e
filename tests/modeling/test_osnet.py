"""OSNet: the authors' names and shapes, their files, and the normalization where a layer has a choice."""

import pytest
import torch
from torch import nn

from fastreid.config import get_cfg
from fastreid.layers import BatchInstanceNorm, BatchNorm, InstanceNorm
from fastreid.modeling.backbones import build_backbone
from fastreid.modeling.backbones.osnet import WIDTHS, OSBlock, OSNet
from fastreid.utils.errors import UserError

NORMS = ("BN", "IN", "BIN_half", "BIN_gate1", "BIN_gate2", "DualNorm", "SN")


def authors_tensors(channels, ain):
    """Names and shapes of a published file, written down from its structure."""
    shapes = {}

    def norm(name, size, instance=False):
        leaves = ("weight", "bias") if instance else ("weight", "bias", "running_mean", "running_var")
        shapes.update({f"{name}.{leaf}": (size,) for leaf in leaves})
        if not instance:
            shapes[f"{name}.num_batches_tracked"] = ()

    def light(name, size):
        shapes[f"{name}.conv1.weight"], shapes[f"{name}.conv2.weight"] = (size, size, 1, 1), (size, 1, 3, 3)
        norm(f"{name}.bn", size)

    def pointwise(name, c_in, c_out):
        shapes[f"{name}.conv.weight"] = (c_out, c_in, 1, 1)
        norm(f"{name}.bn", c_out)

    shapes["conv1.conv.weight"] = (channels[0], 3, 7, 7)
    norm("conv1.bn", channels[0], ain)
    for stage, with_in in zip((2, 3, 4), ((1, 1), (0, 1), (1, 0))):
        c_in, c_out = channels[stage - 2], channels[stage - 1]
        for index in range(2):
            name, hidden = f"conv{stage}.{index}", c_out // 4
            pointwise(f"{name}.conv1", c_in if index == 0 else c_out, hidden)
            for number, letter in enumerate("abcd"):
                for k in range(number + 1):
                    part = f"conv2.{number}.layers.{k}" if ain else f"conv2{letter}" + (f".{k}" if number else "")
                    light(f"{name}.{part}", hidden)
            for fc, sizes in (("fc1", (hidden // 16, hidden)), ("fc2", (hidden, hidden // 16))):
                shapes[f"{name}.gate.{fc}.weight"], shapes[f"{name}.gate.{fc}.bias"] = (*sizes, 1, 1), sizes[:1]
            if ain and with_in[index]:
                shapes[f"{name}.conv3.conv.weight"] = (c_out, hidden, 1, 1)
                norm(f"{name}.IN", c_out, instance=True)
            else:
                pointwise(f"{name}.conv3", hidden, c_out)
            if index == 0:
                pointwise(f"{name}.downsample", c_in, c_out)
        if stage < 4:
            pointwise(f"pool{stage}.0" if ain else f"conv{stage}.2.0", c_out, c_out)
    pointwise("conv5", channels[3], channels[3])
    return shapes


VARIANTS = {f"osnet_{width}": (channels, False) for width, channels in WIDTHS.items()}
VARIANTS["osnet_ain_x1_0"] = (WIDTHS["x1_0"], True)


def build(name, *options, norm="BN"):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.BACKBONE.NAME", name, "MODEL.NORM.TYPE_BACKBONE", norm])
    cfg.merge_from_list(["MODEL.BACKBONE.PRETRAIN", "False", *map(str, options)])
    return build_backbone(cfg)


def write_file(path, name, prefix=""):
    """Write a file of the authors' form with random numbers, their two last layers too."""
    shapes = authors_tensors(*VARIANTS[name])
    tensors = {key: torch.rand(shape) + 0.5 if shape else torch.tensor(7) for key, shape in shapes.items()}
    rest = {"fc.0.weight": torch.rand(512, 4), "fc.1.running_mean": torch.rand(512), "classifier.bias": torch.rand(9)}
    torch.save({prefix + key: value for key, value in (tensors | rest).items()}, path)
    return tensors


@pytest.mark.parametrize("name", VARIANTS)
def test_tensors_have_the_authors_names_and_shapes(name):
    with torch.device("meta"):
        found = {key: tuple(value.shape) for key, value in build(name).state_dict().items()}
    assert found == authors_tensors(*VARIANTS[name])


@pytest.mark.parametrize("name, millions", [("osnet_x1_0", 2.2), ("osnet_x0_25", 0.2), ("osnet_ain_x1_0", 2.2)])
def test_as_many_parameters_as_published(name, millions):
    with torch.device("meta"):
        model = build(name)
    fully_connected = model.out_channels * 512 + 3 * 512  # the authors' last layer, with its normalization
    assert round((sum(p.numel() for p in model.parameters()) + fully_connected) / 1e6, 1) == millions


@pytest.mark.parametrize("name, prefix", [("osnet_x0_25", ""), ("osnet_x0_25", "module."), ("osnet_ain_x1_0", "")])
def test_the_authors_files_load(tmp_path, name, prefix):
    tensors = write_file(tmp_path / "weights.pth", name, prefix)
    options = ["MODEL.BACKBONE.PRETRAIN", "True", "MODEL.BACKBONE.PRETRAIN_PATH", tmp_path / "weights.pth"]
    state = build(name, *options).state_dict()
    assert all(torch.equal(value, tensors[key]) for key, value in state.items() if not key.endswith("tracked"))
    gated = build(name, *options, norm="BIN_gate2").state_dict()
    assert torch.equal(gated["conv2.0.conv1.bn.bat_n.running_var"], tensors["conv2.0.conv1.bn.running_var"])
    assert gated["conv2.0.conv1.bn.ins_n.weight"].eq(1).all()
    if name == "osnet_ain_x1_0":
        assert torch.equal(gated["conv2.0.IN.weight"], tensors["conv2.0.IN.weight"])
    del tensors["conv4.1.gate.fc1.bias"]
    torch.save(tensors, tmp_path / "weights.pth")
    with pytest.raises(UserError, match="than OSNet .*it has no conv4.1.gate.fc1.bias"):
        build(name, *options)


def test_a_block_is_the_gated_sum_of_four_streams():
    block, x = OSBlock(BatchNorm, 64, 64, ain=False, instance=False).eval(), torch.randn(2, 64, 9, 5)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2), module.running_mean.uniform_(-1, 1)
    reduced = block.conv1(x)
    streams = [part(reduced) for part in (block.conv2a, block.conv2b, block.conv2c, block.conv2d)]
    shares = [torch.sigmoid(block.gate.fc2(block.gate.fc1(s.mean((2, 3), keepdim=True)).relu())) for s in streams]
    out = block.conv3.bn(block.conv3.conv(sum(s * share for s, share in zip(streams, shares))))
    torch.testing.assert_close(block(x), (out + x).relu())
    # A stream of k 3x3 convolutions looks k pixels far.
    for reach, part in enumerate((block.conv2a, block.conv2b, block.conv2c, block.conv2d), start=1):
        point = torch.zeros(1, 16, 11, 11, requires_grad=True)
        (gradient,) = torch.autograd.grad(part(point + 1)[0, :, 5, 5].sum(), point)
        rows = gradient[0].abs().sum((0, 2)).nonzero().flatten()
        assert rows.min() >= 5 - reach and rows.max() <= 5 + reach


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("ain", [False, True])
def test_every_normalization_trains_and_the_map_is_a_sixteenth(norm, ain):
    name = "osnet_ain_x1_0" if ain else "osnet_x0_25"
    model = build(name, "MODEL.NORM.BIN_INIT", "half", norm=norm)
    out = model(torch.randn(2, 3, 64, 32))
    assert out.shape == (2, model.out_channels, 4, 2)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    gates = [key for key, _ in model.named_parameters() if key.endswith(".gate")]
    assert bool(gates) == norm.startswith("BIN_gate")


def test_which_layers_have_a_choice():
    with torch.device("meta"):
        model = build("osnet_ain_x1_0", norm="BIN_gate2")
        dual = build("osnet_x1_0", norm="DualNorm")
    kinds = {name: type(module) for name, module in model.named_modules()}
    fixed = {name for name, kind in kinds.items() if kind is InstanceNorm and not name.endswith("ins_n")}
    assert fixed == {"conv1.bn", "conv2.0.IN", "conv2.1.IN", "conv3.1.IN", "conv4.0.IN"}
    assert kinds["conv4.1.conv3.bn"] is kinds["pool2.0.bn"] is BatchInstanceNorm
    kinds = {name.partition(".")[0]: type(module) for name, module in dual.named_modules() if name.endswith("bn")}
    early, late = ("conv1", "conv2", "conv3"), ("conv4", "conv5")
    assert kinds == dict.fromkeys(early, InstanceNorm) | dict.fromkeys(late, BatchNorm)


def test_stages_are_computed_again_with_the_same_numbers():
    usual, again = OSNet(BatchNorm, "x0_25").double(), OSNet(BatchNorm, "x0_25", checkpoint=("conv2", "conv4")).double()
    again.load_state_dict(usual.state_dict())
    x, results = torch.rand(2, 3, 32, 16, dtype=torch.float64), []
    for model in (usual, again):
        out = model(x)
        gradients = torch.autograd.grad(out.square().sum(), list(model.parameters()))
        results.append((out.detach(), gradients, dict(model.named_buffers())))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "options, message",
    [
        (["MODEL.BACKBONE.WITH_IBN", "True"], "WITH_IBN is no option of OSNet: set it to False with osnet_x0_25"),
        (["MODEL.BACKBONE.LAST_STRIDE", "2"], "LAST_STRIDE must be 1 with osnet_x0_25"),
        (["MODEL.BACKBONE.CHECKPOINT", "layer1"], "CHECKPOINT must name stages out of conv1, .*'layer1'"),
        (["MODEL.BACKBONE.PRETRAIN", "True"], "no pre-trained weights at pretrained/osnet_x0_25_imagenet.pth: put"),
    ],
)
def test_what_it_does_not_have_is_one_clear_line(options, message):
    with pytest.raises(UserError, match=message) as error:
        build("osnet_x0_25", *options)
    assert "\n" not in str(error.value)
