"""What happens to an image before the model sees it."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from fastreid.config import get_cfg
from fastreid.config.config import leaves
from fastreid.data.transforms import build_transforms
from fastreid.data.transforms.transforms import RandomPatch
from fastreid.utils.errors import UserError

OFF = {"DO_FLIP": False, "DO_PAD": False, "SIZE_TRAIN": [32, 16], "SIZE_TEST": [32, 16]}
JITTER = {"CJ.ENABLED": True, "CJ.BRIGHTNESS": 0.0, "CJ.CONTRAST": 0.0, "CJ.SATURATION": 0.0, "CJ.HUE": 0.0}
ERASING = {"REA.ENABLED": True, "REA.PROB": 1.0}


def config(**options):
    cfg = get_cfg()
    for key, value in {**OFF, **options}.items():
        cfg.set_leaf(f"INPUT.{key}", value, where="test")
    return cfg


def person(seed=0, size=(20, 48)):
    """A noisy picture, width x height."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def resized(image, height, width):
    return pil_to_tensor(image.resize((width, height), Image.Resampling.BICUBIC)).float()


def train_images(count=24, seed=3, **options):
    """The same picture `count` times through the training transform."""
    transform = build_transforms(config(**options), is_train=True)
    torch.manual_seed(seed)
    image = person()
    return torch.stack([transform(image) for _ in range(count)])


def test_the_test_transform_is_a_bicubic_resize():
    everything = {"DO_FLIP": True, "DO_PAD": True, "CJ.ENABLED": True, "DO_AUTOAUG": True, "DO_AUGMIX": True}
    cfg = config(**everything, **ERASING, SIZE_TRAIN=[8, 8], SIZE_TEST=[40, 24])
    image = person()
    found = build_transforms(cfg, is_train=False)(image)
    assert found.dtype == torch.float32
    assert torch.equal(found, resized(image, 40, 24))


def test_training_without_augmentation_is_a_bicubic_resize():
    assert torch.equal(train_images(1)[0], resized(person(), 32, 16))


def test_by_default_a_training_image_is_flipped_or_not_and_cropped_out_of_a_black_margin():
    image = person(size=(16, 32))
    transform = build_transforms(config(DO_FLIP=True, DO_PAD=True), is_train=True)
    margins = [
        torch.nn.functional.pad(pixels, (10, 10, 10, 10))
        for pixels in (resized(image, 32, 16), resized(image, 32, 16).flip(-1))
    ]
    seen = set()
    for _ in range(40):
        found = transform(image)
        places = [
            (mirrored, top, left)
            for mirrored, margin in enumerate(margins)
            for top in range(21)
            for left in range(21)
            if torch.equal(margin[:, top : top + 32, left : left + 16], found)
        ]
        assert len(places) == 1
        seen.update(places)
    assert {mirrored for mirrored, _, _ in seen} == {0, 1}
    assert len(seen) > 30


@pytest.mark.parametrize("probability, mirrored", [(0.0, False), (1.0, True)])
def test_flip_probability(probability, mirrored):
    plain = resized(person(), 32, 16)
    expected = plain.flip(-1) if mirrored else plain
    assert all(torch.equal(found, expected) for found in train_images(5, DO_FLIP=True, FLIP_PROB=probability))


# option: (what it is changed from, the value it is changed to)
CHANGES = {
    "SIZE_TRAIN": ({}, [16, 32]),
    "DO_AUTOAUG": ({}, True),
    "DO_FLIP": ({}, True),
    "FLIP_PROB": ({"DO_FLIP": True}, 0.9),
    "DO_PAD": ({}, True),
    "PADDING": ({"DO_PAD": True}, 4),
    "PADDING_MODE": ({"DO_PAD": True}, "edge"),
    "CJ.ENABLED": ({}, True),
    "CJ.PROB": ({"CJ.ENABLED": True}, 0.5),
    "CJ.BRIGHTNESS": (JITTER, 0.15),
    "CJ.CONTRAST": (JITTER, 0.15),
    "CJ.SATURATION": (JITTER, 0.1),
    "CJ.HUE": (JITTER, 0.1),
    "DO_AUGMIX": ({}, True),
    "REA.ENABLED": ({}, True),
    "REA.PROB": ({"REA.ENABLED": True}, 1.0),
    "REA.MEAN": (ERASING, [1.0, 2.0, 3.0]),
    "RPT.ENABLED": ({}, True),
    "RPT.PROB": ({"RPT.ENABLED": True}, 1.0),
}


