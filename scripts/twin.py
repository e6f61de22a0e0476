#!/usr/bin/env python3
"""Write what the page's JavaScript twin of the pipeline takes from Python, and is tested against.

``constants.js`` holds the settings of detector, alignment, quality, tracks and their ages; ``golden.json``
holds inputs with the results that Python computes from them. Run this after a change of ``agelens/faces`` or
``agelens/video``; a test fails until then. The tests in ``tests/serve/twin`` compare the JavaScript with it:
``node --test tests/serve/twin``.
"""

from __future__ import annotations

import base64
import hashlib
import inspect
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agelens.faces import alignment, mtcnn, quality, search_size, turned, yunet, yunet_onet
from agelens.faces.appearance import MEASURES, crop_appearance
from agelens.faces.detection import DetectedFace
from agelens.faces.quality_warnings import THRESHOLDS, face_warnings
from agelens.inference.face import Face
from agelens.inference.shipped_models import model_path
from agelens.model_file import open_model_file
from agelens.shift import ShiftCorrection, UsualRange
from agelens.video.settings import FUSION, TRACKING

PROJECT = Path(__file__).parents[1]
CONSTANTS = PROJECT / "src" / "agelens" / "serve" / "page" / "estimation" / "constants.js"
GOLDEN = PROJECT / "tests" / "serve" / "twin" / "golden.json"
PORTRAIT = PROJECT / "examples" / "astronaut.jpg"

RESIZES = (
    ((199, 155), (102, 80), "box", 2.0),
    ((300, 211), (41, 27), "box", 2.0),
    ((150, 112), (106, 80), "bilinear", 1.5),
    ((211, 117), (40, 23), "bilinear", 1.0),
    ((97, 53), (97, 20), "bilinear", 1.0),
    ((30, 20), (30, 20), "bilinear", 1.5),
    ((200, 9), (7, 1), "bilinear", 1.0),
)

SHIFT = ShiftCorrection(
    base=0.1,
    ranges=(
        UsualRange(-1.2, -1.0, 0.3, 0.2),
        UsualRange(3.5, 4.2, 0.05, 0.0),
        UsualRange(0.35, 0.6, 0.0, 0.1),
        UsualRange(3.1, 4.0, 0.15, 0.25),
    ),
    ages=(5.0, 18.0, 60.0),
    log_factors=(0.4, -0.3, 0.1),
)


def constants() -> dict[str, Any]:
    """Give the settings that Python and JavaScript share."""
    return {
        "search": {
            "least_face": search_size.LEAST_FACE,
            "searched_face": search_size.SEARCHED_FACE,
            "faces_across": search_size.FACES_ACROSS,
        },
        "mtcnn": {**_settings(mtcnn.MTCNN), "cell": mtcnn._CELL, "stride": mtcnn._STRIDE},
        "yunet": {
            "strides": yunet.STRIDES,
            "padding": yunet._PADDING,
            "large": yunet.LARGE,
            "overlap": yunet._OVERLAP,
        },
        "yunet_onet": {
            **_settings(yunet_onet.YuNetONet),
            "proposed_face": yunet_onet._PROPOSED_FACE,
            "certain": yunet_onet._CERTAIN,
            "least_side": yunet_onet._LEAST_SIDE,
            "most_uncertain": yunet_onet._MOST_UNCERTAIN,
            "output_side": yunet_onet._OUTPUT_SIDE,
            "shift": yunet_onet._SHIFT,
            "side": yunet_onet._SIDE,
        },
        "turned": {
            "by_confidence": turned.BY_CONFIDENCE._asdict(),
            "by_upright": turned.BY_UPRIGHT._asdict(),
            "several": turned.SEVERAL,
        },
        "alignment": {"oversampling": alignment._OVERSAMPLING},
        "quality": {
            "window": quality._WINDOW,
            "nose_place": quality._NOSE_PLACE,
            "nose_depth_of_face": quality._NOSE_DEPTH_IN_FACE_HEIGHTS,
            "nose_depth_of_eyes": alignment._NOSE_DEPTH_IN_EYE_DISTANCES,
        },
        "tracking": asdict(TRACKING),
        "fusion": asdict(FUSION),
    }


