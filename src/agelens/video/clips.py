"""Clips to rows and files: the people of each, its frames, an annotated copy and a timeline."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TextIO

from agelens.errors import VideoError
from agelens.files import write_atomically
from agelens.inference.estimator import AgeEstimator
from agelens.inference.pictures import file_stem
from agelens.inference.writers import visible
from agelens.video.annotated import AnnotatedClip
from agelens.video.estimate import People
from agelens.video.person import FrameAges
from agelens.video.reader import VideoReader
from agelens.video.rows import FRAME_COLUMNS, Clip, RowFormat, frame_rows
from agelens.video.timeline import Timeline

__all__ = ["ClipTask"]

Report = Callable[[int, int | None], None]


@dataclass(frozen=True)
class ClipTask:
    """Settings of what is made of every clip.

    Attributes:
        estimator: The estimator.
        every: Only every such frame is looked at.
        seconds: A clip is left after this time; None: at its end.
        level: Coverage of the intervals.
        threshold: Age in years of ``p_at_least``.
        out: Folder for the files; None: none is written.
        frames: Format of a file of frames, ``csv`` or ``jsonl``; None: none is written.
        show: Called with the rows of each frame (`agelens.video.rows.frame_rows`) as soon as it is estimated.
        annotate: Write a copy with boxes and ages.
        timeline: Write a drawing of the ages over time.
    """

    estimator: AgeEstimator
    every: int = 1
    seconds: float | None = None
    level: float = 0.9
    threshold: float = 18
    out: Path | None = None
    frames: str | None = None
    show: Callable[[list[dict[str, object]]], object] | None = None
    annotate: bool = False
    timeline: bool = False

    def run(self, source: str | Path | IO[bytes], report: Report = lambda done, total: None) -> Clip:
        """Estimate one clip and write its files, each whole or not at all.

        Args:
            source: As in `agelens.video.reader.VideoReader`.
            report: Called with the frames that were read and their number, if it is known.
        Returns:
            The people; a clip that cannot be read has its ``error``. A camera or a stream is left by
            KeyboardInterrupt.
        Raises:
            OutputError: A file cannot be written.
            InputError: ``seconds`` is negative or no number.
        """
        name = str(source) if isinstance(source, str | Path) else "-"
        try:
            reader = VideoReader(source, every=self.every)
        except VideoError as error:
            return Clip(name, error=error.reason)
        with reader, contextlib.ExitStack() as files:
            people = People(
                reader, self.estimator, depth=reader.depth, seconds=self.seconds, leave=reader.leave
            )
            takers = self._takers(name, reader.facts.rate / self.every, files)
            count, reason = 0, ""
            try:
                for frame in people:
                    count += 1
                    for take in takers:
                        take(frame)
                    report(frame.number + 1, reader.facts.frames)
            except VideoError as failure:
                reason = failure.reason
            except KeyboardInterrupt:
                if isinstance(source, str | Path) and not reader.facts.live:
                    raise
        return Clip(name, tuple(people.finished), reason, tuple(reader.remarks), count, reader.broken)

    def _takers(
        self, name: str, rate: float, files: contextlib.ExitStack
    ) -> list[Callable[[FrameAges], object]]:
        """The functions that take each frame; their files are finished with the stack."""
        takers: list[Callable[[FrameAges], object]] = []
        if (show := self.show) is not None:
            takers.append(lambda frame: show(self._rows(name, frame)))
        if self.out is None:
            return takers
        stem = file_stem(name)
        if self.frames is not None:
            path = files.enter_context(write_atomically(self.out / f"{stem}.frames.{self.frames}"))
            handle: TextIO = files.enter_context(
                path.open("w", encoding="utf-8", errors="surrogateescape", newline="")
            )
            form = RowFormat(self.frames, FRAME_COLUMNS)
            handle.write(form.head)
            takers.append(lambda frame: handle.write(form.text(self._rows(name, frame))))
        if self.annotate:
            path = files.enter_context(write_atomically(self.out / f"{stem}.mp4"))
            takers.append(files.enter_context(AnnotatedClip(path, rate, self.level)).add)
        if self.timeline:
            drawing = Timeline(visible(Path(name).name), self.level)
            takers.append(drawing.add)
            files.callback(self._draw, drawing, self.out / f"{stem}.svg")
        return takers

    def _rows(self, name: str, frame: FrameAges) -> list[dict[str, object]]:
        return frame_rows(name, frame, level=self.level, threshold=self.threshold)

    @staticmethod
    def _draw(drawing: Timeline, path: Path) -> None:
        with write_atomically(path) as temporary:
            temporary.write_bytes(drawing.svg().encode("utf-8", errors="replace"))
