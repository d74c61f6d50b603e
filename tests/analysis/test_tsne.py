"""t-SNE of features: positions, their files, and which identities get a colour."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fastreid.analysis.samples import SOURCE, TARGET, Sample
from fastreid.analysis.tsne import choose_identities, embed, save_tsne
from fastreid.data.datasets import Items
from fastreid.utils.errors import UserError


def make_sample(name, role, people, images, known=None):
    items = Items.from_rows([(f"{name}{p}_{i}.jpg", p, i) for p in range(people) for i in range(images)])
    features = torch.randn(people, 8).repeat_interleave(images, dim=0) * 5 + torch.randn(people * images, 8)
    known = np.ones(len(items), dtype=bool) if known is None else known(items.pids)
    return Sample(name, role, items, known, features)


def clusters(rng, count=30):
    return np.concatenate([rng.normal(center, 1, (count, 10)) for center in (-20, 0, 20)]).astype(np.float32)


def test_what_is_apart_stays_apart():
    places = embed(clusters(np.random.default_rng(0)), pca_dim=5, perplexity=10, seed=0).reshape(3, 30, 2)
    centers = places.mean(axis=1)
    radius = np.linalg.norm(places - centers[:, None], axis=2).max()
    gaps = [np.linalg.norm(centers[a] - centers[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert min(gaps) > 2 * radius


@pytest.mark.parametrize("change", [{"pca_dim": 3}, {"perplexity": 5}])
def test_the_same_seed_gives_the_same_and_options_change_it(change):
    features, options = clusters(np.random.default_rng(0), 10), {"pca_dim": 5, "perplexity": 8, "seed": 1}
    first = embed(features, **options)
    assert (embed(features, **options) == first).all()
    assert (embed(features, **options | change) != first).any()


def test_perplexity_is_lowered_for_few_images_and_said(caplog):
    assert embed(np.eye(5, dtype=np.float32), 50, 30, seed=0).shape == (5, 2)
    assert "perplexity lowered from 30 to 1.3, as there are 5 images" in caplog.text


@pytest.mark.parametrize("value", [0, 1])
def test_features_of_a_collapsed_model_lie_in_one_place_and_this_is_said(caplog, value):
    assert (embed(np.full((20, 5), value, dtype=np.float32), pca_dim=5, perplexity=3, seed=0) == 0).all()
    assert "the features of all 20 images are the same" in caplog.text


def test_too_few_images_are_a_user_error():
    with pytest.raises(UserError, match="t-SNE needs at least 4 images, found 3"):
        embed(np.eye(3, dtype=np.float32), pca_dim=5, perplexity=3, seed=0)


class TestChooseIdentities:
    def choose(self, samples, count=4, seed=0):
        return choose_identities(samples, count, np.random.default_rng(seed))

    def test_takes_turns_and_is_seeded(self):
        samples = [make_sample("a", SOURCE, 30, 3), make_sample("b", TARGET, 30, 3)]
        chosen = self.choose(samples)
        assert [number for number, _ in chosen] == [0, 0, 1, 1]
        assert chosen == self.choose(samples) != self.choose(samples, seed=1)

    def test_passes_over_distractors_and_people_with_few_images(self):
        sample = make_sample("a", TARGET, 5, 4, known=lambda pids: pids != 0)
        fewer = sample.subset(np.flatnonzero((sample.items.pids != 2) | (sample.items.camids < 2)))
        assert self.choose([fewer], count=9) == [(0, 1), (0, 3), (0, 4)]

    def test_people_with_one_image_where_there_are_no_others(self):
        assert len(self.choose([make_sample("a", SOURCE, 6, 1)])) == 4


def test_files(tmp_path):
    samples = [make_sample("a", SOURCE, 6, 3), make_sample("folder:b", TARGET, 1, 4)]
    options = SimpleNamespace(PCA_DIM=4, PERPLEXITY=5.0, IDENTITIES=3)
    save_tsne(tmp_path, samples, options, "cosine", seed=0)
    with (tmp_path / "tsne.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 22 and rows[-1]["domain"] == "folder:b" and rows[-1]["role"] == "target"
    assert rows[4] | {"x": "", "y": ""} == {
        "domain": "a",
        "role": "source",
        "image": "a1_1.jpg",
        "identity": "1",
        "camera": "1",
        "x": "",
        "y": "",
    }
    for name in ("tsne_domains", "tsne_identities"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_no_identity_coloured_is_possible(tmp_path):
    options = SimpleNamespace(PCA_DIM=4, PERPLEXITY=5.0, IDENTITIES=0)
    save_tsne(tmp_path, [make_sample("a", SOURCE, 6, 3)], options, "euclidean", seed=0)
    assert (tmp_path / "tsne_identities.png").is_file()
