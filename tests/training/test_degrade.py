"""Degraded crops: JPEG as Pillow writes it, and each kind alone."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from agelens.training.degrade import Degradations, compressed, degraded, draw_degradations
from agelens.training.transforms import Augmentation, augment


@pytest.fixture(scope="module")
def face(portrait: Path) -> Tensor:
    """(1, 3, 128, 128) float."""
    picture = Image.open(portrait).convert("RGB").crop((160, 40, 288, 168))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float()


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def nothing(batch: int) -> Degradations:
    box, colour, light = torch.zeros(batch, 4), torch.zeros(batch, 3), torch.ones(batch)
    whole = torch.zeros(batch, dtype=torch.int64)
    return Degradations(box, colour, light, torch.zeros(batch), whole, whole.clone())


@pytest.mark.parametrize("quality", [10, 30, 60])
def test_compression_is_what_pillow_does(face: Tensor, quality: int) -> None:
    def by_pillow(images: Tensor) -> Tensor:
        file = io.BytesIO()
        Image.fromarray(images[0].permute(1, 2, 0).byte().numpy()).save(file, "JPEG", quality=quality)
        return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None].float()

    for images, share in ((face, 0.26), (face.mean(dim=1, keepdim=True).round().expand(-1, 3, -1, -1), 0.1)):
        ours, theirs = compressed(images, torch.tensor([quality])), by_pillow(images)
        assert torch.equal(ours, ours.round())
        assert (ours - theirs).abs().mean() < share * (
            theirs - images
        ).abs().mean()  # chroma: how it is enlarged


def test_compression_of_odd_sides(face: Tensor) -> None:
    odd = face[:, :, :70, :70]
    worse = compressed(odd, torch.tensor([95]))
    assert worse.shape == odd.shape
    assert (worse - odd).abs().mean() < 3


def test_what_drew_nothing_is_not_touched(face: Tensor) -> None:
    images = torch.cat([face, face])
    drawn = nothing(2)
    assert torch.equal(degraded(images.clone(), drawn), images)
    drawn.deviation[1] = 20
    worse = degraded(images.clone(), drawn)
    assert torch.equal(worse[0], face[0])
    assert not torch.equal(worse[1], face[0])


def test_each_kind(face: Tensor) -> None:
    drawn = nothing(4)
    drawn.box[0], drawn.colour[0] = torch.tensor([0.25, 0.5, 0.75, 1.0]), torch.tensor([10.0, 20.0, 30.0])
    drawn.light[1] = 2
    drawn.deviation[2], drawn.seed[2] = 15, 3
    drawn.quality[3] = 10
    grey = torch.full((3, 128, 128), 127.0)
    covered, bright, noisy, squeezed = degraded(torch.stack([face[0], face[0], grey, face[0]]), drawn)
    inside = torch.zeros(128, 128, dtype=torch.bool)
    inside[64:, 32:96] = True
    assert (covered[:, inside] == torch.tensor([[10.0], [20.0], [30.0]])).all()
    assert torch.equal(covered[:, ~inside], face[0][:, ~inside])
    assert torch.equal(bright, (2 * face[0]).clamp(max=255))
    assert noisy.std().item() == pytest.approx(15, rel=0.02)
    assert torch.equal(squeezed, compressed(face, torch.tensor([10]))[0])


def test_draws_have_their_probabilities_and_ranges() -> None:
    drawn = draw_degradations(20_000, 0.4, 0.3, 0.2, 0.1, generator())
    happened = [drawn.box[:, 2] > 0, drawn.light != 1, drawn.deviation > 0, drawn.quality > 0]
    shares = [values.float().mean().item() for values in happened]
    assert shares == pytest.approx([0.4, 0.3, 0.2, 0.1], abs=0.01)
    left, top, right, bottom = drawn.box[happened[0]].T
    assert ((left < right) & (top < bottom) & (right <= 1) & (bottom <= 1)).all()
    assert ((drawn.light >= 0.5) & (drawn.light <= 2)).all()
    assert drawn.deviation.max() <= 20
    assert set(drawn.quality[happened[3]].tolist()) == set(range(10, 61))


def test_views_are_degraded_and_repeat(face: Tensor) -> None:
    crops = face.byte().permute(0, 2, 3, 1).repeat(24, 1, 1, 1)  # more than a block
    plain = Augmentation(scale=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0)
    settings = replace(plain, cover=0.3, expose=0.3, noise=0.3, compress=0.3)
    views = augment(crops, settings, 64, generator())
    assert torch.equal(views, augment(crops, settings, 64, generator()))
    untouched = augment(crops, plain, 64, generator())
    same = (views == untouched).flatten(1).all(dim=1)
    assert 0 < same.sum() < 24  # 0.7⁴ of them
