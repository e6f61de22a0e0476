"""Cost of a model file: time of its network, size, number of weights; the systems nothing beats on both."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, thread_time

import numpy as np

from agelens.inference.shipped_models import open_model

__all__ = ["Cost", "Latency", "measure_latency", "pareto_front", "stored_weights"]

_WARM_UP, _REPEATS = 20, 200


@dataclass(frozen=True)
class Latency:
    """Time of the network on one crop, one thread, in milliseconds.

    The systems take turns, so whatever else the machine does falls on all of them.

    Attributes:
        median: By the clock.
        low: First tenth of the turns.
        high: Last tenth: far above the median on a busy machine.
        processor: Median time that the processor spent on it: the same on a busy machine as on an idle one.
        repeats: Number of turns.
    """

    median: float
    low: float
    high: float
    processor: float
    repeats: int


@dataclass(frozen=True)
class Cost:
    """Cost of a model file.

    Attributes:
        latency: None where it was not measured.
        size: Bytes of the file.
        weights: Numbers stored in it; None if ``onnx`` is not installed.
    """

    latency: Latency | None
    size: int
    weights: int | None


def measure_latency(models: Mapping[str, Path], repeats: int = _REPEATS) -> dict[str, Latency]:
    """Time model files on one crop and one thread, taking turns.

    Only the network is timed, from crop to age: detection and alignment are the same for all. The pixels are
    noise; the time does not depend on them.

    Args:
        models: Name to file.
        repeats: Turns of each that count.
    Returns:
        Name to time.
    Raises:
        ModelFileError: A file cannot be used.
    """
    random = np.random.default_rng(0)
    prepared = {}
    for name, path in models.items():
        session, card = open_model(path, threads=1)
        size = int(card.geometry["size"])
        prepared[name] = session, {"images": random.integers(0, 256, (1, size, size, 3), dtype=np.uint8)}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for turn in range(_WARM_UP + repeats):
        for name, (session, feed) in prepared.items():
            start, busy = perf_counter(), thread_time()
            session.run(None, feed)  # on one thread: this one
            if turn >= _WARM_UP:
                times[name].append((1000 * (perf_counter() - start), 1000 * (thread_time() - busy)))
    latencies = {}
    for name, taken in times.items():
        clock, processor = np.array(taken).T
        median, low, high = np.quantile(clock, [0.5, 0.1, 0.9]).tolist()
        latencies[name] = Latency(median, low, high, float(np.median(processor)), repeats)
    return latencies


def stored_weights(path: str | Path) -> int | None:
    """Count the numbers stored in a model file: weights, biases, and a handful of constants.

    Batch norms are folded into the convolutions there, so it is a little less than the trained network has.

    Args:
        path: The model file.
    Returns:
        The count; None where the package ``onnx`` is not installed.
    """
    try:
        onnx = importlib.import_module("onnx")
    except ModuleNotFoundError:
        return None
    indices = {onnx.TensorProto.INT32, onnx.TensorProto.INT64, onnx.TensorProto.BOOL, onnx.TensorProto.STRING}
    tensors = onnx.load(path, load_external_data=False).graph.initializer
    return sum(math.prod(map(int, tensor.dims)) for tensor in tensors if tensor.data_type not in indices)


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Give the systems that no other beats on both cost and error, cheapest first.

    >>> pareto_front({"small": (1.0, 5.0), "large": (9.0, 4.0), "worse": (9.5, 4.5)})
    ['small', 'large']

    Args:
        points: Name to cost and error, smaller is better for both.
    Returns:
        Names. One that equals another on both stays.
    """
    best = math.inf
    front: list[str] = []
    last = (math.nan, math.nan)
    for name, point in sorted(points.items(), key=lambda item: item[1]):
        if point[1] < best or point == last:
            front.append(name)
            best, last = point[1], point
    return front
