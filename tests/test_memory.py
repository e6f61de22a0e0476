"""Freed memory stays with the process: seen from outside, by what the kernel counts."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PROGRAM = """
import resource, sys
import numpy as np
from agelens.methods.memory import keep_freed_memory
if "keep" in sys.argv and not keep_freed_memory():
    sys.exit(77)
for _ in range(3):
    np.ones(8_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(8_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _page_faults(*arguments: str) -> int:
    done = subprocess.run([sys.executable, "-c", _PROGRAM, *arguments], capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip("the C library is not glibc")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_large_arrays_reuse_pages() -> None:
    if sys.platform != "linux":
        pytest.skip("glibc only")
    assert _page_faults("keep") < _page_faults() / 4
