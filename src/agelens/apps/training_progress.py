"""Training progress on stderr: a bar in a terminal, and a line per epoch everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

__all__ = ["RichReporter"]


class RichReporter:
    """Reporter of `agelens.training.fit`: current figures and remaining time of each stage.

    A context manager. Each finished epoch is a line; the bar is drawn in a terminal only.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[figures]}  {task.fields[left]} left"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("", total=1.0, figures="", left="?")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def note(self, message: str) -> None:
        """Print a message."""
        self.console.print(message, highlight=False, soft_wrap=True)

    def step(self, stage: str, epoch: int, epochs: int, share: float, figures: Mapping[str, float]) -> None:
        """Update the bar."""
        minutes, seconds = divmod(int(figures["eta"]), 60)
        self._bar.update(
            self._task,
            description=f"{stage} epoch {epoch}/{epochs}",
            completed=(epoch - 1 + share) / epochs,
            figures=_line({name: value for name, value in figures.items() if name != "eta"}),
            left=f"{minutes}:{seconds:02d}",
        )

    def epoch(self, stage: str, epoch: int, epochs: int, row: Mapping[str, Any]) -> None:
        """Print the figures of a finished epoch."""
        shown = {
            name: value
            for name, value in row.items()
            if name == "loss" or (name.startswith(("train ", "val ")) and "(" not in name)
        }  # the groups' figures are in log.csv
        self.console.print(
            f"{stage} epoch {epoch}/{epochs}  {_line(shown)}  {row['images/s']:.0f} images/s",
            highlight=False,
            soft_wrap=True,
        )


def _line(figures: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
