"""Every figure that the program draws, with 1, 4 and 9 data sets and names of all kinds: what is written in them."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

from fastreid.analysis.domain_distances import domain_distances, save_domain_distances
from fastreid.analysis.identity_distances import identity_distances, save_identity_distances
from fastreid.analysis.samples import SOURCE, TARGET, Sample
from fastreid.analysis.tsne import save_tsne
from fastreid.data.datasets import Items
from fastreid.evaluation.result_files import plot_cmc
from fastreid.report.figures import LONGEST, short
from fastreid.report.gate_history import BINS, GateHistory
from fastreid.report.gate_plots import save_gates
from fastreid.report.plots import plot_result
from fastreid.utils.fonts import drawable
from fastreid.utils.text import is_number
from tools.table.experiment import Experiment, Row
from tools.table.figure import plot_table
from tools.table.numbers import GROUP, Measured

NAMES = [
    "folder:100%_of_$5_or_$x^2$",
    "folder:\u674e\u660e_\u4e1c\u95e8_camera",
    "folder:a_very_long_name_of_a_data_set_that_somebody_collected_at_the_main_station_in_2026",
    "ALL_GRID",
    "ALL_VIPER_only_10",
    "folder:{braces}\\alpha_\\mathdefault",
    "folder:under_score_",
    "folder:#hash&amp",
    "folder:\u00fcn\u00efcode",
]
LOSSES = ("base/loss_cls", "base/loss_triplet", "mtrain/loss_triplet_add", "mtrain/loss_triplet_mtrain")
LAYERS = [f"layer{stage}.{block}.conv1.bn" for stage in range(1, 5) for block in range(2)]


def result(folder: Path, names: list[str], epochs: int = 6, tested: bool = True) -> None:
    records = []
    for i in range(epochs):
        record = {"iteration": 20 * i + 19, "lr": 0.02 * 0.3**i, "lr_gate": 0.1, "inner_ratio": 0.03}
        record |= {loss: 4.0 / (i + n + 1) for n, loss in enumerate(LOSSES)}
        record |= {f"gate/{layer}": 1 - 0.01 * i * n for n, layer in enumerate(LAYERS)}
        for n, name in enumerate([*names, "all_average"] if tested else []):
            record |= {f"test/{name} Rank-1": 10.0 * i + n, f"test/{name} mAP": 11.0 * i + n}
        records.append(json.dumps(record))
    (folder / "metrics.json").write_text("\n".join(records))
    plot_result(folder / "metrics.json", folder / "result.png")


def one_epoch(folder: Path, names: list[str]) -> None:
    result(folder, names, epochs=1)


def no_evaluation(folder: Path, names: list[str]) -> None:
    result(folder, names, tested=False)


def cmc(folder: Path, names: list[str]) -> None:
    plot_cmc(folder / "cmc.png", {name: np.linspace(0.1 * n, 1, 50) for n, name in enumerate(names)})


def gates(folder: Path, names: list[str]) -> None:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(BINS), (5, len(LAYERS)))
    mean = 1 - rng.random((5, len(LAYERS))) / 2
    save_gates(folder, GateHistory([20, 40, 60, 80, 100], [*LAYERS[:-1], names[0]], mean, mean / 10, shares))


def samples(names: list[str]) -> list[Sample]:
    found = []
    for n, name in enumerate(names):
        items = Items.from_rows([(f"{i}.png", i // 4, i % 2) for i in range(16)])
        centres = torch.randn(4, 8).repeat_interleave(4, 0)
        role = TARGET if n > 2 else SOURCE
        found.append(Sample(name, role, items, np.ones(16, dtype=bool), 4 * centres + torch.randn(16, 8) + n))
    return found


def tsne(folder: Path, names: list[str]) -> None:
    options = SimpleNamespace(PCA_DIM=5, PERPLEXITY=5.0, IDENTITIES=8)
    save_tsne(folder, samples(names), options, "cosine", 0)


def identities(folder: Path, names: list[str]) -> None:
    rng = np.random.default_rng(0)
    save_identity_distances(folder, [identity_distances(s, "cosine", 100, rng) for s in samples(names)], "cosine", 20)


def domains(folder: Path, names: list[str]) -> None:
    save_domain_distances(folder, domain_distances(samples(names), "cosine"), "cosine", 20)


def table(folder: Path, names: list[str]) -> None:
    groups = {"seen": ("a",), "unseen": ("b",)}
    rows = tuple(Row(name, str(n), Path("x.yml"), (), None, {}) for n, name in enumerate(names))
    metrics = ("Rank-1", "mAP")
    experiment = Experiment(Path("x"), names[0], folder, (1, 2), groups, ("seen", "unseen"), metrics, (), rows)
    measured = {}
    for n, row in enumerate(rows):
        for m, group in enumerate(groups):
            for metric in experiment.metrics:
                values = {1: 50.0 + n - 9 * m, 2: 54.0 + n - 9 * m}
                measured[row.name, GROUP, group, metric] = Measured(row.name, GROUP, group, metric, values, 60.0)
    plot_table(folder / "table.png", experiment, measured)


FIGURES = [result, one_epoch, no_evaluation, cmc, gates, tsne, identities, domains, table]


@pytest.mark.parametrize("draw", FIGURES)
@pytest.mark.parametrize("count", [1, 9])
def test_texts_are_plain_and_whole(tmp_path, monkeypatch, draw, count):
    figures = []

    def place(figure, path, **options):
        figure.draw_without_rendering()  # which places all texts as drawing would
        path.touch()
        figures.append(figure)

    monkeypatch.setattr(Figure, "savefig", place)
    draw(tmp_path, NAMES[:count])
    assert figures
    for figure in figures:
        width, height = figure.bbox.size
        for text in figure.findobj(Text):
            words = text.get_text()
            if not words.strip() or not text.get_visible():
                continue
            assert not text.get_parse_math() and not is_markup(words)
            box = text.get_window_extent()
            inside = box.x0 >= -2 and box.y0 >= -2 and box.x1 <= width + 2 and box.y1 <= height + 2
            # The numbers of an axis go on beyond its ends, where they are not drawn.
            assert inside or is_number(words.replace("\u2212", "-")), f"{words!r} sticks out of the figure"


def is_markup(words: str) -> bool:
    """Tell whether a text has what only matplotlib's math would read; the names are what they are."""
    for name in NAMES:
        words = words.replace(short(name), "").replace(drawable(name), "")
    return any(sign in words for sign in ("$", "\\math", "^{", "_{"))


def test_a_long_name_keeps_both_ends():
    assert short("ALL_GRID") == "ALL_GRID" and len(short("x" * 300)) == LONGEST
    shown = short(NAMES[2])
    assert len(shown) <= LONGEST and shown.startswith("folder:a_very") and shown.endswith("in_2026")
    assert "\u2026" in shown


def test_an_escaped_letter_stays_whole(monkeypatch):
    monkeypatch.setattr("fastreid.report.figures.drawable", lambda char: f"\\u{ord(char):04x}")
    shown = short("\u674e" * 20)
    assert len(shown) <= LONGEST and set(shown.split("\u2026")) <= {"\\u674e" * n for n in range(6)}
