"""Pack documents into full sequences."""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
from transformers import PreTrainedTokenizerBase

from sae_dist.common.errors import UserError
from sae_dist.common.log import progress
from sae_dist.text.config import Packing, TextConfig
from sae_dist.text.document import Document
from sae_dist.text.fingerprint import Fingerprint
from sae_dist.text.position import Piece, Position
from sae_dist.text.template import Template, special_ids
from sae_dist.text.tokenise import tokenise

_START = Position()
_NOTHING = np.zeros(0, np.int32)
_LOOK_CHARACTERS = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Some sequences: ids int32, whether to train on each; `end` is where the next one begins."""

    ids_NS: np.ndarray
    trainable_NS: np.ndarray
    end: Position


def pack(
    documents: Iterable[Document],
    tokenizer: PreTrainedTokenizerBase,
    config: TextConfig,
    *,
    num_tokens: int | None = None,
    num_ids: int | None = None,
    block_sequences: int = 1024,
    fingerprint: Fingerprint | None = None,
    shows_progress: bool = True,
) -> Generator[tuple[np.ndarray, np.ndarray], None, None]:
    """Yield blocks `(ids_NS int32, trainable_NS bool)` of full sequences; see `pack_blocks`."""
    blocks = pack_blocks(
        documents,
        tokenizer,
        config,
        num_tokens=num_tokens,
        num_ids=num_ids,
        block_sequences=block_sequences,
        fingerprint=fingerprint,
        shows_progress=shows_progress,
    )
    for block in blocks:
        yield block.ids_NS, block.trainable_NS


def pack_blocks(
    documents: Iterable[Document],
    tokenizer: PreTrainedTokenizerBase,
    config: TextConfig,
    *,
    start: Position = _START,
    num_tokens: int | None = None,
    num_ids: int | None = None,
    block_sequences: int = 1024,
    fingerprint: Fingerprint | None = None,
    shows_progress: bool = True,
) -> Generator[Block, None, None]:
    """Yield blocks of full sequences, each with the position after it.

    Documents are tokenised without special tokens, joined by one separator (EOS, else BOS, else
    nothing), and cut into sequences that each begin with one more token (BOS, else EOS, else
    nothing). An incomplete last sequence is dropped. With `Packing.padded` no sequence holds two
    documents, and separators fill up what one leaves; with `Packing.rows` a document is a sequence.
    With `config.template` documents are wrapped (see `Template.rows`), and no token but BOS is put
    before them. Of conversations and token ids a BOS at the beginning and a separator at the end
    are left out, but for `Packing.rows`, since they are put there anyway. `trainable` is false on
    every special id, on a template's part before the document, on what fills a sequence up and on
    the first `exclude_prefix` positions. A block has `block_sequences` sequences, the last one
    perhaps fewer; together they hold at most `num_tokens` positions. Tokenising uses the fast
    tokenizer's own threads, which RAYON_NUM_THREADS limits and TOKENIZERS_PARALLELISM=false turns
    off.

    From `start`, the `end` of another pass' block, come the sequences that followed it there; the
    documents before it are read, but not tokenised. `fingerprint` is filled on the way, and knows
    them, too; sequences that were given before are added to it by whoever has them.

    Raises UserError for lengths that make no sequence, for a template that is none or leaves no
    room in a sequence, for ids that are not below `num_ids` (the rows of the embedding), for rows
    of another length, and for a corpus too small for one sequence.
    """
    length, num_sequences = _check(config, num_tokens)
    fingerprint = fingerprint or Fingerprint()
    fingerprint.num_tokens_asked = num_tokens
    first, pieces = _stream(documents, tokenizer, config, start, fingerprint)
    special = special_ids(tokenizer)
    num_given = 0
    with progress(
        total=num_tokens, desc="tokenise", unit="token", unit_scale=True, shown=shows_progress
    ) as bar:
        for end, content_NS in _cut(pieces, length - len(first), num_sequences, block_sequences):
            row_NS = np.concatenate([np.tile(first, (len(content_NS), 1)), content_NS], axis=1)
            masked_NS = row_NS < 0
            ids_NS = np.where(masked_NS, ~row_NS, row_NS)
            _require_known(ids_NS, num_ids)
            trainable_NS = ~(masked_NS | np.isin(ids_NS, special))
            trainable_NS[:, : config.exclude_prefix] = False
            fingerprint.add_sequences(ids_NS)
            num_given += len(ids_NS)
            bar.update(ids_NS.size)
            yield Block(ids_NS, trainable_NS, end)
    if num_given == 0 and start == _START:
        raise UserError(
            f"found {fingerprint.num_characters} characters of text in {config.path}; expected "
            f"enough for one sequence of {length} tokens; give more text or lower "
            "text.sequence_length"
        )


def look(
    documents: Iterable[Document],
    tokenizer: PreTrainedTokenizerBase,
    config: TextConfig,
    num_ids: int | None = None,
) -> None:
    """Try the first document, or its beginning. Raises UserError for what `pack` would refuse."""
    _check(config, None)
    first = [
        document[:_LOOK_CHARACTERS] if isinstance(document, str) else document
        for document in islice(documents, 1)
    ]
    _, pieces = _stream(first, tokenizer, config, _START, Fingerprint())
    for _, piece in pieces:
        _require_known(np.where(piece < 0, ~piece, piece), num_ids)


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


def _require_known(ids: np.ndarray, num_ids: int | None) -> None:
    if num_ids is not None and ids.size and (most := int(ids.max())) >= num_ids:
        raise UserError(
            f"found token id {most}; expected ids below {num_ids}, the language model's number of "
            "embeddings; give the text or the tokenizer that belongs to it"
        )


def _stream(
    documents: Iterable[Document],
    tokenizer: PreTrainedTokenizerBase,
    config: TextConfig,
    start: Position,
    fingerprint: Fingerprint,
) -> tuple[np.ndarray, Iterator[Piece]]:
    """What every sequence begins with, and the stream of which the rest is cut (masked: ~id)."""
    bos, eos = _known(tokenizer.bos_token_id), _known(tokenizer.eos_token_id)
    separator = eos if len(eos) else bos
    iterator = iter(documents)
    opening = list(islice(iterator, 1))
    packing = _packing(opening, config)
    documents = _passed_over(chain(opening, iterator), start.document, fingerprint)
    tokenised = tokenise(documents, tokenizer, config)
    if packing == Packing.rows:
        return _NOTHING, _rows(tokenised, start, fingerprint, config)
    first = bos if len(bos) or config.template is not None else eos
    tokenised = _without_ends(tokenised, bos, separator)
    if config.template is None and packing == Packing.joined:
        return first, _pieces(tokenised, start, fingerprint, separator)
    wrapped = config.template
    template = Template.none() if wrapped is None else Template.of(wrapped, tokenizer)
    length = config.sequence_length - len(first)
    if len(template) >= length:
        raise UserError(
            f"found text.template of {len(template)} tokens; expected fewer than {length}, so that "
            "a document fits beside it; shorten it or raise text.sequence_length"
        )
    pieces = _pieces(tokenised, start, fingerprint, separator[:0])
    return first, template.rows(pieces, length, separator, shares=packing == Packing.joined)


def _known(token: int | None) -> np.ndarray:
    """An id as an array of one; empty if there is none."""
    return np.asarray([] if token is None else [token], dtype=np.int32)


def _packing(opening: list[Document], config: TextConfig) -> Packing:
    """What `auto` means for a corpus that opens with this document."""
    if config.packing != Packing.auto:
        return Packing(config.packing)
    is_row = any(
        isinstance(document, np.ndarray) and len(document) == config.sequence_length
        for document in opening
    )
    return Packing.rows if is_row and config.template is None else Packing.joined


def _passed_over(
    documents: Iterable[Document], num: int, fingerprint: Fingerprint
) -> Iterator[Document]:
    iterator = iter(documents)
    for document in islice(iterator, num):
        fingerprint.add_document(document)
    return iterator


def _without_ends(
    tokenised: Iterable[tuple[Document, np.ndarray]], bos: np.ndarray, separator: np.ndarray
) -> Iterator[tuple[Document, np.ndarray]]:
    """Conversations and token ids without a BOS and a separator of their own."""
    for document, ids in tokenised:
        if not isinstance(document, str):
            ids = ids[int(len(bos) and ids[:1].tolist() == bos.tolist()) :]
            ids = ids[: len(ids) - int(len(separator) and ids[-1:].tolist() == separator.tolist())]
        yield document, ids


def _pieces(
    tokenised: Iterable[tuple[Document, np.ndarray]],
    start: Position,
    fingerprint: Fingerprint,
    separator: np.ndarray,
) -> Iterator[Piece]:
    """The joined stream from `start` on; each document is counted when its tokens are asked for."""
    for number, (document, ids) in enumerate(tokenised, start.document):
        if number > start.document:
            yield Position(number), separator
        fingerprint.add_document(document)
        yield Position(number, len(ids)), ids[start.token if number == start.document else 0 :]


def _rows(
    tokenised: Iterable[tuple[Document, np.ndarray]],
    start: Position,
    fingerprint: Fingerprint,
    config: TextConfig,
) -> Iterator[Piece]:
    """Documents that are sequences already."""
    if config.template is not None:
        raise UserError(
            "found text.packing=rows with text.template; expected one of them, as rows are kept as "
            "they are; leave one out"
        )
    for number, (document, ids) in enumerate(tokenised, start.document):
        if not isinstance(document, np.ndarray) or len(ids) != config.sequence_length:
            is_ids = isinstance(document, np.ndarray)
            raise UserError(
                f"found {f'a row of {len(ids)} token ids' if is_ids else 'text'} in "
                f"{config.path}, document {number + 1}; expected text.sequence_length="
                f"{config.sequence_length} token ids; set text.packing=joined"
            )
        fingerprint.add_document(document)
        if number > start.document or not start.token:
            yield Position(number, len(ids)), ids


def _cut(
    pieces: Iterable[Piece], length: int, num_sequences: int | None, block: int
) -> Iterator[Piece]:
    """Cut a stream into rows of `length`, `block` rows at a time, `num_sequences` rows in all."""
    wanted = block if num_sequences is None else min(block, num_sequences)
    held: list[Piece] = []
    num_held = num_given = 0
    for end, piece in pieces:
        held.append((end, piece))
        num_held += len(piece)
        if num_held < wanted * length:
            continue
        rest = np.concatenate([ids for _, ids in held])
        while len(rest) >= wanted * length:
            content_NS, rest = rest[: wanted * length], rest[wanted * length :]
            yield _before(held, len(rest)), content_NS.reshape(wanted, length)
            num_given += wanted
            if num_given == num_sequences:
                return
            wanted = block if num_sequences is None else min(block, num_sequences - num_given)
        held, num_held = [(end, rest)], len(rest)
    if num_held >= length:
        num_rows = num_held // length
        content_NS = np.concatenate([ids for _, ids in held])[: num_rows * length]
        yield _before(held, num_held - content_NS.size), content_NS.reshape(num_rows, length)


def _before(held: list[Piece], num: int) -> Position:
    """The position before the last `num` of the tokens held."""
    place = len(held) - 1
    while num >= len(held[place][1]):
        num -= len(held[place][1])
        place -= 1
    end = held[place][0]
    return Position(end.document, end.token - num)
