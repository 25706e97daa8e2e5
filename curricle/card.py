"""The model card that goes out with an export: what the weights are, what they read, how they score, how to make them.

Everything in it comes from files of the store: the run's and its ancestors' `run.json` (what it began from, the token
ledger), `receipt.json`, `evaluations/*.parquet`, the corpora's entries, and the references of the studies that hold the
run. Nothing is estimated that was not measured, and what is not known is said to be not known. Names, licences and
words that came with data are escaped: they stay text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from curricle.store import Store, read_json
from curricle.study import Refused
from curricle.tokens.chat import OPENING

CARD = "README.md"
SHOWN = 12  # licences of a source that are named one by one
Row = dict[str, Any]


def of_run(store: Store, run: str, tokens: int | None = None, template: str | None = None) -> str:
    """The card of a run at its end, or at the evaluation point after `tokens` of its own; `template` is the chat
    template that goes out with it. Raises `Refused` where the run's file does not say what it began from."""
    stages = history(store, run)
    last, first = stages[-1], stages[0]
    entries = {s: _entry(store, stage, s) for stage in stages for s in stage["sources"]}
    references = [r for r in map(read_json, sorted((store.root / "studies").glob("*.json"))) if run in r["runs"]]
    licences = {name: licences_of(entry) for name, entry in entries.items()}
    front = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        **_licence_field(first["began_from"], licences),
        **_base_field(first["began_from"]),
        "datasets": sorted({v["hub"] for stage in stages for v in stage["sources"].values() if v.get("hub")}),
        "tags": ["curricle", "continued-pretraining" if "checkpoint" in first["began_from"] else "pretraining"],
    }
    if any(stage["kind"] == "instruct" for stage in stages):
        front["tags"].append("instruction-tuned")
    parts = [
        "---\n" + yaml.safe_dump({k: v for k, v in front.items() if v}, sort_keys=False, allow_unicode=True) + "---",
        f"# {last['stage']} ({run}, seed {last['seed']})",
        _question(references),
        "## What it began from\n\n" + _beginning(stages),
        "## What it was trained on\n\n" + _ledger(stages, tokens),
        "## Licences of the sources\n\n" + _licences(licences),
        "## Scores\n\n" + _scores(store, stages, tokens),
        "## What was decontaminated\n\n" + _removed(entries),
        "## How it was trained\n\n" + _recipes(stages) + "\n\n" + _receipt(store, run),
        "## How to make it again\n\n" + _again(references, last),
        "## How to use it\n\n" + _use(last, template),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def of_conversion(name: str, licence: str | None) -> str:
    """The card of a checkpoint that was only converted: it claims nothing but that."""
    front = {"library_name": "transformers", "license": licence.lower() if licence else None, "tags": ["curricle"]}
    stated = f"stated licence: {cell(licence)}" if licence else "it states no licence"
    return (
        "---\n" + yaml.safe_dump({k: v for k, v in front.items() if v}, sort_keys=False) + "---\n\n"
        f"# {cell(name)}\n\nThe weights and tokenizer of `{cell(name)}` ({stated}), converted by Curricle into the "
        "Hugging Face format and not trained here. Weights that were quantised stay as coarse as they were.\n"
    )


def history(store: Store, run: str) -> list[Row]:
    """The run's file and those of the runs it began from, first to last; those that were cleaned away are missing."""
    found: list[Row] = []
    here: str | None = run
    while here is not None and (file := store.run_folder(here) / "run.json").exists():
        described = read_json(file)
        if "began_from" not in described:
            raise Refused(f"{here}: made before runs kept what they began from; train it again for a card")
        found.insert(0, described)
        here = described["began_from"].get("run")
    if not found:
        raise Refused(f"{run}: no such run in {store.root}")
    return found


def licences_of(entry: Mapping[str, Any] | None) -> dict[str, int | None]:
    """Licences of a source → documents under each, None where they were not counted; empty where none is known."""
    if entry is None:
        return {}
    details = entry["details"]
    if counted := details.get("documents_by_licence"):
        return dict(counted)
    if entry["kind"] in ("generated", "procedural"):
        return {"generated here": None}
    stated = [details["licence"]] if details.get("licence") else sorted(set(details.get("licences", {}).values()))
    return dict.fromkeys(stated)


def cell(value: object) -> str:
    """Text that came from elsewhere, as text in a line or a cell of a table."""
    text = " ".join(str(value).split())
    for char, safe in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("`", "'"), ("[", "\\["), ("]", "\\]")):
        text = text.replace(char, safe)
    return text


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _question(references: Sequence[Row]) -> str:
    asked = dict.fromkeys(r["question"] for r in references if r.get("question"))
    return "\n\n".join(f"Trained by Curricle to answer: *{cell(question)}*" for question in asked)


