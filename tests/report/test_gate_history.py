"""Gates of a run, read from checkpoints and from TensorBoard logs, and drawn."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from fastreid.engine.writers import GATE_BINS
from fastreid.report.gate_history import BINS, CHECKPOINTS, EDGES, TENSORBOARD, read_gates
from fastreid.report.gate_plots import iteration_edges, save_gates
from fastreid.utils.errors import UserError

ROOT = Path(__file__).parents[2]
LAYERS = ["layer1.bn", "layer2.0.conv1.bn", "layer2.0.bn"]


def gates_at(step):
    """Gates of each layer in 0..1, some of them at the bounds, further from 1 with each step."""
    generator = torch.Generator().manual_seed(step)
    spread = torch.rand(len(LAYERS), 40, generator=generator) * 0.1 * (step // 10 + 1)
    return dict(zip(LAYERS, (1.02 - spread).clamp(0, 1)))


@pytest.fixture
def checkpoints(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name, step in (("model_0000019", 19), ("model_0000009", 9), ("model_final", 49)):
        weights = {f"backbone.{layer}.gate": gate for layer, gate in gates_at(step).items()}
        weights["backbone.conv.weight"] = torch.ones(2)
        torch.save({"model": weights, "iteration": step}, folder / f"{name}.pth")
    return folder


def write_events(folder, steps=(9, 19, 49), **options):
    with SummaryWriter(str(folder)) as writer:
        for step in steps:
            for layer, gate in gates_at(step).items():
                writer.add_histogram(f"gates/{layer}", gate, step, **options)
    return folder


def check(history):
    assert history.iterations == [10, 20, 50] and history.layers == LAYERS
    for t, step in enumerate((9, 19, 49)):
        for layer, gate in enumerate(gates_at(step).values()):
            assert history.mean[t, layer] == pytest.approx(gate.mean().item(), abs=1e-6)
            assert history.std[t, layer] == pytest.approx(gate.numpy().std(), abs=1e-5)


def shares_of(step):
    return [np.histogram(gate.numpy(), EDGES)[0] / gate.numel() for gate in gates_at(step).values()]


def test_checkpoints(checkpoints):
    history = read_gates(checkpoints)
    check(history)
    np.testing.assert_array_equal(history.shares[2], shares_of(49))


def test_tensorboard_logs_of_this_program_have_exact_histograms(tmp_path):
    history = read_gates(write_events(tmp_path, bins=GATE_BINS))
    check(history)
    for t, step in enumerate((9, 19, 49)):
        np.testing.assert_allclose(history.shares[t], shares_of(step), atol=1e-9)


def test_logs_with_other_bins_have_exact_averages_and_shares_of_all_channels(tmp_path):
    history = read_gates(write_events(tmp_path))
    check(history)
    np.testing.assert_allclose(history.shares.sum(axis=2), 1)
    middles = (EDGES[1:] + EDGES[:-1]) / 2
    np.testing.assert_allclose(history.shares @ middles, history.mean, atol=0.03)


@pytest.mark.parametrize("value, bin_number", [(0.0, 0), (0.5, 12), (1.0, BINS - 1)])
def test_gates_that_are_all_the_same(tmp_path, value, bin_number):
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_histogram("gates/layer1.bn", torch.full((7,), value), 3, bins=GATE_BINS)
    history = read_gates(tmp_path)
    assert history.shares[0, 0].tolist() == [float(n == bin_number) for n in range(BINS)]
    assert history.mean[0, 0] == value and history.std[0, 0] == pytest.approx(0, abs=1e-6)


def test_tensorboard_is_read_first_and_the_origin_can_be_chosen(checkpoints):
    write_events(checkpoints, steps=(4, 5))
    assert read_gates(checkpoints).iterations == read_gates(checkpoints, TENSORBOARD).iterations == [5, 6]
    assert read_gates(checkpoints, CHECKPOINTS).iterations == [10, 20, 50]


def test_logs_without_gates_leave_the_checkpoints(checkpoints):
    with SummaryWriter(str(checkpoints)) as writer:
        writer.add_scalar("lr", 1.0, 3)
    assert read_gates(checkpoints).iterations == [10, 20, 50]
    with pytest.raises(UserError, match="no TensorBoard logs with gates.*--from checkpoints"):
        read_gates(checkpoints, TENSORBOARD)


def test_what_holds_no_gates_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        read_gates(tmp_path / "none")
    with pytest.raises(UserError, match="has no checkpoints"):
        read_gates(tmp_path)
    torch.save({"model": {"backbone.bn.weight": torch.ones(2)}, "iteration": 3}, tmp_path / "model_final.pth")
    with pytest.raises(UserError, match=r"no checkpoint in .* \(model_final.pth\) holds gates"):
        read_gates(tmp_path)


def test_checkpoints_of_two_models_are_a_user_error(checkpoints):
    torch.save({"model": {"backbone.other.gate": torch.ones(2)}, "iteration": 99}, checkpoints / "model_0000099.pth")
    with pytest.raises(UserError, match="mixes runs: its gates at iterations 10 and 100"):
        read_gates(checkpoints)


def test_columns_of_a_heat_map_meet_half_way():
    assert iteration_edges([10, 20, 50]).tolist() == [5, 15, 35, 65]
    assert iteration_edges([7]).tolist() == [6.5, 7.5]


def test_command_writes_pictures_and_numbers(checkpoints, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import plot_gates

    monkeypatch.setattr(sys, "argv", ["plot_gates.py", str(checkpoints)])
    plot_gates.main()
    assert "3 layers, 3 iterations, 10 to 50: average gate" in capsys.readouterr().out
    folder = checkpoints / "analysis"
    pictures = ("over_training", "by_layer", "before_after")
    names = {f"gates_{name}.{suffix}" for name in pictures for suffix in ("png", "pdf")}
    assert {path.name for path in folder.iterdir()} == names | {"gates.csv"}
    with (folder / "gates.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9 and (rows[-1]["iteration"], rows[-1]["layer"]) == ("50", "layer2.0.bn")
    assert float(rows[-1]["mean"]) == pytest.approx(gates_at(49)["layer2.0.bn"].mean().item(), abs=1e-6)
    assert sum(float(value) for key, value in rows[-1].items() if "-" in key) == pytest.approx(1)


def test_one_iteration_can_be_drawn(tmp_path):
    save_gates(tmp_path / "out", read_gates(write_events(tmp_path, steps=(9,))))
    assert (tmp_path / "out" / "gates_before_after.png").is_file()
