"""What the terminal says: fits 80 columns, reads without colour, and carries the same numbers as the findings."""

from __future__ import annotations

import io
import subprocess
import sys

from rich.console import Console, RenderableType

from curricle.analysis import Finding, Interval, compare_scores, published
from curricle.difference import Difference
from curricle.report import terminal, words

GOLDEN = """\
code-first   4 strategies × 3 seeds   26 stages to train, 4 done   7.69M tokens
3.1e13 FLOPs   about 5 min here

code 401k ✓ ──── math 299k 1/3 ✓ ── instruct 41k    code first
language 401k ── math 299k ──────── instruct 41k    language first
                 mixed 700k ─────── instruct 41k    code and math mixed
                 math 299k ──────── instruct 41k    from scratch (baseline)

stage     source   tokens  share  epochs  available
code      python     401k  100 %    0.07         6M
math      algebra    299k  100 %       –    endless
instruct  algebra     41k  100 %       –    endless
language  prose      401k  100 %    0.16       2.5M
mixed     algebra    301k   43 %       –    endless
          python     399k   57 %    0.07         6M

code, math, instruct, language, mixed: muon, learning rate 0.004 constant, 4.1k
tokens a batch, fp32

492k parameters   training 2.7e13 FLOPs   evaluation 4.2e12 FLOPs
under 1 s on one H100 or H200, at 40 % of its bf16 peak
about 5 min here, from a calibration on this machine"""

SHARED = """\
code 401k ┬─────────────────────────────────────────    only code
          ├─ math 299k ┬─────────────── instruct 41k    a
          │            └─ math 299k ─── instruct 41k    b
          └────────────── mixed 700k ── instruct 41k    c
                          math 299k ─── instruct 41k    base (baseline)"""


def shown(view: RenderableType, width: int = 80) -> str:
    file = io.StringIO()
    Console(file=file, width=width, no_color=True, force_terminal=False).print(view)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def test_a_plan_reads_as_promised(planned):
    plan = planned()
    done = [run for run in plan.nodes if run.startswith("code/")]
    done.append(plan.paths["code first", 0][1])
    assert shown(terminal.plan_view(plan, done, 290, "a calibration on this machine")) == GOLDEN


def test_shared_beginnings_branch(planned):
    strategies = {
        "a": ["code", "math", "instruct"], "b": ["code", "math", "math", "instruct"],
        "c": ["code", "mixed", "instruct"], "only code": ["code"], "base": ["math", "instruct"],
    }  # fmt: skip
    text = shown(terminal.plan_view(planned(strategies=strategies, baseline="base"), [], None))
    assert SHARED in text
    assert "no estimate of the time here yet" in text


def test_a_narrow_terminal_gets_an_upright_tree(planned):
    text = shown(terminal.plan_view(planned(), [], None), width=48)
    assert "└── math 299k\n    └── instruct 41k   code first" in text
    assert max(map(len, text.splitlines())) <= 48


def test_a_declared_source_is_planned_and_not_run(planned):
    sources = {"pages": {"declared": "500M", "reference": "a paper"}}
    stages = {"read": {"mixture": {"pages": 1}, "budget_tokens": "1M"}}
    plan = planned(sources=sources, stages=stages, strategies={"s": ["read"]}, baseline="s", benchmarks={})
    text = shown(terminal.plan_view(plan, [], None))
    assert "500M, declared" in text and "can be planned and not run: pages only declared" in text


def test_names_are_never_read_as_markup(planned):
    plan = planned(strategies={"[red]one[/red]": ["math"], "two": ["mixed"]}, baseline="two")
    assert "[red]one[/red]" in shown(terminal.plan_view(plan, [], None))


def test_a_stage_under_two_names_is_told(planned):
    math = {"mixture": {"algebra": 1}, "budget_tokens": 300_000}
    plan = planned(strategies={"a": ["math"], "b": ["again"]}, baseline="b", stages={"math": math, "again": math})
    text = " ".join(shown(terminal.plan_view(plan, [], None)).split())
    assert "math and again are the same stage under 2 names, and each is trained" in text
    assert "under 2 names" not in shown(terminal.plan_view(planned(), [], None))


