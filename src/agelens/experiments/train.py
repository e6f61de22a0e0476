"""From a recipe and a prepared manifest to a finished run, and from a run back to its networks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState
from numpy.typing import NDArray
from torch import Tensor, nn

from agelens.calibration import Calibration
from agelens.data.crops import load_crops
from agelens.data.manifest import read_manifest
from agelens.data.splits import split_digest
from agelens.errors import CheckpointError, InputError, ManifestError, RunError, SplitError
from agelens.export.onnx_graph import CardFields, export
from agelens.faces.alignment import CropGeometry
from agelens.files import write_atomically
from agelens.label_distribution import AgeBins
from agelens.methods.balanced import FINISHERS, finish
from agelens.methods.identity import IdentityPretraining, identity_network
from agelens.methods.lae import LongTailed
from agelens.methods.lrn import LabelRefinery
from agelens.methods.ordinal_dark import OrdinalDark
from agelens.metrics import aar, mae
from agelens.model_file import ModelCard
from agelens.networks.age_network import AgeHead, AgeNetwork, AnyNetwork, MirroredNetwork, PairedNetwork
from agelens.networks.backbones import load_backbone, make_backbone
from agelens.networks.guided import GuidedStudent
from agelens.networks.pvp import PermutationNetwork
from agelens.plugins import origin, require, resolve
from agelens.training.fit import Reporter, fit
from agelens.training.recipe import Recipe, Selection
from agelens.training.run import Run, described_by_us, read_tensors, write_tensors
from agelens.training.stage import CropOutputs, Method, describe_age_network, run_on_crops
from agelens.training.teachers import named_without_folders, teacher_facts, with_teachers
from agelens.training.transforms import IMAGENET_MEAN, IMAGENET_STD

__all__ = [
    "METHODS",
    "best_stage",
    "crop_geometry",
    "export_run",
    "load_network",
    "load_stage",
    "make_method",
    "save_network",
    "train",
]

METHODS: dict[str, Callable[[Recipe, AgeBins, Mapping[str, Tensor] | None], Method]] = {
    "identity": IdentityPretraining,
    "lae": LongTailed,
    "lrn": LabelRefinery,
    "ordinal-dark": OrdinalDark,
}
"""Method names of recipes: a method is one file and one line here, or an entry point ``agelens.methods``."""


def train(
    recipe: Recipe,
    manifest: str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    start: str | Path | None = None,
    reporter: Reporter | None = None,
    loading: Callable[[int, int], None] | None = None,
    cpu: bool = False,
) -> Run:
    """Train a recipe on the ``train`` rows of a prepared manifest; validate on its ``val`` rows.

    Args:
        recipe: What to do. On resume, the run's own recipe is used and this one must agree with it.
        manifest: CSV or Parquet of aligned crops of one size, with a ``split`` column.
        out: The run folder.
        resume: Go on with the run in ``out`` (start it if there is none).
        start: Weights of a pre-training that every stage starts from, in place of the recipe's
            ``network.start``: a run folder or its ``network.safetensors`` (of ages: LRN pre-trains on
            IMDB-WIKI; or of identities: LAE), or a safetensors file of a bare backbone. Heads for other age
            bins start anew.
        reporter: Told of steps and epochs.
        loading: Called with (done, total) while crops are decoded.
        cpu: Keep to the CPU.
    Returns:
        The finished run.
    Raises:
        RunError: ``out`` is not empty (without resume), or belongs to other data or another recipe.
        SplitError: The manifest has no train or no val rows.
        PluginError: A part of another package is missing; of a resumed run, the package is named.
    """
    if resume and (Path(out) / "run.json").exists():
        _require_plugins(Run.open(out))
    rows = read_manifest(manifest, ages=recipe.method.name != "identity")
    if "split" not in rows or not {"train", "val"} <= set(rows["split"].dropna()):
        raise SplitError(f"{manifest}: needs rows with split 'train' and rows with split 'val'")
    training, validation = _rows(rows, "train"), _rows(rows, "val")
    if recipe.method.name == "identity":
        _check_subjects(rows, manifest)
    start = start or recipe.network.start or None
    bins = _age_bins(recipe, training)
    clamped = 0
    if "age" in rows:
        completed = np.floor(training["age"])
        clamped = int(((completed < bins.minimum) | (completed > bins.maximum)).sum())
    if clamped and reporter is not None and PartialState(cpu=cpu).is_main_process:
        reporter.note(
            f"{clamped} training images are of ages outside {bins}: they learn the nearest age of the bins"
        )
    stages = make_method(recipe, bins).stages()
    facts: dict[str, Any] = {
        "software": {name: version(name) for name in ("agelens", "torch", "numpy")},
        "age_bins": str(bins),
        "split_digest": _digest(rows),
        "geometry": crop_geometry(Path(rows.attrs["root"])),
        "images": {"train": len(training), "val": len(validation)},
        "clamped": clamped,
        "start": None if start is None else _start_digest(start),
        "stages": [stage.name for stage in stages],
    }
    plugins = [
        origin("methods", recipe.method.name, METHODS),
        *(p for stage in stages for p in stage.plugins()),
    ]
    foreign = [plugin.to_dict() for plugin in dict.fromkeys(plugins) if plugin is not None]
    if foreign:
        facts["plugins"] = foreign
    facts["teachers"] = teacher_facts(recipe, facts["geometry"]) or None
    state = PartialState(cpu=cpu)
    with state.main_process_first():  # one process makes the run and the cache of crops, the others find them
        run = _open_run(Path(out), recipe, facts, rows, resume or not state.is_main_process)
        used = rows[rows["split"].isin(["train", "val"])]
        crops = load_crops(used, progress=loading if state.is_main_process else None)
    is_train = (used["split"] == "train").to_numpy()
    method = make_method(run.recipe, bins, None if start is None else _start_weights(start, run.recipe, bins))
    fit(
        run,
        method,
        crops.select(is_train),
        crops.select(~is_train),
        load_network=lambda stage: load_network(run.stage(stage) / "network.safetensors"),
        save_network=lambda stage, network, described: write_tensors(
            run.stage(stage) / "network.safetensors", network.state_dict(), described
        ),
        reporter=reporter,
        cpu=cpu,
    )
    return run


def best_stage(run: Run, select: str | None = None) -> str:
    """The finished stage that is best on the validation split: how the refinery's T is chosen.

    Args:
        run: With at least one finished age network.
        select: Smallest ``mae`` or largest ``aar`` of the estimate; None: as the run's recipe says.
    Raises:
        RunError: No stage with an age network is finished, or no validation image is in a group of AAR.
        InputError: ``select`` is neither.
    """
    if select not in (None, *get_args(Selection)):
        raise InputError(f"what is best is chosen by {' or '.join(get_args(Selection))}, not {select!r}")
    stages = [
        name
        for name in run.finished_stages()
        if "age" in run.read_json(name, "validation.json").get("estimates", {})
    ]
    if not stages:
        raise RunError(run.path, "has no finished stage with an age network; go on with --resume")
    if (select or run.recipe.select) == "aar":
        return max(stages, key=lambda stage: _validation_aar(run, stage))
    return min(stages, key=lambda stage: _validation_mae(run, stage))


def export_run(
    run: str | Path | Run,
    out: str | Path,
    *,
    stage: str | None = None,
    select: str | None = None,
    regression: str | Path | Run | None = None,
    mirror: str | Path | None = None,
    name: str | None = None,
    half: bool = False,
) -> ModelCard:
    """Export a finished stage as one model file, calibrated on the validation split.

    Args:
        run: The run or its folder.
        out: The file to write (.onnx).
        stage: Which; None: :func:`best_stage`.
        select: What is best: ``mae`` or ``aar``; None: as the run's recipe says.
        regression: Another run whose best stage regresses: Eq. 20 over two separately trained networks
            (LRN Table 7, fifth row). The distribution, and the calibration, are ``run``'s.
        mirror: The run's manifest: export the mirrored form (the face and its mirror image, averaged) of a
            run that was not judged by it. Its validation rows are estimated again, for the calibration.
        name: Of the model; None: the recipe's.
        half: Store the weights in 16 bits.
    Returns:
        The card that is in the file.
    Raises:
        RunError: Not a run, the stage is not finished, its validation outputs are gone, or the manifest has
            another split than the run's.
        InputError: The network has no distribution to export.
    """
    opened = run if isinstance(run, Run) else Run.open(run)
    chosen = stage or best_stage(opened, select)
    if not opened.finished(chosen):
        raise RunError(opened.path, f"has no finished stage {chosen!r}; there are {opened.finished_stages()}")
    network: AnyNetwork = load_stage(opened, chosen)
    if regression is not None:
        network = _paired(opened, chosen, regression if isinstance(regression, Run) else Run.open(regression))
    recipe, size = opened.recipe, opened.recipe.network.input_size
    validation_mae = _validation_mae(opened, chosen)
    if mirror is None or isinstance(network, MirroredNetwork):
        validation = opened.read_arrays(chosen, "validation.npz")
        logits, ages = validation.get("logits"), validation["ages"]
    else:
        network = MirroredNetwork(network)
        said, ages = _estimate_validation(opened, network, mirror)
        logits, validation_mae = said.logits, mae(said.age, ages)
    calibration = Calibration.fit(logits, ages, network.head.age_bins)
    if not opened.facts.get("geometry"):
        raise RunError(opened.path, "was trained on crops of unknown geometry (no geometry.json beside them)")
    geometry = CropGeometry.from_dict(opened.facts["geometry"])
    fields: CardFields = {
        "name": name or recipe.name,
        "geometry": geometry.with_size(size).to_dict(),
        "licence": {
            "code": "Apache-2.0",
            "data": with_teachers(recipe.card.data_terms, opened.facts.get("teachers"), "data_terms"),
            "use": recipe.card.use,
        },
        "provenance": {
            "data": with_teachers(recipe.card.data, opened.facts.get("teachers"), "data"),
            "split_digest": opened.facts["split_digest"],
            "images": opened.facts["images"],
            "stage": chosen,
            "validation_mae": validation_mae,
            "recipe": named_without_folders(recipe.model_dump(mode="json")),
            "software": opened.facts["software"],
            "start": opened.facts["start"],
            "teachers": opened.facts.get("teachers"),
            **({"plugins": opened.facts["plugins"]} if opened.facts.get("plugins") else {}),
        },
    }
    return export(
        network,
        fields,
        out,
        size=size,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        calibration=calibration,
        half=half,
    )


def make_method(recipe: Recipe, bins: AgeBins, start: Mapping[str, Tensor] | None = None) -> Method:
    """The method a recipe names.

    Raises:
        PluginError: An unknown method, or its package cannot be imported.
    """
    make = resolve("methods", recipe.method.name, METHODS)
    return finish(make(recipe, bins, start), recipe, bins)


def save_network(network: AgeNetwork, backbone: str, path: str | Path) -> None:
    """Write weights, and what is needed to build the network again, into one safetensors file."""
    write_tensors(Path(path), network.state_dict(), describe_age_network(network, backbone))


def load_network(path: str | Path) -> Any:
    """Build a network from the file that a finished stage left.

    Returns:
        The network in evaluation mode; an ``AgeNetwork`` unless the file describes another kind.
    Raises:
        CheckpointError: Missing, damaged, or not ours.
    """
    tensors, described = read_tensors(Path(path))
    try:
        network = NETWORKS[described.get("kind", "age")](described)
        network.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(path, f"does not describe a network of ours: {error}") from error
    return network.eval()


def _age_network(described: Mapping[str, Any]) -> AgeNetwork:
    backbone = make_backbone(described["backbone"])
    bins = AgeBins.parse(described["age_bins"])
    return AgeNetwork(backbone, AgeHead(backbone.num_features, bins, described["heads"], described["tau"]))


def _permutation_network(described: Mapping[str, Any]) -> PermutationNetwork:
    names = ("length", "permutations", "input_size", "trunk", "joint", "width", "zca")
    return PermutationNetwork(**{name: described[name] for name in names})


def _guided_student(described: Mapping[str, Any]) -> GuidedStudent:
    return GuidedStudent(_age_network(described), described["guided"], described["hint_channels"])


NETWORKS: dict[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "age": _age_network,
    "identity": identity_network,
    "permutation": _permutation_network,
    "guided": _guided_student,
}
"""What builds a stored network, before its weights are loaded, by the ``kind`` that its stage described."""


def load_stage(run: Run, stage: str) -> AnyNetwork:
    """The network that a finished stage is judged and exported by: mirrored if the recipe says so.

    Raises:
        CheckpointError: Missing, damaged, or not ours.
        PluginError: The run was made with a part of a package that is missing here.
    """
    _require_plugins(run)
    network = load_network(run.stage(stage) / "network.safetensors")
    return MirroredNetwork(network).eval() if run.recipe.network.mirror else network


def _require_plugins(run: Run) -> None:
    require(run.facts.get("plugins", ()), str(run.path))


def _open_run(
    folder: Path, recipe: Recipe, facts: Mapping[str, Any], rows: pd.DataFrame, resume: bool
) -> Run:
    if resume and (folder / "run.json").exists():
        run = Run.open(folder)
        _check_same(run, recipe, facts)
        return run
    run = Run.create(folder, recipe, facts)
    with write_atomically(folder / "split.csv") as temporary:
        rows.reindex(columns=["path", "age", "split", "digest"]).to_csv(temporary, index=False)
    return run


def _paired(run: Run, stage: str, other: Run) -> AnyNetwork:
    for key, mine, theirs in (
        ("input_size", run.recipe.network.input_size, other.recipe.network.input_size),
        ("geometry", run.facts.get("geometry"), other.facts.get("geometry")),
    ):
        if mine != theirs:
            raise RunError(other.path, f"has another {key} than {run.path}: {theirs!r}, not {mine!r}")
    files = [run.stage(stage), other.stage(best_stage(other))]
    pair = PairedNetwork(*(load_network(folder / "network.safetensors") for folder in files))
    return MirroredNetwork(pair) if run.recipe.network.mirror else pair


def _estimate_validation(
    run: Run, network: AnyNetwork, manifest: str | Path
) -> tuple[CropOutputs, NDArray[np.float64]]:
    """What a network says of the validation rows a run was judged on, and their ages."""
    rows = read_manifest(manifest)
    chosen = _rows(rows, "val") if "split" in rows else rows.iloc[:0]
    if (_digest(rows), len(chosen)) != (run.facts["split_digest"], run.facts["images"]["val"]):
        raise RunError(run.path, f"was not trained on the split of {manifest}")
    crops = load_crops(chosen)
    return run_on_crops(network, crops, run.recipe.network.input_size), crops.ages.astype(np.float64)


def _validation_mae(run: Run, stage: str) -> float:
    return float(run.read_json(stage, "validation.json")["estimates"]["age"]["MAE"])


def _validation_aar(run: Run, stage: str) -> float:
    arrays = run.read_arrays(stage, "validation.npz")  # older runs have no AAR in validation.json
    try:
        return aar(arrays["age"], arrays["ages"]).aar
    except ValueError as error:
        raise RunError(run.path, f"cannot be judged by AAR: {error}") from error


def _digest(rows: pd.DataFrame) -> str | None:
    return split_digest(rows) if "digest" in rows else None


def _rows(rows: pd.DataFrame, split: str) -> pd.DataFrame:
    return rows[rows["split"] == split]


def _check_subjects(rows: pd.DataFrame, manifest: str | Path) -> None:
    if "subject" not in rows:
        raise ManifestError(manifest, "an identity manifest needs the column", column="subject")
    nameless = rows["split"].isin(["train", "val"]) & (rows["subject"] == "")
    if nameless.any():
        first = int(nameless.to_numpy().argmax()) + 1
        raise ManifestError(manifest, "the image belongs to nobody", row=first, column="subject", value="")


def _age_bins(recipe: Recipe, training: pd.DataFrame) -> AgeBins:
    if recipe.age_bins != "train":
        return AgeBins.parse(recipe.age_bins)
    return AgeBins(int(training["age"].min()), int(training["age"].max()))


def crop_geometry(root: Path) -> dict[str, Any] | None:
    """What ``prepare`` left beside the crops; None where the crops come from elsewhere."""
    path = root / "geometry.json"
    if not path.exists():
        return None
    try:
        return CropGeometry.from_dict(json.loads(path.read_text(encoding="utf-8"))).to_dict()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: is not a crop geometry: {error}") from error


def _start_path(start: str | Path) -> Path:
    path = Path(start)
    if path.is_dir():
        run = Run.open(path)
        stages = run.finished_stages()
        own = [stage for stage in stages if stage not in FINISHERS]
        if not own:
            raise RunError(path, "has no finished stage to start from")
        path = run.stage(own[-1]) / "network.safetensors"
    return path


def _start_digest(start: str | Path) -> str:
    return hashlib.sha256(_start_path(start).read_bytes()).hexdigest()


def _start_weights(start: str | Path, recipe: Recipe, bins: AgeBins) -> dict[str, Tensor]:
    """Pre-trained weights for this recipe's age network; a head of another shape keeps its own start."""
    path = _start_path(start)
    torch.manual_seed(recipe.seed)
    backbone = make_backbone(recipe.network.backbone)
    fresh = AgeNetwork(backbone, AgeHead(backbone.num_features, bins, recipe.network.heads))
    if not described_by_us(path):
        load_backbone(backbone, path)
        return fresh.state_dict()
    tensors, described = read_tensors(path)
    if described.get("backbone") != recipe.network.backbone:
        raise RunError(
            Path(start),
            f"holds a {described.get('backbone')!r}, the recipe wants {recipe.network.backbone!r}",
        )
    same_head = described.get("kind", "age") == "age" and described.get("age_bins") == str(bins)
    return {
        name: tensors[name] if name in tensors and (same_head or not name.startswith("head.")) else value
        for name, value in fresh.state_dict().items()
    }


def _check_same(run: Run, recipe: Recipe, facts: Mapping[str, Any]) -> None:
    """Refuse to resume with other settings; a finisher may be added, or changed before it began."""
    mine, theirs = recipe, run.recipe
    begun = [name for name in FINISHERS if run.stage(name).exists()]
    if not begun:
        mine = mine.model_copy(update={"finish": theirs.finish, "select": theirs.select})
    if mine != theirs:
        raise RunError(run.path, "was started with another recipe; resume with its recipe.toml")
    done = not set(facts["stages"]) - set(FINISHERS) - set(run.finished_stages())
    for key in ("age_bins", "split_digest", "images", "start", "teachers"):
        if key == "start" and done and facts[key] is None:
            continue  # nothing starts any more
        if run.facts.get(key) != facts[key]:
            raise RunError(
                run.path, f"was started with another {key}: {run.facts.get(key)!r}, now {facts[key]!r}"
            )
    if recipe != theirs:
        run.change(recipe, {"stages": facts["stages"]})
