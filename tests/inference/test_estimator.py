"""The estimator: image → faces → alignment → network → age, and the model files it opens."""

from __future__ import annotations

import copy
import io
import json
import multiprocessing
import pickle
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image

from agelens.calibration import LEVEL_GRID, Calibration
from agelens.errors import InputError, ModelFileError, NewerModelError, UnreadableImageError
from agelens.faces.crops import CroppedImage
from agelens.faces.detection import DetectedFace
from agelens.faces.detectors import make_detector
from agelens.faces.image import read_image
from agelens.inference.estimator import AgeEstimator
from agelens.inference.face import Face
from agelens.inference.shipped_models import DEFAULT_MODEL, MODELS, list_models, model_path, open_model
from agelens.inference.waiting import WaitingPhoto, WaitingPhotos
from agelens.label_distribution import AgeBins
from agelens.model_file import PROVIDERS

BINS = AgeBins(0, 100)


class Boxes:
    """A detector that finds bare boxes, and counts how often it is asked."""

    name = "boxes"

    def __init__(self, *boxes: tuple[float, float, float, float]) -> None:
        self.boxes = boxes
        self.asked = 0

    def detect(self, image: NDArray[np.uint8]) -> list[DetectedFace]:
        self.asked += 1
        return [DetectedFace(box, 0.5) for box in self.boxes]


@pytest.fixture(scope="module")
def estimator(small_model: Path) -> AgeEstimator:
    return AgeEstimator(small_model)


def grey(level: int, size: int = 32) -> NDArray[np.uint8]:
    return np.full((size, size, 3), level, np.uint8)


def test_one_photo_in_every_form(estimator: AgeEstimator, portrait: Path) -> None:
    (face,) = estimator.estimate(portrait)
    x1, y1, x2, y2 = face.box
    assert 150 < x1 < 230 < x2 < 300
    assert 30 < y1 < 120 < y2 < 220
    assert face.landmarks.shape == (5, 2)
    assert face.alignment == "landmarks"
    assert face.confidence > 0.9
    assert face.distribution.shape == (101,)
    picture = Image.open(portrait)
    for source in (str(portrait), portrait.read_bytes(), picture, np.asarray(picture), open(portrait, "rb")):  # noqa: SIM115
        (same,) = estimator.estimate(source)
        assert same.age == face.age
        if isinstance(source, io.BufferedReader):
            source.close()


def test_bare_boxes_take_the_layout_of_a_chip(small_model: Path) -> None:
    image = np.concatenate([grey(51), grey(204)], axis=1)
    detector = Boxes((4, 4, 28, 28), (36, 4, 60, 28))
    faces = AgeEstimator(small_model, detector=detector).estimate(image)
    assert [face.alignment for face in faces] == ["fallback", "fallback"]
    np.testing.assert_allclose([face.age for face in faces], [20, 80], atol=0.1)


def test_no_face_is_an_empty_list(small_model: Path) -> None:
    assert AgeEstimator(small_model, detector=Boxes()).estimate(grey(0)) == []


def test_a_chip_without_a_face_falls_back(small_model: Path) -> None:
    face = AgeEstimator(small_model, detector=Boxes()).estimate_chip(grey(51))
    assert face.alignment == "fallback"
    assert face.box is None
    assert face.age == pytest.approx(20, abs=0.1)


def test_aligned_images_go_to_the_network_as_they_are(small_model: Path) -> None:
    detector = Boxes()
    estimator = AgeEstimator(small_model, detector=detector)
    random = np.random.default_rng(0)
    crop = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    (face,) = estimator.estimate(crop, aligned=True)
    assert face.age == pytest.approx(crop.mean() * 100 / 255, abs=1e-3)
    (larger,) = estimator.estimate(crop.repeat(4, axis=0).repeat(4, axis=1), aligned=True)
    assert larger.age == pytest.approx(face.age, abs=0.5)
    assert (face.alignment, face.box, face.landmarks, face.confidence) == ("aligned", None, None, None)
    assert detector.asked == 0
    with pytest.raises(InputError, match="square; this image is 20 x 10"):
        estimator.estimate(np.zeros((10, 20, 3), np.uint8), aligned=True)


