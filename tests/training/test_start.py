"""Starts: needed ones are asked for, starts of other ages are told or refused, several by backbone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agelens.errors import InputError, RecipeError, RunError
from agelens.experiments.sweep import plan, sweep
from agelens.experiments.train import train
from agelens.metrics import AAR_GROUPS, aar
from agelens.networks.stored import load_network
from agelens.training.recipe import Recipe, recipe_names
from agelens.training.run import Run, best_stage
from agelens.training.start import starts_by_backbone

NEED_A_START = {
    "lrn",
    "cen",
    "lae-guess-the-age",
    "cnn-lsvr-utkface",
    "fgnet-lopo",
    "ordinal-dark",
    "ordinal-dark-small",
    "ordinal-dark-classifier",
    "ordinal-dark-fgnet",
}


class Heard:
    """A reporter that keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def step(self, *_: Any) -> None:
        """Nothing."""

    def epoch(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def manifest(make_crops: Callable[..., Path]) -> Path:
    return make_crops([2.0 * n for n in range(40)], 32, split=(["train"] * 4 + ["val"]) * 8)


def small(**values: Any) -> Recipe:
    table = {
        "name": "test",
        "age_bins": "0-80",
        "method": {"name": "lrn", "settings": {"generations": 1}},
        "network": {"backbone": "resnet10-tiny", "input_size": 32},
        "train": {"epochs": 1, "batch_size": 32},
        **values,
    }
    return Recipe.validate(table, "test")


def missing(recipe: Recipe, start: bool = False) -> str:
    from agelens.methods.lookup import method_named

    return method_named(recipe.method.name).missing_start(recipe, start)


def test_the_recipes_of_the_papers_say_what_they_start_from() -> None:
    found = {name: missing(Recipe.load(name)) for name in recipe_names()}
    assert {name for name, text in found.items() if text} == NEED_A_START
    for name in NEED_A_START:
        words = found[name].split()
        assert words[:2] == ["agelens", "train"]
        assert words[2] in recipe_names()
    assert "cen-pretrain" in found["cen"]
    assert Recipe.load("cen-pretrain").method.settings["tau"] == 1.0  # Eq. 14 of CEN has no temperature
    assert Recipe.load("lae-baseline-s").network.pretrained  # LAE Sec. 2.2: from ImageNet


def test_a_needed_start_is_asked_for_unless_the_run_is_told(manifest: Path, tmp_path: Path) -> None:
    recipe = small(needs_start="agelens train lrn-pretrain --data FACES.csv --out runs/start")
    with pytest.raises(RecipeError, match=r"needs_start\].*lrn-pretrain .*--random-start"):
        train(recipe, manifest, tmp_path / "run", cpu=True)
    assert not (tmp_path / "run").exists()
    run = train(recipe, manifest, tmp_path / "run", random_start=True, cpu=True)
    assert train(recipe, manifest, tmp_path / "run", resume=True, cpu=True).facts == run.facts
    started = train(recipe, manifest, tmp_path / "second", start=run.path, cpu=True)
    assert started.facts["start"]


def test_a_start_of_other_ages_is_told_or_refused(manifest: Path, tmp_path: Path) -> None:
    first = train(small(), manifest, tmp_path / "first", cpu=True)
    heard = Heard()
    train(small(age_bins="0-70"), manifest, tmp_path / "other", start=first.path, reporter=heard, cpu=True)
    assert [note for note in heard.notes if "starts anew" in note] == [
        "the start's head is of the ages 0-80, this run's of 0-70: the head starts anew"
    ]
    network = {"backbone": "resnet10-tiny", "input_size": 32, "same_bins": True}
    with pytest.raises(RunError, match=r"the ages 0-80, and the recipe keeps .* 0-70: .*--set age_bins=0-70"):
        train(small(age_bins="0-70", network=network), manifest, tmp_path / "no", start=first.path, cpu=True)
    still = small(network=network, train={"epochs": 1, "batch_size": 32, "learning_rate": 1e-12})
    kept = train(still, manifest, tmp_path / "kept", start=first.path, reporter=(quiet := Heard()), cpu=True)
    assert not any("anew" in note for note in quiet.notes)
    heads = [load_network(run.network_file("generation-1")).head.state_dict() for run in (first, kept)]
    np.testing.assert_allclose(heads[0]["ldl.weight"], heads[1]["ldl.weight"], atol=1e-6)


def test_a_sweep_over_backbones_starts_each_from_its_own(manifest: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(small().to_toml())
    tiny = train(small(), manifest, tmp_path / "tiny", cpu=True)
    bigger = {"backbone": "resnet18-tiny", "input_size": 32}
    deep = train(small(network=bigger), manifest, tmp_path / "backbone=deep", cpu=True)
    points = plan(recipe, ["backbone=resnet10-tiny,resnet18-tiny"], [0])
    with pytest.raises(InputError, match="'resnet18-tiny': --start resnet18-tiny=PATH"):
        sweep(points, manifest, tmp_path / "out", starts={"resnet10-tiny": tiny.path}, cpu=True)
    assert not (tmp_path / "out").exists()
    starts = starts_by_backbone([f"resnet10-tiny={tiny.path}", f"resnet18-tiny={deep.path}"])
    sweep(points, manifest, tmp_path / "out", starts=starts, cpu=True)
    digests = [Run.open(tmp_path / "out" / point.folder).facts["start"] for point in points]
    assert None not in digests
    assert len(set(digests)) == 2
    assert starts_by_backbone([str(deep.path)]) == {"": str(deep.path)}  # a folder with = in its name


@pytest.mark.parametrize("texts", [["resnet10="], ["a=b", "a=c"], ["b", "c"]])
def test_starts_that_cannot_be_read(texts: list[str]) -> None:
    with pytest.raises(InputError, match="--start"):
        starts_by_backbone(texts)


COUNTS = (300, 495, 4677, 1000, 1000, 1014, 1014, 500)
"""Images by group of AAR, such that the papers' figures hold; Table 2 gives those of groups 1, 3 and 8."""
FIGURES: dict[str, tuple[tuple[float, ...], tuple[float, float, float]]] = {
    "representation": ((4.66, 1.9483, 1.40, 1.4717, 1.4717, 1.9483, 1.9483, 2.59), (1.71, 1.11, 7.18)),
    "balanced": ((2.69, 1.6316, 1.62, 2.1484, 2.1484, 2.1484, 2.1484, 2.11), (1.89, 0.37, 7.74)),
}
"""By stage: the MAE of each group; MAE, σ and AAR of LAE's Table 2."""


def test_by_the_papers_own_figures_the_classification_stage_is_kept(tmp_path: Path) -> None:
    recipe = Recipe.load("lae-guess-the-age")
    run = Run.create(tmp_path / "run", recipe, {"stages": list(FIGURES)})
    ages: NDArray[np.float64] = np.repeat([float(low) for low, _ in AAR_GROUPS], COUNTS)
    for stage, (errors, printed) in FIGURES.items():
        said = ages + np.repeat(errors, COUNTS)
        figures = aar(said, ages)
        assert (figures.mae, figures.sigma, figures.aar) == pytest.approx(printed, abs=0.011)
        run.write_arrays(stage, "validation.npz", {"age": said, "ages": ages})
        run.write_json(stage, "validation.json", {"estimates": {"age": {"MAE": figures.mae}}})
        run.network_file(stage).touch()
    assert best_stage(Run.open(run.path)) == "balanced"
    assert best_stage(run, "mae") == "representation"  # as it was before the recipe selected by AAR
