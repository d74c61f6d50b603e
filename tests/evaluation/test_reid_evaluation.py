"""From a model to results: options of TEST, files, and what is said about bad input."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from openpyxl import load_workbook
from PIL import Image, ImageColor

from fastreid.data.build import load_test_set
from fastreid.data.datasets import Items, Split, TestSet
from fastreid.evaluation import average_query_expansion, compute_distance, evaluate_rank, re_ranking, reid_evaluation
from fastreid.evaluation.reid_evaluation import evaluate, evaluate_test_set, select_rows
from fastreid.evaluation.results import TABLE_METRICS, Results
from fastreid.report.figures import PALETTE
from fastreid.utils.errors import UserError


def problem(pids=(0, 1, 2, 0, 0, 1, 1, 7), splits=None):
    """Three queries and five gallery images, with clustered features."""
    paths = np.array([f"image_{i}.png" for i in range(8)])
    camids = np.array([0, 0, 0, 1, 2, 1, 1, 1])
    pids = np.asarray(pids)
    features = torch.randn(8, 6) + 2 * torch.eye(8, 6)[torch.from_numpy(pids)]
    two = [Split("split_1", np.arange(3), np.arange(3, 8)), Split("split_2", np.arange(2), np.arange(3, 7))]
    return features, TestSet(Items(paths, pids, camids), splits or two)


def evaluated(cfg, features, test_set):
    results = Results()
    evaluate_test_set(cfg, features, test_set, "people", results)
    return results


def test_the_table_has_the_published_form(small_cfg):
    results = evaluated(small_cfg, *problem())
    lines = results.table().splitlines()
    assert lines[0].split("|")[1].strip() == "Datasets"
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["people_average", "people_std", "** all_average **"]
    splits = results.splits["people"]
    assert results.rows["people_average"]["mAP"] == pytest.approx(np.mean([row["mAP"] for row in splits.values()]))
    cells = [cell.strip() for cell in lines[2].split("|")[2:-1]]
    assert cells == [f"{results.rows['people_average'][column]:.2f}%" for column in TABLE_METRICS]


def test_a_data_set_of_one_split_has_one_row_and_no_part_in_an_average(small_cfg):
    results = evaluated(small_cfg, *problem())
    results.splits |= {
        "single": {"all": dict.fromkeys(TABLE_METRICS, 12.3456)},
        "twice": dict(results.splits["people"]),
    }
    assert list(results.rows) == [
        "people_average",
        "people_std",
        "single",
        "twice_average",
        "twice_std",
        "** all_average **",
    ]
    assert results.overall == results.rows["** all_average **"] == pytest.approx(results.rows["people_average"])
    assert results.table().splitlines()[4].split("|")[2].strip() == "12.35%"


def test_data_sets_of_one_split_have_no_average_in_the_table_but_one_by_which_the_best_model_is_chosen():
    results = Results(
        {name: {"all": dict.fromkeys(TABLE_METRICS, value)} for name, value in (("a", 20.0), ("b", 40.0))}
    )
    assert list(results.rows) == ["a", "b"] and results.overall == dict.fromkeys(TABLE_METRICS, 30.0)


def test_the_whole_run_finds_people_by_their_look(small_cfg, tiny_model):
    assert evaluate(small_cfg, tiny_model).rows["folder:people"]["Rank-1"] > 70


def test_each_metric_is_that_of_the_matrix(small_cfg):
    features, test_set = problem()
    row = evaluated(small_cfg, features, test_set).splits["people"]["split_1"]
    distmat = compute_distance(features[:3], features[3:]).numpy()
    items = test_set.items
    cmc, all_ap, all_inp = evaluate_rank(distmat, items.pids[:3], items.pids[3:], items.camids[:3], items.camids[3:])
    assert (row["Rank-1"], row["Rank-10"]) == (100 * cmc[0], 100 * cmc[-1])
    assert (row["mAP"], row["mINP"]) == (100 * all_ap.mean(), 100 * all_inp.mean())


def captured_distances(cfg, features, test_set, monkeypatch):
    seen = []
    run = reid_evaluation.evaluate_blocks

    def watched(distances, *labels, **options):
        seen.append(np.concatenate([block for _, block in distances.blocks()]))
        return run(distances, *labels, **options)

    monkeypatch.setattr(reid_evaluation, "evaluate_blocks", watched)
    evaluated(cfg, features, test_set)
    return seen[0]


@pytest.mark.parametrize("block_size", ["1", "100000"])
def test_query_expansion_uses_its_options(small_cfg, monkeypatch, block_size):
    features, test_set = problem()
    small_cfg.merge_from_list(["TEST.AQE.ENABLED", "True", "TEST.AQE.QE_TIME", "2", "TEST.AQE.QE_K", "3"])
    small_cfg.merge_from_list(["TEST.AQE.ALPHA", "1.5", "TEST.BLOCK_SIZE", block_size])
    expected = compute_distance(*average_query_expansion(features[:3], features[3:], times=2, k=3, alpha=1.5))
    found = captured_distances(small_cfg, features, test_set, monkeypatch)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_re_ranking_uses_its_options(small_cfg, monkeypatch, metric):
    features, test_set = problem()
    small_cfg.merge_from_list(["TEST.RERANK.ENABLED", "True", "TEST.RERANK.K1", "3", "TEST.RERANK.K2", "2"])
    small_cfg.merge_from_list(["TEST.RERANK.LAMBDA", "0.6", "TEST.METRIC", metric])
    found = captured_distances(small_cfg, features, test_set, monkeypatch)
    np.testing.assert_array_equal(found, re_ranking(features[:3], features[3:], 3, 2, 0.6, metric))


def test_expansion_comes_before_re_ranking(small_cfg, monkeypatch):
    features, test_set = problem()
    small_cfg.merge_from_list(["TEST.RERANK.ENABLED", "True", "TEST.AQE.ENABLED", "True", "TEST.RERANK.K1", "3"])
    found = captured_distances(small_cfg, features, test_set, monkeypatch)
    np.testing.assert_array_equal(found, re_ranking(*average_query_expansion(features[:3], features[3:]), k1=3))


def test_block_size_is_used_and_changes_nothing(small_cfg):
    features, test_set = problem()
    features = features.round()
    small_cfg.TEST.METRIC = "euclidean"
    whole = evaluated(small_cfg, features, test_set).splits
    small_cfg.TEST.BLOCK_SIZE = 5
    assert str(evaluated(small_cfg, features, test_set).splits) == str(whole)
    small_cfg.TEST.BLOCK_SIZE = 0
    with pytest.raises(UserError, match="TEST.BLOCK_SIZE"):
        evaluated(small_cfg, features, test_set)


def test_rows_that_follow_each_other_are_not_copied():
    features = torch.randn(9, 2)
    assert select_rows(features, np.arange(2, 7)).data_ptr() == features[2:].data_ptr()
    for index in ([2, 4], [4, 3, 2], [5], [1, 1, 3], []):
        index = np.array(index, int)
        torch.testing.assert_close(select_rows(features, index), features[torch.from_numpy(index)])


def test_results_are_written_for_programs_and_for_people(small_cfg, tmp_path):
    features, test_set = problem()
    results = evaluated(small_cfg, features, test_set)
    results.splits["other"], results.cmc["other"] = results.splits["people"], results.cmc["people"]
    results.save(tmp_path, checkpoint="model.pth")

    content = json.loads((tmp_path / "results.json").read_text())
    assert content["checkpoint"] == "model.pth"
    assert content["results"]["people_average"]["mAP"] == results.rows["people_average"]["mAP"]
    assert len(content["cmc"]["people"]) == 4 and content["cmc"]["people"][-1] == 100
    assert (tmp_path / "results.txt").read_text() == f"{results.table()}\n\n{results.counted()}\n"
    counted = {"queries": 3, "without_match": 1, "gallery": 5, "distractors": 1}
    assert content["counts"]["people"] == {
        "split_1": counted,
        "split_2": {**counted, "queries": 2, "without_match": 0, "gallery": 4, "distractors": 0},
    }
    assert not (tmp_path / "per_query").exists()

    book = load_workbook(tmp_path / "results.xlsx")
    table, splits = book["results"], book["splits"]
    assert [cell.value for cell in table["A"]][-1] == "** all_average **" and table.freeze_panes == "B2"
    assert table["B2"].value == results.rows["people_average"]["Rank-1"] and table["B2"].number_format == "0.00"
    assert table["A1"].font.bold and splits.max_row == 5
    assert [cell.value for cell in splits[2]][:2] == ["people", "split_1"]

    image = np.asarray(Image.open(tmp_path / "cmc.png").convert("RGB")).reshape(-1, 3)
    for colour in PALETTE[:2]:  # one line for each data set
        assert (image == ImageColor.getrgb(colour)).all(axis=1).any()


def test_undefined_rates_are_empty_in_the_files(small_cfg, tmp_path):
    splits = [Split("split_1", np.array([0]), np.array([3, 4]))]
    results = evaluated(small_cfg, *problem(splits=splits))
    results.save(tmp_path)
    assert math.isnan(results.rows["people"]["TPR@FPR=0.01"])
    assert json.loads((tmp_path / "results.json").read_text())["results"]["people"]["TPR@FPR=0.01"] is None
    assert load_workbook(tmp_path / "results.xlsx")["results"]["I2"].value is None


def test_a_line_for_each_query_on_request(small_cfg, tmp_path):
    features, test_set = problem()
    small_cfg.TEST.PER_QUERY = True
    results = evaluated(small_cfg, features, test_set)
    results.save(tmp_path)
    with (tmp_path / "per_query" / "people.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["split"], row["query"]) for row in rows] == [
        ("split_1", "image_0.png"), ("split_1", "image_1.png"), ("split_1", "image_2.png"),
        ("split_2", "image_0.png"), ("split_2", "image_1.png"),
    ]  # fmt: skip
    # Query 2 has no true match.
    unmeasured = (
        "average_precision",
        "first_correct_rank",
        "distance_margin",
        "nearest_other",
        "other_identity",
        "other_camera",
    )
    assert [rows[2][key] for key in unmeasured] == [""] * 6
    distances = compute_distance(features[:1], features[3:]).numpy()[0]
    margin = distances[2:].min() - distances[:2].min()
    other = test_set.items[int(5 + distances[2:].argmin())]
    assert tuple(rows[0][key] for key in unmeasured[3:]) == tuple(map(str, other))
    assert float(rows[0]["distance_margin"]) == pytest.approx(margin, abs=1e-6)
    assert int(rows[0]["first_correct_rank"]) == 1 + (distances[2:] < distances[:2].min()).sum()
    mean = np.mean([float(row["average_precision"]) for row in rows[:2]])
    assert 100 * mean == pytest.approx(results.splits["people"]["split_1"]["mAP"])


class TestBadInput:
    """Each of these is one message that names the place."""

    def test_a_nan_feature_names_its_image(self, small_cfg):
        features, test_set = problem()
        features[5, 2] = torch.nan
        features[6, 2] = torch.inf
        with pytest.raises(UserError, match="image_5.png is not finite .2 of 8 images"):
            evaluated(small_cfg, features, test_set)

    def test_features_and_images_of_different_numbers(self, small_cfg):
        features, test_set = problem()
        with pytest.raises(UserError, match="7 features for 8 images"):
            evaluated(small_cfg, features[:7], test_set)

    def test_no_valid_query_names_data_set_and_split(self, small_cfg):
        with pytest.raises(UserError, match="people, split_1: None of the 3 queries has a true match"):
            evaluated(small_cfg, *problem(pids=range(8)))

    @pytest.mark.parametrize("option", ["TEST.METRIC", "TEST.AQE.ENABLED", "TEST.RERANK.ENABLED"])
    def test_an_empty_gallery(self, small_cfg, option):
        if option != "TEST.METRIC":
            small_cfg.merge_from_list([option, "True"])
        splits = [Split("split_1", np.arange(3), np.arange(0))]
        with pytest.raises(UserError, match="people, split_1: The gallery set is empty .3 queries"):
            evaluated(small_cfg, *problem(splits=splits))

    def test_a_query_without_a_match_is_left_out_and_counted(self, small_cfg, caplog):
        results = evaluated(small_cfg, *problem())
        assert results.cmc["people"][0][-1] == 1
        assert "people: 1 of 5 queries have no match" in caplog.text and "the most in split_1, 1 of 3" in caplog.text
        assert results.counted() == (
            "people: 2 split(s), 2 to 3 queries (0 to 1 without a match, left out), 4 to 5 gallery images (0 to 1 of "
            "people that no query asks for)"
        )

    @pytest.mark.parametrize("option", ["TEST.AQE.ENABLED", "TEST.RERANK.ENABLED", "TEST.PER_QUERY"])
    def test_queries_of_the_gallerys_camera_alone_are_counted_whatever_the_options(self, small_cfg, caplog, option):
        small_cfg.merge_from_list([option, "True"])
        features, test_set = problem(splits=[Split("split_1", np.arange(3), np.arange(3, 8))])
        test_set.items.camids[:] = [0, 0, 0, 1, 2, 0, 0, 0]  # person 1 is in the gallery, but in the query's camera
        results = evaluated(small_cfg, features, test_set)
        assert results.counts["people"]["split_1"].without_match == 2 and "2 of 3 queries have no match" in caplog.text

    def test_a_test_in_which_every_query_has_a_match_warns_of_nothing(self, small_cfg, tiny_model, caplog):
        assert evaluate(small_cfg, tiny_model).counts["folder:people"]["split_1"].without_match == 0
        assert "no match" not in caplog.text

    @pytest.mark.parametrize("dtype", [np.int32, np.int64, np.str_])
    def test_identities_of_any_type_give_the_same(self, small_cfg, dtype):
        features, test_set = problem()
        items = Items(test_set.items.paths, test_set.items.pids.astype(dtype), test_set.items.camids)
        expected = evaluated(small_cfg, features, test_set)
        assert evaluated(small_cfg, features, TestSet(items, test_set.splits)).table() == expected.table()

    def test_impossible_options_are_named(self, small_cfg):
        small_cfg.merge_from_list(["TEST.RERANK.ENABLED", "True", "TEST.RERANK.LAMBDA", "2.0"])
        with pytest.raises(UserError, match="people, split_1: Re-ranking needs"):
            evaluated(small_cfg, *problem())

    def test_no_data_set_to_test_on(self, small_cfg, tiny_model):
        small_cfg.DATASETS.TESTS = ()
        with pytest.raises(UserError, match="DATASETS.TESTS"):
            evaluate(small_cfg, tiny_model)

    def test_a_gallery_folder_without_images(self, small_cfg, tiny_model):
        for path in load_test_set("folder:people").items.paths:
            if "gallery" in path:
                Path(path).unlink()
        with pytest.raises(UserError, match="gallery"):
            evaluate(small_cfg, tiny_model)
