"""All folds of a protocol, really trained on drawn faces: pooled, resumed after an interruption, refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agelens.apps import cli
from agelens.data.crop_set import load_crops
from agelens.data.manifest import read_manifest
from agelens.data.pooled import FoldsResult
from agelens.data.predictions import read_predictions
from agelens.errors import InputError, RunError, SplitError
from agelens.evaluation.evaluate import evaluate
from agelens.experiments.folds import train_folds
from agelens.experiments.train import train
from agelens.inference.shipped_models import model_path
from agelens.training.fit import run_on_crops
from agelens.training.recipe import Recipe
from agelens.training.run import Run, load_stage

PROTOCOL = "subject-3-fold"


def _twelve_people(make_crops: Callable[..., Path], size: int) -> Path:
    random = np.random.default_rng(0)
    return make_crops(
        [float(random.integers(0, 81)) for _ in range(36)],
        size,
        subject=[f"{number // 3:02d}" for number in range(36)],
        digest=[f"{number:064x}" for number in range(36)],
        note=[""] * 36,
    )


@pytest.fixture(scope="module")
def manifest(make_crops: Callable[..., Path]) -> Path:
    """Crops of twelve people, three of each."""
    return _twelve_people(make_crops, 40)


def _recipe(**changed: Any) -> Recipe:
    table: dict[str, Any] = {
        "name": "test",
        "age_bins": "0-80",
        "method": {"name": "lrn", "settings": {"generations": 1}},
        "network": {"backbone": "resnet10-tiny", "input_size": 32},
        "train": {"epochs": 2, "batch_size": 8, "optimizer": "adamw", "learning_rate": 0.003},
        "augment": {"flip": 0.5},
    }
    return Recipe.validate({**table, **changed}, "test")


@pytest.fixture(scope="module")
def whole(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> FoldsResult:
    """A run of all folds that nothing stopped."""
    return train_folds(_recipe(), manifest, tmp_path_factory.mktemp("runs") / "whole", PROTOCOL, cpu=True)


def test_every_image_is_tested_once_by_the_network_that_never_saw_it(
    whole: FoldsResult, manifest: Path
) -> None:
    rows = read_manifest(manifest)
    table = pd.read_csv(whole.path / "predictions.csv")
    assert table["path"].tolist() == rows["path"].tolist()
    assert [fold.fold for fold in whole.folds] == ["fold-01", "fold-02", "fold-03"]
    for fold in whole.folds:
        run = Run.open(whole.path / fold.fold)
        split = pd.read_csv(run.path / "split.csv", keep_default_na=False)["split"]
        tests = (split == "test").to_numpy()
        assert tests.sum() == fold.images == 12
        assert (table["fold"][tests] == fold.fold).all()
        people = [set(rows["subject"][(split == side).to_numpy()]) for side in ("train", "val", "test")]
        assert sum(map(len, people)) == len(set.union(*people)) == 12
        crops = load_crops(rows, cache=False).select(tests)
        outputs = run_on_crops(load_stage(run, fold.stage), crops, 32)
        np.testing.assert_allclose(table["age"][tests], outputs.age, atol=1e-4)
        assert fold.mae == pytest.approx(np.abs(outputs.age - crops.ages).mean(), abs=1e-4)
        assert run.facts["geometry"]["size"] == 40


def test_pooled_and_mean_of_folds_are_two_figures(whole: FoldsResult, manifest: Path) -> None:
    rows = read_manifest(manifest)
    errors = np.abs(pd.read_csv(whole.path / "predictions.csv")["age"] - rows["age"])
    assert whole.pooled_mae == pytest.approx(errors.mean())
    folds = pd.read_csv(whole.path / "folds.csv")
    assert whole.mean_of_folds == pytest.approx(folds["mae"].mean())
    assert whole.deviation_of_folds == pytest.approx(folds["mae"].std())
    pooled = json.loads((whole.path / "pooled.json").read_text())
    assert pooled["pooled MAE"] == whole.pooled_mae
    assert pooled["digest"] == whole.digest
    assert f"MAE {whole.pooled_mae:.3f} pooled over 36 images" in whole.line()
    assert f"{whole.mean_of_folds:.3f} as the mean of 3 folds" in whole.line()


def test_the_pool_is_what_evaluate_reads(whole: FoldsResult, manifest: Path) -> None:
    predictions = read_predictions(whole.path / "predictions.csv")
    assert predictions.distribution is not None
    assert predictions.distribution.shape == (36, 81)
    frame = predictions.frame
    assert (frame["low"] <= frame["high"]).all()
    mass = predictions.distribution[:, 18:].sum(axis=1)
    assert (frame["p_at_least"] <= mass + 1e-6).all()
    found = evaluate(predictions, read_manifest(manifest), by=("subject",), replicates=10)
    assert found.images == 36
    assert found.overall["MAE"].value == pytest.approx(whole.pooled_mae)


def test_nothing_is_left_over(whole: FoldsResult) -> None:
    names = sorted(path.name for path in whole.path.iterdir())
    assert names == [
        *("distributions.npz", "fold-01", "fold-02", "fold-03", "folds.csv", "folds.json", "pooled.json"),
        "predictions.csv",
    ]
    assert not list(whole.path.glob("**/checkpoint.safetensors"))
    assert (whole.path / "fold-01" / "generation-1" / "network.safetensors").exists()


class _StopsIn:
    """A reporter that is interrupted after the first epoch of a fold."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.told: list[str] = []

    def note(self, message: str) -> None: ...

    def step(
        self, stage: str, epoch: int, epochs: int, share: float, figures: Mapping[str, float]
    ) -> None: ...

    def epoch(self, stage: str, epoch: int, epochs: int, row: Mapping[str, Any]) -> None:
        self.told.append(f"{stage} {epoch}")
        if stage == self.stage:
            raise KeyboardInterrupt


