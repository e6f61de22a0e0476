"""Weights to start from: of a finished run, or of a bare backbone."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from agelens.errors import RunError
from agelens.label_distribution import AgeBins
from agelens.networks.age_network import AgeHead, AgeNetwork
from agelens.networks.backbones import load_backbone, make_backbone
from agelens.networks.stored import described_by_us, read_tensors
from agelens.terms import UNKNOWN, Terms, read_terms, strictest
from agelens.training.recipe import Recipe
from agelens.training.run import Run

__all__ = ["start_digest", "start_file", "start_terms", "start_weights"]

_KNOWN_STARTS = {  # by SHA-256 of the file
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


def start_digest(start: str | Path) -> str:
    """Digest the file of a start: SHA-256, 64 hexadecimal digits."""
    return hashlib.sha256(start_file(start).read_bytes()).hexdigest()


def start_terms(start: str | Path) -> Terms:
    """Tell what a start permits: a run, what its own parts do; a bare backbone, what is known of the file."""
    path = start_file(start)
    folder = path.parent.parent
    if described_by_us(path) and (folder / "run.json").is_file():
        parts = [read_terms(part) for part in (Run.open(folder).facts.get("terms") or {}).values()]
        texts = dict.fromkeys(part.text for part in parts)
        return Terms(strictest(part.permits for part in parts), "; ".join(texts) or UNKNOWN.text)
    return _KNOWN_STARTS.get(start_digest(path), UNKNOWN)


def start_weights(start: str | Path, recipe: Recipe, bins: AgeBins) -> dict[str, Tensor]:
    """Read pre-trained weights for a recipe's age network; a head of another shape keeps its own start.

    Args:
        start: See :func:`start_file`, or a safetensors file of a bare backbone.
        recipe: Backbone, heads, seed.
        bins: The K ages.
    Returns:
        The state dict of the whole network.
    Raises:
        RunError: The start holds another backbone.
        CheckpointError: The file is missing or damaged.
    """
    path = start_file(start)
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
