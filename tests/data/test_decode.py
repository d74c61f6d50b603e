"""The one decoder: upright RGB of 8 bits out of everything that Pillow reads, or a refusal that names the mode."""

import hashlib
import io
import random
import struct

import numpy as np
import pytest
from PIL import Image

from fastreid.data.decode import DECODER, DECODER_ERRORS, ORIENTATION, UPRIGHT, check_image, read_image, to_rgb
from fastreid.utils.errors import UserError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 4, 3), dtype=np.uint8)
GRAY = PIXELS[:, :, 0]


def decode(image, suffix, folder, **options):
    """What the decoder makes of a file of the image, (H, W, 3)."""
    image.save(folder / f"image{suffix}", **options)
    found = read_image(str(folder / f"image{suffix}"))
    assert found.mode == "RGB"
    return np.asarray(found)


def stored_sideways(orientation):
    """PIXELS as a camera with an EXIF orientation stores them, and that EXIF data."""
    back = {
        Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270,
        Image.Transpose.ROTATE_270: Image.Transpose.ROTATE_90,
    }
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    turn = UPRIGHT.get(orientation)
    image = Image.fromarray(PIXELS)
    return (image if turn is None else image.transpose(back.get(turn, turn))), exif


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".jpg"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_a_photo_is_upright_whatever_its_orientation_and_format(suffix, orientation, tmp_path):
    image, exif = stored_sideways(orientation)
    options = {".webp": {"lossless": True}, ".jpg": {"quality": 100, "subsampling": 0}}.get(suffix, {})
    found = decode(image, suffix, tmp_path, exif=exif, **options)
    assert np.abs(found.astype(int) - PIXELS).max() <= (0 if suffix != ".jpg" else 12)


def test_pixels_that_an_annotation_counts_stay_as_they_are_stored(tmp_path):
    image, exif = stored_sideways(6)
    image.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(read_image(str(tmp_path / "a.png"), upright=False)), np.asarray(image))


def test_exif_data_that_cannot_be_read_leave_the_picture_as_it_is_stored(tmp_path):
    for number, exif in enumerate([b"Exif\0\0nonsense", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0"]):
        found = decode(Image.fromarray(PIXELS), ".png", tmp_path, exif=exif)
        np.testing.assert_array_equal(found, PIXELS, err_msg=str(number))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "CMYK"])
def test_ordinary_images_keep_the_pixels_that_pillow_gives(mode, suffix, tmp_path):
    image = Image.fromarray(PIXELS).convert(mode)
    try:
        image.save(tmp_path / f"a{suffix}")
    except OSError:
        pytest.skip(f"no {suffix} of {mode}")
    with Image.open(tmp_path / f"a{suffix}") as plain:
        np.testing.assert_array_equal(
            np.asarray(read_image(str(tmp_path / f"a{suffix}"))), np.asarray(plain.convert("RGB"))
        )


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm", ".jp2"])
@pytest.mark.parametrize("low", [0, 255])
def test_gray_of_16_bits_is_what_it_is_with_8(suffix, low, tmp_path):
    image = Image.fromarray(GRAY.astype(np.uint16) * 256 + low)
    np.testing.assert_array_equal(decode(image, suffix, tmp_path), np.repeat(GRAY[:, :, None], 3, axis=2))


def tiff(bits, photometric, data):
    """A little-endian TIFF of one strip of gray pixels, 4 x 6."""
    tags = {256: 4, 257: 6, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 6, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"


def test_tiffs_of_12_bits_and_of_negatives_are_neither_dark_nor_inverted(tmp_path):
    twelve = GRAY.astype(int) * 16
    packed = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in twelve.reshape(-1, 2).tolist())
    (tmp_path / "12.tif").write_bytes(tiff(12, 1, packed))
    (tmp_path / "negative.tif").write_bytes(tiff(16, 0, (0xFFFF - GRAY.astype("<u2") * 256).tobytes()))
    for name in ("12.tif", "negative.tif"):
        np.testing.assert_array_equal(np.asarray(read_image(str(tmp_path / name)))[:, :, 0], GRAY, err_msg=name)


ALPHA = np.array([[0, 128, 255, 255]] * 6, np.uint8)


