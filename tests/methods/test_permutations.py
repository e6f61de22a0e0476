"""Permutation sets against an exhaustive greedy search; sequences of different ages in age order."""

from __future__ import annotations

import itertools
from math import factorial

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from agelens.errors import InputError
from agelens.methods.ordinal_dark.permutations import (
    AGE_GROUPS,
    SequenceSampler,
    permutation_set,
    shuffle_sequences,
    unit_distance,
)


def _distance(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    """The smaller Hamming distance, in loops."""
    forward = sum(a != b for a, b in zip(first, second, strict=True))
    backward = sum(a != b for a, b in zip(first, reversed(second), strict=True))
    return min(forward, backward)


@pytest.mark.parametrize(("length", "count"), [(4, 12), (5, 25), (6, 40)])
def test_each_permutation_lies_farthest_from_those_before(length: int, count: int) -> None:
    chosen = [tuple(int(place) for place in row) for row in permutation_set(length, count, seed=1)]
    everything = list(itertools.permutations(range(length)))
    for index in range(1, count):
        before = chosen[:index]
        taken = set(before) | {row[::-1] for row in before}
        sums = {row: sum(_distance(row, old) for old in before) for row in everything if row not in taken}
        assert sums[chosen[index]] == max(sums.values())


def test_unit_distance_is_the_smallest_over_both_readings() -> None:
    first, second = np.array([0, 1, 2, 3]), np.array([3, 2, 1, 0])
    assert unit_distance(first, first) == unit_distance(first, second) == 0
    assert unit_distance(first, np.array([0, 1, 3, 2])) == 2
    random = np.random.default_rng(0)
    for _ in range(50):
        a, b = random.permutation(7), random.permutation(7)
        expected = _distance(tuple(a), tuple(b))
        assert unit_distance(a, b) == unit_distance(a[::-1], b) == unit_distance(b, a) == expected


def test_units_are_disjoint_and_all_of_them_can_be_had() -> None:
    for length in (4, 5, 6, 7):
        count = factorial(length) // 2
        found = {tuple(row) for row in permutation_set(length, count)}
        assert len(found | {row[::-1] for row in found}) == factorial(length)
    chosen = permutation_set(8, 200)
    assert np.array_equal(np.sort(chosen, axis=1), np.tile(np.arange(8), (200, 1)))


def test_sets_are_seeded_and_nested() -> None:
    assert np.array_equal(permutation_set(8, 200, seed=3), permutation_set(8, 200, seed=3))
    assert not np.array_equal(permutation_set(8, 200, seed=3), permutation_set(8, 200, seed=4))
    assert np.array_equal(permutation_set(8, 50, seed=3), permutation_set(8, 200, seed=3)[:50])


def test_the_greedy_set_is_spread_wider_than_chance() -> None:
    def mean_distance(rows: NDArray[np.int64]) -> float:
        return float(np.mean([unit_distance(a, b) for a, b in itertools.combinations(rows, 2)]))

    random = np.random.default_rng(0)
    drawn = np.stack([random.permutation(8) for _ in range(60)])
    assert mean_distance(permutation_set(8, 60)) > mean_distance(drawn) + 0.2


@pytest.mark.parametrize(("length", "count"), [(1, 1), (11, 5), (4, 13), (4, 0)])
def test_sets_that_do_not_exist(length: int, count: int) -> None:
    with pytest.raises(InputError, match=str(length if length in (1, 11) else count)):
        permutation_set(length, count)


def test_shuffling_puts_each_face_at_its_place() -> None:
    sequences = np.array([[10, 11, 12, 13], [20, 21, 22, 23]])
    permutations = np.array([[0, 1, 2, 3], [2, 0, 3, 1]])
    shuffled = shuffle_sequences(sequences, permutations, np.array([1, 0]))
    assert shuffled.tolist() == [[11, 13, 10, 12], [20, 21, 22, 23]]


AGES = np.random.default_rng(5).integers(0, 95, 2000).astype(np.float32) + 0.5


@pytest.mark.parametrize("length", [4, 8, 10])
def test_sequences_hold_different_ages_in_age_order(length: int) -> None:
    sampler = SequenceSampler(AGES, length)
    drawn = sampler.epoch(90, np.random.default_rng(0))
    years = np.floor(AGES[drawn])
    assert drawn.shape == (90, length)
    assert (np.diff(years, axis=1) > 0).all()
    inner = years[10:]  # 1 : 8, inter-group sequences first
    groups = np.array(AGE_GROUPS)
    clipped = np.minimum(inner, 77)[:, None, :]
    fits = ((clipped >= groups[:, :1]) & (clipped <= groups[:, 1:])).all(2).any(1)
    assert fits.all()
    inter = np.minimum(years[:10], 77)[:, None, :]
    assert not ((inter >= groups[:, :1]) & (inter <= groups[:, 1:])).all(2).any(1).any()
    assert np.array_equal(drawn, sampler.epoch(90, np.random.default_rng(0)))


def test_an_inter_group_sequence_of_eight_meets_every_group() -> None:
    sampler = SequenceSampler(AGES, 8, inter=1.0)
    groups = np.array(AGE_GROUPS)
    for row in sampler.epoch(30, np.random.default_rng(1)):
        years = np.minimum(np.floor(AGES[row]), 77)
        outside = (years < groups[:, :1]) | (years > groups[:, 1:])  # (group, face)
        assert outside[linear_sum_assignment(outside)].sum() == 0  # each group has a face of its own


def test_without_the_curriculum_faces_come_from_everywhere() -> None:
    years = np.floor(AGES[SequenceSampler(AGES, 8).epoch(200, np.random.default_rng(0), curriculum=False)])
    assert (np.diff(years, axis=1) > 0).all()
    assert np.ptp(years, axis=1).mean() > 50


def test_groups_that_cannot_be_filled() -> None:
    young = AGES[AGES < 50]
    told = SequenceSampler(young).notes
    assert told[0] == "age groups without images give no face: [53, 63], [63, 77]"
    assert told[1] == "groups with fewer than 8 ages give no inner-group sequence: [43, 53] (7)"
    gap = AGES[(AGES < 10) | (AGES > 14)]
    sampler = SequenceSampler(gap)
    assert sampler.notes == ("groups with fewer than 8 ages give no inner-group sequence: [6, 16] (7)",)
    assert SequenceSampler(gap, inter=1.0).notes == ()
    random = np.random.default_rng(0)
    drawn = [gap[sampler.inner_group(random)] for _ in range(40)]
    assert {row.max() // 11 for row in drawn if row.min() < 13} == {0}  # of [0, 10], none of [6, 16]
    few = np.array([3, 4, 5, 20, 21, 40], np.float32)
    with pytest.raises(InputError, match=r"4 different ages; too few in \[0, 10\] \(3\), \[13, 23\] \(2\)"):
        SequenceSampler(few, 4)
    with pytest.raises(InputError, match=r"no image is in the age groups \[50, 60\]"):
        SequenceSampler(few, 2, [(50, 60)])
    with pytest.raises(InputError, match="8 different ages; there are too few"):
        SequenceSampler(np.array([3, 4, 5], np.float32), 8, [(0, 10)], inter=1.0)
    with pytest.raises(InputError, match=r"\[5, 2\] is not an age group"):
        SequenceSampler(AGES, 8, [(5, 2)])
    crowded = SequenceSampler(np.array([3, 8, 9], np.float32), 3, [(0, 5), (1, 4), (7, 9)], inter=1.0)
    with pytest.raises(InputError, match="no 3 different ages can be drawn"):
        crowded.inter_group(np.random.default_rng(0))


@pytest.mark.parametrize(
    ("first", "last", "length"),
    [(16, 77, 8), (15, 40, 8), (0, 69, 8), (0, 70, 9), (0, 70, 10)],
    ids=["MORPH 2", "AFAD", "FG-NET", "MegaAge, 9", "MegaAge, 10"],
)
def test_the_papers_own_sets_give_sequences(first: int, last: int, length: int) -> None:
    ages = np.repeat(np.arange(first, last + 1), 3).astype(np.float32)
    sampler = SequenceSampler(ages, length)
    assert len(sampler.notes) == 1 + (first > 10)
    rows = sampler.epoch(60, np.random.default_rng(0))
    assert rows.shape == (60, length)
    assert (np.diff(ages[rows], axis=1) > 0).all()
    assert np.ptp(ages[rows[:7]], axis=1).min() > np.ptp(ages[rows[7:]], axis=1).max()  # across, then within
    everywhere = SequenceSampler(ages, length, ())  # without the curriculum there are no groups to fill
    assert everywhere.notes == ()
    assert everywhere.epoch(5, np.random.default_rng(0), curriculum=False).shape == (5, length)


def test_bands_are_ordered_where_they_do_not_meet() -> None:
    """A face of a band is in the groups that hold all of it, never beside one whose label meets its own."""
    random = np.random.default_rng(3)
    bands = np.array([[0, 2], [3, 9], [10, 19], [20, 29], [30, 39], [40, 49], [50, 59], [60, 69], [70, 130]])
    bounds = np.concatenate(
        [bands[random.integers(9, size=300)], np.repeat(random.integers(0, 90, 300), 2).reshape(-1, 2)]
    )
    bounds = bounds.astype(np.float32)
    ages = np.where(bounds[:, 0] == bounds[:, 1], bounds[:, 0], np.nan).astype(np.float32)
    groups = [(low, min(high, 100)) for low, high in bands.tolist()]
    sampler = SequenceSampler(ages, 8, groups, 0.5, bounds)
    across, within = np.split(sampler.epoch(80, random), 2)
    assert (bounds[across, 1][:, :-1] < bounds[across, 0][:, 1:]).all()
    assert np.isnan(ages[across]).any()
    assert not np.isnan(ages[within]).any()
    assert (np.diff(ages[within], axis=1) > 0).all()
    told = SequenceSampler(ages, 8, inter=0.5, bounds=bounds).notes  # no group of the paper holds 10 to 19
    outside = sum(((bounds[:, 0] == low) & (bounds[:, 1] == low + 9)).sum() for low in (10, 30, 40, 50, 60))
    assert f"{outside} faces are in no sequence: no age group holds the whole of their band" in told[-1]
    banded = np.isnan(ages)
    with pytest.raises(InputError, match="an inner-group sequence needs 8 different ages"):
        SequenceSampler(ages[banded], 8, groups, 0.5, bounds[banded])
    with pytest.raises(InputError, match="a sequence needs 10 different ages"):
        SequenceSampler(ages[banded], 10, groups, 1.0, bounds[banded])
