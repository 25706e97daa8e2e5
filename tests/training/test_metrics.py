"""What a run's metrics say of it: whether it has diverged, and what it gained or forgot since it began."""

from __future__ import annotations

import json
import math
from io import BytesIO
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curricle.training import metrics


def line(step: int, **sources: tuple[float, int]) -> dict:
    """Scores after a step: bits per byte and bytes of each source."""
    scored = {name: {"nats": bits * size * math.log(2), "bytes": size} for name, (bits, size) in sources.items()}
    return {"step": step, "tokens": step * 64, "evaluation": scored}


def written(folder, *rows: dict):
    folder.mkdir()
    (folder / metrics.FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_change_is_counted_from_the_parent_s_end_or_the_branch_or_the_run_s_first_scores(tmp_path):
    parent = written(tmp_path / "parent", line(4, code=(2.0, 50)), line(8, code=(1.5, 50)))
    run = written(tmp_path / "run", line(2, code=(1.75, 50), math=(3.0, 40)), line(4, code=(2.25, 50), math=(2.5, 40)))
    bits, change = metrics.held_out(run, parent)
    assert bits == pytest.approx({"code": 2.25, "math": 2.5}) and change == pytest.approx({"code": 0.75})
    assert metrics.held_out(run, parent, branch_step=4)[1] == pytest.approx({"code": 0.25})
    assert metrics.held_out(run)[1] == pytest.approx({"code": 0.5, "math": -0.5})


def test_another_text_is_not_compared_and_of_two_scores_for_a_step_the_later_counts(tmp_path):
    rows = line(2, code=(9.0, 50)), line(2, code=(2.0, 50), math=(3.0, 40)), line(4, code=(2.25, 50), math=(2.5, 80))
    assert metrics.held_out(written(tmp_path / "run", *rows))[1] == pytest.approx({"code": 0.25})
    assert metrics.held_out(written(tmp_path / "first", rows[0]))[1] == {}


def test_a_divergence_is_the_last_whole_line_and_forgotten_without_a_line_less(tmp_path):
    run = written(tmp_path / "run", {"step": 1, "diverged": "at 1"}, {"step": 2})
    assert metrics.diverged(run) is None, "it went on"
    with open(run / metrics.FILE, "a") as out:
        out.write(json.dumps({"step": 3, "loss_nats": None, "diverged": "at 3"}) + '\n{"step": 4, "div')
    assert metrics.diverged(run) == "at 3"
    metrics.forget_divergence(run)
    assert metrics.diverged(run) is None and metrics.read(run)[-1] == {"step": 3, "loss_nats": None}
    assert len(metrics.read(run)) == 3 and metrics.diverged(tmp_path / "none") is None


@pytest.mark.parametrize("damage", [b"{...}\n", b"\0\0\0\n", b"\xff{}\n", b"[1]\n", b"7\n"])
def test_what_lies_behind_a_damaged_line_does_not_count(tmp_path, damage):
    rows = line(2, code=(2.0, 50)), line(4, code=(1.0, 50)), line(6, code=(0.5, 50))
    run = written(tmp_path / "run", *rows)
    first, second, third = (run / metrics.FILE).read_bytes().splitlines(keepends=True)
    (run / metrics.FILE).write_bytes(first + second + damage + third)
    assert [m["step"] for m in metrics.read(run)] == [2, 4]
    assert metrics.held_out(run)[0] == pytest.approx({"code": 1.0})
    (run / metrics.FILE).write_bytes(damage)
    assert metrics.diverged(run) is None and metrics.held_out(run) == ({}, {})


@given(st.lists(st.tuples(st.integers(1, 99), st.booleans()), max_size=6), st.binary(max_size=12), st.data())
def test_a_file_reaches_as_far_as_its_first_damaged_line(rows, damage, data):
    whole = [json.dumps({"step": step, **({"evaluation": {}} if scored else {})}).encode() for step, scored in rows]
    place = data.draw(st.integers(0, len(whole)))
    damaged = [*whole[:place], b"{" + damage.replace(b"\n", b"") + b"\0}", *whole[place:]]
    before = rows[:place]
    assert metrics.reach(b"".join(line + b"\n" for line in damaged)) == (
        max((step for step, _ in before), default=0),
        sum(scored for _, scored in before),
    )


def test_a_divergence_behind_a_damaged_line_is_none(tmp_path):
    run = written(tmp_path / "run", {"step": 1})
    with open(run / metrics.FILE, "ab") as out:
        out.write(b"\0\0\n" + json.dumps({"step": 2, "diverged": "at 2"}).encode() + b"\n")
    assert metrics.diverged(run) is None


class Noting(BytesIO):
    """A file that notes how much of it was read."""

    noted = 0

    def read(self, size=-1):
        found = super().read(size)
        self.noted += len(found)
        return found

    def __next__(self):
        found = super().__next__()
        self.noted += len(found)
        return found


def test_whether_a_long_run_has_diverged_is_read_off_its_end():
    content = b"".join(json.dumps({"step": step, "loss_nats": 2.0}).encode() + b"\n" for step in range(20_000))
    file = Noting(content)
    assert metrics.divergence(file) is None
    assert 0 < file.noted <= metrics.LAST_BYTES
    ended = json.dumps({"step": 20_000, "diverged": "at the end"}).encode() + b"\n"
    assert metrics.divergence(Noting(content + ended)) == "at the end"


@given(st.lists(st.binary(max_size=9).map(lambda b: b.replace(b"\n", b"")), max_size=5), st.binary(max_size=5))
def test_the_last_line_that_has_its_end_is_found_however_long_it_is(lines, cut):
    content = b"".join(line + b"\n" for line in lines) + (cut := cut.replace(b"\n", b""))
    with mock.patch.object(metrics, "LAST_BYTES", 2):
        assert metrics._last_ended(BytesIO(content)) == (lines[-1] if lines else b"")
