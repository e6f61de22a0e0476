"""Run folders, recipes and stored networks that are damaged, or made to do harm."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs the extra train")

import torch

from agelens.errors import AgelensError, CheckpointError, RecipeError, RunError
from agelens.experiments.leaderboard import Suite
from agelens.experiments.tradeoff import tradeoff
from agelens.export.from_run import export_run
from agelens.faces.alignment import DEFAULT_GEOMETRY
from agelens.label_distribution import AgeBins
from agelens.networks.age_network import AgeHead, AgeNetwork
from agelens.networks.backbones import load_backbone, make_backbone
from agelens.networks.stored import load_network, read_tensors, save_network, write_tensors
from agelens.training.recipe import Recipe
from agelens.training.run import Run, best_stage, warning_of

GEOMETRY = DEFAULT_GEOMETRY.with_size(32).to_dict()
STAGE = "generation-1"


@pytest.fixture(scope="module")
def network_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    backbone = make_backbone("resnet10-tiny")
    network = AgeNetwork(backbone, AgeHead(backbone.num_features, AgeBins(0, 80), ("ldl",)))
    path = tmp_path_factory.mktemp("network") / "network.safetensors"
    save_network(network, path)
    return path


@pytest.fixture
def run(tmp_path: Path, network_file: Path) -> Run:
    table = {
        "name": "small",
        "age_bins": "0-80",
        "method": {"name": "lrn", "settings": {"generations": 1}},
        "network": {"backbone": "resnet10-tiny", "input_size": 32},
    }
    made = Run.create(tmp_path / "run", Recipe.validate(table, "test"), {"geometry": GEOMETRY})
    made.stage(STAGE).mkdir()
    made.network_file(STAGE).symlink_to(network_file)
    made.write_json(STAGE, "validation.json", {"estimates": {"age": {"MAE": 3.0}}})
    arrays = {"ages": np.arange(20.0), "age": np.arange(20.0), "logits": np.ones((20, 81))}
    made.write_arrays(STAGE, "validation.npz", arrays)
    return made


def rewrite(path: Path, **change: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


@pytest.mark.parametrize(
    "change",
    [
        {"geometry": {**GEOMETRY, "size": 10**400}},
        {"geometry": {**GEOMETRY, "template": [[1e400, 0]] * 5}},
        {"geometry": [1]},
        {"geometry": "x"},
        {"stages": [3]},
        {"stages": 3},
        {"plugins": [3]},
        {"teachers": {"a": 3}},
        {"images": [1]},
        {"format": True},
        {"age_bins": 5},
    ],
    ids=str,
)
def test_damaged_facts(run: Run, change: dict[str, Any]) -> None:
    rewrite(run.path / "run.json", **change)
    with pytest.raises(RunError, match=r"run\.json: is damaged"):
        Run.open(run.path)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "3", "{", "\ud800", '{"format": ' + "1" * 5000 + "}"])
def test_facts_that_are_none(run: Run, text: str) -> None:
    (run.path / "run.json").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(RunError, match=r"run\.json: is damaged"):
        Run.open(run.path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
@pytest.mark.parametrize("name", ["run.json", "recipe.toml"])
def test_pipes_instead_of_facts(run: Run, name: str) -> None:
    (run.path / name).unlink()
    os.mkfifo(run.path / name)
    with pytest.raises(AgelensError, match="is no regular file"):
        Run.open(run.path)


@pytest.mark.parametrize(
    "table",
    [
        {"estimates": 3},
        {"estimates": {"age": 3}},
        {"estimates": {"age": {"MAE": "x"}}},
        {"estimates": {"age": {"MAE": 10**400}}},
        {"band accuracy": [1]},
        {"before": 3},
        {"finishes": 3},
        {"permutations": {"by kind": 3}},
        {"permutations": {"accuracy": []}},
    ],
    ids=str,
)
def test_damaged_validation(run: Run, table: dict[str, Any]) -> None:
    rewrite(run.stage(STAGE) / "validation.json", **table)
    with pytest.raises(RunError, match=r"validation\.json: is damaged"):
        best_stage(run)


@pytest.mark.parametrize(
    "arrays",
    [
        {"age": np.arange(3.0)},
        {"ages": np.arange(3.0), "age": np.arange(4.0)},
        {"ages": np.arange(3.0), "age": np.array(["a", "b", "c"])},
        {"ages": np.arange(3.0), "logits": np.arange(3.0)},
        {"ages": np.arange(3.0), "bounds": np.ones((3, 3))},
        {"ages": np.array(3.0)},
    ],
)
def test_damaged_arrays(run: Run, arrays: dict[str, Any]) -> None:
    run.write_arrays(STAGE, "validation.npz", arrays)
    with pytest.raises(RunError, match=r"validation\.npz: is damaged"):
        warning_of(run, STAGE)


def test_arrays_that_are_none(run: Run) -> None:
    (run.stage(STAGE) / "validation.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(RunError, match=r"validation\.npz: cannot be read: it is damaged"):
        warning_of(run, STAGE)


def test_arrays_of_another_network(run: Run, tmp_path: Path) -> None:
    run.write_arrays(STAGE, "validation.npz", {"ages": np.arange(3.0), "logits": np.ones((3, 5))})
    with pytest.raises(RunError, match=r"validation\.npz: cannot be calibrated on: logits \(3, 5\)"):
        export_run(run, tmp_path / "out.onnx")


def test_a_missing_fact_is_named(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"run\.json: is damaged: no split_digest"):
        export_run(run, tmp_path / "out.onnx")


@pytest.mark.parametrize("text", ["", "epoch\n", "epoch,loss\nx,1\n", "a,b\n1,2\n", '"'])
def test_damaged_logs(run: Run, text: str) -> None:
    stage = run.stage("balanced")
    stage.mkdir()
    (stage / "log.csv").write_text(text)
    if text.count("\n") > 1:
        with pytest.raises(RunError, match=r"log\.csv: is no log of epochs"):
            run.log("balanced", {"epoch": 2})
        with pytest.raises(RunError, match=r"log\.csv: has no MAE"):
            tradeoff(run)


@pytest.mark.parametrize(
    "described",
    [
        [],
        {},
        {"kind": "age", "backbone": "resnet10-tiny", "age_bins": "0-80", "heads": 3},
        {"kind": 3},
        {"kind": "age", "backbone": "resnet10-tiny", "age_bins": "x", "heads": ["ldl"]},
    ],
    ids=str,
)
def test_damaged_descriptions(tmp_path: Path, described: Any) -> None:
    write_tensors(tmp_path / "network.safetensors", {"a": torch.zeros(1)}, described)
    with pytest.raises(CheckpointError):
        load_network(tmp_path / "network.safetensors")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_weights_are_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "network.safetensors")
    with pytest.raises(CheckpointError, match="is no regular file"):
        read_tensors(tmp_path / "network.safetensors")
    with pytest.raises(CheckpointError, match="is no regular file"):
        load_backbone(make_backbone("resnet10-tiny"), tmp_path / "network.safetensors")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
@pytest.mark.parametrize("load", [Recipe.load, Suite.load])
def test_recipes_that_never_end(tmp_path: Path, load: Any) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(RecipeError, match="is no regular file"):
        load(tmp_path / "pipe.toml")
    with pytest.raises(RecipeError, match="is no regular file"):
        load("/dev/zero")


@pytest.mark.parametrize("load", [Recipe.load, Suite.load])
def test_recipes_that_break_a_parser(tmp_path: Path, load: Any) -> None:
    path = tmp_path / "r.toml"
    texts = ("a = " + "[" * 100_000, "a = " + "9" * 100_000, "a." * 100_000 + "b = 1", "a = 1e999", "a = nan")
    for text in (*texts, "name = " + "9" * 4000, "tricks = [[1]]", "tricks = {}", "trick = 3"):
        path.write_text(text)
        with pytest.raises(RecipeError):
            load(path)
    path.write_bytes(b"#" * 2**19)
    with pytest.raises(RecipeError, match="has 524288 bytes; at most 262144 are read"):
        load(path)


@pytest.mark.parametrize(
    "override", ["a." * 100_000 + "b=1", "seed=" + "[" * 100_000, "seed=" + "9" * 100_000]
)
def test_settings_that_break_a_parser(override: str) -> None:
    with pytest.raises(RecipeError):
        Recipe.load("lrn-utkface", [override])
