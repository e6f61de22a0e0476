"""Two teachers and a student: losses by hand, answers and bins of teachers, stages that learn and resume."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from typer.testing import CliRunner

from agelens.apps.cli import app
from agelens.calibration import Calibration
from agelens.data.crop_set import CropSet, load_crops
from agelens.data.manifest import read_manifest
from agelens.errors import CheckpointError, InputError, ModelFileError, OutputError, RecipeError, RunError
from agelens.experiments.train import train
from agelens.export.from_run import export_run
from agelens.export.onnx_graph import CardFields, export
from agelens.faces.alignment import DEFAULT_GEOMETRY
from agelens.label_distribution import AgeBins
from agelens.losses import annealed, hint_error
from agelens.methods.ordinal_dark import OrdinalDark, RankerStage, StudentStage, distillation_settings
from agelens.methods.ordinal_dark.soft_labels import SoftLabelSettings, kept_soft_labels
from agelens.networks.age_network import AgeHead, AgeNetwork, Outputs
from agelens.networks.backbones import make_backbone
from agelens.networks.guided import GuidedStudent, HintSource
from agelens.networks.pvp import PermutationNetwork
from agelens.networks.stored import load_network
from agelens.training.provenance import named_without_folders, teacher_facts, with_teachers
from agelens.training.recipe import Recipe
from agelens.training.run import Run, best_stage
from agelens.training.stage import Batch
from agelens.training.teachers import (
    ModelTeacher,
    NetworkTeacher,
    SoftLabels,
    bins_matrix,
    load_teacher,
    mean_soft_labels,
)
from agelens.training.transforms import IMAGENET_MEAN, IMAGENET_STD, network_input, normalise, pixels

DrawFace = Callable[..., NDArray[np.uint8]]
TINY = (
    "method.settings.width=0.05",
    "method.settings.zca=3",
    "method.settings.length=4",
    "method.settings.permutations=6",
    "method.settings.sequences=32",
    "method.settings.groups=[[0, 30], [20, 50], [40, 80]]",
    "method.settings.ranker_train.epochs=1",
    "method.settings.ranker_train.batch_size=8",
    "method.settings.classifier_train.epochs=1",
    "method.settings.hint_train.epochs=1",
    "network.backbone='zca3:student-small@0.25'",
    "train.epochs=2",
    "train.batch_size=16",
    "train.precision='no'",
)
STRIDED = (
    "network.backbone='student-strided'",
    "train.epochs=2",
    "train.learning_rate=0.003",
    "train.batch_size=16",
    "train.precision='no'",
)


@pytest.fixture(scope="module")
def manifest(make_crops: Callable[..., Path]) -> Path:
    generator = np.random.default_rng(0)
    ages = [int(generator.integers(0, 81)) for _ in range(80)]
    return make_crops(ages, 64, split=["train"] * 56 + ["val"] * 24)


@pytest.fixture(scope="module")
def whole(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of all four stages."""
    recipe = Recipe.load("ordinal-dark-utkface", TINY)
    return train(recipe, manifest, tmp_path_factory.mktemp("whole") / "run", cpu=True)


def _facts(recipe: Recipe, geometry: dict[str, Any] | None) -> dict[str, dict[str, str]]:
    return teacher_facts(OrdinalDark.teachers, recipe.method.settings, geometry)


def _log(run: Run, stage: str) -> list[dict[str, str]]:
    with open(run.stage(stage) / "log.csv", newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


# --- losses


def test_hint_error_by_hand() -> None:
    regressed = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    hint = torch.tensor([[[[0.0, 2.0], [3.0, 2.0]]]], requires_grad=True)
    assert hint_error(regressed, hint).item() == pytest.approx((1 + 4) / 4)
    assert hint_error(regressed.requires_grad_(), hint).grad_fn is not None
    hint_error(regressed, hint).backward()
    assert hint.grad is None
    coarse = hint_error(torch.full((2, 3, 8, 8), 2.0), torch.full((2, 3, 4, 4), 1.0))
    assert coarse.item() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="hints"):
        hint_error(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, 4))


def test_hint_error_is_eq_3_in_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    regressed, hint = torch.randn(2, 3, 5, 2, 2, generator=generator).double()
    total = 0.0
    for mine, theirs in zip(regressed.reshape(3, -1), hint.reshape(3, -1), strict=True):
        total += sum((float(a) - float(b)) ** 2 for a, b in zip(mine, theirs, strict=True)) / (2 * 2 * 5)
    assert hint_error(regressed, hint).item() == pytest.approx(total / 3)
    assert torch.autograd.gradcheck(lambda r: hint_error(r, hint), regressed.clone().requires_grad_())


