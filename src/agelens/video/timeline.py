"""A drawing of the ages of a clip's people over time, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from agelens.video.person import FrameAges

__all__ = ["Timeline"]

_POINTS = 400  # of a person; with more, every other is left out
_WIDTH, _ROW, _LEFT, _TOP = 900, 110, 60, 40
_COLOURS = ("#00695c", "#c2410c", "#1d4ed8", "#7e22ce", "#a16207", "#be123c")


@dataclass
class _Course:
    stride: int = 1
    count: int = 0
    points: list[tuple[float, float, float, float]] = field(default_factory=list)


class Timeline:
    """Gathers the shown ages as they come, in bounded memory.

    Args:
        title: Above the drawing.
        level: Coverage of the bands.
    """

    def __init__(self, title: str, level: float = 0.9) -> None:
        self._title, self._level = title, level
        self._courses: dict[int, _Course] = {}
        self._end = 0.0

    def add(self, frame: FrameAges) -> None:
        """Add a frame."""
        self._end = frame.time
        for person in frame.people:
            course = self._courses.setdefault(person.person, _Course())
            if course.count % course.stride == 0:
                low, high = person.shown.interval(self._level)
                course.points.append((frame.time, low, person.shown.age, high))
                if len(course.points) > _POINTS:
                    course.points, course.stride = course.points[::2], 2 * course.stride
            course.count += 1

    def svg(self) -> str:
        """Draw a row a person: the shown age as a line, its interval as a band, over seconds."""
        height = _TOP + _ROW * max(1, len(self._courses)) + 30
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
            'font-family="sans-serif" font-size="12" role="img">',
            f"<title>{escape(self._title)}</title>",
            f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
            f'<text x="{_LEFT}" y="20" font-size="14">{escape(self._title)}: age and '
            f"{self._level:.0%} interval, years</text>",
        ]
        if not self._courses:
            parts.append(f'<text x="{_LEFT}" y="{_TOP + 20}">no face found</text>')
        for row, (person, course) in enumerate(sorted(self._courses.items())):
            parts += self._row(row, person, course.points)
        bottom = _TOP + _ROW * max(1, len(self._courses))
        for tick in range(6):
            seconds = self._end * tick / 5
            place = f'x="{self._x(seconds):.1f}" y="{bottom + 18}" text-anchor="middle"'
            parts.append(f"<text {place}>{seconds:.1f} s</text>")
        return "\n".join([*parts, "</svg>"]) + "\n"

    def _x(self, seconds: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - 30) * (seconds / self._end if self._end else 0.5)

    def _row(self, row: int, person: int, points: Sequence[tuple[float, float, float, float]]) -> list[str]:
        top, inner = _TOP + _ROW * row, _ROW - 25
        least, most = min(point[1] for point in points), max(point[3] for point in points)
        least, most = 10 * (least // 10), 10 * (most // 10 + 1)

        def place(seconds: float, years: float) -> str:
            return f"{self._x(seconds):.1f},{top + inner * (most - years) / (most - least):.1f}"

        colour = _COLOURS[row % len(_COLOURS)]
        upper = [place(seconds, high) for seconds, _, _, high in points]
        lower = [place(seconds, low) for seconds, low, _, _ in points]
        line = [place(seconds, age) for seconds, _, age, _ in points]
        shown = points[-1]
        parts = [
            f'<text x="{_LEFT - 6}" y="{top + 10}" text-anchor="end" fill="#555">{most:.0f}</text>',
            f'<text x="{_LEFT - 6}" y="{top + inner}" text-anchor="end" fill="#555">{least:.0f}</text>',
            f'<line x1="{_LEFT}" x2="{_WIDTH - 30}" y1="{top + inner}" y2="{top + inner}" stroke="#ccc"/>',
        ]
        if len(points) == 1:
            (x, y), (_, y1), (_, y2) = (text[0].split(",") for text in (line, upper, lower))
            parts.append(f'<line x1="{x}" x2="{x}" y1="{y1}" y2="{y2}" stroke="{colour}" opacity="0.4"/>')
            parts.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>')
        else:
            band = " ".join([*upper, *reversed(lower)])
            parts.append(f'<polygon points="{band}" fill="{colour}" opacity="0.15"/>')
            parts.append(
                f'<polyline points="{" ".join(line)}" fill="none" stroke="{colour}" stroke-width="2"/>'
            )
        label = f"person {person}: {shown[2]:.0f} ({shown[1]:.0f} to {shown[3]:.0f})"
        parts.append(
            f'<text x="{self._x(points[0][0]):.1f}" y="{top + inner + 14}" fill="{colour}">{label}</text>'
        )
        return parts
