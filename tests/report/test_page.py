"""What stands in report.html, and what its command refuses."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fastreid.config import get_cfg
from fastreid.report.page import runs_section
from fastreid.report.runs import Run
from fastreid.utils.errors import UserError

VOID = {"meta", "link", "img", "input", "br"}


class Outline(HTMLParser):
    """The elements of a page: that they are nested well, their attributes, and the text."""

    def __init__(self, page):
        super().__init__()
        self.open, self.elements, self.words = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.words.append(data)

    def all(self, tag, **wanted):
        found = (attrs for name, attrs in self.elements if name == tag)
        return [attrs for attrs in found if all(attrs.get(k.replace("_", "-")) == v for k, v in wanted.items())]


@pytest.fixture(scope="module")
def outline(page):
    return Outline(page.read_text(encoding="utf-8"))


def made_page(report_tool, tmp_path, *arguments):
    report_tool.main([*map(str, arguments), "--output", str(tmp_path / "out.html")])
    return Outline((tmp_path / "out.html").read_text(encoding="utf-8"))


def test_elements_are_nested_well_and_ids_are_unique(outline):
    assert outline.open == []
    ids = [attrs["id"] for _, attrs in outline.elements if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_nothing_is_fetched(page, outline):
    sources = [attrs[key] for _, attrs in outline.elements for key in ("src", "href") if key in attrs]
    assert sources and all(source.startswith(("data:", "#")) for source in sources)
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest", page.read_text(encoding="utf-8"))


def test_every_section_has_a_heading_and_a_link(outline):
    for name in ("runs", "results", "curves", "gates", "configs", "queries"):
        assert (
            outline.all("section", id=name)
            and outline.all("h2", id=f"{name}-title")
            and outline.all("a", href=f"#{name}")
        )


@pytest.mark.parametrize(
    "name, ibn, shown",
    [("build_resnet_backbone", False, "build_resnet_backbone, depth 50"), ("resnet34", True, "resnet34, WITH_IBN")],
)
def test_a_backbone_is_shown_with_its_size_and_options(name, ibn, shown):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.DEPTH, cfg.MODEL.BACKBONE.WITH_IBN = name, 50, ibn
    panel = Outline(runs_section([Run(folder=Path("run"), name="run", config=cfg)]))
    assert panel.words[panel.words.index("Backbone") + 1] == shown


def test_names_are_escaped(page, outline):
    text = page.read_text(encoding="utf-8")
    assert "<second>" not in text and "&lt;second&gt;" in text and "<b>&'" not in text
    names = {attrs["aria-label"] for attrs in outline.all("article") if attrs.get("data-set") == "folder:there"}
    assert "query 0000_c1_<b>&'\".png" in names


def test_tables_have_the_results_of_both_runs(outline):
    words = " ".join(outline.words)
    assert "ended at iteration 300 of 300" in words and "30.00 (best 40.00 at iteration 200)" in words
    assert "50.00 (best 50.00 at iteration 200)" in words
    # One of the results, one of the differences between the runs.
    assert len(outline.all("tbody", data_set="folder:here")) == 2 and "SOLVER.BASE_LR" in words


def test_curves_are_overlaid_in_the_colour_of_the_run(outline):
    labels = [attrs["aria-label"] for attrs in outline.all("svg")]
    [loss] = [label for label in labels if label.startswith("base/loss_cls")]
    assert "first: 3 at first, 1 at last" in loss and "<second>: 3 at first, 1.5 at last" in loss
    assert {attrs["data-run"] for attrs in outline.all("g")} == {"0", "1"}


def test_ranked_lists_tell_right_from_wrong_by_more_than_colour(outline):
    words = [word for word in outline.words if word in "✓✗"]
    pictures = [attrs["alt"] for attrs in outline.all("img")]
    assert "ranked lists of model_final.pth" in " ".join(outline.words)
    assert words.count("✓") == sum(", right: " in alt for alt in pictures) > 0
    assert words.count("✗") == sum(", wrong: " in alt for alt in pictures) > 0
    assert all(attrs["data-first"] in ("right", "wrong") for attrs in outline.all("section", **{"class": "list"}))


def test_every_picture_has_words(outline):
    assert all(attrs["alt"] for attrs in outline.all("img"))
    assert all(attrs["aria-label"] for attrs in outline.all("svg"))


def test_the_size_is_stated(page, outline):
    stated = float(re.search(r"shows: (\d+\.\d) MB", " ".join(outline.words))[1])
    assert stated == pytest.approx(page.stat().st_size / 1e6, abs=0.06)


def test_a_run_without_checkpoint_has_tables_and_says_what_is_missing(made, report_tool, tmp_path):
    folder = made.write_numbers(tmp_path / "run")
    outline = made_page(report_tool, tmp_path, folder)
    words = " ".join(outline.words)
    assert "no ranked lists" in words and f"no checkpoint in {folder}" in words and not outline.all("img")
    assert not outline.all("select", name="first") and not outline.all("input", name="run")


def test_a_broken_run_among_several_is_shown_as_such(made, report_tool, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "metrics.json").write_bytes(b"\x00\xff")
    outline = made_page(
        report_tool, tmp_path, tmp_path / "bad", made.write_numbers(tmp_path / "run"), tmp_path / "absent"
    )
    words = " ".join(outline.words)
    assert "is not a list of records" in words and "there is no such folder" in words and "30.00" in words


def test_no_usable_run_is_an_error(report_tool, tmp_path):
    with pytest.raises(UserError, match="absent: there is no such folder"):
        report_tool.main([str(tmp_path / "absent")])


def test_without_images_no_model_is_loaded(trained, report_tool, tmp_path, monkeypatch):
    monkeypatch.setattr(report_tool, "run_lists", None)
    outline = made_page(report_tool, tmp_path, trained[0], "--no-images")
    assert "without ranked lists" in " ".join(outline.words) and not outline.all("img")


def test_a_page_keeps_within_its_limit_for_pictures(trained, report_tool, data_root, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTREID_DATASETS", str(data_root))
    outline = made_page(report_tool, tmp_path, trained[0], "--max-mb", "0.005")
    assert 0 < sum(len(attrs["src"]) for attrs in outline.all("img")) <= 5000
    assert "pictures were left out" in " ".join(outline.words) and outline.all("span", **{"class": "left-out"})


@pytest.mark.parametrize(
    "arguments", [("--queries", "0"), ("--top-k", "0"), ("--max-mb", "0"), ("--base", "absent.yml")]
)
def test_a_wrong_option_is_an_error(trained, report_tool, arguments):
    with pytest.raises(UserError):
        report_tool.main([str(trained[0]), "--no-images", *arguments])


def test_more_runs_than_colours_are_refused(report_tool, tmp_path):
    with pytest.raises(UserError, match="8 at most"):
        report_tool.main([str(tmp_path / str(number)) for number in range(9)])


@pytest.mark.parametrize("name", ["model_final.pth", "config.yaml", "metrics.json", "per_query/target.csv"])
def test_a_file_that_is_no_page_is_not_replaced(made, report_tool, tmp_path, name):
    folder = shutil.copytree(made.write_numbers(tmp_path / "run"), tmp_path / "copy")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("something")
    with pytest.raises(UserError, match="is there and is no page: choose a name that ends in .html"):
        report_tool.main([str(folder), "--no-images", "--output", str(folder / name)])
    assert (folder / name).read_text() == "something"


def test_the_page_lies_in_the_first_folder(made, report_tool, tmp_path, capsys):
    folder = shutil.copytree(made.write_numbers(tmp_path / "run"), tmp_path / "copy")
    report_tool.main([str(folder), "--no-images"])
    assert (folder / "report.html").is_file() and f"wrote {folder / 'report.html'}" in capsys.readouterr().out
