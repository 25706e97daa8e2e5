"""From a study to what a plan is made of: benchmarks read, corpora built, a tokenizer, token shards, a catalogue.

Everything made here is cached in the store by the content it was made from, so that preparing the same study again
only reads a few small files. What can be refused is refused in this order: names and files, then data, and training
has not begun.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from curricle.corpus import catalogue as corpora
from curricle.corpus import problems
from curricle.corpus.catalogue import Entry
from curricle.corpus.decontamination import Contamination
from curricle.corpus.documents import Document
from curricle.evaluation import benchmarks as benchmark_files
from curricle.evaluation.benchmarks import Benchmark
from curricle.planning import Catalogue, Node, Plan, Supplied, compile_plan
from curricle.shapes import PRESETS, Shape
from curricle.store import Store, fingerprint, is_complete
from curricle.study import Declared, Generated, Hub, Refused, Study

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from curricle.tokens.sampler import Sampler
    from curricle.tokens.shards import Supply

Watch = Callable[[str, Iterable[Document]], Iterable[Document]]
"""Shows that a named source is being read; gives its documents back."""

CHUNKS_IN_BLOCK = 10  # chunks of an endless stream that are tokenised into one shard
SHORTEST_PIECE = 20  # bytes that a held-out document is taken to have at least
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
        """The held-out text that is scored: pieces of documents, in an order that hashes decide."""
        found = corpora.documents(self.corpora[source], "held_out")
        pieces = (Document(d.id, d.text[:SCORED_PIECE], source, d.prompt) for d in found)
        wanted = self.study.held_out.scored_bytes
        # Memory holds as many pieces as could be wanted, never all held-out text.
        most = max(1, wanted // SHORTEST_PIECE)
        ordered = heapq.nsmallest(most, pieces, key=lambda d: hashlib.sha256(d.id.encode()).digest())
        kept, size = [], 0
        for piece in ordered:
            if size >= wanted:
                break
            kept.append(piece)
            size += len(piece.text.encode())
        return kept


def prepare(study: Study, store: Store, watch: Watch = lambda _name, documents: documents) -> Prepared:
    """Read, clean, count and tokenise what the study names. Raises `Refused` before anything expensive."""
    sources = {n: s for n, s in study.sources.items() if any(n in stage.sources for stage in study.stages.values())}
    if any(isinstance(s, Hub) for s in sources.values()):
        _require("datasets", "a hub source", "hub")
    declared = [name for name, source in sources.items() if isinstance(source, Declared)]
    benchmarks = tuple(benchmark_files.load(n, spec, study.resolve) for n, spec in study.benchmarks.items())
    contamination, contamination_key = _contamination(study, benchmarks)
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
    model_fingerprint, shape, own_tokenizer = _checkpoint(study, bool(declared))
    _refuse_other_tokenizer(study, own_tokenizer)
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
    if declared:
        return _only_planned(study, store, entries, folders, model_fingerprint, shape, own_tokenizer)

    from curricle.tokens import tokenizer as tokenizers
    from curricle.tokens.shards import Shard, write_shard

    tokenizer_folder = own_tokenizer or _tokenizer(study, store, sources, entries, folders, watch)
    tokenizer = tokenizers.load(tokenizer_folder, study.model.revision if own_tokenizer else None)
    tokenizer_key = _tokenizer_fingerprint(tokenizer_folder, study.model.revision)
    shards, supplied = {}, {}
    for name, entry in entries.items():
        if entry.endless:
            supplied[name] = Supplied(entry.fingerprint, None)
            continue
        folder = store.folder("tokens", f"{_file_name(name)}-{fingerprint([entry.fingerprint, tokenizer_key])}")
        if not is_complete(folder):
            write_shard(folder, watch(f"tokenising {name}", corpora.documents(folders[name])), tokenizer)
        shards[name] = folder
        tokens = sum(len(Shard.open(data).tokens) for data in folder.glob("*.ds"))
        supplied[name] = Supplied(entry.fingerprint, tokens, entry.documents, entry.bytes)
    prepared = Prepared(
        study, store, entries, folders, tokenizer_folder, shards, benchmarks, _asked(study, benchmarks, entries), _EMPTY
    )
    decoded, scored = _evaluation_tokens(prepared, tokenizer)
    catalogue = Catalogue(
        supplied,
        shape or PRESETS[study.model.preset or ""],
        shape.vocabulary if shape and shape.vocabulary else len(tokenizer),
        tokenizer_key,
        model_fingerprint,
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
    for (source, seed), tokens in wanted.items():
        spec = prepared.study.sources[source]
        assert isinstance(spec, Generated)
        have = 0
        for block in itertools.count():
            if have >= tokens:
                break
            folder = prepared.stream(source, seed) / f"block-{block:06d}"
            if not is_complete(folder):
                documents = watch(f"writing {source}, seed {seed}", _block(spec, source, seed, block))
                write_shard(folder, documents, tokenizer)
            have += sum(len(Shard.open(data).tokens) for data in folder.glob("*.ds"))


def sampler_for(prepared: Prepared, node: Node, delimiter: int) -> Sampler:
    """The rows that a run reads, in the order in which it reads them."""
    from curricle.tokens.sampler import Sampler

    return Sampler(
        {name: prepared.supply(name, node.seed) for name in node.sources},
        node.turns,
        row_tokens=node.context,
        seed=node.seed,
        delimiter=delimiter,
        skip=node.skip,
        answers_only=node.kind == "instruct",
    )


def make_plan(study: Study, store: Store | str | Path = "runs/store", watch: Watch | None = None) -> Plan:
    """Count what the study names (cached in the store) and compile it."""
    place = store if isinstance(store, Store) else Store(store)
    return compile_plan(study, prepare(study, place, *([watch] if watch else [])).catalogue)


# ---- parts ----------------------------------------------------------------------------------------------------------


def _asked(study: Study, benchmarks: Iterable[Benchmark], entries: Mapping[str, Entry]) -> dict[str, str]:
    context = study.model.context
    found = {b.name: fingerprint([b.fingerprint(), context]) for b in benchmarks}
    for name, entry in entries.items():
        content = [entry.held_out_fingerprint, study.held_out.scored_bytes, context, SCORED_PIECE]
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


def _checkpoint(study: Study, plan_only: bool) -> tuple[str | None, Shape | None, Path | str | None]:
    """(fingerprint, shape, where its tokenizer is) of the study's checkpoint; three times None for fresh weights."""
    name = study.model.checkpoint
    if name is None:
        return None, None, None
    folder = study.resolve(name)
    if folder.is_dir():
        weights = sorted(folder.glob("*.safetensors"))
        if not weights or not (folder / "config.json").exists():
            raise Refused(f"model.checkpoint: {folder} holds no config.json with *.safetensors beside it")
        content = hashlib.sha256((folder / "config.json").read_bytes())
        for file in weights:
            with open(file, "rb") as data:
                content.update(hashlib.file_digest(data, "sha256").digest())
        return content.hexdigest()[:16], _shape_of(_config(folder / "config.json")), folder
    if plan_only:
        if study.model.preset is None:
            raise Refused(f"model.preset: state the shape of {name}, which is not on this disk, to plan without it")
        return f"{name}@{study.model.revision or 'main'}", PRESETS[study.model.preset], name
    if "/" not in name or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise Refused(f"model.checkpoint: {name}: no such folder, and not a hub id such as org/name")
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name, revision=study.model.revision or "main", trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise Refused(
            f"model.checkpoint: {name}: no such folder, and the hub gave: {str(error).splitlines()[0]}"
        ) from None
    return f"{name}@{study.model.revision or config._commit_hash or 'main'}", _shape_of(config.to_dict()), name


