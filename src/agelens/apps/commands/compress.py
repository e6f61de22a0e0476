"""agelens quantise."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from agelens.apps.command import command, print_table

__all__ = ["Form", "quantise"]


class Form(StrEnum):
    """Smaller forms of a model file."""

    INT8 = "int8"
    FLOAT16 = "float16"


@command("nothing was written", extra="train")
def quantise(
    model: Annotated[Path, typer.Argument(help="Model file (.onnx), its weights in 32 or 16 bits.")],
    data: Annotated[Path, typer.Option(help="Manifest of aligned crops; its train rows set the ranges.")],
    out: Annotated[Path, typer.Option(help="Model file to write (.onnx).")],
    form: Annotated[Form, typer.Option("--to", help="8-bit weights and activations, or 16-bit weights.")] = (
        Form.INT8
    ),
    images: Annotated[int, typer.Option(help="Training crops that activations are measured on.")] = 256,
    split: Annotated[str, typer.Option(help="Rows that both files are judged on.")] = "val",
    reduce_range: Annotated[
        bool, typer.Option("--reduce-range", help="7-bit weights, for x86 processors without VNNI.")
    ] = False,
) -> None:
    """Write a smaller form of a model file; prints sizes and errors before and after."""
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
