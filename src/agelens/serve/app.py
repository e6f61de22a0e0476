"""The service as an ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import math
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from agelens import __version__
from agelens.errors import AgelensError
from agelens.faces.mtcnn_networks import network_path
from agelens.faces.prelu import spell_out_prelu
from agelens.faces.quality_warnings import THRESHOLDS, QualityWarning, face_warnings, photo_warnings
from agelens.faces.yunet import YUNET_FILE, free_sizes
from agelens.serve.batching import BatchingEstimator, EstimatedPhoto, QueueFullError, StoppingError
from agelens.serve.body import read_images
from agelens.serve.gate import Gate
from agelens.serve.offered_models import OfferedModel, open_models
from agelens.serve.problems import Problem, image_problem, problem_response
from agelens.serve.schemas import EXAMPLE, Estimates, ModelList, Options, Status, request_body, responses
from agelens.serve.settings import ServeSettings
from agelens.serve.sites import NamedOrigins, Sites
from agelens.serve.static import StaticFile, page_files

__all__ = ["create_app"]

# Of the page's own detectors.
_NETWORKS = {"yunet-onet": ("yunet", "rnet", "onet"), "mtcnn": ("pnet", "rnet", "onet")}
_BEARER = HTTPBearer(auto_error=False, description="The token of the service.")


def create_app(settings: ServeSettings | None = None, page: Path | None = None) -> FastAPI:
    """Make the application; its models are opened now, its threads start and end with its lifespan.

    Args:
        settings: What it offers and allows.
        page: Folder of the page to show at ``/``.
    Returns:
        The application, with its `BatchingEstimator` in ``app.state.batching``.
    Raises:
        ModelFileError: A model cannot be opened.
        InputError: Two models have one name, or the detector cannot be made.
        MissingExtraError: What the detector needs is not installed.
    """
    service = _Service(settings or ServeSettings())

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.batching.start()
        try:
            yield
        finally:
            await asyncio.to_thread(service.batching.close)

    app = FastAPI(
        title="agelens",
        summary="The ages of the faces in photos, with their uncertainty.",
        version=__version__,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.batching, app.state.service = service.batching, service
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    if service.settings.origins:
        app.add_middleware(
            NamedOrigins,
            allow_origins=service.settings.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
            expose_headers=["Retry-After", "X-Request-ID"],
        )
    app.add_middleware(Gate, sites=Sites(service.settings.hosts, service.settings.origins))
    _add_api(app, service)
    for file in service.model_files():
        app.router.routes.append(Route(file.url, _guarded(service, file), include_in_schema=False))
    for file in page_files(page) if page is not None else ():
        app.router.routes.append(Route(file.url, file.__call__, include_in_schema=False))
    app.openapi = lambda: _description(app, list(service.models))  # type: ignore[method-assign]
    return app


def _description(app: FastAPI, models: list[str]) -> dict[str, Any]:
    """FastAPI's description, with the models' names and a whole example: FastAPI takes nulls out of one."""
    description = FastAPI.openapi(app)
    for parameter in description["paths"]["/v1/estimate"]["post"]["parameters"]:
        if parameter["name"] == "model":
            parameter["schema"] = {"type": "string", "enum": models, "default": models[0]}
    description["components"]["schemas"]["Estimates"]["examples"] = [EXAMPLE]
    return description


class _Service:
    """State shared by the routes."""

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self.models = open_models(settings)
        estimators = {name: model.estimator for name, model in self.models.items()}
        self.batching = BatchingEstimator(estimators, settings)
        self._calls = 0

    def authorise(self, request: Request) -> None:
        """Raise Problem unless the request shows the token (RFC 6750, 2.1), or none is asked for."""
        token = self.settings.token
        if token is None:
            return
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        shown = shown.strip(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(shown.encode(), token.encode()):
            detail = "show the service's token: Authorization: Bearer TOKEN"
            raise Problem("unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})

    def model(self, name: str | None) -> OfferedModel:
        """Give a model by name; None is the default."""
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise Problem("unknown-model", f"the models are {', '.join(self.models)}")
        return self.models[name]

    @contextlib.contextmanager
    def admitted(self) -> Iterator[None]:
        """Count a call; raise Problem if there are too many."""
        if self._calls >= self.settings.limits.requests:
            raise _later("busy", "too many calls at once", 1)
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    async def estimated(
        self, request: Request, model: OfferedModel, options: Options
    ) -> list[EstimatedPhoto | AgelensError]:
        """Read the call's images and wait for what is found in them."""
        with self.admitted():
            images = await read_images(request, self.settings.limits)
            try:
                futures = self.batching.submit(
                    model.name, images, crops=options.crops, aligned=options.aligned
                )
            except QueueFullError as error:
                raise _later("busy", "the queue is full", error.seconds) from error
            except StoppingError as error:
                raise _later("stopping", "the service is stopping", 5) from error
            del images
            return await self._answers(request, futures)

    async def _answers(
        self, request: Request, futures: Sequence[Future[EstimatedPhoto]]
    ) -> list[EstimatedPhoto | AgelensError]:
        """Wait for the workers, but no longer than allowed, and not for a sender who has gone."""
        answers = [asyncio.wrap_future(future) for future in futures]
        all_done = asyncio.ensure_future(asyncio.wait(answers))
        gone = asyncio.ensure_future(request.receive())
        either: set[asyncio.Future[Any]] = {all_done, gone}
        seconds = self.settings.limits.seconds
        try:
            await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if not all_done.done():
                if gone.done():
                    raise ClientDisconnect
                raise _later("too-slow", f"no answer within {seconds:g} s: send fewer images", seconds)
            return [_answer(answer) for answer in answers]
        finally:
            pending: list[asyncio.Future[Any]] = [gone, all_done, *answers]
            for waiting in pending:
                if not waiting.cancel() and not waiting.cancelled():
                    waiting.exception()  # read, or asyncio logs that nobody did

    def model_files(self) -> Iterator[StaticFile]:
        """The files with which the page estimates by itself."""
        for model in self.models.values():
            yield StaticFile(f"/page/models/{model.name}.onnx", model.path)
        for network in _NETWORKS.get(self.settings.detector, ()):
            yield StaticFile(_address(network), _network(network))


