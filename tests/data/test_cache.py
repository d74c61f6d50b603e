"""The image cache: same pixels as without it, whatever happened to its files or to the sources."""

import logging
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import torch
from PIL import Image

from fastreid.config import get_cfg
from fastreid.data import cache as cache_module
from fastreid.data import decode
from fastreid.data.build import build_loader, build_sampler, build_test_loader, build_train_loaders, number_items
from fastreid.data.cache import CachedImages, ImageCache, open_cache
from fastreid.data.datasets.bases import Items
from fastreid.data.decode import read_image
from fastreid.data.transforms import build_resize
from fastreid.utils.errors import UserError

SIZE = (16, 8)


@pytest.fixture(autouse=True)
def no_cache_opened(monkeypatch):
    """Each test begins like a new process."""
    monkeypatch.setattr(cache_module, "_opened", {})


@pytest.fixture
def count_decoding(monkeypatch):
    """The paths of the images that were decoded in this process."""
    decoded = []
    monkeypatch.setattr(cache_module, "read_image", lambda path: decoded.append(path) or read_image(path))
    return decoded


def draw_images(folder, number=12, seed=0):
    """Write small images and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    paths = [folder / f"{i:03d}.png" for i in range(number)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (24, 12, 3), dtype=np.uint8)).save(path)
    return np.array([str(path) for path in paths])


def plain(paths):
    return np.stack([np.asarray(build_resize(SIZE)(read_image(str(path)))) for path in paths])


def all_pixels(cache):
    return np.stack([np.asarray(cache.image(i)) for i in range(len(cache))])


def reopen(folder, paths):
    """Open the cache's files as the next run does."""
    cache_module._opened.clear()
    return open_cache(str(folder), paths, SIZE)


@pytest.mark.parametrize("place", ["ram", "folder"])
def test_pixels_are_those_without_cache_and_are_decoded_once(tmp_path, count_decoding, place):
    paths = draw_images(tmp_path / "set")
    cache = open_cache(place if place == "ram" else str(tmp_path / "cache"), paths, SIZE)
    for _ in range(3):
        np.testing.assert_array_equal(all_pixels(cache), plain(paths))
    assert count_decoding == paths.tolist() and cache.stored == len(paths)


def test_next_run_decodes_nothing(tmp_path, count_decoding):
    paths = draw_images(tmp_path / "set")
    all_pixels(reopen(tmp_path / "cache", paths))
    count_decoding.clear()
    np.testing.assert_array_equal(all_pixels(reopen(tmp_path / "cache", paths)), plain(paths))
    assert count_decoding == []


def test_changed_source_is_decoded_again_also_during_a_run(tmp_path, count_decoding):
    paths = draw_images(tmp_path / "set")
    cache = reopen(tmp_path / "cache", paths)
    all_pixels(cache)
    count_decoding.clear()
    Image.new("RGB", (12, 24), (10, 200, 30)).save(paths[3])
    np.testing.assert_array_equal(all_pixels(cache), plain(paths))
    os.utime(paths[5], ns=(1, 1))  # another date alone is reason enough
    np.testing.assert_array_equal(all_pixels(reopen(tmp_path / "cache", paths)), plain(paths))
    assert count_decoding == [paths[3], paths[5]]


def test_removed_source_is_an_error_that_names_it(tmp_path):
    paths = draw_images(tmp_path / "set")
    cache = reopen(tmp_path / "cache", paths)
    all_pixels(cache)
    os.unlink(paths[2])
    with pytest.raises(UserError, match="002.png is not a readable image"):
        cache.image(2)


def test_corrupt_source_is_an_error_and_not_stored(tmp_path):
    paths = draw_images(tmp_path / "set")
    with open(paths[4], "wb") as file:
        file.write(b"no image")
    cache = reopen(tmp_path / "cache", paths)
    with pytest.raises(UserError, match="004.png is not a readable image"):
        cache.image(4)
    assert cache.stored == 0


def test_other_sets_and_sizes_have_files_of_their_own(tmp_path):
    first, second = draw_images(tmp_path / "one"), draw_images(tmp_path / "two", seed=1)
    for paths, size in ((first, SIZE), (second, SIZE), (first, (8, 8)), (first[:5], SIZE)):
        cache = open_cache(str(tmp_path / "cache"), paths, size)
        expected = np.stack([np.asarray(build_resize(size)(read_image(p))) for p in paths.tolist()])
        np.testing.assert_array_equal(all_pixels(cache), expected)
    assert len(list((tmp_path / "cache").glob("*.pixels"))) == 4


