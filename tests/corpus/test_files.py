"""Files and data sets: what is read, what is counted as bad, and what is refused in which words."""

import gzip
import json
import shutil
import sys

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from curricle.corpus import files
from curricle.corpus.documents import Document, Tally, host_of
from curricle.corpus.files import file_documents
from curricle.corpus.hub import hub_documents
from curricle.study import Files, Hub, Refused

ROWS = [{"text": f"text {i} é", "url": f"https://host{i % 2}.org/{i}", "question": f"q {i}"} for i in range(6)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


@pytest.fixture
def read(tmp_path):
    def reading(*names, name="s", tally=None, **fields):
        return list(file_documents(Files(files=names, **fields), name, lambda p: tmp_path / p, tally))

    return reading


def pack(folder, name):
    """The same rows in the format that the name says."""
    path = folder / name
    content = LINES.encode()
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(content))
    elif name.endswith(".zst"):
        half = len(content) // 2  # two frames, as parallel writers leave them
        path.write_bytes(b"".join(zstandard.compress(part) for part in (content[:half], content[half:])))
    elif name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    else:
        path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_every_format_gives_the_same_documents(tmp_path, read, name):
    pack(tmp_path, name)
    found = read(name, prompt="question")
    assert [(d.text, d.prompt, d.url) for d in found] == [(r["text"], r["question"], r["url"]) for r in ROWS]
    assert [d.group for d in found] == ["host0.org", "host1.org"] * 3
    assert [d.id for d in found] == [f"{name}:{i}" for i in range(1, 7)]


def test_ids_do_not_depend_on_where_the_folder_lies(tmp_path):
    for folder in ("one", "two/deeper"):
        (tmp_path / folder / "x").mkdir(parents=True)
        (tmp_path / folder / "x" / "a.txt").write_text("hello")
        (tmp_path / folder / "b.md").write_text("world")
    first, second = (
        list(file_documents(Files(files=("**/*.txt", "*.md")), "s", lambda p, f=f: tmp_path / f / p))
        for f in ("one", "two/deeper")
    )
    assert first == second
    assert [d.id for d in first] == ["x/a.txt", "b.md"] == [d.group for d in first]


