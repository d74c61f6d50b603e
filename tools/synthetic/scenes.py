"""Domains and cameras of the synthetic data sets: places, light, lens, sensor, and how people are cropped.

A domain (data set) has a style; each of its cameras varies that style. Test sets (`spread` above 1) have cameras that
differ more and styles further from grey noon light than the training sets, so that the domain gap is real.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from fastreid.utils.files import atomic_path
from tools.synthetic.people import Look, Pose, draw_person, make_look, stream, wardrobe_of

OVERSAMPLING = 2  # people and places are drawn this many times larger than the image


@dataclass(frozen=True)
class Style:
    """Centre of a domain's cameras."""

    places: tuple[str, ...]
    tint: tuple[float, float, float]  # gain of red, green, blue
    saturation: float = 1.0
    contrast: float = 1.0
    exposure: float = 1.0
    gamma: float = 1.0
    haze: float = 0.0  # lifts black, 0..1
    blur: float = 0.3  # Gaussian radius, pixels of a 64 wide image
    noise: float = 3.0  # grey levels
    resolution: float = 1.0  # of the sensor, as a part of the image's size
    quality: int = 85  # JPEG
    tilt: float = 0.3  # 0 eye level, 1 steeply from above
    summer: float = 0.5
    occlusion: float = 0.15
    looseness: float = 1.0  # of the crop
    turn: float = 0.45  # radians, spread of walking directions in one camera
    spread: float = 1.0  # of the cameras around this style


STYLES = {
    "market1501": Style(("plaza", "grass", "street"), (1.04, 1.0, 0.94), 0.95, 1.0, 0.93, summer=0.9, occlusion=0.15),
    "dukemtmc": Style(("road", "grass", "road"), (0.95, 1.0, 1.05), 0.8, 1.0, 0.92, summer=0.05, tilt=0.4, noise=2.0),
    "cuhk02": Style(("corridor", "grass", "plaza"), (0.94, 0.98, 1.1), 0.9, 1.1, tilt=0.2, noise=5.0, blur=0.5),
    "cuhk03": Style(("corridor", "plaza"), (1.0, 0.95, 1.03), 1.0, 1.25, 0.9, tilt=0.35, noise=4.0, quality=70),
    "cuhk_sysu": Style(("street", "hall", "grass", "road", "street"), (1.03, 1.0, 0.97), 1.0, 1.05, 0.95, tilt=0.1,
                       summer=0.6, blur=0.2, noise=2.0, quality=90, looseness=0.8, spread=1.3),
    "msmt17": Style(("plaza", "road", "corridor", "street", "grass"), (1.0, 1.0, 1.0), 0.95, 1.0, summer=0.3,
                    spread=1.4),
    "grid": Style(("station",), (0.9, 1.1, 0.82), 0.7, 0.85, 0.8, 1.1, 0.08, 0.6, 5.0, 0.65, 60, 0.8, 0.2, 0.25, 1.2,
                  spread=1.5),
    "prid": Style(("crossing", "road"), (0.9, 1.0, 1.16), 0.6, 0.72, 1.1, 0.9, 0.2, 0.5, 2.0, 0.75, 80, 0.9, 0.2, 0.05,
                  1.0, spread=1.7),
    "ilids": Style(("hall",), (1.22, 1.0, 0.68), 0.75, 0.92, 0.9, 0.9, 0.08, 0.9, 4.0, 0.7, 45, 0.6, 0.15, 0.6, 1.5,
                   spread=1.6),
    "viper": Style(("grass", "road", "plaza"), (1.1, 1.02, 0.84), 1.25, 1.3, 0.88, 1.1, 0.0, 0.2, 2.0, 0.8, 75, 0.25,
                   0.75, 0.1, 0.9, spread=2.0),
}  # fmt: skip


