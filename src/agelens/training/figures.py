"""Figures of an epoch, summed without waiting for the device at every step."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["NotFiniteError", "StepFigures"]

_SECONDS = 0.5  # between two looks at what a device has computed


class NotFiniteError(Exception):
    """A step's loss is infinite or no number.

    Attributes:
        step: Of the epoch, from 0.
        parts: Its figures by name.
    """

    def __init__(self, step: int, parts: Mapping[str, float]) -> None:
        super().__init__(step, parts)
        self.step, self.parts = step, parts


class StepFigures:
    """Sums of the figures of steps, by name.

    Figures of the CPU are added at once. Those of another device stay there until :meth:`read`, in one copy.

    Args:
        device: Of the figures.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums: dict[str, float] = {}
        self._at_once = device.type == "cpu"
        self._waiting: list[tuple[int, tuple[str, ...], Tensor]] = []
        self._last_read = time.monotonic()

    def add(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Add figures of a step, each ().

        Raises:
            NotFiniteError: ``loss`` is among them and not finite; for a device, :meth:`read` raises it.
        """
        if self._at_once:
            self._sum(step, {name: float(value.detach()) for name, value in values.items()})
        elif values:
            stacked = torch.stack([value.detach().float() for value in values.values()])
            self._waiting.append((step, tuple(values), stacked))

    @property
    def due(self) -> bool:
        """Whether it is time to look at the sums again."""
        return self._at_once or time.monotonic() - self._last_read >= _SECONDS

    def read(self) -> dict[str, float]:
        """Add what waits on the device, and give the sums.

        Raises:
            NotFiniteError: A loss is not finite; the first such step.
        """
        if self._waiting:
            numbers = iter(torch.cat([stacked for _, _, stacked in self._waiting]).cpu().tolist())
            for step, names, _ in self._waiting:
                self._sum(step, {name: next(numbers) for name in names})
            self._waiting.clear()
        self._last_read = time.monotonic()
        return self.sums

    def _sum(self, step: int, values: Mapping[str, float]) -> None:
        if not math.isfinite(values.get("loss", 0.0)):
            raise NotFiniteError(step, values)
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
