"""The flow of stages as a drawing: the plan's tree in inline SVG, each shared stage once, with what each stage gave.

Text and lines take the page's colours by their classes. It promises valid XML whatever the names are: everything that
is not ours is escaped by `markupsafe`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from curricle.analysis import Finding
from curricle.analysis.finding import RATIOS
from curricle.report import words
from curricle.report.figures import Look
from curricle.report.flow import Box, Flow

ROW, BOX, GAP = 70, 52, 44  # heights and distances in the drawing's own units
CHARACTER = 7.6  # about the width of one, at 14 units


def stage_gain(findings: Sequence[Finding], box: Box, target: str, rates: Mapping[str, str]) -> Finding | None:
    """What the stage gave on the target: the plain difference, in points where there are verdicts."""
    for f in findings:
        arm = rates.get(str(f.parts.get("strategy")), f.parts.get("strategy"))
        here = arm in box.strategies and f.parts.get("position") == box.position
        if here and f.question in {"stage-gain", "forgetting"} and f.benchmark == target and f.unit not in RATIOS:
            return f
    return None


def flow_svg(
    layout: Flow, findings: Sequence[Finding], target: str, style: Mapping[str, Look], rates: Mapping[str, str]
) -> Markup:
    """The drawing as an `svg` element. Under each stage stand its tokens and the gain on `target`. `style` has a look
    for every row; `rates` says which arm stands for a strategy that sweeps learning rates."""
    gains = [stage_gain(findings, box, target, rates) for box in layout.boxes]
    under = [
        words.count(box.tokens) + (f" · {words.estimate(g).replace('bits per byte', 'bpb')}" if g else "")
        for box, g in zip(layout.boxes, gains)
    ]
    widths = [
        max(
            max(len(box.stage) * 1.2, len(text)) * CHARACTER + 28
            for box, text in zip(layout.boxes, under)
            if box.column == column
        )
        for column in range(layout.columns)
    ]
    starts = [4 + sum(widths[:column]) + GAP * column for column in range(layout.columns)]
    edge = starts[-1] + widths[-1]
    names = max(len(end.strategy) + 11 * end.baseline for end in layout.ends)
    width, height = edge + 40 + names * CHARACTER * 1.05, ROW * len(layout.ends)

    def middle(row: int) -> float:
        return row * ROW + ROW / 2

    made = []
    for i, box in enumerate(layout.boxes):
        for child in layout.children(i):
            x, y = starts[box.column] + widths[box.column], middle(box.row)
            to_x, to_y, bend = starts[child.column], middle(child.row), x + GAP / 2
            made.append(
                Markup('<path class="edge" d="M{} {} C{} {} {} {} {} {} L{} {}"/>').format(
                    *(f"{v:.1f}" for v in (x, y, bend, y, bend, to_y, x + GAP, to_y, to_x, to_y))
                )
            )
    for end in layout.ends:
        box = layout.boxes[end.box]
        x, y, y_box = starts[box.column] + widths[box.column], middle(end.row), middle(box.row)
        look = style[end.strategy]
        made.append(
            Markup(
                '<path class="edge end" d="M{} {} C{} {} {} {} {} {} L{} {}"/>'
                '<circle cx="{}" cy="{}" r="5" fill="{}"/><text class="name" x="{}" y="{}">{}{}</text>'
            ).format(
                *(f"{v:.1f}" for v in (x, y_box, x + 9, y_box, x + 9, y, x + 18, y, edge + 18, y, edge + 18, y)),
                look.color, f"{edge + 30:.1f}", f"{y + 5:.1f}", end.strategy,
                Markup('<tspan class="soft"> (baseline)</tspan>') if end.baseline else "",
            )
        )  # fmt: skip
    for box, gain, text in zip(layout.boxes, gains, under):
        x, y = starts[box.column], middle(box.row) - BOX / 2
        left = "" if box.branch_tokens is None else f" from {box.branch_tokens:,} tokens of the stage before"
        title = f"{box.stage}: {box.tokens:,} tokens{left}; in {', '.join(box.strategies)}"
        if gain:
            title += f". On {target}: {gain.sentence()}"
        made.append(
            Markup(
                '<g class="stage {}"><title>{}</title><rect x="{}" y="{}" width="{}" height="{}" rx="9"/>'
                '<text class="what" x="{}" y="{}">{}</text><text class="soft" x="{}" y="{}">{}</text></g>'
            ).format(
                box.kind, title, f"{x:.1f}", f"{y:.1f}", f"{widths[box.column]:.1f}", BOX, f"{x + 14:.1f}",
                f"{y + 22:.1f}", box.stage, f"{x + 14:.1f}", f"{y + 41:.1f}", text,
            )
        )  # fmt: skip
    label = "; ".join(
        f"{end.strategy}: {' then '.join(box.stage for box in path_to(layout, end.box))}" for end in layout.ends
    )
    return Markup(
        '<svg class="flow" role="img" aria-label="{}" viewBox="0 0 {:.0f} {}" width="{:.0f}" height="{}">{}</svg>'
    ).format(label, width, height, width, height, Markup("").join(made))


def path_to(layout: Flow, index: int) -> list[Box]:
    """The boxes that lead to one, itself the last."""
    box = layout.boxes[index]
    return [*([] if box.parent is None else path_to(layout, box.parent)), box]
