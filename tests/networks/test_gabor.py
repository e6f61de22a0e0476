"""Bio-inspired features: the filters are Gabor's, the pyramid is what plain loops give."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
import torch

from agelens.networks.backbones import make_backbone
from agelens.networks.gabor import BANDS, GaborPyramid, gabor_kernel
from agelens.training.transforms import normalise


def test_a_kernel_by_hand() -> None:
    # Along x: σ = 1, λ = 4: cos(0), cos(π/2) = 0; across: exp(-γ² / 2) with γ = 0.3.
    middle, above = 1.0, math.exp(-0.045)
    values = np.array([[0, above, 0], [0, middle, 0], [0, above, 0]])
    values -= values.mean()
    values /= np.linalg.norm(values)
    np.testing.assert_allclose(gabor_kernel(3, 1.0, 4.0, 0.0), values, atol=1e-7)


def test_kernels_are_those_of_opencv() -> None:
    cv2 = pytest.importorskip("cv2")
    for side, sigma, wavelength in (filters for _, pair in BANDS for filters in pair):
        for angle in (0.0, 0.7, math.pi / 2):
            wanted = cv2.getGaborKernel((side, side), sigma, angle, wavelength, 0.3, 0.0, cv2.CV_64F)
            wanted -= wanted.mean()
            wanted /= np.linalg.norm(wanted)
            np.testing.assert_allclose(gabor_kernel(side, sigma, wavelength, angle), wanted, atol=1e-6)


@pytest.mark.parametrize("pool", ["max", "std"])
def test_the_pyramid_is_a_plain_loop(pool: Literal["max", "std"]) -> None:
    pyramid = GaborPyramid(pool, orientations=2, input_size=32)
    crops = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8))
    found = pyramid(normalise(crops))[0].numpy()
    assert found.shape == (pyramid.num_features,)
    grey = (crops[0].double() / 255 @ torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)).numpy()
    grey = (grey - grey.mean()) / np.sqrt(grey.var() + 1e-6)
    start = 0
    for band, step in ((0, 1), (3, 2)):
        pooled, filters = BANDS[band]
        start = sum(2 * side**2 for side in (9, 7, 5)[: max(band, 0)])  # squares of the bands before
        for orientation in range(2):
            largest = np.zeros((32 // step, 32 // step))
            for side, sigma, wavelength in filters:
                kernel = gabor_kernel(side, sigma, wavelength, math.pi * orientation / 2).numpy()
                around = np.pad(grey, side // 2, mode="edge")
                for y in range(0, 32, step):
                    for x in range(0, 32, step):
                        response = abs((around[y : y + side, x : x + side] * kernel).sum())
                        largest[y // step, x // step] = max(largest[y // step, x // step], response)
            wide = pooled // step
            starts = range(0, 32 // step - wide + 1, wide // 2)
            for y in starts:
                for x in starts:
                    square = largest[y : y + wide, x : x + wide]
                    wanted = square.max() if pool == "max" else square.std()
                    assert found[start] == pytest.approx(wanted, abs=2e-4)
                    start += 1


def test_light_and_contrast_do_not_count_and_a_flat_image_tells_nothing() -> None:
    pyramid = GaborPyramid(orientations=1, input_size=32)
    crops = np.random.default_rng(0).integers(0, 100, (1, 32, 32, 3))
    changed = 2 * crops + 40
    first, second = (pyramid(normalise(torch.from_numpy(c.astype(np.uint8)))) for c in (crops, changed))
    torch.testing.assert_close(first, second, atol=1e-3, rtol=1e-3)
    flat = pyramid(normalise(torch.full((1, 32, 32, 3), 77, dtype=torch.uint8)))
    assert flat.abs().max() < 1e-2


def test_the_features_of_60_pixels() -> None:
    squares = (19, 14, 11, 9, 8, 6, 6, 5)
    assert make_backbone("bif").num_features == 8 * sum(side**2 for side in squares) == 7360
    pyramid = make_backbone("bif-std")
    assert isinstance(pyramid, GaborPyramid)
    assert pyramid.pool == "std"
    assert not list(make_backbone("bif").parameters())
