"""Training on the accelerator of this machine, if it has one: CUDA or MPS.

``scripts/check-gpu`` runs these tests (marker ``gpu``).
``test_devices.py`` runs the same code on a fake device.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agelens.data.crop_set import load_crops
from agelens.data.manifest import read_manifest
from agelens.experiments.train import train
from agelens.export.from_run import export_run
from agelens.inference.estimator import AgeEstimator
from agelens.methods.ohrank import OrdinalHyperplanes, pooled_features
from agelens.networks.stored import load_network
from agelens.training.degrade import degraded, draw_degradations
from agelens.training.recipe import Recipe
from agelens.training.run import Run
from agelens.training.stage import run_on_crops
from agelens.training.transforms import Augmentation, augment, normalise, resize_crops, resize_images

DEVICE = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else ""
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not DEVICE, reason="no accelerator")]


@pytest.fixture(scope="module")
def manifest(make_crops: Callable[..., Path]) -> Path:
    """64 training and 32 validation faces of 12 people, 80 px: ages and people in one manifest."""
    people = [number % 6 + (6 if number >= 64 else 0) for number in range(96)]
    return make_crops(
        [7.0 * number % 80 for number in range(96)],
        80,
        seeds=people,
        subject=[f"person {person}" for person in people],
        split=["train"] * 64 + ["val"] * 32,
    )


def _recipe(method: str, settings: dict[str, Any], heads: list[str], **more: Any) -> Recipe:
    precision = more.pop("precision", "no")
    table = {
        "name": method,
        "age_bins": "0-80",
        "method": {"name": method, "settings": settings},
        "network": {"backbone": "resnet10-tiny", "input_size": 64, "heads": heads},
        "train": {
            "epochs": 2,
            "batch_size": 16,
            "optimizer": "adamw",
            "learning_rate": 1e-3,
            "average": 0.9,
            "precision": precision,
        },
        "augment": {"rotation": 5.0, "brightness": 0.2, "erase": 0.3, "randaugment": 1},
        **more,
    }
    return Recipe.validate(table, "test")


def _trained(recipe: Recipe, manifest: Path, out: Path, **more: Any) -> Run:
    run = train(recipe, manifest, out, **more)
    assert set(run.finished_stages()) == set(run.facts["stages"])
    return run


def test_crops_are_resized_within_one_level_of_the_cpu() -> None:
    crops = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 80, 80, 3), dtype=np.uint8))
    for size in (33, 64, 100):
        here, there = resize_crops(crops, size), resize_crops(crops.to(DEVICE), size)
        assert there.device.type == DEVICE
        assert (there.cpu().int() - here.int()).abs().max() <= 1
        images = normalise(crops)
        torch.testing.assert_close(
            resize_images(images.to(DEVICE), size).cpu(), resize_images(images, size), rtol=0, atol=1e-4
        )


def test_views_are_close_to_those_of_the_cpu() -> None:
    crops = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 80, 80, 3), dtype=np.uint8))
    settings = Augmentation(rotation=20.0, brightness=0.2, hue=0.1, grey=0.2, erase=0.5)
    here, there = (
        augment(images, settings, 64, torch.Generator().manual_seed(0))
        for images in (crops, crops.to(DEVICE))
    )
    torch.testing.assert_close(there.cpu(), here, rtol=0, atol=2e-2)


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_generations_balanced_stage_and_export(precision: str, manifest: Path, tmp_path: Path) -> None:
    finish = {"name": "balanced", "settings": {"epochs": 1, "batch_size": 16, "precision": precision}}
    recipe = _recipe("lrn", {"generations": 2}, ["ldl", "reg"], precision=precision, finish=finish)
    run = _trained(recipe, manifest, tmp_path / "run")
    crops = load_crops(read_manifest(manifest))
    network = load_network(run.network_file("generation-2"))
    on_cpu, there = run_on_crops(network, crops, 64), run_on_crops(network.to(DEVICE), crops, 64)
    np.testing.assert_allclose(there.age, on_cpu.age, atol=0.5)
    export_run(run, tmp_path / "model.onnx")
    assert AgeEstimator(tmp_path / "model.onnx").card.name == "lrn"


def test_it_resumes(manifest: Path, tmp_path: Path) -> None:
    recipe = _recipe("lae", {}, ["ldl"])
    run = _trained(recipe, manifest, tmp_path / "run")
    before = load_network(run.network_file("representation")).state_dict()
    run.network_file("representation").unlink()
    again = _trained(recipe, manifest, tmp_path / "run", resume=True)
    for name, tensor in load_network(again.network_file("representation")).state_dict().items():
        torch.testing.assert_close(tensor, before[name])


def test_identities(manifest: Path, tmp_path: Path) -> None:
    recipe = _recipe("identity", {"embedding": 8, "folds": 2, "pairs": 20}, ["ldl"])
    run = _trained(recipe, manifest, tmp_path / "run")
    assert run.read_json("identity", "validation.json")["verification"]["pairs"] > 0


def test_two_teachers_and_a_student(manifest: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "width": 0.05,
        "zca": 3,
        "length": 3,
        "permutations": 3,
        "sequences": 32,
        "groups": [[0, 40], [30, 80]],
        "classifier": "student-small",
        "ranker_train": {"batch_size": 8},
    }
    network = {"backbone": "zca3:student-small@0.25", "input_size": 64, "heads": ["ldl"]}
    run = _trained(_recipe("ordinal-dark", settings, ["ldl"], network=network), manifest, tmp_path / "run")
    crops = load_crops(read_manifest(manifest))
    features = pooled_features(load_network(run.network_file("ranker")).to(DEVICE), crops)
    assert OrdinalHyperplanes().fit(features, crops.ages).predict(features).shape == crops.ages.shape
    export_run(run, tmp_path / "student.onnx")
    taught = {"stages": ["student"], "teachers": [str(run.path), str(tmp_path / "student.onnx")]}
    for views in (0, 2):
        own = {**settings, **taught, "lambda_1": 0.0, "lambda_2": 1.0, "views": views}
        small = {**network, "backbone": "student-small@0.25", "input_size": 48}
        _trained(_recipe("ordinal-dark", own, ["ldl"], network=small), manifest, tmp_path / f"views-{views}")


def test_degraded_crops() -> None:
    generator = torch.Generator().manual_seed(7)
    images = torch.rand((8, 3, 64, 64), generator=generator) * 255
    drawn = draw_degradations(8, 1.0, 1.0, 1.0, 1.0, generator)
    here = degraded(images.clone(), drawn)
    there = degraded(images.to(DEVICE), drawn).cpu()
    assert (here - there).abs().mean() < 1  # where a rounding tips, a block differs