def test_why_names_the_field():
    text = shown(terminal.why_view("math/1", "math/2", [Difference("recipe.clip", 1.0, 2.0)]), 100)
    assert "math/2 is nearest and differs in 1 field" in text
    assert "recipe.clip  1.0     2.0" in text
    assert "nothing of this stage" in shown(terminal.why_view("math/1", None, []))


def test_a_summary_fits_and_tells_the_findings(small):
    text = shown(terminal.summary_view(small.study, small.findings))
    assert max(map(len, text.splitlines())) <= 80
    words_of = " ".join(text.split())
    assert small.study.question in words_of
    for f in small.findings:
        if f.question in {"gain", "contrast", "score"} and f.benchmark == "problems":
            assert words.estimate(f).split(" ")[0] in words_of
    assert "Along math, on problems" in text and "Held-out bits per byte" in text


def test_a_summary_of_nothing_says_so(small):
    assert "Not answered yet" in shown(terminal.summary_view(small.study, []))


def test_uneven_limits_are_told_as_limits():
    f = Finding("score", "s", "accuracy", "b", 1.0, "points", (Interval(0.0, 4.0, "these weights"),))
    assert terminal.level(f) == "1.0 (0.0 to 4.0)"
    even = Finding("score", "s", "accuracy", "b", 5.0, "points", (Interval(4.0, 6.0, "these weights"),))
    assert terminal.level(even) == "5.0 ± 1.0"


def test_a_gain_between_two_numbers():
    text = shown(terminal.gain_view(compare_scores(14.3, 36.2, 5000)))
    assert "+153.1 %" in text and "+21.9 points" in text and "+20.3 to +23.5" in text
    assert "undefined" in shown(terminal.gain_view(compare_scores(0, 36.2)))


def test_published_tables_name_their_paper():
    text = shown(terminal.published_view(published()), 100)
    assert "arXiv:2402.03300, table 2: DeepSeekMath-Base 7B" in text and "+153.1 %" in text
    assert "seeds are unknown" in text


def test_an_evaluation_of_problems_and_of_text():
    summary = {
        "gsm8k": {"n": 100, "bits_per_byte": 0.7, "correct": 10, "accuracy": 0.1, "low": 0.055, "high": 0.174},
        "web": {"n": 9, "bits_per_byte": None},
    }  # fmt: skip
    text = shown(terminal.evaluation_view(summary))
    assert "5.5 to 17.4" in text and "0.700" in text and "10.0" in text


def test_quantities_as_a_person_reads_them():
    assert [words.count(n) for n in (7, 999, 1000, 401_408, 999_999, 5_500_000, 5e11)] == [
        "7", "999", "1k", "401k", "1M", "5.5M", "500B",
    ]  # fmt: skip
    assert [words.duration(s) for s in (0.2, 40, 300, 3600 * 14_737)] == ["under 1 s", "40 s", "5 min", "14,700 h"]
    assert [words.flops(f) for f in (3.14e13, 2e22, 0)] == ["3.1e13", "2e22", "0"]
    assert [words.percent(s) for s in (1, 0.43, 0.00123, 0)] == ["100 %", "43 %", "0.12 %", "0 %"]
    assert [words.size(b) for b in (12, 900_000, 18_000_000)] == ["12 B", "900 kB", "18 MB"]
    assert [words.spaced(n) for n in ("mean_low", "share_worth:arxiv_math")] == ["mean low", "share worth:arxiv_math"]
    assert words.plural(1, "strategy") == "1 strategy" and words.plural(4, "strategy") == "4 strategies"


def test_the_terminal_loads_nothing_that_draws():
    code = "import sys, curricle.report.terminal; print({'altair', 'vl_convert', 'jinja2', 'torch'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "set()"


def test_a_calibration_on_a_busy_machine_says_so():
    from curricle.report.listing import calibration_view

    def shown(both: float) -> str:
        peaks = [
            {
                "device": "cpu",
                "name": "chip",
                "threads": n,
                "flops_per_second": {"fp32": rate},
                "copy_bytes_per_second": 27e9,
            }
            for n, rate in ((1, 100e9), (2, both))
        ]
        console = Console(width=80, record=True, file=io.StringIO())
        console.print(calibration_view(peaks))
        return console.export_text()

    assert "190" in shown(190e9) and "27.0" in shown(190e9) and "idle" not in shown(190e9)
    assert "when it is idle" in shown(60e9)
