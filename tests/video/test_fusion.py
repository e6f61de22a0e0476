"""One age of many frames: its weights, its running form, and an interval that does not shrink."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from agelens.faces.quality import FaceQuality
from agelens.label_distribution import AgeBins, interval
from agelens.video.fusion import RunningAge, frame_weight, mean_absolute_deviation
from agelens.video.settings import FUSION, FusionSettings

BINS = AgeBins(0, 100)
PLAIN = FusionSettings(widening=1.0)


def gaussian(age: float, width: float) -> NDArray[np.float32]:
    mass = np.exp(-0.5 * ((BINS.ages - age) / width) ** 2)
    return (mass / mass.sum()).astype(np.float32)


def fused(frames: list[tuple[float, float]], settings: FusionSettings = PLAIN) -> RunningAge:
    running = RunningAge(settings=settings)
    for age, weight in frames:
        running.add(age, gaussian(age, 5), weight)
    return running


def test_golden() -> None:
    running = fused([(20, 1.0), (40, 3.0)])
    assert running.age == pytest.approx(35)
    assert running.frames == 2
    wanted = 0.25 * gaussian(20, 5) + 0.75 * gaussian(40, 5)
    np.testing.assert_allclose(running.distribution, wanted, atol=1e-6)


def test_a_plain_loop_gives_the_same() -> None:
    random = np.random.default_rng(0)
    frames = [(float(a), float(w)) for a, w in random.uniform((20, 0.1), (60, 1), (50, 2))]
    total = sum(weight for _, weight in frames)
    mean = sum(weight * gaussian(age, 5).astype(np.float64) for age, weight in frames) / total
    wide = mean ** (1 / FUSION.widening)
    np.testing.assert_allclose(fused(frames, FUSION).distribution, wide / wide.sum(), atol=1e-6)
    assert fused(frames[::-1]).age == pytest.approx(sum(a * w for a, w in frames) / total)


def test_one_frame_is_itself() -> None:
    np.testing.assert_allclose(fused([(30, 0.2)]).distribution, gaussian(30, 5), atol=1e-6)


def test_many_frames_are_no_surer_than_one() -> None:
    def width(running: RunningAge) -> float:
        low, high = interval(running.distribution, BINS, 0.9)
        return float(high - low)

    one = width(fused([(30, 1.0)]))
    assert width(fused([(30, 1.0)] * 1000)) == pytest.approx(one, rel=1e-3)
    assert width(fused([(25, 1.0), (35, 1.0)] * 500)) > 1.2 * one
    assert width(fused([(30, 1.0)], FUSION)) > one


def test_an_age_of_no_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="no frames"):
        _ = RunningAge().distribution


def quality(**changes: float) -> FaceQuality:
    sound = {"eye_distance": 60.0, "blur": 0.3, "yaw": 0.0, "pitch": 0.0, "outside": 0.0}
    return FaceQuality(**(sound | changes))


def test_a_good_frame_has_weight_one_and_unknown_measures_cost_nothing() -> None:
    assert frame_weight(quality()) == 1
    assert frame_weight(FaceQuality(None, 0.3, None, None, None)) == 1


@pytest.mark.parametrize(
    "worse",
    [{"eye_distance": 12.0}, {"blur": 0.8}, {"yaw": -50.0}, {"yaw": 50.0}, {"pitch": 40.0}, {"outside": 0.2}],
)
def test_a_worse_frame_weighs_less(worse: dict[str, float]) -> None:
    assert FUSION.least < frame_weight(quality(**worse)) < 1
    awful = {name: (0.0 if name == "eye_distance" else 4 * value) for name, value in worse.items()}
    assert frame_weight(quality(**awful)) == FUSION.least


def test_deviation() -> None:
    assert mean_absolute_deviation([20, 30, 40]) == pytest.approx(20 / 3)
    assert mean_absolute_deviation([25]) == 0
