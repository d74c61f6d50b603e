"""Pictures of ranked lists: a query and the images that were found, framed by right and wrong."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont, ImageOps

from fastreid.data.common import read_image
from fastreid.evaluation.ranked_lists import RankedQuery

INK, PALE, PAPER = "#222222", "#6b6b6b", "#ffffff"
# Colour-blind readers tell this green and vermilion apart; the signs say it without colour.
FRAMES = {"query": "#0173b2", "right": "#029e73", "wrong": "#d55e00", "": "#b8b8b8"}
SIGNS = {"right": "\u2713", "wrong": "\u2717"}
WIDTH, HEIGHT, FRAME, GAP, MARGIN = 80, 160, 4, 8, 16
LINE, TITLE = 15, 24


@dataclass(frozen=True)
class Tile:
    """One image with lines of text below; `frame` is query, right, wrong or nothing."""

    path: str
    lines: Sequence[str] = ()
    frame: str = ""


@dataclass(frozen=True)
class Row:
    """A title over a query and the tiles that were found, nearest first."""

    title: str
    query: Tile
    found: list[Tile] = field(default_factory=list)


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font that comes with matplotlib, which has the signs."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def ranked_row(ranked: RankedQuery) -> Row:
    """Return the row of a query whose identity is known."""
    measures = "no true match in the gallery"
    if ranked.ap is not None:
        measures = f"AP {100 * ranked.ap:.1f} %, first match at rank {ranked.first_match}"
    heading = f"{Path(ranked.path).name}   identity {ranked.pid}   {measures}"
    found = [
        Tile(item.path, (f"{rank}   {item.distance:.3f}", f"camera {item.camid}"), "right" if item.match else "wrong")
        for rank, item in enumerate(ranked.items, start=1)
    ]
    return Row(heading, Tile(ranked.path, ("query", f"camera {ranked.camid}"), "query"), found)


def draw_page(rows: Sequence[Row], heading: str = "") -> Image.Image:
    """Return one picture of rows of images below each other; UserError when an image cannot be read."""
    lines = max((len(tile.lines) for row in rows for tile in (row.query, *row.found)), default=0)
    cell = WIDTH + 2 * FRAME + GAP
    row_height = TITLE + HEIGHT + 2 * FRAME + lines * LINE + MARGIN
    top = MARGIN + (TITLE + GAP if heading else 0)
    # The query stands apart by the width of a margin.
    width = 2 * MARGIN + MARGIN + cell * (1 + max((len(row.found) for row in rows), default=0))
    widest = max([font(16).getlength(heading), *(font(13).getlength(row.title) for row in rows)])
    page = Image.new("RGB", (max(width, 2 * MARGIN + int(widest) + 1), top + row_height * len(rows)), PAPER)
    draw = ImageDraw.Draw(page)
    if heading:
        draw.text((MARGIN, MARGIN), heading, INK, font(16))
    for number, row in enumerate(rows):
        y = top + number * row_height
        draw.text((MARGIN, y), row.title, INK, font(13))
        draw_tile(page, row.query, MARGIN, y + TITLE)
        for position, tile in enumerate(row.found):
            draw_tile(page, tile, 2 * MARGIN + cell * (1 + position), y + TITLE)
    return page


def draw_tile(page: Image.Image, tile: Tile, x: int, y: int) -> None:
    """Draw an image with its frame, sign and text, the frame's upper left corner at (x, y)."""
    draw = ImageDraw.Draw(page)
    box = (x, y, x + WIDTH + 2 * FRAME - 1, y + HEIGHT + 2 * FRAME - 1)
    colour = FRAMES[tile.frame]
    draw.rectangle(box, fill="#eeeeee", outline=colour, width=FRAME)
    image = ImageOps.contain(read_image(tile.path), (WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    left, upper = x + FRAME + (WIDTH - image.width) // 2, y + FRAME + (HEIGHT - image.height) // 2
    page.paste(image, (left, upper))
    if tile.frame in SIGNS:
        draw.rectangle((box[2] - 21, y, box[2], y + 21), fill=colour)
        draw.text((box[2] - 10, y + 11), SIGNS[tile.frame], PAPER, font(16), anchor="mm")
    for number, line in enumerate(tile.lines):
        ink = INK if number == 0 else PALE
        draw.text((x, box[3] + 3 + number * LINE), shorten(line, WIDTH + 2 * FRAME, font(11)), ink, font(11))


def shorten(text: str, width: int, face: ImageFont.FreeTypeFont) -> str:
    """Return as much of a text's end as fits into `width` pixels: file names differ there."""
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(f"\u2026{text}") > width:
        text = text[1:]
    return f"\u2026{text}"