@pytest.mark.parametrize("suffix, mode", [(".png", "RGBA"), (".png", "LA"), (".webp", "RGBA"), (".tif", "RGBA")])
def test_transparent_parts_are_white_and_opaque_ones_as_they_are(suffix, mode, tmp_path):
    image = Image.fromarray(PIXELS).convert("L" if mode == "LA" else "RGB")
    expected = np.asarray(image.convert("RGB")).astype(int)
    image.putalpha(Image.fromarray(ALPHA))
    found = decode(image, suffix, tmp_path, **({"lossless": True, "exact": True} if suffix == ".webp" else {}))
    assert (found[:, 0] == 255).all()
    np.testing.assert_array_equal(found[:, 2:], expected[:, 2:])
    np.testing.assert_allclose(found[:, 1], (expected[:, 1] + 255) / 2, atol=1.5)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "I;16"])
def test_one_transparent_colour_is_white(mode, tmp_path):
    colours = {"RGB": (10, 20, 30), "L": 10, "P": 3, "1": 0, "I;16": 2560}
    image = Image.new(mode, (4, 6), colours[mode])
    if mode == "P":
        image.putpalette([9, 9, 9] * 8)
    found = decode(image, ".png", tmp_path, transparency=colours[mode] if mode != "1" else 0)
    assert (found == 255).all()


def test_palettes_with_alpha_and_premultiplied_pixels_are_flattened():
    palette = Image.new("P", (1, 1), 1)
    palette.putpalette([0, 0, 0, 255, 10, 20, 30, 0], "RGBA")
    assert to_rgb(palette).getpixel((0, 0)) == (255, 255, 255)
    for mode in ("RGBa", "La"):
        clear = Image.new("RGBA" if mode == "RGBa" else "LA", (1, 1), (0,) * (4 if mode == "RGBa" else 2)).convert(mode)
        assert to_rgb(clear).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif"])
def test_animations_and_files_of_several_pages_are_refused(suffix, tmp_path):
    path = tmp_path / f"two{suffix}"
    first, second = Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)
    first.save(path, save_all=True, append_images=[second])
    with pytest.raises(UserError, match=rf"two{suffix} is not a readable image .it holds 2 pictures"):
        read_image(str(path))
    assert "2 pictures" in check_image(str(path))
    first.save(path)
    assert check_image(str(path)) is None


def test_a_jpeg_with_a_second_view_is_its_first_one(tmp_path):
    first = Image.new("RGB", (16, 16), "red")
    first.save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (16, 16), "blue")])
    assert read_image(str(tmp_path / "phone.jpg")).getpixel((8, 8))[0] > 200


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_white_are_refused_by_their_mode(mode, tmp_path):
    Image.new(mode, (4, 6)).save(tmp_path / "depth.tif")
    with pytest.raises(UserError, match=rf"depth.tif .*mode {mode}\).*: save it with 8 bits"):
        read_image(str(tmp_path / "depth.tif"))


def test_a_damaged_file_of_any_format_is_refused_or_read_but_never_a_traceback():
    draw = random.Random(0)
    for suffix in ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "PPM", "JPEG2000"):
        buffer = io.BytesIO()
        Image.fromarray(PIXELS).save(
            buffer, suffix, **({"exif": stored_sideways(6)[1]} if suffix in ("PNG", "JPEG") else {})
        )
        for _ in range(40):
            data = bytearray(buffer.getvalue()[: draw.randrange(1, len(buffer.getvalue()) + 1)])
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            try:
                with Image.open(io.BytesIO(data)) as image:
                    if image.width * image.height < 10**6:
                        assert to_rgb(image).mode == "RGB"
            except DECODER_ERRORS:
                continue


def test_whoever_changes_what_the_decoder_gives_raises_its_number():
    """Features and cached pixels of another decoder would else be taken for those of this one."""
    probes = [Image.fromarray(PIXELS), Image.fromarray(GRAY), Image.fromarray(GRAY.astype(np.uint16) * 257)]
    probes += [Image.fromarray(np.dstack([PIXELS, ALPHA])), stored_sideways(5)[0]]
    probes[-1].getexif()[ORIENTATION] = 5
    digest = hashlib.sha256(b"".join(to_rgb(image).tobytes() for image in probes)).hexdigest()[:16]
    assert {DECODER: digest} == {2: "e2d457e2350510b3"}
