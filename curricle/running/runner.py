"""Walks a plan: hands every run whose parent is done to a free worker, skips what is complete, gathers the rows.

Interrupted at any moment, it goes on where the last whole checkpoints stand: the store is its only memory.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from curricle.execution import Execution
from curricle.node import averaged_steps
from curricle.planning import Plan
from curricle.remote import Remote
from curricle.results import Results
from curricle.running import cluster, transfer
from curricle.running.gathering import arms_left, gather
from curricle.running.preparation import Prepared, Watch, prepare, write_streams
from curricle.running.standing import Standing, ancestor, branched, diverged, saved
from curricle.running.upkeep import remember
from curricle.running.work import Message, ending, says_diverged, work_on
from curricle.running.workers import Crew, LocalCrew, cores, usual_workers
from curricle.stopping import asked_to_stop
from curricle.store import Held, Store, locked, size_of
from curricle.study import Refused
from curricle.training import metrics

if TYPE_CHECKING:
    from curricle.training.distribution import Ranks

MEETING_SECONDS = 120.0  # in which every rank reads what one of them was refused
ASK_AGAIN_SECONDS = 1.0  # after which a run that another driver holds, or that was left, is tried again


class Interrupted(Exception):
    """The run was asked to stop; what was done is saved."""


class Failed(RuntimeError):
    """Runs broke. The text names each and says what happened; whatever does not begin from them is done, and `results`
    holds it where `run` raises this, but for None where no run took a step and older results were kept."""

    def __init__(self, failures: Mapping[str, str], results: Results | None = None):
        super().__init__("\n".join(f"{run} {ending(text)}" for run, text in failures.items()))
        self.failures, self.results = dict(failures), results


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
    `Interrupted`, and, when the results of all other runs are written, `Failed` with the worker's own words. A run that
    has diverged is not trained again (but see `try_again`), and is no failure while its strategy has another learning
    rate. `prepared` spares preparing the study again.
    """
    through = remote_store(remote, on)
    place = store if isinstance(store, Store) else Store(store)
    refuse_declared(plan)
    how = execution or Execution()
    refuse_uneven(plan, how)
    if on is not None:
        cluster.needs(how)  # for what it refuses
    folder = Path(out) if out is not None else Path("runs") / plan.study.name
    with cluster.reached(on, workers) if on is not None else nullcontext():
        prepared = prepared or prepare(plan.study, place, *([watch] if watch else []))
        if prepared.catalogue != plan.catalogue:
            raise Refused("the sources have changed since the plan was made; make the plan again")
        standing = Standing.seen(plan, prepared, through)
        make_ready(
            standing, prepared, folder, how, workers or (None if on else usual_workers(plan.width, how)), remote, watch
        )
        with asked_to_stop() as interrupted:
            said = walk(standing, prepared, how, interrupted, workers=workers, on=on, remote=through)
            failures = shown(said, show)
    results = gathered(plan, prepared, folder / "results", failures)
    if is_failure(plan, prepared, failures):
        raise Failed(failures, results)
    return results


def make_ready(
    standing: Standing,
    prepared: Prepared,
    folder: Path,
    how: Execution,
    workers: int | None,
    remote: str | None = None,
    watch: Watch | None = None,
) -> None:
    """What comes before the first run, so many of which go at once: room on the disk, but for weights that go to a
    `remote` store, a reference in the store to what this study needs of it, and its generated text."""
    if remote is None:
        refuse_small_disk(standing.plan, prepared.store, standing.finished, how.keep, workers)
    remember(standing.plan, prepared, folder, remote)
    write_streams(prepared, standing.plan, *([watch] if watch else []))


def walk(
    standing: Standing,
    prepared: Prepared,
    how: Execution,
    interrupted: Callable[[], bool],
    *,
    workers: int | None = None,
    on: str | None = None,
    remote: Remote | None = None,
) -> Generator[Message]:
    """Everything that is said while what is left is done, by processes of this machine or on a cluster. With a `remote`
    store these do not see this machine's: inputs go there, rows come from it. Raises what `execute` does."""
    plan = standing.plan
    if remote is not None:
        transfer.refuse_outside(prepared)
        transfer.push_inputs(remote, prepared, plan)
    try:
        if standing.left:
            if on is not None:
                url = remote.url if remote else None
                crew: Crew = cluster.RayCrew(prepared, how, workers=workers, remote=url, queued=on != "local")
            else:
                crew = LocalCrew(prepared, workers or usual_workers(plan.width, how), how, len(standing.left))
            leavings = Leavings(lambda run: saved(prepared.store, run, remote))
            yield from execute(standing, crew, leavings, interrupted, lambda: branched(plan, prepared, remote))
        elif standing.diverged:
            raise Failed(standing.diverged)
    finally:
        if remote is not None:
            for run in plan.nodes:
                transfer.pull_rows(remote, prepared, run)


