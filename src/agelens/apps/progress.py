"""Progress on stderr: a bar in a terminal, nothing elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["progress_bar"]


@contextlib.contextmanager
def progress_bar(unit: str, description: str = "") -> Iterator[Callable[[int, int | None], None]]:
    """Yield ``report(done, total)``; it draws a bar if stderr is a terminal, and nothing otherwise.

    Args:
        unit: Name of what is counted, ``photos``; how many of them a second stands beside the bar.
        description: Stands before the bar; empty: the unit.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(escape(description or unit), total=None, speed="")
        first: tuple[int, float] | None = None

        def report(done: int, total: int | None) -> None:
            nonlocal first
            now = time.monotonic()
            begun, since = first = first or (done, now)
            rate = (done - begun) / max(now - since, 1e-6)
            bars.update(task, completed=done, total=total, speed=f"{rate:.1f} {unit}/s")

        yield report