SOURCES = ("market1501", "dukemtmc", "cuhk02", "cuhk03", "cuhk_sysu")
PLACES = tuple(dict.fromkeys(place for style in STYLES.values() for place in style.places))
WIDE = (
    "wide:"  # before a domain's name: its style is random within all that a camera may be, not from the sources' styles
)


@dataclass(frozen=True)
class Gap:
    """What sets of a style of their own differ in, and how much.

    The first seven are how far a wide style is from the middle of the sources': 0 not at all, 1 as far as `WIDEST` is,
    more is farther. The last three are of all such sets. With the defaults, linear probes find about as much of domains
    and people in the styles of such sets as in those of real crops: see configs/README.md.
    """

    colour: float = 0.2  # tint, saturation, contrast, exposure, gamma, haze, and how unlike the cameras are
    resolution: float = 0.5  # of the sensor, and blur
    compression: float = 0.5  # JPEG, and noise
    viewpoint: float = 3.0  # height of the camera, tightness of the crop
    occlusion: float = 4.0  # how often there are things and other people in the way: 0 never
    background: float = 1.0  # the share of places that may be such as no source has, at most 1
    season: float = 1.0  # how often clothes are short, 1: anything from never to always
    wardrobe: float = 3.0  # how differently people of two sets choose the colours of clothes
    vividness: float = 0.3  # how much of a person is colour: how far the colours of clothes are from one grey
    light: float = 2.0  # how much the light, and so the colours, differ from one picture of a camera to another


GAP = Gap()
WIDEST = Gap(*[1.0] * 7, wardrobe=0.0, vividness=1.0, light=1.0)  # the range of before there were parts to choose


def narrowed(wide: Style, gap: Gap, rng: np.random.Generator) -> Style:
    """A wide style moved towards, or away from, the middle of the sources' styles; itself for `WIDEST`."""
    middle = Style((), (1.0, 1.0, 1.0), 0.93, 1.0, 0.95)

    def move(value: float, centre: float, share: float, low: float, high: float) -> float:
        return min(high, max(low, share * value + (1 - share) * centre))

    def moved(names: str, share: float, low: float, high: float) -> dict[str, float]:
        return {name: move(getattr(wide, name), getattr(middle, name), share, low, high) for name in names.split()}

    own = dict.fromkeys(place for name in SOURCES for place in STYLES[name].places)
    usual = [list(own)[k] for k in rng.permutation(len(own))[: len(wide.places)]]
    return replace(
        wide,
        tint=tuple(float(t**gap.colour) for t in wide.tint),
        **moved("saturation contrast exposure gamma", gap.colour, 0.2, 2.0),
        **moved("haze", gap.colour, 0, 0.5),
        spread=move(wide.spread, 1.0, gap.colour, 0, 4),
        **moved("resolution", gap.resolution, 0.15, 1),
        **moved("blur", gap.resolution, 0, 3),
        quality=round(move(wide.quality, 85, gap.compression, 8, 95)),
        **moved("noise", gap.compression, 0, 20),
        **moved("tilt", gap.viewpoint, 0, 1),
        **moved("looseness", gap.viewpoint, 0.2, 3),
        **moved("summer", gap.season, 0, 1),
        occlusion=min(0.6, gap.occlusion * wide.occlusion),
        places=tuple(far if rng.random() < gap.background else near for far, near in zip(wide.places, usual)),
    )


def wide_style(rng: np.random.Generator) -> Style:
    """A style that no source needs to resemble: about what the four named targets span."""
    return Style(
        places=tuple(PLACES[k] for k in rng.permutation(len(PLACES))[:3]),
        tint=tuple(float(t) for t in np.exp(rng.normal(0, 0.13, 3))),
        saturation=float(rng.uniform(0.45, 1.4)),
        contrast=float(rng.uniform(0.65, 1.35)),
        exposure=float(np.exp(rng.normal(0, 0.12))),
        gamma=float(np.exp(rng.normal(0, 0.12))),
        haze=float(rng.uniform(0, 0.22)),
        blur=float(rng.uniform(0.2, 0.9)),
        noise=float(rng.uniform(2, 6)),
        resolution=float(rng.uniform(0.6, 1)),
        quality=int(rng.integers(45, 90)),
        tilt=float(rng.uniform(0, 0.9)),
        summer=float(rng.uniform()),
        occlusion=float(rng.uniform(0.15, 0.25)),
        looseness=float(rng.uniform(0.8, 1.4)),
        spread=1.7,
    )


