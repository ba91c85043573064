"""The formats, by name."""

from enum import StrEnum


class FormatName(StrEnum):
    """Whose files are written."""

    saelens = "saelens"
    sparsify = "sparsify"
    gemma_scope = "gemma_scope"
    dictionary_learning = "dictionary_learning"
    sae_dist = "sae_dist"
