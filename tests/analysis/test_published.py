"""Golden numbers of arXiv:2402.03300."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from curricle.analysis import Finding, compare_scores, published
from curricle.study import Refused


@pytest.fixture(scope="module")
def found() -> list[Finding]:
    return published()


def values(found: list[Finding], question: str, unit: str, part: str | None = None) -> dict[str, object]:
    chosen = [f for f in found if f.question == question and f.unit == unit]
    return {f.benchmark: f.parts[part] if part else f.estimate for f in chosen}


def test_the_gain_over_mistral_on_math_is_153_percent(found: list[Finding]) -> None:
    gain = next(f for f in found if (f.question, f.benchmark, f.unit) == ("published-gain", "MATH", "%"))
    assert gain.estimate == pytest.approx(153.146, abs=1e-3)
    assert gain.n == 5000 and "seeds are unknown" in gain.note and "2402.03300, table 2" in gain.runs[0]
    assert gain.intervals[0].kind == "these weights"


def test_the_code_ablation_has_the_known_unpaired_z(found: list[Finding]) -> None:
    z = values(found, "published-code", "points", "z")
    wanted = {"GSM8K": 1.78, "MATH": 1.27, "CMATH": 1.20, "GSM8K+Py": 2.18, "MATH+Py": 4.97}
    assert {name: round(float(str(z[name])), 2) for name in wanted} == wanted


def test_the_interactions_of_code_and_mathematics_are_the_known_ones(found: list[Finding]) -> None:
    wanted = {"GSM8K": -0.2, "MATH": 0.5, "CMATH": -2.6, "GSM8K+Py": -6.0, "MATH+Py": -5.0}
    assert values(found, "published-interaction", "points") == pytest.approx(wanted)
    logit = values(found, "published-interaction", "points", "logit")
    assert round(float(str(logit["MATH"])), 2) == -0.05  # the sign changes with the scale


def test_arxiv_alone_gave_no_resolved_gain(found: list[Finding]) -> None:
    arxiv = [f for f in found if f.question == "published-arxiv" and f.unit == "points"]
    assert len(arxiv) == 36
    assert not [f for f in arxiv if f.resolved and (f.estimate or 0) > 0]


def test_a_gain_from_zero_is_undefined_and_says_why(found: list[Finding]) -> None:
    undefined = [f for f in found if f.estimate is None]
    assert {f.benchmark for f in undefined} == {"Gaokao-MathCloze"}
    assert all("P₁ = 0" in (f.undefined or "") for f in undefined)


def test_scores_without_a_number_of_problems_have_no_interval(found: list[Finding]) -> None:
    mmlu = [f for f in found if f.benchmark == "MMLU"]
    assert mmlu and all(not f.intervals and "not stated" in f.note for f in mmlu)


def test_published_findings_are_plain_json(found: list[Finding]) -> None:
    assert [
        Finding.from_json(v) for v in json.loads(json.dumps([f.to_json() for f in found], allow_nan=False))
    ] == found


def test_two_scores_are_compared_in_three_ways() -> None:
    plain = compare_scores(14.3, 36.2)
    assert plain.relative_gain_percent == pytest.approx(153.1468531)
    assert plain.absolute_points == pytest.approx(21.9)
    assert plain.error_reduction_percent == pytest.approx(100 * 21.9 / 85.7)
    assert plain.relative_interval is None and "no interval" in plain.note
    known = compare_scores(14.3, 36.2, 5000)
    assert known.relative_interval and known.relative_interval.contains(153.1)
    wrong = compare_scores(100 - 14.3, 100 - 36.2, 5000).relative_interval  # errors are scores of the other sort
    removed = known.error_reduction_interval
    assert removed and wrong and (removed.low, removed.high) == pytest.approx((-wrong.high, -wrong.low))
    assert known.to_json()["relative_gain_percent"] == plain.relative_gain_percent
    json.dumps(known.to_json(), allow_nan=False)


@pytest.mark.parametrize(("p1", "p2"), [(0.0, 5.0), (0.0, 0.0), (100.0, 100.0), (50.0, 0.0), (0.0, 100.0)])
def test_scores_at_the_ends_are_compared_without_an_error(p1: float, p2: float) -> None:
    made = compare_scores(p1, p2, 50)
    assert (made.relative_gain_percent is None) == (p1 == 0) == (made.undefined is not None)
    json.dumps(made.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("p1", "p2", "n"), [(-1.0, 5.0, None), (5.0, 101.0, None), (5.0, float("nan"), None), (5.0, 6.0, 0)]
)
def test_what_is_no_accuracy_is_refused(p1: float, p2: float, n: int | None) -> None:
    with pytest.raises(Refused):
        compare_scores(p1, p2, n)


def test_comparing_two_numbers_imports_nothing_slow() -> None:
    code = (
        "import sys; from curricle.analysis import compare_scores; compare_scores(14.3, 36.2, 5000);"
        "print([m for m in ('scipy', 'duckdb', 'pyarrow', 'torch') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
