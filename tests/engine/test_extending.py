"""What a user adds from outside the package: a data set, a loss, a backbone, a hook; one file and one import each."""

import importlib
import shutil
import sys

import pytest
import torch
from torchvision import transforms

from fastreid.config import add_options, defaults, get_cfg
from fastreid.data.datasets import DATASETS
from fastreid.engine import HookBase
from fastreid.engine.defaults import DefaultTrainer
from fastreid.engine.hooks import SchedulerStep
from fastreid.modeling.backbones import BACKBONE_REGISTRY
from fastreid.modeling.losses import LOSS_REGISTRY

FILES = {
    "my_dataset": """
import re

from fastreid.data.datasets import DATASETS, ReidDataset, TestSet

NAME = re.compile(r"(?P<pid>\\d+)_c(?P<camid>\\d+)_")


class MyPeople(ReidDataset):
    folder = "my_people"

    def read(self, part):
        return self.read_images(self.subfolder(part), NAME, "12_c3_0.png")

    def train(self):
        return self.read("train")

    def test(self):
        return TestSet.from_query_gallery(self.read("query"), self.read("gallery"))


DATASETS["MyPeople"] = MyPeople
""",
    "my_loss": '''
from fastreid.config import add_options
from fastreid.modeling.losses import LOSS_REGISTRY, Loss

add_options("MODEL.LOSSES.COMPACT", {"SCALE": 1.0, "FEAT_ORDER": "before", "POWER": 2.0})


@LOSS_REGISTRY.register("CompactLoss")
def build_compact_loss(cfg):
    options = cfg.MODEL.LOSSES.COMPACT

    def compact(features, targets, domains):
        """Return the mean distance to the batch's mean, to a power."""
        return (features - features.mean(0)).abs().pow(options.POWER).mean()

    return Loss("loss_compact", options.SCALE, options.FEAT_ORDER, compact)
''',
    "my_backbone": """
from torch import nn

from fastreid.modeling.backbones import BACKBONE_REGISTRY, norm_by_stage


@BACKBONE_REGISTRY.register("my_backbone")
class MyBackbone(nn.Module):
    out_channels = 8

    def __init__(self, cfg):
        super().__init__()
        norm = norm_by_stage(cfg.MODEL.NORM, ("layer1", "layer2"), first_batch_stage="layer2")
        self.layer1 = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), norm["layer1"](6), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2), norm["layer2"](8), nn.ReLU())

    def forward(self, images):
        return self.layer2(self.layer1(images))
""",
}
OPTIONS = {
    "DATASETS__NAMES": ("MyPeople", "folder:b", "folder:c"),
    "DATASETS__TESTS": ("MyPeople",),
    "META__DATA__NAMES": ("DG",),
    "MODEL__BACKBONE__NAME": "my_backbone",
    "MODEL__HEADS__IN_FEAT": 0,
    "MODEL__NORM__BIN_INIT": "half",
    "MODEL__LOSSES__NAME": ("CrossEntropyLoss", "CompactLoss"),
    "META__LOSS__MTEST_NAME": ("TripletLoss_mtest", "CompactLoss"),
    "SOLVER__IMS_PER_BATCH": 30,  # an epoch is one iteration
    "META__SOLVER__INIT__FIRST_INNER_LOOP": 1,
    "SOLVER__WRITE_PERIOD": 1,
    "TEST__EVAL_PERIOD": 0,
}


@pytest.fixture
def added(root, no_pictures, monkeypatch):
    """The files, imported, and images for the data set; all is as before afterwards."""
    for registry in (LOSS_REGISTRY, BACKBONE_REGISTRY):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(defaults, "_C", get_cfg())
    monkeypatch.syspath_prepend(root)
    for name, text in FILES.items():
        (root / f"{name}.py").write_text(text)
        importlib.import_module(name)
    for part, source in (("train", "a/train"), ("query", "target/query"), ("gallery", "target/gallery")):
        shutil.copytree(root / "data" / source, root / "data" / "my_people" / part)
    yield root
    del DATASETS["MyPeople"]
    for name in FILES:
        del sys.modules[name]


class Witness(HookBase):
    """Keep each iteration's losses, and the learning rate that is set then."""

    def __init__(self):
        self.losses, self.rates = [], []

    def after_step(self):
        self.trainer.read_losses()
        self.losses.append(self.trainer.storage.new_means())
        self.rates.append(self.trainer.optimizer_main.param_groups[0]["lr"])


class MyTrainer(DefaultTrainer):
    """One whose witness stands before the schedules."""

    def build_hooks(self):
        hooks = super().build_hooks()
        self.witness = Witness()
        hooks.insert([type(hook) for hook in hooks].index(SchedulerStep), self.witness)
        return hooks


def test_a_data_set_a_loss_a_backbone_and_a_hook_are_a_file_and_an_import_each(added, make_full_run):
    seen = {}
    for power in (2.0, 3.0):
        trainer = make_full_run(added / f"run{power}", kind=MyTrainer, MODEL__LOSSES__COMPACT__POWER=power, **OPTIONS)
        trainer.resume_or_load(False)
        before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
        results = trainer.run()
        assert "MyPeople" in results.rows
        moved = {name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])}
        assert moved >= {"backbone.layer1.0.weight", "backbone.layer1.1.gate", "backbone.layer2.1.gate"}
        seen[power] = trainer.witness
        assert len(seen[power].losses) == 2
        assert seen[power].losses[0].keys() >= {"base/loss_cls", "base/loss_compact", "mtest/loss_compact"}
    square, cube = (witness.losses[0] for witness in seen.values())
    assert square["base/loss_cls"] == cube["base/loss_cls"]
    assert 0 < square["base/loss_compact"] != cube["base/loss_compact"] > 0
    assert seen[2.0].rates == pytest.approx([0.01 * 0.0005, 0.0005])  # warm-up is one iteration


class GreyTrainer(DefaultTrainer):
    """One whose base loader has a transform of its own, after the usual ones; the meta loader's stays."""

    def build_loaders(self, cfg):
        loaders = super().build_loaders(cfg)
        images = loaders.base.dataset
        images.transform = transforms.Compose([images.transform, transforms.Grayscale(num_output_channels=3)])
        return loaders


def test_a_loader_of_ones_own_is_a_method(root, make_full_run):
    trainer = make_full_run(root / "run", kind=GreyTrainer)
    for batches, grey in ((trainer.base_batches, True), (trainer.meta_batches, False)):
        red, green, blue = next(batches)["images"].unbind(1)
        assert (torch.equal(red, green) and torch.equal(green, blue)) == grey


def test_each_part_of_a_trainer_is_a_method(root, make_full_run):
    called = []

    class Recording(DefaultTrainer):
        pass

    for name in ("build_loaders", "build_model", "build_optimizers", "build_hooks", "build_writers"):

        def record(self, *args, name=name):
            called.append(name)
            return getattr(super(Recording, self), name)(*args)

        setattr(Recording, name, record)
    trainer = make_full_run(root / "run", kind=Recording)
    assert called == ["build_loaders", "build_model", "build_optimizers", "build_hooks"]
    trainer.writer.open()
    assert called[4:] == ["build_writers"]


def test_an_option_that_is_there_is_not_added_again():
    with pytest.raises(KeyError, match="there are options MODEL.LOSSES.TRI already"):
        add_options("MODEL.LOSSES.TRI", {"MARGIN": 1.0})
