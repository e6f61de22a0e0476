"""The epoch loop: it learns, it resumes to the same weights after a real SIGKILL, it tells what is wrong."""

from __future__ import annotations

import csv
import itertools
import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from agelens.data.crop_set import CropSet, load_crops
from agelens.data.manifest import read_manifest
from agelens.errors import CheckpointError, InputError, ManifestError, RecipeError, RunError, SplitError
from agelens.experiments.generations import estimate_stage, generation_table
from agelens.experiments.train import processes_note, train
from agelens.export.from_run import export_run
from agelens.inference.estimator import AgeEstimator
from agelens.label_distribution import AgeBins
from agelens.methods.lookup import FINISHERS, METHODS
from agelens.networks.age_network import Outputs
from agelens.networks.stored import load_network, read_tensors, write_tensors
from agelens.training.compiled import compiled
from agelens.training.crop_source import one_ahead
from agelens.training.fit import fit, run_on_crops
from agelens.training.optimisation import learning_rate
from agelens.training.recipe import Recipe, TrainSettings
from agelens.training.run import Run, best_stage
from agelens.training.stage import Batch, Order, Stage, Validation
from agelens.training.transforms import Augmentation, augment, normalise, pixels, resize_crops

DrawFace = Callable[..., NDArray[np.uint8]]


@pytest.fixture(scope="module")
def manifest(make_crops: Callable[..., Path]) -> Path:
    generator = np.random.default_rng(0)
    ages = [float(generator.integers(0, 81)) for _ in range(80)]
    return make_crops(ages, 48, split=["train"] * 64 + ["val"] * 16)


def _recipe(**train_settings: object) -> Recipe:
    table = {
        "name": "test",
        "seed": 3,
        "age_bins": "0-80",
        "method": {"name": "lrn", "settings": {"generations": 2}},
        "network": {"backbone": "resnet10-tiny", "input_size": 32},
        "train": {
            "epochs": 2,
            "batch_size": 16,
            "optimizer": "adamw",
            "learning_rate": 0.003,
            "schedule": "onecycle",
            "average": 0.9,
            **train_settings,
        },
        "augment": {"rotation": 5.0, "brightness": 0.2, "erase": 0.3, "grey": 0.2},
    }
    return Recipe.validate(table, "test")


def _mirrored(recipe: Recipe) -> Recipe:
    table = recipe.model_dump()
    table["network"]["mirror"] = True
    return Recipe.validate(table, "test")


def _log(run: Path, stage: str) -> list[dict[str, str]]:
    with open(run / stage / "log.csv", newline="") as handle:
        return list(csv.DictReader(handle))


def test_every_method_and_every_finisher_is_killed() -> None:
    script = Path(__file__).parents[2] / "scripts" / "check_kills.py"
    cases = runpy.run_path(str(script))["CASES"].values()
    recipes = [Recipe.load(case[1]) for case in cases if case[0] == "train"]
    assert {recipe.method.name for recipe in recipes} == set(METHODS)
    finishers = [case[case.index("--finish") + 1] for case in cases if "--finish" in case]
    assert set(finishers) == set(FINISHERS)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")
