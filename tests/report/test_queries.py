"""Which queries a page shows, and what is said when lists are missing."""

import shutil

import numpy as np
import pytest
from PIL import Image

from fastreid.evaluation.ranked_lists import RankedQuery
from fastreid.report import queries
from fastreid.report.queries import THUMBNAIL, ListOptions, RunLists, Thumbnails, add_heat, query_sets, run_lists
from fastreid.report.query_cards import QueryLists, queries_section
from fastreid.report.runs import read_run
from fastreid.utils.errors import UserError


@pytest.fixture(autouse=True)
def data(data_root, monkeypatch):
    monkeypatch.setenv("FASTREID_DATASETS", str(data_root))


def found(**average_precisions):
    return [RankedQuery(name, 1, 1, ap, 1 if ap else None, []) for name, ap in average_precisions.items()]


def cards_of(count, *runs):
    [shown] = query_sets([RunLists({"x": ("split_1", lists)}) for lists in runs], count)
    return shown.cards


def chosen(count, *runs):
    return [card.path for card in cards_of(count, *runs)]


def test_the_worst_and_the_best_are_shown_worst_first():
    assert chosen(1, found(a=0.9, b=0.1, c=0.5, d=0.4)) == ["b", "a"]


def test_a_query_without_a_true_match_is_neither():
    assert chosen(5, found(a=0.9, b=None, c=0.5)) == ["c", "a"]
    [shown] = query_sets([RunLists({"x": ("split_1", found(a=0.9, b=None, c=0.5))})], 5)
    assert (shown.queries, shown.unmatched) == (3, 1)
    shown.cards.clear()  # no pictures are needed to read what stands above them
    section = queries_section(QueryLists([shown], [], Thumbnails(0)), [])
    assert "of 3 queries" in section and "1 have no true match in the gallery" in section


def test_what_one_run_finds_hard_is_shown_with_the_lists_of_all():
    cards = cards_of(1, found(a=0.1, b=0.5, c=0.6, d=0.9), found(a=0.5, b=0.2, c=0.9, d=0.6))
    assert [card.path for card in cards] == ["a", "b", "c", "d"]
    assert all(set(card.lists) == {0, 1} for card in cards)


def test_features_are_computed_once_for_each_data_set_and_run(trained, monkeypatch):
    calls = []
    extract = queries.extract_features
    monkeypatch.setattr(
        queries,
        "extract_features",
        lambda cfg, model, items, name: calls.append(name) or extract(cfg, model, items, name),
    )
    runs = [read_run(folder) for folder in trained]
    lists = [run_lists(run, ListOptions(2, 4, [])) for run in runs]
    sets = query_sets(lists, 2)
    assert calls == [f"{run.name}, {name}" for run in runs for name in ("folder:here", "folder:there")]
    assert [run.missing for run in lists] == [[], []] and [len(found.cards) >= 4 for found in sets] == [True, True]
    assert all(len(query.items) == 4 for found in sets for card in found.cards for query in card.lists.values())


def test_heat_is_of_all_images_that_are_shown_by_the_run_that_shows_them(trained):
    runs = [read_run(folder) for folder in trained]
    lists = [run_lists(run, ListOptions(1, 2, [])) for run in runs]
    sets = query_sets(lists, 1)
    add_heat(sets, lists, runs, [])
    shown = {image.path for found in sets for card in found.cards for image in (card, *card.lists[0].items)}
    assert set(lists[0].heat) == shown
    both = set(lists[0].heat) & set(lists[1].heat)
    assert both and any((lists[0].heat[path] != lists[1].heat[path]).any() for path in both)
    section = queries_section(QueryLists(sets, lists, Thumbnails(10_000_000)), ["one", "two"])
    assert section.count("where the model looks at rank") == sum(
        len(query.items) for found in sets for card in found.cards for query in card.lists.values()
    )
    assert "where one looks at" in section and "where two looks at" in section


def test_options_are_laid_over_the_config(trained):
    run = run_lists(read_run(trained[0]), ListOptions(2, 4, ["DATASETS.TESTS", "('folder:there',)"]))
    assert list(run.lists) == ["folder:there"] and run.missing == [] and run.checkpoint == "model_final.pth"


REASONS = {
    "config.yaml": "no readable config.yaml",
    "last_checkpoint": "no checkpoint in",
    "model_final.pth": "last_checkpoint names model_final.pth, which is not there",
}


@pytest.mark.parametrize("name", REASONS)
def test_a_run_without_what_lists_need_says_what_is_missing(trained, tmp_path, name):
    folder = shutil.copytree(trained[0], tmp_path / "run")
    (folder / name).unlink()
    run = run_lists(read_run(folder), ListOptions(2, 4, []))
    assert run.lists == {} and len(run.missing) == 1 and REASONS[name] in run.missing[0]


def test_a_data_set_that_is_missing_leaves_the_others(trained):
    options = ListOptions(2, 4, ["DATASETS.TESTS", "('folder:absent', 'folder:here')"])
    run = run_lists(read_run(trained[0]), options)
    assert list(run.lists) == ["folder:here"] and run.missing[0].startswith("folder:absent: ")


@pytest.mark.parametrize("numbers", [(0, 5), (5, 0)])
def test_no_queries_or_images_to_show_is_an_error(numbers):
    with pytest.raises(UserError, match="at least 1"):
        ListOptions(*numbers, [])


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 200, 3), dtype=np.uint8)).save(path)
    return str(path)


def test_thumbnails_are_small_and_read_once(picture, monkeypatch):
    thumbnails = Thumbnails(1_000_000)
    uri, width, height = thumbnails.get(picture)
    assert uri.startswith("data:image/webp;base64,") and (width, height) == THUMBNAIL and len(uri) < 40_000
    monkeypatch.setattr(queries, "read_image", None)
    assert thumbnails.get(picture)[0] == uri and thumbnails.used == 2 * len(uri)


def test_pictures_beyond_the_limit_are_left_out_and_counted(picture):
    size = len(Thumbnails(1_000_000).get(picture)[0])
    thumbnails = Thumbnails(2 * size)
    assert [thumbnails.get(picture) is None for _ in range(4)] == [False, False, True, True]
    assert thumbnails.used == 2 * size and thumbnails.left_out == 2
