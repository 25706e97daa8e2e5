"""Tracking follows every run under its own id, and whatever it does, training goes on."""

from __future__ import annotations

import math
import sys
from types import ModuleType, SimpleNamespace

import pytest
from rich.console import Console

from curricle.execution import Execution
from curricle.progress import Training
from curricle.running.preparation import make_plan
from curricle.running.work import Message
from curricle.study import Refused
from curricle.tracking import Tracker, refuse_missing, tracked


class Recorded:
    """What a service's `init` gives: it writes its calls down, and raises where it was told to."""

    def __init__(self, calls: list, settings: dict, broken: str):
        self.calls, self.key, self.broken, self.summary = calls, settings.get("id", settings["name"]), broken, {}
        calls.append(("init", self.key, settings))

    def log(self, metrics: dict, step: int) -> None:
        if self.broken == "log":
            raise ConnectionError("no network")
        self.calls.append(("log", self.key, step, metrics))

    def finish(self) -> None:
        self.calls.append(("finish", self.key, dict(self.summary)))


@pytest.fixture
def service(monkeypatch):
    """A stand-in for `wandb` or `trackio`: its calls, and how it breaks."""
    state = SimpleNamespace(calls=[], broken="")

    def init(**settings):
        if state.broken == "init":
            raise TimeoutError("no network")
        return Recorded(state.calls, settings, state.broken)

    for name in ("wandb", "trackio"):
        module = ModuleType(name)
        module.__spec__ = SimpleNamespace(name=name, origin=name)  # type: ignore[assignment]
        module.init = init  # type: ignore[attr-defined]
        module.Api = lambda: SimpleNamespace(api_key=None)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return state


@pytest.fixture
def plan(study, tmp_path):
    return make_plan(study, tmp_path / "store")


def step(run: str, tokens: int) -> Message:
    return Message("step", run, tokens, 2.5, 30_000.0)


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_each_run_is_tracked_under_its_name_with_its_identity(service, plan, monkeypatch, name):
    one, other = list(plan.nodes)[:2]
    seen: list[Message] = []
    said: list[str] = []
    monkeypatch.setenv("WANDB_MODE", "offline")
    with Tracker(f"{name}:mine", plan, said.append) as tracker:
        show = tracked(seen.append, tracker)
        for message in (step(one, 512), step(other, 512), Message("evaluating", one, 512), step(one, 1024)):
            show(message)
        show(Message("done", one, 1024))
    assert len(seen) == 5 and said == ["trackio: trackio show --project mine"] * (name == "trackio")
    started = [call for call in service.calls if call[0] == "init"]
    assert [call[1] for call in started] == [one.replace("/", "-"), other.replace("/", "-")]
    for run, (*_, settings) in zip((one, other), started, strict=True):
        assert settings["project"] == "mine" and settings["resume"] == "allow"
        assert plan.nodes[run].identity.items() <= settings["config"].items()
    logged = [(call[1], call[2]) for call in service.calls if call[0] == "log"]
    assert logged == [(started[0][1], 1), (started[1][1], 1), (started[0][1], 2)]
    assert [c[1] for c in service.calls if c[0] == "finish"] == [
        started[0][1],
        started[1][1],
    ]  # the open one at the end
    assert next(c[2] for c in service.calls if c[0] == "finish") == {"tokens": 1024, "complete": True}


def test_an_interrupted_run_goes_on_under_the_same_id(service, plan):
    run = next(iter(plan.nodes))
    for tokens in (512, 1024):
        with Tracker("trackio", plan, lambda text: None) as tracker:
            tracked(lambda message: None, tracker)(step(run, tokens))
    ids = {call[1] for call in service.calls if call[0] == "init"}
    assert len(ids) == 1 and {call[2]["resume"] for call in service.calls if call[0] == "init"} == {"allow"}


