"""Systems: what a text is, how each answers, runs without a distribution, photographs taken for crops."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from agelens.apps.cli import app
from agelens.apps.commands.evaluate import TAKEN_FOR_CROPS
from agelens.data.columns import SPLITS
from agelens.data.geometry import GEOMETRY_NAME
from agelens.data.manifest import read_manifest, write_manifest
from agelens.data.pooled import write_record
from agelens.data.predictions import Predictions, check_predictions, write_predictions
from agelens.data.protocol_split import apply_protocol
from agelens.data.protocols import load_protocol
from agelens.errors import InputError, ModelFileError, PredictionsError, RunError, SplitError
from agelens.evaluation.compare import compare
from agelens.evaluation.estimates import ESTIMATES, with_estimate
from agelens.evaluation.evaluate import evaluate, evaluate_system
from agelens.evaluation.predict import taken_for_crops
from agelens.evaluation.systems import open_system, split_name
from agelens.faces.alignment import ARCFACE_GEOMETRY, DEFAULT_GEOMETRY
from agelens.label_distribution import AgeBins, gaussian

BINS = AgeBins(0, 80)
SIZE = 32
COUNT = 40


@pytest.fixture(scope="module")
def crops(make_crops: Callable[..., Path]) -> Path:
    """A manifest of drawn faces, as ``prepare`` would have written it."""
    return make_crops(
        np.random.default_rng(0).integers(5, 75, COUNT).tolist(),
        SIZE,
        split=[SPLITS[min(index % 4, 2)] for index in range(COUNT)],
        digest=[f"{index:064x}" for index in range(COUNT)],
        source=[f"/photos/{index}.jpg" for index in range(COUNT)],
        alignment=["landmarks"] * COUNT,
    )


def make_run(folder: Path, heads: tuple[str, ...], *, geometry: bool = True) -> Path:
    """A run of one stage whose network is not trained, but differs from face to face."""
    torch = pytest.importorskip("torch", reason="a run needs the extra train")
    from agelens.faces.alignment import DEFAULT_GEOMETRY
    from agelens.networks.age_network import AgeHead, AgeNetwork
    from agelens.networks.backbones import make_backbone
    from agelens.networks.stored import save_network
    from agelens.training.recipe import Recipe
    from agelens.training.run import Run

    table = {
        "name": "small",
        "age_bins": str(BINS),
        "method": {"name": "lrn", "settings": {"generations": 1}},
        "network": {"backbone": "resnet10-tiny", "input_size": SIZE, "heads": list(heads)},
    }
    facts = {"geometry": DEFAULT_GEOMETRY.with_size(SIZE).to_dict() if geometry else None}
    facts |= {"split_digest": "0" * 64, "images": {}, "software": {}, "start": None, "stages": []}
    run = Run.create(folder, Recipe.validate(table, "test"), facts)
    torch.manual_seed(0)
    backbone = make_backbone("resnet10-tiny")
    network = AgeNetwork(backbone, AgeHead(backbone.num_features, BINS, heads))
    with torch.no_grad():
        for head in (network.head.ldl, network.head.reg):
            if head is not None:
                head.weight.mul_(8)
        if network.head.reg is not None:
            network.head.reg.bias.fill_(0.5)
    save_network(network.eval(), run.stage("generation-1") / "network.safetensors")
    run.write_json("generation-1", "validation.json", {"estimates": {"age": {"MAE": 9.0}}})
    arrays = {"ages": np.arange(20.0)}
    if "ldl" in heads:
        arrays["logits"] = np.random.default_rng(0).normal(size=(20, len(BINS)))
    if "reg" in heads:
        arrays["reg"] = arrays["ages"] + np.random.default_rng(1).normal(size=20)
    run.write_arrays("generation-1", "validation.npz", arrays)
    return folder


def make_table(folder: Path, paths: list[str], ages: NDArray[np.float64], spread: float = 4.0) -> Path:
    frame = check_predictions(pd.DataFrame({"path": paths, "age": ages}), "p")
    said = Predictions(frame, gaussian(ages, BINS, spread), BINS, "p")
    write_predictions(said, folder / "predictions.csv")
    return folder / "predictions.csv"


class TestOpen:
    def test_the_kind_of_a_text(self, tmp_path: Path, small_model: Path) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "run.json").write_text("{}")
        write_record(tmp_path / "folds", {"protocol": {"name": "image-2-fold"}, "digest": "0"})
        (tmp_path / "folds" / "predictions.csv").write_text("path,age\na,1\n")
        kinds = {
            str(small_model): "model",
            "default": "model",
            str(tmp_path / "run"): "run",
            str(tmp_path / "folds"): "folds",
            str(tmp_path / "none.CSV"): "predictions",
        }
        for text, kind in kinds.items():
            with open_system(text) as system:
                assert (system.kind, system.source) == (kind, text)
        assert open_system(tmp_path / "folds").name == "folds"
        assert open_system(small_model, "mine").name == "mine"

    def test_what_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"without run\.json or folds\.json is no run"):
            open_system(tmp_path)
        write_record(tmp_path, {"protocol": {"name": "image-2-fold"}, "digest": "0"})
        with pytest.raises(RunError, match="not pooled yet"):
            open_system(tmp_path)
        manifest = pd.DataFrame({"path": ["a"], "age": [1.0]})
        with pytest.raises(ModelFileError, match="no such file"):
            open_system("nosuch").answer(manifest)
        with pytest.raises(PredictionsError, match="cannot be read"):
            open_system(tmp_path / "nosuch.csv").answer(manifest)

    def test_names(self, tmp_path: Path) -> None:
        assert split_name("a=b.onnx") == ("a", "b.onnx", True)
        assert split_name("x/b.onnx") == ("b", "x/b.onnx", False)
        assert split_name(str(tmp_path / "t" / "predictions.csv"))[0] == "t"
        for text in ("=b", "a="):
            with pytest.raises(InputError, match="needs both"):
                split_name(text)


class TestRun:
    def test_a_run_is_judged_as_its_model_file(self, crops: Path, tmp_path: Path) -> None:
        from agelens.export.from_run import export_run

        folder = make_run(tmp_path / "run", ("ldl", "reg"))
        export_run(folder, tmp_path / "model.onnx")
        run = evaluate_system(folder, crops, by=(), replicates=20)
        model = evaluate_system(tmp_path / "model.onnx", crops, by=(), replicates=20)
        assert run.images == COUNT // 2
        assert run.to_dict() == model.to_dict()
        assert (run.image_kind, run.protocol) == ("aligned", None)

    def test_its_model_file_is_gone_when_it_is_closed(self, tmp_path: Path) -> None:
        with open_system(make_run(tmp_path / "run", ("ldl",))) as system:
            path = system.model_file()
            assert path is not None
            assert path.is_file()
            assert system.model_file() == path
        assert not path.exists()

    def test_a_run_that_only_regresses(self, crops: Path, tmp_path: Path) -> None:
        """Its ages are the network's, its distribution is normal; LRN Table 7, row 1."""
        torch = pytest.importorskip("torch")
        from agelens.data.crop_set import load_crops
        from agelens.training.run import Run, load_stage
        from agelens.training.stage import run_on_crops

        folder = make_run(tmp_path / "run", ("reg",))
        found = evaluate_system(folder, crops, "all", by=(), replicates=20)
        network = load_stage(Run.open(folder), "generation-1")
        with torch.inference_mode():
            expected = run_on_crops(network, load_crops(read_manifest(crops), cache=False), SIZE).age
        np.testing.assert_allclose(found.estimates, expected, atol=1e-3)
        assert np.ptp(found.estimates) > 0.1
        assert (found.system, found.intervals) == ("small", "conformal")
        assert found.distribution is not None
        np.testing.assert_allclose(found.distribution @ BINS.ages, expected, atol=0.5)

    def test_without_regressed_ages_of_the_validation_part(self, crops: Path, tmp_path: Path) -> None:
        folder = make_run(tmp_path / "run", ("reg",))
        np.savez(folder / "generation-1" / "validation.npz", ages=np.arange(20.0))
        with pytest.raises(RunError, match=r"validation\.npz.*no regressed ages"):
            evaluate_system(folder, crops)

    def test_it_is_compared_and_fails_where_an_image_does(self, crops: Path, tmp_path: Path) -> None:
        folder = make_run(tmp_path / "run", ("reg",))
        rows = read_manifest(crops)
        rows.loc[0, "path"] = "none.png"
        table = make_table(tmp_path, rows["path"].tolist(), rows["age"].to_numpy(dtype=np.float64))
        with open_system(folder) as system:
            answers = system.answer(rows)
            found = compare([answers, open_system(table, "t").answer(rows)], rows, (), replicates=50)
        assert answers.predictions.frame["error"].tolist()[:2] == ["no such file", ""]
        assert found.images == COUNT - 1

    def test_crops_of_unknown_geometry(self, crops: Path, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="unknown geometry"):
            evaluate_system(make_run(tmp_path / "run", ("reg",), geometry=False), crops)


