"""The network of identity pre-training: a backbone, an embedding, and a vector for each person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agelens.networks.backbone import Backbone
from agelens.networks.backbones import make_backbone

__all__ = ["IdentityNetwork", "IdentityOutputs"]


class IdentityOutputs(NamedTuple):
    """Outputs of the identity network for a batch."""

    embeddings: Tensor
    """(B, E) unit vectors."""
    cosines: Tensor
    """(B, P) cosines between embeddings and the people's vectors."""


class IdentityNetwork(nn.Module):
    """A backbone, an embedding and a vector for each person.

    Args:
        backbone: Images to features.
        people: P.
        embedding: Length E of the embedding; 0: the backbone's features.
    """

    kind: ClassVar[str] = "identity"

    def __init__(self, backbone: Backbone, people: int, embedding: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.embedding_size = embedding
        self.embedding = nn.Sequential()
        if embedding:
            self.embedding = nn.Sequential(
                nn.Linear(backbone.num_features, embedding, bias=False), nn.BatchNorm1d(embedding)
            )
        self.people = nn.Parameter(torch.randn(people, embedding or backbone.num_features))

    def forward(self, images: Tensor) -> IdentityOutputs:
        """Map (B, 3, H, W) normalised images to embeddings and cosines."""
        embeddings = F.normalize(self.embedding(self.backbone(images)).float())
        with torch.autocast(embeddings.device.type, enabled=False):
            return IdentityOutputs(embeddings, embeddings @ F.normalize(self.people.float()).T)

    def describe(self) -> dict[str, Any]:
        """Kind, backbone, embedding and number of people: see :mod:`agelens.networks.stored`."""
        return {
            "kind": self.kind,
            "backbone": self.backbone.name,
            "embedding": self.embedding_size,
            "people": len(self.people),
        }

    @classmethod
    def rebuild(cls, described: Mapping[str, Any]) -> Self:
        """Build the network as described."""
        backbone = make_backbone(described["backbone"])
        return cls(backbone, int(described["people"]), int(described["embedding"]))
