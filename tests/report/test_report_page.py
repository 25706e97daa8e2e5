"""The page as text: hostile words stay words, numbers are those of the results, little data makes a page as well."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from dataclasses import replace
from pathlib import Path

import altair as alt
import pytest

from curricle.analysis import Finding
from curricle.report import charts, figures, page, queries, words
from curricle.report.flow import flow
from curricle.results import SCHEMAS, Results, write_rows
from curricle.study import Study


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def without_bundle(text: str) -> str:
    return re.sub(r'<script type="text/plain" id="vega">.*?</script>', "", text, flags=re.DOTALL)


def test_the_page_names_no_place_on_the_network(small):
    text = without_bundle(text_of(small.page))
    outside = set(re.findall(r"https?://[^\s\"'<>)]+", text))
    assert all(url.startswith(("http://www.w3.org/", "https://vega.github.io/schema/")) for url in outside)
    assert not re.search(r"""(src|href)=["'](?!#|data:)""", text)
    assert "default-src &#39;none&#39;" in text


def test_the_page_is_smaller_than_two_megabytes_and_its_bundle_is_whole(small):
    assert small.page.stat().st_size < 2_000_000
    assert gzip.decompress(base64.b64decode(page.packed(page.vega_bundle()))).decode() == page.vega_bundle()


def test_hostile_names_and_outputs_stay_text(made, hostile, tmp_path):
    strategies = {hostile: ["code", "math"], "[bold]plain": ["math"]}
    changes = {"strategies": strategies, "baseline": "[bold]plain", "question": hostile, "seeds": [0]}
    m = made(
        tmp_path, changes, output=hostile,
        study_text=hostile, command=hostile, receipt={hostile: hostile},
        catalogue={"python": {"documents": 1, "bytes": 1, "removed": {hostile: 1},
                              "removed_examples": [{"id": hostile, "benchmark": hostile, "evidence": hostile}]}},
    )  # fmt: skip
    text = without_bundle(text_of(m.page))
    assert "<img" not in text and "<script>alert" not in text
    assert text.count("</script>") == text.count("<script") == 1 + len(re.findall('class="chart"', text))
    assert html.escape(hostile).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in text
    specs = re.findall(r'<script type="application/json">(.*?)</script>', text, flags=re.DOTALL)
    colored = [first["encoding"]["color"] for s in specs if "color" in (first := json.loads(s)["layer"][0])["encoding"]]
    domains = [color["scale"]["domain"] for color in colored if "domain" in (color.get("scale") or {})]
    assert len([domain for domain in domains if hostile in domain]) >= 5


def test_scores_on_the_page_equal_a_query_on_the_results(small):
    text = text_of(small.page)
    rows = small.results.sql(
        """
        SELECT strategy, avg(score) AS score FROM (
            SELECT strategy, e.run, 100 * avg(correct::INT) AS score FROM runs r JOIN evaluations e ON e.run = r.run
            WHERE benchmark = 'problems' AND final AND r.stage = 'instruct' GROUP BY ALL
        ) GROUP BY strategy
        """
    )
    assert len(rows) == 4
    shown = [float(value) for value in re.findall(r'<data value="([^"]+)">', text)]
    for row in rows:
        assert any(value == pytest.approx(row["score"]) for value in shown), row


def test_every_finding_stands_in_the_page_with_its_runs(small):
    text = text_of(small.page)
    for f in small.findings:
        assert f.estimate is None or f'<data value="{f.estimate}">' in text
        assert all(run in text for run in f.runs)


def test_bits_per_byte_of_single_seeds_average_to_the_finding(small):
    rows = [r for r in queries.seed_scores(small.results, "prose") if r["final"] and r["last"]]
    scores = {f.subject: f.estimate for f in small.findings if f.question == "score" and f.benchmark == "prose"}
    for strategy, estimate in scores.items():
        mine = [r["bits_per_byte"] for r in rows if r["strategy"] == strategy]
        assert sum(mine) / len(mine) == pytest.approx(estimate, rel=1e-3)


def test_loss_curves_keep_the_last_step_and_few_points(small):
    rows = queries.losses(small.results)
    assert {row["run"] for row in rows} == set(small.plan.nodes)
    for run, node in small.plan.nodes.items():
        mine = [row["tokens"] for row in rows if row["run"] == run]
        assert mine[-1] == node.tokens and len(mine) <= 2 * queries.LOSS_POINTS


