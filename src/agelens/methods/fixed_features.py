"""A regressor solved at once on the features of a backbone that is not trained: no epochs, no augmentation.

The hand-made systems of the comparison tables, of which only the regressor differs (backbone ``bif``)::

    [method]
    name = "fixed-features"
    settings = { regressor = "kplsr" }

The features are standardised and projected to their principal components; what is found is folded into the
head, so that the network is a backbone and a head as any other, and is exported, calibrated and compared
alike. Each regressor has one number, which is chosen on the validation part.

[1] Guo et al., Human age estimation using bio-inspired features, CVPR 2009.
[2] Guo and Mu, Simultaneous dimensionality reduction and human age estimation via kernel partial least
    squares regression, CVPR 2011 (KPLSR).
[3] Guo and Mu, Joint estimation of age, gender and ethnicity: CCA vs. PLS, FG 2013 (CCA).
[4] Chang et al., Ordinal hyperplanes ranker with cost sensitivities for age estimation, CVPR 2011 (OHRank).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA
from sklearn.svm import LinearSVR
from torch import Tensor, nn

from agelens.data.crop_set import CropSet
from agelens.errors import InputError, RecipeError
from agelens.label_distribution import AgeBins
from agelens.methods.baseline import BaselineStage
from agelens.methods.ohrank import PENALTIES, OrdinalHyperplanes
from agelens.networks.backbone import Backbone
from agelens.networks.heads import OrdinalHead, as_distribution
from agelens.networks.kernel_head import Centres, KernelHead, gaussian_kernel
from agelens.objectives import OBJECTIVES, Objective
from agelens.training.method import Method
from agelens.training.recipe import Recipe
from agelens.training.transforms import network_input

__all__ = [
    "FixedFeatures",
    "FixedFeaturesSettings",
    "FixedFeaturesStage",
    "Projection",
    "canonical_direction",
    "kernel_weights",
]

Array = NDArray[np.float64]

_TRIED: Mapping[str, tuple[float, ...]] = {
    "svr": (0.1, 1.0, 10.0, 100.0, 1000.0),
    "cca": (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
    "kplsr": (4, 8, 16, 24, 32),
    "ohrank": PENALTIES,
}
_SLOPES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # of the sigmoids of the ordinal hyperplanes
_SURE = 30.0  # logit of an age that all or no training images are older than
_LEAST_SHARE = 1e-4  # of the largest eigenvalue of the kernel between centres; smaller ones are left out

_OBJECTIVES = {
    "svr": OBJECTIVES["l1"],
    "cca": OBJECTIVES["l2"],
    "kplsr": Objective(OBJECTIVES["l2"].loss, head="kernel"),
    "ohrank": OBJECTIVES["or-cnn"],
}


class FixedFeaturesSettings(BaseModel):
    """Settings of the method.

    Attributes:
        regressor: ``svr`` linear support vectors, ``cca`` canonical correlation, ``kplsr`` kernel partial
            least squares, ``ohrank`` ordinal hyperplanes.
        components: Most principal components.
        tried: Values tried on validation: C of ``svr`` and ``ohrank``, the ridge of ``cca`` as a share of the
            mean variance, the latent directions of ``kplsr``. Empty: four to six of each.
        epsilon: Years that ``svr`` does not count as an error.
        centres: Most training images that ``kplsr`` keeps as centres of its kernel.
        images: Most training images, drawn by the recipe's seed: they are in memory at once.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    regressor: Literal["svr", "cca", "kplsr", "ohrank"]
    components: int = Field(default=256, ge=1)
    tried: tuple[Annotated[float, Field(gt=0)], ...] = ()
    epsilon: float = Field(default=1.0, ge=0)
    centres: Centres = 1000
    images: int = Field(default=20_000, ge=2)


