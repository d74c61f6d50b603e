"""The synthetic data sets: names, counts, repeatability, and what the pictures must have in common."""

import importlib.util
import json
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat

TOOL = Path(__file__).resolve().parents[2] / "tools" / "make_synthetic_datasets.py"
spec = importlib.util.spec_from_file_location("make_synthetic_datasets", TOOL)
tool = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = tool
spec.loader.exec_module(tool)

from tools.synthetic.layouts import PLANS, PUBLISHED, plan_prid, proportional, spread  # noqa: E402
from tools.synthetic.people import stream  # noqa: E402
from tools.synthetic.scenes import GAP, WIDE, WIDEST, Gap, look_of, make_camera, style_of, take_picture, wide_style  # noqa: E402

PATTERNS = {
    "Market-1501-v15.09.15": r"(bounding_box_(train|test)|query)/(-1|\d{4})_c[1-6]s[1-6]_\d{6,}_\d\d\.jpg",
    "DukeMTMC-reID": r"(bounding_box_(train|test)|query)/\d{4}_c[1-8]_f\d{7}\.jpg",
    "cuhk02": r"P[1-5]/cam[12]/\d{3}_\d{7}\.png",
    "cuhk03": r"images_(detected|labeled)/[1-5]_\d{3}_[12]_\d\d\.png",
    "CUHK-SYSU": r"cropped_image/p\d{5}_n\d\d_s\d{5}_hard[01]\.png",
    "GRID": r"probe/0*[1-9]\d*_[1-8](_\d+){5}\.jpeg|gallery/\d{4}_[1-8](_\d+){5}\.jpeg",
    "prid_2011": r"single_shot/cam_[ab]/person_\d{4}\.png",
    "QMUL-iLIDS": r"images/\d{4}\d{3}\.jpg",
    "viper": r"cam_a/\d{3}_45\.bmp|cam_b/\d{3}_(90|135|180)\.bmp",
    "MSMT17_V1": r"(train|test)/(\d{4})/\2_\d{3,}_(0[1-9]|1[0-5])_0303(morning|noon|afternoon)_\d{4,}_\d\.jpg",
}
IMAGES = {".jpg", ".jpeg", ".png", ".bmp"}


def draw(root: Path, *options: str) -> int:
    return tool.main(["--root", str(root), "--size", "64x32", "--workers", "1", *options])


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    assert draw(folder, "--scale", "tiny") == 0
    return folder


@pytest.mark.parametrize("folder", PATTERNS)
def test_file_names_are_those_of_the_real_set(root, folder):
    names = [path.relative_to(root / folder).as_posix() for path in (root / folder).rglob("*") if path.suffix in IMAGES]
    assert len(names) >= 16
    assert [name for name in names if not re.fullmatch(PATTERNS[folder], name)] == []


def test_images_have_the_size_asked_for(root):
    for folder in PATTERNS:
        path = next(path for path in (root / folder).rglob("*") if path.suffix in IMAGES)
        with Image.open(path) as image:
            assert (image.mode, image.size) == ("RGB", (32, 64))


def test_market_has_distractors_and_junk_in_the_gallery_only(root):
    def people(part):
        return {path.name.split("_")[0] for path in (root / "Market-1501-v15.09.15" / part).iterdir()}

    assert {"0000", "-1"} <= people("bounding_box_test")
    assert people("query") == people("bounding_box_test") - {"0000", "-1"}
    assert not people("bounding_box_train") & people("bounding_box_test")


def test_every_query_has_a_match_in_another_camera(root):
    for folder, gallery, name in (
        ("Market-1501-v15.09.15", "bounding_box_test", r"(.+?)_c(\d)s"),
        ("DukeMTMC-reID", "bounding_box_test", r"(\d+)_c(\d)_"),
        ("GRID", "gallery", r"(\d+)_(\d)_"),
    ):
        parts = [
            {re.match(name, path.name).groups() for path in (root / folder / part).iterdir()}
            for part in ("probe" if folder == "GRID" else "query", gallery)
        ]
        for person, camera in parts[0]:
            assert any(person == other and camera != view for other, view in parts[1])


def test_prid_numbers_above_the_shared_ones_mean_other_people():
    plan = plan_prid(0, PUBLISHED["prid"])
    people = {shot.path.removeprefix("prid_2011/single_shot/"): shot.identity for shot in plan.shots}
    assert people["cam_a/person_0200.png"] == people["cam_b/person_0200.png"]
    assert people["cam_a/person_0201.png"] != people["cam_b/person_0201.png"]
    assert "cam_a/person_0385.png" in people and "cam_b/person_0749.png" in people
    small = plan_prid(0, {"ids": 8, "only_a": 2, "only_b": 4})
    names = {folder: {Path(s.path).name for s in small.shots if folder in s.path} for folder in ("cam_a", "cam_b")}
    assert len(names["cam_a"] & names["cam_b"]) == 8