def test_a_run_whose_loss_ends_above_its_first_and_above_a_guess_is_named(small, written, tmp_path):
    risen, fallen, low, left = list(small.plan.nodes)[:4]
    ways = {risen: (5.0, 9.0), fallen: (9.0, 7.0), low: (1.0, 3.0), left: (5.0, 9.0)}  # a guess: ln 512 = 6.24
    tables = {name: small.results.sql(f"SELECT * FROM {name}") for name in SCHEMAS}
    for row in tables["steps"]:
        if row["run"] in ways:
            row["loss_nats"] = ways[row["run"]][row["step"] > 1]
    last = small.plan.nodes[left].steps
    tables["steps"] = [row for row in tables["steps"] if (row["run"], row["step"]) != (left, last)]
    for name, schema in SCHEMAS.items():
        write_rows(tmp_path / f"{name}.parquet", tables[name], schema)
    results = Results(tmp_path)
    assert list(queries.learnt_nothing(results, 512)) == [risen]
    assert queries.learnt_nothing(small.results, 512) == {}
    text = text_of(written(tmp_path, small.study, small.plan, results))
    section = text[text.index("<h2>Training loss</h2>") :].split("</section>")[0]
    assert f"{risen}: its loss ends at 9.00 nats per token, above its first (5.00) and above that of a" in section


def test_steps_that_the_guard_skipped_are_counted_by_run_and_nothing_is_said_where_there_are_none(
    small, written, tmp_path
):
    skipping, left, other = list(small.plan.nodes)[:3]
    tables = {name: small.results.sql(f"SELECT * FROM {name}") for name in SCHEMAS}
    for row in tables["steps"]:
        if row["run"] in {skipping, left} and row["step"] in {2, 5}:
            row["guard"] = "loss 9 is 7.0 sigma above its last 128"
    last = small.plan.nodes[left].steps
    tables["steps"] = [row for row in tables["steps"] if (row["run"], row["step"]) != (left, last)]
    for name, schema in SCHEMAS.items():
        write_rows(tmp_path / f"{name}.parquet", tables[name], schema)
    results, steps = Results(tmp_path), small.plan.nodes[skipping].steps
    said = f"the loss guard skipped 2 of the {steps:,} steps of {skipping}; curricle explain {skipping} --step 5 shows"
    found = queries.skipped(results)
    assert [row["run"] for row in found] == [skipping]
    assert queries.skipped_in_words(found).startswith(said) and queries.skipped(small.results) == []
    text = text_of(written(tmp_path, small.study, small.plan, results))
    section = text[text.index("<h2>Training loss</h2>") :].split("</section>")[0]
    assert said in section and other not in section and "<summary>2 steps of 1 run were skipped</summary>" in section
    assert "were skipped" not in text_of(written(tmp_path, small.study, small.plan, small.results))


def test_steps_skipped_in_many_runs_are_one_sentence_and_a_table_to_unfold(small, written, tmp_path):
    tables = {name: small.results.sql(f"SELECT * FROM {name}") for name in SCHEMAS}
    runs = list(small.plan.nodes)
    for row in tables["steps"]:
        if row["step"] == 2 or (row["run"], row["step"]) == (runs[1], 3):
            row["guard"] = "loss 9 is 7.0 sigma above its last 128"
    for name, schema in SCHEMAS.items():
        write_rows(tmp_path / f"{name}.parquet", tables[name], schema)
    results = Results(tmp_path)
    found = queries.skipped(results)
    said = queries.skipped_in_words(found)
    assert said.startswith(f"the loss guard skipped {len(found) + 1} steps in {len(found)} runs, at most 2 of ")
    assert said.count("curricle explain") == 1 and f"explain {runs[1]} --step 3" in said
    text = text_of(written(tmp_path, small.study, small.plan, results))
    section = text[text.index("<h2>Training loss</h2>") :].split("</section>")[0]
    assert said in section and not any(run in section.split("<details>")[0] for run in runs)
    assert all(f"<code>{row['run']}</code>" in section for row in found)


def test_where_nothing_is_solved_the_answer_is_in_bits_per_byte_and_says_so(small):
    scores = [f for f in small.findings if f.question == "score" and f.measure == "accuracy"]
    target, said = small.study.answer_target, "No strategy solves any problem of"
    usual = page.the_answer(small.study, small.findings, target)
    assert {f.measure for f in usual["claims"]} == {"accuracy"} and said not in " ".join(usual["sentences"])
    nothing = [replace(f, estimate=0.0) if f in scores else f for f in small.findings]
    answered = page.the_answer(small.study, nothing, target)
    assert {f.measure for f in answered["claims"]} == {"bits per byte"} and len(answered["claims"]) == 3
    assert "(bits per byte;" in answered["sentences"][0] and answered["sentences"][1].startswith(f"{said} {target}")
    without_losses = [f for f in nothing if f.measure == "accuracy" or f.benchmark != target]
    assert {f.measure for f in page.the_answer(small.study, without_losses, target)["claims"]} == {"accuracy"}


