from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from agelens.data.duplicates import (
    MAXIMUM_HAMMING,
    MINIMUM_CORRELATION,
    difference_hash,
    fingerprint_images,
    group_keys,
    near_identical_pairs,
)


def scene(seed: int, side: int = 200) -> Image.Image:
    """A picture with structure at all sizes, different for each seed."""
    random = np.random.default_rng(seed)
    total = np.zeros((side, side, 3))
    for cells in (4, 8, 16, 32):
        noise = Image.fromarray(random.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float64)
    return Image.fromarray((total / 4).astype(np.uint8))


def test_hash_agrees_with_loops() -> None:
    cells = np.random.default_rng(5).integers(0, 256, (8, 9), dtype=np.uint8)
    bits = 0
    for row in cells.tolist():
        for left, right in pairwise(row):
            bits = bits << 1 | (right > left)
    assert difference_hash(Image.fromarray(cells.repeat(4, axis=0).repeat(5, axis=1))) == bits


def test_hash_of_a_ramp() -> None:
    ramp = np.repeat(np.arange(90, dtype=np.uint8)[None], 80, axis=0)
    assert difference_hash(Image.fromarray(ramp)) == 2**64 - 1
    assert difference_hash(Image.fromarray(ramp[:, ::-1].copy())) == 0


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Ten files: scene 0 in six guises, three other scenes, one file that is no image."""
    folder = tmp_path_factory.mktemp("album")
    first = scene(0)
    guises = {
        "original.png": first,
        "jpeg.jpg": first,
        "small.png": first.resize((90, 90), Image.Resampling.BICUBIC),
        "darker.png": first.point(lambda value: int(value * 0.6)),
        "mirrored.png": first.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "soft.png": first.filter(ImageFilter.GaussianBlur(2)),
        "other1.png": scene(1),
        "other2.png": scene(2),
        "flat.png": Image.new("RGB", (50, 50), "grey"),
    }
    for name, image in guises.items():
        image.save(folder / name, **({"quality": 40} if name.endswith("jpg") else {}))
    (folder / "broken.jpg").write_bytes(b"no image")
    return [folder / name for name in [*guises, "broken.jpg"]]


def test_guises_of_one_photograph_are_found_and_nothing_else(album: list[Path]) -> None:
    pairs = near_identical_pairs(fingerprint_images(album, workers=2))
    assert {tuple(pair) for pair in pairs.indices.tolist()} == {(i, j) for j in range(6) for i in range(j)}
    assert [bool(m) for m in pairs.mirrored] == [4 in pair for pair in pairs.indices.tolist()]
    assert pairs.correlation.min() >= MINIMUM_CORRELATION
    assert pairs.correlation.max() <= 1 + 1e-5


def test_pairs_agree_with_loops() -> None:
    """Against a plain comparison of all pairs of ninety thumbnails, half of them noisy copies."""
    from agelens.data.duplicates import Fingerprints

    random = np.random.default_rng(0)
    pictures = [np.asarray(scene(k, 36).convert("L")).astype(float) for k in range(45)]
    pictures += [picture + random.normal(0, random.uniform(2, 40), picture.shape) for picture in pictures]
    images = [Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)) for picture in pictures]
    hashes = [difference_hash(image) for image in images]
    thumbnails = np.stack([np.asarray(image.resize((32, 32), Image.Resampling.BOX)) for image in images])
    prints = Fingerprints(
        [f"{k:064x}" for k in range(90)], np.array(hashes, np.uint64), thumbnails, [None] * 90
    )

    def detail(thumbnail: NDArray[np.float64]) -> NDArray[np.float64]:
        out = np.empty((32, 32))
        for y in range(32):
            for x in range(32):
                around = [
                    thumbnail[min(max(y + dy, 0), 31), min(max(x + dx, 0), 31)]
                    for dy in range(-2, 3)
                    for dx in range(-2, 3)
                ]
                out[y, x] = thumbnail[y, x] - sum(around) / 25
        return out.ravel()

    details = [detail(thumbnail.astype(float)) for thumbnail in thumbnails]
    expected = {
        (i, j)
        for i in range(90)
        for j in range(i + 1, 90)
        if (hashes[i] ^ hashes[j]).bit_count() <= MAXIMUM_HAMMING
        and np.corrcoef(details[i], details[j])[0, 1] >= MINIMUM_CORRELATION
    }
    found = near_identical_pairs(prints)
    assert {tuple(pair) for pair in found.indices[~found.mirrored].tolist()} == expected
    assert 5 < len(expected) < 45


def test_fingerprints_keep_order_digest_and_errors(album: list[Path]) -> None:
    calls: list[tuple[int, int]] = []
    prints = fingerprint_images(
        [*album, album[0].parent, album[0].parent / "none.png", "nul\0.png"],
        workers=3,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(k, 13) for k in range(1, 14)]
    assert prints.digests[:10] == [hashlib.sha256(path.read_bytes()).hexdigest() for path in album]
    assert prints.digests[10:] == ["", "", ""]
    assert [error is None for error in prints.errors] == [True] * 9 + [False] * 4
    assert "broken.jpg" in str(prints.errors[9])
    assert "not a file" in str(prints.errors[10])
    assert "No such file" in str(prints.errors[11])


def test_byte_identical_files_are_no_near_pair(album: list[Path]) -> None:
    prints = fingerprint_images([album[0], album[0], album[6]])
    assert len(near_identical_pairs(prints).indices) == 0


def test_no_images() -> None:
    pairs = near_identical_pairs(fingerprint_images([]))
    assert pairs.indices.shape == (0, 2)


def test_interruption_stops_the_reading(album: list[Path]) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fingerprint_images(album * 20, workers=1, progress=interrupt)


def test_groups_chain_and_take_the_smallest_digest() -> None:
    digests = ["c", "b", "a", "z", "c", "y"]
    pairs = np.array([[0, 1], [1, 2]])
    assert group_keys(digests, pairs) == ["a", "a", "a", "z", "a", "y"]
    assert group_keys(digests[::-1], 5 - pairs) == ["y", "a", "z", "a", "a", "a"]
    assert group_keys(["b", "b"], np.zeros((0, 2), np.int64)) == ["b", "b"]