def test_grid_partitions_list_half_of_the_people(root):
    cells = loadmat(root / "GRID" / "features_and_partitions.mat")["trainIdxAll"]
    people = {int(path.name[:4]) for path in (root / "GRID" / "probe").iterdir()}
    assert cells.shape == (1, 10)
    for split in range(10):
        trained = cells[0, split][0, 0][2].ravel().tolist()
        assert len(set(trained)) == len(people) // 2 and set(trained) <= people


@pytest.mark.parametrize("boxes", ["detected", "labeled"])
def test_cuhk03_protocol_covers_the_images(root, boxes):
    mat = loadmat(root / "cuhk03" / f"cuhk03_new_protocol_config_{boxes}.mat")
    names = [str(cell[0]) for cell in mat["filelist"].ravel()]
    parts = [mat[key].ravel().astype(int) for key in ("train_idx", "query_idx", "gallery_idx")]
    assert sorted(names) == sorted(path.name for path in (root / "cuhk03" / f"images_{boxes}").iterdir())
    assert sorted(np.concatenate(parts)) == list(range(1, len(names) + 1))
    labels = mat["labels"].ravel()
    train, query, gallery = (set(labels[part - 1].tolist()) for part in parts)
    assert query == gallery and not train & query
    assert mat["camId"].ravel().tolist() == [int(name.split("_")[2]) for name in names]


def test_msmt17_lists_name_the_images(root):
    folder = root / "MSMT17_V1"
    listed = [
        f"{'train' if part in ('train', 'val') else 'test'}/{line.split()[0]}"
        for part in ("train", "val", "query", "gallery")
        for line in (folder / f"list_{part}.txt").read_text().splitlines()
    ]
    assert sorted(listed) == sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))


def test_folder_layout_beside_the_known_sets(tmp_path):
    assert draw(tmp_path, "--scale", "tiny", "--folder", "mine") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"mine"}
    for part in ("train", "query", "gallery"):
        assert all(re.fullmatch(r"\d{4}_c[1-4]_\d{3}\.jpg", path.name) for path in (tmp_path / "mine" / part).iterdir())


def test_styles_of_the_old_wide_folders_differ_more_than_those_of_folders():
    def colours(prefix):
        return np.log([style_of(0, f"{prefix}set{k}", WIDEST).tint for k in range(40)])

    narrow, wide = colours(""), colours(WIDE)
    assert (wide.std(0) > 2 * narrow.std(0)).all()


def shots_of(domain: str, gap: Gap) -> list:
    """Pictures of two people by two cameras, five takes of each, and the looks of fifty."""
    cameras = [make_camera(1, domain, number, (64, 32), gap) for number in range(2)]
    return [
        take_picture(1, domain, person, cameras[number], stream(1, "take", person, number, take), gap=gap).tobytes()
        for person in range(2)
        for number in range(2)
        for take in range(5)
    ] + [look_of(1, domain, person, gap) for person in range(50)]


def differ(domain: str, first: Gap, second: Gap) -> bool:
    return shots_of(domain, first) != shots_of(domain, second)


@pytest.mark.parametrize("part", asdict(WIDEST))
def test_every_part_of_the_gap_changes_the_sets_it_is_about_and_no_others(part):
    other = replace(WIDEST, **{part: {"background": 0.0, "wardrobe": 2.0}.get(part, 4.0)})
    assert differ(f"{WIDE}far", WIDEST, other)
    assert differ("near", WIDEST, other) == (part in ("wardrobe", "vividness", "light"))
    assert not differ("viper", WIDEST, other)


def test_the_old_range_is_what_it_was_and_no_gap_is_the_middle_of_the_sources():
    for k in range(20):
        domain = f"{WIDE}set{k}"
        assert style_of(5, domain, WIDEST) == wide_style(stream(5, "style", domain))
        middle = style_of(5, domain, Gap(*[0.0] * len(asdict(WIDEST))))
        assert middle.tint == (1, 1, 1) and (middle.haze, middle.resolution, middle.quality) == (0, 1, 85)
        assert set(middle.places) <= {"plaza", "grass", "street", "road", "corridor", "hall"}
    gaps = [Gap(colour=share) for share in (0.5, 1, 2)]
    widths = [np.std([np.log(style_of(5, f"{WIDE}set{k}", gap).tint) for k in range(30)]) for gap in gaps]
    assert widths[1] == pytest.approx(2 * widths[0]) and widths[2] == pytest.approx(2 * widths[1])


