from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pytest

from agelens.data.splits import content_split, labels_conflict, split_digest, split_images
from agelens.errors import InputError

KEYS = [hashlib.sha256(str(k).encode()).hexdigest() for k in range(5000)]


def test_shares_are_as_wished() -> None:
    sides = pd.Series(content_split(KEYS)).value_counts(normalize=True)
    assert sides.to_dict() == pytest.approx({"train": 0.8, "val": 0.1, "test": 0.1}, abs=0.015)


def test_a_side_depends_on_the_key_alone() -> None:
    whole = dict(zip(KEYS, content_split(KEYS), strict=True))
    backwards = dict(zip(KEYS[::-1], content_split(KEYS[::-1]), strict=True))
    assert whole == backwards
    assert content_split(KEYS[100:103]) == [whole[key] for key in KEYS[100:103]]


def test_side_follows_the_stated_formula() -> None:
    def place(key: str) -> float:
        return int(hashlib.sha256(f"salt:{key}".encode()).hexdigest()[:16], 16) / 16**16

    sides = content_split(KEYS[:200], (0.5, 0.3, 0.2), salt="salt")
    expected = ["train" if place(k) < 0.5 else "val" if place(k) < 0.8 else "test" for k in KEYS[:200]]
    assert sides == expected


def test_salts_give_different_splits() -> None:
    assert content_split(KEYS) != content_split(KEYS, salt="other")


def test_an_empty_share_gets_nothing() -> None:
    assert set(content_split(KEYS, (0.0, 1.0, 0.0))) == {"val"}


@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.2), (1.2, -0.1, -0.1)])
def test_impossible_fractions(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(InputError, match="fractions"):
        content_split(KEYS, fractions)


@pytest.mark.parametrize(
    ("ages", "digests", "conflict"),
    [
        ([24, 24], ["a", "a"], False),
        ([24, 25], ["a", "a"], True),
        ([24, 25], ["a", "b"], False),
        ([24, 26], ["a", "b"], True),
        ([24, 25, 26], ["a", "b", "c"], True),
        ([25, 24, 24], ["b", "a", "a"], False),
        ([24], ["a"], False),
    ],
)
def test_conflicting_ages(ages: list[float], digests: list[str], conflict: bool) -> None:
    assert labels_conflict([(age, age) for age in ages], digests) is conflict


@pytest.mark.parametrize(
    ("bands", "digests", "conflict"),
    [
        ([(20, 29), (20, 29)], ["a", "a"], False),
        ([(20, 29), (30, 39)], ["a", "a"], True),
        ([(20, 29), (30, 39)], ["a", "b"], False),
        ([(20, 29), (40, 49)], ["a", "b"], True),
        ([(20, 29), (31, 31)], ["a", "b"], True),
        ([(20, 29), (25, 25)], ["a", "b"], False),
    ],
)
def test_conflicting_bands(bands: list[tuple[float, float]], digests: list[str], conflict: bool) -> None:
    assert labels_conflict(bands, digests) is conflict


def test_a_test_part_stays_and_its_copies_leave_training() -> None:
    table = pd.DataFrame(
        {
            "path": ["train/1", "train/2", "train/3", "val/1", "val/2", "val/3"],
            "age": np.nan,
            "age_low": [20, 20, 3, 20, 60, 60],
            "age_high": [29, 29, 9, 29, 69, 69],
            "digest": ["a", "b", "c", "a", "d", "d"],
        }
    )
    test = np.array([False, False, False, True, True, True])
    split = split_images(table, table["digest"].tolist(), (1.0, 0.0, 0.0), "s", test)
    assert split["split"].tolist() == ["", "train", "train", "test", "test", ""]
    assert split["note"].tolist() == ["copy of val/1", "", "", "", "", "copy of val/2"]


def test_copies_and_conflicts_leave_the_split() -> None:
    rows = [
        ("alone.jpg", 30, "a", "a"),
        ("2.jpg", 40, "b", "b"),
        ("1.jpg", 40, "b", "b"),
        ("3.jpg", 41, "c", "b"),
        ("x.jpg", 24, "d", "d"),
        ("y.jpg", 37, "d", "d"),
        ("lost.jpg", 99, "a", "a"),
    ]
    table = pd.DataFrame([row[:3] for row in rows], columns=["path", "age", "digest"])
    table["note"] = [""] * 6 + ["unreadable: cut short"]
    groups = [row[3] for row in rows]
    done = split_images(table, groups)
    side = dict(zip(groups, content_split(groups), strict=True))
    assert done["split"].tolist() == [side["a"], "", side["b"], "", "", "", ""]
    assert done["note"].tolist() == [
        "",
        "copy of 1.jpg",
        "",
        "near copy of 1.jpg",
        "conflicting ages 24/37 with y.jpg",
        "conflicting ages 24/37 with x.jpg",
        "unreadable: cut short",
    ]
    assert "split" not in table


def test_digest_of_a_split() -> None:
    table = pd.DataFrame({"digest": ["b", "a", "a"], "split": ["test", "train", ""], "age": [1, 2, 3]})
    expected = hashlib.sha256(b"a \na train\nb test\n").hexdigest()
    assert split_digest(table) == expected
    assert split_digest(table[::-1].assign(age=0)) == expected
    assert split_digest(table.assign(split=["test", "val", ""])) != expected


def test_digest_needs_content() -> None:
    with pytest.raises(InputError, match="split"):
        split_digest(pd.DataFrame({"digest": ["a"]}))
    with pytest.raises(InputError, match="every image"):
        split_digest(pd.DataFrame({"digest": [""], "split": ["train"]}))