@pytest.mark.parametrize("harm", ["pixels lost", "pixels torn", "file cut", "seals lost", "file missing"])
def test_damaged_files_are_noticed(tmp_path, harm):
    paths = draw_images(tmp_path / "set")
    cache = reopen(tmp_path / "cache", paths)
    all_pixels(cache)
    [pixels], [seals] = (list((tmp_path / "cache").glob(f"*.{kind}")) for kind in ("pixels", "seals"))
    if harm == "pixels lost":  # what a power cut leaves when the seals were written to the disk first
        cache.pixels[:] = 0
    elif harm == "pixels torn":
        cache.pixels[:, SIZE[0] // 2 :] = cache.pixels[::-1, SIZE[0] // 2 :].copy()
    elif harm == "file cut":
        with open(pixels, "r+b") as file:
            file.truncate(1000)
    elif harm == "seals lost":
        cache.seals[::2] = 0
    else:
        pixels.unlink()
    np.testing.assert_array_equal(all_pixels(reopen(tmp_path / "cache", paths)), plain(paths))


def fill_for_ever(folder, paths, started):
    cache = open_cache(folder, paths, SIZE)
    started.set()
    while True:
        cache.seals[:] = 0
        all_pixels(cache)


def test_processes_killed_while_filling_leave_a_sound_cache(tmp_path):
    paths = draw_images(tmp_path / "set")
    context = multiprocessing.get_context("fork")
    for delay in (0.0, 0.003, 0.011):
        started = [context.Event() for _ in range(2)]
        fillers = [
            context.Process(target=fill_for_ever, args=(str(tmp_path / "cache"), paths, event)) for event in started
        ]
        for filler in fillers:
            filler.start()
        assert all(event.wait(20) for event in started)
        time.sleep(delay)
        for filler in fillers:
            os.kill(filler.pid, signal.SIGKILL)
            filler.join()
        np.testing.assert_array_equal(all_pixels(reopen(tmp_path / "cache", paths)), plain(paths))
    assert len(list((tmp_path / "cache").glob("*.pixels"))) == 1


def check_while_others_write(folder, paths, failures):
    cache = open_cache(folder, paths, SIZE)
    expected = plain(paths)
    for _ in range(20):
        cache.seals[np.random.default_rng(os.getpid()).integers(len(paths), size=4)] = 0
        if (all_pixels(cache) != expected).any():
            failures.value += 1


def test_processes_that_read_and_write_together_get_right_pixels(tmp_path):
    paths = draw_images(tmp_path / "set")
    context = multiprocessing.get_context("fork")
    failures = context.Value("i", 0)
    args = (str(tmp_path / "cache"), paths, failures)
    processes = [context.Process(target=check_while_others_write, args=args) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert failures.value == 0


def test_joined_caches_give_each_item_its_image(tmp_path):
    parts = [draw_images(tmp_path / name, number, seed=number) for name, number in (("a", 3), ("b", 5), ("c", 1))]
    images = CachedImages([open_cache("ram", paths, SIZE) for paths in parts])
    everything = np.concatenate(parts)
    np.testing.assert_array_equal(np.stack([np.asarray(images(i)) for i in range(9)]), plain(everything))


def test_memory_that_the_machine_lacks_is_an_error():
    with pytest.raises(UserError, match="DATALOADER.CACHE ram would fill"):
        cache_module.memory_maps((10**9, 256, 128, 3))


def test_cache_folder_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(UserError, match="DATALOADER.CACHE: cannot make"):
        open_cache(str(tmp_path / "cache"), draw_images(tmp_path / "set"), SIZE)


def test_full_disk_is_an_error_and_leaves_no_file(tmp_path, monkeypatch):
    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_space, raising=False)
    with pytest.raises(UserError, match="No space left on device"):
        open_cache(str(tmp_path / "cache"), draw_images(tmp_path / "set"), SIZE)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]


# ------------------------------------------------------------------------------------------------ through loaders


def small_cfg(place="", workers=0):
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.INPUT.SIZE_TRAIN = cfg.INPUT.SIZE_TEST = list(SIZE)
    cfg.INPUT.PADDING = 2
    cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.CACHE = workers, str(place)
    cfg.TEST.IMS_PER_BATCH = 5
    return cfg


def two_sets(tmp_path):
    """Two data sets of 4 people with 3 images each."""
    pids = np.repeat(np.arange(4), 3)
    parts = [Items(draw_images(tmp_path / name, seed=i), pids, np.zeros(12, int)) for i, name in enumerate("ab")]
    return number_items(["a", "b"], parts, camera_to_domain=False)


def train_images(cfg, data, number=8):
    batches = iter(build_loader(cfg, data, build_sampler(data, 8, 2, True, False, 5), 5))
    return torch.cat([next(batches)["images"] for _ in range(number)])


