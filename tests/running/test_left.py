"""Runs that are left, fail or are refused, and what becomes of the others: the driver with crews that only say so."""

from __future__ import annotations

import pytest
from tiny_study import tiny, write_study

from curricle.commands.common import make_console
from curricle.execution import Execution
from curricle.progress import Training
from curricle.running import runner, workers
from curricle.running.preparation import make_plan
from curricle.running.standing import Standing, ancestor
from curricle.running.work import Message
from curricle.studyfile import load_study
from curricle.training.distribution import Ranks


class Leaving:
    """A crew whose first run is left unfinished without anybody having asked, each time after so many tokens."""

    def __init__(self, *reached: int):
        self.reached, self.first, self.said, self.free, self.busy = list(reached), "", [], 1, 0

    def start(self, node):
        self.said, self.first = [Message("done", node.run)], self.first or node.run
        if self.reached and node.run == self.first:
            self.said = [
                Message("step", node.run, self.reached.pop(0)),
                Message("stopped", node.run, text="it [/died]"),
            ]
        self.free, self.busy = 0, 1

    def listen(self, timeout):
        said, self.said, self.free, self.busy = self.said, [], 1, 0
        return said

    def stop(self): ...

    def close(self): ...


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(runner, "ASK_AGAIN_SECONDS", 0.0)


def test_a_run_that_is_left_is_begun_again_as_often_as_it_comes_further_and_no_more(tmp_path, soon, capsys):
    plan = make_plan(load_study(write_study(tmp_path, tiny())), tmp_path / "store")
    said = list(runner.execute(Standing(plan), Leaving(512, 1024, 1536), lambda: False))
    assert {m.run for m in said if m.kind == "done"} == set(plan.nodes)
    assert [m.kind for m in said].count("stopped") == 3
    for reached in ((512, 512), (0, 0), (1024, 512), (512, 1024, 1024)):
        show = Training(make_console(), plan, frozenset())
        with pytest.raises(
            runner.Failed, match=r"left unfinished twice without coming further: it \[/died\]"
        ) as failure:
            for message in runner.execute(Standing(plan), Leaving(*reached), lambda: False):
                show(message)
        assert len(failure.value.failures) == 1
        told = capsys.readouterr().out
        assert told.count("it [/died]") == len(reached) - 1 and told.count("✗") == 1


@pytest.mark.parametrize(("reached", "failed"), [((512, 1024, 1536), 0), ((512, 512), 1), ((1024, 512), 1)])
def test_under_torchrun_a_run_that_is_left_is_begun_again_by_the_same_rule(
    tmp_path, soon, monkeypatch, reached, failed
):
    plan = make_plan(load_study(write_study(tmp_path, tiny())), tmp_path / "store")
    crew, interrupted = Leaving(*reached), lambda: False

    def work_on(prepared, node, *_):
        crew.start(node)
        yield from crew.said

    monkeypatch.setattr(runner, "work_on", work_on)
    failures = runner.shown(
        runner.walk_as_rank(Standing(plan), None, Ranks.alone(), Execution(), interrupted), lambda message: None
    )
    assert [text.partition(":")[0] for text in failures.values()] == [
        "it was left unfinished twice without coming further"
    ] * failed
    assert not crew.reached


def test_workers_follow_from_the_whole_plan_and_not_from_what_is_left_of_it(tmp_path, monkeypatch):
    plan = make_plan(load_study(write_study(tmp_path, tiny(seeds=[0, 1]))), tmp_path / "store")
    given = []

    class Noting(Leaving):
        def __init__(self, prepared, workers, execution, left):
            super().__init__()
            given.append((workers, left))

    monkeypatch.setattr(runner, "LocalCrew", Noting)
    monkeypatch.setattr(workers, "gpu_count", lambda: 0)
    monkeypatch.setattr(workers, "cores", lambda: 64)
    for finished in (frozenset(), frozenset([*plan.nodes][:-1])):
        list(runner.walk(Standing(plan, finished), None, Execution(), lambda: False))
    assert given == [(4, 10), (4, 1)]


class Failing(Leaving):
    """A crew with which these runs fail."""

    def __init__(self, failing: set[str]):
        super().__init__()
        self.failing = failing

    def start(self, node):
        super().start(node)
        if node.run in self.failing:
            self.said = [Message("failed", node.run, text="loss nan")]


def test_a_run_that_fails_takes_only_those_with_it_that_begin_from_it(tmp_path):
    plan = make_plan(load_study(write_study(tmp_path, tiny(seeds=[0, 1]))), tmp_path / "store")
    failing = {plan.paths["code first", 0][0], plan.paths["from scratch", 1][1]}
    said = []
    with pytest.raises(runner.Failed) as failure:
        for message in runner.execute(Standing(plan), Failing(failing), lambda: False):
            said.append(message)
    assert all(f"{run} failed: loss nan" in str(failure.value) for run in failing)
    assert {m.run for m in said if m.kind == "failed"} == failing
    done = {m.run for m in said if m.kind == "done"}
    assert done == {
        run for run, node in plan.nodes.items() if run not in failing and ancestor(plan, node, failing) is None
    }
    assert len(done) == 6


def test_a_run_that_is_refused_when_others_are_under_way_takes_no_other_with_it_and_is_shown(tmp_path, capsys):
    plan = make_plan(load_study(write_study(tmp_path, tiny())), tmp_path / "store")
    refused, *_ = plan.paths["code first", 0]

    class Refusing(Leaving):
        def start(self, node):
            super().start(node)
            self.said.insert(0, Message("step", node.run, 512))
            if node.run == refused:
                self.said[-1] = Message("refused", node.run, text="model/ is damaged")

    said, show = [], Training(make_console(), plan, frozenset())
    with pytest.raises(runner.Failed, match="model/ is damaged"):
        for message in runner.execute(Standing(plan), Refusing(), lambda: False):
            said.append(message)
            show(message)
    assert {m.run for m in said if m.kind == "done"} == set(plan.paths["from scratch", 0])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if refused in line] == ["✗"]
