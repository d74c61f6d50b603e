"""Decoded and resized images, kept in memory or in memory-mapped files (`DATALOADER.CACHE`).

A data set at one size has N slots of H x W x 3 bytes and, in a map of its own, a 64-bit seal for each slot. The seal is
a digest of the source file's path, size and modification time, combined with the checksum of the slot's pixels, and is
written after them. A slot therefore counts only if its source is as it was and its pixels are whole, whatever happened
in between: a process killed while writing, two processes that write at the same time, or a power cut.

Files in the cache folder: `<data set>-<H>x<W>-<digest of the image paths>.pixels` and `.seals`, raw, in the order of
the items.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import mmap
import os
import uuid
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
from PIL import Image

from fastreid.data.decode import decoder_name, read_image
from fastreid.data.transforms import build_resize
from fastreid.utils.errors import UserError
from fastreid.utils.files import open_own

logger = logging.getLogger(__name__)

RAM = "ram"
# Part of every seal: another decoder may give other pixels for the same file.
DECODER_SALT = hashlib.blake2b(decoder_name().encode(), digest_size=16).digest()

# Caches of this process, so that the base loader, the meta loader and every evaluation share them.
_opened: dict[tuple[str, str], ImageCache] = {}


class ImageCache:
    """The images of one data set, resized to one size; those that are not stored yet are decoded and stored.

    Loader workers must be forked, so that the maps stay shared.

    Args:
        paths: (N,) unicode.
        size: height, width.
        pixels: (N, H, W, 3) uint8 map.
        seals: (N,) uint64 map, 0 = empty.
    """

    def __init__(self, paths: np.ndarray, size: Sequence[int], pixels: np.ndarray, seals: np.ndarray):
        self.paths, self.pixels, self.seals = paths, pixels, seals
        self.resize = build_resize(size)
        self.folder = os.getcwd()  # what relative paths are relative to

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def stored(self) -> int:
        """Slots that have been written."""
        return int(np.count_nonzero(self.seals))

    def image(self, index: int) -> Image.Image:
        """Return image `index`, RGB, resized.

        Raises:
            UserError: it cannot be read; the message names the file.
        """
        path = str(self.paths[index])
        source = self.source_digest(path)
        if self.seals[index]:
            pixels = self.pixels[index].copy()  # sealed bytes must not change between the check and their use
            if int(self.seals[index]) == source ^ zlib.crc32(pixels):
                return Image.fromarray(pixels)
        image = self.resize(read_image(path))
        pixels = np.asarray(image)
        self.pixels[index] = pixels
        self.seals[index] = source ^ zlib.crc32(np.ascontiguousarray(pixels))
        return image

    def source_digest(self, path: str) -> int:
        """Return 64 bits that change with the path, size or modification time of an image file.

        Raises:
            UserError: there is no such file.
        """
        try:
            status = os.stat(path)
        except OSError as error:
            raise UserError(f"{path} is not a readable image ({error.strerror}): replace or remove it") from error
        text = f"{os.path.join(self.folder, path)}\0{status.st_size}\0{status.st_mtime_ns}"
        return int.from_bytes(hashlib.blake2b(os.fsencode(text), digest_size=8, salt=DECODER_SALT).digest(), "little")


class CachedImages:
    """Images by item index, out of the caches of several data sets whose items follow each other."""

    def __init__(self, caches: Sequence[ImageCache]):
        self.caches = list(caches)
        self.starts = [0, *accumulate(len(cache) for cache in self.caches)]

    def __call__(self, index: int) -> Image.Image:
        number = bisect_right(self.starts, index) - 1
        return self.caches[number].image(index - self.starts[number])


def open_cache(place: str, paths: np.ndarray, size: Sequence[int]) -> ImageCache:
    """Return the cache of the images `paths` of one data set, made if there is none yet.

    Args:
        place: "ram", or a folder for the files.
        paths: (N,) unicode.
        size: height, width.

    Raises:
        UserError: there is not enough memory or disk space, or the folder cannot be written to.
    """
    name = cache_name(paths, size)
    key = place if place == RAM else str(Path(place).expanduser().resolve()), name
    if key not in _opened:
        shape = (len(paths), *size, 3)
        pixels, seals = memory_maps(shape) if place == RAM else file_maps(Path(key[0]), name, shape)
        cache = _opened[key] = ImageCache(paths, size, pixels, seals)
        where = f"{name} in memory" if place == RAM else Path(key[0]) / f"{name}.pixels"
        logger.info(
            f"image cache {where}: {cache.stored:,} of {len(cache):,} images stored, "
            f"{megabytes(pixels.nbytes)} when full"
        )
    return _opened[key]


def cache_name(paths: np.ndarray, size: Sequence[int]) -> str:
    """Return a name for the images `paths` at a size: their folder's name, for people, and a digest of all paths."""
    first, last = (os.path.join(os.getcwd(), str(path)) for path in (paths[0], paths[-1]))
    folder = Path(os.path.commonpath([os.path.dirname(first), os.path.dirname(last)]))
    digest = hashlib.blake2b(os.fsencode("\n".join([first, *paths.tolist()])), digest_size=6).hexdigest()
    return f"{folder.parent.name}-{folder.name}-{size[0]}x{size[1]}-{digest}"


