"""From a study to what a plan is made of: benchmarks read, corpora built, a tokenizer, token shards, a catalogue.

Everything made here is cached in the store by the content it was made from, so that preparing the same study again
only reads a few small files. What can be refused is refused in this order: names and files, then data, and training
has not begun.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curricle.corpus import catalogue as corpora
from curricle.corpus import problems
from curricle.corpus.catalogue import Entry
from curricle.corpus.documents import Document
from curricle.corpus.pieces import SCORED_PIECE, scored
from curricle.evaluation import benchmarks as benchmark_files
from curricle.evaluation.benchmarks import Benchmark
from curricle.node import Node
from curricle.planning import Catalogue, Plan, compile_plan
from curricle.running import leakage, tokenization
from curricle.running.leakage import Watch
from curricle.shapes import PRESETS
from curricle.store import Store, fingerprint, is_complete
from curricle.study import Counterfactual, Declared, Generated, Hub, Refused, Study
from curricle.supplied import Supplied, epochs_of
from curricle.training import origin as origins
from curricle.training.origin import Origin

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from curricle.tokens.sampler import Sampler
    from curricle.tokens.shards import Supply

CHUNKS_IN_BLOCK = 10  # chunks of an endless stream that are tokenised into one shard
SCORING_VERSION = 2  # raised by hand when other held-out pieces are chosen, or named otherwise


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
    kept: tuple[Path, ...] = ()
    """Folders that preparing the study again reads, beside those in `corpora` and `shards`."""

    @property
    def revision(self) -> str | None:
        """The commit that weights and tokenizer are read at; None where they are no hub id's."""
        return self.origin.revision if self.origin else None

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
            spec = self.study.sources[name]
            sources[name] = {
                "corpus": self.corpora[name].name,
                "kind": type(spec).__name__.lower(),
                "hub": spec.hub if isinstance(spec, Hub) else None,
                "tokens": rows * node.context,
                "available_tokens": supplied.tokens,
                "padding": supplied.packing.padding if supplied.packing and name in node.whole else 0.0,
                "epochs": epochs_of(supplied, node.read(name), node.context),
            }
            if supplied.whole_tokens is not None:
                sources[name]["whole_tokens"] = supplied.whole_tokens
        stands_for = {"proxy": self.study.proxy.model_dump()} if self.study.proxy is not None else {}
        return {
            "run": node.run,
            "stage": node.stage,
            "kind": node.kind,
            "seed": node.seed,
            "began_from": began_from,
            "sources": sources,
            **stands_for,
            "identity": dict(node.identity),
        }

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
        return self.store.folder("tokens", f"{leakage.file_name(source)}-{key}") / f"seed-{seed}"

    def supply(self, source: str, seed: int) -> Supply:
        from curricle.tokens.shards import Supply

        if source in self.shards:
            return Supply.open([self.shards[source]])
        blocks = sorted(f for f in self.stream(source, seed).glob("block-*") if is_complete(f))
        return Supply.open(blocks, permuted=False)

    def held_out(self, source: str) -> tuple[Document, ...]:
        """The held-out text that is scored: pieces of documents, each once, named and ordered by their content."""
        content = self.entries[source].held_out_fingerprint
        return _held_out(self.corpora[source], content, self.study.held_out.scored_bytes)

    def chat_template(self, kind: str, names: Iterable[str]) -> str | None:
        """What lays out questions to a model that was trained on answers to them; None where the tokenizer has it, or
        where nothing was asked."""
        from curricle.tokens.chat import PLAIN, PROBLEMS, opened

        sources = [self.study.sources[name] for name in names] if kind == "instruct" else []
        if any(tokenization.template_of(source) == "plain" for source in sources):
            return opened(PLAIN)
        # The checkpoint's own stays where anything of the study is laid out by it.
        own = any(tokenization.template_of(source) == "checkpoint" for source in self.study.sources.values())
        generated = sources and all(isinstance(source, Generated) for source in sources)
        return opened(PROBLEMS) if generated and not own else None