def test_what_a_step_noted_is_sent_and_what_is_not_known_is_left_out(service, plan):
    run = next(iter(plan.nodes))
    first = Message("step", run, 0, math.nan, 0.0, grad_norm=math.nan)
    second = Message("step", run, 512, 2.5, 30_000.0, lr=0.004, grad_norm=0.75)
    peaks = {"fp32": plan.training_flops(plan.nodes[run]) / plan.nodes[run].tokens * 60_000.0}
    with Tracker("trackio", plan, lambda text: None) as tracker:
        for known in (peaks, None):
            show = tracked(lambda message: None, tracker, Training(Console(), plan, frozenset(), known).mfu)
            show(first)
            show(second)
    sent = [metrics for kind, *_, metrics in service.calls if kind == "log"]
    usual = {"loss_nats": 2.5, "lr": 0.004, "grad_norm": 0.75, "tokens_per_second": 30_000.0, "tokens": 512}
    assert sent[1] == usual | {"mfu": pytest.approx(0.5)} and sent[3] == usual
    assert sent[2] == {"lr": 0.0, "tokens_per_second": 0.0, "tokens": 0}


def test_under_torchrun_the_first_rank_tracks_every_run_and_the_others_none(service, study, tmp_path, monkeypatch):
    from curricle.commands import training

    ranks = SimpleNamespace(first=True, size=1, leave=lambda: None, decided=lambda decide: decide())
    told = [Message("step", run, 512, 2.5, 30_000.0) for run in make_plan(study, tmp_path / "store").nodes]
    monkeypatch.setattr("curricle.training.distribution.Ranks.of_torchrun", lambda: ranks)
    monkeypatch.setattr("curricle.running.runner.first_then_all", lambda ranks, make: make())
    monkeypatch.setattr("curricle.running.runner.walk_as_rank", lambda *_: (message for message in told))
    monkeypatch.setattr(training, "write_report", lambda *_: None)
    for ranks.first in (False, True):
        assert service.calls == []
        training.run_as_rank(study, tmp_path / "out", tmp_path / "store", Execution(), "", "trackio")
    assert len([call for call in service.calls if call[0] == "log"]) == len(told)
    assert [call[0] for call in service.calls[-len(told) :]] == ["finish"] * len(told)


@pytest.mark.parametrize("broken", ["init", "log"])
def test_a_service_that_fails_is_warned_of_once_and_stops_nothing(service, plan, broken):
    service.broken = broken
    seen: list[Message] = []
    told: list[str] = []
    with Tracker("trackio", plan, told.append) as tracker:
        show = tracked(seen.append, tracker)
        for run in plan.nodes:
            show(step(run, 512))
            show(step(run, 1024))
            show(Message("done", run, 1024))
    assert len(seen) == 3 * len(plan.nodes)
    assert len([text for text in told if "is not tracked any further" in text]) == 1


def test_weights_and_biases_never_asks_at_the_keyboard(service, plan, monkeypatch):
    run = next(iter(plan.nodes))
    said: list[str] = []
    with Tracker("wandb", plan, said.append) as tracker:
        tracker.log(run, {}, 1)
    assert len(said) == 1 and "wandb sync" in said[0]
    monkeypatch.setenv("WANDB_API_KEY", "set")
    with Tracker("wandb", plan) as tracker:
        tracker.log(run, {}, 1)
    assert [call[2].get("mode") for call in service.calls if call[0] == "init"] == ["offline", None]


def test_another_service_and_a_missing_one_are_refused_before_anything(monkeypatch):
    with pytest.raises(Refused, match="unknown service 'wandbs'; did you mean 'wandb'"):
        refuse_missing("wandbs:x")
    for found in (None, SimpleNamespace(origin=None)):  # not there, or a mere folder of that name
        monkeypatch.setattr("importlib.util.find_spec", lambda name, found=found: found)
        with pytest.raises(Refused, match=r"pip install 'curricle\[trackio\]'"):
            refuse_missing("trackio")


@pytest.mark.slow
def test_trackio_itself_keeps_what_it_is_told(plan, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    trackio = pytest.importorskip("trackio", reason="trackio is not installed: pip install 'curricle[trackio]'")
    run = next(iter(plan.nodes))
    said: list[str] = []
    for at in (1, 2):
        with Tracker("trackio:curricle-test", plan, said.append) as tracker:
            tracker.log(run, {"loss_nats": 3.0 - at}, at)
    assert said == ["trackio: trackio show --project curricle-test"] * 2
    found = trackio.Api().runs("curricle-test")
    assert [r.name for r in found] == [run.replace("/", "-")]
