"""CUHK03 and CUHK-SYSU out of the publishers' formats."""

import importlib.util
import os
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from fastreid.data.datasets import build_dataset
from fastreid.data.prepare import prepare_sets
from fastreid.data.prepare.cuhk03 import image_name, images_in_archive
from fastreid.data.prepare.cuhk_sysu import Scene, clipped, cut, read_annotation
from fastreid.utils.errors import UserError

TOOL = Path(__file__).resolve().parents[2] / "tools" / "make_synthetic_datasets.py"
SETS = ["cuhk03_detected", "cuhk03_labeled", "cuhk_sysu"]


def draw(root: Path, *options: str) -> int:
    spec = importlib.util.spec_from_file_location("make_synthetic_datasets_raw", TOOL)
    tool = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = tool
    spec.loader.exec_module(tool)
    return tool.main(["--root", str(root), "--size", "32x16", "--workers", "1", "--scale", "tiny", *options])


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def prepare(root: Path, *names: str, check: bool = False):
    return {report.name: report for report in prepare_sets(names, root, check, workers=1)}


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("archives")
    assert draw(root, "--raw", "--sets", "cuhk03", "cuhk_sysu") == 0
    return contents(root)


@pytest.fixture
def raw(archives, tmp_path) -> Path:
    for name, content in archives.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_raw_sets_hold_the_publishers_files_only_and_the_same_seed_gives_the_same_bytes(archives, tmp_path):
    assert {Path(name).parts[1] for name in archives} == {
        "cuhk03_release",
        "cuhk03_new_protocol_config_detected.mat",
        "cuhk03_new_protocol_config_labeled.mat",
        "Image",
        "annotation",
        ".made_by_make_synthetic_datasets.json",
    }
    assert draw(tmp_path, "--raw", "--sets", "cuhk03", "cuhk_sysu") == 0
    assert contents(tmp_path) == archives
    before = (tmp_path / "cuhk03" / "cuhk03_release" / "cuhk-03.mat").stat().st_mtime_ns
    assert draw(tmp_path, "--raw", "--sets", "cuhk03", "cuhk_sysu") == 0
    assert (tmp_path / "cuhk03" / "cuhk03_release" / "cuhk-03.mat").stat().st_mtime_ns == before


def test_raw_has_no_room_for_more_images_than_the_archive_has_cells(tmp_path, capsys):
    assert draw(tmp_path, "--raw", "--images", "11") == 2
    assert "--images 11: cuhk-03.mat has room for 10" in capsys.readouterr().err


def test_drawn_archive_is_a_matlab_file_of_cells(raw):
    path = raw / "cuhk03" / "cuhk03_release" / "cuhk-03.mat"
    assert path.read_bytes()[:19] == b"MATLAB 7.3 MAT-file" and path.read_bytes()[124:128] == b"\x00\x02IM"
    with h5py.File(path) as file:
        assert file["detected"].shape == (1, 5) and file["testsets"].shape == (1, 20)
        first = file[file["detected"][0, 0]]
        assert first.shape[0] == 10 and file[first[0, 0]].shape == (3, 16, 32)
        assert file[first[9, 0]].attrs["MATLAB_empty"] == 1 and file[first[9, 0]].ndim == 1
        assert file[file["testsets"][0, 0]].shape[0] == 2


def test_cuhk03_images_come_out_of_the_archive_as_they_went_in(raw, tmp_path_factory):
    plain = tmp_path_factory.mktemp("plain")
    assert draw(plain, "--sets", "cuhk03") == 0
    reports = prepare(raw, "cuhk03_detected", "cuhk03_labeled")
    assert {report.verdict for report in reports.values()} == {"warning"}  # only for the small number of images
    for boxes in ("detected", "labeled"):
        ours, drawn = (sorted((root / "cuhk03" / f"images_{boxes}").iterdir()) for root in (raw, plain))
        assert [path.name for path in ours] == [path.name for path in drawn] and len(ours) == 24
        for one, other in zip(ours, drawn, strict=True):
            assert np.array_equal(np.asarray(Image.open(one)), np.asarray(Image.open(other)))


def test_cuhk03_classic_splits_follow_the_archive(raw):
    prepare(raw, "cuhk03_detected")
    test = build_dataset("CUHK03_classic", raw).test()
    assert len(test.splits) == 20
    with h5py.File(raw / "cuhk03" / "cuhk03_release" / "cuhk-03.mat") as file:
        people = [file[cell][()].T.astype(int).tolist() for cell in file["testsets"][0]]
    for split, tested in zip(test.splits, people, strict=True):
        wanted = sorted(pair * 1_000_000 + person for pair, person in tested)
        assert sorted(set(test.items.pids[split.query].tolist())) == wanted
        assert sorted(test.items.pids[split.gallery].tolist()) == wanted  # one image of each
        assert set((test.items.camids[split.query] % 2).tolist()) == {0}
        assert set((test.items.camids[split.gallery] % 2).tolist()) == {1}


