"""A backbone of another package."""

from torch import Tensor, nn

from agelens.networks.backbone import Backbone


class AcmeNet(Backbone):
    """Two convolutions."""

    def __init__(self, pretrained: bool = False) -> None:
        super().__init__()
        self.num_features = 16
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU()
        )

    def feature_map(self, images: Tensor) -> Tensor:
        """Compute the map that is pooled."""
        features: Tensor = self.layers(images)
        return features