def _config(file: Path) -> dict[str, object]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise Refused(f"model.checkpoint: {file} is not readable as JSON: {error}") from None
    if not isinstance(found, dict):
        raise Refused(f"model.checkpoint: {file} holds a {type(found).__name__}, not fields")
    return found


def _shape_of(config: Mapping[str, object]) -> Shape:
    def number(key: str, default: int | None = None) -> int:
        value = config.get(key, default)
        if not isinstance(value, int):
            raise Refused(f"model.checkpoint: its config.json does not state {key}")
        return value

    heads = number("num_attention_heads")
    return Shape(
        layers=number("num_hidden_layers"),
        hidden=number("hidden_size"),
        feed_forward=number("intermediate_size"),
        heads=heads,
        kv_heads=number("num_key_value_heads", heads),
        vocabulary=number("vocab_size"),
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def _only_planned(
    study: Study,
    store: Store,
    entries: Mapping[str, Entry],
    folders: Mapping[str, Path],
    model: str | None,
    shape: Shape | None,
    tokenizer: Path | str | None,
) -> Prepared:
    """The catalogue of a study with declared sources: stated tokens stand for counted ones."""
    shape = shape or PRESETS[study.model.preset or ""]
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
    catalogue = Catalogue(supplied, shape, vocabulary, f"of {tokenizer}" if tokenizer else f"bpe {vocabulary}", model)
    return Prepared(study, store, entries, folders, tokenizer or "", {}, (), {}, catalogue)


def _tokenizer(
    study: Study,
    store: Store,
    sources: Mapping[str, object],
    entries: Mapping[str, Entry],
    folders: Mapping[str, Path],
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
    identity = {"bpe": spec.bpe, "sample": each, "data": sorted(e.fingerprint for e in entries.values())}
    folder = store.folder("tokenizers", f"bpe-{spec.bpe}-{fingerprint(identity)}")
    if not is_complete(folder):
        # In the order of fingerprints: what a source is called changes nothing.
        ordered = sorted(entries, key=lambda name: entries[name].fingerprint)
        samples = (_sample(study, entries[name], folders[name], each) for name in ordered)
        documents = watch("training the tokenizer", itertools.chain.from_iterable(samples))
        texts = (part for document in documents for part in (document.prompt, document.text))
        tokenizers.save(tokenizers.train_bpe(texts, spec.bpe), folder)
    return folder


def _sample(study: Study, entry: Entry, folder: Path, wanted: int) -> Iterator[Document]:
    """About `wanted` bytes of a source, spread over all of it; whole documents, chosen by the hash of their id."""
    if entry.endless:
        spec = study.sources[entry.name]
        assert isinstance(spec, Generated)
        found: Iterable[Document] = problems.generated_documents(spec, entry.name, seed=0)
        share = 1.0
    else:
        found, share = corpora.documents(folder), wanted / max(1, entry.bytes)
    taken = 0
    for document in found:
        if taken >= wanted:
            return
        if int.from_bytes(hashlib.sha256(document.id.encode()).digest()[:4]) < share * 2**32:
            taken += len(document.whole.encode())
            yield document


def _refuse_other_tokenizer(study: Study, own: Path | str | None) -> None:
    """A tokenizer that is named must be there, and beside a checkpoint must be the checkpoint's own."""
    if study.tokenizer is None or study.tokenizer.path is None:
        return
    folder = study.resolve(study.tokenizer.path)
    if not folder.is_dir():
        raise Refused(f"tokenizer.path: {folder}: no such folder")
    ours, theirs = _tokenizer_fingerprint(folder), own and _tokenizer_fingerprint(own)
    if theirs not in {None, ours}:
        raise Refused(
            f"tokenizer.path: the content of {folder} is {ours}, that of {study.model.checkpoint} is {theirs}; weights "
            f"know only their own tokens, so leave tokenizer out"
        )


def _tokenizer_fingerprint(folder: Path | str, revision: str | None = None) -> str:
    from curricle.tokens import tokenizer as tokenizers

    return tokenizers.fingerprint_of(Path(folder)) if os.path.isdir(folder) else f"of {folder}@{revision or 'main'}"


def _evaluation_tokens(prepared: Prepared, tokenizer: PreTrainedTokenizerFast) -> tuple[int, int]:
    """(tokens generated at most, tokens scored) at one evaluation point."""

    from curricle.tokens.tokenizer import spelled

    def count(texts: Iterable[str]) -> int:
        return sum(map(len, spelled(tokenizer, list(texts))))

    decoded = sum(len(b.items) * b.max_new_tokens for b in prepared.benchmarks)
    scored = 0
    for benchmark in prepared.benchmarks:
        shots = count(benchmark.exemplars) * len(benchmark.items)
        scored += shots + count(part for item in benchmark.items for part in (item.prompt, item.reference))
    for source in prepared.entries:
        scored += count(part for d in prepared.held_out(source) for part in (d.prompt, d.text))
    return decoded, scored
