"""The report: one HTML page that holds everything, opens without a network, and needs no script to be read.

Charts stand in it as SVG. One Vega bundle, kept as packed text until a chart is touched or focused, then draws that
chart anew with tooltips. The page's own policy forbids every connection and every script but the two whose hashes it
names, so whatever a model wrote into an output stays text. All names and outputs are escaped by the template.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import altair as alt
import jinja2
from markupsafe import Markup

from curricle.analysis import Finding, answer
from curricle.analysis.finding import ACCURACY, BITS_PER_BYTE, KINDS, RATIOS
from curricle.planning import ACCELERATORS, STATED_MFU, Plan
from curricle.report import charts, figures, queries, words
from curricle.report.drawing import flow_svg
from curricle.report.flow import Flow, flow
from curricle.results import Results
from curricle.store import whole_file
from curricle.study import Study

MEASURES = (ACCURACY, BITS_PER_BYTE)
MOST_ROWS = 24  # of a finding's table; `findings.json` has all
MOST_DRAWN = 4  # figures of one question, about 25 kB each; the rest are counted, and drawn by `analyse --figures`
MOST_NUMBERS = 120  # findings of one question in its table of all numbers; `findings.json` has all
LONGEST_TEXT = 1500  # characters of a prompt or an output that the page shows
Row = dict[str, Any]
Item = TypeVar("Item")

KIND_MEANS = {
    "this strategy": "about the strategy itself: it allows for another seed and for other problems of the same sort",
    "these weights": "about the very models trained here: it allows for other problems, not for another run",
    "these problems": "about the strategy on exactly these problems: it allows for another seed only",
}
TITLES = {
    "score": "Strategies at their end",
    "gain": "Over the baseline",
    "contrast": "Strategies against each other",
    "stage-gain": "What each stage gave",
    "curve": "Scores along the curve",
    "curve-contrast": "Differences along the curve",
    "held-out": "Held-out text after each stage",
    "held-out-curve": "Held-out text on the way through a stage",
    "forgetting": "What each stage changed on held-out text",
    "multiplier": "How many times the tokens a head start is worth",
    "decision-accuracy": "How often small runs choose as large ones do",
}


def write(
    path: Path, *, study: Study, plan: Plan, results: Results, findings: Sequence[Finding],
    catalogue: Mapping[str, Mapping[str, Any]], receipt: Mapping[str, object], command: str, study_text: str,
    missing: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Write the page, whole or not at all. `catalogue` holds what each source was found to hold (documents, bytes,
    held-out sizes, what was removed), `receipt` the versions and the machine, `study_text` the study's YAML, `missing`
    the runs that the results do not hold to their end, and why."""
    target = study.answer_target
    style = figures.looks(list(study.strategies), study.baseline)
    layout, rates = flow(plan), queries.chosen_rates(results)
    on_target = [f for f in findings if f.benchmark == target]
    changes = [f for f in on_target if f.question in {"gain", "contrast"}]
    bundle, waker = vega_bundle(), ours("page.js")
    html = template().render(
        study=study,
        target=target,
        **the_answer(study, findings, target),
        style=style,
        flow=flow_svg(layout, findings, target, {arm: style[of] for arm, of in plan.arms.items()}, rates),
        groups=[
            *chart_groups(study, plan, layout, results, findings, style, rates),
            *question_groups(findings, study.answer_target, style),
        ],
        changes=[f for among in by(changes, lambda f: f.subject).values() for f in among][:MOST_NUMBERS],
        tables=tables(findings, target),
        kinds=[(kind, KIND_MEANS[kind]) for kind in KINDS],
        examples=chosen_examples(study, results, on_target, target),
        rates=rates,
        ledger=plan.ledger(),
        sources=[(name, catalogue.get(name, {}), plan.catalogue.sources.get(name)) for name in study.sources],
        cost=cost(plan, results),
        command=command,
        drawing=drawing_command(command),
        study_text=study_text,
        receipt=[(key, plain(value)) for key, value in receipt.items()],
        runs=list(plan.nodes.values()),
        missing=[(plan.nodes[run], why) for run, why in (missing or {}).items()],
        css=Markup(ours("page.css")),
        waker=Markup(waker),
        bundle=packed(bundle),
        policy=policy(waker, bundle),
    )
    with whole_file(path, "w") as file:
        file.write(html)


