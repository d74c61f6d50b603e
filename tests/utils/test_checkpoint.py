"""Saving, finding and loading checkpoints."""

import logging
import os
import resource
from pathlib import Path

import pytest
import torch
from torch import nn

from fastreid.config import get_cfg
from fastreid.solver.lr_scheduler import InnerRatio, WarmupMultiStepLR
from fastreid.solver.sgd import MergedSGD
from fastreid.utils.checkpoint import Checkpointer, checkpoint_names, last_checkpoint, read_checkpoint, read_last
from fastreid.utils.errors import UserError

ENTRIES = ("optimizer_main", "scheduler_main", "optimizer_norm", "scheduler_norm", "inner_ratio", "scaler")


def network(width=4):
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


class Run:
    """A model with everything that moves along with it, and its checkpoints in a folder."""

    def __init__(self, folder, without=()):
        self.model = network()
        main = MergedSGD([{"params": [p]} for p in self.model[0].parameters()], lr=0.1, momentum=0.9)
        norm = MergedSGD([{"params": [p]} for p in self.model[2].parameters()], lr=0.5)
        warmup = {"warmup_iters": 4, "warmup_factor": 0.01, "warmup_method": "linear"}
        cfg = get_cfg()
        cfg.SOLVER.ITERS_PER_EPOCH = 5
        self.objects = {
            "optimizer_main": main,
            "scheduler_main": WarmupMultiStepLR(main, [6, 9], 0.1, **warmup),
            "optimizer_norm": norm,
            "scheduler_norm": WarmupMultiStepLR(norm, [3], 0.1, **warmup),
            "inner_ratio": InnerRatio(cfg),
            "scaler": torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2),
        }
        for entry in without:
            del self.objects[entry]
        self.checkpointer = Checkpointer(self.model, folder, **self.objects)

    def train(self, steps):
        torch.manual_seed(steps)
        for _ in range(steps):
            loss = self.model(torch.randn(6, 3)).square().mean()
            self.objects["scaler"].scale(loss).backward()
            for which in ("main", "norm"):
                self.objects["scaler"].step(self.objects[f"optimizer_{which}"])
                self.objects[f"optimizer_{which}"].zero_grad()
                self.objects[f"scheduler_{which}"].step()
            self.objects["scaler"].update()
            self.objects["inner_ratio"].advance()
        return self

    def state(self):
        return {"model": self.model.state_dict()} | {name: thing.state_dict() for name, thing in self.objects.items()}


@pytest.fixture
def trained(tmp_path):
    run = Run(tmp_path).train(3)
    run.checkpointer.save("model_0000002", 2)
    return run


@pytest.fixture
def warnings(caplog, monkeypatch):
    """The package's warnings; its logger may have been cut off from the root logger by a command."""
    monkeypatch.setattr(logging.getLogger("fastreid"), "propagate", True)
    caplog.set_level(logging.WARNING, "fastreid")
    return caplog


def same(left, right):
    """Whether two trees of tensors and plain values are equal, tensors to the bit."""
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right))
    return left == right


def resume_error(run, path):
    with pytest.raises(UserError) as caught:
        run.checkpointer.resume(path)
    message = str(caught.value)
    assert "\n" not in message and "\x1b" not in message and str(path) in message
    return message


def edited(path, **changes):
    content = torch.load(path, weights_only=True)
    for key, value in changes.items():
        content[key] = value
        if value is None:
            del content[key]
    torch.save(content, path)
    return path


def test_every_entry_comes_back_and_training_goes_on_alike(tmp_path, trained, warnings):
    fresh = Run(tmp_path)
    assert not any(same(fresh.state()[entry], trained.state()[entry]) for entry in ("model", *ENTRIES))
    assert fresh.checkpointer.resume(tmp_path / "model_0000002.pth") == 3
    assert same(fresh.state(), trained.state())
    assert same(fresh.train(4).state(), trained.train(4).state())
    assert not warnings.records


