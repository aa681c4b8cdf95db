"""A soak as a picture: an SVG file, and the same curves in braille for a terminal or a log.

Both draw panels over one axis of time, each with its own scale, and a tick for each fault. Of a column that many values
fall into, the whole range is drawn: a peak of one second is seen in a picture of an hour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from tests.soak.figures import Point

WIDTH, PANEL_HEIGHT, GAP, LEFT, RIGHT, TOP, BOTTOM = 1100, 130, 34, 90, 130, 40, 60
COLOURS = ("#0b6bcb", "#c8501e", "#2e8540", "#7d3cb5")
STYLE = "text{font:12px sans-serif;fill:#333}.title{font-size:16px}.axis{stroke:#bbb}.fault{stroke:#d33;opacity:.45}"
BRAILLE = 0x2800
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # by column, then from the top
COLUMNS, ROWS = 72, 5


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves with one scale and one unit."""

    title: str
    curves: Mapping[str, Sequence[Point]]
    starts_at_zero: bool = True

    @property
    def range(self) -> tuple[float, float]:
        values = [value for curve in self.curves.values() for _, value in curve] or [0.0]
        low = 0.0 if self.starts_at_zero else min(values)
        return low, max([*values, low + 1e-9])


@dataclass(frozen=True, slots=True)
class Picture:
    """`faults` are instants and names; `shaded_s` is the time at the left that the verdict leaves out."""

    title: str
    duration_s: float
    panels: Sequence[Panel]
    faults: Sequence[tuple[float, str]] = field(default=())
    shaded_s: float = 0.0


def svg(picture: Picture) -> str:
    """A whole file."""
    height = TOP + len(picture.panels) * (PANEL_HEIGHT + GAP) + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
        f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>',
        f'<text class="title" x="{LEFT}" y="22">{escape(picture.title)}</text>',
    ]
    for number, panel in enumerate(picture.panels):
        parts += _panel(picture, panel, TOP + number * (PANEL_HEIGHT + GAP) + GAP // 2)
    parts += _time_axis(picture, height - BOTTOM)
    return "\n".join([*parts, "</svg>\n"])


def _x(picture: Picture, at_s: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * at_s / max(picture.duration_s, 1e-9)


def _panel(picture: Picture, panel: Panel, top: int) -> list[str]:
    low, high = panel.range
    right, bottom = WIDTH - RIGHT, top + PANEL_HEIGHT
    shaded = _x(picture, picture.shaded_s) - LEFT
    parts = [
        f'<rect x="{LEFT}" y="{top}" width="{shaded:.1f}" height="{PANEL_HEIGHT}" fill="#f2f2f2"/>',
        *(
            f'<line class="fault" x1="{_x(picture, at_s):.1f}" x2="{_x(picture, at_s):.1f}" y1="{top}" y2="{bottom}">'
            f"<title>{escape(name)}</title></line>"
            for at_s, name in picture.faults
        ),
        f'<path class="axis" fill="none" d="M{LEFT} {top}V{bottom}H{right}"/>',
        f'<text x="{LEFT}" y="{top - 5}">{escape(panel.title)}</text>',
        f'<text x="{LEFT - 6}" y="{top + 10}" text-anchor="end">{high:,.6g}</text>',
        f'<text x="{LEFT - 6}" y="{bottom}" text-anchor="end">{low:,.6g}</text>',
    ]
    for number, (name, curve) in enumerate(panel.curves.items()):
        points = " ".join(
            f"{_x(picture, at_s):.1f},{bottom - PANEL_HEIGHT * (value - low) / (high - low):.1f}"
            for at_s, value in curve
        )
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<polyline fill="none" stroke="{colour}" points="{points}"/>')
        parts.append(f'<text x="{right + 8}" y="{top + 12 + 16 * number}" style="fill:{colour}">{escape(name)}</text>')
    return parts


def _time_axis(picture: Picture, top: int) -> list[str]:
    ticks = [picture.duration_s * tick / 6 for tick in range(7)]
    unit, length_s = ("min", 60.0) if picture.duration_s >= 300 else ("s", 1.0)
    texts = [
        f'<text x="{_x(picture, at_s):.1f}" y="{top + 6}" text-anchor="middle">{at_s / length_s:.0f} {unit}</text>'
        for at_s in ticks
    ]
    key = f"red: {len(picture.faults)} faults; grey: warm-up, left out of the verdict"
    return [*texts, f'<text x="{LEFT}" y="{top + 30}">{key}</text>']


def text(picture: Picture) -> str:
    """The same for a terminal: a block of braille for each curve, and a line of ticks for the faults."""
    lines = [picture.title]
    for panel in picture.panels:
        low, high = panel.range
        for name, curve in panel.curves.items():
            lines.append(f"{panel.title}, {name}: {low:,.6g} to {high:,.6g}")
            lines += [f"  {row}" for row in _braille(curve, picture.duration_s, low, high)]
    lines += ["faults", f"  {_ticks(picture)}", f"  0{picture.duration_s:>{COLUMNS - 2}.0f} s"]
    return "\n".join(lines)


def _braille(curve: Sequence[Point], duration_s: float, low: float, high: float) -> list[str]:
    cells = [[0] * COLUMNS for _ in range(ROWS)]
    steps = ROWS * 4 - 1
    columns: dict[int, list[int]] = {}
    for at_s, value in curve:
        column = min(COLUMNS * 2 - 1, int(at_s / max(duration_s, 1e-9) * COLUMNS * 2))
        share = min(1.0, max(0.0, (value - low) / (high - low)))
        columns.setdefault(column, []).append(steps - round(share * steps))
    before: tuple[int, int] | None = None
    for column, heights in columns.items():
        if before is not None:
            first, height = before
            for between in range(first + 1, column):  # values that come seldom are joined by a line
                at = round(height + (heights[0] - height) * (between - first) / (column - first))
                _dot(cells, between, at)
        for height in range(min(heights), max(heights) + 1):
            _dot(cells, column, height)
        before = column, heights[-1]
    return ["".join(chr(BRAILLE + cell) for cell in row).rstrip(chr(BRAILLE)) for row in cells]


def _dot(cells: list[list[int]], column: int, height: int) -> None:
    cells[height // 4][column // 2] |= DOTS[column % 2][height % 4]


def _ticks(picture: Picture) -> str:
    struck = {min(COLUMNS - 1, int(at_s / max(picture.duration_s, 1e-9) * COLUMNS)) for at_s, _ in picture.faults}
    return "".join("|" if column in struck else "." for column in range(COLUMNS))
