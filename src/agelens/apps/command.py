"""The application of the command line, and parts of every command: failures, output files, text tables."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, TextIO

import typer

from agelens import __version__
from agelens.apps.quick import plain_arguments
from agelens.errors import AgelensError, MissingExtraError, OutputError
from agelens.files import write_atomically
from agelens.rehearsal import NOTICE, rehearsing

__all__ = ["app", "command", "fail", "output", "print_table", "run"]

# Control characters of file names, which a terminal would obey.
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(10), *range(11, 32), *range(127, 160))}

# What starts worker processes: module and function.
_STARTS = (("concurrent.futures.process", "submit"), ("multiprocessing.process", "start"))

# Seconds until a signal that came at a bad moment is sent again.
_AGAIN = 0.01

app = typer.Typer(
    name="agelens",
    help="Facial age estimation: train and refine an estimator, prove how good it is, ship it small.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"agelens {__version__}")
        raise typer.Exit


def run() -> None:
    """Run the command line, with the commands that are registered."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")  # file names need not be valid text
    if (call := _plain_call(sys.argv[1:])) is None:
        app()
        return
    try:
        call()
    except typer.Exit as left:
        sys.exit(left.exit_code)
    except BrokenPipeError:  # the reader of stderr has left
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.exit(1)


def _plain_call(words: list[str]) -> Callable[[], None] | None:
    """The call of a command that plain words ask for; None if the command line's library must read them."""
    if not words or any(name.endswith("AGELENS_COMPLETE") for name in os.environ):
        return None
    for registered in app.registered_commands:
        function = registered.callback
        if function is not None and function.__name__.replace("_", "-") == words[0]:
            arguments = plain_arguments(function, words[1:])
            return None if arguments is None else functools.partial(function, **arguments)
    return None


def command(
    interrupted: str, extra: str | None = None, *, sigterm: bool = True
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command whose failures end in one line on stderr.

    Args:
        interrupted: State of the files after Ctrl-C, for the message.
        extra: The extra that installs the packages it imports.
        sigterm: Whether SIGTERM interrupts it as Ctrl-C does; a server has handlers of its own, and keeps
            the system's default outside of them.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> None:
            try:
                with _interruptible(sigterm):
                    if rehearsing():
                        typer.echo(NOTICE, err=True)
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


@contextlib.contextmanager
def _interruptible(sigterm: bool) -> Iterator[None]:
    """Let Ctrl-C, and SIGTERM if wished, raise KeyboardInterrupt in the block; ignored signals stay so."""
    previous = {}
    if threading.current_thread() is threading.main_thread():
        wanted = {
            signal.SIGINT: _interrupt,
            signal.SIGTERM: _interrupt if sigterm else signal.SIG_DFL,
        }
        for number, new in wanted.items():
            if (handler := signal.getsignal(number)) not in (signal.SIG_IGN, None):
                previous[number] = handler
                signal.signal(number, new)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt; while a module is being loaded or a process started, as soon as it is.

    An extension module that is interrupted on its way in tells so by an ImportError, and stays half-loaded;
    a worker process whose start is interrupted prints a traceback, or waits for work for ever. Looked at are
    the frames of all that the command calls.
    """
    own = _interrupt.__code__  # a second signal may come while the first one is waited with
    while frame is not None and (frame.f_code.co_filename != __file__ or frame.f_code is own):
        starting = (frame.f_globals.get("__name__"), frame.f_code.co_name) in _STARTS
        if starting or frame.f_code.co_filename.startswith("<frozen importlib"):
            again = threading.Timer(_AGAIN, _send, (number,))
            again.daemon = True
            again.start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def _send(number: int) -> None:
    if sys.platform == "win32":
        signal.raise_signal(number)
    else:
        signal.pthread_kill(threading.main_thread().ident or 0, number)


def fail(message: str, code: int) -> None:
    """Print a line on stderr and exit with a code."""
    typer.echo(message.translate(_ESCAPES), err=True)
    raise typer.Exit(code)


@contextlib.contextmanager
def output(out: Path | None) -> Iterator[TextIO]:
    """Yield stdout (None or ``-``), or a file that is renamed into place when it is complete."""
    if out is not None and out != Path("-"):
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
