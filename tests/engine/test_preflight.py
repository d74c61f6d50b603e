"""What a run will need later is looked at before its first iteration."""

import shutil
from types import SimpleNamespace

import pytest

from fastreid.engine import preflight
from fastreid.utils.errors import UserError


@pytest.mark.parametrize(
    "options, message",
    [
        ({"DATASETS__TESTS": ("Market1510",)}, "there is no data set 'Market1510'"),
        ({"DATASETS__TESTS": ("folder:target", "folder:none")}, "none"),
        ({"DATASETS__TESTS": ("folder:target", "ALL_GRID")}, "GRID"),
        ({"DATASETS__TESTS": ()}, "DATASETS.TESTS names no data set"),
        ({"DATASETS__TESTS": ("folder:a",)}, "query"),
        ({"TEST__METRIC": "cosin"}, "TEST.METRIC must be one of cosine, euclidean; found 'cosin'"),
        ({"TEST__BLOCK_SIZE": 0}, "TEST.BLOCK_SIZE"),
        ({"TEST__IMS_PER_BATCH": 0}, "TEST.IMS_PER_BATCH must be at least 1"),
        ({"TEST__AQE__ENABLED": True, "TEST__AQE__QE_K": 0}, "Query expansion: k must be at least 1"),
        ({"TEST__RERANK__ENABLED": True, "TEST__RERANK__LAMBDA": 2.0}, "lambda between 0 and 1"),
        ({"TEST__BEST_METRIC": "map"}, "TEST.BEST_METRIC"),
        ({"TEST__EVAL_PERIOD": -1}, "TEST.EVAL_PERIOD must be 0 .at the end only. or a number of epochs; found -1"),
        ({"TEST__PRECISE_BN__ENABLED": True, "TEST__PRECISE_BN__DATASET": "folder:d"}, "TEST.PRECISE_BN.DATASET"),
        ({"SOLVER__CHECKPOINT_PERIOD": -1}, "SOLVER.CHECKPOINT_PERIOD must be 0 .at the end only."),
        ({"SOLVER__MAX_ROLLBACKS": -1}, "SOLVER.MAX_ROLLBACKS must be 0"),
        ({"SOLVER__SWA__ENABLED": True, "SOLVER__SWA__PERIOD": 0}, "SOLVER.SWA.PERIOD must be from 1"),
        ({"ANALYSIS__BINS": 0}, "ANALYSIS.BINS must be at least 1"),
    ],
)
def test_what_only_a_later_phase_reads_is_refused_before_there_is_a_trainer(root, make_full_run, options, message):
    with pytest.raises(UserError, match=message):
        make_full_run(root / "run", **options)


def test_a_test_set_without_a_match_is_refused(root, make_full_run):
    gallery = root / "data" / "target" / "gallery"
    for path in gallery.iterdir():
        path.rename(gallery / path.name.replace("_c2_", "_c1_"))  # the queries' camera
    with pytest.raises(UserError, match="folder:target, split_1: None of the 15 queries has a true match"):
        make_full_run(root / "run")


def test_a_test_image_that_cannot_be_read_is_refused(root, make_full_run):
    image = root / "data" / "target" / "query" / "0_c1_0.png"
    image.write_bytes(b"no image")
    with pytest.raises(UserError, match=f"{image} is not a readable image"):
        make_full_run(root / "run")


def test_the_lists_that_were_loaded_are_those_of_the_tests(root, make_full_run):
    trainer = make_full_run(root / "run")
    shutil.rmtree(root / "data" / "target" / "query")
    (test_set,) = trainer.test_sets.values()
    assert len(test_set.items) == 30 and list(trainer.test_sets) == ["folder:target"]


@pytest.mark.parametrize(
    "options, start, there, wanted",
    [
        ({}, 0, [], 3 + 2),  # epochs 1 to 3 of 4, the best, the last
        ({}, 0, ["model_0000008.pth", "model_best.pth"], 3),  # what is there is replaced
        ({}, 18, ["model_0000008.pth", "model_0000017.pth"], 1 + 2),
        ({"SOLVER__CHECKPOINT_PERIOD": 0}, 0, [], 2),
        ({"SOLVER__CHECKPOINT_KEEP": 2}, 0, [], 2 + 2),
        ({"SOLVER__CHECKPOINT_KEEP": 2}, 18, ["model_0000008.pth", "model_0000017.pth"], 2),
        ({"SOLVER__CHECKPOINT_KEEP": 1}, 18, ["model_0000008.pth", "model_0000017.pth"], 2),
    ],
)
def test_the_checkpoints_to_come_must_have_room(tmp_path, monkeypatch, options, start, there, wanted):
    solver = {"SOLVER__CHECKPOINT_PERIOD": 1, "SOLVER__CHECKPOINT_KEEP": 0} | options
    solver = {key.removeprefix("SOLVER__"): value for key, value in solver.items()}
    solver["CHECKPOINT_PERIOD"] *= 9
    trainer = SimpleNamespace(cfg=SimpleNamespace(SOLVER=SimpleNamespace(**solver)), start_iter=start)
    monkeypatch.setattr(preflight, "checkpoint_bytes", lambda trainer: 1000)
    for name in there:
        (tmp_path / name).touch()
    for free, fits in ((1000 * (wanted + 1), True), (1000 * (wanted + 1) - 1, False)):
        monkeypatch.setattr(preflight.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
        if fits:
            preflight.require_room(trainer, tmp_path, there, 36)
        else:
            with pytest.raises(UserError, match=f"the run's {wanted} new checkpoints .* SOLVER.CHECKPOINT_KEEP"):
                preflight.require_room(trainer, tmp_path, there, 36)


def test_a_checkpoint_is_about_as_large_as_expected(root, make_full_run):
    trainer = make_full_run(root / "run", META__SOLVER__INIT__FIRST_INNER_LOOP=1)
    trainer.run_step()
    path = trainer.checkpointer.write("model_0000000", 0)
    expected, found = preflight.checkpoint_bytes(trainer), path.stat().st_size
    assert expected <= found <= 1.5 * expected
