"""How a study's text becomes tokens: its tokenizer, read or trained here, the template of its conversations, and the
part of them that a proxy reads.

A tokenizer is trained once on a sample that is chosen by content alone, so that names change nothing. What does not
fit together is refused here: two templates in one study, a tokenizer that is not the checkpoint's, rows past its
positions, and documents of an `instruct` stage in which no token is learnt.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from curricle.corpus import catalogue as corpora
from curricle.corpus import problems
from curricle.corpus.catalogue import Entry
from curricle.corpus.documents import SHOWN, Document
from curricle.running.leakage import OfStreams, Watch, clean, file_name
from curricle.store import Store, fingerprint, is_complete
from curricle.study import Counterfactual, Files, Generated, Hub, Refused, Source, Study
from curricle.supplied import Packing, Supplied
from curricle.supplies import is_answered
from curricle.training.origin import Origin

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SAMPLED = problems.CHUNK  # problems of an endless source by which its padding is told beforehand
SAMPLE_VERSION = 2  # raised by hand when a tokenizer is trained on other documents of the same sources


def template_of(source: Source) -> str | None:
    """How the source's conversations are laid out; None for any other text."""
    return source.template if isinstance(source, Files | Hub) and source.conversation else None


def refuse_two_templates(sources: Mapping[str, Source]) -> None:
    """A model answers to one template: two in one study would train it on one and ask it by the other."""
    found = {
        template: name for name, source in sources.items() if (template := template_of(source)) not in {None, "none"}
    }
    if len(found) > 1:
        (one, first), (other, second) = sorted(found.items())
        raise Refused(
            f"sources.{second}.template: {other!r}, but sources.{first}.template is {one!r}; a study has one template"
        )


def layout_of(name: str, source: Source, tokenizer: PreTrainedTokenizerFast) -> list[object]:
    """What decides, beside their text, how a source's documents are laid out; nothing for text without questions."""
    from curricle.tokens.chat import LAYOUT_VERSION, jinja_of

    template = template_of(source)
    if template is None:
        return []
    return [LAYOUT_VERSION, None if template == "none" else jinja_of(template, tokenizer, name)]


def subsampled(
    study: Study,
    store: Store,
    name: str,
    supplied: Supplied,
    shard: Path,
    corpus: Path,
    tokenizer_key: str,
    watch: Watch,
) -> tuple[Supplied, Path]:
    """The part of a source that a proxy reads, and its shard. It is told from other parts by the documents in it."""
    from curricle.tokens.shards import Shard
    from curricle.tokens.subsample import SUBSAMPLE_VERSION, write_subsample

    assert supplied.tokens is not None
    wanted = round(supplied.tokens * study.part_of_target)
    key = fingerprint([SUBSAMPLE_VERSION, supplied.fingerprint, tokenizer_key, wanted])
    folder = store.folder("tokens", f"{file_name(name)}-part-{key}")
    if not is_complete(folder):
        write_subsample(folder, shard, watch(f"taking a part of {name}", corpora.documents(corpus)), wanted)
    part = Shard.open(folder / "data.ds")
    tokens, documents = len(part.tokens), len(part.ends)
    content = fingerprint([SUBSAMPLE_VERSION, supplied.fingerprint, "documents", documents])
    if tokens == supplied.tokens:  # of few documents all can be what comes nearest: the same text is the same identity
        content, folder = supplied.fingerprint, shard
    return Supplied(content, tokens, documents, whole_tokens=supplied.tokens), folder


def stated_part(study: Study, supplied: Supplied) -> Supplied:
    """As `subsampled`, of a study that is only planned: no documents are there to choose among."""
    if supplied.tokens is None or study.part_of_target == 1:
        return supplied
    tokens = round(supplied.tokens * study.part_of_target)
    content = fingerprint([supplied.fingerprint, "tokens", tokens])
    return replace(supplied, fingerprint=content, tokens=tokens, documents=0, bytes=0, whole_tokens=supplied.tokens)


def refuse_unanswered(study: Study, folders: Mapping[str, Path], shards: Mapping[str, Path]) -> None:
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


def packing_of(study: Study, name: str, shard: Path, corpus: Path) -> Packing | None:
    """How a source's conversations lie in rows; None where no `instruct` stage asks."""
    from curricle.tokens import subsample
    from curricle.tokens.packing import packing_of
    from curricle.tokens.shards import Supply

    if not _asked_whole(study, name):
        return None
    packing, long = packing_of(Supply.open([shard]), study.model.context)
    stood = subsample.places(shard)
    wanted = long[:SHOWN] if stood is None else [int(stood[n]) for n in long[:SHOWN]]
    until = itertools.islice(corpora.documents(corpus), max(wanted, default=-1) + 1)
    return replace(packing, examples=tuple(document.id for place, document in enumerate(until) if place in wanted))


