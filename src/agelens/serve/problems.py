"""Every failure of the service as a problem document (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from agelens.errors import AgelensError, ImageTooLargeError

__all__ = ["KINDS", "MEDIA_TYPE", "Problem", "image_problem", "problem_response"]

MEDIA_TYPE = "application/problem+json"
_TYPE = "urn:agelens:problem:"

KINDS: dict[str, tuple[int, str]] = {
    "malformed-request": (400, "The request is not valid HTTP"),
    "malformed-body": (400, "The body is not what its content type promises"),
    "unauthorized": (401, "A bearer token is needed"),
    "other-site": (403, "Pages of this site may not call"),
    "not-found": (404, "There is nothing here"),
    "method-not-allowed": (405, "The method is not allowed here"),
    "slow-sender": (408, "The request took too long to arrive"),
    "body-too-large": (413, "The body is too large"),
    "too-many-images": (422, "Too many images in one call"),
    "wrong-host": (421, "The service is not known by this name"),
    "content-type": (415, "The content type cannot be used"),
    "invalid-option": (422, "An option cannot be used"),
    "unknown-model": (422, "There is no such model"),
    "no-images": (422, "There is no image in the call"),
    "unreadable-image": (422, "The image cannot be read"),
    "image-too-large": (422, "The image has too many pixels"),
    "unusable-image": (422, "The image cannot be used"),
    "unusable-images": (422, "None of the images can be used"),
    "internal": (500, "The service failed"),
    "busy": (503, "The service is busy"),
    "too-slow": (503, "The answer took too long"),
    "stopping": (503, "The service is stopping"),
}
"""Status and title of every kind of problem; the kind ends its ``type``."""


class Problem(Exception):  # noqa: N818
    """A failure to answer with.

    Args:
        kind: A key of `KINDS`.
        detail: What happened and what to change.
        headers: Further headers of the answer.
        members: Further members of the document.
    """

    def __init__(
        self, kind: str, detail: str, *, headers: Mapping[str, str] | None = None, **members: Any
    ) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.members = kind, detail, members
        self.status, self.title = KINDS[kind]
        self.headers = dict(headers or {})

    def document(self, request_id: str | None = None) -> dict[str, Any]:
        """Give the document's members."""
        named = {"request_id": request_id} if request_id else {}
        return {
            "type": _TYPE + self.kind,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            **self.members,
            **named,
        }


def image_problem(error: AgelensError) -> Problem:
    """Make a problem of what an image met on its way."""
    reason = str(getattr(error, "reason", error))
    if isinstance(error, ImageTooLargeError):
        return Problem("image-too-large", f"the upload {reason}: send it smaller")
    if hasattr(error, "reason"):
        return Problem("unreadable-image", f"the upload {reason}")
    return Problem("unusable-image", reason)


def problem_response(problem: Problem, request_id: str | None = None) -> Response:
    """Make the answer."""
    content = json.dumps(problem.document(request_id), ensure_ascii=False).encode("utf-8", "replace")
    return Response(content, problem.status, problem.headers, MEDIA_TYPE)
