"""Training with ``torch.compile``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from agelens.errors import RecipeError

__all__ = ["compiled"]


def compiled(network: nn.Module, recipe: str) -> Callable[[Tensor], Any]:
    """Compile the forward and backward pass of a network, at its first call with each size of batch.

    Args:
        network: With all that wraps it; its weights stay its own, and calls of the network itself are not
            compiled.
        recipe: Name, for the message.
    Returns:
        Runs the network. It raises RecipeError if this machine cannot compile (no C++ compiler) or PyTorch
        cannot compile this network.
    """
    faster = torch.compile(network, dynamic=False)

    def run(images: Tensor) -> Any:
        try:
            return faster(images)
        except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            told = next((line for line in lines if "Error" in line or "not found" in line), lines[0])
            raise RecipeError(
                recipe, "train.compile", f"torch.compile failed: {told[:300]}; false trains without", True
            ) from error

    return run