def test_it_resumes_inside_the_fold_where_it_stopped(
    whole: FoldsResult, manifest: Path, tmp_path: Path
) -> None:
    out, lines = tmp_path / "run", []
    stopped = _StopsIn("fold-02 generation-1")
    with pytest.raises(KeyboardInterrupt):
        train_folds(_recipe(), manifest, out, PROTOCOL, reporter=stopped, cpu=True)
    assert stopped.told == ["fold-01 generation-1 1", "fold-01 generation-1 2", "fold-02 generation-1 1"]
    assert not (out / "predictions.csv").exists()
    with pytest.raises(RunError, match="is not empty; pass --resume"):
        train_folds(_recipe(), manifest, out, PROTOCOL, cpu=True)
    (out / "fold-03").mkdir()
    (out / "fold-03" / "recipe.toml").touch()  # killed before the fold's run began
    again = _StopsIn("never")
    result = train_folds(
        _recipe(), manifest, out, PROTOCOL, resume=True, reporter=again, note=lines.append, cpu=True
    )
    assert again.told == ["fold-02 generation-1 2", "fold-03 generation-1 1", "fold-03 generation-1 2"]
    for name in ("predictions.csv", "folds.csv"):
        assert (out / name).read_text() == (whole.path / name).read_text()
    assert result.pooled_mae == whole.pooled_mae
    assert lines[0].startswith("subject-3-fold: 3 folds by person")
    assert [line.partition(":")[0] for line in lines if line.startswith("fold-")] == [
        f"fold-0{k} (a part in 3 by person)" for k in (1, 2, 3)
    ]


@pytest.fixture
def finished(whole: FoldsResult, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole.path, tmp_path / "finished"))


def test_a_finished_run_is_only_pooled_again(whole: FoldsResult, finished: Path, manifest: Path) -> None:
    (finished / "predictions.csv").unlink()
    again = _StopsIn("never")
    result = train_folds(_recipe(), manifest, finished, PROTOCOL, resume=True, reporter=again, cpu=True)
    assert again.told == []
    assert result.folds == whole.folds
    assert (finished / "predictions.csv").read_text() == (whole.path / "predictions.csv").read_text()