@dataclass(frozen=True)
class Projection:
    """z = weights (x - mean): standardised features on their principal components, of mean square length 1.

    Attributes:
        mean: (C,) of the features.
        weights: (D, C).
    """

    mean: Array
    weights: Array

    @classmethod
    def fit(cls, features: NDArray[np.float32], components: int, seed: int) -> Projection:
        """Fit to (N, C) features; D is the smallest of ``components``, N - 1 and C."""
        mean, deviation = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
        scale = np.where(deviation > 1e-8, deviation, np.inf)  # what never changes tells nothing
        scaled = ((features - mean) / scale).astype(np.float32)
        fitted = PCA(min(components, len(features) - 1, features.shape[1]), random_state=seed).fit(scaled)
        spread = np.sqrt(fitted.explained_variance_.sum(dtype=np.float64))
        return cls(mean, fitted.components_.astype(np.float64) / scale / max(spread, 1e-12))

    def __call__(self, features: NDArray[np.float32]) -> Array:
        """(N, D) of (N, C)."""
        projected: Array = (features - self.mean) @ self.weights.T
        return projected

    def fold(self, weights: Array, bias: Array) -> tuple[Array, Array]:
        """Weights (R, C) and bias (R,) on x of a linear map (R, D), (R,) of z."""
        folded = weights @ self.weights
        return folded, bias - folded @ self.mean


@dataclass(frozen=True)
class _Parts:
    """Projected features and ages, years, of the training and the validation part."""

    train: Array
    ages: Array
    val: Array
    val_ages: Array

    def best(self, solved: Sequence[Array], inputs: Array) -> Array:
        """The solution (D + 1,), weights and bias, with the smallest error on the validation part.

        Args:
            solved: The solutions; of a tie the first is taken.
            inputs: (M, D) of the validation part.
        """
        errors = [float(np.abs(inputs @ s[:-1] + s[-1] - self.val_ages).mean()) for s in solved]
        return solved[int(np.argmin(errors))]


def canonical_direction(features: Array, ages: Array, ridge: float) -> Array:
    """The direction w of largest correlation of w·z with the age, and of the scale that estimates it ([3]).

    With the age as the only label there is one canonical direction, (Σ_zz + κI)⁻¹ Σ_zy, and the regression
    of the age on w·z makes it ridge regression; κ = 0 is canonical correlation analysis itself.

    Args:
        features: (N, D) z.
        ages: (N,) years.
        ridge: κ as a share of the mean variance of the features.
    Returns:
        (D + 1,) w, then the bias.
    """
    centred, offsets = features - features.mean(0), ages - ages.mean()
    covariance = centred.T @ centred / len(ages)
    covariance += ridge * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    direction = np.linalg.solve(covariance, centred.T @ offsets / len(ages))
    variate = centred @ direction
    scale = (variate @ offsets) / max(variate @ variate, 1e-12)
    direction *= scale
    return np.append(direction, ages.mean() - features.mean(0) @ direction)


def kernel_weights(kernel: Array, between: Array, ages: Array, directions: int) -> Array:
    """Kernel partial least squares on M centres ([2]): α and b of Σ_m α_m k(z, c_m) + b.

    Partial least squares of the age on φ(z) = K_CC^(-1/2) k(z, C), whose products are the kernel, exactly so
    where all images are centres and to Nyström's approximation elsewhere.

    Args:
        kernel: (N, M) of the images and the centres.
        between: (M, M) K_CC of the centres.
        ages: (N,) years.
        directions: Latent directions; at most the rank of the kernel.
    Returns:
        (M + 1,) α, then b.
    """
    values, vectors = np.linalg.eigh(between)
    kept = values > _LEAST_SHARE * values[-1]
    root = vectors[:, kept] / np.sqrt(values[kept])
    mapped = kernel @ root
    fitted = PLSRegression(min(directions, mapped.shape[1]), scale=False).fit(mapped, ages)
    slopes: Array = fitted.coef_.reshape(-1)
    bias = float(fitted.predict(mapped[:1]).reshape(-1)[0] - mapped[0] @ slopes)
    return np.append(root @ slopes, bias)