class TestEvaluate:
    def test_a_table_is_matched_by_the_photos(self, crops: Path, tmp_path: Path) -> None:
        rows = read_manifest(crops)
        table = make_table(tmp_path, rows["source"].tolist(), rows["age"].to_numpy(dtype=np.float64))
        found = evaluate_system(table, crops, "all", by=(), replicates=20)
        assert (found.match.by_source, found.image_kind) == (COUNT, "")
        assert found.overall["MAE"].value == 0

    def test_a_run_over_folds_is_judged_by_its_protocol(self, crops: Path, tmp_path: Path) -> None:
        rows = read_manifest(crops)
        split = apply_protocol(rows, load_protocol("image-2-fold"))
        make_table(tmp_path, rows["path"].tolist(), rows["age"].to_numpy(dtype=np.float64) + 1)
        write_record(tmp_path, {"protocol": {"name": "image-2-fold"}, "digest": split.digest})
        found = evaluate_system(tmp_path, crops, by=(), replicates=20)
        assert (found.protocol, found.protocol_digest, found.split) == ("image-2-fold", split.digest, None)
        assert (found.images, found.overall["MAE"].value) == (COUNT, 1)
        with pytest.raises(InputError, match="both what is tested"):
            evaluate_system(tmp_path, crops, "test")
        write_record(tmp_path, {"protocol": {"name": "image-2-fold"}, "digest": "0" * 64})
        with pytest.raises(SplitError, match="other folds"):
            evaluate_system(tmp_path, crops)

    def test_photographs_taken_for_crops_are_told_apart(self, small_model: Path, tmp_path: Path) -> None:
        for index, size in enumerate(((40, 30), (30, 30))):
            Image.new("RGB", size).save(tmp_path / f"{index}.png")
        table = pd.DataFrame({"path": ["0.png", "1.png"], "age": [20, 30], "split": "test"})
        write_manifest(table, tmp_path / "photos.csv")
        with pytest.raises(InputError, match=r"photos\.csv: 1 of 2 images .* 40 x 30 .*--images photos"):
            evaluate_system(small_model, tmp_path / "photos.csv")
        write_manifest(table.assign(alignment="eyes"), tmp_path / "crops.csv")
        assert len(evaluate_system(small_model, tmp_path / "crops.csv", by=()).match.failed) == 1

    def test_crops_of_another_geometry_are_refused(self, small_model: Path, tmp_path: Path) -> None:
        Image.new("RGB", (30, 30)).save(tmp_path / "0.png")
        write_manifest(pd.DataFrame({"path": ["0.png"], "age": [20]}), tmp_path / "rows.csv")
        (tmp_path / GEOMETRY_NAME).write_text(json.dumps(ARCFACE_GEOMETRY.to_dict()))
        with pytest.raises(
            InputError, match=r"rows\.csv: crops of the geometry 'arcface', the model was made"
        ):
            evaluate_system(small_model, tmp_path / "rows.csv", "all")
        assert evaluate_system(small_model, tmp_path / "rows.csv", "all", "chips", by=()).images == 1

    @pytest.mark.parametrize(("known", "images"), [("", "aligned"), ("geometry", "aligned"), ("", "chips")])
    def test_images_that_nothing_calls_crops(self, known: str, images: str, tmp_path: Path) -> None:
        Image.new("RGB", (30, 30)).save(tmp_path / "0.png")
        table = pd.DataFrame({"path": ["0.png"], "age": [20]})
        write_manifest(table, tmp_path / "square.csv")
        if known:
            (tmp_path / GEOMETRY_NAME).write_text(json.dumps(DEFAULT_GEOMETRY.to_dict()))
        rows = read_manifest(tmp_path / "square.csv")
        assert taken_for_crops(rows, images) is (not known and images == "aligned")
        assert not taken_for_crops(rows.assign(alignment="landmarks"), images)

    @pytest.mark.parametrize("command", ["evaluate", "compare"])
    def test_the_commands_say_so(self, command: str, small_model: Path, tmp_path: Path) -> None:
        Image.new("RGB", (30, 30)).save(tmp_path / "0.png")
        write_manifest(pd.DataFrame({"path": ["0.png"], "age": [20]}), tmp_path / "square.csv")
        systems = [f"one={small_model}", f"two={small_model}"] if command == "compare" else [str(small_model)]
        arguments = ["--data", str(tmp_path / "square.csv"), "--split", "all"]
        done = CliRunner().invoke(app, [command, *systems, *arguments])
        assert done.exit_code == 0, done.output
        assert TAKEN_FOR_CROPS in done.output


