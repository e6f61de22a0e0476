"""From a recipe and a prepared manifest to a finished run, and from a run back to its networks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import PartialState
from torch import Tensor

from agelens.calibration import Calibration
from agelens.data.crops import load_crops
from agelens.data.manifest import read_manifest
from agelens.data.splits import split_digest
from agelens.errors import CheckpointError, InputError, RunError, SplitError
from agelens.faces.alignment import CropGeometry
from agelens.files import write_atomically
from agelens.label_distribution import AgeBins
from agelens.methods.export import CardFields, export
from agelens.methods.fit import Method, Reporter, fit
from agelens.methods.lrn import LabelRefinery
from agelens.methods.recipe import Recipe
from agelens.methods.run import Run, read_tensors, write_tensors
from agelens.methods.transforms import IMAGENET_MEAN, IMAGENET_STD
from agelens.model_file import ModelCard
from agelens.networks.age_network import AgeHead, AgeNetwork, AnyNetwork, MirroredNetwork, PairedNetwork
from agelens.networks.backbones import make_backbone

__all__ = [
    "METHODS",
    "best_stage",
    "export_run",
    "load_network",
    "load_stage",
    "make_method",
    "save_network",
    "train",
]

METHODS: dict[str, Callable[[Recipe, AgeBins, Mapping[str, Tensor] | None], Method]] = {
    "lrn": LabelRefinery,
}
"""Method names of recipes: a method is one file and one line here."""


def train(
    recipe: Recipe,
    manifest: str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    start: str | Path | None = None,
    reporter: Reporter | None = None,
    loading: Callable[[int, int], None] | None = None,
    cpu: bool = False,
) -> Run:
    """Train a recipe on the ``train`` rows of a prepared manifest; validate on its ``val`` rows.

    Args:
        recipe: What to do. On resume, the run's own recipe is used and this one must agree with it.
        manifest: CSV or Parquet of aligned crops of one size, with a ``split`` column.
        out: The run folder.
        resume: Go on with the run in ``out`` (start it if there is none).
        start: A run folder or ``network.safetensors`` of a pre-training: every stage starts from it (LRN
            pre-trains on IMDB-WIKI). Heads for other age bins start anew.
        reporter: Told of steps and epochs.
        loading: Called with (done, total) while crops are decoded.
        cpu: Keep to the CPU.
    Returns:
        The finished run.
    Raises:
        RunError: ``out`` is not empty (without resume), or belongs to other data or another recipe.
        SplitError: The manifest has no train or no val rows.
    """
    rows = read_manifest(manifest)
    if "split" not in rows or not {"train", "val"} <= set(rows["split"].dropna()):
        raise SplitError(f"{manifest}: needs rows with split 'train' and rows with split 'val'")
    training, validation = _rows(rows, "train"), _rows(rows, "val")
    bins = _age_bins(recipe, training)
    facts: dict[str, Any] = {
        "software": {name: version(name) for name in ("agelens", "torch", "numpy")},
        "age_bins": str(bins),
        "split_digest": split_digest(rows) if "digest" in rows else None,
        "geometry": _geometry(Path(rows.attrs["root"])),
        "images": {"train": len(training), "val": len(validation)},
        "start": None if start is None else _start_digest(start),
    }
    state = PartialState(cpu=cpu)
    with state.main_process_first():  # one process makes the run and the cache of crops, the others find them
        run = _open_run(Path(out), recipe, facts, rows, resume or not state.is_main_process)
        used = rows[rows["split"].isin(["train", "val"])]
        crops = load_crops(used, progress=loading if state.is_main_process else None)
    is_train = (used["split"] == "train").to_numpy()
    method = make_method(run.recipe, bins, None if start is None else _start_weights(start, run.recipe, bins))
    fit(
        run,
        method,
        crops.select(is_train),
        crops.select(~is_train),
        load_network=lambda stage: load_network(run.stage(stage) / "network.safetensors"),
        save_network=lambda stage, network: save_network(
            network, run.recipe.network.backbone, run.stage(stage) / "network.safetensors"
        ),
        reporter=reporter,
        cpu=cpu,
    )
    return run


def best_stage(run: Run) -> str:
    """The finished stage with the lowest validation MAE: how the refinery's T is chosen.

    Raises:
        RunError: No stage is finished.
    """
    stages = run.finished_stages()
    if not stages:
        raise RunError(run.path, "has no finished stage; go on with --resume")
    return min(stages, key=lambda stage: _validation_mae(run, stage))


def export_run(
    run: str | Path | Run,
    out: str | Path,
    *,
    stage: str | None = None,
    regression: str | Path | Run | None = None,
    half: bool = False,
) -> ModelCard:
    """Export a finished stage as one model file, calibrated on the validation split.

    Args:
        run: The run or its folder.
        out: The file to write (.onnx).
        stage: Which; None: :func:`best_stage`.
        regression: Another run whose best stage regresses: Eq. 20 over two separately trained networks
            (LRN Table 7, fifth row). The distribution, and the calibration, are ``run``'s.
        half: Store the weights in 16 bits.
    Returns:
        The card that is in the file.
    Raises:
        RunError: Not a run, the stage is not finished, or its validation outputs are gone.
        InputError: The network has no distribution to export.
    """
    opened = run if isinstance(run, Run) else Run.open(run)
    chosen = stage or best_stage(opened)
    if not opened.finished(chosen):
        raise RunError(opened.path, f"has no finished stage {chosen!r}; there are {opened.finished_stages()}")
    network: AnyNetwork = load_stage(opened, chosen)
    if regression is not None:
        network = _paired(opened, chosen, regression if isinstance(regression, Run) else Run.open(regression))
    validation = opened.read_arrays(chosen, "validation.npz")
    calibration = Calibration.fit(validation.get("logits"), validation["ages"], network.head.age_bins)
    recipe, size = opened.recipe, opened.recipe.network.input_size
    if not opened.facts.get("geometry"):
        raise RunError(opened.path, "was trained on crops of unknown geometry (no geometry.json beside them)")
    geometry = CropGeometry.from_dict(opened.facts["geometry"])
    fields: CardFields = {
        "name": recipe.name,
        "geometry": geometry.with_size(size).to_dict(),
        "licence": {
            "code": "Apache-2.0",
            "data": recipe.card.data_terms,
            "use": recipe.card.use,
        },
        "provenance": {
            "data": recipe.card.data,
            "split_digest": opened.facts["split_digest"],
            "images": opened.facts["images"],
            "stage": chosen,
            "validation_mae": _validation_mae(opened, chosen),
            "recipe": recipe.model_dump(mode="json"),
            "software": opened.facts["software"],
            "start": opened.facts["start"],
        },
    }
    return export(
        network,
        fields,
        out,
        size=size,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        calibration=calibration,
        half=half,
    )


def make_method(recipe: Recipe, bins: AgeBins, start: Mapping[str, Tensor] | None = None) -> Method:
    """The method a recipe names.

    Raises:
        InputError: An unknown method.
    """
    if recipe.method.name not in METHODS:
        raise InputError(f"no method {recipe.method.name!r}; there are {', '.join(METHODS)}")
    return METHODS[recipe.method.name](recipe, bins, start)


def save_network(network: AgeNetwork, backbone: str, path: str | Path) -> None:
    """Write weights, and what is needed to build the network again, into one safetensors file."""
    head = network.head
    described = {"backbone": backbone, "age_bins": str(head.age_bins), "heads": head.heads, "tau": head.tau}
    write_tensors(Path(path), network.state_dict(), described)


def load_network(path: str | Path) -> AgeNetwork:
    """Build a network from what :func:`save_network` wrote.

    Raises:
        CheckpointError: Missing, damaged, or not ours.
    """
    tensors, described = read_tensors(Path(path))
    try:
        backbone = make_backbone(described["backbone"])
        bins = AgeBins.parse(described["age_bins"])
        head = AgeHead(backbone.num_features, bins, described["heads"], described["tau"])
        network = AgeNetwork(backbone, head)
        network.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(path, f"does not describe a network of ours: {error}") from error
    return network.eval()


def load_stage(run: Run, stage: str) -> AnyNetwork:
    """The network that a finished stage is judged and exported by: mirrored if the recipe says so.

    Raises:
        CheckpointError: Missing, damaged, or not ours.
    """
    network = load_network(run.stage(stage) / "network.safetensors")
    return MirroredNetwork(network).eval() if run.recipe.network.mirror else network


def _open_run(
    folder: Path, recipe: Recipe, facts: Mapping[str, Any], rows: pd.DataFrame, resume: bool
) -> Run:
    if resume and (folder / "run.json").exists():
        run = Run.open(folder)
        _check_same(run, recipe, facts)
        return run
    run = Run.create(folder, recipe, facts)
    with write_atomically(folder / "split.csv") as temporary:
        rows.reindex(columns=["path", "age", "split", "digest"]).to_csv(temporary, index=False)
    return run


def _paired(run: Run, stage: str, other: Run) -> AnyNetwork:
    for key, mine, theirs in (
        ("input_size", run.recipe.network.input_size, other.recipe.network.input_size),
        ("geometry", run.facts.get("geometry"), other.facts.get("geometry")),
    ):
        if mine != theirs:
            raise RunError(other.path, f"has another {key} than {run.path}: {theirs!r}, not {mine!r}")
    files = [run.stage(stage), other.stage(best_stage(other))]
    pair = PairedNetwork(*(load_network(folder / "network.safetensors") for folder in files))
    return MirroredNetwork(pair) if run.recipe.network.mirror else pair


def _validation_mae(run: Run, stage: str) -> float:
    return float(run.read_json(stage, "validation.json")["estimates"]["age"]["MAE"])


def _rows(rows: pd.DataFrame, split: str) -> pd.DataFrame:
    return rows[rows["split"] == split]


def _age_bins(recipe: Recipe, training: pd.DataFrame) -> AgeBins:
    if recipe.age_bins != "train":
        return AgeBins.parse(recipe.age_bins)
    return AgeBins(int(training["age"].min()), int(training["age"].max()))


def _geometry(root: Path) -> dict[str, Any] | None:
    """What ``prepare`` left beside the crops; None where the crops come from elsewhere."""
    path = root / "geometry.json"
    if not path.exists():
        return None
    try:
        return CropGeometry.from_dict(json.loads(path.read_text(encoding="utf-8"))).to_dict()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: is not a crop geometry: {error}") from error


def _start_path(start: str | Path) -> Path:
    path = Path(start)
    if path.is_dir():
        run = Run.open(path)
        stages = run.finished_stages()
        if not stages:
            raise RunError(path, "has no finished stage to start from")
        path = run.stage(stages[-1]) / "network.safetensors"
    return path


def _start_digest(start: str | Path) -> str:
    return hashlib.sha256(_start_path(start).read_bytes()).hexdigest()


def _start_weights(start: str | Path, recipe: Recipe, bins: AgeBins) -> dict[str, Tensor]:
    """Pre-trained weights for this recipe's network; a head of another shape keeps its own start."""
    tensors, described = read_tensors(_start_path(start))
    if described.get("backbone") != recipe.network.backbone:
        raise RunError(
            Path(start),
            f"holds a {described.get('backbone')!r}, the recipe wants {recipe.network.backbone!r}",
        )
    torch.manual_seed(recipe.seed)
    backbone = make_backbone(recipe.network.backbone)
    fresh = AgeNetwork(backbone, AgeHead(backbone.num_features, bins, recipe.network.heads)).state_dict()
    same_bins = described.get("age_bins") == str(bins)
    return {
        name: tensors[name] if name in tensors and (same_bins or not name.startswith("head.")) else value
        for name, value in fresh.items()
    }


def _check_same(run: Run, recipe: Recipe, facts: Mapping[str, Any]) -> None:
    if run.recipe != recipe:
        raise RunError(run.path, "was started with another recipe; resume with its recipe.toml")
    for key in ("age_bins", "split_digest", "images", "start"):
        if run.facts.get(key) != facts[key]:
            raise RunError(
                run.path, f"was started with another {key}: {run.facts.get(key)!r}, now {facts[key]!r}"
            )
