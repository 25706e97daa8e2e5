"""What training reads: no test text in any stream, no held-out text through another source, items named by content."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_study import tiny, write_study

from curricle.corpus import catalogue as corpora
from curricle.running.preparation import make_plan, prepare, write_streams
from curricle.running.tokenization import refuse_other_tokenizer, sample
from curricle.store import Store
from curricle.study import Refused
from curricle.studyfile import load_study
from curricle.tokens import tokenizer as tokenizers
from curricle.tokens.tokenizer import load
from curricle.training.origin import Origin


def fields(**sources: object) -> dict:
    """The tiny study over these sources in one stage, without benchmarks."""
    found = tiny(sources=sources, benchmarks={})
    found["stages"] = {"all": {"mixture": {n: 1 / len(sources) for n in sources}, "budget_tokens": 2048}}
    found["strategies"], found["baseline"] = {"it": ["all"]}, "it"
    return found


def gsm8k(folder: Path, questions: list[str]) -> dict:
    rows = [{"question": question, "answer": "So it is\n#### 1"} for question in questions]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"words": {"file": "test.jsonl", "format": "gsm8k", "shots": 0, "max_new_tokens": 8}}


def stream(study_file: Path, store: Path) -> tuple[str, str, list[dict]]:
    """The run, the text of the stream that it reads, and what was removed from it."""
    study, place = load_study(study_file), Store(store)
    plan = make_plan(study, place)
    prepared = prepare(study, place)
    write_streams(prepared, plan)
    folder = prepared.stream("algebra", 0)
    removed = [json.loads(line) for f in sorted(folder.glob("removed-*.jsonl")) for line in f.read_text().splitlines()]
    tokens = prepared.supply("algebra", 0).shards[0].tokens
    return next(iter(plan.nodes)), load(prepared.tokenizer).decode(tokens), removed


def test_problems_of_a_benchmark_s_file_are_removed_from_a_generated_stream(tmp_path):
    written = fields(algebra={"generated": ["chain_sum", "gcd"]})
    plain_run, plain, nothing = stream(write_study(tmp_path, written), tmp_path / "store")
    asked = next(line for line in plain.splitlines() if "Compute" in line).removeprefix("Problem: ")
    written["benchmarks"] = gsm8k(tmp_path, [asked, "How many pears?"])
    run, cleaned, removed = stream(write_study(tmp_path, written), tmp_path / "store")
    assert nothing == [] and removed and {row["benchmark"] for row in removed} == {"words"}
    assert f"Problem: {asked}\n" in plain and f"Problem: {asked}\n" not in cleaned
    assert run != plain_run, "another stream is other data"
    written["benchmarks"]["words"]["shots"] = 1
    assert stream(write_study(tmp_path, written), tmp_path / "store")[0] == run, "how it is asked trains nothing anew"
    written["decontaminate"] = False
    assert stream(write_study(tmp_path, written), tmp_path / "store")[0] == plain_run


def test_a_generator_that_is_made_of_a_benchmark_s_problems_is_refused(tmp_path):
    from curricle.corpus import problems

    asked = [d.prompt.splitlines()[0].removeprefix("Problem: ") for d in problems.chunk(["gsm_symbolic"], 3, 0)]
    written = fields(algebra={"generated": ["gsm_symbolic"]}) | {"benchmarks": gsm8k(tmp_path, asked)}
    with pytest.raises(Refused, match=r"sources\.algebra: \d+ of its first 200 problems overlap the benchmark 'words'"):
        make_plan(load_study(write_study(tmp_path, written)), tmp_path / "store")


def test_what_one_source_of_a_study_holds_out_trains_through_no_other(tmp_path):
    file = write_study(tmp_path, fields(code={"files": "code.jsonl"}, web={"files": "web.jsonl"}))
    rows = [json.loads(line) for line in (tmp_path / "code.jsonl").read_text().splitlines()]
    rows = [{"text": f"{row['text']} # {row['repo']}", "repo": row["repo"]} for row in rows]
    mirrored = [{**row, "repo": f"mirror {i % 9}"} for i, row in enumerate(rows)]
    for name, content in (("code", rows), ("web", [*mirrored, *({"text": f"page {i} " * 20} for i in range(30))])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    place, study = Store(tmp_path / "store"), load_study(file)
    prepared = prepare(study, place)
    from curricle.corpus.catalogue import documents

    text = {(n, part): {d.whole for d in documents(prepared.corpora[n], part)} for n in ("code", "web")
            for part in ("train", "held_out")}  # fmt: skip
    assert not text["code", "train"] & text["web", "held_out"] and not text["web", "train"] & text["code", "held_out"]
    assert prepared.entries["web"].removed["held-out text of code"] > 0
    tokenizer = load(prepared.tokenizer)
    trained = tokenizer.decode(prepared.supply("web", 0).shards[0].tokens)
    assert not any(held in trained for held in text["code", "held_out"])
    assert prepare(study, place).catalogue == prepared.catalogue
    made = set((tmp_path / "store" / "corpora").iterdir())
    assert made <= {*prepared.corpora.values(), *prepared.kept}, "what is needed again, `clean` must know"


def test_held_out_pieces_are_named_and_ordered_by_what_they_hold(tmp_path):
    written = fields(code={"files": "code.jsonl"}) | {"held_out": {"scored_bytes": 400}}
    first = prepare(load_study(write_study(tmp_path, written)), Store(tmp_path / "store"))
    (tmp_path / "code.jsonl").rename(tmp_path / "renamed.jsonl")
    written["sources"]["code"]["files"] = "renamed.jsonl"
    file = tmp_path / "tiny.yaml"
    file.write_text(json.dumps(written))
    again = prepare(load_study(file), Store(tmp_path / "another"))
    pieces = first.held_out("code")
    assert pieces == again.held_out("code") and first.asked == again.asked
    assert len({piece.id for piece in pieces}) == len(pieces) == len({piece.whole for piece in pieces})
    assert first.catalogue == again.catalogue
    samples = [sample(p.study, p.entries["code"], p.corpora["code"], None, 3000) for p in (first, again)]
    chosen = [[document.text for document in found] for found in samples]
    assert chosen[0] == chosen[1] and chosen[0], "a tokenizer's sample is not chosen by names either"


def test_held_out_text_is_read_once_and_again_where_another_stands_in_its_place(tmp_path, monkeypatch):
    written = fields(code={"files": "code.jsonl"}) | {"held_out": {"scored_bytes": 400}}
    prepared = prepare(load_study(write_study(tmp_path, written)), Store(tmp_path / "store"))
    pieces, read = prepared.held_out("code"), []
    monkeypatch.setattr(corpora, "documents", lambda folder, part: read.append(folder) or [])
    assert prepared.held_out("code") == pieces and not read
    other = replace(prepared.entries["code"], held_out_fingerprint="another")
    assert replace(prepared, entries={"code": other}).held_out("code") == () and read == [prepared.corpora["code"]]


def test_a_tokenizer_beside_a_hub_id_is_compared_by_content_or_refused(tmp_path, monkeypatch):
    import transformers.utils

    written = fields(code={"files": "code.jsonl"})
    prepared = prepare(load_study(write_study(tmp_path, written)), Store(tmp_path / "store"))
    own = Path(prepared.tokenizer)
    written |= {"model": {"checkpoint": "org/name", "context": 64}, "tokenizer": {"path": str(own)}}
    study = load_study(write_study(tmp_path, written))
    origin = Origin("org/name@abc", prepared.catalogue.shape, "org/name", "abc")
    # What cannot be read tells nothing: there is no network here.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(Refused, match=r"tokenizer\.path: whether .* of org/name cannot be told.*leave tokenizer out"):
        refuse_other_tokenizer(study, origin)
    # The hub's files, as its cache would give them.
    monkeypatch.setattr(tokenizers, "load", lambda place, revision=None: load(own))
    hub = tmp_path / "tokenizer.json"
    monkeypatch.setattr(
        transformers.utils, "cached_file", lambda name, file, revision: hub if (name, revision) == HUB else None
    )
    hub.write_bytes((own / "tokenizer.json").read_bytes())
    refuse_other_tokenizer(study, origin)
    hub.write_bytes(hub.read_bytes() + b" ")
    with pytest.raises(Refused, match=r"tokenizer\.path: the content of .*, that of org/name is"):
        refuse_other_tokenizer(study, origin)
    refuse_other_tokenizer(study, None)


HUB = ("org/name", "abc")


def test_documents_drawn_again_leave_out_what_was_removed_from_the_stream(tmp_path):
    from curricle.running.explain import documents_of
    from curricle.running.recall import noted, recall
    from curricle.store import write_json

    written = fields(algebra={"generated": ["chain_sum", "gcd"]})
    _, plain, _ = stream(write_study(tmp_path, written), tmp_path / "store")
    asked = next(line for line in plain.splitlines() if "Compute" in line).removeprefix("Problem: ")
    written["benchmarks"] = gsm8k(tmp_path, [asked])
    run, _, removed = stream(write_study(tmp_path, written), tmp_path / "store")
    assert removed
    study, store = load_study(tmp_path / "tiny.yaml"), Store(tmp_path / "store")
    plan, prepared = make_plan(study, store), prepare(study, store)
    write_json(store.run_folder(run) / "run.json", {"identity": dict(plan.nodes[run].identity)})
    prepared, _ = recall(store, json.loads(json.dumps({"study": "tiny", **noted(plan, prepared)})), run)
    shard, tokenizer = prepared.supply("algebra", 0).shards[0], load(prepared.tokenizer)
    count = len(shard.ends)  # all of the first block, so that the last of it is past whatever was removed
    found = documents_of(prepared, "algebra", 0, range(0, count, 400))
    starts = [0, *shard.ends.tolist()]
    for place in range(0, count, 400):
        text = tokenizer.decode(shard.tokens[starts[place] : starts[place + 1] - 1].tolist())
        assert text == found[place].whole


def test_a_hub_id_is_read_at_the_commit_that_was_seen_wherever_it_is_read(study, tmp_path, monkeypatch):
    from types import SimpleNamespace

    from curricle.running import beginning
    from curricle.running.preparation import Prepared
    from curricle.training import model as models

    prepared = prepare(study, Store(tmp_path / "store"))
    loaded, asked = load(prepared.tokenizer), []
    hub = study.model_copy(
        update={"model": study.model.model_copy(update={"checkpoint": "org/name", "revision": None})}
    )
    origin = Origin("org/name@abc", prepared.catalogue.shape, "org/name", "abc")
    found = Prepared(
        hub, prepared.store, prepared.entries, prepared.corpora, "org/name", prepared.shards, (), {},
        prepared.catalogue, origin,
    )  # fmt: skip
    monkeypatch.setattr(
        tokenizers, "load", lambda place, revision=None: asked.append(("tokenizer", place, revision)) or loaded
    )
    monkeypatch.setattr(models, "begin", lambda place, revision, _: asked.append(("weights", place, revision)))
    write_streams(found, SimpleNamespace(nodes={}))
    beginning.initial(found, SimpleNamespace(parent=None), 0)
    assert asked == [("tokenizer", "org/name", "abc"), ("weights", "org/name", "abc")]


def test_a_counterfactual_source_is_split_and_cleaned_as_the_source_that_it_is_made_of(tmp_path):
    """The original is in no mixture; a source beside it repeats its documents."""
    written = fields(
        plain={"counterfactual": "code", "take": "meaning"},
        lines={"counterfactual": "code", "take": "order"},
        copy={"files": "code.jsonl", "group": "path"},
    )
    written["sources"]["code"] = {"files": "code.jsonl"}
    prepared = prepare(load_study(write_study(tmp_path, written)), Store(tmp_path / "store"))
    assert set(prepared.entries) == {"plain", "lines", "copy"} == set(prepared.catalogue.sources)
    assert prepared.entries["plain"].kind == "counterfactual" and prepared.entries["plain"].groups == 8

    found = {
        n: {p: list(corpora.documents(prepared.corpora[n], p)) for p in ("train", "held_out")}
        for n in written["sources"]
        if n != "code"
    }
    held_out = {name: {d.group for d in found[name]["held_out"]} for name in ("plain", "lines")}
    assert held_out["plain"] == held_out["lines"]
    assert not held_out["plain"] & {d.group for name in held_out for d in found[name]["train"]}
    # What either holds out, as it was written, trains through no transformation, and the other way round.
    originals = {name: {d.meta["original"] for d in found[name]["train"]} for name in held_out}
    own = {corpora._said(d).hex() for d in found["copy"]["held_out"]}
    assert own and not own & (originals["plain"] | originals["lines"])
    kept = {d.meta["original"] for d in found["plain"]["held_out"]}
    assert kept and not kept & {corpora._said(d).hex() for d in found["copy"]["train"]}
    text = "".join(d.text for d in found["plain"]["train"])
    assert "def " in text and "return" in text and "x * " not in text


def test_what_a_counterfactual_source_is_called_and_made_of_decides_nothing_but_its_content_does(tmp_path):
    def run(take: str, name: str = "code") -> str:
        written = fields(variant={"counterfactual": name, "take": take})
        written["sources"][name] = {"files": "code.jsonl"}
        return next(iter(make_plan(load_study(write_study(tmp_path, written)), Store(tmp_path / "store")).nodes))

    assert run("nesting") == run("nesting", "programs") != run("binding")


def test_taking_a_property_away_leaves_every_run_that_was_there_as_it_was(tmp_path):
    without = tiny(benchmarks={})
    taken = {
        "plain": {"counterfactual": "code", "take": "meaning"},
        "flat": {"counterfactual": "code", "take": "nesting"},
    }
    with_them = without | {
        "sources": {**without["sources"], **taken},
        "stages": {**without["stages"], **{n: {"mixture": {n: 1}, "budget_tokens": 2048} for n in taken}},
        "strategies": {**without["strategies"], **{f"only {n}": [n] for n in taken}},
    }
    plans = [make_plan(load_study(write_study(tmp_path, f)), Store(tmp_path / "store")) for f in (without, with_them)]
    first, more = (set(plan.nodes) for plan in plans)
    assert first < more and len(more) == len(first) + 2


def test_a_transformation_that_leaves_nothing_is_refused(tmp_path):
    written = fields(comments={"counterfactual": "code", "take": "code"})
    written["sources"]["code"] = {"files": "code.jsonl"}
    with pytest.raises(Refused, match=r"sources\.comments\.take: without code, nothing of code is left to train on"):
        prepare(load_study(write_study(tmp_path, written)), Store(tmp_path / "store"))


def test_test_text_that_a_source_repeats_is_in_no_transformation_of_it(tmp_path):
    question = "how many apples does the old farmer sell on a rainy market day"
    written = fields(lines={"counterfactual": "code", "take": "order"})
    written["sources"]["code"] = {"files": "code.jsonl"}
    written["benchmarks"] = gsm8k(tmp_path, [question])
    file = write_study(tmp_path, written)
    with open(tmp_path / "code.jsonl", "a") as lines:
        lines.write(json.dumps({"text": f"first = 1\n# {question}\nlast = 2\n", "repo": "r"}) + "\n")
    entry = prepare(load_study(file), Store(tmp_path / "store")).entries["lines"]
    assert entry.removed == {"words": 1} and entry.removed_examples[0]["id"] == "code.jsonl:97"


def test_the_procedural_control_is_a_source_like_any_other(tmp_path):
    written = fields(control={"procedural": "binding", "documents": 200})
    entry = prepare(load_study(write_study(tmp_path, written)), Store(tmp_path / "store")).entries["control"]
    assert (entry.documents + entry.held_out_documents, entry.split_by) == (200, "document")
