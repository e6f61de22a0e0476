"""The connection to a cluster of Ray."""

from __future__ import annotations

import socket
from typing import Any

from agelens.cores import usable_cores
from agelens.errors import InputError, MissingExtraError

__all__ = ["connected"]

_SECONDS = 10.0  # that an address may take to answer


def connected(address: str | None) -> Any:
    """Give the module of Ray, connected to a cluster.

    Args:
        address: ``HOST:PORT`` or ``auto``; None begins a cluster of this machine's usable cores, which
            ``ray.shutdown()`` ends.
    Raises:
        InputError: The address does not answer.
        MissingExtraError: Ray is missing.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "ray", "fleet") from error
    if address is not None and address != "auto":
        host, colon, port = address.removeprefix("ray://").rpartition(":")
        if not colon or not port.isdigit():
            raise InputError(f"--ray-address {address}: HOST:PORT or auto")
        try:
            socket.create_connection((host, int(port)), timeout=_SECONDS).close()
        except OSError as error:
            raise InputError(f"--ray-address {address}: no answer: {error.strerror or error}") from error
    options = {} if address is not None else {"include_dashboard": False, "num_cpus": usable_cores()}
    try:
        ray.init(address=address, logging_level="ERROR", log_to_driver=False, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        told = str(error).strip().splitlines()
        raise InputError(f"--ray-address {address}: no answer: {told[0] if told else 'none'}") from error
    return ray