def test_many_images_keep_their_order_across_batches(small_model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    ages = [10, 20, 30, 40, 50, 60, 70]
    sources = [grey(round(age * 2.55)) for age in ages]
    detector = Boxes((0, 0, 32, 32), (4, 4, 28, 28))
    estimator = AgeEstimator(small_model, detector=detector, batch_size=3)
    photos = list(estimator.estimate_many([*sources[:4], broken, *sources[4:]]))
    assert [photo.source for photo in photos if photo.error] == [broken]
    assert isinstance(photos[4].error, UnreadableImageError)
    assert photos[4].faces == ()
    del photos[4]
    for photo, source, age in zip(photos, sources, ages, strict=True):
        assert photo.source is source
        np.testing.assert_allclose([face.age for face in photo.faces], [age, age], atol=0.3)
    with pytest.raises(UnreadableImageError):
        estimator.estimate(broken)


def test_images_are_taken_as_they_are_needed(small_model: Path) -> None:
    estimator = AgeEstimator(small_model, detector=Boxes((0, 0, 32, 32)), batch_size=2)
    taken = []

    def sources() -> object:
        for level in range(100):
            taken.append(level)
            yield grey(level)

    next(estimator.estimate_many(sources()))
    assert len(taken) == 2


def test_estimate_aligned_is_the_bare_network(estimator: AgeEstimator, small_model: Path) -> None:
    session = onnxruntime.InferenceSession(str(small_model), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(1)
    for number in (1, 5, 32, 70):
        crops = random.integers(0, 256, (number, 16, 16, 3), dtype=np.uint8)
        ages, distributions = estimator.estimate_aligned(crops)
        expected = session.run(["age", "distribution"], {"images": crops})
        np.testing.assert_allclose(ages, expected[0], rtol=1e-6)
        np.testing.assert_allclose(distributions, expected[1], rtol=1e-5, atol=1e-8)
    ages, distributions = estimator.estimate_aligned(crops[:0])
    assert ages.shape == (0,)
    assert distributions.shape == (0, 101)


@pytest.mark.parametrize(
    "crops",
    [np.zeros((1, 8, 8, 3), np.uint8), np.zeros((16, 16, 3), np.uint8), np.zeros((1, 16, 16, 3), np.float32)],
)
def test_crops_of_another_form_are_a_value_error(estimator: AgeEstimator, crops: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"\(N, 16, 16, 3\) uint8"):
        estimator.estimate_aligned(crops)


@pytest.mark.parametrize("setting", ["threads", "max_pixels", "batch_size"])
def test_settings_out_of_range(small_model: Path, setting: str) -> None:
    with pytest.raises(InputError, match=f"{setting} is at least 1, not 0"):
        AgeEstimator(small_model, **{setting: 0})


def test_a_provider_that_is_not_there_is_never_replaced(
    small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="provider is one of cpu, cuda, openvino, coreml, not 'gpu'"):
        AgeEstimator(small_model, provider="gpu")
    present = onnxruntime.get_available_providers()
    absent = next(name for name in ("cuda", "coreml") if PROVIDERS[name] not in present)
    with pytest.raises(InputError, match=f"provider {absent}: the installed onnxruntime .* does not have it"):
        AgeEstimator(small_model, provider=absent)
    # A build that has it, without the driver: onnxruntime itself would go on with the CPU.
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [PROVIDERS[absent], *present])
    with pytest.raises(InputError, match=f"provider {absent}: onnxruntime could not start it"):
        AgeEstimator(small_model, provider=absent)


def test_a_copy_keeps_the_provider(small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    original = onnxruntime.InferenceSession

    def record(content: bytes, options: Any, providers: list[str]) -> Any:
        asked.append(providers)
        return original(content, options, providers=["CPUExecutionProvider"])

    monkeypatch.setitem(PROVIDERS, "cuda", "CPUExecutionProvider")
    monkeypatch.setitem(PROVIDERS, "cpu", "AzureExecutionProvider")
    monkeypatch.setattr(onnxruntime, "InferenceSession", record)
    copy.deepcopy(AgeEstimator(small_model, provider="cuda"))
    assert asked == [["CPUExecutionProvider", "AzureExecutionProvider"]] * 2


def test_unknown_detector(small_model: Path, portrait: Path) -> None:
    with pytest.raises(InputError, match="retina"):
        AgeEstimator(small_model, detector="retina").estimate(portrait)


# --- what a face says


def triangle(mode: int) -> NDArray[np.float32]:
    """A lopsided distribution: rises to the mode over 20 years, falls over 40."""
    ages = BINS.ages
    mass = np.clip(np.where(ages < mode, 1 - (mode - ages) / 20, 1 - (ages - mode) / 40), 0, None)
    return (mass / mass.sum()).astype(np.float32)


def test_interval_without_calibration_is_central_mass() -> None:
    face = Face(40, triangle(40), BINS)
    low, high = face.interval(0.9)
    inside = face.distribution[(BINS.ages >= low) & (BINS.ages <= high)].sum()
    assert inside == pytest.approx(0.9, abs=0.03)
    assert high - 40 > 40 - low  # lopsided: not centred on the age


def test_interval_follows_the_calibration() -> None:
    narrow = Calibration(1.0, LEVEL_GRID, tuple(level**2 for level in LEVEL_GRID), 10, "val")
    low, high = Face(40, triangle(40), BINS, narrow).interval(0.9)
    assert (low, high) == pytest.approx(Face(40, triangle(40), BINS).interval(0.81))
    with pytest.raises(InputError, match=r"0\.999"):
        Face(40, triangle(40), BINS, narrow).interval(0.999)


@pytest.mark.parametrize("age", [0, 1, 50, 99, 100])
def test_intervals_of_sharp_distributions_stay_in_order(age: int) -> None:
    sharp = np.zeros(101, np.float32)
    sharp[age] = 1
    face = Face(age, sharp, BINS)
    for level in (0.01, 0.5, 0.99):
        low, high = face.interval(level)
        assert 0 <= low <= high <= 100
        assert low - 0.5 <= age <= high + 0.5


def test_probability_at_least_sums_the_bins() -> None:
    face = Face(40, triangle(40), BINS)
    assert face.probability_at_least(50) == pytest.approx(face.distribution[50:].sum(), abs=1e-6)
    assert face.probability_at_least(0) == pytest.approx(1)
    assert face.probability_at_least(101) == 0


def test_to_dict_is_json(estimator: AgeEstimator, portrait: Path) -> None:
    (face,) = estimator.estimate(portrait)
    told = json.loads(json.dumps(face.to_dict(level=0.8, threshold=21)))
    assert (told["low"], told["high"]) == pytest.approx(face.interval(0.8))
    assert told["p_at_least"] == pytest.approx(face.probability_at_least(21))
    assert told["age_bins"] == "0-100"
    assert len(told["distribution"]) == 101
    assert told["box"] == pytest.approx(face.box)
    bare = Face(1, face.distribution, BINS).to_dict()
    assert bare["box"] is bare["landmarks"] is bare["confidence"] is None


# --- model files


def test_shipped_models() -> None:
    assert DEFAULT_MODEL in MODELS
    assert list(list_models()) == sorted(MODELS, key=lambda name: name != DEFAULT_MODEL)
    assert AgeEstimator().card.licence["permits"] == "attribution"  # anyone may use what nobody chose


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_shipped_model_estimates(name: str, portrait: Path) -> None:
    estimator = AgeEstimator(name)
    assert estimator.card.name == name
    assert estimator.card.age_bins == BINS
    assert estimator.card.calibration is not None
    assert estimator.card.licence
    open_to_all = "-fairface" in name
    anew = estimator.card.provenance.get("calibrated", {"manifests": []})
    calibrated_on = [part["data"] for part in anew["manifests"]]
    if open_to_all:
        assert calibrated_on in ([], [["fairface"]])  # as exported, or as an ensemble was made
    else:
        assert calibrated_on == [["utkface"], ["fairface"]]
    assert (estimator.card.calibration.shift is None) == open_to_all
    assert ("any use, with attribution" if open_to_all else "non-commercial") in MODELS[name].terms
    assert estimator.card.licence["permits"] == ("attribution" if open_to_all else "research")
    (face,) = estimator.estimate(portrait)
    assert 20 < face.age < 50
    low, high = face.interval(0.9)
    assert low < high


def test_model_path(small_model: Path, tmp_path: Path) -> None:
    assert model_path(small_model) == small_model
    assert model_path(str(small_model)) == small_model
    with pytest.raises(ModelFileError, match=f"no shipped model has this name .*{DEFAULT_MODEL}"):
        model_path("resnet-9000")
    with pytest.raises(ModelFileError, match="no such file"):
        model_path(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not onnx", b"\x08\x09"])
def test_not_an_onnx_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"model\.onnx: "):
        open_model(path)


def test_foreign_damaged_and_newer_files(make_model: Callable[..., Path]) -> None:
    with pytest.raises(ModelFileError, match="not an agelens model"):
        AgeEstimator(make_model(format_version=None))
    with pytest.raises(ModelFileError, match=r"agelens\.age_bins"):
        AgeEstimator(make_model(age_bins=None))
    with pytest.raises(ModelFileError, match="its graph has"):
        AgeEstimator(make_model(age_bins="0-90"))
    with pytest.raises(ModelFileError, match=r"agelens\.geometry"):
        AgeEstimator(
            make_model(geometry='{"size": 16, "template": [[0, 0], [1, 0], [0, 1], [1, 1], [0.5, 1]]}')
        )
    with pytest.raises(NewerModelError, match="newer agelens"):
        AgeEstimator(make_model(format_version="99"))


def test_a_truncated_model_file(small_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    path.write_bytes(small_model.read_bytes()[:-200])
    with pytest.raises(ModelFileError, match=r"half\.onnx"):
        open_model(path)


# --- copies, for process pools and the like


def test_an_estimator_copies_and_pickles(estimator: AgeEstimator, portrait: Path) -> None:
    (expected,) = estimator.estimate(portrait)  # the detector is loaded, and stays behind
    for twin in (copy.deepcopy(estimator), pickle.loads(pickle.dumps(estimator))):
        (face,) = twin.estimate(portrait)
        assert face.age == expected.age
        np.testing.assert_array_equal(face.distribution, expected.distribution)
        (again,) = pickle.loads(pickle.dumps(twin)).estimate(portrait)
        assert again.age == expected.age


def test_a_pickled_estimator_carries_a_file_and_names_a_shipped_model(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "mine.onnx"
    path.write_bytes(make_model().read_bytes())
    mine = AgeEstimator(path, detector=Boxes((0, 0, 32, 32)))
    packed = pickle.dumps(mine)
    path.unlink()
    unpacked = pickle.loads(packed)
    assert unpacked.estimate(grey(51))[0].age == pytest.approx(20, abs=0.1)
    assert unpacked.detector.asked == 1  # a detector of one's own goes along
    assert mine.detector.asked == 0
    with pytest.raises(ModelFileError, match=r"mine\.onnx: cannot be read again: No such file"):
        pickle.dumps(mine)
    assert len(pickle.dumps(AgeEstimator())) < 10_000 < DEFAULT_BYTES


DEFAULT_BYTES = MODELS[DEFAULT_MODEL].path.stat().st_size


@pytest.mark.parametrize("detector", ["yunet-onet", "mtcnn", "yunet", "haar", "none"])
def test_detectors_copy(detector: str, portrait: Path) -> None:
    if detector == "haar":
        pytest.importorskip("cv2", reason="the detector haar needs the extra opencv")
    made = make_detector(detector)
    image = read_image(portrait)
    expected = made.detect(image)
    for twin in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        found = twin.detect(image)
        assert [face.box for face in found] == [face.box for face in expected]
        assert len(found) > 0


def test_other_processes_estimate_with_a_pickled_estimator(estimator: AgeEstimator, portrait: Path) -> None:
    (expected,) = estimator.estimate(portrait)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        (face,) = pool.submit(estimator.estimate, portrait).result(timeout=120)
        assert face.age == expected.age
        failed = pool.submit(estimator.estimate, portrait.parent).exception(timeout=120)
        assert isinstance(failed, UnreadableImageError)
        assert failed.reason == "is a folder, not an image"


# --- one bad item, and one bad option


def test_an_item_that_is_no_image_has_its_error(small_model: Path) -> None:
    estimator = AgeEstimator(small_model, detector=Boxes((0, 0, 32, 32)))
    sources = [grey(51), None, [grey(51)], np.zeros((3, 8, 8), np.float32), grey(102)]
    photos = list(estimator.estimate_many(sources))  # type: ignore[arg-type]
    assert [type(photo.error).__name__ for photo in photos] == [
        "NoneType", "InputError", "InputError", "InputError", "NoneType",
    ]  # fmt: skip
    assert [len(photo.faces) for photo in photos] == [1, 0, 0, 0, 1]
    with pytest.raises(InputError, match="this is a NoneType; an image is a path"):
        estimator.estimate(None)  # type: ignore[arg-type]


def test_a_stream_that_fails_has_its_error(small_model: Path, tmp_path: Path) -> None:
    class Broken:
        def read(self, size: int = -1) -> bytes:
            raise RuntimeError

    closed = (tmp_path / "photo").open("wb+")
    closed.close()
    content = io.BytesIO()
    Image.fromarray(grey(51)).save(content, "png")
    doubled = bytes(byte for byte in content.getvalue() for _ in range(2))
    sources = [closed, Broken(), memoryview(doubled)[::2]]
    photos = list(AgeEstimator(small_model, detector=Boxes()).estimate_many(sources))  # type: ignore[arg-type]
    assert [photo.error and str(photo.error).rstrip(".") for photo in photos] == [
        "image: cannot be read: I/O operation on closed file", "image: cannot be read: RuntimeError", None,
    ]  # fmt: skip


def test_frames_of_opencv(small_model: Path, portrait: Path) -> None:
    estimator = AgeEstimator(small_model)
    rgb = read_image(portrait)
    (expected,) = estimator.estimate(rgb)
    (face,) = estimator.estimate(np.ascontiguousarray(rgb[:, :, ::-1]), channels="bgr")
    assert face.age == expected.age
    with pytest.raises(InputError, match="channels are 'rgb' or 'bgr'"):
        estimator.estimate(rgb, channels="RGB")  # type: ignore[arg-type]


@pytest.mark.parametrize("one", ["photo.jpg", Path("photo.jpg"), b"\xff\xd8", Image.new("L", (9, 9)), None])
def test_one_image_in_the_place_of_many(estimator: AgeEstimator, one: Any) -> None:
    with pytest.raises(InputError, match=r"estimate_many takes a list or another iterable of images, not "):
        estimator.estimate_many(one)


def test_contradicting_options_are_refused_at_once(estimator: AgeEstimator) -> None:
    with pytest.raises(InputError, match="crops and aligned exclude each other"):
        estimator.estimate_many([], crops=True, aligned=True)


def test_a_detector_that_cannot_be_made_fails_once(small_model: Path) -> None:
    photos = AgeEstimator(small_model, detector="dlib").estimate_many([grey(0), grey(1)])
    with pytest.raises(InputError, match="no detector 'dlib'"):
        next(photos)


def test_large_arrays_do_not_wait_for_a_whole_batch(small_model: Path) -> None:
    estimator = AgeEstimator(small_model, detector=Boxes((0, 0, 32, 32)))
    large = np.zeros((2500, 3000, 3), np.uint8)  # 22.5 MB
    taken = 0

    def sources() -> Iterator[NDArray[np.uint8]]:
        nonlocal taken
        for _ in range(20):
            taken += 1
            yield large

    next(estimator.estimate_many(sources()))
    assert taken <= 3


def test_a_batch_is_full_by_crops_bytes_or_time() -> None:
    small = WaitingPhoto(b"x", CroppedImage(()))
    crowded = WaitingPhotos(batch_size=3, seconds=60)
    assert not crowded.full
    for _ in range(3):
        assert not crowded.full
        crowded.add(small)  # a photo without a face takes a place, too
    assert crowded.full
    for source in (bytes(60), bytearray(60), memoryview(bytes(60)), grey(0, 5), Image.new("RGB", (5, 5))):
        heavy = WaitingPhotos(batch_size=32, held_bytes=120, seconds=60)
        heavy.add(WaitingPhoto(source))
        assert not heavy.full
        heavy.add(WaitingPhoto(source))
        assert heavy.full
    named = WaitingPhotos(batch_size=32, held_bytes=1, seconds=60)
    named.add(WaitingPhoto("a.jpg"))
    assert not named.full
    late = WaitingPhotos(batch_size=32, seconds=0)
    late.add(small)
    assert late.full


def test_slow_sources_do_not_wait_for_a_whole_batch(small_model: Path) -> None:
    estimator = AgeEstimator(small_model, detector=Boxes((0, 0, 32, 32)))
    taken = 0

    def sources() -> Iterator[NDArray[np.uint8]]:
        nonlocal taken
        for _ in range(20):
            time.sleep(0.3)
            taken += 1
            yield grey(0)

    next(estimator.estimate_many(sources()))
    assert 2 <= taken <= 3


def test_warnings_of_faces(small_model: Path) -> None:
    estimator = AgeEstimator(small_model, detector=Boxes())
    (assumed,) = estimator.estimate(grey(51), crops=True)
    assert [warning.code for warning in assumed.warnings] == ["layout_assumed", "blurred"]
    (outside,) = AgeEstimator(small_model, detector=Boxes((-16, -16, 16, 16))).estimate(grey(51))
    assert outside.box == (0, 0, 16, 16)  # inside the photo
    assert "truncated" in [warning.code for warning in outside.warnings]
    assert Face(40, triangle(40), BINS).warnings == []