def test_a_wardrobe_is_a_set_s_own_and_vividness_is_how_unlike_its_colours_are():
    def coats(domain, gap):
        return np.array([look_of(0, domain, k, gap).upper for k in range(150)], dtype=float)

    def distance(gap):
        return np.linalg.norm(coats("a", gap).mean(0) - coats("b", gap).mean(0))

    assert distance(replace(WIDEST, wardrobe=1.5)) > 2 * distance(WIDEST)
    spreads = [coats("a", replace(WIDEST, vividness=v)).std(0) for v in (0.0, 0.5, 1.0)]
    assert (spreads[0] < 15).all() and (spreads[1] > 2 * spreads[0]).all() and (spreads[2] > 1.6 * spreads[1]).all()


def test_the_gap_is_read_and_noted_where_it_changes_images(tmp_path, capsys):
    assert tool.read_gap([]) == GAP and tool.read_gap(["old"]) == WIDEST
    assert tool.read_gap(["old", "colour=0.25", "vividness=2"]) == replace(WIDEST, colour=0.25, vividness=2.0)
    for words, message in (
        (["colours=1"], "--gap colours=1: expected old, or PART=X with a part out of colour, "),
        (["colour"], "PART=X"),
        (["colour=-1"], "a number from 0 on"),
        (["light=x"], "a number from 0 on"),
        (["background=1.5"], "of background at most 1"),
    ):
        assert draw(tmp_path, "--scale", "tiny", "--folder", "mine", "--gap", *words) == 2
        assert message in capsys.readouterr().err and not list(tmp_path.iterdir())
    options = ["--scale", "tiny", "--folder", "near", "--wide-folder", "far", "--sets", "viper"]
    assert draw(tmp_path, *options, "--gap", "old", "colour=0.5") == 0
    notes = {name: json.loads((tmp_path / name / tool.MARKER).read_text()) for name in ("near", "far", "viper")}
    assert notes["far"]["gap"]["colour"] == 0.5 and not {"gap"} & (notes["near"].keys() | notes["viper"].keys())
    assert draw(tmp_path, *options, "--gap", "old") == 2
    assert "made with other options (gap {'colour': 0.5" in capsys.readouterr().err


def test_wide_folders_beside_folders_of_the_same_layout(tmp_path, capsys):
    assert draw(tmp_path, "--scale", "tiny", "--folder", "near", "--wide-folder", "far") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"near", "far"}
    near, far = contents(tmp_path / "near"), contents(tmp_path / "far")
    assert len(near) == len(far) and all(
        Path(name).parts[0] in ("train", "query", "gallery") for name in far if name != tool.MARKER
    )
    assert draw(tmp_path, "--scale", "tiny", "--folder", "far") == 2, (
        "a folder of another style must not be taken for it"
    )
    assert "made with other options" in capsys.readouterr().err


def test_same_seed_same_bytes_with_one_and_two_workers(root, tmp_path):
    assert draw(tmp_path, "--scale", "tiny", "--workers", "2") == 0
    assert contents(tmp_path) == contents(root)


def test_another_seed_gives_other_bytes(root, tmp_path):
    assert draw(tmp_path, "--scale", "tiny", "--sets", "viper", "--seed", "1") == 0
    ours, theirs = contents(tmp_path / "viper"), contents(root / "viper")
    assert ours.keys() == theirs.keys()
    assert all(ours[name] != theirs[name] for name in ours)


def test_an_interrupted_run_goes_on(tmp_path):
    options = ("--scale", "tiny", "--sets", "ilids")
    assert draw(tmp_path, *options) == 0
    before = contents(tmp_path)
    lost, kept = sorted((tmp_path / "QMUL-iLIDS" / "images").iterdir())[:2]
    lost.unlink()
    touched = kept.stat().st_mtime_ns
    assert draw(tmp_path, *options) == 0
    assert contents(tmp_path) == before and kept.stat().st_mtime_ns == touched


def test_a_folder_of_somebody_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "viper").mkdir()
    (tmp_path / "viper" / "mine.txt").write_text("precious")
    for options in ((), ("--overwrite",)):
        assert draw(tmp_path, "--scale", "tiny", "--sets", "grid", "viper", *options) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1 and str(tmp_path / "viper") in message
    assert contents(tmp_path) == {"viper/mine.txt": b"precious"}


