"""Activations on disk: written unit by unit, sealed by a manifest, read chunk by chunk."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.store.aligned import AlignedStores as AlignedStores
    from sae_dist.store.config import CacheConfig as CacheConfig
    from sae_dist.store.config import NonFinite as NonFinite
    from sae_dist.store.config import StoreConfig as StoreConfig
    from sae_dist.store.from_arrays import write_store as write_store
    from sae_dist.store.layout import Layout as Layout
    from sae_dist.store.reader import Store as Store
    from sae_dist.store.reader import open_store as open_store
    from sae_dist.store.reader import read_settings as read_settings
    from sae_dist.store.records import Manifest as Manifest
    from sae_dist.store.records import Settings as Settings
    from sae_dist.store.records import Statistics as Statistics
    from sae_dist.store.verify import Audit as Audit
    from sae_dist.store.verify import audit as audit
    from sae_dist.store.verify import verify as verify
    from sae_dist.store.writer import StoreWriter as StoreWriter

lazily(__name__)