def prepare(study: Study, store: Store, watch: Watch = lambda _name, documents: documents) -> Prepared:
    """Read, clean, count and tokenise what the study names. Raises `Refused` before anything expensive."""
    sources = {n: s for n, s in study.sources.items() if any(n in stage.sources for stage in study.stages.values())}
    derived = {name: s for name, s in sources.items() if isinstance(s, Counterfactual)}
    originals = {s.counterfactual: study.sources[s.counterfactual] for s in derived.values()}
    read = {name: source for name, source in {**originals, **sources}.items() if name not in derived}
    if any(isinstance(s, Hub) for s in read.values()):
        _require("datasets", "a hub source", "hub")
    declared = [name for name, source in sources.items() if isinstance(source, Declared)]
    benchmarks = tuple(benchmark_files.load(n, spec, study.resolve) for n, spec in study.benchmarks.items())
    tokenization.refuse_two_templates(sources)
    contamination, contamination_key = leakage.contamination_of(study, benchmarks)
    of_streams = leakage.of_streams(study, benchmarks)
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
        for name, source in read.items()
    }
    origin = origins.find(study, store, bool(declared))
    own_tokenizer = origin.tokenizer if origin else None
    tokenization.refuse_other_tokenizer(study, origin)
    if origin and (os.path.isdir(origin.tokenizer) or not declared):
        tokenization.refuse_long_rows(study, origin)
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
        for name, source in read.items()
    }
    for name, spec in derived.items():
        made_from = spec.counterfactual
        folders[name] = store.folder(
            "corpora", corpora.derived_key(name, spec, entries[made_from], contamination_key=contamination_key)
        )
        entries[name] = corpora.derive(
            name,
            spec,
            folders[made_from],
            folders[name],
            contamination=contamination,
            contamination_key=contamination_key,
            watch=lambda documents, name=name: watch(f"transforming {name}", documents),  # type: ignore[misc]
        )
    kept = list(folders.values())
    # An original that no stage reads has served.
    folders, entries = {name: folders[name] for name in sources}, {name: entries[name] for name in sources}
    for name, entry in entries.items():
        if entry.endless and of_streams is not None:
            kept.append(store.folder("corpora", f"{leakage.file_name(name)}-stream-{fingerprint(folders[name].name)}"))
            entries[name] = leakage.cleaned_stream(study, entry, of_streams, kept[-1])
    if declared:
        return _only_planned(study, store, entries, folders, origin)

    from curricle.tokens import tokenizer as tokenizers
    from curricle.tokens.shards import Shard, write_shard

    entries, folders, compared = leakage.set_apart(store, entries, folders, watch)
    kept += compared
    tokenizer_folder = own_tokenizer or tokenization.tokenizer_of(
        study, store, sources, entries, folders, of_streams, watch
    )
    tokenizer = tokenizers.load(tokenizer_folder, origin.revision if origin else None)
    tokenizer_key = tokenization.tokenizer_fingerprint(tokenizer_folder, origin.revision if origin else None)
    shape = origin.shape if origin else PRESETS[study.model.preset or ""]
    if origin and shape.vocabulary and (last := tokenizers.last_token(tokenizer)) >= shape.vocabulary:
        raise Refused(
            f"model.checkpoint: its tokenizer writes tokens up to {last:,}, and its weights know {shape.vocabulary:,} "
            f"tokens (0 to {shape.vocabulary - 1:,}); these do not belong together"
        )
    shards, supplied, layouts = {}, {}, {}
    for name, entry in entries.items():
        if entry.endless:
            packing = tokenization.packing_of_stream(study, name, of_streams, tokenizer)
            supplied[name] = Supplied(entry.fingerprint, None, packing=packing)
            continue
        layouts[name] = tokenization.layout_of(name, sources[name], tokenizer)
        content = fingerprint([entry.fingerprint, *layouts[name]]) if layouts[name] else entry.fingerprint
        folder = store.folder("tokens", f"{leakage.file_name(name)}-{fingerprint([content, tokenizer_key])}")
        if not is_complete(folder):
            write_shard(folder, watch(f"tokenising {name}", corpora.documents(folders[name])), tokenizer)
        shards[name] = folder
        tokens = sum(len(Shard.open(data).tokens) for data in folder.glob("*.ds"))
        supplied[name] = Supplied(content, tokens, entry.documents, entry.bytes)
    tokenization.refuse_unanswered(study, folders, shards)
    if study.part_of_target < 1:
        kept += shards.values()  # what the parts are taken from again
        for name, of in shards.items():
            found = tokenization.subsampled(study, store, name, supplied[name], of, folders[name], tokenizer_key, watch)
            supplied[name], shards[name] = found
    for name, shard in shards.items():
        supplied[name] = replace(supplied[name], packing=tokenization.packing_of(study, name, shard, folders[name]))
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


