"""Figures of steps: the same sums whether they are read at once or later, and the first bad step named."""

from __future__ import annotations

import pytest
import torch

from agelens.training.figures import NotFiniteError, StepFigures


def test_sums_of_a_device_are_those_of_the_cpu() -> None:
    here, there = StepFigures(torch.device("cpu")), StepFigures(torch.device("meta"))
    for step in range(3):
        for figures in (here, there):  # what waits is added when it is read, wherever it is
            figures.add(step, {"loss": torch.tensor(step + 0.25), "own": torch.tensor(2.0)})
            figures.add(step, {"train MAE": torch.tensor(5.5)})
    assert here.due
    assert here.sums == {"loss": 3.75, "own": 6.0, "train MAE": 16.5}
    assert there.sums == {}
    assert there.read() == there.read() == here.read()


def test_a_loss_that_is_no_number_is_of_the_step_that_had_it() -> None:
    losses = [1.0, 2.0, float("nan"), float("inf")]
    here, there = StepFigures(torch.device("cpu")), StepFigures(torch.device("meta"))
    for step, loss in enumerate(losses):
        there.add(step, {"loss": torch.tensor(loss), "ldl": torch.tensor(7.0)})
    with pytest.raises(NotFiniteError) as told:
        there.read()
    assert (told.value.step, told.value.parts["ldl"]) == (2, 7.0)
    here.add(0, {"loss": torch.tensor(1.0)})
    with pytest.raises(NotFiniteError) as told:
        here.add(1, {"loss": torch.tensor(float("inf"))})
    assert told.value.step == 1