def style_of(seed: int, domain: str, gap: Gap = GAP) -> Style:
    """A named domain's style, or a random one for any other name; the seed moves it a bit.

    It is random among the training domains' styles, or from a wider range for a name that begins with `WIDE`.
    """
    rng = stream(seed, "style", domain)
    if domain.startswith(WIDE):
        return narrowed(wide_style(rng), gap, rng)
    style = STYLES.get(domain)
    if style is None:
        named = [STYLES[name] for name in SOURCES]
        parts = [named[k] for k in rng.permutation(len(named))[:3]]
        style = replace(
            parts[0],
            tint=parts[1].tint,
            saturation=parts[1].saturation,
            contrast=parts[2].contrast,
            summer=parts[2].summer,
            tilt=float(rng.uniform(0.1, 0.5)),
        )
    tint = tuple(float(t) for t in np.array(style.tint) * np.exp(rng.normal(0, 0.015, 3)))
    return replace(style, tint=tint, exposure=style.exposure * float(np.exp(rng.normal(0, 0.02))))


# ------------------------------------------------------------------------------------------------ places


def _grey(rng: np.random.Generator, low: int, high: int, colourful: float = 6.0) -> tuple[int, int, int]:
    return tuple(int(v) for v in np.clip(rng.uniform(low, high) + rng.normal(0, colourful, 3), 0, 255))


def _tiles(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, w: int, horizon: float, h: int, line: tuple, step: float
) -> None:
    """Floor joints in perspective: rows get wider downwards, columns lean away from the middle."""
    y, gap = horizon, step * h * 0.25
    while y < h:
        draw.line((0, y, w, y), fill=line, width=1)
        y, gap = y + gap, gap * 1.35
    lean = rng.uniform(-0.6, 0.6) * h
    for x in np.arange(-h, w + h, step * h):
        draw.line((x, horizon, x + lean, h), fill=line, width=1)


def _boxes(
    draw: ImageDraw.ImageDraw,
    rng: np.random.Generator,
    w: int,
    top: float,
    bottom: float,
    widths: tuple,
    colour: tuple[int, int, float],
    gap: float = 0.0,
) -> None:
    """A row of upright panels (windows, doors, shop fronts, posters)."""
    x = 0.0
    while x < w:
        width = rng.uniform(*widths)
        shade = _grey(rng, *colour)
        draw.rectangle((x, top, x + width, bottom), fill=shade)
        if rng.random() < 0.5:
            inner = _grey(rng, *colour)
            draw.rectangle(
                (
                    x + width * 0.15,
                    top + (bottom - top) * 0.12,
                    x + width * 0.85,
                    top + (bottom - top) * rng.uniform(0.4, 0.8),
                ),
                fill=inner,
            )
        x += width + gap * rng.uniform(0.5, 1.5)


