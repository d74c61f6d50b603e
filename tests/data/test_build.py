"""From data set names to batches."""

import logging
import multiprocessing
import os
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from fastreid.config import get_cfg
from fastreid.data import build_test_loader, build_train_loaders, load_test_set, load_training_data
from fastreid.data.build import meta_names
from fastreid.utils.errors import UserError, run_command


def draw(folder, name, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / name)


def draw_set(folder, people, cameras, per_camera=2):
    """Every person in every camera."""
    for person in people:
        for camera in cameras:
            for number in range(per_camera):
                draw(folder, f"{person}_c{camera}_{number}.png", seed=[ord(person[0]), camera, number])


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Three sources: folder:x (4 people, cameras 1 and 7), folder:y (3 people, 0, 2 and 9), folder:z (3 people, 5)."""
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path))
    draw_set(tmp_path / "x" / "train", ["ann", "bob", "cid", "dan"], [1, 7])
    draw_set(tmp_path / "y" / "train", ["ann", "eve", "fay"], [0, 2, 9])
    draw_set(tmp_path / "z" / "train", ["gus", "hal", "ida"], [5], per_camera=5)
    return tmp_path


def config(*options):
    cfg = get_cfg()
    names = "('folder:x', 'folder:y', 'folder:z')"
    cfg.merge_from_list(["DATASETS.NAMES", names, "META.DATA.NAMES", names])
    cfg.merge_from_list(["SOLVER.IMS_PER_BATCH", "8", "DATALOADER.NUM_INSTANCE", "2", "DATALOADER.NUM_WORKERS", "0"])
    cfg.merge_from_list(
        ["META.DATA.MTRAIN_MINI_BATCH", "12", "META.DATA.MTRAIN_NUM_INSTANCE", "2", "MODEL.DEVICE", "cpu"]
    )
    cfg.merge_from_list(["INPUT.SIZE_TRAIN", "[16, 8]", "INPUT.SIZE_TEST", "[16, 8]", *options])
    return cfg


def take(loader, count=3):
    return list(islice(loader, count))


def error_of(*options):
    with pytest.raises(UserError) as caught:
        build_train_loaders(config(*options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_identities_are_numbered_over_all_sources_and_domains_are_the_sources(root):
    data = load_training_data(["folder:z", "folder:x", "folder:y"], camera_to_domain=False)
    who = {}
    for path, pid, domain in zip(data.paths, data.pids, data.domains):
        folder, name = path.split("/")[-3], path.split("/")[-1].split("_")[0]
        assert who.setdefault((folder, name), (pid, domain)) == (pid, domain)
    assert {folder: domain for (folder, _), (_, domain) in who.items()} == {"z": 0, "x": 1, "y": 2}
    assert sorted(pid for pid, _ in who.values()) == list(range(10))  # ann of x and ann of y are two people
    assert (data.num_classes, data.num_domains) == (10, 3)
    assert data.domain_sets == ["folder:z", "folder:x", "folder:y"]
    assert {array.dtype for array in (data.pids, data.camids, data.domains)} == {np.dtype(np.int64)}
    assert set(data.camids[data.domains == 1].tolist()) == {1, 7}


def test_cameras_with_gaps_in_their_numbers_become_dense_domains(root):
    data = load_training_data(["folder:x", "folder:y"], camera_to_domain=True)
    pairs = {(int(domain), data.domain_sets[domain], int(camera)) for domain, camera in zip(data.domains, data.camids)}
    assert pairs == {(0, "folder:x", 1), (1, "folder:x", 7), (2, "folder:y", 0), (3, "folder:y", 2), (4, "folder:y", 9)}
    assert (data.num_classes, data.num_domains) == (7, 5)


def test_a_subset_keeps_identities_and_numbers_domains_anew(root):
    data = load_training_data(["folder:x", "folder:y", "folder:z"], camera_to_domain=False)
    part = data.subset(("folder:z", "folder:x"))
    assert part.domain_sets == ["folder:x", "folder:z"]
    numbers = dict(zip(data.paths.tolist(), data.pids.tolist()))
    assert all(numbers[path] == pid for path, pid in zip(part.paths.tolist(), part.pids.tolist()))
    assert {path.split("/")[-3]: int(domain) for path, domain in zip(part.paths, part.domains)} == {"x": 0, "z": 1}


def test_sizes_are_found_in_the_data(root):
    loaders = build_train_loaders(config())
    # 4 people x 4 images, 3 x 6, 3 x 5 padded to 6: 52 images, less 52 mod 8 = 4, less one batch of 8: 5 batches.
    assert (loaders.num_classes, loaders.num_meta_domains, loaders.iters_per_epoch) == (10, 3, 5)
    balanced = build_train_loaders(config("DATALOADER.NAIVE_WAY", "False", "SOLVER.IMS_PER_BATCH", "6"))
    assert balanced.iters_per_epoch == 3 * (18 - 18 % 2 - 2) // 6
    dropped = build_train_loaders(config("DATALOADER.DELETE_REM", "True"))
    assert dropped.iters_per_epoch == (46 - 46 % 8 - 8) // 8
    inner = ("META.SOLVER.INIT.INNER_LOOP", "2")
    assert build_train_loaders(config(*inner)).iters_per_epoch == 40 // (8 * 2)
    assert build_train_loaders(config(*inner, "META.DATA.NAMES", "")).iters_per_epoch == 5
    cameras = build_train_loaders(config("DATALOADER.CAMERA_TO_DOMAIN", "True", "META.DATA.MTRAIN_MINI_BATCH", "24"))
    assert cameras.num_meta_domains == 6


@pytest.mark.parametrize(
    "inner_loop, problem", [("0", "must be at least 1 base step"), ("9", "or META.SOLVER.INIT.INNER_LOOP")]
)
def test_base_steps_that_make_no_epoch_are_refused(root, inner_loop, problem):
    with pytest.raises(UserError, match=problem):
        build_train_loaders(config("META.SOLVER.INIT.INNER_LOOP", inner_loop))


def test_base_and_meta_batches_have_the_documented_keys_types_and_ranges(root):
    loaders = build_train_loaders(config())
    for loader, size in ((loaders.base, 8), (loaders.meta, 12)):
        for batch in take(loader):
            assert list(batch) == ["images", "targets", "camids", "domains", "img_paths"]
            images = batch["images"]
            assert images.shape == (size, 3, 16, 8) and images.dtype == torch.float32
            assert images.min() >= 0 and 128 < images.max() <= 255
            for key in ("targets", "camids", "domains"):
                assert batch[key].shape == (size,) and batch[key].dtype == torch.int64
            assert set(batch["targets"].tolist()) <= set(range(10)) and set(batch["domains"].tolist()) <= {0, 1, 2}
            assert len(batch["img_paths"]) == size
            for path, domain, camera in zip(batch["img_paths"], batch["domains"].tolist(), batch["camids"].tolist()):
                assert path.startswith(f"{root}/{'xyz'[domain]}/train/") and f"_c{camera}_" in path


def test_a_meta_batch_has_the_same_share_of_each_domain_and_a_base_batch_need_not(root):
    loaders = build_train_loaders(config())
    assert all(batch["domains"].bincount().tolist() == [4, 4, 4] for batch in take(loaders.meta, 10))
    assert any(len(set(batch["domains"].bincount(minlength=3).tolist())) > 1 for batch in take(loaders.base, 10))
    for batch in take(loaders.base, 10):
        assert sorted(batch["targets"].unique(return_counts=True)[1].tolist()) == [2, 2, 2, 2]


def test_cameras_as_domains_divide_the_meta_batch(root):
    loaders = build_train_loaders(config("DATALOADER.CAMERA_TO_DOMAIN", "True", "META.DATA.MTRAIN_MINI_BATCH", "24"))
    for batch in take(loaders.meta):
        assert batch["domains"].bincount().tolist() == [4] * 6
        cameras = {(domain, camera) for domain, camera in zip(batch["domains"].tolist(), batch["camids"].tolist())}
        assert cameras == {(0, 1), (1, 7), (2, 0), (3, 2), (4, 9), (5, 5)}


def test_the_meta_loader_may_use_some_of_the_sources(root):
    loaders = build_train_loaders(
        config("META.DATA.NAMES", "('folder:z', 'folder:y')", "META.DATA.MTRAIN_MINI_BATCH", "8")
    )
    assert (loaders.num_meta_domains, loaders.num_classes) == (2, 10)
    for batch in take(loaders.meta):
        assert batch["domains"].bincount().tolist() == [4, 4]
        assert batch["targets"].min() >= 4  # numbers 0..3 are the people of x
        assert all(path.split("/")[-3] == "yz"[domain] for path, domain in zip(batch["img_paths"], batch["domains"]))


def test_without_meta_sources_there_is_no_meta_loader(root):
    loaders = build_train_loaders(config("META.DATA.NAMES", ""))
    assert loaders.meta is None and loaders.num_meta_domains == 0
    assert len(take(loaders.base)) == 3


def test_base_and_meta_are_independent_streams(root):
    alike = ["META.DATA.NAIVE_WAY", "True", "META.DATA.MTRAIN_MINI_BATCH", "8"]
    alone = [batch["img_paths"] for batch in take(build_train_loaders(config(*alike)).base, 6)]
    loaders = build_train_loaders(config(*alike))
    meta = iter(loaders.meta)
    together, other = [], []
    for batch in take(loaders.base, 6):
        together.append(batch["img_paths"])
        other.append(next(meta)["img_paths"])
    assert together == alone
    assert all(base != meta for base, meta in zip(together, other))


@pytest.mark.parametrize("workers", [0, 1])
def test_the_seed_decides_the_images(root, workers):
    def images(seed):
        torch.manual_seed(seed)  # as a command does; without workers the transforms draw from this generator
        loaders = build_train_loaders(config("DATALOADER.NUM_WORKERS", str(workers), "SEED", str(seed)))
        batches = take(loaders.base, 2) + take(loaders.meta, 2)
        return [batch["img_paths"] for batch in batches], torch.cat([batch["images"].flatten() for batch in batches])

    paths, pixels = images(5)
    again, same = images(5)
    assert paths == again and torch.equal(pixels, same)
    others, other = images(6)
    assert paths != others and not torch.equal(pixels, other)


@pytest.mark.parametrize("name", ["", "('folder:x', 'folder:x')"])
def test_source_names_that_are_missing_or_doubled_are_an_error(root, name):
    assert error_of("DATASETS.NAMES", name).startswith(
        "DATASETS.NAMES must name at least one data set, and each once; found ["
    )


def test_an_unknown_source_is_an_error(root):
    assert "DG_Market1501" in error_of("DATASETS.NAMES", "DG_Market151")


def test_a_missing_or_empty_source_is_an_error(root, monkeypatch):
    assert f"{root / 'w'} is missing" in error_of("DATASETS.NAMES", "folder:w")
    (root / "w" / "train").mkdir(parents=True)
    assert f"{root / 'w' / 'train'} has no images" in error_of("DATASETS.NAMES", "folder:w")
    monkeypatch.setenv("FASTREID_DATASETS", str(root / "nowhere"))
    assert f"the data root {root / 'nowhere'} is missing" in error_of()


def test_meta_sources_must_be_sources(root):
    message = error_of("META.DATA.NAMES", "('folder:x', 'folder:q')")
    assert message.startswith("META.DATA.NAMES must be out of DATASETS.NAMES ") and "; found folder:q. " in message


def test_dg_is_all_sources():
    assert meta_names(config("META.DATA.NAMES", "DG")) == ("folder:x", "folder:y", "folder:z")
    assert meta_names(config("META.DATA.NAMES", "folder:y")) == ("folder:y",)
    assert meta_names(config("META.DATA.NAMES", "")) == ()


def test_batches_that_do_not_fit_the_data_are_errors(root):
    assert "a multiple of 2 images an identity = 2; found 9 (SOLVER.IMS_PER_BATCH" in error_of(
        "SOLVER.IMS_PER_BATCH", "9"
    )
    assert "needs 11 identities" in error_of("SOLVER.IMS_PER_BATCH", "22")
    assert "3 domains x 2 images an identity = 6; found 16" in error_of("META.DATA.MTRAIN_MINI_BATCH", "16")
    assert "domain 1 has 3: lower" in error_of("META.DATA.MTRAIN_MINI_BATCH", "24")


def test_data_too_small_for_an_epoch_are_an_error(root):
    # 4 people with 4 images: 16, less 16 mod 12 = 4, less one batch of 12, are none.
    sizes = ["SOLVER.IMS_PER_BATCH", "12", "DATALOADER.NUM_INSTANCE", "4"]
    message = error_of("DATASETS.NAMES", "folder:x", "META.DATA.NAMES", "", *sizes)
    assert (
        message.startswith("16 training images make no epoch of 1 x 12 images an iteration ")
        and "lower SOLVER.IMS_PER_BATCH" in message
    )


def test_test_images_come_in_order_once_each(root):
    draw_set(root / "t" / "query", ["ann", "bob"], [1], per_camera=1)
    draw_set(root / "t" / "gallery", ["ann", "bob", "cid"], [2], per_camera=1)
    test = load_test_set("folder:t")
    batches = list(build_test_loader(config("TEST.IMS_PER_BATCH", "2"), test.items))
    assert [len(batch["img_paths"]) for batch in batches] == [2, 2, 1]
    assert [path for batch in batches for path in batch["img_paths"]] == test.items.paths.tolist()
    assert torch.cat([batch["targets"] for batch in batches]).tolist() == test.items.pids.tolist()
    assert torch.cat([batch["camids"] for batch in batches]).tolist() == test.items.camids.tolist()
    for batch in batches:
        assert batch["images"].shape[1:] == (3, 16, 8) and batch["images"].dtype == torch.float32


DAMAGE = {
    "text": lambda whole: b"this is no image",
    "nothing": lambda whole: b"",
    "cut": lambda whole: whole[: len(whole) // 2],
}


def damage_all(folder, how):
    for path in folder.iterdir():
        path.write_bytes(DAMAGE[how](path.read_bytes()))


@pytest.mark.parametrize("how, workers", [("text", "0"), ("nothing", "0"), ("cut", "0"), ("cut", "1")])
def test_a_damaged_training_image_is_named_in_one_line(root, capsys, how, workers):
    damage_all(root / "z" / "train", how)
    loader = build_train_loaders(config("DATALOADER.NUM_WORKERS", workers)).meta
    with pytest.raises(SystemExit) as exit_:
        run_command(lambda: take(loader, 1))
    assert exit_.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {root / 'z' / 'train'}/") and "is not a readable image" in line
    for worker in multiprocessing.active_children():
        worker.terminate()  # left to the garbage collector after an error, PyTorch waits 5 seconds


def test_a_damaged_test_image_is_named(root):
    draw_set(root / "t" / "query", ["ann"], [1])
    draw_set(root / "t" / "gallery", ["ann"], [2])
    damage_all(root / "t" / "gallery", "cut")
    loader = build_test_loader(config(), load_test_set("folder:t").items)
    with pytest.raises(UserError, match=r"t/gallery/ann_c2_0\.png is not a readable image"):
        list(loader)


def test_an_image_whose_damaged_header_claims_a_huge_size_is_named(root):
    draw_set(root / "t" / "query", ["ann"], [1])
    draw_set(root / "t" / "gallery", ["ann"], [2])
    path = root / "t" / "gallery" / "ann_c2_0.png"
    Image.open(path).save(path, "BMP")
    content = bytearray(path.read_bytes())
    content[18:22] = (30_000_000).to_bytes(4, "little")  # the width in a BMP header
    path.write_bytes(content)
    loader = build_test_loader(config(), load_test_set("folder:t").items)
    with pytest.raises(UserError, match="ann_c2_0.png"):
        list(loader)


def test_grey_palette_and_transparent_images_become_rgb(root):
    folder = root / "v" / "train"
    for person in ("ann", "bob", "cid", "dan"):
        for number, mode in enumerate(("L", "P", "RGBA", "RGB")):
            draw(folder, f"{person}_c1_{number}.png")
            path = folder / f"{person}_c1_{number}.png"
            Image.open(path).convert(mode).save(path)
    loaders = build_train_loaders(
        config("DATASETS.NAMES", "folder:v", "META.DATA.NAMES", "", "SOLVER.IMS_PER_BATCH", "4")
    )
    assert all(batch["images"].shape == (4, 3, 16, 8) for batch in take(loaders.base, 4))


def test_no_more_workers_than_cores(root):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    loaders = build_train_loaders(config("DATALOADER.NUM_WORKERS", "1000"))
    assert loaders.base.num_workers == loaders.meta.num_workers == cores


def test_what_was_read_is_logged(root, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("fastreid"), "propagate", True)
    caplog.set_level(logging.INFO, "fastreid")
    load_training_data(["folder:x", "folder:y"], camera_to_domain=False)
    assert "folder:y: 18 images, 3 identities, 3 cameras" in caplog.text
    assert "in all: 34 images, 7 identities, 2 domains" in caplog.text
