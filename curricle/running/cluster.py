"""A crew on a Ray cluster: each run is a task with the resources that it names, on whichever node has them.

The driver hands out runs, a post box (an actor) carries what they say and whether they are to stop. Nothing of it is
memory: the run of a task that dies is begun again from its checkpoint; when the driver dies, Ray ends its tasks, and
the next driver goes on. Runs read and write a store that all machines see, or pass through `remote`.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from curricle.execution import Execution
from curricle.node import Node
from curricle.remote import Remote
from curricle.running import transfer
from curricle.running.preparation import Prepared
from curricle.running.work import Message
from curricle.running.workers import SAVE_SECONDS, SAYS_MORE, Worker, cores, listen_to, told
from curricle.store import Held, locked
from curricle.study import Refused

ALLOWED = "ray://HOST:PORT, ray:auto, or local"
ASK_SECONDS = 0.5  # between a task's looks at whether it is to stop
SLOTS_SECONDS = 5.0  # after which the cluster is asked again how large it is
PUSH_SECONDS = 300.0  # after which a run's newest checkpoint goes to the remote store between evaluations
LOCAL_OBJECTS_BYTES = 2**28  # Ray's shared memory on this machine; what is sent to tasks is far smaller


@contextmanager
def reached(on: str, workers: int | None = None) -> Iterator[None]:
    """While this is open, there is a cluster to hand runs to: `local` starts one on this machine and ends it.

    Raises `Refused` where `on` is no such address, Ray is not installed, or nobody answers there."""
    if on not in {"local", "ray:auto"} and not (on.startswith("ray://") and _port(on)):
        raise Refused(f"--on {on}: use {ALLOWED}")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would ask the network
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its new default; the old one warns
    try:
        import ray
    except ImportError:
        raise Refused(f"--on {on}: needs ray, which is not installed: pip install 'curricle[ray]'") from None
    if ray.is_initialized():  # by whoever called us
        yield
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if on == "local":
        machine = {"num_cpus": workers or cores(), "object_store_memory": LOCAL_OBJECTS_BYTES}
        ray.init(address="local", include_dashboard=False, **machine, **options)
    else:
        try:
            if on.startswith("ray://"):  # Ray itself would try for half a minute
                socket.create_connection((urlsplit(on).hostname, _port(on)), timeout=10).close()
        except OSError as error:
            raise Refused(f"--on {on}: no Ray cluster answers there: {error}") from None
        try:
            ray.init(address="auto" if on == "ray:auto" else on, **options)
        except (OSError, RuntimeError) as error:
            lines = str(error).splitlines()  # perhaps with a traceback between the first and the last
            said = " ".join(lines[:1] + lines[1:][-1:])
            raise Refused(
                f"--on {on}: no Ray cluster takes us there: {said}; where it asks for a token, set "
                f"RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
            ) from None
    try:
        if on != "local":
            _refuse_other_versions(on)
        yield
    finally:
        ray.shutdown()


def _port(address: str) -> int | None:
    with suppress(ValueError):
        return urlsplit(address).port
    return None


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("curricle", "torch", "transformers")}


def _refuse_other_versions(on: str) -> None:
    """Every node that is there is asked; one that joins later, by the first task that it gets."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(_versions).options
    asked = []
    for node in _alive():
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked.append((node["NodeManagerHostname"], ask(num_cpus=0, scheduling_strategy=there).remote()))
    for host, answer in asked:
        try:
            theirs = ray.get(answer)
        except ray.exceptions.RayError as error:
            raise Refused(
                f"--on {on}: curricle cannot be imported on {host}; install it on every node: {error}"
            ) from None
        if fault := _other_versions(host, theirs, _versions()):
            raise Refused(f"--on {on}: {fault}")


def _other_versions(host: str, theirs: dict[str, str], ours: dict[str, str]) -> str | None:
    return None if theirs == ours else f"{host} has {theirs}, the driver {ours}; results would differ: install the same"


