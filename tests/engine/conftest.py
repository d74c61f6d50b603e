"""A training run small enough for tests: three domains, two normalized convolutions, the real head and trainer."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fastreid.config import get_cfg
from fastreid.engine import SimpleTrainer, train_loop
from fastreid.engine.defaults import DefaultTrainer
from fastreid.layers import norm_factory
from fastreid.modeling.heads import MetalearningHead
from fastreid.solver import build_optimizer
from tests.command_server import without_pictures

DOMAINS, IDS, IMAGES = 3, 3, 2  # identities of each domain, images of each identity
N = DOMAINS * IDS * IMAGES
CHANNELS = 5
META_STEP = 0.5  # inner ratio


class TinyModel(nn.Module):
    """Two normalized convolutions and the real head."""

    def __init__(self, cfg):
        super().__init__()
        norm = norm_factory(cfg.MODEL.NORM.TYPE_BACKBONE, cfg.MODEL.NORM.BIN_INIT)
        first, second = nn.Conv2d(3, 6, 3, stride=2, bias=False), nn.Conv2d(6, CHANNELS, 3, bias=False)
        self.backbone = nn.Sequential(first, norm(6), nn.Tanh(), second, norm(CHANNELS), nn.Tanh())
        self.heads = MetalearningHead(cfg)

    def forward(self, batch):
        return self.heads(self.backbone(batch["images"] / 128 - 1), batch["targets"])


def make_cfg(**options):
    """Return a config; `META__DATA__NUM_DOMAINS=2` sets META.DATA.NUM_DOMAINS."""
    cfg = get_cfg()
    defaults = {
        "MODEL.DEVICE": "cpu",
        "MODEL.NORM.TYPE_BACKBONE": "BIN_gate2",
        "MODEL.NORM.BIN_INIT": "half",
        "MODEL.HEADS.IN_FEAT": CHANNELS,
        "MODEL.HEADS.NUM_CLASSES": DOMAINS * IDS,
        "META.DATA.NAMES": ("a", "b", "c"),
        "META.DATA.NUM_DOMAINS": DOMAINS,
        "META.SOLVER.MTRAIN.NUM_DOMAIN": 2,
        "META.SOLVER.LR_FACTOR.META": META_STEP,
        "SOLVER.ITERS_PER_EPOCH": 20,
    }
    defaults |= {key.replace("__", "."): value for key, value in options.items()}
    for key, value in defaults.items():
        cfg.set_leaf(key, value, where="test")
    return cfg


def make_batch(dtype=torch.float64):
    targets = torch.arange(DOMAINS * IDS).repeat_interleave(IMAGES)
    domains = targets // IDS
    images = torch.rand(N, 3, 16, 8, dtype=dtype) * 200 + 10 * domains.view(-1, 1, 1, 1)
    return dict(
        images=images, targets=targets, camids=domains, domains=domains, img_paths=[f"{i}.jpg" for i in range(N)]
    )


def make_trainer(meta=True, dtype=torch.float64, device="cpu", **options):
    cfg = make_cfg(**options)
    torch.manual_seed(1)
    model = TinyModel(cfg).to(device, dtype)
    loaders = [make_batch(dtype)], [make_batch(dtype)] if meta else None
    return SimpleTrainer(cfg, model, *loaders, *(build_optimizer(cfg, model, which) for which in ("main", "norm")))


def snapshot(trainer):
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def changed(trainer, before):
    """Return the names of the tensors that differ from a snapshot."""
    return {name for name, tensor in trainer.model.state_dict().items() if not torch.equal(tensor, before[name])}


def gate_names(trainer):
    return {name for name in trainer.model.state_dict() if name.endswith(".gate")}


def prepare_meta(**options):
    """Return a trainer whose split is known, its meta batch in `meta_batch`, its gates moved off their first value."""
    trainer = make_trainer(**options)
    trainer.meta_batch = make_batch()
    trainer.meta_batches = train_loop.batches([trainer.meta_batch])
    trainer.split_domains = lambda: ([2, 0], [1])
    with torch.no_grad():
        for gate in trainer.gates.values():
            gate.uniform_(0.3, 0.7)
    return trainer


@pytest.fixture
def tiny():
    """The functions above, as pytest does not let test files import each other."""
    functions = (make_trainer, make_batch, snapshot, changed, gate_names, prepare_meta)
    return SimpleNamespace(**{f.__name__: f for f in functions}, num_images=N)


RUN_DOMAINS = ("folder:a", "folder:b", "folder:c")


def write_people(root, monkeypatch):
    """Write three sources of 5 people with 3 images each, and a target, to `root`/data, and let data sets be there."""
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c", "target"):
        for part in ("query", "gallery") if name == "target" else ("train",):
            folder = root / "data" / name / part
            folder.mkdir(parents=True)
            for person in range(5):
                for k in range(3):
                    pixels = rng.integers(0, 256, (16, 8, 3), dtype=np.uint8)
                    camera = {"query": 1, "gallery": 2}.get(part, k)
                    Image.fromarray(pixels).save(folder / f"{person}_c{camera}_{k}.png")
    monkeypatch.setenv("FASTREID_DATASETS", str(root / "data"))


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder with the data sets of `write_people`."""
    write_people(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture(scope="module")
def shared_root(tmp_path_factory):
    """The same, for runs that several tests look at."""
    folder = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        write_people(folder, patch)
        yield folder


def make_real_trainer(folder, workers=0, kind=DefaultTrainer, **more):
    cfg = get_cfg()
    options = {
        "MODEL.DEVICE": "cpu",
        "MODEL.BACKBONE.NAME": "build_mobilenet_v2_backbone",
        "MODEL.BACKBONE.DEPTH": 2,
        "MODEL.BACKBONE.PRETRAIN": False,
        "MODEL.HEADS.IN_FEAT": 1280,
        "MODEL.NORM.TYPE_BACKBONE": "BIN_gate2",
        "INPUT.SIZE_TRAIN": [32, 16],
        "INPUT.SIZE_TEST": [32, 16],
        "INPUT.CJ.ENABLED": True,
        "INPUT.REA.ENABLED": True,
        "DATASETS.NAMES": RUN_DOMAINS,
        "DATASETS.TESTS": ("folder:target",),
        "DATALOADER.NUM_WORKERS": workers,
        "DATALOADER.NUM_INSTANCE": 2,
        "SOLVER.IMS_PER_BATCH": 6,
        "SOLVER.MAX_ITER": 2,
        "SOLVER.BASE_LR": 0.0005,
        "SOLVER.WARMUP_ITERS": 1,
        "SOLVER.CHECKPOINT_PERIOD": 1,
        "SOLVER.CHECKPOINT_SAME_AS_EVAL": False,
        "SOLVER.WRITE_PERIOD": 100,
        "META.DATA.NAMES": RUN_DOMAINS,
        "META.DATA.MTRAIN_MINI_BATCH": 12,
        "META.DATA.MTRAIN_NUM_INSTANCE": 2,
        "META.SOLVER.MTRAIN.NUM_DOMAIN": 2,
        "META.SOLVER.INIT.FIRST_INNER_LOOP": 3,
        "OUTPUT_DIR": str(folder),
    }
    options |= {key.replace("__", "."): value for key, value in more.items()}
    cfg.merge_from_list([word for option in options.items() for word in option])
    folder.mkdir(exist_ok=True)
    torch.manual_seed(cfg.SEED)
    return kind(cfg)


@pytest.fixture(scope="module")
def no_pictures():
    with pytest.MonkeyPatch.context() as patch:
        without_pictures(patch.setattr)
        yield


@pytest.fixture(scope="module")
def make_full_run(short_mobilenet, no_pictures):
    """`make_full_run(folder, workers, kind, SOLVER__MAX_ITER=3)`: a trainer on `root`, 9 iterations an epoch."""
    return make_real_trainer
