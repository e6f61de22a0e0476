"""Usable cores and the bounds of threads."""

from __future__ import annotations

from pathlib import Path

import pytest

from agelens.cores import MOST_THREADS, bounded_threads, check_count, usable_cores
from agelens.errors import InputError


def test_a_container_quota_bounds_the_cores(tmp_path: Path) -> None:
    free = usable_cores(tmp_path / "no-such-file")
    assert free >= 1
    quota = tmp_path / "cpu.max"
    for text, cores in (("100000 100000", 1), ("50000 100000", 1), ("max 100000", free), ("damaged", free)):
        quota.write_text(text)
        assert usable_cores(quota) == cores
    quota.write_text("9900000 100000")
    assert usable_cores(quota) == min(free, 99)


def test_threads_are_bounded_by_the_cores() -> None:
    assert bounded_threads(1) == 1
    assert bounded_threads(MOST_THREADS) == usable_cores()


@pytest.mark.parametrize(
    ("value", "message"),
    [(0, "at least 1, not 0"), (-2, "at least 1"), (2.5, r"whole number, not 2\.5"), ("2", "whole number"),
     (None, "whole number"), (100_000, "at most 1024, not 100000")],
)  # fmt: skip
def test_threads_that_cannot_be_used(value: object, message: str) -> None:
    with pytest.raises(InputError, match=f"threads is {message}|threads is a {message}"):
        bounded_threads(value)  # type: ignore[arg-type]


def test_counts() -> None:
    assert check_count(True, "photos") == 1
    with pytest.raises(InputError, match="photos is at least 1, not 0"):
        check_count(0, "photos")
