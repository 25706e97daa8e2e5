"""What a study's inputs and its runs are in a remote store: what goes there when, and what is fetched by whom.

The driver pushes inputs and fetches rows; whoever works on a run fetches what it reads, and pushes what it has made.
Machines do not lock each other out there: one that lags takes nothing from one that is ahead.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from io import BytesIO
from pathlib import Path

from curricle.node import Node
from curricle.planning import Plan
from curricle.remote import Remote
from curricle.running.adoption import state_folder
from curricle.running.preparation import Prepared
from curricle.running.work import evaluation_files, is_done, kept_folders
from curricle.store import Held, Store, is_complete, locked, read_json
from curricle.study import Refused
from curricle.training import metrics

RECORDS = ("run.json", "receipt.json", metrics.FILE)
STATES, STATES_AGAIN = "checkpoints", "again/checkpoints"
WHOLE_IN_A_RUN = ("average", STATES, STATES_AGAIN, "points")  # whose folders are whole or not there


# ---- a study's inputs -----------------------------------------------------------------------------------------------


def refuse_outside(prepared: Prepared) -> None:
    """With a remote store everything that workers read is in the store, or on the hub."""
    study, root = prepared.study, prepared.store.root.resolve()
    checkpoint = study.model.checkpoint
    if checkpoint is not None and study.resolve(checkpoint).exists():
        raise Refused(
            f"model.checkpoint: {checkpoint} is a path of this machine, which workers that only share --remote do not "
            f"see; name a hub id, or use a --store that all machines see, without --remote"
        )
    if isinstance(prepared.tokenizer, Path) and not prepared.tokenizer.resolve().is_relative_to(root):
        raise Refused(
            f"tokenizer.path: {prepared.tokenizer} is a path of this machine, which workers that only share --remote "
            f"do not see; let the study train its own (tokenizer.bpe), or use a --store that all machines see"
        )


def push_inputs(remote: Remote, prepared: Prepared, plan: Plan) -> None:
    """What the plan's runs read goes there; what killed processes left of it, and of the runs, is swept."""
    for run in plan.nodes:
        remote.sweep(f"runs/{run}")
    for folder in _fixed_inputs(prepared):
        remote.push(prepared.store, _relative(prepared.store, folder))
        remote.sweep(_relative(prepared.store, folder))
    for node in plan.nodes.values():
        for stream in _streams(prepared, node):
            for block in sorted(stream.glob("block-*")):
                remote.push(prepared.store, _relative(prepared.store, block))


def pull_inputs(remote: Remote, prepared: Prepared, node: Node) -> None:
    """What one run reads: corpora for their held-out text, shards of its own sources, the tokenizer, its parent."""
    store = prepared.store
    for folder in _fixed_inputs(prepared, node.sources):
        if not remote.pull(store, _relative(store, folder)):
            raise OSError(f"{remote.url}: lacks {_relative(store, folder)}, which the driver pushes")
    for stream in _streams(prepared, node):
        for block in remote.children(_relative(store, stream)):
            remote.pull(store, block)
    if node.parent is not None:
        parent = f"runs/{node.parent}"
        wanted = [f"{parent}/model"]
        if node.branch_step is not None:
            state = _relative(store, state_folder(store.run_folder(node.parent), node.branch_step))
            wanted = [*_of_its_shape(remote, store, node.parent), state]
        elif node.init_from != "weights":
            wanted += remote.children(f"{parent}/checkpoints")[-1:] or [f"{parent}/checkpoints"]
        for place in wanted:
            if not remote.pull(store, place):
                raise OSError(f"{remote.url}: lacks {place}, which {node.run} begins from")


def _of_its_shape(remote: Remote, store: Store, run: str) -> list[str]:
    """What `beginning` reads a model of a run's shape from; what the runs on the way there began from is fetched."""
    before: str | None = run
    while before is not None:
        place = f"runs/{before}"
        if kept := [f"{place}/model"] if remote.complete(f"{place}/model") else remote.children(f"{place}/points")[:1]:
            return kept
        remote.pull_file(store, f"{place}/run.json")
        before = read_json(store.run_folder(before) / "run.json")["began_from"].get("run")
    return []


def _fixed_inputs(prepared: Prepared, sources: Iterable[str] | None = None) -> list[Path]:
    shards = [f for name, f in prepared.shards.items() if sources is None or name in sources]
    tokenizer = [prepared.tokenizer] if isinstance(prepared.tokenizer, Path) else []
    return [*prepared.corpora.values(), *shards, *tokenizer]


