"""Identity pre-training: pairs and thresholds, learning, starting an age method, bad manifests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

from agelens.data.adapt import read_dataset
from agelens.data.manifest import read_manifest, write_manifest
from agelens.data.prepare import prepare
from agelens.errors import CheckpointError, InputError, ManifestError, RecipeError, RunError, SplitError
from agelens.experiments.train import train
from agelens.experiments.verify import verify_weights
from agelens.faces.alignment import CropGeometry
from agelens.label_distribution import AgeBins
from agelens.methods.identity import IdentityPretraining
from agelens.methods.verification import Pairs, verification_pairs, verify
from agelens.networks.backbones import make_backbone
from agelens.networks.identity import IdentityNetwork
from agelens.networks.stored import load_network
from agelens.training.recipe import Recipe
from agelens.training.run import best_stage

DrawFace = Callable[..., NDArray[np.uint8]]
BINS = AgeBins(0, 100)


def _recipe(method: str = "identity", **train_settings: object) -> Recipe:
    table = {
        "name": "test",
        "method": {
            "name": method,
            "settings": {"scale": 16.0, "margin": 0.1, "embedding": 16} if method == "identity" else {},
        },
        "network": {
            "backbone": "resnet10-tiny",
            "input_size": 32,
            "heads": ["ldl"] if method == "lae" else ["ldl", "reg"],
        },
        "train": {
            "epochs": 6,
            "batch_size": 16,
            "optimizer": "adamw",
            "learning_rate": 0.005,
            "schedule": "onecycle",
            **train_settings,
        },
    }
    return Recipe.validate(table, "test")


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory, draw_face: DrawFace) -> Path:
    """12 people of 8 drawings each: a person is an age and a skin."""
    folder = tmp_path_factory.mktemp("people")
    lines = ["path,subject,split"]
    random = np.random.default_rng(0)
    for person in range(12):
        face = draw_face(7.0 * person, size=40, seed=person)
        for number in range(8):
            noisy = np.clip(face + random.normal(0, 12, face.shape) + random.normal(0, 8), 0, 255)
            Image.fromarray(noisy.astype(np.uint8)).save(folder / f"{person}-{number}.png")
            lines.append(f"{person}-{number}.png,person {person},{'val' if person % 3 == 0 else 'train'}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder / "manifest.csv"


def test_pairs_stay_within_folds_of_people() -> None:
    subjects = np.repeat([f"p{k}" for k in range(12)], 5)
    pairs = verification_pairs(subjects, folds=4, per_fold=20)
    people = [
        {s for k in (pairs.first, pairs.second) for s in subjects[k[pairs.fold == f]]} for f in range(4)
    ]
    assert all(not (people[i] & people[j]) for i in range(4) for j in range(i))
    assert (subjects[pairs.first] == subjects[pairs.second]).tolist() == pairs.same.tolist()
    assert (pairs.first != pairs.second).all()
    assert [(pairs.same & (pairs.fold == f)).sum() for f in range(4)] == [20] * 4
    assert [(~pairs.same & (pairs.fold == f)).sum() for f in range(4)] == [20] * 4
    again = verification_pairs(subjects, folds=4, per_fold=20)
    assert (again.first == pairs.first).all()
    assert set(verification_pairs(subjects[:20], folds=10).fold) == {0, 1}
    few = np.array([*"aabbccdd", "e", "f"])  # four people with two images, two with one: three folds of two
    assert set(verification_pairs(few, folds=10).fold) == {0, 1, 2}


def test_the_threshold_comes_from_the_other_folds() -> None:
    # In fold 0 the threshold 0.5 would be perfect, in fold 1 it is 0.2: each is judged with the other's.
    same = np.array([True, True, False, False] * 2)
    similarity = np.array([0.9, 0.6, 0.4, 0.3, 0.3, 0.25, 0.15, 0.1])
    fold = np.array([0] * 4 + [1] * 4)
    found = verify(similarity, Pairs(np.arange(8), np.arange(8), same, fold))
    assert found.accuracy == pytest.approx((0.5 + 0.5) / 2)
    brute = np.mean([a > b or 0.5 * (a == b) for a in similarity[same] for b in similarity[~same]])
    assert found.auc == pytest.approx(brute)
    perfect = verify(same.astype(float), Pairs(np.arange(8), np.arange(8), same, fold))
    assert (perfect.accuracy, perfect.auc, perfect.deviation) == (1.0, 1.0, 0.0)


def test_the_network_gives_cosines() -> None:
    torch.manual_seed(0)
    network = IdentityNetwork(make_backbone("resnet10-tiny"), 5, 8).eval()
    outputs = network(torch.randn(3, 3, 32, 32))
    assert (outputs.embeddings.shape, outputs.cosines.shape) == ((3, 8), (3, 5))
    torch.testing.assert_close(outputs.embeddings.norm(dim=1), torch.ones(3))
    vectors = network.people / network.people.norm(dim=1, keepdim=True)
    torch.testing.assert_close(outputs.cosines, outputs.embeddings @ vectors.T)
    assert IdentityNetwork(make_backbone("resnet10-tiny"), 5, 0)(
        torch.randn(2, 3, 32, 32)
    ).embeddings.shape == (
        2,
        256,
    )


def test_it_learns_people_verifies_others_and_starts_an_age_method(
    people: Path, tmp_path: Path, draw_face: DrawFace
) -> None:
    run = train(_recipe(), people, tmp_path / "identity", cpu=True)
    told = run.read_json("identity", "validation.json")["verification"]
    assert told["people"] == 4
    assert told["AUC"] > 0.7
    assert verify_weights(run.path, people, folds=10).auc == pytest.approx(told["AUC"], abs=1e-6)
    stored = load_network(run.stage("identity") / "network.safetensors")
    assert isinstance(stored, IdentityNetwork)
    with pytest.raises(RunError, match="no finished stage with an age network"):
        best_stage(run)

    lines = ["path,age,split"]
    for number in range(24):
        Image.fromarray(draw_face(3.0 * number, size=40, seed=number)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{3 * number},{'train' if number % 3 else 'val'}")
    (tmp_path / "ages.csv").write_text("\n".join(lines) + "\n")
    for method in ("lae", "lrn"):
        slow = _recipe(method, epochs=1, learning_rate=1e-9, optimizer="sgd", weight_decay=0.0)
        aged = train(slow, tmp_path / "ages.csv", tmp_path / method, start=run.path, cpu=True)
        stage = aged.finished_stages()[0]
        backbone = load_network(aged.stage(stage) / "network.safetensors").backbone
        for name, tensor in stored.backbone.named_parameters():
            torch.testing.assert_close(backbone.get_parameter(name), tensor, atol=1e-6, rtol=0)
        assert aged.facts["start"] is not None


def test_bare_weights_of_a_backbone_are_a_start_and_can_be_verified(people: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    backbone = make_backbone("resnet10-tiny")
    save_file(backbone.state_dict(), tmp_path / "bare.safetensors")
    table = _recipe(epochs=1, learning_rate=1e-9, optimizer="sgd", weight_decay=0.0).model_dump()
    table["network"]["start"] = str(tmp_path / "bare.safetensors")
    run = train(Recipe.validate(table, "test"), people, tmp_path / "run", cpu=True)
    stored = load_network(run.stage("identity") / "network.safetensors").backbone
    for name, tensor in backbone.named_parameters():
        torch.testing.assert_close(stored.get_parameter(name), tensor, atol=1e-6, rtol=0)
    found = verify_weights(tmp_path / "bare.safetensors", people, backbone="resnet10-tiny", size=32)
    assert 0 <= found.accuracy <= 1
    with pytest.raises(CheckpointError, match="another network"):
        verify_weights(tmp_path / "bare.safetensors", people, backbone="resnet18-tiny", size=32)
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(CheckpointError, match="safetensors"):
        train(_recipe(), people, tmp_path / "other", start=tmp_path / "text.safetensors", cpu=True)


def test_manifests_that_name_nobody(people: Path, tmp_path: Path) -> None:
    rows = read_manifest(people, ages=False)
    rows.loc[3, "subject"] = ""
    write_manifest(rows, tmp_path / "nameless.csv")
    with pytest.raises(ManifestError, match=r"row 4.*subject"):
        train(_recipe(), tmp_path / "nameless.csv", tmp_path / "run", cpu=True)
    with pytest.raises(ManifestError, match="age"):
        train(_recipe("lae"), people, tmp_path / "run", cpu=True)
    rows = read_manifest(people, ages=False)
    mixed = rows.copy()
    mixed.loc[mixed["subject"] == "person 1", "split"] = ["train", "val"] * 4
    mixed.attrs = rows.attrs
    write_manifest(mixed, tmp_path / "mixed.csv")
    with pytest.raises(SplitError, match="person 1"):
        train(_recipe(), tmp_path / "mixed.csv", tmp_path / "run2", cpu=True)


def test_one_image_of_each_person_is_refused(people: Path, tmp_path: Path) -> None:
    rows = read_manifest(people, ages=False)
    single = rows.copy()
    single["subject"] = [
        f"nobody twice {k}" if s == "train" else p
        for k, (s, p) in enumerate(zip(rows["split"], rows["subject"], strict=True))
    ]
    single.attrs = rows.attrs
    write_manifest(single, tmp_path / "single.csv")
    with pytest.raises(InputError, match="at most 1 of one"):
        train(_recipe(), tmp_path / "single.csv", tmp_path / "run", cpu=True)
    with pytest.raises(InputError, match="at least two people"):
        verification_pairs(np.array(["a", "b", "c", "d"]))
    with pytest.raises(RecipeError, match=r"method\.settings\.margin"):
        IdentityPretraining(
            Recipe.validate({"name": "t", "method": {"name": "identity", "settings": {"margin": 2}}}, "t"),
            BINS,
        )


def test_the_adapter_of_lfw_splits_people(tmp_path: Path, draw_face: DrawFace) -> None:
    for person in range(20):
        folder = tmp_path / "lfw" / f"Person_{person}"
        folder.mkdir(parents=True)
        for number in range(1 if person == 7 else 3):
            Image.fromarray(draw_face(person * 4, size=24, seed=number)).save(
                folder / f"Person_{person}_{number + 1:04d}.jpg"
            )
    (tmp_path / "lfw" / "Person_0" / "holiday.jpg").write_bytes(b"")
    (tmp_path / "lfw" / "Person_1" / "Person_1_0002.jpg").write_bytes(b"no image")
    table = read_dataset("lfw", tmp_path / "lfw")
    assert "age" not in table
    assert len(table) == 19 * 3
    sides = table[table["split"] != ""].groupby("subject")["split"].nunique()
    assert (sides == 1).all()
    assert set(table["split"]) == {"train", "val", ""}
    problems = {finding.kind: finding.paths for finding in table.attrs["problems"]}
    assert problems["too-few-images"] == ("Person_7/Person_7_0001.jpg",)
    assert problems["malformed-name"] == ("Person_0/holiday.jpg",)
    assert problems["unreadable"] == ("Person_1/Person_1_0002.jpg",)
    with pytest.raises(InputError, match="no such file or folder"):
        read_dataset("lfw", tmp_path / "nowhere")
    with pytest.raises(InputError, match="9 images"):
        read_dataset("lfw", tmp_path / "lfw", {"minimum": 9})


@pytest.mark.slow
def test_the_published_trunk_verifies_real_people(shared: Path, tmp_path: Path) -> None:
    weights = shared / "weights" / "mobilefacenet-ms1m.safetensors"
    if not weights.exists():
        pytest.skip("no weights of MobileFaceNet in the real data")
    table = read_dataset("lfw", shared / "data" / "LFW-identities")
    people = sorted(table["subject"].unique())[:24:2]
    few = table[table["subject"].isin(people)].groupby("subject").head(6).reset_index(drop=True)
    few.attrs = table.attrs
    arcface = [(38.29, 51.70), (73.53, 51.50), (56.03, 71.74), (41.55, 92.37), (70.73, 92.20)]
    geometry = CropGeometry("arcface", 112, tuple((x / 112, y / 112) for x, y in arcface))
    summary = prepare(few, tmp_path / "crops", geometry=geometry, chips=False)
    assert summary.landmarks >= 0.95 * len(few)
    found = verify_weights(weights, tmp_path / "crops" / "manifest.csv", split="all")
    assert found.accuracy >= 0.97
    assert found.auc >= 0.99
