"""Time of ``import agelens``, and of its parts, against an interpreter that imports nothing.

Each figure is the median over processes of their own, in turn with empty ones. Run on a quiet machine.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

STATEMENTS = (
    "import agelens",
    "import agelens; agelens.AgelensError",
    "import agelens; agelens.AgeEstimator",
    "import agelens; agelens.AgeEstimator()",
)


def seconds(statement: str) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    repeats = parser.parse_args().repeats
    for statement in STATEMENTS:
        seconds(statement)  # files of the package into the cache
        extra = [seconds(statement) - seconds("pass") for _ in range(repeats)]
        print(f"{1000 * statistics.median(extra):8.1f} ms  {statement}")


if __name__ == "__main__":
    main()
