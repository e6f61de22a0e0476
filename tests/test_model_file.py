"""What a model file says of itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from agelens.calibration import LEVEL_GRID, Calibration
from agelens.errors import ModelFileError, NewerModelError
from agelens.label_distribution import AgeBins
from agelens.model_file import FORMAT_VERSION, ModelCard

CARD = ModelCard(
    name="résnet",
    age_bins=AgeBins(0, 100),
    tau=2.0,
    calibration=Calibration(1.37, LEVEL_GRID, LEVEL_GRID, 2371, "val"),
    geometry={
        "name": "agelens-v1",
        "size": 112,
        "template": [[0.3, 0.3], [0.7, 0.3], [0.5, 0.5], [0.3, 0.7], [0.7, 0.7]],
    },
    normalisation={"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    decoding={"kind": "both"},
    licence={"code": "Apache-2.0", "data": "non-commercial research"},
    provenance={"data": "UTKFace", "seed": 0},
    digest="ab" * 32,
)
KEYS = sorted(CARD.to_metadata())


def test_keys_are_the_contract() -> None:
    plain = ["age_bins", "digest", "format_version", "name", "tau"]
    structured = ["calibration", "decoding", "geometry", "licence", "normalisation", "provenance"]
    assert sorted(f"agelens.{name}" for name in plain + structured) == KEYS
    assert CARD.to_metadata()["agelens.format_version"] == str(FORMAT_VERSION) == "1"
    assert CARD.to_metadata()["agelens.age_bins"] == "0-100"
    assert all(isinstance(text, str) for text in CARD.to_metadata().values())


@pytest.mark.parametrize("card", [CARD, replace(CARD, calibration=None, tau=0.1)])
def test_survives_the_metadata(card: ModelCard) -> None:
    assert ModelCard.from_metadata(card.to_metadata(), "m.onnx") == card


def test_unknown_keys_are_left_alone() -> None:
    metadata = {**CARD.to_metadata(), "agelens.colour": "blue", "producer": "someone"}
    assert ModelCard.from_metadata(metadata, "m.onnx") == CARD


def test_a_foreign_file_is_called_foreign() -> None:
    with pytest.raises(ModelFileError, match=r"other\.onnx: not an agelens model"):
        ModelCard.from_metadata({"producer": "someone"}, Path("other.onnx"))


@pytest.mark.parametrize("key", [key for key in KEYS if key != "agelens.format_version"])
def test_a_missing_or_empty_key_is_named(key: str) -> None:
    metadata = CARD.to_metadata()
    del metadata[key]
    with pytest.raises(ModelFileError, match=key):
        ModelCard.from_metadata(metadata, "m.onnx")
    with pytest.raises(ModelFileError, match=f"{key}: it is empty"):
        ModelCard.from_metadata({**metadata, key: ""}, "m.onnx")


@pytest.mark.parametrize("version", ["2", "10", "999999999"])
def test_a_newer_format_says_so(version: str) -> None:
    metadata = {"agelens.format_version": version}  # whatever else a newer format holds
    with pytest.raises(NewerModelError, match=f"newer agelens.*format {version}"):
        ModelCard.from_metadata(metadata, "m.onnx")


def _geometry(**changes: object) -> str:
    return json.dumps({**CARD.geometry, **changes})


def _calibration(**changes: object) -> str:
    assert CARD.calibration is not None
    return json.dumps({**CARD.calibration.to_dict(), **changes})


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("format_version", "0"),
        ("format_version", "-1"),
        ("format_version", "one"),
        ("format_version", "9" * 5000),
        ("age_bins", "100"),
        ("age_bins", "100-0"),
        ("tau", "warm"),
        ("tau", "0"),
        ("tau", "nan"),
        ("calibration", "{"),
        ("calibration", "[]"),
        ("calibration", _calibration(temperature=-1)),
        ("geometry", "[1, 2]"),
        ("geometry", _geometry(size=0)),
        ("geometry", _geometry(size="112")),
        ("geometry", _geometry(size=True)),
        ("geometry", _geometry(template=[[0.1, 0.2]] * 4)),
        ("geometry", _geometry(template=None)),
        ("licence", '{"a": NaN}'),
        ("provenance", "[" * 100_000),
        ("decoding", "both"),
    ],
)
def test_damage_is_named(key: str, text: str) -> None:
    with pytest.raises(ModelFileError, match=f"m.onnx: damaged model file: agelens.{key}") as caught:
        ModelCard.from_metadata({**CARD.to_metadata(), f"agelens.{key}": text}, "m.onnx")
    assert not isinstance(caught.value, NewerModelError)


def test_what_json_cannot_hold_is_not_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        replace(CARD, provenance={"loss": float("nan")}).to_metadata()
