"""agelens serve."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated

import typer

from agelens.apps.command import command
from agelens.errors import InputError
from agelens.faces.default_detector import DEFAULT_DETECTOR
from agelens.reading import read_text, reason

__all__ = ["read_token", "serve"]

_PAGE = Path(__file__).parents[2] / "serve" / "page"
_LOOPBACK = ("127.", "::1", "localhost")


@command("the service has stopped", extra="serve", sigterm=False)
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for other machines.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 selects a free port.")] = 8000,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Shipped model or model file to offer; repeat for several, the default first."),
    ] = None,
    detector: Annotated[
        str, typer.Option(help="yunet-onet, mtcnn, yunet, haar, none, or one of a plug-in.")
    ] = DEFAULT_DETECTOR,
    detector_model: Annotated[Path | None, typer.Option(help="Another network file for yunet.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Computing threads. [default: one per core]")
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Maximum number of crops in one batch of the age network.")
    ] = 32,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the bearer token that callers must send; or AGELENS_TOKEN.")
    ] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option(help="Origin of another site whose pages may call; may be repeated; * for all."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Name of the service, beside addresses and localhost; may be repeated; * for all."),
    ] = None,
    page: Annotated[bool, typer.Option(help="Show the page at /.")] = True,
    max_body: Annotated[float, typer.Option(help="Maximum size of a request body, in MB.")] = 16,
    max_pixels: Annotated[int, typer.Option(help="Larger images are refused before decoding.")] = 50_000_000,
    max_images: Annotated[int, typer.Option(help="Maximum number of images per call.")] = 16,
    max_faces: Annotated[
        int, typer.Option(help="Maximum number of faces per image, the largest first.")
    ] = 100,
    max_requests: Annotated[int, typer.Option(help="Maximum number of concurrent calls.")] = 128,
    max_connections: Annotated[int, typer.Option(help="Maximum number of open connections.")] = 512,
    queue: Annotated[int, typer.Option(help="Maximum number of waiting images; further ones get 503.")] = 256,
    timeout: Annotated[float, typer.Option(help="Seconds from the upload's end to the answer.")] = 30,
    upload_timeout: Annotated[float, typer.Option(help="Seconds for a whole upload.")] = 60,
    silence: Annotated[float, typer.Option(help="Maximum pause of a sender, in seconds.")] = 10,
) -> None:
    """Serve estimates over HTTP, with a page to try them.

    Logs are JSON lines on stderr, without image content. Ctrl-C or SIGTERM completes accepted calls first.
    """
    from agelens.serve.settings import Limits, ServeSettings

    if not math.isfinite(max_body):
        raise InputError(f"--max-body is a number of MB, not {max_body}")
    limits = Limits(
        body_bytes=int(max_body * 1e6),
        pixels=max_pixels,
        images=max_images,
        faces=max_faces,
        seconds=timeout,
        upload_seconds=upload_timeout,
        silent_seconds=silence,
        requests=max_requests,
        connections=max_connections,
        queue=queue,
    )
    settings = ServeSettings(
        models=tuple(model or ()),
        detector=detector,
        detector_model=None if detector_model is None else str(detector_model),
        workers=workers or _cores(),
        batch_size=batch_size,
        token=read_token(token_file),
        origins=tuple(cors or ()),
        hosts=("localhost", *_named(host), *(allow_host or ())),
        limits=limits,
    )
    from agelens.serve.app import create_app
    from agelens.serve.logs import json_logs
    from agelens.serve.server import listen, run

    app = create_app(settings, _PAGE if page and _PAGE.is_dir() else None)
    on = listen(host, port)
    if settings.token is None and not host.startswith(_LOOPBACK):
        typer.echo("warning: anyone who reaches this address may call; set a token (--token-file)", err=True)
    with json_logs():
        run(app, on, limits, lambda url: typer.echo(f"agelens serves {url}"))


def _named(host: str) -> tuple[str, ...]:
    """The host to listen on, if it is a name."""
    return () if ":" in host or host.replace(".", "").isdecimal() else (host,)


def _cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read_token(file: Path | None) -> str | None:
    """Read the token from a file or the environment, never from an option that every user can see."""
    if file is None:
        return os.environ.get("AGELENS_TOKEN") or None
    try:
        return read_text(file).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot read the token: {reason(error)}") from error
