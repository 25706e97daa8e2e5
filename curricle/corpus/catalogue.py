"""What a source holds, counted once: its documents split, cleaned of test text, written down and fingerprinted.

`build` reads a source as a stream and leaves a folder that exists whole or not at all: `train.jsonl.zst`,
`held_out.jsonl.zst`, `removed.jsonl` (what was taken out, with the evidence) and `entry.json`. Held-out text is taken
in whole groups, in an order that hashes decide, so the split depends on nothing but the groups. Memory holds the
groups' sizes, never the corpus. `key` names the folder: it changes when the inputs do. The fingerprints of an `Entry`
cover content only, never a path or a date.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any, Self

from curricle.corpus import files, hub, installed, problems, procedural
from curricle.corpus.counterfactual import COUNTERFACTUAL_VERSION, counterfactual
from curricle.corpus.decontamination import Contamination
from curricle.corpus.documents import SHOWN, Document, Resolve, Tally
from curricle.corpus.parts import Part, Removed, digest, read_documents, size
from curricle.store import fingerprint, is_complete, read_json, whole_folder, write_json
from curricle.study import Counterfactual, Declared, Files, Generated, Hub, Installed, Procedural, Refused, Source

CATALOGUE_VERSION = 3  # raised by hand when what is written changes
HELD_OUT_PROBLEMS = 400
LICENCES = 100  # that are counted apart; a field that says something else in every row fills no entry
COPIES = "held-out text"  # documents that repeat a held-out one word for word are removed under this name
COPIES_OF = "held-out text of {source}"
ORIGINAL = "original"  # in a transformed document's meta: the digest of what it was made from
DOCUMENTS, SPOOL = "{part}.jsonl.zst", "spool"

Watch = Callable[[Iterable[Document]], Iterable[Document]]


@dataclass(frozen=True, slots=True)
class Entry:
    """A source as counted. Counts without a prefix are of the training documents."""

    name: str
    kind: str
    documents: int = 0
    bytes: int = 0
    fingerprint: str = ""
    held_out_documents: int = 0
    held_out_bytes: int = 0
    held_out_fingerprint: str = ""
    groups: int = 0
    """Groups of training and held-out text together."""
    split_by: str = "group"
    """`group`; `document`, where there is only one group; `problem`, for generated ones."""
    removed: dict[str, int] = field(default_factory=dict)
    """Documents removed, by the benchmark they overlapped."""
    removed_examples: tuple[dict[str, str], ...] = ()
    bad_lines: int = 0
    bad_examples: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    """Licences, versions, and what it was compared with; `documents_by_licence` where rows state theirs."""
    endless: bool = False
    """Training documents are generated as they are wanted, and not counted here."""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Self:
        lists = {name: tuple(value.get(name, ())) for name in ("removed_examples", "bad_examples")}
        return cls(**{**value, **lists})


def kind_of(source: Source) -> str:
    return type(source).__name__.lower()


def key(name: str, source: Source, *, resolve: Resolve, contamination_key: str, held_out_share: float) -> str:
    """The name of the folder that holds the source's catalogue entry; it changes when the inputs change."""
    identity = {
        "version": CATALOGUE_VERSION,
        "name": name,
        "kind": kind_of(source),
        "source": _stated(source),
        "inputs": _inputs(name, source, resolve),
        "contamination": contamination_key,
        "held_out_share": held_out_share,
    }
    return f"{name.replace(' ', '_')}-{fingerprint(identity)}"


def _stated(source: Source) -> dict[str, Any]:
    """What the study says of a source. Where it holds no conversations, how they are laid out is no part of it."""
    plain = isinstance(source, Files | Hub) and not source.conversation
    return source.model_dump(exclude={"messages", "template"} if plain else None)


def _inputs(name: str, source: Source, resolve: Resolve) -> object:
    """What the source reads, as cheaply as it can be told apart: names, sizes and dates of files, versions."""
    if isinstance(source, Files):
        return [[n, f.stat().st_size, f.stat().st_mtime_ns] for n, f in files.find_files(source, name, resolve).items()]
    if isinstance(source, Installed):
        python = installed.versions(Installed(installed=source.installed), name)  # it decides what parses
        return {**installed.versions(source, name), **python}
    if isinstance(source, Generated):
        problems.known(source.generated, f"sources.{name}.generated")
        return problems.identity(source.generated)
    if isinstance(source, Procedural):
        procedural.known(source.procedural, f"sources.{name}.procedural")
        return procedural.PROCEDURAL_VERSION
    if isinstance(source, Hub) and (folder := resolve(source.hub)).is_dir():
        found = sorted(f for f in folder.rglob("*") if f.is_file())
        return [[f.relative_to(folder).as_posix(), f.stat().st_size, f.stat().st_mtime_ns] for f in found]
    return None


