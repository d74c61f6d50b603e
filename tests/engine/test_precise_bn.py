"""TEST.PRECISE_BN: running statistics that are mean and variance of many batches."""

import pytest
import torch

from fastreid.config import get_cfg
from fastreid.data.stream import BatchStream
from fastreid.engine import SimpleTrainer, precise_bn
from fastreid.engine.precise_bn import compute_precise_statistics
from fastreid.layers import BatchInstanceNorm, BatchNorm, running_stats
from fastreid.layers.normalization import BatchInstanceNormHalf
from fastreid.modeling import build_model
from fastreid.solver import build_optimizer
from fastreid.utils.errors import UserError

MOBILENET = {
    "MODEL.BACKBONE.NAME": "build_mobilenet_v2_backbone",
    "MODEL.BACKBONE.DEPTH": 2,
    "MODEL.HEADS.IN_FEAT": 1280,
}
RESNET = {"MODEL.BACKBONE.NAME": "build_resnet_backbone", "MODEL.BACKBONE.DEPTH": 18, "MODEL.HEADS.IN_FEAT": 512}
NORMS = ("BN", "IN", "BIN_half", "BIN_gate1", "BIN_gate2")
MODELS = [(MOBILENET, norm) for norm in (*NORMS, "DualNorm")] + [(RESNET, norm) for norm in ("BN", "BIN_gate2")]
SIZES = (6, 4, 5)  # of the batches


def make_trainer(backbone, norm, **options):
    cfg = get_cfg()
    options = {
        **backbone,
        "MODEL.DEVICE": "cpu",
        "MODEL.BACKBONE.PRETRAIN": False,
        "MODEL.NORM.TYPE_BACKBONE": norm,
        "MODEL.NORM.BIN_INIT": "random",
        "MODEL.HEADS.NUM_CLASSES": 3,
        **options,
    }
    cfg.merge_from_list([word for option in options.items() for word in option])
    torch.manual_seed(1)
    model = build_model(cfg)
    return SimpleTrainer(cfg, model, [], None, build_optimizer(cfg, model, "main"), build_optimizer(cfg, model, "norm"))


def make_batches():
    return [{"images": torch.rand(n, 3, 64, 32) * 255, "targets": torch.arange(n) % 3} for n in SIZES]


def parts(model):
    """Return (the layer whose input it sees, the batch part) for each batch normalization."""
    wrapped = {m: m.bat_n for m in model.modules() if isinstance(m, (BatchInstanceNorm, BatchInstanceNormHalf))}
    alone = {m: m for m in model.modules() if isinstance(m, BatchNorm) and m not in wrapped.values()}
    return list({**wrapped, **alone}.items())


@torch.no_grad()
def by_hand(model, batches):
    """Return mean and unbiased variance of everything that each batch part saw in a forward pass of the batches."""
    seen = {part: [] for _, part in parts(model)}
    for owner, part in parts(model):
        owner.register_forward_pre_hook(
            lambda _, inputs, part=part: seen[part].append(inputs[0][:, : part.num_features])
        )
    model.train()
    with running_stats(model, "hold"):
        for batch in batches:
            model(batch)
    values = {
        part: torch.cat([x.transpose(0, 1).flatten(1) for x in found], 1).double() for part, found in seen.items()
    }
    return {part: (value.mean(1), value.var(1)) for part, value in values.items()}


@pytest.mark.parametrize("backbone, norm", MODELS)
def test_are_the_mean_and_the_total_variance_of_all_batches(backbone, norm):
    trainer, batches = make_trainer(backbone, norm), make_batches()
    compute_precise_statistics(trainer, batches)
    precise = {part: (part.running_mean.clone(), part.running_var.clone()) for _, part in parts(trainer.model)}
    expected = by_hand(make_trainer(backbone, norm).model, batches)
    assert len(precise) == len(expected) >= (1 if norm == "IN" else 10)
    for found, (mean, var) in zip(precise.values(), expected.values()):
        torch.testing.assert_close(found[0].double(), mean, rtol=1e-3, atol=1e-4 * float(var.max().sqrt()))
        torch.testing.assert_close(found[1].double(), var, rtol=1e-3, atol=1e-6 * float(var.max()))

    moving = make_trainer(backbone, norm).model.train()
    with torch.no_grad():
        for batch in batches:
            moving(batch)
    for found, (_, part) in zip(precise.values(), parts(moving)):
        assert not torch.allclose(found[1], part.running_var, rtol=0.1)


