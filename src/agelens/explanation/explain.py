"""Why a system says an age: activation maps, the evolution of the distribution, mean maps by age group.

The pictures of LRN: class activation maps per generation ([1], Fig. 4), the distribution over generations
(Fig. 3). A run gives both (:mod:`agelens.explanation.networks`, torch); a model file gives the maps of its
one network here: its class activation map, read off the graph, or occlusion, which needs onnxruntime alone.

[1] Li et al., Deep label refinement for age estimation, Pattern Recognition 2020.
[2] Zeiler and Fergus, Visualizing and understanding convolutional networks, ECCV 2014.
"""

from __future__ import annotations

import importlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import onnxruntime
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from agelens import __version__
from agelens.errors import ImageError, InputError, MissingExtraError
from agelens.evaluation.predict import Crops
from agelens.faces.alignment import CropGeometry
from agelens.faces.crops import Crop, crop_aligned, crop_chip, crop_photo
from agelens.faces.detection import FaceDetector
from agelens.faces.image import read_image
from agelens.files import write_atomically
from agelens.inference.models import model_path, open_model
from agelens.label_distribution import AgeBins
from agelens.reports.page import (
    Drawing,
    Section,
    Table,
    Text,
    drawing,
    plot_style,
    write_figure,
    write_page,
)

__all__ = [
    "AGE_GROUPS",
    "AgeMaps",
    "Explanation",
    "FaceCrop",
    "FaceExplanation",
    "MeanMaps",
    "ModelExplainer",
    "explain",
    "face_crops",
    "normalised_map",
    "occlusion_maps",
    "write_explanation",
]

FloatArray = NDArray[np.float64]

AGE_GROUPS = (
    ("infants", 0, 2),
    ("children and teenagers", 3, 17),
    ("adults", 18, 59),
    ("older people", 60, None),
)
"""Name, first and last completed year of the groups of mean maps; the last is open."""

_BATCH = 16
_POOLING = {"Flatten", "Reshape", "Squeeze"}


class AgeMaps(Protocol):
    """What one stage says of N faces; ``methods.explain.StageMaps`` is one."""

    @property
    def stage(self) -> str:
        """Its name."""

    @property
    def bins(self) -> AgeBins:
        """K age bins."""

    @property
    def ages(self) -> FloatArray:
        """(N,) estimates, years."""

    @property
    def distribution(self) -> FloatArray | None:
        """(N, K), or None."""

    @property
    def explained(self) -> FloatArray:
        """(N,) the age that the map is evidence for; NaN where it explains the estimate."""

    @property
    def maps(self) -> FloatArray:
        """(N, h, w) evidence."""


@dataclass(frozen=True, eq=False)
class _ModelMaps:
    stage: str
    bins: AgeBins
    ages: FloatArray
    distribution: FloatArray | None
    explained: FloatArray
    maps: FloatArray


@dataclass(frozen=True, eq=False)
class FaceCrop:
    """One face to explain.

    Attributes:
        path: The image.
        number: Which face of it, from 1.
        pixels: (S, S, 3) uint8 RGB in the model's geometry.
    """

    path: str
    number: int
    pixels: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class FaceExplanation:
    """One face, stage by stage (T stages).

    Attributes:
        face: The crop.
        ages: (T,) estimates, years.
        explained: (T,) the age a map is evidence for; NaN where it explains the estimate.
        distributions: (K,) of each stage, or None.
        maps: (h, w) of each stage.
    """

    face: FaceCrop
    ages: tuple[float, ...]
    explained: tuple[float, ...]
    distributions: tuple[FloatArray | None, ...]
    maps: tuple[FloatArray, ...]


@dataclass(frozen=True, eq=False)
class MeanMaps:
    """The faces of one age group (of the last stage's estimates).

    Attributes:
        group: Name, with its ages.
        count: Number of faces.
        crop: (S, S, 3) mean face, 0 … 255.
        maps: (S, S) mean of the normalised maps, of each stage.
    """

    group: str
    count: int
    crop: FloatArray
    maps: tuple[FloatArray, ...]


