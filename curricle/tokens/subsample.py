"""A part of a source's documents, for a proxy: it passes over the part as often as its target does over the source.

Documents are taken in the order of their content's hashes, up to the tokens wanted. So the choice is the same wherever
and in whatever order they were written down, and a smaller part lies within a larger one. Equal texts stay together,
which keeps as much repetition inside a pass as the source has. What code was transformed into is taken with the code.
The part is a shard like any other, and `data.ds.places` beside it (8 bytes a document) says where each stood.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from curricle.corpus.catalogue import marks
from curricle.corpus.documents import Document
from curricle.store import whole_folder
from curricle.tokens.shards import Shard

SUBSAMPLE_VERSION = 1  # raised by hand when other documents are chosen

# Letters: D documents of the source, K those that are kept.


def first_by_content(hashes_D: np.ndarray, lengths_D: np.ndarray, wanted: int) -> np.ndarray:
    """Places, rising, of the documents that come first by their hashes and have about `wanted` tokens together: no
    other number of them comes nearer. One at least."""
    order = np.argsort(hashes_D, kind="stable")
    ends = np.cumsum(lengths_D[order])
    count = int(np.searchsorted(ends, wanted)) + 1
    if count > len(ends) or (count > 1 and wanted - ends[count - 2] <= ends[count - 1] - wanted):
        count -= 1
    return np.sort(order[:count])


def write_subsample(folder: Path, of: Path, documents: Iterable[Document], wanted: int) -> None:
    """Write the part of the shard `of`, whose documents these are in its order, that has about `wanted` tokens."""
    whole = Shard.open(of / "data.ds")
    hashes_D = np.fromiter((int.from_bytes(marks(d)[-1][:8]) for d in documents), np.uint64, len(whole.ends))
    ends_D = whole.ends.astype(np.int64)
    lengths_D = np.diff(ends_D, prepend=0)
    kept_K = first_by_content(hashes_D, lengths_D, wanted)
    with whole_folder(folder) as temporary:
        for name, column in (("data.ds", whole.tokens), ("data.ds.loss", whole.loss)):
            if column is not None:
                with open(temporary / name, "wb") as file:
                    for place in kept_K:
                        file.write(column[ends_D[place] - lengths_D[place] : ends_D[place]].tobytes())
        total = int(lengths_D[kept_K].sum())
        np.cumsum(lengths_D[kept_K]).astype(np.uint64).tofile(temporary / "data.ds.index")
        kept_K.astype(np.uint64).tofile(temporary / "data.ds.places")
        stated = (of / "data.ds.metadata").read_text().splitlines()[0]
        (temporary / "data.ds.metadata").write_text(f"{stated}\n{total}\n{total / 1e6:.1f}M")


def places(folder: Path) -> np.ndarray | None:
    """Where each document of a subsample stood in its source; None where the folder holds all of it."""
    file = folder / "data.ds.places"
    return np.fromfile(file, np.uint64) if file.exists() else None