def _streams(prepared: Prepared, node: Node) -> list[Path]:
    return [prepared.stream(name, node.seed) for name in node.sources if prepared.entries[name].endless]


def _relative(store: Store, path: Path) -> str:
    return path.resolve().relative_to(store.root.resolve()).as_posix()


# ---- runs -----------------------------------------------------------------------------------------------------------


def complete(remote: Remote, prepared: Prepared, folder: Path) -> bool:
    """Whether a folder of the store is whole in the remote one."""
    return remote.complete(_relative(prepared.store, folder))


def done(remote: Remote, prepared: Prepared, node: Node) -> bool:
    """As `work.is_done`, of the remote store."""
    store = prepared.store
    return all(remote.has(_relative(store, file)) for file in evaluation_files(prepared, node)) and all(
        remote.complete(_relative(store, folder)) for folder in kept_folders(prepared, node)
    )


def push_run(remote: Remote, prepared: Prepared, node: Node) -> None:
    """All of a run that is whole. Metrics go before the checkpoints that they lead to, since what is too long is cut
    and what is missing is lost; evaluations go last, since they make the run count as done."""
    store, run = prepared.store, f"runs/{node.run}"
    folder = store.run_folder(node.run)
    there, here = _metrics(remote, store, node.run)
    for name in RECORDS:
        if name != metrics.FILE or _counts(here, there):
            remote.push_file(store, f"{run}/{name}")
    whole = [f for part in WHOLE_IN_A_RUN for f in sorted((folder / part).glob("[!.]*")) if is_complete(f)]
    for place in [*whole, folder / "model"]:
        remote.push(store, _relative(store, place))
    for place in (f for f in whole if f.parent == folder / STATES):
        _push_name(remote, store, _relative(store, place))
    for fingerprint in node.states.values():
        remote.push_file(store, f"states/{fingerprint}.json")
    for file in sorted((folder / "evaluations").glob("[!.]*.parquet")):
        if not remote.has(_relative(store, file)):
            remote.push_file(store, _relative(store, file))
    _drop_old(remote, prepared, node)


def _drop_old(remote: Remote, prepared: Prepared, node: Node) -> None:
    """What the run needs no longer. Another driver may be ahead of us: only what our own work is past goes, and
    milestones stay, as they do here; those of steps that were taken again have become the run's own, and `again/` goes
    as a whole when they all were."""
    store, run = prepared.store, f"runs/{node.run}"

    def gone(part: str) -> list[str]:
        return [old for old in remote.children(f"{run}/{part}") if not is_complete(store.root / old)]

    def past(old: str, part: str) -> bool:
        reached = max((f.name for f in (store.root / run / part).glob("step-*") if is_complete(f)), default="")
        return old.rsplit("/", 1)[1] < reached

    ended = is_done(prepared, node)
    settled = not (store.root / run / STATES_AGAIN).parent.exists()
    for old in gone("average") if ended else ():
        remote.drop(old)
    for old in gone(STATES_AGAIN):
        if ended or (settled and past(old, STATES)) or (past(old, STATES_AGAIN) and _nameless(remote, old)):
            remote.drop(old)
    for old in gone(STATES):
        if (ended or past(old, STATES)) and _nameless(remote, old):
            remote.drop(old)


def _push_name(remote: Remote, store: Store, state: str) -> None:
    """A state that was pushed without a name and has got one since: others are to keep it."""
    named = read_json(store.root / state / "state.json")["state"]
    if named is not None and _nameless(remote, state):
        remote.renew(store, state, "state.json")


def _nameless(remote: Remote, state: str) -> bool:
    """Whether a state that is there is of no use to other runs."""
    found = remote.look(state, "state.json")
    return found is not None and json.loads(found)["state"] is None


def pull_run(remote: Remote, prepared: Prepared, node: Node) -> None:
    """What is there of a run, to go on from; and of runs whose first steps are the same. Raises `Held` where another
    process of this machine works on it."""
    store = prepared.store
    with locked(store.run_folder(node.run), node.run):
        _pull_run(remote, store, node.run)
    for fingerprint in node.states.values():
        state = f"states/{fingerprint}.json"
        remote.pull_file(store, state)
        if (store.root / state).exists() and (donor := read_json(store.root / state)["run"]) != node.run:
            with suppress(Held), locked(store.run_folder(donor), donor):  # held: it is being made on this machine
                _pull_run(remote, store, donor, [part for part in WHOLE_IN_A_RUN if part != STATES_AGAIN])