def test_examples_show_solved_and_unsolved_of_the_same_seed(small):
    rows = queries.examples(small.results, "problems", "code first", "from scratch")
    assert [row["correct"] for row in rows] == [True] * 3 + [False] * 3
    assert {row["seed"] for row in rows} == {0}
    assert all(row["other_strategy"] == "from scratch" for row in rows)


def test_a_shared_stage_is_drawn_once(planned):
    shared = {"a": ["code", "math"], "b": ["code", "language"], "c": ["code"]}
    layout = flow(planned(strategies=shared, baseline="a"))
    assert [box.stage for box in layout.boxes] == ["code", "math", "language"]
    assert layout.boxes[0].strategies == ("a", "b", "c") and len(layout.boxes[0].runs) == 3
    assert {(end.strategy, layout.boxes[end.box].stage) for end in layout.ends} == {
        ("a", "math"), ("b", "language"), ("c", "code"),
    }  # fmt: skip


def test_a_study_of_one_strategy_and_one_seed_without_problems_makes_a_page(made, tmp_path):
    changes = {"strategies": {"only": ["code"]}, "baseline": "only", "seeds": [4], "benchmarks": {}}
    text = text_of(made(tmp_path, changes, catalogue={}, receipt={}).page)
    assert "Not answered yet" in text
    assert 'id="examples"' not in text
    assert "1 strategy · 1 seed" in text


def test_a_page_without_findings_and_with_undefined_ones(made, tmp_path):
    undefined = Finding(
        "gain", "code first over from scratch", "accuracy", "problems", None, "%",
        undefined="P₁ = 0: nothing to divide by", parts={"strategy": "code first", "against": "from scratch"},
    )  # fmt: skip
    assert "Not answered yet" in text_of(made(tmp_path / "none", {"seeds": [0]}, findings=[]).page)
    plain = Finding(
        "gain", "code first over from scratch", "accuracy", "problems", None, "points", undefined="nobody was asked",
        parts={"strategy": "code first", "against": "from scratch"},
    )  # fmt: skip
    text = text_of(made(tmp_path / "undefined", {"seeds": [0]}, findings=[undefined, plain]).page)
    assert "P₁ = 0: nothing to divide by" in text and "nobody was asked" in text


def test_figures_are_saved_as_files(small, tmp_path):
    style = figures.looks(list(small.study.strategies), small.study.baseline)
    ends = [f for f in small.findings if f.benchmark == "problems"]
    chart = figures.curve(ends, queries.seed_scores(small.results, "problems"), style, "math", "accuracy", legend=True)
    figures.save(chart, tmp_path / "curve.svg")
    figures.save(chart, tmp_path / "curve.png")
    assert "code first" in text_of(tmp_path / "curve.svg")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"\.svg or \.png"):
        figures.save(chart, tmp_path / "curve.pdf")


def test_a_stage_that_stands_twice_has_two_columns(made, tmp_path):
    strategies = {"twice": ["code", "math", "math"], "once": ["math"]}
    m = made(tmp_path, {"strategies": strategies, "baseline": "once", "seeds": [0]})
    layout = flow(m.plan)
    assert layout.column_names() == [["code"], ["math"], ["math"]]
    style = figures.looks(list(strategies), "once")
    columns = {(s, box.position): box.column for box in layout.boxes for s in box.strategies}
    held = [f for f in m.findings if f.question == "held-out" and f.benchmark == "prose"]
    spec = figures.forgetting(held, style, layout.column_names(), columns).to_dict()
    values = spec["data"]["values"]
    assert [len([v for v in values if v["strategy"] == "twice" and v["column"] == c]) for c in range(3)] == [1, 1, 1]
    assert [v["column"] for v in values if v["strategy"] == "once"] == [2]


def test_a_strategy_that_swept_learning_rates_is_drawn_in_every_chart(small, made, tmp_path):
    stages = small.study.model_dump(mode="json", exclude_unset=True)["stages"]
    stages["math"]["sweep"] = [1e-3, 4e-3]
    text = text_of(made(tmp_path, {"stages": stages, "seeds": [0]}).page)
    for title in ("Strategies side by side", "What was learnt and what was forgotten",
                  "Held-out text along training"):  # fmt: skip
        section = text[text.index(f"<h2>{title}</h2>") :].split("</section>")[0]
        specs = re.findall(r'<script type="application/json">(.*?)</script>', section, flags=re.DOTALL)
        drawn = {v["strategy"] for spec in specs for v in rows_of(json.loads(spec))}
        assert drawn == set(small.study.strategies), title