def template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "count": words.count, "size": words.size, "percent": words.percent, "flops": words.flops,
        "duration": words.duration, "p": words.p_value, "estimate": words.estimate, "interval": words.interval,
        "resolution": words.resolution, "sentence": words.sentence,
        "plural": words.plural, "shortened": shortened, "cell": words.cell, "spaced": words.spaced,
        "skipped_in_words": queries.skipped_in_words,
    }  # fmt: skip
    return environment.from_string(ours("page.html"))


def ours(name: str) -> str:
    return (files("curricle.report") / name).read_text(encoding="utf-8")


# ---- scripts ------------------------------------------------------------------------------------------------------


@cache
def vega_bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed in one script."""
    import vl_convert

    snippet = "window.vegaEmbed = vegaEmbed;"
    return str(vl_convert.javascript_bundle(snippet, vl_version=figures.VEGA_LITE))


def packed(script: str) -> str:
    """Text that stands anywhere in an HTML element, less than half as long: `page.js` unpacks it. Without a time in it,
    so that the same page is the same bytes."""
    return base64.b64encode(gzip.compress(script.encode(), mtime=0)).decode()


def policy(*scripts: str) -> str:
    """A content security policy: no connection, and no script but these."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def json_in_script(value: object) -> Markup:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(shorter(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026"))


def shorter(value: Any) -> Any:
    """The same with seven digits a number, more than any tooltip shows."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {name: shorter(each) for name, each in value.items()}
    return [shorter(each) for each in value] if isinstance(value, list) else value


# ---- charts -------------------------------------------------------------------------------------------------------


def chart(name: str, title: str, drawn: alt.TopLevelMixin, described: str) -> Row:
    """What the template needs of one chart. Ids inside the SVG are made the chart's own."""
    spec = without_empty(drawn.to_dict(validate=False))  # its parts were validated when they were made
    picture = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", figures.svg(spec))
    hidden = picture.replace("<svg ", '<svg aria-hidden="true" ', 1)
    return {
        "name": name, "title": title, "svg": Markup(hidden), "spec": json_in_script(spec),
        "described": described, "width": None,
    }  # fmt: skip


def without_empty(spec: Row) -> Row:
    """The chart without layers that have no data, of which Vega complains."""
    made = dict(spec)
    for parts in ("layer", "hconcat", "vconcat"):
        if parts in made:
            made[parts] = [without_empty(p) for p in made[parts] if p.get("data", {}).get("values") != []]
    return made


def group(
    title: str, about: str, charts: list[Row], rows: Sequence[Finding] = (), drawn: Iterable[object] | None = None
) -> Row:
    """One section. `drawn` names the strategies in its charts, for the legend; without it, those of `rows`."""
    here = {f.parts.get("strategy") for f in rows} if drawn is None else set(drawn)
    return {"title": title, "about": about, "charts": charts, "rows": rows, "drawn": here, "asked": (), "skipped": ()}


