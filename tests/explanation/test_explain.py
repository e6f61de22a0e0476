"""Explanations: class activation maps of runs and model files, occlusion, mean maps, what is written."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from itertools import chain, pairwise, repeat
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from agelens.apps.cli import app
from agelens.errors import InputError, MissingExtraError
from agelens.explanation.explain import MEAN_MAP_GROUPS, Explanation, FaceCrop, explain, face_crops
from agelens.explanation.maps import StageMaps, normalised_map
from agelens.explanation.model_maps import ModelExplainer, occlusion_maps
from agelens.explanation.network_maps import age_stages, class_activation_maps, explain_stage
from agelens.export.onnx_graph import export
from agelens.faces.alignment import DEFAULT_GEOMETRY
from agelens.faces.none import WholeImage
from agelens.label_distribution import AgeBins
from agelens.networks.age_network import AgeHead, AgeNetwork, MirroredNetwork
from agelens.networks.backbone import Backbone
from agelens.networks.backbones import make_backbone
from agelens.networks.stored import save_network
from agelens.reports.explanation import write_explanation
from agelens.reports.explanation_grids import evolution_figure, rows_figure
from agelens.training.recipe import Recipe
from agelens.training.run import Run
from agelens.training.transforms import IMAGENET_MEAN, IMAGENET_STD, normalise

BINS = AgeBins(0, 80)
SIZE = 64


def make_network(seed: int = 0, heads: tuple[str, ...] = ("ldl", "reg")) -> AgeNetwork:
    torch.manual_seed(seed)
    backbone = make_backbone("resnet10-tiny")
    network = AgeNetwork(backbone, AgeHead(backbone.num_features, BINS, heads))
    with torch.no_grad():
        for head in (network.head.ldl, network.head.reg):
            if head is not None:
                head.weight.mul_(8)  # an estimate that differs from face to face
        if network.head.reg is not None:
            network.head.reg.bias.fill_(0.5)
    return network.eval()


def make_run(folder: Path, mirror: bool = False, **change: object) -> Run:
    table = {
        "name": "small",
        "age_bins": "0-80",
        "method": {"name": "lrn", "settings": {"generations": 2}},
        "network": {"backbone": "resnet10-tiny", "input_size": SIZE, "mirror": mirror},
    }
    facts = {"age_bins": "0-80", "geometry": DEFAULT_GEOMETRY.with_size(SIZE).to_dict(), **change}
    run = Run.create(folder, Recipe.validate(table, "test"), facts)
    for t in (1, 2):
        stage = run.stage(f"generation-{t}")
        save_network(make_network(t), stage / "network.safetensors")
        run.write_json(f"generation-{t}", "validation.json", {"estimates": {"age": {"MAE": 3.0 - t}}})
        logits = np.random.default_rng(t).normal(size=(20, 81))
        run.write_arrays(f"generation-{t}", "validation.npz", {"ages": np.arange(20.0), "logits": logits})
    return run


@pytest.fixture(scope="module")
def crops(draw_face: Callable[..., NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return np.stack([draw_face(age, size=SIZE, seed=seed) for seed, age in enumerate((1, 20, 45, 75))])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs") / "run")


def exported(network: AgeNetwork | MirroredNetwork, path: Path, half: bool = False) -> Path:
    fields = {
        "name": "small",
        "geometry": DEFAULT_GEOMETRY.with_size(SIZE).to_dict(),
        "licence": {},
        "provenance": {},
    }
    export(
        network,
        fields,
        path,
        size=SIZE,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        calibration=None,
        half=half,
    )
    return path


class TestClassActivationMaps:
    def test_it_is_the_weighted_sum_of_the_feature_map(self, crops: NDArray[np.uint8]) -> None:
        network = make_network()
        images = normalise(torch.from_numpy(crops))
        index = torch.tensor([3, 20, 41, 80])
        found = class_activation_maps(network, images, index)
        with torch.no_grad():
            features = network.backbone.feature_map(images)
            weight = network.head.ldl.weight.clone()
        batch, channels, height, width = features.shape
        assert found.shape == (batch, height, width) == (4, 2, 2)
        for b in range(batch):
            for y in range(height):
                for x in range(width):
                    expected = sum(
                        float(weight[index[b], c]) * float(features[b, c, y, x]) for c in range(channels)
                    )
                    assert float(found[b, y, x]) == pytest.approx(expected, rel=1e-4, abs=1e-4)

    def test_its_mean_and_the_bias_are_the_logit(self, crops: NDArray[np.uint8]) -> None:
        network = make_network()
        images, index = normalise(torch.from_numpy(crops)), torch.tensor([0, 7, 50, 80])
        maps = class_activation_maps(network, images, index)
        with torch.no_grad():
            logits = network(images).logits
        expected = logits[torch.arange(4), index] - network.head.ldl.bias[index]
        torch.testing.assert_close(maps.mean((1, 2)), expected, rtol=1e-4, atol=1e-4)

    def test_without_distribution_the_regression_is_explained(self, crops: NDArray[np.uint8]) -> None:
        network = make_network(heads=("reg",))
        images = normalise(torch.from_numpy(crops))
        maps = class_activation_maps(network, images, torch.zeros(4, dtype=torch.int64))
        with torch.no_grad():
            expected = network(images).regressed - network.head.reg.bias
        torch.testing.assert_close(maps.mean((1, 2)), expected, rtol=1e-4, atol=1e-4)

    def test_a_backbone_that_pools_otherwise_is_refused(self) -> None:
        class Peak(Backbone):
            num_features = 3

            def feature_map(self, images: Tensor) -> Tensor:
                return images

            def forward(self, images: Tensor) -> Tensor:
                return images.amax((2, 3))

        class Flat(Backbone):
            num_features = 3 * 16

            def forward(self, images: Tensor) -> Tensor:
                return images.flatten(1)

        images = torch.randn(2, 3, 4, 4)
        for backbone in (Peak(), Flat()):
            network = AgeNetwork(backbone, AgeHead(backbone.num_features, BINS))
            with pytest.raises(InputError, match=r"(Peak|Flat) .*use --maps integrated-gradients"):
                class_activation_maps(network, images, torch.tensor([1, 2]))


class TestRun:
    def test_every_generation_explains_its_own_estimate(self, run: Run, crops: NDArray[np.uint8]) -> None:
        assert age_stages(run) == ["generation-1", "generation-2"]
        one, two = (explain_stage(run, stage, crops) for stage in age_stages(run))
        assert not np.allclose(one.ages, two.ages)
        for told in (one, two):
            np.testing.assert_array_equal(told.explained, np.rint(told.ages))
            np.testing.assert_allclose(told.distribution.sum(axis=1), 1, atol=1e-5)
            assert told.maps.shape == (4, 2, 2)

    def test_a_chosen_age_is_explained(self, run: Run, crops: NDArray[np.uint8]) -> None:
        told = explain_stage(run, "generation-1", crops, age=30)
        index = torch.full((4,), 30)
        expected = class_activation_maps(make_network(1), normalise(torch.from_numpy(crops)), index)
        np.testing.assert_allclose(told.maps, expected.numpy(), rtol=1e-4, atol=1e-4)
        assert set(told.explained) == {30.0}

    def test_a_mirrored_network_sees_the_mirror_image_alike(
        self, tmp_path: Path, crops: NDArray[np.uint8]
    ) -> None:
        run = make_run(tmp_path / "mirrored", mirror=True)
        told = explain_stage(run, "generation-1", crops)
        turned = explain_stage(run, "generation-1", np.ascontiguousarray(crops[:, :, ::-1]))
        np.testing.assert_allclose(told.ages, turned.ages, atol=1e-3)
        np.testing.assert_allclose(told.maps, turned.maps[:, :, ::-1], rtol=1e-3, atol=1e-3)

    def test_a_stage_without_ages_is_passed_over(self, tmp_path: Path) -> None:
        run = make_run(tmp_path / "run")
        run.write_json("generation-1", "validation.json", {"accuracy": 0.5})
        assert age_stages(run) == ["generation-2"]
        run.write_json("generation-2", "validation.json", {"accuracy": 0.5})
        with pytest.raises(InputError, match="no finished stage estimates ages"):
            age_stages(run)


class TestGradients:
    @pytest.fixture(autouse=True)
    def _captum(self) -> None:
        pytest.importorskip("captum", reason="gradient-based maps need the extra explain")

    def test_gradcam_of_a_linear_head_is_its_activation_map(
        self, tmp_path: Path, crops: NDArray[np.uint8]
    ) -> None:
        # Of a regression alone, the gradient is the weight: both maps agree but for the scale.
        run = make_run(tmp_path / "run")
        network = make_network(heads=("reg",))
        save_network(network, run.stage("generation-1") / "network.safetensors")
        cam = explain_stage(run, "generation-1", crops, "cam")
        grad = explain_stage(run, "generation-1", crops, "gradcam")
        scale = (BINS.maximum - BINS.minimum) / cam.maps[0].size
        np.testing.assert_allclose(grad.maps, cam.maps * scale, rtol=1e-3, atol=1e-4)
        assert np.isnan(grad.explained).all()

    def test_integrated_gradients_are_of_every_pixel(self, run: Run, crops: NDArray[np.uint8]) -> None:
        told = explain_stage(run, "generation-2", crops, "integrated-gradients")
        assert told.maps.shape == (4, SIZE, SIZE)
        assert (told.maps >= 0).all()
        assert told.maps.max() > 0

    def test_pixels_of_the_base_colour_have_no_part(self) -> None:
        from agelens.explanation.network_maps import _integrated_gradients

        images = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
        images[:, :, :, : SIZE // 2] = 0
        found = _integrated_gradients(make_network(), images)
        assert float(found[:, :, : SIZE // 2].abs().max()) == 0
        assert float(found[:, :, SIZE // 2 :].max()) > 0

    def test_a_chosen_age_is_for_activation_maps(self, run: Run, crops: NDArray[np.uint8]) -> None:
        with pytest.raises(InputError, match="only cam explains a given age"):
            explain_stage(run, "generation-1", crops, "gradcam", age=20)

    @pytest.mark.parametrize("age", [-1.0, 300.0, float("nan")])
    def test_an_age_that_the_network_does_not_know_is_refused(
        self, run: Run, crops: NDArray[np.uint8], small_model: Path, age: float
    ) -> None:
        with pytest.raises(InputError, match=f"the system knows no age {age:g}, only "):
            explain_stage(run, "generation-1", crops, age=age)
        with pytest.raises(InputError, match=f"the system knows no age {age:g}, only "):
            ModelExplainer(small_model, "cam", age=age)


def test_without_captum_the_extra_is_named(
    run: Run, crops: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(MissingExtraError, match=r"captum: .* pip install '\.\[explain\]'"):
        explain_stage(run, "generation-1", crops, "gradcam")


class TestModel:
    @pytest.mark.parametrize("kind", [pytest.param("plain", marks=pytest.mark.slow), "mirrored, half"])
    def test_the_graph_s_map_is_the_network_s(
        self, tmp_path: Path, crops: NDArray[np.uint8], kind: str
    ) -> None:
        network = make_network()
        shown = MirroredNetwork(network).eval() if "mirrored" in kind else network
        path = exported(shown, tmp_path / "m.onnx", half="half" in kind)
        (told,) = ModelExplainer(path, age=33)(crops)
        images, index = normalise(torch.from_numpy(crops)), torch.full((4,), 33)
        expected = class_activation_maps(network, images, index)
        if "mirrored" in kind:
            turned = class_activation_maps(network, images.flip(3), index).flip(2)
            expected = (expected + turned) / 2
        tolerance = 0.02 if "half" in kind else 1e-3
        np.testing.assert_allclose(told.maps, expected.numpy(), rtol=tolerance, atol=tolerance * 10)
        assert set(told.explained) == {33.0}

    def test_the_shipped_models_have_one(self, draw_face: Callable[..., NDArray[np.uint8]]) -> None:
        for name in ("resnet10-tiny-lrn-utkface", "resnet10-tiny-lrn-utkface-mirrored"):
            explainer = ModelExplainer(name)
            crop = draw_face(30, size=explainer.geometry.size)[None]
            (told,) = explainer(crop)
            assert told.maps.shape == (1, 3, 3)
            assert told.stage == name

    def test_a_graph_without_one_says_so(self, small_model: Path) -> None:
        with pytest.raises(InputError, match=r"no class activation map of this graph \(use --maps"):
            ModelExplainer(small_model)

    def test_without_onnx_occlusion_is_named(
        self, small_model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "onnx", None)
        with pytest.raises(MissingExtraError, match=r"onnx \(or use --maps occlusion\)"):
            ModelExplainer(small_model)
        assert ModelExplainer(small_model, "occlusion").name == "small"

    def test_occlusion_of_a_model_that_reads_brightness(self, small_model: Path) -> None:
        # Mean 60; hiding a white patch of 4 x 4 takes (255 - 60) * 16 / 256 levels, 100 years to 255 levels.
        crop = np.full((1, 16, 16, 3), 47, np.uint8)
        crop[0, 4:8, 4:8] = 255
        mean = round(float(crop.mean()))
        explainer = ModelExplainer(small_model, "occlusion")
        (told,) = explainer(crop)
        assert told.maps.shape == (1, 16, 16)
        assert np.isnan(told.explained).all()
        found = occlusion_maps(explainer._ages, crop, patch=4)[0]
        white = (255 - mean) * 16 / 256 * 100 / 255
        assert found.max() == found[4:8, 4:8].max() > 0.5 * white
        assert found[12:, 12:].max() < 0.2 * white

    def test_a_uniform_crop_hides_nothing(self, small_model: Path) -> None:
        explainer = ModelExplainer(small_model, "occlusion")
        assert explainer(np.full((2, 16, 16, 3), 90, np.uint8))[0].maps.max() == 0

    def test_refusals(self, small_model: Path) -> None:
        with pytest.raises(InputError, match="only cam explains a given age"):
            ModelExplainer(small_model, "occlusion", age=20)
        with pytest.raises(ValueError, match="patch must be within 2 … 16, not 17"):
            occlusion_maps(lambda crops: np.zeros(len(crops)), np.zeros((1, 16, 16, 3), np.uint8), 17)


def test_every_pixel_is_hidden_as_often_as_it_is_counted() -> None:
    # Every estimate but the first of a crop is one year off, so each pixel's mean change is one year.
    for size in (15, 16, 17, 31):
        said = chain([0.0], repeat(1.0))
        found = occlusion_maps(
            lambda crops, said=said: np.full(len(crops), next(said)), np.zeros((1, size, size, 3), np.uint8)
        )
        np.testing.assert_allclose(found, 1.0)


class TestExplain:
    def maps_of(self, ages: list[float]) -> Callable[[NDArray[np.uint8]], list[StageMaps]]:
        waiting: Iterator[float] = iter(ages)

        def told(crops: NDArray[np.uint8]) -> list[StageMaps]:
            said = np.array([next(waiting) for _ in crops])
            maps = np.zeros((len(crops), 2, 2))
            maps[:, 0, 0] = 1 + said  # the scale of a face does not matter to the mean
            none = np.full(len(crops), np.nan)
            return [StageMaps(stage, BINS, said, None, none, maps) for stage in ("first", "last")]

        return told

    def faces(self, count: int) -> list[FaceCrop]:
        return [FaceCrop(f"{at}.png", 1, np.full((8, 8, 3), at, np.uint8)) for at in range(count)]

    def test_age_groups_hold_every_face_once(self) -> None:
        ages = [0.0, 2.9, 3.0, 17.9, 18.0, 40.0, 59.9, 60.0, 101.0, *[30.0] * 30]
        found = explain(self.faces(39), self.maps_of(ages), system="s", kind="cam", shown=3)
        counts = {group.group: group.count for group in found.means}
        assert counts == {
            "infants, 0-2": 2,
            "children and teenagers, 3-17": 2,
            "adults, 18-59": 33,
            "older people, 60+": 2,
        }
        assert (found.count, len(found.faces)) == (39, 3)
        (infants,) = [group for group in found.means if group.group.startswith("infants")]
        np.testing.assert_allclose(infants.crop, 0.5)
        np.testing.assert_allclose(infants.maps[0], normalised_map(np.array([[1.0, 0], [0, 0]]), 8))

    def test_groups_leave_no_gap(self) -> None:
        assert MEAN_MAP_GROUPS[0][1] == 0
        assert MEAN_MAP_GROUPS[-1][2] is None
        for (_, _, last), (_, first, _) in pairwise(MEAN_MAP_GROUPS):
            assert last is not None
            assert first == last + 1

    def test_one_face_has_no_mean(self) -> None:
        assert explain(self.faces(1), self.maps_of([30.0]), system="s", kind="cam").means == ()

    def test_no_face_is_an_error_with_the_reason(self) -> None:
        with pytest.raises(InputError, match=r"no face to explain in 1 images \(a.png: no face found\)"):
            explain([], self.maps_of([]), system="s", kind="cam", failed=[("a.png", "no face found")])

    def test_bad_images_are_named_and_passed_over(
        self, tmp_path: Path, draw_face: Callable[..., NDArray[np.uint8]]
    ) -> None:
        Image.fromarray(draw_face(30)).save(tmp_path / "good.png")
        (tmp_path / "bad.png").write_bytes(b"no image")
        Image.new("RGB", (8, 9)).save(tmp_path / "oblong.png")
        failed: list[tuple[str, str]] = []
        paths = [tmp_path / name for name in ("bad.png", "good.png", "oblong.png")]
        geometry = DEFAULT_GEOMETRY.with_size(16)
        found = list(face_crops(paths, geometry, WholeImage, "aligned", failed))
        assert [face.path for face in found] == [str(paths[1])]
        assert found[0].pixels.shape == (16, 16, 3)
        assert [Path(path).name for path, _ in failed] == ["bad.png", "oblong.png"]
        assert "square" in failed[1][1]

    def test_maps_are_stretched_to_the_crop(self) -> None:
        assert normalised_map(np.full((3, 3), 7.0), 12).max() == 0
        found = normalised_map(np.array([[-5.0, 5.0], [5.0, 15.0]]), 64)
        assert found.shape == (64, 64)
        assert (found[0, 0], found[-1, -1]) == (0.0, 1.0)
        assert found[0, -1] == pytest.approx(0.5)
        assert (np.diff(found, axis=0) >= -1e-6).all()


@pytest.fixture(scope="module")
def explanation(run: Run, crops: NDArray[np.uint8]) -> Explanation:
    faces = [FaceCrop(f"<i>{at}</i> $x.png", 1, crop) for at, crop in enumerate(crops)]
    return explain(
        faces,
        lambda some: [explain_stage(run, stage, some) for stage in age_stages(run)],
        system="run",
        kind="cam",
        shown=2,
        failed=[("<b>.png", "no face found")],
    )


class TestWriting:
    def test_page_json_and_pictures(self, explanation: Explanation, tmp_path: Path) -> None:
        pictures = write_explanation(explanation, tmp_path / "out")
        assert [picture.name for picture in pictures] == ["face-1.png", "face-2.png", "mean-maps.png"]
        for picture in pictures:
            with Image.open(picture) as image:
                assert min(image.size) > 100
                assert np.asarray(image.convert("RGB")).std() > 10
        told = json.loads((tmp_path / "out" / "explanation.json").read_text())
        assert len(told["faces"]) == 2
        stages = told["faces"][0]["stages"]
        assert [stage["stage"] for stage in stages] == ["generation-1", "generation-2"]
        assert sum(stages[0]["distribution"]) == pytest.approx(1, abs=1e-4)
        assert np.array(stages[0]["map"]).shape == (2, 2)
        assert sum(told["groups"].values()) == 4
        page = (tmp_path / "out" / "explanation.html").read_text()
        assert "<b>.png" not in page
        assert "&lt;b&gt;.png" in page
        assert "<i>0" not in page
        assert "The first 2 of 4 faces are shown." in page


class TestCommand:
    def run(self, *arguments: str | Path) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["explain", *(str(argument) for argument in arguments)])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.output

    def test_a_run_on_a_portrait(self, run: Run, portrait: Path, tmp_path: Path) -> None:
        code, text = self.run(run.path, portrait, "--out", tmp_path)
        assert code == 0, text
        assert "generation-1" in text
        assert "generation-2" in text
        assert (tmp_path / "face-1.png").is_file()

    def test_a_folder_of_crops_with_a_broken_one(
        self, small_model: Path, tmp_path: Path, crops: NDArray[np.uint8]
    ) -> None:
        for number, crop in enumerate(crops):
            Image.fromarray(crop).save(tmp_path / f"{number}.png")
        (tmp_path / "9.png").write_bytes(b"broken")
        code, text = self.run(
            *(small_model, tmp_path, "--aligned", "--maps", "occlusion", "--out", tmp_path / "out"),
            *("--figures", "1"),
        )
        assert code == 1
        assert "1 of 5 images could not be used" in text
        assert "9.png" in text
        assert (tmp_path / "out" / "mean-maps.png").is_file()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["{model}", "{photo}", "--maps", "gradcam"], "needs the run: a model file holds no gradients"),
            (["{model}", "{photo}", "--maps", "occlusion", "--age", "3"], "only cam explains a given age"),
            (["{model}", "{photo}", "--maps", "occlusion", "--crops", "--aligned"], "exclude each other"),
            (["{folder}", "{photo}"], "a folder without run.json or folds.json is no run"),
            (["none.onnx", "{photo}"], "no such file"),
            (["{model}", "{folder}", "--maps", "occlusion"], "no image"),
            (["{model}", "{folder}/none.png", "--maps", "occlusion"], "none.png"),
            (["{model}", "{blank}", "--maps", "occlusion"], "no face to explain in 1 images"),
        ],
    )
    def test_bad_input(
        self, small_model: Path, portrait: Path, tmp_path: Path, arguments: list[str], message: str
    ) -> None:
        folder, blank = tmp_path / "empty", tmp_path / "blank.png"
        folder.mkdir()
        Image.new("RGB", (64, 64), (90, 90, 90)).save(blank)
        given = [
            text.format(model=small_model, photo=portrait, folder=folder, blank=blank) for text in arguments
        ]
        code, text = self.run(*given, "--out", tmp_path / "out")
        assert code == 2, text
        assert message in text
        assert not (tmp_path / "out").exists()


class TestGrids:
    def test_systems_side_by_side_and_rows(self, run: Run, crops: NDArray[np.uint8], tmp_path: Path) -> None:
        for number, name in enumerate(("young", "young", "old", "old")):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(crops[number]).save(tmp_path / name / f"{number}.png")
        other = make_run(tmp_path / "other")
        done = CliRunner().invoke(
            app,
            [
                *("explain", f"first={run.path}", str(tmp_path / "young"), str(tmp_path / "old")),
                *("--aligned", "--rows", "--beside", f"second={other.path}", "--out", str(tmp_path / "out")),
            ],
        )
        assert done.exit_code == 0, done.output
        for name in ("distributions-1", "distributions-4", "rows"):
            assert (tmp_path / "out" / f"{name}.png").is_file()
        drawn = (tmp_path / "out" / "distributions-1.svg").read_text()
        assert "first" in drawn
        assert "second" in drawn
        assert drawn.count("t = 2") == 2  # a row a generation in each column
        rows = (tmp_path / "out" / "rows.svg").read_text()
        assert rows.count("<image") == 2 * 2 * (1 + 2)  # each face as it is, and under a map a generation
        assert {"young", "old"} <= set(re.findall(r">(young|old)<", rows))

    def test_other_faces_are_refused(self, crops: NDArray[np.uint8]) -> None:
        def told(path: str) -> Explanation:
            maps = StageMaps("only", BINS, np.zeros(1), None, np.zeros(1), np.zeros((1, 2, 2)))
            return explain([FaceCrop(path, 1, crops[0])], lambda pixels: [maps], system=path, kind="cam")

        with pytest.raises(InputError, match="did not use the same faces"):
            evolution_figure([told("a"), told("b")], 0)
        with pytest.raises(InputError, match="belongs to a row"):
            rows_figure(told("a"), {"b": "row"})