# ---- where it came from -------------------------------------------------------------------------------------------


def _entry(store: Store, stage: Row, source: str) -> Row | None:
    """The source as it was counted: its folder, or another one of the same content."""
    folder = store.folder("corpora", stage["sources"][source]["corpus"])
    if (folder / "entry.json").exists():
        return read_json(folder / "entry.json")
    wanted = stage["identity"]["data"].get(source)
    others = (read_json(file) for file in sorted((store.root / "corpora").glob("[!.]*/entry.json")))
    return next((entry for entry in others if entry["fingerprint"] == wanted), None)


def _licence_field(began_from: Row, licences: Mapping[str, Mapping[str, Any]]) -> Row:
    """One licence where base and sources all state the same; otherwise that is the publisher's to decide."""
    known = {name for found in licences.values() for name in found if name != "generated here"}
    complete = all(licences.values())
    if "checkpoint" in began_from:
        complete = complete and bool(began_from["licence"])
        known.add(str(began_from["licence"]))
    if complete and len({name.lower() for name in known}) == 1:
        return {"license": known.pop().lower()}
    return {"license": "other", "license_name": "see-the-sources"}


def _base_field(began_from: Row) -> Row:
    name = began_from.get("checkpoint")
    # Only a hub id means something to others: it names its commit, where a folder names a place on a machine.
    return {"base_model": name} if name and "@" in began_from["fingerprint"] else {}


def _beginning(stages: Sequence[Row]) -> str:
    began = stages[0]["began_from"]
    if "run" in began:
        return f"The run `{began['run']}`, which is no longer in the store, nor is what it began from."
    if "preset" in began:
        return f"Fresh weights of the preset `{began['preset']}`, drawn with seed {stages[0]['seed']}."
    name = began["checkpoint"] if "@" in began["fingerprint"] else Path(began["checkpoint"]).name
    told = {True: "had been decayed", False: "had not been decayed", None: "may have been decayed: it was not stated"}
    revision = f", revision `{cell(began['revision'])}`" if began["revision"] else ""
    decays = any(stage["identity"]["recipe"].get("schedule") != "constant" for stage in stages)
    part = " The stages below decay theirs: part of any gain over it may be what a decay alone would have given."
    return (
        f"The checkpoint `{cell(name)}`{revision} (content `{began['fingerprint']}`; licence: "
        f"{cell(began['licence']) if began['licence'] else 'not stated'}). Its learning rate {told[began['decayed']]}."
        + (part if decays and began["decayed"] is not True else "")
    )


def _ledger(stages: Sequence[Row], tokens: int | None) -> str:
    rows = []
    for stage in stages:
        total = sum(source["tokens"] for source in stage["sources"].values())
        for name, source in sorted(stage["sources"].items(), key=lambda pair: -pair[1]["tokens"]):
            epochs = "endless" if source["epochs"] is None else f"{source['epochs']:.2f}"
            share = f"{100 * source['tokens'] / total:.1f} %"
            rows.append([cell(stage["stage"]), stage["kind"], cell(name), f"{source['tokens']:,}", share, epochs])
    total = sum(source["tokens"] for stage in stages for source in stage["sources"].values())
    padded = [
        f" Of the tokens of {cell(name)} in {cell(stage['stage'])} {100 * source['padding']:.1f} % are padding, since "
        f"every conversation lies whole in a row."
        for stage in stages for name, source in stage["sources"].items() if source.get("padding")
    ]  # fmt: skip
    table = _table(["stage", "kind", "source", "tokens", "share", "epochs"], rows)
    if tokens is not None:
        table += f"\n\nThese weights were taken after {tokens:,} tokens of the last stage, before its end."
    return table + (
        f"\n\n{total:,} tokens in all. Epochs count the passes over a source by the stage's end, earlier stages "
        "included. In a stage of the kind instruct the loss is on the answers only." + "".join(padded)
    )


