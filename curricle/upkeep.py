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
from curricle.preparation import Prepared
from curricle.store import Store, fingerprint, is_complete, locked, read_json, write_json
from curricle.study import Refused
from curricle.studyfile import load_study


def identities(store: Store) -> dict[str, Mapping[str, Any]]:
    """What every run in the store is: run → identity."""
    return {run: read_json(store.run_folder(run) / "run.json")["identity"] for run in store.runs()}


def listing(store: Store) -> list[dict[str, Any]]:
    """Every run in the store: its name, seed, tokens, whether it is complete, and the studies that refer to it."""
    referring: dict[str, list[str]] = {}
    for reference in _references(store):
        for name in reference["runs"]:
            referring.setdefault(name, []).append(reference["study"])
    found = []
    for run in store.runs():
        folder = store.run_folder(run)
        identity = read_json(folder / "run.json")["identity"]
        found.append(
            {
                "run": run,
                "seed": identity["seed"],
                "tokens": identity["budget_tokens"],
                "complete": is_complete(folder / "model"),
                "studies": sorted(referring.get(run, [])),
            }
        )
    return found


def described(store: Store, name: str) -> Mapping[str, Any]:
    """A run's identity, or a study's fields, as plain values to compare. A run may be shortened."""
    runs = [run for run in store.runs() if run.startswith(name)] if "/" in name else []
    if len(runs) > 1:
        raise Refused(f"{name}: several runs begin so: {', '.join(runs[:5])}")
    if runs:
        return identities(store)[runs[0]]
    return load_study(name).model_dump(mode="json")


def model_of(store: Store, name: str) -> Path | str:
    """Where a model lies that may be named as a run (also shortened), a folder, a .gguf file or a hub id."""
    runs = [run for run in store.runs() if run.startswith(name) and is_complete(store.run_folder(run) / "model")]
    if runs and not Path(name).exists():
        if len(runs) > 1:
            raise Refused(f"{name}: several runs begin so: {', '.join(runs[:5])}")
        return store.run_folder(runs[0]) / "model"
    if not Path(name).expanduser().exists() and name.count("/") != 1:
        raise Refused(f"{name}: no such folder or file, no run in {store.root}, and not a hub id such as org/name")
    return name


def remember(plan: Plan, prepared: Prepared, out: Path) -> None:
    """Note in the store what this study needs of it, so that `clean` leaves it alone while `out` exists."""
    used = [*prepared.corpora.values(), *prepared.kept, *prepared.shards.values()]
    used += [prepared.stream(name, 0).parent for name, entry in prepared.entries.items() if entry.endless]
    if isinstance(prepared.tokenizer, Path):
        used.append(prepared.tokenizer)
    root = prepared.store.root.resolve()
    out.mkdir(parents=True, exist_ok=True)
    reference = {
        "study": plan.study.name,
        "out": str(out.resolve()),
        "runs": list(plan.nodes),
        "folders": sorted(str(f.resolve().relative_to(root)) for f in used if f.resolve().is_relative_to(root)),
    }
    name = f"{plan.study.name}-{fingerprint(reference['out'])}.json"
    write_json(prepared.store.root / "studies" / name, reference)


def _references(store: Store) -> list[dict[str, Any]]:
    """What studies need, those whose folder is gone left out."""
    found = [read_json(file) for file in sorted((store.root / "studies").glob("*.json"))]
    return [reference for reference in found if Path(reference["out"]).is_dir()]


def unused(store: Store) -> dict[str, int]:
    """What no study refers to: path in the store → bytes."""
    references = _references(store)
    kept = {f"runs/{run}" for reference in references for run in reference["runs"]}
    kept |= {folder for reference in references for folder in reference["folders"]}
    present = [f"runs/{run}" for run in store.runs()]
    for kind in ("corpora", "tokens", "tokenizers"):
        present += [f"{kind}/{f.name}" for f in sorted((store.root / kind).glob("[!.]*"))]
        # What a killed process left half written; an hour is more than any write takes without being noticed.
        old = time.time() - 3600
        present += [f"{kind}/{f.name}" for f in (store.root / kind).glob(".*.tmp") if f.stat().st_mtime < old]
    sizes = {}
    for name in present:
        if name not in kept:
            sizes[name] = sum(f.stat().st_size for f in (store.root / name).rglob("*") if f.is_file())
    return sizes


def remove(store: Store, names: list[str]) -> None:
    """Remove folders of the store; a run that is being worked on is refused."""
    for name in names:
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
    spans = {name: sorted(values) for name, values in found.items()}
    return {n: f"{v[0]} to {v[-1]}" if n == "began" and len(v) > 1 else ", ".join(v) for n, v in spans.items()}
