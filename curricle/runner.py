"""Walks a plan: hands every run whose parent is done to a free worker, skips what is complete, gathers the rows.

Interrupted at any moment, it goes on where the last whole checkpoints stand: the store is its only memory.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from curricle import results as rows
from curricle.planning import Node, Plan
from curricle.preparation import Prepared, Watch, prepare, stock
from curricle.results import Results
from curricle.store import Store
from curricle.study import Refused
from curricle.upkeep import remember
from curricle.workers import Message, Worker, evaluation_file, is_done


class Interrupted(Exception):
    """The run was asked to stop; what was done is saved."""


class Failed(RuntimeError):
    """A run broke. The text names it and says what happened."""


Show = Callable[[Message], None]


def run(
    plan: Plan,
    *,
    store: Store | str | Path = "runs/store",
    out: str | Path | None = None,
    workers: int | None = None,
    watch: Watch | None = None,
    show: Show = lambda message: None,
    prepared: Prepared | None = None,
) -> Results:
    """Train and evaluate what the plan lacks, then write `out/results/*.parquet` (`runs/STUDY` by default).

    `show` is told what workers say. SIGINT and SIGTERM save and stop. Raises `Refused` for a plan that can only be
    planned, `Interrupted`, and `Failed` with the worker's own words. `prepared` spares preparing the study again.
    """
    place = store if isinstance(store, Store) else Store(store)
    refuse_declared(plan)
    prepared = prepared or prepare(plan.study, place, *([watch] if watch else []))
    refuse_small_disk(plan, place, done(plan, prepared))
    if prepared.catalogue != plan.catalogue:
        raise Refused("the sources have changed since the plan was made; make the plan again")
    folder = Path(out) if out is not None else Path("runs") / plan.study.name
    remember(plan, prepared, folder)
    stock(prepared, plan, *([watch] if watch else []))
    with asked_to_stop() as interrupted:
        for message in execute(plan, prepared, workers or cores(), interrupted):
            show(message)
    return gather(plan, prepared, folder / "results")


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def done(plan: Plan, prepared: Prepared) -> frozenset[str]:
    """The plan's runs of which nothing is left to do."""
    return frozenset(run for run, node in plan.nodes.items() if is_done(prepared, node))


def refuse_declared(plan: Plan) -> None:
    if plan.declared():
        raise Refused(
            f"sources.{plan.declared()[0]}: declared, with no data behind it; this study can be planned and not run"
        )


