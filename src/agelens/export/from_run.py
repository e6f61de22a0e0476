"""From a finished run to one model file, calibrated on the validation split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agelens.data.crop_set import load_crops
from agelens.data.manifest import read_manifest
from agelens.data.splits import split_digest, split_rows
from agelens.errors import RunError
from agelens.export.onnx_graph import CardFields, export
from agelens.faces.alignment import CropGeometry
from agelens.methods.lookup import method_named
from agelens.model_file import ModelCard
from agelens.networks.age_network import AgeHead, AgeNetwork, AnyNetwork, MirroredNetwork, PairedNetwork
from agelens.networks.scoring_head import RegressionHead
from agelens.networks.stored import load_network
from agelens.training.provenance import licence_of, named_without_folders, with_teachers
from agelens.training.run import (
    Run,
    best_stage,
    fit_calibration,
    load_stage,
    validation_facts,
    warning_of,
)
from agelens.training.stage import Validation, validate_ages
from agelens.training.transforms import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["export_run"]


def export_run(
    run: str | Path | Run,
    out: str | Path,
    *,
    stage: str | None = None,
    select: str | None = None,
    regression: str | Path | Run | None = None,
    mirror: str | Path | None = None,
    name: str | None = None,
    half: bool = False,
) -> ModelCard:
    """Export a finished stage as one model file, calibrated on the validation split.

    A network with the ``reg`` head alone (LRN Table 7, first row) gets a normal distribution about its age,
    as :class:`agelens.networks.scoring_head.RegressionHead` has it; calibration fits its width.

    Args:
        run: The run or its folder.
        out: The file to write (.onnx).
        stage: Which; None: :func:`best_stage`.
        select: Criterion of the best: ``mae``, ``aar`` or ``band``; None: as the run's recipe says.
        regression: Another run whose best stage regresses: Eq. 20 over two separately trained networks
            (LRN Table 7, fifth row). The distribution, and the calibration, are ``run``'s.
        mirror: The run's manifest: export the mirrored form (the face and its mirror image, averaged) of a
            run that was not judged by it. Its validation rows are estimated again, for the calibration.
        name: Of the model; None: the recipe's.
        half: Store the weights in 16 bits.
    Returns:
        The card that is in the file.
    Raises:
        RunError: Not a run, the stage is not finished, its validation outputs are gone, or the manifest has
            another split than the run's.
    """
    opened = run if isinstance(run, Run) else Run.open(run)
    selected = stage or best_stage(opened, select)
    if not opened.finished(selected):
        raise RunError(
            opened.path, f"has no finished stage {selected!r}; there are {opened.finished_stages()}"
        )
    network: AnyNetwork = load_stage(opened, selected)
    if regression is not None:
        network = _paired(
            opened, selected, regression if isinstance(regression, Run) else Run.open(regression)
        )
    regressing = not network.head.has_distribution
    if regressing:
        network = _with_distribution(network)
    method = method_named(opened.recipe.method.name)
    recipe, size = opened.recipe, opened.recipe.network.input_size
    if mirror is None or isinstance(network, MirroredNetwork):
        arrays = opened.read_arrays(selected, "validation.npz")
        table = opened.read_json(selected, "validation.json")
    else:
        network = MirroredNetwork(network)
        validation = _judge_validation(opened, network, mirror)
        arrays, table = validation.arrays, validation.table
    if regressing and "logits" not in arrays:
        if "reg" not in arrays:
            raise RunError(opened.stage(selected) / "validation.npz", "holds no regressed ages")
        arrays = {**arrays, "logits": _logits(network, arrays["reg"])}
    validated = recipe.train.validation  # else the arrays are of images that were trained on
    calibration = None
    if validated:
        calibration = fit_calibration(opened, selected, arrays, network.head.age_bins)
    if not opened.facts.get("geometry"):
        raise RunError(opened.path, "was trained on crops of unknown geometry (no geometry.json beside them)")
    geometry = CropGeometry.from_dict(opened.facts["geometry"])
    fields: CardFields = {
        "name": name or recipe.name,
        "geometry": geometry.with_size(size).to_dict(),
        "licence": licence_of(recipe, opened.facts),
        "provenance": {
            "data": with_teachers(recipe.card.data, opened.facts.get("teachers"), "data"),
            "split_digest": opened.fact("split_digest"),
            "images": opened.fact("images"),
            "stage": selected,
            **(validation_facts(table) if validated else {"validation_mae": None}),
            "recipe": named_without_folders(recipe.model_dump(mode="json"), method.teachers),
            "software": opened.fact("software"),
            "start": opened.fact("start"),
            "teachers": opened.facts.get("teachers"),
            **({"warning": warning} if (warning := warning_of(opened, selected)) else {}),
            **({"plugins": opened.facts["plugins"]} if opened.facts.get("plugins") else {}),
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


def _with_distribution(network: AnyNetwork) -> AnyNetwork:
    """A network that only regresses, with the same weights and a normal distribution about its age."""
    if isinstance(network, MirroredNetwork):
        inner = _with_distribution(network.network)
        assert not isinstance(inner, MirroredNetwork)
        return MirroredNetwork(inner)
    assert isinstance(network, AgeNetwork)
    assert isinstance(network.head, AgeHead)
    assert network.head.reg is not None
    head = RegressionHead(network.head.num_features, network.head.age_bins)
    head.linear = network.head.reg
    return AgeNetwork(network.backbone, head)


def _logits(network: AnyNetwork, ages: NDArray[Any]) -> NDArray[np.float32]:
    """Logits (N, K) of the distributions about regressed ages (N,), years."""
    head = network.head
    assert isinstance(head, RegressionHead)
    logits: NDArray[np.float32] = head.logits(torch.as_tensor(ages, dtype=torch.float32)).numpy()
    return logits


def _paired(run: Run, stage: str, other: Run) -> AnyNetwork:
    for key, mine, theirs in (
        ("input_size", run.recipe.network.input_size, other.recipe.network.input_size),
        ("geometry", run.facts.get("geometry"), other.facts.get("geometry")),
    ):
        if mine != theirs:
            raise RunError(other.path, f"has another {key} than {run.path}: {theirs!r}, not {mine!r}")
    files = (run.network_file(stage), other.network_file(best_stage(other)))
    pair = PairedNetwork(*(load_network(file) for file in files))
    return MirroredNetwork(pair) if run.recipe.network.mirror else pair


def _judge_validation(run: Run, network: AnyNetwork, manifest: str | Path) -> Validation:
    """Estimate and judge the validation rows that a run was judged on."""
    rows = read_manifest(manifest)
    validation = split_rows(rows, "val")
    digest = split_digest(rows) if "digest" in rows else None
    if (digest, len(validation)) != (run.fact("split_digest"), run.fact("images").get("val")):
        raise RunError(run.path, f"was not trained on the split of {manifest}")
    return validate_ages(network, load_crops(validation), run.recipe.network.input_size)