def test_a_set_of_other_options_is_replaced_only_when_told(tmp_path, capsys):
    options = ("--scale", "tiny", "--sets", "viper")
    assert draw(tmp_path, *options) == 0
    assert draw(tmp_path, *options, "--seed", "1") == 2
    message = capsys.readouterr().err
    assert "seed 0, now 1" in message and "use another --root" in message
    assert message.index("another run's, such as that of make demo") < message.index("--overwrite deletes the set")
    before = contents(tmp_path)
    assert draw(tmp_path, *options, "--seed", "1", "--overwrite") == 0
    assert contents(tmp_path) != before


@pytest.mark.parametrize(
    "options",
    [
        ("--sets", "vipper"),
        ("--ids", "2"),
        ("--images", "1"),
        ("--size", "64"),
        ("--size", "8x8"),
        ("--workers", "0"),
        ("--folder", "a/b"),
        ("--folder", "viper"),
        ("--wide-folder", "viper"),
        ("--folder", "mine", "--wide-folder", "mine"),
        ("--scale", "published", "--images", "9"),
        ("--seed", "-1"),
    ],
)
def test_a_wrong_option_is_one_line(tmp_path, capsys, options):
    assert draw(tmp_path, *options) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and options[-2] in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "images", "people"),
    [
        ("cuhk02", 7264, 1816),
        ("market1501", 29419, 1501),
        ("dukemtmc", 36411, 1812),
        ("cuhk_sysu", 34574, 11934),
        ("cuhk03", 14097 + 14096, 1467),
        ("grid", 500, 250),
        ("prid", 385 + 749, 200 + 185 + 549),
        ("ilids", 476, 119),
        ("viper", 2 * 632, 632),
        ("msmt17", 126441, 4101),
    ],
)
def test_published_scale_has_the_published_counts(name, images, people):
    plan = PLANS[name](0, PUBLISHED[name])
    of_people = [shot for shot in plan.shots if shot.identity < tool.NOBODY]
    assert len(of_people) == images
    assert len({shot.identity for shot in of_people}) == people
    assert len(plan.shots) - images == {"market1501": 2798 + 3819, "grid": 775}.get(name, 0)
    assert len({shot.path for shot in plan.shots}) == len(plan.shots)


def test_shares_add_up():
    assert spread(11, 4) == [3, 3, 3, 2]
    assert proportional(1467, (843, 440, 77, 58, 49)) == [843, 440, 77, 58, 49]
    for total in (5, 6, 24, 100):
        shares = proportional(total, (971, 306, 107, 193, 239))
        assert sum(shares) == total and min(shares) >= 1


def pictures(domain: str, people: int, cameras: int, takes: int) -> np.ndarray:
    """(people, cameras, takes, 64, 32, 3) float drawings."""

    def picture(person: int, camera: int, take: int) -> np.ndarray:
        rng = stream(0, "test", person, camera, take)
        return np.asarray(take_picture(0, domain, person, make_camera(0, domain, camera, (64, 32)), rng), dtype=float)

    return np.array(
        [
            [[picture(person, camera, take) for take in range(takes)] for camera in range(cameras)]
            for person in range(people)
        ]
    )


def test_clothes_last_while_cameras_differ():
    chest = pictures("market1501", 12, 2, 4)[:, :, :, 14:28, 11:21].mean((2, 3, 4))  # (people, cameras, RGB)
    shift = chest.mean(0)
    assert np.abs(shift[0] - shift[1]).max() > 2
    level = chest - shift  # what is left when the camera's own tone is taken away
    same = np.linalg.norm(level[:, 0] - level[:, 1], axis=-1).mean()
    others = np.linalg.norm(level[:, None, 0] - level[None, :, 1], axis=-1)[~np.eye(12, dtype=bool)].mean()
    assert same < 0.6 * others


def test_mean_colour_alone_does_not_tell_people_apart():
    for domain in ("grid", "prid", "ilids", "viper"):
        means = pictures(domain, 60, 2, 1).mean((2, 3, 4))
        nearest = np.linalg.norm(means[:, None, 0] - means[None, :, 1], axis=-1).argmin(1)
        assert (nearest == np.arange(60)).mean() < 0.4


def test_domains_differ_more_than_cameras():
    domains = ("market1501", "dukemtmc", "cuhk02", "cuhk03", "cuhk_sysu", "grid", "prid", "ilids", "viper")
    tones = np.array([pictures(domain, 6, 4, 1).mean((0, 2, 3, 4)) for domain in domains])  # (domains, cameras, RGB)
    between = np.linalg.norm(tones.mean(1) - tones.mean((0, 1)), axis=-1).mean()
    within = np.linalg.norm(tones - tones.mean(1, keepdims=True), axis=-1).mean()
    assert between > within
