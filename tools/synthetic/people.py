"""Synthetic pedestrians: an identity's lasting look, and one view of it in a pose.

The figure is a set of flat polygons (PIL only), drawn large and reduced afterwards by the camera, see
`scenes.py`. Nothing here knows of data sets, cameras or files.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import ImageDraw

Colour = tuple[int, int, int]

# (colour, weight): dark and grey clothes are common, so that many people share them.
UPPER_COLOURS = (
    ((28, 28, 32), 14), ((74, 76, 82), 8), ((148, 148, 152), 8), ((228, 228, 226), 12), ((30, 40, 84), 9),
    ((46, 92, 176), 7), ((132, 178, 222), 5), ((186, 34, 42), 8), ((106, 26, 42), 4), ((42, 122, 66), 5),
    ((98, 104, 58), 4), ((206, 186, 148), 5), ((112, 76, 48), 4), ((230, 194, 52), 4), ((222, 134, 160), 4),
    ((112, 62, 138), 4), ((222, 112, 40), 3), ((48, 150, 158), 3),
)  # fmt: skip
LOWER_COLOURS = (
    ((26, 26, 30), 20), ((34, 42, 72), 12), ((66, 90, 134), 14), ((136, 158, 188), 6), ((96, 96, 100), 9),
    ((192, 172, 132), 7), ((102, 78, 56), 4), ((220, 218, 212), 4), ((76, 84, 56), 3), ((150, 36, 46), 2),
)  # fmt: skip
BAG_COLOURS = (
    ((24, 24, 26), 10), ((52, 60, 100), 4), ((170, 34, 40), 4), ((124, 82, 48), 4), ((70, 110, 70), 2),
    ((216, 176, 60), 2), ((150, 150, 154), 3), ((206, 200, 188), 2),
)  # fmt: skip
SHOE_COLOURS = (((24, 22, 22), 9), ((226, 226, 224), 6), ((96, 66, 44), 4), ((150, 40, 44), 1), ((120, 122, 128), 3))
SKIN_COLOURS = (
    ((240, 204, 178), 5),
    ((226, 182, 148), 6),
    ((202, 152, 116), 4),
    ((150, 104, 74), 2),
    ((98, 66, 48), 2),
)
HAIR_COLOURS = (((22, 18, 18), 10), ((58, 40, 30), 6), ((110, 74, 44), 3), ((196, 162, 98), 2), ((160, 158, 156), 1))


def stream(seed: int, *key: str | int) -> np.random.Generator:
    """Random generator that depends on the seed and the key alone (not on what was random before)."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
    return np.random.default_rng([seed, *words])


Wardrobe = tuple[tuple[tuple[Colour, float], ...], ...]  # upper and lower colours with their weights
WARDROBE: Wardrobe = (UPPER_COLOURS, LOWER_COLOURS)
DULL = np.array((92, 90, 98))  # about the mean of all clothes


def wardrobe_of(rng: np.random.Generator, strength: float) -> Wardrobe:
    """Colours of clothes with other weights: each times the exponential of a normal number of deviation `strength`."""
    return tuple(
        tuple((colour, weight * float(np.exp(strength * rng.normal()))) for colour, weight in options)
        for options in WARDROBE
    )


def pick(rng: np.random.Generator, options: tuple) -> object:
    """One value of ((value, weight), ...), at random with the given weights."""
    rest = rng.random() * sum(weight for _, weight in options)
    for value, weight in options:
        rest -= weight
        if rest < 0:
            return value
    return options[-1][0]


def _dyed(rng: np.random.Generator, options: tuple, spread: float = 9.0, vividness: float = 1.0) -> Colour:
    """A palette colour, shifted a little so that two dark blue coats are not quite the same."""
    colour = np.array(pick(rng, options))
    if vividness != 1:
        colour = DULL + vividness * (colour - DULL)
    red, green, blue = np.clip(colour + rng.normal(0, spread, 3), 8, 246)
    return int(red), int(green), int(blue)


def _shade(colour: Colour, factor: float) -> Colour:
    return tuple(min(255, int(value * factor)) for value in colour)


