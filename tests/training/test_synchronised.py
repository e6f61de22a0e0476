"""Synchronised batch norms: two processes see what one sees."""

from __future__ import annotations

import threading
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from agelens.errors import RecipeError
from agelens.training import synchronised
from agelens.training.recipe import Recipe
from agelens.training.synchronised import synchronise


class _Sums:
    """Sums over threads that stand in for processes."""

    def __init__(self, count: int) -> None:
        self._barrier = threading.Barrier(count, timeout=60)
        self._parts: dict[int, Tensor] = {}

    def __call__(self, values: Tensor) -> Tensor:
        self._parts[threading.get_ident()] = values
        self._barrier.wait()
        total = torch.stack([self._parts[key] for key in sorted(self._parts)]).sum(0)
        self._barrier.wait()
        return total


def _in_threads(work: Callable[[int], None], count: int) -> None:
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def _network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6)]
    return nn.Sequential(*layers, nn.Flatten(), nn.BatchNorm1d(6 * 64), nn.Linear(6 * 64, 1)).double()


@pytest.mark.parametrize("shares", [(5, 5), (3, 7)])
def test_parts_of_a_batch_have_statistics_and_gradients_of_the_whole(
    shares: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, images = _network().float(), 2 + 3 * torch.randn(10, 3, 12, 12)
    parts = [deepcopy(whole) for _ in shares]
    alone = whole(images).square().sum()
    alone.backward()
    monkeypatch.setattr(synchronised, "_summed", _Sums(len(shares)))
    losses: dict[int, Tensor] = {}

    def work(number: int) -> None:
        synchronise(parts[number], "test")
        losses[number] = parts[number](images.split(shares)[number]).square().sum()
        losses[number].backward()

    _in_threads(work, len(shares))
    torch.testing.assert_close(losses[0] + losses[1], alone, rtol=1e-4, atol=1e-4)
    for name, parameter in whole.named_parameters():
        both = sum(dict(part.named_parameters())[name].grad for part in parts)
        torch.testing.assert_close(both, parameter.grad, rtol=1e-3, atol=1e-3)
    for part in parts:
        assert part.state_dict().keys() == whole.state_dict().keys()
        for name, buffer in whole.named_buffers():
            torch.testing.assert_close(dict(part.named_buffers())[name], buffer, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(part.eval()(images), whole.eval()(images), rtol=1e-3, atol=1e-3)


def test_the_gradient_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    norm = nn.BatchNorm2d(3, momentum=None)
    plain = deepcopy(norm)
    synchronise(norm, "test")
    images = torch.randn(4, 3, 5, 5, requires_grad=True)
    same = images.detach().clone().requires_grad_()
    weights = torch.randn(4, 3, 5, 5)
    for _ in range(2):
        (norm(images) * weights).sum().backward()
        (plain(same) * weights).sum().backward()
    torch.testing.assert_close(images.grad, same.grad, rtol=1e-4, atol=1e-5)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(norm.state_dict()[name], value)
    half = norm(images.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16


def test_norms_of_timm_keep_their_activation_and_unknown_ones_are_refused() -> None:
    from timm.layers import BatchNormAct2d

    plain = BatchNormAct2d(4)
    norm = deepcopy(plain)
    synchronise(norm, "test")
    images = torch.randn(3, 4, 5, 5)
    torch.testing.assert_close(norm(images), plain(images), rtol=1e-4, atol=1e-5)
    assert norm(images).min() == 0

    class Own(nn.BatchNorm2d):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) + 1

    with pytest.raises(RecipeError, match="0 is a Own, no plain batch norm"):
        synchronise(nn.Sequential(Own(3)), "test")
    table = {"name": "x", "method": {"name": "lrn"}, "train": {"sync_batch_norm": True, "ghost_batch": 8}}
    with pytest.raises(RecipeError, match="ghost_batch"):
        Recipe.validate(table, "x")
