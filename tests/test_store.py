"""Identity is content; what is written appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curricle.running import upkeep
from curricle.store import Held, Store, fingerprint, is_complete, locked, size_of, whole_file, whole_folder
from curricle.study import Recipe, Refused

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), plain))
def test_the_order_of_keys_changes_no_fingerprint(value):
    assert fingerprint(dict(reversed(value.items()))) == fingerprint(value)


def test_values_that_differ_have_fingerprints_that_differ():
    values = [None, True, 1, "1", [1], [[1]], {"a": 1}, {"a": "1"}, [], {}, 0.5, Recipe(), Recipe(clip=2.0)]
    values.remove(True)  # JSON tells true from 1; Python does not, so it is looked at apart
    assert len({fingerprint(v) for v in values}) == len(values)
    assert fingerprint([True]) != fingerprint([1])


def test_a_whole_number_is_the_same_as_integer_and_as_float():
    assert fingerprint({"weight": 1}) == fingerprint({"weight": 1.0})


@pytest.mark.parametrize("value", [object(), print, {1: 2}, {"a": {2, 3}}, b"x"])
def test_what_has_no_content_is_refused(value):
    with pytest.raises(TypeError):
        fingerprint(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(value):
    with pytest.raises(ValueError):
        fingerprint(value)


def test_a_file_that_fails_half_way_leaves_the_old_one_and_nothing_else(tmp_path):
    target = tmp_path / "a"
    target.write_text("old")
    with pytest.raises(RuntimeError), whole_file(target, "w") as file:
        file.write("new")
        raise RuntimeError
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_that_fails_half_way_is_not_there(tmp_path):
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "a") as folder:
        (folder / "x").write_text("1")
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_a_folder_completed_by_someone_else_meanwhile_stays(tmp_path):
    with whole_folder(tmp_path / "a") as ours:
        (ours / "x").write_text("ours")
        with whole_folder(tmp_path / "a") as theirs:
            (theirs / "x").write_text("theirs")
    assert (tmp_path / "a" / "x").read_text() == "theirs"
    assert os.listdir(tmp_path) == ["a"]


HOLDER = """
import sys, time
from pathlib import Path
from curricle.store import locked
with locked(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_is_held_once_and_let_go_when_its_process_is_killed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(Refused, match="another process"), locked(tmp_path, "it"):
            pass
        other.send_signal(signal.SIGKILL)
    with locked(tmp_path, "it"):
        pass


WRITER = """
import sys
from pathlib import Path
from curricle.store import whole_folder
for number in range(100000):
    with whole_folder(Path(sys.argv[1]) / str(number)) as folder:
        for part in range(5):
            (folder / str(part)).write_text("x" * 10000)
"""


def test_kill_9_while_writing_leaves_only_whole_folders(tmp_path):
    for patience in (0.02, 0.05, 0.11, 0.17):
        place = tmp_path / str(patience)
        with subprocess.Popen([sys.executable, "-c", WRITER, str(place)]) as writer:
            deadline = time.monotonic() + 30
            while not place.exists() and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(patience)
            writer.kill()
        seen = [f for f in place.iterdir() if not f.name.startswith(".")]
        for folder in seen:
            assert is_complete(folder)
            assert [len((folder / str(part)).read_text()) for part in range(5)] == [10000] * 5


def test_a_lock_whose_folder_was_removed_is_not_the_lock(tmp_path, monkeypatch):
    """Between opening the file and locking it, whoever held it removes the folder and another takes a new one."""
    import fcntl

    folder, real, removed = tmp_path / "run", fcntl.flock, []

    def late(handle, how):
        if not removed:
            removed.append(1)
            shutil.rmtree(folder)
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with locked(folder, "run"), pytest.raises(Held), locked(folder, "run"):
        pass
    assert removed


def test_what_a_killed_process_left_half_written_is_found_once_it_is_old_and_removed(tmp_path):
    left = [tmp_path / kind / ".a.json.x1.tmp" for kind in ("states", "digests", "studies", "calibration")]
    left.append(tmp_path / "corpora" / ".b.x2.tmp" / "rows")
    for file in left:
        file.parent.mkdir(parents=True)
        file.write_text("half")
    (tmp_path / "states" / "whole.json").write_text("{}")
    store = Store(tmp_path)
    assert upkeep.unused(store) == {}, "somebody may be writing"
    for file in (*left, left[-1].parent):
        os.utime(file, (0, 0))
    assert upkeep.unused(store) == {
        "corpora/.b.x2.tmp": 4,
        **{f"{kind}/.a.json.x1.tmp": 4 for kind in ("states", "digests", "studies", "calibration")},
    }
    upkeep.remove(store, list(upkeep.unused(store)))
    assert upkeep.unused(store) == {} and [f.name for f in tmp_path.rglob("*") if f.is_file()] == ["whole.json"]


def test_what_is_removed_while_a_folder_is_weighed_counts_nothing(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "kept").write_bytes(bytes(7))
    (tmp_path / "gone").symlink_to(tmp_path / "removed")  # listed, and not there when it is asked for
    assert size_of(tmp_path) == size_of(tmp_path / "deep" / "kept") == 7 and size_of(tmp_path / "none") == 0
