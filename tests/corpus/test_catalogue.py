"""The catalogue: counted once, split by group, cleaned of test text, named by content."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curricle.corpus import catalogue
from curricle.corpus.catalogue import build, documents, held_out_units, key, load
from curricle.corpus.decontamination import Contamination
from curricle.store import is_complete
from curricle.study import Declared, Files, Generated, Installed, Refused

PROBLEM = "how many apples does the old farmer sell on a rainy market day"


def rows(count=60, groups=12):
    return [{"text": f"text number {i} " + "word " * 20, "repo": f"r{i % groups}"} for i in range(count)]


def built(folder, content, *, out="out", share=0.1, contamination=None, **fields):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    return build(
        "s",
        Files(files=("a.jsonl",), **fields),
        folder / out,
        resolve=lambda p: folder / p,
        contamination=contamination,
        contamination_key="k",
        held_out_share=share,
    )


def test_no_group_is_split_and_nothing_is_lost(tmp_path):
    entry = built(tmp_path, rows())
    train, held_out = (list(documents(tmp_path / "out", part)) for part in ("train", "held_out"))
    assert not {d.group for d in train} & {d.group for d in held_out}
    assert sorted(d.text for d in train + held_out) == sorted(r["text"] for r in rows())
    assert (entry.documents, entry.held_out_documents) == (len(train), len(held_out))
    assert entry.bytes == sum(len(d.whole.encode()) for d in train)
    assert (entry.groups, entry.split_by) == (12, "group")
    assert not list((tmp_path / "out").glob("spool*"))


@settings(max_examples=200)
@given(st.dictionaries(st.text(max_size=4), st.integers(1, 10_000), min_size=2, max_size=40), st.floats(0.01, 0.5))
def test_held_out_groups_are_near_the_share_whatever_the_sizes(weights, share):
    chosen = held_out_units(weights, share)
    total, taken = sum(weights.values()), sum(weights[unit] for unit in chosen)
    assert 0 < len(chosen) < len(weights)
    assert taken <= 3 * share * total or chosen == {min(chosen)}
    if taken > 3 * share * total:
        assert taken == min(weights.values())
    assert chosen == held_out_units(dict(reversed(weights.items())), share)


def test_one_group_is_split_by_document_and_says_so(tmp_path):
    entry = built(tmp_path, rows(groups=1))
    assert (entry.groups, entry.split_by) == (1, "document")
    assert entry.documents + entry.held_out_documents == 60
    assert 0.05 < entry.held_out_bytes / (entry.bytes + entry.held_out_bytes) < 0.2


def test_the_fingerprint_is_of_the_content_and_not_of_the_place(tmp_path):
    first, second = built(tmp_path / "here", rows()), built(tmp_path / "there" / "deep", rows())
    assert first == second
    changed = rows()
    changed[next(i for i, r in enumerate(changed) if r["repo"] == next(documents(tmp_path / "here/out")).group)][
        "text"
    ] += "!"
    third = built(tmp_path / "changed", changed)
    assert third.fingerprint != first.fingerprint
    assert third.held_out_fingerprint == first.held_out_fingerprint


def test_test_text_is_removed_counted_and_listed(tmp_path):
    content = rows()
    for i in (3, 7):
        content[i]["text"] += f" {PROBLEM.upper()}?"
    entry = built(
        tmp_path, content, contamination=Contamination({"apples": [PROBLEM], "other": ["nothing of the kind"]})
    )
    assert entry.removed == {"apples": 2}
    assert entry.documents + entry.held_out_documents == 58
    listed = [json.loads(line) for line in (tmp_path / "out/removed.jsonl").read_text().splitlines()]
    assert [row["id"] for row in listed] == ["a.jsonl:4", "a.jsonl:8"]
    assert listed == list(entry.removed_examples)
    assert listed[0]["evidence"] == "how many apples does the old farmer sell on a"
    everything = [d.whole.lower() for part in ("train", "held_out") for d in documents(tmp_path / "out", part)]
    assert not [text for text in everything if "apples" in text]


def test_a_copy_of_a_held_out_document_does_not_train(tmp_path):
    content = rows()
    held_out_repo = next(iter({d.group for d in _held_out(tmp_path / "probe", content)}))
    original = next(r for r in content if r["repo"] == held_out_repo)
    other = next(r for r in content if r["repo"] != held_out_repo)
    other["text"] = original["text"]
    entry = built(tmp_path, content)
    assert held_out_repo in {d.group for d in documents(tmp_path / "out", "held_out")}
    assert entry.removed == {catalogue.COPIES: 1}
    assert original["text"] not in {d.text for d in documents(tmp_path / "out")}


def _held_out(folder, content):
    built(folder, content)
    return list(documents(folder / "out", "held_out"))


def test_an_entry_is_read_again_and_not_built_again(tmp_path):
    entry = built(tmp_path, rows())
    assert built(tmp_path, []) == entry == load(tmp_path / "out")


def test_what_cannot_be_split_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(Refused, match=r"sources\.s: documents left: 1; it needs two"):
        built(tmp_path, rows(1))
    with pytest.raises(Refused, match="after 2 that overlap benchmarks"):
        built(tmp_path, [{"text": PROBLEM}] * 2, contamination=Contamination({"b": [PROBLEM]}))
    assert not is_complete(tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


def test_bad_lines_are_in_the_entry(tmp_path):
    entry = built(tmp_path, [*rows(), {"text": 1}], max_bad_share=0.1, licence="MIT")
    assert (entry.bad_lines, entry.bad_examples) == (1, ("a.jsonl:61: field 'text' is a int, not text",))
    assert entry.details["licence"] == "MIT"


def test_the_key_changes_with_the_inputs_and_only_with_them(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"text": "x"}))

    def name(source=None, share=0.1, contamination="k"):
        source = source or Files(files=("a.jsonl",))
        return key("s", source, resolve=lambda p: tmp_path / p, contamination_key=contamination, held_out_share=share)

    first = name()
    assert first == name()
    assert len({first, name(share=0.2), name(contamination="l"), name(Files(files=("a.jsonl",), licence="MIT"))}) == 4
    os.utime(file, ns=(1, 1))
    assert name() != first
    assert name(Installed(installed="code")) != name(Installed(installed="prose"))
    assert name(Generated(generated=("gcd",))) != name(Generated(generated=("gcd",), worked=False))


def test_a_generated_source_writes_only_its_held_out_problems(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "HELD_OUT_PROBLEMS", 30)
    source = Generated(generated=("chain_sum", "gcd"))
    arguments = {"resolve": Path, "contamination": None, "contamination_key": "", "held_out_share": 0.1}
    entry = build("s", source, tmp_path / "out", **arguments)
    held_out = list(documents(tmp_path / "out", "held_out"))
    assert entry.endless and entry.documents == 0 and entry.held_out_documents == len(held_out) == 30
    assert len({d.id for d in held_out}) == 30
    assert load(tmp_path / "out") == entry
    bare = build("s", source.model_copy(update={"worked": False}), tmp_path / "bare", **arguments)
    assert bare.fingerprint != entry.fingerprint
    with pytest.raises(Refused, match=r"sources\.s\.generated: unknown generator 'gdc'; did you mean 'gcd'"):
        build("s", Generated(generated=("gdc",)), tmp_path / "bad", **arguments)


def test_a_declared_source_holds_a_number_and_its_reference(tmp_path):
    entry = build(
        "s",
        Declared(declared=120 * 10**9, reference="arXiv 2402.03300"),
        tmp_path / "out",
        resolve=Path,
        contamination=None,
        contamination_key="",
        held_out_share=0.1,
    )
    assert (entry.kind, entry.documents, entry.details["tokens"]) == ("declared", 0, 120 * 10**9)


def test_a_real_corpus_is_split_by_repository(tmp_path):
    data = os.environ.get("CURRICLE_DATA")
    if not data:
        pytest.skip("CURRICLE_DATA names no folder of real corpora")
    entry = build(
        "zh",
        Files(files=("corpora/zh-*.jsonl.zst",)),
        tmp_path / "out",
        resolve=lambda p: Path(data, p),
        contamination=None,
        contamination_key="",
        held_out_share=0.05,
    )
    held_out, train = ({d.group for d in documents(tmp_path / "out", part)} for part in ("held_out", "train"))
    assert held_out and train and not held_out & train
    assert entry.bad_lines == 0 and entry.documents + entry.held_out_documents == 1354


def test_another_setting_of_a_generator_is_another_source(tmp_path, monkeypatch):
    from curricle.corpus.families import FAMILIES

    options = {"resolve": Path, "contamination_key": "none", "held_out_share": 0.05}
    source = Generated(generated=("chain_sum",))
    made = {"resolve": Path, "contamination": None, "contamination_key": "none", "held_out_share": 0.05}
    before = catalogue.key("a", source, **options), catalogue.build("a", source, tmp_path / "1", **made).fingerprint
    monkeypatch.setitem(FAMILIES["chain_sum"].settings, "max_terms", 3)
    after = catalogue.key("a", source, **options), catalogue.build("a", source, tmp_path / "2", **made).fingerprint
    assert before[0] != after[0] and before[1] != after[1]


def test_a_renamed_file_is_split_as_it_was(tmp_path):
    entry = built(tmp_path, rows(groups=1))
    (tmp_path / "a.jsonl").rename(tmp_path / "b.jsonl")
    arguments = {"resolve": lambda p: tmp_path / p, "contamination": None, "contamination_key": "k"}
    again = build("s", Files(files=("b.jsonl",)), tmp_path / "again", held_out_share=0.1, **arguments)
    assert again.split_by == "document"
    assert (again.fingerprint, again.held_out_fingerprint) == (entry.fingerprint, entry.held_out_fingerprint)


def test_what_one_source_holds_out_trains_through_no_other(tmp_path):
    apart = rows(40, 8)
    copied = [{**row, "repo": f"mirror {i}"} for i, row in enumerate(rows(60, 12))]  # of the other source, regrouped
    first = built(tmp_path / "first", rows(60, 12))
    built(tmp_path / "second", [*copied, *({**r, "text": "other " + r["text"]} for r in apart)])
    folders = {"first": tmp_path / "first/out", "second": tmp_path / "second/out"}
    held_out = {d.whole for d in documents(folders["first"], "held_out")}
    before = load(folders["second"])
    entry, folder = catalogue.set_apart("second", folders, tmp_path / "apart")
    trained = [d.whole for d in documents(folder)]
    assert held_out and not held_out & set(trained)
    lost = before.documents - entry.documents
    assert entry.documents == len(trained) and 0 < lost <= len(held_out)
    assert entry.removed == {catalogue.COPIES_OF.format(source="first"): lost}
    assert len((folder / "removed.jsonl").read_text().splitlines()) == lost
    assert entry.fingerprint != before.fingerprint and entry.bytes == sum(len(t.encode()) for t in trained)
    assert list(documents(folder, "held_out")) == list(documents(folders["second"], "held_out"))
    assert catalogue.set_apart("second", folders, tmp_path / "apart") == (entry, folder)
    # The same source under two names holds out the same: nothing to remove, and it stays where it is.
    same = {"first": folders["first"], "twin": folders["first"]}
    assert catalogue.set_apart("first", same, tmp_path / "none") == (first, folders["first"])
    with pytest.raises(Refused, match=r"sources\.held: all training documents repeat held-out text of first"):
        built(tmp_path / "held", [{"text": t, "repo": str(i)} for i, t in enumerate(held_out)])
        catalogue.set_apart("held", {**folders, "held": tmp_path / "held/out"}, tmp_path / "nothing")