def test_weights_are_annealed_as_the_paper_says() -> None:
    assert [annealed(0.1, 0.025, 6, epoch) for epoch in (0, 5, 6, 12, 18, 23, 24, 29)] == pytest.approx(
        [0.1, 0.1, 0.075, 0.05, 0.025, 0.025, 0.0, 0.0]
    )
    assert [annealed(2, 0.5, 6, epoch) for epoch in (0, 6, 24, 29)] == [2, 1.5, 0, 0]
    assert annealed(2, 0.5, 0, 29) == 2  # Table IX: not annealed
    shortened = [annealed(2, 0.5, 2.4, epoch) for epoch in range(12)]
    assert shortened == [2, 2, 2, 1.5, 1.5, 1, 1, 1, 0.5, 0.5, 0, 0]


# --- teachers


class _Fixed(AgeNetwork):
    """An age network that says the same of every face."""

    def __init__(self, logits: Tensor, bins: AgeBins, tau: float = 1.0) -> None:
        backbone = make_backbone("student-small-1x1@0.1")
        super().__init__(backbone, AgeHead(backbone.num_features, bins, ("ldl",), tau))
        self.fixed = logits

    def forward(self, images: Tensor) -> Outputs:
        return Outputs(images.flatten(1), self.fixed.expand(len(images), -1), None)


def test_bins_are_mapped_where_one_contains_the_other() -> None:
    narrow, wide = AgeBins(2, 4), AgeBins(0, 5)
    placed = torch.tensor([0.2, 0.3, 0.5]) @ bins_matrix(narrow, wide)
    assert placed.tolist() == pytest.approx([0, 0, 0.2, 0.3, 0.5, 0])
    folded = torch.tensor([0.1, 0.1, 0.2, 0.3, 0.2, 0.1]) @ bins_matrix(wide, narrow)
    assert folded.tolist() == pytest.approx([0.4, 0.3, 0.3])
    assert torch.equal(bins_matrix(wide, wide), torch.eye(6))
    with pytest.raises(InputError, match="0-5 cannot teach a student of 3-9"):
        bins_matrix(wide, AgeBins(3, 9))


def test_answers_are_softened_and_weighted() -> None:
    bins = AgeBins(0, 2)
    first, second = torch.tensor([2.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 4.0])
    teachers = [
        NetworkTeacher(_Fixed(first, bins), 8, 3.0, torch.eye(3)),
        NetworkTeacher(_Fixed(second, bins, tau=2.0), 16, 1.0, torch.eye(3)),
    ]
    found = mean_soft_labels(teachers, torch.zeros(2, 3, 16, 16), tau=2.0)
    expected = 0.75 * torch.softmax(first / 2, 0) + 0.25 * torch.softmax(second / 4, 0)
    torch.testing.assert_close(found.distribution, expected.expand(2, 3))
    ages = torch.arange(3.0)
    years = 0.75 * (torch.softmax(first, 0) @ ages) + 0.25 * (torch.softmax(second / 2, 0) @ ages)
    torch.testing.assert_close(found.age, years.expand(2))


def test_the_students_loss_is_eq_2(whole: Run, manifest: Path) -> None:
    recipe = Recipe.load("ordinal-dark-utkface", [*TINY, "method.settings.fall_every=1"])
    method = OrdinalDark(recipe, AgeBins(0, 100))
    stage = method.stages()[-1]
    assert isinstance(stage, StudentStage)

    def finished(name: str) -> Any:
        return load_network(whole.stage(name) / "network.safetensors")

    stage.ready(finished)  # type: ignore[arg-type]
    crops = load_crops(read_manifest(manifest))
    stage.look(crops, crops)
    torch.manual_seed(0)
    network = stage.network().eval()
    rows = np.arange(8)
    labels = torch.from_numpy(crops.labels()[rows])
    for epoch, lambdas in ((0, (0.1, 2.0)), (3, (0.025, 0.5)), (5, (0.0, 0.0))):
        stage.begin(epoch)
        generator = torch.Generator().manual_seed(1)
        images, extras = stage.inputs(crops, rows, 64, generator, torch.device("cpu"))
        with torch.inference_mode():
            outputs = network(images)
            parts = stage.loss(outputs, Batch(images, labels, extras))
            teacher = finished("classifier")(images).logits
            hints = finished("ranker").maps(images, [5, 9])
        log = torch.log_softmax(outputs.logits, 1)
        label = -log[torch.arange(8), labels[:, 0].long()].mean()
        dark = -(torch.softmax(teacher / 2, 1) * torch.log_softmax(outputs.logits / 2, 1)).sum(1).mean()
        hint = sum(((a - b) ** 2).mean() for a, b in zip(outputs.hints, hints, strict=True))
        torch.testing.assert_close(parts["loss"], label + lambdas[0] * hint + lambdas[1] * dark)
        assert ("dark" in parts, "hints" in parts) == (lambdas[1] > 0, lambdas[0] > 0)


