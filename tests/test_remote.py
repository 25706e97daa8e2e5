"""A store's folders at a URL: whole or not there, whatever dies in between."""

from __future__ import annotations

from pathlib import Path

import pytest

from curricle.remote import Remote
from curricle.store import COMPLETE, Store, is_complete, whole_folder
from curricle.study import Refused


def filled(store: Store, relative: str) -> Path:
    with whole_folder(store.root / relative) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "weights").write_bytes(b"\0\1" * 1000)
        (folder / "about.json").write_text("{}")
    return store.root / relative


@pytest.fixture(params=["file", "memory"])
def remote(request, tmp_path):
    return Remote(f"{request.param}://{tmp_path}/remote")


@pytest.fixture
def stores(tmp_path):
    return Store(tmp_path / "here"), Store(tmp_path / "there")


def test_a_folder_arrives_with_the_same_bytes(remote, stores):
    here, there = stores
    folder = filled(here, "tokens/a")
    assert remote.push(here, "tokens/a") and remote.pull(there, "tokens/a")
    names = sorted(f.relative_to(folder) for f in folder.rglob("*") if f.is_file())
    copy = there.root / "tokens/a"
    assert names == sorted(f.relative_to(copy) for f in copy.rglob("*") if f.is_file())
    assert all((folder / name).read_bytes() == (copy / name).read_bytes() for name in names)
    assert remote.children("tokens") == ["tokens/a"] and remote.children("tokenizers") == []


def test_what_was_half_pushed_is_not_there_and_pushing_again_repairs_it(remote, stores, monkeypatch):
    here, there = stores
    filled(here, "runs/math/1/model")
    put, put_before_it_dies = Remote._put, [1]

    def dies(self, file, relative):
        if not put_before_it_dies:
            raise ConnectionError("gone")
        put_before_it_dies.pop()
        put(self, file, relative)

    with monkeypatch.context() as patched:
        patched.setattr(Remote, "_put", dies)
        with pytest.raises(ConnectionError):
            remote.push(here, "runs/math/1/model")
    assert remote.files("runs/math/1/model"), "something did arrive"
    assert not remote.pull(there, "runs/math/1/model") and not (there.root / "runs/math/1/model").exists()
    assert remote.push(here, "runs/math/1/model") and remote.pull(there, "runs/math/1/model")


def test_what_was_half_pulled_or_cut_short_is_not_here(remote, stores):
    here, there = stores
    filled(here, "tokens/a")
    remote.push(here, "tokens/a")
    remote._write("tokens/a/about.json", b"{")
    with pytest.raises(OSError, match="1 bytes, 2 were pushed"):
        remote.pull(there, "tokens/a")
    assert not is_complete(there.root / "tokens/a") and not list((there.root / "tokens").glob("*"))


def test_a_folder_that_is_not_whole_is_not_pushed(remote, stores):
    here, _ = stores
    (filled(here, "tokens/a") / COMPLETE).unlink()
    assert not remote.push(here, "tokens/a") and not remote.has("tokens/a/about.json")


def test_a_list_that_names_files_outside_its_folder_is_not_followed(remote, stores):
    _, there = stores
    remote._write("tokens/a/COMPLETE", b'{"../../outside": 1}')
    remote._write("outside", b"x")
    with pytest.raises(OSError, match="outside itself"):
        remote.pull(there, "tokens/a")


def test_a_dropped_folder_is_not_there(remote, stores):
    here, _ = stores
    filled(here, "runs/math/1/checkpoints/step-1")
    remote.push(here, "runs/math/1/checkpoints/step-1")
    remote.drop("runs/math/1/checkpoints/step-1")
    assert remote.children("runs/math/1/checkpoints") == []
    remote.drop("runs/math/1/checkpoints/step-1")


def test_an_address_that_no_library_knows_is_refused():
    with pytest.raises(Refused, match="--remote nosuch://x"):
        Remote("nosuch://x")
