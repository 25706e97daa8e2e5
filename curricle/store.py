"""The ground that results stand on: identity by content, and writes that happen whole or not at all.

`fingerprint` turns a value into its name. `whole_file` and `whole_folder` write beside the target and rename, so a
`kill -9` at any moment leaves either what was there or what was meant to be there. A folder is complete when its
`COMPLETE` file exists; readers look for nothing else.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from pydantic import BaseModel

from curricle.study import Refused

COMPLETE = "COMPLETE"


def canonical(value: object) -> object:
    """The value as plain JSON types, for hashing. Raises `TypeError` for what has no stable content (a function, an
    open file, a path), `ValueError` for a number that does not equal itself."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} cannot be part of an identity")
        return int(value) if value.is_integer() else value
    if isinstance(value, BaseModel):
        return canonical(value.model_dump())
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"keys of an identity are strings, found {list(value)[:3]}")
        return {key: canonical(value[key]) for key in sorted(value)}
    if isinstance(value, tuple | list):
        return [canonical(item) for item in value]
    raise TypeError(f"a {type(value).__name__} has no content to hash: {value!r}")


def fingerprint(value: object) -> str:
    """The first 64 bits of SHA-256 over the canonical form, as 16 hexadecimal digits."""
    text = json.dumps(canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def whole_file(path: Path, mode: str = "wb") -> Iterator[IO]:
    """Write a file that appears whole or not at all; on an error nothing is left behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        _flush(path.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: object) -> None:
    with whole_file(path, "w") as file:
        json.dump(value, file, indent=1, ensure_ascii=False, allow_nan=False)


def read_json(path: Path) -> dict:
    """Raises `Refused` where a disk or a hand has damaged the file: it was written whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Refused(f"{path}: damaged ({error}); remove it and run its study again") from None


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Fill a temporary folder; on leaving it is flushed, marked `COMPLETE` and renamed to `path`.

    Where `path` was completed meanwhile by someone else, theirs stays and ours is dropped: contents are equal, since
    a path is named by its identity.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    temporary.chmod(0o755)
    try:
        yield temporary
        finish_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def finish_folder(temporary: Path, path: Path) -> None:
    """Flush a filled folder, mark it complete and give it its name, unless someone completed it meanwhile."""
    for file in temporary.rglob("*"):
        _flush(file)
    (temporary / COMPLETE).touch()
    _flush(temporary)
    if path.exists() and not is_complete(path):
        shutil.rmtree(path)
    try:
        temporary.rename(path)
    except OSError:
        if not is_complete(path):
            raise
        shutil.rmtree(temporary)
    _flush(path.parent)


def is_complete(folder: Path) -> bool:
    return (folder / COMPLETE).exists()


def sweep(folder: Path) -> None:
    """Remove what a killed process left half written. Only call it while holding the folder's lock."""
    for left in folder.glob(".*.tmp"):
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


def size_of(place: Path) -> int:
    """Bytes of a file, or of all files below a folder. What another process removes meanwhile counts nothing."""
    files = [place, *(Path(at) / name for at, _, names in os.walk(place) for name in names)]
    total = 0
    for file in files:
        with suppress(FileNotFoundError):
            total += 0 if file.is_dir() else file.stat().st_size
    return total


class Held(Refused):
    """Another process is working on it."""


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder for one process; the kernel lets go when the process dies. Raises `Held` if it is held."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = open(folder / ".lock", "w")  # noqa: SIM115
        except FileNotFoundError:  # removed in between
            continue
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise Held(f"{what}: another process is working on it; wait for it, or name another --store") from None
            if not _still_there(handle, folder / ".lock"):
                continue  # who held it removed the folder: ours is a file that nobody else will find
            yield
            return


def _still_there(handle: IO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


class Store:
    """Where runs, corpora and tokens live, shared by studies: `runs/`, `corpora/`, `tokens/`, `tokenizers/`."""

    def __init__(self, root: str | Path):
        self.root = Path(root)

    def run_folder(self, run: str) -> Path:
        """`math/3f9a1c2e…` → its folder."""
        return self.root / "runs" / run

    def folder(self, kind: str, name: str) -> Path:
        return self.root / kind / name

    def runs(self) -> list[str]:
        """Every run that has begun, by name."""
        return sorted(str(f.parent.relative_to(self.root / "runs")) for f in (self.root / "runs").glob("*/*/run.json"))