# --- runs


def test_all_stages_leave_what_the_next_ones_need(whole: Run, tmp_path: Path) -> None:
    assert set(whole.finished_stages()) == {"ranker", "classifier", "hint", "student"}
    ranker = load_network(whole.stage("ranker") / "network.safetensors")
    assert isinstance(ranker, PermutationNetwork)
    figures = whole.read_json("ranker", "validation.json")["permutations"]
    assert figures["chance"] == pytest.approx(1 / 6)
    assert 0 <= figures["accuracy"] <= 1
    hinted = load_network(whole.stage("hint") / "network.safetensors")
    assert isinstance(hinted, GuidedStudent)
    assert best_stage(whole) == "student"  # the classifier teaches, the student answers
    assert "argmax" in whole.read_json("student", "validation.json")
    assert {"age", "dark", "hints", "val MAE argmax"} <= set(_log(whole, "student")[0])
    # The whitening was fitted to the training crops, and student and ranker share it.
    whitening = ranker.whitening
    assert whitening is not None
    assert not torch.allclose(whitening.weight[:, :, 1, 1], torch.eye(3), atol=0.1)
    student = load_network(whole.stage("student") / "network.safetensors")
    torch.testing.assert_close(student.backbone.whitening.weight, whitening.weight)
    card = export_run(whole, tmp_path / "student.onnx")
    assert card.provenance["stage"] == "student"
    assert card.decoding["age"] == "ldl"


def test_the_hint_stage_trains_the_guided_layers_alone(whole: Run) -> None:
    recipe = Recipe.load("ordinal-dark-utkface", TINY)
    stage = OrdinalDark(recipe, AgeBins(0, 100)).stages()[2]
    stage.ready(lambda name: load_network(whole.stage(name) / "network.safetensors"))  # type: ignore[arg-type]
    torch.manual_seed(whole.recipe.seed + 2 * 1_000_003)
    start = stage.network().state_dict()
    end = load_network(whole.stage("hint") / "network.safetensors").state_dict()
    changed = {name for name in end if not torch.equal(start[name], end[name])}
    moved = {name for name in changed if "whitening" not in name}
    assert any(name.startswith("regressors") for name in moved)
    assert "student.backbone.backbone.chain.3.weight" in moved
    assert not any(name.startswith(("student.head", "student.backbone.backbone.chain.30")) for name in moved)


def test_a_run_resumes_at_any_stage_to_the_same_weights(whole: Run, manifest: Path, tmp_path: Path) -> None:
    notes: list[str] = []

    class Told:
        def note(self, message: str) -> None:
            notes.append(message)

        def step(self, *_: Any) -> None: ...

        def epoch(self, stage: str, epoch: int, epochs: int, row: Any) -> None:
            if stage == "student" and epoch == 1:
                raise KeyboardInterrupt

    recipe = Recipe.load("ordinal-dark-utkface", TINY)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, manifest, tmp_path / "run", reporter=Told(), cpu=True)
    run = train(recipe, manifest, tmp_path / "run", resume=True, cpu=True)
    for stage in ("ranker", "classifier", "hint", "student"):
        expected = load_network(whole.stage(stage) / "network.safetensors").state_dict()
        found = load_network(run.stage(stage) / "network.safetensors").state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    # A damaged checkpoint: told, and the stage begins again from the one before it.
    (run.stage("student") / "network.safetensors").unlink()
    checkpoint = run.stage("student") / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:500])
    Told.epoch = lambda *_: None  # type: ignore[method-assign]
    train(recipe, manifest, run.path, resume=True, reporter=Told(), cpu=True)
    (note,) = notes
    assert "checkpoint.safetensors" in note
    assert "begins again from the stage before it" in note
    found = load_network(run.stage("student") / "network.safetensors").state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    # A damaged network of an earlier stage is told, too.
    (run.stage("student") / "network.safetensors").unlink()
    (run.stage("student") / "checkpoint.safetensors").unlink()
    (run.stage("hint") / "network.safetensors").write_bytes(b"not a network")
    with pytest.raises(CheckpointError, match=r"hint.network\.safetensors"):
        train(recipe, manifest, run.path, resume=True, cpu=True)