class TestEstimates:
    def said(self) -> Predictions:
        mass = np.zeros((3, len(BINS)))
        mass[0, [20, 30, 31]] = 0.4, 0.3, 0.3
        mass[1, 50] = 1
        mass[2] = np.nan
        frame = pd.DataFrame(
            {"path": ["a", "b", "c"], "age": [26.3, 50, np.nan], "error": ["", "", "no face"]}
        )
        return Predictions(check_predictions(frame, "p"), mass, BINS, "p")

    @pytest.mark.parametrize(
        ("estimate", "age"), [("age", 26.3), ("argmax", 20), ("mean", 26.3), ("median", 29.5 + 1 / 3)]
    )
    def test_by_hand(self, estimate: str, age: float) -> None:
        ages = with_estimate(self.said(), estimate).frame["age"].to_numpy()
        assert ages[:2] == pytest.approx([age, 50])
        assert np.isnan(ages[2])

    def test_it_is_what_is_judged_and_named(self) -> None:
        labels = pd.DataFrame({"path": ["a", "b", "c"], "age": [20.0, 50.0, 9.0]})
        found = evaluate(self.said(), labels, (), estimate="argmax", replicates=20, system="mine")
        assert found.overall["MAE"].value == 0
        assert found.overall["CA(3)"].value == 100
        assert found.system == "mine (argmax of the distribution)"
        assert evaluate(self.said(), labels, (), replicates=20).overall["CA(3)"].value == 50

    def test_refusals(self) -> None:
        with pytest.raises(InputError, match=f"age, {', '.join(ESTIMATES)} .value: 'mode'"):
            with_estimate(self.said(), "mode")
        bare = Predictions(self.said().frame, None, None, "p.csv")
        with pytest.raises(PredictionsError, match=r"p\.csv.* no distributions"):
            with_estimate(bare, "argmax")
