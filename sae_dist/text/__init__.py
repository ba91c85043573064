"""Corpora and prompts, and their tokens packed into full sequences."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.text.config import STDLIB, Packing, SpecialTokens, TextConfig
    from sae_dist.text.corpus import documents, pin, texts
    from sae_dist.text.document import Document
    from sae_dist.text.fingerprint import Fingerprint
    from sae_dist.text.pack import Block, Position, look, pack
    from sae_dist.text.prompts import read_prompts, wrap_prompts
    from sae_dist.text.template import Template, special_ids

__all__ = [
    "STDLIB",
    "Block",
    "Document",
    "Fingerprint",
    "Packing",
    "Position",
    "SpecialTokens",
    "Template",
    "TextConfig",
    "documents",
    "look",
    "pack",
    "pin",
    "read_prompts",
    "special_ids",
    "texts",
    "wrap_prompts",
]

lazily(__name__)
