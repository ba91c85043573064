"""What a packed corpus was made of."""

import hashlib
import json
from dataclasses import asdict
from typing import Any

import numpy as np

from sae_dist.text.config import TextConfig
from sae_dist.text.document import Document, num_characters


class Fingerprint:
    """What a packed corpus was made of: counts, and SHA-256 over documents and over tokens.

    `num_documents` and `num_characters` count the documents of which `pack` took tokens (of the
    last one perhaps only some), `num_tokens` the positions of the sequences it gave, and
    `num_tokens_asked` those that it was asked for (None: as many as come).
    """

    def __init__(self) -> None:
        self.num_documents = 0
        self.num_characters = 0
        self.num_tokens = 0
        self.num_tokens_asked: int | None = None
        self._text = hashlib.sha256()
        self._ids = hashlib.sha256()

    def add_document(self, document: Document) -> None:
        """Count one document; its length is hashed too, so that boundaries matter."""
        data = _bytes(document)
        self.num_documents += 1
        self.num_characters += num_characters(document)
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
            "num_tokens_asked": self.num_tokens_asked,
            "documents_sha256": self._text.hexdigest(),
            "ids_sha256": self._ids.hexdigest(),
        }


def _bytes(document: Document) -> bytes:
    if isinstance(document, str):
        return document.encode()
    if isinstance(document, np.ndarray):
        return document.astype("<i4").tobytes()
    return json.dumps(document, sort_keys=True, default=str).encode()
