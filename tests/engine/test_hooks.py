"""The loop's hooks: their order, schedules, checkpoints, evaluations and writers."""

import gc
import json
import logging
import resource
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fastreid.engine import HookBase, TrainerBase, hooks
from fastreid.engine.writers import GATE_BINS, JSONWriter, LogWriter, TensorBoardWriter
from fastreid.layers import BatchInstanceNorm
from fastreid.utils.checkpoint import Checkpointer
from fastreid.utils.errors import UserError

LOSSES = {"base/loss_cls": 3.0, "mtrain/loss_stc": 0.5, "mtest/loss_triplet_mtest": 0.25}


class GatedModel(torch.nn.Module):
    """A layer with gates at the place where a backbone has one."""

    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Sequential(BatchInstanceNorm(4, "half"))


class FakeTrainer(TrainerBase):
    """A loop whose iterations record losses that grow by one each time."""

    def __init__(self, has_meta_step=True):
        super().__init__()
        self.model = GatedModel()
        self.device = torch.device("cpu")
        self.has_meta_step = has_meta_step
        self.inner_ratio = SimpleNamespace(value=0.125)
        self.events = []

    def run_step(self):
        self.events.append(f"step {self.iter}")
        self.storage.add_to("data_time", 0.25)
        self.storage.put_scalars({name: value + self.iter for name, value in LOSSES.items()})


class Recorder(HookBase):
    """Write down when each of its methods is called."""

    def __init__(self, name):
        self.name = name

    def before_train(self):
        self.trainer.events.append(f"{self.name} before train")

    def before_step(self):
        self.trainer.events.append(f"{self.name} before {self.trainer.iter}")

    def after_step(self):
        self.trainer.events.append(f"{self.name} after {self.trainer.iter}")

    def after_train(self):
        self.trainer.events.append(f"{self.name} after train")


def run(*used, start=0, end=6, **options):
    """Run iterations start .. end - 1 with hooks and return the trainer."""
    trainer = FakeTrainer(**options)
    trainer.register_hooks(used)
    trainer.train(start, end)
    return trainer


class TestLoop:
    def test_hooks_are_called_in_their_order(self):
        events = run(Recorder("a"), Recorder("b"), start=3, end=5).events
        steps = [f"{what} {i}" for i in (3, 4) for what in ("a before", "b before", "step", "a after", "b after")]
        assert events == ["a before train", "b before train", *steps, "a after train", "b after train"]

    def test_after_train_is_left_out_when_an_iteration_fails(self):
        trainer = FakeTrainer()
        trainer.register_hooks([Recorder("a")])
        trainer.run_step = lambda: 1 / 0
        with pytest.raises(ZeroDivisionError):
            trainer.train(0, 2)
        assert trainer.events == ["a before train", "a before 0"]

    def test_iteration_numbers_reach_the_storage(self):
        class Check(HookBase):
            def after_step(self):
                assert self.trainer.storage.iter == self.trainer.iter

        trainer = run(Check(), start=2, end=4)
        assert trainer.iter == 4 and trainer.storage.iter == 3

    def test_a_loop_without_a_step_is_refused(self):
        with pytest.raises(NotImplementedError):
            TrainerBase().train(0, 1)


class TestSchedules:
    def make(self):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda iteration: 0.5**iteration)
        optimizer.step()
        return schedule

    def test_are_stepped_once_in_each_iteration(self):
        schedules = {"lr": self.make(), "lr_gate": self.make()}
        run(hooks.SchedulerStep(schedules), end=3)
        assert all(schedule.get_last_lr() == [0.125] for schedule in schedules.values())

    def test_the_rate_that_an_iteration_used_is_recorded(self):
        trainer = run(hooks.SchedulerStep({"lr": self.make()}), end=3)
        assert trainer.storage.new_means()["lr"] == pytest.approx((1 + 0.5 + 0.25) / 3)
        assert trainer.storage.new_means()["inner_ratio"] == 0.125

    def test_there_is_no_inner_ratio_without_a_meta_step(self):
        trainer = run(hooks.SchedulerStep({"lr": self.make()}), has_meta_step=False)
        assert "inner_ratio" not in trainer.storage.new_means()