def test_killed_at_any_moment_it_resumes_to_the_same_bytes() -> None:
    """The script has more cases; all of them are too long for every day."""
    script = Path(__file__).parents[2] / "scripts" / "check_kills.py"
    done = subprocess.run(
        [sys.executable, script, "lrn", "--kills", "4"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "; 4 kills in " in done.stdout
    assert done.stdout.endswith("\n0 problems\n")


def test_a_run_that_was_stopped_before_it_began_begins_again(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "recipe.toml").write_text("name =")
    (out / ".split.partial.csv").write_text("path,a")
    with pytest.raises(RunError, match="is not empty; pass --resume"):
        train(_recipe(epochs=1), manifest, out, cpu=True)
    (out / "notes.txt").touch()
    with pytest.raises(RunError, match="is not empty, and holds no run to go on with"):
        train(_recipe(epochs=1), manifest, out, resume=True, cpu=True)
    (out / "notes.txt").unlink()
    run = train(_recipe(epochs=1), manifest, out, resume=True, cpu=True)
    assert run.finished_stages() == ["generation-1", "generation-2"]
    assert (out / "split.csv").read_text().count("train") == 64
    assert not list(out.rglob(".*.partial.*"))


def test_it_learns_and_leaves_a_whole_run_folder(manifest: Path, tmp_path: Path) -> None:
    run = train(_recipe(epochs=4), manifest, tmp_path / "run", cpu=True)
    assert run.finished_stages() == ["generation-1", "generation-2"]
    for stage in run.finished_stages():
        rows = _log(run.path, stage)
        assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
        assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
        assert set(run.read_json(stage, "validation.json")["estimates"]) == {"ldl", "reg", "age"}
    assert (run.path / "split.csv").read_text().count("train") == 64
    assert Recipe.load(run.path / "recipe.toml") == run.recipe
    network = load_network(run.stage("generation-2") / "network.safetensors")
    crops = load_crops(read_manifest(manifest))
    before = run_on_crops(network, crops, 32)
    assert before.age.shape == (80,)
    assert before.logits is not None
    assert before.logits.shape == (80, 81)
    whole = run_on_crops(network, crops, 32, batch=7)
    np.testing.assert_allclose(before.age, whole.age, atol=1e-3)


_SCRIPT = """
import sys, torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from agelens.experiments.train import train
from agelens.networks.backbones import make_backbone
from agelens.training.recipe import Recipe
from agelens.training.synchronised import synchronise
torch.set_num_threads(1)
train(Recipe.load(sys.argv[1]), sys.argv[2], sys.argv[3], resume=True, cpu=True)

rank = distributed.get_rank()
def network():
    torch.manual_seed(0)
    backbone = make_backbone("resnet10-tiny")
    return nn.Sequential(backbone, nn.Flatten(), nn.Linear(backbone.num_features, 1)).double()
one, both = network(), network()
synchronise(both, "test")
both = DistributedDataParallel(both)
torch.manual_seed(1)
for images in torch.randn(3, 8, 3, 32, 32, dtype=torch.float64):
    for trained, share in ((one, images), (both, images[4 * rank : 4 * rank + 4])):
        trained.zero_grad()
        trained(share).square().mean().backward()
        with torch.no_grad():
            for parameter in trained.parameters():
                parameter.sub_(0.01 * parameter.grad)
for (name, mine), theirs in zip(one.state_dict().items(), both.module.state_dict().values()):
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9, msg=lambda told: name + told)
"""


@pytest.mark.slow
def test_two_processes_with_synchronised_batch_norm_train_what_one_does(
    manifest: Path, tmp_path: Path
) -> None:
    """A whole run goes through and is exported; in float64, where rounding does not grow, steps are equal."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(_recipe(sync_batch_norm=True).to_toml())
    (tmp_path / "script.py").write_text(_SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments = [str(tmp_path / "script.py"), str(recipe), str(manifest), str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*torchrun, *arguments], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    run = Run.open(tmp_path / "run")
    assert run.finished_stages() == ["generation-1", "generation-2"]
    assert [len(_log(run.path, stage)) for stage in run.finished_stages()] == [2, 2]
    export_run(run, tmp_path / "model.onnx")
    assert AgeEstimator(tmp_path / "model.onnx").card.name == "test"


def test_a_network_that_cannot_be_compiled_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(module: object, examples: object) -> object:
        raise OSError("no C++ compiler found")

    compile_ = torch.compile
    monkeypatch.setattr("torch.compile", lambda network, **_: compile_(network, backend=broken))
    with pytest.raises(RecipeError, match=r"train.compile.*no C\+\+ compiler found.*false trains without"):
        compiled(nn.Linear(2, 1), "test")(torch.ones(1, 2))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_a_compiled_network_trains_like_another(manifest: Path, tmp_path: Path) -> None:
    losses = []
    for name in ("plain", "compiled"):
        recipe = _recipe(epochs=1, compile=name == "compiled", optimizer="sgd")
        run = train(recipe, manifest, tmp_path / name, cpu=True)
        losses.append([float(_log(run.path, stage)[0]["loss"]) for stage in run.finished_stages()])
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.02)


@pytest.mark.parametrize(
    ("count", "variable", "told"),
    [
        (1, None, []),
        (
            1,
            "ACCELERATE_MIXED_PRECISION",
            ["1 process on cpu: torchrun --nproc-per-node N -m agelens"],
        ),
        (4, None, ["4 processes on cpu: 32 images of each batch in each; batch norm sees these alone"]),
    ],
)
def test_the_number_of_processes_is_told(
    monkeypatch: pytest.MonkeyPatch, count: int, variable: str | None, told: list[str]
) -> None:
    for name in [name for name in os.environ if name.startswith(("ACCELERATE_", "TORCHELASTIC_"))]:
        monkeypatch.delenv(name)
    if variable is not None:
        monkeypatch.setenv(variable, "no")
    found = processes_note(count, "cpu", TrainSettings(batch_size=128))
    assert len(found) == len(told)
    for note, start in zip(found, told, strict=True):
        assert note.startswith(start)


def test_curves_go_to_tensorboard_where_it_is_installed(manifest: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    train(_recipe(epochs=1), manifest, tmp_path / "run", cpu=True)
    assert list((tmp_path / "run" / "generation-1").glob("events.out.tfevents.*"))


def test_batches_that_are_made_ahead_are_the_same(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = []
    for ahead in (False, True):
        monkeypatch.setattr("agelens.training.fit.worth_one_ahead", lambda *_, ahead=ahead: ahead)
        run = train(_recipe(), manifest, tmp_path / f"ahead-{ahead}", cpu=True)
        networks.append(load_network(run.network_file("generation-2")).state_dict())
    for name, tensor in networks[0].items():
        assert torch.equal(tensor, networks[1][name]), name


def test_what_is_made_ahead_keeps_its_order_and_its_error() -> None:
    def made(number: int) -> int:
        if number == 3:
            raise InputError("no such batch")
        return number

    assert list(one_ahead(made, 3, True)) == list(one_ahead(made, 3, False)) == [0, 1, 2]
    assert list(one_ahead(made, 0, True)) == []
    ahead = one_ahead(made, 5, True)
    assert [next(ahead) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(InputError, match="no such batch"):
        next(ahead)


def test_one_process_trains_with_one_precision_after_another(manifest: Path, tmp_path: Path) -> None:
    for precision in ("bf16", "no"):
        run = train(_recipe(epochs=1, precision=precision), manifest, tmp_path / precision, cpu=True)
        assert run.finished_stages() == ["generation-1", "generation-2"]


def test_bfloat16_is_left_where_the_cpu_has_none(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    runs = [
        train(_recipe(epochs=1, precision=precision), manifest, tmp_path / precision, cpu=True)
        for precision in ("bf16", "no")
    ]
    notes = [run.read_json("generation-1", "validation.json").get("notes", []) for run in runs]
    assert notes == [["this CPU has no bfloat16 arithmetic: trained in float32"], []]
    weights = [load_file(run.stage("generation-2") / "network.safetensors") for run in runs]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert runs[0].recipe.train.precision == "bf16"


def test_frozen_parts_keep_their_weights_and_statistics(manifest: Path, tmp_path: Path) -> None:
    start = train(_recipe(epochs=1), manifest, tmp_path / "start", cpu=True)
    table = _recipe(epochs=1).model_dump()
    table["network"]["frozen"] = ["stem", "stages.0.0"]
    run = train(Recipe.validate(table, "test"), manifest, tmp_path / "run", start=start.path, cpu=True)
    before = load_file(start.stage("generation-2") / "network.safetensors")
    after = load_file(run.stage("generation-2") / "network.safetensors")
    kept = {name for name in before if name.startswith(("backbone.stem.", "backbone.stages.0.0."))}
    assert any("running_mean" in name for name in kept)
    for name in before:
        if "num_batches" not in name:
            assert torch.equal(before[name], after[name]) == (name in kept), name


@pytest.mark.parametrize("name", ["features.99", ""])
def test_a_part_to_freeze_that_is_not_there(manifest: Path, tmp_path: Path, name: str) -> None:
    table = _recipe(epochs=1).model_dump()
    table["network"]["frozen"] = [name]
    with pytest.raises(RecipeError, match=r"network\.frozen\.0.*no such part"):
        train(Recipe.validate(table, "test"), manifest, tmp_path / "run", cpu=True)


def test_the_table_of_generations_is_paired_with_the_first(manifest: Path, tmp_path: Path) -> None:
    run = train(_recipe(epochs=1), manifest, tmp_path / "run", cpu=True)
    table = generation_table([run.path], manifest, "val", replicates=200)
    assert [(row.stage, row.estimate) for row in table] == [
        (stage, name)
        for stage in ("generation-1", "generation-2")
        for name in ("ldl", "reg", "age", "argmax")
    ]
    arrays = run.read_arrays("generation-1", "validation.npz")
    most_probable = AgeBins.parse(run.fact("age_bins")).ages[arrays["logits"].argmax(axis=1)]
    assert table[3].figures["MAE"] == pytest.approx(np.abs(most_probable - arrays["ages"]).mean(), abs=0.5)
    for row in table:
        if row.estimate != "argmax":  # not logged
            assert row.figures["MAE"] == pytest.approx(row.figures["val MAE"], abs=1e-3)
    first, second = table[2], table[6]
    assert first.difference is None
    assert second.difference is not None
    assert second.difference[0] == pytest.approx(second.figures["MAE"] - first.figures["MAE"])
    assert second.difference[1] <= second.difference[0] <= second.difference[2]
    with pytest.raises(SplitError, match="test"):
        generation_table([run.path], manifest)


def test_a_finished_run_is_not_trained_again_and_a_full_folder_is_refused(
    manifest: Path, tmp_path: Path
) -> None:
    recipe = _recipe(epochs=1)
    run = train(recipe, manifest, tmp_path / "run", cpu=True)
    stamp = (run.stage("generation-2") / "network.safetensors").stat().st_mtime_ns
    train(recipe, manifest, tmp_path / "run", resume=True, cpu=True)
    assert (run.stage("generation-2") / "network.safetensors").stat().st_mtime_ns == stamp
    with pytest.raises(RunError, match="resume"):
        train(recipe, manifest, tmp_path / "run", cpu=True)
    with pytest.raises(RunError, match="another recipe"):
        train(_recipe(epochs=3), manifest, tmp_path / "run", resume=True, cpu=True)


def test_a_run_is_exported_calibrated_and_estimates_as_it_did_in_training(
    manifest: Path, tmp_path: Path
) -> None:
    run = train(_mirrored(_recipe(epochs=2)), manifest, tmp_path / "run", cpu=True)
    card = export_run(run.path, tmp_path / "model.onnx")
    stage = best_stage(run)
    worse = ({"generation-1", "generation-2"} - {stage}).pop()
    maes = {
        name: run.read_json(name, "validation.json")["estimates"]["age"]["MAE"] for name in (stage, worse)
    }
    assert maes[stage] <= maes[worse]
    assert (card.provenance["stage"], card.geometry["size"]) == (stage, 32)
    assert card.calibration is not None
    assert card.calibration.samples == 16
    crops = load_crops(read_manifest(manifest))
    pixels = resize_crops(torch.from_numpy(crops.crops(slice(0, 9))), 32).numpy()
    network = load_network(run.stage(stage) / "network.safetensors")
    views = [normalise(torch.from_numpy(view.copy())) for view in (pixels, pixels[:, :, ::-1])]
    with torch.inference_mode():
        seen = [network(view) for view in views]
        means = (sum(column) / 2 for column in zip(*seen, strict=True))
        expected = network.head.decode(Outputs(*means)).age.numpy()
    assert card.decoding["views"].startswith("the crop and its mirror image")
    ages, distributions = AgeEstimator(tmp_path / "model.onnx").estimate_aligned(pixels)
    np.testing.assert_allclose(ages, expected, atol=1e-3)
    np.testing.assert_allclose(distributions.sum(1), 1.0, atol=1e-5)
    with pytest.raises(RunError, match="generation-9"):
        export_run(run, tmp_path / "other.onnx", stage="generation-9")


def test_a_run_can_be_exported_mirrored_afterwards(manifest: Path, tmp_path: Path) -> None:
    plain = train(_recipe(epochs=1), manifest, tmp_path / "plain", cpu=True)
    mirrored = train(_mirrored(_recipe(epochs=1)), manifest, tmp_path / "mirrored", cpu=True)
    stage = "generation-2"
    cards = [
        export_run(plain, tmp_path / "after.onnx", stage=stage, mirror=manifest, name="after"),
        export_run(mirrored, tmp_path / "before.onnx", stage=stage),
        export_run(mirrored, tmp_path / "twice.onnx", stage=stage, mirror=manifest),
    ]
    assert [card.name for card in cards] == ["after", mirrored.recipe.name, mirrored.recipe.name]
    first = cards[0].calibration
    assert first is not None
    for card in cards:
        assert card.decoding["views"].startswith("the crop and its mirror image")
        assert card.digest == cards[0].digest
        assert card.calibration is not None
        # The validation outputs of the run and those computed again may differ in their last bits.
        assert card.calibration.temperature == pytest.approx(first.temperature)
        assert card.calibration.nominal_levels == pytest.approx(first.nominal_levels)
        assert card.provenance["validation_mae"] == pytest.approx(cards[0].provenance["validation_mae"])
    assert cards[0].provenance["validation_mae"] != pytest.approx(
        plain.read_json(stage, "validation.json")["estimates"]["age"]["MAE"]
    )
    other = manifest.with_name("other.csv")
    other.write_text(manifest.read_text().replace(",val", ",test", 1))
    with pytest.raises(RunError, match=r"not trained on the split of .*other\.csv"):
        export_run(plain, tmp_path / "other.onnx", mirror=other)
    assert not (tmp_path / "other.onnx").exists()


def test_two_separately_trained_networks_are_one_model_file(manifest: Path, tmp_path: Path) -> None:
    runs = {}
    for head in ("ldl", "reg"):
        table = _recipe(epochs=1).model_dump()
        table["network"]["heads"] = [head]
        table["method"]["settings"]["generations"] = 1
        runs[head] = train(Recipe.validate(table, "test"), manifest, tmp_path / head, cpu=True)
    card = export_run(runs["ldl"], tmp_path / "pair.onnx", regression=runs["reg"])
    assert card.decoding["age"].startswith("mean of ldl and reg")
    rows = read_manifest(manifest)
    said = {head: estimate_stage(run, "generation-1", rows) for head, run in runs.items()}
    assert said["ldl"].ldl is not None
    assert said["reg"].reg is not None
    expected = np.clip((said["ldl"].ldl + said["reg"].reg) / 2, 0, 80)
    pixels = resize_crops(torch.from_numpy(load_crops(rows).crops(slice(0, None))), 32).numpy()
    ages, _ = AgeEstimator(tmp_path / "pair.onnx").estimate_aligned(pixels)
    np.testing.assert_allclose(ages, expected, atol=1e-3)
    alone = export_run(runs["reg"], tmp_path / "reg.onnx")
    assert alone.decoding["head"] == "reg"
    assert alone.calibration is not None
    ages, distributions = AgeEstimator(tmp_path / "reg.onnx").estimate_aligned(pixels)
    np.testing.assert_allclose(ages, said["reg"].age, atol=1e-3)
    assert distributions.shape == (len(rows), 81)


def test_a_damaged_checkpoint_and_a_newer_run_are_told(manifest: Path, tmp_path: Path) -> None:
    recipe = _recipe(epochs=1)
    run = train(recipe, manifest, tmp_path / "run", cpu=True)
    (run.stage("generation-2") / "network.safetensors").unlink()
    checkpoint = run.stage("generation-2") / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors.*damaged"):
        train(recipe, manifest, tmp_path / "run", resume=True, cpu=True)
    facts = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps({**facts, "format": 99}))
    with pytest.raises(RunError, match="99"):
        Run.open(run.path)
    with pytest.raises(RunError, match="not a run folder"):
        Run.open(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_checkpoint_that_does_not_fit_on_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    write_tensors(path, {"weight": torch.ones(10)}, {"epochs_done": 1})
    code = """
import resource, sys, torch
from pathlib import Path
from agelens.errors import OutputError
from agelens.networks.stored import write_tensors
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    write_tensors(Path(sys.argv[1]), {"weight": torch.ones(100_000)}, {"epochs_done": 2})
except OutputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"{path}: cannot write: File too large\n", "")
    assert read_tensors(path)[1] == {"epochs_done": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_training_starts_from_a_pre_trained_run(manifest: Path, tmp_path: Path) -> None:
    first = train(_recipe(epochs=1), manifest, tmp_path / "first", cpu=True)
    other = Recipe.validate({**_recipe(epochs=1).model_dump(), "age_bins": "0-60"}, "test")
    run = train(other, manifest, tmp_path / "second", start=first.path, cpu=True)
    assert str(load_network(run.stage("generation-1") / "network.safetensors").head.age_bins) == "0-60"
    assert run.facts["start"]
    assert run.facts["start"] != first.facts["start"]
    wrong = _recipe(epochs=1).model_dump()
    wrong["network"]["backbone"] = "resnet18-tiny"
    with pytest.raises(RunError, match="resnet10-tiny"):
        train(Recipe.validate(wrong, "t"), manifest, tmp_path / "third", start=first.path, cpu=True)


def test_data_that_cannot_be_trained_on(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "none.csv").write_text("path,age,split\na.png,3,train\n")
    with pytest.raises(SplitError, match="val"):
        train(_recipe(), tmp_path / "none.csv", tmp_path / "run", cpu=True)
    with pytest.raises(InputError, match="fewer than one batch"):
        train(_recipe(batch_size=65), manifest, tmp_path / "run", cpu=True)
    Image.new("RGB", (48, 40)).save(tmp_path / "a.png")
    Image.new("RGB", (48, 48)).save(tmp_path / "b.png")
    (tmp_path / "odd.csv").write_text("path,age,split\na.png,3,train\nb.png,3,val\n")
    with pytest.raises(ManifestError, match="square"):
        train(_recipe(batch_size=1), tmp_path / "odd.csv", tmp_path / "other", cpu=True)


def test_recipes_are_checked(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"train\.epochs.*0"):
        _recipe(epochs=0)
    with pytest.raises(RecipeError, match=r"train\.momentun"):
        _recipe(momentun=0.9)
    with pytest.raises(RecipeError, match="no such recipe"):
        Recipe.load("nothing")
    (tmp_path / "broken.toml").write_text("name = ")
    with pytest.raises(RecipeError, match="not TOML"):
        Recipe.load(tmp_path / "broken.toml")
    changed = Recipe.load("lrn", ["train.epochs=3", "method.settings.tau=1.5", "name=mine"])
    assert (changed.train.epochs, changed.method.settings["tau"], changed.name) == (3, 1.5, "mine")
    (tmp_path / "again.toml").write_text(changed.to_toml())
    assert Recipe.load(tmp_path / "again.toml") == changed


def test_learning_rate_schedules() -> None:
    step = TrainSettings(schedule="step", learning_rate=0.1, step_epochs=2, gamma=0.1)
    assert [learning_rate(s, 60, 10, step) for s in (0, 19, 20, 40)] == pytest.approx([0.1, 0.1, 0.01, 0.001])
    cycle = TrainSettings(schedule="onecycle", learning_rate=1.0, warmup=0.25)
    rates = [learning_rate(s, 101, 10, cycle) for s in range(101)]
    assert rates[0] == pytest.approx(1 / 25)
    assert rates[25] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(1e-4)
    assert all(a < b for a, b in itertools.pairwise(rates[:26]))
    assert all(a > b for a, b in itertools.pairwise(rates[25:]))


def test_augmentation_is_seeded_and_the_identity_when_off() -> None:
    crops = torch.randint(0, 256, (6, 40, 40, 3), dtype=torch.uint8)
    off = Augmentation(scale=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0)
    torch.testing.assert_close(
        augment(crops, off, 40, torch.Generator()), normalise(crops), atol=1e-4, rtol=0
    )
    everything = Augmentation(rotation=10, brightness=0.3, contrast=0.3, saturation=0.3, grey=0.3, erase=0.5)
    draws = [augment(crops, everything, 32, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    mirrored = augment(crops, Augmentation(scale=(1, 1), aspect=(1, 1), flip=1.0), 40, torch.Generator())
    torch.testing.assert_close(mirrored, normalise(crops).flip(3), atol=1e-4, rtol=0)
    assert resize_crops(crops, 40) is crops
    assert resize_crops(crops, 20).shape == (6, 20, 20, 3)


def test_grey_views_have_no_colour() -> None:
    crops = torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8)
    grey = augment(crops, Augmentation(scale=(1, 1), aspect=(1, 1), flip=0, grey=1.0), 16, torch.Generator())
    mean = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
    std = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)
    pixels = grey * std + mean
    torch.testing.assert_close(pixels[:, 0], pixels[:, 1], atol=1e-5, rtol=0)
    torch.testing.assert_close(pixels[:, 0], pixels[:, 2], atol=1e-5, rtol=0)


def test_tinted_and_soft_views() -> None:
    random = torch.Generator().manual_seed(0)
    crops = torch.randint(0, 256, (40, 48, 48, 3), dtype=torch.uint8, generator=random)
    off = {"scale": (1.0, 1.0), "aspect": (1.0, 1.0), "flip": 0.0}

    def views(**settings: float) -> torch.Tensor:
        return augment(crops, Augmentation(**off, **settings), 48, torch.Generator().manual_seed(1))

    plain = views()
    assert torch.equal(plain, views(tint=0.0, soften=0.0))
    ratio = pixels(views(tint=0.3)).double().mean((1, 2)) / pixels(plain).double().mean((1, 2))
    assert (ratio.amax(1) - ratio.amin(1)).mean() > 0.1
    assert ratio.min() > 0.69
    soft = views(soften=0.5)
    changed = (soft != plain).flatten(1).any(1)
    assert 8 < changed.sum() < 32
    detail = (soft - soft.roll(1, 3)).abs().mean((1, 2, 3))
    assert (detail[changed] < 0.75 * detail[~changed].min()).all()
    torch.testing.assert_close(soft.mean((1, 2, 3)), plain.mean((1, 2, 3)), atol=0.05, rtol=0)


def test_schedules_of_other_papers() -> None:
    steps = TrainSettings(schedule="milestones", learning_rate=1.0, milestones=(2, 3), gamma=0.1)
    assert [learning_rate(s, 50, 10, steps) for s in (0, 19, 20, 30, 49)] == pytest.approx(
        [1.0, 1.0, 0.1, 0.01, 0.01]
    )
    listed = TrainSettings(schedule="rates", rates=((0, 5e-4), (2, 1e-4)), batch_size=64, rate_batch=32)
    assert [learning_rate(s, 40, 10, listed) for s in (0, 19, 20, 39)] == pytest.approx(
        [1e-3, 1e-3, 2e-4, 2e-4]
    )
    scaled = TrainSettings(schedule="step", learning_rate=0.005, batch_size=512, rate_batch=256)
    assert learning_rate(0, 10, 10, scaled) == pytest.approx(0.01)
    with pytest.raises(RecipeError, match="needs milestones"):
        _recipe(schedule="milestones")
    with pytest.raises(RecipeError, match="start at epoch 0"):
        _recipe(schedule="rates", rates=[[1, 0.1]])
    with pytest.raises(RecipeError, match="rise"):
        _recipe(milestones=[3, 2])


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_pre_trained_backbone_may_learn_at_a_rate_of_its_own(
    manifest: Path, tmp_path: Path, optimizer: str
) -> None:
    slow = {"epochs": 1, "optimizer": optimizer, "average": 0.0, "weight_decay": 0.0, "schedule": "step"}
    first = train(_recipe(**slow), manifest, tmp_path / "first", cpu=True)
    run = train(
        _recipe(**slow, backbone_rate=1e-9), manifest, tmp_path / "second", start=first.path, cpu=True
    )
    old, new = (
        load_network(folder.path / stage / "network.safetensors")
        for folder, stage in ((first, "generation-2"), (run, "generation-1"))
    )
    for name, parameter in old.backbone.named_parameters():
        torch.testing.assert_close(new.backbone.get_parameter(name), parameter, atol=1e-6, rtol=0)
    assert not torch.allclose(old.head.reg.weight, new.head.reg.weight, atol=1e-6)


def test_only_epochs_at_the_input_size_can_be_the_best(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that was best at a smaller size may be lost at the size that it is used at."""
    table = _recipe(epochs=4, keep="best", sizes=((0.0, 48), (0.5, 32)), average=0.0).model_dump()
    table["method"]["settings"]["generations"] = 1
    earlier_is_better = itertools.count(start=0, step=-1)
    monkeypatch.setattr(Stage, "merit", lambda self, figures: float(next(earlier_is_better)))
    run = train(Recipe.validate(table, "test"), manifest, tmp_path / "run", cpu=True)
    rows = _log(run.path, "generation-1")
    assert [row["size"] for row in rows] == ["48", "48", "32", "32"]
    kept = run.read_json("generation-1", "validation.json")["estimates"]["age"]["MAE"]
    assert kept == pytest.approx(float(rows[2]["val MAE age"]), abs=1e-4)
    assert kept != pytest.approx(float(rows[3]["val MAE age"]), abs=1e-4)


def test_the_best_epoch_is_kept_through_a_kill(manifest: Path, tmp_path: Path) -> None:
    class StopError(Exception):
        """Ends the run after an epoch."""

    class Interrupting:
        def note(self, message: str) -> None:
            """Nothing."""

        def step(self, *_: object) -> None:
            """Nothing."""

        def epoch(self, stage: str, epoch: int, *_: object) -> None:
            if (stage, epoch) == ("generation-1", 3):
                raise StopError

    table = _recipe(epochs=4, keep="best", learning_rate=0.05, average=0.0).model_dump()
    table["method"]["settings"]["generations"] = 1
    recipe = Recipe.validate(table, "test")
    whole = train(recipe, manifest, tmp_path / "whole", cpu=True)
    rows = [float(row["val MAE age"]) for row in _log(whole.path, "generation-1")]
    kept = whole.read_json("generation-1", "validation.json")["estimates"]["age"]["MAE"]
    assert kept == pytest.approx(min(rows), abs=1e-3)
    with pytest.raises(StopError):
        train(recipe, manifest, tmp_path / "part", reporter=Interrupting(), cpu=True)
    part = train(recipe, manifest, tmp_path / "part", resume=True, cpu=True)
    expected, got = (load_file(r.stage("generation-1") / "network.safetensors") for r in (whole, part))
    assert all(torch.equal(expected[name], got[name]) for name in expected)


class _Sum(nn.Module):
    """Sequences of three faces: is the brightest one first?"""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.BatchNorm1d(12))
        self.joint = nn.Linear(36, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        answers: torch.Tensor = self.joint(self.backbone(images).view(-1, 36))
        return answers


class _Sequences(Stage):
    """A stage unlike an age network's: sequences, targets, schedule, figures, frozen part of its own."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.epochs: list[int] = []

    @property
    def name(self) -> str:
        return "sequences"

    @property
    def training(self) -> TrainSettings:
        return TrainSettings(epochs=2, batch_size=4, optimizer="adam", schedule="rates", rates=((0, 0.01),))

    def network(self) -> nn.Module:
        return _Sum()

    def frozen(self, network: _Sum) -> list[nn.Module]:
        return [network.backbone]

    def begin(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def order(self, crops: CropSet, epoch: int, generator: torch.Generator) -> Order:
        rows = torch.randint(len(crops), (20, 3), generator=generator).numpy()
        return Order(rows, (crops.ages[rows].argmax(1) == 0).astype(np.int64))

    def loss(self, outputs: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        assert batch.images.shape == (12, 3, 32, 32)
        assert not batch.extras
        return {"loss": nn.functional.cross_entropy(outputs, batch.targets)}

    def score(self, network: nn.Module, outputs: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        return {"train accuracy": (outputs.argmax(1) == batch.targets).float().mean()}

    def validate(self, network: nn.Module, crops: CropSet, size: int) -> Validation:
        return Validation({"accuracy": 0.5}, {"accuracy": 0.5}, {"ages": crops.ages})

    def merit(self, figures: Mapping[str, float]) -> float:
        return figures["accuracy"]

    def describe(self, network: nn.Module) -> dict[str, object]:
        return {"kind": "sum"}


def test_a_stage_of_sequences_with_a_network_of_its_own(manifest: Path, tmp_path: Path) -> None:
    recipe = _recipe()
    crops = load_crops(read_manifest(manifest))
    run = Run.create(tmp_path / "run", recipe, {})
    stage = _Sequences(recipe)
    fit(run, [stage], crops, crops, cpu=True)
    tensors, described = read_tensors(run.network_file("sequences"))
    assert described == {"kind": "sum"}
    assert tensors["backbone.2.num_batches_tracked"] == 0  # it stayed in evaluation mode
    rows = _log(run.path, "sequences")
    assert [row["val accuracy"] for row in rows] == ["0.5", "0.5"]
    assert {"loss", "train accuracy"} <= set(rows[0])
    assert run.read_json("sequences", "validation.json") == {"images": 80, "accuracy": 0.5}
    assert stage.epochs == [0, 0, 1]  # once before, to count
