"""Training on an accelerator: a fake one that refuses what real ones refuse.

Most machines that run these tests have no accelerator. :class:`FakeDevice` stands in for one: tensors that
are moved to it report the device ``lazy``, hold their numbers in an ordinary CPU tensor, and every operation
on them passes a guard that

- refuses operands on both devices (a CPU tensor of no dimension may take part, CPU indices may index, copies
  may cross), as CUDA and MPS do;
- refuses to resample bytes, for which CUDA has no kernel;
- refuses float64, which MPS does not have;
- refuses to draw on the device with a generator of the CPU;
- refuses ``.numpy()`` without ``.cpu()`` (PyTorch itself does).

It sees every call that PyTorch dispatches, so a whole run passes it: loop, validation, teachers, identity,
balanced stage, maps, ordinal hyperplanes. It cannot see other kernels that a device lacks, the numerics of a
device, asynchrony, memory, streams, pinned memory, ``autocast`` (whose blocks count as those of the CPU here)
or several processes; ``test_accelerator.py`` runs on the real thing where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from agelens.data.crop_set import load_crops
from agelens.data.manifest import read_manifest
from agelens.experiments.train import train
from agelens.explanation.network_maps import explain_stage
from agelens.export.from_run import export_run
from agelens.methods.ohrank import OrdinalHyperplanes, pooled_features
from agelens.methods.verification import embed
from agelens.networks.stored import load_network
from agelens.networks.zca import fit_patch_zca
from agelens.training import transforms
from agelens.training.recipe import Recipe
from agelens.training.run import Run
from agelens.training.stage import run_on_crops
from agelens.training.transforms import (
    Augmentation,
    augment,
    network_input,
    normalise,
    resize_crops,
    resize_images,
)

FAKE = torch.device("lazy")  # of no kernels here, and run by autograd as the CPU is


class OnDevice(Tensor):
    """A tensor of the fake device: ``numbers`` on the CPU."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor) -> OnDevice:
        made: OnDevice = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            numbers.size(),
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=FAKE,
            requires_grad=numbers.requires_grad,
        )
        made.numbers = numbers
        return made

    def __repr__(self, **_: Any) -> str:
        return f"OnDevice({self.numbers!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _guarded(func, args, kwargs or {})


class FakeDevice(TorchDispatchMode):
    """The guard, for calls without a tensor of the device among their operands (factories, copies to it)."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _guarded(func, args, kwargs or {})


class Constructors(TorchFunctionMode):
    """``torch.tensor`` and ``torch.as_tensor`` on the device: PyTorch makes them below every dispatch."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and named.get("device") == FAKE:
            return func(*args, **{**named, "device": torch.device("cpu")}).to(FAKE)
        return func(*args, **named)


_CROSSING = {"_to_copy", "to", "copy_", "index", "index_put_", "index_put", "_index_put_impl_"}


def _guarded(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func.overloadpacket.__name__
    tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
    here = [tensor for tensor in tensors if not isinstance(tensor, OnDevice)]
    named = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.device)]
    target = named[0] if named else None
    on_device = target == FAKE or (target is None and bool(there))
    if there and name not in _CROSSING and any(tensor.dim() for tensor in here):
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, found {FAKE} and cpu")
    if there and "upsample" in name and there[0].dtype == torch.uint8:
        raise NotImplementedError(f"{func}: not implemented for 'Byte'")
    if on_device and isinstance(kwargs.get("generator"), torch.Generator):
        raise RuntimeError(f"{func}: expected a '{FAKE}' device type for generator but found 'cpu'")
    if name == "copy_" and not isinstance(args[0], OnDevice):
        on_device = False
    plain_args, plain_kwargs = tree_map(_on_cpu, (args, kwargs))
    result = func(*plain_args, **plain_kwargs)
    if func._schema.is_mutable and tensors and isinstance(args[0], Tensor):
        return args[0]
    return tree_map(_moved, result) if on_device else result