def _pull_run(remote: Remote, store: Store, run: str, parts: Iterable[str] = WHOLE_IN_A_RUN) -> None:
    place = f"runs/{run}"
    for part in parts:
        for folder in remote.children(f"{place}/{part}"):
            remote.pull(store, folder)
    remote.pull(store, f"{place}/model")
    _pull_evaluations(remote, store, run)
    _pull_records(remote, store, run)


def saved(remote: Remote, run: str) -> tuple[int, ...]:
    """As `standing.saved`, of the remote store."""
    steps = [newest(remote.children(f"runs/{run}/{part}")) for part in (STATES, STATES_AGAIN)]
    return *steps, len(remote.files(f"runs/{run}/evaluations"))


def newest(states: Iterable[str]) -> int:
    """The last step of these states, by their names or paths; 0 where there is none."""
    return max((int(state.rpartition("-")[2]) for state in states), default=0)


def pull_rows(remote: Remote, prepared: Prepared, run: str) -> None:
    """What results are made of: evaluations and metrics, without any weights. Metrics of a run that another process of
    this machine works on are that process's to write."""
    store = prepared.store
    _pull_evaluations(remote, store, run)
    with suppress(Held), locked(store.run_folder(run), run):
        _pull_records(remote, store, run)


def runs_named(remote: Remote, start: str) -> list[str]:
    """Runs that are there, also those that have only begun, whose `stage/fingerprint` begins so."""
    there = remote.files(f"runs/{start.split('/')[0]}")
    return [run for place in there if (run := place.removeprefix("runs/")).startswith(start)]


def pull_model(remote: Remote, store: Store, run: str) -> bool:
    """A run's weights, with its rows and those of the runs that it came from; False where it has none yet. Raises
    `Held` where another process of this machine works on it."""
    with locked(store.run_folder(run), run):
        found = remote.pull(store, f"runs/{run}/model")
    here: str | None = run
    while here is not None:
        _pull_evaluations(remote, store, here)
        with suppress(Held), locked(store.run_folder(here), here):
            _pull_records(remote, store, here)
        file = store.run_folder(here) / "run.json"
        here = read_json(file)["began_from"].get("run") if file.exists() else None
    return found


def _pull_evaluations(remote: Remote, store: Store, run: str) -> None:
    for file in remote.files(f"runs/{run}/evaluations"):
        if not (store.root / file).exists():
            remote.pull_file(store, file)


def _pull_records(remote: Remote, store: Store, run: str) -> None:
    """Only call it while holding the run's lock."""
    there, here = _metrics(remote, store, run)
    for name in RECORDS:
        if name != metrics.FILE or _counts(there, here):
            remote.pull_file(store, f"runs/{run}/{name}")


def _counts(one: bytes, other: bytes) -> bool:
    """Whether of two sessions' metrics of a run the one takes the place of the other: where it reaches as far, or ended
    by diverging, which a run that is tried again may do earlier than before."""
    return metrics.divergence(BytesIO(one)) is not None or metrics.reach(one) >= metrics.reach(other)


def _metrics(remote: Remote, store: Store, run: str) -> tuple[bytes, bytes]:
    """A run's metrics there, and here."""
    relative = f"runs/{run}/{metrics.FILE}"
    there, file = b"", store.root / relative
    with suppress(FileNotFoundError):
        there = remote.read(relative)
    return there, file.read_bytes() if file.exists() else b""


def scratch(remote_url: str) -> Path:
    """Where a worker keeps its part of a remote store: `$CURRICLE_SCRATCH`, or the node's temporary folder."""
    import hashlib
    import tempfile

    named = os.environ.get("CURRICLE_SCRATCH")
    if named:
        return Path(named)
    key = hashlib.sha256(remote_url.encode()).hexdigest()[:8]
    place = Path(tempfile.gettempdir()) / f"curricle-{os.getuid()}-{key}"
    # The name can be guessed, and everybody may write there: it must be ours, and nobody else's to write.
    with suppress(FileExistsError):
        place.mkdir(mode=0o700)
    found = place.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise Refused(f"{place}: not a folder of this user alone; remove it, or name another as CURRICLE_SCRATCH")
    return place
