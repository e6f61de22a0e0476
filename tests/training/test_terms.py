"""Terms of a model: the strictest of what its images, start and teachers permit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from agelens.data.datasets import DATASETS
from agelens.errors import InputError
from agelens.experiments.train import train
from agelens.export.from_run import export_run
from agelens.terms import PERMISSIONS, Terms, read_terms, strictest
from agelens.training.provenance import check_terms, licence_of, run_terms
from agelens.training.recipe import Recipe
from agelens.training.run import Run

SMALL = (
    "network.backbone='resnet10-tiny'",
    "network.input_size=32",
    "train.epochs=1",
    "train.batch_size=8",
    "train.precision='no'",
)


def test_the_strictest_wins() -> None:
    assert strictest(["any", "attribution"]) == "attribution"
    assert strictest(["attribution", "unknown"]) == "unknown"
    assert strictest(["unknown", "research", "any"]) == "research"
    assert strictest([]) == "unknown"
    assert list(PERMISSIONS) == ["any", "attribution", "unknown", "research"]
    assert read_terms({"permits": "everything", "text": "ours"}) == Terms("unknown", "ours")


def test_every_public_set_states_its_terms() -> None:
    for name, known in DATASETS.items():
        ours = known.own or name == "people"
        assert (known.terms.permits == "unknown") == ours, name
    assert DATASETS["fairface"].terms.permits == "attribution"


def _rows(*names: str) -> pd.DataFrame:
    return pd.DataFrame({"split": ["train"] * len(names), "dataset": names})


@pytest.mark.parametrize(
    ("sets", "permits"),
    [
        (("fairface",), "attribution"),
        (("fairface", "utkface"), "research"),
        (("fairface", ""), "unknown"),
        (("no_such_set",), "unknown"),
    ],
)
def test_terms_of_sets(sets: tuple[str, ...], permits: str) -> None:
    recipe = Recipe.load("dex-utkface")
    licence = licence_of(recipe, {"terms": run_terms(_rows(*sets), recipe, None, None)})
    assert licence["permits"] == permits
    assert licence["use"].startswith(PERMISSIONS[licence["permits"]])
    for name in sets:
        assert name not in DATASETS or DATASETS[name].terms.text in licence["data"]


@pytest.fixture(scope="module")
def restricted(make_crops: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    manifest = make_crops(range(20, 44), 32, split=["train"] * 16 + ["val"] * 8, dataset=["utkface"] * 24)
    return train(Recipe.load("dex-utkface", SMALL), manifest, tmp_path_factory.mktemp("r") / "run", cpu=True)


def test_an_open_line_refuses_restricted_parts(
    restricted: Run, make_crops: Callable[..., Path], tmp_path: Path
) -> None:
    model = tmp_path / "teacher.onnx"
    assert export_run(restricted, model).licence["permits"] == "research"
    manifest = make_crops(range(50, 74), 32, split=["train"] * 16 + ["val"] * 8, dataset=["fairface"] * 24)
    student = (*SMALL, f"method.settings.teachers=['{model}']", "method.settings.views=1")
    for recipe, start, part in (
        (Recipe.load("dex-utkface", SMALL), restricted.path, "the start"),
        (Recipe.load("student-utkface", student), None, "the teacher"),
    ):
        with pytest.raises(InputError, match=rf"{part} .*research only .*UTKFace.*--allow-restricted"):
            train(recipe, manifest, tmp_path / "refused", start=start, cpu=True)
        assert not (tmp_path / "refused").exists()
    allowed = Recipe.load("dex-utkface", [*SMALL, "card.allow_restricted=true"])
    run = train(allowed, manifest, tmp_path / "run", start=restricted.path, cpu=True)
    licence = export_run(run, tmp_path / "model.onnx").licence
    assert licence["permits"] == "research"
    assert "FairFace: CC BY 4.0" in licence["data"]
    assert "start: UTKFace" in licence["data"]


def test_parts_of_ones_own_data_are_told_not_refused() -> None:
    terms = {
        "own data": {"permits": "unknown", "text": "ours"},
        "teacher big": {"permits": "research", "text": "UTKFace"},
    }
    (note,) = check_terms(terms, allowed=False)
    assert note.endswith("non-commercial research only (teacher big)")
    assert check_terms({"utkface": {"permits": "research"}, "start": {"permits": "attribution"}}, False) == []
    (note,) = check_terms({"fairface": {"permits": "attribution"}, "start": {"permits": "unknown"}}, False)
    assert "not known" in note
