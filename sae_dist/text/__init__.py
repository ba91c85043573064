"""Corpora, and their tokens packed into full sequences."""

from sae_dist.text.corpus import STDLIB, TextConfig, documents, pin
from sae_dist.text.pack import Fingerprint, pack

__all__ = ["STDLIB", "Fingerprint", "TextConfig", "documents", "pack", "pin"]
