"""What becomes of a run that diverges or fails on its way, and of what begins from it."""

from __future__ import annotations

import pytest
from test_branches import compiled, weights_in, worked
from test_diverged import Here

from curricle.execution import Execution
from curricle.planning import compile_plan
from curricle.remote import Remote
from curricle.running import gathering, runner, transfer
from curricle.running.adoption import state_folder
from curricle.running.standing import Standing, branched
from curricle.store import is_complete
from curricle.training import loop
from curricle.training.distribution import Ranks
from curricle.training.loop import Diverged


@pytest.fixture
def wild(monkeypatch):
    """From this step on, what is set here by the number of a run's steps, rates are no numbers."""
    usual, after = loop.learning_rate, {}

    def rate(recipe, step, steps):
        return float("nan") if step >= after.get(steps, steps) else usual(recipe, step, steps)

    monkeypatch.setattr(loop, "learning_rate", rate)
    return after


def test_what_was_half_written_goes_from_a_run_that_has_diverged_too(tmp_path, wild):
    stage = {"budget_tokens": 2048, "recipe": {"max_skipped": 0}}
    prepared, nodes = compiled(tmp_path, tmp_path / "store", {"a": ["long"]}, long=stage)
    wild[4] = 2
    with pytest.raises(Diverged):
        worked(prepared, nodes["long"])
    folder = prepared.store.run_folder(nodes["long"].run)
    half = folder / "checkpoints" / ".step-00000002.half.tmp"
    half.mkdir()
    with pytest.raises(Diverged):
        worked(prepared, nodes["long"])
    assert not [*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")]


STAGES = {
    "first": {"budget_tokens": 1024},
    "long": {"budget_tokens": 3072, "recipe": {"max_skipped": 0}},
    "cool": {"budget_tokens": 512, "branch_at": "1024"},
    "after": {"budget_tokens": 1536},
}


@pytest.fixture
def followed(tmp_path, monkeypatch):
    """A plan with a branch and a stage after it, prepared in a store of this name and run to its end: what failed."""
    monkeypatch.setattr(runner, "LocalCrew", Here)

    def follow(store: str, before: tuple[str, ...], stages: dict = STAGES):
        path = [*before, "long", "cool", "after"]
        chosen = {name: stages[name] for name in path}
        prepared, nodes = compiled(tmp_path, tmp_path / store, {"a": path[:-2], "b": path}, **chosen)
        plan = compile_plan(prepared.study, prepared.catalogue)
        standing = Standing.seen(plan, prepared)
        said = runner.walk(standing, prepared, Execution(), lambda: False, workers=1)
        return plan, prepared, nodes, runner.shown(said, lambda _: None)

    return follow


@pytest.mark.parametrize("how", ["diverges", "fails"])
@pytest.mark.parametrize("before", [(), ("first",)], ids=["from nothing", "after a stage"])
def test_a_branch_is_trained_to_the_same_weights_though_its_parent_ends_early_after_it(
    followed, wild, monkeypatch, how, before
):
    """Also in the session after that, which finds the branch's state there."""
    _, prepared, nodes, failures = followed("healthy", before)
    assert not failures
    expected = [weights_in(prepared, nodes[stage]) for stage in ("cool", "after")]
    if how == "diverges":
        wild[6] = 4
    else:
        usual = loop.learning_rate
        monkeypatch.setattr(
            loop, "learning_rate", lambda r, step, n: 1 / 0 if (step, n) == (4, 6) else usual(r, step, n)
        )
    for _ in range(2):
        plan, prepared, nodes, failures = followed("early", before)
        assert list(failures) == [nodes["long"].run], failures
        assert [weights_in(prepared, nodes[stage]) for stage in ("cool", "after")] == expected
        assert list(gathering.missing(plan, prepared, failures)) == [nodes["long"].run]
        assert runner.is_failure(plan, prepared, failures), "what asks for its end lacks it"
        wild_ones = failures if how == "diverges" else {}
        left = gathering.arms_left(plan, wild_ones, branched(plan, prepared))
        assert left == {"a": [] if wild_ones else ["a"], "b": ["b"]}
    results = gathering.gather(plan, prepared, prepared.store.root / "results")
    ends = results.sql("select distinct stage from evaluations where final order by all")
    assert [row["stage"] for row in ends] == sorted({*before, "cool", "after"})


def test_a_branch_whose_state_stands_is_trained_in_a_later_session(followed, wild, tmp_path):
    """Where the first one, which asked for it, was stopped before it began."""
    _, prepared, nodes, _ = followed("healthy", ())
    expected = weights_in(prepared, nodes["after"])
    wild[6] = 4
    prepared, nodes = compiled(tmp_path, tmp_path / "early", {"a": ["long"], "b": ["long", "cool", "after"]},
                               **{name: STAGES[name] for name in ("long", "cool", "after")})  # fmt: skip
    with pytest.raises(Diverged):
        worked(prepared, nodes["long"])
    standing = Standing.seen(compile_plan(prepared.study, prepared.catalogue), prepared)
    assert [node.stage for node in standing.left] == ["cool", "after"] and len(standing.left_out) == 1
    _, prepared, nodes, _ = followed("early", ())
    assert weights_in(prepared, nodes["after"]) == expected


def test_under_torchrun_a_branch_is_trained_after_its_parent_has_diverged_too(followed, wild, tmp_path):
    _, prepared, nodes, _ = followed("healthy", ())
    expected = weights_in(prepared, nodes["after"])
    wild[6] = 4
    prepared, nodes = compiled(tmp_path, tmp_path / "early", {"a": ["long"], "b": ["long", "cool", "after"]},
                               **{name: STAGES[name] for name in ("long", "cool", "after")})  # fmt: skip
    standing = Standing.seen(compile_plan(prepared.study, prepared.catalogue), prepared)
    with pytest.raises(runner.Failed) as failure:
        list(runner.walk_as_rank(standing, prepared, Ranks.alone(), Execution(), lambda: False))
    assert list(failure.value.failures) == [nodes["long"].run]
    assert weights_in(prepared, nodes["after"]) == expected


def test_a_branch_is_left_out_with_a_parent_that_diverged_before_it(followed, wild):
    wild[6] = 0
    plan, prepared, nodes, failures = followed("early", ())
    run = nodes["long"].run
    assert list(failures) == [run] and not branched(plan, prepared)
    assert not is_complete(state_folder(prepared.store.run_folder(run), 2))
    missing = gathering.missing(plan, prepared, failures)
    assert [missing[nodes[stage].run] for stage in ("cool", "after")] == [f"not possible: it begins from {run}"] * 2
    assert Standing.seen(plan, prepared).left_out == plan.nodes.keys()


def test_where_stores_are_apart_a_branch_finds_what_it_needs_of_a_parent_that_has_diverged(followed, wild, tmp_path):
    _, prepared, nodes, _ = followed("healthy", ("first",))
    expected = weights_in(prepared, nodes["cool"])
    wild[6] = 4
    stages = {name: STAGES[name] for name in ("first", "long", "cool")}
    prepared, nodes = compiled(tmp_path, tmp_path / "early", {"b": list(stages)}, **stages)
    plan = compile_plan(prepared.study, prepared.catalogue)
    worked(prepared, nodes["first"])
    with pytest.raises(Diverged):
        worked(prepared, nodes["long"])
    there, other = Remote(f"file://{tmp_path}/remote"), prepared.moved(tmp_path / "other")
    transfer.push_inputs(there, prepared, plan)
    for stage in ("first", "long"):
        transfer.push_run(there, prepared, nodes[stage])
    assert [node.stage for node in Standing.seen(plan, other, there).left] == ["cool"]
    transfer.pull_inputs(there, other, nodes["cool"])
    worked(other, nodes["cool"])
    assert weights_in(other, nodes["cool"]) == expected
