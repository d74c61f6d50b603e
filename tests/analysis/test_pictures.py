"""Pictures of ranked lists."""

import numpy as np
import pytest
from PIL import Image, ImageColor

from fastreid.analysis.pictures import (
    FRAMES,
    MARGIN,
    TITLE,
    WIDEST,
    Row,
    Tile,
    draw_page,
    fitted,
    font,
    ranked_row,
    shorten,
)
from fastreid.evaluation.ranked_lists import RankedItem, RankedQuery
from fastreid.utils.errors import UserError
from fastreid.utils.fonts import OWN, drawable


@pytest.fixture
def path(tmp_path):
    Image.new("RGB", (20, 80), "black").save(tmp_path / "0001_c3.png")
    return str(tmp_path / "0001_c3.png")


def count(page, colour):
    return int((np.asarray(page) == ImageColor.getrgb(colour)).all(axis=2).sum())


def test_a_query_becomes_a_row(path):
    items = [RankedItem(path, 1, 4, 0.25, True), RankedItem(path, 2, 3, 0.5, False)]
    row = ranked_row(RankedQuery(path, 1, 3, 0.75, 1, items))
    assert "0001_c3.png" in row.title and "AP 75.0 %" in row.title and "rank 1" in row.title
    assert [tile.frame for tile in row.found] == ["right", "wrong"]
    assert row.found[1].lines == ("2   0.500", "camera 3")
    assert "no true match" in ranked_row(RankedQuery(path, 1, 3, None, None, [])).title


def test_right_and_wrong_have_their_frames(path):
    page = draw_page([Row("title", Tile(path, (), "query"), [Tile(path, (), "right"), Tile(path, (), "right")])])
    assert count(page, FRAMES["right"]) > count(page, FRAMES["query"]) > 1000
    assert count(page, FRAMES["wrong"]) == 0
    # A thin picture keeps its shape: 40 of the 80 columns.
    column = np.asarray(page)[MARGIN + TITLE + 80, MARGIN : MARGIN + 88]
    assert (column == 0).all(axis=1).sum() == 40


def test_rows_lie_below_each_other_and_headings_fit(path):
    row = Row("title", Tile(path), [Tile(path)] * 3)
    one, two = draw_page([row]), draw_page([row, row])
    assert two.width == one.width and two.height > 1.8 * one.height
    assert draw_page([row], "heading " * 40).width > one.width


def test_long_names_keep_their_end():
    assert shorten("short", 100, font(11)) == "short"
    text = shorten("a_very_long_name_of_an_image_0007", 90, font(11))
    assert text.startswith("\u2026") and text.endswith("0007") and font(11).getlength(text) <= 90


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(UserError, match="gone.png is not a readable image"):
        draw_page([Row("title", Tile(str(tmp_path / "gone.png")))])


@pytest.mark.parametrize(
    "name", ["caf\udce9.jpg", "a\nb\tc.jpg", "n" * 4000, "\u202egpj.exe", "\u674e\u660e_c1.jpg", ""]
)
def test_any_name_can_be_drawn(path, name):
    page = draw_page([Row(name, Tile(path, (name,), "query"), [Tile(path, (name, name))])], heading=name)
    assert page.width < 2 * WIDEST


def test_letters_that_no_font_has_are_told_apart():
    assert drawable("caf\u00e9 \u0391 \u042f") == "caf\u00e9 \u0391 \u042f"
    files = [str(OWN)]
    one, other = drawable("\u674e", files), drawable("\u738b", files)
    assert (one, other) == ("\\u674e", "\\u738b")
    assert fitted("\u674e", 11)[0] in ("\u674e", "\\u674e")
