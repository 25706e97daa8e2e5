"""Long-lived workers on this machine, each one process, or several that train one run together as ranks.

Small models do not fill two threads, and importing torch and transformers costs seconds, so independent runs go side
by side in processes that stay. The driver hands out runs and listens; a process that dies takes nothing with it but
the work since the last checkpoint, and its fellow ranks, which could not go on without it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from curricle.execution import Execution
from curricle.node import Node
from curricle.running.preparation import Prepared
from curricle.running.work import Message, work_on
from curricle.store import Held
from curricle.study import Refused

MESSAGES_A_SECOND = 5
SAVE_SECONDS = 60  # that a worker may take over an evaluation or a save when it is asked to stop
SAYS_MORE = {"step", "evaluating", "evaluated"}  # kinds after which a run goes on
# Without a step after a step: then ranks are taken to wait for each other for ever. A little less than they themselves
# wait in a step (`distribution.STEP_PATIENCE`), which would end in an error instead.
STILL_SECONDS = 25 * 60.0
STILL_STEPS = 20.0  # so many times the longest silence between two steps is allowed too
KILLED = "its worker was killed (out of memory? fewer --workers, or a smaller --micro-batch-tokens, take less)"
KILL_SECONDS = 10.0  # for a killed process to be gone; one that hangs in the kernel is left to it


class Crew(Protocol):
    """Whoever works on runs: processes of this machine, or a cluster. The driver asks and listens."""

    @property
    def free(self) -> int:
        """How many more runs it takes now."""

    @property
    def busy(self) -> int:
        """How many runs it works on."""

    def start(self, node: Node) -> None: ...

    def listen(self, timeout: float) -> list[Message]:
        """What was said since; waits so many seconds for something. A run's last message is none of `SAYS_MORE`."""

    def stop(self) -> None:
        """Ask for every run to be saved and left."""

    def close(self) -> None:
        """Let what is begun be saved, within a bound, and end."""


class LocalCrew:
    """Workers that share out this machine's cores, or its GPUs."""

    def __init__(self, prepared: Prepared, workers: int, execution: Execution, left: int | None = None):
        """`workers` side by side, but no more than there are runs `left`."""
        # Threads follow from the machine and the options, never from what is left: the last run of an interrupted study
        # must add its numbers in the same order as the first time.
        threads = threads_each(workers, execution)
        refuse_few_gpus(workers, execution)
        gpus = _shared_out(gpu_count(), workers)
        self._workers = [Worker(prepared, threads, execution, gpus[at]) for at in range(min(workers, left or workers))]

    @property
    def free(self) -> int:
        return sum(worker.node is None for worker in self._workers)

    @property
    def busy(self) -> int:
        return len(self._workers) - self.free

    def start(self, node: Node) -> None:
        next(worker for worker in self._workers if worker.node is None).start(node)

    def listen(self, timeout: float) -> list[Message]:
        return listen_to([worker for worker in self._workers if worker.node], timeout)

    def stop(self) -> None:
        for worker in self._workers:
            worker.stop()

    def close(self) -> None:
        self.stop()
        for worker in self._workers:
            worker.close()