@dataclass(frozen=True)
class Look:
    """What stays the same in every picture of one identity. Lengths are fractions of the body height."""

    width: float  # 1 is average build
    height: float  # 1 is average; scales the figure inside the box a little
    skin: Colour
    hair: Colour
    hair_style: str  # short, long, bun, bald
    upper: Colour
    upper_second: Colour
    pattern: str  # plain, stripes, columns, checks, logo, yoke, jacket
    period: float  # of stripes and checks
    logo_in_front: bool
    sleeve: str  # none, short, long
    hem: float  # level of the lower edge of the upper garment
    lower: Colour
    lower_kind: str  # trousers, shorts, skirt
    lower_end: float  # level where shorts and skirts end
    shoes: Colour
    bag: str  # none, backpack, shoulder, hand
    bag_side: int  # 1 right, -1 left
    bag_colour: Colour
    hat: str  # none, cap, beanie
    hat_colour: Colour


def make_look(rng: np.random.Generator, summer: float, wardrobe: Wardrobe = WARDROBE, vividness: float = 1.0) -> Look:
    """Draw a look; `summer` in 0..1 is how often clothes are short, `vividness` how far their colours are from grey."""
    uppers, lowers = wardrobe
    worn = {"vividness": vividness}
    warm = rng.random() < summer
    sleeve = pick(rng, (("none", 1), ("short", 6), ("long", 2))) if warm else pick(rng, (("short", 1), ("long", 9)))
    coat = not warm and rng.random() < 0.3
    kind = (
        pick(rng, (("trousers", 5), ("shorts", 4), ("skirt", 3)))
        if warm
        else pick(rng, (("trousers", 10), ("shorts", 1), ("skirt", 2)))
    )
    upper = _dyed(rng, uppers, **worn)
    second = _dyed(rng, UPPER_COLOURS, **worn)
    # A pattern nobody can see tells nobody apart.
    while sum(abs(a - b) for a, b in zip(upper, second)) < 140 * min(1, vividness):
        second = _dyed(rng, UPPER_COLOURS, **worn)
    patterns = (("plain", 9), ("stripes", 3), ("columns", 1), ("checks", 2), ("logo", 3), ("yoke", 2), ("jacket", 3))
    return Look(
        width=float(rng.uniform(0.86, 1.26)),
        height=float(rng.uniform(0.94, 1.03)),
        skin=_dyed(rng, SKIN_COLOURS, 5),
        hair=_dyed(rng, HAIR_COLOURS, 5),
        hair_style=pick(rng, (("short", 9), ("long", 6), ("bun", 2), ("bald", 1))),
        upper=upper,
        upper_second=second,
        pattern=pick(rng, patterns),
        period=float(rng.uniform(0.045, 0.085)),
        logo_in_front=bool(rng.random() < 0.7),
        sleeve=sleeve,
        hem=float(rng.uniform(0.6, 0.72)) if coat else float(rng.uniform(0.49, 0.55)),
        lower=_dyed(rng, lowers, **worn),
        lower_kind=kind,
        lower_end=float(rng.uniform(0.62, 0.76)),
        shoes=_dyed(rng, SHOE_COLOURS, **worn),
        bag=pick(rng, (("none", 8), ("backpack", 5), ("shoulder", 4), ("hand", 2))),
        bag_side=1 if rng.random() < 0.5 else -1,
        bag_colour=_dyed(rng, BAG_COLOURS, **worn),
        hat=pick(rng, (("none", 17), ("cap", 2), ("beanie", 0 if warm else 2))),
        hat_colour=_dyed(rng, uppers, **worn),
    )


@dataclass(frozen=True)
class Pose:
    """One view of a person. Angles in radians, lengths in pixels of the canvas."""

    centre: float  # x of the body's axis
    top: float  # y of the top of the head
    height: float
    yaw: float  # 0 faces the camera, pi/2 faces right, pi shows the back
    phase: float  # of the walking cycle
    stride: float  # 0 stands still, 1 walks fast
    tilt: float  # 0 seen from eye level, 1 from steeply above