def test_cuhk03_new_split_is_read_from_json_once_prepared(raw):
    prepare(raw, "cuhk03_labeled")
    before = build_dataset("CUHK03_labeled", raw).test()
    (raw / "cuhk03" / "cuhk03_new_protocol_config_labeled.mat").unlink()
    after = build_dataset("CUHK03_labeled", raw).test()
    assert list(before.items) == list(after.items) and (before.splits[0].query == after.splits[0].query).all()
    assert len(build_dataset("CUHK03_labeled", raw).train()) == 12
    splits = raw / "cuhk03" / "splits_new_labeled.json"
    negative = splits.read_text().replace('"camId": [\n    1', '"camId": [\n    -1')
    for content, message in (
        ("[", "cannot be read as JSON"),
        ("{}", "filelist is a list of str"),
        (negative, "not be negative"),
    ):
        splits.write_text(content)
        with pytest.raises(UserError, match=f"{message}.*delete it"):
            build_dataset("CUHK03_labeled", raw).train()


@pytest.mark.parametrize("name", ["DG_CUHK03_detected", "DG_CUHK_SYSU", "CUHK03_classic"])
def test_readers_name_the_tool_when_only_the_archive_is_there(raw, name):
    with pytest.raises(UserError, match=f"missing.* run 'python tools/prepare_datasets.py {name}'"):
        data = build_dataset(name, raw)
        data.test() if name == "CUHK03_classic" else data.train()


def test_an_interrupted_run_goes_on_and_leaves_what_is_there(raw):
    prepare(raw, *SETS)
    whole = contents(raw)
    folders = [raw / "cuhk03" / "images_detected", raw / "CUHK-SYSU" / "cropped_image"]
    kept = {}
    for folder in folders:
        lost, *rest = sorted(folder.iterdir())
        lost.unlink()
        leftover = folder / ".0123.tmp.png"
        leftover.write_bytes(b"half")
        os.utime(leftover, (time.time() - 3600,) * 2)
        kept |= {path: path.stat().st_mtime_ns for path in rest}
    reports = prepare(raw, *SETS)
    assert reports["cuhk03_detected"].made == [f"1 images in {folders[0]}"]
    assert reports["cuhk_sysu"].made == [f"1 crops in {folders[1]}"] and reports["cuhk03_labeled"].made == []
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert contents(raw) == whole


def test_check_writes_nothing_and_says_what_is_not_prepared(raw):
    before = contents(raw)
    reports = prepare(raw, *SETS, check=True)
    assert contents(raw) == before
    for report in reports.values():
        assert report.verdict == "unusable"
        [problem] = report.problems
        assert problem.kind == "not prepared" and "lacks 24 of the 24" in problem.message


def test_two_processes_make_the_same_files(raw):
    prepare_sets(["cuhk_sysu"], raw, False, workers=2)
    ours = contents(raw / "CUHK-SYSU" / "cropped_image")
    for path in (raw / "CUHK-SYSU" / "cropped_image").iterdir():
        path.unlink()
    prepare(raw, "cuhk_sysu")
    assert contents(raw / "CUHK-SYSU" / "cropped_image") == ours


def test_cuhk03_archive_of_another_kind_is_explained(raw):
    path = raw / "cuhk03" / "cuhk03_release" / "cuhk-03.mat"
    whole = path.read_bytes()
    for content in (whole[:-5000], b"no such thing" * 99):
        path.write_bytes(content)
        [problem] = prepare(raw, "cuhk03_detected")["cuhk03_detected"].problems
        assert problem.kind == "cannot be prepared" and "MATLAB v7.3 (HDF5)" in problem.message
    with h5py.File(path, "w") as file:
        file["detected"] = np.zeros(3)
    with pytest.raises(UserError, match="expected a cell of references in detected"):
        images_in_archive(path, "detected")
    with h5py.File(path, "w") as file:
        image = file.create_dataset("image", data=np.zeros((3, 4, 8), np.uint8)).ref
        pair = file.create_dataset("pair", data=np.full((9, 2), image, dtype=object), dtype=h5py.ref_dtype).ref
        file.create_dataset("detected", data=np.full((1, 5), pair, dtype=object), dtype=h5py.ref_dtype)
    with pytest.raises(UserError, match="expected 5 pairs of people x 10 views in detected, found 2 x 9, "):
        images_in_archive(path, "detected")


def test_cuhk03_names_number_the_views_as_the_archive_does():
    assert image_name((1, 1, 5)) == "1_001_1_05.png" and image_name((5, 49, 6)) == "5_049_2_06.png"


