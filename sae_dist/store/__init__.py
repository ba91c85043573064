"""Activations on disk: written shard by shard, sealed by a manifest, read chunk by chunk."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.store.bring import write_store
    from sae_dist.store.config import NonFinite, StoreConfig
    from sae_dist.store.reader import Store, open_store
    from sae_dist.store.schema import Manifest
    from sae_dist.store.statistics import Statistics
    from sae_dist.store.verify import verify
    from sae_dist.store.writer import StoreWriter

__all__ = [
    "Manifest",
    "NonFinite",
    "Statistics",
    "Store",
    "StoreConfig",
    "StoreWriter",
    "open_store",
    "verify",
    "write_store",
]

lazily(__name__)
