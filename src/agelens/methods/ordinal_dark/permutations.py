"""The permutations a ranker must tell apart, chosen to lie far from each other, and sequences to shuffle.

A permutation lists places: face i of a sequence in age order goes to place ``P[i]``. An age order read from
young to old or from old to young is the same order, so the unit of the choice is the pair of P and P
reversed, and there are n!/2 units ([1], Appendix A, calls the partner an "inverse"; only the reversed order
gives its largest K = n!/2 and makes the units disjoint).

[1] Zhao et al., Distilling ordinal relation and dark knowledge for facial age estimation, 2020.
[2] Noroozi and Favaro, Unsupervised learning of visual representations by solving jigsaw puzzles, ECCV 2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import factorial

import numpy as np
from numpy.typing import NDArray

from agelens.errors import InputError

__all__ = ["AGE_GROUPS", "SequenceSampler", "permutation_set", "shuffle_sequences", "unit_distance"]

AGE_GROUPS: tuple[tuple[int, int], ...] = (
    (0, 10),
    (6, 16),
    (13, 23),
    (20, 32),
    (32, 43),
    (43, 53),
    (53, 63),
    (63, 77),
)
"""The overlapping age groups of [1], Appendix A, both ends inside. Older faces belong to the last one."""

_LONGEST = 10
_TRIES = 100


def permutation_set(length: int, count: int, seed: int = 0) -> NDArray[np.int64]:
    """Choose permutations greedily, each as far as possible from those chosen before.

    [1], Appendix A, after [2]: begin with the empty set; add the unit {P, P reversed} with the largest *sum*
    of distances to the set, :func:`unit_distance`; ties, and which of the two stands for the unit, by seed.
    All units are compared at once, so the search takes O(count * n! * n) byte operations.

    Args:
        length: n, the length of a sequence, 2 to 10.
        count: K, at most n!/2.
        seed: Of the ties; the first permutations of a larger set are those of a smaller one.
    Returns:
        (K, n) places; no two rows are equal or each other's reverse.
    Raises:
        InputError: ``length`` or ``count`` is out of range.
    """
    if not 2 <= length <= _LONGEST:
        raise InputError(f"sequences must have 2 to {_LONGEST} faces, not {length}")
    if not 1 <= count <= factorial(length) // 2:
        raise InputError(f"there are 1 to {factorial(length) // 2} orders of {length} faces, not {count}")
    random = np.random.default_rng(seed)
    units = np.ascontiguousarray(
        _all_units(length).T
    )  # (n, n!/2): one place of all units is one run of bytes
    never = -(2**30)
    total = np.zeros(units.shape[1], np.int32)
    selected = np.empty((count, length), np.int64)
    for index in range(count):
        ties = np.flatnonzero(total == total.max())
        best = ties[random.integers(len(ties))]
        unit = units[:, best]
        selected[index] = unit[::-1] if random.random() < 0.5 else unit
        total += _distances(units, unit)
        total[best] = never
    return selected


def unit_distance(first: NDArray[np.int64], second: NDArray[np.int64]) -> int:
    """Distance of two units: the smallest Hamming distance over their members ([1], Appendix A).

    Args:
        first: (n,) a member of the one.
        second: (n,) a member of the other.
    Returns:
        0 (the same unit) … n.
    """
    return int(min(np.sum(first != second), np.sum(first != second[::-1])))


def shuffle_sequences(
    sequences: NDArray[np.int64], permutations: NDArray[np.int64], labels: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Put the faces of each sequence where its permutation says.

    Args:
        sequences: (B, n) images, each row in age order.
        permutations: (K, n) places.
        labels: (B,) the permutation of each row.
    Returns:
        (B, n): face ``sequences[b, i]`` stands at place ``permutations[labels[b], i]``.
    """
    shuffled = np.empty_like(sequences)
    np.put_along_axis(shuffled, permutations[labels], sequences, axis=1)
    return shuffled