@dataclass(frozen=True, eq=False)
class Explanation:
    """Everything that :func:`write_explanation` draws.

    Attributes:
        system: Run or model.
        kind: Of the maps.
        stages: Their names.
        bins: K age bins.
        faces: Those that get a figure of their own.
        count: Number of all faces.
        failed: Path and reason of the images that could not be used.
        means: Age groups that have a face; empty for a single face.
    """

    system: str
    kind: str
    stages: tuple[str, ...]
    bins: AgeBins
    faces: tuple[FaceExplanation, ...]
    count: int
    failed: tuple[tuple[str, str], ...]
    means: tuple[MeanMaps, ...]


class ModelExplainer:
    """Explains what a model file says.

    Args:
        model: Name of a shipped model, or a model file.
        kind: ``cam``: the class activation map, read off the graph (needs the package onnx);
            ``occlusion``: how many years the estimate moves when a patch is hidden.
        age: ``cam`` only: explain this age instead of the estimated one, years.
    Raises:
        ModelFileError: The file cannot be used.
        MissingExtraError: ``cam`` without onnx.
        InputError: ``age`` with occlusion or outside the bins, or a graph whose head does not see one
            globally pooled map.
    """

    def __init__(
        self,
        model: str | Path | None,
        kind: Literal["cam", "occlusion"] = "cam",
        age: float | None = None,
    ) -> None:
        if age is not None and kind != "cam":
            raise InputError(f"only cam explains a chosen age; {kind} explains the estimate")
        self._session, card = open_model(model)
        self.name, self.bins, self.kind = card.name, card.age_bins, kind
        if age is not None and not self.bins.minimum <= age <= self.bins.maximum:
            raise InputError(f"the model knows no age {age:g}, only {self.bins}")
        self.geometry = CropGeometry.from_dict(card.geometry)
        self._age = age
        self._graph = _PooledGraph(model_path(model)) if kind == "cam" else None

    def __call__(self, crops: NDArray[np.uint8]) -> list[AgeMaps]:
        """Explain (N, S, S, 3) crops."""
        ages, distribution = self._session.run(None, {"images": crops})[:2]
        wanted = ages.astype(np.float64) if self._age is None else np.full(len(crops), float(self._age))
        index = self.bins.index(np.rint(wanted))
        if self._graph is not None:
            maps, explained = self._graph.maps(crops, index), self.bins.ages[index].astype(np.float64)
        else:
            maps, explained = occlusion_maps(self._ages, crops), np.full(len(crops), np.nan)
        told = distribution.astype(np.float64)
        return [_ModelMaps(self.name, self.bins, ages.astype(np.float64), told, explained, maps)]

    def _ages(self, crops: NDArray[np.uint8]) -> FloatArray:
        return np.asarray(self._session.run(["age"], {"images": crops})[0], dtype=np.float64)