def test_are_in_float32_where_training_is_in_half_precision():
    batches, found, types = make_batches(), [], set()
    for amp in (True, False):
        trainer = make_trainer(MOBILENET, "BIN_gate2", **{"SOLVER.AMP": amp, "SOLVER.AMP_ON_CPU": amp})
        assert trainer.amp == amp
        for _, part in parts(trainer.model):
            part.register_forward_pre_hook(lambda _, inputs: types.add(inputs[0].dtype))
        compute_precise_statistics(trainer, batches)
        found.append([part.running_var for _, part in parts(trainer.model)])
    torch.testing.assert_close(*found, rtol=0, atol=0)
    assert types == {torch.float32}


def test_styles_are_those_of_tests():
    batches, found = make_batches(), []
    for options in ({"MODEL.STYLE.NAME": "MixStyle", "MODEL.STYLE.PROB": 1.0}, {}):
        trainer = make_trainer(MOBILENET, "BN", **options)
        compute_precise_statistics(trainer, batches)
        found.append([part.running_var for _, part in parts(trainer.model)])
    torch.testing.assert_close(*found, rtol=0, atol=0)


@pytest.mark.parametrize("options", [{}, {"MODEL.STYLE.NAME": "DSU", "MODEL.STYLE.PROB": 1.0}])
def test_nothing_else_changes(options):
    trainer = make_trainer(MOBILENET, "BIN_gate2", **options)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    random = torch.get_rng_state()
    compute_precise_statistics(trainer, make_batches_from(torch.Generator().manual_seed(3)))
    changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.rpartition(".")[2] for name in changed} == {"running_mean", "running_var"}
    assert torch.equal(torch.get_rng_state(), random)
    assert all(part.population is None and part.stats_mode == "general" for _, part in parts(trainer.model))


def make_batches_from(generator):
    return [{"images": torch.rand(4, 3, 32, 16, generator=generator) * 255, "targets": torch.arange(4) % 3}]


def test_frozen_layers_keep_theirs():
    trainer = make_trainer(
        MOBILENET, "BIN_gate2", **{"MODEL.FREEZE_LAYERS": ("backbone.layer1",), "SOLVER.FREEZE_ITERS": 2}
    )
    frozen, free = trainer.model.backbone.layer1.bn.bat_n, trainer.model.heads.classifier_norm
    compute_precise_statistics(trainer, make_batches())
    assert not frozen.running_mean.any() and free.running_mean.all()
    trainer.iter = 2
    compute_precise_statistics(trainer, make_batches())
    assert frozen.running_mean.all()


SHORT = {
    "INPUT__SIZE_TRAIN": [32, 16],
    "SOLVER__IMS_PER_BATCH": 30,  # an epoch is one iteration
    "SOLVER__MAX_ITER": 2,
    "SOLVER__WRITE_PERIOD": 1,
    "META__DATA__MTRAIN_MINI_BATCH": 12,
    "META__SOLVER__INIT__FIRST_INNER_LOOP": 1,
    "TEST__EVAL_PERIOD": 1,
    "TEST__PRECISE_BN__NUM_ITER": 2,
    "TEST__PRECISE_BN__DATASET": "",
}


