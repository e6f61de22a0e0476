"""agelens robustness."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from agelens.apps.command import command, print_table

__all__ = ["robustness"]


@command("what was written is whole", extra="report")
def robustness(
    model: Annotated[str, typer.Argument(help="Model file (.onnx), or the name of a shipped model.")],
    data: Annotated[Path, typer.Option(help="Manifest of aligned crops with ages or bands.")],
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "test",
    conditions: Annotated[
        str | None,
        typer.Option(
            help="Some of grey, dark, bright, faded, blurred, small, compressed, noisy, turned, large, "
            "glasses, sunglasses, masked, half; with commas. [all]"
        ),
    ] = None,
    level: Annotated[float, typer.Option(min=0.01, max=0.99, help="Coverage of the intervals.")] = 0.9,
    examples: Annotated[
        Path | None, typer.Option(help="Folder for the first face under each condition, to look at.")
    ] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    threads: Annotated[int, typer.Option(help="Threads of the network.")] = 1,
) -> None:
    """Measure a model on the same faces in other light, quality and alignment, or partly covered.

    The change is that of the mean error against the faces as they are, paired, with its 95 % bootstrap
    interval. Glasses and masks are drawn, so real ones may do more or less.
    """
    from agelens.apps.progress import progress_bar
    from agelens.evaluation.conditions import CONDITIONS
    from agelens.evaluation.robustness import robustness as judge
    from agelens.evaluation.robustness import write_examples
    from agelens.files import write_atomically

    asked = list(CONDITIONS) if conditions is None else [name.strip() for name in conditions.split(",")]
    part = None if split == "all" else split
    with progress_bar("images") as show:
        results = judge(
            model, data, split=part, conditions=asked, level=level, threads=threads, progress=show
        )
    header = (
        *("condition", "error, years", "change", "bias"),
        *(f"coverage({100 * level:.0f}%)", "width, years"),
    )
    rows = []
    for result in results:
        error, change = result.error, result.change
        rows.append(
            (
                result.condition,
                f"{error.value:.2f} [{error.low:.2f}, {error.high:.2f}]",
                "" if change is None else f"{change.difference:+.2f} [{change.low:+.2f}, {change.high:+.2f}]",
                f"{result.bias:+.2f}",
                f"{100 * result.coverage:.1f} %",
                f"{result.width:.1f}",
            )
        )
    typer.echo(f"{model} on {data}, split {split}: {results[0].images} images")
    print_table(header, rows)
    if json_ is not None:
        about = {"model": model, "data": str(data), "split": split, "level": level}
        with write_atomically(json_) as temporary:
            text = json.dumps({**about, "conditions": [result.to_dict() for result in results]}, indent=2)
            temporary.write_text(text + "\n", encoding="utf-8")
    if examples is not None:
        write_examples(data, examples, split=part, conditions=asked)
