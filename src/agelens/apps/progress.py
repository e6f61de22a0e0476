"""Progress on stderr: a bar in a terminal, plain lines where there is none."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

__all__ = ["TrainingProgress", "progress_bar"]


@contextlib.contextmanager
def progress_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """Yield ``report(done, total)``; it draws a bar if stderr is a terminal, else nothing."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(description, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


class TrainingProgress:
    """A training run as a bar for each stage, and a line for each epoch; see `agelens.methods.fit.Reporter`.

    Use it as a context manager.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        text = TextColumn("{task.description} {task.fields[figures]}")
        self._bars = Progress(
            text, BarColumn(), console=self._console, transient=True, disable=not self._console.is_terminal
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> TrainingProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def loading(self, done: int, total: int) -> None:
        """Show how many crops are decoded."""
        self._update("crops", done / max(total, 1), f"{done} of {total}")

    def step(self, stage: str, epoch: int, epochs: int, share: float, figures: Mapping[str, float]) -> None:
        """Show the running figures of an epoch and the time that is left for the stage."""
        left = round(figures["eta"])
        text = f"epoch {epoch}/{epochs}  loss {figures['loss']:.3f}  MAE {figures['MAE']:.2f}  "
        self._update(stage, (epoch - 1 + share) / epochs, text + f"{left // 60}:{left % 60:02} left")

    def epoch(self, stage: str, epoch: int, epochs: int, row: Mapping[str, Any]) -> None:
        """Print the figures of a finished epoch."""
        figures = "  ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in row.items()
            if name != "epoch" and value is not None
        )
        self._console.print(f"{stage}  epoch {epoch}/{epochs}  {figures}", soft_wrap=True)

    def _update(self, name: str, share: float, figures: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=1.0, figures="")
        self._bars.update(self._tasks[name], completed=share, figures=figures)