def write_streams(prepared: Prepared, plan: Plan, watch: Watch = lambda _name, documents: documents) -> None:
    """Write out as much of every endless source as the plan's runs will read; what is there stays."""
    wanted: dict[tuple[str, int], list[Node]] = {}
    for node in plan.nodes.values():
        for source in node.rows:
            if prepared.entries[source].endless:
                wanted.setdefault((source, node.seed), []).append(node)

    from curricle.tokens import tokenizer as tokenizers
    from curricle.tokens.packing import lacking
    from curricle.tokens.shards import Shard, write_shard

    tokenizer = tokenizers.load(prepared.tokenizer, prepared.revision)
    of_streams = leakage.of_streams(prepared.study, prepared.benchmarks) if wanted else None
    for (source, seed), nodes in wanted.items():
        spec, context = prepared.study.sources[source], nodes[0].context
        assert isinstance(spec, Generated)
        reads = [(node.skip.get(source, ()), node.rows[source], source in node.whole) for node in nodes]
        have, tokens = 0, max(sum(s.rows for s in node.read(source)) for node in nodes) * context + 1
        for block in itertools.count():
            if have >= tokens:
                short = lacking(prepared.supply(source, seed), reads, context)
                if not short:
                    break
                tokens = have + short * context
            stream = prepared.stream(source, seed)
            folder = stream / f"block-{block:06d}"
            if not is_complete(folder):
                clean = leakage.clean(_block(spec, source, seed, block), of_streams, _removed(stream, block))
                write_shard(folder, watch(f"writing {source}, seed {seed}", clean), tokenizer)
            have += sum(len(Shard.open(data).tokens) for data in folder.glob("*.ds"))


def _removed(stream: Path, block: int) -> Path:
    return stream / f"removed-{block:06d}.jsonl"


def removed_places(stream: Path, block: int) -> list[int]:
    """Places, within a block of an endless source, of the documents that were removed from it."""
    file = _removed(stream, block)
    if not file.exists():
        return []
    # A document is named by seed, chunk and place in its chunk (`problems.chunk`).
    ids = [json.loads(line)["id"] for line in file.read_text(encoding="utf-8").splitlines()]
    places = ((int(chunk), int(place)) for _, chunk, place in (i.rsplit("/", 1)[1].split(".") for i in ids))
    return sorted({(chunk % CHUNKS_IN_BLOCK) * problems.CHUNK + place for chunk, place in places})


def sampler_for(prepared: Prepared, node: Node) -> Sampler:
    """What a run reads, row by row: the one place where it is decided, for whoever trains and for whoever asks later
    which documents a step had seen."""
    from curricle.tokens.packing import entered
    from curricle.tokens.sampler import Sampler, seed_of

    supplies, skip = {}, {}
    for name in node.sources:
        supplies[name], skip[name] = entered(
            prepared.supply(name, node.seed),
            node.skip.get(name, ()),
            whole=name in node.whole,
            row_tokens=node.context,
            seed=seed_of(node.seed, name),
        )
    return Sampler(
        supplies,
        node.turns,
        row_tokens=node.context,
        seed=node.seed,
        skip=skip,
        answers_only=node.kind == "instruct",
    )


def make_plan(study: Study, store: Store | str | Path = "runs/store", watch: Watch | None = None) -> Plan:
    """Count what the study names (cached in the store) and compile it."""
    place = store if isinstance(store, Store) else Store(store)
    return compile_plan(study, prepare(study, place, *([watch] if watch else [])).catalogue)


@lru_cache(maxsize=128)
def _held_out(corpus: Path, content: str, scored_bytes: int) -> tuple[Document, ...]:
    """Kept between evaluations: what is scored is small, and all held-out text is read to choose it; 50 MB (5 % of a
    source of 1 GB) cost .6 s of CPU. `content` tells a corpus from what stood at its place before."""
    return tuple(scored(corpora.documents(corpus, "held_out"), scored_bytes))


# ---- parts ----------------------------------------------------------------------------------------------------------


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


def _block(spec: Generated, source: str, seed: int, block: int) -> Iterator[Document]:
    for number in range(block * CHUNKS_IN_BLOCK, (block + 1) * CHUNKS_IN_BLOCK):
        yield from problems.chunk(spec.generated, seed, number, worked=spec.worked, source=source)


def _require(module: str, what: str, extra: str) -> None:
    import importlib.util

    if importlib.util.find_spec(module) is None:
        raise Refused(f"{what} needs {module}, which is not installed: pip install 'curricle[{extra}]'")


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
        supplied[name] = tokenization.stated_part(study, supplied[name])
    tokenizer = f"of {origin.tokenizer}" if origin else f"bpe {vocabulary}"
    catalogue = Catalogue(supplied, shape, vocabulary, tokenizer, origin.fingerprint if origin else None)
    return Prepared(study, store, entries, folders, origin.tokenizer if origin else "", {}, (), {}, catalogue, origin)


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
