"""What is proposed where no rows answer a question: the runs that would, as changes of the study."""

from __future__ import annotations

from itertools import product

from written import Point, Stage, study

from curricle.analysis.proposals.next_runs import NOT_HERE, OPEN, next_runs


def test_the_order_proposed_differs_from_one_that_was_run_in_the_order_alone(tmp_path):
    def score(strategy: str, seed: int, position: int, part: float) -> list[Point]:
        return [("gsm", "problems", "accuracy", 20.0 + 5 * seed + len(strategy))]

    tune: Stage = ("tune", "instruct", {"chat": 1000})
    code, math = ("code", "pretrain", {"code": 500}), ("math", "pretrain", {"math": 300})
    made = study(tmp_path, {"code first": [code, math, tune], "scratch": [math, tune]}, score)
    (proposal,) = [p for p in next_runs(made, tokens=1e6).proposals if "phases" in p.question]
    assert proposal.runs == "math → code → tune, 2 seeds" and '["math", "code", "tune"]' in proposal.how
    assert proposal.tokens == 2 * (500 + 1000)  # the other strategy begins with the same mathematics


def test_a_contrast_of_one_seed_is_proposed_with_seeds_enough_for_an_interval(tmp_path):
    def score(strategy: str, seed: int, position: int, part: float) -> list[Point]:
        return [("gsm", "problems", "accuracy", 20.0 + len(strategy))]

    code, math = ("code", "pretrain", {"code": 500}), ("math", "pretrain", {"math": 300})
    made = study(tmp_path, {"code first": [code, math], "scratch": [math]}, score, count=1)
    (proposal,) = [p for p in next_runs(made, tokens=1e6).proposals if "phases" in p.question]
    assert "math → code, 3 seeds, and 2 more of every strategy" in proposal.runs
    assert "seeds=[0, 1, 2]" in proposal.how and proposal.tokens == 3 * (800 + 300 + 500) - (800 + 300)


def test_subsets_and_sources_alone_that_lack_are_proposed(tmp_path):
    def score(strategy: str, seed: int, position: int, part: float) -> list[Point]:
        return [("a", "held-out", "bits per byte", 2.0 + 0.01 * seed + 0.1 * position)]

    a, b, c = ((name, "pretrain", {name: 300}) for name in "abc")
    made = next_runs(study(tmp_path, {"whole": [a, b, c], "b out": [a, c], "a out": [b, c]}, score), tokens=1e6)
    of = {q: p for p in made.proposals for q in p.question.split(", ")}
    assert "the stages' other subsets: c" in of["shapley"].runs and of["shapley"].tokens == 2 * 300
    assert of["why-saturated"].runs.startswith("a, b alone") and of["why-saturated"].tokens == 2 * 2 * 300


def test_sources_read_alone_from_one_beginning_are_proposed_until_all_were(tmp_path):
    def score(strategy: str, seed: int, position: int, part: float) -> list[Point]:
        return [("a", "held-out", "bits per byte", 2.0 + 0.01 * seed + 0.1 * position)]

    base: Stage = ("base", "pretrain", {"a": 400, "b": 400, "c": 400})  # a quarter of it is another budget
    alone: list[Stage] = [(f"{s} alone", "pretrain", {s: 200}) for s in "abc"]
    arms = {"base": [base], **{stage[0]: [base, stage] for stage in alone}}
    few = next_runs(study(tmp_path / "few", dict(list(arms.items())[:2]), score), tokens=1e6)
    (proposal,) = [p for p in few.proposals if "value" in p.question.split(", ")]
    assert proposal.runs.startswith("2 sources, each alone after base") and proposal.tokens == 2 * 2 * 200
    (value,) = [
        q for q in next_runs(study(tmp_path / "all", arms, score), tokens=1e6).questions if q.question == "value"
    ]
    assert value.state == NOT_HERE and "curricle value" in value.why  # values are what lacks


def test_a_gamma_that_the_filler_hides_is_asked_for_by_arms_of_less_filler(tmp_path):
    def score(strategy: str, seed: int, position: int, part: float) -> list[Point]:
        bent = 0.5 * (strategy.count("200") - 1) ** 2  # lies on no T
        return [("a", "held-out", "bits per byte", 2 + bent + 0.001 * seed)]

    doses = [(a, b, 1200 - a - b) for a, b in product((0, 200, 400), repeat=2)]
    arms = {
        " ".join(f"{s} {n}" for s, n in zip("abp", of)): [
            (f"{s} {n}", "pretrain", {s: n}) for s, n in zip("pab", (of[2], *of[:2])) if n
        ]
        for of in doses
    }
    made = next_runs(study(tmp_path, arms, score), target="a", tokens=1e6)
    (transfer,) = [q for q in made.questions if q.question == "transfer"]
    assert transfer.state == OPEN and "do not lie on T" in transfer.why
    (proposal,) = [p for p in made.proposals if "arms of less p" in p.runs]
    assert proposal.tokens == 2 * (400 + 800) and "stages.p 400 alone" in proposal.how


def test_shares_of_a_mixture_give_doses_of_whole_tokens_or_a_reason(tmp_path):
    def score(strategy: str, seed: int, position: int, part: float) -> list[Point]:
        return [("web", "held-out", "bits per byte", 2.0 + 0.01 * seed)]

    mixed = {"web": 495, "code": 265, "math": 140}
    made = next_runs(study(tmp_path, {"mixed": [("mix", "pretrain", mixed)]}, score), tokens=1e6)
    (proposal,) = [p for p in made.proposals if "transfer" in p.question]
    assert "--dose=web=0,248,495" in proposal.how
    few = study(tmp_path / "few", {"mixed": [("mix", "pretrain", {"web": 2, "code": 1})]}, score)
    (transfer,) = [q for q in next_runs(few, tokens=1e6).questions if q.question == "transfer"]
    assert transfer.state == NOT_HERE and "cannot be proposed: doses" in transfer.why


def test_a_proposal_takes_no_other_stage_s_name(tmp_path):
    """A study may have a stage `a alone` that begins elsewhere; the proposed one stands beside it."""

    def score(strategy: str, seed: int, position: int, part: float) -> list[Point]:
        return [("a", "held-out", "bits per byte", 2.0 + 0.01 * seed + 0.1 * position)]

    base: Stage = ("base", "pretrain", {"a": 400, "b": 400})
    made = study(tmp_path, {"base": [base], "a alone": [base, ("a alone", "pretrain", {"a": 300})]}, score)
    proposal = next(p for p in next_runs(made, tokens=1e6).proposals if "floors" in p.question.split(", "))
    assert "stages.a alone 2=" in " ".join(proposal.sets) and 'strategies.a alone 2=["a alone 2"]' in proposal.sets
    assert not any(text.startswith(("stages.a alone=", "strategies.a alone=")) for text in proposal.sets)
