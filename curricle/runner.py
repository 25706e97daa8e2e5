"""Walks a plan: hands every run whose parent is done to a free worker, skips what is complete, gathers the rows.

Interrupted at any moment, it goes on where the last whole checkpoints stand: the store is its only memory.
"""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from curricle import cluster
from curricle import remote as afar
from curricle import results as rows
from curricle.calibration import peak_of
from curricle.execution import Execution
from curricle.planning import Node, Plan
from curricle.preparation import Prepared, Watch, prepare, stock
from curricle.remote import Remote
from curricle.results import Results
from curricle.store import Held, Store, read_json
from curricle.study import Counterfactual, Refused, Source
from curricle.upkeep import remember
from curricle.work import Message, evaluation_file, is_done, work_on
from curricle.workers import Crew, LocalCrew, cores, usual_workers

if TYPE_CHECKING:
    from curricle.training.distribution import Ranks

ASK_AGAIN_SECONDS = 1.0  # after which a run that another driver holds is tried again
LEFT_TWICE = "it was left unfinished twice, and nobody had asked for that"


class Interrupted(Exception):
    """The run was asked to stop; what was done is saved."""


class Failed(RuntimeError):
    """Runs broke. The text names each and says what happened; whatever does not begin from them is done."""

    def __init__(self, failures: Mapping[str, str]):
        super().__init__("\n".join(f"{run} failed: {text}" for run, text in failures.items()))


Show = Callable[[Message], None]
Made = TypeVar("Made")


def run(
    plan: Plan,
    *,
    store: Store | str | Path = "runs/store",
    out: str | Path | None = None,
    workers: int | None = None,
    on: str | None = None,
    remote: str | None = None,
    execution: Execution | None = None,
    watch: Watch | None = None,
    show: Show = lambda message: None,
    prepared: Prepared | None = None,
) -> Results:
    """Train and evaluate what the plan lacks, then write `out/results/*.parquet` (`runs/STUDY` by default).

    `workers` runs go side by side: as processes of this machine, or as tasks of the Ray cluster that `on` names
    (`ray://HOST:PORT`, `ray:auto`, `local`), there through an object store where its URL is given as `remote`. `show`
    is told what they say. SIGINT and SIGTERM save and stop. Raises `Refused` for a plan that can only be planned,
    `Interrupted`, and `Failed` with the worker's own words. `prepared` spares preparing the study again.
    """
    through = remote_store(remote, on)
    place = store if isinstance(store, Store) else Store(store)
    refuse_declared(plan)
    how = execution or Execution()
    refuse_uneven(plan, how)
    with cluster.reached(on, workers) if on is not None else nullcontext():
        prepared = prepared or prepare(plan.study, place, *([watch] if watch else []))
        refuse_small_disk(plan, place, done(plan, prepared))
        if prepared.catalogue != plan.catalogue:
            raise Refused("the sources have changed since the plan was made; make the plan again")
        folder = Path(out) if out is not None else Path("runs") / plan.study.name
        remember(plan, prepared, folder)
        stock(prepared, plan, *([watch] if watch else []))
        with asked_to_stop() as interrupted:
            if through is not None:
                _execute_afar(plan, prepared, through, how, workers, interrupted, show)
            elif left := len(plan.nodes) - len(done(plan, prepared)):
                if on is not None:
                    crew: Crew = cluster.RayCrew(prepared, how, workers=workers, queued=on != "local")
                else:
                    crew = LocalCrew(prepared, workers or usual_workers(how), how, left)
                for message in execute(plan, prepared, crew, interrupted, done(plan, prepared)):
                    show(message)
    return gather(plan, prepared, folder / "results")


def remote_store(url: str | None, on: str | None) -> Remote | None:
    """The object store that workers and driver share; None where they share a file system."""
    if url is not None and on is None:
        raise Refused("--remote: goes with --on; workers of this machine share its --store")
    return None if url is None else Remote(url)