class Post:
    """Carries messages to the driver and its wish to stop to the tasks. Lives in the cluster, as an actor."""

    def __init__(self) -> None:
        self._said: list[Message] = []
        self._begun: set[str] = set()
        self._stopping = False

    def begin(self, run: str) -> bool:
        """Whether a task that has just got its resources is still to begin."""
        if not self._stopping:
            self._begun.add(run)
        return not self._stopping

    def say(self, message: Message) -> None:
        self._said.append(message)

    def asked_to_stop(self) -> bool:
        return self._stopping

    def take(self) -> list[Message]:
        said, self._said = self._said, []
        return said

    def stop(self) -> set[str]:
        """No task begins after this; the runs that have begun."""
        self._stopping = True
        return self._begun


class RayCrew:
    """Runs as tasks of the cluster that is `reached`."""

    def __init__(
        self,
        prepared: Prepared,
        execution: Execution,
        *,
        workers: int | None = None,
        remote: str | None = None,
        queued: bool = True,
    ):
        """At most `workers` at once. `queued`: as many again wait in Ray, so that a cluster that grows with demand
        does. With a `remote` store's URL workers keep their files in a folder of their own."""
        import ray

        self._execution, self._remote, self._workers, self._queued = execution, remote, workers, queued
        self._needs = needs(execution, any(node["Resources"].get("GPU") for node in _alive()))
        if not self._slots():
            wanted = ", ".join(f"{number:,.12g} {name}" for name, number in self._needs.items())
            raise Refused(
                f"--on: a run takes {wanted} on one node, and no node of the cluster has so much; start such a node "
                f"first, or ask for less (--nproc-per-node, --resource)"
            )
        self._post = ray.remote(Post).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
        self._prepared = ray.put(prepared.moved(prepared.store.root.absolute()))
        self._tasks: dict[Any, Node] = {}
        self._slots_seen = (-SLOTS_SECONDS, 0)
        self._stopping = False

    def _slots(self) -> int:
        """How many runs the cluster's nodes have room for at once."""
        return sum(
            min(int(node["Resources"].get(name, 0) // number) for name, number in self._needs.items() if number)
            for node in _alive()
        )

    @property
    def free(self) -> int:
        if time.monotonic() - self._slots_seen[0] > SLOTS_SECONDS:
            self._slots_seen = time.monotonic(), self._slots()
        room = self._slots_seen[1] * (2 if self._queued else 1)
        return max(0, min(room, self._workers or room) - self.busy)

    @property
    def busy(self) -> int:
        return len(self._tasks)

    def start(self, node: Node) -> None:
        import ray

        named = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
        asked = {option: self._needs[name] for option, name in named.items() if name in self._needs}
        others = {name: number for name, number in self._needs.items() if name not in named.values()}
        task = ray.remote(work).options(**asked, resources=others, max_retries=0, name=node.run)
        given = self._post, self._prepared, node, self._execution, self._remote, _versions()
        self._tasks[task.remote(*given)] = node

    def listen(self, timeout: float) -> list[Message]:
        import ray

        if not self._tasks:
            time.sleep(timeout)
            return []
        ended, _ = ray.wait(list(self._tasks), timeout=timeout)
        if self._stopping:  # a post box whose node died is back, and has forgotten
            ray.get(self._post.stop.remote())
        working = {node.run for node in self._tasks.values()}
        heard = [m for m in ray.get(self._post.take.remote()) if m.run in working]
        return heard + [self._end(task) for task in ended]

    def _end(self, task: Any) -> Message:
        """The last message of a run. One whose process or node died was left."""
        import ray

        node = self._tasks.pop(task)
        try:
            message: Message = ray.get(task)
        except Exception as error:  # of the task, its process, its node
            return Message("stopped", node.run, text=f"its task died: {error}")
        return message

    def stop(self) -> None:
        import ray

        self._stopping = True
        begun = ray.get(self._post.stop.remote())
        for task in [t for t, node in self._tasks.items() if node.run not in begun]:
            ray.cancel(task)
            del self._tasks[task]

    def close(self) -> None:
        import ray

        if not self._tasks:
            return
        with suppress(ray.exceptions.RayError):
            self.stop()
            until = time.monotonic() + SAVE_SECONDS
            while self._tasks and time.monotonic() < until:
                self.listen(1.0)
            for task in self._tasks:
                ray.cancel(task, force=True)


def needs(execution: Execution, on_gpus: bool = False) -> dict[str, float]:
    """What a run asks for, by Ray's names, of a cluster that has GPUs or none. Raises `Refused` where its ranks would
    have less than a GPU each, or Ray would not take the amount. Needs no Ray."""
    ranks = execution.ranks
    asked = {"CPU": ranks, **({"GPU": ranks} if on_gpus else {}), **execution.resources}
    if ranks > 1 and 0 < asked.get("GPU", 0) < ranks:  # two ranks on one GPU would wait for each other for ever
        raise Refused(f"--resource GPU={asked['GPU']:g}: {ranks} ranks take {ranks}, or 0 to train on CPUs")
    if (gpus := asked.get("GPU", 0)) > 1 and gpus != int(gpus):
        raise Refused(f"--resource GPU={gpus:g}: Ray shares out one GPU in parts, and several only whole")
    return asked


def _alive() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


# ---- in a task ------------------------------------------------------------------------------------------------------


def work(
    post: Any, prepared: Prepared, node: Node, execution: Execution, remote: str | None, versions: dict[str, str]
) -> Message:
    """One run, in a process of the cluster: its last message; the others go to the post box. A node with other
    `versions` than the driver's refuses it."""
    import ray

    if fault := _other_versions(socket.gethostname(), _versions(), versions):
        return Message("refused", node.run, text=fault)
    if not ray.get(post.begin.remote(node.run)):
        return Message("stopped", node.run)
    asked, looked = False, 0.0

    def asked_to_stop() -> bool:
        nonlocal asked, looked
        if not asked and time.monotonic() - looked > ASK_SECONDS:
            asked, looked = ray.get(post.asked_to_stop.remote()), time.monotonic()
        return asked

    if execution.resources.get("GPU") == 0:  # Ray leaves them in sight
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if remote is None:
        said = _told(prepared, node, execution, asked_to_stop)
    else:
        said = _through(Remote(remote), prepared.moved(transfer.scratch(remote)), node, execution, asked_to_stop)
    for message in said:
        if message.kind not in SAYS_MORE:
            return message
        post.say.remote(message)
    raise AssertionError("a run's last message is none of SAYS_MORE")


def _told(prepared: Prepared, node: Node, execution: Execution, asked_to_stop: Any) -> Iterator[Message]:
    """The work on a run, in this process or, for several ranks, in processes that this one starts."""
    threads = max(1, int(needs(execution)["CPU"] / execution.ranks))
    if execution.ranks == 1:
        import torch

        from curricle.training.distribution import Ranks

        torch.set_num_threads(threads)
        yield from told(prepared, node, Ranks.alone(), execution, asked_to_stop)
        return
    worker = Worker(prepared, threads, execution, None)
    try:
        worker.start(node)
        while worker.node is not None:
            yield from listen_to([worker], ASK_SECONDS)
            if asked_to_stop():
                worker.stop()
    finally:
        worker.close()


def _through(
    remote: Remote, prepared: Prepared, node: Node, execution: Execution, asked_to_stop: Any
) -> Iterator[Message]:
    """The same with what the run reads fetched before, and what it made sent off: after every evaluation, now and
    then between them, and at the end, when it leaves this machine."""
    try:
        transfer.pull_inputs(remote, prepared, node)
        transfer.pull_run(remote, prepared, node)
    except Held as held:
        yield Message("held", node.run, text=str(held))
        return
    evaluated, pushed = False, time.monotonic()
    for message in _told(prepared, node, execution, asked_to_stop):
        if message.kind != "held" and (
            evaluated or message.kind not in SAYS_MORE or time.monotonic() - pushed > PUSH_SECONDS
        ):
            transfer.push_run(remote, prepared, node)
            pushed = time.monotonic()
        evaluated = message.kind == "evaluating"
        if message.kind == "done":
            _forget(prepared, node)
        yield message


def _forget(prepared: Prepared, node: Node) -> None:
    """The run is in the remote store: its folder here goes, so that a node's disk holds what it works on."""
    folder: Path = prepared.store.run_folder(node.run)
    with suppress(Held), locked(folder, node.run):
        shutil.rmtree(folder)
