"""Training batches depend on the seed, not on the number of workers or processes; corrupt images."""

import itertools
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastreid.config import get_cfg
from fastreid.data.build import build_loader, build_sampler, build_test_loader, number_items
from fastreid.data.common import TrainDataset, collate
from fastreid.data.datasets.bases import Items
from fastreid.data.samplers import NaiveIdentitySampler, SharedBatches
from fastreid.data.transforms import build_transforms
from fastreid.utils.errors import UserError


def cfg_with(workers=0, skip=False):
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.INPUT.SIZE_TRAIN = cfg.INPUT.SIZE_TEST = [16, 8]
    cfg.INPUT.PADDING = 2
    cfg.INPUT.DO_AUTOAUG = cfg.INPUT.CJ.ENABLED = cfg.INPUT.DO_AUGMIX = cfg.INPUT.REA.ENABLED = True
    cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.SKIP_CORRUPT = workers, skip
    return cfg


def draw_set(folder: Path):
    """Six people with four images each, two in each of two cameras, which are domains."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for index in range(24):
        path = folder / f"{index:02d}.png"
        Image.fromarray(rng.integers(0, 256, (24, 12, 3), dtype=np.uint8)).save(path)
        rows.append((str(path), index // 4, index % 2))
    return number_items(["set"], [Items.from_rows(rows)], camera_to_domain=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_set(tmp_path_factory.mktemp("determinism") / "set")


def head(cfg, data, number=6, seed=3):
    loader = build_loader(cfg, data, build_sampler(data, 8, 2, True, False, seed), seed)
    return list(itertools.islice(loader, number))


def same(first, second):
    pairs = zip(first, second, strict=True)
    return all(torch.equal(a["images"], b["images"]) and a["img_paths"] == b["img_paths"] for a, b in pairs)


def test_batches_do_not_depend_on_the_number_of_workers(data):
    expected = head(cfg_with(0), data)
    for workers in (1, 2):
        assert same(head(cfg_with(workers), data), expected)


def test_another_seed_gives_other_images_and_augmentations(data):
    assert not same(head(cfg_with(), data, seed=4), head(cfg_with(), data, seed=3))


def test_an_image_is_augmented_anew_each_time(data):
    views = {}
    for batch in head(cfg_with(), data, 12):
        for path, image in zip(batch["img_paths"], batch["images"]):
            views.setdefault(path, []).append(image)
    pairs = [pair for images in views.values() for pair in itertools.combinations(images, 2)]
    assert pairs and not any(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_leaves_the_random_numbers_of_the_process_alone(data, workers):
    items = Items(data.paths, data.pids, data.camids)
    state = torch.get_rng_state()
    head(cfg_with(workers), data)
    list(build_test_loader(cfg_with(workers), items))
    assert torch.equal(torch.get_rng_state(), state)


def test_processes_see_the_images_of_the_single_process(data):
    cfg = cfg_with()
    args = (data.paths, data.pids, data.camids, data.domains, build_transforms(cfg, is_train=True))
    dataset = TrainDataset(*args, seed=3)
    shares = []
    for rank in range(2):
        batches = itertools.islice(SharedBatches(NaiveIdentitySampler(data.pids, 8, 2, seed=3), rank, 2), 6)
        shares.append([collate([dataset[key] for key in batch]) for batch in batches])
    for whole, first, second in zip(head(cfg, data), *shares):
        groups = whole["images"].reshape(4, 2, 3, 16, 8)
        assert torch.equal(first["images"].reshape(2, 2, 3, 16, 8), groups[0::2])
        assert torch.equal(second["images"].reshape(2, 2, 3, 16, 8), groups[1::2])


# ------------------------------------------------------------------------------------------------ corrupt images


@pytest.fixture
def damaged(tmp_path):
    """The set, with two unreadable images of the first person: cut in half, and empty."""
    data = draw_set(tmp_path / "set")
    whole = Path(data.paths[0]).read_bytes()
    Path(data.paths[0]).write_bytes(whole[: len(whole) // 2])
    Path(data.paths[2]).write_bytes(b"")
    return data


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_image_is_an_error_that_names_the_file(damaged, workers):
    with pytest.raises(UserError, match=r"0[02]\.png is not a readable image"):
        head(cfg_with(workers), damaged, 20)


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_corrupt_image_is_replaced_by_one_of_the_same_identity(damaged, workers):
    names = {str(path): int(pid) for path, pid in zip(damaged.paths, damaged.pids)}
    batches = head(cfg_with(workers, skip=True), damaged, 20)
    assert same(batches, head(cfg_with(0, skip=True), damaged, 20))
    for batch in batches:
        assert not {str(damaged.paths[0]), str(damaged.paths[2])} & set(batch["img_paths"])
        assert [names[path] for path in batch["img_paths"]] == batch["targets"].tolist()
        assert torch.equal(batch["targets"].reshape(-1, 2)[:, 0], batch["targets"].reshape(-1, 2)[:, 1])


def train_dataset(data):
    args = (data.paths, data.pids, data.camids, data.domains, build_transforms(cfg_with(), is_train=True))
    return TrainDataset(*args, seed=0, skip_corrupt=True)


def test_substitute_is_of_the_same_domain_if_there_is_one(tmp_path):
    data = draw_set(tmp_path / "set")
    Path(data.paths[4]).write_bytes(b"")  # images 4..7 are of one person, 4 and 6 of one camera
    dataset = train_dataset(data)
    assert dataset[0, 4]["img_paths"] == data.paths[6] and dataset[0, 4]["domains"] == data.domains[4]
    Path(data.paths[6]).write_bytes(b"")
    item = dataset[0, 4]
    assert item["img_paths"] == data.paths[5]
    assert (item["targets"], item["domains"], item["camids"]) == (data.pids[4], data.domains[5], data.camids[5])


def test_each_corrupt_image_is_counted_once_in_the_log(damaged, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("fastreid"), "propagate", True)
    dataset = train_dataset(damaged)
    with caplog.at_level(logging.WARNING, "fastreid"):
        for position in range(3):
            for index in range(4):
                dataset[position, index]
    # A record comes twice where an earlier test of the process has set up the program's log.
    assert len(set(map(id, caplog.records))) == 2
    assert "00.png is not a readable image" in caplog.messages[0]
    assert caplog.messages[1].endswith("unreadable images so far: 2")


def test_identity_without_a_readable_image_is_an_error(tmp_path):
    data = draw_set(tmp_path / "set")
    for path in data.paths[:4]:
        Path(path).write_bytes(b"")
    with pytest.raises(UserError, match="no image of the identity of .*02.png can be read"):
        train_dataset(data)[0, 2]


def test_test_images_are_never_skipped(damaged):
    items = Items(damaged.paths, damaged.pids, damaged.camids)
    with pytest.raises(UserError, match="00.png is not a readable image"):
        list(build_test_loader(cfg_with(skip=True), items))