def test_a_checkpoint_has_the_published_entries(tmp_path, trained):
    content = torch.load(tmp_path / "model_0000002.pth", weights_only=True)
    assert set(content) == {"model", "iteration", *ENTRIES}
    assert content["iteration"] == 2
    assert list(content["model"]) == list(trained.model.state_dict())


def test_the_last_checkpoint_is_the_one_saved_last(tmp_path, trained):
    assert trained.checkpointer.save("model_0000005", 5) == tmp_path / "model_0000005.pth"
    assert last_checkpoint(tmp_path) == tmp_path / "model_0000005.pth"
    trained.checkpointer.save("model_final", 5)
    assert last_checkpoint(tmp_path) == tmp_path / "model_final.pth"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoints.json",
        "last_checkpoint",
        "model_0000002.pth",
        "model_0000005.pth",
        "model_final.pth",
    ]


def test_the_output_folder_is_made(tmp_path):
    Run(tmp_path / "logs" / "new").checkpointer.save("model_final", 0)
    assert last_checkpoint(tmp_path / "logs" / "new").is_file()


def test_a_folder_without_checkpoints_has_no_last_one(tmp_path):
    assert last_checkpoint(tmp_path) is None
    assert last_checkpoint(tmp_path / "missing") is None


def test_a_path_of_another_machine_is_looked_up_beside_the_marker(tmp_path, trained):
    (tmp_path / "last_checkpoint").write_text("/home/someone/logs/Sample/DG/model_0000002.pth\n")
    assert last_checkpoint(tmp_path) == tmp_path / "model_0000002.pth"


def test_a_last_checkpoint_that_is_gone_is_an_error_that_lists_the_others(tmp_path, trained):
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    with pytest.raises(
        UserError, match=r"last_checkpoint names model_0000009\.pth, which is not there; found model_0000002\.pth: "
    ):
        last_checkpoint(tmp_path)
    (tmp_path / "model_0000002.pth").unlink()
    with pytest.raises(UserError, match="which is not there; remove .*last_checkpoint to start again"):
        last_checkpoint(tmp_path)


def test_a_half_written_checkpoint_is_not_offered(tmp_path):
    (tmp_path / ".0123.tmp.pth").touch()
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    with pytest.raises(UserError) as caught:
        last_checkpoint(tmp_path)
    assert ".0123.tmp.pth" not in str(caught.value)


def test_an_empty_marker_is_called_empty(tmp_path):
    (tmp_path / "last_checkpoint").touch()
    with pytest.raises(UserError, match="is empty"):
        last_checkpoint(tmp_path)


class Unsavable:
    def state_dict(self):
        return {"function": lambda: None}


def test_a_save_that_fails_leaves_the_old_checkpoint_and_no_other_file(tmp_path, trained):
    before = (tmp_path / "model_0000002.pth").read_bytes()
    with pytest.raises(Exception, match="lambda"):
        Checkpointer(network(), tmp_path, thing=Unsavable()).save("model_0000002", 7)
    assert (tmp_path / "model_0000002.pth").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoints.json",
        "last_checkpoint",
        "model_0000002.pth",
    ]