def shown(said: Generator[Message], show: Show) -> Mapping[str, str]:
    """Show what is said to its end: what went wrong, by run, those among them that had diverged before."""
    with closing(said):  # whatever happens here, what is begun is saved now
        try:
            for message in said:
                show(message)
        except Failed as failure:
            return failure.failures
    return {}


def gathered(plan: Plan, prepared: Prepared, folder: Path, failures: Mapping[str, str]) -> Results:
    """The results after a session with these failures. They are raised as `Failed` where `gather` refuses: that no run
    has begun is what they explain."""
    try:
        return gather(plan, prepared, folder)
    except Refused:
        if failures:
            raise Failed(failures) from None
        raise


def is_failure(plan: Plan, prepared: Prepared, failures: Mapping[str, str]) -> bool:
    """Whether what broke leaves the study without something that it asks for. That a learning rate is too high is an
    answer of its sweep, as long as another rate of the strategy goes to its end."""
    wild = {run for run, text in failures.items() if says_diverged(text)}
    return wild != failures.keys() or not all(arms_left(plan, wild, branched(plan, prepared)).values())


def try_again(plan: Plan, prepared: Prepared, names: Sequence[str], remote: Remote | None = None) -> None:
    """Let runs that have diverged be trained on, from their last checkpoints. Raises `Refused` for a name, which may be
    shortened, that is none of theirs, and `Held`."""
    if not names:
        return
    if remote is not None:
        for run in plan.nodes:
            transfer.pull_rows(remote, prepared, run)
    wild = diverged(plan, prepared)
    for name in names:
        runs = [run for run in wild if run.startswith(name)]
        if len(runs) != 1:
            known = f"those are {', '.join(wild)}" if wild else "none has"
            raise Refused(f"--again {name}: {'several runs' if runs else 'no run'} of this study diverged so; {known}")
        folder = prepared.store.run_folder(runs[0])
        with locked(folder, runs[0]):
            metrics.forget_divergence(folder)
        if remote is not None:
            remote.push_file(prepared.store, f"runs/{runs[0]}/{metrics.FILE}")


def remote_store(url: str | None, on: str | None) -> Remote | None:
    """The object store that workers and driver share; None where they share a file system."""
    if url is not None and on is None:
        raise Refused("--remote: goes with --on; workers of this machine share its --store")
    return None if url is None else Remote(url)


def refuse_declared(plan: Plan) -> None:
    if plan.declared():
        raise Refused(
            f"sources.{plan.declared()[0]}: declared, with no data behind it; this study can be planned and not run"
        )


def bytes_wanted(
    plan: Plan, finished: frozenset[str] = frozenset(), keep: int = Execution().keep, workers: int | None = None
) -> int:
    """What is left needs weights at every point, the whole state (weights and two moments) where others may begin and,
    while a run is under way, in those that it keeps and one more, and the weights that it averages; all in fp32."""
    left = [node for run, node in plan.nodes.items() if run not in finished]
    at_once = min(len(left), plan.width, workers or cores())
    averaged = sorted(len(averaged_steps(n.recipe, n.steps)) for n in left)[len(left) - at_once :]
    copies = sum(len(n.evaluate_at) + 3 * len(n.states) for n in left) + 3 * (keep + 1) * at_once + sum(averaged)
    return 4 * plan.parameters * copies


def refuse_small_disk(
    plan: Plan,
    store: Store,
    finished: frozenset[str] = frozenset(),
    keep: int = Execution().keep,
    workers: int | None = None,
) -> None:
    """`workers` runs go at once; as many as there are cores where that is not known."""
    store.root.mkdir(parents=True, exist_ok=True)
    there = sum(size_of(store.run_folder(run)) for run in plan.nodes if run not in finished)
    wanted = bytes_wanted(plan, finished, keep, workers) - there
    free = shutil.disk_usage(store.root).free
    if wanted > free:
        raise Refused(
            f"--store {store.root}: {free / 1e9:.1f} GB are free, and weights and checkpoints of this plan may take "
            f"{wanted / 1e9:.1f} GB more; name another folder"
        )


class Leavings:
    """What becomes of runs that were left though nobody had asked for that: their process was killed, their task died,
    their ranks lost each other, a file that another machine wrote was seen late. Such a run is begun again from its
    last checkpoint, as often as it has saved something more; left twice without that, it has failed."""

    def __init__(self, saved: Callable[[str], tuple[int, ...]]):
        """`saved` looks at how much there is of a run. What was only said of it is lost when it is left."""
        self._saved = saved
        self._most: dict[str, tuple[int, ...]] = {}  # by run that was left, the most of each that there ever was then

    def failure(self, run: str, text: str = "") -> str | None:
        """Why a run that was left has failed; None where it is to be begun again. `text` is what happened to it."""
        now = self._saved(run)
        before = self._most.get(run)
        most = now if before is None else tuple(map(max, now, before))
        if most != before:
            self._most[run] = most
            return None
        return ": ".join(filter(None, ("it was left unfinished twice without coming further", text)))