class _PooledGraph:
    """A model file with two more outputs: the last feature map, and the logits it is pooled to."""

    def __init__(self, path: Path) -> None:
        try:
            onnx = importlib.import_module("onnx")
        except ModuleNotFoundError as error:
            raise MissingExtraError("onnx (or use --maps occlusion)", "train") from error
        model = onnx.load(path)
        graph = model.graph
        maker = {output: node for node in graph.node for output in node.output}
        stored = {tensor.name: tensor for tensor in graph.initializer}
        heads = [
            node
            for node in graph.node
            if node.op_type == "Gemm" and re.search(r"head\.ldl\.weight$", node.input[1])
        ]
        if len(heads) != 1:
            raise InputError(f"{path}: {_NO_CAM}: it has {len(heads)} heads of distributions")
        (head,) = heads
        pooled = maker.get(head.input[0])
        while pooled is not None and pooled.op_type in _POOLING:
            pooled = maker.get(pooled.input[0])
        if pooled is None or pooled.op_type not in ("ReduceMean", "GlobalAveragePool"):
            raise InputError(f"{path}: {_NO_CAM}: its head does not see a globally pooled map")
        self.path = path

        def constant(name: str) -> FloatArray:
            if name not in stored and name in maker and maker[name].op_type == "Cast":
                name = maker[name].input[0]  # stored in 16 bits
            return np.asarray(onnx.numpy_helper.to_array(stored[name]), dtype=np.float64)

        self.weights, self.bias = constant(head.input[1]), constant(head.input[2])  # (K, C), (K,)
        self.names = [pooled.input[0], head.output[0]]
        for name in self.names:
            graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def maps(self, crops: NDArray[np.uint8], index: NDArray[np.int64]) -> FloatArray:
        """Give (N, h, w) class activation maps of (N,) bins."""
        features, logits = (
            array.astype(np.float64) for array in self.session.run(self.names, {"images": crops})
        )
        said = features.mean((2, 3)) @ self.weights.T + self.bias
        if said.shape != logits.shape or not np.allclose(said, logits, rtol=1e-3, atol=1e-2):
            raise InputError(f"{self.path}: {_NO_CAM}: its logits are not those of the pooled map")
        views = len(features) // len(crops)  # 2 where the graph looks at the mirror image, too
        chosen = self.weights[np.tile(index, views)]
        maps: FloatArray = np.einsum("nchw,nc->nhw", features, chosen)
        if views == 1:
            return maps
        return (maps[: len(crops)] + maps[len(crops) :, :, ::-1]) / 2


_NO_CAM = "there is no class activation map of this graph (use --maps occlusion)"


