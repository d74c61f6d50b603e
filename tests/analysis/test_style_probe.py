"""The linear probe of styles: on made features, whose shares are known, and on synthetic images by the command."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastreid.analysis.style_probe import Crops, choose_crops, probe, shares, style
from fastreid.data.datasets import Items
from fastreid.utils.errors import UserError

ROOT = Path(__file__).parents[2]
DOMAINS, PEOPLE, IMAGES = 3, 20, 6


def crops():
    person = np.arange(DOMAINS * PEOPLE).repeat(IMAGES)
    rows = [(f"{n}.jpg", int(p), n % 2) for n, p in enumerate(person)]
    return Crops(Items.from_rows(rows), person // PEOPLE, person, np.arange(len(person)) % 2 == 1)


def features(of_domain, of_person, noise, seed=0):
    """Sums of normal numbers, of deviations so large, for each domain, person and image."""
    rng, chosen = np.random.default_rng(seed), crops()
    parts = ((of_domain, chosen.domains), (of_person, chosen.people), (noise, np.arange(len(chosen.people))))
    return sum(scale * rng.standard_normal((labels.max() + 1, 300))[labels] for scale, labels in parts)


@pytest.mark.parametrize("of_domain, of_person, noise", [(0.0, 0.0, 1.0), (1.0, 0.5, 1.0), (0.3, 2.0, 1.0)])
def test_shares_are_those_that_the_features_were_made_with(of_domain, of_person, noise):
    domain, person = shares(features(of_domain, of_person, noise), crops())
    assert person == pytest.approx(of_person**2 / (of_person**2 + noise**2), abs=0.03)
    between = of_domain**2 * (DOMAINS - 1) / DOMAINS  # the deviation over three domains is from their own mean
    # Of three domains only, a channel's share varies much, and the mean of such shares is below the share of the means.
    assert domain == pytest.approx(between / (between + of_person**2 + noise**2), abs=0.08)


def test_probes_find_what_is_there_and_nothing_else():
    nothing = probe(features(0, 0, 1), crops())
    assert nothing.domain == pytest.approx(1 / DOMAINS, abs=0.12) and nothing.person < 3 / PEOPLE
    domain_only = probe(features(1, 0, 1), crops())
    assert domain_only.domain > 0.95 and domain_only.person < 3 / PEOPLE
    person_only = probe(features(0, 1, 1), crops())
    assert person_only.person > 0.95 and person_only.domain == pytest.approx(1 / DOMAINS, abs=0.12)


def test_a_style_is_means_and_deviations():
    maps = torch.tensor([[[[1.0, 3.0]], [[5.0, 5.0]]]])
    expected = torch.tensor([[2.0, 5.0, 0.0, 0.5 * np.log(1e-5)]]).float()
    torch.testing.assert_close(style(maps), expected, rtol=1e-4, atol=1e-4)


def test_people_have_images_of_several_cameras_in_turn():
    rows = [(f"{p}_{c}_{k}", p, c) for p in range(5) for c in range(1 if p == 4 else 3) for k in range(4)]
    found = choose_crops({"a": Items.from_rows(rows), "b": Items.from_rows(rows)}, people=4, images=6, seed=1)
    assert found.domains.tolist() == [0] * 24 + [1] * 24 and found.people.tolist() == np.arange(8).repeat(6).tolist()
    for person in range(8):
        own = found.people == person
        assert sorted(found.items.camids[own]) == [0, 0, 1, 1, 2, 2] and 4 not in found.items.pids[own]
        assert (found.held_out[own] == (found.items.camids[own] == 1)).all()
    with pytest.raises(UserError, match="a: 4 people have 6 images or more, of two cameras or more; 5 are asked for"):
        choose_crops({"a": Items.from_rows(rows)}, people=5, images=6, seed=1)


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """tools/probe_styles.py as a function of words, on two domains of unlike brightness; people are colours."""
    rng = np.random.default_rng(0)
    for name, light in (("a", 20), ("b", 170)):
        (tmp_path / "data" / name / "train").mkdir(parents=True)
        for person in range(4):
            colour = rng.integers(0, 40, 3)
            for k in range(4):
                pixels = np.clip(light + colour + rng.normal(0, 4, (32, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / name / "train" / f"{person}_c{k % 2}_{k}.png")
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path / "data"))
    (tmp_path / "small.yml").write_text(
        "MODEL: {DEVICE: cpu, BACKBONE: {NAME: mobilenet_v2_1.0, PRETRAIN: False}}\nINPUT: {SIZE_TEST: [32, 16]}\n"
        "DATASETS: {NAMES: ['folder:a', 'folder:b'], TESTS: []}\nDATALOADER: {NUM_WORKERS: 0}\n"
    )
    spec = importlib.util.spec_from_file_location("probe_styles", ROOT / "tools" / "probe_styles.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *words: module.main(["--config-file", str(tmp_path / "small.yml"), "--images", "4", *words])


def test_the_command_prints_a_row_for_each_stage(tool, capsys):
    tool("--people", "4", "--stages", "layer2")
    lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[0] == "|"]
    rows = {name: values for name, *values in cells}
    assert list(rows)[2:] == ["layer2", "test feature", "(chance)"] and rows["(chance)"][:2] == ["50.0", "25.0"]
    assert rows["layer2"][0] == "100.0", "domains differ in brightness, which a channel's mean shows"
    assert float(rows["layer2"][2]) > 20


@pytest.mark.parametrize(
    "words, message",
    [
        (["--people", "9"], "folder:a: 4 people have 4 images or more"),
        (["--people", "1"], "--people and --images must be at least 2"),
        (["--people", "4", "--stages", "stem"], "--stages stem: the backbone has no such stage; found layer1, layer2"),
        (["DATASETS.NAMES", "folder:a", "--people", "4"], "name at least two data sets"),
    ],
)
def test_wrong_input_is_one_clear_line(tool, words, message):
    with pytest.raises(UserError, match=message):
        tool(*words)
