"""The interface of every backbone: images to a feature map, and the map pooled to one feature vector."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["Backbone"]


class Backbone(nn.Module):
    """Images to one feature vector by global average pooling (LRN, section 3.2: f of the last pooling).

    A subclass sets ``num_features`` and implements ``feature_map``.
    """

    num_features: int
    """Length C of the feature vector."""

    name: str = ""
    """The name that ``make_backbone`` makes it by; empty for one that was made otherwise."""

    def feature_map(self, images: Tensor) -> Tensor:
        """Compute the last feature map, before pooling (for class activation maps).

        Args:
            images: (B, 3, H, W) normalised images.
        Returns:
            (B, C, h, w) feature map.
        """
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Compute the features.

        Args:
            images: (B, 3, H, W) normalised images.
        Returns:
            (B, C) features.
        """
        return self.feature_map(images).mean((2, 3))