@dataclass
class SequenceSampler:
    """Sequences of faces in age order, no two of one age ([1], Sec. III-A and Appendix A).

    An *inter-group* sequence takes each face from another group (with more faces than groups, groups drawn at
    random give one more); an *inner-group* one takes all from one group. Sequences are ordered by age, never
    by group, for the groups overlap. The paper does not say how a face is drawn within a group: uniformly
    among the images whose age is still free.

    Bands (ours) order faces too: two are in order where their bands do not meet. A face with a band is in the
    groups that hold all of it, and in inter-group sequences only.

    Attributes:
        ages: (N,) years; faces of the same whole year have one age; NaN for a band.
        length: n.
        groups: Age groups, both ends inside; ages above the last belong to the last. None: faces are drawn
            from the whole set. A group without images gives no face (the paper's own sets do not fill all:
            MORPH 2 begins at 16), one of fewer than n ages no inner-group sequence; ``notes`` tells.
        inter: Share of inter-group sequences; 1 : 8 in the paper.
        bounds: (N, 2) both ends of the labels in years, the age twice; None: all are ages.
        notes: What the ages cannot fill, a line each.
    Raises:
        InputError: No group has the n ages that an inner-group sequence needs; or all groups together have
            fewer than n.
    """

    ages: NDArray[np.float32]
    length: int = 8
    groups: Sequence[tuple[int, int]] = AGE_GROUPS
    inter: float = 1 / 9
    bounds: NDArray[np.float32] | None = None
    _low: NDArray[np.int64] = field(init=False, repr=False)
    _high: NDArray[np.int64] = field(init=False, repr=False)
    _members: list[NDArray[np.int64]] = field(init=False, repr=False)
    _inner: list[NDArray[np.int64]] = field(init=False, repr=False)
    _counts: list[int] = field(init=False, repr=False)
    notes: tuple[str, ...] = field(init=False, default=(), repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.inter <= 1:
            raise InputError(f"the share of inter-group sequences must be in [0, 1], not {self.inter}")
        for low, high in self.groups:
            if not 0 <= low <= high:
                raise InputError(f"[{low}, {high}] is not an age group")
        bounds = np.stack([self.ages, self.ages], axis=1) if self.bounds is None else self.bounds
        self._low, self._high = np.floor(bounds).astype(np.int64).T
        self._members, self._inner, self._counts = [], [], []
        if self.groups:
            self._fill_groups()
        reached = np.concatenate(self._members) if self.groups else np.arange(len(self._low))
        if self._disjoint(reached) < self.length:
            raise InputError(f"a sequence needs {self.length} different ages; there are too few")

    def _fill_groups(self) -> None:
        """Sort the images into the groups that have any, and tell of the others."""
        top = max(high for _, high in self.groups)
        lowest, highest = np.minimum(self._low, top), np.minimum(self._high, top)
        populated = [
            (low, high, np.flatnonzero((lowest >= low) & (highest <= high))) for low, high in self.groups
        ]
        filled = [group for group in populated if len(group[2])]
        self._members = [members for _, _, members in filled]
        self._counts = [self._disjoint(members) for members in self._members]
        of_an_age = [members[self._low[members] == self._high[members]] for members in self._members]
        ages = [self._disjoint(members) for members in of_an_age]
        self._inner = [
            members for members, count in zip(of_an_age, ages, strict=True) if count >= self.length
        ]
        empty = [f"[{low}, {high}]" for low, high, members in populated if not len(members)]
        short = [
            f"[{low}, {high}] ({count})"
            for (low, high, _), count in zip(filled, ages, strict=True)
            if count < self.length
        ]
        if not filled:
            raise InputError(f"no image is in the age groups {', '.join(empty)}")
        if self.inter < 1 and not self._inner:
            raise InputError(
                f"an inner-group sequence needs {self.length} different ages; too few in {', '.join(short)}"
            )
        notes = [f"age groups without images give no face: {', '.join(empty)}"] if empty else []
        if self.inter < 1 and short:
            notes.append(
                f"groups with fewer than {self.length} ages give no inner-group sequence: {', '.join(short)}"
            )
        outside = len(self._low) - len(np.unique(np.concatenate(self._members)))
        if outside and self.bounds is not None:
            notes.append(
                f"{outside} faces are in no sequence: no age group holds the whole of their band; "
                "set method.settings.groups to the bands"
            )
        self.notes = tuple(notes)

    def _disjoint(self, images: NDArray[np.int64]) -> int:
        """The most of these images that one sequence can hold: those whose labels do not meet."""
        count, end = 0, -1
        labels = np.unique(np.stack([self._high[images], self._low[images]], axis=1), axis=0)
        for high, low in labels:  # the earliest end first
            if low > end:
                count, end = count + 1, high
        return count

    def epoch(self, count: int, random: np.random.Generator, *, curriculum: bool = True) -> NDArray[np.int64]:
        """Draw the sequences of one epoch.

        Args:
            count: How many.
            random: The only source of chance.
            curriculum: Inter-group sequences first, then inner-group ones (the paper's order, repeated every
                epoch). Without, faces are drawn from the whole set, as the red line of [1], Fig. 3.
        Returns:
            (count, n) images; each row in age order.
        """
        if not curriculum:
            whole = np.arange(len(self._low))
            return np.stack([self._distinct([whole] * self.length, random) for _ in range(count)])
        inter = round(count * self.inter)
        first = [self.inter_group(random) for _ in range(inter)]
        return np.stack(first + [self.inner_group(random) for _ in range(count - inter)])

    def inter_group(self, random: np.random.Generator) -> NDArray[np.int64]:
        """Draw one sequence across the groups, (n,) images in age order.

        Raises:
            InputError: No n different ages could be drawn from n groups.
        """
        rounds, rest = divmod(self.length, len(self._members))
        wide = [number for number, count in enumerate(self._counts) if count > rounds]
        extra = random.choice(wide if len(wide) >= rest else len(self._members), rest, replace=False)
        groups = [*np.tile(np.arange(len(self._members)), rounds), *extra]
        return self._distinct([self._members[group] for group in groups], random)

    def inner_group(self, random: np.random.Generator) -> NDArray[np.int64]:
        """Draw one sequence within a group drawn uniformly, (n,) images in age order."""
        return self._distinct([self._inner[random.integers(len(self._inner))]] * self.length, random)

    def _distinct(
        self, choices: Sequence[NDArray[np.int64]], random: np.random.Generator
    ) -> NDArray[np.int64]:
        """One image of each of these choices, all of different ages."""
        for _ in range(_TRIES):
            images: list[int] = []
            for free in choices:
                image = free[random.integers(len(free))]
                if self._meets(np.array([image]), images)[0]:
                    left = free[~self._meets(free, images)]
                    if not len(left):
                        break
                    image = left[random.integers(len(left))]
                images.append(int(image))
            else:
                row = np.array(images)
                return row[np.argsort(self._low[row])]
        raise InputError(f"no {self.length} different ages can be drawn from the groups {self.groups}")

    def _meets(self, images: NDArray[np.int64], taken: Sequence[int]) -> NDArray[np.bool_]:
        """Whether the label of each image has a year in common with one of those taken; (B,)."""
        others = np.array(taken, np.int64)
        starts, ends = self._low[images, None], self._high[images, None]
        met: NDArray[np.bool_] = np.any((starts <= self._high[others]) & (ends >= self._low[others]), axis=1)
        return met


def _all_units(length: int) -> NDArray[np.uint8]:
    """(n!/2, n) the member of each unit whose first place is below its last, in lexicographic order."""
    rows = np.zeros((1, 1), np.uint8)
    for size in range(2, length + 1):
        blocks = [
            np.hstack([np.full((len(rows), 1), first, np.uint8), rows + (rows >= first)])
            for first in range(size)
        ]
        rows = np.concatenate(blocks).astype(np.uint8, copy=False)
    return rows[rows[:, 0] < rows[:, -1]]


def _distances(units: NDArray[np.uint8], unit: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Distance of every unit, (n, U), to one, (n,): the smaller of two Hamming distances; (U,)."""
    same, reversed_same = (np.zeros(units.shape[1], np.uint8) for _ in range(2))
    for row, forward, backward in zip(units, unit, unit[::-1], strict=True):
        np.add(same, row == forward, out=same)
        np.add(reversed_same, row == backward, out=reversed_same)
    closest: NDArray[np.uint8] = np.uint8(len(unit)) - np.maximum(same, reversed_same)
    return closest
