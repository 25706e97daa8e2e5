"""The store, looked at and kept in order: what is there, what it is, who needs it, what nobody needs.

A study that is run leaves a reference in `studies/`: its runs, its folders, and where its results went. What no
reference names can go; nothing goes unless it is asked for.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from curricle.planning import Plan
from curricle.remote import Remote
from curricle.running import transfer
from curricle.running.preparation import Prepared
from curricle.running.recall import noted
from curricle.store import COMPLETE, Store, fingerprint, is_complete, locked, read_json, whole_folder, write_json
from curricle.study import Refused
from curricle.studyfile import load_study
from curricle.training import metrics
from curricle.training.guard import DIVERGED

DAY = 24 * 3600  # seconds
HUB_SECONDS = 5.0  # that the hub has to say whether it has a checkpoint


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


def model_of(store: Store, name: str, remote: Remote | None = None) -> Path | str:
    """Where a model lies that may be named as a run (also shortened), a folder, a .gguf file or a hub id. Weights of a
    run that are not here are fetched from a `remote` store."""
    if Path(name).expanduser().exists():
        return name
    if remote is not None:
        _fetch(remote, store, name)
    runs = [run for run in store.runs() if run.startswith(name) and is_complete(store.run_folder(run) / "model")]
    if len(runs) > 1:
        raise Refused(f"{name}: several runs begin so: {', '.join(runs[:5])}")
    if runs:
        return store.run_folder(runs[0]) / "model"
    if (begun := run_named(store, name)) is not None:
        raise Refused(f"{begun}: {_where_its_weights_are(store, begun)}")
    if name.count("/") != 1:
        raise Refused(f"{name}: no such folder or file, no run in {store.root}, and not a hub id such as org/name")
    _refuse_no_checkpoint(store, name)
    return name


def _refuse_no_checkpoint(store: Store, name: str) -> None:
    """Refuse what is not a run here unless the hub has it, before the library that would ask it for minutes is loaded.
    What looks like a run's name is a mistyped one, and nobody is asked."""
    stage, _, rest = name.partition("/")
    no_run = f"no run {name!r} in {store.root} (see `curricle list`)"
    if re.fullmatch("[0-9a-f]{3,16}", rest) or (store.root / "runs" / stage).is_dir():
        raise Refused(no_run)
    from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    try:
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return
        if constants.HF_HUB_OFFLINE:
            raise Refused(f"{no_run}, nor in the hub's cache on this machine, and HF_HUB_OFFLINE is set")
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=HUB_SECONDS)
    except errors.HFValidationError:
        raise Refused(f"{no_run}, and it cannot be a hub id such as org/name") from None
    except errors.GatedRepoError:
        raise Refused(f"{no_run}, and the hub gives that checkpoint to members only: hf auth login") from None
    except (errors.RepositoryNotFoundError, errors.EntryNotFoundError):
        raise Refused(f"{no_run}, and the hub has no checkpoint of that name") from None
    except (OSError, errors.HTTPError):
        raise Refused(f"{no_run}, and no hub checkpoint could be reached") from None


def _fetch(remote: Remote, store: Store, name: str) -> None:
    """The weights of the run that a name means in a remote store, and what a card says of it. Nothing where they are
    here already."""
    runs = transfer.runs_named(remote, name)
    if len(runs) != 1:
        several = f"several runs begin so: {', '.join(runs[:5])}" if runs else "no such run there"
        raise Refused(f"--remote {remote.url}: {name}: {several}")
    if not transfer.pull_model(remote, store, runs[0]):
        raise Refused(f"--remote {remote.url}: {runs[0]}: not complete there; run its study to go on")


def _where_its_weights_are(store: Store, run: str) -> str:
    """Of a run without weights here: what it has come to, and where they are."""
    tokens, whole = _tokens(store, run)
    url = (remembered(store, run) or {}).get("remote")
    if url is not None and tokens == whole:
        return f"its weights are at {url}; fetch them with  curricle export {run} DIR --remote {url}"
    if (said := metrics.diverged(store.run_folder(run))) is not None:
        return f"{DIVERGED}: {said}; to train it on, run its study with --again {run}"
    return f"not complete ({tokens:,} of {whole:,} tokens); run its study to go on"


def _tokens(store: Store, run: str) -> tuple[int, int]:
    """How far a run that has begun has come, and its budget."""
    lines = metrics.read(store.run_folder(run))
    reached = max((line.get("tokens", 0) for line in lines), default=0)
    return reached, read_json(store.run_folder(run) / "run.json")["identity"]["budget_tokens"]


def remembered(store: Store, run: str) -> dict[str, Any] | None:
    """The newest reference that says what this run was, whether or not its study's folder is still there."""
    files = sorted((store.root / "studies").glob("*.json"), key=lambda file: file.stat().st_mtime, reverse=True)
    return next((found for file in files if run in (found := read_json(file)).get("nodes", {})), None)


def export(store: Store, name: str, folder: Path, remote: Remote | None = None) -> None:
    """Hand a model out: weights, tokenizer and a model card in the Hugging Face format, whole or not at all. `name` and
    `remote` are what `model_of` takes; what is no run of the store is converted. Raises `Refused` unless `folder` is
    new or empty."""
    from curricle import card

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Refused(f"{folder}: is there already, and not an empty folder; name another")
    place = model_of(store, name, remote)
    run, tokens = _place_in(store, place)
    if run is not None:
        template = Path(place) / "chat_template.jinja"
        text = card.of_run(store, run, tokens, template.read_text("utf-8") if template.exists() else None)
        with whole_folder(folder) as temporary:
            for file in Path(place).iterdir():
                if file.suffix == ".safetensors":
                    _refuse_damaged(file)
                if file.name != COMPLETE:
                    shutil.copyfile(file, temporary / file.name)
            (temporary / card.CARD).write_text(text, encoding="utf-8")
    else:
        from curricle.training import model as models
        from curricle.training.origin import card_licence, gguf_licence

        file = Path(place).expanduser()
        loaded, tokenizer = models.load(place)
        licence = gguf_licence(file) if file.suffix == ".gguf" else card_licence(file)
        shown = str(place) if not file.exists() else file.name
        models.export(loaded, tokenizer, folder, {card.CARD: card.of_conversion(shown, licence)})
    (folder / COMPLETE).unlink()  # the store's own mark: outside of it a folder is judged by what it holds


def _refuse_damaged(file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), "pt") as weights:
            weights.keys()
    except (SafetensorError, OSError) as error:
        raise Refused(f"{file}: damaged ({error}); remove the run's folder and run its study again") from None


def _place_in(store: Store, place: Path | str) -> tuple[str | None, int | None]:
    """The run whose weights lie there, and after how many tokens unless it is the end; None for what is no run's."""
    runs = (store.root / "runs").resolve()
    path = Path(place).resolve()
    if not path.is_relative_to(runs):
        return None, None
    parts = path.relative_to(runs).parts
    if len(parts) == 3 and parts[2] == "model":
        return "/".join(parts[:2]), None
    if len(parts) == 4 and parts[2] == "points" and parts[3].isdigit():
        return "/".join(parts[:2]), int(parts[3])
    return None, None


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
    sizes = {}
    for name in present:
        if name not in kept:
            place = store.root / name
            files = [place] if place.is_file() else [f for f in place.rglob("*") if f.is_file()]
            sizes[name] = sum(f.stat().st_size for f in files)
    return sizes


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
