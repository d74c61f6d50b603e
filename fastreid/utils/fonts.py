"""Fonts for any name: matplotlib's own has no Chinese, Japanese, Korean, Thai or Devanagari letters."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib import font_manager

from fastreid.utils.text import escape, printable

OWN = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
# Families of Linux distributions, macOS and Windows with letters that the font above lacks.
FALLBACKS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans SC", "Noto Sans JP", "Noto Sans KR"),
    *(
        "Source Han Sans SC",
        "WenQuanYi Zen Hei",
        "WenQuanYi Micro Hei",
        "Droid Sans Fallback",
        "IPAGothic",
        "NanumGothic",
    ),
    *("PingFang SC", "Heiti SC", "Hiragino Sans", "Apple SD Gothic Neo", "Thonburi", "Arial Unicode MS"),
    *("Microsoft YaHei", "SimHei", "Yu Gothic", "Malgun Gothic", "Leelawadee UI", "Nirmala UI"),
    *("Noto Sans Devanagari", "Lohit Devanagari", "Noto Sans Bengali", "Noto Sans Tamil", "Noto Sans Thai"),
    *("Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Ethiopic", "Symbola", "Unifont"),
)


@cache
def fallback_families() -> tuple[str, ...]:
    """Return those of FALLBACKS that this machine has."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return tuple(family for family in FALLBACKS if family in installed)


@cache
def font_files() -> tuple[str, ...]:
    """Return the files of matplotlib's own font and of the fallbacks."""
    return (
        str(OWN),
        *(font_manager.findfont(font_manager.FontProperties(family=[name])) for name in fallback_families()),
    )


@cache
def letters(file: str) -> frozenset[int]:
    """Return the code points that a font has."""
    return frozenset(font_manager.get_font(file).get_charmap())


def drawable(text: str, files: Sequence[str] | None = None) -> str:
    """Return a text, of lines as it has them, whose characters one of the fonts (default: all) has; others are escaped.

    A box in the place of a letter would make all names in such an alphabet the same.
    """
    return "\n".join(_drawable_line(line, font_files() if files is None else files) for line in text.split("\n"))


def _drawable_line(line: str, files: Sequence[str]) -> str:
    line = printable(line)
    if line.isascii():
        return line
    return "".join(char if any(ord(char) in letters(file) for file in files) else escape(char) for char in line)


def best_font(text: str) -> str:
    """Return the file of the font that has the most characters of a text; of several the first of `font_files`."""
    if text.isascii():
        return str(OWN)
    return max(font_files(), key=lambda file: sum(ord(char) in letters(file) for char in text))
