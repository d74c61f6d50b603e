"""Features that are saved, used again, and refused when they are stale."""

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from fastreid.data.decode import DECODER
from fastreid.engine.defaults import default_argument_parser, feature_cache
from fastreid.evaluation import feature_cache as feature_cache_module
from fastreid.evaluation.feature_cache import FeatureCache
from fastreid.evaluation.reid_evaluation import evaluate
from fastreid.utils.errors import UserError


@pytest.fixture
def folder(small_cfg):
    return Path(small_cfg.OUTPUT_DIR) / "features"


@pytest.fixture
def saved(small_cfg, tiny_model, folder):
    """The table of a run that saved its features."""
    return evaluate(small_cfg, tiny_model, FeatureCache(folder, reuse=False)).table()


def test_saved_features_give_the_same_table_without_a_forward(saved, small_cfg, tiny_model, folder, monkeypatch):
    monkeypatch.setattr(type(tiny_model), "forward", None)
    assert (folder / "folder_people.npz").is_file()
    assert evaluate(small_cfg, tiny_model, FeatureCache(folder, reuse=True)).table() == saved


def refuses(message, small_cfg, tiny_model, folder):
    with pytest.raises(UserError, match=message):
        evaluate(small_cfg, tiny_model, FeatureCache(folder, reuse=True))


def test_other_weights_are_refused(saved, small_cfg, tiny_model, folder):
    with torch.no_grad():
        tiny_model.scale[3] += 1e-6
    refuses("with other weights than .* --save-features", small_cfg, tiny_model, folder)


@pytest.mark.parametrize("key, value", [("INPUT.SIZE_TEST", "[32, 8]"), ("TEST.FLIP", "True")])
def test_other_options_are_refused(saved, small_cfg, tiny_model, folder, key, value):
    small_cfg.merge_from_list([key, value])
    refuses("with other options than", small_cfg, tiny_model, folder)


def test_options_that_leave_features_alone_are_not(saved, small_cfg, tiny_model, folder):
    small_cfg.merge_from_list(["TEST.METRIC", "euclidean", "TEST.BLOCK_SIZE", "5", "TEST.IMS_PER_BATCH", "1"])
    evaluate(small_cfg, tiny_model, FeatureCache(folder, reuse=True))


def test_a_renamed_image_is_refused(saved, small_cfg, tiny_model, folder, tmp_path):
    image = tmp_path / "data/people/gallery/p0_c2.png"
    image.rename(image.with_name("p0_c2_new.png"))
    refuses("with other images than", small_cfg, tiny_model, folder)


def test_an_image_of_another_content_is_refused(saved, small_cfg, tiny_model, folder, tmp_path):
    Image.new("RGB", (8, 16)).save(tmp_path / "data/people/gallery/p0_c2.png")
    refuses("with other images than", small_cfg, tiny_model, folder)


def test_an_image_that_was_replaced_by_one_of_the_same_size_is_refused(saved, small_cfg, tiny_model, folder, tmp_path):
    image = tmp_path / "data/people/gallery/p0_c2.png"
    size = image.stat().st_size
    image.write_bytes(image.read_bytes()[:-1] + b"x")
    os.utime(image, ns=(1, 1))
    assert image.stat().st_size == size
    refuses("with other images than", small_cfg, tiny_model, folder)


def test_features_of_an_older_decoder_are_refused(saved, small_cfg, tiny_model, folder, monkeypatch):
    monkeypatch.setattr(feature_cache_module, "DECODER", DECODER + 1)
    refuses("with other options than", small_cfg, tiny_model, folder)


def test_images_whose_names_are_not_utf_8_have_features(small_cfg, tiny_model, folder, tmp_path):
    image = tmp_path / "data/people/gallery/p0_c2.png"
    image.rename(image.with_name("p0_c2_caf\udce9.png"))
    table = evaluate(small_cfg, tiny_model, FeatureCache(folder, reuse=False)).table()
    assert evaluate(small_cfg, tiny_model, FeatureCache(folder, reuse=True)).table() == table


def test_missing_and_damaged_files_say_what_to_do(small_cfg, tiny_model, folder):
    refuses("no saved features .*folder_people.npz: run once with --save-features", small_cfg, tiny_model, folder)
    folder.mkdir(parents=True)
    (folder / "folder_people.npz").write_bytes(b"PK\x03\x04 and then nothing")
    refuses("is not a file of saved features", small_cfg, tiny_model, folder)


def test_the_command_line_chooses(small_cfg, folder):
    def chosen(*words):
        return feature_cache(small_cfg, default_argument_parser().parse_args(["--config-file", "x", *words]))

    assert chosen("--eval-only") is None
    saving, reusing = chosen("--eval-only", "--save-features"), chosen("--eval-only", "--features")
    assert (saving.reuse, reusing.reuse) == (False, True)
    assert saving.folder == reusing.folder == folder
    for flag in ("--save-features", "--features"):
        with pytest.raises(UserError, match="add --eval-only"):
            chosen(flag)
    with pytest.raises(SystemExit):
        chosen("--eval-only", "--features", "--save-features")