def test_another_recipe_protocol_start_or_manifest_is_refused(
    finished: Path, manifest: Path, tmp_path: Path
) -> None:
    def resume(recipe: Recipe, data: Path, protocol: str, start: str | None = None) -> None:
        train_folds(recipe, data, finished, protocol, resume=True, start=start, cpu=True)

    with pytest.raises(RunError, match="another recipe"):
        resume(_recipe(seed=1), manifest, PROTOCOL)
    with pytest.raises(RunError, match="another protocol"):
        resume(_recipe(), manifest, "image-3-fold")
    with pytest.raises(RunError, match="another start"):
        resume(_recipe(), manifest, PROTOCOL, "elsewhere")
    fewer = manifest.with_name("fewer.csv")
    fewer.write_text("".join(manifest.read_text().splitlines(keepends=True)[:-3]))
    with pytest.raises(RunError, match="another digest"):
        resume(_recipe(), fewer, PROTOCOL)
    header, *rows = manifest.read_text().splitlines(keepends=True)
    other = manifest.with_name("other.csv")
    first, _, rest = rows[0].split(",", 2)
    for changed in ([f"{first},7.25,{rest}", *rows[1:]], rows[::-1]):  # an age, the order
        other.write_text("".join([header, *changed]))
        with pytest.raises(RunError, match="another labels"):
            resume(_recipe(), other, PROTOCOL)


def test_what_a_kill_left_of_a_finished_fold_is_removed(finished: Path, manifest: Path) -> None:
    (finished / ".fold-02").mkdir()
    (finished / ".fold-02" / "manifest.csv").touch()
    checkpoint = finished / "fold-02" / "generation-1" / "checkpoint.safetensors"
    checkpoint.touch()
    train_folds(_recipe(), manifest, finished, PROTOCOL, resume=True, cpu=True)
    assert not checkpoint.exists()
    assert not (finished / ".fold-02").exists()


def test_damage_is_told(finished: Path, manifest: Path) -> None:
    def resume() -> None:
        train_folds(_recipe(), manifest, finished, PROTOCOL, resume=True, cpu=True)

    facts = json.loads((finished / "fold-02" / "run.json").read_text())
    (finished / "fold-02" / "run.json").write_text(json.dumps({**facts, "start": "0" * 64}))
    with pytest.raises(RunError, match="different weights"):
        resume()
    (finished / "fold-02" / "run.json").write_text(json.dumps(facts))
    shutil.copy(finished / "fold-01" / "run.json", finished / "fold-01" / "test.npz")
    with pytest.raises(RunError, match=r"test\.npz: cannot be read"):
        resume()
    np.savez(finished / "fold-01" / "test.npz", age=np.zeros(3), stage=np.array("generation-1"))
    with pytest.raises(RunError, match="does not hold the fold's test images"):
        resume()
    for text in ("{", "[]"):
        (finished / "folds.json").write_text(text)
        with pytest.raises(RunError, match=r"folds\.json: cannot be read"):
            resume()
    (finished / "folds.json").unlink()
    with pytest.raises(RunError, match=r"holds no folds\.json"):
        resume()


def test_what_cannot_begin_leaves_nothing(manifest: Path, tmp_path: Path) -> None:
    for protocol, error in (("none", InputError), ("megaage", SplitError), ("subject-40-fold", SplitError)):
        with pytest.raises(error):
            train_folds(_recipe(), manifest, tmp_path / "run", protocol, cpu=True)
        assert not (tmp_path / "run").exists()


def test_every_fold_starts_from_the_same_weights_and_one_fold_has_no_deviation(
    manifest: Path, tmp_path: Path
) -> None:
    rows = read_manifest(manifest)
    sides = ["train"] * 24 + ["val"] * 12
    other = [hashlib.sha256(f"other {k}".encode()).hexdigest() for k in range(36)]  # not the folds' images
    rows.assign(split=sides, digest=other).to_csv(manifest.with_name("split.csv"), index=False)
    before = train(_recipe(), manifest.with_name("split.csv"), tmp_path / "before", cpu=True)
    result = train_folds(
        _recipe(age_bins="train", network={"backbone": "resnet10-tiny", "input_size": 32, "heads": ["reg"]}),
        manifest,
        tmp_path / "run",
        "morph-subject",
        start=before.path,
        cpu=True,
    )
    assert len(result.folds) == 1
    assert result.deviation_of_folds is None
    assert result.line().endswith("images of one fold")
    assert Run.open(result.path / "fold-01").facts["start"]
    assert not (result.path / "distributions.npz").exists()  # a network that only regresses has none
    assert len(pd.read_csv(result.path / "predictions.csv")) == result.images < 36


