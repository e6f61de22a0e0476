"""A package of others, installed beside agelens: its loss, backbone and data set work by their names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("torch", reason="training needs the extra train")
pytest.importorskip("hatchling", reason="building the package needs the extra dev")

PACKAGE = Path(__file__).parent / "plugin_package"
SOURCE = Path(__file__).parents[1] / "src"
RECIPE = """
name = "acme"
age_bins = "0-80"
method = { name = "baseline", settings = { objective = "acme-huber", delta = 2.0 } }
network = { backbone = "acme-net", heads = ["reg"], input_size = 32 }
train = { epochs = 2, batch_size = 8, optimizer = "adam", learning_rate = 0.01 }
"""


def call(
    *arguments: str | Path, site: Path | None, module: str = "agelens"
) -> subprocess.CompletedProcess[str]:
    """Run a module of this Python, with the packages of ``site`` beside agelens."""
    folders = [str(SOURCE)] if site is None else [str(site), str(SOURCE)]
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the package."""
    target = tmp_path_factory.mktemp("site")
    pip = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = call(*pip, "--target", target, PACKAGE, module="pip", site=None)
    if done.returncode and "No module named pip" in done.stderr:
        pytest.skip("this environment has no pip")
    assert done.returncode == 0, done.stderr
    assert (target / "acme_faces-1.2.3.dist-info" / "entry_points.txt").exists()
    return target


@pytest.mark.slow
@pytest.mark.timeout(1800)  # eight commands, each a process of its own
def test_its_parts_prepare_train_resume_export_and_predict(
    site: Path, tmp_path: Path, draw_face: Callable[..., NDArray[np.uint8]]
) -> None:
    faces, crops, run, recipe = (tmp_path / name for name in ("faces", "crops", "run", "recipe.toml"))
    faces.mkdir()
    for age in range(5, 65, 2):
        split = "val" if age % 3 == 0 else "train"
        Image.fromarray(draw_face(age, seed=age)).save(faces / f"{age}_{split}.png")
    recipe.write_text(RECIPE)

    def agelens(*arguments: str | Path, module: str = "agelens") -> str:
        done = call(*arguments, site=site, module=module)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "acme: ACME: drawn faces, for tests." in agelens("datasets")
    agelens("prepare", "acme", faces, "--out", crops, "--detector", "none", "--size", "40")
    training = ("train", recipe, "--data", crops / "manifest.csv", "--out", run, "--cpu")
    agelens(*training)
    parts = [("backbones", "acme-net"), ("objectives", "acme-huber")]
    recorded = [
        {"group": group, "name": name, "package": "acme-faces", "version": "1.2.3"} for group, name in parts
    ]
    assert json.loads((run / "run.json").read_text())["plugins"] == recorded

    network = run / "baseline" / "network.safetensors"
    weights = network.read_bytes()
    network.unlink()  # as if it had been killed behind its last epoch
    launched = ("--num_processes", "1", "--cpu", "-m", "agelens", *training, "--resume")
    agelens(*launched, module="accelerate.commands.launch")
    assert network.read_bytes() == weights

    missing = call("export", run, "--out", tmp_path / "none.onnx", site=None)
    assert missing.returncode == 2
    assert f"{run}: was made with the backbone 'acme-net' of the package acme-faces 1.2.3" in missing.stderr
    assert "install acme-faces==1.2.3" in missing.stderr
    assert not (tmp_path / "none.onnx").exists()
    again = call(*training, "--resume", site=None)
    assert again.returncode == 2
    assert "install acme-faces==1.2.3" in again.stderr

    agelens("export", run, "--out", tmp_path / "acme.onnx")
    photo = next(crops.glob("**/*.png"))
    alone = call(
        "predict", photo, "--aligned", "--model", tmp_path / "acme.onnx", site=None
    )  # its file needs no package
    assert alone.returncode == 0, alone.stderr
    assert photo.name in alone.stdout


def test_an_unknown_name_lists_the_packages_parts(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agelens.errors import PluginError
    from agelens.objectives import find_objective

    monkeypatch.syspath_prepend(site)
    with pytest.raises(PluginError, match=r"no objective 'huber'; there are l1, l2, .*acme-huber"):
        find_objective("huber")