def _execute_afar(
    plan: Plan,
    prepared: Prepared,
    remote: Remote,
    how: Execution,
    workers: int | None,
    interrupted: Callable[[], bool],
    show: Show,
) -> None:
    """The same where workers do not see this machine's store: inputs go to the remote one, rows come from it."""
    afar.refuse_outside(prepared)
    afar.push_inputs(remote, prepared, plan)
    finished = frozenset(run for run, node in plan.nodes.items() if afar.done(remote, prepared, node))
    try:
        if len(finished) < len(plan.nodes):
            crew = cluster.RayCrew(prepared, how, workers=workers, remote=remote.url)
            for message in execute(plan, prepared, crew, interrupted, finished):
                show(message)
    finally:
        for run in plan.nodes:
            afar.pull_rows(remote, prepared, run)


def done(plan: Plan, prepared: Prepared) -> frozenset[str]:
    """The plan's runs of which nothing is left to do."""
    return frozenset(run for run, node in plan.nodes.items() if is_done(prepared, node))


def refuse_declared(plan: Plan) -> None:
    if plan.declared():
        raise Refused(
            f"sources.{plan.declared()[0]}: declared, with no data behind it; this study can be planned and not run"
        )


def refuse_small_disk(plan: Plan, store: Store, finished: frozenset[str] = frozenset()) -> None:
    """What is left needs weights at every point, the whole state (weights and two moments) where others may begin and,
    while a run is under way, in three checkpoints; all in fp32."""
    store.root.mkdir(parents=True, exist_ok=True)
    left = [node for run, node in plan.nodes.items() if run not in finished]
    copies = sum(len(n.evaluate_at) + 3 * len(n.states) for n in left) + 9 * min(len(left), cores())
    wanted = 4 * plan.parameters * copies
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


def execute(
    plan: Plan, prepared: Prepared, crew: Crew, interrupted: Callable[[], bool], done_before: frozenset[str]
) -> Iterator[Message]:
    """Everything the crew says, until all runs are done. Runs that another driver works on are waited for. A run that
    fails takes only those with it that begin from it: one arm that diverges must not keep the others from their end.
    """
    finished = set(done_before)
    waiting = [node for run, node in plan.nodes.items() if run not in finished]
    ahead = _work_ahead(plan)
    waiting.sort(key=lambda node: -ahead[node.run])  # the longest chain first, so that none is left alone at the end
    held: dict[str, float] = {}  # by run, when to ask again
    left: set[str] = set()  # runs that were left without being asked to
    failed: dict[str, str] = {}  # by run, what happened
    stopping = False
    try:
        while waiting or crew.busy:
            for node in list(waiting) if crew.free and not stopping else ():
                ready = node.parent is None or node.parent in finished
                if crew.free and ready and time.monotonic() >= held.get(node.run, 0.0):
                    waiting.remove(node)
                    crew.start(node)
            if stopping and not crew.busy:
                break
            for message in crew.listen(timeout=0.2):
                if message.kind == "failed":
                    failed[message.run] = message.text
                if message.kind == "refused":
                    raise Refused(message.text)
                if message.kind == "held":
                    held[message.run] = time.monotonic() + ASK_AGAIN_SECONDS
                    waiting.append(plan.nodes[message.run])
                if message.kind == "stopped" and not stopping:
                    # A file that another machine wrote may be seen late; twice is a fault.
                    if message.run in left:
                        failed[message.run] = LEFT_TWICE
                    else:
                        left.add(message.run)
                        waiting.append(plan.nodes[message.run])
                if message.kind == "done":
                    finished.add(message.run)
                yield message
            waiting = [node for node in waiting if not _begins_from(plan, node, failed)]
            if interrupted() and not stopping:
                stopping = True
                crew.stop()
    finally:
        crew.close()
    if failed and not stopping:
        raise Failed(failed)
    if stopping:
        broken = f"; {Failed(failed)}" if failed else ""
        raise Interrupted(f"{len(finished)} of {len(plan.nodes)} runs are done, what was begun is saved{broken}")


