"""The store, looked at and kept in order: what is there, what it is, who needs it, what nobody needs.

A study that is run leaves a reference in `studies/`: its runs, its folders, and where its results went. What no
reference names can go; nothing goes unless it is asked for.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from curricle.planning import Plan
from curricle.running.preparation import Prepared
from curricle.running.recall import noted
from curricle.store import Store, fingerprint, is_complete, locked, read_json, size_of, write_json
from curricle.study import Refused
from curricle.studyfile import load_study
from curricle.training import metrics

DAY = 24 * 3600  # seconds


def identities(store: Store) -> dict[str, Mapping[str, Any]]:
    """What every run in the store is: run → identity."""
    return {run: read_json(store.run_folder(run) / "run.json")["identity"] for run in store.runs()}


def listing(store: Store) -> list[dict[str, Any]]:
    """Every run in the store: its name, seed, tokens, whether it is complete or has diverged, and the
    studies that refer to it."""
    referring: dict[str, list[str]] = {}
    for reference in _references(store):
        for name in reference["runs"]:
            referring.setdefault(name, []).append(reference["study"])
    found = []
    for run in store.runs():
        folder = store.run_folder(run)
        identity = read_json(folder / "run.json")["identity"]
        complete = is_complete(folder / "model")
        found.append(
            {
                "run": run,
                "seed": identity["seed"],
                "tokens": identity["budget_tokens"],
                "complete": complete,
                "diverged": not complete and metrics.diverged(folder) is not None,
                "studies": sorted(referring.get(run, [])),
            }
        )
    return found


def run_named(store: Store, name: str) -> str | None:
    """The run that a name means, which may be shortened; None where no run begins so."""
    found = [run for run in store.runs() if run.startswith(name)]
    if len(found) > 1 and name not in found:
        raise Refused(f"{name}: several runs begin so: {', '.join(found[:5])}")
    return name if name in found else next(iter(found), None)


def described(store: Store, name: str) -> Mapping[str, Any]:
    """A run's identity, or a study's fields, as plain values to compare. A run may be shortened."""
    run = run_named(store, name) if "/" in name else None
    return identities(store)[run] if run else load_study(name).model_dump(mode="json")


def remembered(store: Store, run: str) -> dict[str, Any] | None:
    """The newest reference that says what this run was, whether or not its study's folder is still there."""
    files = sorted((store.root / "studies").glob("*.json"), key=lambda file: file.stat().st_mtime, reverse=True)
    return next((found for file in files if run in (found := read_json(file)).get("nodes", {})), None)


def remember(plan: Plan, prepared: Prepared, out: Path, remote: str | None = None) -> None:
    """Note in the store what this study needs of it, so that `clean` leaves it alone while `out` exists, what its runs
    were, so that `explain` can go back to them, and the URL of the `remote` store that holds their weights."""
    used = [*prepared.corpora.values(), *prepared.kept, *prepared.shards.values()]
    used += [prepared.stream(name, 0).parent for name, entry in prepared.entries.items() if entry.endless]
    if isinstance(prepared.tokenizer, Path):
        used.append(prepared.tokenizer)
    root = prepared.store.root.resolve()
    out.mkdir(parents=True, exist_ok=True)
    reference = {
        "study": plan.study.name,
        "question": plan.study.question,
        "seeds": list(plan.study.seeds),
        "study_yaml": plan.study.to_yaml(),
        "out": str(out.resolve()),
        "remote": remote,
        "runs": list(plan.nodes),
        "folders": sorted(str(f.resolve().relative_to(root)) for f in used if f.resolve().is_relative_to(root)),
        **noted(plan, prepared),
    }
    name = f"{plan.study.name}-{fingerprint(reference['out'])}.json"
    write_json(prepared.store.root / "studies" / name, reference)


def _references(store: Store) -> list[dict[str, Any]]:
    """What studies need, those whose folder is gone left out."""
    found = [read_json(file) for file in sorted((store.root / "studies").glob("*.json"))]
    return [reference for reference in found if Path(reference["out"]).is_dir()]


def unused(store: Store) -> dict[str, int]:
    """What no study refers to: path in the store → bytes. What was made today stays: a study that was planned and not
    run yet will want it."""
    references = _references(store)
    kept = {f"runs/{run}" for reference in references for run in reference["runs"]}
    kept |= {folder for reference in references for folder in reference["folders"]}
    present = [f"runs/{run}" for run in store.runs()]
    for kind in ("corpora", "tokens", "tokenizers"):
        made = sorted((store.root / kind).glob("[!.]*"))
        present += [f"{kind}/{f.name}" for f in made if f.stat().st_mtime < time.time() - DAY]
    # What a killed process left half written; an hour is more than any write takes without being noticed.
    old = time.time() - 3600
    for kind in ("corpora", "tokens", "tokenizers", "states", "digests", "studies", "calibration"):
        left = sorted((store.root / kind).glob(".*.tmp"))
        present += [f"{kind}/{f.name}" for f in left if f.stat().st_mtime < old]
    return {name: size_of(store.root / name) for name in present if name not in kept}


def remove(store: Store, names: list[str]) -> None:
    """Remove folders and files of the store; a run that is being worked on is refused."""
    for name in names:
        if (store.root / name).is_file():
            (store.root / name).unlink(missing_ok=True)
            continue
        with locked(store.root / name, name) if name.startswith("runs/") else nullcontext():
            shutil.rmtree(store.root / name)


def receipts(store: Store, plan: Plan) -> dict[str, str]:
    """Where the plan's runs were made: for each property the values that occur, so that a mixture is seen."""
    found: dict[str, dict[str, None]] = {}
    for run in plan.nodes:
        file = store.run_folder(run) / "receipt.json"
        for session in read_json(file)["sessions"] if file.exists() else []:
            for name, value in session.items():
                found.setdefault(name, {})[str(value)] = None
        described = store.run_folder(run) / "run.json"
        began = read_json(described).get("began_from", {}) if described.exists() else {}
        if "checkpoint" in began:
            told = {True: "decayed", False: "not decayed", None: "decayed or not: not stated"}[began["decayed"]]
            name = f"{began['checkpoint']} ({began['fingerprint']}; its learning rate: {told})"
            found.setdefault("checkpoint", {})[name] = None
    spans = {name: sorted(values) for name, values in found.items()}
    return {n: f"{v[0]} to {v[-1]}" if n == "began" and len(v) > 1 else ", ".join(v) for n, v in spans.items()}
