"""Arguments, output folders, epochs as iterations, checkpoints by number."""

import logging
from pathlib import Path

import pytest
import torch
import yaml

from fastreid.config import get_cfg
from fastreid.data.build import TrainLoaders
from fastreid.engine import defaults
from fastreid.evaluation.results import TABLE_METRICS, Results
from fastreid.modeling import build_model
from fastreid.utils.errors import UserError

TINY = """
MODEL:
  DEVICE: cpu
  BACKBONE: {NAME: build_mobilenet_v2_backbone, DEPTH: 2, PRETRAIN: False}
  NORM: {TYPE_BACKBONE: BIN_gate2}
  HEADS: {IN_FEAT: 1280}
"""


def arguments(*words):
    return defaults.default_argument_parser().parse_intermixed_args(words)


def make_cfg(tmp_path, *options):
    cfg = get_cfg()
    file = tmp_path / "tiny.yml"
    file.write_text(TINY)
    cfg.merge_from_file(file)
    cfg.merge_from_list(["OUTPUT_DIR", str(tmp_path), *options])
    return cfg


@pytest.mark.parametrize(
    "config_file, folder",
    [
        ("configs/Sample/DG-mobilenet.yml", "logs/Sample/DG-mobilenet"),
        ("./configs/a.b.yml", "logs/a.b"),
        ("/data/configs/x/configs/run.yaml", "/data/configs/x/logs/run"),
        ("../elsewhere/configs/Sample/run.yml", "../elsewhere/logs/Sample/run"),
        ("/tmp/mine.yml", "logs/mine"),
        ("mine.yml", "logs/mine"),
    ],
)
def test_output_folder_is_the_configs_path_under_logs(config_file, folder):
    assert defaults.output_folder(Path(config_file)) == Path(folder)


def test_options_and_flags_may_be_mixed():
    args = arguments("--config-file", "c.yml", "SEED", "-1", "--resume", "MODEL.DEVICE", "cuda:0", "--num-pth", "99")
    assert (args.config_file, args.resume, args.eval_only, args.num_pth) == ("c.yml", True, False, 99)
    assert args.opts == ["SEED", "-1", "MODEL.DEVICE", "cuda:0"]


class TestSetup:
    def set_up(self, tmp_path, *words):
        file = tmp_path / "configs" / "Sample" / "tiny.yml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(TINY)
        cfg = defaults.default_setup(arguments("--config-file", str(file), *words))
        return cfg, tmp_path / "logs" / "Sample" / "tiny"

    def test_makes_the_output_folder_with_log_and_config(self, tmp_path):
        cfg, folder = self.set_up(tmp_path, "SOLVER.BASE_LR", "0.5")
        assert cfg.OUTPUT_DIR == str(folder) and cfg.is_frozen()
        assert "tiny.yml" in (folder / "log.txt").read_text()
        again = get_cfg()
        again.merge_from_file(folder / "config.yaml")
        assert again == cfg and again.SOLVER.BASE_LR == 0.5

    def test_testing_leaves_the_training_runs_config_alone(self, tmp_path):
        _, folder = self.set_up(tmp_path)
        before = (folder / "config.yaml").read_text()
        self.set_up(tmp_path, "--eval-only", "SOLVER.BASE_LR", "0.5")
        assert (folder / "config.yaml").read_text() == before

    def test_same_seed_same_random_numbers(self, tmp_path):
        numbers = []
        for seed in ("5", "5", "6"):
            self.set_up(tmp_path, "SEED", seed)
            numbers.append(torch.rand(1).item())
        assert numbers[0] == numbers[1] != numbers[2]

    def test_a_seed_below_zero_is_drawn_and_written_down(self, tmp_path):
        (first, folder), (second, _) = (self.set_up(tmp_path, "SEED", "-1") for _ in range(2))
        assert first.SEED >= 0 and first.SEED != second.SEED
        assert yaml.safe_load((folder / "config.yaml").read_text())["SEED"] == second.SEED

    def test_a_resumed_run_has_the_seed_that_was_drawn(self, tmp_path):
        first, _ = self.set_up(tmp_path, "SEED", "-1")
        again, _ = self.set_up(tmp_path, "SEED", "-1", "--resume")
        by_number, _ = self.set_up(tmp_path, "SEED", "-1", "--num-pth", "7")
        assert first.SEED == again.SEED == by_number.SEED

    def test_a_wrong_key_is_one_clear_line(self, tmp_path):
        with pytest.raises(UserError, match="unknown key SOLVER.BASELR; the nearest valid key is SOLVER.BASE_LR"):
            self.set_up(tmp_path, "SOLVER.BASELR", "1")