@pytest.mark.parametrize("place", ["ram", "folder"])
@pytest.mark.parametrize("workers", [0, 2])
def test_training_batches_are_those_without_cache(tmp_path, place, workers, count_decoding):
    data = two_sets(tmp_path)
    cfg = small_cfg("ram" if place == "ram" else tmp_path / "cache", workers)
    expected = train_images(small_cfg(), data)
    torch.testing.assert_close(train_images(cfg, data), expected, rtol=0, atol=0)
    count_decoding.clear()
    cfg.DATALOADER.NUM_WORKERS = 0  # what workers stored is found by this process
    torch.testing.assert_close(train_images(cfg, data), expected, rtol=0, atol=0)
    assert count_decoding == []
    meta = data.subset(["b"])  # the meta loader shares the sets' caches
    torch.testing.assert_close(train_images(cfg, meta), train_images(small_cfg(), meta), rtol=0, atol=0)
    assert count_decoding == []


@pytest.mark.parametrize("workers", [0, 2])
def test_test_batches_are_those_without_cache_and_later_evaluations_decode_nothing(tmp_path, workers, count_decoding):
    paths = draw_images(tmp_path / "set")
    items = Items(paths, np.arange(12), np.zeros(12, int))
    for _ in range(2):
        images = torch.cat([batch["images"] for batch in build_test_loader(small_cfg("ram", workers), items)])
        np.testing.assert_array_equal(images.permute(0, 2, 3, 1).numpy(), plain(paths))
    assert len(count_decoding) == (0 if workers else 12)
    assert open_cache("ram", paths, SIZE).stored == 12


def test_autoaugment_with_a_cache_is_refused():
    cfg = small_cfg("ram")
    cfg.INPUT.DO_AUTOAUG = True
    with pytest.raises(UserError, match="set DATALOADER.CACHE off or INPUT.DO_AUTOAUG False"):
        build_train_loaders(cfg)


def test_the_log_says_how_much_is_stored(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("fastreid"), "propagate", True)
    paths = draw_images(tmp_path / "set")
    with caplog.at_level(logging.INFO, "fastreid"):
        cache = reopen(tmp_path / "cache", paths)
        cache.image(0)
        reopen(tmp_path / "cache", paths)
    assert isinstance(cache, ImageCache)
    assert "0 of 12 images stored" in caplog.messages[0] and "1 of 12 images stored" in caplog.messages[1]


@pytest.mark.parametrize("plant", [os.symlink, os.link])
@pytest.mark.parametrize("suffix", [".lock", ".pixels", ".seals", ".pixels.tmp"])
def test_a_link_planted_in_a_shared_folder_is_not_written_through(tmp_path, plant, suffix):
    paths = draw_images(tmp_path / "set", number=2)
    size = {".pixels": 2 * SIZE[0] * SIZE[1] * 3, ".seals": 16}.get(suffix, 8)
    victim = tmp_path / "victim"
    victim.write_bytes(b"x" * size)
    folder = tmp_path / "cache"
    folder.mkdir()
    plant(victim, folder / (suffix if suffix == ".lock" else cache_module.cache_name(paths, SIZE) + suffix))
    if suffix == ".pixels.tmp":  # an earlier name of what is being made
        all_pixels(reopen(folder, paths))
    else:
        with pytest.raises(UserError, match="is a link"):
            reopen(folder, paths)
    assert victim.read_bytes() == b"x" * size


def test_pixels_of_another_decoder_are_decoded_again(tmp_path, count_decoding, monkeypatch):
    paths = draw_images(tmp_path / "set")
    all_pixels(reopen(tmp_path / "cache", paths))
    count_decoding.clear()
    monkeypatch.setattr(cache_module, "DECODER_SALT", bytes(16))
    np.testing.assert_array_equal(all_pixels(reopen(tmp_path / "cache", paths)), plain(paths))
    assert count_decoding == paths.tolist()


@pytest.mark.parametrize("name", ["DECODER", "PIL.__version__"])
def test_the_cache_knows_its_decoder_and_its_libraries(name, monkeypatch):
    before = decode.decoder_name()
    monkeypatch.setattr(f"fastreid.data.decode.{name}", "another")
    assert decode.decoder_name() != before


def test_a_cached_photo_is_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 24, 3), dtype=np.uint8))
    image.save(tmp_path / "a.png", exif=exif)
    cache = open_cache("ram", np.array([str(tmp_path / "a.png")]), (24, 12))
    expected = image.transpose(Image.Transpose.ROTATE_270)
    np.testing.assert_array_equal(np.asarray(cache.image(0)), np.asarray(expected))
