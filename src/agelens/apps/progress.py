"""Progress on stderr: a bar in a terminal, nothing elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["frame_progress", "progress_bar"]


@contextlib.contextmanager
def progress_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """Yield ``report(done, total)``; it draws a bar if stderr is a terminal, and nothing otherwise."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(description, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


@contextlib.contextmanager
def frame_progress(description: str) -> Iterator[Callable[[int, int | None], None]]:
    """Yield ``report(done, total)``, as `progress_bar` does, with frames a second beside the bar."""
    console = Console(stderr=True)
    speed = TextColumn("{task.fields[speed]} frames/s")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        speed,
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(escape(description), total=None, speed="")
        started = time.monotonic()

        def report(done: int, total: int | None) -> None:
            rate = done / max(time.monotonic() - started, 1e-6)
            bars.update(task, completed=done, total=total, speed=f"{rate:.1f}")

        yield report
