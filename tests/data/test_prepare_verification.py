"""Verification of data sets: counts, verdicts, and a line of advice for each kind of damage."""

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from scipy.io import savemat

from fastreid.data.datasets import dataset_names
from fastreid.data.prepare import SETS, chosen_sets, prepare_sets
from fastreid.utils.errors import UserError

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def load_tool(name: str):
    spec = importlib.util.spec_from_file_location(f"{name}_for_verification", TOOLS / f"{name}.py")
    tool = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = tool
    spec.loader.exec_module(tool)
    return tool


command = load_tool("prepare_datasets")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("drawn")
    draw = load_tool("make_synthetic_datasets")
    assert draw.main(["--root", str(root), "--size", "32x16", "--workers", "1", "--scale", "tiny"]) == 0
    return root


@pytest.fixture
def copy(drawn, tmp_path):
    """Copies of some of the synthetic sets, by their folders, in a root of their own."""

    def copy_of(*folders: str) -> Path:
        for folder in folders:
            shutil.copytree(drawn / folder, tmp_path / "data" / folder)
        return tmp_path / "data"

    return copy_of


def check(root: Path, name: str, write: bool = False):
    [report] = prepare_sets([name], root, check_only=not write, workers=1)
    return report


def files_below(root: Path) -> set[Path]:
    return set(root.rglob("*"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-60])


def first_in(folder: Path) -> Path:
    return min(path for path in folder.iterdir() if not path.name.startswith("."))


def nest(folder: Path, name: str) -> None:
    folder.rename(folder.with_name("aside"))
    folder.mkdir()
    folder.with_name("aside").rename(folder / name)


DAMAGES = {
    "wrong folder name": (
        "viper",
        lambda r: (r / "viper").rename(r / "VIPeR"),
        r"found VIPeR/, expected viper/: rename",
    ),
    "wrong folder name, of the archive": (
        "grid",
        lambda r: (r / "GRID").rename(r / "underground_reid"),
        r"found underground_reid/, expected GRID/: rename",
    ),
    "wrong folder name, inside": (
        "ilids",
        lambda r: (r / "QMUL-iLIDS/images").rename(r / "QMUL-iLIDS/Persons"),
        "found Persons/, expected images/",
    ),
    "one level too deep": (
        "viper",
        lambda r: nest(r / "viper", "VIPeR"),
        "found VIPeR/ with .*, expected .*: move what is in VIPeR/ up",
    ),
    "one level too deep, the set": (
        "prid",
        lambda r: nest(r / "prid_2011", "prid_2011") or (r / "prid_2011").rename(r / "downloads"),
        r"found downloads/prid_2011/, expected prid_2011/ in .*--root",
    ),
    "one level too high": (
        "viper",
        lambda r: (r / "viper/cam_b").rename(r / "cam_b"),
        r"found .*/cam_b/, expected .*viper/cam_b/: move it there",
    ),
    "folder missing": ("prid", lambda r: shutil.rmtree(r / "prid_2011/single_shot"), "has no single_shot/"),
    "broken link": (
        "cuhk02",
        lambda r: (shutil.rmtree(r / "cuhk02"), (r / "cuhk02").symlink_to(r / "unmounted")),
        "link to .*unmounted, which is not there.*mount",
    ),
    "file in a folder's place": (
        "grid",
        lambda r: (shutil.rmtree(r / "GRID/probe"), (r / "GRID/probe").touch()),
        "probe is a file, expected a folder: unpack",
    ),
    "archive not unpacked": (
        "viper",
        lambda r: (shutil.rmtree(r / "viper"), (r / "VIPeR.v1.0.zip").touch()),
        "VIPeR.v1.0.zip, expected",
    ),
    "no images": ("cuhk02", lambda r: [path.unlink() for path in (r / "cuhk02/P3/cam2").iterdir()], "unpack the set"),
    "name cannot be read": (
        "market1501",
        lambda r: [(r / f"Market-1501-v15.09.15/query/holiday{n}.jpg").touch() for n in (1, 2)],
        r"query/holiday1.jpg and 1 more, expected names like 0002_c1s1_000451_03.jpg: rename or remove",
    ),
    "unreadable image": (
        "dukemtmc",
        lambda r: truncate(first_in(r / "DukeMTMC-reID/query")),
        r"query/0004_c6_f0046266.jpg \(.*truncated.*\): get it from the archive again",
    ),
    "unreadable image, PNG": (
        "prid",
        lambda r: truncate(r / "prid_2011/single_shot/cam_a/person_0003.png"),
        "person_0003",
    ),
    "unreadable image, BMP": ("viper", lambda r: truncate(first_in(r / "viper/cam_b")), "truncated"),
    "unreadable image, text": (
        "cuhk03_labeled",
        lambda r: first_in(r / "cuhk03/images_labeled").write_text("?"),
        "cannot",
    ),
    "empty file": ("cuhk02", lambda r: first_in(r / "cuhk02/P1/cam1").write_bytes(b""), "of 0 bytes: get it"),
    "cannot be used, unpaired": (
        "viper",
        lambda r: first_in(r / "viper/cam_b").unlink(),
        "person 0 has an image in one",
    ),
    "cannot be used, doubled": (
        "prid",
        lambda r: shutil.copy(
            first_in(r / "prid_2011/single_shot/cam_a"), r / "prid_2011/single_shot/cam_a/person_1.png"
        ),
        "remove one",
    ),
    "cannot be used, partitions missing": (
        "grid",
        lambda r: (r / "GRID/features_and_partitions.mat").unlink(),
        "partitions.mat is missing.*unpacked whole$",
    ),
    "cannot be used, partitions broken": (
        "grid",
        lambda r: truncate(r / "GRID/features_and_partitions.mat"),
        "cannot read .*partitions.mat as a MATLAB v5",
    ),
    "cannot be used, partitions of another kind": (
        "grid",
        lambda r: savemat(r / "GRID/features_and_partitions.mat", {"x": 1}),
        "has no variable trainIdxAll",
    ),
    "cannot be used, splits": (
        "ilids",
        lambda r: (r / "QMUL-iLIDS/splits.json").write_text("[1"),
        "fix it, or delete it",
    ),
    "cannot be used, protocol": (
        "cuhk03_detected",
        lambda r: (r / "cuhk03/cuhk03_new_protocol_config_detected.mat").write_bytes(b"x" * 300),
        "as a MATLAB v5 file",
    ),
    "protocol missing": (
        "cuhk03_detected",
        lambda r: (r / "cuhk03/cuhk03_new_protocol_config_detected.mat").unlink(),
        r"CUHK03 \(767/700\) cannot be used without it, DG_CUHK03_detected can",
    ),
    "list missing": ("msmt17_v1", lambda r: (r / "MSMT17_V1/list_query.txt").unlink(), "list_query.txt: unpack"),
    "list missing, validation": (
        "msmt17_v1",
        lambda r: (r / "MSMT17_V1/list_val.txt").unlink(),
        "list_val.txt.*DG_MSMT17_V1 cannot be used without it, MSMT17_V1 can",
    ),
    "line cannot be read": (
        "msmt17_v1",
        lambda r: (r / "MSMT17_V1/list_train.txt").open("a").write("0000.jpg\n"),
        r"list_train.txt line \d+, '0000.jpg', expected lines like",
    ),
    "image missing": (
        "msmt17_v1",
        lambda r: first_in(r / "MSMT17_V1/test/0002").unlink(),
        r"list_query.txt names test/0002",
    ),
    "not there": ("cuhk_sysu", lambda r: shutil.rmtree(r / "CUHK-SYSU"), "no folder .*CUHK-SYSU: put the set there"),
}
STILL_USABLE = {"protocol missing", "list missing, validation"}


