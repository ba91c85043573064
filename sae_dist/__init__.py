"""Harvest, train and measure sparse coders of language-model activations, at scale."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.interop import load_coder
    from sae_dist.store import open_store, write_store

__version__ = "0.1.0"
__all__ = ["__version__", "load_coder", "open_store", "write_store"]

lazily(__name__)
