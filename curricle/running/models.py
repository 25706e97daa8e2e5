"""A model by its name, a run's or a checkpoint's: where its weights lie, and its way out of the store."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from curricle.remote import Remote
from curricle.running import transfer
from curricle.running.upkeep import remembered, run_named
from curricle.store import COMPLETE, Store, is_complete, read_json, whole_folder
from curricle.study import Refused
from curricle.training import metrics
from curricle.training.guard import DIVERGED

HUB_SECONDS = 5.0  # that the hub has to say whether it has a checkpoint


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
    return metrics.tokens(store.run_folder(run)), read_json(store.run_folder(run) / "run.json")["identity"][
        "budget_tokens"
    ]


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
