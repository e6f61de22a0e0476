"""The service against its own OpenAPI description: schemathesis invents calls, good ones and bad ones."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the service needs the extra serve")
pytest.importorskip("schemathesis", reason="needs the extra dev")

import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.testclient import TestClient

from agelens.serve.app import create_app
from agelens.serve.problems import KINDS
from agelens.serve.settings import Limits, ServeSettings

SERVICE = "http://localhost"


@pytest.fixture(scope="module")
def described(small_model: Path) -> Iterator[Any]:
    """The service's own description, of a running service."""
    app = create_app(
        ServeSettings(models=(str(small_model),), hosts=("localhost", "testserver"), limits=Limits(images=3))
    )
    with TestClient(app):
        yield schemathesis.openapi.from_asgi("/openapi.json", app)


OPERATIONS = (("/v1/estimate", "POST"), ("/v1/models", "GET"), ("/healthz", "GET"), ("/readyz", "GET"))


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_calls_as_described(described: Any, path: str, method: str, mode: Any) -> None:
    """Answers, failures, their types and schemas are as described; what is not allowed is refused."""
    calls = described[path][method].as_strategy(generation_mode=mode)

    @settings(
        max_examples=40,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=calls)
    def check(case: Any) -> None:
        # Bytes need not be an image, and crops excludes aligned: neither can be described.
        case.call_and_validate(excluded_checks=[positive_data_acceptance] if method == "POST" else [])

    try:
        check()
    except Unsatisfiable:
        assert method == "GET", "a route that takes something can be called wrongly"


def test_description_holds_every_route_and_failure(described: Any) -> None:
    document = described.raw_schema
    described_routes = {(path, method.upper()) for path, item in document["paths"].items() for method in item}
    assert described_routes == set(OPERATIONS)
    estimate = document["paths"]["/v1/estimate"]["post"]
    told = {int(status) for status in estimate["responses"]}
    assert told == {200} | {status for status, _ in KINDS.values()} - {404, 405}
    assert estimate["responses"]["200"]["content"]["application/json"]
    (model,) = (parameter for parameter in estimate["parameters"] if parameter["name"] == "model")
    assert model["schema"]["enum"] == ["small"]
    content = estimate["requestBody"]["content"]
    assert {"multipart/form-data", "application/json", "image/jpeg"} <= set(content)
    assert document["components"]["schemas"]["Estimates"]["examples"]


def test_examples_are_what_they_describe(small_model: Path, portrait: Path) -> None:
    """The example of the answer has exactly the members of a real answer, at every depth."""
    app = create_app(ServeSettings(models=(str(small_model),)))
    with TestClient(app, SERVICE) as client:
        (example,) = client.get("/openapi.json").json()["components"]["schemas"]["Estimates"]["examples"]
        photo = base64.b64encode(portrait.read_bytes()).decode()
        real = client.post("/v1/estimate?distribution=false", json={"images": [photo]}).json()
    assert members(example) == members(real), (example, real)


def test_the_example_of_a_call_works(small_model: Path) -> None:
    with TestClient(create_app(ServeSettings(models=(str(small_model),))), SERVICE) as client:
        estimate = client.get("/openapi.json").json()["paths"]["/v1/estimate"]["post"]
        example = estimate["requestBody"]["content"]["application/json"]["example"]
        (image,) = client.post("/v1/estimate", json=example).json()["images"]
    assert (image["width"], image["height"], image["error"]) == (1, 1, None)


def members(value: Any) -> Any:
    """The shape of a JSON value: names and types, the first entry of lists; warnings vary."""
    if isinstance(value, dict):
        return {key: members(entry) for key, entry in value.items() if key != "warnings"}
    if isinstance(value, list):
        return [members(entry) for entry in value[:1]]
    return "number" if isinstance(value, int | float) else type(value).__name__
