"""The class-balanced order: seeded, uniform over the classes there are, disjoint over processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agelens.training.samplers import class_balanced, set_weighted


def _classes() -> np.ndarray:
    return np.repeat([3, 5, 6, 90], [1000, 100, 10, 1])


def _draw(seed: int, length: int = 40_000) -> np.ndarray:
    return class_balanced(_classes(), length, torch.Generator().manual_seed(seed))


def test_classes_are_equally_likely_and_images_within_a_class_too() -> None:
    rows = _draw(0)
    classes = _classes()[rows]
    expected, deviation = 10_000, np.sqrt(40_000 * 0.25 * 0.75)
    for number in (3, 5, 6, 90):
        assert abs((classes == number).sum() - expected) < 5 * deviation
    of_ten = np.bincount(rows[classes == 6] - 1100, minlength=10)
    assert of_ten.min() > 0.85 * of_ten.mean()
    assert (rows[classes == 90] == 1110).all()


def test_the_order_is_a_function_of_its_seed() -> None:
    assert (_draw(1) == _draw(1)).all()
    assert (_draw(1) != _draw(2)).any()


def test_any_order_of_images_is_drawn_from() -> None:
    classes = np.array([7, 1, 7, 1, 7])
    rows = class_balanced(classes, 10_000, torch.Generator().manual_seed(0))
    assert set(rows) == {0, 1, 2, 3, 4}
    assert abs((classes[rows] == 1).mean() - 0.5) < 0.03


def test_processes_share_one_stream_and_take_disjoint_balanced_parts_of_it() -> None:
    batch, world = 64, 4
    share = batch // world
    streams = []
    for rank in range(world):  # each process draws the whole order and takes its part, as fit does
        order = _draw(5)
        steps = len(order) // batch
        parts = [order[s * batch + rank * share :][:share] for s in range(steps)]
        streams.append(np.concatenate(parts))
    whole = np.stack([stream.reshape(-1, share) for stream in streams], axis=1).reshape(-1)
    assert (whole == _draw(5)[: len(whole)]).all()
    assert not (streams[0] == streams[1]).all()
    for stream in streams:
        counts = np.array([(_classes()[stream] == number).sum() for number in (3, 5, 6, 90)])
        assert (abs(counts - len(stream) / 4) < 5 * np.sqrt(len(stream) * 0.1875)).all()


def test_nothing_to_draw_from() -> None:
    with pytest.raises(ValueError, match="no images"):
        class_balanced(np.array([], dtype=np.int64), 3, torch.Generator())


def test_images_of_a_set_are_drawn_as_often_as_its_weight_says() -> None:
    sets = np.array(["a"] * 30 + ["b"] * 60 + ["c"] * 10)
    drawn = set_weighted(sets, {"a": 4.0, "c": 0.0}, 20_000, torch.Generator().manual_seed(0))
    share = np.mean(sets[drawn] == "a")
    assert share == pytest.approx(4 * 30 / (4 * 30 + 60), abs=0.02)
    assert not (sets[drawn] == "c").any()
    of_a = np.bincount(drawn[sets[drawn] == "a"], minlength=30)
    assert of_a.min() > 0.7 * of_a.mean()  # each image of a set alike
    again = set_weighted(sets, {"a": 4.0, "c": 0.0}, 20_000, torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(drawn, again)
    with pytest.raises(ValueError, match="all weights are 0"):
        set_weighted(sets, {"a": 0.0, "b": 0.0, "c": 0.0}, 5, torch.Generator())
