"""Names beside points, placed so that no two overlap: `named` is the layers of text (and leaders) of a scatter chart.

Altair cannot keep texts apart, so they are placed here, on a plot of fixed limits: around its point, nearest first, and
with a thin line to the point where it had to move away. A name stays inside the plot, and covers neither another name
nor a point. What finds no place is left to the tooltip and the table; those that matter most are placed first.

Places are found for a plot of `ACROSS` × `DOWN` and letters of `LETTER`. A chart that is larger, or a face that is
narrower, moves names apart and never together; a page that scales the whole drawing changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import altair as alt

ACROSS, DOWN = 340.0, 195.0  # at most what axes and titles leave of `WIDTH` × `HEIGHT`
SIZE = 12  # of the letters
LETTER, LINE = 7.5, 15.0  # a letter's width and a line's height: those of a wide face
POINT = 8.0  # radius of what a name must not cover
RINGS = (12.0, 20.0, 30.0, 42.0, 56.0, 72.0, 90.0, 110.0)
TURNS = (-45, -20, -90, 45, 20, -135, 135, -160, 160, 90, 0, 180, -65, 65, -115, 115)  # degrees; up is negative
TOUCHING = RINGS[1]  # up to here a name stands beside its point without a line
LONGEST, SHORTER = 26, (16, 10)  # letters of a name; and of one that finds no place as it is


class Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


class Place(NamedTuple):
    """Where a name stands, in pixels from the plot's upper left: its anchor, and which of its ends that is."""

    text: str
    x: float
    y: float
    align: str
    box: Box
    led: bool  # too far from its point to be told without a line


class Axis(NamedTuple):
    """A scale's limits, and whether it runs down the page."""

    low: float
    high: float
    pixels: float
    down: bool = False

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.pixels * (1 - share if self.down else share)

    def back(self, pixel: float) -> float:
        share = pixel / self.pixels
        return self.low + (self.high - self.low) * (1 - share if self.down else share)

    @property
    def scale(self) -> alt.Scale:
        return alt.Scale(domain=[self.low, self.high], nice=False, zero=False)


def axis(values: Iterable[Any], pixels: float, down: bool = False, margin: float = 0.08) -> Axis:
    """Limits that hold all values with a margin of their range."""
    known = [float(v) for v in values if v is not None]
    low, high = min(known), max(known)
    room = margin * (high - low) or margin * abs(high) or 1.0
    return Axis(low - room, high + room, pixels, down)


def named(
    rows: Sequence[Mapping[str, Any]], x: Axis, y: Axis, *, of: tuple[str, str], titles: tuple[str, str],
    name: str = "name",
) -> tuple[list[alt.Chart], alt.TitleParams | alt.UndefinedType]:  # fmt: skip
    """Layers of the names of `rows` and the lines that lead to them, and a title that counts the points that are left
    without one. `of` are the fields of a point's place, `titles` those of the axes. The first rows are placed first."""
    points = [(x.at(float(row[of[0]])), y.at(float(row[of[1]]))) for row in rows]
    texts = [str(row[name]) for row in rows]
    layers, leaders = [], []
    across = alt.X("label_x:Q", title=titles[0], scale=x.scale)
    along = alt.Y("label_y:Q", title=titles[1], scale=y.scale)
    by_align: dict[str, list[dict[str, Any]]] = {}
    left = 0
    for row, place in zip(rows, places(points, texts, x.pixels, y.pixels)):
        if place is None:
            left += 1
            continue
        here = {"label_x": x.back(place.x), "label_y": y.back(place.y), "label": place.text}
        by_align.setdefault(place.align, []).append(here)
        if place.led:
            leaders.append({**here, "x": row[of[0]], "y": row[of[1]]})
    if leaders:
        line = alt.Chart(alt.Data(values=leaders)).mark_rule(strokeWidth=1, opacity=0.4, color="currentColor")
        layers.append(line.encode(x=across, y=along, x2="x:Q", y2="y:Q"))
    for align, those in by_align.items():
        drawn = alt.Chart(alt.Data(values=those)).mark_text(
            align=align, baseline="middle", fontSize=SIZE, color="currentColor"
        )
        layers.append(drawn.encode(x=across, y=along, text="label:N"))
    said = f"{left} of {len(rows)} points stand too close to be named here: the table names all"
    title = alt.TitleParams(said, fontSize=11, fontWeight="normal", color="currentColor", anchor="end")
    return layers, title if left else alt.Undefined


def cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def places(
    points: Sequence[tuple[float, float]], texts: Sequence[str], across: float, down: float
) -> list[Place | None]:
    """A place for each text beside its point, cut where it must be, or None where all are taken."""
    made: list[Place | None] = []
    boxes: list[Box] = []
    lines: list[tuple[tuple[float, float], tuple[float, float]]] = []
    inside = Box(0, 0, across, down)
    dots = [Box(px - POINT, py - POINT, px + POINT, py + POINT) for px, py in points]
    for point, text in zip(points, texts):
        lengths = [n for n in (LONGEST, *SHORTER) if n == LONGEST or n < len(text)]
        # A line across a name is better than no name at all.
        for place, clear in (
            (p, clear) for clear in (True, False) for n in lengths for p in around(point, cut(text, n))
        ):
            b = place.box
            if b.left < inside.left or b.top < inside.top or b.right > inside.right or b.bottom > inside.bottom:
                continue
            if any(b.overlaps(other) for other in (*boxes, *dots)):
                continue
            line = (point, (place.x, place.y))
            crossed = any(crosses(other, b) for other in lines) or (place.led and any(crosses(line, o) for o in boxes))
            if clear and crossed:
                continue
            boxes.append(b)
            lines += [line] if place.led else []
            made.append(place)
            break
        else:
            made.append(None)
    return made


def around(point: tuple[float, float], text: str) -> Iterator[Place]:
    """Where a text may stand, best first: near before far, right and above before the rest."""
    wide = LETTER * len(text)
    for ring in RINGS:
        for turn in TURNS:
            cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
            x, y = point[0] + ring * cos, point[1] + ring * sin
            align = "left" if cos > 0.2 else "right" if cos < -0.2 else "center"
            left = {"left": x, "right": x - wide, "center": x - wide / 2}[align]
            yield Place(text, x, y, align, Box(left, y - LINE / 2, left + wide, y + LINE / 2), ring > TOUCHING)


def crosses(line: tuple[tuple[float, float], tuple[float, float]], box: Box) -> bool:
    """Whether a segment meets a box (Liang and Barsky 1984)."""
    (x0, y0), (x1, y1) = line
    begin, end = 0.0, 1.0
    for step, low, high in ((x1 - x0, box.left - x0, box.right - x0), (y1 - y0, box.top - y0, box.bottom - y0)):
        if step == 0:
            if low > 0 or high < 0:
                return False
            continue
        near, far = sorted((low / step, high / step))
        begin, end = max(begin, near), min(end, far)
    return begin < end