def test_a_full_disk_is_an_error_of_the_user(tmp_path):
    checkpointer = Checkpointer(nn.Linear(200, 200), tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(UserError, match="cannot write .*model_final.pth"):
            checkpointer.save("model_final", 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_loading_takes_the_weights_alone(tmp_path, trained):
    fresh = Run(tmp_path)
    untouched = {entry: state for entry, state in Run(tmp_path).state().items() if entry != "model"}
    fresh.checkpointer.load(tmp_path / "model_0000002.pth")
    assert same(fresh.model.state_dict(), trained.model.state_dict())
    assert same({entry: fresh.state()[entry] for entry in untouched}, untouched)


def test_a_file_of_weights_alone_can_be_loaded_and_not_resumed(tmp_path, trained):
    path = tmp_path / "weights.pth"
    torch.save(trained.model.state_dict(), path)
    fresh = Run(tmp_path)
    fresh.checkpointer.load(path)
    assert same(fresh.model.state_dict(), trained.model.state_dict())
    assert f"MODEL.WEIGHTS {path}" in resume_error(Run(tmp_path), path)


def test_weights_of_a_model_on_several_devices_can_be_loaded(tmp_path, trained):
    path = tmp_path / "weights.pth"
    torch.save({"model": {f"module.{name}": value for name, value in trained.model.state_dict().items()}}, path)
    fresh = Run(tmp_path)
    fresh.checkpointer.load(path)
    assert same(fresh.model.state_dict(), trained.model.state_dict())


class Classifier(nn.Module):
    """A model with the classifier's name and a feature in front of it."""

    def __init__(self, identities):
        super().__init__()
        self.backbone = nn.Linear(3, 3)
        self.heads = nn.Module()
        self.heads.classifier_fc = nn.Linear(3, identities, bias=False)


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "model."])
def test_weights_from_elsewhere_can_be_loaded(tmp_path, trained, prefix):
    """Of another program, which keeps no counters of batches."""
    path = tmp_path / "weights.ckpt"
    weights = {name: value for name, value in trained.model.state_dict().items() if "num_batches" not in name}
    torch.save({"state_dict": {prefix + name: value for name, value in weights.items()}, "epoch": 3}, path)
    fresh = Run(tmp_path)
    fresh.checkpointer.load(path)
    assert same({name: fresh.model.state_dict()[name] for name in weights}, weights)
    assert "holds no iteration" in resume_error(Run(tmp_path), path)


def test_weights_without_a_classifier_start_a_new_one_with_a_warning(tmp_path, warnings):
    path, model = tmp_path / "weights.pth", Classifier(7)
    torch.save({"backbone.weight": torch.zeros(3, 3), "backbone.bias": torch.zeros(3)}, path)
    own = model.heads.classifier_fc.weight.clone()
    Checkpointer(model, tmp_path).load(path)
    assert torch.equal(model.heads.classifier_fc.weight, own) and not model.backbone.weight.any()
    assert "has no classifier: the classifier and its momentum start from the beginning" in warnings.text
    torch.save({"model": torch.load(path, weights_only=True), "iteration": 3}, path)
    with pytest.raises(UserError, match="it has no heads.classifier_fc.weight"):
        Checkpointer(model, tmp_path).resume(path)


def test_weights_of_other_identities_start_a_new_classifier_with_a_warning(tmp_path, warnings):
    path = Checkpointer(Classifier(5), tmp_path).save("model_final", 9)
    model = Classifier(7)
    own = model.heads.classifier_fc.weight.clone()
    Checkpointer(model, tmp_path).load(path)
    assert torch.equal(model.heads.classifier_fc.weight, own)
    assert torch.equal(model.backbone.weight, torch.load(path, weights_only=True)["model"]["backbone.weight"])
    [record] = warnings.records
    assert "of other identities, or numbers them differently (5 there, 7 here)" in record.getMessage()
    with pytest.raises(UserError, match=r"classifier_fc\.weight has shape \(5, 3\), expected \(7, 3\)"):
        Checkpointer(model, tmp_path).resume(path)


def test_entries_that_a_checkpoint_does_not_hold_start_anew_with_a_warning(tmp_path, trained, warnings):
    path = edited(tmp_path / "model_0000002.pth", inner_ratio=None, scaler=None)
    fresh = Run(tmp_path)
    assert fresh.checkpointer.resume(path) == 3
    [record] = warnings.records
    assert (
        record.levelname == "WARNING"
        and "does not hold inner_ratio, scaler: they start from the beginning" in record.getMessage()
    )
    assert same(fresh.objects["optimizer_main"].state_dict(), trained.objects["optimizer_main"].state_dict())
    assert fresh.objects["inner_ratio"].steps == 0


def test_entries_that_a_run_does_not_have_are_passed_over(tmp_path, trained, warnings):
    fresh = Run(tmp_path, without=["inner_ratio", "scaler"])
    assert fresh.checkpointer.resume(tmp_path / "model_0000002.pth") == 3
    assert not warnings.records