def _address(network: str) -> str:
    return f"/page/models/detector/{network}.onnx"


def _network(name: str) -> bytes:
    """A detector's network, as the page can run it."""
    if name == "yunet":
        return free_sizes(YUNET_FILE.read_bytes())
    return spell_out_prelu(network_path(name).read_bytes())


def _answer(photo: asyncio.Future[EstimatedPhoto]) -> EstimatedPhoto | AgelensError:
    """Result of a photo; an error that is not the photo's is raised."""
    error = photo.exception()
    if error is None:
        return photo.result()
    if isinstance(error, AgelensError):
        return error
    raise error


def _add_api(app: FastAPI, service: _Service) -> None:
    limits = service.settings.limits

    async def authorised(
        request: Request,
        _: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],  # for the description
    ) -> None:
        service.authorise(request)

    guard = [Depends(authorised)] if service.settings.token is not None else []

    @app.post(
        "/v1/estimate",
        summary="Estimate the age of every face in one or more images.",
        response_model=Estimates,
        responses=responses(400, 401, 403, 408, 413, 415, 421, 422, 500, 503),
        dependencies=guard,
        openapi_extra={"requestBody": request_body(limits.images)},
    )
    async def estimate(request: Request, options: Annotated[Options, Query()]) -> Response:
        for name in request.query_params:
            if len(request.query_params.getlist(name)) > 1:
                raise Problem("invalid-option", f"{name} is given more than once: give it once")
        if options.crops and options.aligned:
            raise Problem("invalid-option", "crops and aligned exclude each other: set one of them")
        model = service.model(options.model)
        photos = await service.estimated(request, model, options)
        images = [_image(index, photo, options) for index, photo in enumerate(photos)]
        faces = sum(len(image["faces"]) for image in images)
        request.state.notes.update(model=model.name, images=len(images), faces=faces)
        _raise_if_unusable(images)
        answer = {
            "request_id": request.state.request_id,
            "model": {"name": model.name, "version": model.version},
            "age_bins": str(model.estimator.card.age_bins),
            "threshold": options.threshold,
            "level": options.level,
            "milliseconds": round(1e3 * (time.perf_counter() - request.state.started), 2),
            "images": images,
        }
        return JSONResponse(answer)

    @app.get(
        "/v1/models",
        summary="The models, the limits, and where the warnings begin.",
        response_model=ModelList,
        responses=responses(401, 403, 421),
        dependencies=guard,
    )
    async def models() -> Response:
        answer = {
            "default": next(iter(service.models)),
            "models": [model.to_dict() for model in service.models.values()],
            "detector": {
                "name": service.settings.detector,
                "networks": [_address(network) for network in _NETWORKS.get(service.settings.detector, ())],
            },
            "limits": {
                "body_bytes": limits.body_bytes,
                "images": limits.images,
                "pixels": limits.pixels,
                "faces": limits.faces,
                "seconds": limits.seconds,
            },
            "warnings": THRESHOLDS,
        }
        return JSONResponse(answer)

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", summary="Whether the process lives.", response_model=Status)
    async def healthz() -> Response:
        return JSONResponse({"status": "alive"})

    @app.head("/readyz", include_in_schema=False)
    @app.get(
        "/readyz",
        summary="Whether calls are taken.",
        response_model=Status,
        responses=responses(503),
    )
    async def readyz() -> Response:
        if not service.batching.ready:
            if service.batching.stuck:
                raise _later("busy", "every worker has been at one photo for too long", 5)
            raise _later("stopping", "calls are not taken now", 5)
        return JSONResponse({"status": "ready"})


