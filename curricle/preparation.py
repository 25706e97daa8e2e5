"""From a study to what a plan is made of: benchmarks read, corpora built, a tokenizer, token shards, a catalogue.

Everything made here is cached in the store by the content it was made from, so that preparing the same study again
only reads a few small files. What can be refused is refused in this order: names and files, then data, and training
has not begun.
"""

from __future__ import annotations

import functools
import hashlib
import heapq
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curricle.corpus import catalogue as corpora
from curricle.corpus import problems
from curricle.corpus.catalogue import Entry
from curricle.corpus.decontamination import Contamination
from curricle.corpus.documents import Document
from curricle.evaluation import benchmarks as benchmark_files
from curricle.evaluation.benchmarks import Benchmark
from curricle.planning import Catalogue, Node, Plan, Supplied, compile_plan, rows_in_epoch
from curricle.shapes import PRESETS
from curricle.store import Store, fingerprint, is_complete, whole_file, whole_folder, write_json
from curricle.study import Declared, Files, Generated, Hub, Refused, Source, Study
from curricle.training import origin as origins
from curricle.training.origin import Origin

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from curricle.tokens.sampler import Sampler
    from curricle.tokens.shards import Supply

Watch = Callable[[str, Iterable[Document]], Iterable[Document]]
"""Shows that a named source is being read; gives its documents back."""

CHUNKS_IN_BLOCK = 10  # chunks of an endless stream that are tokenised into one shard
SHORTEST_PIECE = 20  # bytes that a held-out document is taken to have at least
MOST_REMOVED = 0.2  # share of a generator's first problems that may be a benchmark's; the rest would be no such source
SCORING_VERSION = 2  # raised by hand when other held-out pieces are chosen, or named otherwise
SAMPLE_VERSION = 2  # raised by hand when a tokenizer is trained on other documents of the same sources
SCORED_PIECE = 4000  # characters of one held-out document that are scored, so that several are