def test_a_checkpoint_of_another_size_is_an_error(tmp_path, trained):
    difference = r"0\.weight has shape \(4, 3\), expected \(5, 3\) \(and 6 more differences\)"
    with pytest.raises(
        UserError, match=rf"model_0000002\.pth is of another architecture than the config: {difference}"
    ):
        Checkpointer(network(5), tmp_path).load(tmp_path / "model_0000002.pth")


@pytest.mark.parametrize(
    "model, difference",
    [
        (nn.Sequential(*network(), nn.Linear(2, 2)), "it has no 3.weight (and 1 more"),
        (network()[:2], "it has 2.weight besides (and 1 more"),
    ],
)
def test_a_checkpoint_with_other_layers_is_an_error_and_changes_nothing(tmp_path, trained, model, difference):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        Checkpointer(model, tmp_path).resume(tmp_path / "model_0000002.pth")
    assert difference in str(caught.value) and "MODEL.NORM.TYPE_BACKBONE" in str(caught.value)
    assert same(dict(model.state_dict()), before)


def test_an_optimizer_of_other_groups_is_an_error(tmp_path, trained):
    path = edited(
        tmp_path / "model_0000002.pth",
        optimizer_norm=trained.objects["optimizer_main"].state_dict() | {"param_groups": []},
    )
    assert "its optimizer_norm does not fit this model and config" in resume_error(Run(tmp_path), path)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04", "cut"])
def test_a_damaged_file_is_an_error(tmp_path, trained, content):
    path = tmp_path / "model_0000002.pth"
    path.write_bytes(path.read_bytes()[:-300] if content == "cut" else content)
    assert "is damaged" in resume_error(Run(tmp_path), path)


@pytest.mark.parametrize("content", [[1, 2], {}, {"model": 3}, torch.zeros(2)])
def test_a_file_of_something_else_is_an_error(tmp_path, content):
    path = tmp_path / "other.pth"
    torch.save(content, path)
    assert "is not a checkpoint: expected a `model` or `state_dict` entry with tensors by name" in resume_error(
        Run(tmp_path), path
    )