class Worker:
    """One process, or the ranks of one run: takes one node at a time. Only the first rank tells how it goes."""

    def __init__(self, prepared: Prepared, threads: int, execution: Execution, gpus: Sequence[int] | None):
        self.node: Node | None = None
        self._last = ""  # the kind of what was said last
        self._quiet, self._quietest = 0.0, 0.0  # seconds since then; the most of them between two steps
        self._given = prepared, threads, execution
        self._gpus = gpus
        self._meeting: tempfile.TemporaryDirectory | None = None
        self.connections: list[Connection] = []
        self.processes: list[Any] = []
        self._spawn()

    def _spawn(self) -> None:
        context = _context()
        prepared, threads, execution = self._given
        self._stop = context.Event()
        self._meeting = tempfile.TemporaryDirectory(prefix="curricle-ranks-") if execution.ranks > 1 else None
        meeting = Path(self._meeting.name) / "rendezvous" if self._meeting else None
        for rank in range(execution.ranks):
            ours, theirs = context.Pipe()
            # What it is forked from may be older than what this process was told since.
            arguments = (theirs, self._stop, prepared, threads, execution, rank, meeting, self._gpus, dict(os.environ))
            process = context.Process(target=_serve, args=arguments, daemon=True)
            with _main_hidden():
                _started(process)
            theirs.close()
            self.connections.append(ours)
            self.processes.append(process)

    def start(self, node: Node) -> None:
        if not all(process.is_alive() for process in self.processes):  # killed; this run has no part in that
            self._gather_up()
            self._spawn()
        self.node, self._last = node, ""
        self._quiet, self._quietest = 0.0, 0.0
        with suppress(OSError):  # a process that is gone is noticed by whoever listens
            for connection in self.connections:
                connection.send(node)

    def receive(self, connection: Connection) -> Message:
        """The next message, or that the process behind the connection is gone, which leaves the run. Any rank's failure
        is the run's."""
        assert self.node is not None
        try:
            message = connection.recv()
        except (EOFError, ConnectionResetError):
            message = Message("stopped", self.node.run, text="" if self._stop.is_set() else KILLED)
        if self._last == message.kind == "step":
            self._quietest = max(self._quietest, self._quiet)
        self._quiet, self._last = 0.0, message.kind
        if message.kind not in SAYS_MORE:
            self.node = None
        if _breaks(message):
            # Other ranks wait for one that will not come, and what broke a run may have broken its process (a GPU's
            # context): the next run gets new ones.
            self.kill()
        return message

    def waited(self, seconds: float) -> Message | None:
        """Note that nothing was said for so long. Ranks that stand still are ended, and the run is left, to be begun
        again from its last checkpoint: gloo can lose one of them in a gather (docs/LOG.md), and its fellows would wait
        for hours. Only steps are timed: the first of a session may compile, and evaluations take what they take."""
        self._quiet += seconds
        allowed = max(STILL_SECONDS, STILL_STEPS * self._quietest)
        if self.node is None or len(self.processes) == 1 or self._last != "step" or self._quiet < allowed:
            return None
        if any(self._given[0].store.run_folder(self.node.run).rglob(".step-*.tmp")):
            self._quiet = 0.0  # a save takes what it takes; one that hangs ends by its process group's own patience
            return None
        run, self.node = self.node.run, None
        self.kill()
        return Message("stopped", run, text=f"its ranks stood still for {self._quiet:.0f} s and were ended")

    def stop(self) -> None:
        """Ask it to save and leave what it is working on. An evaluation may take minutes, and all that came before it
        is saved: it is not waited for."""
        self._stop.set()
        if self._last == "evaluating":
            self.kill()

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join(KILL_SECONDS)

    def close(self) -> None:
        """Let it save what it is working on, within a bound, and end it."""
        self.stop()
        with suppress(EOFError, OSError):
            while self.node is not None and self.connections[0].poll(SAVE_SECONDS):
                self.receive(self.connections[0])
        self._gather_up()

    def _gather_up(self) -> None:
        for connection in self.connections:
            connection.close()
        for process in self.processes:
            process.join(timeout=5)
        self.kill()
        self.connections, self.processes = [], []
        if self._meeting is not None:
            self._meeting.cleanup()


def _started(process: Any) -> None:
    """Start it. Where the server that it is forked from was killed meanwhile a new one is made, which takes a moment: a
    killed process that is not gone yet still counts as running, and refuses."""
    for wait_seconds in (0.05, 0.2, 1.0, 5.0):
        try:
            process.start()
            return
        except (EOFError, OSError):
            time.sleep(wait_seconds)
            _context()
    process.start()


def _breaks(message: Message) -> bool:
    """Whether the processes behind it are of no more use; what a `stopped` says is what happened to them."""
    return message.kind in {"failed", "refused"} or (message.kind == "stopped" and message.text != "")


def listen_to(workers: Sequence[Worker], timeout: float) -> list[Message]:
    """What busy workers say within so many seconds, or that one of them says nothing any more."""
    owners = {connection: worker for worker in workers for connection in worker.connections}
    if not owners:
        time.sleep(timeout)
        return []
    began = time.monotonic()
    ready = wait(list(owners), timeout=timeout)
    waited = min(timeout, time.monotonic() - began)  # no longer, where this process itself was suspended
    heard = []
    for connection in ready:
        worker = owners[connection]  # type: ignore[index]
        if worker.node is not None:  # not ended by what another of its ranks has just said
            heard.append(worker.receive(connection))  # type: ignore[arg-type]
    return heard + [message for worker in workers if (message := worker.waited(waited)) is not None]


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_count() -> int:
    import torch

    return torch.cuda.device_count()


