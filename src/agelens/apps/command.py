"""The application of the command line, and parts of every command: failures, output files, text tables."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

import typer

from agelens.errors import AgelensError, MissingExtraError, OutputError
from agelens.files import write_atomically

__all__ = ["app", "command", "fail", "output", "print_table"]

app = typer.Typer(
    name="agelens",
    help="Facial age estimation: train and refine an estimator, prove how good it is, ship it small.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def command(
    interrupted: str, extra: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command whose failures end in one line on stderr.

    Args:
        interrupted: State of the files after Ctrl-C, for the message.
        extra: The extra that installs the packages it imports.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> None:
            try:
                try:
                    function(*args, **kwargs)
                except ModuleNotFoundError as error:
                    if extra is None or error.name is None or error.name.partition(".")[0] == "agelens":
                        raise
                    raise MissingExtraError(error.name, extra) from error
            except AgelensError as error:
                fail(f"error: {error}", 2)
            except KeyboardInterrupt:
                fail("interrupted" + (f"; {interrupted}" if interrupted else ""), 130)

        return app.command()(run)

    return register


def fail(message: str, code: int) -> None:
    """Print a line on stderr and exit with a code."""
    typer.echo(message, err=True)
    raise typer.Exit(code)


@contextlib.contextmanager
def output(out: Path | None) -> Iterator[TextIO]:
    """Yield stdout, or a file that is renamed into place when it is complete."""
    if out is not None:
        with (
            write_atomically(out) as temporary,
            open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as handle,
        ):
            yield handle
        return
    try:
        yield sys.stdout
        sys.stdout.flush()
    except OSError as error:
        # The rest of the buffer must not fail again when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader has left: no message
            raise typer.Exit(1) from error
        raise OutputError("stdout", f"cannot write: {error.strerror}") from error


def print_table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]], out: TextIO | None = None) -> None:
    """Print columns of text, each as wide as its longest cell."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip(), file=out or sys.stdout)
