"""Weights to start from: of a finished run, of a model file, or of a bare backbone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from agelens.errors import CheckpointError, InputError, RunError
from agelens.label_distribution import AgeBins
from agelens.model_file import open_model_file
from agelens.networks.age_network import AgeHead, AgeNetwork
from agelens.networks.backbones import load_backbone, make_backbone
from agelens.networks.stored import described_by_us, read_tensors
from agelens.reading import NETWORK_BYTES, read_bytes, reason
from agelens.terms import UNKNOWN, Terms, read_terms, strictest
from agelens.training.model_start import names_model, read_model_weights
from agelens.training.recipe import Recipe
from agelens.training.run import Run

__all__ = [
    "check_start",
    "start_digest",
    "start_file",
    "start_terms",
    "start_weights",
    "starts_by_backbone",
]

_KNOWN_STARTS = {  # by SHA-256 of the file
    "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30": Terms(
        "any",
        "dlib's face recognition network: CC0; trained, its author says, on FaceScrub, VGG Face and the web",
    ),
    "0986093293325365b58094a1c012232e1e178df015bc525e6310d9f900ea046f": Terms(
        "attribution", "EfficientNet-Lite0 with ImageNet weights: Apache-2.0"
    ),
    "09351dec119759627921816bb9ef53874eef43f72ddaa198c95c914458abe90f": Terms(
        "research",
        "MobileFaceNet (Apache-2.0) trained on MS-Celeb-1M, withdrawn by its publisher: research only",
    ),
}


def start_file(start: str | Path) -> Path:
    """Resolve a start to a file: of a run folder, the last stage of its method's own.

    Raises:
        RunError: A folder that is not a run, or has no finished stage.
    """
    path = Path(start)
    if path.is_dir():
        run = Run.open(path)
        stages = run.finished_stages()
        own = [stage for stage in stages if stage != run.recipe.finish.name]
        if not own:
            raise RunError(path, "has no finished stage to start from")
        path = run.network_file(own[-1])
    return path


def starts_by_backbone(texts: Sequence[str]) -> dict[str, str]:
    """Read starts as commands take them.

    Args:
        texts: ``BACKBONE=PATH``, or one ``PATH`` for every backbone.
    Returns:
        Backbone to path; the key ``""`` is the path for every backbone.
    Raises:
        InputError: An empty path, a backbone twice, or several paths without a backbone.
    """
    starts: dict[str, str] = {}
    for text in texts:
        backbone, equals, path = text.partition("=")
        if not equals or Path(text).exists():  # a run of a sweep has = in its name
            backbone, path = "", text
        if not path:
            raise InputError(f"--start must read BACKBONE=PATH, not {text!r}")
        if backbone in starts:
            raise InputError(
                f"--start names {f'{backbone!r} twice' if backbone else 'two paths without BACKBONE='}"
            )
        starts[backbone] = path
    return starts


def start_digest(start: str | Path) -> str:
    """Digest the file of a start: SHA-256, 64 hexadecimal digits.

    Raises:
        CheckpointError: It cannot be read.
    """
    path = start_file(start)
    try:
        return hashlib.sha256(read_bytes(path, NETWORK_BYTES)).hexdigest()
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {reason(error)}") from error


def start_terms(start: str | Path) -> Terms:
    """Tell what a start permits: a run or a model, as its parts do; bare weights, what is known of them."""
    path = start_file(start)
    if names_model(path):
        licence = open_model_file(path)[1].licence
        return read_terms({"permits": licence.get("permits"), "text": licence.get("data")})
    folder = path.parent.parent
    if described_by_us(path) and (folder / "run.json").is_file():
        parts = [read_terms(part) for part in (Run.open(folder).facts.get("terms") or {}).values()]
        texts = dict.fromkeys(part.text for part in parts)
        return Terms(strictest(part.permits for part in parts), "; ".join(texts) or UNKNOWN.text)
    return _KNOWN_STARTS.get(start_digest(path), UNKNOWN)


def check_start(start: str | Path, recipe: Recipe, bins: AgeBins) -> list[str]:
    """Say what a start does not bring to a run.

    Args:
        start: See :func:`start_file`.
        recipe: ``network.same_bins``.
        bins: The K ages of the run.
    Returns:
        A note if the heads start anew because the start has other ages; none in the usual case, a start
        without a head of ages.
    Raises:
        RunError: They would start anew, and the recipe wants the start's.
        CheckpointError: The file is missing or damaged.
    """
    path = start_file(start)
    theirs = ""
    if names_model(path):
        theirs = str(open_model_file(path)[1].age_bins)
    elif described_by_us(path):
        _, described = read_tensors(path)
        if described.get("kind", "age") == "age":
            theirs = str(described.get("age_bins", ""))
    if theirs == str(bins):
        return []
    if recipe.network.same_bins:
        held = f"a head of the ages {theirs}" if theirs else "no head of ages"
        raise RunError(
            Path(start),
            f"holds {held}, and the recipe keeps the start's head for the ages {bins}: train the start with "
            f"--set age_bins={bins}, or set network.same_bins=false for a new head",
        )
    if not theirs:
        return []
    return [f"the start's head is of the ages {theirs}, this run's of {bins}: the head starts anew"]


def start_weights(
    start: str | Path,
    recipe: Recipe,
    bins: AgeBins,
    *,
    backbone: str = "",
    heads: Sequence[Literal["ldl", "reg"]] = (),
) -> dict[str, Tensor]:
    """Read pre-trained weights for a recipe's age network; a head of another shape keeps its own start.

    Args:
        start: See :func:`start_file`, a safetensors file of a bare backbone, or a model file.
        recipe: Backbone, heads, seed.
        bins: The K ages.
        backbone: Name of the network's, where it is not the recipe's.
        heads: Likewise.
    Returns:
        The state dict of the whole network.
    Raises:
        RunError: The start holds another backbone.
        CheckpointError: The file is missing or damaged.
    """
    path = start_file(start)
    torch.manual_seed(recipe.seed)
    name = backbone or recipe.network.backbone
    made = make_backbone(name)
    fresh = AgeNetwork(made, AgeHead(made.num_features, bins, heads or recipe.network.heads))
    if names_model(path):
        same = str(open_model_file(path)[1].age_bins) == str(bins)
        state = fresh.state_dict()
        return state | read_model_weights(path, state, head=same)
    if not described_by_us(path):
        load_backbone(made, path)
        return fresh.state_dict()
    tensors, described = read_tensors(path)
    if described.get("backbone") != name:
        raise RunError(Path(start), f"holds a {described.get('backbone')!r}, the recipe wants {name!r}")
    same_head = described.get("kind", "age") == "age" and described.get("age_bins") == str(bins)
    return {
        key: tensors[key] if key in tensors and (same_head or not key.startswith("head.")) else value
        for key, value in fresh.state_dict().items()
    }