class TestEpochs:
    def convert(self, *options, iters=7):
        cfg = get_cfg()
        cfg.merge_from_list(["SOLVER.WRITE_PERIOD", 10, *options])
        return cfg, defaults.epochs_to_iterations(cfg, iters, num_classes=33, num_domains=4)

    def test_become_iterations(self):
        cfg, done = self.convert("SOLVER.DELAY_ITERS", 3, "SOLVER.CHECKPOINT_SAME_AS_EVAL", "False")
        solver = done.SOLVER
        assert (solver.MAX_ITER, solver.WARMUP_ITERS, solver.DELAY_ITERS, solver.CHECKPOINT_PERIOD) == (700, 70, 21, 14)
        assert solver.STEPS == [280, 490] and solver.ITERS_PER_EPOCH == 7

    def test_sizes_of_the_data_are_filled_in(self):
        _, done = self.convert()
        assert done.MODEL.HEADS.NUM_CLASSES == 33 and done.META.DATA.NUM_DOMAINS == 4

    def test_the_config_given_is_left_alone_and_the_new_one_frozen(self):
        cfg, done = self.convert()
        assert cfg.SOLVER.MAX_ITER == 100 and cfg.MODEL.HEADS.NUM_CLASSES == 0
        assert done.is_frozen()

    @pytest.mark.parametrize(
        "epochs, write_period, expected", [(10, 10, 70), (10, 200, 200), (3, 10, 30), (0, 10, 0), (10, 1, 70)]
    )
    def test_evaluations_fall_on_written_iterations(self, epochs, write_period, expected):
        _, done = self.convert("TEST.EVAL_PERIOD", epochs, "SOLVER.WRITE_PERIOD", write_period)
        assert done.TEST.EVAL_PERIOD == expected

    @pytest.mark.parametrize("same, epochs, expected", [(True, 3, 30), (True, 0, 35), (False, 3, 35)])
    def test_checkpoints_come_with_the_tests_if_there_are_any(self, same, epochs, expected):
        options = [
            "SOLVER.CHECKPOINT_PERIOD",
            5,
            "SOLVER.CHECKPOINT_SAME_AS_EVAL",
            str(same),
            "TEST.EVAL_PERIOD",
            epochs,
        ]
        _, done = self.convert(*options)
        assert done.SOLVER.CHECKPOINT_PERIOD == expected


class TestFindCheckpoint:
    def save(self, path):
        content = {"model": {"a": torch.arange(3.0)}, "iteration": 9}
        torch.save(content, path)

    def found(self, folder, number=None):
        path, content = defaults.find_checkpoint(folder, number)
        assert content["iteration"] == 9 and content["model"]["a"].tolist() == [0, 1, 2]
        return path

    def test_last_one_is_the_default(self, tmp_path):
        assert defaults.find_checkpoint(tmp_path, None) is None
        (tmp_path / "last_checkpoint").write_text("/published/elsewhere/model_0000009.pth\n")
        self.save(tmp_path / "model_0000009.pth")
        assert self.found(tmp_path) == tmp_path / "model_0000009.pth"

    def test_a_number_chooses_one(self, tmp_path):
        self.save(tmp_path / "model_0000119.pth")
        assert self.found(tmp_path, 119) == tmp_path / "model_0000119.pth"

    def test_a_number_that_is_not_there_lists_what_is(self, tmp_path):
        with pytest.raises(UserError, match="--num-pth 7: no checkpoint .*model_0000007.pth; found none"):
            defaults.find_checkpoint(tmp_path, 7)
        (tmp_path / "model_final.pth").touch()
        with pytest.raises(UserError, match="found model_final.pth"):
            defaults.find_checkpoint(tmp_path, 7)

    def test_a_marker_without_its_file_is_a_user_error(self, tmp_path):
        (tmp_path / "last_checkpoint").write_text("model_final.pth")
        with pytest.raises(UserError, match="names model_final.pth, which is not there"):
            defaults.find_checkpoint(tmp_path, None)