@dataclass
class FixedFeaturesStage(BaselineStage):
    """The one stage: the baseline's network, whose head is solved."""

    at_once: ClassVar[bool] = True
    settings: FixedFeaturesSettings = field(kw_only=True)

    @property
    def name(self) -> str:
        """``regressor``."""
        return "regressor"

    @property
    def objective_name(self) -> str:
        """The regressor."""
        return self.settings.regressor

    def check_without_validation(self) -> None:
        """Refuse several values to choose from.

        Raises:
            RecipeError: There are.
        """
        if len(self.settings.tried) != 1:
            raise RecipeError(
                self.recipe.name,
                "method.settings.tried",
                "is chosen on the validation part, and there is none: one value",
                list(self.settings.tried),
            )

    def solve(self, train: CropSet, val: CropSet, device: torch.device) -> nn.Module:
        """Compute the features of both parts, solve the regressor, and put it into the head.

        Raises:
            InputError: All training images have one age.
            RecipeError: Another input size than the backbone's, if it has one of its own.
        """
        selected = torch.randperm(len(train))[: self.settings.images].sort().values.numpy()
        ages = train.ages[selected].astype(np.float64)
        if len(np.unique(np.floor(ages))) < 2:
            raise InputError(f"a regressor needs two ages or more; all training images are {ages[0]:g}")
        backbone, size = self.network().backbone.to(device).eval(), self.recipe.network.input_size
        if (own_size := getattr(backbone, "input_size", size)) != size:
            message = f"{self.recipe.network.backbone} reads images of {own_size} pixels"
            raise RecipeError(self.recipe.name, "network.input_size", message, size)
        features = self._features(backbone, train, selected)
        projection = Projection.fit(features, self.settings.components, self.recipe.seed)
        own = projection(features)
        del features
        judged = projection(self._features(backbone, val, np.arange(len(val))))
        low, high = self.age_bins.minimum, self.age_bins.maximum
        parts = _Parts(own, ages.clip(low, high), judged, val.ages.astype(np.float64).clip(low, high))
        self.head_settings = {}
        if self.settings.regressor == "kplsr":
            count = min(self.settings.centres, len(own))
            self.head_settings = {"components": own.shape[1], "centres": count}
        network = self.network()
        network.backbone = backbone
        with torch.no_grad():
            self._fill(network.head, projection, parts)
        return network.to(device).eval()

    def _features(self, backbone: Backbone, crops: CropSet, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        size = self.recipe.network.input_size
        device = self.bin_ages.device
        features = np.empty((len(rows), backbone.num_features), np.float32)
        with torch.inference_mode():
            for start in range(0, len(rows), 64):
                images = network_input(crops.crops(rows[start : start + 64]), size, device)
                features[start : start + 64] = backbone(images).float().cpu().numpy()
        return features

    def _fill(self, head: Any, projection: Projection, parts: _Parts) -> None:
        tried = self.settings.tried or _TRIED[self.settings.regressor]
        if self.settings.regressor == "kplsr":
            _fill_kernels(head, projection, parts, tried)
        elif self.settings.regressor == "ohrank":
            _fill_hyperplanes(head, projection, parts, tried, self.bin_ages.device)
        else:
            cca = self.settings.regressor == "cca"
            solve = canonical_direction if cca else self._support_vectors
            best = parts.best([solve(parts.train, parts.ages, value) for value in tried], parts.val)
            _fill_years(head.linear, *projection.fold(best[None, :-1], best[-1:]), self.age_bins)

    def _support_vectors(self, features: Array, ages: Array, penalty: float) -> Array:
        """(D + 1,) of a linear machine: squared loss beyond ε, in the primal (liblinear)."""
        machine = LinearSVR(
            C=penalty,
            epsilon=self.settings.epsilon,
            loss="squared_epsilon_insensitive",
            dual=False,
            intercept_scaling=100.0,  # liblinear weighs the bias, too: so it hardly counts
            max_iter=10_000,
        ).fit(features, ages)
        return np.append(machine.coef_, machine.intercept_)


class FixedFeatures(Method):
    """The method: one stage without epochs.

    Args:
        recipe: Its ``method.settings`` are :class:`FixedFeaturesSettings`.
        age_bins: The K ages.
        start: Weights whose backbone it takes, or None.
    Raises:
        RecipeError: An unknown setting, a value out of range, or heads that are not the regressor's.
    """

    settings_type = FixedFeaturesSettings
    settings: FixedFeaturesSettings
    has_epochs = False

    def __init__(self, recipe: Recipe, age_bins: AgeBins, start: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(recipe, age_bins, start)
        name = self.settings.regressor
        heads = ("ldl",) if name == "ohrank" else ("reg",)
        if recipe.network.heads != heads:
            message = f"the regressor {name!r} solves the head {heads[0]!r}"
            raise RecipeError(recipe.name, "network.heads", message, list(recipe.network.heads))
        self._stages = [
            FixedFeaturesStage(recipe, _OBJECTIVES[name], age_bins, start=start, settings=self.settings)
        ]

    def stages(self) -> Sequence[FixedFeaturesStage]:
        """The one stage."""
        return self._stages


def _fill_years(linear: nn.Linear, weights: Array, bias: Array, bins: AgeBins) -> None:
    """Set a layer of a regression head, which answers in shares of the bins' range, to a map to years."""
    span = bins.maximum - bins.minimum
    linear.weight.copy_(torch.as_tensor(weights / span))
    linear.bias.copy_(torch.as_tensor((bias - bins.minimum) / span))


def _fill_kernels(head: KernelHead, projection: Projection, parts: _Parts, tried: Sequence[float]) -> None:
    """Kernel partial least squares; the centres are drawn, and 1 / γ is their median squared distance."""
    drawn = torch.randperm(len(parts.train))[: len(head.centres)].numpy()
    centres = torch.as_tensor(parts.train[drawn])
    apart = torch.pdist(centres).square()
    gamma = 1 / max(float(apart.median()) if len(apart) else 0.0, 1e-12)
    images, judged, between = (
        gaussian_kernel(torch.as_tensor(points), centres, gamma).numpy()
        for points in (parts.train, parts.val, centres)
    )
    solved = [kernel_weights(images, between, parts.ages, round(value)) for value in tried]
    best = parts.best(solved, judged)
    weights, bias = projection.fold(np.eye(len(projection.weights)), np.zeros(len(projection.weights)))
    head.projection.weight.copy_(torch.as_tensor(weights))
    head.projection.bias.copy_(torch.as_tensor(bias))
    head.centres.copy_(centres)
    head.gamma.fill_(gamma)
    _fill_years(head.linear, best[None, :-1], best[-1:], head.age_bins)


def _fill_hyperplanes(
    head: OrdinalHead,
    projection: Projection,
    parts: _Parts,
    tried: Sequence[float],
    device: torch.device,
) -> None:
    """Ordinal hyperplanes ([4]); an age that no training image has shares the machine of the one below.

    The slope of the sigmoids that make probabilities of the machines' answers is chosen by the likelihood of
    the validation ages; the votes do not depend on it.
    """
    machines = OrdinalHyperplanes(device=device)
    machines.fit_best(parts.train, parts.ages, parts.val, parts.val_ages, tried)
    planes = machines.weights.double().cpu().numpy()
    weights = (planes[:-1] / machines.deviation[:, None]).T  # (A - 1, D)
    bias = planes[-1] - weights @ machines.mean
    bins = np.asarray(head.age_bins.ages)[:-1]
    machine = np.searchsorted(machines.ages, bins, side="right") - 1
    known = (machine >= 0) & (machine < len(weights))
    machine = machine.clip(0, len(weights) - 1)
    scores = torch.as_tensor(parts.val @ weights.T + bias)[:, machine]
    sure = np.where(bins < machines.ages[0], _SURE, -_SURE)
    labels = torch.as_tensor(head.age_bins.index(parts.val_ages))[:, None]

    def likelihood(slope: float) -> float:
        older = torch.where(torch.as_tensor(known), slope * scores, torch.as_tensor(sure))
        return float(as_distribution(torch.sigmoid(older)).gather(1, labels).log().mean())

    slope = max(_SLOPES, key=likelihood)
    folded, offset = projection.fold(weights[machine], bias[machine])
    head.linear.weight.copy_(torch.as_tensor(slope * folded * known[:, None]))
    head.linear.bias.copy_(torch.as_tensor(np.where(known, slope * offset, sure)))