def test_a_shipped_start_is_found_again_from_another_folder(
    make_crops: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = _twelve_people(make_crops, 104)
    recipe = _recipe(
        age_bins="0-100",
        network={"backbone": "dlib-resnet", "input_size": 104, "heads": ["ldl"]},
        train={"epochs": 1, "batch_size": 16},
    )
    started: dict[str, Any] = {"start": "dlib-ensemble-fairface", "cpu": True}
    monkeypatch.chdir(tmp_path)
    before = train_folds(recipe, manifest, tmp_path / "run", "morph-subject", **started)
    facts = json.loads((tmp_path / "run" / "folds.json").read_text())
    assert facts["start"] == str(model_path("dlib-ensemble-fairface"))
    monkeypatch.chdir("/")
    again = train_folds(recipe, manifest, tmp_path / "run", "morph-subject", resume=True, **started)
    assert again.pooled_mae == before.pooled_mae


def test_bins_that_differ_by_fold_are_pooled_over_all_of_them(manifest: Path, tmp_path: Path) -> None:
    result = train_folds(
        _recipe(age_bins="train", train={"epochs": 1, "batch_size": 8}),
        manifest,
        tmp_path / "run",
        "subject-2-fold",
        cpu=True,
    )
    bins = [Run.open(result.path / fold.fold).facts["age_bins"] for fold in result.folds]
    ends = [tuple(map(int, text.split("-"))) for text in bins]
    predictions = read_predictions(result.path / "predictions.csv")
    assert predictions.bins is not None
    assert (predictions.bins.minimum, predictions.bins.maximum) == (
        min(low for low, _ in ends),
        max(high for _, high in ends),
    )


def test_the_command_line(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], finished: Path
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(_recipe().to_toml())
    arguments = ["train", str(recipe), "--data", str(manifest), "--out", str(finished), "--cpu"]
    for more, code in ((["--protocol", PROTOCOL, "--resume"], 0), (["--protocol", "none"], 2)):
        with pytest.raises(SystemExit) as stopped:
            cli.app([*arguments, *more])
        assert stopped.value.code == code
    shown = capsys.readouterr()
    assert "36 images used, 36 tested in 3 folds" in shown.out
    assert "leak: none" in shown.out
    assert "pooled over 36 images" in shown.out
    assert "as the mean of 3 folds" in shown.out
    assert "unknown protocol 'none'" in shown.err


def test_split_writes_a_manifest_a_fold(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> int:
        with pytest.raises(SystemExit) as stopped:
            cli.app(["split", str(manifest), *arguments])
        return int(stopped.value.code or 0)

    assert run("--protocol", PROTOCOL, "--out", str(tmp_path / "folds")) == 0
    assert sorted(path.name for path in (tmp_path / "folds").iterdir()) == [
        *("fold-01.csv", "fold-02.csv", "fold-03.csv")
    ]
    assert run("--protocol", PROTOCOL, "--fold", "2", "--out", str(tmp_path / "two.csv")) == 0
    assert read_manifest(tmp_path / "two.csv")["split"].value_counts().to_dict()["test"] == 12
    assert run("--protocol", PROTOCOL, "--fold", "4", "--out", str(tmp_path / "four.csv")) == 2
    assert "--fold 4: subject-3-fold has 3 folds here" in capsys.readouterr().err
    assert not (tmp_path / "four.csv").exists()
    assert run("--protocol", PROTOCOL, "--out", str(tmp_path / "all.csv")) == 2
    assert "3 folds go to a folder; --fold writes one to a file" in capsys.readouterr().err
    assert run("--protocol", PROTOCOL, "--fold", "1", "--out", str(tmp_path / "one")) == 2
    assert "one fold goes to a file that ends in .csv or .parquet" in capsys.readouterr().err
    assert not (tmp_path / "all.csv").exists()
    assert not (tmp_path / "one").exists()


def test_protocols_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.app(["protocols"])
    assert "fgnet-lopo" in capsys.readouterr().out
