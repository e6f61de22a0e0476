"""The JSON of requests and answers, and its OpenAPI description."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from agelens.serve.body import RAW_TYPES
from agelens.serve.problems import KINDS, MEDIA_TYPE

__all__ = ["EXAMPLE", "Estimates", "ModelList", "Options", "Status", "request_body", "responses"]

_FACE = {
    "age": 31.4,
    "low": 22.1,
    "high": 41.9,
    "p_at_least": 0.997,
    "box": [180.2, 60.9, 271.3, 183.0],
    "landmarks": [[204.1, 108.2], [246.0, 106.9], [226.3, 132.8], [209.0, 152.1], [244.8, 151.0]],
    "confidence": 0.999,
    "alignment": "landmarks",
    "distribution": None,
    "quality": {"eye_distance": 41.8, "blur": 0.47, "yaw": 1.9, "pitch": -0.7, "outside": 0.0},
    "warnings": [],
}
_SMALLEST = (  # a PNG file of one pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNoAAAAggCB2kUIOwAAAABJRU5ErkJggg=="
)
EXAMPLE = {
    "request_id": "5f0c8a1e6b3d4f72",
    "model": {"name": "efficientnet-lite0-fairface", "version": "e5e4df816d15"},
    "age_bins": "0-100",
    "threshold": 18.0,
    "level": 0.9,
    "milliseconds": 18.2,
    "images": [
        {"index": 0, "width": 640, "height": 480, "faces": [_FACE], "warnings": [], "error": None},
    ],
}
"""An answer of ``POST /v1/estimate``."""


class Options(BaseModel):
    """The query of ``POST /v1/estimate``."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, description="A name of GET /v1/models; by default the first.")
    threshold: float = Field(18, ge=0, le=130, description="Years that p_at_least speaks of.")
    level: float = Field(0.9, ge=0.01, le=0.99, description="Coverage of the interval low … high.")
    distribution: bool = Field(True, description="Whether to give the whole distribution of each face.")
    crops: bool = Field(False, description="The images are face chips: one face each, even if none is found.")
    aligned: bool = Field(False, description="The images are square crops in the model's geometry.")


class Version(BaseModel):
    """Selection of a model."""

    name: str
    version: str = Field(description="Beginning of the digest of its weights.")


class WarningEntry(BaseModel):
    """Reason to doubt an estimate."""

    code: str
    message: str


class Quality(BaseModel):
    """Visibility of a face."""

    eye_distance: float | None = Field(description="Pixels between the eyes.")
    blur: float = Field(description="0 (sharp) to 1, of the aligned crop.")
    yaw: float | None = Field(description="Degrees, positive to the image's right; approximate.")
    pitch: float | None = Field(description="Degrees, positive = up; approximate.")
    outside: float | None = Field(description="Share of the box beyond the image's border.")


class FaceEstimate(BaseModel):
    """One face."""

    age: float = Field(description="Estimated age in years.")
    low: float = Field(description="Lower end of the interval, years.")
    high: float = Field(description="Upper end of the interval, years.")
    p_at_least: float = Field(description="Probability that the age is at least the threshold.")
    box: list[float] | None = Field(description="x1 y1 x2 y2, pixels of the upright image.")
    landmarks: list[list[float]] | None = Field(
        description="x y of: eye at image left, eye at image right, nose tip, mouth corner left, right."
    )
    confidence: float | None = Field(description="The detector's score, 0 to 1.")
    alignment: str = Field(description="landmarks, eyes, fallback or aligned.")
    distribution: list[float] | None = Field(description="Probability of each age bin.")
    quality: Quality
    warnings: list[WarningEntry]


class ProblemDocument(BaseModel):
    """A failure: RFC 9457. Some kinds have further members."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="urn:agelens:problem: and the kind.")
    title: str
    status: int
    detail: str = Field(description="What happened and what to change.")


class ImageEstimate(BaseModel):
    """One image."""

    index: int = Field(description="Place in the call, from 0.")
    width: int | None = Field(description="Pixels, upright.")
    height: int | None
    faces: list[FaceEstimate] = Field(description="The largest first.")
    warnings: list[WarningEntry]
    error: ProblemDocument | None = Field(description="Why the image could not be used.")


class Estimates(BaseModel):
    """The answer of ``POST /v1/estimate``."""

    request_id: str
    model: Version
    age_bins: str = Field(description="First and last age of the distribution.")
    threshold: float
    level: float
    milliseconds: float = Field(description="From the request's head to this answer.")
    images: list[ImageEstimate]


class ModelEntry(Version):
    """One model of the service."""

    use: str
    terms: str
    age_bins: str
    bytes: int
    geometry: dict[str, Any]
    calibration: dict[str, Any] | None
    licence: dict[str, Any]
    url: str = Field(description="Where the page gets the model file.")


class Detector(BaseModel):
    """The face detector."""

    name: str
    networks: list[str]


class LimitList(BaseModel):
    """Limits of one call."""

    body_bytes: int
    images: int
    pixels: int
    faces: int
    seconds: float


class ModelList(BaseModel):
    """The answer of ``GET /v1/models``."""

    default: str
    models: list[ModelEntry]
    detector: Detector
    limits: LimitList
    warnings: dict[str, float] = Field(description="Where the warnings of faces begin.")


class Status(BaseModel):
    """The answer of ``/healthz`` and ``/readyz``."""

    status: str


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the failures of a route."""
    schema = {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}
    described: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        titles = [title for kind_status, title in KINDS.values() if kind_status == status]
        described[status] = {"description": "; ".join(titles), "content": {MEDIA_TYPE: schema}}
        if status == 503:
            described[status]["headers"] = {
                "Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}
            }
    return described


def request_body(images: int) -> dict[str, Any]:
    """Describe the three forms of a call's body."""
    binary = {"type": "string", "format": "binary"}
    files = {
        "type": "object",
        "required": ["images"],
        "properties": {"images": {"type": "array", "items": binary, "minItems": 1, "maxItems": images}},
    }
    encoded = {
        "type": "object",
        "required": ["images"],
        "additionalProperties": False,
        "properties": {
            "images": {
                "type": "array",
                "items": {"type": "string", "format": "byte"},
                "minItems": 1,
                "maxItems": images,
            }
        },
    }
    content: dict[str, Any] = {
        "multipart/form-data": {"schema": files},
        "application/json": {"schema": encoded, "example": {"images": [_SMALLEST]}},
    }
    content |= {media_type: {"schema": binary} for media_type in RAW_TYPES}
    return {"required": True, "content": content}