class TestCheckpoints:
    @pytest.mark.parametrize(
        "period, start, expected",
        [
            (2, 0, ["model_0000001", "model_0000003", "model_final"]),
            (4, 2, ["model_0000003", "model_final"]),
            (0, 0, ["model_final"]),
        ],
    )
    def test_are_named_after_the_iteration_they_follow(self, tmp_path, period, start, expected):
        checkpointer = Checkpointer(torch.nn.Linear(2, 1), tmp_path)
        run(hooks.PeriodicCheckpoint(checkpointer, period), start=start)
        assert sorted(path.stem for path in tmp_path.glob("*.pth")) == expected
        assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
        for name in expected:
            iteration = 5 if name == "model_final" else int(name[6:])
            assert torch.load(tmp_path / f"{name}.pth", weights_only=True)["iteration"] == iteration

    def test_hold_the_schedules_after_their_step(self, tmp_path):
        schedule = TestSchedules().make()
        checkpointer = Checkpointer(torch.nn.Linear(2, 1), tmp_path, scheduler_main=schedule)
        run(hooks.SchedulerStep({"lr": schedule}), hooks.PeriodicCheckpoint(checkpointer, 4))
        state = torch.load(tmp_path / "model_0000003.pth", weights_only=True)["scheduler_main"]
        assert state["last_epoch"] == 4


@pytest.mark.parametrize("enabled", [True, False])
def test_skipped_updates_are_recorded_where_there_is_a_scaler(enabled):
    trainer, reads = FakeTrainer(), []

    class Scaler:
        def is_enabled(self):
            return enabled

        @property
        def skipped(self):  # for which the host waits for the device
            reads.append(trainer.iter)
            return len(reads)

    trainer.scaler = Scaler()
    trainer.register_hooks([hooks.ScalerSkips(period=3)])
    trainer.train(0, 7)
    assert reads == ([2, 5, 6] if enabled else [])
    assert trainer.storage.new_means().get("skipped_steps") == (2 if enabled else None)  # of 1, 2 and 3


class TestEvaluation:
    @pytest.mark.parametrize(
        "period, start, expected", [(2, 0, [2, 4, 6]), (4, 0, [4, 6]), (4, 4, [6]), (0, 0, [6]), (9, 0, [6])]
    )
    def test_runs_each_period_and_once_at_the_end(self, period, start, expected):
        finished = []
        run(hooks.PeriodicEvaluation(period, lambda n: finished.append(n) or {}, lambda n: True), start=start)
        assert finished == expected

    def test_numbers_reach_the_storage(self):
        trainer = run(hooks.PeriodicEvaluation(0, lambda n: {"test/a mAP": 7.0}, lambda n: True))
        assert trainer.storage.new_means()["test/a mAP"] == 7.0