def draw_place(kind: str, rng: np.random.Generator, width: int, height: int, tilt: float) -> Image.Image:
    """Panorama behind the people of one camera, (width, height) pixels; a steeper camera sees more floor."""
    horizon = height * (0.55 - 0.5 * tilt + float(rng.uniform(-0.05, 0.05)))
    image = Image.new("RGB", (width, height), _grey(rng, 120, 185))
    draw = ImageDraw.Draw(image)
    floor, wall, dark = _grey(rng, 105, 180), _grey(rng, 110, 200, 12), _grey(rng, 35, 80)
    up = max(horizon, 4.0)
    draw.rectangle((0, horizon, width, height), fill=floor)
    joint = tuple(int(v * 0.82) for v in floor)
    if kind in ("street", "plaza"):
        draw.rectangle((0, 0, width, up), fill=wall)
        span = (height * 0.25, height * 0.7) if kind == "street" else (height * 0.6, height * 1.4)
        _boxes(
            draw,
            rng,
            width,
            up * 0.05,
            up,
            span,
            (60, 200, 24) if kind == "street" else (100, 190, 10),
            0 if kind == "street" else height * 0.2,
        )
        _tiles(draw, rng, width, up, height, joint, 0.22 if kind == "plaza" else 0.4)
    elif kind == "grass":
        green = (int(rng.uniform(70, 110)), int(rng.uniform(115, 150)), int(rng.uniform(45, 75)))
        draw.rectangle((0, 0, width, up), fill=tuple(int(v * 0.6) for v in green))
        for _ in range(26):
            x, y, r = rng.uniform(0, width), rng.uniform(-0.1, 0.9) * up, rng.uniform(0.05, 0.2) * height
            leaf = rng.uniform(0.45, 1.15)
            draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple(int(v * leaf) for v in green))
        draw.rectangle((0, up * 0.97, width, up + height * rng.uniform(0.08, 0.3)), fill=green)
    elif kind in ("road", "crossing"):
        asphalt = _grey(rng, 80, 125, 4)
        draw.rectangle((0, 0, width, up), fill=wall)
        _boxes(draw, rng, width, up * 0.3, up, (height * 0.3, height * 0.6), (45, 190, 22), height * 0.6)
        draw.rectangle((0, horizon, width, height), fill=asphalt)
        edge = horizon + height * rng.uniform(0.05, 0.2)
        draw.rectangle((0, edge, width, edge + height * 0.03), fill=_grey(rng, 160, 205, 3))
        if kind == "crossing":
            lean = height * rng.uniform(-0.5, 0.5)
            for x in np.arange(-height, width + height, height * 0.32):
                draw.polygon(
                    [
                        (x, height * 0.3),
                        (x + height * 0.13, height * 0.3),
                        (x + lean + height * 0.17, height),
                        (x + lean, height),
                    ],
                    fill=_grey(rng, 185, 215, 3),
                )
    elif kind == "corridor":
        draw.rectangle((0, 0, width, up), fill=wall)
        _boxes(draw, rng, width, up * 0.1, up, (height * 0.15, height * 0.4), (70, 200, 16), height * 0.35)
        draw.rectangle((0, up * 0.94, width, up), fill=dark)
        _tiles(draw, rng, width, up, height, joint, 0.3)
        for x in np.arange(0, width, height * 0.8):  # lamps mirrored in the floor
            draw.ellipse(
                (x, height * 0.75, x + height * 0.25, height * 0.9), fill=tuple(min(255, int(v * 1.12)) for v in floor)
            )
    elif kind == "hall":
        draw.rectangle((0, 0, width, up), fill=_grey(rng, 150, 205, 8))
        _boxes(draw, rng, width, 0, up * 0.6, (height * 0.2, height * 0.5), (130, 240, 25), height * 0.3)
        for x in np.arange(rng.uniform(0, height), width, height * 1.1):
            draw.rectangle((x, 0, x + height * 0.1, up * 1.1), fill=dark)
        _tiles(draw, rng, width, up, height, joint, 0.5)
    elif kind == "station":
        draw.rectangle((0, 0, width, up), fill=_grey(rng, 50, 95, 5))
        _boxes(draw, rng, width, up * 0.1, up * 0.9, (height * 0.3, height * 0.6), (60, 200, 40), height * 0.4)
        _tiles(draw, rng, width, up, height, joint, 0.18)
        edge = height * rng.uniform(0.55, 0.9)
        slope, thick = height * 0.1, height * 0.04
        draw.polygon(
            [(0, edge), (width, edge + slope), (width, edge + slope + thick), (0, edge + thick)], fill=(206, 186, 70)
        )
    grain = rng.normal(0, 7, (height // 2, width // 2))
    grain = Image.fromarray(np.clip(grain + 128, 0, 255).astype(np.uint8)).resize((width, height))
    image = ImageChops.add(image, Image.merge("RGB", [grain] * 3), 1, -128)
    return image.filter(ImageFilter.GaussianBlur(height / 220))


# ------------------------------------------------------------------------------------------------ cameras


@dataclass(frozen=True)
class Camera:
    """One camera of one domain, ready to take pictures of `size` = (height, width) pixels."""

    style: Style  # this camera's own values
    place: Image.Image
    shading: Image.Image  # (2 width, 2 height), light and shadow over the scene, 192 = unchanged
    matrix: tuple[float, ...]  # 3x4 colour response
    curve: list[int]  # 3 x 256, after the matrix
    yaws: tuple[float, ...]  # where people walk to
    light: float  # 1 from the left, -1 from the right
    size: tuple[int, int]


@lru_cache(maxsize=96)
def make_camera(seed: int, domain: str, number: int, size: tuple[int, int], gap: Gap = GAP) -> Camera:
    """Camera `number` of a domain for images of `size` = (height, width)."""
    base, rng = style_of(seed, domain, gap), stream(seed, "camera", domain, number)
    s, (h, w) = base.spread, size
    style = replace(
        base,
        saturation=max(0.35, base.saturation + 0.08 * s * rng.normal()),
        contrast=max(0.55, base.contrast + 0.07 * s * rng.normal()),
        exposure=base.exposure * float(np.exp(rng.normal(0, 0.07 * s))),
        gamma=base.gamma * float(np.exp(rng.normal(0, 0.06 * s))),
        blur=base.blur * float(rng.uniform(0.6, 1.5)),
        noise=base.noise * float(rng.uniform(0.6, 1.4)),
        tilt=float(np.clip(base.tilt + 0.08 * s * rng.normal(), 0, 1)),
    )
    tint = np.array(base.tint) * np.exp(rng.normal(0, 0.035 * s, 3))
    luma = np.array([[0.299, 0.587, 0.114]]).repeat(3, 0)
    mix = style.saturation * np.eye(3) + (1 - style.saturation) * luma + rng.normal(0, 0.02 * s, (3, 3))
    mix = mix * tint[:, None] * style.exposure
    matrix = tuple(float(v) for v in np.hstack([mix, np.zeros((3, 1))]).ravel())
    level = np.linspace(0, 1, 256) ** style.gamma
    level = np.clip(0.45 + (level - 0.45) * style.contrast, 0, 1)
    curve = np.round(255 * (style.haze * 0.75 + (1 - style.haze) * level)).astype(int).tolist() * 3
    kind = base.places[number % len(base.places)]
    place = draw_place(kind, rng, int(w * 5 * OVERSAMPLING), int(h * 1.15 * OVERSAMPLING), style.tilt)
    light = float(rng.uniform(-1, 1))
    coarse = rng.normal(0, 9, (9, 5)) + 192 + 26 * light * np.linspace(1, -1, 5) + 10 * np.linspace(1, -1, 9)[:, None]
    shading = Image.fromarray(np.clip(coarse, 90, 255).astype(np.uint8))
    shading = shading.resize((w * 2, h * 2), Image.Resampling.BICUBIC)
    course = float(rng.uniform(0, 2 * math.pi))
    yaws = (course, course + math.pi) if rng.random() < 0.6 else (course, course + math.pi / 2)
    return Camera(style, place, Image.merge("RGB", [shading] * 3), matrix, curve, yaws, light, size)


@lru_cache(maxsize=8)
def _folds(width: int, height: int) -> Image.Image:
    """Soft creases of cloth, the same for everybody; pictures use random parts of it."""
    rng = stream(0, "folds")
    coarse, fine = rng.normal(0, 13, (24, 16)), rng.normal(0, 11, (60, 22))
    parts = [
        Image.fromarray(np.clip(part + 116, 0, 255).astype(np.uint8)).resize(
            (2 * width, 2 * height), Image.Resampling.BICUBIC
        )
        for part in (coarse, fine)
    ]
    return ImageChops.add(*parts)


def _paint(image: Image.Image, look: Look, pose: Pose, light: float, rng: np.random.Generator) -> None:
    """Draw a person, rounded by the light from the side and creased, onto an RGB image of the canvas' size."""
    w, h = image.size
    layer = Image.new("RGBA", (w, h))
    draw_person(ImageDraw.Draw(layer), look, pose)
    aside = (np.arange(w) - pose.centre) / (0.15 * pose.height)
    row = np.clip(248 - 62 * aside**2 - 44 * light * aside, 120, 255).astype(np.uint8)
    folds, x, y = _folds(w, h), int(rng.integers(w + 1)), int(rng.integers(h + 1))
    shade = ImageChops.multiply(Image.fromarray(row[None]).resize((w, h)), folds.crop((x, y, x + w, y + h)))
    image.paste(ImageChops.multiply(layer.convert("RGB"), Image.merge("RGB", [shade] * 3)), mask=layer.getchannel("A"))


@lru_cache(maxsize=4096)
def look_of(seed: int, domain: str, identity: int, gap: Gap = GAP) -> Look:
    """The lasting look of an identity; domains never share one."""
    rng, summer = stream(seed, "identity", domain, identity), style_of(seed, domain, gap).summer
    if domain in STYLES:  # whose people are what they always were
        return make_look(rng, summer)
    return make_look(rng, summer, wardrobe_of(stream(seed, "wardrobe", domain), gap.wardrobe), gap.vividness)


def _occlude(draw: ImageDraw.ImageDraw, rng: np.random.Generator, w: int, h: int) -> None:
    """Something between camera and person: a pole, a low wall or car, luggage, leaves."""
    kind, side, colour = int(rng.integers(4)), float(rng.integers(2)), _grey(rng, 40, 190, 25)
    if kind == 0:
        x, half = rng.uniform(0.1, 0.9) * w, rng.uniform(0.03, 0.07) * w
        draw.rectangle((x - half, 0, x + half, h), fill=colour)
    elif kind == 1:
        draw.rounded_rectangle((-0.2 * w, rng.uniform(0.7, 0.86) * h, 1.2 * w, 1.2 * h), 0.08 * h, fill=colour)
    elif kind == 2:
        x, y = side * w, rng.uniform(0.62, 0.75) * h
        draw.rounded_rectangle((x - 0.35 * w, y, x + 0.35 * w, h * 0.97), 0.03 * h, fill=colour)
    else:
        for _ in range(9):
            x, y, r = w * abs(side - rng.uniform(0, 0.3)), rng.uniform(0.4, 1.0) * h, rng.uniform(0.03, 0.07) * h
            draw.ellipse((x - r, y - r, x + r, y + r), fill=(40 + int(rng.integers(40)), 90, 45))


def take_picture(
    seed: int,
    domain: str,
    identity: int,
    camera: Camera,
    rng: np.random.Generator,
    looseness: float = 1.0,
    gap: Gap = GAP,
) -> Image.Image:
    """Draw one crop of an identity, `camera.size` (height, width) pixels, RGB; rng decides pose, crop and clutter."""
    style, (h, w) = camera.style, camera.size
    ch, cw, loose = h * OVERSAMPLING, w * OVERSAMPLING, style.looseness * looseness
    left, down = int(rng.integers(camera.place.width - cw)), int(rng.integers(camera.place.height - ch + 1))
    image = camera.place.crop((left, down, left + cw, down + ch))
    draw = ImageDraw.Draw(image, "RGB")
    tall = ch * float(np.clip(0.9 + 0.035 * loose * rng.normal(), 0.7, 1.25))
    centre, bottom = cw * (0.5 + 0.045 * loose * rng.normal()), ch * (0.965 + 0.018 * loose * rng.normal())
    pose = Pose(
        centre,
        bottom - tall,
        tall,
        float(camera.yaws[int(rng.integers(2))] + style.turn * rng.normal()),
        float(rng.uniform(0, 2 * math.pi)),
        float(rng.uniform(0.35, 1.0)),
        style.tilt,
    )
    if rng.random() < style.occlusion:  # somebody else, further away
        other = look_of(seed, domain, 1_000_000 + int(rng.integers(40)), gap)
        aside = cw * (0.5 + (2 * int(rng.integers(2)) - 1) * float(rng.uniform(0.3, 0.5)))
        size = tall * float(rng.uniform(0.6, 0.85))
        floor = bottom - tall * (0.06 + 0.25 * style.tilt * rng.random())
        far = replace(pose, centre=aside, top=floor - size, height=size, yaw=float(rng.uniform(0, 2 * math.pi)))
        _paint(image, other, far, camera.light, rng)
    shadow = 0.16 * tall
    x, y = centre + 0.6 * camera.light * shadow, pose.top + 0.965 * tall
    under = tuple(int(v * 0.62) for v in image.getpixel((int(np.clip(x, 0, cw - 1)), int(np.clip(y, 0, ch - 1)))))
    draw.ellipse((x - shadow, y - shadow * 0.22, x + shadow, y + shadow * 0.22), fill=under)
    _paint(image, look_of(seed, domain, identity, gap), pose, camera.light, rng)
    if rng.random() < style.occlusion * 0.6:
        _occlude(draw, rng, cw, ch)
    image = image.reduce(OVERSAMPLING)
    sx, sy = int(rng.integers(w + 1)), int(rng.integers(h + 1))
    image = ImageChops.multiply(image, camera.shading.crop((sx, sy, sx + w, sy + h)))
    light = gap.light if domain not in STYLES else 1.0
    gain = 1.33 * float(np.exp(rng.normal(0, 0.05 * light)))
    matrix = np.reshape(camera.matrix, (3, 4)) * gain
    if light != 1:  # sun and shade differ in colour, too
        matrix *= np.exp(rng.normal(0, 0.02 * light, (3, 1)))
    image = image.convert("RGB", tuple(float(v) for v in matrix.ravel())).point(camera.curve)
    if style.resolution < 1:
        image = image.resize(
            (max(8, int(w * style.resolution)), max(16, int(h * style.resolution))), Image.Resampling.BILINEAR
        ).resize((w, h), Image.Resampling.BICUBIC)
    image = image.filter(ImageFilter.GaussianBlur(style.blur * w / 64))
    noise = rng.standard_normal((h, w, 3), dtype=np.float32) * np.float32(style.noise)
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


@dataclass(frozen=True)
class Shot:
    """One image to make: where it goes, who is on it, which camera takes it, and the number of the take."""

    path: str  # relative to the data root
    domain: str
    identity: int
    camera: int
    take: int
    looseness: float = 1.0


def save_shot(root: Path, shot: Shot, seed: int, size: tuple[int, int], gap: Gap = GAP) -> None:
    """Draw a shot and write it as its suffix says (JPEG, PNG, BMP); the file appears only when complete."""
    camera = make_camera(seed, shot.domain, shot.camera, size, gap)
    rng = stream(seed, "shot", shot.domain, shot.identity, shot.camera, shot.take)
    image = take_picture(seed, shot.domain, shot.identity, camera, rng, shot.looseness, gap)
    coded = io.BytesIO()
    image.save(coded, "JPEG", quality=camera.style.quality, subsampling=2)
    target = root / shot.path
    with atomic_path(target) as part:
        if target.suffix in (".jpg", ".jpeg"):
            part.write_bytes(coded.getvalue())
        elif target.suffix == ".png":  # the camera compressed before the publisher saved without loss
            Image.open(coded).save(part, "PNG", compress_level=3)
        else:
            Image.open(coded).save(part, "BMP")