def _licences(licences: Mapping[str, Mapping[str, int | None]]) -> str:
    rows = []
    for name, found in sorted(licences.items()):
        counted = sorted(found.items(), key=lambda pair: -(pair[1] or 0))
        told = [f"{cell(licence)} ({n:,} documents)" if n else cell(licence) for licence, n in counted]
        more = [f"and {len(told) - SHOWN} more"] if len(told) > SHOWN else []
        rows.append([cell(name), "; ".join([*told[:SHOWN], *more]) or "not known"])
    return _table(["source", "licence"], rows)


# ---- what it can --------------------------------------------------------------------------------------------------


def _scores(store: Store, stages: Sequence[Row], tokens: int | None) -> str:
    run = stages[-1]["run"]
    first = store.run_folder(stages[0]["run"])
    files = sorted((store.run_folder(run) / "evaluations").glob("*.parquet"))
    at = tokens if tokens is not None else max((int(file.name[:12]) for file in files), default=0)
    rows = []
    for file in files:
        if int(file.name[:12]) != at:
            continue
        name, kind, scored = _scored(file)
        # The same question to the model as it came, where that was asked: the first stage after 0 tokens.
        untrained = first / "evaluations" / f"{0:012d}{file.name[12:]}"
        before = dict(_scored(untrained)[2]) if untrained.exists() else {}
        for measure, (told, n) in scored:
            was = before.get(measure, ("–", 0))[0]
            rows.append([cell(name), kind, measure, told, was, f"{n:,}"])
    if not rows:
        return "Not measured."
    return _table(["on", "kind", "measure", "score", "before any training here", "n"], rows) + (
        "\n\nWith 95 % intervals over problems or documents for these very weights (Wilson's for accuracy; the "
        "linearised ratio's for bits per byte): another training run may differ by more. Bits per byte of problems are "
        "those of the reference solutions; of sources, of held-out text that was never trained on; lower is better."
    )


def _scored(file: Path) -> tuple[str, str, list[tuple[str, tuple[str, int]]]]:
    """Name, kind, and for each measure the score with its interval and n."""
    import numpy as np

    from curricle.analysis.statistics.intervals import bits_per_byte, student, wilson
    from curricle.results import read_table

    columns = read_table(file, ["benchmark", "kind", "nats", "bytes", "correct"]).to_pydict()
    found: list[tuple[str, tuple[str, int]]] = []
    verdicts = [v for v in columns["correct"] if v is not None]
    if verdicts:
        p, n = sum(verdicts) / len(verdicts), len(verdicts)
        interval = wilson(p, n)
        assert interval.low is not None and interval.high is not None
        found.append(("accuracy", (f"{100 * p:.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f})", n)))
    sizes = np.asarray(columns["bytes"], float)
    if n := len(sizes):
        bits = bits_per_byte(np.asarray([columns["nats"]], float), sizes)[0]
        told = f"{bits.mean():.3f}"
        if n > 1:
            half = float(student(n - 1, 0.95)) * float(bits.std(ddof=1)) / math.sqrt(n)
            told += f" ({bits.mean() - half:.3f} to {bits.mean() + half:.3f})"
        found.append(("bits per byte", (told, n)))
    return columns["benchmark"][0] if n else file.stem, columns["kind"][0] if n else "", found