def _begins_from(plan: Plan, node: Node, runs: Collection[str]) -> bool:
    """Whether one of these runs is among those that a run follows."""
    while node.parent is not None:
        if node.parent in runs:
            return True
        node = plan.nodes[node.parent]
    return False


def first_then_all(ranks: Ranks, make: Callable[[], Made]) -> Made:
    """What every rank makes for itself: the first one before the others, which then find its files in the store. What
    refuses the first is refused on all."""
    made, fault = None, None
    if ranks.first:
        try:
            made = make()
        except Refused as refusal:
            fault = str(refusal)
    fault = ranks.decided(lambda: fault)
    if fault is not None:
        raise Refused(fault)
    return made if made is not None else make()


def walk_as_rank(
    plan: Plan, prepared: Prepared, ranks: Ranks, execution: Execution, interrupted: Callable[[], bool]
) -> Iterator[Message]:
    """The same under torchrun: every rank walks through the runs in one order, all of them on each run together."""
    from curricle.training.loop import Diverged, NothingToLearn

    finished = ranks.decided(lambda: done(plan, prepared))
    failed: dict[str, str] = {}
    for run, node in plan.nodes.items():
        if run in finished or _begins_from(plan, node, failed):
            continue
        tries = 0
        while True:
            try:
                last = yield from _said(work_on(prepared, node, ranks, execution, interrupted))
            except Held:
                last = "held"
            except (Diverged, NothingToLearn) as error:  # on every rank alike
                failed[run] = str(error)
                break
            if last == "done":
                break
            if ranks.summed([interrupted()])[0]:
                raise Interrupted("what was begun is saved")
            if last == "stopped" and (tries := tries + 1) > 1:
                failed[run] = LEFT_TWICE
                break
            time.sleep(ASK_AGAIN_SECONDS)
    if failed:
        raise Failed(failed)


def _said(messages: Iterator[Message]) -> Generator[Message, None, str]:
    """What is said, but for a `stopped` at its end; the kind of the last."""
    kind = ""
    for message in messages:
        kind = message.kind
        if kind != "stopped":
            yield message
    return kind


def refuse_uneven(plan: Plan, execution: Execution) -> None:
    """Every batch must be shared out evenly over the ranks."""
    for node in plan.nodes.values():
        if node.rows_per_step % execution.ranks:
            raise Refused(
                f"--nproc-per-node: a batch of stage {node.stage} has {node.rows_per_step} rows (recipe.batch_tokens / "
                f"model.context), which {execution.ranks} ranks cannot share evenly; take a divisor of it"
            )
    if execution.ranks % execution.replicas:
        raise Refused(f"--replicas {execution.replicas}: not a divisor of the {execution.ranks} ranks")


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
    diverged = {run for run, node in plan.nodes.items() if _has_diverged(prepared.store, node)}
    best = best_arms(plan, pa.concat_tables(tables), diverged) if tables else {}
    rows.write_rows(folder / "mixtures.parquet", _mixture_rows(plan), rows.MIXTURES)
    rows.write_rows(folder / "runs.parquet", _run_rows(plan, steps, best), rows.RUNS)
    return Results(folder)


def best_arms(plan: Plan, evaluations: Any, diverged: Collection[str] = ()) -> dict[str, str]:
    """Strategy → the arm that stands for it: of those with several learning rates the one whose target has the fewest
    bits per byte at the end, over all seeds; none until all of them are done. An arm with a run that has `diverged`
    never ends and is not waited for. (Chosen and judged on the same problems, so a little optimistic; all arms of a
    study have the same advantage.)"""
    import pyarrow.compute as pc

    target = evaluations.filter((pc.field("benchmark") == plan.study.answer_target) & pc.field("final"))
    sums = target.group_by("run").aggregate([("nats", "sum"), ("bytes", "sum")]).to_pylist()
    by_run = {row["run"]: row["nats_sum"] / row["bytes_sum"] for row in sums if row["bytes_sum"]}
    found: dict[str, str] = {}
    for strategy in plan.study.strategies:
        arms = [arm for arm, of in plan.arms.items() if of == strategy]
        paths = {arm: [plan.paths[arm, seed] for seed in plan.study.seeds] for arm in arms}
        ends = {
            arm: [p[-1] for p in of] for arm, of in paths.items() if not any(run in diverged for p in of for run in p)
        }
        if len(arms) == 1:
            found[strategy] = arms[0]
        elif ends and all(run in by_run for runs in ends.values() for run in runs):
            found[strategy] = min(ends, key=lambda arm: sum(by_run[run] for run in ends[arm]))
    return found