def occlusion_maps(
    estimate: Callable[[NDArray[np.uint8]], FloatArray], crops: NDArray[np.uint8], patch: int | None = None
) -> FloatArray:
    """Hide one square patch after the other and see how far the estimate moves, [2].

    A patch takes the mean colour of its crop; patches overlap by half, and a pixel's value is the mean over
    the patches that hid it.

    Args:
        estimate: (B, S, S, 3) crops to (B,) years.
        crops: (N, S, S, 3) uint8.
        patch: Side of the patch in pixels; by default a sixth of the crop's.
    Returns:
        (N, S, S) absolute change, years.
    Raises:
        ValueError: The patch is not within 2 … S.
    """
    size = crops.shape[1]
    side = max(2, size // 6) if patch is None else patch
    if not 2 <= side <= size:
        raise ValueError(f"patch must be within 2 … {size}, not {side}")
    starts = [*range(0, size - side, side // 2), size - side]
    places = [(top, left) for top in starts for left in starts]
    maps = np.zeros((len(crops), size, size))
    counts = np.zeros((size, size))
    for top, left in places:
        counts[top : top + side, left : left + side] += 1
    for number, crop in enumerate(crops):
        hidden = np.repeat(crop[None], len(places), axis=0)
        colour = crop.reshape(-1, 3).mean(axis=0).round().astype(np.uint8)
        for view, (top, left) in zip(hidden, places, strict=True):
            view[top : top + side, left : left + side] = colour
        base = estimate(crop[None])[0]
        moved = np.concatenate(
            [np.abs(estimate(hidden[at : at + _BATCH]) - base) for at in range(0, len(hidden), _BATCH)]
        )
        for change, (top, left) in zip(moved, places, strict=True):
            maps[number, top : top + side, left : left + side] += change
    return np.asarray(maps / counts)


def face_crops(
    paths: Iterable[str | Path],
    geometry: CropGeometry,
    detector: Callable[[], FaceDetector],
    images: Crops = "photos",
    failed: list[tuple[str, str]] | None = None,
) -> Iterator[FaceCrop]:
    """Read images and cut out their faces.

    Args:
        paths: Images.
        geometry: Of the crops.
        detector: Makes the detector; not called for aligned images.
        images: What they are: ``photos`` (every face), ``chips`` or ``aligned``.
        failed: Gets path and reason of every image that cannot be used.
    Yields:
        The faces in order.
    """
    finder = None if images == "aligned" else detector()
    for path in paths:
        try:
            picture = read_image(path)
            found: list[Crop]
            if finder is None:
                found = crop_aligned(picture, geometry)
            elif images == "chips":
                found = crop_chip(picture, finder, geometry)
            else:
                found = crop_photo(picture, finder, geometry)
        except (ImageError, InputError) as error:
            if failed is not None:
                failed.append((str(path), str(getattr(error, "reason", error))))
            continue
        if not found and failed is not None:
            failed.append((str(path), "no face found"))
        for number, crop in enumerate(found, start=1):
            yield FaceCrop(str(path), number, crop.pixels)


def explain(
    faces: Iterable[FaceCrop],
    explainer: Callable[[NDArray[np.uint8]], Sequence[AgeMaps]],
    *,
    system: str,
    kind: str,
    shown: int = 24,
    failed: Sequence[tuple[str, str]] = (),
    progress: Callable[[int], None] | None = None,
) -> Explanation:
    """Explain faces, a batch at a time; all count in the mean maps, the first ones get a figure each.

    Args:
        faces: Crops of one size.
        explainer: Crops (N, S, S, 3) to what every stage says of them.
        system: Name, for the report.
        kind: Of the maps, for the report.
        shown: Most faces with a figure of their own.
        failed: Path and reason of the images left out; read when all faces are done.
        progress: Called with the number of faces done so far.
    Returns:
        The explanation.
    Raises:
        InputError: There is no face.
    """
    kept: list[FaceExplanation] = []
    groups: dict[str, _Sums] = {}
    stages: tuple[str, ...] = ()
    count, bins = 0, None
    for batch in _batches(faces):
        told = explainer(np.stack([face.pixels for face in batch]))
        stages, bins = tuple(stage.stage for stage in told), told[-1].bins
        for row, face in enumerate(batch):
            maps = tuple(stage.maps[row] for stage in told)
            name = _group(float(told[-1].ages[row]))
            groups.setdefault(name, _Sums()).add(face.pixels, maps)
            if len(kept) < shown:
                kept.append(
                    FaceExplanation(
                        face,
                        tuple(float(stage.ages[row]) for stage in told),
                        tuple(float(stage.explained[row]) for stage in told),
                        tuple(
                            None if stage.distribution is None else stage.distribution[row] for stage in told
                        ),
                        maps,
                    )
                )
        count += len(batch)
        if progress is not None:
            progress(count)
    if bins is None:
        reason = f" ({failed[0][0]}: {failed[0][1]})" if failed else ""
        raise InputError(f"there is no face to explain in {len(failed)} images{reason}")
    names = [_group_name(*group) for group in AGE_GROUPS]
    means = [groups[name].mean(name) for name in names if name in groups] if count > 1 else []
    return Explanation(system, kind, stages, bins, tuple(kept), count, tuple(failed), tuple(means))


def normalised_map(values: FloatArray, size: int) -> FloatArray:
    """Stretch a map to 0 … 1 and to (size, size) by bilinear interpolation; a constant map is 0.

    Args:
        values: (h, w).
        size: Pixels.
    Returns:
        (size, size).
    """
    low, high = float(values.min()), float(values.max())
    scaled = np.zeros_like(values) if high <= low else (values - low) / (high - low)
    picture = Image.fromarray(scaled.astype(np.float32))
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR), dtype=np.float64)


def write_explanation(explanation: Explanation, folder: str | Path) -> list[Path]:
    """Write ``explanation.html``, ``explanation.json`` and a PNG (and SVG) a figure.

    Args:
        explanation: What to draw.
        folder: Where to.
    Returns:
        The PNG files.
    Raises:
        OutputError: A file cannot be written.
    """
    out = Path(folder)
    sections = []
    pictures: list[Path] = []
    blocks: list[Drawing] = []
    for number, face in enumerate(explanation.faces, start=1):
        figure = _face_figure(explanation, face)
        name = f"face-{number}"
        write_figure(figure, out, name)
        pictures.append(out / f"{name}.png")
        blocks.append(drawing(name, figure, _face_caption(explanation, face)))
    note = [Text(_KINDS[explanation.kind])]
    if explanation.faces:
        rows, columns = explanation.faces[0].maps[-1].shape
        note.append(Text(f"A map has {rows} × {columns} cells; what lies between them is interpolated."))
    if len(explanation.faces) < explanation.count:
        note.append(Text(f"The first {len(explanation.faces)} of {explanation.count} faces are shown."))
    sections.append(Section("Faces", (*note, *blocks)))
    if explanation.means:
        figure = _means_figure(explanation)
        write_figure(figure, out, "mean-maps")
        pictures.append(out / "mean-maps.png")
        caption = (
            "Mean maps by estimated age over the mean face of the group; each face's map counts from 0 to 1."
        )
        rows = tuple((group.group, str(group.count)) for group in explanation.means)
        sections.append(
            Section(
                "Age groups",
                (drawing("mean-maps", figure, caption), Table("Faces", ("group", "faces"), rows)),
            )
        )
    if explanation.failed:
        table = Table("Not used", ("image", "reason"), explanation.failed, names=2)
        sections.append(Section("Images that could not be used", (table,)))
    stamp = {
        "system": explanation.system,
        "maps": explanation.kind,
        "stages": ", ".join(explanation.stages),
        "faces": str(explanation.count),
        "software": f"agelens {__version__}",
    }
    with write_atomically(out / "explanation.json") as temporary:
        table_ = _as_json(explanation)
        temporary.write_text(json.dumps(table_, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    write_page(out / "explanation.html", f"Why {explanation.system} says an age", stamp, sections)
    return pictures


_KINDS = {
    "cam": "Class activation maps: the last feature map weighted by the head's weights of the explained age, "
    "stretched to the crop. Red is most evidence for that age, blue least; every map has its own scale.",
    "gradcam": "Grad-CAM (captum): the last feature map weighted by the gradient of the estimate in years. "
    "Red raises it most, blue least or lowers it; every map has its own scale.",
    "integrated-gradients": "Integrated gradients (captum) of the estimate in years, from the mean colour of "
    "training on: how much a pixel moved it, up or down; every map has its own scale.",
    "occlusion": "Occlusion: how many years the estimate moves, up or down, when a patch takes the crop's "
    "mean colour; every map has its own scale.",
}


class _Sums:
    """Running sums of the faces of a group."""

    def __init__(self) -> None:
        self.count = 0
        self.crop: FloatArray = np.zeros(())
        self.maps: list[FloatArray] = []

    def add(self, pixels: NDArray[np.uint8], maps: Sequence[FloatArray]) -> None:
        stretched = [normalised_map(values, len(pixels)) for values in maps]
        if self.count:
            stretched = [old + new for old, new in zip(self.maps, stretched, strict=True)]
        self.crop = self.crop + pixels
        self.maps = stretched
        self.count += 1

    def mean(self, name: str) -> MeanMaps:
        return MeanMaps(name, self.count, self.crop / self.count, tuple(m / self.count for m in self.maps))


def _batches(faces: Iterable[FaceCrop]) -> Iterator[list[FaceCrop]]:
    batch: list[FaceCrop] = []
    for face in faces:
        batch.append(face)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _group_name(name: str, first: int, last: int | None) -> str:
    return f"{name}, {first}+" if last is None else f"{name}, {first}-{last}"


def _group(age: float) -> str:
    completed = math.floor(max(age, 0.0))
    for name, first, last in AGE_GROUPS:
        if completed >= first and (last is None or completed <= last):
            return _group_name(name, first, last)
    raise ValueError(f"no age group holds {age}")


def _face_figure(explanation: Explanation, face: FaceExplanation) -> Figure:
    stages, bins, size = explanation.stages, explanation.bins, len(face.face.pixels)
    with plot_style():
        figure = Figure(figsize=(2.1 * (1 + len(stages)), 3.6), layout="constrained")
        top, bottom = figure.subplots(2, 1 + len(stages), height_ratios=[3, 2], squeeze=False)
        for axes in top:
            axes.set_axis_off()
        top[0].imshow(face.face.pixels)
        top[0].set_title("face", fontsize=8)
        bottom[0].set_axis_off()
        peak = max((float(told.max()) for told in face.distributions if told is not None), default=1.0)
        for column, stage in enumerate(stages, start=1):
            at = column - 1
            top[column].imshow(face.face.pixels)
            top[column].imshow(normalised_map(face.maps[at], size), cmap="turbo", alpha=0.5, vmin=0, vmax=1)
            of = "" if math.isnan(face.explained[at]) else f"\nmap of age {face.explained[at]:.0f}"
            top[column].set_title(f"{stage}: {face.ages[at]:.1f} years{of}", fontsize=8)
            _draw_distribution(bottom[column], bins, face.distributions[at], face.ages[at], peak)
            if column > 1:
                bottom[column].tick_params(labelleft=False)
    return figure


def _draw_distribution(
    axes: Any, bins: AgeBins, distribution: FloatArray | None, age: float, peak: float
) -> None:
    if distribution is None:
        axes.set_axis_off()
        return
    axes.fill_between(bins.ages, distribution, step="mid", alpha=0.6)
    axes.axvline(age, color="tab:red", linewidth=1)
    axes.set_xlim(bins.minimum, bins.maximum)
    axes.set_ylim(0, 1.05 * peak)
    axes.set_xlabel("age [years]", fontsize=7)
    axes.tick_params(labelsize=7)
    axes.set_title(f"peak at {bins.ages[int(distribution.argmax())]:.0f}", fontsize=7)


def _means_figure(explanation: Explanation) -> Figure:
    means, stages = explanation.means, explanation.stages
    with plot_style():
        figure = Figure(figsize=(2.1 * (1 + len(stages)), 2.3 * len(means)), layout="constrained")
        grid = figure.subplots(len(means), 1 + len(stages), squeeze=False)
        for axes, group in zip(grid, means, strict=True):
            mean_face = np.clip(group.crop, 0, 255).astype(np.uint8)
            for column, panel in enumerate(axes):
                panel.set_axis_off()
                panel.imshow(mean_face)
                if column:
                    values = normalised_map(group.maps[column - 1], len(mean_face))
                    panel.imshow(values, cmap="turbo", alpha=0.5, vmin=0, vmax=1)
                    panel.set_title(stages[column - 1], fontsize=8)
            axes[0].set_title(f"{group.group}\n{group.count} faces", fontsize=8)
    return figure


def _face_caption(explanation: Explanation, face: FaceExplanation) -> str:
    said = ", ".join(f"{stage} {age:.1f}" for stage, age in zip(explanation.stages, face.ages, strict=True))
    return f"{face.face.path}, face {face.face.number}. Estimates in years (red line): {said}."


def _as_json(explanation: Explanation) -> dict[str, Any]:
    def number(value: float) -> float | None:
        return round(value, 4) if math.isfinite(value) else None

    return {
        "system": explanation.system,
        "maps": explanation.kind,
        "age_bins": str(explanation.bins),
        "faces": [
            {
                "path": face.face.path,
                "face": face.face.number,
                "stages": [
                    {
                        "stage": stage,
                        "age": number(age),
                        "explained": number(explained),
                        "distribution": None if told is None else [float(f"{p:.6g}") for p in told],
                        "map": [[float(f"{v:.6g}") for v in line] for line in values],
                    }
                    for stage, age, explained, told, values in zip(
                        explanation.stages,
                        face.ages,
                        face.explained,
                        face.distributions,
                        face.maps,
                        strict=True,
                    )
                ],
            }
            for face in explanation.faces
        ],
        "groups": {group.group: group.count for group in explanation.means},
        "failed": [{"path": path, "reason": reason} for path, reason in explanation.failed],
    }
