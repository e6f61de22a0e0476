"""Rehearsals: what is cut, and that nothing of one is mistaken for the real thing."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="recipes need the extra train")

from agelens.errors import InputError, RunError
from agelens.networks.backbones import make_backbone
from agelens.networks.pvp import PermutationNetwork
from agelens.rehearsal import VARIABLE, cut_side, rehearsing, spread
from agelens.training.recipe import Recipe, recipe_names
from agelens.training.run import Run


def test_only_one_value_rehearses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert not rehearsing()
    assert cut_side(224) == 224
    assert list(spread(500)) == list(range(500))
    for value, wanted in (("", False), ("0", False), ("1", True)):
        monkeypatch.setenv(VARIABLE, value)
        assert rehearsing() is wanted
    monkeypatch.setenv(VARIABLE, "true")
    with pytest.raises(InputError, match="AGELENS_REHEARSAL is 1"):
        rehearsing()


def test_sides_keep_their_order_and_images_are_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1")
    sides = [cut_side(pixels) for pixels in (48, 64, 112, 128, 224, 256)]
    assert sides == sorted(set(sides))  # a crop too small for its network is refused in a rehearsal, too
    assert sides[-1] < 80
    chosen = list(spread(10_000))
    assert (chosen[0], chosen[-1], len(set(chosen))) == (0, 9_999, 120)
    assert list(spread(100)) == list(range(100))


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_cut_once(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = Recipe.load(name)
    monkeypatch.setenv(VARIABLE, "1")
    cut = Recipe.load(name, ["train.epochs=50"])
    assert (cut.rehearsal, cut.train.epochs, cut.network.pretrained) == (True, 1, False)
    assert cut.train.batch_size <= 16
    assert cut.method.settings.get("generations", 1) <= 2
    stages = [values for key, values in cut.method.settings.items() if key.endswith("_train")]
    assert all(values["epochs"] == 1 for values in stages)
    assert not whole.rehearsal
    assert cut.network.backbone == whole.network.backbone
    (tmp_path / "recipe.toml").write_text(cut.to_toml())
    assert Recipe.load(tmp_path / "recipe.toml") == cut


def test_networks_are_narrow_and_unknown_ones_are_still_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def weights(name: str) -> int:
        return sum(weight.numel() for weight in make_backbone(name).parameters())

    monkeypatch.setenv(VARIABLE, "1")
    for name in ("resnet18", "googlenet", "mobilenet-v2", "vgg16", "pvp", "zca5:student-normal"):
        assert weights(name) < 700_000, name
    ranker = PermutationNetwork(8, 12, cut_side(112))
    assert sum(weight.numel() for weight in ranker.parameters()) < 1_500_000
    with pytest.raises(InputError, match="no backbone 'resnet19'"):
        make_backbone("resnet19")


def test_a_rehearsed_run_is_used_in_rehearsals_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"age_bins": "0-100"}
    Run.create(tmp_path / "real", Recipe.load("lrn-pretrain"), facts)
    monkeypatch.setenv(VARIABLE, "1")
    Run.create(tmp_path / "cut", Recipe.load("lrn-pretrain"), facts)
    assert Run.open(tmp_path / "cut").recipe.rehearsal
    with pytest.raises(RunError, match="is no rehearsal"):
        Run.open(tmp_path / "real")
    monkeypatch.delenv(VARIABLE)
    assert not Run.open(tmp_path / "real").recipe.rehearsal
    with pytest.raises(RunError, match="is a rehearsal: train it anew"):
        Run.open(tmp_path / "cut")
