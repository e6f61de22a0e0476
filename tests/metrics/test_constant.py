"""A network that is no better than one age for everybody is called so."""

from __future__ import annotations

import numpy as np
import pytest

from agelens.metrics import uselessness

AGES = np.array([10.0, 20.0, 30.0, 40.0, 100.0])


def test_a_useful_network_is_not_warned_about() -> None:
    assert uselessness(AGES + 3, AGES) == ""
    assert uselessness(AGES[:1], AGES[:1]) == ""  # one age: nothing to tell apart


def test_constant_estimates_are_told() -> None:
    assert "the same age to everybody (33.0 years, MAE 22.60)" in uselessness(np.full(5, 33.0), AGES)


def test_estimates_no_better_than_the_median_are_told() -> None:
    # The median is 30, its MAE (20 + 10 + 0 + 10 + 70) / 5 = 22.
    assert "no better than the median age for everybody (22.00)" in uselessness(AGES[::-1], AGES)
    shifted = AGES + 22
    assert "(22.00)" in uselessness(shifted, AGES)
    assert uselessness(AGES + 21.9, AGES) == ""


def test_arrays_are_checked() -> None:
    with pytest.raises(ValueError, match="shape"):
        uselessness(AGES[:3], AGES)