def _on_cpu(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value.numbers if isinstance(value, OnDevice) else value


def _moved(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.dtype == torch.float64:
        raise TypeError(f"cannot convert to a {FAKE} tensor: float64 is not supported")
    return OnDevice(value)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The fake device is the one that training selects, and its guard is on."""
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState()
    PartialState._shared_state["device"] = FAKE  # the reset below takes it back
    monkeypatch.setattr("torch.autocast", _Autocast)
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # a parameter stays the optimiser's
    with FakeDevice(), Constructors():
        yield
    torch.__future__.set_swap_module_params_on_conversion(before)
    AcceleratorState._reset_state(reset_partial_state=True)


_AUTOCAST = torch.autocast


class _Autocast(_AUTOCAST):  # type: ignore[valid-type, misc]
    def __init__(self, device_type: str, *arguments: Any, **named: Any) -> None:
        super().__init__("cpu" if device_type == FAKE.type else device_type, *arguments, **named)


def _on(values: Tensor) -> Tensor:
    return values.to(FAKE)


def test_the_guard_refuses_what_accelerators_refuse(fake: None) -> None:
    values = _on(torch.arange(6.0).reshape(1, 1, 2, 3))
    assert values.device == FAKE
    assert (values + 1).sum().item() == 21
    torch.testing.assert_close((values * 2).cpu(), torch.arange(0.0, 12.0, 2).reshape(1, 1, 2, 3))
    assert (values + torch.tensor(1.0)).device == FAKE  # without dimension
    assert values[:, :, torch.tensor([0])].device == FAKE
    with pytest.raises(RuntimeError, match="same device"):
        values + torch.ones(3)
    with pytest.raises(NotImplementedError, match="Byte"):
        torch.nn.functional.interpolate(values.to(torch.uint8), (4, 4), mode="bilinear", antialias=True)
    with pytest.raises(TypeError, match="float64"):
        values.double()
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(2, device=FAKE, generator=torch.Generator())
    with pytest.raises((TypeError, RuntimeError, NotImplementedError)):
        values.numpy()
    assert values.cpu().numpy().shape == (1, 1, 2, 3)


# --- the functions that touch pixels, for numbers


def test_crops_are_resized_within_one_level_of_the_cpu(fake: None) -> None:
    crops = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8))
    for size in (17, 32, 53):
        here, there = resize_crops(crops, size), resize_crops(_on(crops), size)
        assert there.device == FAKE
        assert there.dtype == torch.uint8
        assert (there.cpu().int() - here.int()).abs().max() <= 1
        images = normalise(crops)
        torch.testing.assert_close(
            resize_images(_on(images), size).cpu(), resize_images(images, size), rtol=0, atol=2e-6
        )


def test_views_are_those_of_the_cpu(fake: None, monkeypatch: pytest.MonkeyPatch) -> None:
    crops = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 40, 40, 3), dtype=np.uint8))
    settings = Augmentation(
        rotation=20.0, brightness=0.2, saturation=0.2, hue=0.1, grey=0.2, erase=0.5, randaugment=2
    )
    here, there = (
        augment(images, settings, 32, torch.Generator().manual_seed(0)) for images in (crops, _on(crops))
    )
    torch.testing.assert_close(there.cpu(), here, rtol=0, atol=0)


def test_places_outside_take_the_border_where_a_device_has_no_such_padding() -> None:
    class Apple(Tensor):
        """Says that it is of MPS."""

        @property
        def device(self) -> Any:  # type: ignore[override]
            return torch.device("mps")

    images = torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    grid = torch.rand(2, 12, 12, 2, generator=torch.Generator().manual_seed(1)) * 4 - 2
    border = torch.nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    emulated = transforms._sampled(images.as_subclass(Apple), grid).as_subclass(Tensor)
    torch.testing.assert_close(emulated, border, rtol=0, atol=1e-5)


def test_a_whitening_is_fitted_on_the_device(fake: None) -> None:
    images = torch.randn(20, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    here, there = fit_patch_zca(images, 3), fit_patch_zca(_on(images), 3)
    assert torch.equal(here.matrix, there.matrix)


# --- whole runs


@pytest.fixture(scope="module")
def manifest(make_crops: Callable[..., Path]) -> Path:
    """16 training and 12 validation faces of 4 people each, 40 px: ages and people in one manifest."""
    people = [number % 4 + (4 if number >= 16 else 0) for number in range(28)]
    return make_crops(
        [3.0 * number % 80 for number in range(28)],
        40,
        seeds=people,
        subject=[f"person {person}" for person in people],
        split=["train"] * 16 + ["val"] * 12,
    )


def _recipe(method: str, heads: list[str], settings: dict[str, Any], **more: Any) -> Recipe:
    table = {
        "name": method,
        "age_bins": "0-80",
        "method": {"name": method, "settings": settings},
        "network": {"backbone": "resnet10-tiny", "input_size": 32, "heads": heads},
        "train": {"epochs": 1, "batch_size": 8, "optimizer": "adamw", "learning_rate": 1e-3, "average": 0.9},
        "augment": {"rotation": 5.0, "brightness": 0.2, "erase": 0.3, "randaugment": 1},
        **more,
    }
    return Recipe.validate(table, "test")


_BALANCED = {"epochs": 1, "batch_size": 8}
_TWO_TEACHERS: dict[str, Any] = {
    "width": 0.05,
    "zca": 3,
    "length": 3,
    "permutations": 3,
    "sequences": 8,
    "groups": [[0, 40], [30, 80]],
    "classifier": "student-small",
    "ranker_train": {"batch_size": 4},
}


def _trained(recipe: Recipe, manifest: Path, out: Path, **more: Any) -> Run:
    run = train(recipe, manifest, out, **more)
    assert set(run.finished_stages()) == set(run.facts["stages"])
    return run


def test_generations_and_balanced_stages(fake: None, manifest: Path, tmp_path: Path) -> None:
    recipe = _recipe(
        "lrn",
        ["ldl", "reg"],
        {"generations": 2},
        finish={"name": "balanced", "settings": {**_BALANCED, "augment": True}},
    )
    run = _trained(recipe, manifest, tmp_path / "run")
    here = train(recipe, manifest, tmp_path / "cpu", cpu=True)
    crops = load_crops(read_manifest(manifest))
    network = load_network(run.network_file("generation-2"))
    on_cpu, on_device = run_on_crops(network, crops, 32), run_on_crops(network.to(FAKE), crops, 32)
    np.testing.assert_allclose(on_device.age, on_cpu.age, atol=0.5)  # crops differ by a level here and there
    assert explain_stage(run, "generation-1", crops.crops(slice(0, 2))).maps.shape[0] == 2
    assert here.finished_stages() == run.finished_stages()


def test_the_balanced_stage_of_kept_features_and_a_resumed_run(
    fake: None, manifest: Path, tmp_path: Path
) -> None:
    finish = {"name": "balanced", "settings": _BALANCED}
    recipe = _recipe("lae", ["ldl"], {}, finish=finish)
    run = _trained(recipe, manifest, tmp_path / "run")
    whole = load_network(run.network_file("balanced")).state_dict()
    for stage in ("representation", "balanced"):
        run.network_file(stage).unlink()
    again = _trained(recipe, manifest, tmp_path / "run", resume=True)
    for name, tensor in load_network(again.network_file("balanced")).state_dict().items():
        assert torch.equal(tensor, whole[name]), name


def test_identities(fake: None, manifest: Path, tmp_path: Path) -> None:
    recipe = _recipe("identity", ["ldl"], {"embedding": 8, "folds": 2, "pairs": 10})
    run = _trained(recipe, manifest, tmp_path / "run")
    assert "verification" in run.read_json("identity", "validation.json")
    network = load_network(run.network_file("identity")).to(FAKE)
    crops = load_crops(read_manifest(manifest))
    np.testing.assert_allclose(np.linalg.norm(embed(network, crops, 32), axis=1), 1.0, atol=1e-6)


def test_two_teachers_and_a_student(fake: None, manifest: Path, tmp_path: Path) -> None:
    network = {"backbone": "zca3:student-small@0.25", "input_size": 32, "heads": ["ldl"]}
    recipe = _recipe("ordinal-dark", ["ldl"], _TWO_TEACHERS, network=network)
    run = _trained(recipe, manifest, tmp_path / "run")
    ranker = load_network(run.network_file("ranker")).to(FAKE)
    crops = load_crops(read_manifest(manifest))
    features = pooled_features(ranker, crops)
    assert OrdinalHyperplanes().fit(features, crops.ages).predict(features).shape == crops.ages.shape

    export_run(run, tmp_path / "student.onnx")
    taught = {"stages": ["student"], "teachers": [str(run.path), str(tmp_path / "student.onnx")]}
    for views in (0, 2):  # live teachers, and kept soft labels
        settings = {**_TWO_TEACHERS, **taught, "lambda_1": 0.0, "lambda_2": 1.0, "views": views}
        small = {**network, "backbone": "student-small@0.25", "input_size": 40}
        student = _recipe("ordinal-dark", ["ldl"], settings, network=small)
        _trained(student, manifest, tmp_path / f"views-{views}")


def test_the_input_of_a_network(fake: None) -> None:
    crops = np.zeros((2, 40, 40, 3), np.uint8)
    assert network_input(crops, 32, FAKE).device == FAKE
    assert network_input(crops, 32).shape == (2, 3, 32, 32)


# --- where crops and figures are while a device trains


def test_crops_on_the_device_train_the_same_network(
    fake: None, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = []
    for name, free in (("memory", None), ("too large", 0), ("device", 2**30)):
        monkeypatch.setattr("agelens.training.crop_source._free_bytes", lambda device, free=free: free)
        run = train(_recipe("lrn", ["ldl", "reg"], {"generations": 1}), manifest, tmp_path / name)
        networks.append(load_network(run.network_file("generation-1")).state_dict())
    for name, tensor in networks[0].items():
        assert torch.equal(tensor, networks[1][name]), name
        assert torch.equal(tensor, networks[2][name]), name