def build(
    name: str,
    source: Source,
    folder: Path,
    *,
    resolve: Resolve,
    contamination: Contamination | None,
    contamination_key: str,
    held_out_share: float,
    watch: Watch = lambda documents: documents,
) -> Entry:
    """Read the source once and write its folder; where the folder is complete, only its entry is read."""
    if is_complete(folder):
        return load(folder)
    with whole_folder(folder) as temporary:
        if isinstance(source, Declared):
            entry = Entry(name, "declared", details={"tokens": source.declared, "reference": source.reference})
        elif isinstance(source, Generated):
            entry = _generated(name, source, temporary)
        else:
            tally = Tally(f"sources.{name}.{kind_of(source)}", getattr(source, "max_bad_share", hub.MAX_BAD_SHARE))
            found = watch(_read(name, source, resolve, tally))
            entry = _split(name, kind_of(source), found, temporary, contamination, held_out_share)
            entry = dataclasses.replace(
                entry,
                bad_lines=tally.bad,
                bad_examples=tuple(tally.examples),
                details={**_details(name, source), **entry.details},
            )
        entry = dataclasses.replace(entry, details={**entry.details, "contamination": contamination_key})
        write_json(temporary / "entry.json", entry.to_dict())
    return entry


def derived_key(name: str, source: Counterfactual, original: Entry, *, contamination_key: str) -> str:
    """The name of a transformed source's folder: the transformation, and the content that it is applied to."""
    identity = {
        "version": [CATALOGUE_VERSION, COUNTERFACTUAL_VERSION],
        "name": name,
        "take": source.take,
        "original": [original.fingerprint, original.held_out_fingerprint],
        "contamination": contamination_key,
    }
    return f"{name.replace(' ', '_')}-{fingerprint(identity)}"


def derive(
    name: str,
    source: Counterfactual,
    original: Path,
    folder: Path,
    *,
    contamination: Contamination | None,
    contamination_key: str,
    watch: Watch = lambda documents: documents,
) -> Entry:
    """Transform the documents of a built entry, `original`: what it trains on is trained on, what it holds out is held
    out. Documents of which nothing is left are left out."""
    if is_complete(folder):
        return load(folder)
    of = load(original)
    with whole_folder(folder) as temporary:
        shutil.copyfile(original / "removed.jsonl", temporary / "removed.jsonl")
        removed = Removed(temporary / "removed.jsonl")
        train, held_out = (Part(temporary / DOCUMENTS.format(part=part)) for part in ("train", "held_out"))
        copies: set[bytes] = set()
        licences: Counter[str] = Counter()
        with removed.writing():
            with held_out.writing():
                for document in _clean(_without(source.take, name, original, "held_out"), contamination, removed):
                    held_out.add(document)
                    copies.add(digest(document.whole))
            with train.writing():
                found = watch(_without(source.take, name, original, "train"))
                _train_on(_clean(found, contamination, removed), copies, train, removed, licences)
        if not train.documents or not held_out.documents:
            part = "train on" if not train.documents else "hold out"
            raise Refused(f"sources.{name}.take: without {source.take}, nothing of {of.name} is left to {part}")
        made = {"take": source.take, "of": of.fingerprint, "contamination": contamination_key}
        entry = Entry(
            name,
            "counterfactual",
            documents=train.documents,
            bytes=train.bytes,
            fingerprint=train.fingerprint,
            held_out_documents=held_out.documents,
            held_out_bytes=held_out.bytes,
            held_out_fingerprint=held_out.fingerprint,
            groups=of.groups,
            split_by=of.split_by,
            removed=dict(sorted((Counter(of.removed) + removed.by_benchmark).items())),
            removed_examples=(*of.removed_examples, *removed.examples)[:SHOWN],
            bad_lines=of.bad_lines,
            bad_examples=of.bad_examples,
            details={**of.details, **_by_licence(licences), **made},
        )
        write_json(temporary / "entry.json", entry.to_dict())
    return entry


def _without(take: str, name: str, original: Path, part: str) -> Iterator[Document]:
    for document in documents(original, part):
        text = counterfactual(document.text, take)
        if text.strip():
            meta = {**document.meta, ORIGINAL: _said(document).hex()}
            yield dataclasses.replace(document, text=text, source=name, meta=meta)


