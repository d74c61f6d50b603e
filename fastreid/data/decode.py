"""The one decoder: every image, from a file, a PIL image or an array, becomes upright 8-bit RGB here."""

from __future__ import annotations

import logging
import struct
import zlib

import numpy as np
import PIL
from PIL import Image, features

from fastreid.utils.errors import UserError

logger = logging.getLogger(__name__)

# To be raised when the same file gives other pixels: features and caches of the older decoder are then not used.
DECODER = 2

# What PIL raises for files that are missing, damaged or made to do harm.
DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
    NotImplementedError,
    MemoryError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
EXIF_ERRORS = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, struct.error)

ORIENTATION = 0x0112
# EXIF's orientation, 2 to 8, by what makes the image upright (CIPA DC-008, Exif 2.32, 4.6.4).
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The second picture of a JPEG of several (MPO) is a view or a preview of the first, not the next of an animation.
STILL = ("MPO",)
# Formats whose 16-bit gray some versions of Pillow hold as 32-bit integers.
GRAY_16_AS_32 = ("PNG", "PPM")
WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
BITS, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # of TIFF


def decoder_name() -> str:
    """Name this decoder and its libraries: by another name, the same file may give other pixels."""
    return f"{DECODER} PIL {PIL.__version__} jpeg {features.version('jpg')} {features.version_feature('libjpeg_turbo')}"


def read_image(path: str, upright: bool = True) -> Image.Image:
    """Return the image at `path` as upright RGB of 8 bits: see `to_rgb`.

    Args:
        upright: False keeps the pixels as they are stored, which positions in an annotation file may count.

    Raises:
        UserError: it cannot be read as an image, or is of no kind that can become RGB; the message names the file.
    """
    try:
        with Image.open(path) as image:
            return to_rgb(image, upright)
    except DECODER_ERRORS as error:
        raise UserError(f"{path} is not a readable image ({reason(error)}): replace or remove it") from error


def check_image(path: str) -> str | None:
    """Return why `read_image` would refuse a file; None if it would not.

    A JPEG is decoded to its end, which is where copies break off, but at an eighth of its size.
    """
    try:
        with Image.open(path) as image:
            image.draft("RGB", (1, 1))
            to_rgb(image)
    except DECODER_ERRORS as error:
        return reason(error).replace(repr(path), "it")
    return None


def to_rgb(image: Image.Image, upright: bool = True) -> Image.Image:
    """Return any PIL image as RGB of 8 bits, turned as its EXIF orientation says, transparent parts over white.

    Of 16 bits the upper 8 are taken. An image that is all this already keeps its pixels.

    Raises:
        ValueError, OSError, ...: one of DECODER_ERRORS: it is damaged, animated, or of a mode that has no colours of
            0..255, such as F, whose range nothing tells.
    """
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in STILL:
        raise ValueError(f"it holds {frames} pictures, such as an animation: save the one that is meant")
    image.load()
    # After loading: formats differ in whether they turn the image themselves, and some metadata stand at the end.
    turn = UPRIGHT.get(orientation(image)) if upright else None
    image = flatten(image)
    return image if turn is None else image.transpose(turn)


def flatten(image: Image.Image) -> Image.Image:
    """Return a loaded image as RGB of 8 bits, transparent parts over white."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in GRAY_16_AS_32):
        return from_gray_16(image)
    if image.mode in ("I", "F"):
        kind = "integers" if image.mode == "I" else "fractions"
        raise ValueError(
            f"its pixels are 32-bit {kind} (mode {image.mode}), whose white nothing tells: save it with 8 bits"
        )
    if not may_be_transparent(image):
        return image.convert("RGB")
    image = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
    flat = image.convert("RGB")
    alpha = image.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return flat
    return Image.composite(flat, Image.new("RGB", image.size, "white"), alpha)


def may_be_transparent(image: Image.Image) -> bool:
    """Tell whether an image has alpha values, in its pixels, its palette, or as one colour that is transparent."""
    palette = "" if image.palette is None else image.palette.mode
    return image.mode in WITH_ALPHA or palette.endswith("A") or "transparency" in image.info


def from_gray_16(image: Image.Image) -> Image.Image:
    """Return gray of 16 bits as RGB; the value that a PNG calls transparent becomes white."""
    wide, tags = np.asarray(image), getattr(image, "tag_v2", {})
    if wide.min() < 0 or wide.max() > 0xFFFF:
        raise ValueError(f"its gray values are {wide.min()}..{wide.max()}, not of 16 bits: save it with 8 bits")
    # Pillow gives 12 bits of a TIFF as they are, and leaves those of 16 bits negative that are stored as a negative.
    gray = (wide >> (4 if tags.get(BITS) == (12,) else 8)).astype(np.uint8)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        gray = 255 - gray
    if "transparency" in image.info:
        gray[wide == image.info["transparency"]] = 255
    return Image.fromarray(gray).convert("RGB")


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a loaded image; 1, upright, where there is none or it cannot be read."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except EXIF_ERRORS as error:
        # Viewers show such a picture as it is stored, and so it was decoded before orientations were looked at.
        logger.debug(f"EXIF data that cannot be read ({reason(error)}): the picture is taken as it is stored")
        return 1


def reason(error: Exception) -> str:
    """Return an error's text on one line, or its name if it has none."""
    return " ".join(str(error).split()) or type(error).__name__
