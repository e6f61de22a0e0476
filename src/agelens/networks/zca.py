"""Whitening by patches (ZCA), one convolution in front of a backbone and in the exported graph.

Whitening whole images of 64 px would take a matrix of 12,288² numbers. Natural images are nearly stationary,
so the covariance of small patches says as much: its inverse square root, a (3k²)² matrix, whitens a patch,
and the three rows that belong to the patch's centre pixel are one k x k convolution from 3 to 3 channels.

[1] Zhao et al., Distilling ordinal relation and dark knowledge for facial age estimation, 2020 (Appendix C).
[2] Bell and Sejnowski, The "independent components" of natural scenes are edge filters, Vision Research 1997.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agelens.networks.backbone import Backbone

__all__ = ["PatchZCA", "Whitened", "Whitening", "fit_patch_zca"]


class Whitening(NamedTuple):
    """The whitening of k x k patches of 3 channels; a patch is flattened channel by channel, row by row."""

    mean: Tensor
    """(3k²,) mean patch."""
    matrix: Tensor
    """(3k², 3k²) U diag(1 / sqrt(λ + ε)) Uᵀ, symmetric ([2]: "zero-phase")."""
    variances: Tensor
    """(3k²,) eigenvalues λ of the patches' covariance, rising."""


def fit_patch_zca(
    images: Tensor, kernel: int, epsilon: float = 0.01, patches: int = 64, seed: int = 0
) -> Whitening:
    """Fit the whitening to patches at random places of images.

    Args:
        images: (N, 3, S, S) as the network sees them (normalised).
        kernel: k, odd.
        epsilon: ε added to every variance, so that directions of mere noise are not blown up: a direction of
            variance λ comes out with variance λ / (λ + ε), close to 1 for all that is kept.
        patches: Patches of each image.
        seed: Of the places.
    Returns:
        Mean, matrix and variances in float32.
    Raises:
        ValueError: ``kernel`` is even or larger than the images, or ``epsilon`` is not positive.
    """
    side = images.shape[-1]
    if kernel % 2 == 0 or not 1 <= kernel <= side:
        raise ValueError(f"kernel must be odd and at most {side}, not {kernel}")
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, not {epsilon}")
    generator = torch.Generator().manual_seed(seed)
    size = 3 * kernel**2
    total, products, count = torch.zeros(size, dtype=torch.float64), torch.zeros(size, size).double(), 0
    for start in range(0, len(images), 256):
        columns = F.unfold(images[start : start + 256].float(), kernel)  # (B, 3k², places)
        places = torch.randint(columns.shape[2], (len(columns), 1, patches), generator=generator)
        places = places.to(columns.device).expand(-1, size, -1)
        selected = columns.gather(2, places).transpose(1, 2).reshape(-1, size).cpu().double()
        total += selected.sum(0)
        products += selected.T @ selected
        count += len(selected)
    mean = total / count
    covariance = products / count - torch.outer(mean, mean)
    variances, directions = torch.linalg.eigh(covariance)
    variances = variances.clamp(min=0)
    matrix = directions @ torch.diag((variances + epsilon).rsqrt()) @ directions.T
    return Whitening(mean.float(), matrix.float(), variances.float())


class PatchZCA(nn.Module):
    """Whitens every pixel within its patch; its weights are fitted, not trained, and kept in the state dict.

    Args:
        kernel: Side k of the patch, odd.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.register_buffer("weight", torch.zeros(3, 3, kernel, kernel))
        self.register_buffer("bias", torch.zeros(3))
        self.weight[:, :, kernel // 2, kernel // 2] = torch.eye(3)

    def set(self, whitening: Whitening) -> None:
        """Take the rows of a whitening that belong to the centre pixel.

        Raises:
            ValueError: The whitening is of another patch.
        """
        k = self.kernel
        if whitening.matrix.shape != (3 * k * k, 3 * k * k):
            raise ValueError(f"a whitening of {tuple(whitening.matrix.shape)} for patches of {k} x {k}")
        centres = torch.arange(3) * k * k + (k * k) // 2
        rows = whitening.matrix[centres]
        self.weight.copy_(rows.reshape(3, 3, k, k))
        self.bias.copy_(-rows @ whitening.mean)

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) normalised images to whitened ones of the same shape.

        Outside the image there are zeros, which are the mean colour of normalised images.
        """
        return F.conv2d(images, self.weight, self.bias, padding=self.kernel // 2)


class Whitened(Backbone):
    """A backbone that sees whitened images.

    Args:
        backbone: What sees them.
        kernel: Side of the patch, odd.
    """

    def __init__(self, backbone: Backbone, kernel: int) -> None:
        super().__init__()
        self.whitening = PatchZCA(kernel)
        self.backbone = backbone
        self.num_features = backbone.num_features

    def feature_map(self, images: Tensor) -> Tensor:
        """Compute the backbone's last map of the whitened images."""
        return self.backbone.feature_map(self.whitening(images))

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) normalised images to (B, C) features."""
        features: Tensor = self.backbone(self.whitening(images))
        return features

    def forward_with_maps(self, images: Tensor, numbers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """The features and the maps of some convolutions (1 = the backbone's first), if it is a chain."""
        forward: Any = self.backbone.forward_with_maps
        result: tuple[Tensor, list[Tensor]] = forward(self.whitening(images), numbers)
        return result
