"""A tokenizer's tokens as the bytes that they stand for."""

import json
import re
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
_SPACE = "▁"  # SentencePiece's, which Gemma's and Llama's tokenizers write for a blank


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> list[bytes]:
    """The bytes of each token by id, with the blank before it if it begins a word.

    Those of several tokens together are UTF-8. A token alone may be a part of a character, where a
    tokenizer cuts bytes (GPT-2's, Llama 3's) or falls back to them (Llama 2's, Gemma's).
    """
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    added = tokenizer.added_tokens_decoder
    decoders = _decoders(tokenizer)
    byte_of = {character: byte for byte, character in bytes_to_unicode().items()}

    def bytes_of(piece: str) -> bytes:
        if "ByteLevel" in decoders and set(piece) <= byte_of.keys():
            return bytes(byte_of[character] for character in piece)
        if "ByteFallback" in decoders and (byte := _BYTE.fullmatch(piece)):
            return bytes([int(byte[1], 16)])
        if "WordPiece" in decoders:
            piece = piece.removeprefix("##") if piece.startswith("##") else f" {piece}"
        return piece.replace(_SPACE, " ").encode(errors="replace")

    return [
        (piece or "").encode() if token in added else bytes_of(piece or "")
        for token, piece in enumerate(pieces)
    ]


def _decoders(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """The types of what a tokenizer puts tokens together with, as `tokenizers` calls them."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.decoder is None:
        return set()
    described: dict[str, Any] = json.loads(backend.decoder.__getstate__())
    return {described["type"], *(one["type"] for one in described.get("decoders", []))}
