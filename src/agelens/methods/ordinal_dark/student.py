"""The student: labels, hints and soft labels together.

[1] Zhao et al., Distilling ordinal relation and dark knowledge for facial age estimation, 2020.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from agelens.data.crop_set import CropSet
from agelens.errors import InputError
from agelens.losses import annealed, band_distance, l1_regression, soft_cross_entropy
from agelens.methods.ordinal_dark.hints import GuidedStage
from agelens.methods.ordinal_dark.settings import TEACHING_STAGE
from agelens.methods.ordinal_dark.soft_labels import SoftLabelSettings, kept_soft_labels
from agelens.metrics import cumulative_accuracy, mae
from agelens.networks.age_network import AgeNetwork, AnyNetwork
from agelens.networks.guided import GuidedOutputs, GuidedStudent
from agelens.training.labels import AgeLabels
from agelens.training.stage import Batch, Finished, Validation, judge_ages, run_on_crops
from agelens.training.teachers import NetworkTeacher, SoftLabels, Teacher, load_teacher, mean_soft_labels
from agelens.training.transforms import augment, resize_images

__all__ = ["StudentStage"]


@dataclass
class StudentStage(GuidedStage):
    """The whole student learns from labels, hints and soft labels ([1], Eq. 2, Algorithm 1, step 6)."""

    teachers: list[Teacher] = field(default_factory=list, init=False, repr=False)
    _hinted: GuidedStudent | None = field(default=None, init=False, repr=False)
    _lambdas: tuple[float, float] = field(default=(0.0, 0.0), init=False)
    soft_labels: SoftLabels | None = field(default=None, init=False, repr=False)

    @property
    def name(self) -> str:
        """``student``."""
        return "student"

    def ready(self, finished: Finished) -> None:
        """Fetch the teachers that have a weight, and the student that the hints prepared.

        Raises:
            InputError: A weight without its teacher, or a loss that has or will have no term.
        """
        settings = self.settings
        self.begin(self.training.epochs - 1)  # by then the weights have fallen as far as they do
        if not any((settings.label, settings.expectation, *self._lambdas)) and (
            "reg" not in self.recipe.network.heads or not settings.regression
        ):
            raise InputError(
                "no part of the student's loss has a weight in the last epoch: set method.settings.label "
                "or .expectation, or let lambda_1 or lambda_2 stay (fall_every = 0)"
            )
        if "hint" in settings.stages:
            self._hinted = finished("hint")
        if settings.lambda_1 > 0:
            self.ranker = self.frozen_ranker(finished)
        if settings.lambda_2 > 0 or settings.teachers:
            weights = settings.weights or (1.0,) * len(settings.teachers)
            pairs = zip(settings.teachers, weights, strict=True)
            self.teachers = [
                load_teacher(path, weight, self.age_bins, TEACHING_STAGE) for path, weight in pairs
            ]
            if not self.teachers and "classifier" in settings.stages:
                network = finished("classifier").eval().requires_grad_(False)
                size = self.recipe.network.input_size
                self.teachers = [NetworkTeacher(network, size, 1.0, torch.eye(len(self.age_bins)))]
            if not self.teachers:
                raise InputError(
                    "dark knowledge needs a teacher: pass --teacher (a run or a model), list the stage "
                    "'classifier', or set method.settings.lambda_2 = 0"
                )

    def look(self, train: CropSet, val: CropSet) -> Sequence[str]:
        """Keep the crops; note how many soft labels are computed first."""
        super().look(train, val)
        if self.teachers and self.settings.views:
            return [
                f"teachers answer {self.settings.views} views of {len(train)} crops before the first epoch"
            ]
        return ()

    def to(self, device: torch.device) -> None:
        """Move the teachers; with ``settings.views``, ask them about all training crops."""
        super().to(device)
        for teacher in self.teachers:
            teacher.to(device)
        if self.teachers and self.settings.views:
            assert self.train_crops is not None  # look() kept them
            self.soft_labels = kept_soft_labels(
                self.train_crops,
                self.teachers,
                SoftLabelSettings(
                    self.age_bins,
                    self.settings.views,
                    self.settings.tau,
                    None if self.settings.whole else self.augmentation,
                    self.precision(device),
                ),
                device,
            )

    def network(self) -> GuidedStudent:
        """The student from the hint stage, else from ``--start`` or at its own start."""
        fresh = self.new_student()
        if self._hinted is not None:
            state = self._hinted.state_dict()
            if self.ranker is None:
                state = {name: t for name, t in state.items() if not name.startswith("regressors.")}
            fresh.load_state_dict(state)
        return fresh

    def begin(self, epoch: int) -> None:
        """Anneal λ₁ and λ₂."""
        s = self.settings
        self._lambdas = (
            annealed(s.lambda_1, s.lambda_1_fall, s.fall_every, epoch),
            annealed(s.lambda_2, s.lambda_2_fall, s.fall_every, epoch),
        )

    def inputs(
        self,
        crops: CropSet,
        rows: NDArray[np.int64],
        size: int,
        views: torch.Generator,
        device: torch.device,
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """A training view of each crop, and the teachers' part.

        Returns:
            Views (B, 3, size, size), and as extras ``distribution`` (B, K) and ``age`` (B,), the teachers'
            soft labels, where they are kept; else ``view`` (B, 3, S, S): the same views in the size of the
            largest input among student and teachers.
        """
        if self.soft_labels is not None:
            images, _ = super().inputs(crops, rows, size, views, device)
            kept = {"distribution": self.soft_labels.distribution[rows], "age": self.soft_labels.age[rows]}
            return images, {name: tensor.to(device) for name, tensor in kept.items()}
        largest = max([size, *(teacher.size for teacher in self.teachers)])
        if largest == size:
            images, _ = super().inputs(crops, rows, size, views, device)
            return images, {"view": images}
        assert self.train_crops is not None  # look() kept them, at their full size
        whole = torch.from_numpy(self.train_crops.crops(rows)).to(device)
        view = augment(whole, self.augmentation, largest, views)
        return resize_images(view, size), {"view": view}

    def loss(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """Eq. 2, and our own terms beside it; terms of weight 0 are not computed.

        Args:
            outputs: :class:`GuidedOutputs` of the student.
            batch: Images (B, 3, S, S); targets (B, 4), labels; extras of :meth:`inputs`.
        Returns:
            ``loss`` and its parts ``age``, ``hints``, ``dark``, ``expected``, ``reg``.
        """
        s, bins = self.settings, self.age_bins
        labels = AgeLabels.of(batch.targets, batch.known)
        low, high = labels.bounds(bins)
        lambda_1, lambda_2 = self._lambdas
        taught = (
            self._taught(batch) if lambda_2 > 0 or s.expectation or outputs.regressed is not None else None
        )
        parts: dict[str, Tensor] = {}
        total = batch.targets.new_zeros(())
        if outputs.logits is not None:
            if s.label > 0:
                parts["age"] = labels.likelihood_loss(outputs.logits, bins, s.head_tau)
                total = total + s.label * parts["age"]
            if lambda_2 > 0 and taught is not None:
                tau = s.head_tau * s.tau
                parts["dark"] = soft_cross_entropy(outputs.logits, taught.distribution, tau)
                total = total + lambda_2 * parts["dark"]
            if s.expectation > 0:
                years = torch.as_tensor(bins.ages, dtype=torch.float32, device=batch.targets.device)
                expected = F.softmax(outputs.logits / s.head_tau, dim=1) @ years
                wanted = [(low, high), *([] if taught is None else [(taught.age, taught.age)])]
                errors = [band_distance(expected, *ends).mean() for ends in wanted]
                parts["expected"] = torch.stack(errors).mean()
                total = total + s.expectation * parts["expected"]
        if lambda_1 > 0:
            parts["hints"] = self.hint_errors(outputs.hints, batch.images)
            total = total + lambda_1 * parts["hints"]
        if outputs.regressed is not None:
            wanted = [(low, high), *([] if taught is None else [(taught.age, taught.age)])]
            span = bins.maximum - bins.minimum
            errors = [
                l1_regression(outputs.regressed, *((end - bins.minimum) / span for end in ends))
                for ends in wanted
            ]
            parts["reg"] = torch.stack(errors).mean()
            total = total + s.regression * parts["reg"]
        return {"loss": total, **parts}

    def score(self, network: Any, outputs: GuidedOutputs, batch: Batch) -> dict[str, Tensor]:
        """The MAE, in years; a band counts by the distance to it."""
        labels = AgeLabels.of(batch.targets, batch.known)
        return {"train MAE": labels.distance(network.head.decode(outputs.ages()).age).mean()}

    def validate(self, network: Any, crops: CropSet, size: int) -> Validation:
        """Judge the student's ages; MAE and CA(5) of the most probable age beside the expectation's."""
        student: AnyNetwork = network.student if isinstance(network, GuidedStudent) else network
        outputs = run_on_crops(student, crops, size)
        result = judge_ages(outputs, crops.ages, crops.bounds, self.age_bins)
        if outputs.logits is None or crops.bounds is not None:
            return result
        most_probable = outputs.logits.argmax(1) + float(self.age_bins.minimum)
        argmax = {
            "MAE": float(mae(most_probable, crops.ages)),
            "CA(5)": float(cumulative_accuracy(most_probable, crops.ages, 5)),
        }
        figures = {**result.figures, **{f"{name} argmax": round(value, 4) for name, value in argmax.items()}}
        return replace(result, figures=figures, table={**result.table, "argmax": argmax})

    def result(self, network: Any) -> AgeNetwork:
        """The student, without its regressors."""
        student: AgeNetwork = network.student
        return student

    def _taught(self, batch: Batch) -> SoftLabels | None:
        if not self.teachers:
            return None
        if self.soft_labels is not None:
            return SoftLabels(batch.extras["distribution"], batch.extras["age"])
        return mean_soft_labels(self.teachers, batch.extras["view"], self.settings.tau)
