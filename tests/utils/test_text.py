"""Names as text."""

import csv
import logging

import openpyxl
import pytest
from openpyxl import Workbook

from fastreid.evaluation.result_files import fill_sheet
from fastreid.report.figures import plt, save_figure, use_style
from fastreid.utils.files import walk_folders, write_csv, write_text
from fastreid.utils.logger import setup_logger
from fastreid.utils.text import file_part, printable, spreadsheet_text

STRANGE = ["caf\udce9", "a\nb", "\x00\x1b[31m", "\u202egpj", "\ud800", "\U000e0001"]
FORMULAS = ["=1+1", "+cmd", "-cmd", "@SUM(A1)", "\t=1", "\r=1"]


@pytest.mark.parametrize("text", STRANGE)
def test_what_cannot_be_shown_is_escaped(text):
    shown = printable(text)
    assert shown.isprintable() and shown.encode() and printable(shown) == shown


def test_ordinary_text_stays_as_it_is():
    for text in ("0001_c1s1_000451_03.jpg", "\u674e\u660e \u3000 caf\u00e9", "a b", ""):
        assert printable(text) == spreadsheet_text(text) == text


def test_bytes_are_shown_as_such():
    assert printable("caf\udce9") == "caf\\xe9" and printable("a\nb") == "a\\nb"


@pytest.mark.parametrize("text", ["n" * 300, "\u674e" * 300, "a/b", "caf\udce9"])
def test_a_part_of_a_file_name_fits_and_has_no_slash(text, tmp_path):
    part = file_part(text)
    (tmp_path / f"0001_{part}.png").touch()
    assert "/" not in part and len(part.encode()) <= 200


def test_numbers_are_no_formulas():
    for text in ("-0.5", "+1e3", "-inf"):
        assert spreadsheet_text(text) == text


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_of_a_csv_file_begins_like_a_formula(text, tmp_path):
    write_csv(tmp_path / "t.csv", [{text: text, "number": -1.5, "nothing": None}])
    with (tmp_path / "t.csv").open(newline="") as file:
        header, row = csv.reader(file)
    assert header[0] == row[0] == f"'{text}" and row[1:] == ["-1.5", ""]


@pytest.mark.parametrize("text", [*FORMULAS, *STRANGE, "#N/A"])
def test_a_workbook_holds_any_text_as_text(text, tmp_path):
    book = Workbook()
    fill_sheet(book.active, [text, "number"], [[text, 1.5]], labels=1)
    book.save(tmp_path / "t.xlsx")
    sheet = openpyxl.load_workbook(tmp_path / "t.xlsx").active
    assert [cell.data_type for cell in sheet["A"]] == ["s", "s"] and sheet["A2"].value == printable(text)
    assert sheet["B2"].value == 1.5


@pytest.mark.parametrize("text", STRANGE)
def test_files_logs_and_figures_take_any_name(text, tmp_path, capfd):
    write_text(tmp_path / "t.html", text)
    write_csv(tmp_path / "t.csv", [{"path": text}])
    setup_logger(tmp_path)
    logging.getLogger("fastreid").warning(f"passed over {text}")
    use_style()
    figure, axis = plt.subplots(figsize=(2, 2))
    axis.plot([1, 2], label=text)
    axis.set_title(text)
    axis.legend()
    save_figure(figure, tmp_path / "t.png", (".png", ".pdf"))
    assert "Logging error" not in capfd.readouterr().err
    for name in ("t.html", "t.csv", "log.txt"):
        (tmp_path / name).read_text(encoding="utf-8")


def test_names_in_a_figure_are_never_boxes(tmp_path, recwarn):
    use_style()
    figure, axis = plt.subplots(figsize=(2, 2))
    axis.plot([1, 2], label="folder:\u674e\u660e \u0e01 \u0905")
    axis.legend()
    save_figure(figure, tmp_path / "t.png")
    assert not [warning for warning in recwarn if "missing from" in str(warning.message)]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, caplog, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.setattr("os.scandir", _refuse)
    assert list(walk_folders(tmp_path)) == []
    assert "which cannot be listed (Permission denied)" in caplog.text


def _refuse(path):
    raise PermissionError(13, "Permission denied", str(path))