def execute(
    standing: Standing,
    crew: Crew,
    leavings: Leavings,
    interrupted: Callable[[], bool],
    look: Callable[[], frozenset[str]] = frozenset,
) -> Generator[Message]:
    """Everything the crew says, until all runs are done. Runs that another driver works on are waited for, those that
    were left are begun again as `leavings` has it. A run that fails, or has diverged before, takes only those with it
    that need it: one arm that diverges must not keep the others from their end. `look` sees which branches need their
    parent no more.
    """
    plan, finished, waiting = standing.plan, set(standing.finished), standing.left
    alone = standing.branched
    ahead = _work_ahead(plan)
    waiting.sort(key=lambda node: -ahead[node.run])  # the longest chain first, so that none is left alone at the end
    later: dict[str, float] = {}  # by run that is held or was left, when to begin it again
    stepped = False
    failed = dict(standing.diverged)  # by run, what happened
    stopping = False
    try:
        while waiting or crew.busy:
            for node in list(waiting) if crew.free and not stopping else ():
                ready = node.parent is None or node.parent in finished or node.run in alone
                if crew.free and ready and time.monotonic() >= later.get(node.run, 0.0):
                    waiting.remove(node)
                    crew.start(node)
            if stopping and not crew.busy:
                break
            for message in crew.listen(timeout=0.2):
                left = message.kind == "stopped" and not stopping
                if left and (fault := leavings.failure(message.run, message.text)) is not None:
                    message, left = Message("failed", message.run, text=fault), False
                stepped = stepped or message.kind == "step"
                if message.kind == "refused":
                    if not stepped:  # it is the study's fault, or this machine's
                        raise Refused(message.text)
                    message = Message("failed", message.run, text=message.text)
                if message.kind == "failed":
                    failed[message.run] = message.text
                    alone = look()
                if message.kind == "held" or left:
                    later[message.run] = time.monotonic() + ASK_AGAIN_SECONDS
                    waiting.append(plan.nodes[message.run])
                if message.kind == "done":
                    finished.add(message.run)
                yield message
            waiting = [node for node in waiting if ancestor(plan, node, failed, alone) is None]
            if interrupted() and not stopping:
                stopping = True
                crew.stop()
    finally:
        crew.close()
    if failed and not stopping:
        raise Failed(failed)
    if stopping:
        also = f"; {Failed(failed)}" if failed else ""
        raise Interrupted(f"{len(finished)} of {len(plan.nodes)} runs are done, what was begun is saved{also}")


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


def met(ranks: Ranks, seconds: float) -> bool:
    """Whether all ranks are here within so many seconds. A rank that is refused what the others are not (its disk has
    damaged a file) is here alone, and they wait for it elsewhere: together they cannot go on."""
    import torch.distributed as dist

    if ranks.size > 1:
        try:
            dist.monitored_barrier(ranks.patient, timedelta(seconds=seconds))
        except RuntimeError:  # gloo has no class of its own for it
            return False
    return True


def walk_as_rank(
    standing: Standing, prepared: Prepared, ranks: Ranks, execution: Execution, interrupted: Callable[[], bool]
) -> Generator[Message]:
    """The same under torchrun: every rank walks through the runs in one order, all of them on each run together. What
    fails or is refused ends one run or all by the rule of `execute`."""
    from curricle.training.loop import Diverged, NothingToLearn

    plan = standing.plan
    # Another driver may have done something between one rank's look and another's.
    agreed = Standing(plan, *ranks.decided(lambda: (standing.finished, standing.diverged, standing.branched)))
    failed, leavings = dict(agreed.diverged), Leavings(lambda run: saved(prepared.store, run))
    stepped = False
    for node in agreed.left:
        run = node.run
        if failed and ancestor(plan, node, failed, ranks.decided(lambda: branched(plan, prepared))) is not None:
            continue
        while True:
            fault = None
            try:
                for message in work_on(prepared, node, ranks, execution, interrupted):
                    last, stepped = message.kind, stepped or message.kind == "step"
                    if last != "stopped":
                        yield message
            except Held:
                last = "held"
            except Refused as refusal:
                if not stepped or not met(ranks, MEETING_SECONDS):
                    raise
                last, fault = "failed", str(refusal)
            except (Diverged, NothingToLearn) as error:  # on every rank alike
                last, fault = "failed", str(error)
            if last == "done":
                break
            if fault is None and ranks.summed([interrupted()])[0]:
                raise Interrupted("what was begun is saved")
            if last == "stopped":
                fault = ranks.decided(partial(leavings.failure, run))
            if fault is not None:
                failed[run] = fault
                yield Message("failed", run, text=fault)
                break
            time.sleep(ASK_AGAIN_SECONDS)
    if failed:
        raise Failed(failed)


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
