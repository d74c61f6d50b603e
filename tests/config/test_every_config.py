"""Every file of configs/Ablation, Method and Protocol trains for two iterations and is tested, on synthetic people.

Files are found by themselves. Only sizes are overridden: not the data sets, losses, normalization or meta-learning.
"""

import importlib.util
import math
from functools import cache
from pathlib import Path
from statistics import mean
from types import SimpleNamespace

import pytest
import torch
import yaml

from fastreid.config import get_cfg
from fastreid.config.config import leaves
from fastreid.data.build import load_test_set, load_training_data, meta_names
from fastreid.engine.defaults import DefaultTrainer
from fastreid.engine.hooks import SchedulerStep
from fastreid.engine.train_loop import select_domains
from fastreid.evaluation.reid_evaluation import evaluate
from fastreid.layers import running_stats
from fastreid.modeling import build_model
from fastreid.modeling.losses.build import build_losses
from fastreid.solver.lr_scheduler import InnerRatio
from fastreid.solver.trained_parameters import gradients_for

pytestmark = pytest.mark.usefixtures("one_thread", "short_mobilenet")

ROOT = Path(__file__).parents[2]
ABLATION, METHOD, PROTOCOL = (
    [f"{folder}/{path.stem}" for path in sorted((ROOT / "configs" / folder).glob("*.yml"))]
    for folder in ("Ablation", "Method", "Protocol")
)
ALL = ABLATION + METHOD + PROTOCOL
CAMERAS = {"Market1501": 6, "DukeMTMC": 8, "MSMT17": 15}  # of the real sets and of the synthetic ones
LOSS_NAMES = {
    "CrossEntropyLoss": "loss_cls",
    "TripletLoss": "loss_triplet",
    "TripletLoss_add": "loss_triplet_add",
    "TripletLoss_mtrain": "loss_triplet_mtrain",
    "TripletLoss_mtest": "loss_triplet_mtest",
    "SCT": "loss_stc",
    "DualCausalityLoss": "loss_snr",
}
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.BACKBONE.NAME": "build_mobilenet_v2_backbone",
    "MODEL.BACKBONE.DEPTH": "2",
    "MODEL.BACKBONE.PRETRAIN": "False",
    "INPUT.SIZE_TRAIN": "[32, 16]",
    "INPUT.SIZE_TEST": "[32, 16]",
    "INPUT.PADDING": "2",
    "DATALOADER.NUM_WORKERS": "0",
    "META.SOLVER.INIT.FIRST_INNER_LOOP": "1",
}
# People of each set, half of them in a training part: enough for a batch of each config out of each of its domains.
PEOPLE = {48: "market1501 dukemtmc msmt17", 16: "cuhk02 cuhk03 cuhk_sysu", 8: "grid prid ilids viper"}


@cache
def read(name):
    cfg = get_cfg()
    cfg.merge_from_file(ROOT / "configs" / f"{name}.yml")
    return cfg


def merged(name):
    return read(name).clone()


def halved(cfg):
    """Options that halve the images of a person and of a batch: the people of each domain stay as many as they are."""
    return {
        "DATALOADER.NUM_INSTANCE": cfg.DATALOADER.NUM_INSTANCE // 2,
        "SOLVER.IMS_PER_BATCH": cfg.SOLVER.IMS_PER_BATCH // 2,
        "META.DATA.MTRAIN_NUM_INSTANCE": cfg.META.DATA.MTRAIN_NUM_INSTANCE // 2,
        "META.DATA.MTRAIN_MINI_BATCH": cfg.META.DATA.MTRAIN_MINI_BATCH // 2,
    }


def num_domains(cfg):
    return CAMERAS[cfg.DATASETS.NAMES[0]] if cfg.DATALOADER.CAMERA_TO_DOMAIN else len(cfg.DATASETS.NAMES)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The root of all data sets, which the program reads."""
    spec = importlib.util.spec_from_file_location("make_synthetic", ROOT / "tools" / "make_synthetic_datasets.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    root = tmp_path_factory.mktemp("data")
    for people, sets in PEOPLE.items():
        size = ["--ids", str(people), "--images", "4", "--size", "32x16", "--workers", "1"]
        assert tool.main(["--root", str(root), "--sets", *sets.split(), *size]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTREID_DATASETS", str(root))
        yield root


@pytest.fixture(scope="module")
def trained(drawn, tmp_path_factory):
    """`trained(name)`: a config's trainer after two iterations, their losses, and the results of a test."""
    done = {}

    def train(name):
        if name not in done:
            cfg = merged(name)
            options = SMALL | halved(cfg) | {"OUTPUT_DIR": tmp_path_factory.mktemp("run")}
            cfg.merge_from_list([str(word) for option in options.items() for word in option])
            torch.manual_seed(cfg.SEED)
            trainer = DefaultTrainer(cfg)
            trainer.hooks.clear()
            trainer.register_hooks([SchedulerStep(trainer.schedulers)])
            trainer.train(0, 2)
            recorded = trainer.storage.new_means()
            losses = {key: value for key, value in recorded.items() if key.startswith(("base/", "mtrain/", "mtest/"))}
            done[name] = SimpleNamespace(trainer=trainer, losses=losses, results=evaluate(trainer.cfg, trainer.model))
        return done[name]

    return train


