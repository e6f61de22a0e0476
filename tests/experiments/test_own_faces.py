"""From a folder of one's own faces to a model file, by the documented commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from agelens.apps import cli
from agelens.data.manifest import read_manifest
from agelens.model_file import open_model_file

DrawFace = Callable[..., NDArray[np.uint8]]
SMALL = (
    *("--set", "network.backbone=resnet10-tiny", "--set", "network.input_size=32", "--set", "train.epochs=1"),
    *("--set", "train.batch_size=8", "--set", "train.sizes=[]", "--set", "method.settings.generations=1"),
    *("--set", "train.learning_rate=1e-9"),  # it learns nothing, which must be told
)


def test_names_with_ages_become_a_model_file(
    tmp_path: Path, draw_face: DrawFace, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: object) -> tuple[str, str]:
        with pytest.raises(SystemExit) as stopped:
            cli.app([str(argument) for argument in arguments])
        shown = capsys.readouterr()
        assert stopped.value.code == 0, shown.err
        return shown.out, shown.err

    for number in range(60):
        path = tmp_path / "faces" / f"{20 + number}_{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(draw_face(20 + number, size=64, seed=number)).save(path)
    table = tmp_path / "faces" / "labels.csv"
    table.write_text("path,age\n20_0.png,20\n")
    with pytest.raises(SystemExit):
        cli.app(["train", "lrn-utkface", "--data", str(table), "--out", str(tmp_path / "run"), "--cpu"])
    assert f"agelens prepare {table} --out CROPS, whose manifest has them" in capsys.readouterr().err
    crops = tmp_path / "crops"
    out, _ = run(
        *("prepare", "names", tmp_path / "faces", "--out", crops),
        *("--chips", "--detector", "none", "--size", "48"),
    )
    assert "split by content, 80/10/10: " in out
    assert set(read_manifest(crops / "manifest.csv")["split"]) >= {"train", "val"}
    # The geometry is known although the manifest lies elsewhere.
    elsewhere = tmp_path / "lists" / "split.csv"
    run("split", crops / "manifest.csv", "--protocol", "guess-the-age", "--out", elsewhere)
    _, err = run("train", "lrn-utkface", "--data", elsewhere, "--out", tmp_path / "run", "--cpu", *SMALL)
    assert "geometry" not in err
    assert "warning: generation-1 is of no use: " in err
    out, err = run("export", tmp_path / "run", "--out", tmp_path / "mine.onnx")
    _, card = open_model_file(tmp_path / "mine.onnx")
    assert card.geometry["name"] == "agelens-v1"
    assert f"warning: the model is of no use: {card.provenance['warning']}" in err
