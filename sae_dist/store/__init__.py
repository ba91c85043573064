"""Activations on disk: written unit by unit, sealed by a manifest, read chunk by chunk."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.store.config import CacheConfig, NonFinite, StoreConfig
    from sae_dist.store.from_arrays import write_store
    from sae_dist.store.layout import Layout
    from sae_dist.store.reader import Store, open_store, read_settings
    from sae_dist.store.records import Manifest, Settings, Statistics
    from sae_dist.store.verify import Audit, audit, verify
    from sae_dist.store.writer import StoreWriter

__all__ = [
    "Audit",
    "CacheConfig",
    "Layout",
    "Manifest",
    "NonFinite",
    "Settings",
    "Statistics",
    "Store",
    "StoreConfig",
    "StoreWriter",
    "audit",
    "open_store",
    "read_settings",
    "verify",
    "write_store",
]

lazily(__name__)
