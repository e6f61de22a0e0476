"""agelens quantise."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from agelens.apps.command import command, print_table

__all__ = ["Form", "quantise"]


class Form(StrEnum):
    """Storage formats of a smaller model file."""

    INT8 = "int8"
    FLOAT16 = "float16"


@command("nothing was written", extra="train")
def quantise(
    model: Annotated[Path, typer.Argument(help="Model file (.onnx), its weights in 32 or 16 bits.")],
    data: Annotated[
        Path,
        typer.Option(help="Manifest of aligned crops; activation ranges are measured on its train rows."),
    ],
    out: Annotated[Path, typer.Option(help="Model file to write (.onnx).")],
    form: Annotated[Form, typer.Option("--to", help="8-bit weights and activations, or 16-bit weights.")] = (
        Form.INT8
    ),
    images: Annotated[int, typer.Option(help="Number of training crops for the activation ranges.")] = 256,
    split: Annotated[str, typer.Option(help="Rows that both files are evaluated on.")] = "val",
    reduce_range: Annotated[
        bool, typer.Option("--reduce-range", help="7-bit weights, for x86 processors without VNNI.")
    ] = False,
) -> None:
    """Write a smaller model file; print size and error before and after."""
    from agelens.export.quantise import compress

    done = compress(model, data, out, form=form.value, images=images, split=split, reduce_range=reduce_range)
    rows = [
        (str(model), f"{done.bytes_before / 2**20:.3f}", f"{done.mae_before:.4f}", ""),
        (
            str(out),
            f"{done.bytes_after / 2**20:.3f}",
            f"{done.mae_after:.4f}",
            f"{done.mae_after / done.mae_before - 1:+.2%}",
        ),
    ]
    print_table(("file", "MB (2^20)", f"MAE on {split}", "change"), rows)
    typer.echo(f"largest change of one estimate: {done.largest_change:.2f} years, {done.images} images")