def chart_groups(
    study: Study, plan: Plan, layout: Flow, results: Results, findings: Sequence[Finding],
    style: Mapping[str, figures.Look], rates: Mapping[str, str],
) -> list[Row]:  # fmt: skip
    """The page's sections of charts, each with the findings that it draws; a section without any is left out."""
    target = study.answer_target
    seeds = queries.seed_scores(results, target)
    on_target = [f for f in findings if f.benchmark == target]
    shown = shown_interval(on_target)
    ends = [f for f in on_target if f.question == "score"]
    groups = [
        group(
            "Strategies side by side",
            f"Each strategy at its end, on {target}. {shown} Small marks are single seeds.",
            [
                chart(f"ends{i}", measure.capitalize(), figures.side_by_side(here, seeds, style, measure), told(here))
                for i, (measure, here) in enumerate(by(ends, lambda f: f.measure).items())
            ],
            ends,
        )
    ]
    along = by((f for f in on_target if f.question == "curve"), lambda f: str(f.parts["stage"]))
    for n, (stage, points) in enumerate(along.items()):
        drawn = [
            (measure, here, figures.curve(here, seeds, style, stage, measure))
            for measure, here in by(points, lambda f: f.measure).items()
        ]
        groups.append(
            group(
                f"Along the tokens of {stage}",
                f"The same stage after different beginnings: the score on {target} at each evaluation point. {shown} "
                "Faint points are single seeds.",
                [chart(f"curve{n}-{i}", m.capitalize(), one, told(here)) for i, (m, here, one) in enumerate(drawn)],
                points,
            )
        )
    held = [f for f in findings if f.question == "held-out"]
    # The plan has an arm for each learning rate; a strategy's findings are those of the arm that stands for it.
    columns = {
        (s, box.position): box.column for s in style for box in layout.boxes if rates.get(s, s) in box.strategies
    }
    names = layout.column_names()
    groups.append(
        group(
            "What was learnt and what was forgotten",
            f"Bits per byte of held-out text of each source after each stage; lower is better. {shown_interval(held)}",
            [
                chart(f"held{i}", source, figures.forgetting(here, style, names, columns), told(here))
                for i, (source, here) in enumerate(by(held, lambda f: f.benchmark).items())
            ],
            held,
        )
    )
    way = [f for f in findings if f.question in {"held-out", "held-out-curve"}]
    scored_on_the_way = {f.benchmark for f in way if f.question == "held-out-curve"}
    way = [f for f in way if f.benchmark in scored_on_the_way]
    groups.append(
        group(
            "Held-out text along training",
            "Bits per byte of held-out text of each source at every evaluation point; lower is better. Tokens count "
            f"from the beginning of the strategy. {shown_interval(way)}",
            [
                chart(f"way{i}", source, figures.along(here, style), told(here))
                for i, (source, here) in enumerate(by(way, lambda f: f.benchmark).items())
            ],
            [f for f in way if f.question == "held-out-curve"],
            {f.parts.get("strategy") for f in way},
        )
    )
    losses = by(queries.losses(results), lambda row: row["stage"])
    learnt_nothing = queries.learnt_nothing(results, plan.catalogue.vocabulary)
    groups.append(
        group(
            "Training loss",
            "A faint line for each run, smoothed over a twenty-fifth of its steps; the mean over seeds strong. A stage "
            "that strategies share is drawn once, in the colour of the first of them."
            + "".join(f" {run}: {why}." for run, why in learnt_nothing.items()),
            [
                chart(f"loss{i}", stage, figures.loss(losses[stage], style), f"Training loss along {stage}.")
                for i, stage in enumerate(name for name in study.stages if name in losses)
            ],
            drawn={row["strategy"] for rows in losses.values() for row in rows},
        )
        | {"skipped": queries.skipped(results)}
    )
    return [g for g in groups if g["charts"]]


def question_groups(findings: Sequence[Finding], target: str, style: Mapping[str, figures.Look]) -> list[Row]:
    """A section for each question with a figure of its own (`charts.CHARTS`): the sentence, the figure and the table it
    was drawn from, of its first findings on the target (or on what no benchmark scores, such as a stage's own text)
    that have a figure; where none has, the first sentence. What is left out is counted.
    """
    groups = []
    asked = by((f for f in findings if f.question in charts.CHARTS), lambda f: f.question)
    scored = {f.benchmark for f in findings if f.question in {"score", "held-out"}}
    for n, (question, here) in enumerate(asked.items()):
        about = [f for f in here if f.benchmark == target or f.benchmark not in scored]
        chosen = [f for f in about if charts.has_figure(f)][:MOST_DRAWN] or about[:1]
        if chosen:
            shown = [asked_about(f, f"asked{n}-{i}", style) for i, f in enumerate(chosen)]
            undrawn = sum(map(charts.has_figure, here)) - sum(map(charts.has_figure, chosen))
            left = {"undrawn": undrawn, "unsaid": len(here) - len(chosen) - undrawn}
            groups.append({**group(charts.CHARTS[question].title, "", []), "asked": shown, **left})
    return groups


def asked_about(f: Finding, name: str, style: Mapping[str, figures.Look]) -> Row:
    drawn = charts.drawn(f, style)
    made = None if drawn is None else chart(name, f"{f.measure} on {f.benchmark}", drawn, told([f]))
    if made and (width := re.search(r'width="(\d+)', made["svg"])):
        made["width"] = width[1]  # a figure that stands alone is never larger than it was drawn
    rows = f.table[:MOST_ROWS]
    columns = dict.fromkeys(name for row in rows for name in row)
    numeric = {c: all(isinstance(row.get(c), int | float | None) for row in rows) for c in columns}
    return {"finding": f, "chart": made, "columns": numeric, "rows": rows, "left": len(f.table) - len(rows)}


