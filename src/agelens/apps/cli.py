"""The command line: it parses and prints; other rooms compute.

Exit codes: 0 success, 1 some images could not be used, 2 the command cannot be carried out, 130 interrupted.
"""

from __future__ import annotations

from agelens.apps.command import app, run
from agelens.apps.commands import (
    calibrate,
    compare,
    compress,
    data,
    ensemble,
    evaluate,
    explain,
    leaderboard,
    predict,
    robustness,
    serve,
    sweep,
    train,
    video,
)

__all__ = ["COMMANDS", "ORDER", "app", "main"]

COMMANDS = (
    *(calibrate, compare, compress, data, ensemble, evaluate, explain, leaderboard),
    *(predict, robustness, serve, sweep, train, video),
)
"""The modules of the commands: importing one registers its commands."""

ORDER = (
    *("predict", "video", "serve", "models"),
    *("datasets", "audit", "prepare", "protocols", "split"),
    *("train", "generations", "export", "calibrate", "quantise", "ensemble"),
    *("evaluate", "compare", "robustness", "published", "explain", "gallery", "video-report"),
    *("sweep", "leaderboard", "ladder", "tradeoff", "verify"),
)
"""The commands as ``--help`` lists them; any other follows."""


def _place(name: str) -> int:
    return ORDER.index(name) if name in ORDER else len(ORDER)


app.registered_commands.sort(
    key=lambda registered: _place(getattr(registered.callback, "__name__", "").replace("_", "-"))
)


def main() -> None:
    """Run the command line."""
    run()


if __name__ == "__main__":
    main()