def rows_of(spec: dict) -> list[dict]:
    """Every row that a chart draws."""
    rows = list(spec.get("data", {}).get("values", []))
    rows += [row for named in spec.get("datasets", {}).values() for row in named]
    return rows + [row for layer in spec.get("layer", []) for row in rows_of(layer)]


def test_strategies_look_different_and_the_baseline_is_grey():
    style = figures.looks(["a", "base", "b", "c"], "base")
    assert style["base"].color == figures.BASELINE_COLOR
    assert len({look.shape for look in style.values()}) == len({look.color for look in style.values()}) == 4


def test_a_study_that_has_only_begun_makes_a_page(small, tmp_path):
    empty = write_nothing(tmp_path / "results")
    page.write(
        tmp_path / "report.html", study=small.study, plan=small.plan, results=empty, findings=[], catalogue={},
        receipt={}, command="curricle run", study_text="",
    )  # fmt: skip
    text = text_of(tmp_path / "report.html")
    assert "Not answered yet" in text and "0 runs" in text


def write_nothing(folder: Path) -> Results:
    for name, schema in SCHEMAS.items():
        write_rows(folder / f"{name}.parquet", [], schema)
    return Results(folder)


def test_held_out_text_is_drawn_along_training_with_every_point(small):
    style = figures.looks(list(small.study.strategies), small.study.baseline)
    here = [f for f in small.findings if f.benchmark == "prose" and f.question in {"held-out", "held-out-curve"}]
    values = figures.along(here, style).to_dict()["data"]["values"]
    mine = [v["tokens"] for v in values if v["strategy"] == "code first"]
    plan = small.plan
    code, math, instruct = (plan.nodes[run] for run in plan.paths["code first", 0])
    ends = [code.tokens, code.tokens + math.tokens, code.tokens + math.tokens + instruct.tokens]
    on_the_way = [code.tokens + math.tokens_at(step) for step in math.evaluate_at[:-1]]
    assert sorted(mine) == sorted(ends + on_the_way) and mine == sorted(mine)
    assert "Held-out text along training" in text_of(small.page)


def luck(finding: Finding) -> alt.LayerChart:
    """A figure that only these tests know."""
    bars = alt.Chart(alt.Data(values=list(finding.table))).encode(x="drawn:Q", y="of:N")
    return figures._finished(bars.mark_rule() + bars.mark_point())


def asked(hostile: str = "one source") -> list[Finding]:
    table = tuple({"of": hostile if i else "other", "drawn": i / 3, "held": None} for i in range(4))
    about = ("luck", f"luck of {hostile}", "accuracy", "problems")
    made = Finding(*about, 12.5, "points", parts={"k": 2.25, hostile: hostile}, table=table, n=9)
    return [made, replace(made, estimate=None, undefined=f"too little: {hostile}")]


