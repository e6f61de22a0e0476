"""The models that a service offers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agelens.errors import InputError
from agelens.inference.estimator import AgeEstimator
from agelens.inference.shipped_models import list_models, model_path
from agelens.serve.settings import ServeSettings

__all__ = ["OfferedModel", "open_models"]


@dataclass(frozen=True, eq=False)
class OfferedModel:
    """One model of a service.

    Attributes:
        name: What requests call it.
        estimator: The opened model.
        path: Its file.
        use: What it is for, in a line.
        terms: Who may use it.
    """

    name: str
    estimator: AgeEstimator
    path: Path
    use: str
    terms: str

    @property
    def version(self) -> str:
        """Beginning of the digest of its weights."""
        return self.estimator.card.digest[:12]

    def to_dict(self) -> dict[str, Any]:
        """Give its entry of ``GET /v1/models``."""
        card = self.estimator.card
        return {
            "name": self.name,
            "version": self.version,
            "use": self.use,
            "terms": self.terms,
            "age_bins": str(card.age_bins),
            "bytes": self.path.stat().st_size,
            "geometry": card.geometry,
            "calibration": None if card.calibration is None else card.calibration.to_dict(),
            "licence": card.licence,
            "url": f"/page/models/{self.name}.onnx",
        }


def open_models(settings: ServeSettings) -> dict[str, OfferedModel]:
    """Open the models that a service offers, the default first.

    Raises:
        ModelFileError: No such model, or not one of ours.
        InputError: Two of them have one name, or a name cannot stand in a URL.
    """
    shipped = list_models()
    offered: dict[str, OfferedModel] = {}
    for asked in settings.models or tuple(shipped):
        estimator = AgeEstimator(asked, batch_size=settings.batch_size)
        card, known = estimator.card, shipped.get(asked)
        name = card.name if known is None else asked
        if name in offered:
            raise InputError(f"two models are called {name!r}")
        if not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or not name.isascii():
            raise InputError(f"the model's name {name!r} cannot stand in a URL: letters, digits, - _ . can")
        terms = str(card.licence.get("model", "")) if known is None else known.terms
        use = "model file of this service" if known is None else known.use
        offered[name] = OfferedModel(name, estimator, model_path(asked), use, terms)
    return offered