def _steps(store: Store, node: Node) -> list[dict[str, Any]]:
    whole = _metrics(store, node)
    peak = _peak_flops(store, store.run_folder(node.run), node)
    return rows.step_rows(whole, run=node.run, stage=node.stage, seed=node.seed, peak_flops=peak)


def _metrics(store: Store, node: Node) -> list[str]:
    """The lines of a run's metrics. The last may be cut off, where a run was killed or the disk was full."""
    file = store.run_folder(node.run) / "metrics.jsonl"
    if not file.exists():
        return []
    with open(file, encoding="utf-8") as lines:
        return [line for line in lines if line.startswith("{") and line.endswith("}\n")]


def _has_diverged(store: Store, node: Node) -> bool:
    """Whether the last that a run did was to stop because it learnt no more."""
    return any("diverged" in json.loads(line) for line in _metrics(store, node)[-1:])


def _peak_flops(store: Store, folder: Path, node: Node) -> float | None:
    """Of what the run was trained on, all ranks together; None where that was never measured (`curricle calibrate`)."""
    if not (folder / "receipt.json").exists():
        return None
    session = read_json(folder / "receipt.json")["sessions"][-1]
    # By name: whoever gathers need not have the device, nor the same one.
    name = session.get("cpu", "") if session["device"] == "cpu" else session["device"]
    peak = peak_of(store, name, session["threads"], session["torch"])
    rate = peak.flops_per_second.get(node.recipe.precision) if peak else None
    return rate * session["ranks"] if rate else None


def _mixture_rows(plan: Plan) -> Iterator[dict[str, Any]]:
    for run, node in plan.nodes.items():
        for step, weights in node.mixtures:
            whole = sum(weights.values())
            for source, weight in weights.items():
                yield {
                    "run": run,
                    "until_tokens": node.tokens_at(step),
                    "source": source,
                    "share": weight / whole,
                    "available_tokens": plan.catalogue.sources[source].tokens,
                    **_made(plan.study.sources[source]),
                }


def _made(source: Source) -> dict[str, str | None]:
    """What a source is, and what it was made from."""
    derived = source if isinstance(source, Counterfactual) else None
    return {
        "kind": type(source).__name__.lower(),
        "made_from": derived.counterfactual if derived else None,
        "take": derived.take if derived else None,
    }


def _run_rows(
    plan: Plan, steps: Mapping[str, list[dict[str, Any]]], best: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    for (arm, seed), path in plan.paths.items():
        strategy = plan.arms[arm]
        if arm != best.get(strategy, strategy):
            continue
        before = 0
        for position, run in enumerate(path):
            node = plan.nodes[run]
            tokens = plan.tokens_in(path, position)
            here = [s for s in steps[run] if s["tokens"] <= tokens]
            yield {
                "study": plan.study.name,
                "strategy": strategy,
                "arm": arm,
                "baseline": strategy == plan.study.baseline,
                "seed": seed,
                "position": position,
                "stage": node.stage,
                "kind": node.kind,
                "run": run,
                "budget_tokens": tokens,
                "tokens_before": before,
                "training_flops": plan.training_flops(node) * tokens / node.tokens,
                "wall_seconds": sum(node.recipe.batch_tokens / s["tokens_per_second"] for s in here),
            }
            before += tokens
