"""Every kind of finding has a figure, or stands in the list of those that have none, with the reason."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from curricle import analysis
from curricle.analysis.finding import THESE_PROBLEMS, Finding, Interval
from curricle.analysis.rows.columns import Row
from curricle.report.charts import CHARTS, UNDRAWN, drawn, figures_of, has_figure
from curricle.report.charts.laws import assigned
from curricle.report.figures import COLORS, SHAPES, Look, along, looks, svg

ROOM = Path(analysis.__file__).parent
MAKERS = {"Finding", "finding", "both", "level", "_contrasts"}


def kinds() -> set[str]:
    """Slugs of findings as the code writes them: the first argument of what makes one, or of the `about` it begins
    with."""
    found = set()
    for path in ROOM.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            first: list[ast.expr] = []
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                first = node.args[:2] if name in MAKERS else []
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
                first = node.value.elts[:1] if getattr(node.targets[0], "id", "") == "about" else []
            words = [e.value for e in first if isinstance(e, ast.Constant) and isinstance(e.value, str)]
            found |= {word for word in words[:1] if word.replace("-", "").isalpha() and word.islower()}
    return found


def test_every_kind_of_finding_is_drawn_or_says_why_not() -> None:
    there = kinds()
    assert {"saturation", "bound-information", "gain", "phases", "why-code", "synergy"} <= there
    lacking = sorted(there - set(CHARTS) - set(UNDRAWN))
    assert not lacking, f"no chart, and no reason in UNDRAWN: {', '.join(lacking)}"
    assert not set(CHARTS) & set(UNDRAWN)


def bounded() -> list[Row]:
    random = np.random.default_rng(0)
    rows: list[Row] = []
    for name, ahead in (("scratch", 0.0), ("code", 3000.0)):
        for seed in range(3):
            for k in range(8):
                at = 1000 * 2**k
                bits = 0.8 + 30 * (at + ahead) ** -0.5 + random.normal(0, 0.01)
                about = {"strategy": name, "seed": seed, "stage": "math", "position": 0, "stage_tokens": at,
                         "tokens": at,
                         "benchmark": "gsm", "kind": "problems", "items": 500, "final": k == 7}  # fmt: skip
                right = 100 / (1 + np.exp(3 * bits - 4)) + random.normal(0, 0.3)
                rows.append({**about, "measure": "bits per byte", "score": bits})
                rows.append({**about, "measure": "accuracy", "score": float(np.clip(right, 0, 100))})
    return rows


def of_steps() -> list[Row]:
    random = np.random.default_rng(1)
    return [
        {"strategy": name, "seed": seed, "stage": "math", "position": 0, "step": t, "tokens": 100 * t,
         "loss_nats": 1 + start * (100 * t) ** -0.4 + random.normal(0, 0.02)}
        for name, start in (("scratch", 20), ("code", 14), ("lists", 17)) for seed in range(3) for t in range(1, 300)
    ]  # fmt: skip


def findings() -> dict[str, Finding]:
    kappas = np.linspace(-1, 5, 40)
    profile = tuple({"kappa": float(k), "excess": float((k - 1.4) ** 2 / 1.1)} for k in kappas)
    runs = tuple(
        {"strategy": f"{a} {b}", "seed": 0, "first": a + 0.02, "second": b - 0.03, "score": 20 + 20 * a + 15 * b}
        for a in (0.0, 0.3, 0.6) for b in (0.0, 0.3, 0.6)
    )  # fmt: skip
    orders = tuple(
        {"order": order, "mixed": "+" in order, "weighted": loss, "gsm": loss}
        for order, loss in (("web → code → math", 1.02), ("code → web → math", 1.05), ("web + code + math", 1.09),
                            ("math → code → web", 1.21))
    )  # fmt: skip
    shares = tuple({"run": r, "source": s, "share": p} for r, mix in ((1, (0.5, 0.3, 0.2)), (2, (0.1, 0.2, 0.7)))
                   for s, p in zip(("web", "code", "math"), mix))  # fmt: skip
    law = [
        {"transferred": 30 * d**0.4 * n**0.2, "tokens": d, "params": n} for d in (1e6, 4e6, 1.6e7) for n in (1e7, 1e8)
    ]
    rows = bounded()
    around = (Interval(0.02, 0.09, "this strategy", 0.9),)
    limited = {"measured": 31.0, "before": 24.0}
    losses = [row for row in rows if row["measure"] != "accuracy"]
    steps = of_steps()
    front = tuple(
        {"strategy": name, "share": None, "target": 1.0 + k, "target_low": 0.9 + k, "target_high": 1.1 + k,
         "general": 3.0 - k, "general_low": 2.9 - k, "general_high": 3.1 - k, "on_front": not k, "knee": not k,
         "p_front": 0.8}
        for k, name in enumerate(("code", "scratch"))
    )  # fmt: skip
    return {
        "transferred": analysis.transferred(losses, "code", "scratch")[0],
        "saturation": analysis.saturation([r for r in losses if r["strategy"] == "code"], delta=0.01),
        "bound-regret": analysis.regret_bound(steps, "code", "scratch", "math"),
        "front": Finding("front", "gsm against web", "bits per byte", "gsm", 30.0, "%", table=front,
                         parts={"target": "gsm", "target_measure": "bits per byte", "general": "web"}),
        "chain": Finding("chain", "code: code to math", "bits per byte", "gsm", -1.0, "bits per byte",
                         parts={"strategy": "code"},
                         table=({"stage": "math", "share": 0.4, "share_of_difference": 0.5, "low": 0.2, "high": 0.6},)),
        "bound-last-loss": analysis.last_loss_bound(rows, "code", "scratch", "gsm"),
        "bound-accuracy-from-loss": analysis.accuracy_from_loss(rows, "code", "scratch", "gsm"),
        "bound-information": analysis.information_bound(
            steps, "code", "scratch", "math", control="lists", parameters=2000
        ),
        "bound-accuracy": analysis.accuracy_bound(24.0, 0.05, problems=400, measured_percent=31.0),
        "synergy": Finding("synergy", "code and math", "bits per byte", "gsm", 1.4, "κ",
                           (Interval(0.35, 2.4, THESE_PROBLEMS),), table=profile),
        "transfer-mediated": Finding("transfer-mediated", "measured skill in code and math together", "accuracy", "gsm",
                                     0.2, "logits", table=runs, parts=limited),
        "transfer-law": analysis.transfer_law([{**r, "transferred": r["transferred"] * (1 + 0.1 * (i % 2))}
                                               for i, r in enumerate(law)]),
        "marginal": analysis.marginal([r for r in rows if r["strategy"] == "scratch" and r["measure"] != "accuracy"]),
        "split": analysis.best_split({"web": 1.0, "code": 2.0, "math": 3.0}, 0.5, 1e9, draws=[
            ({"web": 1.2, "code": 1.8, "math": 3.1}, 0.45), ({"web": 0.9, "code": 2.3, "math": 2.8}, 0.55)]),
        "best-order": Finding("best-order", "a over b", "bits per byte", "gsm", -0.19, "bits per byte", table=orders),
        "floor": analysis.floors([r for r in rows if r["measure"] != "accuracy"], "scratch", "code"),
        "mixture-gain": Finding("mixture-gain", "recommended over natural", "loss on math", "swarm of 30 runs", 0.05,
                                "loss", around, parts={"against": "natural", "by gp": 0.06, "by exponential": 0.04}),
        "mixture-next": Finding("mixture-next", "next runs", "loss on math", "swarm", 2.0, "runs", table=shares),
    }  # fmt: skip


FOUND = findings()


@pytest.mark.parametrize("name", FOUND)
def test_a_figure_is_made_from_the_finding_as_it_is_stored(name: str) -> None:
    chart = drawn(Finding.from_json(json.loads(json.dumps(FOUND[name].to_json()))))
    assert chart is not None
    picture = svg(chart.to_dict())
    assert picture.startswith("<svg") and "NaN" not in picture and "undefined" not in picture


LOOKS = {"code": Look("#123456", "square", [1, 0]), "scratch": Look("#654321", "circle", [4, 3])}


@pytest.mark.parametrize("name", [name for name in FOUND if CHARTS[name].styled and name != "bound-accuracy"])
def test_a_strategy_has_the_colour_that_it_has_on_the_rest_of_the_page(name: str) -> None:
    picture = svg(drawn(FOUND[name], LOOKS).to_dict())
    assert LOOKS["code"].color in picture and not any(color in picture for color in COLORS)
    plain = svg(drawn(FOUND[name]).to_dict())
    assert LOOKS["code"].color not in plain and any(color in plain for color in COLORS)


def test_a_figure_that_leaves_its_page_has_its_title_in_it() -> None:
    for name, chart in figures_of([f for f in FOUND.values() if f is not None], None):
        spec = chart.to_dict()
        assert "".join(spec["title"]["text"]) and spec["height"] > spec["title"]["offset"], name
        shown = svg(spec)
        assert spec["title"]["text"][0].split()[0] in shown, name


def test_more_sources_than_colours_are_told_apart_by_leaving_the_least_together() -> None:
    sources = [f"s{i:02}" for i in range(12)]
    table = tuple({"run": run, "source": s, "share": (12 - i) / 78} for run in (1, 2) for i, s in enumerate(sources))
    made = drawn(Finding("mixture-next", "next runs", "loss", "swarm", 2.0, "runs", table=table))
    assert made is not None
    scale = made.to_dict()["layer"][0]["encoding"]["color"]["scale"]
    assert scale["domain"] == [*sources[:8], "4 others"] and len(set(scale["range"])) == 9
    rows = made.to_dict()["data"]["values"]
    assert sum(row["share"] for row in rows if row["run"] == "run 1") == pytest.approx(1.0) and len(rows) == 18


def legend_of(picture: str) -> list[tuple[str, float]]:
    """Each entry of a drawn legend, and how much room the picture leaves to its right, by letters of 6 pixels."""
    found: list[tuple[str, float]] = []
    root = ElementTree.fromstring(picture)

    def walk(element: ElementTree.Element, x: float, inside: bool) -> None:
        moved = re.match(r"translate\(([-\d.]+)", element.get("transform", ""))
        x += float(moved[1]) if moved else 0.0
        inside = inside or "role-legend-label" in element.get("class", "")
        if inside and element.text and element.tag.endswith("text"):
            found.append((element.text, float(root.get("width", "0")) - x - 6 * len(element.text)))
        for child in element:
            walk(child, x, inside)

    walk(root, 0.0, False)
    return found


@pytest.mark.parametrize("legends", ["sources", "strategies", "short"])
def test_no_name_of_a_legend_is_cut(legends: str) -> None:
    names = ["freelaw", "pubmed_central", "gutenberg_pg_19", "stackexchange", "hackernews", "github", "wikipedia_en",
             "uspto_backgrounds", "arxiv"]  # fmt: skip
    if legends == "sources":
        table = tuple({"run": run, "source": name, "share": 1 / 9} for run in (1, 2) for name in names)
        chart = drawn(Finding("mixture-next", "next runs", "loss", "swarm", 2.0, "runs", table=table))
        expected = {*names[:8], "1 other"}
    else:
        long = ["code first, then math", "language first, then math", "more maths from the start", "from scratch"]
        strategies = long if legends == "strategies" else ["a", "b", "c"]
        at = [
            Finding("held-out-curve", s, "bits per byte", "code", 1.0 / tokens, "bits per byte",
                    parts={"strategy": s, "trained_tokens": tokens, "stage": "math"})
            for s in strategies for tokens in (1, 2)
        ]  # fmt: skip
        chart, expected = along(at, looks(strategies, strategies[-1]), legend=True), set(strategies)
    assert chart is not None
    entries = legend_of(svg(chart.to_dict()))
    assert {name for name, _ in entries} == expected and min(room for _, room in entries) > 0


def test_names_of_files_say_nothing_twice_and_are_whole() -> None:
    (name, _), *_ = figures_of([replace(FOUND["mixture-gain"], measure="weighted mean of 13 "
                                        "metrics", benchmark="swarm of 512 runs")], None)  # fmt: skip
    assert name == "mixture-gain-swarm-of-512-runs-weighted-mean-of-13-metrics-recommended-over-natural"
    table = ({"run": "a", "predicted": 1.0, "measured": 1.1}, {"run": "b", "predicted": 2.0, "measured": 2.1})
    mean = "weighted mean of 13 metrics"
    (name, _), *_ = figures_of(
        [Finding("mixture-fit", mean, mean, "swarm of 512 runs", 0.9, "rank", table=table)], None
    )
    assert name == "mixture-fit-swarm-of-512-runs-weighted-mean-of-13-metrics"


def test_no_two_of_many_strategies_or_series_look_alike() -> None:
    style = looks([f"s{i}" for i in range(40)], "s0")
    assert len({(look.color, look.shape) for look in style.values()}) == 40
    assert len({(look.color, str(look.dash)) for look in style.values()}) == 40
    series = [str(i) for i in range(40)]
    assert len(set(zip(assigned(series, {}, COLORS), assigned(series, {}, SHAPES, shift=1), strict=True))) == 40


def test_a_chain_without_any_share_has_no_figure_and_no_empty_axis() -> None:
    rows = [{"stage": s, "share": None, "share_of_difference": None, "low": None, "high": None} for s in ("a", "b")]
    flat = Finding("chain", "code: a to b", "accuracy", "gsm", 0.0, "points", table=tuple(rows))
    assert not has_figure(flat) and drawn(flat) is None
    one = Finding("chain", "code: a", "accuracy", "gsm", 1.0, "points", table=({**rows[0], "share": 1.0},))
    assert has_figure(one)


def test_a_series_that_is_no_strategy_has_a_colour_of_its_own_by_its_position() -> None:
    given = {"b": COLORS[0]}
    assert assigned(["a", "b", "c"], given, COLORS) == [COLORS[1], COLORS[0], COLORS[2]]
    assert assigned(["a", "c"], given, COLORS) == [COLORS[0], COLORS[1]]
    assert len(assigned([str(i) for i in range(20)], {}, COLORS)) == 20
