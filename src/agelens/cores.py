"""Processor cores that this process may use, and the number of threads that makes sense on them."""

from __future__ import annotations

import math
import operator
import os
from pathlib import Path

from agelens.errors import InputError

__all__ = ["MOST_THREADS", "bounded_threads", "check_count", "usable_cores"]

MOST_THREADS = 1024
"""A larger number of threads is taken for a mistake and refused."""

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores(quota: Path = _CPU_QUOTA) -> int:
    """Count the cores that this process may use: its affinity, at most the CPU quota of its container.

    Args:
        quota: The control group's file of two numbers, microseconds of quota and period, or ``max``.
    Returns:
        At least 1; a share of a core counts as a whole one.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        share, period = map(float, quota.read_text(encoding="ascii").split())
        cores = min(cores, math.ceil(share / period))
    except (OSError, ValueError, ZeroDivisionError):  # no such limit
        pass
    return max(1, cores)


def bounded_threads(threads: int, name: str = "threads") -> int:
    """Bound a number of threads by the cores: more would only wait for each other.

    Args:
        threads: Requested number.
        name: Of the setting, for the message.
    Returns:
        The number, at most `usable_cores`.
    Raises:
        InputError: No whole number, less than 1, or more than `MOST_THREADS`.
    """
    number = check_count(threads, name)
    if number > MOST_THREADS:
        raise InputError(f"{name} is at most {MOST_THREADS}, not {number}")
    return min(number, usable_cores())


def check_count(value: int, name: str) -> int:
    """Check a setting that counts something.

    Raises:
        InputError: No whole number, or less than 1.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name} is a whole number, not {value!r}") from None
    if number < 1:
        raise InputError(f"{name} is at least 1, not {number}")
    return number
