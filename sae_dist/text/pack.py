"""Pack documents into full sequences."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
from transformers import PreTrainedTokenizerBase

from sae_dist.common.errors import UserError
from sae_dist.text.config import Packing, TextConfig
from sae_dist.text.document import Document
from sae_dist.text.fingerprint import Fingerprint
from sae_dist.text.template import Template, special_ids
from sae_dist.text.tokenise import tokenise

_LOOK_CHARACTERS = 10_000


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a corpus, from which packing can go on: before token `token` of document
    `document`, both counted from 0.
    """

    document: int = 0
    token: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Some sequences: ids int32, whether to train on each; `end` is where the next one begins."""

    ids_NS: np.ndarray
    trainable_NS: np.ndarray
    end: Position


_START = Position()
_Piece = tuple[Position, np.ndarray]  # some tokens (masked ones: ~id), and the position after them
_Tokenised = Iterator[tuple[Document, np.ndarray]]


def pack(
    documents: Iterable[Document],
    tokenizer: PreTrainedTokenizerBase,
    config: TextConfig,
    *,
    start: Position = _START,
    num_tokens: int | None = None,
    num_ids: int | None = None,
    block_sequences: int = 1024,
    fingerprint: Fingerprint | None = None,
) -> Generator[Block, None, None]:
    """Yield blocks of full sequences, each with the position after it.

    Documents are tokenised without special tokens, joined by one separator (EOS, else BOS, else
    nothing), and cut into sequences that each begin with one more token (BOS, else EOS, else
    nothing). An incomplete last sequence is dropped. With `Packing.padded` no sequence holds two
    documents, and separators fill up what one leaves; with `Packing.rows` a document is a sequence.
    With `config.template` each document stands between a user's and a model's prefix, both whole
    wherever they are: a document that does not fit is cut there, and what is left of it is wrapped
    again and begins the next sequence; no token but BOS is put before them. Of conversations and
    token ids a BOS at the beginning and a separator at the end are left out, but for
    `Packing.rows`, since they are put there anyway. `trainable` is false on every special id, on a
    template's part before the document, on what fills a sequence up and on the first
    `exclude_prefix` positions. A block has `block_sequences` sequences, the last one perhaps fewer;
    together they hold at most `num_tokens` positions. Tokenising uses the fast tokenizer's own
    threads, which RAYON_NUM_THREADS limits and TOKENIZERS_PARALLELISM=false turns off.

    From `start`, the `end` of another pass' block, come the sequences that followed it there; the
    documents before it are read, but not tokenised. `fingerprint` is filled on the way, and knows
    them, too; sequences that were given before are added to it by whoever has them.

    Raises UserError for lengths that make no sequence, for a template that is none or leaves no
    room in a sequence, for ids that are not below `num_ids` (the rows of the embedding), for rows
    of another length, and for a corpus too small for one sequence.
    """
    _require_lengths(config, num_tokens)
    fingerprint = fingerprint or Fingerprint()
    fingerprint.num_tokens_asked = num_tokens
    sequences = _sequences(documents, tokenizer, config, start, fingerprint)
    if num_tokens is not None:
        sequences = islice(sequences, num_tokens // config.sequence_length)
    special = special_ids(tokenizer)
    while block := list(islice(sequences, block_sequences)):
        masked_NS = np.stack([sequence for _, sequence in block])
        ids_NS = np.where(masked_NS < 0, ~masked_NS, masked_NS)
        _require_known(ids_NS, num_ids)
        trainable_NS = (masked_NS >= 0) & ~np.isin(ids_NS, special)
        trainable_NS[:, : config.exclude_prefix] = False
        fingerprint.add_sequences(ids_NS)
        start, _ = block[-1]
        yield Block(ids_NS, trainable_NS, end=start)
    if start == _START:  # there was none
        raise UserError(
            f"found {fingerprint.num_characters} characters of text in {config.path}; expected "
            f"enough for one sequence of {config.sequence_length} tokens; give more text or lower "
            "text.sequence_length"
        )


def look(
    documents: Iterable[Document], tokenizer: PreTrainedTokenizerBase, config: TextConfig
) -> None:
    """Try the first document, or its beginning. Raises UserError for what `pack` would refuse."""
    _require_lengths(config, None)
    first = (
        document[:_LOOK_CHARACTERS] if isinstance(document, str) else document
        for document in islice(documents, 1)
    )
    for _ in _sequences(first, tokenizer, config, _START, Fingerprint()):
        pass


def _require_lengths(config: TextConfig, num_tokens: int | None) -> None:
    length, prefix = config.sequence_length, config.exclude_prefix
    if length < 2 or not 0 <= prefix < length:
        raise UserError(
            f"found text.sequence_length={length}, text.exclude_prefix={prefix}; expected a length "
            "of at least 2 and a shorter prefix; correct them"
        )
    if num_tokens is not None and num_tokens < length:
        raise UserError(
            f"found a limit of {num_tokens} tokens; expected at least one sequence of {length}; "
            "raise the limit or lower text.sequence_length"
        )


def _require_known(ids: np.ndarray, num_ids: int | None) -> None:
    if num_ids is not None and (most := int(ids.max())) >= num_ids:
        raise UserError(
            f"found token id {most}; expected ids below {num_ids}, the language model's number of "
            "embeddings; give the text or the tokenizer that belongs to it"
        )


def _sequences(
    documents: Iterable[Document],
    tokenizer: PreTrainedTokenizerBase,
    config: TextConfig,
    start: Position,
    fingerprint: Fingerprint,
) -> Iterator[_Piece]:
    """The sequences from `start` on, one by one."""
    bos, eos = _known(tokenizer.bos_token_id), _known(tokenizer.eos_token_id)
    separator = eos or bos
    iterator = iter(documents)
    opening = list(islice(iterator, 1))
    packing = _packing(opening, config)
    tokenised = tokenise(
        _passed_over(chain(opening, iterator), start.document, fingerprint), tokenizer, config
    )
    if packing == Packing.rows:
        rows = _rows(tokenised, start.document, config)
        return _cut(_pieces(rows, start, fingerprint), [], config.sequence_length)
    first = bos or (eos if config.template is None else [])
    tokenised = _without_ends(tokenised, bos, separator)
    if config.template is None and packing == Packing.joined:
        pieces = _pieces(tokenised, start, fingerprint, separator)
        return _cut(pieces, first, config.sequence_length)
    template = Template.of(config.template, tokenizer)
    room = config.sequence_length - len(first)
    if len(template) >= room:
        raise UserError(
            f"found text.template of {len(template)} tokens; expected fewer than {room}, so that "
            "a document fits beside it; shorten it or raise text.sequence_length"
        )
    pieces = _pieces(tokenised, start, fingerprint)
    wrapped = _wrapped(pieces, template, room, separator, shares=packing == Packing.joined)
    return _cut(wrapped, first, config.sequence_length)


def _known(token: int | None) -> list[int]:
    return [] if token is None else [token]


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
    documents: Iterator[Document], num: int, fingerprint: Fingerprint
) -> Iterator[Document]:
    for document in islice(documents, num):
        fingerprint.add_document(document)
    return documents


def _without_ends(tokenised: _Tokenised, bos: list[int], separator: list[int]) -> _Tokenised:
    """Conversations and token ids without a BOS and a separator of their own."""
    for document, ids in tokenised:
        if not isinstance(document, str):
            ids = ids[1:] if bos and ids[:1].tolist() == bos else ids
            ids = ids[:-1] if separator and ids[-1:].tolist() == separator else ids
        yield document, ids


def _rows(tokenised: _Tokenised, num_passed: int, config: TextConfig) -> _Tokenised:
    """Documents that are sequences already, or else refused."""
    if config.template is not None:
        raise UserError(
            "found text.packing=rows with text.template; expected one of them, as rows are kept as "
            "they are; leave one out"
        )
    for number, (document, ids) in enumerate(tokenised, num_passed + 1):
        is_ids = isinstance(document, np.ndarray)
        if not is_ids or len(ids) != config.sequence_length:
            raise UserError(
                f"found {f'a row of {len(ids)} token ids' if is_ids else 'text'} in "
                f"{config.path}, document {number}; expected text.sequence_length="
                f"{config.sequence_length} token ids; set text.packing=joined"
            )
        yield document, ids


def _pieces(
    tokenised: _Tokenised,
    start: Position,
    fingerprint: Fingerprint,
    separator: Sequence[int] = (),
) -> Iterator[_Piece]:
    """The joined stream from `start` on; each document is counted when its tokens are asked for."""
    for number, (document, ids) in enumerate(tokenised, start.document):
        if number > start.document:
            yield Position(number), np.asarray(separator, np.int32)
        fingerprint.add_document(document)
        yield Position(number, len(ids)), ids[start.token if number == start.document else 0 :]


def _wrapped(
    documents: Iterable[_Piece],
    template: Template,
    length: int,
    separator: list[int],
    *,
    shares: bool,
) -> Iterator[_Piece]:
    """Wrapped documents in pieces of `length`.

    With `shares` one is filled with wrapped documents, a separator between two; otherwise it holds
    one. Where no token of a document goes, separators fill it up: no token sees what comes after
    it, so that any would do. An incomplete last piece of several documents is dropped.
    """
    row: list[np.ndarray] = []
    room = length
    for end, ids in documents:
        start = 0
        while start < len(ids):
            part = ids[start : start + room - len(template)]
            start += len(part)
            row += [~template.before_P, part, template.after_P]
            room -= len(template) + len(part)
            if shares and room > len(separator) + len(template):
                row.append(np.asarray(separator, np.int32))
                room -= len(separator)
            else:
                filling = ~np.resize(np.asarray(separator or [0], np.int32), room)
                at = Position(end.document, end.token - len(ids) + start)
                yield at, np.concatenate([*row, filling])
                row, room = [], length


def _cut(pieces: Iterable[_Piece], first: list[int], length: int) -> Iterator[_Piece]:
    """Cut a stream into sequences of `length`, each of which begins with `first`."""
    beginning = np.asarray(first, np.int32)
    held, room = [beginning], length - len(first)
    for end, rest in pieces:
        while len(rest) >= room:
            part, rest = rest[:room], rest[room:]
            yield Position(end.document, end.token - len(rest)), np.concatenate([*held, part])
            held, room = [beginning], length - len(first)
        held.append(rest)
        room -= len(rest)