@pytest.mark.parametrize("option", ["SOLVER.MAX_ITER", "SOLVER.WRITE_PERIOD"])
def test_a_run_without_iterations_or_lines_is_a_user_error(tmp_path, monkeypatch, option):
    monkeypatch.setattr(defaults, "build_train_loaders", lambda cfg: TrainLoaders([], None, 5, 0, 3))
    with pytest.raises(UserError, match=f"{option} .* at least 1"):
        defaults.DefaultTrainer(make_cfg(tmp_path, option, 0))


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("SOLVER.CHECKPOINT_KEEP", -1, "SOLVER.CHECKPOINT_KEEP must be 0 .all. or a number of checkpoints; found -1"),
        ("SOLVER.FREEZE_ITERS", -1, "SOLVER.FREEZE_ITERS must be 0 .never. or a number of epochs; found -1"),
        ("TEST.PRECISE_BN.NUM_ITER", 0, "TEST.PRECISE_BN.NUM_ITER must be at least 1 batch; found 0"),
        ("SOLVER.ON_NAN", "ignore", "SOLVER.ON_NAN must be stop or rollback; found 'ignore'"),
    ],
)
def test_options_out_of_range_are_a_user_error(tmp_path, option, value, message):
    with pytest.raises(UserError, match=message):
        defaults.DefaultTrainer(make_cfg(tmp_path, option, value))


def test_the_flag_to_trust_a_checkpoint_reaches_the_file(tmp_path):
    torch.save({"model": {"a": torch.zeros(1)}, "extra": Path("anything")}, tmp_path / "model_0000003.pth")
    assert arguments("--config-file", "c.yml", "--trust-checkpoint").trust_checkpoint
    assert not arguments("--config-file", "c.yml").trust_checkpoint
    assert defaults.find_checkpoint(tmp_path, 3, trust=True)[1]["extra"] == Path("anything")
    for words in (["MODEL.WEIGHTS", str(tmp_path / "model_0000003.pth")], []):
        with pytest.raises(UserError, match="is refused"):
            defaults.test_only(make_cfg(tmp_path, *words), resume=not words, number=3)
        with pytest.raises(UserError, match="another architecture"):
            defaults.test_only(make_cfg(tmp_path, *words), resume=not words, number=3, trust=True)