def memory_maps(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return empty pixels and seals in memory that this process will share with those it forks.

    Raises:
        UserError: the machine has less memory than all caches would fill.
    """
    size = int(np.prod(shape))
    total = size + sum(cache.pixels.nbytes for (place, _), cache in _opened.items() if place == RAM)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if total > 0.9 * memory:
        raise UserError(
            f"DATALOADER.CACHE ram would fill {megabytes(total)} of this machine's {megabytes(memory)} of "
            "memory: name a folder instead, or lower INPUT.SIZE_TRAIN and INPUT.SIZE_TEST"
        )
    # Not torch's shared memory, which is a file in /dev/shm: containers limit that to 64 MB.
    pixels, seals = (np.frombuffer(mmap.mmap(-1, count), np.uint8) for count in (size, 8 * shape[0]))
    return pixels.reshape(shape), seals.view(np.uint64)


def file_maps(folder: Path, name: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels and seals as maps of the files of a cache, which are made if they are not there.

    Raises:
        UserError: the folder cannot be written to, or its disk is too full.
    """
    wanted = {folder / f"{name}.pixels": (np.uint8, shape), folder / f"{name}.seals": (np.uint64, shape[:1])}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with os.fdopen(open_own(folder / ".lock", os.O_RDWR | os.O_CREAT)) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # processes that start together make one file, not one each
            for path, (kind, dimensions) in wanted.items():
                reserve_file(path, int(np.prod(dimensions)) * np.dtype(kind).itemsize)
            pixels, seals = (map_file(path, kind, dimensions) for path, (kind, dimensions) in wanted.items())
    except OSError as error:
        raise UserError(
            f"DATALOADER.CACHE: cannot make {megabytes(int(np.prod(shape)))} of image cache "
            f"{folder / name} ({error.strerror or error}): name another folder, ram or off"
        ) from error
    return pixels, seals


def map_file(path: Path, kind: type, shape: tuple[int, ...]) -> np.memmap:
    """Return a file of a cache as an array.

    Raises:
        UserError: it is a link to another file.
    """
    with os.fdopen(open_own(path, os.O_RDWR), "r+b") as file:
        return np.memmap(file, kind, "r+", shape=shape)


def reserve_file(path: Path, size: int) -> None:
    """Make a file of `size` zero bytes, unless there is one of that size; it has its name once it is complete."""
    if path.is_symlink() or path.is_file() and path.stat().st_size == size:
        return
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:  # not a file or a link that is there
            # A sparse file would do, but a disk that runs full later kills the process that writes to its map.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def megabytes(size: int) -> str:
    """Return a number of bytes as text."""
    return f"{size / 1e6:,.1f} MB"