@pytest.mark.parametrize("kind", DAMAGES)
def test_each_kind_of_damage_is_one_line_that_says_what_to_do(copy, kind):
    name, harm, message = DAMAGES[kind]
    root = copy(SETS[name].folder)
    assert check(root, name).usable
    harm(root)
    files = files_below(root)
    report = check(root, name)
    assert files_below(root) == files  # a check writes nothing
    assert report.usable == (kind in STILL_USABLE)
    found = [problem for problem in report.problems if problem.kind == kind.split(",")[0]]
    assert len(found) == 1, report.problems
    assert re.search(message, found[0].message), found[0].message
    assert "\n" not in found[0].message


def test_all_damages_of_a_set_are_reported_at_once(copy):
    root = copy("Market-1501-v15.09.15")
    folder = root / "Market-1501-v15.09.15"
    truncate(first_in(folder / "query"))
    first_in(folder / "bounding_box_train").write_bytes(b"")
    (folder / "bounding_box_test" / "x.jpg").touch()
    kinds = [problem.kind for problem in check(root, "market1501").problems]
    assert sorted(kinds) == ["empty file", "name cannot be read", "unreadable image"]


def test_other_counts_than_published_are_a_warning_and_the_published_ones_are_not(copy, monkeypatch):
    root = copy("viper")
    report = check(root, "viper")
    [problem] = report.problems
    assert (report.verdict, problem.kind, problem.fatal) == ("warning", "other counts than published", False)
    assert "8 pairs (published 632)" in problem.message
    monkeypatch.setattr(SETS["viper"], "published", {"pairs": 8})
    assert check(root, "viper").verdict == "ok"


@pytest.mark.parametrize(
    "name, numbers, counts",
    [
        ("market1501", (24, 6, 6), {"images": 24, "people": 6}),
        ("grid", (20, 8, 8), {"pairs": 8, "other images": 4}),
        ("prid", (22, 14, 2), {"images in camera a": 10, "images in camera b": 12}),
        ("cuhk02", (24, 6, 10), None),
        ("msmt17_v1", (27, 6, 11), {"images": 27, "people": 6}),
    ],
)
def test_what_is_counted(copy, name, numbers, counts):
    root = copy(SETS[name].folder)
    report = check(root, name)
    assert (report.images, report.identities, report.cameras) == numbers
    assert counts is None or report.counts == counts