@pytest.mark.parametrize("option", CHANGES)
def test_each_option_changes_the_training_images_and_keeps_them_in_range(option):
    before, value = CHANGES[option]
    plain, changed = train_images(**before), train_images(**{**before, option: value})
    assert plain.shape != changed.shape or not torch.equal(plain, changed)
    assert changed.dtype == torch.float32
    assert changed.min() >= 0 and changed.max() <= 255


def test_every_option_of_input_is_covered_here():
    assert {key for key, _ in leaves(get_cfg().INPUT)} == set(CHANGES) | {"SIZE_TEST"}


def test_jitter_of_probability_0_changes_nothing():
    plain = resized(person(), 32, 16)
    assert all(torch.equal(found, plain) for found in train_images(5, **{"CJ.ENABLED": True, "CJ.PROB": 0.0}))


@pytest.mark.parametrize(
    "options",
    [
        {"DO_AUTOAUG": True},
        {"DO_AUGMIX": True},
        {"DO_FLIP": True, "DO_PAD": True},
        {"CJ.ENABLED": True},
        ERASING,
        {"RPT.ENABLED": True, "RPT.PROB": 1.0},
    ],
)
def test_torch_s_seed_alone_decides_the_images(options):
    np.random.seed(1)
    first = train_images(**options)
    np.random.seed(2)
    assert torch.equal(first, train_images(**options))
    assert not torch.equal(first, train_images(seed=4, **options))


def test_an_erased_rectangle_is_filled_with_the_mean():
    mean = [0.485 * 255, 0.456 * 255, 0.406 * 255]
    plain = resized(person(), 32, 16)
    for found in train_images(40, **ERASING):
        erased = (found != plain).any(0)
        if not erased.any():
            continue  # no rectangle fitted in ten tries
        rows, columns = erased.any(1).nonzero().squeeze(1), erased.any(0).nonzero().squeeze(1)
        rectangle = found[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert torch.equal(rectangle, torch.tensor(mean)[:, None, None].expand_as(rectangle))
        assert rectangle[0].numel() <= 0.45 * 32 * 16  # 0.4 of the image, up to rounding


def test_erasing_hits_its_share_of_the_images():
    plain = resized(person(), 32, 16)
    hit = sum(not torch.equal(found, plain) for found in train_images(200, **{"REA.ENABLED": True, "REA.PROB": 0.5}))
    assert 70 < hit < 130


def flat(value):
    return torch.full((3, 32, 16), float(value))


def test_a_random_patch_comes_from_an_earlier_image():
    patch = RandomPatch(prob=1.0)
    found = [patch(flat(value)) for value in range(60)]
    changed = 0
    for value, image in enumerate(found):
        values = set(image.unique().tolist())
        assert len(values - {float(value)}) <= 1 and max(values) <= value
        pasted = image[0] != value
        if pasted.any():
            changed += 1
            rows, columns = pasted.any(1).nonzero(), pasted.any(0).nonzero()
            assert pasted.sum() == (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
            assert (image == image[0]).all()
    assert changed > 30


def test_random_patches_begin_when_enough_are_collected():
    patch = RandomPatch(prob=1.0, min_patches=10)
    for value in range(9):
        assert torch.equal(patch(flat(value)), flat(value))


def test_random_patches_leave_the_image_they_were_given_alone():
    patch = RandomPatch(prob=1.0, min_patches=1)
    images = [flat(value) for value in range(20)]
    for image in images:
        patch(image)
    assert all(torch.equal(image, flat(value)) for value, image in enumerate(images))
    assert len(patch.patches) <= 20


def test_random_patches_of_probability_0_are_not_pasted():
    patch = RandomPatch(prob=0.0)
    assert all(torch.equal(patch(flat(value)), flat(value)) for value in range(30))


def test_the_pool_of_random_patches_forgets_the_oldest():
    patch = RandomPatch(prob=0.0, pool=5)
    for value in range(40):
        patch(flat(value))
    assert len(patch.patches) == 5
    assert min(part.min().item() for part in patch.patches) > 25


@pytest.mark.parametrize(
    "option, value",
    [("PADDING_MODE", "zeros"), ("CJ.HUE", 0.7), ("CJ.BRIGHTNESS", -1.0), ("REA.PROB", 1.5), ("REA.MEAN", [1.0, 2.0])],
)
def test_a_value_out_of_range_is_an_error_of_the_user(option, value):
    with pytest.raises(UserError, match=option):
        train_images(2, **{"DO_PAD": True, "CJ.ENABLED": True, **ERASING, option: value})


def test_a_size_that_is_not_height_and_width_is_an_error():
    with pytest.raises(UserError, match="SIZE_TRAIN"):
        train_images(2, DO_PAD=True, SIZE_TRAIN=[32])
