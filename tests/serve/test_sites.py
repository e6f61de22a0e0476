"""Names and sites: who may call, from the page of whom, and with which token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the service needs the extra serve")

from agelens.errors import InputError
from agelens.serve.settings import ServeSettings

TOKEN = "a-token-that-is-long-enough"


def refused(response: Any, status: int, kind: str) -> dict[str, Any]:
    """Check that a response is a whole problem document, and return it."""
    document: dict[str, Any] = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.status_code, document["type"]) == (status, f"urn:agelens:problem:{kind}"), document
    assert document["request_id"] == response.headers["x-request-id"]
    return document


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8000",
        "localhost.",
        "127.0.0.1:80",
        "[::1]:8000",
        "192.168.0.7",
        "Ages.Example.org:443",
    ],
)
def test_named_hosts_and_addresses_are_answered(make_service: Callable[..., Any], host: str) -> None:
    service = make_service(hosts=("localhost", "ages.example.org"))
    assert service.get("/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.x.org"]
)
def test_a_name_that_was_made_to_point_here_is_refused(make_service: Callable[..., Any], host: str) -> None:
    """DNS rebinding: the browser believes that page and service are of one site."""
    service = make_service()
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/estimate"), ("GET", "/openapi.json")):
        assert (
            "--allow-host"
            in refused(service.request(method, path, headers={"Host": host}), 421, "wrong-host")["detail"]
        )
    assert service.get("/healthz", headers={"Host": host}).status_code == 200  # for balancers
    assert make_service(hosts=("*",)).get("/v1/models", headers={"Host": host}).status_code == 200


def test_requests_of_other_sites_are_refused(make_service: Callable[..., Any]) -> None:
    service = make_service()
    foreign = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
    form = {"images": ("x.png", b"x")}
    refused(service.post("/v1/estimate", files=form, headers=foreign), 403, "other-site")
    navigated = foreign | {"Sec-Fetch-Mode": "navigate"}  # a form that is sent
    refused(service.post("/v1/estimate", files=form, headers=navigated), 403, "other-site")
    refused(service.get("/v1/models", headers=foreign | {"Sec-Fetch-Mode": "no-cors"}), 403, "other-site")
    assert service.get("/healthz", headers=navigated).status_code == 200  # a link that is followed
    for site in ("same-origin", "none"):
        assert service.get("/v1/models", headers={"Sec-Fetch-Site": site}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "http://192.168.0.8:8000", "null"])
def test_other_sites_are_known_by_their_origin_where_the_browser_gives_no_mark(
    make_service: Callable[..., Any], origin: str
) -> None:
    """Over plain HTTP to another machine no browser sends ``Sec-Fetch-Site``."""
    service = make_service()
    shown = {"Host": "192.168.0.7:8000", "Origin": origin}
    refused(service.post("/v1/estimate", files={"images": ("x.png", b"x")}, headers=shown), 403, "other-site")
    refused(service.get("/v1/models", headers=shown), 403, "other-site")
    named = "*" if origin == "null" else origin
    assert make_service(origins=(named,)).get("/v1/models", headers=shown).status_code == 200
    assert service.get("/v1/models", headers=shown | {"Sec-Fetch-Site": "same-origin"}).status_code == 200


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("192.168.0.7:8000", "http://192.168.0.7:8000"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("LOCALHOST", "http://localhost"),
        ("localhost", "https://localhost:8443"),  # a proxy that leaves out the port
    ],
)
def test_the_services_own_page_may_call(make_service: Callable[..., Any], host: str, origin: str) -> None:
    shown = {"Host": host, "Origin": origin}
    assert make_service().get("/v1/models", headers=shown).status_code == 200


def test_named_sites_may_call(make_service: Callable[..., Any]) -> None:
    foreign = {"Sec-Fetch-Site": "cross-site", "Origin": "https://example.org"}
    for origin in ("https://example.org", "*"):
        service = make_service(origins=(origin,))
        assert service.get("/v1/models", headers=foreign).status_code == 200
    other = foreign | {"Origin": "https://other.example"}
    refused(
        make_service(origins=("https://example.org",)).get("/v1/models", headers=other), 403, "other-site"
    )


def test_refused_preflights_are_problem_documents(make_service: Callable[..., Any]) -> None:
    service = make_service(origins=("https://example.org",))
    wish = {"Access-Control-Request-Method": "POST"}
    assert (
        service.options("/v1/estimate", headers=wish | {"Origin": "https://example.org"}).status_code == 200
    )
    answer = service.options("/v1/estimate", headers=wish | {"Origin": "https://evil.example"})
    assert "origin" in refused(answer, 403, "other-site")["detail"]
    odd = {"Origin": "https://example.org", "Access-Control-Request-Method": "PUT"}
    assert "method" in refused(service.options("/v1/estimate", headers=odd), 403, "other-site")["detail"]


@pytest.mark.parametrize(
    ("shown", "status"),
    [
        *((f"Bearer {TOKEN}", 200), (f"Bearer  {TOKEN}", 200), (f"bearer {TOKEN} ", 200)),
        *((f"Bearer{TOKEN}", 401), (f"Bearer {TOKEN} {TOKEN}", 401), (TOKEN, 401), ("Bearer", 401)),
    ],
)
def test_both_doors_read_the_token_alike(make_service: Callable[..., Any], shown: str, status: int) -> None:
    service = make_service(token=TOKEN)
    for path in ("/v1/models", "/page/models/small.onnx"):
        assert service.get(path, headers={"Authorization": shown}).status_code == status


@pytest.mark.parametrize("host", ["", "a b", "https://example.org", "example.org:8000", "-x"])
def test_names_that_cannot_be_hosts(host: str) -> None:
    with pytest.raises(InputError, match="a name is like"):
        ServeSettings(hosts=(host,))
