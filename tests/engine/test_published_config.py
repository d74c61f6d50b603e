"""A published run's config.yaml, for training and for testing."""

import json
from pathlib import Path

import yaml

from fastreid.engine import defaults

PUBLISHED = Path(__file__).parents[1] / "golden" / "published_options.json"
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.BACKBONE.DEPTH": 2,
    "MODEL.BACKBONE.PRETRAIN": False,
    "MODEL.HEADS.IN_FEAT": 1280,
    "INPUT.SIZE_TRAIN": [32, 16],
    "INPUT.SIZE_TEST": [32, 16],
    "DATASETS.NAMES": ("folder:a", "folder:b", "folder:c"),
    "DATASETS.TESTS": ("folder:target",),
    "DATALOADER.NUM_WORKERS": 0,
    "DATALOADER.NUM_INSTANCE": 2,
    "SOLVER.IMS_PER_BATCH": 30,  # an epoch is one iteration
    "SOLVER.MAX_ITER": 2,
    "SOLVER.WRITE_PERIOD": 1,
    "TEST.EVAL_PERIOD": 1,
    "META.DATA.MTRAIN_MINI_BATCH": 12,
    "META.DATA.MTRAIN_NUM_INSTANCE": 2,
    "META.SOLVER.MTRAIN.NUM_DOMAIN": 2,
    "META.SOLVER.INIT.FIRST_INNER_LOOP": 1,
}


def test_trains_with_meta_steps_on_all_sources_and_is_tested(root, no_pictures):
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    path = root / "config.yaml"
    path.write_text(yaml.safe_dump(published["defaults"] | published["files"]["Sample/DG-mobilenet"]), encoding="utf-8")
    words = [str(word) for option in {**SMALL, "OUTPUT_DIR": root / "out"}.items() for word in option]
    args = defaults.default_argument_parser().parse_intermixed_args(["--config-file", str(path), *words])
    cfg = defaults.default_setup(args)
    trainer = defaults.DefaultTrainer(cfg)
    trainer.resume_or_load(False)
    trainer.run()
    assert trainer.has_meta_step and trainer.cfg.META.DATA.NUM_DOMAINS == 3
    # Checkpoints come with the tests.
    assert {path.name for path in (root / "out").glob("model_0*.pth")} == {"model_0000000.pth"}
    results = defaults.test_only(cfg, resume=True)
    assert results.rows == trainer.results.rows and list(results.rows) == ["folder:target"]
