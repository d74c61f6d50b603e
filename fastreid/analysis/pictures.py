"""Pictures of ranked lists: a query and the images that were found, framed by right and wrong."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from fastreid.analysis.activation import overlay
from fastreid.data.decode import read_image
from fastreid.evaluation.ranked_lists import RankedQuery
from fastreid.utils.fonts import OWN, best_font, drawable
from fastreid.utils.text import printable

INK, PALE, PAPER = "#222222", "#6b6b6b", "#ffffff"
# Colour-blind readers tell this green and vermilion apart; the signs say it without colour.
FRAMES = {"query": "#0173b2", "right": "#029e73", "wrong": "#d55e00", "": "#b8b8b8"}
SIGNS = {"right": "\u2713", "wrong": "\u2717"}
WIDTH, HEIGHT, FRAME, GAP, MARGIN = 80, 160, 4, 8, 16
LINE, TITLE = 15, 24
WIDEST = 2000  # pixels of a title or heading; a path may have 4,096 letters


@dataclass(frozen=True)
class Tile:
    """One image with lines of text below; `frame` is query, right, wrong or nothing.

    Attributes:
        heat: where a model looks, (h, w) of 0..1, shown on a second copy below the image.
    """

    path: str
    lines: Sequence[str] = ()
    frame: str = ""
    heat: np.ndarray | None = None

    @property
    def height(self) -> int:
        """The frame's height in pixels."""
        return (HEIGHT if self.heat is None else 2 * HEIGHT) + 2 * FRAME


@dataclass(frozen=True)
class Row:
    """A title over a query and the tiles that were found, nearest first."""

    title: str
    query: Tile
    found: list[Tile] = field(default_factory=list)


@cache
def font(size: int, file: str = str(OWN)) -> ImageFont.FreeTypeFont:
    """Return a font; the one that comes with matplotlib has the signs."""
    return ImageFont.truetype(file, size)


def fitted(text: str, size: int, width: int = WIDEST) -> tuple[str, ImageFont.FreeTypeFont]:
    """Return as much of a text's end as fits into `width` pixels, on one line, and the font that has its letters."""
    file = best_font(text)
    face = font(size, file)
    return shorten(drawable(printable(text), [file]), width, face), face


def ranked_row(ranked: RankedQuery, heat: Mapping[str, np.ndarray] | None = None) -> Row:
    """Return the row of a query whose identity is known.

    Args:
        heat: the images' maps by path, as of `activation_maps`; those without one are shown alone.
    """
    heat = heat or {}
    measures = "no true match in the gallery"
    if ranked.ap is not None:
        measures = f"AP {100 * ranked.ap:.1f} %, first match at rank {ranked.first_match}"
    heading = f"{Path(ranked.path).name}   identity {ranked.pid}   {measures}"
    found = [
        Tile(
            item.path,
            (f"{rank}   {item.distance:.3f}", f"camera {item.camid}"),
            "right" if item.match else "wrong",
            heat.get(item.path),
        )
        for rank, item in enumerate(ranked.items, start=1)
    ]
    query = Tile(ranked.path, ("query", f"camera {ranked.camid}"), "query", heat.get(ranked.path))
    return Row(heading, query, found)


def draw_page(rows: Sequence[Row], heading: str = "") -> Image.Image:
    """Return one picture of rows of images below each other; UserError when an image cannot be read."""
    tiles = [tile for row in rows for tile in (row.query, *row.found)]
    lines = max((len(tile.lines) for tile in tiles), default=0)
    cell = WIDTH + 2 * FRAME + GAP
    row_height = TITLE + max((tile.height for tile in tiles), default=0) + lines * LINE + MARGIN
    top = MARGIN + (TITLE + GAP if heading else 0)
    # The query stands apart by the width of a margin.
    width = 2 * MARGIN + MARGIN + cell * (1 + max((len(row.found) for row in rows), default=0))
    heading, heading_font = fitted(heading, 16)
    titles = [fitted(row.title, 13) for row in rows]
    widest = max(face.getlength(text) for text, face in [(heading, heading_font), *titles])
    page = Image.new("RGB", (max(width, 2 * MARGIN + int(widest) + 1), top + row_height * len(rows)), PAPER)
    draw = ImageDraw.Draw(page)
    if heading:
        draw.text((MARGIN, MARGIN), heading, INK, heading_font)
    for number, row in enumerate(rows):
        y = top + number * row_height
        draw.text((MARGIN, y), titles[number][0], INK, titles[number][1])
        draw_tile(page, row.query, MARGIN, y + TITLE)
        for position, tile in enumerate(row.found):
            draw_tile(page, tile, 2 * MARGIN + cell * (1 + position), y + TITLE)
    return page


def draw_tile(page: Image.Image, tile: Tile, x: int, y: int) -> None:
    """Draw an image with its frame, sign and text, the frame's upper left corner at (x, y)."""
    draw = ImageDraw.Draw(page)
    box = (x, y, x + WIDTH + 2 * FRAME - 1, y + tile.height - 1)
    colour = FRAMES[tile.frame]
    draw.rectangle(box, fill="#eeeeee", outline=colour, width=FRAME)
    image = ImageOps.contain(read_image(tile.path), (WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    left, upper = x + FRAME + (WIDTH - image.width) // 2, y + FRAME + (HEIGHT - image.height) // 2
    page.paste(image, (left, upper))
    if tile.heat is not None:
        page.paste(overlay(image, tile.heat), (left, upper + HEIGHT))
    if tile.frame in SIGNS:
        draw.rectangle((box[2] - 21, y, box[2], y + 21), fill=colour)
        draw.text((box[2] - 10, y + 11), SIGNS[tile.frame], PAPER, font(16), anchor="mm")
    for number, line in enumerate(tile.lines):
        ink = INK if number == 0 else PALE
        line, face = fitted(line, 11, WIDTH + 2 * FRAME)
        draw.text((x, box[3] + 3 + number * LINE), line, ink, face)


def shorten(text: str, width: int, face: ImageFont.FreeTypeFont) -> str:
    """Return as much of a text's end as fits into `width` pixels: file names differ there."""
    if face.getlength(text) <= width:
        return text
    cut = bisect_left(range(len(text)), True, key=lambda start: face.getlength(f"\u2026{text[start:]}") <= width)
    return f"\u2026{text[cut:]}"
