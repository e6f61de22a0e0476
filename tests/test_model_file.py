"""The metadata of a model file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agelens import model_file
from agelens.calibration import LEVEL_GRID, Calibration
from agelens.errors import ModelFileError, NewerModelError
from agelens.label_distribution import AgeBins
from agelens.model_file import FORMAT_VERSION, ModelCard, open_model_file
from agelens.shift import ShiftCorrection, UsualRange

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
SHIFT = ShiftCorrection(0.1, (UsualRange(0.0, 1.0, 0.5, 0.25),) * 4, (0.0, 50.0), (0.5, -0.5))
SHIFTED = replace(CARD, calibration=Calibration(1.37, LEVEL_GRID, LEVEL_GRID, 2371, "val", SHIFT))
KEYS = sorted(CARD.to_metadata())


def test_keys_are_the_contract() -> None:
    plain = ["age_bins", "digest", "format_version", "name", "tau"]
    structured = ["calibration", "decoding", "geometry", "licence", "normalisation", "provenance"]
    assert sorted(f"agelens.{name}" for name in plain + structured) == KEYS
    assert CARD.to_metadata()["agelens.format_version"] == "1"
    assert CARD.to_metadata()["agelens.age_bins"] == "0-100"
    assert all(isinstance(text, str) for text in CARD.to_metadata().values())


def test_a_shift_takes_the_newest_format_which_older_agelens_refuse() -> None:
    assert SHIFTED.to_metadata()["agelens.format_version"] == str(FORMAT_VERSION) == "2"


@pytest.mark.parametrize("card", [CARD, replace(CARD, calibration=None, tau=0.1), SHIFTED])
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


@pytest.mark.parametrize("version", ["3", "10", "999999999"])
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
        ("calibration", _calibration(shift={"version": 1})),
        ("calibration", _calibration(shift=SHIFT.to_dict() | {"version": 2})),
        ("calibration", _calibration(shift="wide")),
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


# --- files that are opened


@pytest.fixture
def change_model(make_model: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """``change_model(change)`` writes a small model whose ONNX ``change`` has altered."""
    onnx = pytest.importorskip("onnx", reason="building a model file needs the extra train")

    def changed(change: Callable[[Any], None], **save: Any) -> Path:
        model = onnx.load(make_model())
        change(model)
        path = tmp_path / "changed.onnx"
        onnx.save(model, path, **save)
        return path

    return changed


def initializer(model: Any, name: str) -> Any:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def test_a_sound_model_is_opened(change_model: Callable[..., Path]) -> None:
    path = change_model(lambda model: None)
    for session, card in (
        open_model_file(path),
        open_model_file("elsewhere.onnx", content=path.read_bytes()),
    ):
        assert card.name == "small"
        assert [node.name for node in session.get_outputs()] == ["age", "distribution"]


@pytest.mark.parametrize("location", ["weights.bin", "/etc/passwd", "../../etc/passwd"])
def test_external_data_are_refused_wherever_they_are(
    change_model: Callable[..., Path], location: str
) -> None:
    from onnx.external_data_helper import set_external_data

    def move(model: Any) -> None:
        tensor = initializer(model, "bins")
        set_external_data(tensor, location, offset=0, length=404)
        tensor.ClearField("raw_data")
        tensor.data_location = 1

    with pytest.raises(ModelFileError, match=r"keeps weights in another file \(external data\)"):
        open_model_file(change_model(move))


def test_external_data_inside_nested_graphs_are_refused(change_model: Callable[..., Path]) -> None:
    from onnx import TensorProto, helper

    def nest(model: Any) -> None:
        tensor = TensorProto(name="t", data_type=1, dims=[1], data_location=1)
        tensor.external_data.add(key="location", value="/etc/passwd")
        constant = helper.make_node("Constant", [], ["t"], value=tensor)
        body = helper.make_graph([constant], "body", [], [helper.make_tensor_value_info("t", 1, [1])])
        condition = helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("c", 9, [], [True]))
        branch = helper.make_node("If", ["yes"], ["u"], then_branch=body, else_branch=body)
        model.graph.node.extend([condition, branch])

    with pytest.raises(ModelFileError, match="external data"):
        open_model_file(change_model(nest))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("years", np.float32(np.nan), "which are no ages"),
        ("years", np.float32(np.inf), "which are no ages"),
        ("years", np.float32(-4), "which are no ages"),
        ("width", np.float32(np.nan), "values that are no probabilities"),
    ],
)
def test_a_network_that_answers_nonsense_is_refused(
    change_model: Callable[..., Path], name: str, values: Any, message: str
) -> None:
    from onnx import numpy_helper

    def replace_values(model: Any) -> None:
        initializer(model, name).CopyFrom(numpy_helper.from_array(np.asarray(values), name))

    with pytest.raises(ModelFileError, match=message):
        open_model_file(change_model(replace_values))


def test_a_network_that_fails_is_refused(change_model: Callable[..., Path]) -> None:
    from onnx import numpy_helper

    def shorten(model: Any) -> None:
        bins = np.zeros((1, 7), np.float32)
        initializer(model, "bins").CopyFrom(numpy_helper.from_array(bins, "bins"))

    with pytest.raises(ModelFileError, match=r"changed\.onnx: "):
        open_model_file(change_model(shorten))


def test_a_network_that_never_answers_is_refused(
    change_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnx import TensorProto, helper

    def delay(model: Any) -> None:
        """Let the age pass through a loop of 2^62 rounds."""
        number, condition = TensorProto.INT64, TensorProto.BOOL
        body = helper.make_graph(
            [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Cos", ["value"], ["next"])],
            "round",
            [
                helper.make_tensor_value_info("round", number, []),
                helper.make_tensor_value_info("go", condition, []),
                helper.make_tensor_value_info("value", TensorProto.FLOAT, ["N"]),
            ],
            [
                helper.make_tensor_value_info("on", condition, []),
                helper.make_tensor_value_info("next", TensorProto.FLOAT, ["N"]),
            ],
        )
        for node in model.graph.node:
            node.output[:] = ["brightness_years" if name == "age" else name for name in node.output]
        model.graph.initializer.extend(
            [
                helper.make_tensor("rounds", number, [], [2**62]),
                helper.make_tensor("yes", condition, [], [True]),
            ]
        )
        place = next(i for i, node in enumerate(model.graph.node) if "brightness_years" in node.output)
        loop = helper.make_node("Loop", ["rounds", "yes", "brightness_years"], ["age"], body=body)
        model.graph.node.insert(place + 1, loop)

    monkeypatch.setattr(model_file, "PROBE_SECONDS", 0.5)
    started = time.monotonic()
    with pytest.raises(ModelFileError, match=r"its network did not answer within 0\.5 s"):
        open_model_file(change_model(delay))
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    "geometry",
    [
        {"size": True},
        {"size": 10**30},
        {"size": -1},
        {"size": 16.0},
        {"template": [[10**400, 0]] * 5},
        {"template": [[1e9, 0]] * 5},
        {"template": [[True, 0]] * 5},
        {"template": None},
        {"template": [[0, 0]] * 50_000},
    ],
)
def test_odd_geometries_are_named(geometry: dict[str, Any]) -> None:
    changed = replace(CARD, geometry={**CARD.geometry, **geometry})
    with pytest.raises(ModelFileError, match=r"agelens\.geometry: (size|template) must be") as caught:
        ModelCard.from_metadata(changed.to_metadata(), "m.onnx")
    assert len(str(caught.value)) < 300


def test_a_file_that_is_no_protocol_buffer(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    for content in (b"\xff" * 40, b"\x0b\x0c", b"\x0a\x7f", b"\x80" * 30):
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match="no ONNX model: not a "):
            open_model_file(path)
