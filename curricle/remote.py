"""A store's folders in an object store, for machines that share no file system: any URL that fsspec knows.

The layout is the store's own, but that a folder's files lie under a prefix of the push that brought them
(`.parts-TOKEN/`). A folder counts when its `COMPLETE` is there: it is written last, says where each file lies and how
large it is, and readers fetch that and nothing else. So no two pushes of one folder mix, whose bytes may differ (other
numbers of ranks write other files), and what a killed process left is never read; a day later a driver sweeps it.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import stat
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from curricle import metrics
from curricle.adoption import state_folder
from curricle.node import Node
from curricle.planning import Plan
from curricle.preparation import Prepared
from curricle.store import COMPLETE, Held, Store, is_complete, locked, read_json, whole_file, whole_folder
from curricle.study import Refused
from curricle.work import evaluation_files, is_done, kept_folders

RECORDS = ("run.json", "receipt.json", metrics.FILE)
STATES, STATES_AGAIN = "checkpoints", "again/checkpoints"
WHOLE_IN_A_RUN = ("average", STATES, STATES_AGAIN, "points")  # whose folders are whole or not there
PARTS = ".parts-"
SWEPT_AFTER = timedelta(days=1)  # longer than any push takes that is still under way


class Remote:
    """Copies between a store here and the same store at a URL. Paths are relative to both roots."""

    def __init__(self, url: str):
        import fsspec

        self.url = url
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise Refused(f"--remote {url}: {error}") from None
        self._local = "file" in (self._fs.protocol if isinstance(self._fs.protocol, tuple) else (self._fs.protocol,))

    # ---- folders --------------------------------------------------------------------------------------------------

    def complete(self, relative: str) -> bool:
        return self._fs.exists(self._at(f"{relative}/{COMPLETE}"))

    def push(self, store: Store, relative: str) -> bool:
        """A whole folder, if it is not there yet; False where it is not whole here, or has gone meanwhile."""
        folder = store.root / relative
        if not is_complete(folder):
            return False
        if self.complete(relative):
            return True
        parts, held = _new_parts(), {}
        try:
            for file in sorted(f for f in folder.rglob("*") if f.is_file() and f != folder / COMPLETE):
                name = file.relative_to(folder).as_posix()
                held[name] = self._put_part(file, relative, f"{parts}/{name}")
        except FileNotFoundError:
            if is_complete(folder):
                raise
            return False
        if self.complete(relative):  # another was faster, and may have said more since: see `renew`
            self._remove(f"{relative}/{parts}")
        else:
            self._write_complete(relative, held)
        return True

    def pull(self, store: Store, relative: str) -> bool:
        """A whole folder, if it is not here yet; False where there is none."""
        if is_complete(store.root / relative):
            return True
        held = self._held(relative)
        while held is not None:
            try:
                self._fetch(store, relative, held)
                return True
            except FileNotFoundError:  # dropped, or renewed and swept, since we read what it holds
                before, held = held, self._held(relative)
                if held == before:
                    raise
        return False

    def _fetch(self, store: Store, relative: str, held: Mapping[str, Any]) -> None:
        with whole_folder(store.root / relative) as temporary:
            for name, part in held.items():
                target = temporary / name
                if not target.resolve().is_relative_to(temporary.resolve()):
                    raise OSError(f"{self.url}/{relative}: names a file outside itself, {name}")
                target.parent.mkdir(parents=True, exist_ok=True)
                self._fs.get_file(self._at(f"{relative}/{part['at']}"), str(target))
                size = target.stat().st_size
                if size != part["bytes"]:
                    raise OSError(f"{self.url}/{relative}/{part['at']}: {size} bytes, {part['bytes']} were pushed")

    def renew(self, store: Store, relative: str, name: str) -> None:
        """Another content for one file of a folder that is whole there. What it was stays for who is reading it."""
        held = self._held(relative)
        if held is not None:
            part = self._put_part(store.root / relative / name, relative, f"{_new_parts()}/{name}")
            self._write_complete(relative, {**held, name: part})

    def look(self, relative: str, name: str) -> bytes | None:
        """One file of a folder that is whole there; None where there is none such."""
        held = self._held(relative)
        with suppress(FileNotFoundError):
            return self.read(f"{relative}/{held[name]['at']}") if held is not None and name in held else None
        return None

    def children(self, relative: str) -> list[str]:
        """Whole folders in a folder, by path, in order."""
        found = sorted(f"{relative}/{name}" for name in self._names(relative))
        return [path for path in found if self.complete(path)]

    def drop(self, relative: str) -> None:
        """Remove a folder; first what makes it count. What others are pushing there stays."""
        held = self._held(relative)
        if held is None:
            return
        with suppress(FileNotFoundError):
            self._fs.rm_file(self._at(f"{relative}/{COMPLETE}"))
        for parts in _prefixes(held):
            self._remove(f"{relative}/{parts}")
        if self._local:
            with suppress(OSError):  # not empty: another is pushing
                os.rmdir(self._at(relative))

    def sweep(self, relative: str) -> None:
        """Remove what pushes and drops left below a folder when they were killed: parts that no `COMPLETE` names. Those
        of today may belong to a push that is under way, and a file system that knows no times keeps all."""
        parts: dict[tuple[str, str], list[str]] = {}  # (folder, its parts) → files
        for path in self._fs.find(self._at(relative)):
            folder, mark, rest = str(path).partition(f"/{PARTS}")
            if mark:
                parts.setdefault((folder, PARTS + rest.split("/")[0]), []).append(str(path))
        several = Counter(folder for folder, _ in parts)
        for (folder, name), files in parts.items():
            place = folder.removeprefix(self._at(""))
            alone = several[folder] == 1 and self.complete(place)  # then it is the one that counts: nothing to read
            if not alone and all(map(self._is_old, files)) and name not in _prefixes(self._held(place) or {}):
                self._remove(f"{place}/{name}")

    # ---- files ----------------------------------------------------------------------------------------------------

    def has(self, relative: str) -> bool:
        return self._fs.exists(self._at(relative))

    def push_file(self, store: Store, relative: str) -> None:
        if (store.root / relative).exists():
            self._put(store.root / relative, relative)

    def pull_file(self, store: Store, relative: str) -> None:
        """A file whole, in the place of what is here."""
        with suppress(FileNotFoundError):
            content = self._fs.cat_file(self._at(relative))
            with whole_file(store.root / relative) as file:
                file.write(content)

    def read(self, relative: str) -> bytes:
        return self._fs.cat_file(self._at(relative))

    def files(self, relative: str) -> list[str]:
        return sorted(f"{relative}/{name}" for name in self._names(relative) if not name.startswith("."))

    # ---- what all of it stands on ---------------------------------------------------------------------------------

    def _at(self, relative: str) -> str:
        return f"{self._root.rstrip('/')}/{relative}"

    def _names(self, relative: str) -> set[str]:
        try:
            return {str(path).rstrip("/").rsplit("/", 1)[1] for path in self._fs.ls(self._at(relative), detail=False)}
        except FileNotFoundError:
            return set()

    def _held(self, relative: str) -> dict[str, Any] | None:
        """What a whole folder holds: name → where it lies in the folder, and its bytes. None where it is not whole."""
        with suppress(FileNotFoundError):
            return json.loads(self.read(f"{relative}/{COMPLETE}"))
        return None

    def _write_complete(self, relative: str, held: Mapping[str, Any]) -> None:
        self._write(f"{relative}/{COMPLETE}", json.dumps(held).encode())

    def _put_part(self, file: Path, relative: str, part: str) -> dict[str, Any]:
        while True:
            before = file.stat()
            self._put(file, f"{relative}/{part}")
            if os.path.samestat(before, file.stat()):  # else replaced meanwhile, by a state that has got a name
                return {"at": part, "bytes": before.st_size}

    def _remove(self, relative: str) -> None:
        with suppress(FileNotFoundError):
            self._fs.rm(self._at(relative), recursive=True)

    def _is_old(self, path: str) -> bool:
        try:
            modified = self._fs.modified(path)
        except (NotImplementedError, FileNotFoundError):
            return False
        return datetime.now(UTC) - modified.astimezone(UTC) > SWEPT_AFTER

    def _put(self, file: Path, relative: str) -> None:
        if self._local:  # object stores show a file when it is whole; a file system needs to be told to
            with open(file, "rb") as source, whole_file(Path(self._at(relative))) as target:
                shutil.copyfileobj(source, target)
        else:
            self._fs.put_file(str(file), self._at(relative))

    def _write(self, relative: str, content: bytes) -> None:
        if self._local:
            with whole_file(Path(self._at(relative))) as target:
                target.write(content)
        else:
            self._fs.pipe_file(self._at(relative), content)


def _new_parts() -> str:
    return PARTS + secrets.token_hex(8)


def _prefixes(held: Mapping[str, Any]) -> set[str]:
    """The pushes that brought a folder's files."""
    return {part["at"].split("/")[0] for part in held.values()}


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
            wanted.append(_relative(store, state_folder(store.run_folder(node.parent), node.branch_step)))
        elif node.init_from != "weights":
            wanted += remote.children(f"{parent}/checkpoints")[-1:] or [f"{parent}/checkpoints"]
        for place in wanted:
            if not remote.pull(store, place):
                raise OSError(f"{remote.url}: lacks {place}, which {node.run} begins from")


def _fixed_inputs(prepared: Prepared, sources: Iterable[str] | None = None) -> list[Path]:
    shards = [f for name, f in prepared.shards.items() if sources is None or name in sources]
    tokenizer = [prepared.tokenizer] if isinstance(prepared.tokenizer, Path) else []
    return [*prepared.corpora.values(), *shards, *tokenizer]


def _streams(prepared: Prepared, node: Node) -> list[Path]:
    return [prepared.stream(name, node.seed) for name in node.sources if prepared.entries[name].endless]


def _relative(store: Store, path: Path) -> str:
    return path.resolve().relative_to(store.root.resolve()).as_posix()


# ---- runs -----------------------------------------------------------------------------------------------------------


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
    return metrics.says_diverged(one) or metrics.reach(one) >= metrics.reach(other)


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