@pytest.mark.parametrize("name", ALL)
def test_a_config_trains_for_two_iterations_and_is_tested(trained, name):
    cfg, run = merged(name), trained(name)
    trainer = run.trainer
    expected = {"base": cfg.MODEL.LOSSES.NAME}
    if cfg.META.DATA.NAMES:
        expected |= {"mtrain": cfg.META.LOSS.MTRAIN_NAME, "mtest": cfg.META.LOSS.MTEST_NAME}
    assert set(run.losses) == {f"{part}/{LOSS_NAMES[loss]}" for part, names in expected.items() for loss in names}
    assert all(math.isfinite(loss) for loss in run.losses.values()), run.losses
    assert bool(trainer.gates) == cfg.MODEL.NORM.TYPE_BACKBONE.startswith("BIN_gate")
    if trainer.gates:
        assert any((gate != 1).any() for gate in trainer.gates.values()), "no gate has moved from where it began"
    assert list(run.results.splits) == list(cfg.DATASETS.TESTS)


@pytest.mark.parametrize("name", ALL)
def test_the_domains_of_a_meta_batch_have_equal_shares_and_enough_are_meta_train(trained, name):
    cfg, trainer = merged(name), trained(name).trainer
    if not cfg.META.DATA.NAMES:
        assert not trainer.has_meta_step
        return
    assert meta_names(cfg) == cfg.DATASETS.NAMES
    domains, meta = num_domains(cfg), cfg.META.DATA
    assert meta.MTRAIN_MINI_BATCH % (domains * meta.MTRAIN_NUM_INSTANCE) == 0
    assert cfg.SOLVER.IMS_PER_BATCH % cfg.DATALOADER.NUM_INSTANCE == 0
    counts = next(trainer.meta_batches)["domains"].bincount().tolist()
    assert counts == [meta.MTRAIN_MINI_BATCH // 2 // domains] * domains
    # The triplet losses need two people of a domain, and the shuffle loss two domains.
    assert counts[0] >= 2 * trainer.cfg.META.DATA.MTRAIN_NUM_INSTANCE
    assert 2 <= cfg.META.SOLVER.MTRAIN.NUM_DOMAIN < domains


@pytest.mark.parametrize("name", ALL)
def test_no_folder_is_both_trained_and_tested_on(drawn, name):
    cfg = merged(name)
    images = load_training_data(cfg.DATASETS.NAMES, cfg.DATALOADER.CAMERA_TO_DOMAIN).paths.tolist()
    tested = [path for target in cfg.DATASETS.TESTS for path in load_test_set(target).items.paths.tolist()]
    sources, targets = ({Path(path).relative_to(drawn).parts[0] for path in paths} for paths in (images, tested))
    assert not sources & targets


@pytest.mark.parametrize("name", [name for name in PROTOCOL if name.endswith("-full")])
def test_a_full_config_adds_the_test_parts_of_its_sources(drawn, name):
    part, full = merged(name.removesuffix("-full")), merged(name)
    assert full.DATASETS.TESTS == part.DATASETS.TESTS
    trained_on = [set(load_training_data(cfg.DATASETS.NAMES, False).paths.tolist()) for cfg in (part, full)]
    parts = [source for source in part.DATASETS.NAMES if not source.startswith("DG_")]  # the others have no test part
    tests = [load_test_set(source).items for source in parts]
    people = {path for items in tests for path in items[items.pids > 0].paths.tolist()}  # not Market-1501's distractors
    assert not trained_on[0] & people
    assert trained_on[0] | people <= trained_on[1]


@pytest.mark.parametrize("name", ALL)
def test_a_row_of_the_paper_s_tables_takes_its_size_from_the_name_of_its_backbone(name):
    cfg = merged(name)
    assert (cfg.MODEL.HEADS.IN_FEAT, cfg.MODEL.BACKBONE.PRETRAIN_PATH) == (0, "")
    assert cfg.MODEL.BACKBONE.NAME == ("resnet50" if name in PROTOCOL else "mobilenet_v2_1.4")


BACKBONES = {
    "mobilenet_v2_1.0": 1280, "mobilenet_v2_1.4": 1792, "resnet18": 512, "resnet34": 512, "resnet50": 2048,
    "resnet101": 2048,
}  # fmt: skip


@pytest.mark.parametrize("backbone", BACKBONES)
def test_one_override_changes_the_backbone(backbone):
    cfg = merged("Protocol/LOO-CUHK03")
    cfg.merge_from_list(["MODEL.BACKBONE.NAME", backbone])
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.PRETRAIN", "False", "MODEL.HEADS.NUM_CLASSES", "4"])
    assert build_model(cfg).heads.classifier_fc.weight.shape == (4, BACKBONES[backbone])


# What each row of the ablation shows.

NORMS = {
    "BN": {"BatchNorm"},
    "IN": {"InstanceNorm"},
    "BIN_half": {"BatchInstanceNormHalf"},
    "BIN_gate1": {"SharedAffineBatchInstanceNorm"},
    "DualNorm": {"BatchNorm", "InstanceNorm"},
    "BIN": {"BatchInstanceNorm"},
    "MLDG": {"BatchNorm"},
    "MLDG_BIN": {"BatchInstanceNorm"},
    "MetaBIN": {"BatchInstanceNorm"},
}


@pytest.mark.parametrize("row", NORMS)
def test_a_row_normalizes_as_it_is_called(trained, row):
    layers = trained(f"Ablation/{row}").trainer.model.backbone.named_modules()
    assert {type(layer).__name__ for name, layer in layers if name.rpartition(".")[2] == "bn"} == NORMS[row]


@pytest.mark.parametrize("row", ["BN", "IN", "BIN_half", "DualNorm", "BIN"])
def test_a_row_without_meta_learning_has_no_meta_step(trained, row):
    run = trained(f"Ablation/{row}")
    assert set(run.losses) == {"base/loss_cls", "base/loss_triplet"} and not run.trainer.has_meta_step


@pytest.mark.parametrize("row", ["IN", "BIN_half", "DualNorm"])
def test_instance_normalization_in_the_place_of_batch_normalization_takes_its_trained_scale(row):
    assert merged(f"Ablation/{row}").MODEL.NORM.LOAD_IN_AFFINE


@pytest.mark.parametrize(
    "row, only_gates", [("MetaBIN", True), ("BIN_gate1", True), ("MLDG", False), ("MLDG_BIN", False)]
)
def test_a_meta_step_changes_the_gates_alone_but_for_mldg(trained, row, only_gates):
    trainer = trained(f"Ablation/{row}").trainer
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.run_step_meta_learning2()
    changed = {name for name, parameter in trainer.model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed and (changed <= set(trainer.gates)) == only_gates


@pytest.mark.parametrize("row, combined", [("MetaBIN", False), ("MLDG", True), ("MLDG_BIN", True)])
def test_mldg_goes_down_both_parts_losses(trained, monkeypatch, row, combined):
    trainer, stepped = trained(f"Ablation/{row}").trainer, []
    monkeypatch.setattr(trainer, "step", lambda loss, learned: stepped.append(loss.item()))
    losses = trainer.run_step_meta_learning2()
    parts = ("mtrain", "mtest") if combined else ("mtest",)
    assert stepped == [pytest.approx(sum(loss.item() for name, loss in losses.items() if name.startswith(parts)))]


MTRAIN_LOSSES = {
    "MLDG": {"loss_cls", "loss_triplet_mtrain"},
    "MetaBIN": {"loss_triplet_add", "loss_triplet_mtrain", "loss_stc"},
    "MetaBIN_no_shuffle": {"loss_triplet_mtrain", "loss_stc"},
    "MetaBIN_no_scatter": {"loss_triplet_add", "loss_triplet_mtrain"},
}


@pytest.mark.parametrize("row", MTRAIN_LOSSES)
def test_a_row_has_the_meta_train_losses_of_its_name(trained, row):
    losses = trained(f"Ablation/{row}").losses
    assert {name.removeprefix("mtrain/") for name in losses if name.startswith("mtrain/")} == MTRAIN_LOSSES[row]


def test_the_fixed_step_is_as_long_as_those_of_the_cycle_are_on_average():
    ratios = {}
    for row in ("MetaBIN", "MetaBIN_fixed_step", "MLDG"):
        cfg = merged(f"Ablation/{row}")
        cfg.SOLVER.ITERS_PER_EPOCH = 100  # so that the cycle has 500 steps
        inner = InnerRatio(cfg)
        ratios[row] = [inner.advance() for _ in range(500)]
    assert ratios["MetaBIN_fixed_step"] == [pytest.approx(mean(ratios["MetaBIN"]))] * 500
    assert set(ratios["MLDG"]) == {1.0}
    assert max(ratios["MetaBIN"]) == pytest.approx(100 * min(ratios["MetaBIN"]))


@pytest.mark.parametrize("row, domains", [("MetaBIN", 2), ("MetaBIN_one_mtest_domain", 1)])
def test_a_row_has_its_number_of_meta_test_domains(trained, row, domains):
    mtrain, mtest = trained(f"Ablation/{row}").trainer.split_domains()
    assert (len(mtrain), len(mtest)) == (3, domains)
    assert not set(mtrain) & set(mtest)


@pytest.mark.parametrize("row, second_order", [("MetaBIN", False), ("MetaBIN_second_order", True)])
def test_only_the_second_order_row_looks_through_the_inner_gradient(trained, row, second_order):
    trainer = trained(f"Ablation/{row}").trainer
    gates = trainer.gates
    with gradients_for(gates.values(), trainer.model), running_stats(trainer.model, "hold"):
        losses = trainer.compute_losses(select_domains(next(trainer.meta_batches), [0, 1, 2]), trainer.mtrain_loss)
        fast = trainer.inner_update(sum(losses.values()), ratio=0.1)
        slopes = torch.autograd.grad(sum(gate.sum() for gate in fast.values()), list(gates.values()))
    # d(g - s * gradient) / dg is 1 where the gradient counts as a constant.
    assert all(torch.equal(slope, torch.ones_like(slope)) for slope in slopes) != second_order


def read_table(name):
    return yaml.safe_load((ROOT / "configs" / "Table" / f"{name}.yml").read_text(encoding="utf-8"))


def test_the_tables_list_every_config_once():
    for table, names in (("ablation", ABLATION), ("methods", METHOD), ("protocols", PROTOCOL)):
        listed = [row["config"] for row in read_table(table)["rows"]]
        if table == "methods":  # which has rows of the ablation, too
            listed = [config for config in listed if config.startswith("configs/Method/")]
        assert sorted(listed) == sorted(f"configs/{name}.yml" for name in names if "/Base-" not in name)


def test_the_methods_are_compared_on_the_study_s_domains_and_budget():
    options = read_table("methods")["options"]
    cfg, study = merged("Ablation/MetaBIN"), merged("Study/synthetic")
    cfg.merge_from_list([str(word) for option in options.items() for word in option])
    differences = {key for key, value in leaves(cfg) if dict(leaves(study))[key] != value}
    assert differences == {"MODEL.BACKBONE.PRETRAIN_PATH"}  # of no file, as PRETRAIN is False


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2_1.0", "osnet_x0_25"])
@pytest.mark.parametrize("name", [name for name in METHOD if "IBN" not in name])
def test_a_method_trains_with_any_backbone(name, backbone):
    """Test features are not of the draws: they are the same each time."""
    cfg = merged(name)
    cfg.merge_from_list(["MODEL.BACKBONE.NAME", backbone, "MODEL.DEVICE", "cpu", "MODEL.BACKBONE.PRETRAIN", "False"])
    cfg.merge_from_list(["MODEL.HEADS.NUM_CLASSES", "4", "MODEL.STYLE.PROB", "1.0"])
    model = build_model(cfg).train()
    labels = torch.arange(8)
    batch = {"images": torch.rand(8, 3, 64, 32) * 255, "targets": labels // 2, "domains": labels // 4}
    losses = build_losses(cfg, cfg.MODEL.LOSSES.NAME, "MODEL.LOSSES.NAME")
    sum(losses(model(batch), batch["targets"], batch["domains"]).values()).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()] == []
    with torch.no_grad():
        features = [model.eval()(batch) for _ in range(2)]
    assert torch.equal(*features) and features[0].shape == (8, model.backbone.out_channels)