def test_a_missing_file_is_an_error(tmp_path):
    assert resume_error(Run(tmp_path), tmp_path / "none.pth").startswith(f"no checkpoint {tmp_path / 'none.pth'}")
    assert "no checkpoint" in resume_error(Run(tmp_path), tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"0.weight": 1}},
        {"model": {0: torch.zeros(1)}},
        {"optimizer_main": []},
        {"scheduler_main": 3},
        {"iteration": "final"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_an_entry_of_another_kind_is_an_error(tmp_path, trained, changes):
    resume_error(Run(tmp_path), edited(tmp_path / "model_0000002.pth", **changes))


def test_reading_keeps_everything_on_the_cpu_and_in_its_type(tmp_path):
    path = tmp_path / "model.pth"
    weights = {"a": torch.rand(2, dtype=torch.float64), "b": torch.tensor(3)}
    torch.save({"model": weights, "iteration": 1}, path)
    assert same(read_checkpoint(path), {"model": weights, "iteration": 1})


def test_only_the_newest_numbered_checkpoints_of_the_run_are_kept(tmp_path):
    (tmp_path / "model_0000000.pth").write_bytes(b"another run's")
    checkpointer = Checkpointer(network(), tmp_path, keep=2)
    checkpointer.write("model_best", 1)
    for iteration in (1, 3, 5):
        checkpointer.save(f"model_{iteration:07d}", iteration)
    checkpointer.save("model_final", 7)
    checkpointer.save("model_0000009", 9)
    assert checkpoint_names(tmp_path) == [
        "model_0000000.pth",
        "model_0000005.pth",
        "model_0000009.pth",
        "model_best.pth",
        "model_final.pth",
    ]
    assert last_checkpoint(tmp_path) == tmp_path / "model_0000009.pth"
    assert read_last(tmp_path)[1]["iteration"] == 9


def test_a_resumed_run_goes_on_with_the_list_of_its_checkpoints(tmp_path):
    (tmp_path / "model_0000000.pth").write_bytes(b"another run's")
    first = Checkpointer(network(), tmp_path, keep=2)
    for iteration in (1, 3, 5):
        first.save(f"model_{iteration:07d}", iteration)
    resumed = Checkpointer(network(), tmp_path, keep=2)
    assert resumed.resume(tmp_path / "model_0000005.pth") == 6
    assert resumed.history == first.history == ["model_0000003.pth", "model_0000005.pth"]
    resumed.save("model_0000007", 7)
    assert checkpoint_names(tmp_path) == ["model_0000000.pth", "model_0000005.pth", "model_0000007.pth"]
    (tmp_path / "model_0000007.pth").write_bytes(b"")
    assert read_last(tmp_path)[0] == tmp_path / "model_0000005.pth"


def test_a_run_that_went_back_forgets_the_checkpoints_that_came_after(tmp_path):
    run = Checkpointer(network(), tmp_path)
    for iteration in (1, 3, 5):
        run.save(f"model_{iteration:07d}", iteration)
    run.resume(tmp_path / "model_0000003.pth")
    run.save("model_0000004", 4)
    assert run.history == ["model_0000001.pth", "model_0000003.pth", "model_0000004.pth"]


@pytest.mark.parametrize("how", ["cut", "bit"])
def test_a_damaged_last_checkpoint_gives_way_to_the_one_before_of_the_same_run(tmp_path, trained, warnings, how):
    Run(tmp_path / "other").checkpointer.save("model_0000004", 4)
    (tmp_path / "other" / "model_0000004.pth").rename(tmp_path / "model_0000004.pth")  # another run's
    path = trained.checkpointer.save("model_0000005", 5)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data[: len(data) // 2] if how == "cut" else data)
    found, content = read_last(tmp_path)
    assert found == tmp_path / "model_0000002.pth" and content["iteration"] == 2
    assert "model_0000005.pth damaged" in warnings.text
    (tmp_path / "model_0000002.pth").write_bytes(b"")
    with pytest.raises(UserError, match="no checkpoint can be read .model_0000005.pth, model_0000002.pth damaged"):
        read_last(tmp_path)


def test_a_hostile_last_checkpoint_does_not_give_way_to_the_one_before(tmp_path, trained):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'made'}",)

    path = trained.checkpointer.save("model_0000005", 5)
    torch.save({"model": Evil()}, path)
    with pytest.raises(UserError, match=r"model_0000005\.pth is refused: it holds posix\.system"):
        read_last(tmp_path)
    assert not (tmp_path / "made").exists()


def test_published_folders_have_no_list_and_numbers_tell_the_one_before(tmp_path, trained):
    for iteration in (5, 8):
        trained.checkpointer.save(f"model_{iteration:07d}", iteration)
    (tmp_path / "checkpoints.json").unlink()
    (tmp_path / "last_checkpoint").write_text("model_0000005.pth")
    (tmp_path / "model_0000005.pth").write_bytes(b"")
    assert read_last(tmp_path)[0] == tmp_path / "model_0000002.pth"


def test_a_damaged_list_of_checkpoints_is_an_error(tmp_path, trained):
    (tmp_path / "checkpoints.json").write_text("[")
    with pytest.raises(UserError, match="checkpoints.json is damaged"):
        read_last(tmp_path)


def test_a_file_that_needs_more_is_read_only_when_it_is_trusted(tmp_path, trained):
    path = edited(tmp_path / "model_0000002.pth", extra=Path("anything"))
    with pytest.raises(UserError, match=r"is refused: it holds pathlib\.\w+.* --trust-checkpoint") as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)
    assert read_checkpoint(path, trust=True)["extra"] == Path("anything")
    with pytest.raises(UserError, match="is refused"):
        read_last(tmp_path)
    assert read_last(tmp_path, trust=True)[0] == path


def test_the_config_is_kept_as_text(tmp_path):
    path = Checkpointer(network(), tmp_path, config="SEED: 3\n").save("model_final", 1)
    assert torch.load(path, weights_only=True)["config"] == "SEED: 3\n"
