"""Designs found in rows: what a question needs is recognised where it was run, and refused where it was not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from curricle.analysis import Asked, ask
from curricle.cli import app
from curricle.report.charts import CHARTS, drawn
from curricle.results import EVALUATIONS, MIXTURES, RUNS, SCORES, STEPS, Results, write_rows

Stage = tuple[str, dict[str, int]]  # name, tokens of each source
MADE = {
    "code": {"kind": "installed"},
    "prose": {"kind": "installed"},
    "unnamed": {"kind": "counterfactual", "made_from": "code", "take": "meaning"},
    "flat": {"kind": "counterfactual", "made_from": "code", "take": "nesting"},
    "drill": {"kind": "procedural"},
}
QUESTIONS = ("why-code", "ranks", "critical-share")


def study(
    folder: Path, arms: dict[str, list[Stage]], score: Callable[[str, str, int, int], float | None],
    benchmarks: dict[str, str], flops_per_token: Callable[[str], float] = lambda name: 6.0, seeds: int = 3,
) -> Results:  # fmt: skip
    """Rows of a study: `score` says what a strategy scores on a benchmark after so many of its stages, in a seed."""
    folder.mkdir(exist_ok=True)
    runs, mixtures, scores = [], [], []
    for strategy, stages in arms.items():
        for seed in range(seeds):
            before = 0
            for position, (stage, doses) in enumerate(stages):
                tokens, run = sum(doses.values()), f"{stage}/{strategy}-{seed}"
                runs.append(
                    {"study": "made", "strategy": strategy, "baseline": strategy == next(iter(arms)), "seed": seed,
                     "position": position, "stage": stage, "kind": "pretrain", "run": run, "budget_tokens": tokens,
                     "tokens_before": before, "training_flops": flops_per_token(strategy) * tokens}
                )  # fmt: skip
                mixtures += [
                    {"run": run, "until_tokens": tokens, "source": name, "share": dose / tokens, **MADE.get(name, {})}
                    for name, dose in doses.items()
                ]
                before += tokens
                for benchmark, kind in benchmarks.items():
                    value = score(strategy, benchmark, position, seed)
                    if value is not None:
                        scores.append(
                            {"run": run, "tokens": tokens, "final": True, "benchmark": benchmark, "kind": kind,
                             "measure": "bits per byte", "score": value + 0.001 * seed}
                        )  # fmt: skip
    tables = {"runs": (runs, RUNS), "mixtures": (mixtures, MIXTURES), "scores": (scores, SCORES)}
    for name, (rows, schema) in (tables | {"evaluations": ([], EVALUATIONS), "steps": ([], STEPS)}).items():
        write_rows(folder / f"{name}.parquet", rows, schema)
    return Results(folder)


def one(results: Results, question: str, target: str | None = None):
    (answer,) = ask(Asked(results, target=target), [question])
    return answer


# ---- why code -----------------------------------------------------------------------------------------------------

FIRST = {"with code": "code", "with prose": "prose", "no names": "unnamed", "no nesting": "flat", "drills": "drill"}
LOSS = {"with code": 1.0, "with prose": 1.4, "no names": 1.1, "no nesting": 1.25, "drills": 1.35}


def code_study(folder: Path, left_out: tuple[str, ...] = ()) -> Results:
    arms = {
        name: [("first", {source: 1000}), ("math", {"algebra": 500})]
        for name, source in FIRST.items()
        if name not in left_out
    }
    return study(folder, arms, lambda s, b, p, k: LOSS[s] + 0.0007 * ((k * len(s)) % 3), {"gsm": "problems"})


def test_sources_without_a_property_of_code_are_read_as_arms(tmp_path):
    found = one(code_study(tmp_path), "why-code").findings
    assert [round(f.estimate, 2) for f in found] == [0.4, 0.1, 0.25]
    assert found[0].subject == "with code over with prose"
    what = {row["what"]: row["effect"] for row in found[0].table}
    assert what["procedural text"] == pytest.approx(0.05, abs=0.01)
    assert found[0].question in CHARTS and drawn(found[0]) is not None


def test_why_code_is_refused_without_such_sources_and_without_a_filler(tmp_path):
    plain = code_study(tmp_path / "a", left_out=("no names", "no nesting"))
    assert "sources.NAME.counterfactual" in one(plain, "why-code").refused
    unfilled = code_study(tmp_path / "b", left_out=("with prose",))
    assert "other text in a third" in one(unfilled, "why-code").refused


# ---- ranks --------------------------------------------------------------------------------------------------------


def swarm(folder: Path, mixtures: int, scale: int, flops: float) -> Results:
    """Each mixture at two sizes, a strategy each; the larger size orders them alike."""
    arms = {
        f"{size} {k}": [("train", {"web": 100 * k * times, "code": 100 * (10 - k) * times})]
        for size, times in (("small", 1), ("large", scale))
        for k in range(1, mixtures + 1)
    }
    return study(
        folder, arms, lambda s, b, p, k: float(s.split()[1]) * 0.1 + (0.5 if s.startswith("small") else 0.0),
        {"web text": "held-out"}, flops_per_token=lambda s: flops if s.startswith("large") else 6.0,
    )  # fmt: skip


@pytest.mark.parametrize(("scale", "flops"), [(4, 6.0), (1, 60.0)], ids=["a longer budget", "a larger model"])
def test_the_same_mixtures_at_two_sizes_are_ranked(tmp_path, scale, flops):
    ranks, accuracy = one(swarm(tmp_path, 6, scale, flops), "ranks").findings
    assert ranks.estimate == pytest.approx(1.0) and accuracy.estimate == pytest.approx(100.0)
    assert ranks.parts["large"] == pytest.approx(max(4 * 6.0, flops if scale == 1 else 24.0) * 1000)
    assert ranks.parts["candidates"] == 6 and all(row["candidate"].startswith("large") for row in ranks.table)
    assert drawn(ranks) is not None


def test_ranks_are_refused_with_one_size_and_with_few_mixtures(tmp_path):
    for results in (swarm(tmp_path / "a", 3, 4, 6.0), swarm(tmp_path / "b", 6, 1, 6.0)):
        assert "4 mixtures of one stage that were each trained at two sizes" in one(results, "ranks").refused


# ---- the critical share -------------------------------------------------------------------------------------------


def replay(folder: Path, budgets: tuple[int, ...] = (1000, 4000), scored_before: bool = True) -> Results:
    """A stage of web text, then one of mathematics with some of the web text in it again; what is forgotten grows with
    the share of mathematics, and with the budget."""
    arms = {
        f"{share} % for {budget}": [
            ("web", {"web": 2000}),
            ("math", {"algebra": budget * share // 100, "web": budget * (100 - share) // 100}),
        ]
        for budget in budgets
        for share in (50, 80, 95)
    }

    def score(strategy: str, benchmark: str, position: int, seed: int) -> float | None:
        if position == 0:
            return 1.0 if scored_before else None
        share, budget = int(strategy.split()[0]) / 100, int(strategy.split()[-1])
        return 1.0 + 0.1 * (share - 0.5) * (2 if budget > 1000 else 1) + 0.0007 * ((seed * budget) % 3)

    return study(folder, arms, score, {"web": "held-out", "algebra": "held-out"})


def test_the_critical_share_is_found_at_each_budget(tmp_path):
    found = one(replay(tmp_path), "critical-share", target="algebra").findings
    assert len(found) == 2 and all(f.parts["share_of"] == "algebra" and f.benchmark == "web" for f in found)
    short, long = (f.estimate for f in found)
    assert short == pytest.approx(80, abs=3) and long == pytest.approx(65, abs=3)
    assert len({f.subject for f in found}) == 2, "which budget it is about stands in the subject"
    assert drawn(found[0]) is not None


def test_the_critical_share_is_refused_where_its_start_was_not_scored_or_nothing_varies(tmp_path):
    assert one(replay(tmp_path / "a", scored_before=False), "critical-share").refused
    assert "replay" in one(swarm(tmp_path / "b", 1, 4, 6.0), "critical-share").refused


def test_the_questions_are_reached_from_the_command(tmp_path):
    code_study(tmp_path)
    asked = [part for q in QUESTIONS for part in ("--question", q)]
    made = json.loads(CliRunner().invoke(app, ["analyse", str(tmp_path), "--json", *asked]).stdout)
    answered = {q["question"]: (q["findings"], q["refused"]) for q in made["questions"]}
    assert set(answered) == set(QUESTIONS) and answered["why-code"][0] == 3
    assert all(refused for name, (_, refused) in answered.items() if name != "why-code")