def _removed(entries: Mapping[str, Row | None]) -> str:
    rows = []
    for name, entry in sorted(entries.items()):
        if entry is None:
            rows.append([cell(name), "not known: its entry is no longer in the store"])
        elif entry["kind"] == "generated":
            rows.append([cell(name), "held-out problems are never generated for training"])
        elif entry["details"].get("contamination") == "none":
            rows.append([cell(name), "compared with no benchmark"])
        else:
            told = [f"{n:,} documents that overlap {cell(what)}" for what, n in entry["removed"].items()]
            rows.append([cell(name), "; ".join(told) or "compared, none removed"])
    return _table(["source", "removed"], rows)


# ---- how it was made ----------------------------------------------------------------------------------------------


def _recipes(stages: Sequence[Row]) -> str:
    fields = list(dict.fromkeys(field for stage in stages for field in stage["identity"]["recipe"]))
    kept = [stage["identity"]["recipe"] for stage in stages]
    rows = [[field, *("–" if (v := recipe.get(field)) is None else v for recipe in kept)] for field in fields]
    rows.append(["seed", *(stage["seed"] for stage in stages)])
    return _table(["recipe", *(cell(stage["stage"]) for stage in stages)], rows)


def _receipt(store: Store, run: str) -> str:
    file = store.run_folder(run) / "receipt.json"
    sessions = read_json(file)["sessions"] if file.exists() else []
    if not sessions:
        return ""
    told = ", ".join(f"{name} {cell(value)}" for name, value in sessions[-1].items() if name != "began")
    made = f"Made in {len(sessions)} session{'s' * (len(sessions) > 1)}, the last with {told}."
    adopted = read_json(file.with_name("run.json")).get("adopted")
    if adopted is None:
        return made
    before = [session for session in sessions if "adopted_from" in session]
    where = [(s["cpu"] if s["device"] == "cpu" else s["device"], s["torch"]) for s in before]
    machines = "; ".join(dict.fromkeys(f"{cell(device)} with torch {cell(torch)}" for device, torch in where))
    return made + (
        f" The first {adopted['tokens']:,} tokens were not trained for it: they are those of the run "
        f"`{adopted['run']}`, made on {machines or 'a machine that is not known'}."
    )


def _use(last: Row, template: str | None) -> str:
    """How to load it and, where it was tuned to answer, to ask it as it was trained to be asked."""
    code = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        'model = AutoModelForCausalLM.from_pretrained("THIS FOLDER")\n'
        'tokenizer = AutoTokenizer.from_pretrained("THIS FOLDER")\n'
    )
    before = "In training every document began with the token that ended the one before it, `tokenizer.eos_token`"
    rows = f"Rows held {last['identity']['context']:,} tokens."
    if last["kind"] != "instruct" or template is None:
        return f"```python\n{code}```\n\n{before}; a prompt is best opened with it. {rows}"
    code += (
        'messages = [{"role": "user", "content": "What is 6 times 7?"}]\n'
        "asked = tokenizer.apply_chat_template(\n"
        '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"\n)\n'
        "answer = model.generate(**asked, max_new_tokens=200)\n"
        'print(tokenizer.decode(answer[0, asked["input_ids"].shape[1] :], skip_special_tokens=True))\n'
    )
    said = (
        "; the chat template writes it. Text that it rendered is tokenised with `add_special_tokens=False`, as "
        "`apply_chat_template` does."
        if template.startswith(OPENING)
        else ". The chat template does not write it: put it in front of what "
        "`apply_chat_template` renders to ask exactly as in training."
    )
    return f"```python\n{code}```\n\n{before}{said} {rows}"


def _again(references: Sequence[Row], last: Row) -> str:
    if not references:
        return f"The run's identity is `{last['run']}`; no study in the store refers to it any more."
    reference = references[-1]
    seeds = ", ".join(map(str, reference.get("seeds", [])))
    return (
        f"Write this as `{cell(reference['study'])}.yaml` beside its data (relative paths start from the file), then "
        f"`curricle run {cell(reference['study'])}.yaml`: with the same data the run has the same name, "
        f"`{last['run']}`. The study runs the seeds {seeds}; this is seed {last['seed']}. Bit for bit holds on the "
        f"same versions and CPU features.\n\n```yaml\n{reference.get('study_yaml', '').replace('```', '')}```"
    )