def test_groups_come_from_the_field_that_is_named_or_the_first_that_is_there(tmp_path, read):
    rows = [{"text": "a", "repo": "r", "host": "h"}, {"text": "b", "repo": None, "host": "h"}, {"text": "c"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [d.group for d in read("a.jsonl")] == ["r", "h", "a.jsonl"]
    assert [d.group for d in read("a.jsonl", group="host")] == ["h", "h", "a.jsonl"]


def test_bad_lines_are_counted_and_the_first_are_shown_with_file_and_line(tmp_path, read):
    bad = [b"{", b'["a"]', b'{"text": 3}', b'{"text": " "}', b'{"text": "\xff"}', b'{"text": "\\ud800"}', b'{"x": 1}']
    (tmp_path / "a.jsonl").write_bytes(LINES.encode() + b"\n".join(bad) + b"\n\n")
    tally = Tally("sources.s.files", 1.0)
    assert len(read("a.jsonl", tally=tally, max_bad_share=1)) == 6
    assert (tally.lines, tally.bad, len(tally.examples)) == (13, 7, 5)
    assert tally.examples[0].startswith("a.jsonl:7: not JSON")
    assert tally.examples[1] == "a.jsonl:8: a JSON list, not an object with fields"
    assert tally.examples[4] == "a.jsonl:11: not UTF-8"
    with pytest.raises(Refused, match=r"sources\.s\.files: 7 of 13 lines are bad, more than max_bad_share = 0\.5"):
        read("a.jsonl", max_bad_share=0.5)


def test_a_line_that_unpacks_beyond_the_bound_is_one_bad_line(tmp_path, read, monkeypatch):
    monkeypatch.setattr(files, "MAX_LINE", 2**20)
    bomb = json.dumps({"text": "0" * 2**24}).encode() + b"\n"
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(LINES.encode() + bomb + LINES.encode()))
    tally = Tally("sources.s.files", 1.0)
    assert len(read("a.jsonl.zst", tally=tally)) == 12
    assert (tally.bad, tally.examples) == (1, ["a.jsonl.zst:7: a line of more than 1 MB"])


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_a_damaged_file_is_refused_by_name(tmp_path, read, name):
    path = pack(tmp_path, name)
    path.write_bytes(path.read_bytes()[:-20] if name.endswith(".gz") else b"no such format")
    with pytest.raises(Refused, match=name):
        read(name)


def test_an_absent_field_is_refused_with_the_fields_that_are_there(tmp_path, read):
    for name in ("a.jsonl", "a.parquet"):
        pack(tmp_path, name)
        with pytest.raises(
            Refused, match=r"sources\.s\.text: no field 'txt' in the first rows of a\..*did you mean 'text'"
        ):
            read(name, text="txt")
    with pytest.raises(Refused, match=r"sources\.s\.prompt: no field 'zzz' .* known: question, text, url"):
        read("a.jsonl", prompt="zzz")


def test_missing_files_are_refused_with_the_field_and_the_nearest_name(tmp_path, read):
    pack(tmp_path, "train.jsonl")
    with pytest.raises(
        Refused, match=r"sources\.s\.files: 'trian\.jsonl': no such file .* did you mean 'train\.jsonl'"
    ):
        read("trian.jsonl")
    with pytest.raises(Refused, match=r"sources\.s\.files: '\*\.gz' matches no file"):
        read("*.gz")
    with pytest.raises(Refused, match=r"unknown kind of file"):
        (tmp_path / "a.pdf").write_text("x")
        read("a.pdf")


def test_a_document_survives_its_json_line():
    document = Document("i", "t\u2028\n", "s", "p", "u", "g", {"k": 1})
    assert Document.from_json(document.to_json()) == document
    assert Document.from_json(Document("i", "", "s").to_json()) == Document("i", "", "s")
    assert "\n" not in document.to_json()
    assert host_of("https://[broken") == host_of(None) == ""


def test_a_local_data_set_is_streamed(tmp_path):
    pytest.importorskip("datasets", reason="the hub extra is not installed")
    (tmp_path / "set").mkdir()
    pack(tmp_path / "set", "train-00000.parquet")
    found = list(hub_documents(Hub(hub="set", prompt="question", documents=4), "s", lambda p: tmp_path / p))
    assert [(d.text, d.prompt, d.group) for d in found] == [
        (r["text"], r["question"], host_of(r["url"])) for r in ROWS[:4]
    ]
    assert found[0].id == "train:1"
    with pytest.raises(Refused, match=r"sources\.s\.hub: 'set' .*split 'tran'.* cannot be read"):
        list(hub_documents(Hub(hub="set", split="tran"), "s", lambda p: tmp_path / p))
    shutil.rmtree(tmp_path / "set")


def test_without_the_extra_the_hub_is_refused_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(Refused, match=r"pip install 'curricle\[hub\]'"):
        list(hub_documents(Hub(hub="set"), "s", lambda p: tmp_path / p))


def test_a_zst_archive_that_was_cut_off_is_refused(tmp_path):
    import zstandard

    lines = "".join(
        json.dumps({"text": f"text number {n} {n * n}", "repo": str(n)}) + "\n" for n in range(5000)
    ).encode()
    whole = zstandard.ZstdCompressor().compress(lines)
    (tmp_path / "a.jsonl.zst").write_bytes(whole + whole)  # two frames are one file
    source = Files(files=("a.jsonl.zst",))
    assert len(list(file_documents(source, "s", lambda path: tmp_path / path))) == 10_000
    (tmp_path / "a.jsonl.zst").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Refused, match=r"sources\.s\.files: a\.jsonl\.zst: damaged after line"):
        list(file_documents(source, "s", lambda path: tmp_path / path))