def usual_workers(width: int, execution: Execution) -> int:
    """How many runs go side by side where nobody says: as many as there are cores, or GPUs, for their ranks, but no
    more than a plan of such a `width` can ever have. So those share out all cores; of GPUs a run uses one for each of
    its ranks, and the others stand idle. Never by what is left of the plan: threads follow from this, and a run that
    goes on must add its numbers in the same order."""
    return max(1, min(width, (gpu_count() or cores()) // execution.ranks))


def threads_each(workers: int, execution: Execution) -> int:
    """How many threads one rank has where so many runs go side by side."""
    return max(1, cores() // (workers * execution.ranks))


def refuse_few_gpus(workers: int, execution: Execution) -> None:
    """Two ranks on one GPU would wait for each other for ever. Where there is none, ranks are threads' work."""
    gpus = gpu_count()
    each = max(1, gpus // workers)
    if gpus and execution.ranks > each:
        raise Refused(
            f"--nproc-per-node {execution.ranks}: {each} of the {gpus} GPUs here {'is' if each == 1 else 'are'} there "
            f"for each of {workers} runs side by side; write {each} or fewer, or fewer --workers"
        )


def _context() -> Any:
    """How a worker's process begins: from a server that has imported what all of them need, so that seconds of CPU and
    hundreds of MB are spent once and not by each. A GPU's driver does not survive such a fork, and system libraries
    other than Linux's may not."""
    if sys.platform != "linux" or gpu_count():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["curricle.running.warm"])
    # A signal to the whole job is the driver's to answer, also while the server still imports: it begins with both
    # blocked, and `warm` ignores them before it lets them through.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def _visible(gpus: Sequence[int], inherited: str | None) -> str:
    """`CUDA_VISIBLE_DEVICES` of a worker. What we were given (numbers, UUIDs, MIG slices) is shared out, not replaced:
    GPU 0 of this process need not be GPU 0 of the machine."""
    names = [name.strip() for name in inherited.split(",")] if inherited else None
    return ",".join(names[at] if names else str(at) for at in gpus)


def _shared_out(gpus: int, workers: int) -> list[tuple[int, ...] | None]:
    """Which GPUs each worker sees; None for all workers where there are none."""
    if not gpus:
        return [None] * workers
    each = max(1, gpus // workers)
    return [tuple((at * each + i) % gpus for i in range(each)) for at in range(workers)]


@contextmanager
def _main_hidden() -> Iterator[None]:
    """A spawned process would run the caller's script again before it begins; it needs nothing of it."""
    main = vars(sys.modules["__main__"])
    hidden: dict[str, Any] = {name: main[name] for name in ("__file__", "__spec__") if name in main}
    main.pop("__file__", None)
    main["__spec__"] = None
    try:
        yield
    finally:
        main.update(hidden)


def _serve(
    connection: Connection,
    stop: Any,
    prepared: Prepared,
    threads: int,
    execution: Execution,
    rank: int,
    meeting: Path | None,
    gpus: Sequence[int] | None,
    environment: Mapping[str, str],
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver is told, and tells us
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Without a driver there is nobody to work for; a killed one leaves no orphan training on.
    threading.Thread(target=lambda: (multiprocessing.parent_process().join(), os._exit(1)), daemon=True).start()  # type: ignore[union-attr]
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = _visible(gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))
    import torch

    from curricle.training.distribution import Ranks, rendezvous

    torch.set_num_threads(threads)
    ranks = Ranks.alone() if meeting is None else Ranks.join(rank, execution.ranks, rendezvous(meeting), rank)
    while True:
        try:
            node = connection.recv()
        except EOFError:
            return
        for message in told(prepared, node, ranks, execution, stop.is_set):
            if ranks.first or _breaks(message):
                try:
                    connection.send(message)
                except (BrokenPipeError, EOFError):  # the driver is gone
                    stop.set()


def told(prepared: Prepared, node: Node, ranks: Any, execution: Execution, asked_to_stop: Any) -> Iterator[Message]:
    """The work on one run as messages only: steps not too often, and a failure as the last of them."""
    said, last = 0.0, ""
    try:
        for message in work_on(prepared, node, ranks, execution, asked_to_stop):
            if message.kind != "step" or last != "step" or time.monotonic() - said > 1 / MESSAGES_A_SECOND:
                yield message
                said, last = time.monotonic(), message.kind
    except Held as held:
        yield Message("held", node.run, text=str(held))
    except Refused as refusal:
        yield Message("refused", node.run, text=str(refusal))
    except Exception as error:
        from curricle.training.distribution import lost
        from curricle.training.loop import Diverged, NothingToLearn

        if lost(error):  # where no step tells the driver that they stand still: before the first, in an evaluation
            yield Message("stopped", node.run, text="its ranks have lost each other")
            return
        expected = isinstance(error, Diverged | NothingToLearn)
        yield Message("failed", node.run, text=str(error) if expected else traceback.format_exc())