def load(folder: Path) -> Entry:
    return Entry.from_dict(read_json(folder / "entry.json"))


def documents(folder: Path, part: str = "train") -> Iterator[Document]:
    """The documents of a built entry, `train` or `held_out`, in order."""
    return read_documents(folder / DOCUMENTS.format(part=part))


def _read(name: str, source: Source, resolve: Resolve, tally: Tally) -> Iterator[Document]:
    if isinstance(source, Files):
        return files.file_documents(source, name, resolve, tally)
    if isinstance(source, Hub):
        return hub.hub_documents(source, name, resolve, tally)
    if isinstance(source, Procedural):
        return procedural.procedural_documents(source, name)
    assert isinstance(source, Installed), source
    return installed.installed_documents(source, name)


def _details(name: str, source: Source) -> dict[str, Any]:
    if isinstance(source, Installed):
        return {"versions": installed.versions(source, name), "licences": installed.licences(source)}
    licence = getattr(source, "licence", None)
    return {"licence": licence} if licence else {}


def _generated(name: str, source: Generated, folder: Path) -> Entry:
    """No training text is written: the stream is a pure function of the specification, which stands for it."""
    problems.known(source.generated, f"sources.{name}.generated")
    held_out = Part(folder / DOCUMENTS.format(part="held_out"))
    with held_out.writing():
        for document in islice(problems.held_out_documents(source, name), HELD_OUT_PROBLEMS):
            held_out.add(document)
    identity = {"worked": source.worked, **problems.identity(source.generated)}
    return Entry(
        name,
        "generated",
        fingerprint=fingerprint(identity),
        held_out_documents=held_out.documents,
        held_out_bytes=held_out.bytes,
        held_out_fingerprint=held_out.fingerprint,
        groups=len(set(source.generated)),
        split_by="problem",
        details={"versions": problems.versions()},
        endless=True,
    )


def _split(
    name: str,
    kind: str,
    found: Iterable[Document],
    folder: Path,
    contamination: Contamination | None,
    held_out_share: float,
) -> Entry:
    """First pass: what is clean goes to a spool, and the groups are weighed. Second pass: the spool is dealt out."""
    removed, spool = Removed(folder / "removed.jsonl"), Part(folder / SPOOL)
    train, held_out = (Part(folder / DOCUMENTS.format(part=part)) for part in ("train", "held_out"))
    group_bytes: Counter[str] = Counter()
    with removed.writing():
        with spool.writing():
            for document in _clean(found, contamination, removed):
                spool.add(document)
                group_bytes[document.group] += size(document)
        if spool.documents < 2:
            lost = f", after {removed.documents:,} that overlap benchmarks" if removed.documents else ""
            raise Refused(f"sources.{name}: documents left{lost}: {spool.documents}; it needs two, one to be held out")

        by_document = len(group_bytes) == 1
        # By content, not by id: a renamed file is split as it was.
        unit = _content if by_document else attrgetter("group")
        weights: Counter[str] = Counter() if by_document else group_bytes
        for document in read_documents(spool.path) if by_document else ():
            weights[_content(document)] += size(document)
        chosen = held_out_units(weights, held_out_share)
        copies: set[bytes] = set()
        licences: Counter[str] = Counter()
        with held_out.writing():
            for document in read_documents(spool.path):
                if unit(document) in chosen:
                    held_out.add(document)
                    copies.add(digest(document.whole))
        with train.writing():
            rest = (document for document in read_documents(spool.path) if unit(document) not in chosen)
            _train_on(rest, copies, train, removed, licences)
    spool.path.unlink()
    if not train.documents:
        raise Refused(f"sources.{name}: all documents repeat the held-out ones; nothing is left to train on")
    return Entry(
        name,
        kind,
        documents=train.documents,
        bytes=train.bytes,
        fingerprint=train.fingerprint,
        held_out_documents=held_out.documents,
        held_out_bytes=held_out.bytes,
        held_out_fingerprint=held_out.fingerprint,
        groups=len(group_bytes),
        split_by="document" if by_document else "group",
        removed=dict(sorted(removed.by_benchmark.items())),
        removed_examples=tuple(removed.examples),
        details=_by_licence(licences),
    )


def _clean(found: Iterable[Document], contamination: Contamination | None, removed: Removed) -> Iterator[Document]:
    """The documents that overlap no benchmark; the others are listed."""
    for document in found:
        hits = contamination.find(document.whole) if contamination else []
        for hit in hits:
            removed.add(document, hit.benchmark, hit.evidence)
        if not hits:
            yield document