def test_the_ranker_learns_an_easy_order(manifest: Path, tmp_path: Path) -> None:
    overrides = [
        *TINY,
        "method.settings.stages=['ranker']",
        "method.settings.length=2",
        "method.settings.permutations=2",
    ]
    with pytest.raises(RecipeError, match="1 orders of 2 faces"):
        OrdinalDark(Recipe.load("ordinal-dark-utkface", overrides), AgeBins(0, 100))
    recipe = Recipe.load("ordinal-dark-utkface", [*TINY, "method.settings.stages=['ranker']"])
    stage = OrdinalDark(recipe, AgeBins(0, 100)).stages()[0]
    assert isinstance(stage, RankerStage)
    crops = load_crops(read_manifest(manifest))
    stage.look(crops, crops)
    torch.manual_seed(0)
    network = stage.network()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    order = stage.order(crops, 0, torch.Generator().manual_seed(0))
    assert order.rows.shape == (32, 4)
    images, _ = stage.inputs(crops, order.rows[:16].reshape(-1), 64, torch.Generator(), torch.device("cpu"))
    batch = Batch(images, torch.from_numpy(order.targets[:16]))
    losses = []
    for _ in range(12):
        loss = stage.loss(network(images), batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert stage.validate(network, crops, 64).figures.keys() == {"accuracy", "inter", "inner"}


def test_a_sweep_over_permutations_tells_the_rankers_accuracy(manifest: Path, tmp_path: Path) -> None:
    # Fig. 4: accuracy of the ranker and error of the student it teaches, against K.
    command = [
        *("sweep", "ordinal-dark-utkface", "--data", str(manifest), "--out", str(tmp_path), "--cpu"),
        *("--grid", "method.settings.permutations=3,6"),
        *(part for value in TINY for part in ("--set", value)),
        *("--set", "method.settings.stages=['ranker','student']", "--set", "method.settings.lambda_2=0"),
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    with open(tmp_path / "sweep.csv", newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    ranked = [row for row in rows if row["estimate"] == "permutations"]
    assert [(row["method.settings.permutations"], row["stage"]) for row in ranked] == [
        ("3", "ranker"),
        ("6", "ranker"),
    ]
    for row, count in zip(ranked, (3, 6), strict=True):
        run = Run.open(tmp_path / f"method.settings.permutations={count},seed=0")
        told = run.read_json("ranker", "validation.json")["permutations"]
        assert float(row["accuracy"]) == told["accuracy"]
        assert float(row["chance"]) == pytest.approx(1 / count)
        assert row["MAE"] == ""
    answered = [row for row in rows if row["estimate"] == "age"]
    assert [row["stage"] for row in answered] == ["student", "student"]
    assert all(float(row["MAE"]) > 0 and row["accuracy"] == "" for row in answered)
    header = "method.settings.permutations  stage   estimate      seeds  accuracy"
    assert header in done.output


def test_a_sweep_prints_rankers_of_different_kinds_of_sequences(manifest: Path, tmp_path: Path) -> None:
    command = [
        *("sweep", "ordinal-dark-utkface", "--data", str(manifest), "--out", str(tmp_path), "--cpu"),
        *("--grid", "method.settings.curriculum=true,false"),
        *(part for value in TINY for part in ("--set", value)),
        *("--set", "method.settings.stages=['ranker']", "--set", "method.settings.inter_epochs=0"),
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    header, *rows = [
        line for line in done.output.splitlines() if " estimate " in line or " permutations " in line
    ]
    assert header.split()[-4:] == ["accuracy", "inter", "inner", "chance"]
    assert [len(row.split()) for row in rows] == [8, 6]  # no kinds where faces are drawn from all ages


def test_the_students_backbone_may_be_frozen_or_learn_at_its_own_rate(manifest: Path, tmp_path: Path) -> None:
    alone = (
        *TINY,
        "method.settings.stages=['student']",
        "method.settings.lambda_1=0",
        "method.settings.lambda_2=0",
    )
    alone = (*alone, "network.backbone='mobilenetv3_small_050'", "train.weight_decay=0", "train.epochs=1")
    weights = {}
    for name, values in {"first": (), "slow": ("train.backbone_rate=1e-9",)}.items():
        frozen = "network.frozen=['model.conv_stem','model.blocks.0']"
        recipe = Recipe.load("ordinal-dark-utkface", [*alone, frozen, *values])
        start = tmp_path / "first" if name == "slow" else None
        run = train(recipe, manifest, tmp_path / name, start=start, cpu=True)
        weights[name] = load_network(run.network_file("student")).state_dict()
    for name, tensor in weights["first"].items():
        if name.startswith("head."):
            assert not torch.allclose(tensor, weights["slow"][name], atol=1e-6), name
        elif "num_batches" not in name and "running" not in name:
            torch.testing.assert_close(tensor, weights["slow"][name], atol=1e-6, rtol=0)
        elif name.startswith(("backbone.model.conv_stem", "backbone.model.blocks.0.")):
            assert torch.equal(tensor, weights["slow"][name]), name


def test_the_ranker_sees_inter_group_sequences_alone_at_first(manifest: Path) -> None:
    more = (
        "method.settings.stages=['ranker']",
        "method.settings.inter_epochs=2",
        "method.settings.inter=0.25",
    )
    stage = OrdinalDark(Recipe.load("ordinal-dark-utkface", [*TINY, *more]), AgeBins(0, 100)).stages()[0]
    assert isinstance(stage, RankerStage)
    crops = load_crops(read_manifest(manifest))
    stage.look(crops, crops)

    def within_a_group(epoch: int) -> int:
        stage.begin(epoch)
        ages = crops.ages[stage.order(crops, epoch, torch.Generator().manual_seed(0)).rows]
        lowest, highest = ages.min(1), ages.max(1)
        groups = ((0, 30), (20, 50), (40, 80))
        return int(sum(((lowest >= low) & (highest <= high)) for low, high in groups).astype(bool).sum())

    assert within_a_group(0) == within_a_group(1) < 6
    assert (
        within_a_group(2) >= 24
    )  # of 32, as the share of 0.25 has it; beginning anew, as a resumed run does
    assert within_a_group(1) < 6


@pytest.mark.parametrize("views", [0, 2])
def test_a_run_goes_on_when_a_weight_has_fallen_to_nothing(
    whole: Run, manifest: Path, tmp_path: Path, views: int
) -> None:
    fall = ("method.settings.label=1", "method.settings.lambda_2=0.5", "method.settings.lambda_2_fall=0.5")
    named = [*STRIDED, *distillation_settings([whole.path]), *fall, "method.settings.fall_every=1"]
    recipe = Recipe.load("student-utkface", [*named, f"method.settings.views={views}"])
    run = train(recipe, manifest, tmp_path / "run", cpu=True)
    first, second = _log(run, "student")
    assert float(first["dark"]) > 0
    assert second["dark"] == ""
    assert float(second["age"]) > 0


@pytest.mark.parametrize("views", [0, 2])
def test_any_run_teaches_any_student(whole: Run, manifest: Path, tmp_path: Path, views: int) -> None:
    named = distillation_settings([whole.path, whole.path], [2, 1], student="student-strided")
    longer = (f"method.settings.views={views}", "train.epochs=6")
    recipe = Recipe.load("student-utkface", [*STRIDED, *named, *longer])
    run = train(recipe, manifest, tmp_path / "run", cpu=True)
    (stage,) = run.finished_stages()
    assert stage == "student"
    rows = _log(run, stage)
    assert {"dark", "expected"} <= set(rows[0])
    assert float(rows[-1]["dark"]) < float(rows[0]["dark"])
    assert list(run.facts["teachers"]) == ["run/classifier"]
    again = train(recipe, manifest, tmp_path / "again", cpu=True)
    first, second = (load_network(r.stage(stage) / "network.safetensors").state_dict() for r in (run, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
    card = export_run(run, tmp_path / "model.onnx")
    assert str(tmp_path) not in json.dumps(card.to_metadata())
    assert str(whole.path) not in json.dumps(card.to_metadata())


def test_answers_are_kept_and_asked_again_where_they_are_damaged(
    whole: Run, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    def counted(*arguments: Any) -> SoftLabels:
        nonlocal asked
        asked += 1
        return mean_soft_labels(*arguments)

    monkeypatch.setattr("agelens.methods.ordinal_dark.soft_labels.mean_soft_labels", counted)

    def student(out: str, *more: str) -> dict[str, Tensor]:
        named = [*STRIDED, *distillation_settings([whole.path]), "method.settings.views=3", *more]
        run = train(Recipe.load("student-utkface", named), manifest, tmp_path / out, cpu=True)
        return load_network(run.stage("student") / "network.safetensors").state_dict()

    def kept() -> set[Path]:
        return set((manifest.parent / ".crops").glob("*-answers-*.safetensors"))

    before = kept()
    first = student("first")
    (file,) = kept() - before
    assert asked == 3  # views of one batch
    student("other-seed", "seed=1")
    assert asked == 3
    again = student("again")
    assert asked == 3
    assert all(torch.equal(first[name], again[name]) for name in first)
    file.write_bytes(file.read_bytes()[:100])
    after = student("after-damage")
    assert asked == 6
    assert all(torch.equal(first[name], after[name]) for name in first)
    student("other-views", "augment.rotation=1.0")
    assert asked == 9
    assert len(kept() - before) == 2

    def refuse(path: Path, *_: Any) -> None:
        raise OutputError(path, "cannot write: Read-only file system")

    monkeypatch.setattr("agelens.methods.ordinal_dark.soft_labels.write_tensors", refuse)
    student("nothing-kept", "augment.rotation=2.0")
    assert asked == 12
    assert len(kept() - before) == 2


def test_teachers_answer_whole_crops_and_their_mirror_images() -> None:
    pixels_of = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
    crops = CropSet(pixels_of, np.zeros(3, np.float32), np.arange(3))
    bins = AgeBins(0, 100)
    backbone = make_backbone("resnet10-tiny")
    network = AgeNetwork(backbone, AgeHead(backbone.num_features, bins, ("ldl",))).eval()
    teacher = NetworkTeacher(network, 32, 1.0, torch.eye(101))
    settings = SoftLabelSettings(bins, 2, 1.0, None, "no")
    with torch.inference_mode():
        found = kept_soft_labels(crops, [teacher], settings, torch.device("cpu"))
        said = [
            mean_soft_labels([teacher], network_input(np.ascontiguousarray(view), 32), 1.0)
            for view in (pixels_of, pixels_of[:, :, ::-1])
        ]
    mean = (said[0].distribution + said[1].distribution) / 2
    torch.testing.assert_close(found.distribution, mean)
    torch.testing.assert_close(found.age, (said[0].age + said[1].age) / 2)
    with pytest.raises(RecipeError, match="views must be 1 or 2 where they are whole, not 4"):
        OrdinalDark(Recipe.load("student-utkface", ["method.settings.whole=true"]), bins).stages()


def test_teacher_and_student_see_one_view(whole: Run, manifest: Path) -> None:
    named = distillation_settings([whole.path], student="student-small@0.25")
    small = ("method.settings.views=0", "network.input_size=32")
    recipe = Recipe.load("student-utkface", [*STRIDED, *named, *small])
    stage = OrdinalDark(recipe, AgeBins(0, 100)).stages()[0]
    assert isinstance(stage, StudentStage)
    stage.ready(lambda name: None)  # type: ignore[arg-type]
    crops = load_crops(read_manifest(manifest))
    stage.look(crops, crops)
    seen: list[Tensor] = []
    stage.teachers[0].network.register_forward_pre_hook(lambda _, images: seen.append(images[0]))
    rows, generator = np.arange(4), torch.Generator().manual_seed(0)
    images, extras = stage.inputs(crops, rows, 32, generator, torch.device("cpu"))
    stage.begin(0)
    network = stage.network()
    stage.loss(network(images), Batch(images, torch.from_numpy(crops.labels()[rows]), extras))
    assert seen[0] is extras["view"]
    assert images.shape == (4, 3, 32, 32)
    assert seen[0].shape == (4, 3, 64, 64)  # the teacher's own size
    small = torch.nn.functional.interpolate(
        seen[0], (32, 32), mode="bilinear", antialias=True, align_corners=False
    )
    torch.testing.assert_close(small, images)


def test_teachers_that_cannot_teach(whole: Run, manifest: Path, tmp_path: Path) -> None:
    plain = Recipe.load("student-utkface", STRIDED)
    with pytest.raises(InputError, match="pass --teacher"):
        train(plain, manifest, tmp_path / "a", cpu=True)
    hints = Recipe.load("student-utkface", [*STRIDED, "method.settings.lambda_1=0.1"])
    with pytest.raises(InputError, match="--ranker RUN"):
        train(hints, manifest, tmp_path / "b", cpu=True)
    with pytest.raises(RunError, match="is not a run folder"):
        train(Recipe.load("student-utkface", distillation_settings([tmp_path])), manifest, tmp_path / "c")
    with pytest.raises(RunError, match="no age network with a distribution"):
        load_teacher(whole.stage("ranker") / "network.safetensors", 1.0, AgeBins(0, 100))
    with pytest.raises(InputError, match="0-100 cannot teach a student of 50-120"):
        load_teacher(whole.path, 1.0, AgeBins(50, 120))
    named = distillation_settings([whole.path])
    facts = json.loads(json.dumps(whole.facts["geometry"]))
    facts["name"], facts["template"][0] = "other", [0.1, 0.1]
    with pytest.raises(RunError, match=r"geometry 'agelens-v1', the student sees 'other'"):
        _facts(Recipe.load("student-utkface", named), facts)
    with pytest.raises(RunError, match="sees None"):
        _facts(Recipe.load("student-utkface", named), None)
    with pytest.raises(InputError, match="2 weights for 1 teachers"):
        distillation_settings([whole.path], [1, 2])
    ranker = distillation_settings([whole.path], ranker=whole.path, student="student-strided")
    smaller = ("method.settings.lambda_1=0.1", "network.input_size=32")
    small = Recipe.load("student-utkface", [*STRIDED, *ranker, *smaller])
    with pytest.raises(InputError, match="ranker sees 64 px, the student 32"):
        train(small, manifest, tmp_path / "d", cpu=True)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.settings.lambda_3=1", r"method\.settings\.lambda_3"),
        ("method.settings.stages=['student', 'hint']", "in this order"),
        ("method.settings.hint_layers=[5]", "pair up"),
        ("method.settings.curriculum=false", "part of the curriculum, which is off"),
        ("method.settings.weights=[1, 2]", "2 weights for 0 teachers"),
        ("method.settings.zca=4", "zca must be odd"),
        ("method.settings.permutations=30000", "20160 orders of 8"),
        ("method.settings.hint_train.epochs=0", r"method\.settings\.hint_train\.epochs"),
        ("method.settings.hint_train.momentun=0.5", r"hint_train\.momentun"),
    ],
)
def test_settings_are_checked(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        OrdinalDark(Recipe.load("ordinal-dark-utkface", [override]), AgeBins(0, 100))


def test_a_model_teaches_like_the_network_it_was_made_of(whole: Run, manifest: Path, tmp_path: Path) -> None:
    """With a calibrated temperature in its graph, and bins of its own."""
    network = load_network(whole.stage("classifier") / "network.safetensors")
    assert isinstance(network, AgeNetwork)
    geometry = DEFAULT_GEOMETRY.with_size(64).to_dict()
    fields = CardFields(
        name="taught", geometry=geometry, licence={"data": "tests only"}, provenance={"data": "drawn faces"}
    )
    calibration = Calibration(1.7, (0.2, 0.8), (0.3, 0.9), 10, "val")
    file = tmp_path / "taught.onnx"
    card = export(
        network, fields, file, size=64, mean=IMAGENET_MEAN, std=IMAGENET_STD, calibration=calibration
    )
    bins = AgeBins(0, 120)
    teacher = load_teacher(file, 2.0, bins)
    assert isinstance(teacher, ModelTeacher)
    assert (teacher.size, teacher.weight) == (64, 2.0)
    crops = torch.randint(0, 256, (5, 64, 64, 3), generator=torch.manual_seed(0), dtype=torch.uint8)
    views = normalise(crops)
    assert torch.equal(pixels(views), crops)
    theirs = NetworkTeacher(network.eval(), 64, 1.0, bins_matrix(AgeBins(0, 100), bins))
    with torch.no_grad():
        expected = theirs.soft_labels(views, 2.0)
    found = mean_soft_labels([teacher], views, 2.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mean_soft_labels([teacher], views, 2.0).distribution, found.distribution)
    torch.testing.assert_close(found.distribution, expected.distribution, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(found.age, expected.age, atol=1e-3, rtol=0)

    recipe = Recipe.load("student-utkface", distillation_settings([file]))
    known = {"digest": card.digest, "data": "drawn faces", "data_terms": "tests only", "permits": "unknown"}
    assert _facts(recipe, geometry) == {"taught": known}
    moved = {**geometry, "name": "other", "template": [[1.0, 2.0]] * 5}
    with pytest.raises(ModelFileError, match=r"taught\.onnx.*geometry"):
        _facts(recipe, moved)
    with pytest.raises(ModelFileError, match=r"missing\.onnx"):
        load_teacher(tmp_path / "missing.onnx", 1.0, bins)

    run = train(
        Recipe.load("student-utkface", [*STRIDED, *distillation_settings([file])]), manifest, tmp_path / "run"
    )
    assert run.facts["teachers"] == {"taught": known}
    elsewhere = tmp_path / "elsewhere" / file.name  # as a shipped model of another environment
    elsewhere.parent.mkdir()
    file.rename(elsewhere)
    again = Recipe.load("student-utkface", [*STRIDED, *distillation_settings([elsewhere])])
    assert train(again, manifest, tmp_path / "run", resume=True).recipe == again
    other = Recipe.load("student-utkface", [*STRIDED, *distillation_settings([whole.path])])
    with pytest.raises(RunError, match="another recipe"):
        train(other, manifest, tmp_path / "run", resume=True)
    taught = export_run(run, tmp_path / "student.onnx")
    assert taught.provenance["data"].endswith("; taught by taught: drawn faces")
    assert taught.licence["data"].endswith("; taught by taught: tests only")
    (next_one,) = _facts(Recipe.load("student-utkface", distillation_settings([run.path])), geometry).values()
    assert next_one["data_terms"] == taught.licence["data"]  # a student teaches with its own teacher's terms
    assert best_stage(run) == "student"


def test_a_loss_without_a_term_is_told_before_it_is_needed(
    whole: Run, manifest: Path, tmp_path: Path
) -> None:
    fallen = (
        "method.settings.expectation=0",
        "method.settings.lambda_2_fall=1",
        "method.settings.fall_every=1",
    )
    recipe = Recipe.load("student-utkface", [*STRIDED, *distillation_settings([whole.path]), *fallen])
    with pytest.raises(InputError, match="no part of the student's loss has a weight in the last epoch"):
        train(recipe, manifest, tmp_path / "run", cpu=True)


def test_teachers_of_one_name_are_all_noted(whole: Run, tmp_path: Path) -> None:
    named = distillation_settings([whole.path, whole.path, whole.stage("ranker") / "network.safetensors"])
    facts = _facts(Recipe.load("student-utkface", named), whole.facts["geometry"])
    assert list(facts) == ["run/classifier", "run/ranker"]
    one = load_network(whole.stage("classifier") / "network.safetensors")
    assert isinstance(one, AgeNetwork)
    files = []
    for half in (False, True):
        files.append(tmp_path / f"{half}.onnx")
        geometry = whole.facts["geometry"]
        fields = CardFields(name="same", geometry=geometry, licence={}, provenance={})
        export(
            one, fields, files[-1], size=64, mean=IMAGENET_MEAN, std=IMAGENET_STD, calibration=None, half=half
        )
    both = Recipe.load("student-utkface", distillation_settings([*files, files[1]]))
    facts = _facts(both, whole.facts["geometry"])
    assert list(facts) == ["same", "same (2)"]
    assert facts["same"]["digest"] != facts["same (2)"]["digest"]
    own = "UTKFace: research"
    terms = {"a": {"data_terms": "X"}, "b": {"data_terms": "X"}, "c": {"data_terms": own}}
    assert with_teachers(own, terms, "data_terms") == "UTKFace: research; taught by a and b: X"
    assert with_teachers(own, None, "data_terms") == own


def test_cards_name_runs_without_their_folders() -> None:
    named = distillation_settings(["some/where/first", "second"], ranker="else/where/third")
    table = Recipe.load("student-utkface", [*named, "network.start='a/b/c'"]).model_dump()
    cleaned = named_without_folders(table, OrdinalDark.teachers)
    assert cleaned["method"]["settings"]["teachers"] == ["first", "second"]
    assert cleaned["method"]["settings"]["ranker_run"] == "third"
    assert cleaned["network"]["start"] == "c"
    assert table["method"]["settings"]["teachers"] == ["some/where/first", "second"]


def test_a_classifier_gives_hints_in_the_rankers_place(whole: Run, manifest: Path, tmp_path: Path) -> None:
    classifier = whole.stage("classifier") / "network.safetensors"
    settings = [*STRIDED, *distillation_settings([], ranker=classifier), "method.settings.lambda_2=0"]
    settings += [
        "method.settings.stages=['hint','student']",
        "method.settings.lambda_1=0.5",
        "train.epochs=1",
    ]
    settings += ["method.settings.label=1", "method.settings.guided_layers=[6,11]", "method.settings.views=0"]
    run = train(Recipe.load("student-utkface", settings), manifest, tmp_path / "run", cpu=True)
    teacher, hinted = (load_network(file) for file in (classifier, run.network_file("hint")))
    images = torch.randn(2, 3, 64, 64)
    source = HintSource(teacher, 64)
    expected = [m.shape[1] for m in teacher.backbone.forward_with_maps(images, [5, 9])[1]]
    assert list(hinted.hint_channels) == expected
    for mine, theirs in zip(
        source.maps(images, [5, 9]), teacher.backbone.forward_with_maps(images, [5, 9])[1], strict=True
    ):
        assert torch.equal(mine, theirs)
    first, *_ = _log(run, "hint")
    assert float(first["loss"]) > 0
    resnet = AgeNetwork(make_backbone("resnet10-tiny"), AgeHead(256, AgeBins(0, 100), ("ldl",)))
    with pytest.raises(InputError, match="only a chain of numbered convolutions"):
        HintSource(resnet, 64)


def test_the_recipe_of_a_run_reads_back(whole: Run) -> None:
    assert Recipe.load(whole.path / "recipe.toml") == whole.recipe


def test_the_command_names_teachers_and_student(manifest: Path, tmp_path: Path) -> None:
    arguments = ["train", "student-utkface", "--data", str(manifest), "--out", str(tmp_path / "run")]
    missing = CliRunner().invoke(app, [*arguments, "--teacher", str(tmp_path / "none")])
    assert missing.exit_code == 2
    assert "no such run or model file, and no shipped model (efficientnet" in missing.stderr
    lopsided = CliRunner().invoke(
        app, [*arguments, "--teacher", str(tmp_path), "--teacher-weight", "1", "--teacher-weight", "2"]
    )
    assert lopsided.exit_code == 2
    assert "2 weights for 1 teachers" in lopsided.stderr
    other = CliRunner().invoke(
        app, [*arguments[:1], "lrn-utkface", *arguments[2:], "--teacher", str(tmp_path)]
    )
    assert other.exit_code == 2
    assert "teachers" in other.stderr or "is not a run folder" in other.stderr
