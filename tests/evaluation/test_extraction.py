"""Features of all images, once each and in order."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from fastreid.data.build import build_test_loader, load_test_set
from fastreid.evaluation.extraction import extract_features
from fastreid.utils.errors import UserError
from fastreid.utils.precision import uses_amp
from tests.command_server import PATIENCE

PROCESS = Path(__file__).parent / "evaluate_in_processes.py"


@pytest.fixture
def items(small_cfg):
    return load_test_set("folder:people").items


def features_by_hand(cfg, model, items, flip=False):
    images = torch.cat([batch["images"] for batch in build_test_loader(cfg, items)])
    return model({"images": images.flip(3) if flip else images}).detach()


def test_every_image_once_in_the_items_order(small_cfg, tiny_model, items):
    features = extract_features(small_cfg, tiny_model, items)
    torch.testing.assert_close(features, features_by_hand(small_cfg, tiny_model, items))
    assert features.shape == (16, 24) and features.dtype == torch.float32 and not features.requires_grad


def test_each_image_is_forwarded_once_in_evaluation_mode(small_cfg, tiny_model, items, monkeypatch):
    seen = []
    forward = type(tiny_model).forward

    def watched(self, batch):
        assert batch["images"].is_inference()
        assert not self.training
        seen.extend(batch["img_paths"])
        return forward(self, batch)

    monkeypatch.setattr(type(tiny_model), "forward", watched)
    extract_features(small_cfg, tiny_model, items)
    assert seen == items.paths.tolist()
    assert tiny_model.training


def test_flip_averages_with_the_mirror_image(small_cfg, tiny_model, items):
    small_cfg.TEST.FLIP = True
    plain, mirrored = (features_by_hand(small_cfg, tiny_model, items, flip) for flip in (False, True))
    assert (plain - mirrored).abs().max() > 1
    torch.testing.assert_close(extract_features(small_cfg, tiny_model, items), (plain + mirrored) / 2)


def test_a_test_is_in_float32_where_training_is_not(small_cfg, tiny_model, items, monkeypatch):
    small_cfg.SOLVER.AMP = small_cfg.SOLVER.AMP_ON_CPU = True
    assert uses_amp(small_cfg, torch.device("cpu"))
    half = []
    forward = type(tiny_model).forward
    monkeypatch.setattr(
        type(tiny_model), "forward", lambda *a: half.append(torch.is_autocast_enabled("cpu")) or forward(*a)
    )
    assert extract_features(small_cfg, tiny_model, items).dtype == torch.float32
    assert half and not any(half)


def test_the_speed_is_logged(small_cfg, tiny_model, items, caplog):
    with caplog.at_level("INFO"):
        extract_features(small_cfg, tiny_model, items, "folder:people")
    assert "folder:people: features of 16 images in" in caplog.text and "images/s" in caplog.text


def test_a_damaged_image_is_named_and_the_model_keeps_its_mode(small_cfg, tiny_model, items):
    Path(items.paths[4]).write_bytes(b"no image")
    with pytest.raises(UserError, match=f"{items.paths[4]} is not a readable image"):
        extract_features(small_cfg, tiny_model, items)
    assert tiny_model.training


def test_no_images_at_all(small_cfg, tiny_model, items):
    with pytest.raises(UserError, match="folder:people has no images"):
        extract_features(small_cfg, tiny_model, items[:0], "folder:people")


def test_two_processes_share_the_images_and_agree_with_one(python, small_cfg, tiny_model, items, tmp_path):
    small_cfg.TEST.IMS_PER_BATCH = 2
    (tmp_path / "config.yaml").write_text(small_cfg.dump())
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    processes = [
        subprocess.Popen([python, PROCESS, str(rank), "2", tmp_path], env=environment, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=PATIENCE)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    first, second = (json.loads((tmp_path / f"process_{rank}.json").read_text()) for rank in range(2))

    with np.load(tmp_path / "features.npz") as found:
        for count in (16, 15, 3, 1):
            np.testing.assert_array_equal(found[str(count)], extract_features(small_cfg, tiny_model, items[:count]))
    # 16, 15, 3 and 1 images: the first process takes the larger half, the second may have none.
    assert (first["forwarded"], second["forwarded"]) == ([8, 8, 2, 1], [8, 7, 1, 0])
    assert first["table"] == second["table"] and "| folder:people " in first["table"]
    assert first["errors"] == second["errors"]
    assert "p3_c3.png is not a readable image" in first["errors"][0] and "has a true match" in first["errors"][1]
    assert "no saved features" in first["errors"][2]
