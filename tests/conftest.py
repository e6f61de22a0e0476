"""Shared by several test files: the real data if it is there, drawn faces, a small model file."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

import agelens  # noqa: F401  before onnxruntime, whose telemetry it turns off

PROJECT = Path(__file__).parents[1]

collect_ignore = ["plugin_package"]  # installed by a test, not imported from here


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the project."""
    folder = PROJECT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder.name}/ is not beside the project")
    return folder


@pytest.fixture
def unprivileged() -> Callable[[], AbstractContextManager[None]]:
    """``with unprivileged():`` runs without root's right to read and write everything."""

    @contextlib.contextmanager
    def drop() -> Iterator[None]:
        if not hasattr(os, "geteuid"):
            pytest.skip("permissions are tested on POSIX systems")
        user = os.geteuid()
        if user:
            yield
            return
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(user)

    return drop


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter and read; ``tmp_path`` is its owner's alone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        folder.chmod(0o755)


@pytest.fixture(scope="session")
def portrait() -> Path:
    """A photo with one face."""
    return PROJECT / "examples" / "astronaut.jpg"


def _draw_face(age: float, size: int = 64, seed: int = 0) -> NDArray[np.uint8]:
    """Draw a face whose age shows: hair greys, the brow wrinkles, the face grows longer.

    Skin, position and pixel noise vary with ``seed``. (size, size, 3) uint8.
    """
    random = np.random.default_rng((seed, round(age * 10)))
    scale = 4
    side = size * scale
    skin = tuple(int(value) for value in np.array([225, 180, 150]) * random.uniform(0.6, 1.0))
    dark = tuple(int(value * 0.45) for value in skin)
    picture = Image.new("RGB", (side, side), tuple(int(value) for value in random.integers(60, 200, 3)))
    draw = ImageDraw.Draw(picture)
    x, y = (side / 2 + random.uniform(-0.04, 0.04) * side for _ in range(2))
    wide, long = 0.32 * side, (0.34 + 0.08 * min(age, 60) / 60) * side
    grey = int(40 + 190 * min(age, 90) / 90)
    draw.ellipse((x - wide * 1.15, y - long * 1.15, x + wide * 1.15, y + long * 0.6), fill=(grey, grey, grey))
    draw.ellipse((x - wide, y - long * 0.85, x + wide, y + long), fill=skin)
    for side_of_face in (-1, 1):
        eye = x + side_of_face * 0.42 * wide
        draw.ellipse((eye - 0.05 * side, y - 0.09 * side, eye + 0.05 * side, y - 0.03 * side), fill="white")
        draw.ellipse((eye - 0.02 * side, y - 0.08 * side, eye + 0.02 * side, y - 0.04 * side), fill="black")
    draw.line((x, y - 0.02 * side, x - 0.03 * side, y + 0.1 * side), fill=dark, width=scale)
    mouth = (x - 0.12 * side, y + 0.08 * side, x + 0.12 * side, y + 0.22 * side)
    draw.arc(mouth, 20, 160, fill=dark, width=2 * scale)
    for wrinkle in range(int(age // 12)):
        height = y - 0.14 * side - wrinkle * 0.02 * side
        draw.line((x - 0.5 * wide, height, x + 0.5 * wide, height), fill=dark, width=scale)
    pixels = np.asarray(picture.resize((size, size), Image.Resampling.BOX), dtype=np.float64)
    return np.clip(pixels + random.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def draw_face() -> Callable[..., NDArray[np.uint8]]:
    """``draw_face(age, size=64, seed=0)`` draws a (size, size, 3) uint8 face whose age can be learned."""
    return _draw_face


@pytest.fixture(scope="session")
def make_crops(
    tmp_path_factory: pytest.TempPathFactory, draw_face: Callable[..., NDArray[np.uint8]]
) -> Callable[..., Path]:
    """``make_crops(ages, size, seeds, **columns)`` draws a prepared data set and returns its manifest.

    Face k is drawn with seed k, or that of ``seeds``, ``size`` pixels wide; ``columns`` are further columns,
    a value a face.
    """
    from agelens.faces.alignment import DEFAULT_GEOMETRY

    def make(
        ages: Sequence[float], size: int, seeds: Sequence[int] | None = None, **columns: Sequence[object]
    ) -> Path:
        folder = tmp_path_factory.mktemp("prepared")
        lines = [",".join(["path", "age", *columns])]
        for number, values in enumerate(zip(ages, *columns.values(), strict=True)):
            face = draw_face(values[0], size=size, seed=seeds[number] if seeds else number)
            Image.fromarray(face).save(folder / f"{number}.png")
            lines.append(",".join(map(str, [f"{number}.png", *values])))
        (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
        (folder / "geometry.json").write_text(json.dumps(DEFAULT_GEOMETRY.with_size(size).to_dict()))
        return folder / "manifest.csv"

    return make


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``make_model(size=16, calibrated=True, **metadata)`` writes a small valid model file.

    Its age is the brightness of the crop (black 0, white 100 years), its distribution a Gaussian of 5
    years about that. ``metadata`` replaces what the file says of itself; None leaves a key out.
    """
    onnx = pytest.importorskip("onnx", reason="building a model file needs the extra train")
    from onnx import TensorProto, helper, numpy_helper

    from agelens.calibration import LEVEL_GRID, Calibration
    from agelens.faces.alignment import DEFAULT_GEOMETRY
    from agelens.label_distribution import AgeBins
    from agelens.model_file import ModelCard

    def make(size: int = 16, calibrated: bool = True, **metadata: str | None) -> Path:
        bins = AgeBins(0, 100)
        constants = {
            "pixels": np.array([1, 2, 3], np.int64),
            "years": np.float32(100 / 255),
            "column": np.array([1], np.int64),
            "bins": bins.ages.astype(np.float32)[None],
            "width": np.float32(-1 / (2 * 5.0**2)),
        }
        nodes = [
            helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["floats", "pixels"], ["brightness"], keepdims=0),
            helper.make_node("Mul", ["brightness", "years"], ["age"]),
            helper.make_node("Unsqueeze", ["age", "column"], ["centre"]),
            helper.make_node("Sub", ["bins", "centre"], ["offset"]),
            helper.make_node("Mul", ["offset", "offset"], ["squared"]),
            helper.make_node("Mul", ["squared", "width"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["distribution"], axis=1),
        ]
        graph = helper.make_graph(
            nodes,
            "small",
            [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", size, size, 3])],
            [
                helper.make_tensor_value_info("age", TensorProto.FLOAT, ["N"]),
                helper.make_tensor_value_info("distribution", TensorProto.FLOAT, ["N", len(bins)]),
            ],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        )
        card = ModelCard(
            name="small",
            age_bins=bins,
            tau=1.0,
            calibration=Calibration(1.0, LEVEL_GRID, LEVEL_GRID, 100, "val") if calibrated else None,
            geometry=DEFAULT_GEOMETRY.with_size(size).to_dict(),
            normalisation={"kind": "none"},
            decoding={"kind": "brightness"},
            licence={"model": "for tests"},
            provenance={"data": "none"},
            digest="0" * 64,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        told = card.to_metadata() | {f"agelens.{key}": value for key, value in metadata.items()}
        helper.set_model_props(model, {key: value for key, value in told.items() if value is not None})
        path = tmp_path_factory.mktemp("model") / "small.onnx"
        onnx.save(model, path)
        return path

    return make


@pytest.fixture(scope="session")
def small_model(make_model: Callable[..., Path]) -> Path:
    """The file of a small valid model."""
    return make_model()


def _write_clip(
    path: Path,
    frames: Sequence[NDArray[np.uint8]],
    rate: int = 15,
    times: Sequence[int] | None = None,
    rotation: int = 0,
) -> Path:
    import av

    with av.open(str(path), "w") as output:
        stream = output.add_stream("mpeg4", rate=rate, options={"qscale": "2"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts = round(1000 * number / rate) if times is None else times[number]
            frame.time_base = Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def write_clip() -> Callable[..., Path]:
    """``write_clip(path, frames, rate=15, times=None, rotation=0)`` encodes frames (H, W, 3) as MP4.

    ``times`` are the frames' milliseconds; ``rotation`` goes into the display matrix, degrees.
    """
    pytest.importorskip("av", reason="clips need the extra video")
    return _write_clip


@pytest.fixture(scope="session")
def moving_portrait(portrait: Path) -> Callable[..., list[NDArray[np.uint8]]]:
    """``moving_portrait(frames, rate=15, hand=False)`` pans, zooms, tilts, darkens and blurs the portrait.

    Frames are (180, 240, 3); a hand hides the face for 0.4 seconds in the middle.
    """

    def make(frames: int, rate: float = 15, hand: bool = False) -> list[NDArray[np.uint8]]:
        with Image.open(portrait) as opened:
            picture = opened.convert("RGB").resize((256, 256))
        random, made = np.random.default_rng(0), []
        for number in range(frames):
            phase = 2 * np.pi * number / rate / 3
            zoom, tilt = 1 + 0.15 * np.sin(phase), 0.12 * np.sin(1.7 * phase)
            c, s = np.cos(tilt) / zoom, np.sin(tilt) / zoom
            x, y = 120 + 30 * np.sin(0.8 * phase), 80 + 12 * np.cos(phase)
            matrix = (c, s, 114 - c * x - s * y, -s, c, 60 + s * x - c * y)
            frame = picture.transform((240, 180), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
            frame = frame.filter(ImageFilter.GaussianBlur(0.5 + 0.5 * float(np.sin(2.3 * phase))))
            pixels = np.asarray(frame) * (1 + 0.2 * np.sin(1.3 * phase)) + random.normal(0, 3, (180, 240, 3))
            made.append(np.clip(pixels, 0, 255).astype(np.uint8))
            away = (number - frames / 2) / rate
            if hand and abs(away) < 0.3:
                centre = 120 + 300 * away
                made[-1][20:170, max(0, round(centre - 60)) : max(0, round(centre + 60))] = (150, 110, 90)
        return made

    return make


@pytest.fixture(scope="session")
def reader_folder(
    tmp_path_factory: pytest.TempPathFactory, portrait: Path, draw_face: Callable[..., NDArray[np.uint8]]
) -> Path:
    """The folder that a reader of the documentation has: copy it before writing to it.

    ``photo.jpg``; ``clip.mp4``, three frames of it, with the extra video; ``crops/`` with 48 prepared drawn
    faces, ``manifest.csv`` and ``geometry.json``; ``other.csv``, another system's ``path,age`` of the test
    part; ``faces/``, images named by their age.
    """
    from agelens.faces.alignment import DEFAULT_GEOMETRY

    made = tmp_path_factory.mktemp("reader")
    for name in ("crops", "faces"):
        (made / name).mkdir()
    shutil.copy(portrait, made / "photo.jpg")
    if importlib.util.find_spec("av") is not None:
        with Image.open(portrait) as opened:
            _write_clip(made / "clip.mp4", [np.asarray(opened.convert("RGB").resize((240, 240)))] * 3)
    for age in (25, 26, 27):
        shutil.copy(portrait, made / "faces" / f"{age}_portrait.jpg")
    geometry = DEFAULT_GEOMETRY.with_size(64)
    (made / "crops" / "geometry.json").write_text(json.dumps(geometry.to_dict()), encoding="utf-8")
    lines, other = ["path,age,split"], ["path,age"]
    for number in range(48):
        age, split = 3 + 1.9 * number, ("train", "val", "test")[number % 3]
        Image.fromarray(draw_face(age, seed=number)).save(made / "crops" / f"{number}.png")
        lines.append(f"{number}.png,{age:.1f},{split}")
        if split == "test":
            other.append(f"{number}.png,{age + 2:.1f}")
    (made / "crops" / "manifest.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (made / "other.csv").write_text("\n".join(other) + "\n", encoding="utf-8")
    return made


@pytest.fixture(scope="session")
def mutations() -> ModuleType:
    """``scripts/check_mutations.py``, which damages images."""
    spec = importlib.util.spec_from_file_location("check_mutations", PROJECT / "scripts/check_mutations.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # which its dataclasses ask for
    spec.loader.exec_module(module)
    return module
