"""Smaller model files: 8-bit weights and activations, or 16-bit weights, with the error before and after.

Static quantisation by onnxruntime: the range of every activation holds 99.999 % of its values on training
crops (from the smallest to the largest costs 0.5 % of MAE more on a ResNet-10-Tiny), weights get a scale a
channel. Decoding (softmax, expectation) stays in float32. Activations are unsigned, weights signed 8-bit
numbers: processors with VNNI instructions sum their products exactly; on older x86 ones sums of two products
may saturate at 16 bits (``reduce_range`` keeps the weights to 7 bits for those).
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from agelens.data.crop_set import CropSet, load_crops
from agelens.data.geometry import require_geometry
from agelens.data.manifest import read_manifest
from agelens.data.splits import required_rows
from agelens.errors import InputError, ModelFileError
from agelens.export.onnx_graph import store_as_half, weights_digest
from agelens.faces.alignment import CropGeometry
from agelens.files import refuse_to_overwrite, write_atomically
from agelens.metrics import band_distance, mae
from agelens.model_file import ModelCard
from agelens.training.transforms import resize_crops

__all__ = ["Compressed", "compress", "quantise_int8"]

Form = Literal["int8", "float16"]

_QUANTISED = ["Conv", "Gemm", "Add", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool"]
_BATCH = 64


@dataclass(frozen=True)
class Compressed:
    """Sizes and errors before and after compression.

    Attributes:
        card: Of the new file.
        bytes_before, bytes_after: Of the files.
        images: How many crops both were judged on.
        mae_before, mae_after: Years; a label that is a band counts by the distance to it.
        largest_change: Of one estimate, years.
    """

    card: ModelCard
    bytes_before: int
    bytes_after: int
    images: int
    mae_before: float
    mae_after: float
    largest_change: float


def compress(
    model: str | Path,
    manifest: str | Path,
    out: str | Path,
    *,
    form: Form = "int8",
    images: int = 256,
    split: str = "val",
    reduce_range: bool = False,
) -> Compressed:
    """Write a model file in a smaller form, and judge both.

    Args:
        model: Model file, its weights in 32 or 16 bits.
        manifest: Aligned crops in the model's geometry, of any size; ``train`` rows measure the activations.
        out: The file to write.
        form: ``int8``, or ``float16``: 16-bit weights, computed in float32.
        images: Training crops that activations are measured on, evenly spaced over the split.
        split: Rows that both files are judged on.
        reduce_range: 7-bit weights, for x86 processors without VNNI.
    Returns:
        Sizes and errors; the new card says the same under ``provenance.compressed``.
    Raises:
        ModelFileError: Not a model file of ours, or one that is quantised already.
        SplitError: The manifest has no such rows.
        InputError: The crops have another geometry, or ``images`` is not positive.
        OutputError: The file cannot be written, or is one of those to be read.
    """
    if images < 1:
        raise InputError(f"images must be at least 1, not {images}")
    refuse_to_overwrite(out, [model, manifest])
    card, graph = _read(Path(model))
    rows = read_manifest(manifest)
    wanted = CropGeometry.from_dict(card.geometry)
    require_geometry(rows, wanted)
    judging = required_rows(rows, split, manifest)
    if form == "int8":
        training = required_rows(rows, "train", manifest)
        selected = np.unique(np.linspace(0, len(training) - 1, min(images, len(training))).astype(np.int64))
        sample = load_crops(training.iloc[selected], cache=False)
        _widen(graph.graph)
        graph = quantise_int8(graph, _blocks(sample, wanted.size, batch=1), reduce_range=reduce_range)
    else:
        _widen(graph.graph)  # what is half already is stored so once, not twice
        store_as_half(graph.graph)
    judged = load_crops(judging, cache=False)
    before = _ages(Path(model).read_bytes(), judged, wanted.size, model)
    after = _ages(graph.SerializeToString(), judged, wanted.size, out)
    errors = _error(before, judged), _error(after, judged)
    facts: dict[str, Any] = {
        "form": form,
        "from": card.digest,
        "split": split,
        "images": len(judged),
        "mae_before": round(errors[0], 4),
        "mae_after": round(errors[1], 4),
        **({"calibration_images": len(sample), "reduce_range": reduce_range} if form == "int8" else {}),
    }
    smaller = replace(
        card,
        name=f"{card.name}-{form}",
        provenance={**card.provenance, "compressed": facts},
        digest=weights_digest(graph),
    )
    del graph.metadata_props[:]
    onnx.helper.set_model_props(graph, smaller.to_metadata())
    with write_atomically(out) as temporary:
        temporary.write_bytes(graph.SerializeToString())
    return Compressed(
        smaller,
        Path(model).stat().st_size,
        Path(out).stat().st_size,
        len(judged),
        *errors,
        float(np.abs(before - after).max()),
    )


def quantise_int8(
    model: onnx.ModelProto, blocks: Iterator[NDArray[np.uint8]], *, reduce_range: bool = False
) -> onnx.ModelProto:
    """Quantise the weights and activations of a float32 model statically.

    Args:
        model: A float32 model with one input ``images``.
        blocks: (B, S, S, 3) crops that the ranges of the activations are measured on.
        reduce_range: 7-bit weights.
    Returns:
        The quantised model, in the QDQ format.
    Raises:
        ModelFileError: onnxruntime cannot quantise it.
    """

    class Crops(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            block = next(blocks, None)
            return None if block is None else {"images": block}

    root = logging.getLogger()
    level = root.level
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "int8.onnx"
        root.setLevel(logging.ERROR)  # it advises pre-processing that the export has done
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
                quantize_static(
                    model,
                    written,
                    Crops(),
                    quant_format=QuantFormat.QDQ,
                    op_types_to_quantize=_QUANTISED,
                    per_channel=True,
                    reduce_range=reduce_range,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    calibrate_method=CalibrationMethod.Percentile,
                    extra_options={
                        "OpTypesToExcludeOutputQuantization": ["Gemm"],  # logits keep their precision
                    },
                )
        except Exception as error:  # onnxruntime's quantiser raises plain exceptions of any kind
            raise ModelFileError(
                model.graph.name or "model", f"onnxruntime cannot quantise it: {error}"
            ) from error
        finally:
            root.setLevel(level)
        return onnx.load(written)


def _read(path: Path) -> tuple[ModelCard, onnx.ModelProto]:
    try:
        model = onnx.load(path)
    except OSError as error:
        raise ModelFileError(path, f"cannot be read: {error.strerror or error}") from error
    except Exception as error:  # protobuf's errors
        raise ModelFileError(path, "is not an ONNX file") from error
    card = ModelCard.from_metadata({entry.key: entry.value for entry in model.metadata_props}, path)
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node):
        raise ModelFileError(path, "is quantised already")
    return card, model


def _widen(graph: onnx.GraphProto) -> None:
    """Turn weights stored as float16 behind a cast into float32 weights, for the quantiser to find."""
    halves = {t.name: t for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT16}
    for node in [node for node in graph.node if node.op_type == "Cast" and node.input[0] in halves]:
        tensor = halves[node.input[0]]
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, node.output[0]))
        graph.node.remove(node)


def _blocks(crops: CropSet, size: int, batch: int = _BATCH) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(crops), batch):
        block = torch.from_numpy(crops.crops(slice(start, start + batch)))
        yield resize_crops(block, size).numpy()


def _error(estimates: NDArray[np.float64], crops: CropSet) -> float:
    """Mean absolute error, years; of bands, the mean distance to them."""
    if crops.bounds is None:
        return float(mae(estimates, crops.ages))
    return band_distance(estimates, *crops.bounds.T)


def _ages(content: bytes, crops: CropSet, size: int, path: str | Path) -> NDArray[np.float64]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        ages = [session.run(["age"], {"images": block})[0] for block in _blocks(crops, size)]
    except Exception as error:  # onnxruntime's errors share no base class of their own
        raise ModelFileError(path, f"onnxruntime cannot run it: {error}") from error
    return np.concatenate(ages).astype(np.float64)