@dataclass(frozen=True, slots=True)
class Prepared:
    """What training and evaluation read. All of it can be sent to another process."""

    study: Study
    store: Store
    entries: Mapping[str, Entry]
    corpora: Mapping[str, Path]
    tokenizer: Path | str
    """The folder (or hub id) that the tokenizer is loaded from."""
    shards: Mapping[str, Path]
    """Token shards of the sources that end."""
    benchmarks: tuple[Benchmark, ...]
    asked: Mapping[str, str]
    """What is scored at a point, by name: the benchmarks, then each source's held-out text; each with the fingerprint
    of its content, so that what is asked later is told from what was asked before."""
    catalogue: Catalogue
    origin: Origin | None = None
    """The checkpoint that the study begins from; None for fresh weights."""

    def described(self, node: Node) -> dict[str, Any]:
        """What stands in a run's `run.json`: what it is, what it began from, and what it read of each source. All but
        `identity` is for the model card and decides nothing."""
        if node.parent is not None:
            began_from: dict[str, Any] = {"run": node.parent}
        elif self.origin is not None:
            began_from = self.origin.describe(self.study.model)
        else:
            began_from = {"preset": self.study.model.preset}
        sources = {}
        for name, rows in node.rows.items():
            supplied = self.catalogue.sources[name]
            epoch = rows_in_epoch(supplied, node.context)
            spec = self.study.sources[name]
            sources[name] = {
                "corpus": self.corpora[name].name,
                "kind": type(spec).__name__.lower(),
                "hub": spec.hub if isinstance(spec, Hub) else None,
                "tokens": rows * node.context,
                "available_tokens": supplied.tokens,
                "epochs": (node.skip.get(name, 0) + rows) / epoch if epoch else None,
            }
        return {
            "run": node.run,
            "stage": node.stage,
            "kind": node.kind,
            "seed": node.seed,
            "began_from": began_from,
            "sources": sources,
            "identity": dict(node.identity),
        }

    kept: tuple[Path, ...] = ()
    """Folders of corpora that preparing the study again reads, beside those in `corpora`."""

    def moved(self, root: Path) -> Prepared:
        """The same for a process elsewhere: its store at `root`, every other path made absolute."""
        old = self.store.root.resolve()

        def there(path: Path) -> Path:
            path = path.resolve()
            return root / path.relative_to(old) if path.is_relative_to(old) else path

        return replace(
            self,
            study=self.study.anchored(),
            store=Store(root),
            corpora={name: there(folder) for name, folder in self.corpora.items()},
            tokenizer=there(self.tokenizer) if isinstance(self.tokenizer, Path) else self.tokenizer,
            shards={name: there(folder) for name, folder in self.shards.items()},
        )

    def stream(self, source: str, seed: int) -> Path:
        """Where the blocks of an endless source lie."""
        entry = self.entries[source]
        key = fingerprint([entry.fingerprint, self.catalogue.tokenizer])
        return self.store.folder("tokens", f"{_file_name(source)}-{key}") / f"seed-{seed}"

    def supply(self, source: str, seed: int) -> Supply:
        from curricle.tokens.shards import Supply

        if source in self.shards:
            return Supply.open([self.shards[source]])
        blocks = sorted(f for f in self.stream(source, seed).glob("block-*") if is_complete(f))
        return Supply.open(blocks, permuted=False)

    def held_out(self, source: str) -> list[Document]:
        """The held-out text that is scored: pieces of documents, each once, named and ordered by their content."""
        found = corpora.documents(self.corpora[source], "held_out")
        pieces = _distinct(replace(d, text=d.text[:SCORED_PIECE], meta={}) for d in found)
        wanted = self.study.held_out.scored_bytes
        # Memory holds as many pieces as could be wanted, never all held-out text.
        most = max(1, wanted // SHORTEST_PIECE)
        ordered = heapq.nsmallest(most, pieces, key=lambda d: d.id)
        kept, size = [], 0
        for piece in ordered:
            if size >= wanted:
                break
            kept.append(piece)
            size += len(piece.text.encode())
        return kept

    def chat_template(self, kind: str, names: Iterable[str]) -> str | None:
        """What lays out questions to a model that was trained on answers to them; None where the tokenizer has it, or
        where nothing was asked."""
        from curricle.tokens.chat import PLAIN, PROBLEMS

        sources = [self.study.sources[name] for name in names] if kind == "instruct" else []
        if any(_template(source) == "plain" for source in sources):
            return PLAIN
        # The checkpoint's own stays where anything of the study is laid out by it.
        own = any(_template(source) == "checkpoint" for source in self.study.sources.values())
        return PROBLEMS if sources and not own and all(isinstance(source, Generated) for source in sources) else None


def prepare(study: Study, store: Store, watch: Watch = lambda _name, documents: documents) -> Prepared:
    """Read, clean, count and tokenise what the study names. Raises `Refused` before anything expensive."""
    sources = {n: s for n, s in study.sources.items() if any(n in stage.sources for stage in study.stages.values())}
    if any(isinstance(s, Hub) for s in sources.values()):
        _require("datasets", "a hub source", "hub")
    declared = [name for name, source in sources.items() if isinstance(source, Declared)]
    benchmarks = tuple(benchmark_files.load(n, spec, study.resolve) for n, spec in study.benchmarks.items())
    _refuse_two_templates(sources)
    contamination, contamination_key = _contamination(study, benchmarks)
    of_streams = _of_streams(study, benchmarks)
    folders = {
        name: store.folder(
            "corpora",
            corpora.key(
                name,
                source,
                resolve=study.resolve,
                contamination_key=contamination_key,
                held_out_share=study.held_out.share,
            ),
        )
        for name, source in sources.items()
    }
    origin = origins.find(study, store, bool(declared))
    own_tokenizer = origin.tokenizer if origin else None
    _refuse_other_tokenizer(study, own_tokenizer)
    if origin and (os.path.isdir(origin.tokenizer) or not declared):
        _refuse_long_rows(study, origin)
    entries = {
        name: corpora.build(
            name,
            source,
            folders[name],
            resolve=study.resolve,
            contamination=contamination,
            contamination_key=contamination_key,
            held_out_share=study.held_out.share,
            watch=lambda documents, name=name: watch(f"reading {name}", documents),  # type: ignore[misc]
        )
        for name, source in sources.items()
    }
    kept = list(folders.values())
    for name, entry in entries.items():
        if entry.endless and of_streams is not None:
            kept.append(store.folder("corpora", f"{_file_name(name)}-stream-{fingerprint(folders[name].name)}"))
            entries[name] = _cleaned_stream(study, entry, of_streams, kept[-1])
    if declared:
        return _only_planned(study, store, entries, folders, origin)

    from curricle.tokens import tokenizer as tokenizers
    from curricle.tokens.shards import Shard, write_shard

    entries, folders, compared = _set_apart(store, entries, folders, watch)
    kept += compared
    tokenizer_folder = own_tokenizer or _tokenizer(study, store, sources, entries, folders, of_streams, watch)
    tokenizer = tokenizers.load(tokenizer_folder, study.model.revision if own_tokenizer else None)
    tokenizer_key = _tokenizer_fingerprint(tokenizer_folder, study.model.revision)
    shape = origin.shape if origin else PRESETS[study.model.preset or ""]
    if origin and shape.vocabulary and (last := tokenizers.last_token(tokenizer)) >= shape.vocabulary:
        raise Refused(
            f"model.checkpoint: its tokenizer writes tokens up to {last:,}, and its weights know {shape.vocabulary:,} "
            f"tokens (0 to {shape.vocabulary - 1:,}); these do not belong together"
        )
    shards, supplied, layouts = {}, {}, {}
    for name, entry in entries.items():
        if entry.endless:
            supplied[name] = Supplied(entry.fingerprint, None)
            continue
        layouts[name] = _layout(name, sources[name], tokenizer)
        content = fingerprint([entry.fingerprint, *layouts[name]]) if layouts[name] else entry.fingerprint
        folder = store.folder("tokens", f"{_file_name(name)}-{fingerprint([content, tokenizer_key])}")
        if not is_complete(folder):
            write_shard(folder, watch(f"tokenising {name}", corpora.documents(folders[name])), tokenizer)
        shards[name] = folder
        tokens = sum(len(Shard.open(data).tokens) for data in folder.glob("*.ds"))
        supplied[name] = Supplied(content, tokens, entry.documents, entry.bytes)
    _refuse_unanswered(study, folders, shards)
    asked = _asked(study, benchmarks, entries, layouts)
    prepared = Prepared(
        study, store, entries, folders, tokenizer_folder, shards, benchmarks, asked, _EMPTY, origin, tuple(kept)
    )
    decoded, scored = _evaluation_tokens(prepared, tokenizer)
    catalogue = Catalogue(
        supplied,
        shape,
        shape.vocabulary or len(tokenizer),
        tokenizer_key,
        origin.fingerprint if origin else None,
        decoded,
        scored,
    )
    return replace(prepared, catalogue=catalogue)


def stock(prepared: Prepared, plan: Plan, watch: Watch = lambda _name, documents: documents) -> None:
    """Write out as much of every endless source as the plan's runs will read; what is there stays."""
    wanted: dict[tuple[str, int], int] = {}
    for node in plan.nodes.values():
        for source, rows in node.rows.items():
            if prepared.entries[source].endless:
                tokens = (node.skip.get(source, 0) + rows) * node.context + 1
                wanted[source, node.seed] = max(tokens, wanted.get((source, node.seed), 0))

    from curricle.tokens import tokenizer as tokenizers
    from curricle.tokens.shards import Shard, write_shard

    tokenizer = tokenizers.load(prepared.tokenizer)
    of_streams = _of_streams(prepared.study, prepared.benchmarks) if wanted else None
    for (source, seed), tokens in wanted.items():
        spec = prepared.study.sources[source]
        assert isinstance(spec, Generated)
        have = 0
        for block in itertools.count():
            if have >= tokens:
                break
            stream = prepared.stream(source, seed)
            folder = stream / f"block-{block:06d}"
            if not is_complete(folder):
                clean = _clean(_block(spec, source, seed, block), of_streams, stream / f"removed-{block:06d}.jsonl")
                write_shard(folder, watch(f"writing {source}, seed {seed}", clean), tokenizer)
            have += sum(len(Shard.open(data).tokens) for data in folder.glob("*.ds"))


def sampler_for(prepared: Prepared, node: Node) -> Sampler:
    """What a run reads, row by row: the one place where it is decided, for whoever trains and for whoever asks later
    which documents a step had seen."""
    from curricle.tokens.sampler import Sampler

    return Sampler(
        {name: prepared.supply(name, node.seed) for name in node.sources},
        node.turns,
        row_tokens=node.context,
        seed=node.seed,
        skip=node.skip,
        answers_only=node.kind == "instruct",
    )


def make_plan(study: Study, store: Store | str | Path = "runs/store", watch: Watch | None = None) -> Plan:
    """Count what the study names (cached in the store) and compile it."""
    place = store if isinstance(store, Store) else Store(store)
    return compile_plan(study, prepare(study, place, *([watch] if watch else [])).catalogue)


# ---- parts ----------------------------------------------------------------------------------------------------------


def _template(source: Source) -> str | None:
    """How the source's conversations are laid out; None for any other text."""
    return source.template if isinstance(source, Files | Hub) and source.conversation else None


def _refuse_two_templates(sources: Mapping[str, Source]) -> None:
    """A model answers to one template: two in one study would train it on one and ask it by the other."""
    found = {
        template: name for name, source in sources.items() if (template := _template(source)) not in {None, "none"}
    }
    if len(found) > 1:
        (one, first), (other, second) = sorted(found.items())
        raise Refused(
            f"sources.{second}.template: {other!r}, but sources.{first}.template is {one!r}; a study has one template"
        )


def _layout(name: str, source: Source, tokenizer: PreTrainedTokenizerFast) -> list[object]:
    """What decides, beside their text, how a source's documents are laid out; nothing for text without questions."""
    from curricle.tokens.chat import LAYOUT_VERSION, jinja_of

    template = _template(source)
    if template is None:
        return []
    return [LAYOUT_VERSION, None if template == "none" else jinja_of(template, tokenizer, name)]


def _refuse_unanswered(study: Study, folders: Mapping[str, Path], shards: Mapping[str, Path]) -> None:
    """In an `instruct` stage every document has a token to learn."""
    from curricle.tokens.shards import Shard

    asking = [(name, stage) for name, stage in study.stages.items() if stage.kind == "instruct"]
    asked = {source: name for name, stage in asking for source in stage.sources if source not in stage.replay}
    for source, stage in asked.items():
        for data in sorted(shards[source].glob("*.ds")) if source in shards else ():
            number = Shard.open(data).unanswered()
            if number is not None:
                found = next(itertools.islice(corpora.documents(folders[source]), number, None))
                raise Refused(
                    f"stages.{stage}.mixture.{source}: the document {found.id} has no token that carries loss, so an "
                    f"instruct stage learns nothing from it; take it out of the source, or give it an answer"
                )


def _asked(
    study: Study,
    benchmarks: Iterable[Benchmark],
    entries: Mapping[str, Entry],
    layouts: Mapping[str, list[object]],
) -> dict[str, str]:
    context = study.model.context
    found = {b.name: fingerprint([b.fingerprint(), context]) for b in benchmarks}
    for name, entry in entries.items():
        content: list[object] = [
            SCORING_VERSION,
            entry.held_out_fingerprint,
            study.held_out.scored_bytes,
            context,
            SCORED_PIECE,
        ]
        content += layouts.get(name, [])
        found[name] = fingerprint(content)
    return found


_EMPTY = Catalogue({}, PRESETS["1m"], 0, "")


def _file_name(source: str) -> str:
    return source.replace(" ", "_")


def _block(spec: Generated, source: str, seed: int, block: int) -> Iterator[Document]:
    for number in range(block * CHUNKS_IN_BLOCK, (block + 1) * CHUNKS_IN_BLOCK):
        yield from problems.chunk(spec.generated, seed, number, worked=spec.worked, source=source)


def _require(module: str, what: str, extra: str) -> None:
    import importlib.util

    if importlib.util.find_spec(module) is None:
        raise Refused(f"{what} needs {module}, which is not installed: pip install 'curricle[{extra}]'")


def _contamination(study: Study, benchmarks: Iterable[Benchmark]) -> tuple[Contamination | None, str]:
    texts = {b.name: benchmark_files.texts(b) for b in benchmarks}
    if not (study.decontaminate and texts):
        return None, "none"
    whole = [name for name, found in texts.items() if found.whole]
    found = Contamination({name: t.questions + t.solutions for name, t in texts.items()}, whole)
    return found, fingerprint(sorted([b.name, b.fingerprint()] for b in benchmarks))


class _OfStreams:
    """What endless sources are cleaned of while they are written: texts of benchmarks that come from files. Generated
    benchmarks are no part of it, since their problems are kept from every stream by construction."""

    def __init__(self, texts: Mapping[str, list[str]]):
        self._texts = texts
        self.key = fingerprint(sorted({text for found in texts.values() for text in found}))

    @functools.cached_property
    def contamination(self) -> Contamination:
        """Made when it is first asked for: seconds, for benchmarks of thousands of problems."""
        return Contamination(self._texts)


def _of_streams(study: Study, benchmarks: Iterable[Benchmark]) -> _OfStreams | None:
    found = {b.name: benchmark_files.texts(b) for b in benchmarks if not b.whole}
    endless = any(isinstance(source, Generated) for source in study.sources.values())
    if not (study.decontaminate and found and endless):
        return None
    return _OfStreams({name: t.questions + t.solutions for name, t in found.items()})


def _cleaned_stream(study: Study, entry: Entry, of_streams: _OfStreams, into: Path) -> Entry:
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


def _clean(
    documents: Iterable[Document], of_streams: _OfStreams | None, listed: Path | None = None
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


def _set_apart(
    store: Store, entries: Mapping[str, Entry], folders: Mapping[str, Path], watch: Watch
) -> tuple[dict[str, Entry], dict[str, Path], list[Path]]:
    """Entries and folders of sources none of which trains on what another holds out; and where that is remembered."""
    found, places, compared = dict(entries), dict(folders), []
    for name in [name for name, entry in entries.items() if not entry.endless and len(entries) > 1]:
        others = sorted(folder.name for other, folder in folders.items() if other != name)
        into = store.folder("corpora", f"{_file_name(name)}-apart-{fingerprint([folders[name].name, others])}")
        compared.append(into)
        found[name], places[name] = corpora.set_apart(
            name,
            folders,
            into,
            watch=lambda documents, name=name: watch(f"comparing {name}", documents),  # type: ignore[misc]
        )
    return found, places, compared


def _distinct(pieces: Iterable[Document]) -> Iterator[Document]:
    """Each piece once, named by what it holds: the same text in another file is the same item."""
    seen = set()
    for piece in pieces:
        content = hashlib.sha256("\0".join(piece.texts).encode()).hexdigest()[:16]
        if content not in seen:
            seen.add(content)
            yield replace(piece, id=content)


def _refuse_long_rows(study: Study, origin: Origin) -> None:
    """A row may not have more tokens than the checkpoint knows positions."""
    from transformers import AutoConfig

    place, revision = str(origin.tokenizer), origin.revision or "main"
    config = AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=False)
    most = getattr(config.get_text_config(), "max_position_embeddings", None)
    if isinstance(most, int) and study.model.context > most:
        raise Refused(
            f"model.context: {study.model.context:,} tokens are more than the {most:,} positions that "
            f"{study.model.checkpoint} was made for (max_position_embeddings); write {most} or fewer"
        )


def _only_planned(
    study: Study, store: Store, entries: Mapping[str, Entry], folders: Mapping[str, Path], origin: Origin | None
) -> Prepared:
    """The catalogue of a study with declared sources: stated tokens stand for counted ones."""
    shape = origin.shape if origin else PRESETS[study.model.preset or ""]
    vocabulary = shape.vocabulary or (study.tokenizer.bpe if study.tokenizer else None)
    if vocabulary is None:
        raise Refused(
            "tokenizer: a study with declared sources states its vocabulary by a preset that has one, or by bpe"
        )
    supplied = {}
    for name, entry in entries.items():
        source = study.sources[name]
        if isinstance(source, Declared):
            stated = fingerprint({"declared": source.declared, "reference": source.reference})
            supplied[name] = Supplied(stated, source.declared, declared=True)
        else:
            # Not tokenised: the bytes stand in, at four to a token.
            tokens = None if entry.endless else entry.bytes // 4
            supplied[name] = Supplied(entry.fingerprint, tokens, entry.documents, entry.bytes)
    tokenizer = f"of {origin.tokenizer}" if origin else f"bpe {vocabulary}"
    catalogue = Catalogue(supplied, shape, vocabulary, tokenizer, origin.fingerprint if origin else None)
    return Prepared(study, store, entries, folders, origin.tokenizer if origin else "", {}, (), {}, catalogue, origin)


def _tokenizer(
    study: Study,
    store: Store,
    sources: Mapping[str, object],
    entries: Mapping[str, Entry],
    folders: Mapping[str, Path],
    of_streams: _OfStreams | None,
    watch: Watch,
) -> Path:
    """The study's own tokenizer: read from its folder, or trained once on an equal sample of every source."""
    from curricle.tokens import tokenizer as tokenizers

    spec = study.tokenizer
    assert spec is not None
    if spec.path is not None:
        return study.resolve(spec.path)
    assert spec.bpe is not None
    each = spec.sample_bytes // len(sources)
    data = sorted(e.fingerprint for e in entries.values())
    identity = {"version": SAMPLE_VERSION, "bpe": spec.bpe, "sample": each, "data": data}
    folder = store.folder("tokenizers", f"bpe-{spec.bpe}-{fingerprint(identity)}")
    if not is_complete(folder):
        # In the order of fingerprints: what a source is called changes nothing.
        ordered = sorted(entries, key=lambda name: entries[name].fingerprint)
        samples = (_sample(study, entries[name], folders[name], of_streams, each) for name in ordered)
        documents = watch("training the tokenizer", itertools.chain.from_iterable(samples))
        texts = (text for document in documents for text in document.texts)
        tokenizers.save(tokenizers.train_bpe(texts, spec.bpe), folder)
    return folder


def _sample(study: Study, entry: Entry, folder: Path, of_streams: _OfStreams | None, wanted: int) -> Iterator[Document]:
    """About `wanted` bytes of a source, spread over all of it; whole documents, chosen by the hash of their text."""
    if entry.endless:
        spec = study.sources[entry.name]
        assert isinstance(spec, Generated)
        found: Iterable[Document] = _clean(problems.generated_documents(spec, entry.name, seed=0), of_streams)
        share = 1.0
    else:
        found, share = corpora.documents(folder), wanted / max(1, entry.bytes)
    taken = 0
    for document in found:
        if taken >= wanted:
            return
        if int.from_bytes(hashlib.sha256(document.whole.encode()).digest()[:4]) < share * 2**32:
            taken += len(document.whole.encode())
            yield document


def _refuse_other_tokenizer(study: Study, own: Path | str | None) -> None:
    """A tokenizer that is named must be there, and beside a checkpoint must be the checkpoint's own."""
    if study.tokenizer is None or study.tokenizer.path is None:
        return
    folder = study.resolve(study.tokenizer.path)
    if not folder.is_dir():
        raise Refused(f"tokenizer.path: {folder}: no such folder")
    if own is None or not os.path.isdir(own):
        return  # a hub id's tokenizer is used as it is; what it holds is not known here
    ours, theirs = _tokenizer_fingerprint(folder), _tokenizer_fingerprint(own)
    if theirs != ours:
        raise Refused(
            f"tokenizer.path: the content of {folder} is {ours}, that of {study.model.checkpoint} is {theirs}; weights "
            f"know only their own tokens, so leave tokenizer out"
        )


def _tokenizer_fingerprint(folder: Path | str, revision: str | None = None) -> str:
    from curricle.tokens import tokenizer as tokenizers

    return tokenizers.fingerprint_of(Path(folder)) if os.path.isdir(folder) else f"of {folder}@{revision or 'main'}"


def _evaluation_tokens(prepared: Prepared, tokenizer: PreTrainedTokenizerFast) -> tuple[int, int]:
    """(tokens generated at most, tokens scored) at one evaluation point."""
    from curricle.tokens.shards import encode
    from curricle.tokens.tokenizer import spelled

    def count(texts: Iterable[str]) -> int:
        return sum(map(len, spelled(tokenizer, list(texts))))

    decoded = sum(len(b.items) * b.max_new_tokens for b in prepared.benchmarks if b.answers)
    scored = 0
    for benchmark in prepared.benchmarks:
        shots = count(benchmark.exemplars) * len(benchmark.items)
        scored += shots + count(part for item in benchmark.items for part in (item.prompt, item.reference))
    for source in prepared.entries:
        scored += sum(len(document.ids) for document in encode(prepared.held_out(source), tokenizer))
    return decoded, scored
