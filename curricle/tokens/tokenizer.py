"""The tokenizer: a byte-level BPE trained here, or the one that belongs to a checkpoint.

A document is laid out as its tokens and then one delimiter, `tokenizer.eos_token_id`; the delimiter that ends one
document begins the next. So the first token of a document is predicted from the delimiter alone, in training and in
evaluation alike, and every byte of a text is paid for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from curricle.store import is_complete, whole_folder
from curricle.study import Refused

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

DELIMITER = "<|endoftext|>"


def train_bpe(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of exactly `vocabulary` tokens or fewer. Each digit is a token: arithmetic needs to see them."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # Runs of spaces (indentation) and newlines are words of their own, so that code is not cut into bytes.
            pre_tokenizers.Split(Regex(r"\n+|[ \t]+(?=[ \t]\S)|[ \t]+(?=\n)"), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[DELIMITER],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=DELIMITER,
        eos_token=DELIMITER,
        pad_token=DELIMITER,
        clean_up_tokenization_spaces=False,
    )


def load(folder: Path | str, revision: str | None = None) -> PreTrainedTokenizerFast:
    """The tokenizer beside a checkpoint, or one that was saved here. Raises `Refused` where it has no delimiter."""
    try:
        if is_complete(Path(folder)) and not (Path(folder) / "config.json").exists():  # saved here: its class is known
            from transformers import PreTrainedTokenizerFast

            tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
        else:
            from transformers import AutoTokenizer  # asks what models there are, which takes seconds

            tokenizer = AutoTokenizer.from_pretrained(str(folder), revision=revision or "main", trust_remote_code=False)
    except Exception as error:  # of a damaged file, `tokenizers` raises nothing narrower
        raise Refused(f"tokenizer: {why_unread(folder, error)}") from None
    if tokenizer.eos_token_id is None:
        raise Refused(f"tokenizer: {folder} names no end-of-text token, which documents are delimited by")
    return tokenizer


FILE = "tokenizer.json"


def why_unread(place: Path | str, error: Exception) -> str:
    """What to say where transformers raised `error` for the tokenizer of a folder or hub id."""
    if Path(place).is_dir() and not (Path(place) / FILE).exists():
        return (
            f"{place} holds no tokenizer: there is no {FILE}; put it there from where the weights are from, with "
            f"tokenizer_config.json, which names the end-of-text token"
        )
    lines = str(error).strip().splitlines()
    return f"{place} holds no tokenizer that transformers can read: {lines[0] if lines else type(error).__name__}"


def save(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    with whole_folder(folder) as temporary:
        tokenizer.save_pretrained(temporary)


def spelled(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of each text and nothing else: a text that spells the delimiter out (code that handles it, a hostile
    page) gets the tokens of its letters, never the delimiter itself."""
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True  # set each time: other calls on the tokenizer reset it
    return [encoded.ids for encoded in backend.encode_batch_fast(list(texts), add_special_tokens=False)]


def last_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The highest token that a document can hold. Special tokens other than the delimiter are never written
    (`spelled`), so that one which a conversion added beyond the weights does no harm."""
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    return max({*tokenizer.get_vocab().values()} - special | {tokenizer.eos_token_id})


def fingerprint_of(place: Path | str, revision: str | None = None) -> str:
    """Identity of a tokenizer in a folder, or of a hub id at its revision: the content of `tokenizer.json`, and which
    token delimits documents (a base and an instruct model may differ in nothing else)."""
    from transformers.utils import cached_file

    file: Path | str | None = Path(place) / FILE
    if not Path(place).is_dir():
        try:
            file = cached_file(str(place), FILE, revision=revision or "main")
        except (OSError, ValueError) as error:
            raise Refused(f"tokenizer: {place}: {str(error).splitlines()[0]}") from None
    if file is None or not Path(file).exists():
        raise Refused(f"tokenizer: {place}: there is no {FILE}; Curricle reads fast tokenizers")
    content = Path(file).read_bytes() + f" {load(place, revision).eos_token_id}".encode()
    return hashlib.sha256(content).hexdigest()[:16]