def _train_on(
    found: Iterable[Document], copies: set[bytes], train: Part, removed: Removed, licences: Counter[str]
) -> None:
    """Write down what is trained on, but for copies of what is held out."""
    for document in found:
        if digest(document.whole) in copies:
            removed.add(document, COPIES, " ".join(document.whole[:200].split()))
        else:
            train.add(document)
            licences[document.meta.get("licence", "not stated")] += 1


def _by_licence(licences: Counter[str]) -> dict[str, Any]:
    return {"documents_by_licence": _counted(licences)} if set(licences) != {"not stated"} else {}


def _counted(licences: Counter[str]) -> dict[str, int]:
    """Training documents under each licence that their rows state, the most frequent first; the rest in one line."""
    kept = {name[:100]: n for name, n in licences.most_common(LICENCES)}
    rest = licences.total() - sum(kept.values())
    return {**kept, **({"others": rest} if rest else {})}


def set_apart(
    name: str, folders: Mapping[str, Path], into: Path, *, watch: Watch = lambda documents: documents
) -> tuple[Entry, Path]:
    """The source without training documents that another source of the study holds out, word for word or transformed:
    its entry and its folder, which stays as it is where it holds none. `folders` are those of all the study's sources;
    the search is remembered in `into`."""
    original = load(folders[name])
    if not is_complete(into):
        held_out = {
            mark: other
            for other in sorted(folders, reverse=True)  # the first in alphabetical order is the one that is named
            if other != name
            for document in (documents(folders[other], "held_out") if _has_text(folders[other]) else ())
            for mark in marks(document)
        }
        with whole_folder(into) as temporary:
            shutil.copyfile(folders[name] / "removed.jsonl", temporary / "removed.jsonl")
            removed, train = Removed(temporary / "removed.jsonl"), Part(temporary / DOCUMENTS.format(part="train"))
            licences: Counter[str] = Counter()
            with removed.writing(), train.writing():
                for document in watch(documents(folders[name])):
                    other = next((held_out[mark] for mark in marks(document) if mark in held_out), None)
                    if other is None:
                        train.add(document)
                        licences[document.meta.get("licence", "not stated")] += 1
                    else:
                        evidence = " ".join(document.whole[:200].split())
                        removed.add(document, COPIES_OF.format(source=other), evidence)
            if not train.documents:
                others = ", ".join(sorted(removed.by_benchmark))
                raise Refused(f"sources.{name}: all training documents repeat {others}; nothing is left to train on")
            entry = dataclasses.replace(
                original,
                documents=train.documents,
                bytes=train.bytes,
                fingerprint=train.fingerprint,
                removed={**original.removed, **dict(sorted(removed.by_benchmark.items()))},
                details={**original.details, **_by_licence(licences)},
                removed_examples=(*original.removed_examples, *removed.examples)[:SHOWN],
            )
            if removed.documents:
                held = DOCUMENTS.format(part="held_out")
                shutil.copyfile(folders[name] / held, temporary / held)
            else:
                train.path.unlink()
                entry = original
            write_json(temporary / "entry.json", entry.to_dict())
    return load(into), into if _has_text(into) else folders[name]


def _has_text(folder: Path) -> bool:
    return (folder / DOCUMENTS.format(part="held_out")).exists()


def held_out_units(weights: dict[str, int], share: float) -> set[str]:
    """Whole groups in the order of their hashes until `share` of the bytes; the smallest, where each is too large.

    A group that would carry the sum past three times what is wanted is passed over, and one always stays for training.
    """
    wanted = share * sum(weights.values())
    chosen: set[str] = set()
    taken = 0
    for unit in sorted(weights, key=digest):
        if taken >= wanted or len(chosen) == len(weights) - 1:
            break
        if taken + weights[unit] <= 3 * wanted:
            chosen.add(unit)
            taken += weights[unit]
    return chosen or {min(weights, key=lambda unit: (weights[unit], digest(unit)))}


def _said(document: Document) -> bytes:
    """Digest of what was written in it, whether or not a template lays it out."""
    return digest("".join(document.texts))


def marks(document: Document) -> list[bytes]:
    """By what it is told from other documents: what it says, and what was said before it was transformed."""
    original = document.meta.get(ORIGINAL)
    return [_said(document), *([bytes.fromhex(original)] if original else [])]


def _content(document: Document) -> str:
    return digest(document.whole).hex()
