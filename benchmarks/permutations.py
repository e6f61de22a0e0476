"""Seconds of the greedy search for the permutation sets of several sequence lengths, one thread."""

from __future__ import annotations

import time

from agelens.methods.ordinal_dark.permutations import permutation_set


def main() -> None:
    for length, count in ((4, 12), (5, 60), (6, 200), (7, 200), (8, 200), (9, 200), (10, 200), (10, 400)):
        started = time.perf_counter()
        permutation_set(length, count)
        print(f"n = {length}, K = {count}: {time.perf_counter() - started:.2f} s")


if __name__ == "__main__":
    main()