class TestTestOnly:
    """`test_only` with the evaluation itself replaced by a look at the model."""

    @pytest.fixture(autouse=True)
    def look(self, monkeypatch):
        self.models = []

        def evaluate(cfg, model, cache):
            self.models.append(model)
            return Results({"a": {"0": {column: 50.0 for column in TABLE_METRICS}}})

        monkeypatch.setattr(defaults, "evaluate", evaluate)

    def checkpoint(self, tmp_path, prefix=""):
        """Save a checkpoint of a model of 9 identities and return the model."""
        model = build_model(make_cfg(tmp_path, "MODEL.HEADS.NUM_CLASSES", 9))
        weights = {prefix + name: tensor for name, tensor in model.state_dict().items()}
        torch.save({"model": weights, "iteration": 3}, tmp_path / "model_0000003.pth")
        return model

    def check(self, tmp_path, model, cfg, **options):
        defaults.test_only(cfg, **options)
        torch.testing.assert_close(self.models[0].state_dict(), model.state_dict(), rtol=0, atol=0)
        assert "model_0000003.pth" in (tmp_path / "results.json").read_text()
        assert "| a  " in (tmp_path / "results.txt").read_text()

    def test_the_last_checkpoint(self, tmp_path):
        model = self.checkpoint(tmp_path)
        (tmp_path / "last_checkpoint").write_text("model_0000003.pth")
        # Pre-trained weights are not looked for: all come from the checkpoint.
        self.check(tmp_path, model, make_cfg(tmp_path, "MODEL.BACKBONE.PRETRAIN", "True"), resume=True)

    def test_a_checkpoint_by_number(self, tmp_path):
        self.check(tmp_path, self.checkpoint(tmp_path), make_cfg(tmp_path), resume=True, number=3)

    def test_a_named_file(self, tmp_path):
        model = self.checkpoint(tmp_path)
        path = str(tmp_path / "model_0000003.pth")
        self.check(tmp_path, model, make_cfg(tmp_path, "MODEL.WEIGHTS", path), resume=False)

    def test_a_file_saved_by_data_parallel(self, tmp_path):
        model = self.checkpoint(tmp_path, prefix="module.")
        path = str(tmp_path / "model_0000003.pth")
        self.check(tmp_path, model, make_cfg(tmp_path, "MODEL.WEIGHTS", path), resume=False)

    def test_without_a_checkpoint_resuming_is_a_user_error(self, tmp_path):
        for resume in (True, False):
            with pytest.raises(UserError, match="no checkpoint in .*MODEL.WEIGHTS"):
                defaults.test_only(make_cfg(tmp_path), resume=resume)

    def test_a_checkpoint_of_another_architecture_is_a_user_error(self, tmp_path):
        self.checkpoint(tmp_path)
        with pytest.raises(UserError, match="another architecture than the config.*MODEL.BACKBONE.DEPTH") as error:
            defaults.test_only(make_cfg(tmp_path, "MODEL.BACKBONE.DEPTH", 3), resume=True, number=3)
        assert "\n" not in str(error.value)

    @pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
    def test_the_untrained_model_if_asked_for(self, tmp_path):
        self.checkpoint(tmp_path)
        (tmp_path / "last_checkpoint").write_text("model_0000003.pth")
        defaults.test_only(make_cfg(tmp_path, "MODEL.WEIGHTS", "untrained"), resume=False)
        assert len(self.models) == 1 and "model_0000003" not in (tmp_path / "results.json").read_text()

    def test_the_last_checkpoint_without_resume_which_is_said(self, tmp_path, caplog):
        caplog.set_level(logging.INFO)
        model = self.checkpoint(tmp_path)
        (tmp_path / "last_checkpoint").write_text("model_0000003.pth")
        self.check(tmp_path, model, make_cfg(tmp_path), resume=False)
        assert f"no MODEL.WEIGHTS: this is {tmp_path / 'model_0000003.pth'}, the last checkpoint" in caplog.text

    def test_weights_of_the_config_are_not_passed_over_in_silence(self, tmp_path, caplog):
        model = self.checkpoint(tmp_path)
        (tmp_path / "last_checkpoint").write_text("model_0000003.pth")
        self.check(tmp_path, model, make_cfg(tmp_path, "MODEL.WEIGHTS", "start.pth"), resume=True)
        assert f"MODEL.WEIGHTS start.pth is not read: --resume takes {tmp_path / 'model_0000003.pth'}" in caplog.text
        caplog.clear()
        same = str(tmp_path / "model_0000003.pth")
        self.check(tmp_path, model, make_cfg(tmp_path, "MODEL.WEIGHTS", same), resume=True)
        assert "is not read" not in caplog.text


class TestTwoModelsOnOneCommandLine:
    def refused(self, folder, *words, opts=("MODEL.WEIGHTS", "other.pth")):
        config = folder / "c.yml"
        config.touch()
        defaults.default_setup(arguments("--config-file", str(config), *words, "OUTPUT_DIR", str(folder), *opts))

    def test_a_test_of_two_is_refused(self, tmp_path):
        torch.save({}, tmp_path / "model_0000003.pth")
        self.refused(tmp_path, "--eval-only", "--resume")  # there is nothing to resume: other.pth is meant
        (tmp_path / "last_checkpoint").write_text("model_0000003.pth")
        for words in (["--eval-only", "--resume"], ["--tsne-only", "--resume"], ["--eval-only", "--num-pth", "3"]):
            with pytest.raises(
                UserError, match="two models to test: .*model_0000003.pth, MODEL.WEIGHTS names other.pth"
            ):
                self.refused(tmp_path, *words)

    def test_what_names_one_model_is_not(self, tmp_path):
        torch.save({}, tmp_path / "model_0000003.pth")
        (tmp_path / "last_checkpoint").write_text("model_0000003.pth")
        self.refused(tmp_path, "--eval-only")
        self.refused(tmp_path, "--resume")  # training goes on from the checkpoint, and says so
        self.refused(tmp_path, "--eval-only", "--resume", opts=())
        self.refused(tmp_path, "--eval-only", "--resume", opts=("MODEL.WEIGHTS", str(tmp_path / "model_0000003.pth")))