def test_timer_leaves_hooks_out_and_sums_the_waiting(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(hooks, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    class Slow(HookBase):
        def after_step(self):
            clock[0] += 100

    trainer = FakeTrainer()
    trainer.register_hooks([hooks.IterationTimer(), Slow()])

    def two_steps():
        clock[0] += 2
        for _ in range(2):
            trainer.storage.add_to("data_time", 0.25)

    trainer.run_step = two_steps
    trainer.train(0, 3)
    assert trainer.storage.new_means() == {"time": 2, "data_time": 0.5}


def test_function_is_called_after_training_only():
    called = []
    trainer = FakeTrainer()
    trainer.register_hooks([hooks.CallAfterTraining(lambda: called.append(trainer.iter))])
    trainer.train(0, 2)
    assert called == [2]


class Collector:
    """A writer that keeps what it was given."""

    def __init__(self):
        self.written, self.closed = [], False

    def write(self, trainer):
        self.written.append((trainer.storage.iter, trainer.storage.new_means()))

    def close(self):
        self.closed = True


class TestPeriodicWriter:
    def test_writes_means_of_each_period_and_the_rest_at_the_end(self):
        collector = Collector()
        run(hooks.PeriodicWriter(lambda: [collector], 4))
        iterations = [iteration for iteration, _ in collector.written]
        values = [means.get("base/loss_cls") for _, means in collector.written]
        assert iterations == [3, 5, 5]
        assert values == [3 + 1.5, 3 + 4.5, None]
        assert collector.closed

    def test_an_evaluation_after_the_last_line_is_written_too(self):
        collector = Collector()
        run(
            hooks.PeriodicEvaluation(0, lambda n: {"test/a mAP": 7.0}, lambda n: True),
            hooks.PeriodicWriter(lambda: [collector], 4),
        )
        assert collector.written[-1] == (5, {"test/a mAP": 7.0})

    def test_a_long_silence_is_broken(self):
        collector = Collector()
        run(hooks.PeriodicWriter(lambda: [collector], 100, max_silence=-1.0), end=3)
        assert [iteration for iteration, _ in collector.written] == [0, 1, 2, 2]

    def test_silence_is_not_broken_by_one_of_several_processes(self, monkeypatch):
        monkeypatch.setattr(hooks, "num_processes", lambda: 2)
        collector = Collector()
        run(hooks.PeriodicWriter(lambda: [collector], 100, max_silence=-1.0), end=3)
        assert [iteration for iteration, _ in collector.written] == [2, 2]


def test_log_line_tells_time_losses_rates_and_memory(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("fastreid"), "propagate", True)
    caplog.set_level(logging.INFO)
    schedule = TestSchedules().make()
    used = [
        hooks.IterationTimer(),
        hooks.SchedulerStep({"lr": schedule}),
        hooks.PeriodicWriter(lambda: [LogWriter(4)], 3),
    ]
    run(*used)
    lines = [record.message for record in caplog.records if record.message.startswith("eta")]
    assert len(lines) == 2
    for part in (
        "eta 0:00:00",
        "epoch 0.8",
        "iter 3/6",
        "base: cls 4.000",
        "mtrain: stc 1.500",
        "mtest: triplet_mtest 1.250",
    ):
        assert part in lines[0]
    for part in ("lr 5.83e-01", "inner_ratio 1.25e-01", " s/iter", "data 0.250 s", " MB"):
        assert part in lines[0]
    assert "iter 6/6" in lines[1] and "base: cls 7.000" in lines[1]


def test_metrics_file_has_one_readable_object_a_line(tmp_path):
    path = tmp_path / "metrics.json"
    used = (
        hooks.PeriodicEvaluation(0, lambda n: {"test/a mAP": 7.0}, lambda n: True),
        hooks.PeriodicWriter(lambda: [JSONWriter(path)], 3),
    )
    trainer = run(*used)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["iteration"] for record in records] == [2, 5, 5]
    assert [record.get("base/loss_cls") for record in records] == [4.0, 7.0, None]
    assert records[2]["test/a mAP"] == 7.0
    assert records[0]["gate/0"] == 0.5
    trainer = FakeTrainer()
    trainer.register_hooks([hooks.PeriodicWriter(lambda: [JSONWriter(path)], 1)])
    trainer.train(6, 7)
    assert [json.loads(line)["iteration"] for line in path.read_text().splitlines()] == [2, 5, 5, 6]


def test_tensorboard_has_losses_by_group_and_gate_histograms(tmp_path):
    schedule = TestSchedules().make()
    run(hooks.SchedulerStep({"lr": schedule}), hooks.PeriodicWriter(lambda: [TensorBoardWriter(tmp_path)], 3))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = events.Tags()
    assert set(tags["scalars"]) == {*LOSSES, "lr", "inner_ratio"}
    assert [(e.step, e.value) for e in events.Scalars("mtrain/loss_stc")] == [(2, 1.5), (5, 4.5)]
    assert tags["histograms"] == ["gates/0"]
    histogram = events.Histograms("gates/0")[0].histogram_value
    assert histogram.num == 4 and histogram.min == histogram.max == 0.5
    assert set(histogram.bucket_limit) <= set(GATE_BINS)


@pytest.mark.parametrize("kind", [JSONWriter, TensorBoardWriter])
def test_a_disk_that_fills_up_between_two_lines_is_an_error_of_the_user(tmp_path, kind):
    """Again when the writer is closed, and not afterwards, when nobody would catch it."""
    place = tmp_path / "metrics.json" if kind is JSONWriter else tmp_path
    writers = hooks.PeriodicWriter(lambda: [kind(place)], 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(UserError, match=r"cannot write .*(metrics\.json|tfevents) \("):
            run(Fill(limits), writers)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    if kind is JSONWriter:
        assert json.loads((tmp_path / "metrics.json").read_text().splitlines()[0])["iteration"] == 0
    del writers
    gc.collect()


class Fill(HookBase):
    """Leave no room in any file after the second iteration."""

    def __init__(self, limits):
        self.limits = limits

    def after_step(self):
        if self.trainer.iter == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, self.limits[1]))
