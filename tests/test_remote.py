"""A store's folders at a URL: whole or not there, whatever dies in between."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from curricle.remote import Remote
from curricle.running import transfer
from curricle.store import COMPLETE, Store, is_complete, whole_file, whole_folder
from curricle.study import Refused

STEPS = (1, {"loss_nats": 1.0}), (2, {"loss_nats": 1.0}), (2, {"evaluation": {}}), (3, {"loss_nats": 1.0})


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


def dies_after(monkeypatch, files: int, push):
    """A push that is killed when so many files have arrived."""
    put, left = Remote._put, [None] * files

    def dies(self, file, relative):
        if not left:
            raise ConnectionError("gone")
        left.pop()
        put(self, file, relative)

    with monkeypatch.context() as patched:
        patched.setattr(Remote, "_put", dies)
        with pytest.raises(ConnectionError):
            push()


def parts(remote: Remote, relative: str) -> set[str]:
    return {name for name in remote._names(relative) if name.startswith(".parts-")}


def test_what_was_half_pushed_is_not_there_and_pushing_again_repairs_it(remote, stores, monkeypatch):
    here, there = stores
    filled(here, "runs/math/1/model")
    dies_after(monkeypatch, 1, lambda: remote.push(here, "runs/math/1/model"))
    assert parts(remote, "runs/math/1/model"), "something did arrive"
    assert not remote.pull(there, "runs/math/1/model") and not (there.root / "runs/math/1/model").exists()
    assert remote.push(here, "runs/math/1/model") and remote.pull(there, "runs/math/1/model")


def test_what_killed_pushes_left_is_swept_when_it_is_old_and_nothing_else(remote, stores, monkeypatch):
    from datetime import timedelta

    here, there = stores
    for place in ("runs/math/1/points/1", "runs/math/1/model", "tokens/a"):
        filled(here, place)
    for place in ("runs/math/1/points/1", "runs/math/1/model"):
        dies_after(monkeypatch, 1, lambda place=place: remote.push(here, place))
    assert remote.push(here, "runs/math/1/model") and remote.push(here, "tokens/a")
    (here.root / "runs/math/1/model/about.json").write_text("{ }")
    remote.renew(here, "runs/math/1/model", "about.json")
    before = parts(remote, "runs/math/1/model")
    remote.sweep("runs/math/1")
    assert parts(remote, "runs/math/1/model") == before and parts(remote, "runs/math/1/points/1"), "of today"
    monkeypatch.setattr("curricle.remote.SWEPT_AFTER", timedelta(0))
    remote.sweep("runs/math/1")
    remote.sweep("tokens/a")
    assert len(before) == 3 and len(parts(remote, "runs/math/1/model")) == 2
    assert not parts(remote, "runs/math/1/points/1")
    assert all(remote.pull(there, place) for place in ("runs/math/1/model", "tokens/a"))
    assert (there.root / "runs/math/1/model/about.json").read_text() == "{ }"


def test_pushes_of_other_bytes_under_one_name_never_mix(remote, stores, monkeypatch):
    """Other numbers of ranks write a state into other files: here comes what one push brought, whole."""
    here, there = stores
    filled(here, "runs/math/1/model")
    with whole_folder(there.root / "runs/math/1/model") as folder:
        (folder / "about.json").write_text('{"longer": true}')
        (folder / "weights-of-2").write_bytes(b"\1" * 10)
    dies_after(monkeypatch, 1, lambda: remote.push(there, "runs/math/1/model"))
    new = Store(there.root.parent / "new")
    put = Remote._put

    def overtaken(self, file, relative):  # the other is faster, and whole before we are
        monkeypatch.setattr(Remote, "_put", put)
        assert remote.push(there, "runs/math/1/model")
        put(self, file, relative)

    monkeypatch.setattr(Remote, "_put", overtaken)
    assert remote.push(here, "runs/math/1/model") and remote.pull(new, "runs/math/1/model")
    names = {f.name for f in (new.root / "runs/math/1/model").iterdir()}
    assert names == {"about.json", "weights-of-2", COMPLETE}
    assert len(parts(remote, "runs/math/1/model")) == 2, "ours, which came second, has gone; the killed one waits"


def test_a_file_that_is_replaced_while_it_is_pushed_arrives_with_its_own_size(remote, stores, monkeypatch):
    here, there = stores
    folder, put = filled(here, "tokens/a"), Remote._put

    def replaced_after(self, file, relative):
        put(self, file, relative)
        if file.name == "about.json":
            monkeypatch.setattr(Remote, "_put", put)
            with whole_file(file, "w") as renewed:
                renewed.write("{ longer }")

    monkeypatch.setattr(Remote, "_put", replaced_after)
    assert remote.push(here, "tokens/a") and remote.pull(there, "tokens/a")
    assert (there.root / "tokens/a/about.json").read_text() == "{ longer }" == (folder / "about.json").read_text()


@pytest.mark.parametrize("then", ["dropped", "renewed"])
def test_a_folder_that_changes_while_it_is_pulled_is_whole_or_not_there(remote, stores, monkeypatch, then):
    from datetime import timedelta

    here, there = stores
    folder, fetch = filled(here, "tokens/a"), Remote._fetch
    remote.push(here, "tokens/a")
    monkeypatch.setattr("curricle.remote.SWEPT_AFTER", timedelta(0))

    def late(self, *held):
        monkeypatch.setattr(Remote, "_fetch", fetch)
        if then == "renewed":
            for name in ("about.json", "deep/weights"):
                (folder / name).write_text("{new}")
                remote.renew(here, "tokens/a", name)
            remote.sweep("tokens/a")
        else:
            remote.drop("tokens/a")
        fetch(self, *held)

    monkeypatch.setattr(Remote, "_fetch", late)
    assert remote.pull(there, "tokens/a") == (then == "renewed")
    assert is_complete(there.root / "tokens/a") == (then == "renewed")


def test_what_was_half_pulled_or_cut_short_is_not_here(remote, stores):
    here, there = stores
    filled(here, "tokens/a")
    remote.push(here, "tokens/a")
    (ours,) = parts(remote, "tokens/a")
    remote._write(f"tokens/a/{ours}/about.json", b"{")
    with pytest.raises(OSError, match="1 bytes, 2 were pushed"):
        remote.pull(there, "tokens/a")
    assert not is_complete(there.root / "tokens/a") and not list((there.root / "tokens").glob("*"))


def test_a_folder_that_is_not_whole_is_not_pushed(remote, stores):
    here, _ = stores
    (filled(here, "tokens/a") / COMPLETE).unlink()
    assert not remote.push(here, "tokens/a") and not remote._names("tokens/a")


def test_a_list_that_names_files_outside_its_folder_is_not_followed(remote, stores):
    _, there = stores
    remote._write("tokens/a/COMPLETE", b'{"../../outside": {"at": "x", "bytes": 1}}')
    remote._write("tokens/a/x", b"x")
    with pytest.raises(OSError, match="outside itself"):
        remote.pull(there, "tokens/a")


def test_a_dropped_folder_is_not_there(remote, stores):
    here, _ = stores
    filled(here, "runs/math/1/checkpoints/step-1")
    remote.push(here, "runs/math/1/checkpoints/step-1")
    remote.drop("runs/math/1/checkpoints/step-1")
    assert remote.children("runs/math/1/checkpoints") == [] and not remote._fs.find(remote._at("runs/math"))
    remote.drop("runs/math/1/checkpoints/step-1")


def test_a_drop_leaves_alone_what_another_is_pushing(remote, stores, monkeypatch):
    here, there = stores
    for store in stores:
        filled(store, "tokens/a")
    remote.push(here, "tokens/a")
    before, put = parts(remote, "tokens/a"), Remote._put
    monkeypatch.setattr(Remote, "complete", lambda *_: False)
    dies_after(monkeypatch, 1, lambda: remote.push(there, "tokens/a"))
    remote.drop("tokens/a")
    left = parts(remote, "tokens/a")
    assert Remote._put is put and len(left) == 1 and not left & before


def test_metrics_that_reach_further_stay_and_those_of_a_run_that_is_held_too(remote, stores):
    from types import SimpleNamespace

    from curricle.store import locked

    _, there = stores
    prepared, file = SimpleNamespace(store=there), there.run_folder("math/1") / "metrics.jsonl"
    one, two, scored, three = (json.dumps({"step": at, **more}) + "\n" for at, more in STEPS)
    remote._write("runs/math/1/metrics.jsonl", (one + two).encode())
    with locked(there.run_folder("math/1"), "math/1"):
        transfer.pull_rows(remote, prepared, "math/1")
    assert not file.exists()
    transfer.pull_rows(remote, prepared, "math/1")
    assert file.read_text() == one + two
    for further in (one + two + scored, one + two + scored + three):
        file.write_text(further)
        transfer.pull_rows(remote, prepared, "math/1")
        assert file.read_text() == further


def test_a_driver_that_lags_overwrites_no_metrics_that_reach_further(remote, stores, monkeypatch):
    """However many saves it has noted on its way."""
    from types import SimpleNamespace

    here, there = stores
    monkeypatch.setattr(transfer, "is_done", lambda *_: False)
    one, two, scored, three = (json.dumps({"step": at, **more}) + "\n" for at, more in STEPS)
    saves = 9 * (json.dumps({"step": 2, "save_seconds": 0.5}) + "\n")
    node, last = SimpleNamespace(run="math/1", states={}), ""

    def push(store: Store, content: str) -> str:
        place = store.run_folder("math/1")
        place.mkdir(parents=True, exist_ok=True)
        (place / "metrics.jsonl").write_text(content)
        transfer.push_run(remote, SimpleNamespace(store=store), node)
        return remote.read("runs/math/1/metrics.jsonl").decode()

    for lags, ahead in (("", one), (one, one + two), (one + saves + two, one + two + scored + three)):
        assert push(here, ahead) == ahead and push(there, lags) == ahead
    last = one + saves + two + three
    assert push(there, last) == ahead, "it has not been scored there"
    last += scored
    assert push(there, last) == last, "of two that reach as far the later one counts"


def test_a_run_that_is_tried_again_and_diverges_earlier_says_so_elsewhere(remote, stores, monkeypatch):
    """Else whoever reads the longer metrics of the first trial would train it once more, every time."""
    from types import SimpleNamespace

    from curricle.training import metrics

    here, there = stores
    monkeypatch.setattr(transfer, "is_done", lambda *_: False)
    one, two, _, three = (json.dumps({"step": at, **more}) + "\n" for at, more in STEPS)
    node = SimpleNamespace(run="math/1", states={})
    for store, content in (
        (there, one + two + three),
        (here, one + json.dumps({"step": 2, "diverged": "at 2"}) + "\n"),
    ):
        store.run_folder("math/1").mkdir(parents=True)
        (store.run_folder("math/1") / metrics.FILE).write_text(content)
        transfer.push_run(remote, SimpleNamespace(store=store), node)
    transfer.pull_rows(remote, SimpleNamespace(store=there), "math/1")
    assert metrics.diverged(there.run_folder("math/1")) == "at 2"
    # Forgotten, it counts by its length again, and whoever goes on takes its place.
    metrics.forget_divergence(there.run_folder("math/1"))
    remote.push_file(there, f"runs/math/1/{metrics.FILE}")
    transfer.pull_run(remote, SimpleNamespace(store=here), node)
    assert metrics.diverged(here.run_folder("math/1")) is None


@pytest.mark.parametrize("over", [True, False])
def test_steps_that_are_taken_again_go_on_elsewhere_and_are_dropped_when_they_are_not_needed(
    remote, stores, monkeypatch, over
):
    from types import SimpleNamespace

    from curricle.store import write_json

    here, there = stores

    def state(store: Store, part: str, number: int, name: str | None) -> str:
        with whole_folder(store.root / f"runs/math/1/{part}/step-{number:08d}") as folder:
            write_json(folder / "state.json", {"state": name})
        return f"runs/math/1/{part}/step-{number:08d}"

    node, ended = SimpleNamespace(run="math/1", states={}), False
    monkeypatch.setattr(transfer, "is_done", lambda *_: ended)
    newest = state(here, "checkpoints", 9, None)
    first, named = state(here, "again/checkpoints", 2, None), state(here, "again/checkpoints", 3, "abc")
    transfer.push_run(remote, SimpleNamespace(store=here), node)
    transfer.pull_run(remote, SimpleNamespace(store=there), node)
    assert all(is_complete(there.root / place) for place in (newest, first, named))
    # There it goes on: what that is past goes, as in its own folder.
    shutil.rmtree(there.root / first)
    further = state(there, "again/checkpoints", 4, None)
    transfer.push_run(remote, SimpleNamespace(store=there), node)
    assert remote.children("runs/math/1/again/checkpoints") == [named, further]
    # A run that only takes over its first steps fetches none of them, nor drops them.
    new = Store(there.root.parent / "new")
    remote._write("states/abc.json", json.dumps({"run": "math/1", "step": 3}).encode())
    follower = SimpleNamespace(run="math/2", states={3: "abc"})
    transfer.pull_run(remote, SimpleNamespace(store=new), follower)
    transfer.push_run(remote, SimpleNamespace(store=new), follower)
    assert is_complete(new.root / newest) and not (new.root / "runs/math/1/again").exists()
    assert remote.children("runs/math/1/again/checkpoints") == [named, further]
    # All of them taken, which it says by dropping the folder, or the run being over.
    shutil.rmtree(there.root / "runs/math/1/again")
    ended = over
    transfer.push_run(remote, SimpleNamespace(store=there), node)
    assert remote.children("runs/math/1/again/checkpoints") == []
    assert remote.children("runs/math/1/checkpoints") == [newest]


def test_an_address_that_no_library_knows_is_refused():
    with pytest.raises(Refused, match="--remote nosuch://x"):
        Remote("nosuch://x")


def test_a_scratch_folder_that_others_may_write_to_is_refused(tmp_path, monkeypatch):

    monkeypatch.delenv("CURRICLE_SCRATCH", raising=False)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    place = transfer.scratch("s3://x")
    assert place.stat().st_mode & 0o777 == 0o700 and transfer.scratch("s3://x") == place
    place.chmod(0o777)
    with pytest.raises(Refused, match="not a folder of this user alone"):
        transfer.scratch("s3://x")
    place.rmdir()
    (tmp_path / "theirs").mkdir()
    place.symlink_to(tmp_path / "theirs")
    with pytest.raises(Refused, match="not a folder of this user alone"):
        transfer.scratch("s3://x")


def test_a_driver_that_lags_drops_nothing_of_one_that_is_ahead(remote, stores, monkeypatch):
    from types import SimpleNamespace

    from curricle.store import write_json

    here, there = stores

    def step(store: Store, number: int, state: str | None) -> str:
        with whole_folder(store.root / f"runs/math/1/checkpoints/step-{number:08d}") as folder:
            write_json(folder / "state.json", {"state": state})
        return f"runs/math/1/checkpoints/step-{number:08d}"

    old, milestone, mine, ahead = step(here, 1, None), step(here, 2, "abc"), step(there, 3, None), step(here, 4, None)
    mean = "runs/math/1/average/step-00000004"
    filled(here, mean)
    for place in (old, milestone, ahead, mean):
        remote.push(here, place)
    node, prepared = SimpleNamespace(run="math/1", states={}), SimpleNamespace(store=there)
    monkeypatch.setattr(transfer, "is_done", lambda *_: False)
    transfer.push_run(remote, prepared, node)
    assert remote.children("runs/math/1/checkpoints") == [milestone, mine, ahead]
    assert remote.children("runs/math/1/average") == [mean]
    monkeypatch.setattr(transfer, "is_done", lambda *_: True)
    transfer.push_run(remote, prepared, node)
    assert remote.children("runs/math/1/checkpoints") == [milestone, mine]
    assert remote.children("runs/math/1/average") == []


def test_a_name_that_a_pushed_state_gets_later_arrives_and_keeps_it(remote, stores, monkeypatch):
    from types import SimpleNamespace

    from curricle.store import read_json, write_json

    here, there = stores
    state = "runs/math/1/checkpoints/step-00000001"
    with whole_folder(here.root / state) as folder:
        write_json(folder / "state.json", {"state": None})
    monkeypatch.setattr(transfer, "is_done", lambda *_: False)
    node = SimpleNamespace(run="math/1", states={})
    transfer.push_run(remote, SimpleNamespace(store=here), node)
    assert remote.pull(there, state)
    write_json(here.root / state / "state.json", {"state": "abc"})
    transfer.push_run(remote, SimpleNamespace(store=here), node)
    # One who has the state without its name neither takes the name away nor drops the state.
    monkeypatch.setattr(transfer, "is_done", lambda *_: True)
    transfer.push_run(remote, SimpleNamespace(store=there), node)
    new = Store(there.root.parent / "new")
    assert remote.pull(new, state) and read_json(new.root / state / "state.json") == {"state": "abc"}


def test_a_parent_that_is_not_there_is_said(remote, stores):
    from types import SimpleNamespace

    prepared = SimpleNamespace(store=stores[1], shards={}, tokenizer="org/name", corpora={})
    node = SimpleNamespace(run="b/2", sources={}, seed=0, parent="a/1", branch_step=None, init_from="weights")
    with pytest.raises(OSError, match=r"lacks runs/a/1/model, which b/2 begins from"):
        transfer.pull_inputs(remote, prepared, node)