def test_prid_numbers_above_200_are_other_people_in_each_camera(copy):
    root = copy("prid_2011")
    for camera in "ab":
        folder = root / "prid_2011/single_shot" / f"cam_{camera}"
        shutil.copy(first_in(folder), folder / "person_0201.png")
    assert check(root, "prid").identities == 16


def test_viper_split_folders_count_as_the_people_they_show(copy):
    root = copy("viper")
    for number in range(1, 11):
        for part, camera in (("query", "cam_a"), ("gallery", "cam_b")):
            shutil.copytree(root / "viper" / camera, root / "viper" / f"split_{number}a" / part)
    shutil.rmtree(root / "viper" / "cam_a")
    report = check(root, "viper", write=True)
    assert (report.verdict, report.images, report.counts) == ("warning", 16, {"pairs": 8})
    assert report.made == []


@pytest.mark.parametrize(
    "name, file",
    [
        ("grid", "GRID/splits.json"),
        ("prid", "prid_2011/splits_single_shot.json"),
        ("ilids", "QMUL-iLIDS/splits.json"),
        ("viper", "viper/splits.json"),
    ],
)
def test_splits_are_written_once_and_kept(copy, name, file):
    root = copy(SETS[name].folder)
    check(root, name)
    assert not (root / file).exists()
    assert check(root, name, write=True).made == [str(root / file)]
    first = (root / file).read_bytes()
    assert check(root, name, write=True).made == []
    assert (root / file).read_bytes() == first and len(json.loads(first)) == 10


def test_grid_needs_no_matlab_file_once_its_splits_are_written(copy):
    root = copy("GRID")
    check(root, "grid", write=True)
    (root / "GRID/features_and_partitions.mat").unlink()
    assert check(root, "grid").usable


def test_both_versions_of_msmt17_are_checked(copy):
    root = copy("MSMT17_V1")
    shutil.copytree(root / "MSMT17_V1", root / "MSMT17_V2")
    for part in ("train", "test"):
        (root / "MSMT17_V2" / part).rename(root / "MSMT17_V2" / f"mask_{part}_v2")
    shutil.rmtree(root / "MSMT17_V1/test")
    assert check(root, "msmt17_v2").usable and not check(root, "msmt17_v1").usable


# The command


@pytest.mark.parametrize("name", dataset_names())
def test_every_name_in_datasets_is_understood(name):
    sets = chosen_sets(name)
    assert sets and set(sets) <= set(SETS)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="no data set 'vipper': did you mean one of viper"):
        chosen_sets("vipper")


def run(root: Path, *options: str) -> int:
    return command.main(["--root", str(root), "--workers", "1", *options])


def test_exit_status_tells_whether_the_sets_asked_for_can_be_used(copy, tmp_path, capsys):
    root = copy(*{SETS[name].folder for name in SETS} - {"MSMT17_V2"})
    assert run(root) == 0
    first_in(root / "viper/cam_a").write_bytes(b"")
    assert run(root, "--check", "grid", "DG_PRID") == 0
    assert run(root, "--check", "grid", "viper") == 1
    assert run(root, "--check") == 1
    shutil.rmtree(root / "viper")
    assert run(root, "--check") == 0  # what is not there was not asked for
    assert run(root, "--check", "viper") == 1
    assert run(root, "--check", "msmt17") == 0  # either version
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty") == 1
    with pytest.raises(UserError, match="the data root .*nowhere is missing"):
        run(tmp_path / "nowhere")
    with pytest.raises(UserError, match="--workers 0"):
        run(root, "--workers", "0")


def test_table_and_sheet_show_every_set_and_every_damage(copy, capsys):
    root = copy("viper", "QMUL-iLIDS", "CUHK-SYSU")
    first_in(root / "viper/cam_a").write_bytes(b"")
    run(root, "--check", "viper", "ilids", "cuhk_sysu")
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("viper: ")] == [
        "viper: empty file: cam_a/000_45.bmp of 0 bytes: get it from the archive again"
    ]
    assert lines[-5].split() == ["set", "images", "identities", "cameras", "expected", "verdict"]
    assert lines[-2].split() == ["ilids", "32", "8", "4", "476", "/", "119", "warning"]
    assert lines[-3].split()[-1] == "unusable"


def test_json_report_for_scripts(copy, tmp_path, capsys):
    root = copy("viper", "QMUL-iLIDS")
    empty = first_in(root / "viper/cam_a")
    empty.write_bytes(b"")
    assert run(root, "--check", "--json", str(tmp_path / "out" / "report.json"), "viper", "ilids") == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["usable"] is False and list(report["sets"]) == ["viper", "ilids"]
    viper, ilids = report["sets"].values()
    assert viper["problems"] == [
        {
            "kind": "empty file",
            "fatal": True,
            "files": [str(empty)],
            "message": "cam_a/000_45.bmp of 0 bytes: get it from the archive again",
        }
    ]
    assert (ilids["verdict"], ilids["counts"], ilids["published"]) == (
        "warning",
        {"images": 32, "people": 8},
        {"images": 476, "people": 119},
    )
