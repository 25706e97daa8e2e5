"""Names beside points: none covers another or a point, all stay inside the plot, and a drawn front shows them so."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curricle.analysis.front import front
from curricle.report.charts import front as charts
from curricle.report.charts import labels
from curricle.report.figures import svg

spots = st.tuples(st.floats(10, labels.ACROSS - 10), st.floats(10, labels.DOWN - 10))


@settings(max_examples=60)
@given(st.lists(st.tuples(spots, st.text("abc de", min_size=1, max_size=40)), min_size=1, max_size=25))
def test_names_cover_neither_each_other_nor_points_and_stay_inside(given_) -> None:
    points, texts = [p for p, _ in given_], [t for _, t in given_]
    found = labels.places(points, texts, labels.ACROSS, labels.DOWN)
    there = [place for place in found if place is not None]
    assert len(found) == len(points)
    for k, place in enumerate(there):
        b = place.box
        assert b.left >= 0 and b.top >= 0 and b.right <= labels.ACROSS and b.bottom <= labels.DOWN
        assert all(not b.overlaps(other.box) for other in there[k + 1 :])
        assert all(not (b.left < x < b.right and b.top < y < b.bottom) for x, y in points)


def test_a_name_that_had_to_move_is_led_back_to_its_point() -> None:
    crowd = [(170.0 + k % 3, 100.0 + k // 3) for k in range(9)]
    found = [p for p in labels.places(crowd, ["a name"] * 9, labels.ACROSS, labels.DOWN) if p]
    assert len(found) == 9 and any(place.led for place in found)
    assert not labels.places([(170.0, 100.0)], ["alone"], labels.ACROSS, labels.DOWN)[0].led


def crowded(strategies: int) -> list[dict]:
    """Strategies of which half lie within the noise of each other."""
    random = np.random.default_rng(0)
    spread = [0.002 * (k % 7) if k < strategies / 2 else 0.02 * k for k in range(strategies)]
    return [
        {"strategy": f"replay of {k} parts in a hundred", "seed": seed, "final": True, "tokens": 100,
         "stage_tokens": 100, "benchmark": name, "measure": "bits per byte", "items": 100,
         "score": (1.0 + at if name == "web" else 2.0 - at) + random.normal(0, 0.002)}
        for seed in range(2) for k, at in enumerate(spread) for name in ("math", "web")
    ]  # fmt: skip


@pytest.mark.parametrize("strategies", [4, 14])
def test_in_the_picture_of_a_front_no_two_names_overlap(strategies: int) -> None:
    drawn = svg(charts.chart(front(crowded(strategies), "math", ["web"], draws=50)).to_dict())
    boxes = names_in(drawn)
    assert len(boxes) == strategies or "stand too close" in drawn
    assert len(boxes) >= 4
    for k, a in enumerate(boxes):
        assert all(not a.overlaps(b) for b in boxes[k + 1 :])


def names_in(drawn: str) -> list[labels.Box]:
    """Where the picture has its names, in a face of ordinary width: from where each text is put, and its anchor."""
    made = []
    groups = re.findall(r'<g class="mark-text role-mark[^"]*".*?</g>', drawn, re.DOTALL)
    pattern = r'text-anchor="(\w+)" transform="translate\(([-\d.]+),([-\d.]+)\)"[^>]*>([^<]*)</text>'
    for anchor, x, y, text in re.findall(pattern, "".join(groups)):
        wide = 6.6 * len(text)
        left = float(x) - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
        made.append(labels.Box(left, float(y) - 10, left + wide, float(y) + 3))
    return made