@pytest.mark.slow
def test_a_question_with_a_figure_has_a_section_with_its_sentence_and_its_table(small, written, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MOST_DRAWN", 2)
    monkeypatch.setitem(charts.CHARTS, "luck", charts.Chart("How much is luck", f"{__name__}:luck"))
    findings = [*small.findings, *asked()]
    text = text_of(written(tmp_path, small.study, small.plan, small.results, findings=findings))
    section = text[text.index("<h2>How much is luck</h2>") : text.index('<section id="numbers">')]
    assert all(f.sentence() in section for f in asked())
    assert section.count('class="chart"') == 2 and '<td class="n">0.3333</td>' in section and "–</td>" in section
    assert (
        "How much is luck (2)" in text and '<a href="#group' in text and section.count("<dt>k</dt><dd>2.25</dd>") == 2
    )
    plain = text_of(written(tmp_path, small.study, small.plan, small.results, findings=small.findings))
    assert "How much is luck" not in plain


def test_what_is_not_known_is_left_out_of_a_sentence_on_the_page():
    known, unknown = asked()[0], replace(asked()[0], n=0)
    assert words.sentence(known) == known.sentence() and "n = 9" in words.sentence(known)
    assert "unknown" not in words.sentence(unknown) and words.sentence(unknown).endswith("12.5 points.")


@pytest.mark.parametrize(
    ("run", "draw"),
    [
        ("curricle run code-first", "curricle analyse code-first --figures figures"),
        ("curricle run a.yaml --out 'my runs' --set seeds=[0]",
         "curricle analyse a.yaml --set seeds=[0] --figures figures"),
    ],
)  # fmt: skip
def test_the_pointer_to_all_figures_is_a_whole_command(run, draw):
    assert page.drawing_command(run) == draw


def test_a_legend_lists_what_its_charts_draw_and_nothing_else(small):
    text = text_of(small.page)
    section = text[text.index("<h2>Along the tokens of math</h2>") :].split("</section>")[0]
    legend = section[section.index('<ul class="legend"') :].split("</ul>")[0]
    assert all(name in legend for name in ("code first", "language first", "from scratch"))
    assert "code and math mixed" not in legend


@pytest.mark.slow
def test_a_question_with_many_findings_draws_the_first_and_says_how_many_more(small, written, tmp_path, monkeypatch):
    monkeypatch.setitem(charts.CHARTS, "luck", charts.Chart("How much is luck", f"{__name__}:luck"))
    many = [replace(asked()[0], subject=f"luck {i}") for i in range(page.MOST_DRAWN + 3)]
    text = text_of(written(tmp_path, small.study, small.plan, small.results, findings=[*small.findings, *many]))
    assert text.count('id="asked0-') - text.count('id="asked0-0-') >= page.MOST_DRAWN
    assert "3 more figures of this question" in text
    assert all(f"luck {i}" in text for i in range(len(many)))


@pytest.mark.slow
def test_what_has_no_figure_is_counted_and_said_once(small, written, tmp_path, monkeypatch):
    monkeypatch.setitem(charts.CHARTS, "luck", charts.Chart("How much is luck", f"{__name__}:luck"))
    first, _ = asked()
    many = [replace(first, subject=f"luck {i}", table=() if i != 4 else first.table) for i in range(7)]
    text = text_of(written(tmp_path, small.study, small.plan, small.results, findings=[*small.findings, *many]))
    section = text[text.index("<h2>How much is luck</h2>") : text.index('<section id="numbers">')]
    assert section.count('class="chart"') == 1 and "luck 4, accuracy" in section and "luck 0, accuracy" not in section
    assert "6 more findings of this question without a figure" in section and "more figure" not in section


@pytest.mark.slow
def test_a_swarm_s_thousands_of_pairs_are_counted_and_not_all_written_out(small, written, tmp_path):
    pair = next(f for f in small.findings if f.question == "contrast")
    many = [replace(pair, subject=f"mix {i} over mix {i + 1}") for i in range(page.MOST_NUMBERS + 40)]
    text = text_of(written(tmp_path, small.study, small.plan, small.results, findings=[*small.findings, *many]))
    text = text[text.index('<section id="numbers">') :]
    assert f"The first {page.MOST_NUMBERS}; <code>findings.json</code>" in text
    assert "mix 0 over mix 1" in text and f"mix {page.MOST_NUMBERS + 30} over" not in text


def test_hostile_words_in_a_question_s_findings_stay_text(small, written, hostile, tmp_path, monkeypatch):
    monkeypatch.setitem(charts.CHARTS, "luck", charts.Chart("How much is luck", f"{__name__}:luck"))
    findings = [*small.findings, *asked(hostile)]
    text = without_bundle(text_of(written(tmp_path, small.study, small.plan, small.results, findings=findings)))
    assert "<img" not in text and "<script>alert" not in text
    assert text.count("</script>") == text.count("<script") == 1 + len(re.findall('class="chart"', text))


def test_the_page_says_where_the_time_went(small):
    text = text_of(small.page)
    table = text[text.index("Where the time went") :]
    for row in queries.time_spent(small.results):
        assert f"{row['training_seconds']:,.1f}" in table and row["mfu"] is None
    assert "–</td>" in table


def test_the_ledger_of_a_proxy_has_its_subsamples_and_the_target_s_epochs(small, written, tmp_path):
    study = Study.model_validate(small.study.model_dump(exclude_unset=True) | {"proxy": {"of_tokens": "1T"}})
    sources = small.plan.catalogue.sources
    cut = replace(sources["python"], tokens=1_234_567, whole_tokens=sources["python"].tokens)
    catalogue = replace(small.plan.catalogue, sources={**sources, "python": cut})
    plan = replace(small.plan, study=study, catalogue=catalogue)
    page = written(tmp_path, study, plan, small.results).read_text()
    assert "target epochs</th>" in page and "1,234,567</td>" in page
    assert "target epochs</th>" not in small.page.read_text()