def test_training_is_the_same_and_checkpoints_hold_what_is_tested(root, make_full_run):
    with_it = make_full_run(root / "with", TEST__PRECISE_BN__ENABLED=True, **SHORT)
    with_it.resume_or_load(False)
    with_it.run()
    without = make_full_run(root / "without", **SHORT)
    without.resume_or_load(False)
    without.run()
    assert without.statistics_batches is None
    for name in ("model_0000000", "model_final"):
        states = [torch.load(root / run / f"{name}.pth", weights_only=True) for run in ("with", "without")]
        precise, moving = (state["model"] for state in states)
        differing = {key.rpartition(".")[2] for key in precise if not torch.equal(precise[key], moving[key])}
        assert differing == {"running_mean", "running_var"}
        with_it.model.load_state_dict(moving)
        stream = BatchStream(with_it.statistics_batches)
        compute_precise_statistics(with_it, [next(stream) for _ in range(2)])
        assert not [key for key, value in with_it.model.state_dict().items() if not torch.equal(value, precise[key])]
    for entry in ("data_positions", "random_states"):
        assert repr(states[0][entry]) == repr(states[1][entry])


@pytest.mark.parametrize("period, before_a_test", [(2, [2, 4]), (0, [4])])
def test_they_are_computed_once_before_each_test(root, make_full_run, monkeypatch, period, before_a_test):
    done = []
    monkeypatch.setattr(precise_bn, "compute_precise_statistics", lambda trainer, batches: done.append(trained[0]))
    options = {**SHORT, "SOLVER__MAX_ITER": 4, "TEST__EVAL_PERIOD": period, "TEST__PRECISE_BN__ENABLED": True}
    trainer, trained = make_full_run(root / "run", **options), [0]

    def run_step():
        trained[0] += 1
        trainer.storage.add_to("data_time", 0.0)

    monkeypatch.setattr(trainer, "run_step", run_step)
    trainer.resume_or_load(False)
    trainer.run()
    assert done == before_a_test


@pytest.mark.parametrize("name, domains", [("", {0, 1, 2}), ("folder:b", {1})])
def test_come_from_the_training_images_of_all_sources_or_of_one(root, make_full_run, name, domains):
    options = {"TEST__PRECISE_BN__ENABLED": True, "TEST__PRECISE_BN__DATASET": name}
    trainer = make_full_run(root / "run", SOLVER__IMS_PER_BATCH=10, META__DATA__MTRAIN_MINI_BATCH=12, **options)
    batch = next(BatchStream(trainer.statistics_batches))
    sources = {path.split("/")[-3] for path in batch["img_paths"]}
    assert sources == {"abc"[domain] for domain in domains} and len(batch["targets"]) == 10
    if name:
        assert set(batch["targets"].tolist()) == {5, 6, 7, 8, 9}


def test_come_from_any_other_data_set(root, make_full_run):
    options = {"TEST__PRECISE_BN__ENABLED": True, "TEST__PRECISE_BN__DATASET": "folder:b"}
    options |= {"DATASETS__NAMES": ("folder:a", "folder:c"), "META__DATA__NAMES": ""}
    trainer = make_full_run(root / "run", **options)
    batch = next(BatchStream(trainer.statistics_batches))
    assert {path.split("/")[-3] for path in batch["img_paths"]} == {"b"} and trainer.cfg.MODEL.HEADS.NUM_CLASSES == 10


def test_a_missing_data_set_is_an_error_by_the_published_default_too(root, make_full_run):
    with pytest.raises(UserError, match="^TEST.PRECISE_BN.DATASET: .*; '' takes the images of all DATASETS.NAMES"):
        make_full_run(root / "run", TEST__PRECISE_BN__ENABLED=True)


def test_averaged_weights_alone_take_all_sources(root, make_full_run):
    averaging = {"SOLVER__SWA__ENABLED": True, "SOLVER__SWA__ITER": 1, "SOLVER__SWA__PERIOD": 1}
    trainer = make_full_run(root / "run", SOLVER__IMS_PER_BATCH=30, META__DATA__MTRAIN_MINI_BATCH=12, **averaging)
    batch = next(BatchStream(trainer.statistics_batches))
    assert {path.split("/")[-3] for path in batch["img_paths"]} == {"a", "b", "c"}
