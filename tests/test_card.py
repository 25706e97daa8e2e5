"""A model goes out whole, with a card that the store's files alone can write."""

from __future__ import annotations

import json
import re

import huggingface_hub
import pytest
import yaml
from tiny_study import tiny, write_study
from verbs import curricle

from curricle import card
from curricle.remote import Remote
from curricle.running import models, runner, upkeep
from curricle.running.preparation import make_plan
from curricle.store import Store, read_json, whole_folder, write_json
from curricle.study import Refused, Study
from curricle.studyfile import load_study
from curricle.training.origin import front_matter


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two studies in one store: the tiny one, and one that goes on from the model it made."""
    folder = tmp_path_factory.mktemp("card")
    fields = tiny(benchmarks={})
    file = write_study(folder, fields)
    rows = [json.loads(line) for line in (folder / "code.jsonl").read_text().splitlines()]
    for n, row in enumerate(rows):
        row["license" if n % 2 else "licence"] = ["MIT", "Apache-2.0", "<b>|mine|</b>"][n % 3]
    (folder / "code.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    store = Store(folder / "store")
    plan = make_plan(load_study(file), store)
    runner.run(plan, store=store, out=folder / "out")
    models.export(store, plan.paths["from scratch", 0][-1], folder / "base")
    fields |= {"model": {"checkpoint": "base", "context": 64, "decayed": False}, "strategies": {"more": ["math"]}}
    fields |= {"baseline": "more", "benchmarks": tiny()["benchmarks"]}
    del fields["tokenizer"]
    (folder / "more.yaml").write_text(yaml.safe_dump(fields, sort_keys=False))
    more = make_plan(load_study(folder / "more.yaml"), store)
    runner.run(more, store=store, out=folder / "more")
    return folder, store, plan, more


def test_an_export_loads_in_transformers_and_holds_no_mark_of_the_store(place, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _, store, plan, _ = place
    run = plan.paths["code first", 0][-1]
    models.export(store, run[:-9], tmp_path / "out")
    names = {f.name for f in (tmp_path / "out").iterdir()}
    assert {"README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names
    assert "COMPLETE" not in names
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(tmp_path / "out"))


def test_the_card_asks_a_tuned_model_as_it_was_trained_and_says_who_writes_the_token_in_front(place, tmp_path, capsys):
    _, store, plan, _ = place
    math, instruct = plan.paths["from scratch", 0]
    models.export(store, instruct, tmp_path / "out")
    said = (tmp_path / "out" / "README.md").read_text()
    assert "the chat template writes it" in said
    code = said.split("```python\n")[1].split("```")[0].replace("THIS FOLDER", str(tmp_path / "out"))
    names: dict = {}
    exec(code.replace("max_new_tokens=200", "max_new_tokens=2"), names)
    ids, tokenizer = names["asked"]["input_ids"][0].tolist(), names["tokenizer"]
    assert ids.count(tokenizer.eos_token_id) == 1 and ids[0] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[1:]) == "Problem: What is 6 times 7?\nSolution:\n"
    own = card.of_run(store, instruct, template="{% for m in messages %}{{ m.content }}{% endfor %}")
    assert "apply_chat_template" in own and "The chat template does not write it" in own
    models.export(store, math, tmp_path / "math")
    plain = (tmp_path / "math" / "README.md").read_text()
    assert "apply_chat_template" not in plain and "a prompt is best opened with it" in plain


def test_an_export_into_a_folder_with_something_in_it_is_refused(place, tmp_path):
    _, store, plan, _ = place
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(Refused, match="not an empty folder"):
        models.export(store, plan.paths["from scratch", 0][-1], tmp_path / "out")
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["mine"]


def test_an_export_that_fails_leaves_nothing(place, tmp_path, monkeypatch):
    _, store, plan, _ = place
    monkeypatch.setattr(models.shutil, "copyfile", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        models.export(store, plan.paths["from scratch", 0][-1], tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_card_says_what_was_read_under_which_licence_and_how_to_make_it_again(place):
    folder, store, plan, _ = place
    run = plan.paths["code first", 0][-1]
    text = card.of_run(store, run)
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "other" and "instruction-tuned" in front["tags"] and "base_model" not in front
    assert "Fresh weights of the preset `0.5m`" in text
    assert "| code | pretrain | code | 2,048 | 100.0 % |" in text and "| math | pretrain | algebra | 3,072 |" in text
    assert "6,144 tokens in all" in text
    assert "MIT (" in text and "&lt;b>\\|mine\\|&lt;/b>" in text
    assert "seed 0" in text and "curricle run tiny.yaml" in text and "| learning_rate |" in text
    assert str(folder) not in text
    again = Study.model_validate(yaml.safe_load(text.split("```yaml\n")[1].split("```")[0]))
    assert again.model_dump() == load_study(folder / "tiny.yaml").model_dump()


def test_the_card_of_a_continued_run_names_its_base_and_scores_it_before_and_after(place):
    _, store, _, more = place
    run = more.paths["more", 0][0]
    began = read_json(store.run_folder(run) / "run.json")["began_from"]
    assert began["checkpoint"] == "base" and began["decayed"] is False and began["fingerprint"]
    text = card.of_run(store, run)
    assert "The checkpoint `base`" in text and "had not been decayed" in text
    line = next(line for line in text.splitlines() if line.startswith("| problems | problems | accuracy |"))
    _, _, _, _, after, before, n, _ = (part.strip() for part in line.split("|"))
    assert "%" in after and "%" in before and n == "8"
    assert "| algebra | held-out | bits per byte |" in text
    assert upkeep.receipts(store, more)["checkpoint"].startswith("base (")


def test_weights_of_a_point_on_the_way_say_so(place, tmp_path):
    _, store, plan, _ = place
    run = plan.paths["from scratch", 0][0]
    point = next((store.run_folder(run) / "points").iterdir())
    models.export(store, str(point), tmp_path / "out")
    assert "after 1,024 tokens of the last stage" in (tmp_path / "out" / "README.md").read_text()


def test_the_verb_writes_a_folder_and_refuses_what_is_no_run(place, tmp_path):
    folder, _, plan, _ = place
    run = plan.paths["from scratch", 0][-1]
    done = curricle("export", run, tmp_path / "out", "--store", folder / "store")
    assert done.returncode == 0 and front_matter(tmp_path / "out" / "README.md")["library_name"] == "transformers"
    refused = curricle("export", "no/such/run", tmp_path / "b")
    assert refused.returncode == 2 and "no run in" in refused.stderr


def test_a_run_without_weights_here_is_told_from_a_hub_id(tmp_path, monkeypatch):
    store, run = Store(tmp_path), "math/0123456789abcdef"
    folder = store.run_folder(run)
    write_json(folder / "run.json", {"identity": {"budget_tokens": 2048}})
    write_json(tmp_path / "studies" / "tiny.json", {"remote": "s3://b/c", "nodes": {run: {}}})
    for lines, said in (
        ("", "not complete (0 of 2,048 tokens)"),
        ('{"step": 1, "tokens": 1024}\n{"step": 2, "tok', "not complete (1,024 of 2,048 tokens)"),
        (
            '{"step": 1, "tokens": 1024}\n{"step": 2, "tokens": 2048}\n',
            f"its weights are at s3://b/c; fetch them with  curricle export {run} ",
        ),
    ):
        (folder / "metrics.jsonl").write_text(lines)
        with pytest.raises(Refused, match=re.escape(f"{run}: {said}")):
            models.model_of(store, run[:-9])
    (tmp_path / "studies" / "tiny.json").unlink()
    with pytest.raises(Refused, match="not complete"):
        models.model_of(store, run)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url, timeout: None)
    assert models.model_of(store, "org/name") == "org/name"


def test_a_mistyped_run_is_refused_after_one_try_at_most(tmp_path, monkeypatch):
    store, tries = Store(tmp_path), []
    write_json(store.run_folder("math/0123456789abcdef") / "run.json", {"identity": {"budget_tokens": 2048}})

    def unreachable(url, timeout):
        tries.append(url)
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", unreachable)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for name in ("nothing/123", "nothing/fedcba98", "math/bogus"):
        with pytest.raises(Refused, match=re.escape(f"no run {name!r} in {tmp_path} (see `curricle list`)")):
            models.model_of(store, name)
    assert not tries
    with pytest.raises(Refused, match=r"no run 'nothing/such' in .* and no hub checkpoint could be reached"):
        models.model_of(store, "nothing/such")
    assert len(tries) == 1


def test_weights_that_lie_in_an_object_store_only_are_fetched_with_what_a_card_says(tmp_path, monkeypatch):
    here, new, remote = Store(tmp_path / "here"), Store(tmp_path / "new"), Remote(f"file://{tmp_path}/remote")
    parent, run = "code/0123456789abcdef", "math/0123456789abcdef"
    for name, began_from in ((parent, {"preset": "0.5m"}), (run, {"run": parent})):
        write_json(here.run_folder(name) / "run.json", {"identity": {"budget_tokens": 2048}, "began_from": began_from})
        remote.push_file(here, f"runs/{name}/run.json")
    with whole_folder(here.run_folder(run) / "model") as model:
        (model / "weights").write_bytes(b"\0\1")
    monkeypatch.setattr(card, "of_run", lambda *_: "a card")
    with pytest.raises(Refused, match=f"{run}: not complete there"):
        models.export(new, run, tmp_path / "out", remote)
    assert remote.push(here, f"runs/{run}/model")
    for unknown in ("math/nothing", "org/name", "nothing"):
        with pytest.raises(Refused, match="no such run there"):
            models.export(new, unknown, tmp_path / "out", remote)
    models.export(new, run[:-9], tmp_path / "out", remote)
    assert (tmp_path / "out" / "weights").read_bytes() == b"\0\1"
    assert new.runs() == [parent, run], "a card is of the runs before it, too"