class _Figure:
    """Draws one look in one pose; points are given as (to the person's right, forward, level below the head's top)."""

    def __init__(self, draw: ImageDraw.ImageDraw, look: Look, pose: Pose) -> None:
        self.draw, self.look, self.pose = draw, look, pose
        self.size = pose.height * look.height
        self.base = pose.top + pose.height * (1 - look.height)  # short people start lower, all stand on one floor
        self.cos, self.sin = math.cos(pose.yaw), math.sin(pose.yaw)
        self.breadth = math.hypot(self.cos, 0.66 * self.sin) * look.width
        self.swing = math.sin(pose.phase) * pose.stride

    def at(self, right: float, forward: float, level: float) -> tuple[float, float]:
        """Canvas position of a point of the body; from above, near points move down and legs get shorter."""
        near = self.cos * forward + self.sin * right
        level += self.pose.tilt * (0.2 * level * (1 - level) + 0.25 * near)
        return (self.pose.centre + self.size * (self.sin * forward - self.cos * right), self.base + self.size * level)

    def disc(self, centre: tuple[float, float], rx: float, ry: float, colour: Colour) -> None:
        x, y = centre
        rx, ry = rx * self.size, ry * self.size
        self.draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=colour)

    def limb(self, start: tuple, end: tuple, thick: float, thin: float, colour: Colour) -> None:
        """Tapered stick with round ends between two canvas positions."""
        (x0, y0), (x1, y1) = start, end
        length = math.hypot(x1 - x0, y1 - y0) or 1.0
        nx, ny = (y1 - y0) / length * self.size, (x0 - x1) / length * self.size
        self.draw.polygon(
            [
                (x0 + nx * thick, y0 + ny * thick),
                (x0 - nx * thick, y0 - ny * thick),
                (x1 - nx * thin, y1 - ny * thin),
                (x1 + nx * thin, y1 + ny * thin),
            ],
            fill=colour,
        )
        self.disc(start, thick, thick, colour)
        self.disc(end, thin, thin, colour)

    def leg(self, side: int) -> None:
        look, reach = self.look, 0.15 * self.swing * side
        shade = 0.8 if self.sin * side < -0.3 else 1.0
        lift = 0.035 * max(0.0, -reach / 0.15)
        hip = self.at(side * 0.048 * look.width, 0, 0.5)
        knee = self.at(side * 0.045 * look.width, reach * 0.65 + 0.02 * self.pose.stride, 0.73 - lift / 2)
        foot = self.at(side * 0.04 * look.width, reach - 0.3 * lift, 0.95 - lift)
        toe = self.at(side * 0.04 * look.width, reach + 0.05, 0.972 - lift)
        bare = look.lower_kind != "trousers"
        cloth, skin = _shade(look.lower, shade), _shade(look.skin, shade)
        wide = 0.052 * look.width
        self.limb(foot, toe, 0.026, 0.02, _shade(look.shoes, shade))
        self.limb(knee, foot, 0.034 * look.width**0.5, 0.023, skin if bare else cloth)
        self.limb(hip, knee, wide, 0.037 * look.width**0.5, skin if look.lower_kind == "skirt" else cloth)
        if look.lower_kind == "shorts":
            share = (look.lower_end - 0.5) / 0.23
            if share > 1:
                end = (knee[0] + (foot[0] - knee[0]) * (share - 1), knee[1] + (foot[1] - knee[1]) * (share - 1))
                self.limb(knee, end, 0.043, 0.04, cloth)
            elif share < 0.8:
                end = (hip[0] + (knee[0] - hip[0]) * share, hip[1] + (knee[1] - hip[1]) * share)
                self.limb(end, knee, 0.04, 0.036, skin)
                self.limb(hip, end, wide, 0.05, cloth)

    def arm(self, side: int) -> None:
        look, reach = self.look, -0.1 * self.swing * side
        shade = 0.78 if self.sin * side < -0.3 else 0.93
        upper, skin = _shade(look.upper, shade), _shade(look.skin, shade)
        shoulder = self.at(side * 0.106 * look.width, 0, 0.202)
        elbow = self.at(side * 0.135 * look.width, reach * 0.45, 0.345)
        hand = self.at(side * 0.13 * look.width, reach + 0.03, 0.475)
        self.limb(elbow, hand, 0.027, 0.02, upper if look.sleeve == "long" else skin)
        self.disc(hand, 0.021, 0.023, skin)
        self.limb(shoulder, elbow, 0.034, 0.028, skin if look.sleeve == "none" else upper)
        if look.bag == "hand" and side == look.bag_side:
            x, y = hand
            w, h = 0.055 * self.size * max(0.45, abs(self.sin)), 0.1 * self.size
            self.draw.rectangle((x - w, y + 0.02 * self.size, x + w, y + 0.02 * self.size + h), fill=look.bag_colour)

    def edges(self, level: float) -> tuple[float, float, float]:
        """Left x, right x and y of the torso at a level."""
        levels = (0.15, 0.172, 0.2, 0.3, 0.42, 0.52, 0.72)
        halves = (0.04, 0.086, 0.115, 0.11, 0.099, 0.107, 0.128)
        half = float(np.interp(level, levels, halves)) * self.breadth * self.size
        x, y = self.at(0, 0, level)
        return x - half, x + half, y

    def band(self, top: float, bottom: float, colour: Colour, left: float = 0.0, right: float = 1.0) -> None:
        """Part of the torso between two levels and two fractions of its width."""
        inner = [level for level in (0.172, 0.2, 0.3, 0.42, 0.52) if top < level < bottom]
        rows = [self.edges(level) for level in (top, *inner, bottom)]
        outline = [(a + (b - a) * left, y) for a, b, y in rows] + [(a + (b - a) * right, y) for a, b, y in rows[::-1]]
        self.draw.polygon(outline, fill=colour)

    def torso(self) -> None:
        look, cos, sin = self.look, self.cos, self.sin
        self.band(0.15, look.hem, look.upper)
        top = 0.2
        if look.pattern in ("stripes", "checks"):
            for level in np.arange(top, look.hem - look.period / 2, look.period):
                self.band(level, level + look.period * 0.42, look.upper_second)
        if look.pattern in ("columns", "checks"):
            count = max(3, round(0.22 * look.width / look.period))
            for k in range(count):
                left = (k + 0.3) / count
                self.band(0.172, look.hem, look.upper_second, left, left + 0.38 / count)
        if look.pattern == "yoke":
            self.band(0.15, 0.15 + 3.2 * look.period, look.upper_second)
        if look.pattern == "logo" and (cos if look.logo_in_front else -cos) > 0.15:
            middle = 0.5 + (0.25 * sin if look.logo_in_front else -0.25 * sin)
            half = 0.27 * abs(cos)
            self.band(0.23, 0.23 + 2 * look.period, look.upper_second, middle - half, middle + half)
        if look.pattern == "jacket" and cos > -0.1:
            middle, half = 0.5 + 0.4 * sin, 0.06 + 0.13 * max(cos, 0)
            self.band(0.155, look.hem, look.upper_second, max(0, middle - half), min(1, middle + half))
        if look.lower_kind != "trousers" or look.hem < 0.53:
            self.band(look.hem, look.hem + 0.012, _shade(look.lower, 0.7))

    def skirt(self) -> None:
        left, right, top = self.edges(0.46)
        low_left, low_right, low = self.edges(self.look.lower_end)
        flare = 0.025 * self.size + 0.02 * self.size * abs(self.swing * self.sin)
        self.draw.polygon(
            [(left, top), (right, top), (low_right + flare, low), (low_left - flare, low)], fill=self.look.lower
        )

    def head(self) -> None:
        look, cos, sin = self.look, self.cos, self.sin
        hair = look.skin if look.hair_style == "bald" else look.hair
        centre = self.at(0, 0.012, 0.075)
        if look.hair_style == "long" and cos > 0:
            self.disc(self.at(0, -0.02, 0.125), 0.062, 0.085, hair)
        self.limb(self.at(0, 0, 0.11), self.at(0, 0, 0.165), 0.028, 0.034, _shade(look.skin, 0.86))
        if look.hair_style == "bun":
            self.disc(self.at(0, -0.06, 0.05), 0.028, 0.03, hair)
        self.disc(centre, 0.05 + 0.006 * abs(sin), 0.068, hair)
        if cos > -0.35:
            x, y = centre
            face = (x + sin * 0.022 * self.size, y + 0.016 * self.size)
            self.disc(face, 0.04 - 0.012 * abs(sin), 0.05, look.skin)
            for side in (-1, 1):
                if cos > 0.3 or sin * side > 0:
                    aside = side * 0.017 * max(cos, 0.3) + sin * 0.012
                    eye = (face[0] + aside * self.size, face[1] - 0.008 * self.size)
                    self.disc(eye, 0.006, 0.004, (50, 36, 34))
        if look.hair_style == "long" and cos <= 0.25:
            self.disc(self.at(0, -0.025, 0.12), 0.054, 0.095, hair)
        if look.hat != "none":
            x, y = centre
            rx, ry = 0.057 * self.size, 0.075 * self.size
            self.draw.chord((x - rx, y - ry, x + rx, y + ry), 180, 360, fill=look.hat_colour)
            if look.hat == "cap":
                brim = (x + sin * 0.075 * self.size, y + max(cos, 0) * 0.012 * self.size)
                if cos > -0.5:
                    self.disc(brim, 0.035 + 0.02 * max(cos, 0), 0.011, _shade(look.hat_colour, 0.75))

    def carried(self) -> None:
        """Bags on the near side: what the view hides is not drawn."""
        look, cos, sin = self.look, self.cos, self.sin
        strap = max(2, round(0.016 * self.size))
        if look.bag == "backpack":
            if cos < 0.25:
                x, y = self.at(0, -0.07 if cos > -0.6 else -0.02, 0.3)
                half = (0.04 + 0.055 * max(0.0, -cos)) * self.size
                box = (x - half, y - 0.115 * self.size, x + half, y + 0.12 * self.size)
                self.draw.rounded_rectangle(box, radius=0.03 * self.size, fill=look.bag_colour)
                pocket = (x - half * 0.6, y + 0.03 * self.size, x + half * 0.6, y + 0.09 * self.size)
                self.draw.rectangle(pocket, fill=_shade(look.bag_colour, 0.7))
            else:
                for side in (-1, 1):
                    start, end = self.at(side * 0.06, 0.03, 0.165), self.at(side * 0.085, 0.03, 0.34)
                    self.draw.line((*start, *end), fill=look.bag_colour, width=strap)
        if look.bag == "shoulder":
            end = self.at(look.bag_side * 0.125 * look.width, 0, 0.5)
            start = self.at(-look.bag_side * 0.07, 0.03 if cos > 0 else -0.03, 0.175)
            self.draw.line((*start, *end), fill=_shade(look.bag_colour, 0.8), width=strap)
            if sin * look.bag_side > -0.35:
                half = 0.035 + 0.035 * abs(sin)
                box = (
                    end[0] - half * self.size,
                    end[1] - 0.05 * self.size,
                    end[0] + half * self.size,
                    end[1] + 0.065 * self.size,
                )
                self.draw.rounded_rectangle(box, radius=0.015 * self.size, fill=look.bag_colour)


def draw_person(draw: ImageDraw.ImageDraw, look: Look, pose: Pose) -> None:
    """Paint one person; far limbs first, so that near ones hide them."""
    figure = _Figure(draw, look, pose)
    near = 1 if figure.sin >= 0 else -1  # the side of the body that is turned to the camera
    sideways = abs(figure.sin) > 0.35
    figure.arm(-near)
    figure.leg(-near)
    figure.leg(near)
    if look.lower_kind == "skirt":
        figure.skirt()
    figure.torso()
    if not sideways:
        figure.arm(-near)
    figure.head()
    if look.bag != "backpack" or figure.cos < 0.25:
        figure.arm(near)
        figure.carried()
    else:
        figure.carried()
        figure.arm(near)