def packing_of_stream(
    study: Study, name: str, of_streams: OfStreams | None, tokenizer: PreTrainedTokenizerFast
) -> Packing | None:
    """The same of an endless source, from a sample. Raises `Refused` where nothing in it could be learnt."""
    from curricle.tokens.packing import packing_of
    from curricle.tokens.shards import Shard, Supply, encode

    spec = study.sources[name]
    if not _asked_whole(study, name) or not isinstance(spec, Generated):
        return None
    documents = list(itertools.islice(clean(problems.generated_documents(spec, name, seed=0), of_streams), SAMPLED))
    found = list(encode(documents, tokenizer))
    ids, loss = (np.concatenate([getattr(each, part) for each in found]) for part in ("ids", "loss"))
    ends = np.cumsum([len(each.ids) for each in found]).astype(np.uint64)
    packing, long = packing_of(Supply([Shard(ids, ends, loss)]), study.model.context)
    if not packing.rows:
        raise Refused(
            f"sources.{name}: no answer begins within one row of {study.model.context:,} tokens; raise model.context"
        )
    return replace(packing, rows=None, examples=tuple(documents[place].id for place in long[:SHOWN]))


def _asked_whole(study: Study, name: str) -> bool:
    asking = any(stage.kind == "instruct" and name in stage.sources for stage in study.stages.values())
    return asking and is_answered(study.sources[name])


def refuse_other_tokenizer(study: Study, origin: Origin | None) -> None:
    """A tokenizer that is named must be there, and beside a checkpoint must be the checkpoint's own."""
    if study.tokenizer is None or study.tokenizer.path is None:
        return
    folder = study.resolve(study.tokenizer.path)
    if not folder.is_dir():
        raise Refused(f"tokenizer.path: {folder}: no such folder")
    if origin is None:
        return
    from curricle.tokens import tokenizer as tokenizers

    name = study.model.checkpoint
    try:
        theirs = tokenizers.fingerprint_of(origin.tokenizer, origin.revision)
    except Refused as refusal:
        raise Refused(
            f"tokenizer.path: whether it is the tokenizer of {name} cannot be told, and weights know only their own "
            f"tokens; leave tokenizer out ({refusal})"
        ) from None
    ours = tokenizers.fingerprint_of(folder)
    if theirs != ours:
        raise Refused(
            f"tokenizer.path: the content of {folder} is {ours}, that of {name} is {theirs}; weights know only their "
            f"own tokens, so leave tokenizer out"
        )


def refuse_long_rows(study: Study, origin: Origin) -> None:
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


def tokenizer_of(
    study: Study,
    store: Store,
    sources: Mapping[str, object],
    entries: Mapping[str, Entry],
    folders: Mapping[str, Path],
    of_streams: OfStreams | None,
    watch: Watch,
) -> Path:
    """The study's own tokenizer: read from its folder, or trained once on an equal sample of every source but those
    made from others: taking a property of code away for a test must leave every run that was there as it was."""
    from curricle.tokens import tokenizer as tokenizers

    spec = study.tokenizer
    assert spec is not None
    if spec.path is not None:
        return study.resolve(spec.path)
    assert spec.bpe is not None
    entries = {n: entry for n, entry in entries.items() if not isinstance(sources[n], Counterfactual)} or entries
    each = spec.sample_bytes // len(entries)
    data = sorted(e.fingerprint for e in entries.values())
    identity = {"version": SAMPLE_VERSION, "bpe": spec.bpe, "sample": each, "data": data}
    folder = store.folder("tokenizers", f"bpe-{spec.bpe}-{fingerprint(identity)}")
    if not is_complete(folder):
        # In the order of fingerprints: what a source is called changes nothing.
        ordered = sorted(entries, key=lambda name: entries[name].fingerprint)
        samples = (sample(study, entries[name], folders[name], of_streams, each) for name in ordered)
        documents = watch("training the tokenizer", itertools.chain.from_iterable(samples))
        texts = (text for document in documents for text in document.texts)
        tokenizers.save(tokenizers.train_bpe(texts, spec.bpe), folder)
    return folder


def sample(study: Study, entry: Entry, folder: Path, of_streams: OfStreams | None, wanted: int) -> Iterator[Document]:
    """About `wanted` bytes of a source, spread over all of it; whole documents, chosen by the hash of their text."""
    if entry.endless:
        spec = study.sources[entry.name]
        assert isinstance(spec, Generated)
        found: Iterable[Document] = clean(problems.generated_documents(spec, entry.name, seed=0), of_streams)
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


def tokenizer_fingerprint(folder: Path | str, revision: str | None = None) -> str:
    from curricle.tokens import tokenizer as tokenizers

    return tokenizers.fingerprint_of(Path(folder)) if os.path.isdir(folder) else f"of {folder}@{revision or 'main'}"
