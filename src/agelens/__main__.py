"""The command line as a program: ``agelens`` and ``python -m agelens``."""

from __future__ import annotations

import importlib
import os
import signal
import sys

__all__ = ["QUICK", "main"]

QUICK = {"predict": "predict", "models": "predict", "video": "video", "serve": "serve"}
"""Commands for which no other command is loaded: name and module in ``agelens.apps.commands``."""


def main() -> None:
    """Run the command line; an interrupt while it is loaded ends it at once, without a traceback."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
            signal.signal(number, _stop)
    if len(sys.argv) > 1 and (module := QUICK.get(sys.argv[1])):
        importlib.import_module(f"agelens.apps.commands.{module}")
        from agelens.apps.command import run
    else:
        from agelens.apps.cli import main as run
    run()


def _stop(*_: object) -> None:
    os.write(2, b"interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    main()