def _later(kind: str, detail: str, seconds: float) -> Problem:
    wait = {"Retry-After": str(max(1, math.ceil(seconds)))}
    return Problem(kind, f"{detail}; try again later", headers=wait)


def _guarded(service: _Service, file: StaticFile) -> Any:
    """A model file, for those who may call."""

    async def answer(request: Request) -> Response:
        service.authorise(request)
        return await file(request)

    return answer


def _image(index: int, photo: EstimatedPhoto | AgelensError, options: Options) -> dict[str, Any]:
    """One image's part of the answer."""
    if isinstance(photo, AgelensError):
        error = image_problem(photo).document()
        empty: dict[str, Any] = {"width": None, "height": None, "faces": [], "warnings": []}
        return {"index": index, **empty, "error": error}
    faces = []
    for face, quality in zip(photo.faces, photo.qualities, strict=True):
        told = face.to_dict(options.level, options.threshold)
        for shared in ("level", "threshold", "age_bins"):
            del told[shared]
        if not options.distribution:
            told["distribution"] = None
        told |= {
            "quality": asdict(quality),
            "warnings": _told(face_warnings(quality, layout_assumed=face.layout_assumed)),
        }
        faces.append(told)
    return {
        "index": index,
        "width": photo.width,
        "height": photo.height,
        "faces": faces,
        "warnings": _told(photo_warnings(len(faces), photo.left_out)),
        "error": None,
    }


def _told(warnings: list[QualityWarning]) -> list[dict[str, str]]:
    return [warning._asdict() for warning in warnings]


def _raise_if_unusable(images: list[dict[str, Any]]) -> None:
    """Raise Problem if no image of the call could be used."""
    errors = [{"index": image["index"], **image["error"]} for image in images if image["error"] is not None]
    if len(errors) < len(images):
        return
    if len(errors) == 1:
        kind = errors[0]["type"].rpartition(":")[2]
        raise Problem(kind, errors[0]["detail"])
    raise Problem("unusable-images", f"none of the {len(errors)} images can be used", images=errors)


def _request_id(request: Request) -> str | None:
    return getattr(request.state, "request_id", None)


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return problem_response(error, _request_id(request))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """Routing failure as a problem document: no such path, or not with this method."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        allowed = headers.get("Allow", headers.get("allow", ""))
        detail = f"{request.method} is not allowed here" + (f"; {allowed} is" if allowed else "")
        return problem_response(Problem("method-not-allowed", detail, headers=headers), _request_id(request))
    if error.status_code == 404:
        detail = "the service has POST /v1/estimate, GET /v1/models, /healthz, /readyz, /openapi.json"
        return problem_response(Problem("not-found", detail, headers=headers), _request_id(request))
    raise error


async def _on_invalid(request: Request, error: Exception) -> Response:
    """Options of the query that cannot be used."""
    assert isinstance(error, RequestValidationError)
    reasons = []
    for entry in error.errors():
        place = ".".join(str(part) for part in entry["loc"][1:]) or "the request"
        reasons.append(f"{place[:100]}: {entry['msg']}")
    return problem_response(Problem("invalid-option", "; ".join(reasons)[:1000]), _request_id(request))