# CUHK-SYSU


def test_boxes_count_from_one_include_both_ends_and_are_clipped():
    assert clipped((1, 1, 3, 5), 20, 20) == (0, 0, 4, 6)
    assert clipped((-2, 18, 8, 8), 20, 20) == (0, 17, 6, 20)


def test_crops_are_the_pixels_of_the_box(tmp_path):
    rows, columns = np.mgrid[:20, :30]
    pixels = np.stack([rows, columns, 0 * rows], -1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "s7.png")
    boxes = {"whole.png": (3, 2, 4, 9), "edge.png": (28, 15, 9, 9), "out.png": (31, 1, 4, 4)}
    scene = Scene(tmp_path / "s7.png", boxes)
    [(name, reason)] = cut(scene, tmp_path)
    assert name == "out.png" and "outside" in reason and not (tmp_path / "out.png").exists()
    assert np.array_equal(np.asarray(Image.open(tmp_path / "whole.png")), pixels[1:11, 2:7])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "edge.png")), pixels[14:, 27:])


def make_annotation(path: Path, people: list[tuple[str, list[tuple[str, list[int], int]]]]) -> None:
    rows = np.empty(len(people), dtype=[("idname", object), ("nAppear", object), ("scene", object)])
    for position, (name, scenes) in enumerate(people):
        cells = np.empty(len(scenes), dtype=[("imname", object), ("idlocate", object), ("ishard", object)])
        cells[:] = [(image, np.array([box], dtype=float), float(hard)) for image, box, hard in scenes]
        rows[position] = (name, float(len(scenes)), cells)
    savemat(path, {"Person": rows})


def test_annotation_gives_names_as_readers_expect_them(tmp_path):
    path = tmp_path / "Person.mat"
    make_annotation(
        path,
        [
            ("p1", [("s12.jpg", [1, 2, 3, 4], 0), ("s7.jpg", [5, 6, 7, 8], 1)]),
            ("p11934", [("s12.jpg", [9, 9, 9, 9], 0)]),
        ],
    )
    scenes = {scene.image.name: scene.crops for scene in read_annotation(path, tmp_path)}
    assert scenes == {
        "s12.jpg": {"p00001_n01_s00012_hard0.png": (1, 2, 3, 4), "p11934_n01_s00012_hard0.png": (9,) * 4},
        "s7.jpg": {"p00001_n02_s00007_hard1.png": (5, 6, 7, 8)},
    }
    savemat(path, {"Person": np.zeros(3)})
    with pytest.raises(UserError, match="element 1 of Person is not a struct"):
        read_annotation(path, tmp_path)


@pytest.mark.parametrize(
    "image, box, hard",
    [
        ("/etc/s1.jpg", [1, 2, 3, 4], 0),
        ("../s1.jpg", [1, 2, 3, 4], 0),
        ("a/../../s1.jpg", [1, 2, 3, 4], 0),
        ("s1.jpg" + "x" * 300, [1, 2, 3, 4], 0),
        (f"s{10**12}.jpg", [1, 2, 3, 4], 0),
        ("s1.jpg", [1, 2, 3, np.nan], 0),
        ("s1.jpg", [1, 2, np.inf, 4], 0),
        ("s1.jpg", [1, 2, 3], 0),
        ("s1.jpg", [1, 2, 3, 4], 7),
        ("", [1, 2, 3, 4], 0),
    ],
)
def test_an_annotation_leads_nowhere_outside_of_its_scenes(tmp_path, image, box, hard):
    make_annotation(tmp_path / "Person.mat", [("p1", [(image, box, hard)])])
    with pytest.raises(UserError, match="element 1 of Person is not a struct"):
        read_annotation(tmp_path / "Person.mat", tmp_path)


def test_boxes_count_the_pixels_as_they_are_stored(tmp_path):
    exif, pixels = Image.Exif(), np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "s7.png", exif=exif)
    assert cut(Scene(tmp_path / "s7.png", {"a.png": (3, 2, 4, 9)}), tmp_path) == []
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), pixels[1:11, 2:7])


def test_scene_that_is_missing_or_broken_is_named_and_the_others_are_cropped(raw):
    first, second, *_ = sorted((raw / "CUHK-SYSU" / "Image" / "SSM").iterdir())
    first.unlink()
    second.write_bytes(second.read_bytes()[:300])
    report = prepare(raw, "cuhk_sysu")["cuhk_sysu"]
    assert report.verdict == "unusable" and report.images == 20
    messages = {problem.kind: problem.message for problem in report.problems}
    assert set(messages) == {"scene missing", "cannot be cropped"}
    assert first.name in messages["scene missing"] and second.name in messages["cannot be cropped"]