def _settings(detector: type) -> dict[str, Any]:
    """Give the settings of a detector by default."""
    parameters = inspect.signature(detector).parameters.items()
    return {name: parameter.default for name, parameter in parameters if name != "threads"}


def constants_module() -> str:
    """Give ``constants.js``: one JSON object; not a JSON module, which not every browser can import yet."""
    head = "// Written by scripts/twin.py from the Python code: change that, then run the script.\n\n"
    return f"{head}export default {json.dumps(constants(), indent=2)};\n"


def golden() -> dict[str, Any]:
    """Compute the golden results."""
    return {
        "resize": _resizes(),
        "alignment": _alignments(),
        "mtcnn": _mtcnn_detections(),
        "yunet_onet": _yunet_onet_detections(),
        "turned": _turns(),
        "quality": _qualities(),
        "distribution": _distributions(),
    }


def noise(width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """Make (H, W, 3) noise by a linear congruential generator; ``golden.mjs`` makes the same."""
    values, state = np.empty(width * height * 3, np.uint8), seed
    for index in range(len(values)):
        state = (1103515245 * state + 12345) & 0x7FFFFFFF
        values[index] = state >> 16 & 0xFF
    return values.reshape(height, width, 3)


def packed(values: NDArray[Any]) -> str:
    """Give an array's bytes, deflated, as base64."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(values).tobytes(), 9)).decode()


def unpacked(text: str, dtype: type = np.uint8) -> NDArray[Any]:
    """Read what `packed` wrote, flat."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype)


def _picture(image: NDArray[np.uint8]) -> dict[str, Any]:
    return {"width": image.shape[1], "height": image.shape[0], "pixels": packed(image)}


def _resizes() -> list[dict[str, Any]]:
    cases = []
    for seed, (before, after, kind, gap) in enumerate(RESIZES):
        method = Image.Resampling.BOX if kind == "box" else Image.Resampling.BILINEAR
        resized = np.asarray(Image.fromarray(noise(*before, seed)).resize(after, method, reducing_gap=gap))
        digest = hashlib.sha256(resized.tobytes()).hexdigest()
        cases.append(
            {"noise": [*before, seed], "to": after, "filter": kind, "reducing_gap": gap, "sha256": digest}
        )
    return cases


def _alignments() -> list[dict[str, Any]]:
    """Faces of every size, turned, inside and outside of their image."""
    random = np.random.default_rng(1)
    geometry = alignment.DEFAULT_GEOMETRY.with_size(32)
    cases = []
    for seed in range(10):
        height, width = (int(length) for length in random.integers(20, 260, 2))
        angle, side = random.uniform(-1, 1), random.uniform(5, 500)
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        points = np.asarray(geometry.template) @ turn * side + random.uniform(-100, 250, 2)
        points = (points + random.normal(0, 0.02 * side, (5, 2))).round(3)
        crop = alignment.align_face(noise(width, height, seed), points, geometry)
        cases.append(
            {
                "noise": [width, height, seed],
                "landmarks": points.tolist(),
                "geometry": geometry.to_dict(),
                "crop": packed(crop),
                "blur": quality.blur_effect(crop),
                "appearance": dict(zip(MEASURES, crop_appearance(crop[None])[0].tolist(), strict=True)),
            }
        )
    return cases


class _Recorder:
    """An onnxruntime session that records its inputs as 8-bit pixels, and its first ``used`` outputs."""

    def __init__(self, session: Any, scale: float, offset: float, used: int | None = None) -> None:
        self.session, self.scale, self.offset, self.used = session, scale, offset, used
        self.calls: list[dict[str, Any]] = []

    def run(self, names: Any, feeds: Mapping[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        (fed,) = feeds.values()
        outputs: list[NDArray[np.float32]] = self.session.run(names, feeds)
        self.calls.append(
            {
                "dims": list(fed.shape),
                "pixels": packed(np.rint(fed * self.scale + self.offset).astype(np.uint8)),
                "outputs": [
                    {"dims": list(output.shape), "data": packed(output)} for output in outputs[: self.used]
                ],
            }
        )
        return outputs


def _head() -> Image.Image:
    with Image.open(PORTRAIT) as opened:
        return opened.convert("RGB").crop((150, 20, 310, 200))


def _mtcnn_detections() -> list[dict[str, Any]]:
    """A small portrait and one that is shrunk first; the networks' answers are part of them."""
    cases = []
    for side, settings in (((96, 108), {}), ((128, 144), {"max_side": 100, "min_face_size": 36})):
        detector = mtcnn.MTCNN(**settings)
        recorders = {"pnet": _Recorder(detector._pnet, 128, 127.5), **_recorded_last(detector)}
        detector._pnet = recorders["pnet"]
        image = np.asarray(_head().resize(side, Image.Resampling.BOX))
        cases.append(_detection(image, settings, detector, recorders))
    return cases


def _yunet_onet_detections() -> list[dict[str, Any]]:
    """A small portrait, one that is shrunk first, and a wide picture that YuNet sees at two scales."""
    small = np.asarray(_head().resize((96, 108), Image.Resampling.BOX))
    wide = np.full((48, 330, 3), 128, np.uint8)
    wide[:, 200:243] = np.asarray(_head().resize((43, 48), Image.Resampling.BOX))
    seen_at_two_scales = {"min_face_size": 20, "thresholds": (0.02, 0.5, 0.5)}
    cases = []
    for image, settings in ((small, {}), (small, {"max_side": 63}), (wide, seen_at_two_scales)):
        detector = yunet_onet.YuNetONet(**settings)
        yunets = detector._yunet._session = _Recorder(detector._yunet._session, 1, 0, used=9)
        recorders = {"yunet": yunets, **_recorded_last(detector)}
        cases.append(_detection(image, settings, detector, recorders))
    return cases


def _recorded_last(detector: Any) -> dict[str, _Recorder]:
    """Record what the last two networks of MTCNN see and say."""
    recorders = {}
    for name in ("rnet", "onet"):
        network = getattr(detector, f"_{name}")
        recorders[name] = network._session = _Recorder(network._session, 128, 127.5)
    return recorders


def _detection(
    image: NDArray[np.uint8], settings: dict[str, Any], detector: Any, recorders: dict[str, _Recorder]
) -> dict[str, Any]:
    faces = [
        {
            "box": face.box,
            "confidence": face.confidence,
            "landmarks": np.asarray(face.landmarks).tolist(),
            "upright": face.upright,
        }
        for face in detector.detect(image)
    ]
    calls = {name: recorder.calls for name, recorder in recorders.items()}
    return {"image": _picture(image), "settings": settings, "calls": calls, "faces": faces}


def _turns() -> list[dict[str, Any]]:
    """An image turned by quarters, and a face in it in pixels of the original."""
    image = noise(13, 8, 4)
    landmarks = np.array([(1.5, 2), (5, 2.25), (3, 4), (2, 6), (4.5, 6.5)])
    face = DetectedFace((-1.0, 0.5, 6.0, 7.0), 0.5, landmarks)
    cases = []
    for quarters in (1, 2, 3):
        pixels = np.ascontiguousarray(np.rot90(image, quarters))
        back = turned._turned_back(face, quarters, 13, 8)
        cases.append(
            {
                "quarters": quarters,
                "sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
                "face": {"box": face.box, "confidence": 0.5, "landmarks": landmarks.tolist()},
                "original": {"box": back.box, "landmarks": np.asarray(back.landmarks).tolist()},
            }
        )
    return cases


def _qualities() -> dict[str, Any]:
    random = np.random.default_rng(3)
    base = np.array([(30, 30), (60, 31), (45, 50), (33, 66), (58, 67)], float)
    crop, cases = noise(24, 24, 0), []
    for number, scale in enumerate([1, 0.4, 1, 1, 0.3, 1, 1, 1]):
        landmarks = (base * scale + random.normal(0, 6, (5, 2))).round(3)
        face = DetectedFace((5.0 * number, 8.0, 5.0 * number + 60, 95.0), 1.0, landmarks)
        measured = quality.face_quality(crop, face, 90, 100)
        cases.append(
            {
                "box": face.box,
                "landmarks": landmarks.tolist(),
                "quality": {name: getattr(measured, name) for name in measured.__dataclass_fields__},
                "warnings": [warning._asdict() for warning in face_warnings(measured)],
            }
        )
    return {"noise": [24, 24, 0], "width": 90, "height": 100, "thresholds": THRESHOLDS, "faces": cases}


def _distributions() -> dict[str, Any]:
    _, card = open_model_file(model_path("resnet10-tiny-lrn-utkface"))
    assert card.calibration is not None
    calibration = replace(card.calibration, shift=SHIFT)
    random = np.random.default_rng(2)
    masses = random.dirichlet(np.full(101, 0.1), 6).astype(np.float32)
    masses[0], masses[1] = np.eye(101, dtype=np.float32)[0], np.eye(101, dtype=np.float32)[100]
    levels, thresholds = (0.01, 0.333, 0.5, 0.9, 0.99), (0, 17.5, 18, 100, 101)

    # Within and beyond the usual ranges, on either side.
    looks = random.normal((-1.1, 3.8, 0.5, 3.5), (0.5, 1.5, 0.3, 2.0), (len(masses), len(MEASURES)))

    def told(mass: NDArray[np.float32], look: NDArray[np.float64]) -> dict[str, Any]:
        calibrated, plain = (Face(0.0, mass, card.age_bins, used) for used in (calibration, None))
        return {
            "distribution": [float(probability) for probability in mass],
            "calibrated": [calibrated.interval(level) for level in levels],
            "plain": [plain.interval(level) for level in levels],
            "appearance": dict(zip(MEASURES, look.tolist(), strict=True)),
            "corrected": SHIFT.corrected(mass, card.age_bins, look).tolist(),
            "at_least": [calibrated.probability_at_least(years) for years in thresholds],
        }

    return {
        "age_bins": str(card.age_bins),
        "calibration": calibration.to_dict(),
        "levels": levels,
        "thresholds": thresholds,
        "cases": [told(mass, look) for mass, look in zip(masses, looks, strict=True)],
    }


def differences(found: Any, wanted: Any, place: str = "") -> list[str]:
    """Say where two golden files differ by more than arithmetic of another version of a library does."""
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        if found.keys() != wanted.keys():
            return [f"{place}: {sorted(found)} instead of {sorted(wanted)}"]
        return [told for key in wanted for told in differences(found[key], wanted[key], f"{place}/{key}")]
    if isinstance(wanted, Sequence) and not isinstance(wanted, str):
        if len(found) != len(wanted):
            return [f"{place}: {len(found)} entries instead of {len(wanted)}"]
        pairs = enumerate(zip(found, wanted, strict=True))
        return [told for index, (a, b) in pairs for told in differences(a, b, f"{place}/{index}")]
    if isinstance(wanted, float | int) and not isinstance(wanted, bool):
        close = abs(found - wanted) <= 1e-3 + 1e-4 * abs(wanted)
        return [] if close else [f"{place}: {found} instead of {wanted}"]
    if place.endswith(("/pixels", "/crop")):
        apart = np.abs(unpacked(found).astype(int) - unpacked(wanted)).max(initial=0)
        return [] if apart <= 1 else [f"{place}: pixels {apart} levels apart"]
    if place.endswith("/data"):
        apart = np.abs(unpacked(found, np.float32) - unpacked(wanted, np.float32)).max(initial=0)
        return [] if apart <= 1e-3 else [f"{place}: network outputs {apart} apart"]
    return [] if found == wanted else [f"{place}: {found!r} instead of {wanted!r}"]


if __name__ == "__main__":
    CONSTANTS.write_text(constants_module(), encoding="utf-8")
    GOLDEN.write_text(json.dumps(golden(), separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"wrote {CONSTANTS} and {GOLDEN}")
