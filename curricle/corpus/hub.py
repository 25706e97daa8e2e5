"""A Hugging Face data set, streamed: nothing is downloaded but the rows that are read, and no code of the data set is
run. A folder that holds a data set works as well, without the network. Needs the `hub` extra."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from curricle.corpus.documents import Document, Resolve, Tally
from curricle.corpus.files import checked, to_document
from curricle.study import Hub, Refused

MAX_BAD_SHARE = 0.01


def hub_documents(source: Hub, name: str, resolve: Resolve, tally: Tally | None = None) -> Iterator[Document]:
    """The data set's documents in its own order. Raises `Refused` where it cannot be had, with the reason."""
    tally = tally or Tally(f"sources.{name}.hub", MAX_BAD_SHARE)
    rows = ((str(number), row) for number, row in enumerate(_rows(source, name, resolve), 1))
    for place, row in islice(checked(rows, source, name, source.hub), source.documents):
        document = to_document(row, source, name, f"{source.split}:{place}", source.split)
        if isinstance(document, str):
            tally.add_bad(f"{source.hub} {source.split}:{place}", document)
        else:
            tally.good()
            yield document
    tally.check()


def _rows(source: Hub, name: str, resolve: Resolve) -> Iterator[dict[str, Any]]:
    try:
        import datasets  # an extra, and slow to import
    except ImportError:
        raise Refused(f"sources.{name}.hub: needs the package datasets; pip install 'curricle[hub]'") from None

    folder = resolve(source.hub)
    where = str(folder) if folder.is_dir() else source.hub
    if folder.is_dir() and (folder / "dataset_info.json").exists():
        raise Refused(
            f"sources.{name}.hub: {where} was written by save_to_disk; write Parquet or JSON lines, or name its files"
        )
    try:
        yield from datasets.load_dataset(
            where, source.config, split=source.split, revision=source.revision, streaming=True
        )
    except Exception as error:  # the library raises what its transports raise; each means: cannot be had
        raise Refused(
            f"sources.{name}.hub: {source.hub!r} (config {source.config}, split {source.split!r}) cannot be read: "
            f"{type(error).__name__}: {' '.join(str(error).split())}"
        ) from None
