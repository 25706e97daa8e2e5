"""What a person sees while a study is prepared and trained: one bar for the whole, one line for each worker.

Where the output is no terminal, a line is printed whenever something begins or ends, and for what trains on each
minute. Each evaluation has a line in both, so that what is forgotten is seen while it happens.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from curricle.corpus.documents import Document
from curricle.node import Node
from curricle.planning import Plan
from curricle.report.words import count
from curricle.running.work import Message, ending

if TYPE_CHECKING:
    from curricle.evaluation.scoring import Job


SHORT = 0.5  # seconds below which a step is not worth a line
DAY = 24 * 3600  # seconds
MINUTE = 60.0  # after which a log hears of a run again


class Left(ProgressColumn):
    """Time left, from the speed so far."""

    def render(self, task: Task) -> Text:
        seconds = task.time_remaining
        return Text("" if seconds is None else f"{_long(int(seconds))} left", style="cyan")


def _long(seconds: int) -> str:
    """`121:05` minutes and seconds; from a day on `5 d 1 h`."""
    if seconds < DAY:
        return f"{seconds // 60}:{seconds % 60:02}"
    return f"{seconds // DAY} d {seconds % DAY // 3600} h"


@contextmanager
def doing(console: Console, what: str) -> Iterator[Callable[[], None]]:
    """Says what takes its seconds, while it does: by a moving sign on a terminal, else by a line among the errors, so
    that what is piped holds results alone. Gives what ends the sign before its time."""
    if console.is_terminal:
        with console.status(what) as sign:
            yield sign.stop
    else:
        if not console.quiet:
            print(f"{what} …", file=sys.stderr, flush=True)
        yield lambda: None


class Reading:
    """Shows documents going by. Use it as the `watch` of preparation. `begins` is called before the first of them: a
    terminal has room for one thing that moves."""

    def __init__(self, console: Console, begins: Callable[[], None] = lambda: None):
        self.console, self.begins = console, begins

    def __call__(self, name: str, documents: Iterable[Document]) -> Iterator[Document]:
        self.begins()
        began, count = time.monotonic(), 0
        if not self.console.is_terminal:
            for document in documents:
                count += 1
                yield document
        else:
            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}"),
                TextColumn("{task.completed:,.0f} documents"),
                TimeElapsedColumn(),
            )
            with Progress(*columns, console=self.console, transient=True) as bar:
                task = bar.add_task(name)
                for document in documents:
                    count += 1
                    bar.advance(task)
                    yield document
        if time.monotonic() - began > SHORT:
            taken = time.monotonic() - began
            self.console.print(f"[dim]{name}: {count:,} documents, {taken:.1f} s[/dim]", highlight=False)


def names(plan: Plan) -> dict[str, str]:
    """Run → what it is called while it trains: `math, seed 0`; `math (code first), seed 0` where several strategies, or
    learning rates of one, have a run of that stage and seed; with its own name where they have several."""
    of: dict[str, list[str]] = {run: [] for run in plan.nodes}
    for (arm, _), path in plan.paths.items():
        for run in path:
            if arm not in of[run]:
                of[run].append(arm)
    named = {run: f"{node.stage}, seed {node.seed}" for run, node in plan.nodes.items()}
    for longer in (
        lambda run, node: f"{node.stage} ({' and '.join(of[run][:2])}{', …' * (len(of[run]) > 2)}), seed {node.seed}",
        lambda run, node: f"{run}, seed {node.seed}",
    ):
        often = Counter(named.values())
        named = {run: longer(run, plan.nodes[run]) if often[name] > 1 else name for run, name in named.items()}
    return named


class Training:
    """Shows what workers say. Use it as the `show` of a run. `peaks` are the measured FLOP/s, by precision, of what one
    run has to itself; where they are known, the speed is shown as MFU too."""

    def __init__(
        self,
        console: Console,
        plan: Plan,
        done: frozenset[str],
        peaks: Mapping[str, float] | None = None,
        left_out: frozenset[str] = frozenset(),
    ):
        """`left_out` are runs that are not done and will not be."""
        self.console, self.plan, self.done, self.peaks = console, plan, set(done), peaks or {}
        self._names = names(plan)
        self._waiting = plan.nodes.keys() - done - left_out
        self._began = time.monotonic()
        self._said: dict[str, float] = {}  # by run, when a log last heard of it
        self._tasks: dict[str, int] = {}
        self._bar: Progress | None = None
        self._total: int | None = None

    @contextmanager
    def shown(self) -> Iterator[Training]:
        """While this is open, the bars are on the screen."""
        if not self.console.is_terminal:
            yield self
            return
        columns = (
            TextColumn("{task.description}", justify="left"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            Left(),
            TextColumn("{task.fields[note]}", style="dim"),
        )
        with Progress(*columns, console=self.console, transient=True) as bar:
            self._bar = bar
            total = sum(self.plan.nodes[run].tokens for run in self._waiting)
            self._total = bar.add_task(f"[bold]{len(self._waiting)} runs[/bold]", total=total, note="")
            yield self
            self._bar = None

    def __call__(self, message: Message) -> None:
        node = self.plan.nodes[message.run]
        name = self._names[message.run]
        marked = escape(name)
        if message.kind == "done":
            self.done.add(message.run)
            after = time.monotonic() - self._began
            so_far = f"{len(self.done)}/{len(self.plan.nodes)}  {after:.0f} s"
            self.console.print(f"[green]✓[/green] {marked} [dim]{message.run}  {so_far}[/dim]", highlight=False)
        if message.kind == "failed":  # the whole text comes at the end, when the others are done
            word = ending(message.text).partition(":")[0]
            self.console.print(f"[red]✗[/red] {marked} [dim]{message.run}  {word}[/dim]", highlight=False)
        if message.kind == "stopped" and message.text:
            said = f"[yellow]![/yellow] {marked} [dim]{message.run}[/dim]  {escape(message.text)}"
            self.console.print(said, highlight=False)
        if message.kind == "evaluated":
            part = f"{message.tokens / node.tokens:.0%}"
            scores = ", ".join(_score(s, bits, message.change.get(s)) for s, bits in message.bits_per_byte.items())
            self.console.print(f"  {name} at {part}: bits per byte {scores}", highlight=False, markup=False)
            return
        bar = self._bar
        if bar is None or self._total is None:
            if message.kind == "step":
                self._log(message, node, marked)
            return
        if message.kind in {"done", "stopped", "failed"}:
            if message.run in self._tasks:
                bar.remove_task(self._tasks.pop(message.run))  # type: ignore[arg-type]
        else:
            if message.run not in self._tasks:
                self._tasks[message.run] = bar.add_task(f"  {marked}", total=node.tokens, note="")
            note = "held by another process" if message.kind == "held" else "evaluating"
            if message.kind == "step":
                note = self._step(message, node)
            known = None if message.kind == "held" else message.tokens  # nobody tells us how far the other one is
            bar.update(self._tasks[message.run], completed=known, note=note)  # type: ignore[arg-type]
        ended = sum(self.plan.nodes[run].tokens for run in self._waiting & self.done)
        under_way = sum(t.completed for t in bar.tasks[1:])
        bar.update(self._total, completed=ended + under_way)  # type: ignore[arg-type]

    def _log(self, message: Message, node: Node, name: str) -> None:
        """A line where a run begins or goes on, and one a minute after that."""
        now = time.monotonic()
        if message.run not in self._said:
            self._said[message.run] = now
            begun = message.tokens > node.tokens_at(1)
            said = f"goes on at {message.tokens / node.tokens:.0%} of" if begun else "begins:"
            self.console.print(f"  {name} {said} {count(node.tokens)} tokens", highlight=False)
            return
        if now - self._said[message.run] < MINUTE:
            return
        self._said[message.run] = now
        part = f"{message.tokens / node.tokens:.0%}  {self._step(message, node)}"
        self.console.print(f"  {name} [dim]{message.run}  {part}  {now - self._began:.0f} s[/dim]", highlight=False)

    def _step(self, message: Message, node: Node) -> str:
        return f"loss {message.loss_nats:.3f}  {self.speed(node, message.tokens_per_second)}"

    def speed(self, node: Node, tokens_per_second: float) -> str:
        """`30,100 tokens/s`, and `MFU 41 %` where the peak is known."""
        mfu = self.mfu(node, tokens_per_second)
        return f"{tokens_per_second:,.0f} tokens/s" + (f"  MFU {mfu:.0%}" if mfu is not None else "")

    def mfu(self, node: Node, tokens_per_second: float) -> float | None:
        """Model FLOPs a second as a share of the peak; None where that is not known."""
        peak = self.peaks.get(node.recipe.precision)
        return self.plan.training_flops(node) / node.tokens * tokens_per_second / peak if peak else None


def _score(source: str, bits: float, change: float | None) -> str:
    """`code 1.93 (+.12)`: bits per byte, and their change since the run began where it is known."""
    if change is None:
        return f"{source} {bits:.2f}"
    return f"{source} {bits:.2f} ({f'{change:+.2f}'.replace('0.', '.', 1)})"


def time_line(spent: Iterable[Mapping[str, float | None]]) -> str:
    """Where the time went, over all stages (`queries.time_spent`); empty where nothing was noted."""
    rows = list(spent)
    parts = {"steps": "training_seconds", "waiting for data": "data_seconds", "saves": "save_seconds"}
    parts["evaluation"] = "evaluation_seconds"
    totals = {part: [s for row in rows if (s := row[column]) is not None] for part, column in parts.items()}
    told = ", ".join(f"{sum(noted):,.1f} s {part}" for part, noted in totals.items() if noted)
    return f"where the time went, one run after another: {told}" if told else ""


def jobs_watched(console: Console) -> Callable[[Iterable[Job]], Iterator[Job]]:
    """Names each evaluation as it begins. Use it as the `watch` of `evaluate`."""

    def watch(jobs: Iterable[Job]) -> Iterator[Job]:
        for job in jobs:
            with console.status(f"scoring {job[0]}"):
                yield job

    return watch
