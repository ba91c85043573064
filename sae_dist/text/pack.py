"""Tokenise documents and pack them into full sequences."""

import hashlib
from collections.abc import Generator, Iterable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from sae_dist.common.errors import UserError
from sae_dist.common.log import progress
from sae_dist.text.config import TextConfig
from sae_dist.text.template import Template, special_ids

_BATCH_DOCUMENTS = 1024
_BATCH_CHARACTERS = 1 << 22


class Fingerprint:
    """What a packed corpus was made of: counts, and SHA-256 over documents and over tokens.

    `num_documents` and `num_characters` count the documents of which `pack` took tokens (of the
    last one perhaps only some), `num_tokens` the positions of the sequences it gave.
    """

    def __init__(self) -> None:
        self.num_documents = 0
        self.num_characters = 0
        self.num_tokens = 0
        self._text = hashlib.sha256()
        self._ids = hashlib.sha256()

    def add_document(self, text: str) -> None:
        """Count one document; its length is hashed too, so that boundaries matter."""
        data = text.encode()
        self.num_documents += 1
        self.num_characters += len(text)
        self._text.update(len(data).to_bytes(8, "little"))
        self._text.update(data)

    def add_sequences(self, ids_NS: np.ndarray) -> None:
        """Count one block of sequences."""
        self.num_tokens += ids_NS.size
        self._ids.update(ids_NS.astype("<i4").tobytes())

    def to_dict(self, config: TextConfig) -> dict[str, Any]:
        """The fingerprint as JSON holds it, beside the configuration of the corpus."""
        return {
            "text": asdict(config),
            "num_documents": self.num_documents,
            "num_characters": self.num_characters,
            "num_tokens": self.num_tokens,
            "documents_sha256": self._text.hexdigest(),
            "ids_sha256": self._ids.hexdigest(),
        }


def pack(
    documents: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    config: TextConfig,
    *,
    num_tokens: int | None = None,
    block_sequences: int = 1024,
    fingerprint: Fingerprint | None = None,
    shows_progress: bool = True,
) -> Generator[tuple[np.ndarray, np.ndarray], None, None]:
    """Yield blocks `(ids_NS int32, trainable_NS bool)` of full sequences.

    Documents are tokenised without special tokens, joined by one separator (EOS, else BOS, else
    nothing), and cut into sequences that each begin with one more token (BOS, else EOS, else
    nothing). An incomplete last sequence is dropped. With `config.template` documents are wrapped
    (see `Template.rows`), and no token but BOS is put before them. `trainable` is false on every
    special id, on a template's part before the document, on what fills a sequence up and on the
    first `exclude_prefix` positions. A block has `block_sequences` sequences, the last one
    perhaps fewer; together they hold at most `num_tokens` positions. `fingerprint` is filled on
    the way. Tokenising uses the fast tokenizer's own threads, which RAYON_NUM_THREADS limits and
    TOKENIZERS_PARALLELISM=false turns off.

    Raises UserError for lengths that make no sequence, for a template that is none or leaves no
    room in a sequence, and for a corpus too small for one.
    """
    length, num_sequences = _check(config, num_tokens)
    fingerprint = fingerprint or Fingerprint()
    first, pieces = _stream(documents, tokenizer, config, fingerprint)
    special = special_ids(tokenizer)
    blocks = _cut(pieces, length - len(first), num_sequences, block_sequences)
    with progress(
        total=num_tokens, desc="tokenise", unit="token", unit_scale=True, shown=shows_progress
    ) as bar:
        for content_NS in blocks:
            row_NS = np.concatenate([np.tile(first, (len(content_NS), 1)), content_NS], axis=1)
            masked_NS = row_NS < 0
            ids_NS = np.where(masked_NS, ~row_NS, row_NS)
            trainable_NS = ~(masked_NS | np.isin(ids_NS, special))
            trainable_NS[:, : config.exclude_prefix] = False
            fingerprint.add_sequences(ids_NS)
            bar.update(ids_NS.size)
            yield ids_NS, trainable_NS
    if fingerprint.num_tokens == 0:
        raise UserError(
            f"found {fingerprint.num_characters} characters of text in {config.path}; expected "
            f"enough for one sequence of {length} tokens; give more text or lower "
            "text.sequence_length"
        )


def _check(config: TextConfig, num_tokens: int | None) -> tuple[int, int | None]:
    length, prefix = config.sequence_length, config.exclude_prefix
    if length < 2 or not 0 <= prefix < length:
        raise UserError(
            f"found text.sequence_length={length}, text.exclude_prefix={prefix}; expected a length "
            "of at least 2 and a shorter prefix; correct them"
        )
    if num_tokens is None:
        return length, None
    if num_tokens < length:
        raise UserError(
            f"found a limit of {num_tokens} tokens; expected at least one sequence of {length}; "
            "raise the limit or lower text.sequence_length"
        )
    return length, num_tokens // length


def _stream(
    documents: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    config: TextConfig,
    fingerprint: Fingerprint,
) -> tuple[np.ndarray, Iterator[np.ndarray]]:
    """What every sequence begins with, and the stream of which the rest is cut (masked: ~id)."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    separator = _first_known(eos, bos)
    if config.template is None:
        return _first_known(bos, eos), _pieces(documents, tokenizer, separator, fingerprint)
    first, template = _first_known(bos), Template.of(config.template, tokenizer)
    length = config.sequence_length - len(first)
    if len(template) >= length:
        raise UserError(
            f"found text.template of {len(template)} tokens; expected fewer than {length}, so that "
            "a document fits beside it; shorten it or raise text.sequence_length"
        )
    pieces = _pieces(documents, tokenizer, separator[:0], fingerprint)
    return first, template.rows(pieces, length, separator)


def _first_known(*ids: int | None) -> np.ndarray:
    """The first id that exists, as an array of one; empty if there is none."""
    return np.asarray([token for token in ids if token is not None][:1], dtype=np.int32)


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    num_characters = 0
    for text in documents:
        batch.append(text)
        num_characters += len(text)
        if len(batch) == _BATCH_DOCUMENTS or num_characters >= _BATCH_CHARACTERS:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch


def _pieces(
    documents: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    separator: np.ndarray,
    fingerprint: Fingerprint,
) -> Iterator[np.ndarray]:
    """The joined stream of tokens, one document at a time, each counted when it is asked for."""
    for batch in _batches(documents):
        tokenised = tokenizer(
            batch,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        for text, ids in zip(batch, tokenised["input_ids"], strict=True):
            if fingerprint.num_documents:
                yield separator
            fingerprint.add_document(text)
            yield np.asarray(ids, dtype=np.int32)


def _cut(
    pieces: Iterable[np.ndarray], length: int, num_sequences: int | None, block: int
) -> Iterator[np.ndarray]:
    """Cut a stream into rows of `length`, `block` rows at a time, `num_sequences` rows in all."""
    wanted = block if num_sequences is None else min(block, num_sequences)
    held: list[np.ndarray] = []
    num_held = num_given = 0
    for piece in pieces:
        held.append(piece)
        num_held += len(piece)
        if num_held < wanted * length:
            continue
        rest = np.concatenate(held)
        while len(rest) >= wanted * length:
            yield rest[: wanted * length].reshape(wanted, length)
            rest = rest[wanted * length :]
            num_given += wanted
            if num_given == num_sequences:
                return
            wanted = block if num_sequences is None else min(block, num_sequences - num_given)
        held, num_held = [rest], len(rest)
    if num_held >= length:
        num_rows = num_held // length
        yield np.concatenate(held)[: num_rows * length].reshape(num_rows, length)
