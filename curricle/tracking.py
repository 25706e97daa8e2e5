"""Runs followed in Weights & Biases, or in trackio, which speaks the same calls: `curricle run --track wandb`.

One tracked run for each run of the plan, under its name; its configuration is its identity. After an interruption the
same tracked run goes on, since its id is the run's own. Tracking never decides whether training goes on: what fails is
warned of once and left.
"""

from __future__ import annotations

import importlib.util
import io
import math
import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

from curricle.study import Refused, nearest

if TYPE_CHECKING:
    from curricle.node import Node
    from curricle.planning import Plan
    from curricle.running.workers import Message

SERVICES = ("wandb", "trackio")
PROJECT = "curricle"


def refuse_missing(spec: str) -> None:
    """Raises `Refused` for a `--track` that names another service, or one that is not installed."""
    name = spec.partition(":")[0]
    if name not in SERVICES:
        raise Refused(f"--track {spec}: unknown service {name!r}; {nearest(name, SERVICES)}")
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:  # a folder `wandb` beside us, as its offline runs leave, is no package
        raise Refused(f"--track {spec}: {name} is not installed: pip install 'curricle[{name}]'")


class Tracker:
    """Writes what is told of each run to a service. Open it with `with`, so that what is under way is handed over when
    the study is left, finished or not."""

    def __init__(self, spec: str, plan: Plan, say: Callable[[str], None] = warnings.warn):
        """`spec` is `wandb`, `trackio`, or one of them with `:PROJECT`. `say` is told where to look, and what fails.
        Raises as `refuse_missing` does."""
        refuse_missing(spec)
        name, _, project = spec.partition(":")
        self._service: Any = importlib.import_module(name)
        self.name, self.project, self.plan = name, project or PROJECT, plan
        self._open: dict[str, Any] = {}
        self._given_up: set[str] = set()
        self._say = say
        self._warned = self._introduced = False

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_: object) -> None:
        for run in list(self._open):
            self.finish(run, {})

    def log(self, run: str, metrics: Mapping[str, float], step: int) -> None:
        """Numbers of a run at a step; its tracked run is opened, or gone on with, at the first."""
        if tracked := self._tracked(run):
            self._try(run, lambda: tracked.log(dict(metrics), step=step))

    def finish(self, run: str, summary: Mapping[str, Any]) -> None:
        """Close a run's tracked run; what the summary says stands beside its curves. Nothing where it is not open."""
        tracked = self._open.pop(run, None)
        if tracked is None:
            return
        if summary and hasattr(tracked, "summary"):  # trackio keeps none
            self._try(run, lambda: tracked.summary.update(dict(summary)))
        self._try(run, tracked.finish)

    def _tracked(self, run: str) -> Any:
        if run not in self._open and run not in self._given_up:
            opened = self._try(run, lambda: self._opened(self.plan.nodes[run]))
            if opened is not None:
                self._open[run] = opened
                self._introduce(opened)
        return self._open.get(run)

    def _opened(self, node: Node) -> Any:
        key = node.run.replace("/", "-").replace(" ", "_")
        given: dict[str, Any] = {
            "project": self.project,
            "group": self.plan.study.name,
            "config": {**node.identity, "run": node.run, "stage": node.stage, "study": self.plan.study.name},
            "resume": "allow",
        }
        if self.name == "trackio":  # a run of that name is gone on with; it has no other id
            return self._service.init(name=key, **given)
        return self._service.init(
            id=key,
            name=node.run,
            reinit="create_new",  # several runs of the plan are under way at once
            settings={"silent": True, "console": "off"},  # the terminal is ours
            **given,
            **({} if self._reachable() else {"mode": "offline"}),
        )

    def _introduce(self, opened: Any) -> None:
        """Where to look, once: the services' own notices are kept off the terminal, which shows the runs."""
        place = f"trackio show --project {self.project}" if self.name == "trackio" else getattr(opened, "url", None)
        if place and not self._introduced:
            self._introduced = True
            self._say(f"{self.name}: {place}")

    def _reachable(self) -> bool:
        """Whether Weights & Biases knows who we are; where not, it would ask at the keyboard, and training would wait.
        Offline runs lie in `wandb/` and go up later by its own `wandb sync`."""
        if os.environ.get("WANDB_MODE") or os.environ.get("WANDB_API_KEY"):
            return True
        try:
            known = bool(self._service.Api().api_key)
        except Exception:  # every version raises something else
            known = False
        if not known:
            self._warn("not logged in; runs are kept in ./wandb, and `wandb sync` sends them later")
        return known

    def _try(self, run: str, act: Callable[[], Any]) -> Any:
        """The service's answer; None where it failed, and then this run is no longer tracked."""
        try:
            with redirect_stdout(io.StringIO()):
                return act()
        except Exception as error:  # a service may raise anything, and none of it is a reason to stop training
            self._open.pop(run, None)
            self._given_up.add(run)
            self._warn(f"{run} is not tracked any further: {type(error).__name__}: {error}")
            return None

    def _warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            self._say(f"{self.name}: {text}")


def tracked(
    show: Callable[[Message], None],
    tracker: Tracker,
    mfu: Callable[[Node, float], float | None] = lambda node, tokens_per_second: None,
) -> Callable[[Message], None]:
    """A runner's `show` that also tells the tracker. `mfu` is that of a run at so many tokens a second, where known."""

    def both(message: Message) -> None:
        show(message)
        node = tracker.plan.nodes[message.run]
        if message.kind == "step":
            told = {
                "loss_nats": message.loss_nats,
                "lr": message.lr,
                "grad_norm": message.grad_norm,
                "tokens_per_second": message.tokens_per_second,
                "mfu": mfu(node, message.tokens_per_second),
                "tokens": message.tokens,
            }
            # Before the first step there is no loss, and a skipped step may have none that is a number.
            known = {name: value for name, value in told.items() if value is not None and math.isfinite(value)}
            tracker.log(message.run, known, step=message.tokens // node.recipe.batch_tokens)
        elif message.kind == "evaluated":
            scores = {f"bits per byte/{source}": bits for source, bits in message.bits_per_byte.items()}
            tracker.log(message.run, scores, step=message.tokens // node.recipe.batch_tokens)
        elif message.kind == "done":
            tracker.finish(message.run, {"tokens": message.tokens, "complete": True})
        elif message.kind != "evaluating":
            tracker.finish(message.run, {"complete": False})

    return both
