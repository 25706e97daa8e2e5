"""What is shown while runs train: the speed, and its share of the machine's peak where that is known."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console
from tiny_study import tiny, write_study

from curricle import progress
from curricle.progress import Training
from curricle.report.words import count
from curricle.running.preparation import make_plan
from curricle.running.work import Message
from curricle.studyfile import load_study


@pytest.fixture
def plan(study, tmp_path):
    return make_plan(study, tmp_path / "store")


def test_the_speed_is_a_share_of_the_peak_of_the_run_s_own_precision(plan):
    node = next(iter(plan.nodes.values()))
    flops_a_token = plan.training_flops(node) / node.tokens
    shown = Training(Console(), plan, frozenset(), {"fp32": 4000 * flops_a_token, "bf16": 1.0})
    assert shown.speed(node, 1000.0) == "1,000 tokens/s  MFU 25%"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, ""), (65.9, "1:05 left"), (86_399, "1439:59 left"), (86_400, "1 d 0 h left"), (435_600, "5 d 1 h left")],
)
def test_the_time_left_is_told_in_days_and_hours_from_a_day_on(seconds, said):
    assert progress.Left().render(SimpleNamespace(time_remaining=seconds)).plain == said


def test_without_a_measured_peak_only_the_speed_is_said(plan):
    node = next(iter(plan.nodes.values()))
    assert Training(Console(), plan, frozenset()).speed(node, 1000.0) == "1,000 tokens/s"
    assert Training(Console(), plan, frozenset(), {"bf16": 1.0}).speed(node, 1000.0) == "1,000 tokens/s"


def test_a_run_that_another_process_holds_is_not_said_to_be_evaluated(plan):
    console = Console(force_terminal=True, quiet=True)
    shown, run = Training(console, plan, frozenset()), next(iter(plan.nodes))
    with shown.shown():
        shown(Message("held", run))
        assert shown._bar.tasks[-1].fields["note"] == "held by another process"
        shown(Message("evaluating", run, 512))
        shown(Message("held", run))
        assert shown._bar.tasks[-1].completed == 512


def test_a_log_hears_of_a_run_where_it_begins_and_once_a_minute_after_that(plan, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    shown, (run, node) = Training(Console(file=out, width=200), plan, frozenset()), next(iter(plan.nodes.items()))
    with shown.shown():
        for seconds, tokens in ((1, node.tokens_at(1) / node.tokens), (61, 0.5), (70, 0.6), (125, 0.75)):
            now[0] = 1000.0 + seconds
            shown(Message("step", run, round(tokens * node.tokens), 2.5, 1000.0))
    lines = out.getvalue().splitlines()
    assert lines.pop(0) == f"  {node.stage}, seed {node.seed} begins: {count(node.tokens)} tokens"
    assert [line.split()[-2:] for line in lines] == [["61", "s"], ["125", "s"]]
    assert "50%  loss 2.500  1,000 tokens/s" in lines[0] and run in lines[0] and "75%" in lines[1]


def test_a_log_says_of_a_resumed_run_that_it_goes_on(plan):
    out = io.StringIO()
    shown, (run, node) = Training(Console(file=out, width=200), plan, frozenset()), next(iter(plan.nodes.items()))
    with shown.shown():
        shown(Message("step", run, node.tokens // 2, 2.5, 1000.0))
    assert "goes on at 50% of" in out.getvalue() and "begins" not in out.getvalue()


def test_an_evaluation_has_a_line_with_what_has_changed_since_the_run_began(plan):
    out = io.StringIO()
    run, node = next((run, node) for run, node in plan.nodes.items() if node.stage == "math")
    shown = Training(Console(file=out, width=200), plan, frozenset())
    scores = {"code": 1.931, "math": 0.84, "new": 2.0}
    with shown.shown():
        shown(Message("evaluated", run, node.tokens // 2, bits_per_byte=scores, change={"code": 0.12, "math": -1.35}))
    assert out.getvalue().strip() == (
        "math (code first), seed 0 at 50%: bits per byte code 1.93 (+.12), math 0.84 (-1.35), new 2.00"
    )


def test_a_terminal_has_one_thing_that_moves():
    console = Console(force_terminal=True, file=io.StringIO())
    with progress.doing(console, "looking") as done:
        assert list(progress.Reading(console, done)("code", [1, 2])) == [1, 2]
        assert "2 documents" in console.file.getvalue()


def test_no_two_runs_have_the_same_words_before_them_in_a_log(tmp_path):
    fields = tiny(seeds=[0, 1])
    fields["stages"]["math"]["sweep"] = [1e-3, 4e-3]
    swept = make_plan(load_study(write_study(tmp_path, fields)), tmp_path / "store")
    starts = set()
    for run, node in swept.nodes.items():
        out = io.StringIO()
        shown = Training(Console(file=out, width=200), swept, frozenset())
        with shown.shown():
            for kind in ("step", "evaluated", "failed", "stopped"):
                shown(Message(kind, run, node.tokens, bits_per_byte={"code": 2.0}, text="broken"))
        lines = [line.strip(" ✗!") for line in out.getvalue().splitlines()]
        assert len({line[: line.index(f"seed {node.seed}")] for line in lines}) == 1, lines
        starts.add(lines[0])
    assert len(starts) == len(swept.nodes) and "math (code first [math 0.001]), seed 1" in "".join(starts), starts
    assert sum(start.startswith("code, seed 0 ") for start in starts) == 1  # no longer than it need be


def test_where_the_time_went_is_summed_over_stages_and_says_nothing_that_was_not_noted():
    one = {"training_seconds": 2.0, "data_seconds": 0.5, "save_seconds": None, "evaluation_seconds": None}
    other = {"training_seconds": 3.0, "data_seconds": None, "save_seconds": None, "evaluation_seconds": 1.0}
    told = progress.time_line([one, other])
    assert told.endswith(": 5.0 s steps, 0.5 s waiting for data, 1.0 s evaluation") and progress.time_line([]) == ""
