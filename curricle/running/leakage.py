"""What may not leak into training: benchmarks' problems through any source or stream, held-out text through another.

Sources that end are cleaned while their corpora are built, endless ones while they are written; what is removed is
counted or listed, never silently gone. What a stream is cleaned of is part of its fingerprint, and so of every run
that reads it. A source that is made of a benchmark's problems is refused.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from curricle.corpus import catalogue as corpora
from curricle.corpus import problems
from curricle.corpus.catalogue import Entry
from curricle.corpus.decontamination import Contamination
from curricle.corpus.documents import Document
from curricle.evaluation import benchmarks as benchmark_files
from curricle.evaluation.benchmarks import Benchmark
from curricle.store import Store, fingerprint, is_complete, whole_file, whole_folder, write_json
from curricle.study import Generated, Refused, Study

Watch = Callable[[str, Iterable[Document]], Iterable[Document]]
"""Shows that a named source is being read; gives its documents back."""

MOST_REMOVED = 0.2  # share of a generator's first problems that may be a benchmark's; the rest would be no such source


def file_name(source: str) -> str:
    return source.replace(" ", "_")


def contamination_of(study: Study, benchmarks: Iterable[Benchmark]) -> tuple[Contamination | None, str]:
    texts = {b.name: benchmark_files.texts(b) for b in benchmarks}
    if not (study.decontaminate and texts):
        return None, "none"
    whole = [name for name, found in texts.items() if found.whole]
    found = Contamination({name: t.questions + t.solutions for name, t in texts.items()}, whole)
    return found, fingerprint(sorted([b.name, b.fingerprint()] for b in benchmarks))


class OfStreams:
    """What endless sources are cleaned of while they are written: texts of benchmarks that come from files. Generated
    benchmarks are no part of it, since their problems are kept from every stream by construction."""

    def __init__(self, texts: Mapping[str, list[str]]):
        self._texts = texts
        self.key = fingerprint(sorted({text for found in texts.values() for text in found}))

    @functools.cached_property
    def contamination(self) -> Contamination:
        """Made when it is first asked for: seconds, for benchmarks of thousands of problems."""
        return Contamination(self._texts)


def of_streams(study: Study, benchmarks: Iterable[Benchmark]) -> OfStreams | None:
    found = {b.name: benchmark_files.texts(b) for b in benchmarks if not b.whole}
    endless = any(isinstance(source, Generated) for source in study.sources.values())
    if not (study.decontaminate and found and endless):
        return None
    return OfStreams({name: t.questions + t.solutions for name, t in found.items()})


def cleaned_stream(study: Study, entry: Entry, of_streams: OfStreams, into: Path) -> Entry:
    """The entry of an endless source whose stream is cleaned: another stream, by its fingerprint. What its first
    problems show is remembered in `into`. Raises `Refused` where too many of them are a benchmark's."""
    if is_complete(into):
        return corpora.load(into)
    spec = study.sources[entry.name]
    assert isinstance(spec, Generated)
    first = problems.chunk(spec.generated, 0, 0, worked=spec.worked, source=entry.name)
    hits = Counter(hit.benchmark for document in first for hit in of_streams.contamination.find(document.whole))
    for benchmark, count in hits.items():
        if count > MOST_REMOVED * len(first):
            raise Refused(
                f"sources.{entry.name}: {count:,} of its first {len(first):,} problems overlap the benchmark "
                f"{benchmark!r}: they are made from its texts; leave one of the two out"
            )
    removed = {f"{benchmark} (among the first {len(first):,})": count for benchmark, count in sorted(hits.items())}
    cleaned = replace(entry, fingerprint=fingerprint([entry.fingerprint, of_streams.key]), removed=removed)
    with whole_folder(into) as temporary:
        write_json(temporary / "entry.json", cleaned.to_dict())
    return cleaned


def clean(
    documents: Iterable[Document], of_streams: OfStreams | None, listed: Path | None = None
) -> Iterator[Document]:
    """The documents without those that overlap a benchmark; these are listed once all were read."""
    rows = []
    for document in documents:
        hits = of_streams.contamination.find(document.whole) if of_streams else []
        rows += [{"id": document.id, "benchmark": hit.benchmark, "evidence": hit.evidence} for hit in hits]
        if not hits:
            yield document
    if rows and listed is not None:
        with whole_file(listed, "w") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def set_apart(
    store: Store, entries: Mapping[str, Entry], folders: Mapping[str, Path], watch: Watch
) -> tuple[dict[str, Entry], dict[str, Path], list[Path]]:
    """Entries and folders of sources none of which trains on what another holds out; and where that is remembered."""
    found, places, compared = dict(entries), dict(folders), []
    for name in [name for name, entry in entries.items() if not entry.endless and len(entries) > 1]:
        others = sorted(folder.name for other, folder in folders.items() if other != name)
        into = store.folder("corpora", f"{file_name(name)}-apart-{fingerprint([folders[name].name, others])}")
        compared.append(into)
        found[name], places[name] = corpora.set_apart(
            name,
            folders,
            into,
            watch=lambda documents, name=name: watch(f"comparing {name}", documents),  # type: ignore[misc]
        )
    return found, places, compared
