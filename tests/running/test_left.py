"""Runs that are left, fail or are refused, and what becomes of the others: the driver with crews that only say so."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable
from types import SimpleNamespace

import pytest
from tiny_study import tiny, write_study

from curricle.commands.common import make_console
from curricle.execution import Execution
from curricle.progress import Training
from curricle.remote import Remote
from curricle.running import runner, workers
from curricle.running.preparation import make_plan
from curricle.running.standing import Standing, ancestor, saved
from curricle.running.work import Message
from curricle.store import Store, whole_folder
from curricle.study import Refused
from curricle.studyfile import load_study
from curricle.training.distribution import Ranks


class Leaving:
    """A crew whose first run is left unfinished without anybody having asked, each time when it has saved so much: a
    state after so many steps, and in all so many evaluations."""

    def __init__(self, store: Store | None = None, saves: Iterable[tuple[int, int]] = ()):
        self.store, self.saves = store, list(saves)
        self.first, self.said, self.free, self.busy = "", [], 1, 0

    def start(self, node):
        self.said, self.first = [Message("done", node.run)], self.first or node.run
        if self.saves and node.run == self.first:
            state, evaluations = self.saves.pop(0)
            self.save(self.store.run_folder(node.run), state, evaluations)
            self.said = [
                Message("step", node.run, node.tokens),  # whatever is said of it
                Message("stopped", node.run, text="it [/died]"),
            ]
        self.free, self.busy = 0, 1

    def save(self, folder, state, evaluations):
        if state:
            with whole_folder(folder / "checkpoints" / f"step-{state:08d}"):
                pass
        (folder / "evaluations").mkdir(parents=True, exist_ok=True)
        for number in range(evaluations):
            (folder / "evaluations" / f"{number}.parquet").touch()

    def listen(self, timeout):
        said, self.said, self.free, self.busy = self.said, [], 1, 0
        return said

    def stop(self): ...

    def close(self): ...


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(runner, "ASK_AGAIN_SECONDS", 0.0)


def left_in(store: Store, remote: Remote | None = None) -> runner.Leavings:
    return runner.Leavings(lambda run: saved(store, run, remote))


NOTHING_SAVED = runner.Leavings(lambda run: (0,))
FURTHER = [
    [(0, 0), (1, 0), (2, 0)],
    [(6, 0), (9, 0)],  # however far it had been said to be
    [(2, 0), (2, 1), (2, 2), (2, 3)],  # a session for each benchmark
    [(0, 0), (0, 1)],
]
NO_FURTHER = [[(0, 0), (0, 0)], [(1, 0), (1, 0)], [(2, 1), (1, 1)], [(1, 0), (2, 0), (2, 1), (2, 1)]]


@pytest.mark.parametrize("saves", FURTHER)
def test_a_run_that_is_left_is_begun_again_as_often_as_it_has_saved_more(tmp_path, soon, saves):
    store = Store(tmp_path / "store")
    plan = make_plan(load_study(write_study(tmp_path, tiny())), store)
    said = list(runner.execute(Standing(plan), Leaving(store, saves), left_in(store), lambda: False))
    assert {m.run for m in said if m.kind == "done"} == set(plan.nodes)
    assert [m.kind for m in said].count("stopped") == len(saves)


@pytest.mark.parametrize("saves", NO_FURTHER)
def test_a_run_that_is_left_twice_without_having_saved_more_has_failed(tmp_path, soon, capsys, saves):
    store = Store(tmp_path / "store")
    plan = make_plan(load_study(write_study(tmp_path, tiny())), store)
    show = Training(make_console(), plan, frozenset())
    with pytest.raises(runner.Failed, match=r"left unfinished twice without coming further: it \[/died\]") as failure:
        for message in runner.execute(Standing(plan), Leaving(store, saves), left_in(store), lambda: False):
            show(message)
    assert len(failure.value.failures) == 1
    told = capsys.readouterr().out
    assert told.count("it [/died]") == len(saves) - 1 and told.count("✗") == 1


@pytest.mark.parametrize(("saves", "failed"), [(FURTHER[2], 0), (NO_FURTHER[3], 1)])
def test_where_machines_share_a_remote_store_only_what_is_saved_there_counts(tmp_path, soon, saves, failed):
    store, remote = Store(tmp_path / "store"), Remote(f"file://{tmp_path}/remote")
    plan = make_plan(load_study(write_study(tmp_path, tiny())), store)

    class Afar(Leaving):
        def save(self, folder, state, evaluations):
            super().save(folder, state, evaluations)
            for place in [*folder.glob("checkpoints/*"), *folder.glob("evaluations/*")]:
                push = remote.push_file if place.is_file() else remote.push
                push(store, place.relative_to(store.root).as_posix())
            shutil.rmtree(folder)

    said = runner.execute(Standing(plan), Afar(store, saves), left_in(store, remote), lambda: False)
    assert len(runner.shown(said, lambda message: None)) == failed


@pytest.mark.parametrize(
    ("saves", "failed"), [(FURTHER[0], 0), (FURTHER[2], 0), (NO_FURTHER[0], 1), (NO_FURTHER[2], 1)]
)
def test_under_torchrun_a_run_that_is_left_is_begun_again_by_the_same_rule(tmp_path, soon, monkeypatch, saves, failed):
    store = Store(tmp_path / "store")
    plan = make_plan(load_study(write_study(tmp_path, tiny())), store)
    crew, interrupted = Leaving(store, saves), lambda: False

    def work_on(prepared, node, *_):
        crew.start(node)
        yield from crew.said

    monkeypatch.setattr(runner, "work_on", work_on)
    prepared = SimpleNamespace(store=store)
    failures = runner.shown(
        runner.walk_as_rank(Standing(plan), prepared, Ranks.alone(), Execution(), interrupted), lambda message: None
    )
    assert [text.partition(":")[0] for text in failures.values()] == [
        "it was left unfinished twice without coming further"
    ] * failed
    assert not crew.saves


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
        for message in runner.execute(Standing(plan), Failing(failing), NOTHING_SAVED, lambda: False):
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
        for message in runner.execute(Standing(plan), Refusing(), NOTHING_SAVED, lambda: False):
            said.append(message)
            show(message)
    assert {m.run for m in said if m.kind == "done"} == set(plan.paths["from scratch", 0])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if refused in line] == ["✗"]


@pytest.mark.parametrize("stepped", [True, False])
def test_under_torchrun_a_run_that_is_refused_ends_itself_or_all_by_the_same_rule(tmp_path, monkeypatch, stepped):
    plan = make_plan(load_study(write_study(tmp_path, tiny())), tmp_path / "store")
    refused, said = list(plan.nodes)[1 if stepped else 0], []

    def work_on(prepared, node, *_):
        if node.run == refused:
            raise Refused("model/ is damaged")
        yield from (Message("step", node.run, 512), Message("done", node.run))

    monkeypatch.setattr(runner, "work_on", work_on)
    walked = runner.walk_as_rank(Standing(plan), None, Ranks.alone(), Execution(), lambda: False)
    if not stepped:
        with pytest.raises(Refused, match="model/ is damaged"):
            list(walked)
        return
    assert runner.shown(walked, said.append) == {refused: "model/ is damaged"}
    assert [m.run for m in said if m.kind == "failed"] == [refused]
    done = {m.run for m in said if m.kind == "done"}
    assert done == {run for run in plan.nodes if run != refused and ancestor(plan, plan.nodes[run], {refused}) is None}


@pytest.mark.parametrize("other", ["runner.met(ranks, 60)", "ranks.decided(lambda: 0)"])
def test_a_rank_that_is_refused_alone_knows_it(tmp_path, other):
    """Its fellows wait for it in something else, and it must not go on to another run than theirs."""
    script = f"""
import os, sys
from curricle.running import runner
from curricle.training.distribution import Ranks, rendezvous
from pathlib import Path
rank = int(sys.argv[1])
ranks = Ranks.join(rank, 2, rendezvous(Path({str(tmp_path / "meet")!r})), rank)
if rank:
    {other}
else:
    print(runner.met(ranks, 60 if "met" in {other!r} else 1))
sys.stdout.flush()
os._exit(0)
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen([*command, "1"], stderr=subprocess.DEVNULL) as fellow:
        said = subprocess.run([*command, "0"], capture_output=True, text=True)
        fellow.kill()
    assert said.stdout.split() == [str("met" in other)], said.stderr