def by(items: Iterable[Item], key: Callable[[Item], str]) -> dict[str, list[Item]]:
    """Items in groups, in order of first appearance."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def told(findings: Iterable[Finding]) -> str:
    """The same in words, for whoever does not see the chart."""
    return " ".join(f"{f.subject}: {words.estimate(f)} ({words.interval(f) or 'no interval'})." for f in findings)


def shown_interval(findings: Iterable[Finding]) -> str:
    """Which interval the charts draw."""
    kinds = dict.fromkeys(i.kind for f in findings if (i := f.interval()))
    return f"Bars and bands are 95 % intervals for {' or '.join(kinds)}." if kinds else "No interval can be had."


# ---- words and tables ---------------------------------------------------------------------------------------------


def the_answer(study: Study, findings: Sequence[Finding], target: str) -> Row:
    """The answer in a sentence for each measure, and the differences that it is made of: in accuracy, or, where no
    strategy solves anything and accuracies are no answer, in bits per byte."""
    on_target = [f for f in findings if f.benchmark == target and f.unit not in RATIOS]
    measures = [m for m in MEASURES if any(f.measure == m for f in on_target)]
    solved = [f.estimate for f in on_target if f.question == "score" and f.measure == ACCURACY]
    unsolved = bool(solved) and not any(solved) and BITS_PER_BYTE in measures
    if unsolved:
        measures.reverse()
    asked, pairs = study.question, study.compare
    said = [answer(findings, asked, target, m, pairs).removeprefix(asked).strip() for m in measures]
    sentences = list(dict.fromkeys(said))  # while nothing is answered, each measure says the same
    if unsolved:
        sentences.insert(1, f"No strategy solves any problem of {target}: the numbers above are in {BITS_PER_BYTE}.")
    first = measures[0] if measures else None
    claims = [f for f in on_target if f.question == "gain" and f.measure == first]
    return {"sentences": sentences or [answer(findings, "", target, compare=pairs).strip()], "claims": claims}


def tables(findings: Sequence[Finding], target: str) -> list[Row]:
    """Findings by question, those on the target first; of a question with very many the first `MOST_NUMBERS`: the pairs
    of a swarm alone are thousands, and a page must open."""
    made = []
    for question in dict.fromkeys(f.question for f in findings):
        here = sorted((f for f in findings if f.question == question), key=lambda f: f.benchmark != target)
        title = TITLES.get(question) or (charts.CHARTS[question].title if question in charts.CHARTS else question)
        made.append({"title": title, "rows": here[:MOST_NUMBERS], "count": len(here)})
    return made


def chosen_examples(study: Study, results: Results, on_target: Sequence[Finding], target: str) -> Row | None:
    """Problems with outputs: of the best strategy at its end, the baseline beside it."""
    levels = [f for f in on_target if f.question == "score" and f.measure == ACCURACY]
    if not levels:
        return None
    best = str(max(levels, key=lambda f: f.estimate or 0.0).parts["strategy"])
    beside = study.baseline if best != study.baseline else next((s for s in study.strategies if s != best), None)
    return {"strategy": best, "beside": beside, "rows": queries.examples(results, target, best, beside)}


def cost(plan: Plan, results: Results) -> Row:
    """What was planned and what it took."""
    return {
        "parameters": plan.parameters,
        "tokens": plan.tokens,
        "training": sum(map(plan.training_flops, plan.nodes.values())),
        "evaluation": sum(map(plan.evaluation_flops, plan.nodes.values())),
        "hours": [(name, 3600 * plan.accelerator_hours(name)) for name in ACCELERATORS],
        "mfu": STATED_MFU,
        "spent": results.spent(),
        "time": queries.time_spent(results),
    }


def shortened(text: str | None) -> str:
    """The end of a long text: few-shot examples come first, the problem last."""
    text = text or ""
    return text if len(text) <= LONGEST_TEXT else f"… {text[-LONGEST_TEXT:]}"


def drawing_command(command: str) -> str:
    """What draws every figure of the study that `command` runs; the folder of the report is no option of `analyse`."""
    study = re.sub(r""" --out (?:'[^']*'|"[^"]*"|[^\s'"])+""", "", command.removeprefix("curricle run "))
    return f"curricle analyse {study} --figures figures"


def plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
