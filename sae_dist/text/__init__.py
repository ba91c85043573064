"""Corpora and prompts, and their tokens packed into full sequences."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.text.config import STDLIB, TextConfig
    from sae_dist.text.corpus import documents, pin
    from sae_dist.text.pack import Fingerprint, pack
    from sae_dist.text.prompts import read_prompts, wrap_prompts
    from sae_dist.text.template import Template, special_ids

__all__ = [
    "STDLIB",
    "Fingerprint",
    "Template",
    "TextConfig",
    "documents",
    "pack",
    "pin",
    "read_prompts",
    "special_ids",
    "wrap_prompts",
]

lazily(__name__)
