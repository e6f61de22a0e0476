"""The look of an aligned crop."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from agelens.faces.appearance import MEASURES, crop_appearance


def look(crop: NDArray[np.uint8]) -> dict[str, float]:
    return dict(zip(MEASURES, crop_appearance(crop[None])[0].tolist(), strict=True))


@pytest.fixture(scope="module")
def face(portrait: Path) -> Image.Image:
    with Image.open(portrait) as opened:
        return opened.convert("RGB").crop((150, 20, 310, 180)).resize((96, 96), Image.Resampling.BOX)


def test_golden() -> None:
    """Columns of black and of pure red, in turn: neighbours differ, pixels four apart do not."""
    crop = np.zeros((8, 8, 3), np.uint8)
    crop[:, ::2, 0] = 200
    grey = 77 * 200 / 256
    found = look(crop)
    assert found["sharpness"] == pytest.approx(0.5 * math.log(grey**2 / 2 + 1), rel=1e-5)
    assert found["contrast"] == pytest.approx(math.log1p(grey / 2), rel=1e-5)
    assert found["brightness"] == pytest.approx(grey / 2 / 255, rel=1e-5)
    assert found["colour"] == pytest.approx(math.log1p(100), rel=1e-6)


@pytest.mark.parametrize("side", [1, 3, 8])
def test_a_blank_crop_of_any_size_is_finite(side: int) -> None:
    found = crop_appearance(np.full((2, side, side, 3), 255, np.uint8))
    np.testing.assert_allclose(found, [[0, 0, 1, 0]] * 2, atol=1e-5)


def test_what_spoils_a_face_moves_its_measure(face: Image.Image) -> None:
    pixels = np.asarray(face)
    noise = np.random.default_rng(0).normal(0, 20, pixels.shape)
    plain = look(pixels)
    sharpness = [look(np.asarray(face.filter(ImageFilter.GaussianBlur(r))))["sharpness"] for r in (1, 2, 3)]
    assert plain["sharpness"] > sharpness[0] > sharpness[1] > sharpness[2]
    assert look(np.clip(pixels + noise, 0, 255).astype(np.uint8))["sharpness"] > plain["sharpness"] + 0.1
    assert look(np.asarray(face.convert("L").convert("RGB")))["colour"] == 0
    dark = look(pixels // 3)
    assert dark["brightness"] < plain["brightness"] / 2
    assert dark["contrast"] < plain["contrast"]


@pytest.mark.parametrize("crops", [np.zeros((8, 8, 3), np.uint8), np.zeros((1, 8, 8, 3), np.float32)])
def test_another_form_is_refused(crops: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="uint8"):
        crop_appearance(crops)
