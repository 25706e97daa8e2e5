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
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from curricle.store import COMPLETE, Store, is_complete, whole_file, whole_folder
from curricle.study import Refused

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
