"""Warnings: reasons to doubt an estimate, from the quality of the face and from the photo."""

from __future__ import annotations

from typing import NamedTuple

from agelens.faces.quality import FaceQuality

__all__ = ["THRESHOLDS", "QualityWarning", "face_warnings", "photo_warnings"]

THRESHOLDS = {"eye_distance": 16.0, "blur": 0.7, "yaw": 35.0, "pitch": 30.0, "outside": 0.05}
"""Limits of the warnings: below the eye distance, above the others.

The first two were measured with ``resnet10-tiny-lrn-utkface`` on 400 validation chips of UTKFace. With eyes
17 pixels apart the error is 1.05 times that of the chips as they are, with 14 pixels 1.11 times, and ages
come out two to three years lower. A blur of 0.7 is passed by 0.5 % of the chips as they are, by 38 % after a
Gaussian of 1.6 pixels of the crop (error 1.13 times) and by 89 % after one of 2 pixels (1.33 times). Of 200
photographs of FG-NET one passes the yaw and none the pitch. Where a tenth of a face is cut off, about half
pass the share outside; where a fifth is, nearly all.
"""


class QualityWarning(NamedTuple):
    """One warning.

    Attributes:
        code: Short name for programs.
        message: Sentence for people.
    """

    code: str
    message: str


def face_warnings(quality: FaceQuality, *, layout_assumed: bool = False) -> list[QualityWarning]:
    """List what makes the estimate of a face doubtful.

    Args:
        quality: Of the face.
        layout_assumed: No face was detected on a chip, and the usual layout of chips was assumed.
    """
    found = []
    if layout_assumed:
        found.append(
            QualityWarning(
                "layout_assumed", "no face was detected; the face was assumed where chips usually show it"
            )
        )
    distance, yaw, pitch = quality.eye_distance, abs(quality.yaw or 0), abs(quality.pitch or 0)
    if distance is not None and distance < THRESHOLDS["eye_distance"]:
        found.append(
            QualityWarning("too_small", f"the face is small: {distance:.0f} pixels between the eyes")
        )
    if quality.blur > THRESHOLDS["blur"]:
        found.append(
            QualityWarning("blurred", "the face is blurred; blurred faces look younger than they are")
        )
    if yaw > THRESHOLDS["yaw"] or pitch > THRESHOLDS["pitch"]:
        turned = f"about {yaw:.0f} degrees sideways, {pitch:.0f} up or down"
        found.append(QualityWarning("extreme_pose", f"the face is turned away: {turned}"))
    if (quality.outside or 0) > THRESHOLDS["outside"]:
        found.append(QualityWarning("truncated", "the face is cut off by the border of the photo"))
    return found


def photo_warnings(faces: int, left_out: int) -> list[QualityWarning]:
    """List what a caller might not expect of a photo.

    Args:
        faces: Number of faces in the answer.
        left_out: Number of faces that were found but not estimated.
    """
    found = []
    if faces == 0:
        found.append(QualityWarning("no_face", "no face was found"))
    if faces > 1:
        found.append(QualityWarning("several_faces", f"{faces} faces were found; the largest comes first"))
    if left_out:
        found.append(QualityWarning("faces_left_out", f"{left_out} smaller faces were not estimated"))
    return found