def refuse_small_disk(plan: Plan, store: Store, finished: frozenset[str] = frozenset()) -> None:
    """What is left needs weights at every point and, while a run is under way, three checkpoints with two optimizer
    moments, in fp32."""
    store.root.mkdir(parents=True, exist_ok=True)
    left = [node for run, node in plan.nodes.items() if run not in finished]
    wanted = 4 * plan.parameters * (sum(len(n.evaluate_at) for n in left) + 9 * min(len(left), cores()))
    free = shutil.disk_usage(store.root).free
    if wanted > free:
        raise Refused(
            f"--store {store.root}: {free / 1e9:.1f} GB are free, and weights and checkpoints of this plan may take "
            f"{wanted / 1e9:.1f} GB; name another folder"
        )


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """While this is open, SIGINT and SIGTERM are noted instead of obeyed; a second SIGINT is obeyed."""
    asked: list[int] = []

    def note(number: int, frame: object) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    # Only the main thread may; elsewhere (a notebook's helper thread) signals stay as they are.
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def execute(plan: Plan, prepared: Prepared, workers: int, interrupted: Callable[[], bool]) -> Iterator[Message]:
    """Everything the workers say, until all runs are done."""
    finished = set(done(plan, prepared))
    waiting = [node for run, node in plan.nodes.items() if run not in finished]
    if not waiting:
        return
    ahead = _work_ahead(plan)
    waiting.sort(key=lambda node: -ahead[node.run])  # the longest chain first, so that none is left alone at the end
    # Threads follow from the machine and the option, never from what is left: the last run of an interrupted study must
    # add its numbers in the same order as the first time.
    threads = max(1, cores() // workers)
    crew = [Worker(prepared, threads) for _ in range(min(workers, len(waiting)))]
    stopping = False
    try:
        while waiting or any(worker.node for worker in crew):
            for worker in crew:
                if worker.node is None and not stopping:
                    node = next((n for n in waiting if n.parent is None or n.parent in finished), None)
                    if node is not None:
                        waiting.remove(node)
                        try:
                            worker.start(node)
                        except OSError:
                            raise _gone(node) from None
            busy = {worker.connection: worker for worker in crew if worker.node}
            if not busy:
                break
            for connection in wait(list(busy), timeout=0.2):
                worker = busy[connection]  # type: ignore[index]
                assert worker.node is not None
                try:
                    message = worker.receive()
                except (EOFError, ConnectionResetError):
                    raise _gone(worker.node) from None
                if message.kind not in {"step", "evaluating"}:
                    worker.node = None
                if message.kind == "failed":
                    raise Failed(f"{message.run} failed:\n{message.text}")
                if message.kind == "refused":
                    raise Refused(message.text)
                if message.kind == "done":
                    finished.add(message.run)
                yield message
            if interrupted() and not stopping:
                stopping = True
                for worker in crew:
                    worker.stop()
    finally:
        for worker in crew:
            worker.close()
    if stopping:
        raise Interrupted(f"{len(finished)} of {len(plan.nodes)} runs are done, what was begun is saved")


def _gone(node: Node) -> Failed:
    return Failed(f"{node.run}: its worker was killed (out of memory?); run the study again to go on")


def _work_ahead(plan: Plan) -> dict[str, int]:
    """Tokens from each run to the end of its longest chain."""
    ahead = {run: node.tokens for run, node in plan.nodes.items()}
    for run, node in reversed(list(plan.nodes.items())):
        if node.parent is not None:
            ahead[node.parent] = max(ahead[node.parent], plan.nodes[node.parent].tokens + ahead[run])
    return ahead


def reached(plan: Plan, prepared: Prepared) -> dict[str, int]:
    """Tokens that each run of the plan has been trained on, by its metrics."""
    return {run: (_steps(prepared.store, node) or [{"tokens": 0}])[-1]["tokens"] for run, node in plan.nodes.items()}


# ---- results --------------------------------------------------------------------------------------------------------


def gather(plan: Plan, prepared: Prepared, folder: Path) -> Results:
    """The rows of the plan's runs that the store has, as the study's results; runs that have not begun have none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    steps = {run: _steps(prepared.store, node) for run, node in plan.nodes.items()}
    rows.write_rows(folder / "runs.parquet", _run_rows(plan, steps), rows.RUNS)
    rows.write_rows(folder / "steps.parquet", [row for of_run in steps.values() for row in of_run], rows.STEPS)
    files = [
        evaluation_file(prepared, prepared.store.run_folder(run), node.tokens_at(step), name)
        for run, node in plan.nodes.items()
        for step in node.evaluate_at
        for name in prepared.asked
    ]
    tables = [pq.read_table(file) for file in files if file.exists()]
    rows.write_table(
        folder / "evaluations.parquet", pa.concat_tables(tables) if tables else rows.EVALUATIONS.empty_table()
    )
    return Results(folder)


def _steps(store: Store, node: Node) -> list[dict[str, Any]]:
    file = store.run_folder(node.run) / "metrics.jsonl"
    if not file.exists():
        return []
    with open(file, encoding="utf-8") as lines:
        return [{"run": node.run, "stage": node.stage, "seed": node.seed, **json.loads(line)} for line in lines]


def _run_rows(plan: Plan, steps: Mapping[str, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    for (strategy, seed), path in plan.paths.items():
        before = 0
        for position, run in enumerate(path):
            node = plan.nodes[run]
            yield {
                "study": plan.study.name,
                "strategy": strategy,
                "baseline": strategy == plan.study.baseline,
                "seed": seed,
                "position": position,
                "stage": node.stage,
                "kind": node.kind,
                "run": run,
                "budget_tokens": node.tokens,
                "tokens_before": before,
                "training_flops": plan.training_flops(node),
                "wall_seconds": sum(node.recipe.batch_tokens / s["tokens_per_second"] for s in steps[run]),
            }
            before += node.tokens
