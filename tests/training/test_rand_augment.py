"""RandAugment against torchvision's functions, one image and one operation at a time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from agelens.training.rand_augment import OPERATIONS, Picks, apply_picks, draw_picks, rand_augment
from agelens.training.transfer import sampling_grid
from agelens.training.transforms import Augmentation, augment


def _moved(
    image: Tensor, angle: float = 0.0, x: int = 0, y: int = 0, shear: tuple[float, float] = (0, 0)
) -> Tensor:
    middle = None if shear == (0, 0) else [0.0, 0.0]
    moved: Tensor = tv.affine(
        image, angle, [x, y], 1.0, list(shear), InterpolationMode.NEAREST, center=middle
    )
    return moved


REFERENCES: dict[str, Callable[[Tensor, float], Tensor]] = {
    # strength s in [-1, 1]; the unsigned operations take |s|
    "identity": lambda image, s: image,
    "shear x": lambda image, s: _moved(image, shear=(math.degrees(math.atan(0.3 * s)), 0.0)),
    "shear y": lambda image, s: _moved(image, shear=(0.0, math.degrees(math.atan(0.3 * s)))),
    "translate x": lambda image, s: _moved(image, x=int(150 / 331 * image.shape[2] * s)),
    "translate y": lambda image, s: _moved(image, y=int(150 / 331 * image.shape[1] * s)),
    "rotate": lambda image, s: _moved(image, angle=30.0 * s),
    "brightness": lambda image, s: tv.adjust_brightness(image, 1 + 0.9 * s),
    "colour": lambda image, s: tv.adjust_saturation(image, 1 + 0.9 * s),
    "contrast": lambda image, s: tv.adjust_contrast(image, 1 + 0.9 * s),
    "sharpness": lambda image, s: tv.adjust_sharpness(image, 1 + 0.9 * s),
    "posterise": lambda image, s: tv.posterize(image, 8 - round(4 * abs(s))),
    "solarise": lambda image, s: tv.solarize(image, 255.0 * (1 - abs(s))),
    "autocontrast": lambda image, s: tv.autocontrast(image),
    "equalise": lambda image, s: tv.equalize(image),
}
OF_FLOATS = {"colour", "contrast", "autocontrast"}  # their results often lie at a whole number
GEOMETRIC = {"shear x", "shear y", "translate x", "translate y", "rotate"}


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Four smooth images, one of little contrast and one of a single colour, oblong."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand((4, 3, 5, 6), generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (36, 44), mode="bicubic").clamp(0, 1)
    smooth[2] = 0.4 + 0.1 * smooth[2]
    smooth[3] = 0.3
    return (255 * smooth).round().to(torch.uint8)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_operation_is_torchvisions(operation: str, images: Tensor) -> None:
    assert set(REFERENCES) == set(OPERATIONS)
    for magnitude in (0, 1, 9, 17, 30):
        for sign in (-1, 1):
            drawn = Picks(torch.full((4,), OPERATIONS.index(operation)), torch.full((4,), sign))
            found = apply_picks(images, [drawn], magnitude)
            wanted = torch.stack([REFERENCES[operation](image, sign * magnitude / 30) for image in images])
            apart = (found.int() - wanted.int()).abs()
            if operation in GEOMETRIC:  # a place between two pixels may be rounded to either
                assert (apart > 0).float().mean() < 0.02
            else:
                assert apart.max() <= 1  # numbers are cut, not rounded, to whole ones
                if operation not in OF_FLOATS:
                    assert (apart > 0).float().mean() < 0.01


def test_a_batch_of_many_picks_is_each_image_by_itself(images: Tensor) -> None:
    batch = images.repeat(30, 1, 1, 1)
    rounds = draw_picks(len(batch), 2, torch.Generator().manual_seed(3))
    whole = apply_picks(batch, rounds, 13)
    for row in range(0, len(batch), 7):
        alone = [Picks(picks.operation[row : row + 1], picks.sign[row : row + 1]) for picks in rounds]
        assert torch.equal(apply_picks(batch[row : row + 1], alone, 13)[0], whole[row])


def test_operations_and_signs_are_drawn_uniformly() -> None:
    (picks,) = draw_picks(28_000, 1, torch.Generator().manual_seed(0))
    counts = Counter(zip(picks.operation.tolist(), picks.sign.tolist(), strict=True))
    assert set(counts) == {(number, sign) for number in range(len(OPERATIONS)) for sign in (-1, 1)}
    assert max(abs(count - 1000) for count in counts.values()) < 130  # four deviations


def test_small_images_and_bounds() -> None:
    tiny = torch.randint(0, 256, (60, 3, 2, 2), dtype=torch.uint8)
    assert rand_augment(tiny, 2, 9, torch.Generator().manual_seed(0)).shape == tiny.shape
    with pytest.raises(ValueError, match="magnitude"):
        rand_augment(tiny, 1, 31, torch.Generator())


def test_the_grid_is_torchs() -> None:
    theta = torch.randn((3, 2, 3), generator=torch.Generator().manual_seed(0))
    wanted = torch.nn.functional.affine_grid(theta, [3, 3, 5, 7], align_corners=False)
    torch.testing.assert_close(sampling_grid(theta, 5, 7), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        Augmentation(rotation=9, contrast=0.3, hue=0.1, grey=0.2, tint=0.1, soften=0.4, erase=0.5),
        Augmentation(rotation=9, contrast=0.3, randaugment=2, erase=0.5),
    ],
)
def test_views_do_not_depend_on_how_many_are_made_at_a_time(
    settings: Augmentation, monkeypatch: pytest.MonkeyPatch
) -> None:
    crops = torch.randint(0, 256, (20, 40, 40, 3), dtype=torch.uint8)
    draws = []
    for block in (3, 64):
        monkeypatch.setattr("agelens.training.transforms._BLOCK", block)
        monkeypatch.setattr("agelens.training.transforms._BLOCK_OF_BYTES", block)
        draws.append(augment(crops, settings, 32, torch.Generator().manual_seed(5)))
    assert draws[0].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(draws[0], draws[1], rtol=0, atol=1e-4 if not settings.randaugment else 0.02)
