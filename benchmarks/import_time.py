"""Time of ``import agelens``, of its parts, and of ``agelens predict PHOTO`` from start to answer.

Each figure of an import is the median over processes of their own, less that of an interpreter that imports
nothing, in turn. One of ``predict`` is a whole process: passed time, and time of the processor, which other
work on the machine changes less. ``predict --`` has Typer read the words. Run on a quiet machine, with
bytecode: PYTHONDONTWRITEBYTECODE costs every start 40 ms.
"""

from __future__ import annotations

import argparse
import resource
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


def whole(words: list[str]) -> tuple[float, float]:
    """Passed seconds of a command, and its seconds of the processor."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "agelens", *words], check=True, stdout=subprocess.DEVNULL)
    passed, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return passed, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--photo", help="also time agelens predict on it")
    arguments = parser.parse_args()
    repeats = arguments.repeats
    for statement in STATEMENTS:
        seconds(statement)  # files of the package into the cache
        extra = [seconds(statement) - seconds("pass") for _ in range(repeats)]
        print(f"{1000 * statistics.median(extra):8.1f} ms  {statement}")
    if arguments.photo:
        lines = (["predict", arguments.photo], ["predict", "--", arguments.photo])
        rounds = [[whole(line) for line in lines] for _ in range(repeats + 1)][1:]
        for line, measured in zip(lines, zip(*rounds, strict=True), strict=True):
            passed, processor = (1000 * statistics.median(column) for column in zip(*measured, strict=True))
            print(f"{passed:8.1f} ms, {processor:.1f} of the processor  agelens {' '.join(line)}")


if __name__ == "__main__":
    main()
