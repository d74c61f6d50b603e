"""`--tsne-only`, `--dist-only`, `--domain-only`: from data sets and a model to files."""

import csv
import logging
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from PIL import Image
from torch import nn

from fastreid.analysis import DIST, DOMAIN, MODES, TSNE, domain_distances, identity_distances, tsne
from fastreid.analysis.model_figures import analyse, domain_samples, load_samples
from fastreid.config import get_cfg
from fastreid.report import figures
from fastreid.utils.errors import UserError
from tests.command_server import PATIENCE

ROOT = Path(__file__).parents[2]
FILES = {
    TSNE: {"tsne_domains.png", "tsne_domains.pdf", "tsne_identities.png", "tsne_identities.pdf", "tsne.csv"},
    DIST: {"identity_distances.png", "identity_distances.pdf", "identity_distances.csv", "identity_histograms.csv"},
    DOMAIN: {
        "domain_matrix.png",
        "domain_matrix.pdf",
        "domain_histograms.png",
        "domain_histograms.pdf",
        "domain_histograms.csv",
        "domain_distances.csv",
    },
}


class MeanColours(nn.Module):
    """Colours of four quarters of an image as its feature, in place of a network."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, batch):
        return nn.functional.adaptive_avg_pool2d(batch["images"], (4, 1)).flatten(1) * self.scale / 255


def write_images(folder, people, cameras, images=2):
    folder.mkdir(parents=True)
    for person in range(people):
        for camera in range(cameras):
            for image in range(images):
                rng = np.random.default_rng([person, camera, image])
                look = np.random.default_rng(person).integers(0, 200, (4, 1, 3))
                pixels = (look + rng.integers(0, 50, (4, 2, 3))).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"p{person}_c{camera}_{image}.png")


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    """Options for two sources and a target."""
    root = tmp_path / "datasets"
    write_images(root / "s1" / "train", 6, 2)
    write_images(root / "s2" / "train", 5, 3)
    for part in ("query", "gallery"):
        write_images(root / "t" / part, 4, 2, images=1)
    monkeypatch.setenv("FASTREID_DATASETS", str(root))
    cfg = get_cfg()
    cfg.merge_from_list(
        ["DATASETS.NAMES", ("folder:s1", "folder:s2"), "DATASETS.TESTS", ("folder:t",), "INPUT.SIZE_TEST", [8, 4]]
        + ["OUTPUT_DIR", str(tmp_path / "out"), "DATALOADER.NUM_WORKERS", 0, "MODEL.DEVICE", "cpu"]
    )
    return cfg


@pytest.fixture
def numbers_only(monkeypatch):
    """Leave the pictures out, which take most of the time."""
    for module in (domain_distances, identity_distances, tsne):
        monkeypatch.setattr(module, "save_figure", lambda figure, *_: figures.plt.close(figure))


def run(cfg, *modes, **options):
    for key, value in options.items():
        cfg.set_leaf(key.replace("__", "."), value, where="test")
    return analyse(cfg, MeanColours(), modes or MODES)


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_writes_its_files_and_no_others(cfg, mode):
    folder = run(cfg, mode)
    assert {path.name for path in folder.iterdir()} == FILES[mode]


def test_modes_share_one_extraction_and_say_time_and_memory(numbers_only, cfg, caplog):
    caplog.set_level(logging.INFO, "fastreid")
    run(cfg)
    assert len(re.findall("features of .* images in", caplog.text)) == 3
    assert re.search(r"tsne, dist, domain: written to .*analysis in \d+\.\d s, \d+ MB of memory", caplog.text)


def test_the_same_seed_gives_the_same_numbers(numbers_only, cfg):
    options = {"ANALYSIS__IMAGES": 10, "ANALYSIS__IMAGES_PER_DOMAIN": 6, "ANALYSIS__PAIRS": 5}
    first = {path.name: path.read_bytes() for path in run(cfg, **options).glob("*.csv")}
    assert {path.name: path.read_bytes() for path in run(cfg).glob("*.csv")} == first
    other = {path.name: path.read_bytes() for path in run(cfg, SEED=7).glob("*.csv")}
    assert all(other[name] != content for name, content in first.items())


def test_images_are_limited_by_data_set_and_by_domain(cfg):
    cfg.merge_from_list(["ANALYSIS.IMAGES", 12, "ANALYSIS.IMAGES_PER_DOMAIN", 5])
    samples = load_samples(cfg, MeanColours())
    assert [len(sample) for sample in samples] == [12, 12, 12]
    assert [len(domain) for domain in domain_samples(cfg, samples)] == [5, 5, 5]
    cfg.merge_from_list(["ANALYSIS.IMAGES", 100, "DATALOADER.CAMERA_TO_DOMAIN", True])
    found = domain_samples(cfg, load_samples(cfg, MeanColours()))
    assert [domain.label for domain in found] == [
        *(f"folder:s1 c{camera} (source)" for camera in (0, 1)),
        *(f"folder:s2 c{camera} (source)" for camera in (0, 1, 2)),
        "folder:t (target)",
    ]


def test_images_per_identity_bounds_what_one_person_takes_first(cfg):
    cfg.merge_from_list(["ANALYSIS.IMAGES", 12, "ANALYSIS.IMAGES_PER_IDENTITY", 2])
    first = load_samples(cfg, MeanColours())[0]
    assert np.bincount(first.items.pids).tolist() == [2] * 6


@pytest.mark.parametrize(
    "mode, name, option, value",
    [
        (DIST, "identity_distances.csv", "ANALYSIS.PAIRS", 7),
        (DIST, "identity_histograms.csv", "ANALYSIS.BINS", 9),
        (DIST, "identity_distances.csv", "TEST.METRIC", "euclidean"),
        (DOMAIN, "domain_histograms.csv", "ANALYSIS.BINS", 9),
        (DOMAIN, "domain_distances.csv", "TEST.METRIC", "euclidean"),
        (TSNE, "tsne.csv", "ANALYSIS.TSNE.PCA_DIM", 3),
        (TSNE, "tsne.csv", "ANALYSIS.TSNE.PERPLEXITY", 4.0),
    ],
)
def test_options_change_the_numbers(numbers_only, cfg, mode, name, option, value):
    before = (run(cfg, mode) / name).read_bytes()
    cfg.merge_from_list([option, value])
    assert (run(cfg, mode) / name).read_bytes() != before


def test_as_many_identities_are_coloured_as_asked_for(cfg, monkeypatch):
    labels = []

    def look_and_close(figure, *_):
        labels.append(figure.legends[0].get_texts())
        plt.close(figure)

    monkeypatch.setattr(tsne, "save_figure", look_and_close)
    run(cfg, TSNE, ANALYSIS__TSNE__IDENTITIES=2)
    assert [len(found) for found in labels] == [3, 1 + 2]


def test_overall_rows_follow_those_of_the_data_sets(numbers_only, cfg):
    rows = rows_of(run(cfg, DIST) / "identity_distances.csv")
    names = ["folder:s1 (source)", "folder:s2 (source)", "folder:t (target)", "all sources", "all data sets"]
    assert [row["data set"] for row in rows] == names
    assert int(rows[-1]["intra pairs"]) == sum(int(row["intra pairs"]) for row in rows[:3])


def test_a_single_data_set_will_do(cfg):
    folder = run(cfg, DATASETS__NAMES=())
    assert len(rows_of(folder / "identity_distances.csv")) == len(rows_of(folder / "domain_distances.csv")) == 1


def test_one_camera_and_one_identity(cfg, tmp_path):
    write_images(tmp_path / "datasets" / "single" / "train", 1, 1, images=5)
    (row,) = rows_of(run(cfg, DATASETS__NAMES=("folder:single",), DATASETS__TESTS=()) / "identity_distances.csv")
    assert (row["pairs of one person from"], row["intra pairs"], row["inter pairs"]) == ("one camera", "10", "0")
    assert row["EER"] == ""


@pytest.mark.parametrize("option", ["IMAGES", "IMAGES_PER_IDENTITY", "IMAGES_PER_DOMAIN", "PAIRS", "BINS"])
def test_options_out_of_range_are_user_errors(cfg, option):
    with pytest.raises(UserError, match=f"ANALYSIS.{option} must be at least"):
        run(cfg, **{f"ANALYSIS__{option}": 0})


@pytest.mark.parametrize("option, value", [("PCA_DIM", 1), ("PERPLEXITY", 0.0), ("IDENTITIES", -1)])
def test_options_of_tsne_out_of_range_are_user_errors(cfg, option, value):
    with pytest.raises(UserError, match=f"ANALYSIS.TSNE.{option} must be at least"):
        run(cfg, **{f"ANALYSIS__TSNE__{option}": value})


def test_a_data_set_without_images_is_a_user_error(cfg, tmp_path):
    (tmp_path / "datasets" / "empty" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match="folder:empty.*no images"):
        run(cfg, DATASETS__NAMES=("folder:empty",))


def test_more_domains_than_can_be_drawn_are_a_user_error(cfg, tmp_path):
    write_images(tmp_path / "datasets" / "scenes" / "train", 1, 40, images=1)
    options = {"DATASETS__NAMES": ("folder:scenes",), "DATALOADER__CAMERA_TO_DOMAIN": True}
    with pytest.raises(UserError, match="41 domains are too many to draw, at most 32"):
        run(cfg, DOMAIN, **options)


def test_no_data_set_is_a_user_error(cfg):
    with pytest.raises(UserError, match="name no data set"):
        run(cfg, DATASETS__NAMES=(), DATASETS__TESTS=())


def command(python, cfg, folder, *flags):
    """Run tools/train_net.py on the data sets of a config, with a small network."""
    backbone = "{NAME: build_mobilenet_v2_backbone, DEPTH: 2, PRETRAIN: False}"
    (folder / "tiny.yml").write_text(f"MODEL: {{DEVICE: cpu, BACKBONE: {backbone}, HEADS: {{IN_FEAT: 1280}}}}\n")
    words = ["DATASETS.NAMES", str(cfg.DATASETS.NAMES), "DATASETS.TESTS", str(cfg.DATASETS.TESTS)]
    words += ["OUTPUT_DIR", cfg.OUTPUT_DIR, "INPUT.SIZE_TEST", "[32, 16]", "DATALOADER.NUM_WORKERS", "0"]
    start = [python, str(ROOT / "tools" / "train_net.py"), "--config-file", str(folder / "tiny.yml")]
    return subprocess.run(
        [*start, *flags, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_flags_of_the_command_combine_and_nothing_is_trained(python, cfg, tmp_path):
    done = command(python, cfg, tmp_path, "--dist-only", "--domain-only", "MODEL.WEIGHTS", "untrained")
    assert done.returncode == 0, done.stderr
    folder = Path(cfg.OUTPUT_DIR)
    assert {path.name for path in (folder / "analysis").iterdir()} == FILES[DIST] | FILES[DOMAIN]
    # A config would be written over that of the training run.
    assert {path.name for path in folder.iterdir()} == {"analysis", "log.txt"}


def test_the_command_without_a_checkpoint_is_one_line_and_status_2(python, cfg, tmp_path):
    done = command(python, cfg, tmp_path, "--tsne-only", "--resume")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: no checkpoint in {cfg.OUTPUT_DIR}: train first")
